//! A peer that keeps to the protocol and sends what it likes: the guest stays up, and says who it was.

use std::{
    collections::HashMap,
    fs,
    net::Ipv4Addr,
    ops::Range,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use twinshare::{
    access::{Access, Rights},
    blob::{Blob, encode_slice, hash_bytes},
    peer::{
        Capability, Catalogue, Credentials, ExpectedPieces, Head, Held, Identity, NodeInfo, OwnerPath,
        PieceRequest, Refusal, ServeError, ServeOptions, Served, ServedWorkspace, SignedHead, WorkspaceInfo,
        serve,
    },
    profile::Profile,
    tree::{Attributes, Content, Entry, Kind, Owner, Totals, TreeSink, write_folder},
    types::{Digest, Name, NodeId, PathKey, Timestamp, WorkspaceId},
};

use crate::{bed::Bed, link::in_namespace, node::Node, wait::wait_for};

/// What the guest's daemon may need at the most, in MiB: a tree of a million names is held once, and its pages.
const MEMORY: u64 = 512;

/// Long for an answer that is wrong, and shorter than anything hangs.
const LIMIT: Duration = Duration::from_secs(25);

/// What the node has, and how it serves it.
struct Eve {
    identity: Identity,
    trees: HashMap<Digest, Bytes>,
    blobs: HashMap<Digest, Bytes>,
    workspaces: Vec<(&'static str, Digest)>,
}

#[derive(Default)]
struct Objects(Mutex<HashMap<Digest, Bytes>>);

impl TreeSink for Objects {
    type Error = std::convert::Infallible;

    fn put_tree(&self, digest: Digest, object: &[u8]) -> Result<(), Self::Error> {
        self.0.lock().unwrap().insert(digest, Bytes::copy_from_slice(object));
        Ok(())
    }
}

fn entry(name: &str, kind: Kind) -> Entry {
    let attributes = Attributes {
        mode: 0o755,
        owner: Owner::Sharer,
        modified: Timestamp { seconds: 1, nanoseconds: 0 },
        token: 7,
        link: None,
    };
    Entry { name: Name::new(name.as_bytes()).unwrap(), attributes, kind }
}

fn file(name: &str, bytes: &[u8]) -> Entry {
    let content = Content::Blob(hash_bytes(bytes).digest);
    entry(name, Kind::File { size: bytes.len() as u64, content })
}

impl Eve {
    fn new(identity: Identity) -> Self {
        let objects = Objects::default();
        let mut blobs = HashMap::new();
        let (small, large) = (vec![7; 1000], vec![9; 3 << 20]);
        for bytes in [&small, &large] {
            blobs.insert(hash_bytes(bytes).digest, Bytes::from(bytes.clone()));
        }
        let honest = write_folder(&[file("good", &small)], &objects).unwrap();
        // Other bytes than the digests say.
        let lied = [vec![1; 1000], vec![2; 3 << 20]];
        let wrong = write_folder(&[file("large", &lied[1]), file("small", &lied[0])], &objects).unwrap();
        blobs.insert(hash_bytes(&lied[0]).digest, Bytes::from(small.clone()));
        blobs.insert(hash_bytes(&lied[1]).digest, Bytes::from(large.clone()));
        // Names that are none, in objects that are named rightly.
        let renamed = |to: &[u8]| {
            let root = write_folder(&[file("abc", &small), file("zzz", &small)], &objects).unwrap();
            let mut bytes = objects.0.lock().unwrap()[&root].to_vec();
            let at = bytes.windows(3).position(|part| part == b"abc").unwrap();
            bytes[at..at + 3].copy_from_slice(to);
            let digest = Digest::of(&bytes);
            objects.0.lock().unwrap().insert(digest, bytes.into());
            digest
        };
        let (slash, nul) = (renamed(b"a/b"), renamed(b"a\0b"));
        let many: Vec<Entry> = (0..1_000_000).map(|number| file(&format!("{number:07}"), &small)).collect();
        let many = write_folder(&many, &objects).unwrap();
        // A folder that says of itself that it's below itself: its digest would have to be its own.
        let below = Digest::of(b"no such object");
        let nowhere = entry("loop", Kind::Folder { tree: below, totals: Totals::default() });
        let cycle = write_folder(&[nowhere], &objects).unwrap();
        let stand_in = objects.0.lock().unwrap()[&cycle].clone();
        objects.0.lock().unwrap().insert(below, stand_in);
        let workspaces = vec![
            ("cycle", cycle),
            ("drip", write_folder(&[file("slow", &[5; 500])], &objects).unwrap()),
            ("honest", honest),
            ("many", many),
            ("nul", nul),
            ("slash", slash),
            ("wrong", wrong),
        ];
        Self { identity, trees: objects.0.into_inner().unwrap(), blobs, workspaces }
    }

    fn id(number: usize) -> WorkspaceId {
        WorkspaceId::from_bytes([number as u8 + 1; 16])
    }
}

/// Eve as the service sees her.
struct Serving(Arc<Eve>);

impl Served for Serving {
    fn node(&self) -> NodeInfo {
        NodeInfo {
            peer_id: self.0.identity.id(),
            hostname: "eve".parse().unwrap(),
            version: "1".to_owned(),
            features: Vec::new(),
            port: 1,
        }
    }

    fn catalogue(&self, _: Option<NodeId>) -> Catalogue {
        let workspaces = self.0.workspaces.iter().enumerate().map(|(number, (name, root))| {
            let head = Head {
                workspace: Eve::id(number),
                root: *root,
                provisional: false,
                sequence: 1,
                created: 0,
                mode: 0o755,
                modified: (0, 0),
                files: 1,
                bytes: 1,
            };
            WorkspaceInfo {
                id: Eve::id(number),
                name: name.parse().unwrap(),
                description: String::new(),
                tags: Vec::new(),
                path: OwnerPath::new(&b"/w"[..]).unwrap(),
                head: SignedHead::sign(head, &self.0.identity),
                environments: Vec::new(),
                access: Access::Public,
                rights: Rights::USUAL,
            }
        });
        Catalogue { tag: "t".to_owned(), workspaces: workspaces.collect(), grants: Vec::new() }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    fn workspace(&self, _: &WorkspaceId, _: Option<NodeId>) -> Result<Arc<dyn ServedWorkspace>, Refusal> {
        Ok(Arc::new(Serving(self.0.clone())))
    }

    fn held(&self, _: NodeId, _: &Capability) -> Result<Arc<dyn Held>, Refusal> {
        Err(Refusal::Unknown)
    }

    fn expected(&self) -> Vec<ExpectedPieces> {
        Vec::new()
    }
}

impl ServedWorkspace for Serving {
    fn tree(&self, digest: &Digest) -> Option<Bytes> {
        self.0.trees.get(digest).cloned()
    }

    fn blob(&self, digest: &Digest) -> Result<Bytes, ServeError> {
        if *digest == Digest::of(&[5; 500]) {
            // It never answers.
            loop {
                std::thread::park();
            }
        }
        self.0.blobs.get(digest).cloned().ok_or(ServeError::Unknown)
    }

    fn slice(&self, blob: &Blob, groups: Range<u64>) -> Result<Vec<u8>, ServeError> {
        let bytes = self.0.blobs.get(&blob.digest).ok_or(ServeError::Unknown)?;
        let hashed = hash_bytes(bytes);
        let real = Blob { digest: hashed.digest, size: blob.size };
        encode_slice(real, groups, &bytes[..], &hashed.outboard).map_err(|_| ServeError::Changed)
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

    fn co_readers(&self, _: &[PieceRequest]) -> Vec<NodeId> {
        Vec::new()
    }

    fn profile(&self, _: &PathKey) -> Profile {
        Profile::default()
    }

    fn offer(&self, _: &PathKey, _: Profile) {}
}

/// The most that the node's daemon has had resident, in MiB.
fn memory(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid().as_raw_pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn a_hostile_peer_is_named_and_the_guest_stays_up() {
    let Some(bed) = Bed::new() else { return };
    let (host, guest) = (bed.owner(), bed.guest());
    let folder = bed.folder().join("eve");
    let (listening, port) = std::sync::mpsc::channel();
    let (end, ended) = oneshot::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            in_namespace(host.namespace(), || {
                let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let eve = Arc::new(Eve::new(Identity::load_or_create(&folder).unwrap()));
                    let credentials = Credentials::new(&eve.identity).unwrap();
                    let listener = tokio::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
                    listening.send(listener.local_addr().unwrap().port()).unwrap();
                    let over = async { drop(ended.await) };
                    serve(
                        listener,
                        &credentials,
                        Arc::new(Serving(eve)),
                        |_, _| true,
                        ServeOptions::default(),
                        over,
                    )
                    .await
                    .unwrap();
                });
                runtime.shutdown_background();
            });
        });
        let port = port.recv().unwrap();
        guest.up(&[]);
        guest.ask(&["peer", "add", &format!("{}:{port}", host.address())]);
        let at = |name: &str| guest.mount().join("eve").join(name);
        guest.wait_for_workspace("eve", "wrong");
        let timed = |what: &str, act: &dyn Fn() -> bool| {
            let started = Instant::now();
            assert!(act(), "{what}");
            assert!(started.elapsed() < LIMIT, "{what} took {:?}", started.elapsed());
        };
        timed("what is right is read", &|| fs::read(at("honest/good")).is_ok_and(|bytes| bytes == [7; 1000]));
        for name in ["wrong/small", "wrong/large", "drip/slow"] {
            timed(name, &|| fs::read(at(name)).is_err());
        }
        for name in ["slash", "nul", "cycle/loop"] {
            timed(name, &|| {
                fs::read_dir(at(name)).and_then(|mut entries| entries.next().transpose()).is_err()
            });
        }
        let names =
            || fs::read_dir(at("many")).map_or(0, |entries| entries.filter(|entry| entry.is_ok()).count());
        wait_for("a million names", Duration::from_secs(120), || (names() == 1_000_000).then_some(()));

        // It's said who it was, and all else goes on.
        let peers = guest.json(&["peer", "list", "--json"]);
        let alerts = peers[0]["alerts"].to_string();
        assert!(alerts.contains("doesn't match its digest") && alerts.contains("isn't one"), "{alerts}");
        timed("and afterwards too", &|| fs::read(at("honest/good")).is_ok());
        let peak = memory(guest);
        eprintln!("the guest's daemon had {peak} MiB at the most");
        assert!(peak < MEMORY, "{peak} MiB");
        drop(end);
    });
}
