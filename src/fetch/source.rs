use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::holder::{HolderError, Refused};
use crate::{
    blob::Blob,
    tree::Snapshot,
    types::{Digest, Name, WorkspaceId},
};

/// Why content can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The owner has changed it and nobody holds the old content any more.
    #[error("the owner has changed the file, and nobody holds its old content")]
    Changed,
    /// Nobody who holds it answered in time.
    #[error("no peer that holds the content answered in time")]
    TimedOut,
    /// The owner doesn't let this node read it.
    #[error("the owner doesn't allow this node to read the workspace")]
    Denied,
    /// It couldn't be had for another reason.
    #[error("{0}")]
    Failed(String),
}

impl From<Refused> for SourceError {
    fn from(why: Refused) -> Self {
        match why {
            Refused::Unknown | Refused::Changed => Self::Changed,
            Refused::Denied => Self::Denied,
            Refused::Failed => Self::Failed("the owner can't read the file".into()),
        }
    }
}

impl From<HolderError> for SourceError {
    fn from(error: HolderError) -> Self {
        match error {
            HolderError::Unreachable(_) | HolderError::Nobody => Self::TimedOut,
            HolderError::Denied => Self::Denied,
            HolderError::Misbehaved(_) => Self::Failed(error.to_string()),
        }
    }
}

/// Where a file's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileContent {
    /// A blob, which can be verified.
    Blob(Blob),
    /// A file that its owner hasn't hashed yet.
    Pending {
        /// The names from the workspace's root.
        path: Vec<Name>,
        /// The version that is meant.
        token: u64,
    },
}

/// What is known of a file beyond its content; asked only when it matters, since answering takes a while.
pub trait Surroundings: Sync {
    /// The names from the workspace's root to the file, if it still has such a place.
    fn path(&self) -> Option<Vec<Name>>;

    /// Whether something is launched by this read: the file is being executed, or is what an interpreter reads first.
    fn is_program(&self) -> bool;

    /// Blobs that will probably be wanted whole soon, the next one first.
    fn nearby(&self) -> Vec<Blob>;
}

/// Where the view gets its content. Futures are ready at once when what they need is local.
pub trait Source: Send + Sync {
    /// The tree object `digest` of `workspace`.
    fn tree<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<Bytes, SourceError>>;

    /// Folders of `workspace` that will probably be wanted soon, by their digests, the first ones first.
    fn folders_ahead(&self, workspace: &WorkspaceId, folders: Vec<Digest>);

    /// Exactly `length` bytes of `content` from `offset`; the range lies within the content.
    fn read<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        content: &'a FileContent,
        offset: u64,
        length: u32,
        around: &'a dyn Surroundings,
    ) -> BoxFuture<'a, Result<Bytes, SourceError>>;

    /// The snapshots of a workspace that its owner keeps, oldest first.
    fn snapshots<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
    ) -> BoxFuture<'a, Result<Vec<Snapshot>, SourceError>> {
        let _ = workspace;
        Box::pin(std::future::ready(Err(SourceError::TimedOut)))
    }

    /// How many bytes of a blob are here.
    fn held(&self, blob: &Blob) -> u64;

    /// Somebody wanted to see a workspace that its owner hasn't opened to this node: ask the owner.
    fn knock(&self, workspace: &WorkspaceId);
}
