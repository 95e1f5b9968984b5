use std::collections::HashMap;

use super::{
    item::{Item, ItemKind, Stat, State},
    model::{Folder, FolderId, Model},
    place::{Inode, number},
};
use crate::{
    tree::{Attributes, Entry, HardLink, Kind, Totals, TreeSink, write_folder},
    types::{Digest, Name},
};

/// The objects of folders that are written, and what is below them.
type Trees = HashMap<FolderId, (Digest, Totals)>;

/// The hard link groups that were looked up.
type Groups = HashMap<Inode, Option<HardLink>>;

impl Model {
    /// Writes the objects of all folders that changed, and gives the root's digest and sums.
    ///
    /// `released` gets the objects that folders had before.
    pub(super) fn write<S: TreeSink>(
        &mut self,
        sink: &S,
        released: &mut Vec<Digest>,
    ) -> Result<(Digest, Totals), S::Error> {
        let root = self.write_below(FolderId::ROOT, &mut Groups::new(), sink, released)?;
        match root {
            Some(written) => Ok(written),
            // Not reached: the root is never removed.
            None => Ok((write_folder(&[], sink)?, Totals::default())),
        }
    }

    /// Writes a folder; nothing if it was removed while the one above was looked at, which will be seen at the next look.
    fn write_below<S: TreeSink>(
        &mut self,
        id: FolderId,
        groups: &mut Groups,
        sink: &S,
        released: &mut Vec<Digest>,
    ) -> Result<Option<(Digest, Totals)>, S::Error> {
        let Some(folder) = self.folders.get(&id) else { return Ok(None) };
        if let (Some(totals), Some(object)) = (folder.written, folder.object) {
            return Ok(Some((object, totals)));
        }
        let below: Vec<FolderId> = folder.items.iter().filter_map(Item::folder).collect();
        let mut trees = Trees::with_capacity(below.len());
        for id in below {
            trees.extend(self.write_below(id, groups, sink, released)?.map(|written| (id, written)));
        }
        let Some(folder) = self.folders.get(&id) else { return Ok(None) };
        let entries = self.entries(folder, &trees, groups);
        let mut totals = Totals::default();
        entries.iter().for_each(|entry| totals.add(entry.kind.totals()));
        let object = write_folder(&entries, sink)?;
        if let Some(folder) = self.folders.get_mut(&id) {
            folder.written = Some(totals);
            released.extend(folder.object.replace(object));
        }
        Ok(Some((object, totals)))
    }

    /// What a folder publishes.
    pub(super) fn entries(&self, folder: &Folder, trees: &Trees, groups: &mut Groups) -> Vec<Entry> {
        let entry = |item: &Item| {
            let Stat { mode, owner, modified, mut token } = item.stat;
            let kind = match &item.kind {
                ItemKind::Folder(id) => {
                    // A folder's version is its digest. A token that changed with every new name in it would give
                    // the folder another inode number at the guest each time.
                    token = 0;
                    let (tree, totals) = *trees.get(id)?;
                    Kind::Folder { tree, totals }
                }
                ItemKind::File { size, state } => {
                    if let State::Revised(content) = state {
                        token = number(&blake3::keyed_hash(content.digest.as_bytes(), &token.to_le_bytes()));
                    }
                    Kind::File { size: *size, content: state.content()? }
                }
                ItemKind::Link(target) => Kind::Link(target.clone()),
            };
            // Only files are published as groups, but a new name of a symbolic link changes the others' versions too.
            let link = item
                .link()
                .filter(|_| matches!(kind, Kind::File { .. }))
                .and_then(|inode| *groups.entry(inode).or_insert_with(|| self.group(inode)));
            Some(Entry {
                name: item.name.clone(),
                attributes: Attributes { mode, owner, modified, token, link },
                kind,
            })
        };
        folder.items.iter().filter_map(entry).collect()
    }

    /// The hard link group of an inode, if the workspace has two or more names of it.
    fn group(&self, inode: Inode) -> Option<HardLink> {
        let count = self.names_of(inode).map(|(_, names)| names).fold(0, u32::saturating_add);
        if count < 2 {
            return None;
        }
        let first = self.names_of(inode).filter_map(|(id, _)| {
            let first = self.folders.get(&id)?.items.iter().find(|item| item.link() == Some(inode))?;
            let mut path = self.path(id);
            path.push(first.name.clone());
            Some(Name::join(&path))
        });
        first.min().map(|path| HardLink { group: number(&blake3::hash(&path)), count })
    }
}
