//! The running discovery: says who we are, hears who the others are.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::{Notify, broadcast, mpsc, watch};
use tracing::{debug, info, warn};

use super::{
    beacon::{Beacon, BeaconError, Facts, Instance, Kind, MAX_ADDRESSES, Signer},
    interfaces::{self, InterfaceRules},
    multicast::{Channel, ChannelKey, Event},
    table::{Change, Peer, PeerTable},
};
use crate::types::NodeId;

/// The UDP port of the beacons.
pub const DISCOVERY_PORT: u16 = 37777;
/// How often a node announces itself.
pub const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(10);

/// Announcements are at least this far apart.
const MIN_ANNOUNCE_GAP: Duration = Duration::from_millis(100);
/// An interface that has just appeared is asked twice, this far apart: the first query may get lost while switches learn.
const QUERY_GAP: Duration = Duration::from_secs(1);
const QUERIES: u8 = 2;
/// An answer waits up to this long, so that a whole network doesn't answer at once.
const MAX_ANSWER_DELAY_MS: u64 = 100;
/// The most answers that wait at once; who isn't answered hears the next announcement.
const MAX_PENDING_ANSWERS: usize = 64;
const MAX_QUEUED_EVENTS: usize = 256;
const MAX_QUEUED_CHANGES: usize = 1024;

/// What discovery needs to know.
pub struct DiscoveryConfig {
    /// The node's identity.
    pub signer: Arc<dyn Signer>,
    /// Which network interfaces are used.
    pub interfaces: InterfaceRules,
    /// How often to announce: [`ANNOUNCE_INTERVAL`] but in tests.
    pub interval: Duration,
    /// The UDP port of the groups: [`DISCOVERY_PORT`] but in tests.
    pub port: u16,
    /// What the node says about itself now. Asked before each datagram: it must not wait for anything.
    pub facts: Box<dyn Fn() -> Facts + Send + Sync>,
}

/// A handle on the running discovery.
#[derive(Clone)]
pub struct Discovery {
    shared: Arc<Shared>,
    running: watch::Receiver<()>,
}

struct Shared {
    table: Mutex<PeerTable>,
    changes: broadcast::Sender<Change>,
    announce: Notify,
}

impl Discovery {
    /// Starts: asks who is there, and goes on until `shutdown`, after which it says goodbye.
    /// Must be called within a Tokio runtime. A network that fails is logged, and tried again every interval.
    pub fn start(config: DiscoveryConfig, shutdown: impl Future<Output = ()> + Send + 'static) -> Self {
        let (changes, _) = broadcast::channel(MAX_QUEUED_CHANGES);
        let (ending, running) = watch::channel(());
        let instance = Instance::random();
        let table = PeerTable::new(config.signer.id(), instance, unix_ms(), config.interval);
        let shared = Arc::new(Shared { table: Mutex::new(table), changes, announce: Notify::new() });
        let (events_in, events) = mpsc::channel(MAX_QUEUED_EVENTS);
        let node = Node {
            config,
            instance,
            shared: shared.clone(),
            channels: HashMap::new(),
            addresses: Vec::new(),
            failing: HashSet::new(),
            events_in,
            last_timestamp: 0,
            answers: Vec::new(),
        };
        tokio::spawn(async move {
            node.run(events, shutdown).await;
            drop(ending);
        });
        Self { shared, running }
    }

    /// What changes from now on. A receiver that falls behind is told so, and looks at [`Self::peers`] again.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.shared.changes.subscribe()
    }

    /// The peers that are there or away.
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        self.shared.table().list()
    }

    /// Announces at once that the facts have changed; at most ten times a second, several calls being one.
    pub fn announce_now(&self) {
        self.shared.announce.notify_one();
    }

    /// Takes what the node `id` said over an authenticated connection to `address`. To be called once an interval
    /// for peers that were added by address.
    ///
    /// # Errors
    /// [`BeaconError::Field`] when the facts are out of bounds.
    pub fn added_by_address(&self, id: NodeId, facts: Facts, address: SocketAddr) -> Result<(), BeaconError> {
        facts.check()?;
        self.shared.update(|table| table.added_by_address(Instant::now(), id, facts, address));
        Ok(())
    }

    /// Waits until the goodbye was sent.
    pub async fn finished(&self) {
        let mut running = self.running.clone();
        while running.changed().await.is_ok() {}
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, PeerTable> {
        // A panic elsewhere left the table whole: each of its methods finishes or changes nothing that is needed.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut PeerTable) -> Vec<Change>) {
        // Sent under the lock, so that changes are heard in the order in which they happened. Nobody listening is fine.
        let mut table = self.table();
        for change in change(&mut table) {
            let _ = self.changes.send(change);
        }
    }
}

