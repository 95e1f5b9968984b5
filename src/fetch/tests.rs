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

use super::{holder::Sink, *};
use crate::{
    blob::{Blob, GROUP, VerifiedBlob, VerifiedSlice, encode_slice, hash_bytes},
    store::{MemoryStore, ReadStore},
    types::{Digest, Name, WorkspaceId},
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
}

/// A holder with content in memory, that counts what it is asked.
struct Owner {
    content: HashMap<Digest, (Vec<u8>, Vec<u8>)>,
    pending: Vec<u8>,
    mood: Mutex<Mood>,
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
        Arc::new(Self {
            content: content.collect(),
            pending: b"not hashed yet".to_vec(),
            mood: Mutex::new(Mood::Willing),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            requests: AtomicUsize::new(0),
            asked: Mutex::default(),
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
        sink: Sink<'a>,
    ) -> BoxFuture<'a, Result<(), HolderError>> {
        async move {
            self.requests.fetch_add(1, Ordering::SeqCst);
            self.asked.lock().unwrap().extend_from_slice(wants);
            self.gate.acquire().await.unwrap().forget();
            let mood = *self.mood.lock().unwrap();
            match mood {
                Mood::Fails => return Err(HolderError::Unreachable("unplugged".into())),
                Mood::Denies => return Err(HolderError::Denied),
                Mood::NeverAnswers => std::future::pending().await,
                Mood::Willing | Mood::KnowsNothing => {}
            }
            for (position, want) in wants.iter().enumerate() {
                let piece = if mood == Mood::Willing { self.piece(want) } else { Err(Refused::Unknown) };
                sink(position, piece);
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
    let holders = Arc::new(Everybody(owners.iter().map(|owner| (*owner).clone()).collect()));
    let options = FetchOptions { deadline: Duration::from_secs(10) };
    (Arc::new(Fetcher::new(store.clone(), holders, options)), store)
}

fn sample(size: usize, seed: u8) -> Vec<u8> {
    (0..size as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect()
}

fn blob(bytes: &[u8]) -> FileContent {
    FileContent::Blob(Blob { digest: Digest::of(bytes), size: bytes.len() as u64 })
}

async fn read(fetcher: &Fetcher, bytes: &[u8], offset: usize, length: usize) -> Result<(), SourceError> {
    let got = fetcher.read(&ID, &blob(bytes), offset as u64, length as u32).await?;
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
    assert_eq!((owner.requests(), owner.groups_asked()), (2, 1));
    let held = store.held(&Blob { digest: Digest::of(&large), size: large.len() as u64 }).unwrap();
    assert_eq!(held.boundaries(), &[61, 62]);

    assert!(read(&fetcher, &small, 0, 1000).now_or_never().is_some(), "local reads don't wait");
    assert!(read(&fetcher, &large, 1_000_000, 4096).now_or_never().is_some());
    assert_eq!(owner.requests(), 2);
    let beyond = fetcher.read(&ID, &blob(&small), 999, 2).await;
    assert!(matches!(beyond, Err(SourceError::Failed(_))));
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

#[tokio::test]
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
    assert_eq!(fetcher.read(&ID, &content, 4, 6).await.unwrap(), "hashed");
}
