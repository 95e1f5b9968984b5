use crate::types::{Digest, Name, Timestamp};

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, as raw bytes.
    pub name: Name,
    /// What `stat` tells, apart from the size.
    pub attributes: Attributes,
    /// What the name stands for.
    pub kind: Kind,
}

/// What `stat` tells of an entry, apart from its kind and size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits: at most 0o7777.
    pub mode: u16,
    /// Whose it is, as far as that means anything on another machine.
    pub owner: Owner,
    /// The time of the last change of the content.
    pub modified: Timestamp,
    /// The owner's version token: another value whenever the content may have changed. It is derived from size, times
    /// and inode, so that it's known before the content is hashed.
    pub token: u64,
    /// The hard link group, if the workspace holds several names of this file.
    pub link: Option<HardLink>,
}

/// Whose an entry is, seen from the machine that shares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The user who shares the workspace: the guest's own user at the guest.
    Sharer,
    /// Root.
    Root,
    /// Another user: shown as nobody.
    Other,
}

/// A group of names in one workspace that are the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HardLink {
    /// The group's number, derived from the first of its paths.
    pub group: u64,
    /// How many names of the group are in the workspace: 2 or more.
    pub count: u32,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder {
        /// The digest of its object.
        tree: Digest,
        /// What is below it, all levels down.
        totals: Totals,
    },
    /// A regular file.
    File {
        /// Its length in bytes, at most 2^63 - 1.
        size: u64,
        /// Where its bytes are found.
        content: Content,
    },
    /// A symbolic link, with its target as it stands at the owner: 1 to 4095 bytes, no NUL.
    Link(Box<[u8]>),
}

/// Where a file's bytes are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Not hashed yet: only in provisional listings, and only the owner can serve it.
    Pending,
    /// The blob with this digest, whose size is the file's.
    Blob(Digest),
    /// A sparse file: the blob holds its data extents, one after the other.
    Sparse {
        /// The blob's digest.
        blob: Digest,
        /// Where in the file the blob's bytes belong: ascending, apart from each other, not empty, within the file.
        extents: Box<[Extent]>,
    },
}

/// A run of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts, in bytes from the start of the file.
    pub offset: u64,
    /// Its length in bytes, 1 or more.
    pub length: u64,
}

/// Sums over everything below a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Regular files and symbolic links.
    pub files: u64,
    /// Bytes of the regular files, as their sizes say.
    pub bytes: u64,
}

impl Totals {
    /// Adds the numbers of `other`; they stay at the greatest number rather than overflow.
    pub fn add(&mut self, other: Totals) {
        self.files = self.files.saturating_add(other.files);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

impl Kind {
    /// What something of this kind adds to the sums of its folder.
    pub fn totals(&self) -> Totals {
        match self {
            Self::Folder { totals, .. } => *totals,
            Self::File { size, .. } => Totals { files: 1, bytes: *size },
            Self::Link(_) => Totals { files: 1, bytes: 0 },
        }
    }
}
