use std::time::Duration;

use serde_json::json;
use twinshare::{
    access::{Access, Rights},
    peer::Identity,
};

use super::*;
use crate::neighbours::tests::described;

const OWNER: NodeId = NodeId::from_bytes([1; 32]);
const LAB: WorkspaceId = WorkspaceId::from_bytes([2; 16]);

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn node(number: u16) -> NodeId {
    let mut id = [0; 32];
    id[..2].copy_from_slice(&number.to_be_bytes());
    NodeId::from_bytes(id)
}

fn root(number: u8) -> Digest {
    Digest::from_bytes([number; 32])
}

/// A workspace's version whose root tells the sequence.
fn version(id: WorkspaceId, sequence: u8) -> WorkspaceInfo {
    let folder = tempfile::tempdir().unwrap();
    let owner = Identity::load_or_create(folder.path()).unwrap();
    let info = described(&owner, id, "lab", root(sequence), sequence.into());
    WorkspaceInfo { access: Access::Public, ..info }
}

fn closed(mut info: WorkspaceInfo) -> WorkspaceInfo {
    info.rights = Rights::NONE;
    info.head.head.sequence = 0;
    info
}

fn knowing(workspaces: Vec<WorkspaceInfo>) -> Book {
    let mut book = Book::default();
    book.neighbours.insert(OWNER, Neighbour::new(host("dev"), false));
    book.take_over(OWNER, workspaces);
    book
}

fn sequences(book: &Book) -> Vec<u64> {
    book.neighbours[&OWNER].workspaces.iter().map(|info| info.head.head.sequence).collect()
}

fn read_again(book: &Book) -> Book {
    Book::read(&serde_json::to_vec(book).unwrap(), &host("me"))
}

#[test]
fn heads_only_go_forward() {
    let mut book = knowing(vec![version(LAB, 5)]);
    book.take_over(OWNER, vec![version(LAB, 4)]);
    assert_eq!(sequences(&book), [5]);
    book.take_over(OWNER, vec![version(LAB, 6)]);
    assert_eq!(sequences(&book), [6]);

    // Also after it wasn't shared for a while, after it was closed, and after a restart.
    book.take_over(OWNER, vec![]);
    book.take_over(OWNER, vec![version(LAB, 5)]);
    assert_eq!(sequences(&book), [0; 0]);
    book.take_over(OWNER, vec![closed(version(LAB, 0))]);
    assert_eq!(sequences(&book), [0]);
    let mut book = read_again(&book);
    book.take_over(OWNER, vec![version(LAB, 5)]);
    assert!(!book.neighbours[&OWNER].workspaces[0].is_open());
    book.take_over(OWNER, vec![version(LAB, 6)]);
    assert_eq!(sequences(&book), [6]);
}

#[test]
fn of_a_host_that_is_away_the_newest_version_that_is_here_is_shown() {
    let mut book = knowing(vec![version(LAB, 6)]);
    let neighbour = book.neighbours.get_mut(&OWNER).unwrap();
    neighbour.taken.insert(LAB, version(LAB, 5));
    let mut book = read_again(&book);
    let shown = |book: &Book, held: &[u8]| {
        let neighbour = &book.neighbours[&OWNER];
        let is_held = |digest: &Digest| held.iter().any(|number| root(*number) == *digest);
        neighbour.shown(&neighbour.workspaces[0], is_held).map(|info| info.head.head.sequence)
    };
    assert_eq!(shown(&book, &[5, 6]), Some(6));
    assert_eq!(shown(&book, &[5]), Some(5));
    assert_eq!(shown(&book, &[]), None);

    // What the owner has closed isn't shown, and neither when it's opened again.
    book.take_over(OWNER, vec![closed(version(LAB, 6))]);
    assert_eq!(shown(&book, &[5, 6]), None);
    book.take_over(OWNER, vec![version(LAB, 7)]);
    assert_eq!(shown(&book, &[5, 6]), None);
}

#[test]
fn what_is_open_and_new_may_be_taken() {
    let mut book = knowing(vec![version(LAB, 1)]);
    let noted = version(LAB, 1);
    let neighbour = book.neighbours.get_mut(&OWNER).unwrap();
    assert!(neighbour.may_take(&noted));
    assert!(!neighbour.may_take(&closed(noted.clone())));
    assert!(!neighbour.may_take(&version(WorkspaceId::from_bytes([3; 16]), 1)));
    neighbour.taken.insert(LAB, noted.clone());
    assert!(!neighbour.may_take(&noted));
}

