//! What the index tells about content besides where it lies: for whom it came, for which paths, and which pins hold it.

use std::collections::HashMap;

use redb::{
    ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table,
    TableDefinition, WriteTransaction,
};

use super::{
    index::{Index, LARGE, PACKED, row_of},
    pack::record_length,
    pending::{Note, PathNote},
};
use crate::{
    blob::Blob,
    store::{PATHS_MAX, Pin, StoreError, Usage},
    types::{Digest, WorkspaceId},
};

/// Digest and workspace: content, and as a part of which workspace it came.
type NoteKey = (&'static [u8; 32], &'static [u8; 16]);
/// The keys of the workspace's paths for which it came, one after the other.
const NOTES: TableDefinition<'static, NoteKey, &[u8]> = TableDefinition::new("notes");

/// Workspace and path.
type PathRowKey = (&'static [u8; 16], &'static [u8; 16]);
/// Digest and size of what came for it last.
type PathRow = (&'static [u8; 32], u64);
const PATHS: TableDefinition<'static, PathRowKey, PathRow> = TableDefinition::new("paths");

/// Digest, workspace and path: content, and the pin that keeps it.
type PinKey = (&'static [u8; 32], &'static [u8; 16], &'static [u8; 16]);
/// The round in which the pin was last laid on it.
const PINS: TableDefinition<'static, PinKey, u64> = TableDefinition::new("pins");

const LEAST: &[u8; 16] = &[0; 16];
const GREATEST: &[u8; 16] = &[u8::MAX; 16];

impl Index {
    pub(super) fn is_noted(&self, (digest, workspace): &Note) -> Result<bool, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(NOTES)?;
            Ok(table.get((digest.as_bytes(), workspace.as_bytes()))?.is_some())
        };
        self.attempt("be read", read)
    }

    /// The blob that came last for a path.
    pub(super) fn at(&self, (workspace, path): &PathNote) -> Result<Option<Blob>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(PATHS)?;
            Ok(table.get((workspace.as_bytes(), path.as_bytes()))?.map(|row| {
                let (digest, size) = row.value();
                Blob { digest: Digest::from_bytes(*digest), size }
            }))
        };
        self.attempt("be read", read)
    }

    /// Lays a pin on content, whether it's held or not.
    pub(super) fn pin(&self, pin: &Pin, round: u64, digests: &[Digest]) -> Result<(), StoreError> {
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_quick_repair(true);
            {
                let mut pins = transaction.open_table(PINS)?;
                for digest in digests {
                    let key = (digest.as_bytes(), pin.workspace.as_bytes(), pin.path.as_bytes());
                    pins.insert(key, round)?;
                }
            }
            transaction.commit()?;
            Ok(())
        };
        self.attempt("be written", write)
    }

    /// Lifts a pin from content on which it wasn't laid since `round`.
    pub(super) fn lift(&self, pin: &Pin, round: u64) -> Result<(), StoreError> {
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_quick_repair(true);
            transaction.open_table(PINS)?.retain(|(_, workspace, path), last| {
                let ours = workspace == pin.workspace.as_bytes() && path == pin.path.as_bytes();
                !ours || last >= round
            })?;
            transaction.commit()?;
            Ok(())
        };
        self.attempt("be written", write)
    }

    /// Looks pins up, as they are now.
    pub(super) fn pins(&self) -> Result<Pins, StoreError> {
        let open = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(PINS)?;
            let any = !table.is_empty()?;
            Ok(Pins { table, any })
        };
        self.attempt("be read", open)
    }

    /// Calls `each` for content of which `workspace` alone is noted.
    pub(super) fn each_of_alone(
        &self,
        workspace: &WorkspaceId,
        mut each: impl FnMut(Digest),
    ) -> Result<(), StoreError> {
        let read = || -> Result<(), redb::Error> {
            let table = self.database.begin_read()?.open_table(NOTES)?;
            let mut last: Option<(Digest, bool)> = None;
            for row in table.iter()? {
                let (key, _) = row?;
                let (digest, noted) = key.value();
                let (digest, ours) = (Digest::from_bytes(*digest), noted == workspace.as_bytes());
                last = Some(match last {
                    Some((before, _)) if before == digest => (digest, false),
                    before => {
                        before.filter(|(_, alone)| *alone).into_iter().for_each(|(digest, _)| each(digest));
                        (digest, ours)
                    }
                });
            }
            last.filter(|(_, alone)| *alone).into_iter().for_each(|(digest, _)| each(digest));
            Ok(())
        };
        self.attempt("be read", read)
    }

    /// What content takes, in all rows.
    pub(super) fn usage(&self) -> Result<Usage, StoreError> {
        self.attempt("be read", || usage(&self.database.begin_read()?))
    }
}

