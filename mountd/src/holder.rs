use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture};
use twinshare::{
    fetch::{Holder, HolderError, Piece, Refused, Sink, Want},
    peer::{self, PeerClient, PeerError, PendingRange, PieceRequest, RefusedPiece},
    types::WorkspaceId,
};

/// A peer that content is fetched from, with the identity that the workspace has there.
pub(crate) struct PeerHolder {
    pub(crate) client: PeerClient,
    pub(crate) workspace: WorkspaceId,
}

impl PeerHolder {
    pub(crate) fn shared(client: PeerClient, workspace: WorkspaceId) -> Arc<dyn Holder> {
        Arc::new(Self { client, workspace })
    }
}

impl Holder for PeerHolder {
    fn fetch<'a>(
        &'a self,
        _: &'a WorkspaceId,
        wants: &'a [Want],
        sink: Sink<'a>,
    ) -> BoxFuture<'a, Result<(), HolderError>> {
        async move {
            let pieces = wants.iter().map(request).collect();
            let mut answer = self.client.batch(self.workspace, pieces).await.map_err(failure)?;
            while let Some((position, piece)) = answer.next().await.map_err(failure)? {
                sink(position, received(piece));
            }
            Ok(())
        }
        .boxed()
    }
}

fn request(want: &Want) -> PieceRequest {
    match want {
        Want::Tree(digest) => PieceRequest::Tree { tree: *digest, subtree: true },
        Want::Blob(blob) => PieceRequest::Blob { blob: blob.digest, size: blob.size },
        Want::Slice { blob, groups } => {
            PieceRequest::Slice { slice: blob.digest, size: blob.size, groups: [groups.start, groups.end] }
        }
        Want::Pending { path, token, offset, length } => PieceRequest::Pending {
            pending: PendingRange { path: path.clone(), token: *token, offset: *offset, length: *length },
        },
    }
}

fn received(piece: peer::Piece) -> Result<Piece, Refused> {
    match piece {
        peer::Piece::Tree(digest, object) => Ok(Piece::Tree { digest, object }),
        peer::Piece::Blob(blob) => Ok(Piece::Blob(blob)),
        peer::Piece::Slice(slice) => Ok(Piece::Slice(slice)),
        peer::Piece::Pending(bytes) => Ok(Piece::Pending(bytes)),
        peer::Piece::Refused(RefusedPiece::Unknown) => Err(Refused::Unknown),
        peer::Piece::Refused(RefusedPiece::Changed) => Err(Refused::Changed),
        peer::Piece::Refused(RefusedPiece::Failed) => Err(Refused::Failed),
    }
}

fn failure(error: PeerError) -> HolderError {
    match error {
        PeerError::Denied { .. } | PeerError::Unknown { .. } => HolderError::Denied,
        PeerError::Misbehaved { .. } | PeerError::Request(_) => HolderError::Misbehaved(error.to_string()),
        error => HolderError::Unreachable(error.to_string()),
    }
}
