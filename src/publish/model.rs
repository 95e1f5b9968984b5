use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{
    place::{Inode, join, number},
    rules::{Reason, Rules},
};
use crate::{
    tree::{Attributes, Content, Entry, Extent, HardLink, Kind, Owner, Totals, TreeSink, write_folder},
    types::{Digest, Name, Timestamp},
};

/// A folder of a workspace, for as long as it exists. Numbers are never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FolderId(u32);

impl FolderId {
    /// The workspace's root.
    pub(super) const ROOT: Self = Self(0);
    /// A folder that was found and isn't in the model yet.
    pub(super) const NEW: Self = Self(u32::MAX);
    /// What stands above the root.
    const NONE: Self = Self(u32::MAX - 1);
}

/// One name, as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) name: Name,
    pub(super) mode: u16,
    pub(super) owner: Owner,
    pub(super) modified: Timestamp,
    /// The version token of what `stat` told.
    pub(super) token: u64,
    /// The inode, if it has other names somewhere.
    pub(super) shared: Option<Box<Inode>>,
    pub(super) kind: ItemKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ItemKind {
    Folder(FolderId),
    File { size: u64, state: State },
    Link(Box<[u8]>),
}

/// How far a file's content is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// It has to be hashed.
    Pending,
    /// It is being hashed, or will be at a known time.
    Taken,
    /// The blob's digest.
    Hashed(Digest),
    /// The same for a sparse file.
    Sparse(Box<SparseContent>),
    /// The content differs from what the same token stood for before, since it changed within a tick of the file
    /// system's clock: the published token is another one.
    Revised(Box<HashedContent>),
    /// It can't be read, and so isn't shared.
    Unreadable,
}

/// A sparse file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SparseContent {
    pub(super) digest: Digest,
    pub(super) extents: Box<[Extent]>,
}

/// What hashing a file finds out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HashedContent {
    /// The digest of the bytes, or, for a sparse file, of its data.
    pub(super) digest: Digest,
    /// Where the data is in a sparse file.
    pub(super) extents: Option<Box<[Extent]>>,
}

impl From<HashedContent> for State {
    fn from(content: HashedContent) -> Self {
        let HashedContent { digest, extents } = content;
        match extents {
            Some(extents) => Self::Sparse(Box::new(SparseContent { digest, extents })),
            None => Self::Hashed(digest),
        }
    }
}

impl State {
    /// The digest of the blob, once it is known.
    pub(super) fn digest(&self) -> Option<Digest> {
        match self {
            Self::Hashed(digest) => Some(*digest),
            Self::Sparse(content) => Some(content.digest),
            Self::Revised(content) => Some(content.digest),
            Self::Pending | Self::Taken | Self::Unreadable => None,
        }
    }

    /// Where the data of a sparse file is.
    pub(super) fn extents(&self) -> Option<&[Extent]> {
        match self {
            Self::Sparse(content) => Some(&content.extents),
            Self::Revised(content) => content.extents.as_deref(),
            _ => None,
        }
    }

    /// Whether others see the file.
    pub(super) fn is_shared(&self) -> bool {
        !matches!(self, Self::Unreadable)
    }

    fn is_open(&self) -> bool {
        matches!(self, Self::Pending | Self::Taken)
    }

    /// The entry's content; `None` for what isn't shared.
    fn content(&self) -> Option<Content> {
        if !self.is_shared() {
            return None;
        }
        Some(match (self.digest(), self.extents()) {
            (Some(blob), Some(extents)) => Content::Sparse { blob, extents: extents.into() },
            (Some(digest), None) => Content::Blob(digest),
            (None, _) => Content::Pending,
        })
    }
}

impl Item {
    fn digest(&self) -> Option<Digest> {
        match &self.kind {
            ItemKind::File { state, .. } => state.digest(),
            _ => None,
        }
    }
}

/// What a look at one folder found.
#[derive(Debug)]
pub(super) struct Scanned {
    /// What it holds, sorted by name. Folders have their number, or [`FolderId::NEW`].
    pub(super) items: Vec<Item>,
    /// The folders among `items` that were looked into, by their place there.
    pub(super) inside: Vec<(usize, Scanned)>,
    pub(super) left_out: Box<[(Name, Reason)]>,
    pub(super) rules: Arc<Rules>,
    /// The version token of its ignore file.
    pub(super) ignore_token: Option<u64>,
    pub(super) watch: Option<i32>,
}

