use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    frame::{self, BUNDLE, BUNDLE_LENGTH, Kind},
    packed::{self, Packed, PackedPieces, PieceKey},
    service::{ServeError, ServedWorkspace},
    wire::{ANSWER_BUDGET, PieceRequest, SUBTREE_BUDGET},
};
use crate::{blob::Blob, tree::children, types::Digest};

/// Frames are handed over in portions of about this many bytes, so that neither a thread nor a packet is spent on each.
const PORTION: usize = 64 << 10;

/// zstd's level for tree objects: they are few and travel often.
const TREE_LEVEL: i32 = 3;

/// zstd's level for content: faster than a gigabit link on one core.
pub(super) const CONTENT_LEVEL: i32 = 1;

/// Turns a batch request into its frames, one portion after the other. It reads from the disk, so it blocks.
pub(super) struct Producer {
    workspace: Arc<dyn ServedWorkspace>,
    packed: Arc<PackedPieces>,
    pieces: std::iter::Enumerate<std::vec::IntoIter<PieceRequest>>,
    count: u32,
    walk: Option<Walk>,
    /// The tree objects that are in the answer already.
    sent: HashSet<Digest>,
    /// Bytes of tree objects in the answer that weren't asked for by name.
    below: usize,
    ended: bool,
}

/// The objects below one subtree piece, breadth first.
struct Walk {
    index: u32,
    queue: VecDeque<Digest>,
    /// Bytes of the piece's objects so far, without its first.
    below: usize,
}

impl Producer {
    /// Answers `pieces`, whose limits have been checked.
    pub(super) fn new(
        workspace: Arc<dyn ServedWorkspace>,
        packed: Arc<PackedPieces>,
        pieces: Vec<PieceRequest>,
    ) -> Self {
        Self {
            workspace,
            packed,
            count: pieces.len() as u32,
            pieces: pieces.into_iter().enumerate(),
            walk: None,
            sent: HashSet::new(),
            below: 0,
            ended: false,
        }
    }

    /// The next frames; none after the end frame.
    pub(super) fn portion(&mut self) -> Option<Bytes> {
        let mut output = Vec::new();
        while output.len() < PORTION && !self.ended {
            if let Some(mut walk) = self.walk.take() {
                if self.descend(&mut walk, Vec::new(), &mut output) {
                    self.walk = Some(walk);
                }
            } else if let Some((index, piece)) = self.pieces.next() {
                self.piece(index as u32, piece, &mut output);
            } else {
                break;
            }
        }
        // The end goes along with the last piece.
        if !self.ended && self.walk.is_none() && self.pieces.len() == 0 {
            frame::put_empty(&mut output, Kind::End, self.count);
            self.ended = true;
        }
        (!output.is_empty()).then(|| output.into())
    }

