use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture, future::join_all};
use tokio::sync::Semaphore;

mod ahead;
mod bulk;
mod launch;
mod likeness;

use super::{holder::Sink, *};
use crate::{
    blob::{
        Blob, ChunkList, GROUP, Groups, Outline, VerifiedBlob, VerifiedSlice, encode_outline, encode_slice,
        hash_bytes,
    },
    store::{Call, FaultStore, MemoryStore, ReadStore, StoreError, WriteStore},
    types::{Digest, Name, PathKey, WorkspaceId},
};

const ID: WorkspaceId = WorkspaceId::from_bytes([3; 16]);

/// What a holder does when it's asked.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Willing,
    Fails,
    Denies,
    KnowsNothing,
    NeverAnswers,
    Refuses(Refused),
    Misbehaves,
    Panics,
}

/// A holder with content in memory, that counts what it is asked.
struct Owner {
    content: HashMap<Digest, (Vec<u8>, Vec<u8>)>,
    pending: Vec<u8>,
    /// Tree objects that are sent along with others.
    below: HashMap<Digest, Vec<u8>>,
    /// What is done to outlines before they are sent.
    distort: fn(&mut Vec<u8>),
    /// What is refused whatever the mood.
    refused: HashMap<Digest, Refused>,
    mood: Mutex<Mood>,
    silent_about_outlines: Mutex<bool>,
    /// A request takes one permit; the test gives them out.
    gate: Semaphore,
    requests: AtomicUsize,
    asked: Mutex<Vec<Want>>,
}

impl Owner {
    fn new(contents: &[Vec<u8>]) -> Arc<Self> {
        let content = contents.iter().map(|bytes| {
            let hashed = hash_bytes(bytes);
            (hashed.digest, (bytes.clone(), hashed.outboard))
        });
        Arc::new(Self::of(content.collect()))
    }

    fn of(content: HashMap<Digest, (Vec<u8>, Vec<u8>)>) -> Self {
        Self {
            content,
            pending: b"not hashed yet".to_vec(),
            below: HashMap::new(),
            distort: |_| {},
            refused: HashMap::new(),
            mood: Mutex::new(Mood::Willing),
            silent_about_outlines: Mutex::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            requests: AtomicUsize::new(0),
            asked: Mutex::default(),
        }
    }

    /// Changes how it is, before anybody uses it.
    fn but(self: Arc<Self>, change: impl FnOnce(&mut Self)) -> Arc<Self> {
        let mut owner = self;
        change(Arc::get_mut(&mut owner).unwrap());
        owner
    }

    async fn until_asked(&self, requests: usize) {
        while self.requests() < requests {
            tokio::task::yield_now().await;
        }
    }

    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn was_asked(&self, digest: &Digest) -> bool {
        let asked = self.asked.lock().unwrap();
        asked.iter().any(|want| match want {
            Want::Tree(wanted) | Want::Blob(Blob { digest: wanted, .. }) => wanted == digest,
            _ => false,
        })
    }

