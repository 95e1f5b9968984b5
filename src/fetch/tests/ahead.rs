use super::*;

#[tokio::test]
async fn folders_ahead_come_in_few_requests_unless_they_are_held() {
    let trees: Vec<Vec<u8>> = (0..600u16).map(|number| number.to_be_bytes().repeat(500)).collect();
    let digests: Vec<Digest> = trees.iter().map(|object| Digest::of(object)).collect();
    let owner = Owner::new(&trees);
    let (fetcher, store) = fetcher(&[&owner]);
    fetcher.tree(&ID, &digests[0]).await.unwrap();
    fetcher.folders_ahead(&ID, digests.clone());
    while digests.iter().any(|digest| store.tree(digest).unwrap().is_none()) {
        tokio::task::yield_now().await;
    }
    assert!(owner.requests() <= 20, "{} requests for 600 folders", owner.requests());
    let asked = owner.asked.lock().unwrap().clone();
    let first = asked.iter().filter(|want| **want == Want::Tree(digests[0]));
    assert_eq!((first.count(), asked.len()), (1, 600), "each once");
}

/// Surroundings that must not matter.
struct Unasked;

impl Surroundings for Unasked {
    fn path(&self) -> Option<Vec<Name>> {
        panic!("asked although nothing is fetched")
    }

    fn is_program(&self) -> bool {
        false
    }

    fn nearby(&self) -> Vec<Blob> {
        panic!("asked although nothing is fetched")
    }
}

#[tokio::test]
async fn small_files_nearby_come_along_behind_the_one_that_is_read() {
    let small: Vec<_> = (0..20).map(|seed| sample(1000, seed)).collect();
    let owner = Owner::new(&small);
    let (fetcher, store) = fetcher(&[&owner]);
    let blobs: Vec<_> =
        small.iter().map(|bytes| Blob { digest: Digest::of(bytes), size: bytes.len() as u64 }).collect();
    let nearby = Nearby(blobs[1..].to_vec());
    fetcher.read(&ID, &FileContent::Blob(blobs[0]), 0, 1000, &nearby).await.unwrap();
    while blobs.iter().any(|blob| store.held(blob).unwrap().is_empty()) {
        tokio::task::yield_now().await;
    }
    let asked = owner.asked.lock().unwrap().clone();
    assert_eq!(asked[0], Want::Blob(blobs[0]), "the one that is waited for comes first");
    assert_eq!(asked.len(), 20, "each once");
    assert!(owner.requests() <= 3, "{} requests for 20 files", owner.requests());

    // A local read asks for nothing, not even what would be nearby.
    fetcher.read(&ID, &FileContent::Blob(blobs[5]), 0, 1000, &Unasked).await.unwrap();
}

#[tokio::test]
async fn what_comes_along_is_taken_over_by_who_waits_for_it() {
    let small: Vec<_> = (0..3).map(|seed| sample(1000, seed)).collect();
    let owner = Owner::new(&small);
    owner.gate.forget_permits(Semaphore::MAX_PERMITS);
    let (fetcher, _) = fetcher(&[&owner]);
    let blobs: Vec<_> =
        small.iter().map(|bytes| Blob { digest: Digest::of(bytes), size: bytes.len() as u64 }).collect();
    let nearby = Nearby(blobs[1..].to_vec());
    let first = FileContent::Blob(blobs[0]);
    let second = FileContent::Blob(blobs[1]);
    let both =
        join_all([fetcher.read(&ID, &first, 0, 1000, &nearby), fetcher.read(&ID, &second, 0, 1000, &nearby)]);
    let (results, ()) = tokio::join!(both, async {
        while owner.requests() < 2 {
            tokio::task::yield_now().await;
        }
        owner.gate.add_permits(100);
    });
    assert!(results.into_iter().all(|result| result.is_ok()));
    let asked = owner.asked.lock().unwrap().clone();
    assert_eq!(asked.iter().filter(|want| **want == Want::Blob(blobs[1])).count(), 1, "{asked:?}");
}

#[tokio::test]
async fn around_a_missing_part_of_a_mapped_file_its_window_comes_along() {
    let bytes = sample(100 * GROUP as usize, 0);
    let owner = Owner::new(std::slice::from_ref(&bytes));
    let store = Arc::new(MemoryStore::default());
    let options = FetchOptions { deadline: Duration::from_secs(10), mapped: bytes.len() as u64 };
    let (fetcher, _) = Fetcher::new(store.clone(), Arc::new(Everybody(vec![owner.clone()])), options);
    read(&fetcher, &bytes, 40 * GROUP as usize, 1).await.unwrap();
    let blob = Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 };
    while store.held(&blob).unwrap() != Groups::from(32..64) {
        tokio::task::yield_now().await;
    }
    let asked = owner.asked.lock().unwrap().clone();
    assert_eq!(asked[0], Want::Slice { blob, groups: 40..41 }, "what is waited for comes first");
}
