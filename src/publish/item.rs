use super::{model::FolderId, place::Inode};
use crate::{
    tree::{Content, Extent, Owner},
    types::{Digest, Name, Timestamp},
};

/// What is kept of what `stat` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) mode: u16,
    pub(super) owner: Owner,
    pub(super) modified: Timestamp,
    /// The version token.
    pub(super) token: u64,
}

/// One name, as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) name: Name,
    pub(super) stat: Stat,
    pub(super) inode: Inode,
    /// Whether the inode has other names somewhere, and isn't a folder's.
    pub(super) linked: bool,
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

    /// Whether its content isn't known yet.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Pending | Self::Taken)
    }

    /// The entry's content; `None` for what isn't shared.
    pub(super) fn content(&self) -> Option<Content> {
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
    /// The number of the folder that it is.
    pub(super) fn folder(&self) -> Option<FolderId> {
        match self.kind {
            ItemKind::Folder(id) => Some(id),
            _ => None,
        }
    }

    /// The inode, if it has several names.
    pub(super) fn link(&self) -> Option<Inode> {
        self.linked.then_some(self.inode)
    }

    /// The digest of its blob, if it is a file whose content is known.
    pub(super) fn digest(&self) -> Option<Digest> {
        match &self.kind {
            ItemKind::File { state, .. } => state.digest(),
            _ => None,
        }
    }
}