#[test]
fn every_host_has_a_folder_of_its_own() {
    let me = host("me");
    let mut book = Book::default();
    let short = OWNER.short();
    assert_eq!(book.folder(OWNER, &host("dev"), &me), host("dev"));
    assert_eq!(book.folder(OWNER, &me, &me), host(&format!("me-{short}")));
    for (number, name) in ["dev", &format!("dev-{short}"), &format!("dev-{short}-2")].iter().enumerate() {
        book.neighbours.insert(node(number as u16), Neighbour::new(host(name), false));
    }
    assert_eq!(book.folder(OWNER, &host("dev"), &me), host(&format!("dev-{short}-3")));
    book.neighbours.insert(OWNER, Neighbour::new(host("old"), false));
    assert_eq!(book.folder(OWNER, &host("dev"), &me), host("old"));

    let long = host(&"ü".repeat(60));
    book.neighbours.insert(node(9), Neighbour::new(long.clone(), false));
    let other = book.folder(node(10), &long, &me);
    assert!(other != long && other.as_str().starts_with("üü"), "{other}");
}

#[test]
fn this_nodes_own_name_comes_first() {
    let mut book = Book::default();
    let own = format!("me-{}", node(1).short());
    for (number, name) in ["me", &own, "dev", "dev"].iter().enumerate() {
        book.neighbours.insert(node(number as u16 + 1), Neighbour::new(host(name), false));
    }
    let book = read_again(&book);
    let folders: Vec<_> = book.neighbours.values().map(|neighbour| neighbour.folder.as_str()).collect();
    assert_eq!(folders, [format!("{own}-2"), own, "dev".into(), format!("dev-{}", node(4).short())]);
}

#[test]
fn a_damaged_book_gives_what_can_be_read() {
    for nothing in [&b""[..], b"{", b"[]", b"{\"neighbours\": 1, \"addresses\": []}"] {
        let book = Book::read(nothing, &host("me"));
        assert!(book.neighbours.is_empty() && book.addresses.is_empty());
    }
    let good = serde_json::to_value(version(LAB, 1)).unwrap();
    let text = json!({
        "neighbours": {
            "not an id": { "folder": "a" },
            node(1).to_string(): { "folder": "../up" },
            node(2).to_string(): 7,
            OWNER.to_string(): {
                "folder": "dev",
                "address": "10.0.0.1:37778",
                "version": ["?"],
                "last_seen": "yesterday",
                "workspaces": [{ "id": 1 }, good, null],
                "taken": { "x": {} },
            },
        },
        "addresses": { "10.0.0.1": OWNER.to_string(), "10.0.0.2": 3, "10.0.0.3": null },
        "of a newer version": true,
    });
    let book = Book::read(text.to_string().as_bytes(), &host("me"));
    assert_eq!(book.neighbours.keys().collect::<Vec<_>>(), [&OWNER]);
    let dev = &book.neighbours[&OWNER];
    assert_eq!((dev.folder.as_str(), dev.address), ("dev", Some("10.0.0.1:37778".parse().unwrap())));
    assert_eq!(dev.workspaces, [version_from(&good)]);
    assert!(dev.taken.is_empty());
    let met: Vec<_> = book.addresses.values().copied().collect();
    assert_eq!(met, [Some(OWNER), None, None]);
    assert_eq!(book.find(&mounted_id(&OWNER, &LAB)).map(|(_, owner, id)| (owner, id)), Some((OWNER, LAB)));
}

