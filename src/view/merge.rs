//! A layer as a whole: what it changes, taking that back, and putting it onto what the owner has made meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    Ino, Mounted, Notice, Reading, Result, View, ViewError,
    change::unchanged_mode,
    node::{Layered, Node, NodeKind, Remote},
};
use crate::{
    layer::{Change, Content, Layer, Meta, Origin, Record, RecordKind, Slot},
    tree::{self, Base, Edit, Kind, NewFile, Step},
    types::{Name, WorkspaceId},
};

/// The attribute of what a merge has put beside the guest's version: the path whose owner's version it is.
pub(super) const CONFLICT: &[u8] = b"user.twinshare.conflict";

/// Files up to this are compared with the owner's, also if parts must be fetched for it.
const COMPARED: u64 = 64 << 20;

/// Bytes of a file that are looked at together.
const PIECE: u32 = 1 << 20;

/// What a layer changes at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The names from the workspace's root.
    pub path: Vec<Name>,
    /// Whether a folder is (or was) there.
    pub is_folder: bool,
    /// What it is.
    pub kind: DifferenceKind,
}

/// How a layer differs from what it lies over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DifferenceKind {
    /// It was made here.
    Made,
    /// Its content or its permissions were changed here.
    Changed,
    /// It was removed here.
    Removed,
    /// It was moved here, with or without changes.
    Moved {
        /// Where the owner has it.
        from: Vec<Name>,
        /// Whether its content was changed as well.
        changed: bool,
    },
    /// The owner's version of a file that both have changed; a merge has put it here.
    Theirs {
        /// The path of the file.
        of: Vec<Name>,
    },
}

/// Where both sides have changed something, and what a merge has done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Which path.
    pub path: Vec<Name>,
    /// What happened.
    pub kind: ConflictKind,
}

/// What a merge met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConflictKind {
    /// Both have changed it, or made it: the guest's stays, the owner's is put beside it under this name.
    Both {
        /// The name of the owner's version, in the same folder.
        theirs: Name,
    },
    /// It was removed here and changed by the owner: the owner's is back.
    RemovedHere,
    /// It was changed here and removed by the owner: the guest's stays.
    RemovedThere,
}

/// A file that goes to the owner with an edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    number: u64,
    name: Name,
    /// Its length in bytes.
    pub size: u64,
}

/// One thing that a layer says.
#[derive(Debug, Clone)]
struct Said {
    path: Vec<Name>,
    /// Where the owner has what shows at this path when nothing is said of it; None in a folder that was made here.
    theirs: Option<Vec<Name>>,
    folder: u64,
    slot: Slot,
    record: Option<Record>,
}

impl Said {
    fn name(&self) -> &Name {
        // Only the root has no name, and nothing is said of that.
        self.path.last().unwrap_or_else(|| unreachable!("what is said is said of a name"))
    }

    fn origin(&self) -> Option<&Origin> {
        self.record.as_ref()?.origin.as_ref()
    }

    fn is_folder(&self) -> bool {
        match (&self.record, &self.slot.over) {
            (Some(record), _) => record.kind == RecordKind::Folder,
            (None, Some(over)) => matches!(over.entry.kind, Kind::Folder { .. }),
            (None, None) => false,
        }
    }

    fn conflict(&self) -> Option<&Vec<u8>> {
        self.record.as_ref()?.meta.xattrs.get(CONFLICT)
    }

    /// Where the owner has it, if that's somewhere else.
    fn moved_from(&self) -> Option<&Vec<Name>> {
        let from = &self.origin()?.path;
        (self.conflict().is_none() && Some(from) != self.theirs.as_ref()).then_some(from)
    }

    fn is_moved(&self) -> bool {
        self.moved_from().is_some()
    }

    /// What the owner had at its place.
    fn over_path(&self) -> Option<&Vec<Name>> {
        self.slot.over.as_ref().map(|over| &over.path)
    }

    fn is_changed(&self) -> bool {
        let Some(record) = &self.record else { return true };
        match &record.origin {
            Some(origin) => has_other_content(record, origin) || has_other_attributes(&record.meta, origin),
            None => true,
        }
    }
}

