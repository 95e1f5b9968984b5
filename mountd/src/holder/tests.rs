use std::{
    net::SocketAddr,
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};
use twinshare::{
    blob::{Blob, Hashed, encode_slice, hash_bytes},
    peer::{
        Bandwidth, Catalogue, Credentials, Expected, Held, Identity, NodeInfo, Refusal, ServeError,
        ServeOptions, Served, ServedWorkspace, serve,
    },
    profile::Profile,
    types::{Name, PathKey},
};

use super::*;

const LAB: WorkspaceId = WorkspaceId::from_bytes([1; 16]);

/// Groups of the test's blob: twenty slices' worth.
const GROUPS: u64 = 320;

/// What a node does when it's asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Honest,
    /// Sends other bytes than those that were asked for.
    Lying,
    /// Has nothing.
    Empty,
    /// Accepts requests and never answers.
    Silent,
    /// Lets nobody read.
    Denying,
}

/// A node that holds the blob.
struct Peer {
    identity: Identity,
    mood: Mutex<Mood>,
    bytes: Vec<u8>,
    hashed: Hashed,
    /// Slices that it was asked for.
    asked: AtomicUsize,
    co_readers: Mutex<Vec<NodeId>>,
    /// Whether somebody showed it something else than the owner's capability.
    surprised: AtomicBool,
    forever: Notify,
}

struct Content(Arc<Peer>);

impl Peer {
    fn mood(&self) -> Mood {
        *self.mood.lock().unwrap()
    }

    fn slice(&self, blob: &Blob, groups: Range<u64>) -> Option<Vec<u8>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut encoded = encode_slice(*blob, groups, &self.bytes, &self.hashed.outboard).ok()?;
        match self.mood() {
            Mood::Lying => *encoded.last_mut()? ^= 1,
            Mood::Empty => return None,
            _ => {}
        }
        Some(encoded)
    }
}

impl Served for Content {
    fn node(&self) -> NodeInfo {
        NodeInfo {
            peer_id: self.0.identity.id(),
            hostname: "node".parse().unwrap(),
            version: String::new(),
            features: Vec::new(),
            port: 1,
        }
    }

    fn catalogue(&self, _: Option<NodeId>) -> Catalogue {
        Catalogue { tag: "t".into(), workspaces: Vec::new(), grants: Vec::new() }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }

    fn workspace(&self, _: &WorkspaceId, _: Option<NodeId>) -> Result<Arc<dyn ServedWorkspace>, Refusal> {
        match self.0.mood() {
            Mood::Denying => Err(Refusal::Denied),
            _ => Ok(Arc::new(Self(self.0.clone()))),
        }
    }

    fn expected(&self) -> Vec<twinshare::peer::ExpectedPieces> {
        Vec::new()
    }

    fn held(&self, _: NodeId, capability: &Capability) -> Result<Arc<dyn Held>, Refusal> {
        if capability.workspace != LAB {
            self.0.surprised.store(true, Ordering::SeqCst);
        }
        match self.0.mood() {
            Mood::Denying => Err(Refusal::Denied),
            _ => Ok(Arc::new(Self(self.0.clone()))),
        }
    }
}

impl ServedWorkspace for Content {
    fn tree(&self, _: &Digest) -> Option<Bytes> {
        None
    }

    fn blob(&self, _: &Digest) -> Result<Bytes, ServeError> {
        Err(ServeError::Unknown)
    }

    fn slice(&self, blob: &Blob, groups: Range<u64>) -> Result<Vec<u8>, ServeError> {
        self.0.slice(blob, groups).ok_or(ServeError::Unknown)
    }

    fn outline(&self, _: &Blob, _: u64) -> Result<Vec<u8>, ServeError> {
        Err(ServeError::Unknown)
    }

    fn check(&self, _: &Blob) -> Result<(), ServeError> {
        Ok(())
    }

    fn pending(&self, _: &[Name], _: u64, _: u64, _: u32) -> Result<Vec<u8>, ServeError> {
        Err(ServeError::Unknown)
    }

    fn profile(&self, _: &PathKey) -> Profile {
        Profile::default()
    }

    fn offer(&self, _: &PathKey, _: Profile) {}

    fn co_readers(&self, _: &[PieceRequest]) -> Vec<NodeId> {
        self.0.co_readers.lock().unwrap().clone()
    }
}

impl Held for Content {
    fn gather<'a>(&'a self, _: &'a PieceRequest) -> BoxFuture<'a, ()> {
        async {
            if self.0.mood() == Mood::Silent {
                self.0.forever.notified().await;
            }
        }
        .boxed()
    }

    fn tree(&self, _: &Digest) -> Option<Bytes> {
        None
    }

    fn blob(&self, _: &Blob) -> Option<Bytes> {
        None
    }

    fn slice(&self, blob: &Blob, groups: Range<u64>) -> Option<Vec<u8>> {
        self.0.slice(blob, groups)
    }
}

fn identity() -> Identity {
    let folder = tempfile::tempdir().unwrap();
    Identity::load_or_create(folder.path()).unwrap()
}

