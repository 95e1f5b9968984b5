use std::{
    collections::{HashSet, VecDeque},
    fmt,
    net::SocketAddr,
    time::Duration,
};

use bytes::{Bytes, BytesMut};

use super::{
    client::PeerError,
    frame::{self, FrameError, Header, Kind, slice_limit},
    line::Stream,
    wire::{ANSWER_BUDGET, PieceRequest, SUBTREE_BUDGET},
};
use crate::{
    blob::{Blob, Outline, VerifiedBlob, VerifiedSlice},
    tree::{MAX_OBJECT, children},
    types::{Digest, NodeId},
};

/// One piece of an answer, checked against what names it.
#[derive(Debug, Clone)]
pub enum Piece {
    /// A tree object, of this digest: the one that was asked for, or one below it.
    Tree(Digest, Bytes),
    /// A whole blob.
    Blob(VerifiedBlob),
    /// Some groups of a blob.
    Slice(VerifiedSlice),
    /// The outline of a window of a blob.
    Outline(Outline),
    /// The bytes of a pending file: what the owner says now, without a digest to check them by.
    Pending(Bytes),
    /// The owner doesn't give this piece.
    Refused(RefusedPiece),
}

/// Why an owner doesn't give a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedPiece {
    /// It doesn't have it.
    Unknown,
    /// The file has changed since it was listed.
    Changed,
    /// It can't read it at present.
    Failed,
    /// It doesn't let this node have it, or not any more.
    Denied,
}

/// A batch answer as it arrives. Dropping it early closes its connection.
pub struct Answer {
    peer: NodeId,
    address: SocketAddr,
    idle: Duration,
    /// None when it has been read to its end.
    stream: Option<Stream>,
    buffer: BytesMut,
    header: Option<Header>,
    check: Check,
    co_readers: Vec<NodeId>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("peer", &self.peer).field("check", &self.check).finish_non_exhaustive()
    }
}

impl Answer {
    pub(super) fn new(
        peer: NodeId,
        address: SocketAddr,
        idle: Duration,
        stream: Stream,
        pieces: Vec<PieceRequest>,
        may_wait: bool,
        co_readers: Vec<NodeId>,
    ) -> Self {
        let buffer = BytesMut::new();
        Self {
            peer,
            address,
            idle,
            stream: Some(stream),
            buffer,
            header: None,
            check: Check { may_wait, ..Check::new(pieces) },
            co_readers,
        }
    }

    /// One that has arrived already, without a connection.
    #[cfg(fuzzing)]
    pub(super) fn of_bytes(
        peer: NodeId,
        address: SocketAddr,
        idle: Duration,
        pieces: Vec<PieceRequest>,
        may_wait: bool,
        bytes: &[u8],
    ) -> Self {
        let (buffer, check) = (BytesMut::from(bytes), Check { may_wait, ..Check::new(pieces) });
        Self { peer, address, idle, stream: None, buffer, header: None, check, co_readers: Vec::new() }
    }

    /// Takes all that it can be taken for.
    #[cfg(fuzzing)]
    pub(super) fn drain(mut self) {
        while self.take_frame().is_ok_and(|progress| progress) {
            self.check.ready.clear();
        }
    }

    /// Who else lately asked for parts of the first large blob of the request, as the owner says.
    pub fn co_readers(&self) -> &[NodeId] {
        &self.co_readers
    }

    /// The next piece and which of the request's pieces it belongs to, or none when all have been answered.
    ///
    /// Pieces come in the order of the request, each once; a subtree is its top object and then some of those below it,
    /// parents first, without those that the answer held already. Fails with [`PeerError::Misbehaved`] at the first thing that wasn't asked for or
    /// isn't right, with [`PeerError::Interrupted`] when the answer ends early and with [`PeerError::Timeout`] when
    /// nothing arrives for the client's idle time. May be cancelled at any time without losing a piece.
    pub async fn next(&mut self) -> Result<Option<(usize, Piece)>, PeerError> {
        loop {
            if let Some(piece) = self.check.ready.pop_front() {
                return Ok(Some(piece));
            }
            let progress = self.take_frame().map_err(|fault| self.misbehaved(fault))?;
            if progress {
                continue;
            }
            let Some(stream) = &mut self.stream else { return Ok(None) };
            let chunk = tokio::time::timeout(self.idle, stream.chunk()).await;
            let chunk =
                chunk.map_err(|_| PeerError::Timeout { address: self.address, doing: "sending pieces" })?;
            match chunk {
                Ok(Some(bytes)) => self.buffer.extend_from_slice(&bytes),
                Ok(None) if self.check.ended && self.buffer.is_empty() => {
                    if let Some(stream) = self.stream.take() {
                        stream.end();
                    }
                    return Ok(None);
                }
                Ok(None) => return Err(PeerError::Interrupted { address: self.address, source: None }),
                Err(source) => {
                    return Err(PeerError::Interrupted {
                        address: self.address,
                        source: Some(source.into()),
                    });
                }
            }
        }
    }

