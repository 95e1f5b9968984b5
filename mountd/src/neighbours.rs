//! The other nodes: who they are, what they share, and the connections to them.

mod book;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use twinshare::{
    access::Right,
    api::{Happening, PeerAddress},
    discovery::{Change, Discovery},
    fetch::{Holder, HolderError, Holders},
    peer::{
        Bandwidth, Capability, Credentials, Expected, Grant, NodeInfo, PeerClient, PeerError, PieceRequest,
        Refusal, WorkspaceInfo,
    },
    store::ReadStore,
    tree::Snapshot,
    types::{Digest, HostName, NodeId, WorkspaceId, WorkspaceName},
};

use self::book::Book;
pub(crate) use self::book::Neighbour;
use crate::{
    events::Events,
    files,
    holder::{Holding, Ways},
    swarm::Swarm,
};

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

/// Looks at one peer's catalogue are at least so far apart, however often it changes.
const PACE: Duration = Duration::from_millis(250);

/// The book is written at most this often, however often it changes.
const SAVE_GAP: Duration = Duration::from_secs(1);

/// How often is looked for what can be forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(30);

/// An owner is asked for access to a workspace at most once in this time.
const KNOCK_GAP: Duration = Duration::from_secs(60);

/// So much that is wrong is told of one peer: more says nothing new.
const ALERTS: usize = 16;

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
    bandwidth: Arc<Bandwidth>,
    events: Arc<Events>,
    store: Arc<dyn ReadStore>,
    file: PathBuf,
    book: Mutex<Book>,
    /// When who was asked for access to what.
    knocks: Mutex<HashMap<(NodeId, WorkspaceId), Instant>>,
    swarm: Swarm,
    /// Itself, for what it hands out to fetch from.
    this: Weak<Self>,
    changed: watch::Sender<u64>,
    /// The book differs from what is on disk.
    unsaved: Notify,
    /// Held while the book is written.
    saving: tokio::sync::Mutex<()>,
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
    /// Opens the book of what was known before; `store` tells what is cached. What can't be read of it is logged.
    pub(crate) fn open(
        state: &Path,
        own_host: HostName,
        credentials: Credentials,
        bandwidth: Arc<Bandwidth>,
        events: Arc<Events>,
        store: Arc<dyn ReadStore>,
    ) -> Arc<Self> {
        let file = state.join("peers.json");
        let book = match std::fs::read(&file) {
            Ok(bytes) => Book::read(&bytes, &own_host),
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    tracing::warn!(%error, "the book of peers can't be read: starting without it");
                }
                Book::default()
            }
        };
        Arc::new_cyclic(|this| Self {
            own: credentials.node(),
            own_host,
            store,
            file,
            book: Mutex::new(book),
            knocks: Mutex::default(),
            swarm: Swarm::new(credentials.node()),
            this: this.clone(),
            changed: watch::Sender::new(0),
            unsaved: Notify::new(),
            saving: tokio::sync::Mutex::default(),
            retry: Notify::new(),
            credentials,
            bandwidth,
            events,
        })
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
        tokio::spawn(self.clone().keep_saved());
        tokio::spawn(self.clone().keep_small());
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
                (&self.own, format!("another running node has this node's own identity: {from}"))
            }
        };
        self.alert(*id, text);
    }

    /// Tells the user if a peer sent what it shouldn't.
    pub(crate) fn note_failure(&self, error: &PeerError) {
        if let PeerError::Misbehaved { peer, what } = error {
            self.alert(*peer, what.clone());
        }
    }

    /// Tells the user that something is wrong with a peer, once.
    fn alert(&self, peer: NodeId, text: String) {
        let mut book = self.book();
        let alerts = match book.neighbours.get_mut(&peer) {
            Some(neighbour) => &mut neighbour.alerts,
            None => &mut book.alerts,
        };
        if alerts.contains(&text) || alerts.len() >= ALERTS {
            return;
        }
        alerts.push(text.clone());
        drop(book);
        tracing::warn!(node = %peer, text, "something is wrong with a peer");
        self.events.note(Happening::PeerAlert { peer, what: text });
    }

    /// What is wrong with nodes that aren't known, this one itself among them.
    pub(crate) fn alerts(&self) -> Vec<String> {
        self.book().alerts.clone()
    }

    /// Adds a peer by address and remembers it.
    pub(crate) async fn add(
        self: &Arc<Self>,
        address: &PeerAddress,
        discovery: &Discovery,
    ) -> Result<(), files::FileError> {
        let address = address.to_string();
        self.book().addresses.entry(address.clone()).or_default();
        self.save().await?;
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
                self.note_failure(&error);
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
            && self.book().followed.contains(&id)
        {
            return Ok(());
        }
        let client =
            PeerClient::connect(&self.credentials, &self.bandwidth, &addresses, expected, SILENCE).await?;
        let id = client.id();
        if let Target::Address(address) = target
            && self.book().addresses.insert(address.clone(), Some(id)) != Some(Some(id))
        {
            self.unsaved.notify_one();
            self.notify();
        }
        if id == self.own || !self.has_room(id) {
            return Ok(());
        }
        // Without the claim it was met by another way already.
        let Some(_claim) = Claim::take(self, id) else { return Ok(()) };
        let info = client.node().await?;
        self.follow(&client, &info, matches!(target, Target::Address(_))).await
    }

    async fn follow(&self, client: &PeerClient, info: &NodeInfo, by_address: bool) -> Result<(), PeerError> {
        let mut tag = None;
        loop {
            let next = Instant::now() + PACE;
            if let Some(catalogue) = client.catalogue(tag.as_deref(), WATCH).await? {
                tag = Some(catalogue.tag);
                self.take_over(client, info, catalogue.workspaces, catalogue.grants, by_address);
            } else if let Some(neighbour) = self.book().neighbours.get_mut(&client.id()) {
                neighbour.last_seen = Timestamp::now();
                neighbour.client = Some(client.clone());
            }
            tokio::time::sleep_until(next).await;
        }
    }

    fn take_over(
        &self,
        client: &PeerClient,
        info: &NodeInfo,
        announced: Vec<WorkspaceInfo>,
        grants: Vec<Grant>,
        by_address: bool,
    ) {
        let id = client.id();
        let mut book = self.book();
        let folder = book.folder(id, &info.hostname, &self.own_host);
        let neighbour = book.neighbours.entry(id).or_insert_with(|| Neighbour::new(folder, by_address));
        neighbour.version.clone_from(&info.version);
        neighbour.address = Some(client.address());
        neighbour.last_seen = Timestamp::now();
        neighbour.take_grants(grants, self.own, Instant::now());
        // Grants are renewed all the time; nothing that is shown or kept changes with them.
        if neighbour.client.replace(client.clone()).is_some() && neighbour.workspaces == announced {
            return;
        }
        book.take_over(id, announced);
        drop(book);
        self.unsaved.notify_one();
        self.notify();
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

    /// Notes what the mount shows now: of that, what is here stays visible when its owner goes away.
    pub(crate) fn note_taken<'a>(&self, shown: impl Iterator<Item = &'a (NodeId, WorkspaceInfo)>) {
        let new: Vec<_> = {
            let book = self.book();
            let is_new = |(owner, info): &&(NodeId, WorkspaceInfo)| {
                let neighbour = book.neighbours.get(owner);
                neighbour.is_some_and(|neighbour| neighbour.may_take(info))
            };
            shown.filter(is_new).collect()
        };
        // Looked up without the lock, which each fetch needs.
        for (owner, info) in new.into_iter().filter(|(_, info)| self.is_held(&info.head.head.root)) {
            if let Some(neighbour) = self.book().neighbours.get_mut(owner)
                && neighbour.may_take(info)
            {
                neighbour.taken.insert(info.id, info.clone());
                self.unsaved.notify_one();
            }
        }
    }

    /// Whether the top folder of this snapshot is here.
    pub(crate) fn is_held(&self, root: &Digest) -> bool {
        matches!(self.store.tree(root), Ok(Some(_)))
    }

    fn held_of(&self, roots: BTreeSet<Digest>) -> BTreeSet<Digest> {
        roots.into_iter().filter(|root| self.is_held(root)).collect()
    }

    fn has_room(&self, id: NodeId) -> bool {
        let full = |book: &Book| !book.neighbours.contains_key(&id) && book.is_full();
        let away = {
            let book = self.book();
            if !full(&book) {
                return true;
            }
            book.roots_away()
        };
        let held = self.held_of(away);
        let mut book = self.book();
        let has_room = !full(&book) || book.make_room(&held);
        if !has_room {
            tracing::debug!(node = %id, "there is no room for another peer");
        }
        has_room
    }

    /// Forgets what is away and not cached, from time to time.
    async fn keep_small(self: Arc<Self>) {
        loop {
            tokio::time::sleep(FORGET_INTERVAL).await;
            let this = self.clone();
            let forget = move || {
                let roots = this.book().roots_away();
                let held = this.held_of(roots);
                let forgotten = this.book().forget(Timestamp::now(), &held);
                if forgotten {
                    this.unsaved.notify_one();
                    this.notify();
                }
            };
            if tokio::task::spawn_blocking(forget).await.is_err() {
                return;
            }
        }
    }

    /// Writes the book whenever it has changed.
    async fn keep_saved(self: Arc<Self>) {
        loop {
            self.unsaved.notified().await;
            if let Err(error) = self.save().await {
                tracing::warn!(%error, "what is known of the peers can't be kept");
            }
            tokio::time::sleep(SAVE_GAP).await;
        }
    }

    /// Writes the book as it is now.
    pub(crate) async fn save(&self) -> Result<(), files::FileError> {
        let _turn = self.saving.lock().await;
        let (book, file) = (self.book().clone(), self.file.clone());
        let written = tokio::task::spawn_blocking(move || files::write_json(&file, &book)).await;
        written.unwrap_or_else(|error| {
            let (path, source) = (self.file.clone(), std::io::Error::other(error));
            Err(files::FileError::Disk { doing: "write", path, source })
        })
    }

    fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// How the others do as sources.
    pub(crate) fn swarm(&self) -> &Swarm {
        &self.swarm
    }

    /// The ways to a workspace: its owner, those that it names, and these `readers`, as far as they can be reached. None
    /// if nobody can.
    pub(crate) fn ways(
        &self,
        workspace: &WorkspaceId,
        readers: impl IntoIterator<Item = NodeId>,
    ) -> Option<Ways> {
        let book = self.book();
        let (neighbour, owner, workspace) = book.find(workspace)?;
        let now = Instant::now();
        let grant = neighbour.grants.get(&workspace);
        let grant = grant.filter(|grant| neighbour.is_in_time(&grant.capability, now));
        let holders = grant.map(|grant| grant.holders.clone()).unwrap_or_default();
        let others = holders.iter().copied().chain(readers);
        let others = others.filter(|node| grant.is_some() && *node != self.own);
        let client = |node: NodeId| Some((node, book.neighbours.get(&node)?.client.clone()?));
        let clients: HashMap<_, _> = others.chain([owner]).filter_map(client).collect();
        let capability = grant.map(|grant| grant.capability);
        (!clients.is_empty()).then_some(Ways { owner, workspace, capability, holders, clients })
    }

    /// The way to a workspace's owner, if it can be reached, and the workspace's identity there.
    pub(crate) fn owner(&self, workspace: &WorkspaceId) -> Option<(PeerClient, WorkspaceId)> {
        let Ways { owner, workspace, mut clients, .. } = self.ways(workspace, [])?;
        Some((clients.remove(&owner)?, workspace))
    }

    /// Whether what is held of another's workspace may be given to whoever shows this capability, which is signed; gives
    /// the identity that the workspace has here.
    pub(crate) fn may_pass_on(&self, capability: &Capability, now: Instant) -> Result<WorkspaceId, Refusal> {
        let book = self.book();
        let neighbour = book.neighbours.get(&capability.owner).ok_or(Refusal::Unknown)?;
        let is_shared = |info: &&WorkspaceInfo| info.id == capability.workspace;
        let info = neighbour.workspaces.iter().find(is_shared).ok_or(Refusal::Unknown)?;
        let grant = neighbour.grants.get(&capability.workspace);
        let is_revoked = grant.is_some_and(|grant| grant.revoked.contains(&capability.reader));
        if info.rights.has(Right::Read) && !is_revoked && neighbour.is_in_time(capability, now) {
            Ok(mounted_id(&capability.owner, &capability.workspace))
        } else {
            Err(Refusal::Denied)
        }
    }

    /// Whether an owner may be asked for access once more.
    fn may_knock(&self, owner: NodeId, workspace: WorkspaceId, now: Instant) -> bool {
        let mut knocks = self.knocks.lock().unwrap_or_else(PoisonError::into_inner);
        knocks.retain(|_, knocked| now.duration_since(*knocked) < KNOCK_GAP);
        if knocks.contains_key(&(owner, workspace)) {
            return false;
        }
        knocks.insert((owner, workspace), now);
        true
    }
}

