use twinshare::{
    access::{Access, Rights},
    peer::{Head, Identity, OwnerPath, SignedHead},
    store::{MemoryStore, WriteStore},
};

use super::*;

fn opened(state: &Path) -> Arc<Neighbours> {
    opened_with(state, MemoryStore::default())
}

fn opened_with(state: &Path, store: MemoryStore) -> Arc<Neighbours> {
    let identity = Identity::load_or_create(&state.join("identity")).unwrap();
    let credentials = Credentials::new(&identity).unwrap();
    Neighbours::open(
        state,
        "me".parse().unwrap(),
        credentials,
        Arc::default(),
        Events::new(),
        Arc::new(store),
    )
}

/// The tree object of an empty folder.
const EMPTY: &[u8] = &[0x82, 0, 0x80];

/// What `owner` says of a workspace.
pub(super) fn described(
    owner: &Identity,
    workspace: WorkspaceId,
    name: &str,
    root: Digest,
    sequence: u64,
) -> WorkspaceInfo {
    let head = Head {
        workspace,
        root,
        provisional: false,
        sequence,
        created: 0,
        mode: 0o755,
        modified: (0, 0),
        files: 1,
        bytes: 1,
    };
    WorkspaceInfo {
        id: workspace,
        name: name.parse().unwrap(),
        description: String::new(),
        tags: Vec::new(),
        path: OwnerPath::new(&b"/lab"[..]).unwrap(),
        head: SignedHead::sign(head, owner),
        environments: Vec::new(),
        access: Access::Ask,
        rights: Rights::USUAL,
    }
}

/// Neighbours who were here once and all share workspaces, which are held. Every two of them have one name.
pub(crate) fn with_many(state: &Path, hosts: u32, workspaces: u32) -> Arc<Neighbours> {
    let store = MemoryStore::default();
    store.put_tree(Digest::of(EMPTY), EMPTY).unwrap();
    let neighbours = opened_with(state, store);
    let mut book = neighbours.book();
    for host in 0..hosts {
        let folder = tempfile::tempdir().unwrap();
        let owner = Identity::load_or_create(folder.path()).unwrap();
        let infos = (0..workspaces).map(|number| {
            let id = WorkspaceId::from_bytes(u128::from(number).to_be_bytes());
            described(&owner, id, &format!("lab{number}"), Digest::of(EMPTY), 1)
        });
        let name = format!("host{}", host / 2).parse().unwrap();
        let name = book.folder(owner.id(), &name, &neighbours.own_host);
        book.neighbours.insert(owner.id(), Neighbour::new(name, false));
        book.take_over(owner.id(), infos.collect());
    }
    drop(book);
    neighbours
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

#[tokio::test]
async fn only_what_this_node_may_read_itself_is_passed_on() {
    let (state, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let neighbours = opened(state.path());
    let owner = Identity::load_or_create(folder.path()).unwrap();
    let (lab, guest, now) = (WorkspaceId::from_bytes([1; 16]), NodeId::from_bytes([2; 32]), Instant::now());
    let shown = Capability::sign(&owner, lab, guest, 1000, 1240);
    assert_eq!(neighbours.may_pass_on(&shown, now), Err(Refusal::Unknown), "an unknown owner");

    let mut info = described(&owner, lab, "lab", Digest::of(EMPTY), 1);
    let own = Grant {
        capability: Capability::sign(&owner, lab, neighbours.own, 1000, 1240),
        holders: vec![],
        revoked: vec![],
    };
    {
        let mut book = neighbours.book();
        let mut neighbour = Neighbour::new("dev".parse().unwrap(), false);
        neighbour.take_grants(vec![own.clone()], neighbours.own, now);
        book.neighbours.insert(owner.id(), neighbour);
        book.take_over(owner.id(), vec![info.clone()]);
    }
    assert_eq!(neighbours.may_pass_on(&shown, now), Ok(mounted_id(&owner.id(), &lab)));
    let late = now + Duration::from_secs(240);
    assert_eq!(neighbours.may_pass_on(&shown, late), Err(Refusal::Denied), "it has expired");
    let another = Capability::sign(&owner, WorkspaceId::from_bytes([3; 16]), guest, 1000, 1240);
    assert_eq!(neighbours.may_pass_on(&another, now), Err(Refusal::Unknown), "another workspace");
    let impostor = Identity::load_or_create(state.path()).unwrap();
    let forged = Capability::sign(&impostor, lab, guest, 1000, 1240);
    assert_eq!(neighbours.may_pass_on(&forged, now), Err(Refusal::Unknown), "not the owner's word");

    let revoked = Grant { revoked: vec![guest], ..own.clone() };
    let take = |grant| {
        let mut book = neighbours.book();
        book.neighbours.get_mut(&owner.id()).unwrap().take_grants(vec![grant], neighbours.own, now);
    };
    take(revoked);
    assert_eq!(neighbours.may_pass_on(&shown, now), Err(Refusal::Denied), "the owner has taken it back");
    take(own);
    assert_eq!(neighbours.may_pass_on(&shown, now), Ok(mounted_id(&owner.id(), &lab)));

    info.rights = Rights::NONE;
    neighbours.book().take_over(owner.id(), vec![info]);
    assert_eq!(neighbours.may_pass_on(&shown, now), Err(Refusal::Denied), "no longer this node's to read");
}
