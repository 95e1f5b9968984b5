use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use lru::LruCache;

use crate::{
    tree::{Entry, Kind},
    types::Digest,
};

/// How many entries of decoded folders are kept in memory, some 200 bytes each unless the kernel knows them too.
const CACHED_ENTRIES: usize = 200_000;

/// So many subfolders are asked for ahead at most.
const AHEAD: usize = 512;

/// Where in a folder a listing goes on: names are listed in the order of their hashes, so that a position stays right
/// while entries come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cookie(pub u64);

impl Cookie {
    /// Before the first entry.
    pub const START: Self = Self(0);
    pub(super) const DOT: Self = Self(1);
    pub(super) const DOT_DOT: Self = Self(2);

    /// The position of `name`: positive as a signed offset, and after the two dots.
    pub(super) fn of(name: &[u8]) -> Self {
        Self(crate::types::position(name))
    }
}

/// A decoded folder.
#[derive(Debug)]
pub(super) struct Folder {
    /// Sorted by name. The nodes of what the kernel knows share them.
    entries: Vec<Arc<Entry>>,
    /// Positions in `entries`, sorted by cookie.
    order: Vec<(Cookie, u32)>,
    /// How many of its subfolders weren't here when they were looked into.
    lacked: AtomicU32,
}

impl Folder {
    /// Takes entries that are sorted by name within their pages; none if the pages overlap.
    pub(super) fn new(entries: Vec<Entry>) -> Option<Self> {
        if !entries.is_sorted_by(|a, b| a.name < b.name) {
            return None;
        }
        let mut order: Vec<_> = entries
            .iter()
            .zip(0..)
            .map(|(entry, position)| (Cookie::of(entry.name.as_bytes()), position))
            .collect();
        order.sort_unstable();
        let entries = entries.into_iter().map(Arc::new).collect();
        Some(Self { entries, order, lacked: AtomicU32::new(0) })
    }

    pub(super) fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    pub(super) fn find(&self, name: &[u8]) -> Option<&Arc<Entry>> {
        let position = self.entries.binary_search_by(|entry| entry.name.as_bytes().cmp(name)).ok()?;
        self.entries.get(position)
    }

    /// The other entries, first those behind `name`, then from the start.
    pub(super) fn near(&self, name: &[u8]) -> impl Iterator<Item = &Arc<Entry>> {
        let position = self.entries.partition_point(|entry| entry.name.as_bytes() < name);
        let (before, from) = self.entries.split_at(position);
        let behind = from.iter().skip_while(move |entry| entry.name.as_bytes() == name);
        behind.chain(before)
    }

    /// The entries behind `cookie`, each with its own.
    pub(super) fn after(&self, cookie: Cookie) -> impl Iterator<Item = (Cookie, &Arc<Entry>)> {
        let start = self.order.partition_point(|(position, _)| *position <= cookie);
        self.order[start..].iter().map(|(cookie, position)| (*cookie, &self.entries[*position as usize]))
    }

    /// Notes that the subfolder `name` isn't here, and gives those that will probably be looked into next: the ones that
    /// are listed behind it. None for the first, then more each time: whoever looks into many walks through all.
    pub(super) fn lacks(&self, name: &[u8]) -> Vec<Digest> {
        let before = self.lacked.fetch_add(1, Ordering::Relaxed);
        let count = if before == 0 { 0 } else { AHEAD.min(1 << (3 * before.min(3))) };
        let folders = self.after(Cookie::of(name)).filter_map(|(_, entry)| match entry.kind {
            Kind::Folder { tree, .. } => Some(tree),
            _ => None,
        });
        folders.take(count).collect()
    }
}

/// The folders used last, limited by their number of entries.
#[derive(Debug)]
pub(super) struct FolderCache(Mutex<Cached>);

#[derive(Debug)]
struct Cached {
    folders: LruCache<Digest, Arc<Folder>>,
    entries: usize,
}

impl FolderCache {
    pub(super) fn new() -> Self {
        // The limit that counts is that of the entries; an empty folder counts as one.
        let limit = NonZeroUsize::new(CACHED_ENTRIES).unwrap_or(NonZeroUsize::MIN);
        Self(Mutex::new(Cached { folders: LruCache::new(limit), entries: 0 }))
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Folder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).folders.get(digest).cloned()
    }

    pub(super) fn put(&self, digest: Digest, folder: Arc<Folder>) {
        let cached = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cached.entries += cost(&folder);
        if let Some((_, out)) = cached.folders.push(digest, folder) {
            cached.entries -= cost(&out);
        }
        // The newest stays even if it's larger than the limit: a listing of it needs it again and again.
        while cached.entries > CACHED_ENTRIES && cached.folders.len() > 1 {
            if let Some((_, out)) = cached.folders.pop_lru() {
                cached.entries -= cost(&out);
            }
        }
    }
}

fn cost(folder: &Folder) -> usize {
    folder.entries.len() + 1
}