struct Node {
    config: DiscoveryConfig,
    instance: Instance,
    shared: Arc<Shared>,
    channels: HashMap<ChannelKey, (Channel, u8)>,
    addresses: Vec<IpAddr>,
    /// The channels whose failure was logged.
    failing: HashSet<ChannelKey>,
    events_in: mpsc::Sender<Event>,
    last_timestamp: u64,
    answers: Vec<Answer>,
}

struct Answer {
    due: Instant,
    channel: ChannelKey,
    to: SocketAddr,
}

impl Node {
    async fn run(mut self, mut events: mpsc::Receiver<Event>, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        let shared = self.shared.clone();
        let mut ticks = tokio::time::interval(QUERY_GAP.min(self.config.interval / 4));
        let (mut last_round, mut next_round) = (None, Instant::now());
        loop {
            let due = self.answers.iter().map(|answer| answer.due).fold(next_round, Instant::min);
            tokio::select! {
                () = &mut shutdown => break,
                () = shared.announce.notified() => {
                    let earliest = last_round.map_or_else(Instant::now, |last: Instant| last + MIN_ANNOUNCE_GAP);
                    next_round = next_round.min(earliest);
                }
                Some(event) = events.recv() => self.take(event),
                _ = ticks.tick() => shared.update(|table| table.tick(Instant::now())),
                () = tokio::time::sleep_until(due.into()) => {
                    let now = Instant::now();
                    if now >= next_round {
                        last_round = Some(now);
                        next_round = now + self.round().await;
                    }
                    self.answer(now).await;
                }
            }
        }
        self.send_all(Kind::Goodbye).await;
    }

    /// Follows the interfaces and announces on each, or asks where it is new. Tells when the next round is.
    async fn round(&mut self) -> Duration {
        self.follow_interfaces();
        self.send_all(Kind::Announce).await;
        let asking = self.channels.values().any(|(_, queries)| *queries > 0);
        if asking { QUERY_GAP.min(self.config.interval) } else { self.config.interval }
    }

    async fn send_all(&mut self, kind: Kind) {
        // One time for the whole round: a peer on two of our links hears both, in any order.
        let timestamp = self.timestamp();
        let (said, asked) = (self.datagram(kind, timestamp), self.datagram(Kind::Query, timestamp));
        let (Some(said), Some(asked)) = (said, asked) else { return };
        let mut results = Vec::new();
        for (key, (channel, queries)) in &mut self.channels {
            let sent = if *queries > 0 && kind == Kind::Announce {
                *queries -= 1;
                channel.query(&asked).await
            } else {
                channel.announce(&said).await
            };
            results.push((key.clone(), sent));
        }
        for (key, sent) in results {
            self.note(&key, sent);
        }
    }

