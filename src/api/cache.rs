use serde::{Deserialize, Serialize};

use super::{Problem, RawText};
use crate::types::WorkspaceId;

/// What a content store takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheUse {
    /// What is on the disk now.
    pub used: u64,
    /// What may be there at most.
    pub limit: u64,
}

/// What the cache holds, and what it was good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheReport {
    /// What it takes.
    #[serde(flatten)]
    pub size: CacheUse,
    /// Bytes that pins keep.
    pub pinned: u64,
    /// Reads since the start that it answered; those that the kernel answered itself aren't seen.
    pub reads_held: u64,
    /// Reads since the start for which something was fetched.
    pub reads_fetched: u64,
    /// Bytes that were fetched since the start.
    pub fetched: u64,
    /// From which workspaces it holds something, the most first.
    pub workspaces: Vec<CachedWorkspace>,
    /// What is kept complete.
    pub pins: Vec<Pin>,
}

/// What the cache holds of one workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedWorkspace {
    /// Its identity in this node's mount.
    pub id: WorkspaceId,
    /// Where it is, as HOST/WORKSPACE; none when the mount doesn't show it any more.
    pub place: Option<RawText>,
    /// Bytes that came for it; what came for several counts for each of them.
    pub bytes: u64,
}

/// What is kept complete and offline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// What, as HOST/WORKSPACE or HOST/WORKSPACE/PATH.
    pub path: RawText,
    /// Whether it's all here.
    pub state: PinState,
    /// How far it is.
    pub progress: Transfer,
    /// Why it isn't all here and nothing is under way, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Whether all of a pin is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PinState {
    /// All of its current snapshot is here.
    Complete,
    /// It's being looked through or fetched.
    Fetching,
    /// Something keeps it from being completed; it's tried again.
    Waiting,
}

/// How far fetching something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Transfer {
    /// Files that there are.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are here.
    pub here_files: u64,
    /// Their bytes.
    pub here_bytes: u64,
    /// Files, or parts of large ones, that couldn't be had.
    pub failed: u64,
    /// Files that their owner hasn't hashed yet, and that only it can serve.
    pub pending: u64,
}

/// A line of the answer to a prefetch. The last one has an end or a problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefetchStep {
    /// How far it is.
    pub progress: Transfer,
    /// Whether it's over, and went well.
    pub ended: bool,
    /// Why it ended before it was through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}
