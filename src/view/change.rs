//! Everything that changes the view. What changes goes into the workspace's layer; the owner's content is never touched.
//!
//! Nothing is fetched but the folders that a name stands in. The owner's file or folder becomes one of the layer
//! (it is *raised*) at its first change, together with the folders around it; its number stays the same.

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard},
    time::SystemTime,
};

use super::{
    Attr, Ino, OWN_ATTRIBUTES, Result, View, ViewError,
    layered::At,
    node::{Layered, Node, NodeKind, Remote, Table},
};
use crate::{
    layer::{Change, Content, FileKind, Layer, Meta, Origin, Record, RecordKind, Seek},
    tree::{self, Kind},
    types::{Name, Timestamp},
};

/// Names that one file may have, as on ext4.
const MOST_LINKS: u32 = 65_000;

/// Extended attributes of a file take so many bytes at most, as the kernel's own limit for one.
const MOST_ATTRIBUTES: usize = 64 << 10;

/// Whom something new belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Maker {
    /// The user.
    pub uid: u32,
    /// The user's group.
    pub gid: u32,
    /// Permission bits, with the umask applied.
    pub mode: u16,
}

/// What is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum New {
    /// An empty file.
    File,
    /// An empty folder.
    Folder,
    /// A symbolic link with this target.
    Link(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device with this number.
    Character(u32),
    /// A block device with this number.
    Block(u32),
}

/// What happens to what the new name stood for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rename {
    /// It's removed.
    Replace,
    /// Nothing: then it isn't renamed.
    Keep,
    /// It takes the old name.
    Exchange,
}

/// What is set; None stays as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Set {
    /// Permission bits.
    pub mode: Option<u16>,
    /// The user.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// The length in bytes.
    pub size: Option<u64>,
    /// When it was last read.
    pub accessed: Option<Timestamp>,
    /// When its content last changed.
    pub modified: Option<Timestamp>,
    /// Whether set-user-id and set-group-id end with this change: the caller isn't root.
    pub drops_privileges: bool,
}

/// What happens to a range of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// Space is reserved for it.
    Reserve,
    /// It becomes zero.
    Zero,
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

/// A change of one workspace, which is put together and then made at once.
struct Edit<'a> {
    view: &'a View,
    table: MutexGuard<'a, Table>,
    workspace: Arc<super::Mounted>,
    layer: Arc<Layer>,
    now: Timestamp,
    puts: BTreeMap<u64, Record>,
    metas: BTreeMap<u64, Meta>,
    names: Vec<Change>,
    drops: Vec<u64>,
    raised: Vec<(Ino, Name)>,
}

impl<'a> Edit<'a> {
    /// Begins a change in the workspace of `node`.
    fn new(view: &'a View, table: MutexGuard<'a, Table>, node: &Node) -> Result<Self> {
        let layers = view.options.layers.as_ref().ok_or(ViewError::ReadOnly)?;
        let (workspace, layer) = match &node.kind {
            NodeKind::Layered(layered) => (layered.workspace.clone(), layered.layer.clone()),
            NodeKind::Remote(remote) => (remote.workspace.clone(), layers.begin(&remote.workspace.id)?),
            _ => return Err(ViewError::ReadOnly),
        };
        let (puts, metas, names, drops, raised) = Default::default();
        Ok(Self { view, table, workspace, layer, now: now(), puts, metas, names, drops, raised })
    }

    /// Where the owner has (or had) a name of a folder of the layer.
    fn child_path(&self, folder: u64, name: &Name) -> Vec<Name> {
        let above = match self.puts.get(&folder) {
            Some(record) => record.origin.as_ref().map(|origin| origin.path.clone()),
            None => self.layer.origin_path(folder),
        };
        let mut path = above.unwrap_or_default();
        path.push(name.clone());
        path
    }