/// A folder of the workspace.
#[derive(Debug)]
pub(super) struct Folder {
    parent: FolderId,
    name: Option<Name>,
    pub(super) items: Vec<Item>,
    left_out: Box<[(Name, Reason)]>,
    pub(super) rules: Arc<Rules>,
    pub(super) ignore_token: Option<u64>,
    watch: Option<i32>,
    /// The folder's object as last written, unless something below it has changed since.
    written: Option<Totals>,
    object: Option<Digest>,
}

impl Folder {
    fn position(&self, name: &Name) -> Option<usize> {
        self.items.binary_search_by(|item| item.name.cmp(name)).ok()
    }

    /// What the folder holds under `name`.
    pub(super) fn item(&self, name: &Name) -> Option<&Item> {
        self.position(name).map(|position| &self.items[position])
    }
}

/// Sums that are kept up to date with every change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) open_files: u64,
    pub(super) open_bytes: u64,
}

/// What an update of the model has brought about, for others to act upon.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Something that is published is different now.
    pub(super) any: bool,
    /// Folders that may hold pending files.
    pub(super) pending: Vec<FolderId>,
    /// Watches of folders that are gone, unless another folder has them now.
    pub(super) gone: Vec<(i32, FolderId)>,
    /// Watches of folders.
    pub(super) watched: Vec<(i32, FolderId)>,
    /// Digests that no file has any more, perhaps.
    pub(super) dropped: Vec<Digest>,
    /// Objects of folders that are gone.
    pub(super) released: Vec<Digest>,
}

/// A workspace as it was last seen: folders with parent pointers, and what is looked up by content and by inode.
#[derive(Debug)]
pub(super) struct Model {
    folders: HashMap<FolderId, Folder>,
    next: u32,
    /// In which folders a blob is found, and about where in the folder's list.
    blobs: BTreeMap<(Digest, FolderId), u32>,
    /// How many names an inode with several names has in each folder.
    links: BTreeMap<(Inode, FolderId), u32>,
    sums: Sums,
}

impl Model {
    /// A workspace that holds nothing.
    pub(super) fn new() -> Self {
        let root = Folder {
            parent: FolderId::NONE,
            name: None,
            items: Vec::new(),
            left_out: Box::default(),
            rules: Rules::defaults(),
            ignore_token: None,
            watch: None,
            written: None,
            object: None,
        };
        Self {
            folders: HashMap::from([(FolderId::ROOT, root)]),
            next: 1,
            blobs: BTreeMap::new(),
            links: BTreeMap::new(),
            sums: Sums::default(),
        }
    }

    pub(super) fn folder(&self, id: FolderId) -> Option<&Folder> {
        self.folders.get(&id)
    }

    /// The folder above.
    pub(super) fn parent(&self, id: FolderId) -> Option<&Folder> {
        self.folders.get(&self.parent_id(id)?)
    }

    /// The number of the folder above.
    pub(super) fn parent_id(&self, id: FolderId) -> Option<FolderId> {
        let parent = self.folders.get(&id)?.parent;
        (parent != FolderId::NONE).then_some(parent)
    }

    /// The names that lead to a folder.
    pub(super) fn path(&self, id: FolderId) -> Vec<Name> {
        let mut names = Vec::new();
        let mut folder = self.folders.get(&id);
        while let Some(Folder { parent, name: Some(name), .. }) = folder {
            names.push(name.clone());
            folder = self.folders.get(parent);
        }
        names.reverse();
        names
    }

    /// The item at `path`, and its folder.
    pub(super) fn find(&self, path: &[Name]) -> Option<(FolderId, &Item)> {
        let (name, parents) = path.split_last()?;
        let mut id = FolderId::ROOT;
        for name in parents {
            match self.folders.get(&id)?.item(name)?.kind {
                ItemKind::Folder(below) => id = below,
                _ => return None,
            }
        }
        Some((id, self.folders.get(&id)?.item(name)?))
    }

