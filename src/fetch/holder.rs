use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{
    blob::{Blob, Outline, VerifiedBlob, VerifiedSlice, outline_limit},
    tree::Snapshot,
    types::{Digest, Name, WorkspaceId},
};

/// A piece of content that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Want {
    /// A tree object, and as much of what lies below it as fits into one answer.
    Tree(Digest),
    /// A small blob.
    Blob(Blob),
    /// Some groups of a large blob.
    Slice {
        /// The blob.
        blob: Blob,
        /// Which groups.
        groups: Range<u64>,
    },
    /// The outline of a window of a large blob.
    Outline {
        /// The blob.
        blob: Blob,
        /// Which window.
        window: u64,
    },
    /// Bytes of a file that its owner hasn't hashed yet.
    Pending {
        /// The names from the workspace's root.
        path: Vec<Name>,
        /// The version that is meant.
        token: u64,
        /// The first byte.
        offset: u64,
        /// How many bytes.
        length: u32,
    },
}

impl Want {
    /// How many bytes it will bring, about.
    pub(super) fn cost(&self) -> u64 {
        match self {
            // Unknown before it's here: as much as a folder with its subfolders has, mostly.
            Self::Tree(_) => 64 << 10,
            Self::Blob(blob) => blob.size,
            Self::Slice { groups, .. } => (groups.end - groups.start) * crate::blob::GROUP,
            Self::Outline { .. } => outline_limit(),
            Self::Pending { length, .. } => (*length).into(),
        }
    }
}

/// A piece that arrived and is known to be right (pending bytes: as far as the connection to the owner can tell).
#[derive(Debug, Clone)]
pub enum Piece {
    /// A tree object: the one asked for, or one below it.
    Tree {
        /// Its digest, checked.
        digest: Digest,
        /// Its bytes.
        object: Bytes,
    },
    /// A small blob.
    Blob(VerifiedBlob),
    /// Groups of a large blob.
    Slice(VerifiedSlice),
    /// The outline of a window.
    Outline(Outline),
    /// Bytes of a file that isn't hashed.
    Pending(Bytes),
}

/// Why a holder doesn't give one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It doesn't have it.
    Unknown,
    /// The file has changed since.
    Changed,
    /// It can't read it.
    Failed,
    /// It doesn't let this node have it, or not any more.
    Denied,
}

/// Why a holder gives nothing at all, or nothing more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HolderError {
    /// It can't be reached, or the connection broke.
    #[error("can't be reached: {0}")]
    Unreachable(String),
    /// It doesn't let this node read the workspace.
    #[error("doesn't allow this node to read the workspace")]
    Denied,
    /// Nobody who can be reached holds it, and asking again would change nothing.
    #[error("nobody who can be reached holds it")]
    Nobody,
    /// It sent something that it shouldn't.
    #[error("misbehaves: {0}")]
    Misbehaved(String),
}

/// Takes what a holder sends: for each piece the position of its want in the request.
pub type Sink<'a> = &'a mut (dyn FnMut(usize, Result<Piece, Refused>) + Send);

/// How urgent a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Urgency {
    /// Somebody waits for so many of what is asked for, the first ones.
    pub awaited: usize,
    /// Whether all of it is fetched ahead of need: then others go before.
    pub bulk: bool,
}

/// Somebody from whom content can be fetched.
pub trait Holder: Send + Sync {
    /// Asks for `wants` and passes what comes to `sink`, in any order, as it arrives.
    fn fetch<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        wants: &'a [Want],
        urgency: Urgency,
        sink: Sink<'a>,
    ) -> BoxFuture<'a, Result<(), HolderError>>;
}

/// Who holds what.
pub trait Holders: Send + Sync {
    /// Who may be asked for content of `workspace`, best first; the owner, if it can be reached at all, is among them.
    fn holders(&self, workspace: &WorkspaceId) -> Vec<Arc<dyn Holder>>;

    /// Whether content comes from several nodes at once at present: then more is asked for at a time, since each has its
    /// own pace.
    fn are_several(&self) -> bool {
        false
    }

    /// The snapshots of a workspace that its owner keeps, oldest first.
    fn snapshots<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
    ) -> BoxFuture<'a, Result<Vec<Snapshot>, HolderError>> {
        let _ = workspace;
        Box::pin(std::future::ready(Err(HolderError::Nobody)))
    }

    /// Asks the owner to let this node read `workspace`; what comes of it is seen in the catalogue.
    fn knock(&self, workspace: &WorkspaceId);
}
