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