fn has_other_content(record: &Record, origin: &Origin) -> bool {
    match (&record.kind, &origin.entry.kind) {
        (RecordKind::File(content), Kind::File { size, .. }) => *content != Content::unchanged(*size),
        (RecordKind::Link(target), Kind::Link(known)) => **target != **known,
        (RecordKind::Folder, Kind::Folder { .. }) => false,
        _ => true,
    }
}

fn has_other_attributes(meta: &Meta, origin: &Origin) -> bool {
    meta.mode != unchanged_mode(&origin.entry) || !meta.xattrs.is_empty()
}

/// Whether two versions of the owner's are the same to a reader.
fn is_same(a: &tree::Entry, b: &tree::Entry) -> bool {
    a.kind == b.kind && a.attributes.mode == b.attributes.mode
}

/// All that a layer says below a folder, folders before what is in them. `theirs` is where the owner has the folder.
fn all(layer: &Layer, folder: u64, path: &[Name], theirs: Option<&[Name]>, into: &mut Vec<Said>) {
    for (_, name, slot) in layer.slots(folder, 0, usize::MAX) {
        let path = [path, std::slice::from_ref(&name)].concat();
        let theirs = theirs.map(|theirs| [theirs, &[name]].concat());
        let record = slot.node.and_then(|number| layer.record(number));
        let below =
            slot.node.zip(record.as_ref().filter(|record| record.kind == RecordKind::Folder).cloned());
        into.push(Said { path: path.clone(), theirs, folder, slot, record });
        if let Some((number, Record { origin, .. })) = below {
            all(layer, number, &path, origin.as_ref().map(|origin| &origin.path[..]), into);
        }
    }
}

/// A workspace that is shown, and its layer.
struct Whole {
    mounted: Arc<Mounted>,
    layer: Arc<Layer>,
    root: u64,
}

impl Whole {
    fn said(&self) -> Vec<Said> {
        let mut said = Vec::new();
        all(&self.layer, self.root, &[], Some(&[]), &mut said);
        said
    }
}

impl View {
    /// The workspace and its layer; None if nothing was ever changed in it.
    fn whole(&self, workspace: &WorkspaceId) -> Result<Option<Whole>> {
        let listing = self.listing();
        let mounted = listing.mounted(workspace).ok_or(ViewError::NotFound)?;
        let layers = self.options.layers.as_ref().ok_or(ViewError::ReadOnly)?;
        let root = Remote::unnamed_root(mounted).ino().0;
        let mounted = Arc::new(mounted.clone());
        Ok(layers.get(workspace).map(|layer| Whole { mounted, layer, root }))
    }

    /// All that was changed in a workspace, by path.
    pub fn differences(&self, workspace: &WorkspaceId) -> Result<Vec<Difference>> {
        let Some(whole) = self.whole(workspace)? else { return Ok(Vec::new()) };
        let said = whole.said();
        let moved: BTreeSet<_> = said.iter().filter_map(Said::moved_from).collect();
        let difference = |said: &Said| {
            let kind = match (&said.record, said.origin(), said.conflict()) {
                (_, _, Some(of)) => {
                    let names = of.split(|byte| *byte == b'/').filter_map(|name| Name::new(name).ok());
                    DifferenceKind::Theirs { of: names.collect() }
                }
                (Some(record), Some(origin), None) if said.is_moved() => DifferenceKind::Moved {
                    from: origin.path.clone(),
                    changed: has_other_content(record, origin),
                },
                (Some(_), Some(_), None) if said.is_changed() => DifferenceKind::Changed,
                (Some(_), Some(_), None) => return None,
                (Some(_), None, None) if said.slot.over.is_some() => DifferenceKind::Changed,
                (Some(_), None, None) => DifferenceKind::Made,
                (None, ..) => match &said.slot.over {
                    Some(over) if !moved.contains(&over.path) => DifferenceKind::Removed,
                    _ => return None,
                },
            };
            Some(Difference { path: said.path.clone(), is_folder: said.is_folder(), kind })
        };
        let mut differences: Vec<_> = said.iter().filter_map(difference).collect();
        differences.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(differences)
    }