    /// Files that have the content `digest`, at most `limit`, one a folder.
    pub(super) fn with_content(&self, digest: Digest, limit: usize) -> Vec<(FolderId, &Item)> {
        let all = self.blobs.range((digest, FolderId::ROOT)..=(digest, FolderId::NEW));
        all.filter_map(|(&(_, id), &near)| {
            let items = &self.folders.get(&id)?.items;
            // The list may have grown or shrunk before the place since it was noted, mostly by little.
            let near = near as usize;
            let places =
                (0..items.len().max(near + 1)).flat_map(|by| [near.checked_sub(by), Some(near + by)]);
            let mut found = places.flatten().filter_map(|place| items.get(place));
            found.find(|item| item.digest() == Some(digest)).map(|item| (id, item))
        })
        .take(limit)
        .collect()
    }

    /// Whether some file has the content `digest`.
    pub(super) fn has_content(&self, digest: Digest) -> bool {
        self.blobs.range((digest, FolderId::ROOT)..=(digest, FolderId::NEW)).next().is_some()
    }

    pub(super) fn sums(&self) -> Sums {
        self.sums
    }

    /// Everything that isn't shared, folder by folder.
    pub(super) fn left_out(&self) -> impl Iterator<Item = (FolderId, &Name, Reason)> {
        self.folders.iter().flat_map(|(&id, folder)| {
            let named = folder.left_out.iter().map(|(name, reason)| (name, *reason));
            let unreadable = folder.items.iter().filter_map(|item| match item.kind {
                ItemKind::File { state: State::Unreadable, .. } => Some((&item.name, Reason::Unreadable)),
                _ => None,
            });
            named.chain(unreadable).map(move |(name, reason)| (id, name, reason))
        })
    }

    /// Takes over what a look at the folder `id` found.
    pub(super) fn apply(&mut self, id: FolderId, scanned: Scanned, changes: &mut Changes) {
        let Scanned { mut items, inside, left_out, rules, ignore_token, watch } = scanned;
        let mut below = Vec::new();
        for (place, scanned) in inside {
            let Some(Item { kind: ItemKind::Folder(child), name, .. }) = items.get_mut(place) else {
                continue;
            };
            if *child == FolderId::NEW {
                *child = FolderId(self.next);
                self.next += 1;
                let folder = Folder {
                    parent: id,
                    name: Some(name.clone()),
                    items: Vec::new(),
                    left_out: Box::default(),
                    rules: Arc::clone(&scanned.rules),
                    ignore_token: None,
                    watch: None,
                    written: None,
                    object: None,
                };
                self.folders.insert(*child, folder);
            }
            below.push((*child, scanned));
        }
        let Some(folder) = self.folders.get_mut(&id) else { return };
        folder.left_out = left_out;
        folder.rules = rules;
        folder.ignore_token = ignore_token;
        if let Some(old) = folder.watch
            && Some(old) != watch
        {
            changes.gone.push((old, id));
        }
        folder.watch = watch;
        changes.watched.extend(watch.map(|watch| (watch, id)));
        if folder.items != items {
            let old = std::mem::take(&mut folder.items);
            self.replace(id, &old, items, changes);
        }
        let pending = |item: &Item| matches!(item.kind, ItemKind::File { state: State::Pending, .. });
        if self.folders.get(&id).is_some_and(|folder| folder.items.iter().any(pending)) {
            changes.pending.push(id);
        }
        for (child, scanned) in below {
            self.apply(child, scanned, changes);
        }
    }

    /// Puts `new` in the place of `old`, which has been taken out of the folder already.
    fn replace(&mut self, id: FolderId, old: &[Item], new: Vec<Item>, changes: &mut Changes) {
        let kept: HashSet<FolderId> = new.iter().filter_map(folder_of).collect();
        for gone in old.iter().filter_map(folder_of).filter(|gone| !kept.contains(gone)) {
            self.remove(gone, changes);
        }
        self.forget(id, old, changes);
        for (place, item) in new.iter().enumerate() {
            if let Some(digest) = item.digest() {
                self.blobs.entry((digest, id)).or_insert(place as u32);
            }
            if let Some(inode) = item.shared.as_deref() {
                *self.links.entry((*inode, id)).or_default() += 1;
            }
            self.count(item, 1);
        }
        // A group's number and count stand in the entries of all its names, wherever they are.
        let linked =
            |items: &[Item]| items.iter().filter_map(|item| item.shared.as_deref().copied()).collect();
        let (before, after): (HashSet<Inode>, HashSet<Inode>) = (linked(old), linked(&new));
        if let Some(folder) = self.folders.get_mut(&id) {
            folder.items = new;
        }
        self.touch(id);
        self.touch_groups(before.union(&after));
        changes.any = true;
    }