    fn is_folder(&self, number: u64) -> bool {
        match self.puts.get(&number) {
            Some(record) => record.kind == RecordKind::Folder,
            None => self.layer.kind(number) == Some(FileKind::Folder),
        }
    }

    /// Makes sure that the layer holds a node and all folders around it; gives its number there.
    fn raise(&mut self, ino: Ino) -> Result<u64> {
        let node = self.table.get(ino).ok_or(ViewError::UnknownInode(ino.0))?;
        self.raise_node(ino, &node)?;
        Ok(ino.0)
    }

    /// The owner's version that a node of this workspace is; none if it's the layer's already.
    fn unraised<'n>(&self, node: &'n Node) -> Result<Option<&'n Remote>> {
        match &node.kind {
            NodeKind::Layered(layered) if layered.workspace.id == self.workspace.id => Ok(None),
            NodeKind::Remote(remote) if remote.workspace.id == self.workspace.id => Ok(Some(remote)),
            NodeKind::Layered(_) | NodeKind::Remote(_) => Err(ViewError::Elsewhere),
            _ => Err(ViewError::ReadOnly),
        }
    }

    fn raise_node(&mut self, ino: Ino, node: &Node) -> Result<()> {
        let Some(remote) = self.unraised(node)? else { return Ok(()) };
        if self.puts.contains_key(&ino.0) {
            return Ok(());
        }
        if remote.depth == 0 {
            self.put(ino, remote, Vec::new());
            return Ok(());
        }
        let name = remote.entry.name.clone();
        // A name of a hard link may have been forgotten while another is still in use.
        if self.table.get(node.parent).is_none() {
            self.put(ino, remote, vec![name]);
            return Ok(());
        }
        let parent = self.raise(node.parent)?;
        let origin = self.put_child(parent, ino, remote);
        self.names.push(Change::Cover(parent, name.clone(), Box::new(origin)));
        self.names.push(Change::Bind(parent, name, ino.0));
        Ok(())
    }

    /// Makes sure that the layer holds what a name stands for, without saying that it does; gives its number.
    fn raise_child(&mut self, parent: u64, kind: NodeKind) -> Result<u64> {
        let (ino, node) = self.table.preview(Ino(parent), kind);
        if let Some(remote) = self.unraised(&node)?
            && !self.puts.contains_key(&ino.0)
        {
            self.put_child(parent, ino, remote);
        }
        Ok(ino.0)
    }

    fn put_child(&mut self, parent: u64, ino: Ino, remote: &Remote) -> Origin {
        let path = self.child_path(parent, &remote.entry.name);
        self.put(ino, remote, path)
    }

    fn put(&mut self, ino: Ino, remote: &Remote, path: Vec<Name>) -> Origin {
        let origin = remote.origin(&path);
        self.puts.insert(ino.0, self.view.record_of(remote, origin.clone()));
        self.raised.push((ino, remote.entry.name.clone()));
        origin
    }

    /// What `stat` tells of a node, to be changed.
    fn meta(&mut self, number: u64) -> Result<&mut Meta> {
        if !self.metas.contains_key(&number) {
            let meta = match self.puts.get(&number) {
                Some(record) => record.meta.clone(),
                None => self.layer.stat(number).ok_or(ViewError::UnknownInode(number))?.meta,
            };
            self.metas.insert(number, meta);
        }
        self.metas.get_mut(&number).ok_or(ViewError::UnknownInode(number))
    }

    /// Notes that a folder's names change; fails if it has been removed.
    fn touch(&mut self, folder: u64) -> Result<()> {
        let now = self.now;
        let meta = self.meta(folder)?;
        if meta.links == 0 {
            return Err(ViewError::NotFound);
        }
        (meta.modified, meta.changed) = (now, now);
        Ok(())
    }

    /// Counts a folder in or out of the one around it. Only what was made here counts its folders: of the owner's it isn't
    /// known without looking, and 1 says so.
    fn count(&mut self, folder: u64, child: u64, more: bool) -> Result<()> {
        let is_folder = self.is_folder(child);
        let meta = self.meta(folder)?;
        if is_folder && meta.links >= 2 {
            meta.links = if more { meta.links + 1 } else { (meta.links - 1).max(2) };
        }
        Ok(())
    }

    /// Hides what the owner has at a name from now on.
    fn cover(&mut self, folder: u64, name: &Name, lower: Option<&Remote>) {
        let Some(remote) = lower else { return };
        let origin = remote.origin(&self.child_path(folder, name));
        self.names.push(Change::Cover(folder, name.clone(), Box::new(origin)));
    }

    fn unbind(&mut self, folder: u64, name: &Name, lower: Option<&Remote>) {
        self.names.push(Change::Unbind(folder, name.clone()));
        self.cover(folder, name, lower);
    }

    fn bind(&mut self, folder: u64, name: &Name, number: u64, lower: Option<&Remote>) {
        self.cover(folder, name, lower);
        self.names.push(Change::Bind(folder, name.clone(), number));
    }

    /// Takes a name away from a node. The last one gone, it's there until the kernel forgets it.
    fn unlink(&mut self, number: u64) -> Result<()> {
        let now = self.now;
        let is_folder = self.is_folder(number);
        let meta = self.meta(number)?;
        meta.links = if is_folder { 0 } else { meta.links.saturating_sub(1) };
        meta.changed = now;
        if meta.links == 0 && !self.table.contains(Ino(number)) {
            self.drops.push(number);
        }
        Ok(())
    }

    /// Makes the change, and gives the table back.
    fn commit(mut self) -> Result<MutexGuard<'a, Table>> {
        let mut changes = Vec::new();
        for (number, mut record) in std::mem::take(&mut self.puts) {
            if let Some(meta) = self.metas.remove(&number) {
                record.meta = meta;
            }
            changes.push(Change::Put(number, Box::new(record)));
        }
        changes.extend(self.metas.into_iter().map(|(number, meta)| Change::Meta(number, meta)));
        changes.append(&mut self.names);
        changes.extend(self.drops.into_iter().map(Change::Drop));
        if !changes.is_empty() {
            self.layer.apply(changes)?;
        }
        for (ino, name) in self.raised {
            if let Some(layered) = Layered::new(&self.workspace, &self.layer, ino.0, &name) {
                self.table.replace(ino, NodeKind::Layered(layered));
            }
        }
        Ok(self.table)
    }
}

