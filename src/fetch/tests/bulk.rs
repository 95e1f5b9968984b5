use std::collections::HashSet;

use super::*;
use crate::{
    fetch::{BulkError, Observer, Progress},
    store::{Call, FaultStore},
    tree::{Attributes, Content, Entry, Extent, Kind, Owner as FileOwner, Totals, TreeSink, write_folder},
    types::Timestamp,
};

/// Folders and files in the making.
#[derive(Default)]
pub(super) struct Objects(Mutex<Vec<Vec<u8>>>);

impl TreeSink for Objects {
    type Error = std::convert::Infallible;

    fn put_tree(&self, _: Digest, object: &[u8]) -> Result<(), Self::Error> {
        self.0.lock().unwrap().push(object.to_vec());
        Ok(())
    }
}

impl Objects {
    pub(super) fn into_contents(self) -> Vec<Vec<u8>> {
        self.0.into_inner().unwrap()
    }

    pub(super) fn folder(&self, mut entries: Vec<Entry>) -> Kind {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let mut totals = Totals::default();
        entries.iter().for_each(|entry| totals.add(entry.kind.totals()));
        Kind::Folder { tree: write_folder(&entries, self).unwrap(), totals }
    }

    pub(super) fn file(&self, bytes: &[u8]) -> Kind {
        self.0.lock().unwrap().push(bytes.to_vec());
        Kind::File { size: bytes.len() as u64, content: Content::Blob(Digest::of(bytes)) }
    }
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

pub(super) fn entry(text: &str, kind: Kind) -> Entry {
    let modified = Timestamp { seconds: 0, nanoseconds: 0 };
    let attributes = Attributes { mode: 0o644, owner: FileOwner::Sharer, modified, token: 0, link: None };
    Entry { name: name(text), attributes, kind }
}

/// Notes what it's told.
#[derive(Default)]
pub(super) struct Notes {
    found: Mutex<Vec<Digest>>,
    reached: Mutex<Vec<Progress>>,
}

impl Observer for Notes {
    fn found(&self, digests: Vec<Digest>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.found.lock().unwrap().extend(digests);
        async { Ok(()) }.boxed()
    }

