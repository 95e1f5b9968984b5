//! From whom content is fetched: the owner, and others who hold parts of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use twinshare::{
    fetch::{Holder, HolderError, Piece, Refused, Sink, Urgency, Want},
    peer::{self, Answer, Capability, PeerClient, PeerError, PendingRange, PieceRequest, RefusedPiece},
    types::{Digest, NodeId, WorkspaceId},
};

use crate::{neighbours::Neighbours, swarm::Swarm};

/// Others than the owner that are asked for one piece, at most.
const OTHERS: usize = 3;

/// A second one is asked after so many times of what the first usually needs …
const PATIENCE: u32 = 8;

/// … but not before this, if somebody waits …
const HEDGE: Duration = Duration::from_millis(250);

/// … and after this in any case. Where nobody waits, not before this …
const LATE: Duration = Duration::from_secs(2);

/// … and after this in any case: a reader who comes to wait has time left.
const LAST: Duration = Duration::from_secs(4);

/// How long a node isn't asked that didn't have what it was asked for …
const SHUN_LACKING: Duration = Duration::from_secs(2);

/// … that couldn't be reached, or said nothing for long …
const SHUN_SILENT: Duration = Duration::from_secs(10);

/// … or sent what nobody should.
const SHUN_LYING: Duration = Duration::from_secs(600);

/// All who may hold something of one workspace.
pub(crate) struct Holding {
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) workspace: WorkspaceId,
}

/// The ways to one workspace.
#[derive(Debug, Clone)]
pub(crate) struct Ways {
    pub(crate) owner: NodeId,
    /// The workspace's identity at its owner.
    pub(crate) workspace: WorkspaceId,
    /// What is shown to others; without it they aren't asked.
    pub(crate) capability: Option<Capability>,
    /// Who was sent parts of the workspace.
    pub(crate) holders: Vec<NodeId>,
    /// Those of all who can be reached.
    pub(crate) clients: HashMap<NodeId, PeerClient>,
}

impl Holder for Holding {
    fn fetch<'a>(
        &'a self,
        _: &'a WorkspaceId,
        wants: &'a [Want],
        urgency: Urgency,
        sink: Sink<'a>,
    ) -> BoxFuture<'a, Result<(), HolderError>> {
        async move {
            let swarm = self.neighbours.swarm();
            let now = Instant::now();
            let blobs: BTreeSet<Digest> = wants.iter().filter_map(sliced).map(|(digest, _)| digest).collect();
            let readers: HashMap<Digest, Vec<NodeId>> =
                blobs.into_iter().map(|digest| (digest, swarm.readers(&digest, now))).collect();
            let known = readers.values().flatten().copied();
            let ways = self.neighbours.ways(&self.workspace, known);
            let Some(ways) = ways else { return Err(HolderError::Nobody) };
            let tell = |error: &PeerError| self.neighbours.note_failure(error);
            if let (1, Some(owner)) = (ways.clients.len(), ways.clients.get(&ways.owner)) {
                let fetched = from_owner(swarm, owner, ways.workspace, wants, urgency.bulk, sink).await;
                return fetched.inspect_err(tell).map_err(failure);
            }
            Fetch::new(swarm, &ways, &readers, wants, urgency, sink, &tell).run().await
        }
        .boxed()
    }
}

/// Fetches from the owner where nobody else can be asked, the usual case: then there's nobody to hand anything on to.
async fn from_owner(
    swarm: &Swarm,
    owner: &PeerClient,
    workspace: WorkspaceId,
    wants: &[Want],
    bulk: bool,
    sink: Sink<'_>,
) -> Result<(), PeerError> {
    let mut since = Instant::now();
    let mut latest = None;
    let pieces = wants.iter().map(request).collect();
    let mut answer = begin(owner, workspace, None, pieces, bulk).await?;
    if let Some((blob, _)) = wants.iter().find_map(sliced) {
        swarm.note_readers(blob, answer.co_readers(), since);
    }
    while let Some((position, piece)) = answer.next().await? {
        // Objects below a folder come with it and say nothing of the pace.
        if latest.replace(position) != Some(position) {
            let now = Instant::now();
            swarm.note_pace(owner.id(), now - since);
            since = now;
        }
        sink(position, received(piece));
    }
    Ok(())
}

/// The blob and the first group of a slice that is wanted.
fn sliced(want: &Want) -> Option<(Digest, u64)> {
    match want {
        Want::Slice { blob, groups } => Some((blob.digest, groups.start)),
        _ => None,
    }
}

