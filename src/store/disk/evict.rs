//! The limit: what is counted, and what goes first when it is reached.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::{
    Disk,
    files::{FileKey, allocated, disk},
    pack::{Kind, PackedKey, Place, record_length},
};
use crate::{
    blob::Blob,
    store::{StoreError, lock},
    types::{Digest, WorkspaceId},
};

/// Bytes of the disk that content leaves free: the index must be able to record an eviction.
const DISK_RESERVE: u64 = 8 << 20;

/// Holes are punched in whole pages: no filesystem frees less.
const PAGE: u64 = 4096;

/// Bytes on the disk, kept up to date by whoever writes or frees.
#[derive(Debug, Default)]
pub(super) struct Space {
    state: Mutex<SpaceState>,
    /// Told when less is set aside.
    released: Condvar,
}

#[derive(Debug, Default)]
struct SpaceState {
    used: u64,
    reserved: u64,
    /// How often some of it was released.
    releases: u64,
    /// How much was used when an eviction found nothing to take but pins: until that changes, another needn't look.
    stuck: Option<u64>,
    packs: HashMap<u32, u64>,
}

/// Space set aside for a write under way, until it is measured.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    space: &'a Space,
    bytes: u64,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.space.state);
        state.reserved -= self.bytes;
        state.releases += 1;
        drop(state);
        self.space.released.notify_all();
    }
}

impl Space {
    pub(super) fn used(&self) -> u64 {
        lock(&self.state).used
    }

    /// Counts a file that took `before` bytes and takes `after` now.
    pub(super) fn change(&self, before: u64, after: u64) {
        let mut state = lock(&self.state);
        state.used = (state.used + after).saturating_sub(before);
    }

    /// Counts a pack as measured; one of no bytes is gone.
    pub(super) fn set_pack(&self, number: u32, bytes: u64) {
        let mut state = lock(&self.state);
        let before = if bytes == 0 { state.packs.remove(&number) } else { state.packs.insert(number, bytes) };
        state.used = (state.used + bytes).saturating_sub(before.unwrap_or(0));
    }

    /// Used, and set aside for what is being written.
    fn claimed(&self) -> u64 {
        let state = lock(&self.state);
        state.used + state.reserved
    }

    fn is_stuck(&self) -> bool {
        let state = lock(&self.state);
        state.stuck == Some(state.used)
    }

    fn note_stuck(&self) {
        let mut state = lock(&self.state);
        // What is being written may be evicted as soon as it's there.
        if state.reserved == 0 {
            state.stuck = Some(state.used);
        }
    }

    /// Waits until somebody who set space aside has used it; false if nobody has.
    fn wait(&self) -> bool {
        let state = lock(&self.state);
        if state.reserved == 0 {
            return false;
        }
        let before = state.releases;
        let waits = |state: &mut SpaceState| state.releases == before;
        drop(self.released.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner));
        true
    }

    /// Some content may be evicted again.
    pub(super) fn note_lifted(&self) {
        lock(&self.state).stuck = None;
    }

    fn reserve(&self, bytes: u64, ceiling: u64) -> Option<Reservation<'_>> {
        let mut state = lock(&self.state);
        if state.used + state.reserved + bytes > ceiling {
            return None;
        }
        state.reserved += bytes;
        Some(Reservation { space: self, bytes })
    }
}

#[derive(Debug, Clone, Copy)]
enum Piece {
    Packed(PackedKey, Place),
    Large(Blob),
}

impl Piece {
    fn digest(&self) -> &Digest {
        match self {
            Self::Packed(key, _) => &key.digest,
            Self::Large(blob) => &blob.digest,
        }
    }
}

