//! What this node serves: its own shares, and what it holds of others'.

use std::{net::IpAddr, ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use tokio::{sync::watch, time::Instant};
use twinshare::{
    blob::Blob,
    fetch::Fetcher,
    peer::{
        Capability, Catalogue, ExpectedPieces, Held, NodeInfo, PieceRequest, Refusal, Reply, Served,
        ServedWorkspace, VisitRefusal, Visited,
    },
    store::{ReadStore, StoreError},
    types::{Digest, NodeId, WorkspaceId, WorkspaceName},
};

use crate::{neighbours::Neighbours, pairing::Pairing, sharing::Sharing};

/// The share service's view of this node.
pub(crate) struct Service {
    pub(crate) sharing: Arc<Sharing>,
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) pairing: Arc<Pairing>,
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

    fn visitable(&self) -> Vec<WorkspaceName> {
        self.sharing.visitable()
    }

    fn visit(
        &self,
        name: &WorkspaceName,
        password: Option<&str>,
        from: IpAddr,
    ) -> Result<Visited, VisitRefusal> {
        self.sharing.visit(name, password, from)
    }

    fn pair(&self, reader: NodeId, message: &[u8]) -> Result<Reply, Refusal> {
        self.pairing.answer(reader, message)
    }

    fn paired(&self, reader: NodeId, proof: [u8; 32]) -> Result<(), Refusal> {
        self.pairing.prove(reader, proof)
    }

    fn expected(&self) -> Vec<ExpectedPieces> {
        self.sharing.expected()
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

#[cfg(test)]
mod tests {
    use twinshare::{
        blob::{VerifiedBlob, VerifiedSlice, encode_slice, hash_bytes},
        fetch::{FetchOptions, Holder, Holders},
        store::{MemoryStore, WriteStore},
    };

    use super::*;

    const LAB: WorkspaceId = WorkspaceId::from_bytes([1; 16]);
    const PRIVATE: WorkspaceId = WorkspaceId::from_bytes([2; 16]);

    struct Nobody;

    impl Holders for Nobody {
        fn holders(&self, _: &WorkspaceId) -> Vec<Arc<dyn Holder>> {
            Vec::new()
        }

        fn knock(&self, _: &WorkspaceId) {}
    }

    #[tokio::test]
    async fn only_content_of_the_workspace_is_passed_on() {
        let store = Arc::new(MemoryStore::new());
        let (object, small, large) = (&[0x82, 0x00, 0x80][..], &b"hello"[..], vec![7; 300_000]);
        store.put_tree(Digest::of(object), object).unwrap();
        store.put_blob(&VerifiedBlob::verify(Digest::of(small), small.into()).unwrap()).unwrap();
        let hashed = hash_bytes(&large);
        let blob = Blob { digest: hashed.digest, size: large.len() as u64 };
        let encoded = encode_slice(blob, 2..5, &large, &hashed.outboard).unwrap();
        store.put_slice(&VerifiedSlice::verify(blob, 2..5, &encoded).unwrap()).unwrap();
        for digest in [Digest::of(object), Digest::of(small), blob.digest] {
            store.note(&PRIVATE, &digest).unwrap();
        }
        let options = FetchOptions { deadline: std::time::Duration::from_secs(1), mapped: 0 };
        let fetcher = Arc::new(Fetcher::new(store.clone(), Arc::new(Nobody), options).0);
        let passed = |workspace| Passed { workspace, store: store.clone(), fetcher: fetcher.clone() };
        let named = Blob { digest: Digest::of(small), size: 5 };

        let private = passed(PRIVATE);
        assert_eq!(private.tree(&Digest::of(object)).as_deref(), Some(object));
        assert_eq!(private.blob(&named).as_deref(), Some(small));
        assert_eq!(private.blob(&Blob { size: 4, ..named }), None);
        assert_eq!(private.slice(&blob, 2..5), Some(encoded));
        // What isn't held, and isn't read here either, is neither fetched nor waited for.
        let piece = PieceRequest::Slice { slice: blob.digest, size: blob.size, groups: [2, 6] };
        private.gather(&piece).await;
        assert_eq!(private.slice(&blob, 2..6), None);

        let lab = passed(LAB);
        assert_eq!(lab.tree(&Digest::of(object)), None);
        assert_eq!(lab.blob(&named), None);
        assert_eq!(lab.slice(&blob, 2..5), None);
    }
}
