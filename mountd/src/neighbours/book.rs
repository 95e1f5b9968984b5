use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    str::FromStr,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::Instant;
use twinshare::{
    peer::{Capability, Grant, MAX_WORKSPACES, PeerClient, WorkspaceInfo},
    types::{Digest, HostName, NodeId, WorkspaceId},
};

use super::{Target, mounted_id};

/// So many neighbours are kept, more than a network of people has: what a crowd announces must not fill the disk.
const MAX_NEIGHBOURS: usize = 512;

/// What is away for longer is forgotten, unless something of it is cached.
const FORGOTTEN: SignedDuration = SignedDuration::from_secs(60);

/// Another node, as this one knows it; kept on disk, so that what is cached of it is found without it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Neighbour {
    /// Its folder in the mount: the same for as long as it's known.
    pub(crate) folder: HostName,
    pub(crate) version: String,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) last_seen: Timestamp,
    /// What it announced last.
    pub(crate) workspaces: Vec<WorkspaceInfo>,
    /// Of those, the last versions that the mount showed and whose top folder is here.
    pub(super) taken: BTreeMap<WorkspaceId, WorkspaceInfo>,
    /// The greatest sequences of heads that were seen.
    pub(super) sequences: BTreeMap<WorkspaceId, u64>,
    /// Added by address, not found.
    pub(crate) by_address: bool,
    #[serde(skip)]
    pub(crate) client: Option<PeerClient>,
    /// What is needed to have parts of its workspaces from others.
    #[serde(skip)]
    pub(super) grants: BTreeMap<WorkspaceId, Grant>,
    /// A time of its clock, and when it was told.
    #[serde(skip)]
    clock: Option<(u64, Instant)>,
    #[serde(skip)]
    pub(crate) alerts: Vec<String>,
    /// Workspaces of which an old head was announced and that was logged.
    #[serde(skip)]
    went_back: BTreeSet<WorkspaceId>,
}

/// What is known of all others. But for what is skipped it's kept on disk.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Book {
    pub(super) neighbours: BTreeMap<NodeId, Neighbour>,
    /// Addresses that the user added, and who was met there.
    pub(super) addresses: BTreeMap<String, Option<NodeId>>,
    /// What is wrong with nodes that aren't known, this one itself among them.
    #[serde(skip)]
    pub(super) alerts: Vec<String>,
    #[serde(skip)]
    pub(super) contacts: BTreeSet<Target>,
    /// Whose catalogue some contact follows: each only one's.
    #[serde(skip)]
    pub(super) followed: BTreeSet<NodeId>,
    /// Whose which workspace has which identity in the mount.
    #[serde(skip)]
    mounted: HashMap<WorkspaceId, (NodeId, WorkspaceId)>,
}

impl Neighbour {
    pub(super) fn new(folder: HostName, by_address: bool) -> Self {
        Self {
            folder,
            version: String::new(),
            address: None,
            last_seen: Timestamp::now(),
            workspaces: Vec::new(),
            taken: BTreeMap::new(),
            sequences: BTreeMap::new(),
            by_address,
            client: None,
            grants: BTreeMap::new(),
            clock: None,
            alerts: Vec::new(),
            went_back: BTreeSet::new(),
        }
    }

