//! Who is there: what was heard, folded into a list of peers. Pure: it gets its clock, and sends nothing.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::{Duration, Instant},
};

use super::beacon::{Beacon, Facts, Instance, Kind};
use crate::types::{HostName, NodeId};

/// The most peers that are remembered, present and past.
const MAX_PEERS: usize = 4096;
/// A peer is away after this many silent intervals.
const AWAY_INTERVALS: u32 = 3;
/// A peer leaves the lists after this many silent intervals.
const GONE_INTERVALS: u32 = 6;
/// How many runs of a peer are told apart.
const MAX_RUNS: usize = 4;
/// How many addresses a peer is heard from, and how many it may be given by hand.
const MAX_SOURCES: usize = 4;
/// How often a replaced run must come back before it is called a clone: once could be a datagram that was late.
const CLONE_RETURNS: u32 = 2;

/// Whether a peer is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Heard within three intervals.
    Online,
    /// Silent for three intervals.
    Away,
    /// Said goodbye, or silent for six intervals: no longer in the lists.
    Gone,
}

/// Another node, as far as it is known from what was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its identity.
    pub id: NodeId,
    /// What it says about itself.
    pub facts: Facts,
    /// Its present run; none when it was only reached by address.
    pub instance: Option<Instance>,
    /// Whether it is there.
    pub status: Status,
    /// Where to try its share service, best first: where it was heard from, then where it was reached, then what it advertises.
    pub candidates: Vec<SocketAddr>,
    /// When it was last heard.
    pub last_heard: Instant,
    /// Its clock is over five minutes from ours.
    pub clock_skew: bool,
    /// Somebody gave its address by hand: it isn't forgotten for lack of room.
    pub by_address: bool,
    /// Two running nodes have its identity.
    pub cloned: bool,
}

/// What a user should be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alert {
    /// Two running nodes have one identity, as after copying a node's state folder.
    Cloned {
        /// The identity.
        id: NodeId,
        /// The name that the last of them gave.
        hostname: HostName,
        /// Where they speak from.
        from: Vec<IpAddr>,
    },
    /// Another running node has this node's own identity.
    OwnIdentity {
        /// Where it speaks from.
        from: IpAddr,
    },
    /// A datagram named a known node that hadn't signed it.
    Forged {
        /// The node in whose name it was.
        claimed: NodeId,
        /// Where it came from.
        from: IpAddr,
    },
}

/// What hearing something, or hearing nothing, has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A peer is new, or back after it was gone.
    Joined(Arc<Peer>),
    /// A peer's facts, addresses or status changed.
    Updated(Arc<Peer>),
    /// A peer's node was started anew.
    Restarted(Arc<Peer>),
    /// A peer hasn't been heard for three intervals.
    Away(NodeId),
    /// A peer said goodbye or hasn't been heard for six intervals.
    Left(NodeId),
    /// Something a user should be told.
    Alert(Alert),
}

/// The peers. Each method tells what it changed; all instants must come from one clock that doesn't go back.
#[derive(Debug)]
pub struct PeerTable {
    own: NodeId,
    instance: Instance,
    started_ms: u64,
    interval: Duration,
    records: HashMap<NodeId, Record>,
    own_heard: Option<Instant>,
    own_forged: Option<Instant>,
}

#[derive(Debug)]
struct Record {
    peer: Arc<Peer>,
    /// Where it was heard from, and when.
    sources: Vec<(SocketAddr, Instant)>,
    /// Where it was reached by address, ports included.
    given: Vec<SocketAddr>,
    advertised: Vec<IpAddr>,
    runs: Vec<Run>,
    /// How often a replaced run was heard again.
    returns: u32,
    forged: Option<Instant>,
}

/// What was last heard of one run of a node.
#[derive(Debug)]
struct Run {
    instance: Instance,
    timestamp: u64,
    heard: Instant,
    from: IpAddr,
}

/// What a beacon is to the record of its peer.
enum Verdict {
    /// Old, sent again, or from a run that isn't the present one.
    Ignored,
    /// From the present run.
    Present,
    /// The first of a new present run.
    Restarted,
    /// The proof that two runs live at once.
    Cloned,
}