/// The rows about pins.
pub(super) struct Pins {
    table: ReadOnlyTable<PinKey, u64>,
    any: bool,
}

impl Pins {
    pub(super) fn hold(&self, digest: &Digest) -> Result<bool, StoreError> {
        if !self.any {
            return Ok(false);
        }
        let digest = digest.as_bytes();
        let mut rows = self
            .table
            .range((digest, LEAST, LEAST)..=(digest, GREATEST, GREATEST))
            .map_err(|error| StoreError::Index { doing: "be read", why: error.to_string() })?;
        Ok(rows.next().is_some())
    }
}

fn usage(transaction: &ReadTransaction) -> Result<Usage, redb::Error> {
    let mut sizes: HashMap<Digest, u64> = HashMap::new();
    for row in transaction.open_table(PACKED)?.iter()? {
        let (key, value) = row?;
        *sizes.entry(Digest::from_bytes(*key.value().1)).or_default() += record_length(value.value().2);
    }
    for row in transaction.open_table(LARGE)?.iter()? {
        let (key, value) = row?;
        *sizes.entry(Digest::from_bytes(*key.value().0)).or_default() += row_of(value.value()).bytes();
    }
    let size = |digest: &Digest| sizes.get(digest).copied().unwrap_or(0);
    let mut usage = Usage::default();
    for row in transaction.open_table(NOTES)?.iter()? {
        let (key, _) = row?;
        let (digest, workspace) = key.value();
        let bytes = usage.workspaces.entry(WorkspaceId::from_bytes(*workspace)).or_default();
        *bytes += size(&Digest::from_bytes(*digest));
    }
    // The rows of one digest stand together, one for each pin.
    let mut last = None;
    for row in transaction.open_table(PINS)?.iter()? {
        let digest = Digest::from_bytes(*row?.0.value().0);
        if last.replace(digest) != Some(digest) {
            usage.pinned += size(&digest);
        }
    }
    Ok(usage)
}

/// The tables about what came for whom. There's a path only for content that is noted, and a note only for what is held.
pub(super) struct Notes<'a> {
    notes: Table<'a, NoteKey, &'static [u8]>,
    paths: Table<'a, PathRowKey, PathRow>,
}

impl<'a> Notes<'a> {
    /// Opens the tables, and makes those that aren't there: what was never opened for writing can't be read.
    pub(super) fn open(transaction: &'a WriteTransaction) -> Result<Self, redb::Error> {
        transaction.open_table(PINS)?;
        Ok(Self { notes: transaction.open_table(NOTES)?, paths: transaction.open_table(PATHS)? })
    }

    pub(super) fn add(&mut self, (digest, workspace): &Note) -> Result<(), redb::Error> {
        let key = (digest.as_bytes(), workspace.as_bytes());
        if self.notes.get(key)?.is_none() {
            self.notes.insert(key, [].as_slice())?;
        }
        Ok(())
    }

    pub(super) fn add_path(&mut self, (workspace, path): &PathNote, blob: &Blob) -> Result<(), redb::Error> {
        let key = (blob.digest.as_bytes(), workspace.as_bytes());
        let Some(mut known) = self.notes.get(key)?.map(|row| row.value().to_vec()) else { return Ok(()) };
        if !known.chunks(path.as_bytes().len()).any(|known| known == path.as_bytes()) {
            if known.len() == PATHS_MAX * path.as_bytes().len() {
                return Ok(());
            }
            known.extend_from_slice(path.as_bytes());
            self.notes.insert(key, known.as_slice())?;
        }
        self.paths.insert((workspace.as_bytes(), path.as_bytes()), (blob.digest.as_bytes(), blob.size))?;
        Ok(())
    }

    /// Removes all about the content.
    pub(super) fn forget(&mut self, digest: &Digest) -> Result<(), redb::Error> {
        let digest = digest.as_bytes();
        for row in self.notes.extract_from_if((digest, LEAST)..=(digest, GREATEST), |_, _| true)? {
            let (key, known) = row?;
            let (_, workspace) = key.value();
            for path in known.value().chunks_exact(16).filter_map(|path| path.try_into().ok()) {
                let key = (workspace, path);
                // Other content may have come for it since.
                if self.paths.get(key)?.is_some_and(|row| row.value().0 == digest) {
                    self.paths.remove(key)?;
                }
            }
        }
        Ok(())
    }
}