impl Edit<'_> {
    /// Makes a change that gives a node a name, and counts one look-up of it.
    fn commit_entry(self, parent: Ino, name: &Name, number: u64) -> Result<Attr> {
        let (view, workspace, layer) = (self.view, self.workspace.clone(), self.layer.clone());
        let mut table = self.commit()?;
        let layered = Layered::new(&workspace, &layer, number, name).ok_or(ViewError::NotFound)?;
        let (ino, node) = table.enter(parent, NodeKind::Layered(layered));
        drop(table);
        Ok(view.attr(ino, &node))
    }
}

/// Fails if the table's view of a folder isn't the one that a change was prepared with: it must be prepared again.
macro_rules! still {
    ($table:expr, $ino:expr, $node:expr, $generation:expr) => {
        if !$table.is_current($ino, &$node, $generation) {
            continue;
        }
    };
}

impl View {
    /// What the layer holds of one of the owner's that nothing was changed of yet.
    pub(super) fn record_of(&self, remote: &Remote, origin: Origin) -> Record {
        let attributes = &remote.entry.attributes;
        let kind = match &remote.entry.kind {
            Kind::Folder { .. } => RecordKind::Folder,
            Kind::File { size, .. } => RecordKind::File(Content::unchanged(*size)),
            Kind::Link(target) => RecordKind::Link(target.to_vec()),
        };
        let (uid, gid) = self.owned_by(attributes.owner);
        let meta = Meta {
            mode: unchanged_mode(&remote.entry),
            uid,
            gid,
            links: attributes.link.map_or(1, |link| link.count),
            accessed: attributes.modified,
            modified: attributes.modified,
            changed: attributes.modified,
            xattrs: BTreeMap::new(),
        };
        Record { meta, origin: Some(origin), kind }
    }