    /// What is to be shown for the announced workspace `info`. Of a host that isn't there only what can be looked at
    /// from here: the newest version, or else the last that was taken over.
    pub(crate) fn shown<'a>(
        &'a self,
        info: &'a WorkspaceInfo,
        is_held: impl Fn(&Digest) -> bool,
    ) -> Option<&'a WorkspaceInfo> {
        let is_held = |info: &WorkspaceInfo| info.is_open() && is_held(&info.head.head.root);
        if self.client.is_some() || is_held(info) {
            return Some(info);
        }
        self.taken.get(&info.id).filter(|taken| is_held(taken))
    }

    /// Replaces what it shares by what it `announced`. Its heads only go forward: what is older than what was seen is
    /// left as it was known, since whoever passes it on may be mistaken, or may hide a change.
    fn take_over(&mut self, announced: Vec<WorkspaceInfo>) {
        let mut known: HashMap<_, _> = self.workspaces.drain(..).map(|info| (info.id, info)).collect();
        for info in announced {
            let sequence = info.head.head.sequence;
            let greatest = self.sequences.get(&info.id).copied().unwrap_or(0);
            // The head of what may not be read is blank.
            if info.is_open() && sequence < greatest {
                if self.went_back.insert(info.id) {
                    tracing::warn!(host = %self.folder, workspace = %info.name, sequence, greatest, "an old version was announced: ignored");
                }
                self.workspaces.extend(known.remove(&info.id));
                continue;
            }
            if info.is_open() {
                self.sequences.insert(info.id, sequence);
            }
            self.workspaces.push(info);
        }
        let open: BTreeSet<_> =
            self.workspaces.iter().filter(|info| info.is_open()).map(|info| info.id).collect();
        self.taken.retain(|id, _| open.contains(id));
        if self.sequences.len() > MAX_WORKSPACES {
            self.sequences.retain(|id, _| open.contains(id));
            self.went_back.retain(|id| open.contains(id));
        }
    }

    /// Replaces what it lets this node have from others.
    pub(super) fn take_grants(&mut self, grants: Vec<Grant>, own: NodeId, now: Instant) {
        let own = grants.into_iter().filter(|grant| grant.capability.reader == own);
        self.grants = own.map(|grant| (grant.capability.workspace, grant)).collect();
        let latest = self.grants.values().map(|grant| grant.capability.issued).max();
        if let Some(latest) = latest
            && self.clock.is_none_or(|(known, _)| known != latest)
        {
            self.clock = Some((latest, now));
        }
    }

    /// Whether a capability of its has yet to expire by its own clock, as far as that is known: which is too early by
    /// as much as the latest capability was old when it came.
    pub(super) fn is_in_time(&self, capability: &Capability, now: Instant) -> bool {
        self.clock.is_some_and(|(known, at)| {
            known.saturating_add(now.duration_since(at).as_secs()) < capability.expires
        })
    }

    /// Whether a version that the mount shows is still allowed and not the one that is noted.
    pub(super) fn may_take(&self, version: &WorkspaceInfo) -> bool {
        version.is_open()
            && self.taken.get(&version.id) != Some(version)
            && self.workspaces.iter().any(|info| info.id == version.id && info.is_open())
    }

    fn roots(&self) -> impl Iterator<Item = Digest> {
        self.workspaces.iter().chain(self.taken.values()).map(|info| info.head.head.root)
    }

    fn is_cached(&self, info: &WorkspaceInfo, held: &BTreeSet<Digest>) -> bool {
        held.contains(&info.head.head.root)
            || self.taken.get(&info.id).is_some_and(|taken| held.contains(&taken.head.head.root))
    }

    /// Takes what can be read of an entry; none without a folder.
    fn read(entry: &Value) -> Option<Self> {
        let mut read = Self::new(field(entry, "folder")?, field(entry, "by_address").unwrap_or_default());
        read.version = field(entry, "version").unwrap_or_default();
        read.address = field(entry, "address");
        read.last_seen = field(entry, "last_seen").unwrap_or(Timestamp::UNIX_EPOCH);
        let workspaces = entry.get("workspaces").and_then(Value::as_array).into_iter().flatten();
        read.workspaces = workspaces.filter_map(workspace).collect();
        let taken = entry.get("taken").and_then(Value::as_object).into_iter().flatten();
        read.taken = taken.filter_map(|(_, info)| workspace(info)).map(|info| (info.id, info)).collect();
        read.sequences = field(entry, "sequences").unwrap_or_default();
        Some(read)
    }
}

fn field<T: DeserializeOwned>(entry: &Value, name: &str) -> Option<T> {
    T::deserialize(entry.get(name)?).ok()
}

fn workspace(entry: &Value) -> Option<WorkspaceInfo> {
    serde_json::from_value(entry.clone())
        .inspect_err(|error| tracing::warn!(%error, "a workspace in the book of peers is damaged: dropped"))
        .ok()
}