    async fn answer(&mut self, now: Instant) {
        let (due, later) =
            std::mem::take(&mut self.answers).into_iter().partition(|answer| answer.due <= now);
        self.answers = later;
        let due: Vec<Answer> = due;
        if due.is_empty() {
            return;
        }
        let timestamp = self.timestamp();
        let Some(datagram) = self.datagram(Kind::Announce, timestamp) else { return };
        for Answer { channel: key, to, .. } in due {
            // The interface may be gone since it was asked on.
            let Some((channel, _)) = self.channels.get(&key) else { continue };
            if let Err(error) = channel.answer(&datagram, to).await {
                debug!(interface = key.interface, %to, %error, "could not answer a query");
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Datagram { channel, from, to_group, bytes } => self.hear(channel, from, to_group, &bytes),
            Event::Broken { channel, error } => {
                // The next round opens it anew, if its interface is still there.
                self.channels.remove(&channel);
                self.note(&channel, Err(error));
            }
        }
    }

    fn hear(&mut self, channel: ChannelKey, from: SocketAddr, to_group: bool, bytes: &[u8]) {
        let now = Instant::now();
        let (beacon, clock_skew) = match Beacon::parse(bytes, unix_ms()) {
            Ok(parsed) => parsed,
            Err(error) => {
                debug!(%from, %error, "dropped a datagram");
                if let BeaconError::Forged { claimed } = error {
                    self.shared.update(|table| table.forged(now, claimed, from));
                }
                return;
            }
        };
        let asked = beacon.kind == Kind::Query && to_group && beacon.peer_id != self.config.signer.id();
        self.shared.update(|table| table.heard(now, beacon, clock_skew, from));
        let waiting = self.answers.iter().any(|answer| answer.to == from);
        if asked && !waiting && self.answers.len() < MAX_PENDING_ANSWERS {
            let due = now + Duration::from_millis(rand::random_range(0..=MAX_ANSWER_DELAY_MS));
            self.answers.push(Answer { due, channel, to: from });
        }
    }

    /// Opens channels on the interfaces that have appeared and drops those of the vanished.
    fn follow_interfaces(&mut self) {
        let found = match interfaces::scan() {
            Ok(found) => interfaces::select(found, &self.config.interfaces),
            Err(error) => {
                debug!(%error, "could not list the network interfaces");
                return;
            }
        };
        self.addresses = interfaces::addresses(&found);
        self.addresses.truncate(MAX_ADDRESSES);
        let mut wanted = HashMap::new();
        for interface in found {
            for key in ChannelKey::of(&interface) {
                wanted.insert(key, interface.clone());
            }
        }
        self.channels.retain(|key, _| wanted.contains_key(key));
        self.failing.retain(|key| wanted.contains_key(key));
        for (key, interface) in wanted {
            if self.channels.contains_key(&key) {
                continue;
            }
            match Channel::open(&key, interface, self.config.port, &self.events_in) {
                Ok(channel) => {
                    info!(interface = key.interface, port = self.config.port, "looking for peers");
                    self.channels.insert(key, (channel, QUERIES));
                }
                Err(error) => self.note(&key, Err(error)),
            }
        }
    }

    /// Logs the first of a row of failures.
    fn note(&mut self, key: &ChannelKey, result: io::Result<()>) {
        match result {
            Ok(()) => {
                self.failing.remove(key);
            }
            Err(error) if self.failing.insert(key.clone()) => {
                warn!(interface = key.interface, %error, "discovery does not work on this interface; it is tried again");
            }
            Err(_) => {}
        }
    }

    /// The present, and later than all that was said before, whatever the system's clock does.
    fn timestamp(&mut self) -> u64 {
        self.last_timestamp = unix_ms().max(self.last_timestamp + 1);
        self.last_timestamp
    }

    fn datagram(&self, kind: Kind, timestamp: u64) -> Option<Vec<u8>> {
        let beacon = Beacon {
            peer_id: self.config.signer.id(),
            facts: (self.config.facts)(),
            ip: self.addresses.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
            timestamp,
            instance: self.instance,
            addresses: self.addresses.clone(),
            kind,
        };
        beacon.encode(&*self.config.signer).inspect_err(|error| warn!(%error, "could not make a beacon")).ok()
    }
}

/// Milliseconds since 1970.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::discovery::beacon::tests::{Key, beacon, facts};