    /// Both versions of a changed file: the one that it covers and the guest's, each at most `most` bytes; None where there's
    /// none, or no file.
    pub async fn versions(
        &self,
        workspace: &WorkspaceId,
        path: &[Name],
        most: u32,
    ) -> Result<(Option<Vec<u8>>, Option<Vec<u8>>)> {
        let Some(whole) = self.whole(workspace)? else { return Ok((None, None)) };
        let said = whole.said().into_iter().find(|said| said.path == path).ok_or(ViewError::NotFound)?;
        let before = said.origin().cloned().or_else(|| said.slot.over.as_deref().cloned());
        let before = match before.filter(|origin| matches!(origin.entry.kind, Kind::File { .. })) {
            Some(origin) => {
                let node = Node { parent: Ino::ROOT, kind: NodeKind::Remote(whole.remote_at(&origin)) };
                Some(
                    self.read_version(&node, workspace, &origin.entry, 0, most, Reading::ToSee)
                        .await?
                        .to_vec(),
                )
            }
            None => None,
        };
        let is_file = said.record.as_ref().is_some_and(|record| matches!(record.kind, RecordKind::File(_)));
        let now = match said.slot.node.filter(|_| is_file) {
            Some(number) => Some(self.read_said(&whole, number, said.name(), 0, most).await?.to_vec()),
            None => None,
        };
        Ok((before, now))
    }

    async fn read_said(
        &self,
        whole: &Whole,
        number: u64,
        name: &Name,
        offset: u64,
        length: u32,
    ) -> Result<Bytes> {
        let layered = Layered::new(&whole.mounted, &whole.layer, number, name).ok_or(ViewError::NotFound)?;
        let node = Node { parent: Ino::ROOT, kind: NodeKind::Layered(layered.clone()) };
        self.read_layered(&node, &layered, offset, length, Reading::ToSee).await
    }

    /// Takes back what was changed at a path and below; gives the paths. A move is taken back whole.
    pub fn discard(&self, workspace: &WorkspaceId, path: &[Name]) -> Result<Vec<Vec<Name>>> {
        let whole = self.whole(workspace)?.ok_or(ViewError::NotFound)?;
        let said = whole.said();
        let mut chosen = vec![false; said.len()];
        let mut roots = vec![path.to_vec()];
        let covers = by_path(&said, Said::over_path);
        let moves = by_path(&said, Said::moved_from);
        while let Some(root) = roots.pop() {
            for (index, one) in said.iter().enumerate() {
                if chosen[index] || !one.path.starts_with(&root) {
                    continue;
                }
                chosen[index] = true;
                // The other ends of moves: where it came from, and where that which stood here went.
                let from = one.moved_from().and_then(|from| covers.get(from));
                let to = one.over_path().and_then(|over| moves.get(over));
                roots.extend(from.into_iter().chain(to).flatten().map(|end| said[*end].path.clone()));
            }
        }
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for (one, chosen) in said.iter().cloned().zip(chosen) {
            if chosen { gone.push(one) } else { kept.push(one) }
        }
        if gone.is_empty() {
            return Err(ViewError::NotFound);
        }
        let paths = gone.iter().map(|said| said.path.clone()).collect();
        gone.extend(emptied(kept));
        self.take_back(&whole, &gone)?;
        Ok(paths)
    }

    /// Removes what is said from the layer, and has the kernel forget it.
    fn take_back(&self, whole: &Whole, gone: &[Said]) -> Result<()> {
        let mut changes = Vec::new();
        let mut dropped = Vec::new();
        let mut names = HashMap::<u64, u32>::new();
        gone.iter()
            .filter_map(|said| said.slot.node)
            .for_each(|number| *names.entry(number).or_default() += 1);
        for said in gone {
            changes.push(Change::Reveal(said.folder, said.name().clone()));
            if let (Some(number), Some(record)) = (said.slot.node, &said.record) {
                let names = names[&number];
                // The owner's other names of a hard link show it by its number alone.
                if names >= record.meta.links || record.origin.is_some() || record.kind == RecordKind::Folder
                {
                    changes.push(Change::Drop(number));
                    dropped.push((number, record.origin.clone()));
                } else {
                    let meta = Meta { links: record.meta.links - names, ..record.meta.clone() };
                    changes.push(Change::Meta(number, meta));
                }
            }
        }
        let mut table = self.table();
        whole.layer.apply(changes)?;
        for (number, origin) in &dropped {
            // Whoever has it open reads on in the version that was changed; what was made here is gone.
            if let Some(origin) = origin {
                table.put_back(Ino(*number), NodeKind::Remote(whole.remote_at(origin)));
            }
        }
        table.next_generation();
        drop(table);
        let lane = Self::lane(&whole.mounted.id);
        for said in gone {
            let parent = Ino(said.folder);
            self.notify(lane, Notice::Entry { parent, name: said.name().clone() });
            self.notify(lane, Notice::Content(parent));
        }
        dropped.into_iter().for_each(|(number, _)| self.notify(lane, Notice::Content(Ino(number))));
        Ok(())
    }

