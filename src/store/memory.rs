use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    ops::Range,
    sync::Mutex,
};

use bytes::Bytes;

use super::{Pin, PruneStore, ReadStore, StoreError, Usage, WriteStore, lock, whole_as_slice};
use crate::{
    blob::{Blob, GROUP, Groups, Parent, ReadAt, VerifiedBlob, VerifiedSlice, encode_slice, outboard_length},
    types::{Digest, PathKey, WorkspaceId},
};

/// A store that lives as long as the process: for tests and for what is never kept.
#[derive(Debug, Default)]
pub struct MemoryStore {
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    trees: HashMap<Digest, Bytes>,
    blobs: HashMap<Digest, Bytes>,
    large: HashMap<Blob, Large>,
    notes: HashSet<(WorkspaceId, Digest)>,
    paths: HashMap<(WorkspaceId, PathKey), Blob>,
    /// With the round in which each was last laid on the content.
    pins: HashMap<(Digest, Pin), u64>,
}

impl Content {
    fn is_pinned(&self, digest: &Digest) -> bool {
        self.pins.keys().any(|(pinned, _)| pinned == digest)
    }

    fn size(&self, digest: &Digest) -> u64 {
        let whole = [self.trees.get(digest), self.blobs.get(digest)].into_iter().flatten();
        let large = self.large.iter().filter(|(blob, _)| blob.digest == *digest);
        whole.chain(large.flat_map(|(_, large)| large.groups.values())).map(|bytes| bytes.len() as u64).sum()
    }
}

/// What is held of a large blob.
#[derive(Debug, Default)]
struct Large {
    groups: BTreeMap<u64, Bytes>,
    /// Blank where no hashes have come.
    outboard: Vec<u8>,
}

impl ReadAt for Large {
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            let group = self.groups.get(&(offset / GROUP)).ok_or(io::ErrorKind::UnexpectedEof)?;
            let rest = group.get((offset % GROUP) as usize..).filter(|rest| !rest.is_empty());
            let rest = rest.ok_or(io::ErrorKind::UnexpectedEof)?;
            let (now, later) = buffer.split_at_mut(rest.len().min(buffer.len()));
            now.copy_from_slice(&rest[..now.len()]);
            offset += now.len() as u64;
            buffer = later;
        }
        Ok(())
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

impl ReadStore for MemoryStore {
    fn tree(&self, digest: &Digest) -> Result<Option<Bytes>, StoreError> {
        Ok(lock(&self.content).trees.get(digest).cloned())
    }

    fn held(&self, blob: &Blob) -> Result<Groups, StoreError> {
        let content = lock(&self.content);
        if blob.is_whole() {
            let held = content.blobs.get(&blob.digest).is_some_and(|bytes| bytes.len() as u64 == blob.size);
            return Ok(if held { Groups::from(0..blob.groups()) } else { Groups::empty() });
        }
        let mut held = Groups::empty();
        for group in content.large.get(blob).into_iter().flat_map(|large| large.groups.keys()) {
            held |= Groups::from(*group..group + 1);
        }
        Ok(held)
    }