    /// Makes something new, and counts one look-up of it.
    pub async fn make(&self, parent: Ino, name: &[u8], new: New, maker: Maker) -> Result<Attr> {
        let name = Name::new(name)?;
        loop {
            let (folder, generation) = self.node_now(parent)?;
            self.writable(&folder)?;
            let At { shown, lower } = self.at(&folder, &name).await?;
            if shown.is_some() {
                return Err(ViewError::Exists);
            }
            let table = self.table();
            still!(table, parent, folder, generation);
            let mut edit = Edit::new(self, table, &folder)?;
            let parent_number = edit.raise(parent)?;
            edit.touch(parent_number)?;
            let above = edit.meta(parent_number)?.clone();
            let (number, time) = (edit.layer.fresh(), edit.now);
            // As everywhere: in a folder with the set-group-id bit all has the folder's group.
            let inherits = above.mode & 0o2000 != 0;
            let mode = if inherits && new == New::Folder { maker.mode | 0o2000 } else { maker.mode };
            let kind = match new.clone() {
                New::File => RecordKind::File(Content::default()),
                New::Folder => RecordKind::Folder,
                New::Link(target) => RecordKind::Link(target),
                New::Fifo => RecordKind::Fifo,
                New::Socket => RecordKind::Socket,
                New::Character(device) => RecordKind::Character(device),
                New::Block(device) => RecordKind::Block(device),
            };
            let meta = Meta {
                mode,
                uid: maker.uid,
                gid: if inherits { above.gid } else { maker.gid },
                links: if new == New::Folder { 2 } else { 1 },
                accessed: time,
                modified: time,
                changed: time,
                xattrs: BTreeMap::new(),
            };
            edit.puts.insert(number, Record { meta, origin: None, kind });
            edit.count(parent_number, number, true)?;
            edit.bind(parent_number, &name, number, lower.as_ref());
            return edit.commit_entry(parent, &name, number);
        }
    }

    /// Fails early for what is nobody's workspace, and where nothing may be changed.
    fn writable(&self, node: &Node) -> Result<()> {
        match (&node.kind, &self.options.layers) {
            (NodeKind::Remote(remote), Some(_)) if !remote.workspace.fixed => Ok(()),
            (NodeKind::Layered(_), Some(_)) => Ok(()),
            _ => Err(ViewError::ReadOnly),
        }
    }

    /// Fails if something can't go: a folder where a file is meant, or the other way round, or a folder that isn't empty.
    async fn can_go(&self, kind: &NodeKind, as_folder: bool) -> Result<()> {
        match (as_folder, kind.is_folder()) {
            (true, false) => Err(ViewError::NotFolder),
            (false, true) => Err(ViewError::IsFolder),
            (true, true) if !self.is_empty(kind).await? => Err(ViewError::NotEmpty),
            _ => Ok(()),
        }
    }

    /// Removes a name: of a folder, which must be empty, or of anything else.
    pub async fn remove(&self, parent: Ino, name: &[u8], is_folder: bool) -> Result<()> {
        let name = Name::new(name)?;
        loop {
            let (folder, generation) = self.node_now(parent)?;
            self.writable(&folder)?;
            let At { shown, lower } = self.at(&folder, &name).await?;
            let child = shown.ok_or(ViewError::NotFound)?;
            self.can_go(&child, is_folder).await?;
            let table = self.table();
            still!(table, parent, folder, generation);
            let mut edit = Edit::new(self, table, &folder)?;
            let parent_number = edit.raise(parent)?;
            edit.touch(parent_number)?;
            let number = edit.raise_child(parent_number, child)?;
            edit.unlink(number)?;
            edit.count(parent_number, number, false)?;
            edit.unbind(parent_number, &name, lower.as_ref());
            drop(edit.commit()?);
            return Ok(());
        }
    }