    /// Puts a workspace's layer onto the owner's newest snapshot; gives where both have changed something. Nothing of either
    /// side is lost.
    pub async fn pull(&self, workspace: &WorkspaceId) -> Result<Vec<Conflict>> {
        let Some(whole) = self.whole(workspace)? else { return Ok(Vec::new()) };
        let mut conflicts = Vec::new();
        loop {
            let mut again = false;
            let all = whole.said();
            let moves = by_path(&all, Said::moved_from);
            for said in &all {
                // An earlier step may have changed what is said of it.
                if whole.layer.slot(said.folder, said.name()).as_ref() != Some(&said.slot) {
                    again = true;
                    continue;
                }
                let moved = said.over_path().and_then(|over| moves.get(over)?.first());
                if let Some(kind) = self.pull_one(&whole, said, moved.map(|index| &all[*index])).await? {
                    conflicts.push(Conflict { path: said.path.clone(), kind });
                }
            }
            if !again {
                break;
            }
        }
        // What has become the owner's needs nothing said of the folders around it.
        let gone = emptied(whole.said()).into_iter().filter(|said| whole.is_the_owners(said));
        self.take_back(&whole, &gone.collect::<Vec<_>>())?;
        Ok(conflicts)
    }

    /// What the owner's folder needs to become what is shown here, and the files that go with it, in order.
    pub fn edit(&self, workspace: &WorkspaceId) -> Result<(Edit, Vec<Pushed>)> {
        let Some(whole) = self.whole(workspace)? else { return Ok(Default::default()) };
        let said = whole.said();
        let moved: BTreeSet<_> = said.iter().filter_map(Said::moved_from).collect();
        let (mut edit, mut files) = (Edit::default(), Vec::new());
        for said in said.iter().filter(|said| said.conflict().is_none()) {
            let over = said.slot.over.as_deref();
            let goes = over.is_some_and(|over| moved.contains(&over.path));
            let base =
                |origin: &Origin| Base { path: origin.path.clone(), entry: Some(origin.entry.clone()) };
            let (Some(record), Some(number)) = (&said.record, said.slot.node) else {
                if let Some(over) = over.filter(|_| !goes) {
                    edit.bases.push(base(over));
                    edit.steps.push(Step::Remove(over.path.clone()));
                }
                continue;
            };
            let origin = said.origin();
            if said.is_moved() {
                let from = origin.map(|origin| origin.path.clone()).unwrap_or_default();
                edit.bases.extend(origin.filter(|_| record.kind != RecordKind::Folder).map(base));
                edit.steps.push(Step::Move(from, said.path.clone()));
            } else if !said.is_changed() {
                continue;
            }
            // What it takes the place of.
            match over {
                Some(over) if !goes => {
                    edit.bases.push(base(over));
                    let is_file = matches!(over.entry.kind, Kind::File { .. } | Kind::Link(_));
                    if !is_file || said.is_moved() || record.kind == RecordKind::Folder {
                        edit.steps.push(Step::Remove(over.path.clone()));
                    }
                }
                Some(_) => {}
                None => edit.bases.extend(said.theirs.clone().map(|path| Base { path, entry: None })),
            }
            let is_new = origin.is_none_or(|origin| has_other_content(record, origin));
            let path = said.path.clone();
            match &record.kind {
                RecordKind::File(content) if is_new => {
                    let (mode, modified) = (record.meta.mode, record.meta.modified);
                    edit.steps.push(Step::File(path, NewFile { mode, modified, size: content.size }));
                    files.push(Pushed { number, name: said.name().clone(), size: content.size });
                }
                RecordKind::Folder if is_new => edit.steps.push(Step::Folder(path, record.meta.mode)),
                RecordKind::Link(target) if is_new => edit.steps.push(Step::Link(path, target.clone())),
                RecordKind::File(_) | RecordKind::Folder
                    if origin.is_some_and(|origin| has_other_attributes(&record.meta, origin)) =>
                {
                    edit.steps.push(Step::Mode(path, record.meta.mode));
                }
                // What is no file, folder or link isn't shared, so it stays here.
                _ => {}
            }
        }
        Ok((edit, files))
    }