impl PeerTable {
    /// An empty table for the node `own`, whose present run is `instance`, started at `started_ms` (milliseconds since
    /// 1970) and hears from its peers every `interval`.
    pub fn new(own: NodeId, instance: Instance, started_ms: u64, interval: Duration) -> Self {
        Self {
            own,
            instance,
            started_ms,
            interval,
            records: HashMap::new(),
            own_heard: None,
            own_forged: None,
        }
    }

    /// Takes a beacon that came `from` somewhere; `clock_skew` is what [`Beacon::parse`] said of it.
    pub fn heard(&mut self, now: Instant, beacon: Beacon, clock_skew: bool, from: SocketAddr) -> Vec<Change> {
        if beacon.peer_id == self.own {
            return self.heard_self(now, &beacon, clock_skew, from.ip());
        }
        let id = beacon.peer_id;
        if !self.records.contains_key(&id) {
            if beacon.kind == Kind::Goodbye {
                return Vec::new();
            }
            let Some(mut changes) = self.make_room() else { return Vec::new() };
            let mut record = Record::new(now, id, beacon.facts.clone());
            record.take(now, beacon, clock_skew, from);
            changes.push(Change::Joined(record.peer.clone()));
            self.records.insert(id, record);
            return changes;
        }
        match self.records.get_mut(&id) {
            Some(record) => record.heard(now, beacon, clock_skew, from),
            None => Vec::new(),
        }
    }

    /// Takes what a peer said over an authenticated connection to `address`: for peers that multicast doesn't reach.
    /// To stay online such a peer must be reached once an interval, as others must be heard.
    pub fn added_by_address(
        &mut self,
        now: Instant,
        id: NodeId,
        facts: Facts,
        address: SocketAddr,
    ) -> Vec<Change> {
        if id == self.own {
            return Vec::new();
        }
        let mut changes = Vec::new();
        if !self.records.contains_key(&id) {
            let Some(evicted) = self.make_room() else { return Vec::new() };
            changes = evicted;
        }
        let record = self.records.entry(id).or_insert_with(|| Record::new(now, id, facts.clone()));
        let before = record.peer.clone();
        let peer = Arc::make_mut(&mut record.peer);
        peer.facts = facts;
        peer.last_heard = now;
        peer.by_address = true;
        peer.status = Status::Online;
        if !record.given.contains(&address) {
            record.given.insert(0, address);
            record.given.truncate(MAX_SOURCES);
        }
        changes.extend(record.settle(&before, false));
        changes
    }

    /// Notes a datagram that named `claimed` without its signature: told once until it has stopped for a while.
    pub fn forged(&mut self, now: Instant, claimed: NodeId, from: SocketAddr) -> Vec<Change> {
        let noted = if claimed == self.own {
            &mut self.own_forged
        } else if let Some(record) = self.records.get_mut(&claimed) {
            &mut record.forged
        } else {
            return Vec::new();
        };
        let told = noted.replace(now).is_some_and(|before| now < before + GONE_INTERVALS * self.interval);
        if told { Vec::new() } else { vec![Change::Alert(Alert::Forged { claimed, from: from.ip() })] }
    }

    /// Lets silence have its effects; to be called about once a second.
    pub fn tick(&mut self, now: Instant) -> Vec<Change> {
        let (away, gone) = (AWAY_INTERVALS * self.interval, GONE_INTERVALS * self.interval);
        let mut changes = Vec::new();
        for (id, record) in &mut self.records {
            let silence = now.saturating_duration_since(record.peer.last_heard);
            if silence >= gone && record.peer.status != Status::Gone {
                Arc::make_mut(&mut record.peer).status = Status::Gone;
                changes.push(Change::Left(*id));
            } else if silence >= away && record.peer.status == Status::Online {
                Arc::make_mut(&mut record.peer).status = Status::Away;
                changes.push(Change::Away(*id));
            }
            changes.extend(record.forget_silent(now, gone));
        }
        changes
    }

