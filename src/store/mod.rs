//! The content store: tree objects and blobs that this node holds, each checked before it is put.
//!
//! A read-only trait first; writing and pruning widen it. Memory, disk and every decorator pass one contract suite.

#[cfg(test)]
mod contract;
mod disk;
mod fault;
mod memory;

use std::{
    collections::HashMap,
    ops::Range,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

pub use disk::{DiskLimits, DiskStore};
pub use fault::{Call, FaultStore, Hold};
pub use memory::MemoryStore;

use crate::{
    blob::{Blob, Groups, VerifiedBlob, VerifiedSlice, encode_slice},
    types::{Digest, PathKey, WorkspaceId},
};

/// Paths of one workspace that are kept for a blob: a tree may name the same content any number of times.
pub const PATHS_MAX: usize = 16;

/// Why the store can't do what was asked. What isn't held is not an error.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What was stored under the digest isn't what it names: it has been dropped, and can be fetched again.
    #[error("the stored content of {0} was damaged and has been dropped")]
    Corrupt(Digest),
    /// There's no space left, on the disk or within the limit.
    #[error("the cache is full")]
    Full,
    /// Another process has the store open.
    #[error("another process uses the store in {}", .0.display())]
    InUse(PathBuf),
    /// The disk doesn't do what it should.
    #[error("the store can't {doing}")]
    Disk {
        /// What was being done, as in "write blob 1234abcd".
        doing: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The index doesn't do what it should.
    #[error("the store's index can't {doing}: {why}")]
    Index {
        /// What was being done.
        doing: &'static str,
        /// What the database said.
        why: String,
    },
}

/// What can be read. All calls are quick: memory or the local disk, never the network.
pub trait ReadStore: Send + Sync {
    /// The tree object of this digest, if it is held.
    fn tree(&self, digest: &Digest) -> Result<Option<Bytes>, StoreError>;

    /// Which groups of the blob are held. A blob that is fetched whole has all or none; an empty one is always held.
    fn held(&self, blob: &Blob) -> Result<Groups, StoreError>;

    /// Fills `buffer` with the blob's bytes from `offset` (the range lies within the blob); false, and the buffer's
    /// content undefined, when some of them are not held.
    fn read_at(&self, blob: &Blob, offset: u64, buffer: &mut [u8]) -> Result<bool, StoreError>;

    /// Some groups of the blob will be read soon: what is held of them may be brought into memory meanwhile.
    fn will_read(&self, _blob: &Blob, _groups: &Groups) {}

    /// Some groups of a large blob with the hashes that show them right, as [`encode_slice`] makes them; none when some of
    /// them aren't held.
    fn slice(&self, blob: &Blob, groups: Range<u64>) -> Result<Option<Vec<u8>>, StoreError>;

    /// Whether content of this digest, a tree object or a blob, came as a part of the workspace. Others of the workspace
    /// may have it only then: a workspace can name a digest whose content its owner never had.
    fn belongs(&self, workspace: &WorkspaceId, digest: &Digest) -> Result<bool, StoreError>;

    /// The blob of which something came last for this path of the workspace; it may have been evicted since.
    fn at(&self, workspace: &WorkspaceId, path: PathKey) -> Result<Option<Blob>, StoreError>;
}

/// What can be put. Putting what is already there is fine.
pub trait WriteStore: ReadStore {
    /// Keeps a tree object; its digest is checked here.
    fn put_tree(&self, digest: Digest, object: &[u8]) -> Result<(), StoreError>;

    /// Keeps a blob that was fetched whole.
    fn put_blob(&self, blob: &VerifiedBlob) -> Result<(), StoreError>;

    /// Keeps some groups of a large blob and the hashes that show them right.
    fn put_slice(&self, slice: &VerifiedSlice) -> Result<(), StoreError>;

    /// Notes that content of this digest, which has been put, came as a part of the workspace. It's forgotten with the content.
    fn note(&self, workspace: &WorkspaceId, digest: &Digest) -> Result<(), StoreError>;

    /// Notes that something of this blob, which has been put, came for this path of the workspace. It's forgotten with the
    /// content. No more than [`PATHS_MAX`] paths of one workspace are kept for a blob.
    fn note_at(&self, workspace: &WorkspaceId, path: PathKey, blob: &Blob) -> Result<(), StoreError>;

    /// Returns when all that was put before is on the disk and recorded.
    fn flush(&self) -> Result<(), StoreError>;
}

/// What content is kept for, whatever else goes: a workspace, or what lies at a path within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The path within it.
    pub path: PathKey,
}

/// What content takes, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// What pins keep.
    pub pinned: u64,
    /// What came for each workspace; what came for several counts for each of them.
    pub workspaces: HashMap<WorkspaceId, u64>,
}

/// What can be made smaller.
pub trait PruneStore: WriteStore {
    /// Bytes that the content takes.
    fn used(&self) -> u64;

    /// What takes how much. It goes through everything that is held.
    fn usage(&self) -> Result<Usage, StoreError>;

    /// Lays a pin on content of these digests, whether it's held yet or not: it is never evicted. `round` only grows.
    fn pin(&self, pin: &Pin, round: u64, digests: &[Digest]) -> Result<(), StoreError>;

    /// Lifts a pin from all content on which it wasn't laid in `round` or later.
    fn lift(&self, pin: &Pin, round: u64) -> Result<(), StoreError>;

    /// Forgets what came for this workspace alone, and isn't pinned.
    fn clear(&self, workspace: &WorkspaceId) -> Result<(), StoreError>;

    /// Forgets everything that the digest names, tree or blob, and frees its space.
    fn remove(&self, digest: &Digest) -> Result<(), StoreError>;

    /// Forgets what was used least recently until at most `bytes` are used: whole blobs first, trees when nothing else is left, what is
    /// pinned never.
    fn evict_to(&self, bytes: u64) -> Result<(), StoreError>;
}

/// Takes a lock that also a thread that panicked may have held.
///
/// Every critical section of this room leaves its data consistent at each point where it could panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A blob too large for a pack that came in one piece, as the slice of all its groups.
fn whole_as_slice(blob: &VerifiedBlob) -> Result<VerifiedSlice, StoreError> {
    let corrupt = |_| StoreError::Corrupt(blob.digest());
    let named = Blob { digest: blob.digest(), size: blob.bytes().len() as u64 };
    let outboard = crate::blob::hash_bytes(blob.bytes()).outboard;
    let encoded = encode_slice(named, 0..named.groups(), &blob.bytes()[..], &outboard).map_err(corrupt)?;
    VerifiedSlice::verify(named, 0..named.groups(), &encoded).map_err(corrupt)
}
