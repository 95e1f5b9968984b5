use super::{
    Ino, OWN_ATTRIBUTES, Result, View, ViewError,
    node::{Layered, Node, NodeKind, Remote},
};
use crate::{
    blob::Blob,
    layer::{FileKind, Stat},
    tree::{Content, Entry, Kind, Owner},
    types::Timestamp,
};

/// What `stat` tells of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Its number.
    pub ino: Ino,
    /// Its kind.
    pub kind: FileKind,
    /// Permission bits. Set-user-id and set-group-id of the owner's files are not shown: they must not take effect here.
    pub mode: u16,
    /// How many names it has, and 0 for what was removed; for folders that were made here as everywhere, and 1 for the others,
    /// which says nothing about their subfolders.
    pub links: u32,
    /// The user it belongs to.
    pub uid: u32,
    /// The group it belongs to.
    pub gid: u32,
    /// Its length in bytes.
    pub size: u64,
    /// The bytes that are not holes.
    pub allocated: u64,
    /// When it was last read, as far as somebody said so.
    pub accessed: Timestamp,
    /// When its content last changed.
    pub modified: Timestamp,
    /// When anything of it last changed.
    pub changed: Timestamp,
}

/// The user and group that stand for "somebody else".
const NOBODY: u32 = 65534;

/// Of smaller files that were changed here, holes aren't looked for: that would cost each `stat` a look at the disk.
const HOLES: u64 = 1 << 20;

/// The length that folders are shown with.
const FOLDER_SIZE: u64 = 4096;