    /// Removes a folder and everything below it.
    fn remove(&mut self, id: FolderId, changes: &mut Changes) {
        let Some(folder) = self.folders.remove(&id) else { return };
        changes.gone.extend(folder.watch.map(|watch| (watch, id)));
        changes.released.extend(folder.object);
        self.forget(id, &folder.items, changes);
        let inodes: Vec<Inode> =
            folder.items.iter().filter_map(|item| item.shared.as_deref().copied()).collect();
        self.touch_groups(inodes.iter());
        for below in folder.items.iter().filter_map(folder_of) {
            self.remove(below, changes);
        }
    }

    /// Takes the items of a folder out of sums and look-ups.
    fn forget(&mut self, id: FolderId, items: &[Item], changes: &mut Changes) {
        for item in items {
            if let Some(digest) = item.digest()
                && self.blobs.remove(&(digest, id)).is_some()
            {
                changes.dropped.push(digest);
            }
            if let Some(inode) = item.shared.as_deref() {
                self.links.remove(&(*inode, id));
            }
            self.count(item, -1);
        }
    }

    fn count(&mut self, item: &Item, sign: i64) {
        let (size, open) = match &item.kind {
            ItemKind::Folder(_) => return,
            ItemKind::Link(_) => (0, false),
            ItemKind::File { size, state } => (*size, state.is_open()),
        };
        let step = |sum: &mut u64, by: u64| *sum = if sign > 0 { *sum + by } else { sum.saturating_sub(by) };
        step(&mut self.sums.files, 1);
        step(&mut self.sums.bytes, size);
        if open {
            step(&mut self.sums.open_files, 1);
            step(&mut self.sums.open_bytes, size);
        }
    }

    /// Notes that the object of a folder, and so of all above it, has to be written anew.
    fn touch(&mut self, id: FolderId) {
        let mut next = id;
        while let Some(folder) = self.folders.get_mut(&next) {
            folder.written = None;
            next = folder.parent;
        }
    }

