use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::watch;

use super::{
    cache::{Cache, CacheError},
    kept::Kept,
    outline::ChunkLists,
    publisher::{Message, Publisher},
    scan::is_kernels,
    share::{Retention, Share},
};
use crate::{
    access::Access,
    types::{WorkspaceId, WorkspaceName},
    workspace::{Manifest, ManifestError},
};

/// Why a folder can't be shared.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// There is no folder at the path.
    #[error("can't share {path}: {source}")]
    Folder {
        /// The path as it was given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path isn't a folder.
    #[error("can't share {0}: it isn't a folder")]
    NotAFolder(PathBuf),
    /// The folder belongs to the node itself.
    #[error("can't share {0}: it is this node's own mount, cache or state")]
    Own(PathBuf),
    /// The path is the root of the system, which holds everything.
    #[error("can't share {0}: it is the whole system; share a folder in it")]
    Everything(PathBuf),
    /// The folder is one that the kernel makes up.
    #[error("can't share {0}: what is there are devices or the system's own state, not files")]
    System(PathBuf),
    /// The folder is shared, but its manifest has another identity now.
    #[error("{0} is shared under the id that its workspace.yaml had before; unshare it first")]
    OtherId(PathBuf),
    /// Another shared workspace has the name.
    #[error("another workspace is shared as {name}: {root}; choose another name with --name")]
    NameTaken {
        /// The name.
        name: WorkspaceName,
        /// The other workspace's folder.
        root: PathBuf,
    },
    /// Another shared workspace has the identity: one of them is a copy of the other.
    #[error(
        "{copy} has the same id in its workspace.yaml as {root}, which is shared: it is a copy; \
         remove the line with the id from the copy's workspace.yaml to make it a workspace of its own"
    )]
    SameId {
        /// The folder that was to be shared.
        copy: PathBuf,
        /// The folder that is shared.
        root: PathBuf,
    },
    /// No shared workspace has the name.
    #[error("no workspace is shared as {0}")]
    Unknown(WorkspaceName),
    /// The workspace was unshared meanwhile.
    #[error("{0} isn't shared any more")]
    Unshared(PathBuf),
    /// The manifest can't be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The hash cache can't be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The system doesn't give us threads.
    #[error("can't start a thread for publishing")]
    Thread(#[source] io::Error),
}

/// How this node publishes.
#[derive(Debug, Clone)]
pub struct SharesOptions {
    /// The user who shares: what is theirs is the guest's own at the guest.
    pub user: u32,
    /// This node's own folders (mount, cache, state), absolute: never looked into. The state folder is added.
    pub own: Vec<PathBuf>,
    /// How often a workspace is looked through even if no change was heard of.
    pub rescan: Duration,
    /// A file whose times are this near to its hashing is hashed again later, since a change within one tick of the
    /// file system's clock leaves no trace.
    pub racy: Duration,
    /// So many folders of a workspace are watched at most. The system has its own limit, for all programs of a user.
    pub watches: usize,
}

impl Default for SharesOptions {
    fn default() -> Self {
        Self {
            user: rustix::process::getuid().as_raw(),
            own: Vec::new(),
            rescan: Duration::from_secs(60),
            racy: Duration::from_secs(2),
            watches: usize::MAX,
        }
    }
}

/// How a workspace is shared.
#[derive(Debug, Clone, Default)]
pub struct ShareOptions {
    /// Its name; without one that of its manifest, or of its folder.
    pub name: Option<WorkspaceName>,
    /// Who may read it.
    pub access: Access,
    /// What is kept of its snapshots.
    pub retention: Retention,
}

/// What all shares have in common.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) options: SharesOptions,
    pub(super) cache: Cache,
    pub(super) chunks: ChunkLists,
    pub(super) kept: Kept,
    /// Looks through folders.
    pub(super) look: rayon::ThreadPool,
    /// Hashes small files.
    pub(super) small: rayon::ThreadPool,
    /// Hashes large files, one a workspace at a time, so that nothing else waits for them.
    pub(super) large: rayon::ThreadPool,
    /// How many files were hashed.
    pub(super) hashes: AtomicU64,
    /// How many times folders were looked through.
    #[cfg(test)]
    pub(super) looks: AtomicU64,
    /// Grows with whatever others may want to know of.
    pub(super) changes: watch::Sender<u64>,
    /// Tests hold this to keep files from being hashed.
    #[cfg(test)]
    pub(super) hold: std::sync::RwLock<()>,
}

