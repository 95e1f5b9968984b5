//! The index: where each piece lies, and which groups of large blobs are held.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{
    notes::Notes,
    pack::{Kind, PackedKey, Place},
    pending::{Note, PathNote},
};
use crate::{
    blob::{Blob, GROUP, Groups, count, ranges},
    store::StoreError,
    types::Digest,
};

/// Kind and digest.
pub(super) type PackedRowKey = (u8, &'static [u8; 32]);
/// Pack, offset, length, last use.
pub(super) type PackedRow = (u32, u64, u32, u64);
pub(super) const PACKED: TableDefinition<'static, PackedRowKey, PackedRow> = TableDefinition::new("packed");

/// Digest and size.
pub(super) type LargeRowKey = (&'static [u8; 32], u64);
/// Last use, and the ranges of held groups.
pub(super) type LargeRowValue = (u64, Vec<(u64, u64)>);
pub(super) const LARGE: TableDefinition<'static, LargeRowKey, LargeRowValue> = TableDefinition::new("large");

/// The layout's version, and the clock of uses.
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");

const VERSION: u64 = 2;

/// The version without notes, paths and pins, of which nothing else differs.
const VERSION_WITHOUT_NOTES: u64 = 1;

/// The database's own cache, in bytes: the kernel caches its file anyway.
const CACHE: usize = 16 << 20;

#[derive(Debug)]
pub(super) struct Index {
    pub(super) database: Database,
    path: PathBuf,
}

/// A row about a large blob.
#[derive(Debug, Clone)]
pub(super) struct LargeRow {
    pub(super) last_use: u64,
    pub(super) held: Groups,
}

/// What a commit changes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Changes<'a> {
    /// New places with their last use, or none for pieces that are no longer held.
    pub(super) packed: &'a [(PackedKey, Option<(Place, u64)>)],
    /// New last uses of pieces that stay where they are.
    pub(super) touched: &'a [(PackedKey, u64)],
    /// New rows; one that holds nothing is deleted.
    pub(super) large: &'a [(Blob, LargeRow)],
    /// New notes about content; those about what isn't held are left out.
    pub(super) notes: &'a [Note],
    pub(super) paths: &'a [(PathNote, Blob)],
    pub(super) clock: u64,
}

impl LargeRow {
    /// Bytes of the groups that are held, about.
    pub(super) fn bytes(&self) -> u64 {
        count(&self.held) * GROUP
    }
}

impl Index {
    /// Opens the index; none when it is missing, of another version or unreadable.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, StoreError> {
        if !path.exists() {
            return Ok(None);
        }
        let open = || -> Result<_, redb::Error> {
            let database = Builder::new().set_cache_size(CACHE).open(path)?;
            let index = Self { database, path: path.to_owned() };
            match index.meta("version")? {
                Some(VERSION) => Ok(Some(index)),
                Some(VERSION_WITHOUT_NOTES) => {
                    index.mark_whole()?;
                    Ok(Some(index))
                }
                _ => Ok(None),
            }
        };
        match catch(open) {
            Ok(index) => Ok(index),
            Err(error) if is_damage(&error) => Ok(None),
            Err(error) => Err(failed("be opened")(error)),
        }
    }

    /// Makes an empty index. Its version is only written by [`Index::finish`], so that one that was being rebuilt is rebuilt anew.
    pub(super) fn create(path: &Path) -> Result<Self, StoreError> {
        let created = Builder::new().set_cache_size(CACHE).create(path).map_err(redb::Error::from);
        let index = Self { database: created.map_err(failed("be made"))?, path: path.to_owned() };
        index.commit(&Changes::default())?;
        Ok(index)
    }

    /// Marks a new index as holding all there is.
    pub(super) fn finish(&self) -> Result<(), StoreError> {
        self.attempt("be made", || self.mark_whole())
    }

    fn mark_whole(&self) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_quick_repair(true);
        Notes::open(&transaction)?;
        transaction.open_table(META)?.insert("version", VERSION)?;
        transaction.commit()?;
        Ok(())
    }

    /// Does something with the database. When that shows the file to be damaged, the file is deleted (it goes on
    /// existing while it is open), so that the next start rebuilds it.
    pub(super) fn attempt<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce() -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        catch(work).map_err(|error| {
            if is_damage(&error) && std::fs::remove_file(&self.path).is_ok() {
                tracing::error!(%error, "the store's index is damaged and will be rebuilt at the next start");
            }
            failed(doing)(error)
        })
    }

    fn meta(&self, name: &str) -> Result<Option<u64>, redb::Error> {
        match self.database.begin_read()?.open_table(META) {
            Ok(table) => Ok(table.get(name)?.map(|value| value.value())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The clock of uses at the last commit.
    pub(super) fn clock(&self) -> Result<u64, StoreError> {
        Ok(self.attempt("be read", || self.meta("clock"))?.unwrap_or(0))
    }

    pub(super) fn packed(&self, key: &PackedKey) -> Result<Option<Place>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(PACKED)?;
            Ok(table.get((key.kind as u8, key.digest.as_bytes()))?.map(|row| {
                let (pack, offset, length, _) = row.value();
                Place { pack, offset, length }
            }))
        };
        self.attempt("be read", read)
    }

    pub(super) fn large(&self, blob: &Blob) -> Result<Option<LargeRow>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(LARGE)?;
            Ok(table.get((blob.digest.as_bytes(), blob.size))?.map(|row| row_of(row.value())))
        };
        self.attempt("be read", read)
    }

    /// The blobs of this digest, true to it or not, of which something is held.
    pub(super) fn sizes(&self, digest: &Digest) -> Result<Vec<Blob>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(LARGE)?;
            let rows = table.range((digest.as_bytes(), 0)..=(digest.as_bytes(), u64::MAX))?;
            rows.map(|row| Ok(Blob { digest: *digest, size: row?.0.value().1 })).collect()
        };
        self.attempt("be read", read)
    }

    /// Calls `each` for every packed piece.
    pub(super) fn each_packed(&self, mut each: impl FnMut(PackedKey, Place, u64)) -> Result<(), StoreError> {
        let read = || -> Result<(), redb::Error> {
            for row in self.database.begin_read()?.open_table(PACKED)?.iter()? {
                let (key, value) = row?;
                let (kind, digest) = key.value();
                let (pack, offset, length, last_use) = value.value();
                if let Some(key) = PackedKey::parse(kind, Digest::from_bytes(*digest)) {
                    each(key, Place { pack, offset, length }, last_use);
                }
            }
            Ok(())
        };
        self.attempt("be read", read)
    }

    /// Calls `each` for every large blob.
    pub(super) fn each_large(&self, mut each: impl FnMut(Blob, LargeRow)) -> Result<(), StoreError> {
        let read = || -> Result<(), redb::Error> {
            for row in self.database.begin_read()?.open_table(LARGE)?.iter()? {
                let (key, value) = row?;
                let (digest, size) = key.value();
                each(Blob { digest: Digest::from_bytes(*digest), size }, row_of(value.value()));
            }
            Ok(())
        };
        self.attempt("be read", read)
    }

    /// Records the changes, all or none, and returns when they are on the disk.
    pub(super) fn commit(&self, changes: &Changes<'_>) -> Result<(), StoreError> {
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            // Else the next start after a kill would read the whole file.
            transaction.set_quick_repair(true);
            {
                let mut packed = transaction.open_table(PACKED)?;
                let mut notes = Notes::open(&transaction)?;
                for (key, change) in changes.packed {
                    let row = (key.kind as u8, key.digest.as_bytes());
                    match change {
                        Some((place, last_use)) => {
                            packed.insert(row, (place.pack, place.offset, place.length, *last_use))?;
                        }
                        None => {
                            packed.remove(row)?;
                            notes.forget(&key.digest)?;
                        }
                    }
                }
                for (key, last_use) in changes.touched {
                    let row = (key.kind as u8, key.digest.as_bytes());
                    let found = packed.get(row)?.map(|found| found.value());
                    if let Some((pack, offset, length, _)) = found {
                        packed.insert(row, (pack, offset, length, *last_use))?;
                    }
                }
                let mut large = transaction.open_table(LARGE)?;
                for (blob, row) in changes.large {
                    let key = (blob.digest.as_bytes(), blob.size);
                    if row.held.is_empty() {
                        large.remove(key)?;
                        notes.forget(&blob.digest)?;
                    } else {
                        let bounds = ranges(&row.held).map(|range| (range.start, range.end));
                        large.insert(key, (row.last_use, bounds.collect::<Vec<_>>()))?;
                    }
                }
                for note in changes.notes {
                    let digest = note.0.as_bytes();
                    // It may have been evicted since.
                    let held = packed.get((Kind::Tree as u8, digest))?.is_some()
                        || packed.get((Kind::Blob as u8, digest))?.is_some()
                        || large.range((digest, 0)..=(digest, u64::MAX))?.next().is_some();
                    if held {
                        notes.add(note)?;
                    }
                }
                for (path, blob) in changes.paths {
                    notes.add_path(path, blob)?;
                }
                transaction.open_table(META)?.insert("clock", changes.clock)?;
            }
            transaction.commit()?;
            Ok(())
        };
        self.attempt("be written", write)
    }
}

/// redb panics at pages that it can't parse.
fn catch<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    // What a panic may leave half done is the database's, which refuses further work then, and is rebuilt.
    let caught = catch_unwind(AssertUnwindSafe(work));
    caught.unwrap_or_else(|_| Err(redb::Error::Corrupted("a page can't be parsed".into())))
}

pub(super) fn row_of((last_use, bounds): (u64, Vec<(u64, u64)>)) -> LargeRow {
    let mut held = Groups::empty();
    for (start, end) in bounds.into_iter().filter(|(start, end)| start < end) {
        held |= Groups::from(start..end);
    }
    LargeRow { last_use, held }
}

/// Whether the file's content is to blame, rather than the disk or the process.
fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Io(error) => {
            matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof)
        }
        redb::Error::Corrupted(_)
        | redb::Error::RepairAborted
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. } => true,
        _ => false,
    }
}

fn failed(doing: &'static str) -> impl FnOnce(redb::Error) -> StoreError {
    move |error| match error {
        redb::Error::Io(source)
            if matches!(
                source.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            ) =>
        {
            StoreError::Full
        }
        error => StoreError::Index { doing, why: error.to_string() },
    }
}