impl Book {
    /// Reads what was kept. The book is a cache: what can't be read of it is dropped, and the network tells it again.
    pub(super) fn read(bytes: &[u8], own_host: &HostName) -> Self {
        let value = serde_json::from_slice::<Value>(bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, "the book of peers is damaged: starting without it");
            Value::Null
        });
        let entries = |name| value.get(name).and_then(Value::as_object).into_iter().flatten();
        let mut book = Self::default();
        for (id, entry) in entries("neighbours") {
            match (id.parse(), Neighbour::read(entry)) {
                (Ok(id), Some(neighbour)) => {
                    book.neighbours.insert(id, neighbour);
                }
                _ => tracing::warn!(id, "a peer in the book is damaged: dropped"),
            }
        }
        for (address, met) in entries("addresses") {
            book.addresses.insert(address.clone(), met.as_str().and_then(|id| id.parse().ok()));
        }
        book.part_folders(own_host);
        book.index();
        book
    }

    /// Gives new folders to neighbours whose folder is another's: this node's own name comes first.
    fn part_folders(&mut self, own_host: &HostName) {
        let mut all: BTreeSet<HostName> =
            self.neighbours.values().map(|neighbour| neighbour.folder.clone()).collect();
        all.insert(own_host.clone());
        let mut given = BTreeSet::from([own_host.clone()]);
        for (id, neighbour) in &mut self.neighbours {
            if given.contains(&neighbour.folder) {
                neighbour.folder = unused(&neighbour.folder, &id.short(), |folder| all.contains(folder));
                all.insert(neighbour.folder.clone());
            }
            given.insert(neighbour.folder.clone());
        }
    }

    /// The folder for a node in the mount: that which it has, else its name, made another if somebody has that.
    pub(super) fn folder(&self, id: NodeId, name: &HostName, own_host: &HostName) -> HostName {
        if let Some(known) = self.neighbours.get(&id) {
            return known.folder.clone();
        }
        let taken: BTreeSet<&HostName> =
            self.neighbours.values().map(|neighbour| &neighbour.folder).chain([own_host]).collect();
        unused(name, &id.short(), |folder| taken.contains(folder))
    }

    fn index(&mut self) {
        self.mounted.clear();
        for (owner, neighbour) in &self.neighbours {
            let ids = neighbour.workspaces.iter().map(|info| info.id);
            self.mounted.extend(ids.map(|id| (mounted_id(owner, &id), (*owner, id))));
        }
    }

    /// Replaces what a neighbour shares by what it announced.
    pub(super) fn take_over(&mut self, owner: NodeId, announced: Vec<WorkspaceInfo>) {
        let Some(neighbour) = self.neighbours.get_mut(&owner) else { return };
        for info in &neighbour.workspaces {
            self.mounted.remove(&mounted_id(&owner, &info.id));
        }
        neighbour.take_over(announced);
        let ids = neighbour.workspaces.iter().map(|info| info.id);
        self.mounted.extend(ids.map(|id| (mounted_id(&owner, &id), (owner, id))));
    }

    /// Whose which workspace has this identity in the mount.
    pub(super) fn find(&self, mounted: &WorkspaceId) -> Option<(&Neighbour, NodeId, WorkspaceId)> {
        let (owner, id) = *self.mounted.get(mounted)?;
        Some((self.neighbours.get(&owner)?, owner, id))
    }

    fn is_pinned(&self, id: &NodeId) -> bool {
        self.followed.contains(id) || self.addresses.values().any(|met| met.as_ref() == Some(id))
    }

    /// The roots of everything shared by whoever isn't followed: to be asked whether they are held, for the following.
    pub(super) fn roots_away(&self) -> BTreeSet<Digest> {
        let away = self.neighbours.iter().filter(|(id, _)| !self.followed.contains(id));
        away.flat_map(|(_, neighbour)| neighbour.roots()).collect()
    }

    /// Forgets what has been away for a while and of which nothing is `held`; whether there was something.
    pub(super) fn forget(&mut self, now: Timestamp, held: &BTreeSet<Digest>) -> bool {
        let away = |neighbour: &Neighbour| now.duration_since(neighbour.last_seen).abs() > FORGOTTEN;
        let (mut forgotten, mut empty) = (false, Vec::new());
        for (id, neighbour) in &mut self.neighbours {
            if self.followed.contains(id) || !away(neighbour) {
                continue;
            }
            let all = std::mem::take(&mut neighbour.workspaces);
            let before = all.len();
            neighbour.workspaces = all.into_iter().filter(|info| neighbour.is_cached(info, held)).collect();
            forgotten |= neighbour.workspaces.len() < before;
            if neighbour.workspaces.is_empty() {
                empty.push(*id);
            }
        }
        for id in empty {
            if !self.is_pinned(&id) {
                self.neighbours.remove(&id);
                forgotten = true;
            }
        }
        if forgotten {
            self.index();
        }
        forgotten
    }

    pub(super) fn is_full(&self) -> bool {
        self.neighbours.len() >= MAX_NEIGHBOURS
    }

    /// Makes room for one more neighbour; false if there is none. Who has been away for longest goes first, and before
    /// those of whom something is `held`.
    pub(super) fn make_room(&mut self, held: &BTreeSet<Digest>) -> bool {
        while self.is_full() {
            let free = self.neighbours.iter().filter(|(id, _)| !self.is_pinned(id));
            let worth = |neighbour: &Neighbour| {
                (neighbour.roots().any(|root| held.contains(&root)), neighbour.last_seen)
            };
            let Some(id) = free.min_by_key(|(_, neighbour)| worth(neighbour)).map(|(id, _)| *id) else {
                return false;
            };
            self.neighbours.remove(&id);
            self.index();
        }
        true
    }
}

/// The label, or, if that is taken, the label with `mark`, and then with a number too.
pub(super) fn unused<T: FromStr + Clone + ToString>(
    label: &T,
    mark: &str,
    is_taken: impl Fn(&T) -> bool,
) -> T {
    let text = label.to_string();
    // A label has at most 120 bytes, of which the mark and the number need some.
    let cut = &text[..text.floor_char_boundary(80)];
    let marked = std::iter::once(format!("{cut}-{mark}"));
    let numbered = (2_u64..).map(|number| format!("{cut}-{mark}-{number}"));
    let other = marked.chain(numbered).filter_map(|text| text.parse().ok());
    std::iter::once(label.clone())
        .chain(other)
        .find(|label| !is_taken(label))
        .unwrap_or_else(|| unreachable!("there are more numbers than labels that are taken"))
}

#[cfg(test)]
mod tests;
