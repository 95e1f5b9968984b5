//! What is done for each byte or each name, and so decides how fast anything is.
//!
//! `cargo bench` measures all of it, `cargo bench -- store` what has that in its name.
#![expect(clippy::unwrap_used, reason = "a benchmark ends with a panic when what it measures fails")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    hint::black_box,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use twinshare::{
    blob::{Blob, ChunkList, VerifiedBlob, VerifiedSlice, encode_slice, hash_bytes},
    fetch::{FetchOptions, Fetcher, Holder, Holders},
    store::{DiskLimits, DiskStore, MemoryStore, WriteStore},
    tree::{Attributes, Content, Entry, Kind, Owner, Totals, TreeSink, decode, write_folder},
    types::{Digest, Name, Timestamp, WorkspaceId},
    view::{Cookie, HostListing, HostState, Ino, Listing, Mounted, Place, Reading, View, ViewOptions},
};

const MIB: usize = 1 << 20;
/// Entries of the folder that is encoded and listed.
const ENTRIES: u64 = 1000;
/// A usual module of Python.
const SMALL: usize = 8 << 10;

fn random(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

fn verified(bytes: Vec<u8>) -> (Blob, VerifiedBlob) {
    let blob = Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 };
    (blob, VerifiedBlob::verify(blob.digest, bytes.into()).unwrap())
}

fn chunking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chunking");
    let bytes = random(16 * MIB, 1);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("chunks of 16 MiB", |bencher| {
        bencher.iter(|| {
            [0, 1].map(|window| ChunkList::of_window(&bytes, 0..bytes.len() as u64, window).unwrap())
        });
    });
    group.finish();
}

fn hashing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hashing");
    for (name, length) in [("8 KiB", SMALL), ("16 MiB, tree kept", 16 * MIB)] {
        let bytes = random(length, 2);
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(name, |bencher| bencher.iter(|| hash_bytes(black_box(&bytes))));
    }
    group.finish();
}

/// A folder of files with names and digests as they come.
fn entries() -> Vec<Entry> {
    let attributes = Attributes {
        mode: 0o644,
        owner: Owner::Sharer,
        modified: Timestamp { seconds: 1_700_000_000, nanoseconds: 5 },
        token: 1,
        link: None,
    };
    let entry = |i: u64| {
        let content = Content::Blob(Digest::of(&i.to_le_bytes()));
        let name = Name::new(format!("module_{i:04}.py").as_bytes()).unwrap();
        Entry { name, attributes: attributes.clone(), kind: Kind::File { size: 1000 + i, content } }
    };
    (0..ENTRIES).map(entry).collect()
}

/// Tree objects in the order in which they are put.
#[derive(Default)]
struct Objects(Mutex<Vec<(Digest, Vec<u8>)>>);

impl TreeSink for Objects {
    type Error = Infallible;

    fn put_tree(&self, digest: Digest, object: &[u8]) -> Result<(), Infallible> {
        self.0.lock().unwrap().push((digest, object.to_vec()));
        Ok(())
    }
}

fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encoding");
    let entries = entries();
    let objects = Objects::default();
    let Ok(_) = write_folder(&entries, &objects);
    let objects = objects.0.into_inner().unwrap();
    group.throughput(Throughput::Elements(ENTRIES));
    group.bench_function("folder of 1000: write", |bencher| {
        bencher.iter(|| write_folder(black_box(&entries), &Objects::default()));
    });
    group.bench_function("folder of 1000: read", |bencher| {
        bencher.iter(|| objects.iter().map(|(_, object)| decode(object).unwrap()).collect::<Vec<_>>());
    });

    let bytes = random(16 * MIB, 3);
    let hashed = hash_bytes(&bytes);
    let blob = Blob { digest: hashed.digest, size: bytes.len() as u64 };
    let groups = 64..128;
    let encode = || encode_slice(blob, groups.clone(), &bytes[..], &hashed.outboard).unwrap();
    let encoded = encode();
    group.throughput(Throughput::Bytes(MIB as u64));
    group.bench_function("slice of 1 MiB: write", |bencher| bencher.iter(encode));
    group.bench_function("slice of 1 MiB: check", |bencher| {
        bencher.iter(|| VerifiedSlice::verify(blob, groups.clone(), black_box(&encoded)).unwrap());
    });
    group.finish();
}

