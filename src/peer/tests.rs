//! Two nodes over TLS on loopback, and servers that don't keep to the rules.

mod edits;
mod hostile;
mod lines;
mod passing;
mod ready;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::{oneshot, watch},
};

use super::{
    frame::{self, Header, Kind},
    packed::{self, PackedPieces},
    tls, *,
};
use crate::{
    access::{Access, Rights},
    blob::{Blob, ChunkList, GROUP, Hashed, encode_outline, encode_slice, hash_bytes},
    profile::Profile,
    publish::{self, EditError, Incoming},
    tree::{self, Attributes, Content, Edit, Entry, Owner, Totals, TreeSink, write_folder},
    types::{Digest, Name, NodeId, PathKey, Timestamp, WorkspaceId},
};

const WORKSPACE: WorkspaceId = WorkspaceId::from_bytes([1; 16]);
const PRIVATE: WorkspaceId = WorkspaceId::from_bytes([2; 16]);

fn identity(n: u8) -> Identity {
    Identity::from_secret([n; 32])
}

/// What a test's owner has.
struct Shares {
    identity: Identity,
    trees: Mutex<HashMap<Digest, Bytes>>,
    blobs: HashMap<Digest, (Bytes, Hashed)>,
    pending: BTreeMap<Vec<Name>, (u64, Bytes)>,
    /// Blobs whose files aren't any more as they were.
    changed: Mutex<HashSet<Digest>>,
    /// How often a blob or slice was read.
    reads: AtomicUsize,
    version: watch::Sender<u64>,
    readers: Mutex<Vec<Option<NodeId>>>,
    catalogues: AtomicUsize,
    grants: Mutex<Vec<Grant>>,
    co_readers: Vec<NodeId>,
    expected: Mutex<Vec<(Blob, Range<u64>)>>,
    profiles: Mutex<HashMap<PathKey, Profile>>,
    /// What edits are made in, while they may be.
    writable: Mutex<Option<Arc<publish::Share>>>,
}

impl Shares {
    fn new(identity: Identity) -> Self {
        Self {
            identity,
            trees: Mutex::default(),
            blobs: HashMap::new(),
            pending: BTreeMap::new(),
            changed: Mutex::default(),
            reads: AtomicUsize::new(0),
            version: watch::Sender::new(0),
            readers: Mutex::default(),
            catalogues: AtomicUsize::new(0),
            grants: Mutex::default(),
            co_readers: Vec::new(),
            profiles: Mutex::default(),
            expected: Mutex::default(),
            writable: Mutex::default(),
        }
    }

    fn add_blob(&mut self, bytes: impl Into<Bytes>) -> Blob {
        let bytes = bytes.into();
        let hashed = hash_bytes(&bytes);
        let blob = Blob { digest: hashed.digest, size: bytes.len() as u64 };
        self.blobs.insert(hashed.digest, (bytes, hashed));
        blob
    }
}

impl TreeSink for Shares {
    type Error = std::convert::Infallible;

    fn put_tree(&self, digest: Digest, object: &[u8]) -> Result<(), Self::Error> {
        self.trees.lock().unwrap().insert(digest, Bytes::copy_from_slice(object));
        Ok(())
    }
}

/// The owner as the service sees it.
struct Owned(Arc<Shares>);

impl Served for Owned {
    fn node(&self) -> NodeInfo {
        NodeInfo {
            peer_id: self.0.identity.id(),
            hostname: "owner".parse().unwrap(),
            version: "0.1.0".into(),
            features: vec![],
            port: 37778,
        }
    }