/// All workspaces that this node shares.
#[derive(Debug)]
pub struct Shares {
    engine: Arc<Engine>,
    shared: Mutex<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    shares: BTreeMap<WorkspaceId, Arc<Share>>,
    threads: Vec<JoinHandle<()>>,
}

impl Shares {
    /// Opens the hash cache in the folder `state`, which is made if need be. Nothing is shared yet.
    pub fn open(state: &Path, mut options: SharesOptions) -> Result<Arc<Self>, PublishError> {
        let cache = Cache::open(state)?;
        options.own.push(state.to_path_buf());
        for path in &mut options.own {
            *path = canonical(path);
        }
        let pool = |name: &'static str| {
            let threads =
                rayon::ThreadPoolBuilder::new().thread_name(move |number| format!("{name}-{number}"));
            threads.build().map_err(|error| PublishError::Thread(io::Error::other(error)))
        };
        let engine = Engine {
            options,
            cache,
            chunks: ChunkLists::new(),
            kept: Kept::new(state),
            look: pool("look")?,
            small: pool("hash")?,
            large: pool("hash-large")?,
            hashes: AtomicU64::new(0),
            #[cfg(test)]
            looks: AtomicU64::new(0),
            changes: watch::Sender::new(0),
            #[cfg(test)]
            hold: std::sync::RwLock::new(()),
        };
        Ok(Arc::new(Self { engine: Arc::new(engine), shared: Mutex::default() }))
    }

    /// Shares the folder `root`. Returns when its provisional head is published; hashing goes on in the background.
    ///
    /// This takes as long as looking through the folder. A folder that is shared already stays so: who may read it
    /// and what is kept becomes what `options` say, and so does its name if they have one.
    pub fn add(&self, root: &Path, options: ShareOptions) -> Result<Arc<Share>, PublishError> {
        let folder = |source| PublishError::Folder { path: root.to_path_buf(), source };
        let path = root.canonicalize().map_err(folder)?;
        if !path.is_dir() {
            return Err(PublishError::NotAFolder(path));
        }
        if self.engine.options.own.iter().any(|own| path.starts_with(own)) {
            return Err(PublishError::Own(path));
        }
        if path.parent().is_none() {
            return Err(PublishError::Everything(path));
        }
        if is_made_up(&path) {
            return Err(PublishError::System(path));
        }
        if let Some(share) = self.at(&path) {
            return self.change(share, options);
        }
        let manifest = Manifest::load_or_create(&path, options.name.clone())?;
        conflict(&self.shared(), &path, &manifest)?;
        let (share, publisher) = Publisher::start(&self.engine, path, manifest, &options)?;
        {
            let mut shared = self.shared();
            // Looking through the folder took its time: somebody else may have been faster.
            if let Some(first) = at(&shared, share.root_path()) {
                drop(shared);
                return self.change(first, options);
            }
            if let Err(error) = conflict(&shared, share.root_path(), &share.manifest()) {
                drop(shared);
                return Err(error);
            }
            shared.threads.retain(|thread| !thread.is_finished());
            shared.threads.push(publisher.spawn()?);
            shared.shares.insert(share.id(), Arc::clone(&share));
        }
        self.engine.note_change();
        Ok(share)
    }

    /// Stops sharing a workspace. Its manifest and what is known of its files stay.
    pub fn remove(&self, name: &WorkspaceName) -> Result<(), PublishError> {
        let share = {
            let mut shared = self.shared();
            let id =
                shared.shares.values().find(|share| share.manifest().name == *name).map(|share| share.id());
            id.and_then(|id| shared.shares.remove(&id)).ok_or_else(|| PublishError::Unknown(name.clone()))?
        };
        share.end();
        self.engine.note_change();
        Ok(())
    }

    /// All workspaces, in no order that means something.
    pub fn list(&self) -> Vec<Arc<Share>> {
        self.shared().shares.values().cloned().collect()
    }

    /// The workspace with this identity.
    pub fn get(&self, id: &WorkspaceId) -> Option<Arc<Share>> {
        self.shared().shares.get(id).cloned()
    }

    /// A number that grows with every new head, share, unshare and change of a manifest.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.engine.changes.subscribe()
    }

    fn at(&self, path: &Path) -> Option<Arc<Share>> {
        at(&self.shared(), path)
    }

    /// Shares a folder that is shared already in another way.
    fn change(&self, share: Arc<Share>, options: ShareOptions) -> Result<Arc<Share>, PublishError> {
        let mut changed = false;
        if let Some(name) = options.name.filter(|name| *name != share.manifest().name) {
            // Two shares must not take one name at the same time.
            let shared = self.shared();
            let root = share.root_path();
            free(&shared, root, &name)?;
            match Manifest::load(root)? {
                Some(manifest) if manifest.id == share.id() => {}
                _ => return Err(PublishError::OtherId(root.to_path_buf())),
            }
            share.set_manifest(Manifest::load_or_create(root, Some(name))?);
            changed = true;
        }
        let mut access = share.access.write().unwrap_or_else(PoisonError::into_inner);
        changed |= std::mem::replace(&mut *access, options.access) != options.access;
        drop(access);
        let mut retention = share.retention.write().unwrap_or_else(PoisonError::into_inner);
        changed |= std::mem::replace(&mut *retention, options.retention) != options.retention;
        drop(retention);
        if changed {
            self.engine.note_change();
        }
        Ok(share)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }
}

