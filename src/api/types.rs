use std::{collections::BTreeMap, net::SocketAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{CacheUse, PeerAddress, RawText};
use crate::{
    access::{Access, Rights},
    types::{Digest, HostName, NodeId, WorkspaceId, WorkspaceName},
};

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node's identity.
    pub node: NodeId,
    /// Its host's name in the mounts of its peers.
    pub hostname: HostName,
    /// The program's version.
    pub version: String,
    /// The mount point.
    pub mount: RawText,
    /// Whether the mount answers.
    pub mounted: bool,
    /// The TCP port of its share service.
    pub share_port: u16,
    /// The TCP port of this API.
    pub control_port: u16,
    /// How many workspaces it shares.
    pub workspaces_shared: u64,
    /// How many peers are online.
    pub peers_online: u64,
    /// What its content store takes.
    pub cache: CacheUse,
    /// Whether everything that it sends to others is encrypted. A node that doesn't say so knows nothing else.
    #[serde(default = "always")]
    pub encryption: bool,
    /// What is wrong with nodes that aren't among the peers, this one itself among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<String>,
    /// Seconds since it started.
    pub uptime_s: u64,
}

fn always() -> bool {
    true
}

/// Asks to share a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareRequest {
    /// The folder, absolute.
    pub path: RawText,
    /// The workspace's name; the one of its workspace.yaml, else the folder's, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<WorkspaceName>,
    /// Who may read it; as before, else `ask`, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// Whether the content of its snapshots is kept, as copies; as before, else not, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<bool>,
    /// How many snapshots are kept; as before, else 64, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<u32>,
    /// Whether to answer only when all is hashed.
    #[serde(default)]
    pub wait: bool,
}

/// A workspace that this node shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The workspace's identity.
    pub id: WorkspaceId,
    /// Its name.
    pub name: WorkspaceName,
    /// Its folder.
    pub path: RawText,
    /// Who may read it.
    pub access: Access,
    /// Whether the content of its snapshots is kept.
    #[serde(default)]
    pub keep: bool,
    /// How many of its snapshots are kept.
    #[serde(default)]
    pub snapshots: u32,
    /// Its current snapshot; absent while the first is being made.
    pub snapshot: Option<Digest>,
    /// Whether what peers see now is a provisional listing.
    pub provisional: bool,
    /// Grows with every version that is published.
    pub sequence: u64,
    /// How many files it holds.
    pub files: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// What isn't shared of the folder.
    pub left_out: LeftOut,
    /// How far the hashing is.
    pub progress: Progress,
}

/// What isn't shared of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeftOut {
    /// How many files and folders.
    pub count: u64,
    /// How many of them, since they look like secrets.
    #[serde(default)]
    pub secrets: u64,
    /// Some of them, relative to the folder.
    pub examples: Vec<RawText>,
}

/// How far the hashing of a workspace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Files to hash.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files hashed.
    pub hashed_files: u64,
    /// Bytes hashed.
    pub hashed_bytes: u64,
}

/// Whether a peer is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// Heard lately.
    Online,
    /// Silent for a while.
    Away,
    /// Not there; what was seen of it is shown from the cache.
    Offline,
}

/// A host as the mount shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its folder in the mount.
    pub name: HostName,
    /// Its node's identity.
    pub id: NodeId,
    /// Whether it's this machine.
    pub local: bool,
    /// Whether it's there.
    pub state: PeerState,
    /// Where its share service is.
    pub address: Option<SocketAddr>,
    /// The version of its program.
    pub version: String,
    /// When it was last heard.
    pub last_seen: Option<Timestamp>,
    /// What it shares.
    pub workspaces: Vec<Workspace>,
}

/// A workspace as its guests see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workspace {
    /// Its identity.
    pub id: WorkspaceId,
    /// Its folder in the host's folder.
    pub name: WorkspaceName,
    /// What its owner says about it.
    pub description: String,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Its current snapshot; absent while the first is being made.
    pub snapshot: Option<Digest>,
    /// Whether what is seen now is a provisional listing.
    pub provisional: bool,
    /// Grows with every version that is published.
    pub sequence: u64,
    /// How many files it holds.
    pub files: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// Who may read it.
    pub access: Access,
    /// What this node may do with it.
    pub rights: Rights,
    /// Where it stands on its owner's machine, absolute.
    pub path: RawText,
    /// The names of its environments.
    pub environments: Vec<String>,
}