/// An owner, some other readers, and what a guest knows of them.
struct Bench {
    peers: Vec<Arc<Peer>>,
    swarm: Swarm,
    ways: Ways,
    blob: Blob,
}

impl Bench {
    /// The first mood is the owner's.
    async fn new(moods: &[Mood]) -> Self {
        let guest = identity();
        let credentials = Credentials::new(&guest).unwrap();
        let bytes: Vec<u8> = (0..GROUPS << 14).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let hashed = hash_bytes(&bytes);
        let blob = Blob { digest: hashed.digest, size: bytes.len() as u64 };
        let (mut peers, mut clients) = (Vec::new(), HashMap::new());
        for mood in moods {
            let peer = Arc::new(Peer {
                identity: identity(),
                mood: Mutex::new(*mood),
                bytes: bytes.clone(),
                hashed: Hashed { digest: hashed.digest, outboard: hashed.outboard.clone() },
                asked: AtomicUsize::new(0),
                co_readers: Mutex::default(),
                surprised: AtomicBool::new(false),
                forever: Notify::new(),
            });
            let address = started(peer.clone()).await;
            let expected = Expected::Node(peer.identity.id());
            let client = PeerClient::connect(
                &credentials,
                &Bandwidth::default(),
                &[address],
                expected,
                Duration::from_secs(3),
            )
            .await;
            clients.insert(peer.identity.id(), client.unwrap());
            peers.push(peer);
        }
        let owner = &peers[0].identity;
        let capability = Capability::sign(owner, LAB, guest.id(), 0, u64::MAX);
        let ways = Ways {
            owner: owner.id(),
            workspace: LAB,
            capability: Some(capability),
            holders: vec![],
            clients,
        };
        Self { peers, swarm: Swarm::new(guest.id()), ways, blob }
    }

    fn wants(&self) -> Vec<Want> {
        let slices = (0..GROUPS).step_by(16);
        slices.map(|start| Want::Slice { blob: self.blob, groups: start..start + 16 }).collect()
    }

    /// Fetches all slices; gives how that ended, and whether each has come.
    async fn fetch(&self, awaited: usize) -> (Result<(), HolderError>, Vec<bool>) {
        let wants = self.wants();
        let mut came = vec![false; wants.len()];
        let mut sink = |position: usize, piece: Result<Piece, Refused>| {
            assert!(!std::mem::replace(&mut came[position], piece.is_ok()), "each comes once");
        };
        let others = self.peers[1..].iter().map(|peer| peer.identity.id()).collect();
        let readers = HashMap::from([(self.blob.digest, others)]);
        let fetch = Fetch::new(
            &self.swarm,
            &self.ways,
            &readers,
            &wants,
            Urgency { awaited, bulk: false },
            &mut sink,
            &|_| {},
        );
        let result = fetch.run().await;
        assert!(self.peers.iter().all(|peer| !peer.surprised.load(Ordering::SeqCst)));
        (result, came)
    }

    fn make_others_slow(&self) {
        for (number, peer) in self.peers.iter().enumerate() {
            let pace = if number == 0 { 1 } else { 100 };
            self.swarm.note_pace(peer.identity.id(), Duration::from_millis(pace));
        }
    }

    /// How many slices each was asked for.
    fn asked(&self) -> Vec<usize> {
        self.peers.iter().map(|peer| peer.asked.load(Ordering::SeqCst)).collect()
    }

    fn is_shunned(&self, peer: usize) -> bool {
        let now = Instant::now();
        let all: Vec<NodeId> = self.peers.iter().map(|peer| peer.identity.id()).collect();
        self.swarm.note_readers(self.blob.digest, &all, now);
        !self.swarm.readers(&self.blob.digest, now).contains(&all[peer])
    }
}

async fn started(peer: Arc<Peer>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let credentials = Credentials::new(&peer.identity).unwrap();
    tokio::spawn(async move {
        serve(
            listener,
            &credentials,
            Arc::new(Content(peer)),
            |_, _| true,
            ServeOptions::default(),
            std::future::pending(),
        )
        .await
        .unwrap();
    });
    address
}

#[tokio::test]
async fn readers_of_one_file_share_its_fetching() {
    let bench = Bench::new(&[Mood::Honest; 4]).await;
    let (result, came) = bench.fetch(0).await;
    assert!(result.is_ok() && came.iter().all(|came| *came));
    let asked = bench.asked();
    assert_eq!(asked.iter().sum::<usize>(), 20);
    assert!(asked.iter().filter(|asked| **asked > 0).count() >= 3, "{asked:?}");
    assert!(asked[0] < 15, "the owner is spared: {asked:?}");
}