    fn catalogue(&self, reader: Option<NodeId>) -> Catalogue {
        self.0.readers.lock().unwrap().push(reader);
        self.0.catalogues.fetch_add(1, Ordering::SeqCst);
        let version = *self.0.version.borrow();
        let head = Head {
            workspace: WORKSPACE,
            root: Digest::of(&version.to_be_bytes()),
            provisional: false,
            sequence: version,
            created: 0,
            mode: 0o755,
            modified: (0, 0),
            files: 1,
            bytes: 2,
        };
        let lab = WorkspaceInfo {
            id: WORKSPACE,
            name: "lab".parse().unwrap(),
            description: String::new(),
            tags: vec![],
            path: OwnerPath::new(&b"/home/ada/lab"[..]).unwrap(),
            head: SignedHead::sign(head, &self.0.identity),
            environments: vec!["default".into()],
            access: Access::Public,
            rights: Rights::USUAL,
        };
        Catalogue {
            tag: format!("v{version}"),
            workspaces: vec![lab],
            grants: self.0.grants.lock().unwrap().clone(),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.version.subscribe()
    }

    fn workspace(
        &self,
        id: &WorkspaceId,
        reader: Option<NodeId>,
    ) -> Result<Arc<dyn ServedWorkspace>, Refusal> {
        self.0.readers.lock().unwrap().push(reader);
        match *id {
            WORKSPACE => Ok(Arc::new(Owned(self.0.clone()))),
            PRIVATE => Err(Refusal::Denied),
            _ => Err(Refusal::Unknown),
        }
    }

    fn expected(&self) -> Vec<ExpectedPieces> {
        let pieces = self.0.expected.lock().unwrap().clone();
        vec![(Arc::new(Self(self.0.clone())), pieces)]
    }

    fn held(&self, _: NodeId, _: &Capability) -> Result<Arc<dyn Held>, Refusal> {
        Ok(Arc::new(Owned(self.0.clone())))
    }
}

impl Held for Owned {
    fn gather<'a>(&'a self, _: &'a PieceRequest) -> BoxFuture<'a, ()> {
        std::future::ready(()).boxed()
    }

    fn tree(&self, digest: &Digest) -> Option<Bytes> {
        ServedWorkspace::tree(self, digest)
    }

    fn blob(&self, blob: &Blob) -> Option<Bytes> {
        ServedWorkspace::blob(self, &blob.digest).ok()
    }

    fn slice(&self, blob: &Blob, groups: Range<u64>) -> Option<Vec<u8>> {
        ServedWorkspace::slice(self, blob, groups).ok()
    }
}

impl ServedWorkspace for Owned {
    fn tree(&self, digest: &Digest) -> Option<Bytes> {
        self.0.trees.lock().unwrap().get(digest).cloned()
    }

    fn blob(&self, digest: &Digest) -> Result<Bytes, ServeError> {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        self.0.blobs.get(digest).map(|(bytes, _)| bytes.clone()).ok_or(ServeError::Unknown)
    }

    fn slice(&self, blob: &Blob, groups: Range<u64>) -> Result<Vec<u8>, ServeError> {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        let (bytes, hashed) = self.0.blobs.get(&blob.digest).ok_or(ServeError::Unknown)?;
        encode_slice(*blob, groups, &bytes[..], &hashed.outboard).map_err(|_| ServeError::Changed)
    }

    fn outline(&self, blob: &Blob, window: u64) -> Result<Vec<u8>, ServeError> {
        let (bytes, hashed) = self.0.blobs.get(&blob.digest).ok_or(ServeError::Unknown)?;
        let chunks = ChunkList::of_window(&bytes[..], 0..blob.size, window)?;
        encode_outline(*blob, window, &chunks, &hashed.outboard).map_err(|_| ServeError::Changed)
    }

    fn check(&self, blob: &Blob) -> Result<(), ServeError> {
        match self.0.changed.lock().unwrap().contains(&blob.digest) {
            true => Err(ServeError::Changed),
            false => Ok(()),
        }
    }

    fn pending(&self, path: &[Name], token: u64, offset: u64, length: u32) -> Result<Vec<u8>, ServeError> {
        match self.0.pending.get(path) {
            None => Err(std::io::Error::from(std::io::ErrorKind::PermissionDenied).into()),
            Some((now, _)) if *now != token => Err(ServeError::Changed),
            Some((_, bytes)) => {
                let end = (offset as usize + length as usize).min(bytes.len());
                Ok(bytes[offset as usize..end].to_vec())
            }
        }
    }

