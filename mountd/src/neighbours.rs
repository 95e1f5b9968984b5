//! The other nodes: who they are, what they share, and the connections to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use twinshare::{
    api::PeerAddress,
    discovery::{Change, Discovery},
    fetch::{Holder, Holders},
    peer::{Credentials, Expected, PeerClient, PeerError, PieceRequest, WorkspaceInfo},
    types::{Digest, HostName, NodeId, WorkspaceId, WorkspaceName},
};

use crate::{files, holder::PeerHolder};

/// The share service's usual port, for addresses that are given without one.
pub(crate) const SHARE_PORT: u16 = 37778;

/// How long one look at a catalogue waits for a change. A peer that is gone is noticed after this and [`SILENCE`].
const WATCH: Duration = Duration::from_secs(5);

/// How long a peer may say nothing during a request: less than a read's deadline, so that another can still be asked.
const SILENCE: Duration = Duration::from_secs(4);

/// The pause after a failed attempt to reach a peer: from here, doubling …
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// … to here, so that a link that comes back is noticed within 5 s.
const LAST_PAUSE: Duration = Duration::from_secs(4);

/// Another node, as this one knows it; kept on disk, so that what is cached of it is found without it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Neighbour {
    /// Its folder in the mount: the same for as long as it's known.
    pub(crate) folder: HostName,
    pub(crate) version: String,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) last_seen: Timestamp,
    pub(crate) workspaces: Vec<WorkspaceInfo>,
    /// Added by address, not found.
    #[serde(default)]
    pub(crate) by_address: bool,
    #[serde(skip)]
    pub(crate) client: Option<PeerClient>,
    #[serde(skip)]
    pub(crate) alerts: Vec<String>,
}

/// What is kept on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Book {
    neighbours: BTreeMap<NodeId, Neighbour>,
    /// Addresses that the user added, and who was met there.
    addresses: BTreeMap<String, Option<NodeId>>,
    #[serde(skip)]
    contacts: BTreeSet<Target>,
}

/// Whom a contact is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Node(NodeId),
    Address(String),
}

/// All other nodes.
pub(crate) struct Neighbours {
    own: NodeId,
    own_host: HostName,
    credentials: Credentials,
    file: PathBuf,
    book: Mutex<Book>,
    changed: watch::Sender<u64>,
    /// Wakes the contacts that pause.
    retry: Notify,
}

/// The identity that a workspace has in this node's mount and cache: two owners may share copies of one workspace.
pub(crate) fn mounted_id(owner: &NodeId, workspace: &WorkspaceId) -> WorkspaceId {
    let digest = Digest::of(&[&owner.as_bytes()[..], workspace.as_bytes()].concat());
    let mut id = [0; 16];
    id.copy_from_slice(&digest.as_bytes()[..16]);
    WorkspaceId::from_bytes(id)
}

