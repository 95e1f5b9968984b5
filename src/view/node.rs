use std::{collections::HashMap, fmt, path::PathBuf, sync::Arc};

use super::{
    OUTSIDE,
    listing::{Mounted, Place},
};
use crate::{
    layer::{FileKind, Layer, Layers, Origin},
    tree::{Attributes, Entry, Kind, Owner},
    types::{HostName, Name, WorkspaceName},
};

/// The number of a node: the same for the same path and version after forgetting, remounting and restarting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root of the mount.
    pub const ROOT: Self = Self(1);
}

/// A hash over a path from its workspace's identity down; two names of one file (a hard link) share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PathHash([u8; 16]);

impl PathHash {
    fn new(domain: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in [domain.as_bytes()].iter().chain(parts) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        Self(bytes)
    }

    fn number(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        // 0 means "no node" to the kernel, and 1 is the root.
        u64::from_le_bytes([a, b, c, d, e, f, g, h]).max(2)
    }
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum NodeKind {
    Root,
    Host(HostName),
    /// The folder of what lies outside the workspaces.
    Outside,
    OutsideHost(HostName),
    /// A folder of this machine: a link to it.
    Local(WorkspaceName, PathBuf),
    Remote(Remote),
    /// A file or folder that was made or changed here.
    Layered(Layered),
}

/// A file or folder of which a workspace's layer has something to say. All else is asked there, by its number.
#[derive(Clone)]
pub(super) struct Layered {
    pub(super) workspace: Arc<Mounted>,
    pub(super) layer: Arc<Layer>,
    pub(super) number: u64,
    pub(super) name: Name,
    pub(super) is_folder: bool,
}

impl Layered {
    /// The node that the layer has under this number.
    pub(super) fn new(
        workspace: &Arc<Mounted>,
        layer: &Arc<Layer>,
        number: u64,
        name: &Name,
    ) -> Option<Self> {
        let kind = layer.kind(number)?;
        Some(Self {
            workspace: workspace.clone(),
            layer: layer.clone(),
            number,
            name: name.clone(),
            is_folder: kind == FileKind::Folder,
        })
    }
}

impl PartialEq for Layered {
    fn eq(&self, other: &Self) -> bool {
        self.workspace.id == other.workspace.id && self.number == other.number && self.name == other.name
    }
}

impl fmt::Debug for Layered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layered")
            .field("number", &self.number)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A file or folder of a workspace, in one version.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Remote {
    pub(super) workspace: Arc<Mounted>,
    pub(super) entry: Arc<Entry>,
    path: PathHash,
    /// How many names lie between the workspace's root and this; 0 for the root.
    pub(super) depth: u32,
}

impl Remote {
    /// The root of a workspace that is shown under `name`.
    pub(super) fn root(name: &WorkspaceName, mounted: &Mounted) -> Option<Self> {
        Some(Self::named_root(Name::new(name.as_str().as_bytes()).ok()?, mounted))
    }

    /// The root of an earlier snapshot, under the name by which it was asked for.
    pub(super) fn snapshot(name: Name, mounted: &Mounted) -> Self {
        let root = mounted.root.map(|root| *root.as_bytes()).unwrap_or_default();
        let path = PathHash::new("twinshare snapshot", &[mounted.id.as_bytes(), &root, name.as_bytes()]);
        Self { path, ..Self::named_root(name, mounted) }
    }

    /// The root of a workspace, where its name doesn't matter.
    pub(super) fn unnamed_root(mounted: &Mounted) -> Self {
        Self::named_root(Name::least(), mounted)
    }

    fn named_root(name: Name, mounted: &Mounted) -> Self {
        let attributes = Attributes {
            mode: mounted.mode & 0o1777,
            owner: Owner::Sharer,
            modified: mounted.modified,
            token: 0,
            link: None,
        };
        // A workspace that may not be read has an empty root; reading it says why.
        let tree = mounted.root.unwrap_or_else(|| crate::types::Digest::from_bytes([0; 32]));
        let kind = Kind::Folder { tree, totals: mounted.totals };
        let entry = Entry { name, attributes, kind };
        let path = PathHash::new("twinshare workspace", &[mounted.id.as_bytes()]);
        Self { workspace: Arc::new(mounted.clone()), entry: Arc::new(entry), path, depth: 0 }
    }