#[tokio::test]
async fn what_somebody_waits_for_comes_from_the_owner_if_others_are_much_slower() {
    let bench = Bench::new(&[Mood::Honest; 4]).await;
    assert_eq!(bench.fetch(20).await.0, Ok(()));
    assert!(
        bench.asked()[0] < 20,
        "nobody is known to be slow, and the owner is spared: {:?}",
        bench.asked()
    );

    let bench = Bench::new(&[Mood::Honest; 4]).await;
    bench.make_others_slow();
    assert_eq!(bench.fetch(20).await.0, Ok(()));
    assert_eq!(bench.asked(), [20, 0, 0, 0]);
}

#[tokio::test]
async fn what_others_lie_about_or_lack_or_deny_comes_from_the_owner() {
    for mood in [Mood::Lying, Mood::Empty, Mood::Denying] {
        let bench = Bench::new(&[Mood::Honest, mood, mood, mood]).await;
        let (result, came) = bench.fetch(0).await;
        assert!(result.is_ok() && came.iter().all(|came| *came), "{mood:?}");
        assert_eq!(bench.asked()[0], 20, "{mood:?}");
        let shunned = (1..4).filter(|peer| bench.is_shunned(*peer)).count();
        assert!(shunned >= 2, "{mood:?}: {shunned} are shunned");
        assert!(!bench.is_shunned(0), "the owner never is");
    }
}

#[tokio::test]
async fn another_is_asked_when_one_is_silent() {
    let bench = Bench::new(&[Mood::Honest, Mood::Silent, Mood::Silent, Mood::Silent]).await;
    let (result, came) = bench.fetch(0).await;
    assert!(result.is_ok() && came.iter().all(|came| *came));
    assert_eq!(bench.asked()[0], 20);
}

#[tokio::test]
async fn others_are_asked_when_the_owner_lacks_it_or_is_away() {
    let mut bench = Bench::new(&[Mood::Empty, Mood::Honest, Mood::Honest]).await;
    let (result, came) = bench.fetch(20).await;
    assert!(result.is_ok() && came.iter().all(|came| *came), "the owner has changed it: {result:?}");

    bench.ways.clients.remove(&bench.ways.owner);
    let (result, came) = bench.fetch(20).await;
    assert!(result.is_ok() && came.iter().all(|came| *came), "the owner is away: {result:?}");

    for peer in &bench.peers {
        *peer.mood.lock().unwrap() = Mood::Empty;
    }
    let (result, came) = bench.fetch(20).await;
    assert_eq!(result, Err(HolderError::Nobody));
    assert!(came.iter().all(|came| !came));
}

#[tokio::test]
async fn an_owner_that_is_alone_gives_or_refuses_each() {
    for (mood, result, got, why) in [
        (Mood::Honest, Ok(()), 20, None),
        (Mood::Empty, Ok(()), 0, Some(Refused::Unknown)),
        (Mood::Denying, Err(HolderError::Denied), 0, None),
    ] {
        let bench = Bench::new(&[mood]).await;
        let wants = bench.wants();
        let (mut came, mut refused) = (vec![false; wants.len()], vec![None; wants.len()]);
        let mut sink = |position: usize, piece: Result<Piece, Refused>| match piece {
            Ok(_) => came[position] = true,
            Err(why) => refused[position] = Some(why),
        };
        let owner = &bench.ways.clients[&bench.ways.owner];
        let fetched = from_owner(&bench.swarm, owner, LAB, &wants, false, &mut sink).await;
        assert_eq!(fetched.map_err(failure), result);
        assert_eq!(came.iter().filter(|came| **came).count(), got, "{mood:?}");
        assert!(refused.iter().all(|refused| *refused == why), "{mood:?}");
        assert_eq!(bench.swarm.pace(&bench.ways.owner).is_some(), mood != Mood::Denying);
    }
    let bench = Bench::new(&[Mood::Lying]).await;
    let owner = &bench.ways.clients[&bench.ways.owner];
    let mut sink = |_: usize, _: Result<Piece, Refused>| panic!("nothing of a liar's is passed on");
    let result =
        from_owner(&bench.swarm, owner, LAB, &bench.wants(), false, &mut sink).await.map_err(failure);
    assert!(matches!(result, Err(HolderError::Misbehaved(_))), "{result:?}");
}

#[tokio::test]
async fn an_owner_that_denies_ends_it() {
    let bench = Bench::new(&[Mood::Denying, Mood::Honest]).await;
    bench.make_others_slow();
    assert_eq!(bench.fetch(20).await.0, Err(HolderError::Denied));
    assert_eq!(bench.asked(), [0, 0]);
}

#[tokio::test]
async fn who_else_reads_is_learned_from_the_owner() {
    let bench = Bench::new(&[Mood::Honest, Mood::Honest]).await;
    let others: Vec<NodeId> = (1..4).map(|n| NodeId::from_bytes([n; 32])).collect();
    *bench.peers[0].co_readers.lock().unwrap() = others.clone();
    // What another guest says doesn't count.
    *bench.peers[1].co_readers.lock().unwrap() = vec![NodeId::from_bytes([9; 32])];
    assert_eq!(bench.fetch(1).await.0, Ok(()));
    assert_eq!(bench.swarm.readers(&bench.blob.digest, Instant::now()), others);
}