    /// Gives something another name, in another folder perhaps.
    pub async fn rename(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), how: Rename) -> Result<()> {
        let (old_name, new_name) = (Name::new(from.1)?, Name::new(to.1)?);
        loop {
            let (old_folder, generation) = self.node_now(from.0)?;
            let (new_folder, _) = self.node_now(to.0)?;
            self.writable(&old_folder)?;
            self.writable(&new_folder)?;
            let At { shown: moved, lower: old_lower } = self.at(&old_folder, &old_name).await?;
            let moved = moved.ok_or(ViewError::NotFound)?;
            let At { shown: replaced, lower: new_lower } = self.at(&new_folder, &new_name).await?;
            match (&replaced, how) {
                (Some(_), Rename::Keep) => return Err(ViewError::Exists),
                (None, Rename::Exchange) => return Err(ViewError::NotFound),
                (Some(replaced), Rename::Replace) => self.can_go(replaced, moved.is_folder()).await?,
                _ => {}
            }
            let table = self.table();
            still!(table, from.0, old_folder, generation);
            still!(table, to.0, new_folder, generation);
            let mut edit = Edit::new(self, table, &old_folder)?;
            let (old, new) = (edit.raise(from.0)?, edit.raise(to.0)?);
            let number = edit.raise_child(old, moved)?;
            let other = replaced.map(|kind| edit.raise_child(new, kind)).transpose()?;
            // Two names of one file stay as they are.
            if other == Some(number) {
                return Ok(());
            }
            edit.touch(old)?;
            edit.touch(new)?;
            let time = edit.now;
            edit.meta(number)?.changed = time;
            edit.count(old, number, false)?;
            edit.count(new, number, true)?;
            if let Some(other) = other {
                edit.count(new, other, false)?;
            }
            match (other, how) {
                (Some(other), Rename::Exchange) => {
                    edit.meta(other)?.changed = time;
                    edit.count(old, other, true)?;
                    edit.bind(old, &old_name, other, old_lower.as_ref());
                }
                (Some(other), _) => {
                    edit.unlink(other)?;
                    edit.unbind(old, &old_name, old_lower.as_ref());
                }
                (None, _) => edit.unbind(old, &old_name, old_lower.as_ref()),
            }
            edit.bind(new, &new_name, number, new_lower.as_ref());
            let (workspace, layer) = (edit.workspace.clone(), edit.layer.clone());
            let mut table = edit.commit()?;
            let swapped = other.filter(|_| how == Rename::Exchange).map(|other| (from.0, other, &old_name));
            for (parent, number, name) in [Some((to.0, number, &new_name)), swapped].into_iter().flatten() {
                if let Some(layered) = Layered::new(&workspace, &layer, number, name) {
                    table.moved(parent, layered);
                }
            }
            return Ok(());
        }
    }

    /// Gives a file one more name, and counts one look-up of it.
    pub async fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        let name = Name::new(name)?;
        loop {
            let (folder, generation) = self.node_now(parent)?;
            let node = self.node(ino)?;
            self.writable(&folder)?;
            self.writable(&node)?;
            if node.is_folder() {
                return Err(ViewError::NotPermitted);
            }
            let At { shown, lower } = self.at(&folder, &name).await?;
            if shown.is_some() {
                return Err(ViewError::Exists);
            }
            let table = self.table();
            still!(table, parent, folder, generation);
            let mut edit = Edit::new(self, table, &folder)?;
            let parent_number = edit.raise(parent)?;
            edit.touch(parent_number)?;
            let number = edit.raise(ino)?;
            let time = edit.now;
            let meta = edit.meta(number)?;
            match meta.links {
                0 => return Err(ViewError::NotFound),
                MOST_LINKS.. => return Err(ViewError::TooManyLinks),
                _ => (meta.links, meta.changed) = (meta.links + 1, time),
            }
            edit.bind(parent_number, &name, number, lower.as_ref());
            return edit.commit_entry(parent, &name, number);
        }
    }

    /// Changes what `stat` tells of something.
    pub fn set(&self, ino: Ino, set: &Set) -> Result<Attr> {
        let node = self.node(ino)?;
        self.writable(&node)?;
        if set.size.is_some() {
            is_file(&node)?;
        }
        if set.size.is_some_and(|size| size > i64::MAX as u64) {
            return Err(ViewError::TooLarge);
        }
        let mut edit = Edit::new(self, self.table(), &node)?;
        let (number, time) = (edit.raise(ino)?, edit.now);
        let is_folder = node.is_folder();
        let meta = edit.meta(number)?;
        if (set.uid.is_some() || set.gid.is_some() || set.size.is_some())
            && set.drops_privileges
            && !is_folder
        {
            drop_privileges(meta);
        }
        meta.mode = set.mode.unwrap_or(meta.mode);
        meta.uid = set.uid.unwrap_or(meta.uid);
        meta.gid = set.gid.unwrap_or(meta.gid);
        meta.accessed = set.accessed.unwrap_or(meta.accessed);
        meta.changed = time;
        meta.modified = set.modified.unwrap_or(meta.modified);
        let layer = edit.layer.clone();
        drop(edit.commit()?);
        if let Some(size) = set.size {
            layer.resize(number, size, set.modified.unwrap_or(time))?;
        }
        self.getattr(ino)
    }

    /// Writes into a file; `drops_privileges` says that set-user-id and set-group-id end with it.
    pub fn write(&self, ino: Ino, offset: u64, bytes: &[u8], drops_privileges: bool) -> Result<()> {
        let (layer, number) = self.raised_file(ino, drops_privileges)?;
        if offset.saturating_add(bytes.len() as u64) > i64::MAX as u64 {
            return Err(ViewError::TooLarge);
        }
        Ok(layer.write(number, offset, bytes, now())?)
    }

    /// Reserves space for a range of a file, or makes it zero. With `grow`, the file reaches to its end at least.
    pub fn allocate(&self, ino: Ino, offset: u64, length: u64, what: Allocate, grow: bool) -> Result<()> {
        let (layer, number) = self.raised_file(ino, false)?;
        if offset.saturating_add(length) > i64::MAX as u64 {
            return Err(ViewError::TooLarge);
        }
        match what {
            Allocate::Reserve => Ok(layer.reserve(number, offset, length, grow, now())?),
            Allocate::Zero => Ok(layer.punch(number, offset, length, grow, now())?),
        }
    }

    /// The layer that holds a file from now on, and its number there.
    fn raised_file(&self, ino: Ino, drops_privileges: bool) -> Result<(Arc<Layer>, u64)> {
        let node = self.node(ino)?;
        self.writable(&node)?;
        is_file(&node)?;
        if let NodeKind::Layered(layered) = &node.kind
            && !drops_privileges
        {
            return Ok((layered.layer.clone(), layered.number));
        }
        let mut edit = Edit::new(self, self.table(), &node)?;
        let number = edit.raise(ino)?;
        if drops_privileges {
            drop_privileges(edit.meta(number)?);
        }
        let layer = edit.layer.clone();
        drop(edit.commit()?);
        Ok((layer, number))
    }

    /// Where from `offset` on the next data or hole is; none if there's none.
    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<Option<u64>> {
        let node = self.node(ino)?;
        match &node.kind {
            NodeKind::Layered(layered) => Ok(layered.layer.seek(layered.number, offset, what)?),
            NodeKind::Remote(Remote { entry, .. }) => match &entry.kind {
                Kind::File { size, content } => Ok(seek(*size, content, offset, what)),
                _ => Err(ViewError::WrongKind),
            },
            _ => Err(ViewError::WrongKind),
        }
    }

    /// Returns when all changes of the workspace of `ino` survive a power loss.
    pub fn sync(&self, ino: Ino) -> Result<()> {
        match &self.node(ino)?.kind {
            NodeKind::Layered(layered) => Ok(layered.layer.sync()?),
            _ => Ok(()),
        }
    }

    /// Sets an extended attribute; fails if it is there and mustn't be (`Some(false)`), or isn't and must be (`Some(true)`).
    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], there: Option<bool>) -> Result<()> {
        check_attribute(name)?;
        self.edit_attributes(ino, |attributes| {
            match (there, attributes.contains_key(name)) {
                (Some(false), true) => return Err(ViewError::Exists),
                (Some(true), false) => return Err(ViewError::NoAttribute),
                _ => attributes.insert(name.to_vec(), value.to_vec()),
            };
            let size: usize = attributes.iter().map(|(name, value)| name.len() + value.len()).sum();
            if size > MOST_ATTRIBUTES { Err(ViewError::NoSpace) } else { Ok(()) }
        })
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        check_attribute(name)?;
        self.edit_attributes(ino, |attributes| {
            attributes.remove(name).map(|_| ()).ok_or(ViewError::NoAttribute)
        })
    }

    fn edit_attributes(
        &self,
        ino: Ino,
        change: impl FnOnce(&mut BTreeMap<Vec<u8>, Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        let node = self.node(ino)?;
        self.writable(&node)?;
        let mut edit = Edit::new(self, self.table(), &node)?;
        let (number, time) = (edit.raise(ino)?, edit.now);
        let meta = edit.meta(number)?;
        change(&mut meta.xattrs)?;
        meta.changed = time;
        drop(edit.commit()?);
        Ok(())
    }
}