/// What kind of file an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Symlink,
    /// A named pipe that was made here.
    Fifo,
    /// A socket that was made here.
    Socket,
    /// A device that was made here.
    Device,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name; what isn't UTF-8 in it is replaced by U+FFFD.
    pub name: String,
    /// The bytes of its name, when they aren't UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_base64: Option<String>,
    /// What it is.
    pub kind: FileKind,
    /// Its size in bytes.
    pub size: u64,
    /// Its permission bits, without the type.
    pub mode: u32,
    /// When its content last changed.
    pub modified: Timestamp,
    /// Where a symbolic link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<RawText>,
}

impl FileEntry {
    /// An entry of this name, with the name in both its forms where it needs them.
    pub fn new(
        name: &crate::types::Name,
        kind: FileKind,
        size: u64,
        mode: u32,
        modified: crate::types::Timestamp,
        target: Option<RawText>,
    ) -> Self {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let name_base64 =
            std::str::from_utf8(name.as_bytes()).is_err().then(|| STANDARD.encode(name.as_bytes()));
        // A year that no calendar knows is shown as 1970: better than an entry that can't be listed.
        let modified = i32::try_from(modified.nanoseconds)
            .ok()
            .and_then(|nanoseconds| Timestamp::new(modified.seconds, nanoseconds).ok())
            .unwrap_or(Timestamp::UNIX_EPOCH);
        Self { name: name.to_string(), name_base64, kind, size, mode, modified, target }
    }
}

/// How a peer became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerSource {
    /// It announced itself.
    Multicast,
    /// Its address was given.
    Address,
}

/// A node that was found or added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its identity; unknown of an address that hasn't answered yet.
    pub id: Option<NodeId>,
    /// Its folder in the mount; unknown of an address that hasn't answered yet.
    pub host: Option<HostName>,
    /// Where its share service is.
    pub address: String,
    /// Whether it's there.
    pub state: PeerState,
    /// How it became known.
    pub source: PeerSource,
    /// The version of its program.
    pub version: String,
    /// When it was last heard.
    pub last_seen: Option<Timestamp>,
    /// What is odd about it, as a clock that is wrong or an identity that two machines have.
    pub alerts: Vec<String>,
}

/// Asks to add a peer by its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Where it is.
    pub address: PeerAddress,
}

/// A peer that asks for a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRequest {
    /// The workspace of this node.
    pub workspace: WorkspaceName,
    /// Who asks.
    pub peer: NodeId,
    /// Its host's name, as it says itself.
    pub host: HostName,
    /// Where it asks from.
    pub address: Option<SocketAddr>,
    /// Its identity in a form that people compare.
    pub fingerprint: String,
    /// When it first asked.
    pub asked: Timestamp,
    /// Whether it wants to change the workspace; it may read it already.
    #[serde(default)]
    pub write: bool,
}

/// The owner's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// The peer may read the workspace.
    Allow,
    /// It may for twelve hours.
    Once,
    /// It may read it and change it.
    Write,
    /// It may not, and needn't ask again.
    Deny,
}

/// Carries the owner's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The answer.
    pub decision: Decision,
}

/// Asks to run something in a workspace's environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchRequest {
    /// The host in whose folder the workspace is.
    pub host: HostName,
    /// The workspace.
    pub workspace: WorkspaceName,
    /// The program and its arguments; never empty.
    pub command: Vec<RawText>,
    /// Whether it may use the network.
    #[serde(default)]
    pub network: bool,
    /// Whether it's to run in the caller's terminal.
    #[serde(default)]
    pub terminal: bool,
    /// Variables to set in the environment, besides those that it has anyway.
    #[serde(default)]
    pub environment: BTreeMap<String, RawText>,
}

/// How to start a launch: the sandbox's program, which the requested command is given behind its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// The sandbox's program, absolute.
    pub program: RawText,
    /// Its arguments, without its own name and the command. One is [`crate::runtime::FILTER`], for which stands a descriptor of
    /// [`crate::runtime::filter`] that it inherits.
    pub arguments: Vec<RawText>,
    /// All of its environment: what it inherits is cleared first.
    pub environment: BTreeMap<String, RawText>,
}

/// One thing that was examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What, in a word or two.
    pub check: String,
    /// Whether it's as it should be.
    pub ok: bool,
    /// Whether twinshare can't do its work without it.
    pub needed: bool,
    /// What was found.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn fine(check: &str, message: impl Into<String>) -> Self {
        Self { check: check.to_owned(), ok: true, needed: false, message: message.into(), remedy: None }
    }

    /// Something that is needed is missing.
    pub fn missing(check: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { check: check.to_owned(), ok: false, needed: true, message: message.into(), remedy }
    }

    /// Something isn't as it could be, and all goes on without it.
    pub fn warning(check: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { needed: false, ..Self::missing(check, message, remedy) }
    }
}
