//! The store on disk. docs/store-format.md describes its files.
//!
//! Invariants: the index never names what isn't on the disk, since data is synced before it is recorded and its
//! removal recorded before it is freed; nothing is returned that wasn't checked; no lock over more than one blob is
//! held while content is read.

mod ahead;
mod evict;
mod files;
mod index;
mod large;
mod notes;
mod open;
mod pack;
mod pending;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;

use self::{
    ahead::Ahead,
    evict::Space,
    files::{FileKey, Files, disk, lost},
    index::{Changes, Index},
    large::Large,
    pack::{Kind, PackedKey, Packer, Place, record_length},
    pending::{Batch, Pending},
};
use super::{Pin, PruneStore, ReadStore, StoreError, Usage, WriteStore, lock, whole_as_slice};
use crate::{
    blob::{Blob, Groups, VerifiedBlob, VerifiedSlice},
    types::{Digest, PathKey, WorkspaceId},
};

/// How long a put may wait for being recorded.
const FLUSH_DELAY: Duration = Duration::from_secs(1);

/// What the store may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimits {
    /// Bytes of content on the disk; the index, some 100 bytes a piece, comes on top.
    pub bytes: u64,
    /// Files that are kept open. Each thread in a call may have two more.
    pub descriptors: usize,
}

/// A store in a folder of its own.
///
/// What was put is visible at once and on the disk, recorded, at most a second later; dropping the store waits for it.
#[derive(Debug)]
pub struct DiskStore {
    disk: Arc<Disk>,
    flusher: Option<JoinHandle<()>>,
    /// Locked as long as the store is open: dropped last.
    _lock: File,
}

/// What the store and its flusher share.
#[derive(Debug)]
struct Disk {
    folder: PathBuf,
    limits: DiskLimits,
    files: Files,
    ahead: Ahead,
    index: Index,
    pending: Pending,
    space: Space,
    packer: Mutex<Packer>,
    large: Mutex<HashMap<Blob, Arc<Large>>>,
    /// Counts uses: the order of eviction.
    clock: AtomicU64,
    /// Whoever commits or evicts. Taken before any other lock, and never while a blob's gate is held.
    turn: Mutex<()>,
}

impl DiskStore {
    /// Opens the store in `folder`, or makes one there. A lost or unreadable index is rebuilt from the files.
    ///
    /// [`StoreError::InUse`] when it is open already, in this process or another.
    pub fn open(folder: &Path, limits: DiskLimits) -> Result<Self, StoreError> {
        Self::open_with_delay(folder, limits, FLUSH_DELAY)
    }

    fn open_with_delay(folder: &Path, limits: DiskLimits, delay: Duration) -> Result<Self, StoreError> {
        let (disk, lock) = Disk::open(folder, limits)?;
        // The limit may have been higher before.
        disk.evict(&self::lock(&disk.turn), limits.bytes)?;
        let disk = Arc::new(disk);
        let shared = disk.clone();
        let flusher = thread::Builder::new()
            .name("store-flusher".into())
            .spawn(move || shared.flush_when_due(delay))
            .map_err(files::disk("start a thread"))?;
        Ok(Self { disk, flusher: Some(flusher), _lock: lock })
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.disk.pending.stop();
        if let Some(flusher) = self.flusher.take()
            && flusher.join().is_err()
        {
            tracing::error!("the store's flusher panicked");
        }
        if let Err(error) = self.disk.flush() {
            tracing::warn!(%error, "closing the store: what was put last will be fetched again");
        }
    }
}

