use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use redb::{
    Builder, Database, DatabaseError, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition,
    TableError,
};

use super::{
    item::HashedContent,
    place::{Inode, Status},
};
use crate::{
    blob::{Hashed, outboard_length},
    tree::Extent,
    types::{Digest, Timestamp, WorkspaceId},
};

/// (device, inode) -> size, times, digest and extents of the file when it was hashed.
const FILES: TableDefinition<'static, (u64, u64), &'static [u8]> = TableDefinition::new("files");

/// workspace -> a number that no head of it has reached.
const SEQUENCES: TableDefinition<'static, [u8; 16], u64> = TableDefinition::new("sequences");

/// Memory for the database's pages; redb's own choice would be 1 GiB.
const MEMORY: usize = 16 << 20;

/// So many sequence numbers are set aside at a time, so that a new head needs no write.
const SEQUENCES_AHEAD: u64 = 1000;

/// Why the hash cache can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Another process has it.
    #[error("{0} is in use by another process: is a node running with the same state folder?")]
    InUse(PathBuf),
    /// The file system doesn't let us.
    #[error("can't use the hash cache {path}: {source}")]
    Disk {
        /// The cache's file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database doesn't do what it should.
    #[error("the hash cache {path} doesn't work: {why}")]
    Database {
        /// The cache's file.
        path: PathBuf,
        /// What the database said.
        why: String,
    },
}

/// What is known of files' contents from one share to the next, in a small database, and the outboards of large blobs.
///
/// It only saves work: what it lacks is hashed again, and whatever is served is checked against its digest.
#[derive(Debug)]
pub(super) struct Cache {
    path: PathBuf,
    database: Database,
    outboards: PathBuf,
}

impl Cache {
    /// Opens the cache in `state`. A damaged one is replaced by an empty one.
    pub(super) fn open(state: &Path) -> Result<Self, CacheError> {
        let path = state.join("hashes.redb");
        let disk = |path: &Path| {
            let path = path.to_path_buf();
            move |source| CacheError::Disk { path, source }
        };
        fs::create_dir_all(state).map_err(disk(state))?;
        let open = || Builder::new().set_cache_size(MEMORY).create(&path);
        let database = match open() {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(CacheError::InUse(path)),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the hash cache is damaged: all files are hashed anew");
                fs::remove_file(&path).map_err(disk(&path))?;
                open().map_err(|error| CacheError::Database { path: path.clone(), why: error.to_string() })?
            }
        };
        Ok(Self { path, database, outboards: state.join("outboards") })
    }

    fn failed(&self, error: impl std::fmt::Display) -> CacheError {
        CacheError::Database { path: self.path.clone(), why: error.to_string() }
    }

    /// A view of what is known now.
    pub(super) fn known(&self) -> Result<Known, CacheError> {
        let reading = self.database.begin_read().map_err(|error| self.failed(error))?;
        match reading.open_table(FILES) {
            Ok(table) => Ok(Known(Some(table))),
            Err(TableError::TableDoesNotExist(_)) => Ok(Known(None)),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Remembers contents, durably.
    pub(super) fn remember(&self, files: &[(Status, HashedContent)]) -> Result<(), CacheError> {
        self.write(|writing| {
            let mut table = writing.open_table(FILES)?;
            for (status, content) in files {
                let Inode { device, number } = status.inode;
                table.insert((device, number), &*encode(status, content))?;
            }
            Ok(())
        })
    }

    /// Sets sequence numbers of a workspace's heads aside: from the first one given, up to the second. None was given
    /// before, and they aren't below `least`.
    pub(super) fn sequences(&self, workspace: &WorkspaceId, least: u64) -> Result<(u64, u64), CacheError> {
        let mut given = (least, least);
        self.write(|writing| {
            let mut table = writing.open_table(SEQUENCES)?;
            let used = table.get(workspace.as_bytes())?.map_or(0, |used| used.value());
            let first = used.max(least);
            given = (first, first + SEQUENCES_AHEAD);
            table.insert(workspace.as_bytes(), given.1)?;
            Ok(())
        })?;
        Ok(given)
    }

    fn write(
        &self,
        work: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), CacheError> {
        let mut writing = self.database.begin_write().map_err(|error| self.failed(error))?;
        // Without it, opening the database after a kill would read all of it.
        writing.set_quick_repair(true);
        work(&writing).map_err(|error| self.failed(error))?;
        writing.commit().map_err(|error| self.failed(error))
    }

    fn outboard_path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.outboards.join(&name[..2]).join(name)
    }

    /// Opens the outboard of a large blob, if it is kept.
    pub(super) fn outboard(&self, digest: &Digest, size: u64) -> Option<File> {
        let file = File::open(self.outboard_path(digest)).ok()?;
        (file.metadata().ok()?.len() == outboard_length(size)).then_some(file)
    }

    /// Keeps the outboard of a large blob. It isn't forced to the disk: a slice made with a damaged one is noticed, and
    /// the file hashed again.
    pub(super) fn keep_outboard(&self, hashed: &Hashed) -> io::Result<()> {
        if hashed.outboard.is_empty() {
            return Ok(());
        }
        let path = self.outboard_path(&hashed.digest);
        let folder = path.parent().unwrap_or(&self.outboards);
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&hashed.outboard)?;
        file.persist(path).map(drop).map_err(|error| error.error)
    }

    /// Removes the outboard of a blob that no file is any more.
    pub(super) fn drop_outboard(&self, digest: &Digest) {
        // Most blobs are small and have none.
        let _ = fs::remove_file(self.outboard_path(digest));
    }
}