    /// The peers that are there or away, in the order of their names and identities.
    pub fn list(&self) -> Vec<Arc<Peer>> {
        let present = self.records.values().filter(|record| record.peer.status != Status::Gone);
        let mut peers: Vec<_> = present.map(|record| record.peer.clone()).collect();
        peers.sort_by(|a, b| (&a.facts.hostname, a.id).cmp(&(&b.facts.hostname, b.id)));
        peers
    }

    fn heard_self(&mut self, now: Instant, beacon: &Beacon, clock_skew: bool, from: IpAddr) -> Vec<Change> {
        // What is older than this run may be what an earlier run sent, sent again.
        if beacon.instance == self.instance || clock_skew || beacon.timestamp <= self.started_ms {
            return Vec::new();
        }
        let told =
            self.own_heard.replace(now).is_some_and(|before| now < before + GONE_INTERVALS * self.interval);
        if told { Vec::new() } else { vec![Change::Alert(Alert::OwnIdentity { from })] }
    }

    /// Makes room for one more peer: those that are gone leave first, then who was silent longest. Without room (all were
    /// given by hand) there is none.
    fn make_room(&mut self) -> Option<Vec<Change>> {
        if self.records.len() < MAX_PEERS {
            return Some(Vec::new());
        }
        let expendable = self.records.values().map(|record| &record.peer).filter(|peer| !peer.by_address);
        let victim = expendable.min_by_key(|peer| (peer.status != Status::Gone, peer.last_heard))?.id;
        let victim = self.records.remove(&victim)?.peer;
        Some(if victim.status == Status::Gone { Vec::new() } else { vec![Change::Left(victim.id)] })
    }
}

impl Record {
    /// A peer of which nothing is known yet but its facts.
    fn new(now: Instant, id: NodeId, facts: Facts) -> Self {
        let peer = Peer {
            id,
            facts,
            instance: None,
            status: Status::Gone,
            candidates: Vec::new(),
            last_heard: now,
            clock_skew: false,
            by_address: false,
            cloned: false,
        };
        Self {
            peer: Arc::new(peer),
            sources: Vec::new(),
            given: Vec::new(),
            advertised: Vec::new(),
            runs: Vec::new(),
            returns: 0,
            forged: None,
        }
    }

    fn heard(&mut self, now: Instant, beacon: Beacon, clock_skew: bool, from: SocketAddr) -> Vec<Change> {
        let verdict = self.judge(now, &beacon, clock_skew, from.ip());
        match verdict {
            Verdict::Ignored => Vec::new(),
            Verdict::Cloned => {
                let peer = Arc::make_mut(&mut self.peer);
                peer.cloned = true;
                let alert = Alert::Cloned {
                    id: peer.id,
                    hostname: beacon.facts.hostname,
                    from: self.runs.iter().map(|run| run.from).collect(),
                };
                vec![Change::Alert(alert), Change::Updated(self.peer.clone())]
            }
            Verdict::Present | Verdict::Restarted if beacon.kind == Kind::Goodbye => {
                let peer = Arc::make_mut(&mut self.peer);
                peer.instance = Some(beacon.instance);
                let was = std::mem::replace(&mut peer.status, Status::Gone);
                if was == Status::Gone { Vec::new() } else { vec![Change::Left(peer.id)] }
            }
            Verdict::Present | Verdict::Restarted => {
                let before = self.peer.clone();
                self.update(now, beacon, clock_skew, from);
                self.settle(&before, matches!(verdict, Verdict::Restarted))
            }
        }
    }

    /// Takes the first beacon of a peer.
    fn take(&mut self, now: Instant, beacon: Beacon, clock_skew: bool, from: SocketAddr) {
        self.judge(now, &beacon, clock_skew, from.ip());
        self.update(now, beacon, clock_skew, from);
        self.find_candidates();
    }