impl Disk {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    fn flush_when_due(&self, delay: Duration) {
        let mut failing = false;
        while self.pending.wait(delay) {
            match self.flush() {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    tracing::warn!(%error, "recording what was put; trying again");
                    failing = true;
                }
                Err(_) => {}
            }
        }
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.commit(&lock(&self.turn))
    }

    /// Brings what is pending to the disk, then into the index.
    fn commit(&self, _turn: &MutexGuard<'_, ()>) -> Result<(), StoreError> {
        let batch = self.pending.begin();
        let recorded = if batch.is_empty() { Ok(()) } else { self.record(&batch) };
        self.pending.end(batch, recorded.is_ok());
        recorded
    }

    fn record(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut folders = HashSet::new();
        let packs: HashSet<u32> = batch.packed.values().flatten().map(|(place, _)| place.pack).collect();
        for number in packs {
            folders.insert(self.files.packs());
            match self.files.read(FileKey::Pack(number)).and_then(|file| file.sync_data()) {
                // Someone deleted it: reads will find the pieces damaged, and drop them.
                Err(error) if lost(&error) => {}
                other => other.map_err(disk(format!("write pack {number}")))?,
            }
        }
        let mut large = Vec::with_capacity(batch.large.len());
        for (blob, state) in &batch.large {
            let (row, written) = self.settle(state)?;
            if written {
                folders.extend([self.files.blobs(), self.files.blob_folder(blob)]);
            }
            large.push((*blob, row));
        }
        for folder in folders {
            let synced = File::open(&folder).and_then(|folder| folder.sync_all());
            synced.map_err(disk(format!("write {}", folder.display())))?;
        }
        let packed: Vec<_> = batch.packed.iter().map(|(key, change)| (*key, *change)).collect();
        let touched: Vec<_> = batch.touched.iter().map(|(key, time)| (*key, *time)).collect();
        let notes: Vec<_> = batch.notes.iter().copied().collect();
        let paths: Vec<_> = batch.paths.iter().map(|(path, blob)| (*path, *blob)).collect();
        self.index.commit(&Changes {
            packed: &packed,
            touched: &touched,
            large: &large,
            notes: &notes,
            paths: &paths,
            clock: self.clock.load(Ordering::Relaxed),
        })
    }

    /// Where a packed piece lies.
    fn place(&self, key: &PackedKey) -> Result<Option<Place>, StoreError> {
        match self.pending.place(key) {
            Some(known) => Ok(known),
            None => self.index.packed(key),
        }
    }

    /// A packed piece's content. It is checked at every read: at BLAKE3's speed that costs less than remembering.
    fn packed(&self, key: PackedKey) -> Result<Option<Vec<u8>>, StoreError> {
        let mut place = self.place(&key)?;
        while let Some(tried) = place {
            match tried.read(&self.files, &self.ahead, &key.digest) {
                Ok(Some(bytes)) => {
                    self.pending.touch(key, self.tick());
                    return Ok(Some(bytes));
                }
                Err(error) if !lost(&error) => {
                    return Err(disk(format!("read piece {}", key.digest.short()))(error));
                }
                Ok(None) | Err(_) => {}
            }
            // It may have been evicted, and even put again, while it was read.
            place = self.place(&key)?;
            if place == Some(tried) {
                self.files.forget(FileKey::Pack(tried.pack));
                self.pending.set_place(key, None);
                return Err(StoreError::Corrupt(key.digest));
            }
        }
        Ok(None)
    }

    /// Has the system begin to read a piece.
    fn bring_packed(&self, key: PackedKey) -> Result<(), StoreError> {
        let Some(place) = self.place(&key)? else { return Ok(()) };
        let file = self.files.read(FileKey::Pack(place.pack));
        let file = file.map_err(disk(format!("read piece {}", key.digest.short())))?;
        ahead::bring(&file, place.offset..place.end());
        Ok(())
    }

    fn put_packed(&self, key: PackedKey, content: &[u8]) -> Result<(), StoreError> {
        if self.place(&key)?.is_some() {
            return Ok(());
        }
        let bytes = record_length(u32::try_from(content.len()).map_err(|_| StoreError::Full)?);
        let _room = self.make_room(bytes)?;
        let mut packer = lock(&self.packer);
        // Another thread may have been quicker.
        if let Some(Some(_)) = self.pending.place(&key) {
            return Ok(());
        }
        let written = packer.append(&self.files, key, content);
        self.space.set_pack(packer.position().0, packer.allocated());
        let place = written.map_err(disk(format!("write piece {}", key.digest.short())))?;
        // Before the packer is given back: see `free_packs`.
        self.pending.set_place(key, Some((place, self.tick())));
        Ok(())
    }
}

impl ReadStore for DiskStore {
    fn tree(&self, digest: &Digest) -> Result<Option<Bytes>, StoreError> {
        Ok(self.disk.packed(PackedKey { kind: Kind::Tree, digest: *digest })?.map(Bytes::from))
    }

    fn held(&self, blob: &Blob) -> Result<Groups, StoreError> {
        if !blob.is_whole() {
            return self.disk.held_large(blob);
        }
        let place = self.disk.place(&PackedKey { kind: Kind::Blob, digest: blob.digest })?;
        let held = place.is_some_and(|place| u64::from(place.length) == blob.size);
        Ok(if held { Groups::from(0..blob.groups()) } else { Groups::empty() })
    }