    fn profile(&self, program: &PathKey) -> Profile {
        self.0.profiles.lock().unwrap().get(program).cloned().unwrap_or_default()
    }

    fn offer(&self, program: &PathKey, profile: Profile) {
        self.0.profiles.lock().unwrap().insert(*program, profile);
    }

    fn co_readers(&self, _: &[PieceRequest]) -> Vec<NodeId> {
        self.0.co_readers.clone()
    }

    fn may_write(&self) -> bool {
        self.0.writable.lock().unwrap().is_some()
    }

    fn take(&self, edit: Edit) -> Result<Incoming, EditError> {
        self.0.writable.lock().unwrap().clone().unwrap().take(edit)
    }
}

/// A serving owner; dropping it ends the service.
struct Server {
    address: SocketAddr,
    shares: Arc<Shares>,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<Result<(), CredentialsError>>,
}

impl Server {
    async fn new(shares: Shares) -> Self {
        let credentials = Credentials::new(&shares.identity).unwrap();
        Self::with(shares, credentials).await
    }

    async fn with(shares: Shares, credentials: Credentials) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shares = Arc::new(shares);
        let (stop, stopped) = oneshot::channel();
        let served = Arc::new(Owned(shares.clone()));
        let task = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            serve(listener, &credentials, served, |_, _| true, ServeOptions::default(), stopped).await
        });
        Self { address, shares, stop: Some(stop), task }
    }
}

async fn connect(guest: &Identity, address: SocketAddr, expected: Expected) -> Result<PeerClient, PeerError> {
    let credentials = Credentials::new(guest).unwrap();
    PeerClient::connect(&credentials, &Bandwidth::default(), &[address], expected, IDLE).await
}

async fn collect(mut answer: Answer) -> Result<Vec<(usize, Piece)>, PeerError> {
    let mut pieces = Vec::new();
    while let Some(piece) = answer.next().await? {
        pieces.push(piece);
    }
    Ok(pieces)
}

fn entry(name: &str, kind: tree::Kind) -> Entry {
    let attributes = Attributes {
        mode: 0o644,
        owner: Owner::Sharer,
        modified: Timestamp::default(),
        token: 7,
        link: None,
    };
    Entry { name: Name::new(name.as_bytes()).unwrap(), attributes, kind }
}

fn folder(name: &str, tree: Digest) -> Entry {
    entry(name, tree::Kind::Folder { tree, totals: Totals::default() })
}

fn file(name: &str, seed: u64) -> Entry {
    let content = Content::Blob(Digest::of(&seed.to_be_bytes()));
    entry(name, tree::Kind::File { size: seed, content })
}