    /// Decides what a beacon is, by its run and timestamp, and remembers both.
    fn judge(&mut self, now: Instant, beacon: &Beacon, clock_skew: bool, from: IpAddr) -> Verdict {
        let present = self.peer.instance;
        let Beacon { instance, timestamp, .. } = *beacon;
        let Some(run) = self.runs.iter_mut().find(|run| run.instance == instance) else {
            let latest = self.runs.iter().find(|run| Some(run.instance) == present).map(|run| run.timestamp);
            if self.runs.len() == MAX_RUNS {
                let oldest = self.runs.iter().enumerate().filter(|(_, run)| Some(run.instance) != present);
                if let Some((index, _)) = oldest.min_by_key(|(_, run)| run.heard) {
                    self.runs.swap_remove(index);
                }
            }
            self.runs.push(Run { instance, timestamp, heard: now, from });
            // A node whose clock was set back by a restart gets in once its earlier run is gone.
            let stale = self.peer.status != Status::Gone && latest.is_some_and(|latest| timestamp < latest);
            return match present {
                _ if stale => Verdict::Ignored,
                Some(_) => Verdict::Restarted,
                None => Verdict::Present,
            };
        };
        if timestamp < run.timestamp {
            return Verdict::Ignored;
        }
        let advanced = timestamp > run.timestamp;
        (run.timestamp, run.heard, run.from) = (timestamp, now, from);
        if Some(instance) == present {
            return Verdict::Present;
        }
        // A replaced run speaks again. One that isn't fresh may have been recorded and sent again by anybody.
        if !advanced || clock_skew || beacon.kind == Kind::Goodbye {
            return Verdict::Ignored;
        }
        if self.peer.status != Status::Online {
            return Verdict::Restarted;
        }
        self.returns += 1;
        if self.returns == CLONE_RETURNS { Verdict::Cloned } else { Verdict::Ignored }
    }

    fn update(&mut self, now: Instant, beacon: Beacon, clock_skew: bool, from: SocketAddr) {
        let peer = Arc::make_mut(&mut self.peer);
        peer.facts = beacon.facts;
        peer.instance = Some(beacon.instance);
        peer.status = Status::Online;
        peer.last_heard = now;
        peer.clock_skew = clock_skew;
        self.advertised = beacon.addresses;
        // The port is the datagram's, which is nobody's service.
        let source = with_port(from, 0);
        match self.sources.iter_mut().find(|(known, _)| *known == source) {
            Some((_, heard)) => *heard = now,
            None => {
                self.sources.insert(0, (source, now));
                self.sources.truncate(MAX_SOURCES);
            }
        }
    }

    /// Brings the candidates up to date and tells what differs from `before`.
    fn settle(&mut self, before: &Arc<Peer>, restarted: bool) -> Vec<Change> {
        self.find_candidates();
        let was = &**before;
        let peer = self.peer.clone();
        if was.status == Status::Gone {
            vec![Change::Joined(peer)]
        } else if restarted {
            vec![Change::Restarted(peer)]
        } else if *was != (Peer { last_heard: was.last_heard, ..(*peer).clone() }) {
            vec![Change::Updated(peer)]
        } else {
            Vec::new()
        }
    }