    fn with_mood(contents: &[Vec<u8>], mood: Mood) -> Arc<Self> {
        let owner = Self::new(contents);
        *owner.mood.lock().unwrap() = mood;
        owner
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Bytes of large blobs that were asked for.
    fn groups_asked(&self) -> u64 {
        let asked = self.asked.lock().unwrap();
        let groups = asked.iter().map(|want| match want {
            Want::Slice { groups, .. } => groups.end - groups.start,
            _ => 0,
        });
        groups.sum()
    }

    fn piece(&self, want: &Want) -> Result<Piece, Refused> {
        let find = |digest: &Digest| self.content.get(digest).ok_or(Refused::Unknown);
        match want {
            Want::Tree(digest) => {
                Ok(Piece::Tree { digest: *digest, object: Bytes::copy_from_slice(&find(digest)?.0) })
            }
            Want::Blob(blob) => {
                let bytes = Bytes::copy_from_slice(&find(&blob.digest)?.0);
                Ok(Piece::Blob(VerifiedBlob::verify(blob.digest, bytes).unwrap()))
            }
            Want::Slice { blob, groups } => {
                let (bytes, outboard) = find(&blob.digest)?;
                let encoded = encode_slice(*blob, groups.clone(), bytes, outboard).unwrap();
                Ok(Piece::Slice(VerifiedSlice::verify(*blob, groups.clone(), &encoded).unwrap()))
            }
            Want::Outline { blob, window } => {
                let (bytes, outboard) = find(&blob.digest)?;
                let chunks = ChunkList::of_window(bytes, 0..blob.size, *window).unwrap();
                let mut encoded = encode_outline(*blob, *window, &chunks, outboard).unwrap();
                (self.distort)(&mut encoded);
                let outline = Outline::verify(*blob, *window, &encoded);
                outline.map(Piece::Outline).map_err(|_| Refused::Failed)
            }
            Want::Pending { offset, length, .. } => {
                let range = *offset as usize..(*offset as usize + *length as usize);
                Ok(Piece::Pending(Bytes::copy_from_slice(&self.pending[range])))
            }
        }
    }
}

impl Holder for Owner {
    fn fetch<'a>(
        &'a self,
        _: &'a WorkspaceId,
        wants: &'a [Want],
        _: Urgency,
        sink: Sink<'a>,
    ) -> BoxFuture<'a, Result<(), HolderError>> {
        async move {
            self.requests.fetch_add(1, Ordering::SeqCst);
            self.asked.lock().unwrap().extend_from_slice(wants);
            self.gate.acquire().await.unwrap().forget();
            let mut mood = *self.mood.lock().unwrap();
            if *self.silent_about_outlines.lock().unwrap() && matches!(wants[0], Want::Outline { .. }) {
                mood = Mood::NeverAnswers;
            }
            match mood {
                Mood::Fails => return Err(HolderError::Unreachable("unplugged".into())),
                Mood::Denies => return Err(HolderError::Denied),
                Mood::NeverAnswers => std::future::pending().await,
                Mood::Misbehaves => return Err(HolderError::Misbehaved("by lying".into())),
                Mood::Panics => panic!("as the test wants"),
                Mood::Willing | Mood::KnowsNothing | Mood::Refuses(_) => {}
            }
            for (position, want) in wants.iter().enumerate() {
                let refused = match want {
                    Want::Tree(digest) | Want::Blob(Blob { digest, .. }) => self.refused.get(digest),
                    _ => None,
                };
                let piece = match (mood, refused) {
                    (_, Some(why)) => Err(*why),
                    (Mood::Willing, None) => self.piece(want),
                    (Mood::Refuses(why), None) => Err(why),
                    _ => Err(Refused::Unknown),
                };
                sink(position, piece);
                if let Want::Tree(digest) = want
                    && let Some(below) = self.below.get(digest)
                {
                    let (digest, object) = (Digest::of(below), Bytes::copy_from_slice(below));
                    sink(position, Ok(Piece::Tree { digest, object }));
                }
            }
            Ok(())
        }
        .boxed()
    }
}

struct Everybody(Vec<Arc<Owner>>);

impl Holders for Everybody {
    fn holders(&self, _: &WorkspaceId) -> Vec<Arc<dyn Holder>> {
        self.0.iter().map(|owner| owner.clone() as Arc<dyn Holder>).collect()
    }

    fn knock(&self, _: &WorkspaceId) {}
}

fn fetcher(owners: &[&Arc<Owner>]) -> (Arc<Fetcher>, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::default());
    (fetcher_into(store.clone(), owners), store)
}

fn fetcher_into(store: Arc<dyn WriteStore>, owners: &[&Arc<Owner>]) -> Arc<Fetcher> {
    let holders = Arc::new(Everybody(owners.iter().map(|owner| (*owner).clone()).collect()));
    let options = FetchOptions { deadline: Duration::from_secs(10), mapped: 0 };
    Arc::new(Fetcher::new(store, holders, options).0)
}