fn version_from(value: &Value) -> WorkspaceInfo {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn what_is_written_is_read() {
    let mut book = knowing(vec![version(LAB, 3)]);
    book.addresses.insert("10.0.0.1".into(), Some(OWNER));
    let neighbour = book.neighbours.get_mut(&OWNER).unwrap();
    neighbour.taken.insert(LAB, version(LAB, 2));
    neighbour.by_address = true;
    neighbour.version = "1".into();
    assert_eq!(serde_json::to_value(read_again(&book)).unwrap(), serde_json::to_value(&book).unwrap());
}

#[test]
fn the_index_follows_what_is_shared() {
    let other = WorkspaceId::from_bytes([3; 16]);
    let mut book = knowing(vec![version(LAB, 1)]);
    assert!(book.find(&mounted_id(&OWNER, &LAB)).is_some());
    book.take_over(OWNER, vec![version(other, 1)]);
    assert!(book.find(&mounted_id(&OWNER, &LAB)).is_none());
    assert!(book.find(&mounted_id(&OWNER, &other)).is_some());
    book.neighbours.get_mut(&OWNER).unwrap().last_seen = Timestamp::UNIX_EPOCH;
    assert!(book.forget(Timestamp::now(), &BTreeSet::new()));
    assert!(book.find(&mounted_id(&OWNER, &other)).is_none());
}

#[test]
fn who_is_away_is_forgotten_unless_something_is_cached() {
    let later = Timestamp::now() + SignedDuration::from_secs(61);
    let nothing = BTreeSet::new();
    let other = WorkspaceId::from_bytes([3; 16]);
    let known = |book: &Book| book.neighbours.get(&OWNER).map(|neighbour| neighbour.workspaces.len());

    let mut book = knowing(vec![version(LAB, 1), version(other, 2)]);
    assert!(!book.forget(Timestamp::now(), &nothing));
    assert!(book.forget(later, &BTreeSet::from([root(2)])));
    assert_eq!(known(&book), Some(1));
    assert!(book.forget(later, &nothing));
    assert_eq!(known(&book), None);

    // An older version counts too.
    let mut book = knowing(vec![version(LAB, 2)]);
    book.neighbours.get_mut(&OWNER).unwrap().taken.insert(LAB, version(LAB, 1));
    assert!(!book.forget(later, &BTreeSet::from([root(1)])));

    // Who is followed, or met where the user said, stays.
    let mut book = knowing(vec![version(LAB, 1)]);
    book.followed.insert(OWNER);
    assert!(!book.forget(later, &nothing));
    book.followed.clear();
    book.addresses.insert("10.0.0.1".into(), Some(OWNER));
    assert!(book.forget(later, &nothing));
    assert_eq!(known(&book), Some(0));
}

#[test]
fn a_full_book_drops_who_is_missed_least() {
    let mut book = Book::default();
    for number in 0..MAX_NEIGHBOURS as u16 {
        let mut neighbour = Neighbour::new(host(&format!("dev{number}")), false);
        neighbour.last_seen = Timestamp::from_second(number.into()).unwrap();
        book.neighbours.insert(node(number), neighbour);
    }
    book.take_over(node(0), vec![version(LAB, 1)]);
    book.followed.insert(node(1));
    let held = BTreeSet::from([root(1)]);
    assert!(book.make_room(&held));
    assert_eq!(book.neighbours.len(), MAX_NEIGHBOURS - 1);
    assert!(!book.neighbours.contains_key(&node(2)));
    assert!(book.make_room(&held));
    assert_eq!(book.neighbours.len(), MAX_NEIGHBOURS - 1);

    book.neighbours.insert(node(2), Neighbour::new(host("again"), false));
    book.followed = book.neighbours.keys().copied().collect();
    assert!(!book.make_room(&held));
}

#[test]
fn a_capability_runs_out_by_its_owners_clock() {
    let folder = tempfile::tempdir().unwrap();
    let owner = Identity::load_or_create(folder.path()).unwrap();
    let (me, other, now) = (node(1), node(2), Instant::now());
    let given = |reader, issued| Capability::sign(&owner, LAB, reader, issued, issued + 240);
    let grant = |issued| Grant { capability: given(me, issued), holders: vec![], revoked: vec![] };
    let mut neighbour = Neighbour::new(host("dev"), false);
    assert!(!neighbour.is_in_time(&given(other, 5000), now), "nothing is known of the owner's time");

    // The owner's clock is years behind: that doesn't matter.
    neighbour.take_grants(vec![grant(1000)], me, now);
    let seconds = Duration::from_secs;
    assert!(neighbour.is_in_time(&given(other, 1000), now + seconds(239)));
    assert!(!neighbour.is_in_time(&given(other, 1000), now + seconds(240)));
    assert!(neighbour.is_in_time(&given(other, 1060), now + seconds(240)));
    // Told the same once more, it's no earlier.
    neighbour.take_grants(vec![grant(1000)], me, now + seconds(100));
    assert!(!neighbour.is_in_time(&given(other, 1000), now + seconds(240)));
    neighbour.take_grants(vec![grant(1240)], me, now + seconds(240));
    assert!(!neighbour.is_in_time(&given(other, 1000), now + seconds(240)));

    // What isn't for this node is of no use to it.
    neighbour.take_grants(
        vec![Grant { capability: given(other, 1300), holders: vec![], revoked: vec![] }],
        me,
        now,
    );
    assert!(neighbour.grants.is_empty());
}