    /// Up to `length` bytes from `offset` of a file that goes to the owner.
    pub async fn read_pushed(
        &self,
        workspace: &WorkspaceId,
        file: &Pushed,
        offset: u64,
        length: u32,
    ) -> Result<Bytes> {
        let whole = self.whole(workspace)?.ok_or(ViewError::NotFound)?;
        self.read_said(&whole, file.number, &file.name, offset, length).await
    }

    /// Merges one name; `moved` is where that which stood there was moved to.
    async fn pull_one(
        &self,
        whole: &Whole,
        said: &Said,
        moved: Option<&Said>,
    ) -> Result<Option<ConflictKind>> {
        if said.conflict().is_some() {
            return Ok(None);
        }
        let base = said.slot.over.as_deref();
        let theirs_at = base.map(|base| &base.path).or(said.theirs.as_ref());
        let theirs = match theirs_at {
            Some(path) => self.walk(Remote::unnamed_root(&whole.mounted), path).await?,
            None => None,
        };
        match (&said.record, base, theirs) {
            // Nothing new from the owner.
            (_, None, None) => Ok(None),
            (_, Some(base), Some(theirs)) if is_same(&base.entry, &theirs.entry) => {
                if base.entry.attributes.token != theirs.entry.attributes.token {
                    self.rebase(whole, said, Some(theirs.origin(&base.path)))?;
                }
                Ok(None)
            }
            // Removed here.
            (None, Some(_), None) => self.take_back(whole, std::slice::from_ref(said)).map(|()| None),
            (None, Some(_), Some(theirs)) => {
                if let Some(moved) = moved.and_then(|moved| whole.as_it_is(moved))
                    && self.follow(whole, said, &moved, &theirs)?
                {
                    return Ok(None);
                }
                self.take_back(whole, std::slice::from_ref(said))?;
                Ok(Some(ConflictKind::RemovedHere))
            }
            (None, None, _) => Ok(None),
            // Removed there.
            (Some(_), Some(_), None) if said.is_folder() || said.is_changed() || said.is_moved() => {
                self.rebase(whole, said, None)?;
                Ok((!said.is_folder()).then_some(ConflictKind::RemovedThere))
            }
            (Some(_), Some(_), None) => self.take_back(whole, std::slice::from_ref(said)).map(|()| None),
            // Folders are put together name by name.
            (Some(record), _, Some(theirs))
                if record.kind == RecordKind::Folder && matches!(theirs.entry.kind, Kind::Folder { .. }) =>
            {
                self.join(whole, said, &theirs)?;
                Ok(None)
            }
            (Some(_), Some(_), Some(_)) if !said.is_changed() && !said.is_moved() => {
                self.take_back(whole, std::slice::from_ref(said))?;
                Ok(None)
            }
            (Some(record), _, Some(theirs)) => {
                if self.has_same_content(whole, said, record, &theirs).await? {
                    self.take_back(whole, std::slice::from_ref(said))?;
                    return Ok(None);
                }
                let name = self.put_beside(whole, said, &theirs)?;
                Ok(Some(ConflictKind::Both { theirs: name }))
            }
        }
    }