fn sample(size: usize, seed: u8) -> Vec<u8> {
    (0..size as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect()
}

fn blob(bytes: &[u8]) -> FileContent {
    FileContent::Blob(Blob { digest: Digest::of(bytes), size: bytes.len() as u64 })
}

/// Waits until what came has been put: readers get it before.
async fn put(fetcher: &Fetcher) {
    while fetcher.is_busy() {
        tokio::task::yield_now().await;
    }
}

async fn read(fetcher: &Fetcher, bytes: &[u8], offset: usize, length: usize) -> Result<(), SourceError> {
    let got = fetcher.read(&ID, &blob(bytes), offset as u64, length as u32, &()).await?;
    assert_eq!(got, bytes[offset..offset + length]);
    Ok(())
}

#[tokio::test]
async fn a_read_brings_what_it_touches_and_is_local_the_second_time() {
    let (small, large) = (sample(1000, 0), sample(4 << 20, 1));
    let owner = Owner::new(&[small.clone(), large.clone()]);
    let (fetcher, store) = fetcher(&[&owner]);
    read(&fetcher, &small, 10, 100).await.unwrap();
    read(&fetcher, &large, 1_000_000, 4096).await.unwrap();
    put(&fetcher).await;
    assert_eq!((owner.requests(), owner.groups_asked()), (2, 1));
    let held = store.held(&Blob { digest: Digest::of(&large), size: large.len() as u64 }).unwrap();
    assert_eq!(held.boundaries(), &[61, 62]);

    assert!(read(&fetcher, &small, 0, 1000).now_or_never().is_some(), "local reads don't wait");
    assert!(read(&fetcher, &large, 1_000_000, 4096).now_or_never().is_some());
    assert_eq!(owner.requests(), 2);
    let beyond = fetcher.read(&ID, &blob(&small), 999, 2, &()).await;
    assert!(matches!(beyond, Err(SourceError::Failed(_))));
}

#[tokio::test]
async fn who_looks_at_the_heads_of_files_brings_a_bounded_amount() {
    let files: Vec<_> = (0..60).map(|seed| sample(2 << 20, seed)).collect();
    let owner = Owner::new(&files);
    let holders = Arc::new(Everybody(vec![owner.clone()]));
    let options = FetchOptions { deadline: Duration::from_secs(10), mapped: 32 << 20 };
    let fetcher = Arc::new(Fetcher::new(Arc::new(MemoryStore::new()), holders, options).0);
    let heads = |files: &[Vec<u8>]| {
        let (fetcher, owner, files) = (fetcher.clone(), owner.clone(), files.to_vec());
        async move {
            let before = owner.groups_asked();
            for file in &files {
                read(&fetcher, file, 0, 4096).await.unwrap();
            }
            put(&fetcher).await;
            owner.groups_asked() - before
        }
    };
    // A window along with each of the first, as libraries want it; then what is asked for.
    let first = heads(&files[..16]).await;
    assert!(first >= 16 * 32, "{first}");
    assert_eq!(heads(&files[16..50]).await, 34);
    // Who reads on isn't one who only looks.
    read(&fetcher, &files[0], 1 << 20, 4096).await.unwrap();
    assert!(heads(&files[50..51]).await >= 32);
}

#[tokio::test]
async fn what_comes_is_noted_for_its_workspace_alone() {
    let (small, large, tree) = (sample(1000, 0), sample(4 << 20, 1), sample(500, 2));
    let owner = Owner::new(&[small.clone(), large.clone(), tree.clone()]);
    let (fetcher, store) = fetcher(&[&owner]);
    let other = WorkspaceId::from_bytes([9; 16]);
    read(&fetcher, &small, 0, 1).await.unwrap();
    read(&fetcher, &large, 0, 1).await.unwrap();
    fetcher.tree(&ID, &Digest::of(&tree)).await.unwrap();
    put(&fetcher).await;
    // What is held already doesn't come: the other workspace's owner may know no more than its digest.
    fetcher.read(&other, &blob(&small), 0, 1, &()).await.unwrap();
    for content in [&small, &large, &tree] {
        assert!(store.belongs(&ID, &Digest::of(content)).unwrap());
        assert!(!store.belongs(&other, &Digest::of(content)).unwrap());
    }
}

#[tokio::test]
async fn requests_for_the_same_range_share_one_fetch() {
    let large = sample(2 << 20, 1);
    let owner = Owner::new(std::slice::from_ref(&large));
    let (fetcher, _) = fetcher(&[&owner]);
    let reads = (0..50).map(|_| read(&fetcher, &large, 0, large.len()));
    join_all(reads).await.into_iter().for_each(Result::unwrap);
    assert_eq!(owner.groups_asked(), 128);
}

#[tokio::test]
async fn what_waits_travels_together() {
    let small: Vec<_> = (0..200).map(|seed| sample(1000 + seed, seed as u8)).collect();
    let owner = Owner::new(&small);
    // Nothing is answered before all have asked.
    owner.gate.forget_permits(Semaphore::MAX_PERMITS);
    let (fetcher, _) = fetcher(&[&owner]);
    let reads = join_all(small.iter().map(|bytes| read(&fetcher, bytes, 0, 1)));
    let (results, ()) = tokio::join!(reads, async {
        while owner.requests() < 4 {
            tokio::task::yield_now().await;
        }
        owner.gate.add_permits(100);
    });
    results.into_iter().for_each(Result::unwrap);
    assert!(owner.requests() <= 8, "{} requests for 200 files", owner.requests());
}

#[tokio::test]
async fn sequential_reading_is_kept_ahead_of() {
    let large = sample(16 << 20, 1);
    let owner = Owner::new(std::slice::from_ref(&large));
    let (fetcher, _) = fetcher(&[&owner]);
    for offset in (0..large.len()).step_by(128 << 10) {
        read(&fetcher, &large, offset, 128 << 10).await.unwrap();
    }
    assert_eq!(owner.groups_asked(), (large.len() as u64).div_ceil(GROUP), "nothing twice");
    assert!(owner.requests() < 64, "{} requests for 128 reads", owner.requests());
}

#[tokio::test]
async fn another_holder_helps() {
    let (small, large) = (sample(1000, 0), sample(1 << 20, 1));
    let contents = [small.clone(), large.clone()];
    for mood in [Mood::Fails, Mood::Denies, Mood::KnowsNothing] {
        let (first, second) = (Owner::with_mood(&contents, mood), Owner::new(&contents));
        let (fetcher, _) = fetcher(&[&first, &second]);
        read(&fetcher, &small, 0, 1000).await.unwrap();
        read(&fetcher, &large, 0, 1 << 20).await.unwrap();
        assert!(first.requests() >= 2);
    }
}

// The clock is paused because one that can't be reached is asked until the deadline.
#[tokio::test(start_paused = true)]
async fn failures_say_what_they_are() {
    let bytes = sample(1000, 0);
    for (mood, error) in [
        (Mood::Fails, SourceError::TimedOut),
        (Mood::Denies, SourceError::Denied),
        (Mood::KnowsNothing, SourceError::Changed),
    ] {
        let owner = Owner::with_mood(std::slice::from_ref(&bytes), mood);
        let (fetcher, _) = fetcher(&[&owner]);
        assert_eq!(read(&fetcher, &bytes, 0, 1).await, Err(error.clone()));
        assert_eq!(fetcher.tree(&ID, &Digest::of(b"x")).await, Err(error));
        // A failure isn't remembered.
        *owner.mood.lock().unwrap() = Mood::Willing;
        read(&fetcher, &bytes, 0, 1).await.unwrap();
    }
    let (fetcher, _) = fetcher(&[]);
    assert_eq!(read(&fetcher, &bytes, 0, 1).await, Err(SourceError::TimedOut));
}

#[tokio::test(start_paused = true)]
async fn a_silent_holder_is_given_up_at_the_deadline() {
    let bytes = sample(1000, 0);
    let owner = Owner::with_mood(std::slice::from_ref(&bytes), Mood::NeverAnswers);
    let (fetcher, _) = fetcher(&[&owner]);
    let start = tokio::time::Instant::now();
    assert_eq!(read(&fetcher, &bytes, 0, 1).await, Err(SourceError::TimedOut));
    assert_eq!(start.elapsed(), Duration::from_secs(10));
}

#[tokio::test]
async fn pending_files_come_from_the_owner() {
    let owner = Owner::new(&[]);
    let (fetcher, _) = fetcher(&[&owner]);
    let content = FileContent::Pending { path: vec![Name::new(&b"f"[..]).unwrap()], token: 5 };
    assert_eq!(fetcher.read(&ID, &content, 4, 6, &()).await.unwrap(), "hashed");
}

#[tokio::test]
async fn a_pending_file_fails_with_the_reason_given() {
    let content = FileContent::Pending { path: vec![Name::new(&b"f"[..]).unwrap()], token: 5 };
    let misbehaves = HolderError::Misbehaved("by lying".into()).to_string();
    for (mood, error) in [
        (Mood::Refuses(Refused::Changed), SourceError::Changed),
        (Mood::Refuses(Refused::Failed), Refused::Failed.into()),
        (Mood::Denies, SourceError::Denied),
        (Mood::Fails, SourceError::TimedOut),
        (Mood::Misbehaves, SourceError::Failed(misbehaves)),
    ] {
        let owner = Owner::with_mood(&[], mood);
        let (fetcher, _) = fetcher(&[&owner]);
        assert_eq!(fetcher.read(&ID, &content, 4, 6, &()).await, Err(error));
    }
    assert!(matches!(Refused::Failed.into(), SourceError::Failed(_)));
}

#[tokio::test(start_paused = true)]
async fn a_silent_holder_doesnt_hold_the_requests_for_ever() {
    let small: Vec<_> = (0..5).map(|seed| sample(1000, seed)).collect();
    let owner = Owner::with_mood(&small, Mood::NeverAnswers);
    let (fetcher, _) = fetcher(&[&owner]);
    for result in join_all(small[..4].iter().map(|bytes| read(&fetcher, bytes, 0, 1))).await {
        assert_eq!(result, Err(SourceError::TimedOut));
    }
    owner.set(Mood::Willing);
    read(&fetcher, &small[4], 0, 1).await.unwrap();
}

/// Panics whenever something is to be kept.
struct Panicking;

impl ReadStore for Panicking {
    fn tree(&self, _: &Digest) -> Result<Option<Bytes>, StoreError> {
        Ok(None)
    }

    fn held(&self, _: &Blob) -> Result<Groups, StoreError> {
        Ok(Groups::empty())
    }

    fn read_at(&self, _: &Blob, _: u64, _: &mut [u8]) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn slice(&self, _: &Blob, _: std::ops::Range<u64>) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn belongs(&self, _: &WorkspaceId, _: &Digest) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn at(&self, _: &WorkspaceId, _: PathKey) -> Result<Option<Blob>, StoreError> {
        Ok(None)
    }
}

impl WriteStore for Panicking {
    fn put_tree(&self, _: Digest, _: &[u8]) -> Result<(), StoreError> {
        panic!("as the test wants")
    }

    fn put_blob(&self, _: &VerifiedBlob) -> Result<(), StoreError> {
        panic!("as the test wants")
    }

    fn put_slice(&self, _: &VerifiedSlice) -> Result<(), StoreError> {
        panic!("as the test wants")
    }

    fn note(&self, _: &WorkspaceId, _: &Digest) -> Result<(), StoreError> {
        Ok(())
    }

    fn note_at(&self, _: &WorkspaceId, _: PathKey, _: &Blob) -> Result<(), StoreError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_panic_ends_its_reads_and_no_others() {
    let bytes = sample(1000, 0);
    let owner = Owner::new(std::slice::from_ref(&bytes));
    let into_panic = fetcher_into(Arc::new(Panicking), &[&owner]);
    // More often than there are requests at a time. What came is given before it's put.
    for round in 1..=6 {
        read(&into_panic, &bytes, 0, 1).await.unwrap();
        // What couldn't be put is not held in memory instead.
        assert_eq!(owner.requests(), round);
        put(&into_panic).await;
    }
    let (fetcher, _) = fetcher(&[&owner]);
    owner.set(Mood::Panics);
    for _ in 0..6 {
        assert!(matches!(read(&fetcher, &bytes, 0, 1).await, Err(SourceError::Failed(_))));
    }
    owner.set(Mood::Willing);
    read(&fetcher, &bytes, 0, 1).await.unwrap();
}

/// Lets `fetcher` read all of `first`, one request each, and then `then`, which queues behind; gives the results of `then`.
async fn read_behind(
    owner: &Owner,
    fetcher: &Fetcher,
    first: &[Vec<u8>],
    then: &[Vec<u8>],
) -> Vec<Result<(), SourceError>> {
    owner.gate.forget_permits(Semaphore::MAX_PERMITS);
    let busy = join_all(first.iter().map(|bytes| read(fetcher, bytes, 0, 1)));
    let queued = join_all(then.iter().map(|bytes| read(fetcher, bytes, 0, 1)));
    let open = async {
        owner.until_asked(first.len()).await;
        owner.gate.add_permits(100);
    };
    tokio::join!(busy, queued, open).1
}

#[tokio::test]
async fn each_piece_fails_with_its_own_reason() {
    let small: Vec<_> = (0..8).map(|seed| sample(1000, seed)).collect();
    let refused = [(4, Refused::Changed), (5, Refused::Failed), (6, Refused::Unknown)];
    let owner = Owner::new(&small).but(|owner| {
        owner.refused = refused.iter().map(|(which, why)| (Digest::of(&small[*which]), *why)).collect();
    });
    let (fetcher, _) = fetcher(&[&owner]);
    let results = read_behind(&owner, &fetcher, &small[..4], &small[4..]).await;
    assert_eq!(owner.requests(), 5, "the others came in one request");
    let (changed, failed) = (Err(SourceError::Changed), Err(Refused::Failed.into()));
    assert_eq!(results, [changed.clone(), failed, changed, Ok(())]);
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_isnt_asked_for() {
    let small: Vec<_> = (0..6).map(|seed| sample(1000, seed)).collect();
    let owner = Owner::new(&small);
    let (fetcher, _) = fetcher(&[&owner]);
    owner.gate.forget_permits(Semaphore::MAX_PERMITS);
    let mut busy = join_all(small[..4].iter().map(|bytes| read(&fetcher, bytes, 0, 1)));
    assert!((&mut busy).now_or_never().is_none());
    assert!(read(&fetcher, &small[4], 0, 1).now_or_never().is_none(), "and leaves");
    owner.gate.add_permits(100);
    busy.await.into_iter().for_each(Result::unwrap);
    read(&fetcher, &small[5], 0, 1).await.unwrap();
    assert!(!owner.was_asked(&Digest::of(&small[4])));
    // It can be asked for again.
    read(&fetcher, &small[4], 0, 1).await.unwrap();
}

#[tokio::test]
async fn a_folder_that_came_along_isnt_waited_for() {
    let trees: Vec<Vec<u8>> = (0..7).map(|seed| sample(1000, seed)).collect();
    let digests: Vec<Digest> = trees.iter().map(|object| Digest::of(object)).collect();
    let owner = Owner::new(&trees).but(|owner| {
        owner.below = HashMap::from([(digests[0], trees[4].clone()), (digests[1], trees[3].clone())]);
    });
    let (fetcher, _) = fetcher(&[&owner]);
    owner.gate.forget_permits(Semaphore::MAX_PERMITS);
    // Requests for 0 to 3 are under way, 4 is queued.
    let mut others = join_all([2, 3].map(|which| fetcher.tree(&ID, &digests[which])));
    let mut first = join_all([0, 1].map(|which| fetcher.tree(&ID, &digests[which])));
    assert!((&mut first).now_or_never().is_none());
    assert!((&mut others).now_or_never().is_none());
    let queued = fetcher.tree(&ID, &digests[4]);
    let open = async {
        owner.until_asked(4).await;
        // The first is answered, no others.
        owner.gate.add_permits(1);
    };
    let (queued, ()) = tokio::join!(queued, open);
    assert_eq!(queued.unwrap(), trees[4]);
    assert!(!owner.was_asked(&digests[4]));
    let under_way = fetcher.tree(&ID, &digests[3]);
    owner.gate.add_permits(1);
    assert_eq!(under_way.await.unwrap(), trees[3]);
    assert!(first.await.into_iter().all(|object| object.is_ok()));
    owner.gate.add_permits(100);
    others.await.into_iter().for_each(|object| assert!(object.is_ok()));
}

#[tokio::test]
async fn a_folder_that_came_along_and_cant_be_kept_does_no_harm() {
    let trees = [sample(1000, 0), sample(1000, 1)];
    let digest = Digest::of(&trees[0]);
    let owner = Owner::new(&trees).but(|owner| owner.below = HashMap::from([(digest, trees[1].clone())]));
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    store.fail(Call::PutTree, 2, StoreError::Full);
    let fetcher = fetcher_into(store, &[&owner]);
    assert_eq!(fetcher.tree(&ID, &digest).await.unwrap(), trees[0]);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_comes_back_is_asked_again() {
    let bytes = sample(1000, 0);
    let owner = Owner::with_mood(std::slice::from_ref(&bytes), Mood::Fails);
    let (fetcher, _) = fetcher(&[&owner]);
    let start = tokio::time::Instant::now();
    let back = async {
        owner.until_asked(1).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        owner.set(Mood::Willing);
    };
    let (result, ()) = tokio::join!(read(&fetcher, &bytes, 0, 1), back);
    result.unwrap();
    // After 100, 200 and 400 ms.
    assert_eq!((owner.requests(), start.elapsed().as_millis() / 100), (4, 7));
}

#[tokio::test(start_paused = true)]
async fn a_holder_isnt_asked_again_for_nobody() {
    let bytes = sample(1000, 0);
    let owner = Owner::with_mood(std::slice::from_ref(&bytes), Mood::Fails);
    let (fetcher, _) = fetcher(&[&owner]);
    let leaves = tokio::time::timeout(Duration::from_millis(250), read(&fetcher, &bytes, 0, 1));
    assert!(leaves.await.is_err());
    tokio::time::sleep(Duration::from_secs(60)).await;
    // At once, after 100 ms and, before it's seen that nobody waits, after 300 ms.
    assert_eq!(owner.requests(), 3);
    // Without any holder there's nothing to wait for.
    let (lonely, _) = self::fetcher(&[]);
    let start = tokio::time::Instant::now();
    assert_eq!(read(&lonely, &bytes, 0, 1).await, Err(SourceError::TimedOut));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

fn broken() -> StoreError {
    StoreError::Index { doing: "be read", why: "as the test wants".into() }
}

#[tokio::test]
async fn what_cant_be_kept_is_still_read() {
    let (small, large, tree) = (sample(1000, 0), sample(4 << 20, 1), sample(500, 2));
    let owner = Owner::new(&[small.clone(), large.clone(), tree.clone()]);
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    let fetcher = fetcher_into(store.clone(), &[&owner]);
    // Its middle is held, both ends aren't.
    read(&fetcher, &large, 1 << 20, 1 << 20).await.unwrap();
    for nth in 1..100 {
        let source = std::io::Error::from_raw_os_error(5);
        store.fail(Call::PutSlice, nth, StoreError::Disk { doing: "write".into(), source });
        store.fail(Call::PutBlob, nth, StoreError::Full);
        store.fail(Call::PutTree, nth, broken());
    }
    store.fail(Call::Held, 1, broken());
    read(&fetcher, &large, 1000, 3 << 20).await.unwrap();
    read(&fetcher, &small, 10, 900).await.unwrap();
    assert_eq!(fetcher.tree(&ID, &Digest::of(&tree)).await.unwrap(), tree);
    // What isn't what it's called is never passed on.
    store.fail(Call::PutTree, 1, StoreError::Corrupt(Digest::of(&tree)));
    assert!(matches!(fetcher.tree(&ID, &Digest::of(&tree)).await, Err(SourceError::Failed(_))));
}

#[tokio::test]
async fn what_is_held_but_cant_be_read_is_fetched_again() {
    let (small, large, tree) = (sample(1000, 0), sample(1 << 20, 1), sample(500, 2));
    let owner = Owner::new(&[small.clone(), large.clone(), tree.clone()]);
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    let fetcher = fetcher_into(store.clone(), &[&owner]);
    let digest = Digest::of(&tree);
    for round in 0..2 {
        if round == 1 {
            store.fail(Call::PutTree, 1, StoreError::Full);
            store.fail(Call::PutBlob, 1, StoreError::Full);
            store.fail(Call::PutSlice, 1, StoreError::Full);
        }
        for bytes in [&small, &large] {
            store.fail(Call::ReadAt, 1, broken());
            read(&fetcher, bytes, 10, 900).await.unwrap();
        }
        store.fail(Call::Tree, 1, broken());
        assert_eq!(fetcher.tree(&ID, &digest).await.unwrap(), tree);
        assert_eq!(owner.requests(), 3 * (round + 1));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_ahead_while_reading_fails() {
    let large = sample(4 << 20, 1);
    let owner = Owner::with_mood(std::slice::from_ref(&large), Mood::NeverAnswers);
    let (fetcher, _) = fetcher(&[&owner]);
    for offset in [0, 128 << 10] {
        assert_eq!(read(&fetcher, &large, offset, 128 << 10).await, Err(SourceError::TimedOut));
    }
    assert_eq!(owner.groups_asked(), 16, "only what was read");
}

#[tokio::test]
async fn a_slow_disk_holds_up_nothing_else() {
    let small = [sample(1000, 0), sample(1000, 1)];
    let owner = Owner::new(&small);
    let store = Arc::new(FaultStore::new(MemoryStore::new()));
    let fetcher = fetcher_into(store.clone(), &[&owner]);
    let hold = store.block(Call::PutBlob, 1);
    // Whoever waits gets it before it's put, and whoever comes meanwhile takes the same.
    read(&fetcher, &small[0], 0, 1).await.unwrap();
    while store.made(Call::PutBlob) == 0 {
        tokio::task::yield_now().await;
    }
    read(&fetcher, &small[0], 1, 1).await.unwrap();
    assert_eq!(owner.asked.lock().unwrap().len(), 1, "not asked for again");
    // There's one worker here, so this wouldn't come back if the put stood on it.
    read(&fetcher, &small[1], 0, 1).await.unwrap();
    drop(hold);
}

/// A file of which nothing more is known.
impl Surroundings for () {
    fn path(&self) -> Option<Vec<Name>> {
        None
    }

    fn is_program(&self) -> bool {
        false
    }

    fn nearby(&self) -> Vec<Blob> {
        Vec::new()
    }
}

/// Files that stand nearby.
struct Nearby(Vec<Blob>);

impl Surroundings for Nearby {
    fn path(&self) -> Option<Vec<Name>> {
        None
    }

    fn is_program(&self) -> bool {
        false
    }

    fn nearby(&self) -> Vec<Blob> {
        self.0.clone()
    }
}