    /// Takes one header or payload from the buffer; false when it isn't there yet.
    ///
    /// A header is judged before its payload is waited for, so the buffer never grows beyond the longest piece asked for.
    fn take_frame(&mut self) -> Result<bool, Fault> {
        if self.check.ended {
            return if self.buffer.is_empty() { Ok(false) } else { Err(Fault::AfterEnd) };
        }
        let header = match self.header {
            Some(header) => header,
            None => {
                let Some(bytes) = self.buffer.first_chunk::<{ Header::LENGTH }>() else { return Ok(false) };
                let header = Header::decode(bytes)?;
                self.check.admit(&header)?;
                let _ = self.buffer.split_to(Header::LENGTH);
                self.buffer.reserve(header.payload as usize);
                *self.header.insert(header)
            }
        };
        if self.buffer.len() < header.payload as usize {
            return Ok(false);
        }
        self.header = None;
        let payload = self.buffer.split_to(header.payload as usize).freeze();
        self.check.accept(&header, payload)?;
        Ok(true)
    }

    fn misbehaved(&self, fault: Fault) -> PeerError {
        PeerError::Misbehaved { peer: self.peer, what: format!("it sent {fault}") }
    }
}

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("a frame for piece {0}, which wasn't asked for")]
    NoSuchPiece(u32),
    #[error("a frame for piece {0} out of turn")]
    Order(u32),
    #[error("a {0:?} frame for piece {1}, which is of another kind")]
    OtherKind(Kind, u32),
    #[error("{0} bytes for piece {1}, which has another length")]
    Length(u32, u32),
    #[error("content for piece {0} that doesn't match its digest")]
    Corrupt(u32),
    #[error("the tree object {0}, which wasn't asked for")]
    Unasked(Digest),
    #[error("the tree object {0}, which isn't one")]
    NotATree(Digest),
    #[error("more tree objects below piece {0} than allowed")]
    OverBudget(u32),
    #[error("an end before piece {0} was answered")]
    Unanswered(u32),
    #[error("something after the end")]
    AfterEnd,
}

/// Holds an answer against its request.
#[derive(Debug)]
struct Check {
    pieces: Vec<PieceRequest>,
    /// The piece that frames are expected for, or a later one.
    current: u32,
    /// Whether the current piece may be left: it has been answered.
    answered: bool,
    /// Whether the current piece has been refused, which leaves nothing more to say about it.
    refused: bool,
    /// Tree objects that were received.
    received: HashSet<Digest>,
    /// Tree objects that those received for the current piece name.
    expected: HashSet<Digest>,
    /// Bytes below the current piece.
    below_piece: usize,
    /// Bytes of tree objects in the answer that weren't asked for by name.
    below: usize,
    ended: bool,
    /// Whether nothing of the answer has come yet, and it's one to a bulk request.
    may_wait: bool,
    ready: VecDeque<(usize, Piece)>,
}

impl Check {
    fn new(pieces: Vec<PieceRequest>) -> Self {
        Self {
            pieces,
            current: 0,
            answered: false,
            refused: false,
            received: HashSet::new(),
            expected: HashSet::new(),
            below_piece: 0,
            below: 0,
            ended: false,
            may_wait: false,
            ready: VecDeque::new(),
        }
    }

    fn piece(&self) -> Option<&PieceRequest> {
        self.pieces.get(self.current as usize)
    }

    /// Moves on to piece `index`: all before it must have been answered.
    fn advance(&mut self, index: u32) -> Result<(), Fault> {
        while self.current < index {
            if !self.answered {
                return Err(Fault::Unanswered(self.current));
            }
            self.current += 1;
            self.answered = false;
            self.refused = false;
            self.below_piece = 0;
            self.expected.clear();
        }
        Ok(())
    }