    fn read_at(&self, blob: &Blob, offset: u64, buffer: &mut [u8]) -> Result<bool, StoreError> {
        if buffer.is_empty() {
            return Ok(true);
        }
        let Some(end) = offset.checked_add(buffer.len() as u64).filter(|end| *end <= blob.size) else {
            return Ok(false);
        };
        if !blob.is_whole() {
            return self.disk.read_large(blob, offset, buffer);
        }
        match self.disk.packed(PackedKey { kind: Kind::Blob, digest: blob.digest })? {
            Some(bytes) if bytes.len() as u64 == blob.size => {
                buffer.copy_from_slice(&bytes[offset as usize..end as usize]);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn will_read(&self, blob: &Blob, groups: &Groups) {
        let brought = match blob.is_whole() {
            true => self.disk.bring_packed(PackedKey { kind: Kind::Blob, digest: blob.digest }),
            false => self.disk.bring_large(blob, groups),
        };
        if let Err(error) = brought {
            tracing::debug!(%error, "stored content can't be brought into memory");
        }
    }

    fn slice(&self, blob: &Blob, groups: Range<u64>) -> Result<Option<Vec<u8>>, StoreError> {
        self.disk.slice_large(blob, groups)
    }

    fn belongs(&self, workspace: &WorkspaceId, digest: &Digest) -> Result<bool, StoreError> {
        let note = (*digest, *workspace);
        Ok(self.disk.pending.is_noted(&note) || self.disk.index.is_noted(&note)?)
    }

    fn at(&self, workspace: &WorkspaceId, path: PathKey) -> Result<Option<Blob>, StoreError> {
        match self.disk.pending.at(&(*workspace, path)) {
            Some(blob) => Ok(Some(blob)),
            None => self.disk.index.at(&(*workspace, path)),
        }
    }
}

impl WriteStore for DiskStore {
    fn put_tree(&self, digest: Digest, object: &[u8]) -> Result<(), StoreError> {
        if Digest::of(object) != digest {
            return Err(StoreError::Corrupt(digest));
        }
        self.disk.put_packed(PackedKey { kind: Kind::Tree, digest }, object)
    }

    fn put_blob(&self, blob: &VerifiedBlob) -> Result<(), StoreError> {
        let named = Blob { digest: blob.digest(), size: blob.bytes().len() as u64 };
        if named.is_whole() {
            self.disk.put_packed(PackedKey { kind: Kind::Blob, digest: named.digest }, blob.bytes())
        } else {
            self.disk.put_large(&whole_as_slice(blob)?)
        }
    }

    fn put_slice(&self, slice: &VerifiedSlice) -> Result<(), StoreError> {
        self.disk.put_large(slice)
    }

    fn note(&self, workspace: &WorkspaceId, digest: &Digest) -> Result<(), StoreError> {
        self.disk.pending.note((*digest, *workspace), None);
        Ok(())
    }

    fn note_at(&self, workspace: &WorkspaceId, path: PathKey, blob: &Blob) -> Result<(), StoreError> {
        self.disk.pending.note((blob.digest, *workspace), Some((path, *blob)));
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.disk.flush()
    }
}

impl PruneStore for DiskStore {
    fn used(&self) -> u64 {
        self.disk.space.used()
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        self.disk.flush()?;
        self.disk.index.usage()
    }

    fn pin(&self, pin: &Pin, round: u64, digests: &[Digest]) -> Result<(), StoreError> {
        // In turn, so that an eviction under way doesn't take what is pinned now.
        let _turn = lock(&self.disk.turn);
        self.disk.index.pin(pin, round, digests)
    }

    fn lift(&self, pin: &Pin, round: u64) -> Result<(), StoreError> {
        self.disk.index.lift(pin, round)?;
        self.disk.space.note_lifted();
        Ok(())
    }

    fn clear(&self, workspace: &WorkspaceId) -> Result<(), StoreError> {
        self.disk.clear(&lock(&self.disk.turn), workspace)
    }

    fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        self.disk.remove_all(&lock(&self.disk.turn), *digest)
    }

    fn evict_to(&self, bytes: u64) -> Result<(), StoreError> {
        self.disk.evict(&lock(&self.disk.turn), bytes)
    }
}