    /// Whether the end frame has been handed over.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    fn piece(&mut self, index: u32, piece: PieceRequest, output: &mut Vec<u8>) {
        let (kind, result) = match piece {
            PieceRequest::Tree { tree, subtree } => return self.tree(index, tree, subtree, output),
            PieceRequest::Blob { blob, size } => {
                (Kind::Blob, self.content((Blob { digest: blob, size }, 0..0)))
            }
            PieceRequest::Slice { slice, size, groups: [start, end] } => {
                (Kind::Slice, self.content((Blob { digest: slice, size }, start..end)))
            }
            PieceRequest::Outline { outline, size, window } => {
                let blob = Blob { digest: outline, size };
                let encoded = self.workspace.outline(&blob, window);
                (Kind::Outline, encoded.map(|bytes| Packed::new(bytes.into(), CONTENT_LEVEL)))
            }
            PieceRequest::Pending { pending } => {
                let length = pending.length;
                let bytes = self.workspace.pending(&pending.path, pending.token, pending.offset, length);
                // A file that ends earlier than its listing says has changed.
                let of_length = |bytes: Vec<u8>| {
                    if bytes.len() == length as usize { Ok(bytes.into()) } else { Err(ServeError::Changed) }
                };
                let packed = bytes.and_then(of_length).map(|bytes| Packed::new(bytes, CONTENT_LEVEL));
                (Kind::Pending, packed)
            }
        };
        match result {
            Ok(packed) => frame::put(output, kind, index, &packed),
            Err(error) => frame::put_empty(output, refusal(&error), index),
        }
    }

    /// A piece of content as it was sent before, if its file is still there as it was, or else read anew.
    fn content(&self, key: PieceKey) -> Result<Packed, ServeError> {
        if let Some(packed) = self.packed.get(&key) {
            self.workspace.check(&key.0)?;
            return Ok(packed);
        }
        let packed = Packed::new(read(&*self.workspace, &key)?, CONTENT_LEVEL);
        self.packed.put(key, &packed, false);
        Ok(packed)
    }

    fn tree(&mut self, index: u32, digest: Digest, subtree: bool, output: &mut Vec<u8>) {
        let Some(object) = self.workspace.tree(&digest) else {
            return frame::put_empty(output, Kind::Unknown, index);
        };
        let mut walk = Walk { index, queue: VecDeque::new(), below: 0 };
        if subtree {
            walk.queue.extend(children(&object).unwrap_or_default());
        }
        // What is named is always sent; only what is below isn't repeated.
        self.sent.insert(digest);
        let mut bundle = Vec::new();
        frame::put_object(&mut bundle, &object);
        if self.descend(&mut walk, bundle, output) {
            self.walk = Some(walk);
        }
    }

    /// Fills `bundle` with objects below and appends it; false when nothing is left of the walk.
    fn descend(&mut self, walk: &mut Walk, mut bundle: Vec<u8>, output: &mut Vec<u8>) -> bool {
        while let Some(digest) = walk.queue.front() {
            // An object that the owner has dropped meanwhile is left out: the guest asks for it by name if it matters.
            let object = if self.sent.contains(digest) { None } else { self.workspace.tree(digest) };
            let Some(object) = object else {
                walk.queue.pop_front();
                continue;
            };
            if !bundle.is_empty() && bundle.len() + BUNDLE_LENGTH + object.len() > BUNDLE {
                break;
            }
            if walk.below + object.len() > SUBTREE_BUDGET || self.below + object.len() > ANSWER_BUDGET {
                walk.queue.clear();
                break;
            }
            walk.below += object.len();
            self.below += object.len();
            self.sent.extend(walk.queue.pop_front());
            walk.queue.extend(children(&object).unwrap_or_default());
            frame::put_object(&mut bundle, &object);
        }
        if !bundle.is_empty() {
            frame::put(output, Kind::Trees, walk.index, &Packed::new(bundle.into(), TREE_LEVEL));
        }
        !walk.queue.is_empty()
    }
}

/// A piece of content as the workspace has it: a whole blob, or some groups of a larger one.
fn read(workspace: &dyn ServedWorkspace, (blob, groups): &PieceKey) -> Result<Bytes, ServeError> {
    if !groups.is_empty() {
        return workspace.slice(blob, groups.clone()).map(Bytes::from);
    }
    let bytes = workspace.blob(&blob.digest)?;
    if bytes.len() as u64 == blob.size { Ok(bytes) } else { Err(ServeError::Unknown) }
}

/// Compresses some groups of a blob at zstd's `level` and keeps them, unless that has been done or it can't be read; gives
/// the bytes that they take. What is asked for of a small blob is all of it.
pub(super) fn make_ready(
    workspace: &dyn ServedWorkspace,
    packed: &PackedPieces,
    (blob, groups): PieceKey,
    level: i32,
) -> usize {
    let key = (blob, if blob.is_whole() { 0..0 } else { groups });
    packed.ready(&key).unwrap_or_else(|| match read(workspace, &key) {
        Ok(bytes) => {
            let piece = Packed::new(bytes, level);
            packed.put(key, &piece, true);
            packed::cost(&piece)
        }
        Err(_) => 0,
    })
}

fn refusal(error: &ServeError) -> Kind {
    match error {
        ServeError::Unknown => Kind::Unknown,
        ServeError::Changed => Kind::Changed,
        ServeError::Denied => Kind::Denied,
        ServeError::Io(error) => {
            tracing::warn!(%error, "can't serve a piece");
            Kind::Failed
        }
    }
}