/// Some wants on their way, from one or several nodes.
struct Fetch<'a> {
    swarm: &'a Swarm,
    ways: &'a Ways,
    wants: &'a [Want],
    urgency: Urgency,
    sink: Sink<'a>,
    turns: Vec<Turn>,
    asks: BTreeMap<usize, Ask>,
    running: FuturesUnordered<BoxFuture<'a, (usize, Result<(), PeerError>)>>,
    count: usize,
    /// What comes, each with the request that it came for. Nothing piles up: it's passed on at once, and bounded by what
    /// was asked for.
    arriving: mpsc::UnboundedSender<(usize, Event)>,
    arrived: mpsc::UnboundedReceiver<(usize, Event)>,
    /// Why the owner gives nothing, or nothing more, or else one of the others.
    failure: Option<PeerError>,
    /// Hears of each request that failed.
    tell: &'a (dyn Fn(&PeerError) + Sync),
}

/// Whose turn it is with one want.
struct Turn {
    /// Who is yet to be asked, the next one last.
    rest: Vec<NodeId>,
    done: bool,
    /// What the owner said.
    refused: Option<Refused>,
}

/// One request under way.
struct Ask {
    who: NodeId,
    missing: BTreeSet<usize>,
    /// When it began, or its last piece came.
    since: Instant,
    /// Which of them others were asked for since, as it's late.
    handed_on: BTreeSet<usize>,
}

enum Event {
    /// Who else reads what was asked for.
    Readers(Vec<NodeId>),
    Piece(usize, peer::Piece),
}

impl<'a> Fetch<'a> {
    fn new(
        swarm: &'a Swarm,
        ways: &'a Ways,
        readers: &HashMap<Digest, Vec<NodeId>>,
        wants: &'a [Want],
        urgency: Urgency,
        sink: Sink<'a>,
        tell: &'a (dyn Fn(&PeerError) + Sync),
    ) -> Self {
        let now = Instant::now();
        let (arriving, arrived) = mpsc::unbounded_channel();
        let turn = |(position, want): (usize, &Want)| {
            let mut rest = order(swarm, ways, readers, want, position < urgency.awaited, now);
            rest.reverse();
            Turn { rest, done: false, refused: None }
        };
        Self {
            swarm,
            ways,
            wants,
            urgency,
            sink,
            turns: wants.iter().enumerate().map(turn).collect(),
            asks: BTreeMap::new(),
            running: FuturesUnordered::new(),
            count: 0,
            arriving,
            arrived,
            failure: None,
            tell,
        }
    }

