use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    access::Rights,
    tree::Totals,
    types::{Digest, HostName, Timestamp, WorkspaceId, WorkspaceName},
};

/// What the mount shows at its two upper levels: hosts, and their workspaces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Every known host that has something to show.
    pub hosts: BTreeMap<HostName, HostListing>,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostListing {
    /// Whether it can be reached.
    pub state: HostState,
    /// Its workspaces.
    pub places: BTreeMap<WorkspaceName, Place>,
}

/// Whether a host can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostState {
    /// This machine.
    Local,
    /// Heard of lately.
    Online,
    /// Silent: what is cached can be read.
    Away,
}

/// What the name of a workspace stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder of this machine, shown as a link to it.
    Local(PathBuf),
    /// Another host's workspace.
    Remote(Mounted),
}

/// Another host's workspace in the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Its identity.
    pub id: WorkspaceId,
    /// The folder of its host in the mount.
    pub host: HostName,
    /// The snapshot that is shown; none when the owner doesn't let this node read.
    pub root: Option<Digest>,
    /// What is in it.
    pub totals: Totals,
    /// The root folder's permission bits.
    pub mode: u16,
    /// When the root folder last changed.
    pub modified: Timestamp,
    /// The absolute path of the workspace on its owner's machine.
    pub original: Vec<u8>,
    /// Whether it's an earlier snapshot, which nobody can change.
    pub fixed: bool,
    /// What its owner lets this node do with it.
    pub rights: Rights,
}

impl Listing {
    /// The workspace with this identity.
    pub fn mounted(&self, id: &WorkspaceId) -> Option<&Mounted> {
        self.hosts.values().flat_map(|host| host.places.values()).find_map(|place| match place {
            Place::Remote(mounted) if mounted.id == *id => Some(mounted),
            _ => None,
        })
    }
}
