use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    access::{Access, Grant, Group, Rights, Whom},
    types::{HostName, NodeId, WorkspaceName},
};

/// Who may do what with a workspace of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessReport {
    /// The workspace.
    pub workspace: WorkspaceName,
    /// Who may read it of whom nothing else is said.
    pub access: Access,
    /// What is decided about nodes and groups.
    pub grants: Vec<GrantEntry>,
}

/// What is decided about somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantEntry {
    /// Whom.
    pub whom: Whom,
    /// The name that the node's host goes by, if it's known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// What.
    #[serde(flatten)]
    pub grant: Grant,
}

/// Decides about somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantRequest {
    /// Whom.
    pub whom: Whom,
    /// What they may do; absent, what was decided is taken back, so that they are as everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rights: Option<Rights>,
    /// From when on that's void, in seconds since 1970; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

/// The groups of peers, and who is in them.
pub type Groups = BTreeMap<Group, BTreeSet<NodeId>>;

/// What somebody did, or had done to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deed {
    /// They asked for access.
    Asked,
    /// They were given rights.
    Granted,
    /// They were refused.
    Denied,
    /// What was decided about them was taken back.
    Revoked,
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// What.
    pub deed: Deed,
    /// Of which workspace.
    pub workspace: WorkspaceName,
    /// Whom.
    pub whom: Whom,
    /// The rights that were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rights: Option<Rights>,
    /// From when on they are void, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}