impl Neighbours {
    /// Opens the book of what was known before.
    pub(crate) fn open(
        state: &Path,
        own_host: HostName,
        credentials: Credentials,
    ) -> Result<Arc<Self>, files::FileError> {
        let file = state.join("peers.json");
        let book: Book = files::read_json(&file)?.unwrap_or_default();
        Ok(Arc::new(Self {
            own: credentials.node(),
            own_host,
            credentials,
            file,
            book: Mutex::new(book),
            changed: watch::Sender::new(0),
            retry: Notify::new(),
        }))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change is complete before anything can panic.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever what is known of the others does.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// All that are known.
    pub(crate) fn list(&self) -> Vec<(NodeId, Neighbour)> {
        self.book().neighbours.iter().map(|(id, neighbour)| (*id, neighbour.clone())).collect()
    }

    /// The addresses that the user added and nobody has answered from yet.
    pub(crate) fn silent_addresses(&self) -> Vec<String> {
        let book = self.book();
        book.addresses.iter().filter(|(_, met)| met.is_none()).map(|(address, _)| address.clone()).collect()
    }

    /// Who was met at an address that the user added.
    pub(crate) fn met(&self, address: &PeerAddress) -> Option<NodeId> {
        self.book().addresses.get(&address.to_string()).copied().flatten()
    }

    /// Follows discovery and the addresses given before, until the node ends.
    pub(crate) async fn run(self: Arc<Self>, discovery: Discovery) {
        let mut changes = discovery.changes();
        let addresses: Vec<String> = self.book().addresses.keys().cloned().collect();
        for address in addresses {
            self.contact(Target::Address(address), &discovery);
        }
        loop {
            for peer in discovery.peers() {
                self.contact(Target::Node(peer.id), &discovery);
            }
            match changes.recv().await {
                Ok(Change::Joined(_) | Change::Restarted(_) | Change::Updated(_)) => {
                    self.retry.notify_waiters()
                }
                Ok(Change::Alert(alert)) => self.note_alert(&alert),
                Ok(Change::Away(_) | Change::Left(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn note_alert(&self, alert: &twinshare::discovery::Alert) {
        use twinshare::discovery::Alert;
        let (id, text) = match alert {
            Alert::Cloned { id, hostname, from } => {
                (id, format!("two running nodes have the identity of {hostname}: {from:?}"))
            }
            Alert::Forged { claimed, from } => {
                (claimed, format!("{from} announced itself in this node's name"))
            }
            Alert::OwnIdentity { from } => {
                tracing::warn!(%from, "another running node has this node's own identity");
                return;
            }
        };
        tracing::warn!(node = %id, text, "a peer is odd");
        if let Some(neighbour) = self.book().neighbours.get_mut(id)
            && !neighbour.alerts.contains(&text)
        {
            neighbour.alerts.push(text);
        }
    }

    /// Adds a peer by address and remembers it.
    pub(crate) fn add(
        self: &Arc<Self>,
        address: &PeerAddress,
        discovery: &Discovery,
    ) -> Result<(), files::FileError> {
        let address = address.to_string();
        self.book().addresses.entry(address.clone()).or_default();
        self.save()?;
        self.contact(Target::Address(address), discovery);
        self.retry.notify_waiters();
        Ok(())
    }

    /// Keeps in touch with a peer from now on, unless that is being done.
    fn contact(self: &Arc<Self>, target: Target, discovery: &Discovery) {
        if target == Target::Node(self.own) || !self.book().contacts.insert(target.clone()) {
            return;
        }
        tokio::spawn(self.clone().keep_in_touch(target, discovery.clone()));
    }

    async fn keep_in_touch(self: Arc<Self>, target: Target, discovery: Discovery) {
        let mut pause = FIRST_PAUSE;
        loop {
            let started = tokio::time::Instant::now();
            let mut retry = std::pin::pin!(self.retry.notified());
            retry.as_mut().enable();
            if let Err(error) = self.session(&target, &discovery).await {
                tracing::debug!(?target, %error, "no contact");
            }
            if started.elapsed() > LAST_PAUSE {
                pause = FIRST_PAUSE;
            }
            // With jitter, so that many nodes don't all come back to one at the same moment.
            let jitter = pause.mul_f64(rand::random_range(0.75..1.25));
            tokio::select! {
                () = retry => pause = FIRST_PAUSE,
                () = tokio::time::sleep(jitter) => pause = (pause * 2).min(LAST_PAUSE),
            }
            if let Target::Node(id) = target
                && !discovery.peers().iter().any(|peer| peer.id == id)
            {
                // It has left. Discovery will tell when it's back.
                self.book().contacts.remove(&target);
                return;
            }
        }
    }

    /// Connects and follows the peer's catalogue until the connection fails.
    async fn session(&self, target: &Target, discovery: &Discovery) -> Result<(), PeerError> {
        let (addresses, expected) = self.addresses(target, discovery).await;
        if let Expected::Node(id) = expected
            && self.is_connected(&id)
        {
            return Ok(());
        }
        let client = PeerClient::connect(&self.credentials, &addresses, expected, SILENCE).await?;
        let id = client.id();
        if let Target::Address(address) = target {
            self.book().addresses.insert(address.clone(), Some(id));
        }
        if id == self.own || self.is_connected(&id) {
            // Ourselves, or met by another way already.
            return Ok(());
        }
        let info = client.node().await?;
        let result = self.follow(&client, info, matches!(target, Target::Address(_))).await;
        if let Some(neighbour) = self.book().neighbours.get_mut(&id) {
            neighbour.client = None;
            neighbour.last_seen = Timestamp::now();
        }
        self.notify();
        result
    }

    fn is_connected(&self, id: &NodeId) -> bool {
        self.book().neighbours.get(id).is_some_and(|known| known.client.is_some())
    }

    async fn follow(
        &self,
        client: &PeerClient,
        info: twinshare::peer::NodeInfo,
        by_address: bool,
    ) -> Result<(), PeerError> {
        let mut tag = None;
        loop {
            let news = client.catalogue(tag.as_deref(), WATCH).await?;
            let Some(catalogue) = news else { continue };
            tag = Some(catalogue.tag);
            let mut book = self.book();
            let folder = self.folder(&book, client.id(), &info.hostname);
            let neighbour = book.neighbours.entry(client.id()).or_insert_with(|| Neighbour {
                folder,
                version: String::new(),
                address: None,
                last_seen: Timestamp::now(),
                workspaces: Vec::new(),
                by_address,
                client: None,
                alerts: Vec::new(),
            });
            neighbour.version.clone_from(&info.version);
            neighbour.address = Some(client.address());
            neighbour.last_seen = Timestamp::now();
            neighbour.workspaces = catalogue.workspaces;
            neighbour.client = Some(client.clone());
            drop(book);
            if let Err(error) = self.save() {
                tracing::warn!(%error, "what is known of the peers can't be kept");
            }
            self.notify();
        }
    }

    async fn addresses(&self, target: &Target, discovery: &Discovery) -> (Vec<SocketAddr>, Expected) {
        match target {
            Target::Node(id) => {
                let peers = discovery.peers();
                let heard = peers.iter().find(|peer| peer.id == *id);
                (heard.map(|peer| peer.candidates.clone()).unwrap_or_default(), Expected::Node(*id))
            }
            Target::Address(address) => {
                let met = self.book().addresses.get(address).copied().flatten();
                let with_port = match address.parse::<PeerAddress>() {
                    Ok(address) => (address.host, address.port.unwrap_or(SHARE_PORT)),
                    Err(_) => return (Vec::new(), Expected::Any),
                };
                let found = tokio::net::lookup_host(with_port).await.map(Iterator::collect);
                // Whoever was met there once is the one who is meant.
                (found.unwrap_or_default(), met.map_or(Expected::Any, Expected::Node))
            }
        }
    }

    /// The folder for a node in the mount: its name, or, when somebody else has that, its name and identity.
    fn folder(&self, book: &Book, id: NodeId, name: &HostName) -> HostName {
        let taken = |folder: &HostName| {
            *folder == self.own_host
                || book
                    .neighbours
                    .iter()
                    .any(|(other, neighbour)| *other != id && neighbour.folder == *folder)
        };
        if !taken(name) {
            return name.clone();
        }
        let cut: String = name.as_str().chars().take(60).collect();
        [format!("{cut}-{}", id.short()), format!("node-{id}")]
            .iter()
            .filter_map(|text| text.parse().ok())
            .find(|folder| !taken(folder))
            .unwrap_or_else(|| name.clone())
    }

    fn save(&self) -> Result<(), files::FileError> {
        files::write_json(&self.file, &*self.book())
    }

    fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Which neighbour's which workspace has this identity in the mount.
    fn find(&self, mounted: &WorkspaceId) -> Option<(PeerClient, WorkspaceInfo)> {
        self.book().neighbours.iter().find_map(|(owner, neighbour)| {
            let client = neighbour.client.clone()?;
            let workspaces = neighbour.workspaces.iter();
            let found = workspaces.into_iter().find(|info| mounted_id(owner, &info.id) == *mounted)?;
            Some((client, found.clone()))
        })
    }
}

impl Holders for Neighbours {
    fn holders(&self, workspace: &WorkspaceId) -> Vec<Arc<dyn Holder>> {
        self.find(workspace).map(|(client, info)| PeerHolder::shared(client, info.id)).into_iter().collect()
    }

    fn knock(&self, workspace: &WorkspaceId) {
        let Some((client, info)) = self.find(workspace) else { return };
        tokio::spawn(async move {
            let piece = PieceRequest::Tree { tree: info.head.head.root, subtree: false };
            if let Err(error) = client.batch(info.id, vec![piece]).await {
                tracing::debug!(%error, workspace = %info.name, "asked for access");
            }
        });
    }
}

/// The names under which workspaces stand in their host's folder: theirs, or, the second time, theirs and their identity.
pub(crate) fn places(workspaces: &[WorkspaceInfo]) -> BTreeMap<WorkspaceName, &WorkspaceInfo> {
    let mut places = BTreeMap::new();
    for info in workspaces {
        let mut name = info.name.clone();
        if places.contains_key(&name) {
            let cut: String = name.as_str().chars().take(60).collect();
            name = match format!("{cut}-{}", info.id.short()).parse() {
                Ok(name) => name,
                Err(_) => continue,
            };
        }
        places.insert(name, info);
    }
    places
}
