use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    access::{Access, Grant, Group, Rights, Whom},
    peer::PairingCode,
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

/// Sets a workspace's password, for browsers and curl; absent, removes it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordRequest {
    /// The password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// The groups of peers, and who is in them.
pub type Groups = BTreeMap<Group, BTreeSet<NodeId>>;

/// An invitation to pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// What the other side has to know.
    pub code: PairingCode,
    /// For how long it's good, in seconds.
    pub seconds: u64,
}

/// What became of an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "lowercase")]
pub enum PairingEnd {
    /// The node has shown that it knows the code.
    Paired {
        /// Which node.
        peer: NodeId,
    },
    /// It hasn't, or somebody stood between.
    Failed {
        /// Who tried.
        peer: NodeId,
    },
    /// Nobody came in time, or another invitation took its place.
    Expired,
}

/// Asks to pair with a node that has invited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The node.
    pub peer: NodeId,
    /// What its user has told.
    pub code: PairingCode,
}

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
    /// They were paired with.
    Paired,
    /// They aren't paired with any more.
    Unpaired,
}

/// A node that is being sent something in bulk, or waits to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkTurn {
    /// The node; none is a client without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<NodeId>,
    /// Its host's name, or its address where that isn't known.
    pub host: String,
    /// How many come before it; none while it's being served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// What.
    pub deed: Deed,
    /// Of which workspace, if it's about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceName>,
    /// Whom.
    pub whom: Whom,
    /// The rights that were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rights: Option<Rights>,
    /// From when on they are void, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}
