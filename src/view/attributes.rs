use super::{
    Ino, View,
    node::{Node, NodeKind, Remote},
};
use crate::{
    tree::{Content, Entry, Kind, Owner},
    types::Timestamp,
};

/// What kind of file an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
}

/// What `stat` tells of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Its number.
    pub ino: Ino,
    /// Its kind.
    pub kind: FileKind,
    /// Permission bits. Set-user-id and set-group-id of files are not shown: they must not take effect here.
    pub mode: u16,
    /// How many names it has; 1 for folders, which says nothing about their subfolders.
    pub links: u32,
    /// The user it belongs to.
    pub uid: u32,
    /// The group it belongs to.
    pub gid: u32,
    /// Its length in bytes.
    pub size: u64,
    /// The bytes that are not holes.
    pub allocated: u64,
    /// When its content last changed.
    pub modified: Timestamp,
}

/// The user and group that stand for "somebody else".
const NOBODY: u32 = 65534;

/// The length that folders are shown with.
const FOLDER_SIZE: u64 = 4096;

impl View {
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
            modified: Timestamp::default(),
        };
        match &node.kind {
            NodeKind::Root | NodeKind::Host(_) | NodeKind::Outside | NodeKind::OutsideHost(_) => plain,
            NodeKind::Local(_, path) => {
                Attr { kind: FileKind::Link, mode: 0o777, size: path.as_os_str().len() as u64, ..plain }
            }
            NodeKind::Remote(Remote { entry, .. }) => {
                let attr = Attr {
                    mode: entry.attributes.mode,
                    links: entry.attributes.link.map_or(1, |link| link.count),
                    modified: entry.attributes.modified,
                    ..self.owned(plain, entry.attributes.owner)
                };
                self.of_kind(attr, node, entry)
            }
        }
    }

    fn owned(&self, attr: Attr, owner: Owner) -> Attr {
        match owner {
            Owner::Sharer => attr,
            Owner::Root => Attr { uid: 0, gid: 0, ..attr },
            Owner::Other => Attr { uid: NOBODY, gid: NOBODY, ..attr },
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