/// The right to follow a neighbour, until it's dropped: two contacts may lead to one, and only one of them follows it.
struct Claim<'a> {
    neighbours: &'a Neighbours,
    id: NodeId,
}

impl<'a> Claim<'a> {
    fn take(neighbours: &'a Neighbours, id: NodeId) -> Option<Self> {
        // Not `then_some`: a claim that isn't given would be dropped, and end the other's.
        if neighbours.book().followed.insert(id) { Some(Self { neighbours, id }) } else { None }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut book = self.neighbours.book();
        book.followed.remove(&self.id);
        // Nobody else has set it.
        if let Some(neighbour) = book.neighbours.get_mut(&self.id)
            && neighbour.client.take().is_some()
        {
            neighbour.last_seen = Timestamp::now();
        }
        drop(book);
        self.neighbours.unsaved.notify_one();
        self.neighbours.notify();
    }
}

impl Holders for Neighbours {
    fn holders(&self, workspace: &WorkspaceId) -> Vec<Arc<dyn Holder>> {
        let found = self.ways(workspace, []).and_then(|_| self.this.upgrade());
        let holding = |neighbours| Arc::new(Holding { neighbours, workspace: *workspace }) as Arc<dyn Holder>;
        found.map(holding).into_iter().collect()
    }

    fn snapshots<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
    ) -> BoxFuture<'a, Result<Vec<Snapshot>, HolderError>> {
        Box::pin(async move {
            let (client, id) = {
                let book = self.book();
                let (neighbour, _, id) = book.find(workspace).ok_or(HolderError::Nobody)?;
                (neighbour.client.clone().ok_or(HolderError::Nobody)?, id)
            };
            client.history(&id).await.map_err(|error| match error {
                PeerError::Denied { .. } => HolderError::Denied,
                error => HolderError::Unreachable(error.to_string()),
            })
        })
    }

    fn are_several(&self) -> bool {
        self.swarm.is_used(Instant::now())
    }

    fn knock(&self, workspace: &WorkspaceId) {
        let (client, owner, id) = {
            let book = self.book();
            let Some((neighbour, owner, id)) = book.find(workspace) else { return };
            let Some(client) = neighbour.client.clone() else { return };
            (client, owner, id)
        };
        if !self.may_knock(owner, id, Instant::now()) {
            return;
        }
        tokio::spawn(async move {
            // Any piece will do: who isn't allowed gets none, and the owner sees who asks.
            let piece = PieceRequest::Tree { tree: Digest::from_bytes([0; 32]), subtree: false };
            if let Err(error) = client.batch(id, vec![piece]).await {
                tracing::debug!(%error, workspace = %id, "asked for access");
            }
        });
    }
}

/// The names under which workspaces stand in their host's folder: theirs, or, the second time, theirs and their identity.
pub(crate) fn places(workspaces: &[WorkspaceInfo]) -> BTreeMap<WorkspaceName, &WorkspaceInfo> {
    let mut places: BTreeMap<WorkspaceName, &WorkspaceInfo> = BTreeMap::new();
    for info in workspaces {
        let name = book::unused(&info.name, &info.id.short(), |name| places.contains_key(name));
        places.insert(name, info);
    }
    places
}

#[cfg(test)]
pub(crate) mod tests;