    /// Judges a header before its payload is received.
    fn admit(&mut self, header: &Header) -> Result<(), Fault> {
        let count = self.pieces.len() as u32;
        if header.kind == Kind::Waiting {
            return if self.may_wait { Ok(()) } else { Err(Fault::OtherKind(header.kind, header.index)) };
        }
        self.may_wait = false;
        if header.kind == Kind::End {
            return if header.index == count {
                self.advance(count)
            } else {
                Err(Fault::NoSuchPiece(header.index))
            };
        }
        if header.index >= count {
            return Err(Fault::NoSuchPiece(header.index));
        }
        if header.index < self.current {
            return Err(Fault::Order(header.index));
        }
        self.advance(header.index)?;
        let Some(piece) = self.piece() else { return Err(Fault::NoSuchPiece(header.index)) };
        let subtree = matches!(piece, PieceRequest::Tree { subtree: true, .. });
        let more_trees = subtree && header.kind == Kind::Trees && !self.refused;
        if self.answered && !more_trees {
            return Err(Fault::Order(header.index));
        }
        let right_length = match (header.kind, piece) {
            (Kind::Unknown | Kind::Changed | Kind::Failed | Kind::Denied, _) => true,
            (Kind::Trees, PieceRequest::Tree { .. }) => true,
            (Kind::Blob, PieceRequest::Blob { size, .. }) => u64::from(header.length) == *size,
            (Kind::Slice, PieceRequest::Slice { groups: [start, end], .. }) => {
                u64::from(header.length) <= slice_limit(end - start)
            }
            (Kind::Pending, PieceRequest::Pending { pending }) => header.length == pending.length,
            // The kind has a limit of its own.
            (Kind::Outline, PieceRequest::Outline { .. }) => true,
            (kind, _) => return Err(Fault::OtherKind(kind, header.index)),
        };
        if right_length { Ok(()) } else { Err(Fault::Length(header.length, header.index)) }
    }

    /// Checks the payload of a header that was admitted, and makes its pieces ready.
    fn accept(&mut self, header: &Header, payload: Bytes) -> Result<(), Fault> {
        let index = header.index;
        let corrupt = |_| Fault::Corrupt(index);
        let payload = header.open(payload)?;
        let piece = match (header.kind, self.piece()) {
            (Kind::End, _) => {
                self.ended = true;
                return Ok(());
            }
            (Kind::Waiting, _) => {
                tracing::debug!(before = index, "the owner serves others first");
                return Ok(());
            }
            (Kind::Trees, Some(&PieceRequest::Tree { tree, subtree })) => {
                return self.accept_trees(index, tree, subtree, payload);
            }
            (Kind::Unknown, Some(_)) => Piece::Refused(RefusedPiece::Unknown),
            (Kind::Changed, Some(_)) => Piece::Refused(RefusedPiece::Changed),
            (Kind::Failed, Some(_)) => Piece::Refused(RefusedPiece::Failed),
            (Kind::Denied, Some(_)) => Piece::Refused(RefusedPiece::Denied),
            (Kind::Blob, Some(&PieceRequest::Blob { blob, .. })) => {
                Piece::Blob(VerifiedBlob::verify(blob, payload).map_err(corrupt)?)
            }
            (Kind::Slice, Some(&PieceRequest::Slice { slice, size, groups: [start, end] })) => {
                let blob = Blob { digest: slice, size };
                Piece::Slice(VerifiedSlice::verify(blob, start..end, &payload).map_err(corrupt)?)
            }
            (Kind::Outline, Some(&PieceRequest::Outline { outline, size, window })) => {
                let blob = Blob { digest: outline, size };
                Piece::Outline(Outline::verify(blob, window, &payload).map_err(corrupt)?)
            }
            (Kind::Pending, Some(PieceRequest::Pending { .. })) => Piece::Pending(payload),
            (kind, _) => return Err(Fault::OtherKind(kind, index)),
        };
        self.answered = true;
        self.refused = matches!(piece, Piece::Refused(_));
        self.ready.push_back((index as usize, piece));
        Ok(())
    }

    fn accept_trees(&mut self, index: u32, root: Digest, subtree: bool, bundle: Bytes) -> Result<(), Fault> {
        for (digest, object) in frame::objects(bundle)? {
            if object.len() > MAX_OBJECT {
                return Err(FrameError::TooLong.into());
            }
            if !self.answered {
                if digest != root {
                    return Err(Fault::Unasked(digest));
                }
                self.answered = true;
            } else {
                if !subtree || !self.expected.contains(&digest) || self.received.contains(&digest) {
                    return Err(Fault::Unasked(digest));
                }
                self.below_piece += object.len();
                self.below += object.len();
                if self.below_piece > SUBTREE_BUDGET || self.below > ANSWER_BUDGET {
                    return Err(Fault::OverBudget(index));
                }
            }
            let children = children(&object).map_err(|_| Fault::NotATree(digest))?;
            if subtree {
                self.expected.extend(children);
            }
            self.received.insert(digest);
            self.ready.push_back((index as usize, Piece::Tree(digest, object)));
        }
        Ok(())
    }
}