    /// What `entry` of this folder stands for.
    pub(super) fn child(&self, entry: &Arc<Entry>) -> Self {
        let path = match entry.attributes.link {
            // Where a link leads depends on its folder: two names of one are two nodes.
            Some(link) if matches!(entry.kind, Kind::File { .. }) && !self.workspace.fixed => PathHash::new(
                "twinshare hard link",
                &[self.workspace.id.as_bytes(), &link.group.to_le_bytes()],
            ),
            _ => PathHash::new("twinshare path", &[&self.path.0, entry.name.as_bytes()]),
        };
        Self { workspace: self.workspace.clone(), entry: entry.clone(), path, depth: self.depth + 1 }
    }

    /// Folders are their path; files and links are their path and version.
    fn identity(&self) -> PathHash {
        match self.entry.kind {
            Kind::Folder { .. } => PathHash::new("twinshare folder", &[&self.path.0]),
            Kind::File { .. } | Kind::Link(_) => {
                PathHash::new("twinshare file", &[&self.path.0, &self.entry.attributes.token.to_le_bytes()])
            }
        }
    }

    /// This version, for a layer to remember; `path` is where the owner has it.
    pub(super) fn origin(&self, path: &[Name]) -> Origin {
        Origin { path: path.to_vec(), entry: Entry::clone(&self.entry) }
    }

    /// The number this has in the mount.
    pub(super) fn ino(&self) -> Ino {
        Ino(self.identity().number())
    }
}

impl NodeKind {
    /// What a workspace's name stands for.
    pub(super) fn of(name: &WorkspaceName, place: &Place) -> Option<Self> {
        match place {
            Place::Local(path) => Some(Self::Local(name.clone(), path.clone())),
            Place::Remote(mounted) => Remote::root(name, mounted).map(Self::Remote),
        }
    }

    /// The name that it has in its folder.
    pub(super) fn name(&self) -> &[u8] {
        match self {
            Self::Root => b"root",
            Self::Outside => OUTSIDE.as_bytes(),
            Self::Host(host) | Self::OutsideHost(host) => host.as_str().as_bytes(),
            Self::Local(name, _) => name.as_str().as_bytes(),
            Self::Remote(remote) => remote.entry.name.as_bytes(),
            Self::Layered(layered) => layered.name.as_bytes(),
        }
    }

    pub(super) fn is_folder(&self) -> bool {
        match self {
            Self::Remote(remote) => matches!(remote.entry.kind, Kind::Folder { .. }),
            Self::Layered(layered) => layered.is_folder,
            Self::Local(..) => false,
            Self::Root | Self::Host(_) | Self::Outside | Self::OutsideHost(_) => true,
        }
    }

    fn identity(&self) -> PathHash {
        match self {
            Self::Root => PathHash::new("twinshare root", &[]),
            Self::Host(host) => PathHash::new("twinshare host", &[host.as_str().as_bytes()]),
            Self::Outside => PathHash::new("twinshare outside", &[]),
            Self::OutsideHost(host) => PathHash::new("twinshare outside host", &[host.as_str().as_bytes()]),
            Self::Local(_, path) => PathHash::new("twinshare local", &[path.as_os_str().as_encoded_bytes()]),
            Self::Remote(remote) => remote.identity(),
            Self::Layered(layered) => PathHash::new("twinshare layer", &[&layered.number.to_le_bytes()]),
        }
    }

    pub(super) fn ino(&self) -> Ino {
        self.numbered(self.identity())
    }

    /// The number that goes with its identity, which the caller has hashed already.
    fn numbered(&self, identity: PathHash) -> Ino {
        match self {
            Self::Root => Ino::ROOT,
            Self::Layered(layered) => Ino(layered.number),
            _ => Ino(identity.number()),
        }
    }
}

/// What the kernel has looked up.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) parent: Ino,
    pub(super) kind: NodeKind,
}

impl Node {
    pub(super) fn is_folder(&self) -> bool {
        self.kind.is_folder()
    }
}

/// All nodes that the kernel has looked up and not forgotten.
pub(super) struct Table {
    nodes: HashMap<Ino, Known>,
    layers: Option<Arc<Layers>>,
    /// Grows with every new listing.
    generation: u64,
}

#[derive(Debug)]
struct Known {
    node: Arc<Node>,
    lookups: u64,
}

impl Table {
    pub(super) fn new(layers: Option<Arc<Layers>>) -> Self {
        let node = Arc::new(Node { parent: Ino::ROOT, kind: NodeKind::Root });
        // The root is never looked up, and never forgotten.
        Self { nodes: HashMap::from([(Ino::ROOT, Known { node, lookups: 1 })]), layers, generation: 0 }
    }

    pub(super) fn get(&self, ino: Ino) -> Option<Arc<Node>> {
        self.nodes.get(&ino).map(|known| known.node.clone())
    }

