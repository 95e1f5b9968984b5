use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{
    item::{Item, ItemKind, Stat, State},
    place::Inode,
    rules::{Reason, Rules},
};
use crate::{
    tree::Totals,
    types::{Digest, Name},
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

/// What a look at one folder found.
#[derive(Debug)]
pub(super) struct Scanned {
    /// The folder itself, before its names were read.
    pub(super) stat: Stat,
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
    pub(super) written: Option<Totals>,
    pub(super) object: Option<Digest>,
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
    /// Folders that hold other names of files that changed.
    pub(super) linked: Vec<FolderId>,
    /// Files with several names of which none was known to be one of several before.
    pub(super) appeared: HashSet<Inode>,
    /// Watches of folders that are gone, unless another folder has them now.
    pub(super) gone: Vec<(i32, FolderId)>,
    /// Watches of folders.
    pub(super) watched: Vec<(i32, FolderId)>,
    /// Digests that no file has any more, perhaps.
    pub(super) dropped: Vec<Digest>,
    /// Objects of folders that are gone.
    pub(super) released: Vec<Digest>,
}

/// The first half of a digest, which tells blobs apart well enough to find them: whoever finds one compares all of it.
type Half = [u8; 16];

fn half(digest: Digest) -> Half {
    std::array::from_fn(|place| digest.as_bytes()[place])
}

/// A workspace as it was last seen: folders with parent pointers, and what is looked up by content and by inode.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) folders: HashMap<FolderId, Folder>,
    next: u32,
    /// In which folders a blob is found, and about where in the folder's list.
    blobs: BTreeMap<(Half, FolderId), u32>,
    /// How many names an inode with several names has in each folder.
    links: BTreeMap<(Inode, FolderId), u32>,
    sums: Sums,
    /// What `stat` told of the root, which no folder lists.
    root: Option<Stat>,
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
            root: None,
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
        let half = half(digest);
        let all = self.blobs.range((half, FolderId::ROOT)..=(half, FolderId::NEW));
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
        let half = half(digest);
        self.blobs.range((half, FolderId::ROOT)..=(half, FolderId::NEW)).next().is_some()
    }

    /// What `stat` told of the workspace's own folder, once it has been looked at.
    pub(super) fn root_stat(&self) -> Option<Stat> {
        self.root
    }

    /// Folders that hold one of `watches`, which another folder has held too.
    pub(super) fn watched_by(&self, watches: &HashSet<i32>) -> Vec<(i32, FolderId)> {
        let held = |(id, folder): (&FolderId, &Folder)| {
            folder.watch.filter(|watch| watches.contains(watch)).map(|watch| (watch, *id))
        };
        self.folders.iter().filter_map(held).collect()
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
        let Scanned { stat, mut items, inside, left_out, rules, ignore_token, watch } = scanned;
        let mut below = Vec::new();
        for (place, scanned) in inside {
            let Some(Item { kind: ItemKind::Folder(child), name, .. }) = items.get_mut(place) else {
                continue;
            };
            // One that was known may have been removed by another look of the same round.
            if !self.folders.contains_key(child) {
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
        self.set_stat(id, stat, changes);
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

    /// Sets what `stat` told of a folder. What happens in a folder changes its times, and is heard of only in it.
    fn set_stat(&mut self, id: FolderId, stat: Stat, changes: &mut Changes) {
        if id == FolderId::ROOT {
            changes.any |= self.root.replace(stat) != Some(stat);
            return;
        }
        let Some(Folder { parent, name: Some(name), .. }) = self.folders.get(&id) else { return };
        let (parent, name) = (*parent, name.clone());
        let Some(folder) = self.folders.get_mut(&parent) else { return };
        let Some(place) = folder.position(&name) else { return };
        if folder.items[place].stat != stat {
            folder.items[place].stat = stat;
            self.touch(parent);
            changes.any = true;
        }
    }

    /// Puts `new` in the place of `old`, which has been taken out of the folder already.
    fn replace(&mut self, id: FolderId, old: &[Item], new: Vec<Item>, changes: &mut Changes) {
        let kept: HashSet<FolderId> = new.iter().filter_map(Item::folder).collect();
        for gone in old.iter().filter_map(Item::folder).filter(|gone| !kept.contains(gone)) {
            self.remove(gone, changes);
        }
        self.forget(id, old, changes);
        for (place, item) in new.iter().enumerate() {
            if let Some(digest) = item.digest() {
                self.blobs.entry((half(digest), id)).or_insert(place as u32);
            }
            if let Some(inode) = item.link() {
                if self.names_of(inode).next().is_none() {
                    changes.appeared.insert(inode);
                }
                *self.links.entry((inode, id)).or_default() += 1;
            }
            self.count(item, 1);
        }
        if let Some(folder) = self.folders.get_mut(&id) {
            folder.items = new;
        }
        self.touch(id);
        let after = self.folders.get(&id).map_or_else(HashMap::new, |folder| linked(&folder.items));
        let before = linked(old);
        // A group's number and count stand in the entries of all its names, wherever they are.
        self.touch_groups(before.keys().chain(after.keys()));
        // A change of a file is heard of in the folder through which it was made, and not where its other names are.
        let changed = before.iter().chain(&after).map(|(inode, _)| *inode);
        for inode in changed.filter(|inode| before.get(inode) != after.get(inode)) {
            let token = after.get(&inode).copied();
            let other = |folder: &Folder| {
                folder.items.iter().any(|item| item.link() == Some(inode) && Some(item.stat.token) != token)
            };
            changes.linked.extend(
                self.names_of(inode)
                    .map(|(folder, _)| folder)
                    .filter(|folder| *folder != id && self.folders.get(folder).is_some_and(other)),
            );
        }
        changes.any = true;
    }

    /// Removes a folder and everything below it.
    fn remove(&mut self, id: FolderId, changes: &mut Changes) {
        let Some(folder) = self.folders.remove(&id) else { return };
        changes.gone.extend(folder.watch.map(|watch| (watch, id)));
        changes.released.extend(folder.object);
        self.forget(id, &folder.items, changes);
        let inodes = linked(&folder.items);
        self.touch_groups(inodes.keys());
        for inode in inodes.into_keys() {
            changes.linked.extend(self.names_of(inode).map(|(folder, _)| folder));
        }
        for below in folder.items.iter().filter_map(Item::folder) {
            self.remove(below, changes);
        }
    }

    /// Takes the items of a folder out of sums and look-ups.
    fn forget(&mut self, id: FolderId, items: &[Item], changes: &mut Changes) {
        for item in items {
            if let Some(digest) = item.digest()
                && self.blobs.remove(&(half(digest), id)).is_some()
            {
                changes.dropped.push(digest);
            }
            if let Some(inode) = item.link() {
                self.links.remove(&(inode, id));
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

    /// How many names of an inode there are in which folders.
    pub(super) fn names_of(&self, inode: Inode) -> impl Iterator<Item = (FolderId, u32)> {
        self.links
            .range((inode, FolderId::ROOT)..=(inode, FolderId::NEW))
            .map(|(&(_, id), &names)| (id, names))
    }

    /// Folders that hold one of `inodes` as if that name were its only one: it has got another since then.
    pub(super) fn with_single(&self, inodes: &HashSet<Inode>) -> Vec<FolderId> {
        let single = |item: &Item| !item.linked && inodes.contains(&item.inode);
        let found = self.folders.iter().filter(|(_, folder)| folder.items.iter().any(single));
        found.map(|(id, _)| *id).collect()
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
        if item.stat.token != token {
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
            self.blobs.remove(&(half(digest), id));
            changes.dropped.push(digest);
        }
        if let Some(digest) = state.digest() {
            self.blobs.entry((half(digest), id)).or_insert(place as u32);
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
}

/// The inodes with several names, and their version tokens.
fn linked(items: &[Item]) -> HashMap<Inode, u64> {
    items.iter().filter_map(|item| Some((item.link()?, item.stat.token))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        publish::{item::HashedContent, objects::Written},
        tree::{Content, Kind, Owner},
        types::Timestamp,
    };

    fn file(name: &str, state: State) -> Item {
        Item {
            name: Name::new(name.as_bytes()).unwrap(),
            stat: Stat { mode: 0o644, owner: Owner::Sharer, modified: Timestamp::default(), token: 7 },
            inode: Inode { device: 1, number: 2 },
            linked: false,
            kind: ItemKind::File { size: 3, state },
        }
    }

    fn scanned(items: Vec<Item>) -> Scanned {
        let stat = Stat { mode: 0o755, owner: Owner::Sharer, modified: Timestamp::default(), token: 1 };
        let rules = Rules::defaults();
        Scanned {
            stat,
            items,
            inside: vec![],
            left_out: Box::default(),
            rules,
            ignore_token: None,
            watch: None,
        }
    }

    fn content(bytes: &[u8]) -> HashedContent {
        HashedContent { digest: Digest::of(bytes), extents: None }
    }

    fn root(model: &mut Model) -> Digest {
        let Ok((root, _)) = model.write(&Written::default(), &mut Vec::new());
        root
    }

    #[test]
    fn another_content_under_the_same_times_gets_another_token() {
        let entry = |state: State| {
            let mut model = Model::new();
            model.apply(FolderId::ROOT, scanned(vec![file("f", state)]), &mut Changes::default());
            let entries =
                model.entries(&model.folders[&FolderId::ROOT], &HashMap::new(), &mut HashMap::new());
            entries.into_iter().next().unwrap()
        };
        let first = entry(content(b"1").into());
        let second = entry(State::Revised(Box::new(content(b"2"))));
        let third = entry(State::Revised(Box::new(content(b"3"))));
        assert_eq!(first.attributes.token, 7);
        assert!(second.attributes.token != 7 && second.attributes.token != third.attributes.token);
        assert_eq!(second.kind, Kind::File { size: 3, content: Content::Blob(Digest::of(b"2")) });
    }

    #[test]
    fn contents_are_found_wherever_they_move_in_their_folder() {
        let mut model = Model::new();
        let some = |names: &[&str]| {
            let state = |name: &str| State::from(content(&name.as_bytes()[..1]));
            scanned(names.iter().map(|name| file(name, state(name))).collect())
        };
        let mut changes = Changes::default();
        model.apply(FolderId::ROOT, some(&["a1", "b", "c", "x1"]), &mut changes);
        let before = root(&mut model);
        model.apply(FolderId::ROOT, some(&["a2", "a3", "x1", "x2", "x3"]), &mut changes);
        assert_ne!(root(&mut model), before);
        let found = |model: &Model, name: &str| {
            model.with_content(Digest::of(name.as_bytes()), 9).first().map(|(_, item)| item.name.to_string())
        };
        assert!(found(&model, "a").unwrap().starts_with('a'));
        assert!(found(&model, "x").unwrap().starts_with('x'));
        assert_eq!(found(&model, "b"), None);
        // One of several files with the same content changes.
        let name = Name::new(&b"x1"[..]).unwrap();
        assert!(model.set(FolderId::ROOT, &name, 7, State::Pending, &mut changes));
        assert_eq!(found(&model, "x").as_deref(), Some("x2"));
        assert_eq!(model.sums(), Sums { files: 5, bytes: 15, open_files: 1, open_bytes: 3 });
        assert!(!model.set(FolderId::ROOT, &name, 8, State::Unreadable, &mut changes), "another version");
        assert!(model.set(FolderId::ROOT, &name, 7, State::Unreadable, &mut changes));
        assert_eq!(model.sums(), Sums { files: 5, bytes: 15, open_files: 0, open_bytes: 0 });
        assert_eq!(model.left_out().collect::<Vec<_>>(), [(FolderId::ROOT, &name, Reason::Unreadable)]);
        model.apply(FolderId::ROOT, scanned(vec![]), &mut changes);
        assert_eq!((model.sums(), found(&model, "x")), (Sums::default(), None));
    }
}
