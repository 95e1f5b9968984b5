use std::fs;

use tempfile::TempDir;
use twinshare::{access::Whom, api::Decision, blob::Groups, publish::SharesOptions, types::Name};

use crate::{consent::Consent, events::Events};

use super::*;

const GUEST: NodeId = NodeId::from_bytes([7; 32]);

/// A node's sharing, with folders to share.
struct Owner {
    folder: TempDir,
    sharing: Arc<Sharing>,
}

impl Owner {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let history = Arc::new(History::open(folder.path()).unwrap());
        let sharing = Self::open(&folder, history);
        Self { folder, sharing }
    }

    fn open(folder: &TempDir, history: Arc<History>) -> Arc<Sharing> {
        let state = folder.path().join("state");
        fs::create_dir_all(&state).unwrap();
        let identity = Arc::new(Identity::load_or_create(&state.join("identity")).unwrap());
        let shares = Shares::open(&state, SharesOptions::default()).unwrap();
        let profiles = Arc::new(Profiles::open(&state));
        let own = Own { identity, host: "owner".parse().unwrap(), port: 1, plain: false };
        Sharing::open(&state, own, shares, profiles, history, Consent::open(&state, Events::new()).unwrap())
            .unwrap()
    }

    /// What the node shares when it is started once more.
    fn restarted(self) -> Self {
        let Self { folder, sharing } = self;
        let (history, shares) = (sharing.history.clone(), sharing.shares.clone());
        drop(sharing);
        // A thread that keeps a snapshot may still have it. The hash cache is closed with the last of them: here.
        while Arc::strong_count(&shares) > 1 {
            std::thread::yield_now();
        }
        drop(shares);
        let sharing = Self::open(&folder, history);
        sharing.resume();
        Self { folder, sharing }
    }

    fn share(&self, name: &str, access: Access) -> Arc<Share> {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("secret.txt"), "secret").unwrap();
        let options =
            Options { name: Some(name.parse().unwrap()), access: Some(access), ..Options::default() };
        self.sharing.share(&path, options).unwrap()
    }

    fn decide(&self, share: &Share, peer: NodeId, decision: Decision) {
        self.sharing.consent().decide(&subject(share), peer, decision).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.sharing.list().iter().map(|share| share.manifest().name.to_string()).collect();
        names.sort();
        names
    }

    fn seen(&self, share: &Share, reader: Option<NodeId>) -> Option<WorkspaceInfo> {
        self.sharing.catalogue(reader).workspaces.into_iter().find(|info| info.id == share.id())
    }
}

fn name(text: &str) -> WorkspaceName {
    text.parse().unwrap()
}