    /// Gives what was moved here the owner's new content, if nothing but its name was changed here. Gives whether that's so.
    fn follow(&self, whole: &Whole, from: &Said, moved: &Said, theirs: &Remote) -> Result<bool> {
        let Some(origin) = moved.origin() else { return Ok(false) };
        let theirs_origin = theirs.origin(&origin.path);
        if moved.is_folder() && matches!(theirs.entry.kind, Kind::Folder { .. }) {
            self.rebase(whole, from, Some(theirs_origin))?;
            return Ok(true);
        }
        let (Some(number), Some(record)) = (moved.slot.node, &moved.record) else { return Ok(false) };
        if has_other_content(record, origin) || record.meta.links > 1 {
            return Ok(false);
        }
        let mut followed = self.record_of(theirs, theirs_origin.clone());
        if has_other_attributes(&record.meta, origin) {
            (followed.meta.mode, followed.meta.xattrs) = (record.meta.mode, record.meta.xattrs.clone());
        }
        self.rebase(whole, from, Some(theirs_origin))?;
        let new = theirs.ino().0;
        let (folder, name) = (moved.folder, moved.name().clone());
        let mut table = self.table();
        whole.layer.apply(vec![
            Change::Put(new, Box::new(followed)),
            Change::Bind(folder, name.clone(), new),
            Change::Drop(number),
        ])?;
        table.put_back(Ino(number), NodeKind::Remote(whole.remote_at(origin)));
        table.next_generation();
        drop(table);
        self.notify(Self::lane(&whole.mounted.id), Notice::Entry { parent: Ino(folder), name });
        Ok(true)
    }

    /// Notes that a name covers another version of the owner's from now on, or none.
    fn rebase(&self, whole: &Whole, said: &Said, over: Option<Origin>) -> Result<()> {
        let (folder, name) = (said.folder, said.name().clone());
        let mut changes = vec![Change::Reveal(folder, name.clone())];
        changes.extend(over.map(|over| Change::Cover(folder, name.clone(), Box::new(over))));
        changes.extend(said.slot.node.map(|number| Change::Bind(folder, name, number)));
        Ok(whole.layer.apply(changes)?)
    }

    /// A folder that both have: what the owner has in it shows through the guest's.
    fn join(&self, whole: &Whole, said: &Said, theirs: &Remote) -> Result<()> {
        let over = theirs.origin(said.over_path().unwrap_or(&said.path));
        self.rebase(whole, said, Some(over.clone()))?;
        if let (Some(number), Some(record)) = (said.slot.node, &said.record)
            && record.origin.as_ref() != Some(&over)
        {
            // Both have made it, or moved it.
            let joined = Record { origin: Some(over), ..record.clone() };
            whole.layer.apply(vec![Change::Put(number, Box::new(joined))])?;
            self.notify(Self::lane(&whole.mounted.id), Notice::Content(Ino(number)));
        }
        Ok(())
    }

    async fn has_same_content(
        &self,
        whole: &Whole,
        said: &Said,
        record: &Record,
        theirs: &Remote,
    ) -> Result<bool> {
        let (Kind::File { size, content }, RecordKind::File(own)) = (&theirs.entry.kind, &record.kind) else {
            return Ok(match (&theirs.entry.kind, &record.kind) {
                (Kind::Link(theirs), RecordKind::Link(own)) => **theirs == **own,
                _ => false,
            });
        };
        let (tree::Content::Blob(digest), Some(number)) = (content, said.slot.node) else { return Ok(false) };
        if own.size != *size || record.meta.mode & 0o100 != theirs.entry.attributes.mode & 0o100 {
            return Ok(false);
        }
        if let Some(origin) = &record.origin
            && !has_other_content(record, origin)
        {
            return Ok(origin.entry.kind == theirs.entry.kind);
        }
        // What is here can be looked at whatever its size; what would have to be fetched isn't worth it.
        if own.shows > 0 && *size > COMPARED {
            return Ok(false);
        }
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < *size {
            let piece = self.read_said(whole, number, said.name(), at, PIECE).await?;
            if piece.is_empty() {
                return Ok(false);
            }
            at += piece.len() as u64;
            hasher.update(&piece);
        }
        Ok(crate::types::Digest::from_bytes(*hasher.finalize().as_bytes()) == *digest)
    }