fn noise(length: usize) -> Vec<u8> {
    (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let server = Server::new(Shares::new(identity(1))).await;
    let client = connect(&identity(2), server.address, Expected::Any).await.unwrap();
    assert_eq!(client.id(), identity(1).id());
    assert_eq!(client.node().await.unwrap().hostname.as_str(), "owner");
    let client = connect(&identity(2), server.address, Expected::Node(identity(1).id())).await.unwrap();
    let catalogue = client.catalogue(None, Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(catalogue.workspaces[0].path.as_bytes(), b"/home/ada/lab");
    assert_eq!(*server.shares.readers.lock().unwrap(), [Some(identity(2).id())]);
}

#[tokio::test]
async fn another_node_than_the_expected_is_refused() {
    let server = Server::new(Shares::new(identity(1))).await;
    let error = connect(&identity(2), server.address, Expected::Node(identity(3).id())).await.unwrap_err();
    match error {
        PeerError::WrongIdentity { expected, found, .. } => {
            assert_eq!((expected, found), (identity(3).id(), identity(1).id()));
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_client_stays_bound_to_the_node_that_it_met() {
    let server = Server::new(Shares::new(identity(1))).await;
    let client = connect(&identity(2), server.address, Expected::Any).await.unwrap();
    let Server { address, stop, task, .. } = server;
    drop(stop);
    task.await.unwrap().unwrap();
    // Another node takes the place.
    let credentials = Credentials::new(&identity(3)).unwrap();
    let listener = TcpListener::bind(address).await.unwrap();
    let shares = Arc::new(Owned(Arc::new(Shares::new(identity(3)))));
    tokio::spawn(async move {
        serve(listener, &credentials, shares, |_, _| true, ServeOptions::default(), std::future::pending())
            .await
    });
    assert!(matches!(client.node().await, Err(PeerError::Unreachable { .. })));
    assert!(connect(&identity(2), address, Expected::Node(identity(3).id())).await.is_ok());
}

#[tokio::test]
async fn a_server_with_another_nodes_statement_or_none_is_refused() {
    let (a, b) = (identity(1), identity(2));
    let copied = tls::statement(&a, b"the key of the certificate that it was copied from");
    for (statement, says) in [(Some(copied), "not signed"), (None, "names no twinshare node")] {
        let credentials = Credentials::make(b.id(), |_| statement).unwrap();
        let server = Server::with(Shares::new(identity(1)), credentials).await;
        for expected in [Expected::Any, Expected::Node(a.id())] {
            let error = connect(&identity(3), server.address, expected).await.unwrap_err();
            assert!(matches!(error, PeerError::NotANode { .. }), "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}

#[tokio::test]
async fn a_client_with_another_nodes_statement_or_none_is_refused() {
    let server = Server::new(Shares::new(identity(1))).await;
    let copied = tls::statement(&identity(2), b"another key");
    for statement in [Some(copied), None] {
        let credentials = Credentials::make(identity(2).id(), |_| statement).unwrap();
        let client =
            PeerClient::connect(&credentials, &Bandwidth::default(), &[server.address], Expected::Any, IDLE)
                .await;
        assert!(matches!(client, Err(PeerError::Unreachable { .. })), "{client:?}");
    }
    assert!(server.shares.readers.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_node_that_calls_itself_another_is_refused() {
    let server = Server::with(Shares::new(identity(1)), Credentials::new(&identity(2)).unwrap()).await;
    let error = connect(&identity(3), server.address, Expected::Any).await.unwrap_err();
    assert!(matches!(error, PeerError::Misbehaved { peer, .. } if peer == identity(2).id()), "{error}");
}

#[tokio::test]
async fn a_copied_certificate_without_its_key_is_of_no_use() {
    let owner = Credentials::new(&identity(1)).unwrap();
    let thief = Credentials::new(&identity(2)).unwrap();
    let copied = owner.with_key_of(&thief);
    let server = Server::with(Shares::new(identity(1)), copied.clone()).await;
    let error = connect(&identity(3), server.address, Expected::Any).await.unwrap_err();
    assert!(matches!(error, PeerError::Unreachable { .. }), "{error}");

    let server = Server::new(Shares::new(identity(4))).await;
    let client =
        PeerClient::connect(&copied, &Bandwidth::default(), &[server.address], Expected::Any, IDLE).await;
    assert!(matches!(client, Err(PeerError::Unreachable { .. })), "{client:?}");
}

/// A client as browsers and curl are: it shows no certificate and takes any.
async fn anonymous(address: SocketAddr, request: &str) -> String {
    let credentials = Credentials::new(&identity(9)).unwrap();
    let verifier = tls::ServerVerifier::new(&credentials, Expected::Any);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = rustls::pki_types::ServerName::from(address.ip());
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_client_without_certificate_is_nobody() {
    let server = Server::new(Shares::new(identity(1))).await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let post = |body: &str| {
        format!(
            "POST /v1/batch HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let catalogue = anonymous(server.address, &get("/v1/catalogue")).await;
    assert!(catalogue.contains("200 OK") && catalogue.contains("\"name\":\"lab\""), "{catalogue}");
    assert_eq!(*server.shares.readers.lock().unwrap(), [None]);

    let batch = |id: WorkspaceId| post(&format!(r#"{{"workspace":"{id}","pieces":[]}}"#));
    for (request, status, code) in [
        (get("/other"), "404", "unknown"),
        (get("/v1/batch"), "405", "method"),
        (get("/v1/catalogue?wait=x"), "400", "invalid"),
        (get(&format!("/v1/catalogue?after={}", "t".repeat(200))), "400", "invalid"),
        (post("{}"), "400", "invalid"),
        (post(&" ".repeat(MAX_BATCH + 1)), "413", "too-large"),
        (batch(PRIVATE), "401", "denied"),
        (batch(WorkspaceId::from_bytes([7; 16])), "404", "unknown"),
    ] {
        let answer = anonymous(server.address, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{answer}");
    }
}

#[tokio::test]
async fn a_waiting_catalogue_request_wakes_at_a_change() {
    let server = Server::new(Shares::new(identity(1))).await;
    let client = connect(&identity(2), server.address, Expected::Any).await.unwrap();
    let first = client.catalogue(None, Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(client.catalogue(Some(&first.tag), Duration::ZERO).await.unwrap(), None);
    let before = server.shares.catalogues.load(Ordering::SeqCst);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.catalogue(Some(&first.tag), Duration::from_secs(30)).await }
    });
    // The request waits once its catalogue has been made and was the same.
    while server.shares.catalogues.load(Ordering::SeqCst) == before {
        tokio::task::yield_now().await;
    }
    server.shares.version.send_modify(|version| *version += 1);
    let second = waiting.await.unwrap().unwrap().unwrap();
    assert_eq!(second.tag, "v1");
    assert_eq!(second.workspaces[0].head.head.sequence, 1);
}

#[tokio::test]
async fn refusals_reach_the_client() {
    let server = Server::new(Shares::new(identity(1))).await;
    let client = connect(&identity(2), server.address, Expected::Any).await.unwrap();
    let denied = client.batch(PRIVATE, vec![]).await.unwrap_err();
    assert!(matches!(denied, PeerError::Denied { peer, .. } if peer == identity(1).id()), "{denied}");
    let unknown = client.batch(WorkspaceId::from_bytes([7; 16]), vec![]).await.unwrap_err();
    assert!(matches!(unknown, PeerError::Unknown { .. }), "{unknown}");
    assert!(collect(client.batch(WORKSPACE, vec![]).await.unwrap()).await.unwrap().is_empty());
}

#[tokio::test]
async fn pieces_of_every_kind_arrive() {
    let mut shares = Shares::new(identity(1));
    let text = b"import numpy\n".repeat(1000);
    let small = shares.add_blob(text.clone());
    let empty = shares.add_blob(Vec::new());
    let large_bytes = noise(5_000_001);
    let large = shares.add_blob(large_bytes.clone());
    let root = write_folder(&[file("a", 1)], &shares).unwrap();
    let path = vec![Name::new(&b"new\xff"[..]).unwrap()];
    shares.pending.insert(path.clone(), (u64::MAX, Bytes::from(large_bytes.clone())));
    let server = Server::new(shares).await;
    let client = connect(&identity(2), server.address, Expected::Any).await.unwrap();

    let pending = |path: &[Name], token, offset, length| PieceRequest::Pending {
        pending: PendingRange { path: path.to_vec(), token, offset, length },
    };
    let nowhere = Digest::of(b"nowhere");
    let pieces = vec![
        PieceRequest::Tree { tree: root, subtree: false },
        PieceRequest::Blob { blob: small.digest, size: small.size },
        PieceRequest::Blob { blob: empty.digest, size: 0 },
        PieceRequest::Slice { slice: large.digest, size: large.size, groups: [10, 266] },
        PieceRequest::Outline { outline: large.digest, size: large.size, window: 0 },
        pending(&path, u64::MAX, 1000, 4 << 20),
        PieceRequest::Tree { tree: nowhere, subtree: true },
        PieceRequest::Blob { blob: small.digest, size: small.size + 1 },
        PieceRequest::Slice { slice: nowhere, size: large.size, groups: [0, 1] },
        PieceRequest::Outline { outline: nowhere, size: large.size, window: 0 },
        pending(&path, 1, 0, 10),
        pending(&[Name::new(&b"x"[..]).unwrap()], 1, 0, 10),
        // Beyond the end of the file: it isn't what was listed.
        pending(&path, u64::MAX, 5_000_000, 10),
        PieceRequest::Tree { tree: root, subtree: false },
    ];
    let count = pieces.len();
    let answer = collect(client.batch(WORKSPACE, pieces).await.unwrap()).await.unwrap();
    assert_eq!(answer.iter().map(|(index, _)| *index).collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
    let mut answer = answer.into_iter().map(|(_, piece)| piece);
    let mut next = || answer.next().unwrap();
    assert!(matches!(next(), Piece::Tree(digest, object) if digest == root && Digest::of(&object) == root));
    assert!(matches!(next(), Piece::Blob(blob) if blob.bytes()[..] == text[..]));
    assert!(matches!(next(), Piece::Blob(blob) if blob.bytes().is_empty()));
    match next() {
        Piece::Slice(slice) => {
            assert_eq!(slice.groups(), 10..266);
            assert_eq!(slice.leaves().concat(), large_bytes[10 * GROUP as usize..266 * GROUP as usize]);
        }
        other => panic!("{other:?}"),
    }
    let chunks = ChunkList::of_window(&large_bytes, 0..large.size, 0).unwrap();
    match next() {
        Piece::Outline(outline) => {
            assert!(outline.is_of(&large, 0));
            assert_eq!(outline.chunks(), chunks.chunks());
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(next(), Piece::Pending(bytes) if bytes[..] == large_bytes[1000..1000 + (4 << 20)]));
    for expected in [
        RefusedPiece::Unknown,
        RefusedPiece::Unknown,
        RefusedPiece::Unknown,
        RefusedPiece::Unknown,
        RefusedPiece::Changed,
        RefusedPiece::Failed,
        RefusedPiece::Changed,
    ] {
        assert!(matches!(next(), Piece::Refused(why) if why == expected));
    }
    assert!(matches!(next(), Piece::Tree(digest, _) if digest == root));
}

#[tokio::test]
async fn a_subtree_comes_in_one_answer_without_repeats() {
    let shares = Shares::new(identity(1));
    // The same folder stands in two places, and one folder is so big that it has pages.
    let leaf = write_folder(&[file("deep", 1)], &shares).unwrap();
    let big: Vec<Entry> = (0..5000).map(|n| file(&format!("f{n:05}"), n)).collect();
    let big = write_folder(&big, &shares).unwrap();
    let a = write_folder(&[folder("leaf", leaf), file("x", 2)], &shares).unwrap();
    let b = write_folder(&[folder("big", big), folder("leaf", leaf)], &shares).unwrap();
    let root = write_folder(&[folder("a", a), folder("b", b)], &shares).unwrap();
    let all = shares.trees.lock().unwrap().clone();
    assert!(all.len() > 10);
    let server = Server::new(shares).await;
    let client = connect(&identity(2), server.address, Expected::Any).await.unwrap();

    let pieces = vec![PieceRequest::Tree { tree: root, subtree: true }];
    let answer = collect(client.batch(WORKSPACE, pieces).await.unwrap()).await.unwrap();
    let mut order = Vec::new();
    for (index, piece) in answer {
        let Piece::Tree(digest, object) = piece else { panic!("{piece:?}") };
        assert_eq!((index, &all[&digest]), (0, &object));
        order.push(digest);
    }
    assert_eq!(order.len(), all.len());
    assert_eq!(order[..3], [root, a, b], "breadth first");

    // What an earlier piece brought isn't repeated below a later one, but what is named always comes.
    let pieces =
        vec![PieceRequest::Tree { tree: a, subtree: true }, PieceRequest::Tree { tree: a, subtree: true }];
    let answer = collect(client.batch(WORKSPACE, pieces).await.unwrap()).await.unwrap();
    let found: Vec<_> = answer
        .into_iter()
        .map(|(index, piece)| match piece {
            Piece::Tree(digest, _) => (index, digest),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(found, [(0, a), (0, leaf), (1, a)]);
}

/// A tree whose objects don't fit into one answer.
fn wide() -> (Shares, Digest) {
    let shares = Shares::new(identity(1));
    let folders: Vec<Entry> = (0..300)
        .map(|n| {
            let files: Vec<Entry> = (0..700).map(|m| file(&format!("{n:03}-{m:05}"), n * 1000 + m)).collect();
            folder(&format!("d{n:03}"), write_folder(&files, &shares).unwrap())
        })
        .collect();
    let root = write_folder(&folders, &shares).unwrap();
    let total: usize = shares.trees.lock().unwrap().values().map(Bytes::len).sum();
    assert!(total > SUBTREE_BUDGET + (2 << 20), "{total}");
    (shares, root)
}

#[tokio::test]
async fn a_subtree_ends_at_its_budget() {
    let (shares, root) = wide();
    let server = Server::new(shares).await;
    let client = connect(&identity(2), server.address, Expected::Any).await.unwrap();
    let pieces = vec![PieceRequest::Tree { tree: root, subtree: true }];
    let answer = collect(client.batch(WORKSPACE, pieces).await.unwrap()).await.unwrap();
    let bytes: usize = answer
        .iter()
        .map(|(_, piece)| match piece {
            Piece::Tree(_, object) => object.len(),
            other => panic!("{other:?}"),
        })
        .sum();
    assert!(bytes > SUBTREE_BUDGET - (1 << 20) && bytes < SUBTREE_BUDGET + (1 << 20), "{bytes}");
}

#[test]
fn thirteen_thousand_files_list_in_little() {
    let shares = Shares::new(identity(1));
    let folders: Vec<Entry> = (0..1000)
        .map(|n| {
            let files: Vec<Entry> = (0..13)
                .map(|m| {
                    let mut file = file(&format!("test_module_{m}.cpython-311.pyc"), n * 100 + m);
                    // What no compression can shrink: tokens and times as they are on a disk.
                    file.attributes.token = rand::random();
                    file.attributes.modified = Timestamp {
                        seconds: 1_700_000_000 + i64::from(rand::random::<u16>()),
                        nanoseconds: rand::random::<u32>() % 1_000_000_000,
                    };
                    file
                })
                .collect();
            let mut sorted = files;
            sorted.sort_by(|a, b| a.name.cmp(&b.name));
            folder(&format!("package{n:04}"), write_folder(&sorted, &shares).unwrap())
        })
        .collect();
    let root = write_folder(&folders, &shares).unwrap();
    let count = shares.trees.lock().unwrap().len();
    let workspace: Arc<dyn ServedWorkspace> = Arc::new(Owned(Arc::new(shares)));
    let mut producer = answer::Producer::new(
        workspace,
        Arc::new(PackedPieces::new(0)),
        vec![PieceRequest::Tree { tree: root, subtree: true }],
    );
    let mut bytes = 0;
    while let Some(portion) = producer.portion() {
        bytes += portion.len();
    }
    assert!(count > 1000 && bytes < 1_200_000, "{count} objects in {bytes} bytes");
}

#[tokio::test]
async fn the_first_address_that_answers_is_taken() {
    let server = Server::new(Shares::new(identity(1))).await;
    let other = Server::new(Shares::new(identity(3))).await;
    // Nobody listens at the first, the second never says a word, at the third is another node.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [closed, silent.local_addr().unwrap(), other.address, server.address];
    let credentials = Credentials::new(&identity(2)).unwrap();
    let expected = Expected::Node(identity(1).id());
    let client =
        PeerClient::connect(&credentials, &Bandwidth::default(), &addresses, expected, IDLE).await.unwrap();
    assert_eq!((client.id(), client.address()), (identity(1).id(), server.address));

    let client =
        PeerClient::connect(&credentials, &Bandwidth::default(), &[closed, other.address], expected, IDLE)
            .await;
    assert!(matches!(client, Err(PeerError::WrongIdentity { .. })), "{client:?}");
    let client = PeerClient::connect(&credentials, &Bandwidth::default(), &[], expected, IDLE).await;
    assert!(matches!(client, Err(PeerError::NoAddress)), "{client:?}");
}

#[tokio::test]
async fn the_service_ends_when_told_to() {
    let mut server = Server::new(Shares::new(identity(1))).await;
    let client = connect(&identity(2), server.address, Expected::Any).await.unwrap();
    let waiting = tokio::spawn(async move { client.catalogue(Some("v0"), Duration::from_secs(30)).await });
    while server.shares.catalogues.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    drop(server.stop.take());
    server.task.await.unwrap().unwrap();
    assert!(waiting.await.unwrap().is_err());
}

#[tokio::test]
async fn profiles_are_told_by_and_to_those_who_may_read() {
    let program = PathKey::from_bytes([4; 16]);
    let touched = r#"[{"path":"a/b","groups":[[0,2],[5,6]]}]"#;
    let profile: Profile = serde_json::from_str(touched).unwrap();
    let server = Server::new(Shares::new(identity(1))).await;
    let client = connect(&identity(2), server.address, Expected::Any).await.unwrap();
    assert!(client.profile(&WORKSPACE, &program).await.unwrap().is_empty());
    client.offer(&WORKSPACE, &program, &profile).await.unwrap();
    assert_eq!(client.profile(&WORKSPACE, &program).await.unwrap(), profile);
    let other = PathKey::from_bytes([5; 16]);
    assert!(client.profile(&WORKSPACE, &other).await.unwrap().is_empty());
    let url = format!("/v1/profile?workspace={WORKSPACE}&program={program}");
    let head = format!("{url} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    let told = anonymous(server.address, &format!("GET {head}\r\n")).await;
    assert!(told.contains(touched), "{told}");
    let offer = format!("POST {head}content-length: {}\r\n\r\n{touched}", touched.len());
    assert!(anonymous(server.address, &offer).await.starts_with("HTTP/1.1 401"));
    for private in
        [client.profile(&PRIVATE, &program).await.map(drop), client.offer(&PRIVATE, &program, &profile).await]
    {
        assert!(matches!(private, Err(PeerError::Denied { .. } | PeerError::Unknown { .. })), "{private:?}");
    }
}

#[tokio::test]
async fn what_was_compressed_for_one_guest_is_sent_to_the_next_unless_the_file_changed() {
    let mut shares = Shares::new(identity(1));
    let small = shares.add_blob(b"def lookup(name): return table[name]\n".repeat(100));
    let large = shares.add_blob(b"0.1234,5.6789,one,two,three\n".repeat(40_000));
    let server = Server::new(shares).await;
    let pieces = vec![
        PieceRequest::Blob { blob: small.digest, size: small.size },
        PieceRequest::Slice { slice: large.digest, size: large.size, groups: [3, 19] },
    ];
    let ask = async |guest: u8| {
        let client = connect(&identity(guest), server.address, Expected::Any).await.unwrap();
        collect(client.batch(WORKSPACE, pieces.clone()).await.unwrap()).await.unwrap()
    };
    for guest in [2, 3, 2] {
        let answer = ask(guest).await;
        let (Piece::Blob(blob), Piece::Slice(slice)) = (&answer[0].1, &answer[1].1) else {
            panic!("{answer:?}")
        };
        assert_eq!((blob.digest(), slice.groups()), (small.digest, 3..19));
    }
    assert_eq!(server.shares.reads.load(Ordering::SeqCst), 2, "each was read and compressed once");
    server.shares.changed.lock().unwrap().insert(large.digest);
    let answer = ask(3).await;
    assert!(
        matches!(&answer[..], [(0, Piece::Blob(_)), (1, Piece::Refused(RefusedPiece::Changed))]),
        "{answer:?}"
    );
}
