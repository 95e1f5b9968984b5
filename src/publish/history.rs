//! Earlier snapshots of what is shared: their lists, and their tree objects. Their content is kept only where the owner wants it
//! ([`Share::keep_content`]): else what was changed since is nobody's but the guests' who fetched it.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, WriteTransaction,
};

use super::Share;
use crate::{
    tree::{Content, Kind, Page, Snapshot, children, decode},
    types::{Digest, WorkspaceId},
};

/// So many of the newest are kept in any case …
const NEWEST: usize = 8;

/// … and of those before them one for each minute (in milliseconds), as many in all as the share's
/// [`Retention`](super::Retention) says.
const APART: u64 = 60_000;

/// What only left snapshots had goes when so many have left, since finding it means looking at all others.
const LEFT: usize = 16;

/// The most that the database keeps in memory, in bytes.
const MEMORY: usize = 8 << 20;

/// The snapshots of each workspace, as JSON, oldest first.
const LISTS: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("snapshots");

/// The tree objects of each workspace's snapshots.
const OBJECTS: TableDefinition<(&[u8; 16], &[u8; 32]), &[u8]> = TableDefinition::new("objects");

/// Why earlier snapshots can't be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The database failed.
    #[error("the history of snapshots: {0}")]
    Database(#[from] redb::Error),
    /// What it holds isn't what it should.
    #[error("the history of snapshots is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
}

macro_rules! from_redb {
    ($($error:ident),+) => {$(
        impl From<redb::$error> for HistoryError {
            fn from(error: redb::$error) -> Self {
                Self::Database(error.into())
            }
        }
    )+};
}

from_redb!(DatabaseError, TransactionError, TableError, StorageError, CommitError);

type Result<T> = std::result::Result<T, HistoryError>;

/// The earlier snapshots of all workspaces.
pub struct History {
    database: Database,
    /// How many snapshots of each workspace have left since what only they had was removed. Held while one is noted: one
    /// at a time.
    left: Mutex<HashMap<WorkspaceId, usize>>,
}