    /// Puts the owner's version beside the guest's; its content comes when it's read, as ever.
    fn put_beside(&self, whole: &Whole, said: &Said, theirs: &Remote) -> Result<Name> {
        let over = theirs.origin(said.over_path().unwrap_or(&said.path));
        let name = free_name(&whole.layer, said, &whole.mounted);
        self.rebase(whole, said, Some(over.clone()))?;
        let number = whole.layer.fresh();
        let mut record = self.record_of(theirs, over);
        record.meta.links = 1;
        record.meta.xattrs.insert(CONFLICT.to_vec(), Name::join(&said.path));
        let record = Box::new(record);
        let changes = vec![Change::Put(number, record), Change::Bind(said.folder, name.clone(), number)];
        let mut table = self.table();
        whole.layer.apply(changes)?;
        table.next_generation();
        drop(table);
        let (lane, parent) = (Self::lane(&whole.mounted.id), Ino(said.folder));
        self.notify(lane, Notice::Entry { parent, name: name.clone() });
        self.notify(lane, Notice::Content(parent));
        Ok(name)
    }
}

impl Whole {
    /// What is said of a name now, if it's still there.
    fn as_it_is(&self, said: &Said) -> Option<Said> {
        let slot = self.layer.slot(said.folder, said.name())?;
        let record = self.layer.record(slot.node?);
        Some(Said { slot, record, ..said.clone() }).filter(Said::is_moved)
    }

    /// Whether a folder of the layer has the number that it would have without.
    fn is_the_owners(&self, said: &Said) -> bool {
        said.origin().is_some_and(|origin| Some(self.remote_at(origin).ino().0) == said.slot.node)
    }

    /// The node that one of the owner's versions is.
    fn remote_at(&self, origin: &Origin) -> Remote {
        let Origin { path, entry } = origin;
        let mut at = Remote::unnamed_root(&self.mounted);
        let folder = |name: &Name| {
            let mut folder = (*Remote::unnamed_root(&self.mounted).entry).clone();
            folder.name = name.clone();
            Arc::new(folder)
        };
        let Some((_, above)) = path.split_last() else { return at };
        for name in above {
            at = at.child(&folder(name));
        }
        at.child(&Arc::new(entry.clone()))
    }
}

/// Of what is said, the folders that say nothing of their own and hold nothing that does, deepest first.
fn emptied(said: Vec<Said>) -> Vec<Said> {
    let (mut holding, mut gone) = (HashSet::new(), Vec::new());
    // What is in a folder comes behind it.
    for said in said.into_iter().rev() {
        let holds = said.slot.node.is_some_and(|number| holding.contains(&number));
        if !said.is_folder() || said.origin().is_none() || said.is_moved() || said.is_changed() || holds {
            holding.insert(said.folder);
        } else {
            gone.push(said);
        }
    }
    gone
}

/// Positions of what is said, by a path of it.
fn by_path<'a>(
    said: &'a [Said],
    path: impl Fn(&'a Said) -> Option<&'a Vec<Name>>,
) -> BTreeMap<&'a Vec<Name>, Vec<usize>> {
    let mut positions = BTreeMap::<_, Vec<usize>>::new();
    for (index, one) in said.iter().enumerate() {
        if let Some(path) = path(one) {
            positions.entry(path).or_default().push(index);
        }
    }
    positions
}

/// A name that nobody mistakes for the guest's: the host and the snapshot before the extension.
fn free_name(layer: &Layer, said: &Said, mounted: &Mounted) -> Name {
    let snapshot = mounted.root.map(|root| root.short()).unwrap_or_default();
    let own = said.name().as_bytes();
    let (stem, extension) = match own.iter().rposition(|byte| *byte == b'.') {
        Some(dot) if dot > 0 => own.split_at(dot),
        _ => (own, &b""[..]),
    };
    for count in 1.. {
        let number = if count == 1 { String::new() } else { format!("-{count}") };
        let mark = format!(".{}-{snapshot}{number}", mounted.host);
        let room = 255_usize.saturating_sub(mark.len() + extension.len());
        let bytes = [&stem[..stem.len().min(room)], mark.as_bytes(), extension].concat();
        let Ok(name) = Name::new(bytes) else { continue };
        if layer.slot(said.folder, &name).is_none() {
            return name;
        }
    }
    unreachable!("one of the names is free")
}