/// What was known at one moment.
pub(super) struct Known(Option<ReadOnlyTable<(u64, u64), &'static [u8]>>);

impl Known {
    /// Where nothing is known.
    pub(super) fn nothing() -> Self {
        Self(None)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> u64 {
        use redb::ReadableTableMetadata;
        self.0.as_ref().map_or(0, |table| table.len().unwrap())
    }

    /// The content of a file, if it was hashed when it had exactly this status.
    pub(super) fn content(&self, status: &Status) -> Option<HashedContent> {
        let table = self.0.as_ref()?;
        let Inode { device, number } = status.inode;
        decode(status, table.get((device, number)).ok()??.value())
    }
}

/// What must be the same for a content to be the same.
fn key(status: &Status) -> [u8; 32] {
    let Timestamp { seconds, nanoseconds } = status.modified;
    let mut key = [0; 32];
    key[..8].copy_from_slice(&status.size.to_le_bytes());
    key[8..16].copy_from_slice(&seconds.to_le_bytes());
    key[16..20].copy_from_slice(&nanoseconds.to_le_bytes());
    let Timestamp { seconds, nanoseconds } = status.changed;
    key[20..28].copy_from_slice(&seconds.to_le_bytes());
    key[28..].copy_from_slice(&nanoseconds.to_le_bytes());
    key
}

/// The key, the digest, one byte that tells whether the file is sparse, and the extents' offsets and lengths.
fn encode(status: &Status, content: &HashedContent) -> Vec<u8> {
    let mut bytes =
        [&key(status)[..], content.digest.as_bytes(), &[u8::from(content.extents.is_some())]].concat();
    for extent in content.extents.iter().flatten() {
        bytes.extend_from_slice(&extent.offset.to_le_bytes());
        bytes.extend_from_slice(&extent.length.to_le_bytes());
    }
    bytes
}

fn decode(status: &Status, bytes: &[u8]) -> Option<HashedContent> {
    let rest = bytes.strip_prefix(&key(status))?;
    let (digest, rest) = rest.split_first_chunk::<32>()?;
    let (sparse, rest) = rest.split_first()?;
    let extents = rest.as_chunks::<16>().0.iter().map(|extent| {
        let [offset, length] = [&extent[..8], &extent[8..]]
            .map(|half| half.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)));
        Extent { offset, length }
    });
    let extents = (*sparse == 1).then(|| extents.collect());
    Some(HashedContent { digest: Digest::from_bytes(*digest), extents })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::place::status_of;

    fn status() -> Status {
        status_of(File::open("/proc/self/exe").unwrap()).unwrap()
    }

    #[test]
    fn contents_are_known_for_exactly_their_status() {
        let state = tempfile::tempdir().unwrap();
        let extents = Some([(0, 5), (1 << 40, 7)].map(|(offset, length)| Extent { offset, length }).into());
        let (plain, sparse) = (
            HashedContent { digest: Digest::of(b"1"), extents: None },
            HashedContent { digest: Digest::of(b"2"), extents },
        );
        let first = status();
        let second = Status { inode: Inode { number: 7, ..first.inode }, ..first };
        let cache = Cache::open(state.path()).unwrap();
        assert_eq!(cache.known().unwrap().content(&first), None);
        cache.remember(&[(first, plain.clone()), (second, sparse.clone())]).unwrap();
        assert!(matches!(Cache::open(state.path()), Err(CacheError::InUse(_))));
        drop(cache);
        let cache = Cache::open(state.path()).unwrap();
        let known = cache.known().unwrap();
        assert_eq!(known.content(&first), Some(plain));
        assert_eq!(known.content(&second), Some(sparse));
        let mut later = first.modified;
        later.nanoseconds ^= 1;
        for other in [
            Status { size: first.size + 1, ..first },
            Status { modified: later, ..first },
            Status { changed: later, ..first },
            Status { inode: Inode { number: 8, ..first.inode }, ..first },
        ] {
            assert_eq!(known.content(&other), None);
        }
    }

    #[test]
    fn a_damaged_cache_is_replaced() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join("hashes.redb"), [7; 5000]).unwrap();
        assert_eq!(Cache::open(state.path()).unwrap().known().unwrap().content(&status()), None);
    }

    #[test]
    fn sequences_grow_across_restarts() {
        let state = tempfile::tempdir().unwrap();
        let workspace = WorkspaceId::random();
        let (first, end) = Cache::open(state.path()).unwrap().sequences(&workspace, 5).unwrap();
        assert_eq!((first, end), (5, 1005));
        let again = Cache::open(state.path()).unwrap();
        assert_eq!(again.sequences(&workspace, 5).unwrap().0, 1005);
        assert_eq!(again.sequences(&workspace, 9000).unwrap().0, 9000);
    }

    #[test]
    fn outboards_of_the_wrong_length_are_not_used() {
        let state = tempfile::tempdir().unwrap();
        let cache = Cache::open(state.path()).unwrap();
        let hashed = crate::blob::hash_bytes(&vec![1; 300_000]);
        cache.keep_outboard(&hashed).unwrap();
        assert!(cache.outboard(&hashed.digest, 300_000).is_some());
        fs::write(cache.outboard_path(&hashed.digest), b"torn").unwrap();
        assert!(cache.outboard(&hashed.digest, 300_000).is_none());
        cache.drop_outboard(&hashed.digest);
        assert!(!cache.outboard_path(&hashed.digest).exists());
    }
}