impl History {
    /// Opens the history in a node's state.
    pub fn open(state: &Path) -> Result<Self> {
        let path = state.join("history.redb");
        let open = || Database::builder().set_cache_size(MEMORY).create(&path);
        let database = match open() {
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(DatabaseError::DatabaseAlreadyOpen.into()),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the history of snapshots is damaged: it begins anew");
                std::fs::remove_file(&path).map_err(StorageError::Io)?;
                open()?
            }
            Ok(database) => database,
        };
        let history = Self { database, left: Mutex::default() };
        let write = history.begin_write()?;
        write.open_table(LISTS)?;
        write.open_table(OBJECTS)?;
        write.commit()?;
        Ok(history)
    }

    fn begin_write(&self) -> Result<WriteTransaction> {
        let mut write = self.database.begin_write()?;
        // Else opening it after a kill means walking through all of it.
        write.set_quick_repair(true);
        Ok(write)
    }

    /// The snapshots of a workspace that are kept, oldest first.
    pub fn list(&self, workspace: &WorkspaceId) -> Result<Vec<Snapshot>> {
        let lists = self.database.begin_read()?.open_table(LISTS)?;
        let list = lists.get(workspace.as_bytes())?;
        Ok(list.map(|list| serde_json::from_slice(list.value())).transpose()?.unwrap_or_default())
    }

    /// A tree object of a workspace's snapshots.
    pub fn tree(&self, workspace: &WorkspaceId, digest: &Digest) -> Option<Bytes> {
        let objects = self.database.begin_read().ok()?.open_table(OBJECTS).ok()?;
        let object = objects.get((workspace.as_bytes(), digest.as_bytes())).ok()??;
        Some(Bytes::copy_from_slice(object.value()))
    }

    /// Keeps the share's current snapshot, unless it's a listing still or kept already. What it answers is whether objects
    /// of snapshots that left have been removed.
    pub fn note(&self, share: &Share) -> Result<bool> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (head, id) = (share.head(), share.id());
        let before = self.list(&id)?;
        if head.provisional || before.last().is_some_and(|last| last.root == head.root) {
            return Ok(false);
        }
        let mut list: Vec<_> = before.iter().copied().filter(|kept| kept.root != head.root).collect();
        list.push(Snapshot {
            root: head.root,
            created: head.created,
            mode: head.mode,
            modified: (head.modified.seconds, head.modified.nanoseconds),
            files: head.totals.files,
            bytes: head.totals.bytes,
        });
        let all = list.len();
        let list = thinned(&list, share.retention().snapshots as usize);
        let left = left.entry(id).or_default();
        *left += all - list.len();
        let swept = *left >= LEFT;
        let write = self.begin_write()?;
        {
            let mut objects = write.open_table(OBJECTS)?;
            let mut new = vec![head.root];
            while let Some(digest) = new.pop() {
                if objects.get((id.as_bytes(), digest.as_bytes()))?.is_some() {
                    continue;
                }
                // It has changed again meanwhile: the next one will be whole.
                let Some(object) = share.tree(&digest) else { return Ok(false) };
                objects.insert((id.as_bytes(), digest.as_bytes()), &object[..])?;
                new.extend(children(&object).unwrap_or_default());
            }
            if swept {
                let mut used = HashSet::new();
                let mut roots: Vec<Digest> = list.iter().map(|kept| kept.root).collect();
                while let Some(digest) = roots.pop() {
                    if used.insert(digest)
                        && let Some(object) = objects.get((id.as_bytes(), digest.as_bytes()))?
                    {
                        roots.extend(children(object.value()).unwrap_or_default());
                    }
                }
                let whole = (id.as_bytes(), &[0; 32])..=(id.as_bytes(), &[255; 32]);
                objects.retain_in(whole, |(_, digest), _| used.contains(&Digest::from_bytes(*digest)))?;
                *left = 0;
            }
            write.open_table(LISTS)?.insert(id.as_bytes(), &serde_json::to_vec(&list)?[..])?;
        }
        write.commit()?;
        Ok(swept)
    }

    /// The content of all files of a workspace's snapshots.
    pub fn blobs(&self, workspace: &WorkspaceId) -> Result<HashSet<Digest>> {
        let objects = self.database.begin_read()?.open_table(OBJECTS)?;
        let mut blobs = HashSet::new();
        for object in objects.range((workspace.as_bytes(), &[0; 32])..=(workspace.as_bytes(), &[255; 32]))? {
            let Ok(Page::Leaf(entries)) = decode(object?.1.value()) else { continue };
            blobs.extend(entries.iter().filter_map(|entry| match &entry.kind {
                Kind::File { content: Content::Blob(blob) | Content::Sparse { blob, .. }, .. } => Some(*blob),
                _ => None,
            }));
        }
        Ok(blobs)
    }

    /// Forgets all of a workspace.
    pub fn forget(&self, workspace: &WorkspaceId) -> Result<()> {
        let write = self.begin_write()?;
        write.open_table(LISTS)?.remove(workspace.as_bytes())?;
        let whole = (workspace.as_bytes(), &[0; 32])..=(workspace.as_bytes(), &[255; 32]);
        write.open_table(OBJECTS)?.retain_in(whole, |_, _| false)?;
        write.commit()?;
        Ok(())
    }
}

/// Which snapshots stay, oldest first: at most `most`, the newest among them.
fn thinned(list: &[Snapshot], most: usize) -> Vec<Snapshot> {
    let mut kept: Vec<Snapshot> = Vec::new();
    for snapshot in list.iter().rev() {
        let is_apart = kept.last().is_none_or(|last| snapshot.created.saturating_add(APART) <= last.created);
        if kept.is_empty() || (kept.len() < most && (kept.len() < NEWEST || is_apart)) {
            kept.push(*snapshot);
        }
    }
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_history_begins_anew() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("history.redb"), [7; 5000]).unwrap();
        let history = History::open(state.path()).unwrap();
        assert!(matches!(History::open(state.path()), Err(HistoryError::Database(_))), "it's in use");
        assert_eq!(history.list(&WorkspaceId::from_bytes([1; 16])).unwrap(), []);
    }

    #[test]
    fn the_newest_stay_and_of_the_others_one_a_minute() {
        let at = |seconds: u64| Snapshot {
            root: Digest::of(&seconds.to_le_bytes()),
            created: seconds * 1000,
            mode: 0,
            modified: (0, 0),
            files: 0,
            bytes: 0,
        };
        let seconds = |list: &[Snapshot]| list.iter().map(|kept| kept.created / 1000).collect::<Vec<_>>();
        let list: Vec<_> = (0..200).map(at).collect();
        assert_eq!(seconds(&thinned(&list, 64)), [12, 72, 132, 192, 193, 194, 195, 196, 197, 198, 199]);
        let days: Vec<_> = (0..100).map(|day| at(day * 86_400)).collect();
        assert_eq!(thinned(&days, 64).len(), 64);
        let once = thinned(&list, 64);
        assert_eq!(thinned(&once, 64), once);
        assert_eq!(seconds(&thinned(&list, 2)), [198, 199]);
        assert_eq!(seconds(&thinned(&list, 0)), [199], "the newest stays in any case");
    }
}
