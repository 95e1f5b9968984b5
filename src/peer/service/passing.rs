use std::{ops::Range, time::Duration};

use axum::response::Response;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

use super::{Refusal, Service, ServiceError, hand_over, streamed};
use crate::{
    blob::Blob,
    peer::{
        answer::CONTENT_LEVEL,
        capability::Capability,
        frame::{self, Kind},
        packed::Packed,
        wire::{BatchRequest, PieceRequest},
    },
    types::{Digest, NodeId},
};

/// Answers to the guests of others at a time: fewer than this node's own guests get.
pub(super) const PASSINGS: usize = 32;

/// A guest of another that has waited this long for its turn is told to ask the owner.
const PATIENCE: Duration = Duration::from_secs(1);

/// Pieces that are still on their way here are waited for so long, over the whole answer: the guest gives up earlier.
const ON_THEIR_WAY: Duration = Duration::from_secs(4);

/// What this node holds of another's workspace, for a reader who has shown that it may read that. None of what isn't
/// held, or may not be passed on. All calls but [`Held::gather`] may block on the disk.
pub trait Held: Send + Sync {
    /// Returns when the piece is held, or when it won't be soon.
    fn gather<'a>(&'a self, piece: &'a PieceRequest) -> BoxFuture<'a, ()>;

    /// The tree object.
    fn tree(&self, digest: &Digest) -> Option<Bytes>;

    /// A blob that is fetched whole.
    fn blob(&self, blob: &Blob) -> Option<Bytes>;

    /// Some groups of a larger blob, in the encoding of [`crate::blob::encode_slice`].
    fn slice(&self, blob: &Blob, groups: Range<u64>) -> Option<Vec<u8>>;
}

/// Checks that a capability is the asker's own, for this workspace, and signed by the owner that it names.
fn judge(capability: &Capability, request: &BatchRequest, reader: Option<NodeId>) -> Result<NodeId, Refusal> {
    let reader = reader.filter(|reader| capability.reader == *reader).ok_or(Refusal::Denied)?;
    if capability.workspace != request.workspace || capability.verify().is_err() {
        return Err(Refusal::Denied);
    }
    Ok(reader)
}

/// Answers a batch for another's workspace out of what is held here.
pub(super) async fn pass_on(
    service: Service,
    reader: Option<NodeId>,
    capability: Capability,
    request: BatchRequest,
) -> Result<Response, ServiceError> {
    let judged = judge(&capability, &request, reader);
    let node = judged.map_err(|refusal| ServiceError::refused(refusal, reader))?;
    let shares = service.shares.clone();
    let held = service.blocking(move || shares.held(node, &capability)).await?;
    let held = held.map_err(|refusal| ServiceError::refused(refusal, reader))?;
    let turn = timeout(PATIENCE, service.passings.clone().acquire_owned());
    let Ok(Ok(turn)) = turn.await else { return Err(ServiceError::busy()) };

    let (sender, receiver) = mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        let _turn = turn;
        let limit = Instant::now() + ON_THEIR_WAY;
        let count = request.pieces.len() as u32;
        for (index, piece) in request.pieces.into_iter().enumerate() {
            // What isn't here by then is refused like all that isn't held.
            let _ = timeout_at(limit, held.gather(&piece)).await;
            let held = held.clone();
            let Ok(frame) = service.blocking(move || encoded(&*held, index as u32, &piece)).await else {
                return;
            };
            if !hand_over(&sender, frame).await {
                return;
            }
        }
        let mut end = Vec::new();
        frame::put_empty(&mut end, Kind::End, count);
        hand_over(&sender, end.into()).await;
    });
    Ok(streamed(receiver))
}

/// The frame that answers one piece. Of a subtree only its top is passed on, never what has no digest, and outlines are the
/// owner's to make.
fn encoded(held: &dyn Held, index: u32, piece: &PieceRequest) -> Bytes {
    let found = match piece {
        PieceRequest::Tree { tree, .. } => held.tree(tree).map(|object| {
            let mut bundle = Vec::new();
            frame::put_object(&mut bundle, &object);
            (Kind::Trees, bundle.into())
        }),
        PieceRequest::Blob { blob, size } => {
            held.blob(&Blob { digest: *blob, size: *size }).map(|bytes| (Kind::Blob, bytes))
        }
        PieceRequest::Slice { slice, size, groups: [start, end] } => held
            .slice(&Blob { digest: *slice, size: *size }, *start..*end)
            .map(|bytes| (Kind::Slice, bytes.into())),
        PieceRequest::Outline { .. } | PieceRequest::Pending { .. } => None,
    };
    let mut output = Vec::new();
    match found {
        Some((kind, bytes)) => frame::put(&mut output, kind, index, &Packed::new(bytes, CONTENT_LEVEL)),
        None => frame::put_empty(&mut output, Kind::Unknown, index),
    }
    output.into()
}
