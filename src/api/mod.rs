//! The control API: how the CLI and the browser talk to this machine's node.
//!
//! HTTP/1.1 with JSON on 127.0.0.1, below [`PREFIX`]. The port and the bearer token stand in a file that only the node's
//! user can read ([`Endpoint`]). The node answers through [`Control`], programs ask through [`Client`]; both speak
//! the same types, and every failure is a [`Problem`].

mod access;
mod address;
mod cache;
mod changes;
mod client;
mod control;
mod daemon;
mod endpoint;
mod environments;
mod events;
mod path;
mod paths;
mod problem;
mod text;
mod types;

pub use access::{
    AccessReport, AuditEntry, BulkTurn, Deed, GrantEntry, GrantRequest, Groups, Invitation, JoinRequest,
    PairingEnd, PasswordRequest,
};
pub use address::{AddressError, PeerAddress};
pub use cache::{CacheReport, CacheUse, CachedWorkspace, Pin, PinState, PrefetchStep, Transfer};
pub use changes::{
    LayerChange, LayerChangeKind, MergeConflict, MergeConflictKind, MergeReport, PushReport, SnapshotInfo,
};
pub use client::{Client, ClientError};
pub use control::{Control, Following, Prefetch};
pub use daemon::{DaemonArguments, NodeOptions};
pub use endpoint::{Claim, Endpoint, EndpointError, Token};
pub use environments::{Agreement, Launch, StartAnswer, StartRequest};
pub use events::{Event, Happening};
pub use path::{FilePath, FilePathError};
pub use paths::Paths;
pub use problem::Problem;
pub use text::RawText;
pub use types::{
    AccessRequest, Decision, FileEntry, FileKind, Finding, Host, Join, Judgement, LaunchPlan, LaunchRequest,
    LeftOut, Peer, PeerSource, PeerState, Progress, Share, ShareRequest, Status, Workspace,
};

/// The control API's port; the node takes another when it isn't free.
pub const CONTROL_PORT: u16 = 37779;

/// What every path of the API begins with.
pub const PREFIX: &str = "/api/v1";

/// The longest request body, in bytes.
pub const BODY_LIMIT: usize = 1024 * 1024;
