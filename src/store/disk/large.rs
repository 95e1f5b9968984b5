//! Large blobs: a sparse file each, filled group by group, with its outboard beside it.

use std::{
    fs::{File, Permissions},
    io,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use blake3::hazmat::HasherExt;

use super::{
    Disk, ahead,
    files::{FileKey, allocated, disk, lost},
    index::LargeRow,
};
use crate::{
    blob::{Blob, GROUP, Groups, Parent, SliceError, VerifiedSlice, encode_slice, outboard_length, ranges},
    store::{StoreError, lock},
};

/// A large blob of which something is or was held since the store was opened.
///
/// One lives in the table as long as the store, also when the blob is evicted: so there's never a second one with an
/// older idea of what is held.
#[derive(Debug)]
pub(super) struct Large {
    blob: Blob,
    /// Shared by whoever reads or writes the files, exclusive for whoever deletes them.
    gate: RwLock<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    held: Groups,
    /// Groups that were checked since the store was opened.
    verified: Groups,
    /// When the complete file was last changed, as of the checks: a change by anyone makes them void.
    changed: Option<(i64, i64)>,
    last_use: u64,
    /// Bytes on the disk that are counted for it.
    allocated: u64,
    /// Whether something was written that isn't known to be on the disk.
    unsynced: bool,
}

enum Outcome<T> {
    Read(T),
    Absent,
    Damaged(Groups),
}

impl Large {
    fn new(blob: Blob, row: LargeRow, allocated: u64) -> Self {
        let LargeRow { last_use, held } = row;
        let state =
            State { held, verified: Groups::empty(), changed: None, last_use, allocated, unsynced: false };
        Self { blob, gate: RwLock::new(()), state: Mutex::new(state) }
    }

    pub(super) fn blob(&self) -> Blob {
        self.blob
    }

    fn keys(&self) -> [FileKey; 2] {
        [FileKey::Content(self.blob), FileKey::Outboard(self.blob)]
    }
}

impl State {
    fn is_complete(&self, blob: &Blob) -> bool {
        self.held.is_superset(&Groups::from(0..blob.groups()))
    }

    fn lose(&mut self, groups: &Groups) {
        self.held -= groups.clone();
        self.verified -= groups.clone();
    }
}

impl Disk {
    /// What is known about the blob, if something of it is held.
    fn large(&self, blob: &Blob) -> Result<Option<Arc<Large>>, StoreError> {
        if let Some(large) = lock(&self.large).get(blob) {
            return Ok(Some(large.clone()));
        }
        let row = self.index.large(blob)?;
        Ok(row.map(|row| self.remember(blob, row)))
    }

    /// Puts a row that was read into the table, unless one is there, which is newer.
    fn remember(&self, blob: &Blob, row: LargeRow) -> Arc<Large> {
        let allocated = self.measure(blob);
        let mut table = lock(&self.large);
        table.entry(*blob).or_insert_with(|| Arc::new(Large::new(*blob, row, allocated))).clone()
    }

    fn large_or_new(&self, blob: &Blob) -> Result<Arc<Large>, StoreError> {
        Ok(match self.large(blob)? {
            Some(large) => large,
            None => self.remember(blob, LargeRow { last_use: 0, held: Groups::empty() }),
        })
    }

    /// Bytes that the blob's files take on the disk.
    fn measure(&self, blob: &Blob) -> u64 {
        let keys = [FileKey::Content(*blob), FileKey::Outboard(*blob)];
        keys.iter()
            .filter_map(|key| self.files.path(*key).metadata().ok())
            .map(|found| allocated(&found))
            .sum()
    }

    fn count(&self, large: &Large, state: &mut State) {
        let measured = self.measure(&large.blob);
        self.space.change(state.allocated, measured);
        state.allocated = measured;
    }

    pub(super) fn held_large(&self, blob: &Blob) -> Result<Groups, StoreError> {
        Ok(self.large(blob)?.map_or_else(Groups::empty, |large| lock(&large.state).held.clone()))
    }

    pub(super) fn read_large(&self, blob: &Blob, offset: u64, buffer: &mut [u8]) -> Result<bool, StoreError> {
        let Some(large) = self.large(blob)? else { return Ok(false) };
        let read = |large: &Large| self.read_checked(large, offset, buffer);
        Ok(self.tell(&large, read)?.is_some())
    }

    /// The slice of some groups, if they are held. The encoding checks them, so they needn't have been checked.
    pub(super) fn slice_large(&self, blob: &Blob, groups: Range<u64>) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(large) = self.large(blob)? else { return Ok(None) };
        self.tell(&large, |large| self.encode_checked(large, groups))
    }

    /// The gate is held.
    fn encode_checked(&self, large: &Large, groups: Range<u64>) -> io::Result<Outcome<Vec<u8>>> {
        let blob = large.blob;
        let wanted = Groups::from(groups.clone());
        if !lock(&large.state).held.is_superset(&wanted) {
            return Ok(Outcome::Absent);
        }
        let [content, outboard] = match self.open_both(large) {
            Err(error) if lost(&error) => return Ok(Outcome::Damaged(Groups::from(0..blob.groups()))),
            other => other?,
        };
        match encode_slice(blob, groups, &*content, &*outboard) {
            Ok(encoded) => {
                lock(&large.state).last_use = self.tick();
                Ok(Outcome::Read(encoded))
            }
            Err(SliceError::Corrupt(_)) => Ok(Outcome::Damaged(wanted)),
            Err(SliceError::Range(_)) => Ok(Outcome::Absent),
            Err(SliceError::Read(_, error)) if lost(&error) => Ok(Outcome::Damaged(wanted)),
            Err(SliceError::Read(_, error)) => Err(error),
        }
    }

    /// Reads something of a blob in the way of `read`, and drops what turns out damaged.
    fn tell<T>(
        &self,
        large: &Arc<Large>,
        read: impl FnOnce(&Large) -> io::Result<Outcome<T>>,
    ) -> Result<Option<T>, StoreError> {
        let blob = &large.blob;
        let outcome = {
            let _gate = large.gate.read().unwrap_or_else(PoisonError::into_inner);
            read(large).map_err(disk(format!("read blob {}", blob.digest.short())))?
        };
        match outcome {
            Outcome::Read(found) => {
                self.pending.touch_large(large);
                Ok(Some(found))
            }
            Outcome::Absent => Ok(None),
            Outcome::Damaged(groups) => {
                large.keys().into_iter().for_each(|key| self.files.forget(key));
                let mut state = lock(&large.state);
                state.lose(&groups);
                let nothing_left = state.held.is_empty();
                drop(state);
                if nothing_left {
                    self.remove_large(blob)?;
                } else {
                    self.pending.change_large(large, 0);
                }
                Err(StoreError::Corrupt(blob.digest))
            }
        }
    }

    /// Reads, after checking the groups that weren't checked yet. The gate is held.
    fn read_checked(&self, large: &Large, offset: u64, buffer: &mut [u8]) -> io::Result<Outcome<()>> {
        let blob = &large.blob;
        let touched = Groups::from(blob.touched(offset, offset + buffer.len() as u64));
        if !lock(&large.state).held.is_superset(&touched) {
            return Ok(Outcome::Absent);
        }
        let [content, outboard] = match self.open_both(large) {
            Err(error) if lost(&error) => return Ok(Outcome::Damaged(Groups::from(0..blob.groups()))),
            other => other?,
        };
        let unchecked = {
            let found = content.metadata()?;
            let mut state = lock(&large.state);
            // An incomplete file is changed by the store itself all the time.
            if state.is_complete(blob) {
                let changed = Some((found.ctime(), found.ctime_nsec()));
                if state.changed != changed {
                    state.changed = changed;
                    state.verified = Groups::empty();
                }
            }
            state.last_use = self.tick();
            touched.difference::<[u64; 2]>(&state.verified)
        };
        ahead::around(&content, blob, offset);
        let mut damaged = Groups::empty();
        for group in ranges(&unchecked).flatten() {
            match is_intact(blob, group, &content, &outboard) {
                Ok(true) => {}
                Ok(false) => damaged |= Groups::from(group..group + 1),
                Err(error) if lost(&error) => damaged |= Groups::from(group..group + 1),
                Err(error) => return Err(error),
            }
        }
        if !damaged.is_empty() {
            return Ok(Outcome::Damaged(damaged));
        }
        lock(&large.state).verified |= unchecked;
        match content.read_exact_at(buffer, offset) {
            Err(error) if lost(&error) => Ok(Outcome::Damaged(touched)),
            other => other.map(Outcome::Read),
        }
    }

    fn open_both(&self, large: &Large) -> io::Result<[Arc<File>; 2]> {
        let [content, outboard] = large.keys();
        Ok([self.files.read(content)?, self.files.read(outboard)?])
    }

    /// Has the system begin to read some groups, as far as they're held.
    pub(super) fn bring_large(&self, blob: &Blob, groups: &Groups) -> Result<(), StoreError> {
        let Some(large) = self.large(blob)? else { return Ok(()) };
        let failed = disk(format!("read blob {}", blob.digest.short()));
        let [content, outboard] = self.open_both(&large).map_err(failed)?;
        ahead::bring(&outboard, 0..outboard_length(blob.groups()));
        // What isn't held is a hole, which costs nothing.
        ranges(groups).for_each(|range| ahead::bring(&content, range.start * GROUP..range.end * GROUP));
        Ok(())
    }

    pub(super) fn put_large(&self, slice: &VerifiedSlice) -> Result<(), StoreError> {
        let blob = slice.blob();
        let large = self.large_or_new(&blob)?;
        let groups = Groups::from(slice.groups());
        if lock(&large.state).held.is_superset(&groups) {
            return Ok(());
        }
        let content: u64 = slice.leaves().iter().map(|leaf| leaf.len() as u64).sum();
        // Pages of the outboard are shared by many groups; the two files' own blocks come on top.
        let _room = self.make_room(content + slice.parents().len() as u64 * 64 + (32 << 10))?;
        let (written, nothing_held) = {
            let _gate = large.gate.read().unwrap_or_else(PoisonError::into_inner);
            let written = self.write_groups(&large, slice, &groups);
            let mut state = lock(&large.state);
            self.count(&large, &mut state);
            if written.is_ok() {
                state.held |= groups.clone();
                state.verified |= groups;
                state.unsynced = true;
                state.last_use = self.tick();
                if state.is_complete(&blob) {
                    // From here on nothing writes to it. That this fails on odd filesystems does no harm.
                    let path = self.files.path(FileKey::Content(blob));
                    let _ = std::fs::set_permissions(path, Permissions::from_mode(0o400));
                }
            }
            (written, state.held.is_empty())
        };
        if let Err(error) = written {
            // Files of which nothing is held would never be evicted.
            if nothing_held {
                self.remove_large(&blob)?;
            }
            return Err(disk(format!("write blob {}", blob.digest.short()))(error));
        }
        self.pending.change_large(&large, content);
        Ok(())
    }

    fn write_groups(&self, large: &Large, slice: &VerifiedSlice, groups: &Groups) -> io::Result<()> {
        let [content, outboard] = large.keys();
        let blob = large.blob;
        let missing = groups.difference::<[u64; 2]>(&lock(&large.state).held);
        let file = self.files.write(content)?;
        if file.metadata()?.len() != blob.size {
            file.set_len(blob.size)?;
        }
        for (group, leaf) in slice.groups().zip(slice.leaves()) {
            if missing.contains(&group) {
                file.write_all_at(leaf, group * GROUP)?;
            }
        }
        let file = self.files.write(outboard)?;
        if file.metadata()?.len() != outboard_length(blob.size) {
            file.set_len(outboard_length(blob.size))?;
        }
        write_parents(&file, slice.parents())
    }

    /// Brings the blob's files to the disk, and says what may be recorded about it then, and whether files were written.
    pub(super) fn settle(&self, large: &Large) -> Result<(LargeRow, bool), StoreError> {
        let _gate = large.gate.read().unwrap_or_else(PoisonError::into_inner);
        let (row, unsynced) = {
            let mut state = lock(&large.state);
            let row = LargeRow { last_use: state.last_use, held: state.held.clone() };
            (row, std::mem::take(&mut state.unsynced))
        };
        if !unsynced || row.held.is_empty() {
            return Ok((row, false));
        }
        let synced =
            self.open_both(large).and_then(|files| files.iter().try_for_each(|file| file.sync_data()));
        match synced {
            Ok(()) => Ok((row, true)),
            // Someone deleted the file: nothing of it is held.
            Err(error) if lost(&error) => {
                lock(&large.state).lose(&row.held);
                Ok((LargeRow { held: Groups::empty(), ..row }, false))
            }
            Err(error) => {
                lock(&large.state).unsynced = true;
                Err(disk(format!("write blob {}", large.blob.digest.short()))(error))
            }
        }
    }

    /// Forgets the blob and frees its space. The index follows with the next commit; a crash before it leaves a row
    /// without a file, which is dropped when the store is opened.
    pub(super) fn remove_large(&self, blob: &Blob) -> Result<(), StoreError> {
        let Some(large) = self.large(blob)? else { return Ok(()) };
        let _gate = large.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut state = lock(&large.state);
        state.held = Groups::empty();
        state.verified = Groups::empty();
        state.changed = None;
        state.unsynced = false;
        self.pending.change_large(&large, 0);
        let deleted = large.keys().into_iter().try_for_each(|key| self.files.delete(key));
        self.count(&large, &mut state);
        deleted.map_err(disk(format!("delete blob {}", blob.digest.short())))
    }
}

