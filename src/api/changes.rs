use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::RawText;
use crate::types::Digest;

/// Something that was changed in a workspace of another host, and is kept here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerChange {
    /// The path in the workspace.
    pub path: RawText,
    /// Whether it is (or was) a folder.
    pub folder: bool,
    /// What happened to it.
    pub kind: LayerChangeKind,
    /// Of what was moved: where the owner has it. Of the owner's version that a merge put here: the path whose version it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<RawText>,
    /// Of what was moved: whether its content was changed as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub changed: bool,
}

/// What happened to something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerChangeKind {
    /// It was made here.
    Made,
    /// Its content or its permissions were changed here.
    Changed,
    /// It was removed here.
    Removed,
    /// It was moved here.
    Moved,
    /// The owner's version of something that both changed.
    Theirs,
}

/// Where both sides changed something, and what a merge did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeConflict {
    /// The path in the workspace.
    pub path: RawText,
    /// What the merge did.
    pub kind: MergeConflictKind,
    /// Where the owner's version is, if the guest's kept its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub theirs: Option<RawText>,
}

/// What a merge did about a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MergeConflictKind {
    /// Both are kept.
    Both,
    /// Removed here, changed by the owner: the owner's is back.
    RemovedHere,
    /// Changed here, removed by the owner: the guest's is kept.
    RemovedThere,
}

/// A snapshot of another host's workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its name.
    pub snapshot: Digest,
    /// When it was made.
    pub created: Timestamp,
    /// How many files and links it holds.
    pub files: u64,
    /// How many bytes the files have.
    pub bytes: u64,
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushReport {
    /// How many things were changed at the owner.
    pub changes: u64,
    /// The owner has to allow it first, and has been asked; nothing was changed.
    pub asked: bool,
    /// What the owner has changed meanwhile, so that nothing was changed.
    pub conflicts: Vec<RawText>,
}

/// What a merge did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeReport {
    /// The snapshot that the changes lie over now.
    pub snapshot: Option<String>,
    /// Where both sides changed something.
    pub conflicts: Vec<MergeConflict>,
}
