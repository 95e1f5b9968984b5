use twinshare::{peer::Identity, store::MemoryStore};

use super::*;

fn opened(state: &Path) -> Arc<Neighbours> {
    let identity = Identity::load_or_create(&state.join("identity")).unwrap();
    let credentials = Credentials::new(&identity).unwrap();
    Neighbours::open(state, "me".parse().unwrap(), credentials, Arc::new(MemoryStore::default()))
}

#[test]
fn only_one_contact_follows_a_neighbour() {
    let state = tempfile::tempdir().unwrap();
    let neighbours = opened(state.path());
    let id = NodeId::from_bytes([1; 32]);
    let claim = Claim::take(&neighbours, id).unwrap();
    assert!(Claim::take(&neighbours, id).is_none());
    assert!(Claim::take(&neighbours, NodeId::from_bytes([2; 32])).is_some());
    drop(claim);
    assert!(Claim::take(&neighbours, id).is_some());
}

#[test]
fn an_owner_is_asked_once_a_minute() {
    let state = tempfile::tempdir().unwrap();
    let neighbours = opened(state.path());
    let owner = NodeId::from_bytes([1; 32]);
    let [one, other] = [1, 2].map(|byte| WorkspaceId::from_bytes([byte; 16]));
    let now = Instant::now();
    assert!(neighbours.may_knock(owner, one, now));
    assert!(neighbours.may_knock(owner, other, now));
    assert!(!neighbours.may_knock(owner, one, now + KNOCK_GAP - Duration::from_secs(1)));
    assert!(neighbours.may_knock(owner, one, now + KNOCK_GAP));
}

#[tokio::test]
async fn a_book_that_cannot_be_read_does_not_stop_the_node() {
    let state = tempfile::tempdir().unwrap();
    std::fs::create_dir(state.path().join("peers.json")).unwrap();
    assert!(opened(state.path()).list().is_empty());
    std::fs::remove_dir(state.path().join("peers.json")).unwrap();
    std::fs::write(state.path().join("peers.json"), "{\"neighbours\":").unwrap();
    let neighbours = opened(state.path());
    assert!(neighbours.list().is_empty());
    neighbours.book().addresses.insert("10.0.0.1".into(), None);
    neighbours.save().await.unwrap();
    assert_eq!(opened(state.path()).silent_addresses(), ["10.0.0.1"]);
}
