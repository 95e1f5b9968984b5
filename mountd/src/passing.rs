//! What this node serves: its own shares, and what it holds of others'.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use tokio::{sync::watch, time::Instant};
use twinshare::{
    blob::Blob,
    fetch::Fetcher,
    peer::{Capability, Catalogue, Held, NodeInfo, PieceRequest, Refusal, Served, ServedWorkspace},
    store::{ReadStore, StoreError},
    types::{Digest, NodeId, WorkspaceId},
};

use crate::{neighbours::Neighbours, sharing::Sharing};

/// The share service's view of this node.
pub(crate) struct Service {
    pub(crate) sharing: Arc<Sharing>,
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) store: Arc<dyn ReadStore>,
    pub(crate) fetcher: Arc<Fetcher>,
}

impl Served for Service {
    fn node(&self) -> NodeInfo {
        self.sharing.node()
    }

    fn catalogue(&self, reader: Option<NodeId>) -> Catalogue {
        self.sharing.catalogue(reader)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.sharing.changes()
    }

    fn workspace(
        &self,
        id: &WorkspaceId,
        reader: Option<NodeId>,
    ) -> Result<Arc<dyn ServedWorkspace>, Refusal> {
        self.sharing.workspace(id, reader)
    }

    fn held(&self, _: NodeId, capability: &Capability) -> Result<Arc<dyn Held>, Refusal> {
        let workspace = self.neighbours.may_pass_on(capability, Instant::now())?;
        Ok(Arc::new(Passed { workspace, store: self.store.clone(), fetcher: self.fetcher.clone() }))
    }
}

/// What is held of another's workspace.
struct Passed {
    /// The identity that it has in this node's cache.
    workspace: WorkspaceId,
    store: Arc<dyn ReadStore>,
    fetcher: Arc<Fetcher>,
}

impl Passed {
    /// Something of this digest, if it came as a part of the workspace and can be read.
    fn belonging<T>(
        &self,
        digest: &Digest,
        read: impl FnOnce(&dyn ReadStore) -> Result<Option<T>, StoreError>,
    ) -> Option<T> {
        let found = match self.store.belongs(&self.workspace, digest) {
            Ok(true) => read(&*self.store),
            Ok(false) => Ok(None),
            Err(error) => Err(error),
        };
        found.unwrap_or_else(|error| {
            tracing::debug!(%error, "what is held can't be passed on");
            None
        })
    }
}

impl Held for Passed {
    fn gather<'a>(&'a self, piece: &'a PieceRequest) -> BoxFuture<'a, ()> {
        match piece {
            PieceRequest::Slice { slice, size, groups: [start, end] } => {
                let blob = Blob { digest: *slice, size: *size };
                async move { self.fetcher.bring(&self.workspace, &blob, *start..*end).await }.boxed()
            }
            _ => std::future::ready(()).boxed(),
        }
    }

    fn tree(&self, digest: &Digest) -> Option<Bytes> {
        self.belonging(digest, |store| store.tree(digest))
    }

    fn blob(&self, blob: &Blob) -> Option<Bytes> {
        self.belonging(&blob.digest, |store| {
            let mut bytes = vec![0; blob.size as usize];
            Ok(store.read_at(blob, 0, &mut bytes)?.then(|| bytes.into()))
        })
    }

    fn slice(&self, blob: &Blob, groups: Range<u64>) -> Option<Vec<u8>> {
        self.belonging(&blob.digest, |store| store.slice(blob, groups))
    }
}