/// One store's puts and reads of a small blob, and reads of a large one.
fn one_store(criterion: &mut Criterion, name: &str, store: &dyn WriteStore) {
    let mut group = criterion.benchmark_group(format!("store {name}"));
    let (small, content) = verified(random(SMALL, 4));
    store.put_blob(&content).unwrap();
    let mut buffer = vec![0; SMALL];
    group.throughput(Throughput::Elements(1));
    group.bench_function("8 KiB: read", |bencher| {
        bencher.iter(|| assert!(store.read_at(&small, 0, &mut buffer).unwrap()));
    });
    let mut seed = 1000;
    group.bench_function("8 KiB: put", |bencher| {
        let new = || {
            seed += 1;
            verified(random(SMALL, seed)).1
        };
        bencher.iter_batched(new, |content| store.put_blob(&content).unwrap(), BatchSize::SmallInput);
    });

    let bytes = random(16 * MIB, 5);
    let hashed = hash_bytes(&bytes);
    let large = Blob { digest: hashed.digest, size: bytes.len() as u64 };
    for start in (0..large.groups()).step_by(64) {
        let groups = start..(start + 64).min(large.groups());
        let encoded = encode_slice(large, groups.clone(), &bytes[..], &hashed.outboard).unwrap();
        store.put_slice(&VerifiedSlice::verify(large, groups, &encoded).unwrap()).unwrap();
    }
    let mut buffer = vec![0; 128 << 10];
    group.throughput(Throughput::Bytes(large.size));
    group.bench_function("16 MiB in reads of 128 KiB", |bencher| {
        bencher.iter(|| {
            for offset in (0..large.size).step_by(buffer.len()) {
                assert!(store.read_at(&large, offset, &mut buffer).unwrap());
            }
        });
    });
    group.finish();
}

fn store(criterion: &mut Criterion) {
    one_store(criterion, "memory", &MemoryStore::new());
    let folder = tempfile::tempdir().unwrap();
    let limits = DiskLimits { bytes: 8 << 30, descriptors: 64 };
    one_store(criterion, "disk", &DiskStore::open(folder.path(), limits).unwrap());
}

/// Nobody to ask: everything is here.
struct Nobody;

impl Holders for Nobody {
    fn holders(&self, _: &WorkspaceId) -> Vec<Arc<dyn Holder>> {
        Vec::new()
    }

    fn knock(&self, _: &WorkspaceId) {}
}

struct Into<'a>(&'a MemoryStore);

impl TreeSink for Into<'_> {
    type Error = Infallible;

    fn put_tree(&self, digest: Digest, object: &[u8]) -> Result<(), Infallible> {
        self.0.put_tree(digest, object).unwrap();
        Ok(())
    }
}

/// A view of one workspace, whose content is in the store: a folder `lab` with files, the last of which has content.
fn local_view() -> View {
    let store = Arc::new(MemoryStore::new());
    let (blob, content) = verified(random(MIB / 8, 6));
    store.put_blob(&content).unwrap();
    let mut entries = entries();
    entries.last_mut().unwrap().kind = Kind::File { size: blob.size, content: Content::Blob(blob.digest) };
    let Ok(root) = write_folder(&entries, &Into(&store));
    let mounted = Mounted {
        id: WorkspaceId::from_bytes([7; 16]),
        host: "ann".parse().unwrap(),
        root: Some(root),
        totals: Totals { files: ENTRIES, bytes: 0 },
        mode: 0o755,
        modified: Timestamp { seconds: 42, nanoseconds: 7 },
        original: b"/home/ann/lab".to_vec(),
        fixed: false,
        rights: twinshare::access::Rights::USUAL,
    };
    let places = BTreeMap::from([("lab".parse().unwrap(), Place::Remote(mounted))]);
    let host = HostListing { state: HostState::Online, places };
    let deadline = Duration::from_secs(10);
    let (fetcher, _) = Fetcher::new(store, Arc::new(Nobody), FetchOptions { deadline, mapped: 0 });
    let options = ViewOptions { mount: "/m".into(), uid: 1000, gid: 100, deadline, layers: None };
    let (view, _) = View::new(options, Arc::new(fetcher));
    now(view.update(Listing { hosts: BTreeMap::from([("ann".parse().unwrap(), host)]) }));
    view
}

/// What is local is answered at the first poll, as the kernel's side relies on.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("it's local, so there's nothing to wait for")
}

fn view(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _within = runtime.enter();
    let mut group = criterion.benchmark_group("view");
    let view = local_view();
    let look_up = |parent: Ino, name: &str| now(view.lookup(parent, name.as_bytes())).unwrap().ino;
    let folder = look_up(look_up(Ino::ROOT, "ann"), "lab");
    let file = look_up(folder, &format!("module_{:04}.py", ENTRIES - 1));
    group.bench_function("look-up", |bencher| {
        bencher.iter(|| look_up(folder, black_box("module_0500.py")));
    });
    group.bench_function("look-up of an absent name", |bencher| {
        bencher.iter(|| now(view.lookup(folder, black_box(b"module_0500.so"))).unwrap_err());
    });
    group.bench_function("read 128 KiB", |bencher| {
        bencher.iter(|| -> Bytes { now(view.read(file, 0, 128 << 10, Reading::ToSee)).unwrap() });
    });
    group.throughput(Throughput::Elements(ENTRIES));
    group.bench_function("list a folder of 1000", |bencher| {
        bencher.iter(|| {
            let mut count = 0;
            now(view.readdir(folder, Cookie::START, false, |_, _, attr| {
                black_box(attr);
                count += 1;
                false
            }))
            .unwrap();
            assert_eq!(count, ENTRIES + 2);
        });
    });
    group.finish();
}

criterion_group!(benches, chunking, hashing, encoding, store, view);
criterion_main!(benches);