    fn find_candidates(&mut self) {
        let port = self.peer.facts.port;
        let heard_on_loopback = self.sources.iter().any(|(source, _)| source.ip().is_loopback());
        let scope = self.sources.iter().find_map(|(source, _)| match source {
            SocketAddr::V6(source) if source.scope_id() != 0 => Some(source.scope_id()),
            _ => None,
        });
        // A link-local address works too, but only where its scope is understood: after the others.
        let mut sources: Vec<_> = self.sources.iter().map(|(source, _)| with_port(*source, port)).collect();
        sources.sort_by_key(|source| is_link_local(source.ip()));
        let advertised = self.advertised.iter().filter_map(|&ip| match ip {
            _ if ip.is_unspecified() || ip.is_multicast() => None,
            _ if ip.is_loopback() && !heard_on_loopback => None,
            IpAddr::V6(v6) if is_link_local(ip) => Some(SocketAddrV6::new(v6, port, 0, scope?).into()),
            _ => Some(SocketAddr::new(ip, port)),
        });
        let mut candidates = Vec::new();
        for candidate in sources.into_iter().chain(self.given.iter().copied()).chain(advertised) {
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
        if candidates != self.peer.candidates {
            Arc::make_mut(&mut self.peer).candidates = candidates;
        }
    }

    /// Forgets the addresses and runs that weren't heard for `limit`, though never the last address.
    fn forget_silent(&mut self, now: Instant, limit: Duration) -> Vec<Change> {
        if self.peer.status == Status::Gone {
            return Vec::new();
        }
        let before = self.peer.clone();
        let fresh = |heard: Instant| now < heard + limit;
        if self.sources.iter().any(|&(_, heard)| fresh(heard)) {
            self.sources.retain(|&(_, heard)| fresh(heard));
        }
        if self.returns > 0 && self.runs.iter().filter(|run| fresh(run.heard)).count() < 2 {
            self.returns = 0;
            Arc::make_mut(&mut self.peer).cloned = false;
        }
        self.settle(&before, false)
    }
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::beacon::{
        Signer,
        tests::{Key, beacon, facts},
    };

    const INTERVAL: Duration = Duration::from_secs(10);

    fn table() -> PeerTable {
        PeerTable::new(Key::new(99).id(), Instance::random(), 1000, INTERVAL)
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn from() -> SocketAddr {
        address("10.0.0.7:37777")
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// Hears what node 1's run `instance` says at `timestamp`.
    fn hear(table: &mut PeerTable, now: Instant, instance: u64, timestamp: u64, from: &str) -> Vec<Change> {
        table.heard(now, beacon(&Key::new(1), instance, timestamp), false, address(from))
    }

    #[test]
    fn silence_makes_a_peer_away_and_then_gone() {
        let (mut table, start, id) = (table(), Instant::now(), Key::new(1).id());
        let changes = hear(&mut table, start, 1, 2000, "10.0.0.7:37777");
        assert!(
            matches!(&changes[..], [Change::Joined(peer)] if peer.id == id && peer.status == Status::Online)
        );
        assert_eq!(hear(&mut table, start + seconds(10), 1, 3000, "10.0.0.7:37777"), []);
        assert_eq!(table.tick(start + seconds(39)), []);
        assert_eq!(table.tick(start + seconds(40)), [Change::Away(id)]);
        assert_eq!(table.tick(start + seconds(41)), []);
        assert_eq!(table.list()[0].status, Status::Away);
        assert_eq!(table.tick(start + seconds(70)), [Change::Left(id)]);
        assert!(table.list().is_empty());
        let changes = hear(&mut table, start + seconds(80), 1, 4000, "10.0.0.7:37777");
        assert!(matches!(&changes[..], [Change::Joined(_)]));
    }

    #[test]
    fn an_away_peer_is_back_with_its_next_word() {
        let (mut table, start) = (table(), Instant::now());
        hear(&mut table, start, 1, 2000, "10.0.0.7:1");
        table.tick(start + seconds(30));
        let changes = hear(&mut table, start + seconds(31), 1, 3000, "10.0.0.7:1");
        assert!(matches!(&changes[..], [Change::Updated(peer)] if peer.status == Status::Online));
    }

    #[test]
    fn a_goodbye_is_final_for_what_was_said_before_it() {
        let (mut table, now, key) = (table(), Instant::now(), Key::new(1));
        let goodbye = |timestamp| Beacon { kind: Kind::Goodbye, ..beacon(&key, 1, timestamp) };
        assert_eq!(table.heard(now, goodbye(2000), false, from()), []);
        hear(&mut table, now, 1, 2000, "10.0.0.7:1");
        assert_eq!(table.heard(now, goodbye(1999), false, from()), [], "sent again");
        assert_eq!(table.heard(now, goodbye(3000), false, from()), [Change::Left(key.id())]);
        assert_eq!(hear(&mut table, now, 1, 2000, "10.0.0.7:1"), [], "sent again");
        assert!(table.list().is_empty());
    }

    #[test]
    fn a_new_instance_is_a_restart_and_an_old_one_is_not_believed() {
        let (mut table, now) = (table(), Instant::now());
        hear(&mut table, now, 1, 2000, "10.0.0.7:1");
        let changes = hear(&mut table, now, 2, 3000, "10.0.0.7:1");
        assert!(matches!(&changes[..], [Change::Restarted(_)]));
        assert_eq!(hear(&mut table, now, 1, 2000, "10.0.0.9:1"), [], "sent again");
        assert_eq!(hear(&mut table, now, 3, 2500, "10.0.0.9:1"), [], "from before the restart");
        assert_eq!(table.list()[0].candidates[0], address("10.0.0.7:37778"));
    }

    #[test]
    fn a_node_whose_clock_was_set_back_gets_in_once_its_earlier_run_is_gone() {
        let (mut table, start) = (table(), Instant::now());
        hear(&mut table, start, 1, 5000, "10.0.0.7:1");
        assert_eq!(hear(&mut table, start + seconds(20), 2, 100, "10.0.0.7:1"), []);
        table.tick(start + seconds(60));
        let changes = hear(&mut table, start + seconds(61), 2, 200, "10.0.0.7:1");
        assert!(matches!(&changes[..], [Change::Joined(peer)] if peer.status == Status::Online));
    }

    #[test]
    fn two_runs_that_alternate_are_a_clone_and_are_told_once() {
        let (mut table, start, key) = (table(), Instant::now(), Key::new(1));
        let mut changes = Vec::new();
        for round in 0..6 {
            let now = start + round * INTERVAL;
            let timestamp = 2000 + 10_000 * u64::from(round);
            changes.extend(hear(&mut table, now, 1, timestamp, "10.0.0.7:1"));
            changes.extend(hear(&mut table, now + seconds(5), 2, timestamp + 5000, "10.0.0.8:1"));
        }
        let alerts: Vec<_> = changes.iter().filter(|change| matches!(change, Change::Alert(_))).collect();
        let [Change::Alert(Alert::Cloned { id, from, .. })] = alerts[..] else { panic!("{changes:?}") };
        assert_eq!(*id, key.id());
        assert_eq!(from.len(), 2);
        assert!(changes.iter().filter(|change| matches!(change, Change::Restarted(_))).count() == 1);
        assert!(table.list()[0].cloned);

        // The clone is stopped: the mark goes.
        for round in 6..14 {
            let now = start + round * INTERVAL;
            hear(&mut table, now, 2, 5000 + 10_000 * u64::from(round), "10.0.0.8:1");
            table.tick(now);
        }
        assert!(!table.list()[0].cloned);
    }

    #[test]
    fn a_clone_whose_clock_is_slow_is_told_too() {
        let (mut table, start) = (table(), Instant::now());
        let mut changes = Vec::new();
        for round in 0..5 {
            let now = start + round * INTERVAL;
            let timestamp = 200_000 + 10_000 * u64::from(round);
            changes.extend(hear(&mut table, now, 1, timestamp, "10.0.0.7:1"));
            changes.extend(hear(&mut table, now, 2, timestamp - 100_000, "10.0.0.8:1"));
        }
        assert!(changes.iter().any(|change| matches!(change, Change::Alert(Alert::Cloned { .. }))));
    }

    #[test]
    fn a_late_word_of_the_run_before_is_no_clone() {
        let (mut table, now) = (table(), Instant::now());
        hear(&mut table, now, 1, 2000, "10.0.0.7:1");
        hear(&mut table, now, 2, 3000, "10.0.0.7:1");
        assert_eq!(hear(&mut table, now, 1, 2100, "10.0.0.7:1"), []);
        assert!(!table.list()[0].cloned);
    }

    #[test]
    fn a_node_notices_its_own_clone_but_not_its_own_past() {
        let (now, key) = (Instant::now(), Key::new(99));
        let mut table = PeerTable::new(
            key.id(),
            Instance::try_from("0000000000000007".to_owned()).unwrap(),
            1000,
            INTERVAL,
        );
        assert_eq!(table.heard(now, beacon(&key, 7, 2000), false, from()), [], "itself");
        assert_eq!(table.heard(now, beacon(&key, 8, 900), false, from()), [], "its past");
        let alert = Change::Alert(Alert::OwnIdentity { from: from().ip() });
        assert_eq!(table.heard(now, beacon(&key, 8, 2000), false, from()), [alert]);
        assert_eq!(table.heard(now + seconds(10), beacon(&key, 8, 3000), false, from()), [], "told already");
        assert!(table.list().is_empty());
    }

    #[test]
    fn forgeries_in_a_known_name_are_told_once() {
        let (mut table, now, id) = (table(), Instant::now(), Key::new(1).id());
        assert_eq!(table.forged(now, id, from()), [], "nobody we know");
        hear(&mut table, now, 1, 2000, "10.0.0.7:1");
        let alert = Change::Alert(Alert::Forged { claimed: id, from: from().ip() });
        assert_eq!(table.forged(now, id, from()), std::slice::from_ref(&alert));
        assert_eq!(table.forged(now + seconds(59), id, from()), []);
        assert_eq!(table.forged(now + seconds(120), id, from()), [alert]);
    }

    #[test]
    fn candidates_are_where_it_was_heard_then_what_it_says() {
        let (mut table, now, key) = (table(), Instant::now(), Key::new(1));
        let mut said = beacon(&key, 1, 2000);
        said.addresses = ["172.17.0.1", "10.0.0.7", "fe80::7", "127.0.0.1", "0.0.0.0", "224.0.0.1"]
            .map(|ip| ip.parse().unwrap())
            .into();
        table.heard(now, said.clone(), false, from());
        let heard = |text: &str| address(text);
        assert_eq!(table.list()[0].candidates, [heard("10.0.0.7:37778"), heard("172.17.0.1:37778")]);

        // The same word over IPv6 tells on which link its link-local addresses are.
        let changes = table.heard(now, said, false, address("[fe80::8%3]:37777"));
        assert!(matches!(&changes[..], [Change::Updated(_)]));
        let expected =
            ["10.0.0.7:37778", "[fe80::8%3]:37778", "172.17.0.1:37778", "[fe80::7%3]:37778"].map(heard);
        assert_eq!(table.list()[0].candidates, expected);
    }

    #[test]
    fn an_address_that_is_no_longer_heard_is_dropped() {
        let (mut table, start) = (table(), Instant::now());
        hear(&mut table, start, 1, 2000, "10.0.0.7:1");
        let mut last = Vec::new();
        for round in 1..8u32 {
            let mut said = beacon(&Key::new(1), 1, 2000 + u64::from(round));
            said.addresses.clear();
            table.heard(start + round * INTERVAL, said, false, address("10.0.0.8:1"));
            last.extend(table.tick(start + round * INTERVAL));
        }
        assert_eq!(table.list()[0].candidates, [address("10.0.0.8:37778")]);
        assert!(matches!(&last[..], [Change::Updated(_)]));
    }

    #[test]
    fn a_peer_reached_by_address_is_like_any_other() {
        let (mut table, start, id) = (table(), Instant::now(), Key::new(1).id());
        let given = address("192.168.9.9:40000");
        let changes = table.added_by_address(start, id, facts(), given);
        assert!(
            matches!(&changes[..], [Change::Joined(peer)] if peer.by_address && peer.candidates == [given])
        );
        assert_eq!(table.added_by_address(start + seconds(10), id, facts(), given), []);
        let changes = hear(&mut table, start + seconds(11), 1, 2000, "10.0.0.7:1");
        assert!(matches!(&changes[..], [Change::Updated(peer)] if peer.candidates.contains(&given)));
        assert_eq!(table.tick(start + seconds(41)), [Change::Away(id)]);
        assert_eq!(table.added_by_address(start, Key::new(99).id(), facts(), given), [], "ourselves");
    }

    #[test]
    fn the_table_is_bounded() {
        let (mut table, start) = (table(), Instant::now());
        let given = NodeId::from_bytes([255; 32]);
        table.added_by_address(start, given, facts(), from());
        let mut said = beacon(&Key::new(1), 1, 2000);
        let number = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            NodeId::from_bytes(bytes)
        };
        let mut changes = Vec::new();
        for n in 0..MAX_PEERS {
            said.peer_id = number(n);
            changes = table.heard(start + Duration::from_millis(1 + n as u64), said.clone(), false, from());
        }
        assert_eq!(table.list().len(), MAX_PEERS);
        assert!(matches!(&changes[..], [Change::Left(evicted), Change::Joined(_)] if *evicted == number(0)));
        assert!(table.list().iter().any(|peer| peer.id == given));
    }
}