#[tokio::test]
async fn what_was_unshared_under_a_new_name_stays_unshared() {
    let owner = Owner::new();
    let share = owner.share("lab", Access::Public);
    owner.share("other", Access::Public);
    let mut changes = owner.sharing.shares.changes();
    let manifest = share.root_path().join("workspace.yaml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("name: lab", "name: laboratory")).unwrap();
    while share.manifest().name != name("laboratory") {
        changes.changed().await.unwrap();
    }
    drop(share);

    owner.sharing.unshare(&name("laboratory")).unwrap();
    assert_eq!(owner.names(), ["other"]);
    assert_eq!(owner.restarted().names(), ["other"]);
}

#[tokio::test]
async fn a_workspace_whose_folder_is_gone_can_be_unshared() {
    let owner = Owner::new();
    owner.share("lab", Access::Public);
    fs::remove_dir_all(owner.folder.path().join("lab")).unwrap();
    let owner = owner.restarted();
    assert!(owner.names().is_empty());

    owner.sharing.unshare(&name("lab")).unwrap();
    let unknown = owner.sharing.unshare(&name("lab"));
    assert!(matches!(unknown, Err(SharingError::Publish(PublishError::Unknown(_)))), "{unknown:?}");
    fs::create_dir(owner.folder.path().join("lab")).unwrap();
    assert!(owner.restarted().names().is_empty());
}

#[tokio::test]
async fn decisions_come_before_the_access_rule() {
    let owner = Owner::new();
    for (access, undecided) in [(Access::Public, true), (Access::Ask, false), (Access::Peers, false)] {
        let share = owner.share(&format!("{access:?}"), access);
        let may_read = |reader| owner.sharing.rights(&share, reader).has(Right::Read);
        assert_eq!((may_read(Some(GUEST)), may_read(None)), (undecided, undecided), "{access:?}");
        owner.decide(&share, GUEST, Decision::Allow);
        assert_eq!((may_read(Some(GUEST)), may_read(None)), (true, undecided), "{access:?}");
        owner.decide(&share, GUEST, Decision::Deny);
        assert_eq!((may_read(Some(GUEST)), may_read(None)), (false, undecided), "{access:?}");
    }
    let owner = owner.restarted();
    assert_eq!(owner.sharing.list().len(), 3);
    assert!(
        owner.sharing.list().iter().all(|share| !owner.sharing.rights(share, Some(GUEST)).has(Right::Read))
    );
}

#[tokio::test]
async fn the_catalogue_tells_nothing_of_what_may_not_be_read() {
    let owner = Owner::new();
    let [public, ask, peers] = [Access::Public, Access::Ask, Access::Peers].map(|access| {
        let folder = owner.folder.path().join(format!("{access:?}"));
        fs::create_dir(&folder).unwrap();
        let manifest = "name: x\ndescription: secret\ntags: [secret]\nenvironments: [{name: secret}]\n";
        fs::write(folder.join("workspace.yaml"), manifest).unwrap();
        owner.share(&format!("{access:?}"), access)
    });
    let readable = |info: Option<WorkspaceInfo>| {
        let info = info.unwrap();
        info.is_open() && info.head.head.files > 0 && info.description == "secret" && info.tags == ["secret"]
    };
    let is_blank = |info: Option<WorkspaceInfo>| {
        let WorkspaceInfo { id, name: _, description, tags, path, head, environments, access: _, rights } =
            info.unwrap();
        let blank = Head {
            workspace: id,
            root: Digest::from_bytes([0; 32]),
            provisional: false,
            sequence: 0,
            created: 0,
            mode: 0,
            modified: (0, 0),
            files: 0,
            bytes: 0,
        };
        head.verify(owner.sharing.own.identity.id()).unwrap();
        assert_eq!((head.head, path.as_bytes()), (blank, &b"/hidden"[..]));
        rights.is_empty() && description.is_empty() && tags.is_empty() && environments.is_empty()
    };

    assert!(readable(owner.seen(&public, None)) && readable(owner.seen(&public, Some(GUEST))));
    assert_eq!(owner.seen(&ask, None), None);
    assert!(is_blank(owner.seen(&ask, Some(GUEST))));
    assert_eq!(owner.seen(&peers, None), None);
    assert_eq!(owner.seen(&peers, Some(GUEST)), None);
    for share in [&public, &ask, &peers] {
        owner.decide(share, GUEST, Decision::Allow);
        assert!(readable(owner.seen(share, Some(GUEST))));
        owner.decide(share, GUEST, Decision::Deny);
    }
    assert!(is_blank(owner.seen(&public, Some(GUEST))));
    assert!(is_blank(owner.seen(&ask, Some(GUEST))));
    assert_eq!(owner.seen(&peers, Some(GUEST)), None);

    assert_eq!(names(&owner.sharing.list()), [name("Ask"), name("Public")]);
}

#[tokio::test]
async fn what_is_being_read_ends_with_the_permission_and_with_the_share() {
    let owner = Owner::new();
    let share = owner.share("lab", Access::Ask);
    let root = share.settled().await.unwrap().root;
    owner.decide(&share, GUEST, Decision::Allow);
    let opened = owner.sharing.workspace(&share.id(), Some(GUEST)).unwrap();
    assert!(opened.tree(&root).is_some());
    owner.decide(&share, GUEST, Decision::Deny);
    assert!(opened.tree(&root).is_none());
    assert!(matches!(opened.pending(&[], 0, 0, 1), Err(ServeError::Denied)));
    owner.decide(&share, GUEST, Decision::Allow);
    assert!(opened.tree(&root).is_some());
    owner.sharing.unshare(&name("lab")).unwrap();
    assert!(opened.tree(&root).is_none());
}

#[tokio::test]
async fn what_was_sent_before_is_sent_again_only_while_its_file_is_as_it_was() {
    let owner = Owner::new();
    let share = owner.share("lab", Access::Ask);
    share.settled().await.unwrap();
    owner.decide(&share, GUEST, Decision::Allow);
    let opened = owner.sharing.workspace(&share.id(), Some(GUEST)).unwrap();
    let secret = Blob { digest: Digest::of(b"secret"), size: 6 };
    opened.check(&secret).unwrap();
    assert!(matches!(opened.check(&Blob { size: 5, ..secret }), Err(ServeError::Unknown)));
    assert!(matches!(
        opened.check(&Blob { digest: Digest::of(b"other"), size: 5 }),
        Err(ServeError::Unknown)
    ));
    owner.decide(&share, GUEST, Decision::Deny);
    assert!(matches!(opened.check(&secret), Err(ServeError::Denied)));
    owner.decide(&share, GUEST, Decision::Allow);
    // Of the same length, and by its name still what it was.
    fs::write(share.root_path().join("secret.txt"), "Secret").unwrap();
    assert!(matches!(opened.check(&secret), Err(ServeError::Changed | ServeError::Unknown)));
}

#[tokio::test]
async fn each_right_opens_its_own_door() {
    let owner = Owner::new();
    let share = owner.share("lab", Access::Ask);
    let root = share.settled().await.unwrap().root;
    let secret = Digest::of(b"secret");
    let mut profile = Profile::default();
    profile
        .merge([Touched { path: vec![Name::new(&b"secret.txt"[..]).unwrap()], groups: Groups::from(0..1) }]);
    owner.sharing.profiles.merge(&share.id(), &PathKey::of(&[]), profile);
    for (rights, listed, read, run, write) in [
        ("none", false, false, false, false),
        ("browse", true, false, false, false),
        ("read", true, true, false, false),
        ("clone", true, true, false, false),
        ("run", true, true, true, false),
        ("write", true, true, false, true),
    ] {
        let rights: Rights = rights.parse().unwrap();
        let grant = twinshare::access::Grant { rights, expires: None };
        owner.sharing.consent().grant(&subject(&share), Whom::Peer(GUEST), grant).unwrap();
        let seen = owner.seen(&share, Some(GUEST)).unwrap();
        assert_eq!((seen.rights, seen.is_open()), (rights, listed));
        assert_eq!(owner.sharing.catalogue(Some(GUEST)).grants.len(), usize::from(read), "{rights}");
        let opened = match owner.sharing.workspace(&share.id(), Some(GUEST)) {
            Ok(opened) => opened,
            Err(refusal) => {
                assert_eq!((refusal, rights), (Refusal::Denied, Rights::NONE));
                continue;
            }
        };
        assert_eq!(opened.tree(&root).is_some(), listed, "{rights}");
        assert_eq!(opened.blob(&secret).is_ok(), read, "{rights}");
        if !read {
            assert!(matches!(opened.blob(&secret), Err(ServeError::Denied)));
        }
        assert_eq!(opened.profile(&PathKey::of(&[])) != Profile::default(), run, "{rights}");
        assert_eq!(opened.may_write(), write, "{rights}");
        assert_eq!(opened.take(Edit::default()).is_ok(), write, "{rights}");
    }
}

#[tokio::test]
async fn grants_are_for_whom_the_owner_lets_read() {
    let owner = Owner::new();
    let (open, closed) = (owner.share("open", Access::Public), owner.share("closed", Access::Ask));
    let granted = |reader| {
        let grants = owner.sharing.catalogue(reader).grants;
        grants.iter().map(|grant| grant.capability.workspace).collect::<Vec<_>>()
    };
    assert_eq!(granted(None), [], "nobody in particular has nothing to show");
    assert_eq!(granted(Some(GUEST)), [open.id()]);
    owner.decide(&closed, GUEST, Decision::Allow);
    let grants = owner.sharing.catalogue(Some(GUEST)).grants;
    let [_, Grant { capability, .. }] = &grants[..] else { panic!("{grants:?}") };
    capability.verify().unwrap();
    assert_eq!((capability.owner, capability.reader), (owner.sharing.own.identity.id(), GUEST));
    assert_eq!(capability.expires - capability.issued, VALID);

    // Who reads is told to the others, as long as it may.
    let other = NodeId::from_bytes([8; 32]);
    let served = owner.sharing.workspace(&open.id(), Some(other)).unwrap();
    let piece = PieceRequest::Slice { slice: Digest::from_bytes([1; 32]), size: 1 << 20, groups: [0, 16] };
    assert_eq!(served.co_readers(std::slice::from_ref(&piece)), []);
    let holders = || owner.sharing.catalogue(Some(GUEST)).grants.into_iter().flat_map(|grant| grant.holders);
    assert_eq!(holders().collect::<Vec<_>>(), [other]);
    let mine = owner.sharing.workspace(&open.id(), Some(GUEST)).unwrap();
    assert_eq!(mine.co_readers(std::slice::from_ref(&piece)), [other]);
    // Who has a capability is told when it's void, also if it never read anything from here.
    assert!(granted(Some(other)).contains(&open.id()));
    let silent = NodeId::from_bytes([6; 32]);
    assert_eq!(granted(Some(silent)), [open.id()]);
    owner.decide(&open, silent, Decision::Deny);
    owner.decide(&open, other, Decision::Deny);
    assert_eq!(mine.co_readers(&[piece]), []);
    assert_eq!(holders().count(), 0);
    let grants = owner.sharing.catalogue(Some(GUEST)).grants;
    let mut revoked =
        grants.iter().find(|grant| grant.capability.workspace == open.id()).unwrap().revoked.clone();
    revoked.sort();
    assert_eq!(revoked, [silent, other], "their capabilities are void now");

    owner.decide(&closed, GUEST, Decision::Deny);
    assert_eq!(granted(Some(GUEST)), [open.id()], "taken back");
}