impl View {
    /// The names of the extended attributes of `ino`.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let node = self.node(ino)?;
        let own = self.xattrs(&node).into_iter().map(|(name, _)| name.into());
        Ok(own.chain(node.set_xattrs().into_keys()).collect())
    }

    /// The extended attribute `name` of `ino`.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let node = self.node(ino)?;
        // `ls -l` asks for other attributes of every file.
        if !name.starts_with(OWN_ATTRIBUTES) {
            return node.set_xattrs().remove(name).ok_or(ViewError::NoAttribute);
        }
        let found = self.xattrs(&node).into_iter().find(|(known, _)| known.as_bytes() == name);
        let found = found.map(|(_, value)| value.into_bytes());
        found.or_else(|| node.set_xattrs().remove(name)).ok_or(ViewError::NoAttribute)
    }

    fn xattrs(&self, node: &Node) -> Vec<(&'static str, String)> {
        let listing = self.listing();
        let (workspace, origin);
        let (workspace, kind, state) = match &node.kind {
            NodeKind::Remote(remote) => (&remote.workspace.id, Some(&remote.entry.kind), "remote"),
            NodeKind::Layered(layered) => {
                origin = layered.layer.origin(layered.number);
                workspace = layered.workspace.id;
                let state = if origin.is_some() { "changed" } else { "new" };
                (&workspace, origin.as_ref().map(|origin| &origin.entry.kind), state)
            }
            _ => return Vec::new(),
        };
        let mut attributes = vec![("user.twinshare.state", state.to_owned())];
        let shown = match &node.kind {
            NodeKind::Remote(remote) if remote.workspace.fixed => remote.workspace.root,
            _ => listing.mounted(workspace).and_then(|mounted| mounted.root),
        };
        if let Some(root) = shown {
            attributes.push(("user.twinshare.snapshot", root.to_string()));
        }
        // Of something changed here it's what it was made of.
        match kind {
            Some(Kind::Folder { tree, .. }) => attributes.push(("user.twinshare.digest", tree.to_string())),
            Some(Kind::File { size, content }) => {
                let blob = match content {
                    Content::Pending => None,
                    Content::Blob(digest) => Some(Blob { digest: *digest, size: *size }),
                    Content::Sparse { blob: digest, extents } => {
                        let size = extents.iter().map(|extent| extent.length).sum();
                        Some(Blob { digest: *digest, size })
                    }
                };
                if let Some(blob) = &blob {
                    attributes.push(("user.twinshare.digest", blob.digest.to_string()));
                }
                let held = blob.map_or(0, |blob| self.source.held(&blob));
                attributes.push(("user.twinshare.cached_bytes", held.to_string()));
            }
            _ => {}
        }
        attributes
    }

    pub(super) fn attr(&self, ino: Ino, node: &Node) -> Attr {
        let plain = Attr {
            ino,
            kind: FileKind::Folder,
            mode: 0o555,
            links: 1,
            uid: self.options.uid,
            gid: self.options.gid,
            size: FOLDER_SIZE,
            allocated: 0,
            accessed: Timestamp::default(),
            modified: Timestamp::default(),
            changed: Timestamp::default(),
        };
        match &node.kind {
            NodeKind::Root | NodeKind::Host(_) | NodeKind::Outside | NodeKind::OutsideHost(_) => plain,
            NodeKind::Local(_, path) => {
                Attr { kind: FileKind::Link, mode: 0o777, size: path.as_os_str().len() as u64, ..plain }
            }
            NodeKind::Remote(Remote { workspace, entry, .. }) => {
                // What nobody can change says so: programs don't try then.
                let kept = if workspace.fixed { !0o222 } else { !0 };
                let attr = Attr {
                    mode: entry.attributes.mode & kept,
                    links: entry.attributes.link.map_or(1, |link| link.count),
                    accessed: entry.attributes.modified,
                    modified: entry.attributes.modified,
                    changed: entry.attributes.modified,
                    ..self.owned(plain, entry.attributes.owner)
                };
                self.of_kind(attr, node, entry)
            }
            NodeKind::Layered(layered) => self.of_layer(plain, node, layered),
        }
    }

    fn of_layer(&self, plain: Attr, node: &Node, layered: &Layered) -> Attr {
        // It's there until it's forgotten, but for a moment at which it's just being dropped.
        let Some(Stat { meta, kind, size }) = layered.layer.stat(layered.number) else { return plain };
        let attr = Attr {
            mode: meta.mode,
            links: meta.links,
            uid: meta.uid,
            gid: meta.gid,
            size,
            accessed: meta.accessed,
            modified: meta.modified,
            changed: meta.changed,
            ..plain
        };
        let attr = Attr { kind, ..attr };
        match kind {
            FileKind::File if size < HOLES => Attr { allocated: size, ..attr },
            FileKind::File => {
                Attr { allocated: layered.layer.allocated(layered.number).unwrap_or(size), ..attr }
            }
            FileKind::Link => {
                let size = self.shown_target(node).map_or(size, |target| target.len() as u64);
                Attr { size, ..attr }
            }
            _ => attr,
        }
    }

    fn owned(&self, attr: Attr, owner: Owner) -> Attr {
        let (uid, gid) = self.owned_by(owner);
        Attr { uid, gid, ..attr }
    }

    /// The user and group that the owner's files are shown to belong to.
    pub(super) fn owned_by(&self, owner: Owner) -> (u32, u32) {
        match owner {
            Owner::Sharer => (self.options.uid, self.options.gid),
            Owner::Root => (0, 0),
            Owner::Other => (NOBODY, NOBODY),
        }
    }

    fn of_kind(&self, attr: Attr, node: &Node, entry: &Entry) -> Attr {
        match &entry.kind {
            Kind::Folder { .. } => attr,
            Kind::File { size, content } => {
                let allocated = match content {
                    Content::Sparse { extents, .. } => extents.iter().map(|extent| extent.length).sum(),
                    Content::Blob(_) | Content::Pending => *size,
                };
                Attr { kind: FileKind::File, mode: attr.mode & 0o1777, size: *size, allocated, ..attr }
            }
            Kind::Link(_) => {
                let size = self.shown_target(node).map_or(0, |target| target.len() as u64);
                Attr { kind: FileKind::Link, size, ..attr }
            }
        }
    }
}