/// Whether a group's content fits its hash in the outboard.
fn is_intact(blob: &Blob, group: u64, content: &File, outboard: &File) -> io::Result<bool> {
    let start = group * GROUP;
    let mut buffer = [0; GROUP as usize];
    let bytes = &mut buffer[..GROUP.min(blob.size - start) as usize];
    content.read_exact_at(bytes, start)?;
    let mut expected = [0; 32];
    outboard.read_exact_at(&mut expected, hash_offset(blob.groups(), group))?;
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(start).update(bytes);
    Ok(hasher.finalize_non_root() == expected)
}

/// Where in a pre-order outboard over `groups` groups, at least two, the hash of a group stands.
fn hash_offset(groups: u64, mut group: u64) -> u64 {
    let (mut node, mut leaves) = (0, groups);
    loop {
        // BLAKE3's shape: the left half is the largest power of two that leaves something for the right.
        let split = leaves.next_power_of_two() / 2;
        let right = group >= split;
        // The left subtree's pairs follow the node's own, the right one's come after them.
        let (side, below) = if right { (32, leaves - split) } else { (0, split) };
        if below == 1 {
            return node * 64 + side;
        }
        node += if right { split } else { 1 };
        group -= if right { split } else { 0 };
        leaves = below;
    }
}

/// Writes pairs of hashes to their places, those that lie side by side at once.
fn write_parents(file: &File, parents: &[Parent]) -> io::Result<()> {
    let mut run = Vec::new();
    let mut start = 0;
    for parent in parents {
        if parent.offset != start + run.len() as u64 {
            file.write_all_at(&run, start)?;
            run.clear();
        }
        if run.is_empty() {
            start = parent.offset;
        }
        run.extend_from_slice(&parent.pair);
    }
    file.write_all_at(&run, start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::hash_bytes;

    #[test]
    fn every_group_finds_its_hash() {
        for groups in [17u64, 18, 31, 32, 33, 61] {
            let bytes: Vec<u8> =
                (0..groups * GROUP - 5).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let hashed = hash_bytes(&bytes);
            let blob = Blob { digest: hashed.digest, size: bytes.len() as u64 };
            let folder = tempfile::tempdir().unwrap();
            let write = |name: &str, bytes: &[u8]| {
                std::fs::write(folder.path().join(name), bytes).unwrap();
                File::open(folder.path().join(name)).unwrap()
            };
            let (content, outboard) = (write("content", &bytes), write("outboard", &hashed.outboard));
            for group in 0..groups {
                assert!(is_intact(&blob, group, &content, &outboard).unwrap(), "{group} of {groups}");
            }
        }
    }
}