fn check_attribute(name: &[u8]) -> Result<()> {
    if name.starts_with(OWN_ATTRIBUTES) {
        return Err(ViewError::NotPermitted);
    }
    // The others mean something to this machine's kernel; what a mount says of them mustn't.
    if name.starts_with(b"user.") { Ok(()) } else { Err(ViewError::NotSupported) }
}

/// The permission bits that one of the owner's has in a layer as long as they aren't changed.
pub(super) fn unchanged_mode(entry: &tree::Entry) -> u16 {
    match entry.kind {
        Kind::Link(_) => 0o777,
        Kind::File { .. } => entry.attributes.mode & 0o1777,
        Kind::Folder { .. } => entry.attributes.mode,
    }
}

/// Fails for what has no bytes to change.
fn is_file(node: &Node) -> Result<()> {
    let is_file = match &node.kind {
        NodeKind::Remote(remote) => matches!(remote.entry.kind, Kind::File { .. }),
        NodeKind::Layered(layered) => layered.layer.kind(layered.number) == Some(FileKind::File),
        _ => false,
    };
    match is_file {
        true => Ok(()),
        false if node.is_folder() => Err(ViewError::IsFolder),
        false => Err(ViewError::WrongKind),
    }
}

/// Set-user-id ends with a change, and set-group-id where it means that: where the group may execute.
fn drop_privileges(meta: &mut Meta) {
    meta.mode &= !0o4000;
    if meta.mode & 0o010 != 0 {
        meta.mode &= !0o2000;
    }
}

/// Data and holes of the owner's file.
fn seek(size: u64, content: &tree::Content, offset: u64, what: Seek) -> Option<u64> {
    if offset >= size {
        return None;
    }
    let tree::Content::Sparse { extents, .. } = content else {
        return Some(if what == Seek::Data { offset } else { size });
    };
    let next = extents.iter().find(|extent| extent.offset + extent.length > offset);
    match (what, next) {
        (Seek::Data, next) => next.map(|extent| extent.offset.max(offset)),
        (Seek::Hole, Some(extent)) if extent.offset <= offset => Some(extent.offset + extent.length),
        (Seek::Hole, _) => Some(offset),
    }
}