    async fn run(mut self) -> Result<(), HolderError> {
        self.dispatch(0..self.wants.len());
        while !self.is_over() {
            let due = self.asks.iter().filter_map(|(id, ask)| Some((self.due(ask)?, *id))).min();
            let hedge = async {
                match due {
                    Some((due, id)) => {
                        sleep_until(due).await;
                        id
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some((id, event)) = self.arrived.recv() => self.take(id, event),
                Some((id, result)) = self.running.next() => {
                    while let Ok((id, event)) = self.arrived.try_recv() {
                        self.take(id, event);
                    }
                    self.end(id, result)?;
                }
                id = hedge => self.hedge(id),
            }
        }
        let mut open = false;
        for (position, turn) in self.turns.iter().enumerate().filter(|(_, turn)| !turn.done) {
            match turn.refused {
                Some(why) => (self.sink)(position, Err(why)),
                None => open = true,
            }
        }
        match self.failure {
            _ if !open => Ok(()),
            Some(error) => Err(failure(error)),
            None => Err(HolderError::Nobody),
        }
    }

    /// Whether nothing is left to wait for. An answer of which all has come is read to its end, so that its connection
    /// stays usable; what was asked for twice is dropped.
    fn is_over(&self) -> bool {
        self.asks.is_empty()
            || (self.turns.iter().all(|turn| turn.done)
                && self.asks.values().all(|ask| !ask.missing.is_empty()))
    }

    /// Asks the next one for each of these wants, each node once for all of its.
    fn dispatch(&mut self, positions: impl IntoIterator<Item = usize>) {
        let mut parts: BTreeMap<NodeId, BTreeSet<usize>> = BTreeMap::new();
        for position in positions {
            if let Some(who) = self.turns[position].rest.pop() {
                parts.entry(who).or_default().insert(position);
            }
        }
        for (who, missing) in parts {
            let Some(client) = self.ways.clients.get(&who).cloned() else { continue };
            let positions: Vec<usize> = missing.iter().copied().collect();
            let pieces = positions.iter().map(|position| request(&self.wants[*position])).collect();
            let capability = if who == self.ways.owner { None } else { self.ways.capability };
            let (id, workspace, arriving) = (self.count, self.ways.workspace, self.arriving.clone());
            let bulk = self.urgency.bulk;
            self.count += 1;
            self.asks.insert(id, Ask { who, missing, since: Instant::now(), handed_on: BTreeSet::new() });
            self.running.push(
                async move {
                    let asked = ask(client, workspace, capability, pieces, bulk, |event| {
                        // The receiver lives as long as this future.
                        let _ = arriving.send((
                            id,
                            match event {
                                Event::Piece(index, piece) => Event::Piece(positions[index], piece),
                                other => other,
                            },
                        ));
                    });
                    (id, asked.await)
                }
                .boxed(),
            );
        }
    }

    fn take(&mut self, id: usize, event: Event) {
        let Some(ask) = self.asks.get_mut(&id) else { return };
        let now = Instant::now();
        match event {
            Event::Readers(others) => {
                let blob = ask.missing.iter().find_map(|position| sliced(&self.wants[*position]));
                if let Some((blob, _)) = blob.filter(|_| ask.who == self.ways.owner) {
                    self.swarm.note_readers(blob, &others, now);
                }
            }
            Event::Piece(position, piece) => {
                if ask.missing.remove(&position) {
                    self.swarm.note_pace(ask.who, now - ask.since);
                    ask.since = now;
                }
                let turn = &mut self.turns[position];
                match received(piece) {
                    // Objects below a folder that has come.
                    Ok(piece @ Piece::Tree { .. }) => {
                        turn.done = true;
                        (self.sink)(position, Ok(piece));
                    }
                    Ok(_) if turn.done => {}
                    Ok(piece) => {
                        turn.done = true;
                        (self.sink)(position, Ok(piece));
                    }
                    Err(why) => {
                        // Asked elsewhere when the answer has ended.
                        ask.missing.insert(position);
                        if ask.who == self.ways.owner {
                            turn.refused = Some(why);
                        }
                    }
                }
            }
        }
    }

    /// Takes note of how a request ended, and asks others for what it didn't bring.
    fn end(&mut self, id: usize, result: Result<(), PeerError>) -> Result<(), HolderError> {
        let Some(ask) = self.asks.remove(&id) else { return Ok(()) };
        let is_owner = ask.who == self.ways.owner;
        if let Err(error) = &result {
            tracing::debug!(node = %ask.who, %error, "a fetch failed");
        }
        if let Err(error) = &result {
            (self.tell)(error);
        }
        match result {
            Err(error @ (PeerError::Denied { .. } | PeerError::Unknown { .. })) if is_owner => {
                return Err(failure(error));
            }
            Err(error) if is_owner => self.failure = Some(error),
            Err(PeerError::Misbehaved { .. }) => self.swarm.shun(ask.who, Instant::now() + SHUN_LYING),
            Err(error) => {
                self.swarm.shun(ask.who, Instant::now() + SHUN_SILENT);
                self.failure.get_or_insert(error);
            }
            Ok(()) if !is_owner && !ask.missing.is_empty() => {
                self.swarm.shun(ask.who, Instant::now() + SHUN_LACKING);
            }
            Ok(()) => {}
        }
        let left = ask.missing.difference(&ask.handed_on).copied();
        let left: Vec<usize> = left.filter(|position| !self.turns[*position].done).collect();
        self.dispatch(left);
        Ok(())
    }

    /// When another is asked for what a request hasn't brought.
    fn due(&self, ask: &Ask) -> Option<Instant> {
        let first = *self.late(ask).first()?;
        let awaited = first < self.urgency.awaited;
        let usual = self.swarm.pace(&ask.who).map_or(LATE, |pace| pace * PATIENCE);
        Some(ask.since + if awaited { usual.clamp(HEDGE, LATE) } else { usual.clamp(LATE, LAST) })
    }

    fn hedge(&mut self, id: usize) {
        let Some(late) = self.asks.get(&id).map(|ask| self.late(ask)) else { return };
        let Some(ask) = self.asks.get_mut(&id) else { return };
        ask.handed_on.extend(&late);
        tracing::debug!(node = %ask.who, pieces = late.len(), "a fetch is late: another is asked");
        self.dispatch(late);
    }

    /// What another can be asked for when this request is late: of the owner's only what somebody waits for.
    fn late(&self, ask: &Ask) -> Vec<usize> {
        let is_owner = ask.who == self.ways.owner;
        let may_be_handed_on = |position: &usize| {
            let turn = &self.turns[*position];
            !turn.done && !turn.rest.is_empty() && (!is_owner || *position < self.urgency.awaited)
        };
        ask.missing.difference(&ask.handed_on).copied().filter(may_be_handed_on).collect()
    }
}

/// Whom to ask for a want, one after the other.
///
/// Of a blob that others read too, each gets some slices from the owner, and the rest from each other; what somebody waits
/// for is asked of the owner if another was found to be much slower.
fn order(
    swarm: &Swarm,
    ways: &Ways,
    readers: &HashMap<Digest, Vec<NodeId>>,
    want: &Want,
    awaited: bool,
    now: Instant,
) -> Vec<NodeId> {
    let owner = ways.clients.contains_key(&ways.owner).then_some(ways.owner);
    if matches!(want, Want::Pending { .. } | Want::Outline { .. }) || ways.capability.is_none() {
        return owner.into_iter().collect();
    }
    let can_be_asked = |node: &NodeId| *node != ways.owner && ways.clients.contains_key(node);
    let mut first = None;
    let mut others: Vec<NodeId> = ways.holders.iter().copied().filter(can_be_asked).collect();
    if let Some((blob, group)) = sliced(want)
        && let Some(readers) = readers.get(&blob)
    {
        let readers: Vec<NodeId> = readers.iter().copied().filter(can_be_asked).collect();
        first = swarm.responsible(&readers, &blob, group);
        first = first.filter(|node| !awaited || !swarm.is_slower(node, &ways.owner));
        others.extend(readers);
    }
    others.sort();
    others.dedup();
    others.retain(|node| Some(*node) != first);
    swarm.sort(&mut others, now);
    others.truncate(OTHERS);
    first.into_iter().chain(owner).chain(others).collect()
}

/// Asks a node: the owner, or with a capability another, who has no turns for bulk.
async fn begin(
    client: &PeerClient,
    workspace: WorkspaceId,
    capability: Option<Capability>,
    pieces: Vec<PieceRequest>,
    bulk: bool,
) -> Result<Answer, PeerError> {
    match capability {
        None if bulk => client.batch_ahead(workspace, pieces).await,
        None => client.batch(workspace, pieces).await,
        Some(capability) => client.batch_of(capability, pieces).await,
    }
}

/// Asks one node, and tells what comes.
async fn ask(
    client: PeerClient,
    workspace: WorkspaceId,
    capability: Option<Capability>,
    pieces: Vec<PieceRequest>,
    bulk: bool,
    mut tell: impl FnMut(Event),
) -> Result<(), PeerError> {
    let mut answer = begin(&client, workspace, capability, pieces, bulk).await?;
    tell(Event::Readers(answer.co_readers().to_vec()));
    while let Some((index, piece)) = answer.next().await? {
        tell(Event::Piece(index, piece));
    }
    Ok(())
}

fn request(want: &Want) -> PieceRequest {
    match want {
        Want::Tree(digest) => PieceRequest::Tree { tree: *digest, subtree: true },
        Want::Blob(blob) => PieceRequest::Blob { blob: blob.digest, size: blob.size },
        Want::Slice { blob, groups } => {
            PieceRequest::Slice { slice: blob.digest, size: blob.size, groups: [groups.start, groups.end] }
        }
        Want::Outline { blob, window } => {
            PieceRequest::Outline { outline: blob.digest, size: blob.size, window: *window }
        }
        Want::Pending { path, token, offset, length } => PieceRequest::Pending {
            pending: PendingRange { path: path.clone(), token: *token, offset: *offset, length: *length },
        },
    }
}

fn received(piece: peer::Piece) -> Result<Piece, Refused> {
    match piece {
        peer::Piece::Tree(digest, object) => Ok(Piece::Tree { digest, object }),
        peer::Piece::Blob(blob) => Ok(Piece::Blob(blob)),
        peer::Piece::Slice(slice) => Ok(Piece::Slice(slice)),
        peer::Piece::Outline(outline) => Ok(Piece::Outline(outline)),
        peer::Piece::Pending(bytes) => Ok(Piece::Pending(bytes)),
        peer::Piece::Refused(RefusedPiece::Unknown) => Err(Refused::Unknown),
        peer::Piece::Refused(RefusedPiece::Changed) => Err(Refused::Changed),
        peer::Piece::Refused(RefusedPiece::Failed) => Err(Refused::Failed),
        peer::Piece::Refused(RefusedPiece::Denied) => Err(Refused::Denied),
    }
}

fn failure(error: PeerError) -> HolderError {
    match error {
        PeerError::Denied { .. } | PeerError::Unknown { .. } => HolderError::Denied,
        PeerError::Misbehaved { .. } | PeerError::Request(_) => HolderError::Misbehaved(error.to_string()),
        error => HolderError::Unreachable(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