    /// A node on loopback alone; dropping the sender stops it.
    fn node(
        seed: u8,
        port: u16,
        interval: Duration,
        catalogue: Arc<Mutex<String>>,
    ) -> (Discovery, oneshot::Sender<()>) {
        let config = DiscoveryConfig {
            signer: Arc::new(Key::new(seed)),
            interfaces: InterfaceRules { allow: vec!["lo".into()], deny: vec![] },
            interval,
            port,
            facts: Box::new(move || Facts { catalogue: catalogue.lock().unwrap().clone(), ..facts() }),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        (Discovery::start(config, async move { drop(stopped.await) }), stop)
    }

    fn free_port() -> u16 {
        std::net::UdpSocket::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
    }

    async fn wait_for(changes: &mut broadcast::Receiver<Change>, mut found: impl FnMut(&Change) -> bool) {
        let found = async { while !found(&changes.recv().await.unwrap()) {} };
        tokio::time::timeout(Duration::from_secs(20), found).await.expect("the change never came");
    }

    #[tokio::test]
    async fn two_nodes_of_one_machine_find_each_other_and_hear_the_goodbye() {
        let port = free_port();
        // So long that only queries, answers and announce_now can be what is seen.
        let interval = Duration::from_secs(600);
        let tag = Arc::new(Mutex::new("c1".to_owned()));
        let (first, _stop_first) = node(1, port, interval, tag.clone());
        let mut first_changes = first.changes();
        let (second, stop_second) = node(2, port, interval, Arc::default());
        let mut second_changes = second.changes();
        let (one, two) = (Key::new(1).id(), Key::new(2).id());

        wait_for(&mut first_changes, |change| matches!(change, Change::Joined(peer) if peer.id == two)).await;
        wait_for(&mut second_changes, |change| matches!(change, Change::Joined(peer) if peer.id == one))
            .await;
        let seen = second.peers();
        assert_eq!(seen.len(), 1, "a node isn't its own peer");
        assert!(seen[0].candidates[0].ip().is_loopback());
        assert_eq!(seen[0].candidates[0].port(), facts().port);

        *tag.lock().unwrap() = "c2".into();
        first.announce_now();
        let told = |change: &Change| matches!(change, Change::Updated(peer) if peer.facts.catalogue == "c2");
        wait_for(&mut second_changes, told).await;

        drop(stop_second);
        wait_for(&mut first_changes, |change| *change == Change::Left(two)).await;
        tokio::time::timeout(Duration::from_secs(20), second.finished()).await.unwrap();
        assert!(first.peers().is_empty());
    }

    #[tokio::test]
    async fn a_query_is_answered_to_the_port_that_it_came_from() {
        let port = free_port();
        let (_node, _stop) = node(1, port, Duration::from_secs(600), Arc::default());
        let (events_in, mut events) = mpsc::channel(MAX_QUEUED_EVENTS);
        let loopback = interfaces::scan().unwrap().into_iter().find(|it| it.name == "lo").unwrap();
        let key = ChannelKey::of(&loopback).next().unwrap();
        let asker = Channel::open(&key, loopback, port, &events_in).unwrap();
        let mut query = beacon(&Key::new(3), 3, unix_ms());
        query.kind = Kind::Query;
        let query = query.encode(&Key::new(3)).unwrap();
        let answered = async {
            // The node says something of its own first: then it is there to be asked.
            let mut asked = false;
            while let Some(event) = events.recv().await {
                let Event::Datagram { to_group, bytes, .. } = event else { continue };
                let (heard, _) = Beacon::parse(&bytes, unix_ms()).unwrap();
                if heard.peer_id == Key::new(1).id() && !std::mem::replace(&mut asked, true) {
                    asker.query(&query).await.unwrap();
                } else if !to_group {
                    return heard;
                }
            }
            panic!("the channel broke");
        };
        let heard = tokio::time::timeout(Duration::from_secs(20), answered).await.expect("no answer");
        assert_eq!((heard.peer_id, heard.kind), (Key::new(1).id(), Kind::Announce));
    }

    #[tokio::test]
    async fn a_copied_identity_is_reported_by_its_owner() {
        let port = free_port();
        let interval = Duration::from_secs(600);
        let (first, _stop) = node(1, port, interval, Arc::default());
        let mut changes = first.changes();
        let (_copy, _stop_copy) = node(1, port, interval, Arc::default());
        let alerted =
            |change: &Change| matches!(change, Change::Alert(crate::discovery::Alert::OwnIdentity { .. }));
        wait_for(&mut changes, alerted).await;
    }
}
