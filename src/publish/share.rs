use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    item::ItemKind,
    model::Model,
    objects::Objects,
    place::Root,
    publisher::Message,
    rules::Reason,
    shares::{Engine, PublishError},
};
use crate::{
    access::Access,
    blob::Blob,
    tree::Totals,
    types::{Digest, Name, Timestamp, WorkspaceId},
    workspace::Manifest,
};

/// So many paths of what isn't shared are listed.
const LEFT_OUT_LISTED: usize = 100;

/// What is kept of a workspace's snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// So many snapshots at most, the newest of them in any case.
    pub snapshots: u32,
    /// Whether their content is kept too, as copies.
    pub content: bool,
}

impl Default for Retention {
    fn default() -> Self {
        Self { snapshots: 64, content: false }
    }
}

/// A published state of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The digest of the root folder's tree object.
    pub root: Digest,
    /// Whether some files aren't hashed yet: then `root` is a listing and names no snapshot.
    pub provisional: bool,
    /// Grows with every head of the workspace, also across restarts.
    pub sequence: u64,
    /// When it was published, in milliseconds since 1970.
    pub created: u64,
    /// The permission bits of the workspace's own folder.
    pub mode: u16,
    /// When that folder last changed.
    pub modified: Timestamp,
    /// What it holds.
    pub totals: Totals,
}

/// What isn't shared, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeftOut {
    /// How many names are left out for which reason; what is below a folder that is left out isn't counted.
    pub counts: BTreeMap<Reason, u64>,
    /// The first of their paths below the root, in order, at most 100. What isn't UTF-8 is replaced.
    pub first: Vec<(String, Reason)>,
}

/// How far hashing has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Files and links in the workspace.
    pub files: u64,
    /// Bytes in the files.
    pub bytes: u64,
    /// How many of the files need no hashing any more.
    pub hashed_files: u64,
    /// How many of the bytes need no hashing any more.
    pub hashed_bytes: u64,
}

/// The newest head, and whether it will stay the newest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Published {
    pub(super) head: Head,
    pub(super) ended: bool,
}

/// A workspace that this node shares.
#[derive(Debug)]
pub struct Share {
    pub(super) id: WorkspaceId,
    pub(super) root: Root,
    pub(super) access: RwLock<Access>,
    pub(super) retention: RwLock<Retention>,
    pub(super) manifest: RwLock<Arc<Manifest>>,
    pub(super) model: RwLock<Model>,
    pub(super) objects: Mutex<Objects>,
    pub(super) heads: watch::Sender<Published>,
    pub(super) inbox: mpsc::Sender<Message>,
    pub(super) limited: AtomicBool,
    pub(super) engine: Arc<Engine>,
}

impl Share {
    /// The workspace's identity.
    pub fn id(&self) -> WorkspaceId {
        self.id
    }

    /// The workspace's folder.
    pub fn root_path(&self) -> &Path {
        self.root.path()
    }

    /// The workspace's description, as it was when it was last read without an error.
    pub fn manifest(&self) -> Arc<Manifest> {
        Arc::clone(&self.manifest.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who may read it now: sharing the folder again may change it.
    pub fn access(&self) -> Access {
        *self.access.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept of its snapshots now: sharing the folder again may change it.
    pub fn retention(&self) -> Retention {
        *self.retention.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest head.
    pub fn head(&self) -> Head {
        self.heads.borrow().head
    }

    /// Waits until the newest head is final. An error means that the workspace isn't shared any more.
    pub async fn settled(&self) -> Result<Head, PublishError> {
        let mut heads = self.heads.subscribe();
        let settled = heads.wait_for(|published| published.ended || !published.head.provisional).await;
        match settled {
            Ok(published) if !published.head.provisional => Ok(published.head),
            _ => Err(PublishError::Unshared(self.root_path().to_path_buf())),
        }
    }

    /// A tree object of the newest head or one of the few before it.
    pub fn tree(&self, digest: &Digest) -> Option<Bytes> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).get(digest)
    }

    /// The content of the file at a path, if it's shared and hashed.
    pub fn content(&self, path: &[Name]) -> Option<Blob> {
        let model = self.model();
        let (_, item) = model.find(path)?;
        let ItemKind::File { size, state } = &item.kind else { return None };
        let extents = state.extents().map(|extents| extents.iter().map(|extent| extent.length).sum());
        Some(Blob { digest: item.digest()?, size: extents.unwrap_or(*size) })
    }

    /// What isn't shared, and why.
    pub fn left_out(&self) -> LeftOut {
        let model = self.model();
        let mut left_out = LeftOut::default();
        let mut paths: std::collections::BTreeSet<(Vec<u8>, Reason)> = Default::default();
        for (folder, name, reason) in model.left_out() {
            *left_out.counts.entry(reason).or_default() += 1;
            let mut path = model.path(folder);
            path.push(name.clone());
            paths.insert((Name::join(&path), reason));
            if paths.len() > LEFT_OUT_LISTED {
                paths.pop_last();
            }
        }
        let text = |(path, reason): (Vec<u8>, Reason)| (String::from_utf8_lossy(&path).into_owned(), reason);
        left_out.first = paths.into_iter().map(text).collect();
        left_out
    }

    /// How far hashing has come.
    pub fn progress(&self) -> Progress {
        let sums = self.model().sums();
        Progress {
            files: sums.files,
            bytes: sums.bytes,
            hashed_files: sums.files.saturating_sub(sums.open_files),
            hashed_bytes: sums.bytes.saturating_sub(sums.open_bytes),
        }
    }

    /// Whether every folder is watched. If not, changes are found by looking through the workspace from time to time.
    pub fn is_watched(&self) -> bool {
        !self.limited.load(Ordering::Relaxed)
    }

    pub(super) fn set_manifest(&self, manifest: Manifest) {
        *self.manifest.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(manifest);
    }

    pub(super) fn model(&self) -> RwLockReadGuard<'_, Model> {
        self.model.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only the publisher's thread changes the model.
    pub(super) fn model_mut(&self) -> RwLockWriteGuard<'_, Model> {
        self.model.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, message: Message) {
        // Nobody listens to a workspace that isn't shared any more.
        let _ = self.inbox.send(message);
    }
}