    fn read_at(&self, blob: &Blob, offset: u64, buffer: &mut [u8]) -> Result<bool, StoreError> {
        if buffer.is_empty() {
            return Ok(true);
        }
        let Some(end) = offset.checked_add(buffer.len() as u64).filter(|end| *end <= blob.size) else {
            return Ok(false);
        };
        let content = lock(&self.content);
        if blob.is_whole() {
            let Some(bytes) = content.blobs.get(&blob.digest).filter(|bytes| bytes.len() as u64 == blob.size)
            else {
                return Ok(false);
            };
            buffer.copy_from_slice(&bytes[offset as usize..end as usize]);
            return Ok(true);
        }
        let Some(Large { groups, .. }) = content.large.get(blob) else { return Ok(false) };
        for group in blob.touched(offset, end) {
            let Some(bytes) = groups.get(&group) else { return Ok(false) };
            let start = group * GROUP;
            let from = offset.max(start);
            let to = end.min(start + bytes.len() as u64);
            buffer[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        Ok(true)
    }

    fn slice(&self, blob: &Blob, groups: Range<u64>) -> Result<Option<Vec<u8>>, StoreError> {
        let content = lock(&self.content);
        let Some(large) = content.large.get(blob) else { return Ok(None) };
        if groups.clone().any(|group| !large.groups.contains_key(&group)) {
            return Ok(None);
        }
        match encode_slice(*blob, groups, large, &large.outboard) {
            Ok(encoded) => Ok(Some(encoded)),
            Err(_) => Err(StoreError::Corrupt(blob.digest)),
        }
    }

    fn belongs(&self, workspace: &WorkspaceId, digest: &Digest) -> Result<bool, StoreError> {
        Ok(lock(&self.content).notes.contains(&(*workspace, *digest)))
    }

    fn at(&self, workspace: &WorkspaceId, path: PathKey) -> Result<Option<Blob>, StoreError> {
        Ok(lock(&self.content).paths.get(&(*workspace, path)).copied())
    }
}

impl WriteStore for MemoryStore {
    fn put_tree(&self, digest: Digest, object: &[u8]) -> Result<(), StoreError> {
        if Digest::of(object) != digest {
            return Err(StoreError::Corrupt(digest));
        }
        lock(&self.content).trees.insert(digest, Bytes::copy_from_slice(object));
        Ok(())
    }

    fn put_blob(&self, blob: &VerifiedBlob) -> Result<(), StoreError> {
        let named = Blob { digest: blob.digest(), size: blob.bytes().len() as u64 };
        if !named.is_whole() {
            return self.put_slice(&whole_as_slice(blob)?);
        }
        lock(&self.content).blobs.insert(named.digest, blob.bytes().clone());
        Ok(())
    }

    fn put_slice(&self, slice: &VerifiedSlice) -> Result<(), StoreError> {
        let mut content = lock(&self.content);
        let large = content.large.entry(slice.blob()).or_default();
        large.outboard.resize(outboard_length(slice.blob().size) as usize, 0);
        for Parent { offset, pair } in slice.parents() {
            large.outboard[*offset as usize..][..pair.len()].copy_from_slice(pair);
        }
        large.groups.extend(slice.groups().zip(slice.leaves().iter().cloned()));
        Ok(())
    }

    fn note(&self, workspace: &WorkspaceId, digest: &Digest) -> Result<(), StoreError> {
        lock(&self.content).notes.insert((*workspace, *digest));
        Ok(())
    }

    fn note_at(&self, workspace: &WorkspaceId, path: PathKey, blob: &Blob) -> Result<(), StoreError> {
        lock(&self.content).paths.insert((*workspace, path), *blob);
        self.note(workspace, &blob.digest)
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl PruneStore for MemoryStore {
    fn used(&self) -> u64 {
        let content = lock(&self.content);
        let whole = content.trees.values().chain(content.blobs.values());
        let all = whole.chain(content.large.values().flat_map(|large| large.groups.values()));
        all.map(|bytes| bytes.len() as u64).sum()
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        let content = lock(&self.content);
        let mut usage = Usage::default();
        for (workspace, digest) in &content.notes {
            *usage.workspaces.entry(*workspace).or_default() += content.size(digest);
        }
        let pinned: HashSet<&Digest> = content.pins.keys().map(|(digest, _)| digest).collect();
        usage.pinned = pinned.into_iter().map(|digest| content.size(digest)).sum();
        Ok(usage)
    }

    fn pin(&self, pin: &Pin, round: u64, digests: &[Digest]) -> Result<(), StoreError> {
        let laid = digests.iter().map(|digest| ((*digest, *pin), round));
        lock(&self.content).pins.extend(laid);
        Ok(())
    }

    fn lift(&self, pin: &Pin, round: u64) -> Result<(), StoreError> {
        lock(&self.content).pins.retain(|(_, laid), last| laid != pin || *last >= round);
        Ok(())
    }

    fn clear(&self, workspace: &WorkspaceId) -> Result<(), StoreError> {
        let content = lock(&self.content);
        let alone = |digest: &Digest| content.notes.iter().filter(|(_, noted)| noted == digest).count() == 1;
        let ours = content.notes.iter().filter(|(noted, _)| noted == workspace).map(|(_, digest)| *digest);
        let gone: Vec<Digest> = ours.filter(|digest| alone(digest) && !content.is_pinned(digest)).collect();
        drop(content);
        gone.iter().try_for_each(|digest| self.remove(digest))
    }

    fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        let mut content = lock(&self.content);
        content.trees.remove(digest);
        content.blobs.remove(digest);
        content.large.retain(|blob, _| blob.digest != *digest);
        content.notes.retain(|(_, noted)| noted != digest);
        content.paths.retain(|_, blob| blob.digest != *digest);
        Ok(())
    }

    /// Memory keeps no order of use: blobs go before trees, otherwise any.
    fn evict_to(&self, bytes: u64) -> Result<(), StoreError> {
        while self.used() > bytes {
            let content = lock(&self.content);
            let large = content.large.keys().map(|blob| blob.digest);
            let mut order = large.chain(content.blobs.keys().copied()).chain(content.trees.keys().copied());
            let Some(next) = order.find(|digest| !content.is_pinned(digest)) else { break };
            drop(content);
            self.remove(&next)?;
        }
        Ok(())
    }
}
