//! Whoever reads one file after the other in the order in which they are listed (`grep -r`, `tar`, `cp -r`, an indexer)
//! gets the next ones ahead, across folders.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::FutureExt;
use lru::LruCache;

use super::{
    Cookie, View,
    folder::Folder,
    node::{Node, NodeKind, Remote},
};
use crate::{
    blob::Blob,
    tree::{Content, Entry, Kind},
    types::{Digest, WorkspaceId},
};

/// Workspaces whose readers are watched.
const WATCHED: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// After so many files that had to be fetched in the order of the listing, the next ones are fetched ahead: by chance one
/// in 720 such runs comes about …
const RUN: u32 = 6;

/// … at first so many bytes of them, twice as many each time that the reader has come to their end …
const FIRST: u64 = 512 << 10;

/// … up to this.
const MOST: u64 = 8 << 20;

/// Larger files are read ahead while they are read.
const FILE: u64 = 1 << 20;

/// So many entries are looked at for one portion.
const ENTRIES: usize = 4096;

/// Where the readers of workspaces are.
pub(super) struct Scans(Mutex<LruCache<WorkspaceId, Scan>>);

/// A reader.
struct Scan {
    /// The place of the file that was fetched last: the positions of its names in their folders, from the root.
    last: Vec<Cookie>,
    /// How many have been fetched in order.
    run: u32,
    /// How many names from the root all of these have in common: what lies outside isn't what is being read.
    common: usize,
}

impl Scans {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(WATCHED)))
    }

    /// Notes which file has to be fetched; gives how many bytes to fetch ahead, and how many names from the root they share
    /// with it.
    fn note(&self, workspace: &WorkspaceId, place: Vec<Cookie>) -> (u64, usize) {
        let mut scans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let scan = scans.get_or_insert_mut(*workspace, || Scan { last: Vec::new(), run: 0, common: 0 });
        if place > scan.last && scan.run > 0 {
            scan.run = scan.run.saturating_add(1);
            let shared = scan.last.iter().zip(&place).take_while(|(a, b)| a == b).count();
            scan.common = scan.common.min(shared);
        } else {
            (scan.run, scan.common) = (1, place.len());
        }
        scan.last = place;
        let bytes = match scan.run.checked_sub(RUN) {
            None => 0,
            Some(portions) => MOST.min(FIRST << portions.min(16)),
        };
        (bytes, scan.common)
    }
}

/// What is collected of the files that follow.
struct Portion {
    files: Vec<Blob>,
    bytes: u64,
    entries: usize,
}

impl View {
    /// The files that follow in the listing of a whole workspace, if its reader goes by that.
    pub(super) fn next_in_order(&self, node: &Node) -> Vec<Blob> {
        let NodeKind::Remote(remote) = &node.kind else { return Vec::new() };
        let workspace = &remote.workspace.id;
        let Some(path) = self.path(node) else { return Vec::new() };
        let place = path.iter().map(|name| Cookie::of(name.as_bytes())).collect();
        let (bytes, common) = self.scans.note(workspace, place);
        let mut portion = Portion { files: Vec::new(), bytes, entries: ENTRIES };
        let (mut parent, mut behind) = (node.parent, Cookie::of(node.kind.name()));
        for _ in common..path.len() {
            let Some(above) = self.table().get(parent) else { break };
            let NodeKind::Remote(Remote { entry, .. }) = &above.kind else { break };
            let Kind::Folder { tree, .. } = &entry.kind else { break };
            self.collect(workspace, tree, behind, &mut portion);
            if !portion.has_room() {
                break;
            }
            (parent, behind) = (above.parent, Cookie::of(above.kind.name()));
        }
        portion.files
    }

    /// Adds the files of a folder that are listed behind a position, and all that is below it there.
    fn collect(&self, workspace: &WorkspaceId, tree: &Digest, behind: Cookie, portion: &mut Portion) {
        // A folder that isn't here yet isn't waited for.
        let Some(Ok(folder)) = self.folder(workspace, tree, None).now_or_never() else { return };
        let folder: Arc<Folder> = folder;
        for (_, entry) in folder.after(behind) {
            if !portion.has_room() {
                return;
            }
            portion.add(entry);
            if let Kind::Folder { tree, .. } = &entry.kind {
                self.collect(workspace, tree, Cookie::START, portion);
            }
        }
    }
}

impl Portion {
    fn has_room(&self) -> bool {
        self.bytes > 0 && self.entries > 0
    }

    fn add(&mut self, entry: &Entry) {
        self.entries -= 1;
        if let Kind::File { size, content: Content::Blob(digest) } = entry.kind
            && (1..=FILE).contains(&size)
        {
            self.bytes = self.bytes.saturating_sub(size);
            self.files.push(Blob { digest, size });
        }
    }
}