    fn reached(&self, progress: Progress) {
        self.reached.lock().unwrap().push(progress);
    }
}

/// A tree of all kinds of files: its root and who has it.
struct Tree {
    root: (Digest, Totals),
    owner: Arc<Owner>,
    small: Vec<u8>,
    below: Vec<u8>,
    large: Vec<u8>,
    folders: usize,
}

fn tree() -> Tree {
    let objects = Objects::default();
    let (small, below, large, data) =
        (sample(1000, 0), sample(2000, 1), sample(9_000_001, 2), sample(300_000, 3));
    let Kind::File { content: Content::Blob(blob), .. } = objects.file(&data) else { panic!() };
    let extents = [Extent { offset: 5, length: 300_000 }].into();
    let many = (0..3000).map(|number| entry(&format!("{number:04}"), objects.file(&small))).collect();
    let root = objects.folder(vec![
        entry("small", objects.file(&small)),
        entry("empty", Kind::File { size: 0, content: Content::Blob(Digest::of(b"")) }),
        entry("link", Kind::Link((*b"small").into())),
        entry("pending", Kind::File { size: 77, content: Content::Pending }),
        entry("large", objects.file(&large)),
        entry("sparse", Kind::File { size: 400_000, content: Content::Sparse { blob, extents } }),
        entry("many", objects.folder(many)),
        entry("folder", objects.folder(vec![entry("below", objects.file(&below))])),
    ]);
    let Kind::Folder { tree, totals } = root else { panic!() };
    let contents = objects.into_contents();
    // An index, its pages, and two more.
    let folders = contents.iter().filter(|object| crate::tree::decode(object).is_ok()).count();
    Tree { root: (tree, totals), owner: Owner::new(&contents), small, below, large, folders }
}

#[tokio::test]
async fn a_tree_is_fetched_with_all_that_is_in_it() {
    let tree = tree();
    let (fetcher, store) = fetcher(&[&tree.owner]);
    let notes = Notes::default();
    // Resumed where it was left.
    read(&fetcher, &tree.large, 5_000_000, 1).await.unwrap();
    let came = fetcher.complete(&ID, tree.root, &[], &notes).await.unwrap();
    assert_eq!(came.total, tree.root.1);
    assert_eq!(came.total.files, 3007);
    assert_eq!((came.here.files, came.here.bytes), (3006, came.total.bytes - 77));
    assert_eq!((came.pending, came.failed), (1, 0));
    assert_eq!(tree.owner.groups_asked(), 9_000_001u64.div_ceil(GROUP) + 300_000u64.div_ceil(GROUP));
    assert_eq!(notes.reached.lock().unwrap().last(), Some(&came));
    let found: HashSet<Digest> = notes.found.lock().unwrap().iter().copied().collect();
    assert_eq!(found.len(), tree.folders + 4);
    for digest in tree.owner.content.keys() {
        assert!(found.contains(digest) && store.belongs(&ID, digest).unwrap());
    }
    let requests = tree.owner.requests();
    assert_eq!(fetcher.complete(&ID, tree.root, &[], &notes).await, Ok(came));
    assert_eq!(tree.owner.requests(), requests, "all of it is here");
}

#[tokio::test]
async fn a_path_is_fetched_with_the_folders_above_it_alone() {
    let tree = tree();
    let (fetcher, store) = fetcher(&[&tree.owner]);
    let notes = Notes::default();
    let came = fetcher.complete(&ID, tree.root, &[name("folder"), name("below")], &notes).await.unwrap();
    assert_eq!((came.total, came.here), (Totals { files: 1, bytes: 2000 }, Totals { files: 1, bytes: 2000 }));
    assert_eq!(notes.found.lock().unwrap().len(), 3);
    read(&fetcher, &tree.below, 0, 2000).await.unwrap();
    assert!(!store.belongs(&ID, &Digest::of(&tree.small)).unwrap());
    for (path, missing) in
        [(["folder", "nothing"], "nothing"), (["small", "below"], "below"), (["x", "y"], "x")]
    {
        let result = fetcher.complete(&ID, tree.root, &path.map(name), &notes).await;
        assert_eq!(result, Err(BulkError::Missing(name(missing))));
    }
    let deep = fetcher.complete(&ID, tree.root, &[name("many"), name("2999")], &notes).await.unwrap();
    assert_eq!(deep.here.files, 1);
}

#[tokio::test]
async fn what_cant_be_had_is_counted_and_the_rest_comes() {
    let tree = tree();
    let (digest, owner) = (Digest::of(&tree.small), tree.owner);
    let owner = owner.but(|owner| owner.refused = HashMap::from([(digest, Refused::Changed)]));
    let (fetcher, _) = fetcher(&[&owner]);
    let came = fetcher.complete(&ID, tree.root, &[], &Notes::default()).await.unwrap();
    assert_eq!((came.failed, came.here.files), (3001, 5));
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_is_away_ends_it() {
    let tree = tree();
    let (fetcher, _) = fetcher(&[&tree.owner]);
    tree.owner.set(Mood::Fails);
    let result = fetcher.complete(&ID, tree.root, &[], &Notes::default()).await;
    assert_eq!(result, Err(BulkError::Source(SourceError::TimedOut)));
}

#[tokio::test]
async fn what_doesnt_fit_into_the_store_ends_it() {
    let tree = tree();
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    store.fail(Call::PutBlob, 1, StoreError::Full);
    let fetcher = fetcher_into(store, &[&tree.owner]);
    let result = fetcher.complete(&ID, tree.root, &[name("small")], &Notes::default()).await;
    assert_eq!(result, Err(BulkError::Full));
}

/// The large file on its way: what is asked for is there, but the owner has answered no more than the folder.
async fn under_way<'a>(fetcher: &'a Fetcher, tree: &'a Tree) -> BoxFuture<'a, Result<Progress, BulkError>> {
    tree.owner.gate.forget_permits(Semaphore::MAX_PERMITS);
    tree.owner.gate.add_permits(1);
    let bulk = async { fetcher.complete(&ID, tree.root, &[name("large")], &Notes::default()).await };
    let mut bulk = bulk.boxed();
    while tree.owner.requests() < 3 {
        assert!((&mut bulk).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    bulk
}

#[tokio::test]
async fn bulk_leaves_room_for_what_somebody_waits_for() {
    let tree = tree();
    let (fetcher, _) = fetcher(&[&tree.owner]);
    let bulk = under_way(&fetcher, &tree).await;
    // Of all that it has queued no more is under way, and what is asked for now goes ahead.
    let reading = read(&fetcher, &tree.small, 0, 1);
    let mut reading = Box::pin(reading);
    assert!((&mut reading).now_or_never().is_none());
    tree.owner.until_asked(4).await;
    assert!(tree.owner.was_asked(&Digest::of(&tree.small)));
    tree.owner.gate.add_permits(100);
    reading.await.unwrap();
    bulk.await.unwrap();
}

#[tokio::test]
async fn dropping_it_stops_it() {
    let tree = tree();
    let (fetcher, _) = fetcher(&[&tree.owner]);
    let bulk = under_way(&fetcher, &tree).await;
    drop(bulk);
    tree.owner.gate.add_permits(100);
    read(&fetcher, &tree.below, 0, 1).await.unwrap();
    assert!(tree.owner.groups_asked() <= 3 * 256, "{}", tree.owner.groups_asked());
    assert_eq!(tree.owner.requests(), 4);
}