    pub(super) fn contains(&self, ino: Ino) -> bool {
        self.nodes.contains_key(&ino)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn next_generation(&mut self) {
        self.generation += 1;
    }

    /// The names of the known nodes in a folder. Looks at every node: for rare cases.
    pub(super) fn children(&self, parent: Ino) -> Vec<Name> {
        let known = self.nodes.values().filter(|known| known.node.parent == parent);
        known.filter_map(|known| Name::new(known.node.kind.name()).ok()).collect()
    }

    /// The number and node that a child has or would have. Nothing is counted yet.
    pub(super) fn preview(&self, parent: Ino, kind: NodeKind) -> (Ino, Arc<Node>) {
        let identity = kind.identity();
        let mut ino = kind.numbered(identity);
        // Two identities with one number: 2^-64 by chance. The later comer takes the next free one.
        while let Some(known) = self.nodes.get(&ino)
            && !matches!(kind, NodeKind::Layered(_))
            && !matches!(known.node.kind, NodeKind::Layered(_))
            && known.node.kind.identity() != identity
        {
            ino = Ino(ino.0.wrapping_add(1).max(2));
        }
        let kind = match kind {
            NodeKind::Remote(remote) => self.changed(ino, &remote).unwrap_or(NodeKind::Remote(remote)),
            kind => kind,
        };
        (ino, Arc::new(Node { parent, kind }))
    }

    /// What the owner's file or folder has become here, if it was changed.
    fn changed(&self, ino: Ino, remote: &Remote) -> Option<NodeKind> {
        let layers = self.layers.as_ref().filter(|_| !remote.workspace.fixed)?;
        let layer = layers.get(&remote.workspace.id)?;
        Layered::new(&remote.workspace, &layer, ino.0, &remote.entry.name).map(NodeKind::Layered)
    }

    /// Whether what was read of a folder when it was `then`, at `generation`, still holds.
    pub(super) fn is_current(&self, ino: Ino, then: &Node, generation: u64) -> bool {
        let Some(now) = self.get(ino) else { return false };
        match (&now.kind, &then.kind) {
            (NodeKind::Remote(now), NodeKind::Remote(then)) => {
                now.entry.kind == then.entry.kind && now.workspace.is_allowed() == then.workspace.is_allowed()
            }
            (NodeKind::Layered(_), NodeKind::Remote(_)) => false,
            _ => self.generation == generation,
        }
    }

    /// Finds or makes the node of a child and counts one look-up.
    pub(super) fn enter(&mut self, parent: Ino, kind: NodeKind) -> (Ino, Arc<Node>) {
        let (ino, node) = self.preview(parent, kind);
        let known = self.nodes.entry(ino).or_insert_with(|| Known { node: node.clone(), lookups: 0 });
        known.lookups += 1;
        known.node = node.clone();
        (ino, node)
    }

    /// Puts another version of a known node in its place; what isn't known stays unknown, and what was changed here stays
    /// as it is.
    pub(super) fn replace(&mut self, ino: Ino, kind: NodeKind) {
        if let Some(known) = self.nodes.get_mut(&ino) {
            let kept = matches!((&known.node.kind, &kind), (NodeKind::Layered(_), NodeKind::Remote(_)));
            if !kept {
                known.node = Arc::new(Node { parent: known.node.parent, kind });
            }
        }
    }

    /// Makes a known node again what it was before it was changed here.
    pub(super) fn put_back(&mut self, ino: Ino, kind: NodeKind) {
        if let Some(known) = self.nodes.get_mut(&ino) {
            known.node = Arc::new(Node { parent: known.node.parent, kind });
        }
    }

    /// Notes that a known node has another name, in another folder perhaps.
    pub(super) fn moved(&mut self, parent: Ino, layered: Layered) {
        if let Some(known) = self.nodes.get_mut(&Ino(layered.number)) {
            known.node = Arc::new(Node { parent, kind: NodeKind::Layered(layered) });
        }
    }

    /// Takes back look-ups; gives the node if that were all.
    pub(super) fn forget(&mut self, ino: Ino, count: u64) -> Option<Arc<Node>> {
        let known = self.nodes.get_mut(&ino).filter(|_| ino != Ino::ROOT)?;
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups > 0 {
            return None;
        }
        self.nodes.remove(&ino).map(|known| known.node)
    }
}

impl Mounted {
    /// Whether this node may read it.
    pub(super) fn is_allowed(&self) -> bool {
        self.root.is_some()
    }
}