    fn touch_groups<'a>(&mut self, inodes: impl Iterator<Item = &'a Inode>) {
        for inode in inodes {
            let folders: Vec<FolderId> = self.names_of(*inode).map(|(id, _)| id).collect();
            for id in folders {
                self.touch(id);
            }
        }
    }

    fn names_of(&self, inode: Inode) -> impl Iterator<Item = (FolderId, u32)> {
        self.links
            .range((inode, FolderId::ROOT)..=(inode, FolderId::NEW))
            .map(|(&(_, id), &names)| (id, names))
    }

    /// Sets how far a file's content is known, if the file is still the one of `token`. Returns whether it was.
    pub(super) fn set(
        &mut self,
        id: FolderId,
        name: &Name,
        token: u64,
        state: State,
        changes: &mut Changes,
    ) -> bool {
        let Some(folder) = self.folders.get_mut(&id) else { return false };
        let Some(place) = folder.position(name) else { return false };
        let item = &mut folder.items[place];
        if item.token != token {
            return false;
        }
        let ItemKind::File { size, state: now } = &mut item.kind else { return false };
        if *now == state {
            return true;
        }
        let size = *size;
        let old = std::mem::replace(now, state.clone());
        match (old.is_open(), state.is_open()) {
            (true, false) => {
                self.sums.open_files = self.sums.open_files.saturating_sub(1);
                self.sums.open_bytes = self.sums.open_bytes.saturating_sub(size);
            }
            (false, true) => {
                self.sums.open_files += 1;
                self.sums.open_bytes += size;
            }
            _ => {}
        }
        if let Some(digest) = old.digest()
            && old.digest() != state.digest()
            && folder.items.iter().all(|item| item.digest() != Some(digest))
        {
            self.blobs.remove(&(digest, id));
            changes.dropped.push(digest);
        }
        if let Some(digest) = state.digest() {
            self.blobs.entry((digest, id)).or_insert(place as u32);
        }
        if matches!(state, State::Pending) {
            changes.pending.push(id);
        }
        // Pending and taken look the same from outside.
        if !(old.is_open() && state.is_open()) {
            self.touch(id);
            changes.any = true;
        }
        true
    }

    /// Marks pending files of a folder as taken and gives them to `take`, until it has enough (and returns false).
    /// Returns whether the folder's end was reached.
    pub(super) fn take_pending(&mut self, id: FolderId, mut take: impl FnMut(&Item, u64) -> bool) -> bool {
        let Some(folder) = self.folders.get_mut(&id) else { return true };
        for item in &mut folder.items {
            let ItemKind::File { size, state: State::Pending } = item.kind else { continue };
            let more = take(item, size);
            item.kind = ItemKind::File { size, state: State::Taken };
            if !more {
                return false;
            }
        }
        true
    }

    /// Writes the objects of all folders that changed, and gives the root's digest and sums.
    ///
    /// `released` gets the objects that folders had before.
    pub(super) fn write<S: TreeSink>(
        &mut self,
        sink: &S,
        released: &mut Vec<Digest>,
    ) -> Result<(Digest, Totals), S::Error> {
        self.write_below(FolderId::ROOT, &mut HashMap::new(), sink, released)
    }

    fn write_below<S: TreeSink>(
        &mut self,
        id: FolderId,
        groups: &mut HashMap<Inode, Option<HardLink>>,
        sink: &S,
        released: &mut Vec<Digest>,
    ) -> Result<(Digest, Totals), S::Error> {
        let empty = (Digest::of(&[]), Totals::default());
        let Some(folder) = self.folders.get(&id) else { return Ok(empty) };
        if let (Some(totals), Some(object)) = (folder.written, folder.object) {
            return Ok((object, totals));
        }
        let children: Vec<FolderId> = folder.items.iter().filter_map(folder_of).collect();
        let mut trees = HashMap::with_capacity(children.len());
        for child in children {
            trees.insert(child, self.write_below(child, groups, sink, released)?);
        }
        let Some(folder) = self.folders.get(&id) else { return Ok(empty) };
        let mut totals = Totals::default();
        let mut entries = Vec::with_capacity(folder.items.len());
        for item in &folder.items {
            let mut token = item.token;
            let kind = match &item.kind {
                ItemKind::Folder(child) => {
                    let Some(&(tree, totals)) = trees.get(child) else { continue };
                    // A folder's version is its digest. A token that changed with every new name in it would give
                    // the folder another inode number at the guest each time.
                    token = 0;
                    Kind::Folder { tree, totals }
                }
                ItemKind::File { size, state } => {
                    let Some(content) = state.content() else { continue };
                    if let State::Revised(content) = state {
                        token = number(&blake3::keyed_hash(content.digest.as_bytes(), &token.to_le_bytes()));
                    }
                    Kind::File { size: *size, content }
                }
                ItemKind::Link(target) => Kind::Link(target.clone()),
            };
            let link = item
                .shared
                .as_deref()
                .and_then(|inode| *groups.entry(*inode).or_insert_with(|| self.group(*inode)));
            let Item { mode, owner, modified, .. } = *item;
            let attributes = Attributes { mode, owner, modified, token, link };
            let entry = Entry { name: item.name.clone(), attributes, kind };
            totals.add(entry.totals());
            entries.push(entry);
        }
        let object = write_folder(&entries, sink)?;
        if let Some(folder) = self.folders.get_mut(&id) {
            folder.written = Some(totals);
            released.extend(folder.object.replace(object));
        }
        Ok((object, totals))
    }

    /// The hard link group of an inode, if the workspace shares two or more names of it.
    fn group(&self, inode: Inode) -> Option<HardLink> {
        let count = self.names_of(inode).map(|(_, names)| names).fold(0, u32::saturating_add);
        if count < 2 {
            return None;
        }
        let first = self.names_of(inode).filter_map(|(id, _)| {
            let has = |item: &&Item| item.shared.as_deref() == Some(&inode);
            let first = self.folders.get(&id)?.items.iter().find(has)?;
            let mut path = self.path(id);
            path.push(first.name.clone());
            Some(join(&path))
        });
        first.min().map(|path| HardLink { group: number(&blake3::hash(&path)), count })
    }
}

fn folder_of(item: &Item) -> Option<FolderId> {
    match item.kind {
        ItemKind::Folder(id) => Some(id),
        _ => None,
    }
}