impl Drop for Shares {
    /// Waits for the threads, so that the hash cache is closed after this.
    fn drop(&mut self) {
        let Shared { shares, threads } = std::mem::take(&mut *self.shared());
        for share in shares.values() {
            share.end();
        }
        drop(shares);
        for thread in threads {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Share {
    fn end(&self) {
        self.tell(Message::Stop);
        self.heads.send_modify(|published| published.ended = true);
    }
}

impl Engine {
    pub(super) fn note_change(&self) {
        self.changes.send_modify(|number| *number += 1);
    }

    pub(super) fn note_hash(&self) {
        self.hashes.fetch_add(1, Ordering::Relaxed);
    }
}

/// The share of a folder.
fn at(shared: &Shared, path: &Path) -> Option<Arc<Share>> {
    shared.shares.values().find(|share| share.root_path() == path).cloned()
}

/// Whether a workspace that is shared stands in the way of another.
fn conflict(shared: &Shared, path: &Path, manifest: &Manifest) -> Result<(), PublishError> {
    for share in shared.shares.values() {
        if share.id() == manifest.id {
            let root = share.root_path().to_path_buf();
            return Err(PublishError::SameId { copy: path.to_path_buf(), root });
        }
    }
    free(shared, path, &manifest.name)
}

/// Whether no other folder than the one at `path` is shared under `name`.
fn free(shared: &Shared, path: &Path, name: &WorkspaceName) -> Result<(), PublishError> {
    let taken = |share: &&Arc<Share>| share.root_path() != path && share.manifest().name == *name;
    match shared.shares.values().find(taken) {
        Some(other) => {
            Err(PublishError::NameTaken { name: name.clone(), root: other.root_path().to_path_buf() })
        }
        None => Ok(()),
    }
}

/// Whether the kernel makes up what is at the path. Shared memory is plain files, although it stands among devices.
fn is_made_up(path: &Path) -> bool {
    let in_system = ["/dev", "/proc", "/sys"].iter().any(|system| path.starts_with(system));
    (in_system && !path.starts_with("/dev/shm"))
        || rustix::fs::statfs(path).is_ok_and(|kind| is_kernels(&kind))
}

/// The path without symbolic links. The last name isn't followed: a mount may be dead, and then a look at it hangs.
fn canonical(path: &Path) -> PathBuf {
    match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path.to_path_buf(),
    }
}
