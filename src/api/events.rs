use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    runtime::Phase,
    types::{Digest, HostName, NodeId, WorkspaceName},
};

/// Something that happened, for whoever follows the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number: greater than those of all events before it, also of those before the node was restarted.
    pub id: u64,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub what: Happening,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Happening {
    /// Events between the one that was asked for and the next one aren't kept any more: look at everything anew.
    Missed,
    /// An environment on this machine has come further in its life.
    EnvironmentChanged {
        /// In whose folder its workspace is.
        host: HostName,
        /// Which.
        workspace: WorkspaceName,
        /// Its name.
        environment: String,
        /// Where it is now.
        phase: Phase,
        /// How it ended, if it has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u8>,
    },
    /// The mount shows a workspace that it didn't show before.
    WorkspaceAppeared {
        /// Whose.
        host: HostName,
        /// Which.
        workspace: WorkspaceName,
        /// Its snapshot; absent when its owner doesn't let this node read it, and for one of this machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<Digest>,
    },
    /// The mount shows another snapshot of it.
    WorkspaceChanged {
        /// Whose.
        host: HostName,
        /// Which.
        workspace: WorkspaceName,
        /// The new snapshot; absent when its owner doesn't let this node read it any more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<Digest>,
    },
    /// The mount doesn't show it any more.
    WorkspaceLeft {
        /// Whose.
        host: HostName,
        /// Which.
        workspace: WorkspaceName,
    },
    /// A host whose workspaces the mount shows can be reached again.
    HostOnline {
        /// Which.
        host: HostName,
    },
    /// It can't be reached any more; what is cached of it can be read.
    HostAway {
        /// Which.
        host: HostName,
    },
    /// A peer asks for a workspace of this node.
    AccessRequested {
        /// Which.
        workspace: WorkspaceName,
        /// Who asks.
        peer: NodeId,
        /// Whether it wants to change it.
        write: bool,
    },
    /// Something is wrong with a peer: its identity was announced by somebody else or runs twice, or it sent what it shouldn't.
    PeerAlert {
        /// Which; this node itself, perhaps.
        peer: NodeId,
        /// What was seen, and from where.
        what: String,
    },
}