impl Disk {
    /// Sets space aside, for which what was used least recently goes if it must.
    pub(super) fn make_room(&self, bytes: u64) -> Result<Reservation<'_>, StoreError> {
        if let Some(room) = self.space.reserve(bytes, self.ceiling()?) {
            return Ok(room);
        }
        let turn = lock(&self.turn);
        loop {
            let ceiling = self.ceiling()?;
            // Another thread may have made room meanwhile.
            if let Some(room) = self.space.reserve(bytes, ceiling) {
                return Ok(room);
            }
            if bytes > ceiling || self.space.is_stuck() {
                return Err(StoreError::Full);
            }
            // Some more than is needed, so that not every put evicts.
            self.evict(&turn, ceiling - bytes.max(ceiling / 16))?;
            if let Some(room) = self.space.reserve(bytes, self.ceiling()?) {
                return Ok(room);
            }
            // Whoever has set space aside doesn't need the turn to use it.
            if !self.space.wait() {
                return Err(StoreError::Full);
            }
        }
    }

    /// Bytes that content may take: the limit, or less on a disk that is nearly full.
    fn ceiling(&self) -> Result<u64, StoreError> {
        let disk_space =
            statvfs(&self.folder).map_err(|error| disk("ask for the free space")(error.into()))?;
        let available = disk_space.f_bavail.saturating_mul(disk_space.f_frsize);
        let possible = self.space.used().saturating_add(available).saturating_sub(DISK_RESERVE);
        Ok(possible.min(self.limits.bytes))
    }

    /// Evicts until at most `target` bytes are used or set aside, or nothing is left.
    pub(super) fn evict(&self, turn: &MutexGuard<'_, ()>, target: u64) -> Result<(), StoreError> {
        while self.space.claimed() > target {
            // What is pending can be evicted, and uses count, only when they are recorded.
            self.commit(turn)?;
            let victims = self.victims(self.space.claimed().saturating_sub(target))?;
            if victims.is_empty() {
                self.space.note_stuck();
                break;
            }
            self.discard(turn, &victims)?;
        }
        Ok(())
    }

    /// Pieces that take about `bytes`, least recently used first; trees only when there's nothing else, pins never.
    fn victims(&self, bytes: u64) -> Result<Vec<Piece>, StoreError> {
        let pins = self.index.pins()?;
        let mut candidates = Vec::new();
        self.index.each_packed(|key, place, last_use| {
            let size = record_length(place.length);
            candidates.push((key.kind == Kind::Tree, last_use, size, Piece::Packed(key, place)));
        })?;
        self.index.each_large(|blob, row| {
            candidates.push((false, row.last_use, row.bytes(), Piece::Large(blob)));
        })?;
        candidates.sort_unstable_by_key(|(tree, last_use, ..)| (*tree, *last_use));
        let (mut freed, mut victims) = (0, Vec::new());
        for (_, _, size, piece) in candidates {
            if freed >= bytes {
                break;
            }
            if !pins.hold(piece.digest())? {
                freed += size;
                victims.push(piece);
            }
        }
        Ok(victims)
    }

    /// Forgets what came for a workspace alone, and isn't pinned.
    pub(super) fn clear(&self, turn: &MutexGuard<'_, ()>, workspace: &WorkspaceId) -> Result<(), StoreError> {
        self.commit(turn)?;
        let mut digests = Vec::new();
        self.index.each_of_alone(workspace, |digest| digests.push(digest))?;
        let pins = self.index.pins()?;
        let mut pieces = Vec::new();
        for digest in digests {
            if !pins.hold(&digest)? {
                pieces.extend(self.pieces(digest)?);
            }
        }
        self.discard(turn, &pieces)
    }

    /// Forgets pieces and frees their space.
    fn discard(&self, turn: &MutexGuard<'_, ()>, pieces: &[Piece]) -> Result<(), StoreError> {
        let mut packs = HashSet::new();
        for piece in pieces {
            match piece {
                Piece::Packed(key, place) => {
                    packs.insert(place.pack);
                    self.pending.set_place(*key, None);
                }
                Piece::Large(blob) => self.remove_large(blob)?,
            }
        }
        // Recorded before it is done: the index never names what is gone.
        self.commit(turn)?;
        if packs.is_empty() { Ok(()) } else { self.free_packs(&packs) }
    }

    /// Forgets everything that is named by a digest.
    pub(super) fn remove_all(&self, turn: &MutexGuard<'_, ()>, digest: Digest) -> Result<(), StoreError> {
        self.discard(turn, &self.pieces(digest)?)
    }

    /// What a digest names, as far as it's held.
    fn pieces(&self, digest: Digest) -> Result<Vec<Piece>, StoreError> {
        let mut pieces = Vec::new();
        for kind in [Kind::Tree, Kind::Blob] {
            let key = PackedKey { kind, digest };
            pieces.extend(self.place(&key)?.map(|place| Piece::Packed(key, place)));
        }
        let loaded =
            lock(&self.large).keys().filter(|blob| blob.digest == digest).copied().collect::<Vec<_>>();
        pieces.extend(self.index.sizes(&digest)?.into_iter().chain(loaded).map(Piece::Large));
        Ok(pieces)
    }

    /// Punches holes where packs hold nothing, and deletes those that are empty.
    fn free_packs(&self, packs: &HashSet<u32>) -> Result<(), StoreError> {
        // A record below this position is pending or recorded by now, or dead: whoever writes one notes it as
        // pending before giving the packer back.
        let (active, position) = lock(&self.packer).position();
        let mut live: HashMap<u32, Vec<Place>> = packs.iter().map(|number| (*number, Vec::new())).collect();
        let mut keep = |place: Place| {
            if let Some(places) = live.get_mut(&place.pack) {
                places.push(place);
            }
        };
        self.pending.each_place(&mut keep);
        self.index.each_packed(|_, place, _| keep(place))?;
        for (number, mut places) in live {
            places.sort_unstable_by_key(|place| place.offset);
            let end = if number == active { Some(position) } else { None };
            self.free_pack(number, &places, end).map_err(disk(format!("free space in pack {number}")))?;
        }
        Ok(())
    }

    /// `end` tells up to where the pack is written, if it is the one being written to.
    fn free_pack(&self, number: u32, live: &[Place], end: Option<u64>) -> io::Result<()> {
        if live.is_empty() && end.is_none() {
            self.files.delete(FileKey::Pack(number))?;
            self.space.set_pack(number, 0);
            return Ok(());
        }
        let file = self.files.write(FileKey::Pack(number))?;
        let end = match end {
            Some(end) => end,
            None => file.metadata()?.len(),
        };
        let mut start = 0;
        for (gap_end, next) in live.iter().map(|place| (place.offset, place.end())).chain([(end, end)]) {
            let (from, to) = (u64::next_multiple_of(start, PAGE), gap_end / PAGE * PAGE);
            if from < to {
                match fallocate(
                    &file,
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    from,
                    to - from,
                ) {
                    // Filesystems without holes get space back when a whole pack is empty.
                    Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            start = next;
        }
        // Not while something is appended, whose measure might come first.
        let _packer = lock(&self.packer);
        self.space.set_pack(number, allocated(&file.metadata()?));
        Ok(())
    }
}
