mod kept;
mod living;
mod take;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    access::Access,
    blob::{Blob, ChunkList, GROUP, Outline, VerifiedSlice},
    tree::{Content, Entry, Kind, Page, decode},
    types::{Digest, Name},
};

/// Longer than anything takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A workspace and a place for a node's state.
struct Lab {
    root: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let folder = || tempfile::Builder::new().prefix("lab").tempdir().unwrap();
        Self { root: folder(), state: folder() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn open(&self, options: SharesOptions) -> Arc<Shares> {
        Shares::open(self.state.path(), options).unwrap()
    }

    fn share(&self, options: SharesOptions) -> (Arc<Shares>, Arc<Share>) {
        let shares = self.open(options);
        let share = shares.add(self.root.path(), ShareOptions::default()).unwrap();
        (shares, share)
    }

    /// What a node that knows nothing would publish.
    fn fresh(&self, options: SharesOptions) -> BTreeMap<Vec<u8>, Entry> {
        let state = tempfile::tempdir().unwrap();
        let shares = Shares::open(state.path(), options).unwrap();
        let share = shares.add(self.root.path(), ShareOptions::default()).unwrap();
        let head = settle(&share);
        entries(&share, head.root)
    }

    /// Waits until the share's head is what a node that knows nothing would publish now.
    fn converge(&self, share: &Share, options: SharesOptions) -> Head {
        let fresh = self.fresh(options);
        let mut heads = share.heads.subscribe();
        let same = heads.wait_for(|published| entries(share, published.head.root) == fresh);
        let waited =
            async { tokio::time::timeout(DEADLINE, same).await.map(|published| published.unwrap().head) };
        block_on(waited).unwrap_or_else(|_| {
            let now = entries(share, share.head().root);
            let differ = |a: &BTreeMap<Vec<u8>, Entry>, b: &BTreeMap<Vec<u8>, Entry>| {
                let text = |(path, entry): (&Vec<u8>, &Entry)| {
                    format!("{} {entry:?}", String::from_utf8_lossy(path))
                };
                a.iter().filter(|(path, entry)| b.get(*path) != Some(*entry)).map(text).collect::<Vec<_>>()
            };
            panic!("published: {:#?}\nexpected: {:#?}", differ(&now, &fresh), differ(&fresh, &now))
        })
    }
}

/// Changes are heard of through the watch alone, and all times are trusted.
fn live() -> SharesOptions {
    SharesOptions { rescan: Duration::from_secs(3600), racy: Duration::ZERO, ..SharesOptions::default() }
}

/// Changes aren't heard of at all.
fn quiet() -> SharesOptions {
    SharesOptions { watches: 0, ..live() }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(2 * DEADLINE, future).await.expect("in time") })
}

fn settle(share: &Share) -> Head {
    block_on(share.settled()).unwrap()
}

/// Waits for a head with which `condition` holds.
fn wait(share: &Share, mut condition: impl FnMut(Head) -> bool) -> Head {
    let mut heads = share.heads.subscribe();
    block_on(async { heads.wait_for(|published| condition(published.head)).await.unwrap().head })
}

/// Waits for a condition that no event announces.
fn poll(mut condition: impl FnMut() -> bool) {
    block_on(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

/// All entries of a head, by path.
fn entries(share: &Share, root: Digest) -> BTreeMap<Vec<u8>, Entry> {
    fn walk(share: &Share, digest: Digest, prefix: &[u8], all: &mut BTreeMap<Vec<u8>, Entry>) {
        let page = decode(&share.tree(&digest).expect("the object of a current head")).unwrap();
        match page {
            Page::Index(pages) => pages.iter().for_each(|page| walk(share, page.digest, prefix, all)),
            Page::Leaf(entries) => {
                for entry in entries {
                    let path = [prefix, entry.name.as_bytes()].concat();
                    if let Kind::Folder { tree, .. } = entry.kind {
                        walk(share, tree, &[&path[..], b"/"].concat(), all);
                    }
                    all.insert(path, entry);
                }
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(share, root, b"", &mut all);
    all
}

fn paths(share: &Share, root: Digest) -> Vec<String> {
    entries(share, root).into_keys().map(|path| String::from_utf8_lossy(&path).into_owned()).collect()
}

fn digest(entry: &Entry) -> Option<Digest> {
    match &entry.kind {
        Kind::File { content: Content::Blob(digest), .. } => Some(*digest),
        Kind::File { content: Content::Sparse { blob, .. }, .. } => Some(*blob),
        _ => None,
    }
}

fn names(path: &str) -> Vec<Name> {
    path.split('/').map(|name| Name::new(name.as_bytes()).unwrap()).collect()
}

fn hashes(shares: &Shares) -> u64 {
    shares.engine().hashes.load(Ordering::Relaxed)
}

fn read(share: &Share, bytes: &[u8]) -> Result<Vec<u8>, ServeError> {
    Ok(share.blob(&Digest::of(bytes))?.read_whole()?.bytes().to_vec())
}

#[test]
fn equal_folders_give_equal_heads_and_sharing_again_hashes_nothing() {
    let lab = Lab::new();
    lab.write("a/b/c.txt", "hello");
    lab.write("a/empty", "");
    lab.write("x", "hello");
    symlink("../d/f", lab.path("a/link")).unwrap();
    let (shares, share) = lab.share(quiet());
    let head = settle(&share);
    assert_eq!(
        head.totals,
        crate::tree::Totals { files: 5, bytes: 10 + fs::metadata(lab.path("workspace.yaml")).unwrap().len() }
    );
    assert_eq!(
        paths(&share, head.root),
        ["a", "a/b", "a/b/c.txt", "a/empty", "a/link", "workspace.yaml", "x"]
    );
    assert_eq!(hashes(&shares), 4);
    assert_eq!(read(&share, b"hello").unwrap(), b"hello");
    assert_eq!(read(&share, b"").unwrap(), b"");
    assert!(matches!(read(&share, b"other"), Err(ServeError::Unknown)));
    assert_eq!(lab.fresh(quiet()), entries(&share, head.root));
    drop((shares, share));

    let (shares, share) = lab.share(quiet());
    let again = share.head();
    assert!(!again.provisional, "everything was known");
    assert_eq!((again.root, hashes(&shares)), (head.root, 0));
    assert!(again.sequence > head.sequence);
    let progress = share.progress();
    assert_eq!((progress.files, progress.hashed_files), (5, 5));
    assert_eq!(progress.bytes, progress.hashed_bytes);
}

#[test]
fn case_13_an_edit_of_the_same_length_with_the_old_time_is_seen() {
    let lab = Lab::new();
    lab.write("f", "old");
    let modified = fs::metadata(lab.path("f")).unwrap().modified().unwrap();
    let (shares, share) = lab.share(live());
    let before = settle(&share);
    fs::write(lab.path("f"), "new").unwrap();
    fs::File::open(lab.path("f")).unwrap().set_modified(modified).unwrap();
    let seen = |head: Head| digest(&entries(&share, head.root)[&b"f"[..]]) == Some(Digest::of(b"new"));
    let after = wait(&share, seen);
    assert!(after.sequence > before.sequence);
    let token = |head: Head| entries(&share, head.root)[&b"f"[..]].attributes.token;
    assert_ne!(token(before), token(after), "the old tree is still there, and the version is another one");
    assert!(matches!(read(&share, b"old"), Err(ServeError::Unknown)));

    // And when nobody listened.
    drop((shares, share));
    fs::write(lab.path("f"), "last").unwrap();
    fs::File::open(lab.path("f")).unwrap().set_modified(modified).unwrap();
    let (_shares, share) = lab.share(quiet());
    let head = settle(&share);
    assert_eq!(digest(&entries(&share, head.root)[&b"f"[..]]), Some(Digest::of(b"last")));
}

#[test]
fn young_files_are_hashed_again_before_they_are_trusted() {
    let lab = Lab::new();
    lab.write("f", "young");
    let racy = SharesOptions { racy: Duration::from_secs(3600), ..quiet() };
    let (shares, share) = lab.share(racy.clone());
    settle(&share);
    assert_eq!(hashes(&shares), 2);
    drop((shares, share));
    let (shares, share) = lab.share(SharesOptions { racy: Duration::from_millis(200), ..racy });
    let head = settle(&share);
    assert!(hashes(&shares) >= 2, "nothing was remembered");
    // When they aren't young any more they are remembered, and the head stays as it was.
    poll(|| shares.engine().cache.known().unwrap().len() == 2);
    assert_eq!(share.head(), head);
    drop((shares, share));
    let (shares, share) = lab.share(quiet());
    assert!(!share.head().provisional);
    assert_eq!(hashes(&shares), 0);
}

#[test]
fn files_with_tokens_in_them_are_left_out_until_they_are_named() {
    let lab = Lab::new();
    let token = format!("key = 'ghp_{}'\n", "0123456789".repeat(4));
    for path in ["train.py", "meant.py", "site-packages/their.py"] {
        lab.write(path, &token);
    }
    lab.write("clean.py", "key = os.environ['KEY']\n");
    lab.write(".git/config", "[remote \"origin\"]\n\turl = https://ann:hunter2@example.org/x.git\n");
    lab.write(".twinshareignore", "!/meant.py\n");
    let (_shares, share) = lab.share(live());
    let head = settle(&share);
    let shown = |head: Head| paths(&share, head.root);
    let expected = [
        ".git",
        ".twinshareignore",
        "clean.py",
        "meant.py",
        "site-packages",
        "site-packages/their.py",
        "workspace.yaml",
    ];
    assert_eq!(shown(head), expected);
    let secret = |path: &str| (path.to_owned(), Reason::Secret);
    assert_eq!(share.left_out().first, [secret(".git/config"), secret("train.py")]);
    // What gets a token later goes, and what loses it comes back; neither is served meanwhile.
    lab.write("clean.py", &token);
    let head = wait(&share, |now| now.root != head.root && !now.provisional);
    assert!(!shown(head).contains(&"clean.py".to_owned()));
    assert!(
        share.blob(&Digest::of(token.as_bytes())).is_ok(),
        "another file with the same content is shared"
    );
    lab.write("clean.py", "key = None\n");
    let head = wait(&share, |now| now.root != head.root && !now.provisional);
    assert!(shown(head).contains(&"clean.py".to_owned()));
}

#[test]
fn known_files_are_looked_into_when_the_rules_or_their_places_change() {
    let lab = Lab::new();
    let token = format!("key = 'ghp_{}'\n", "0123456789".repeat(4));
    lab.write("a.py", &token);
    lab.write("vendor/b.py", format!("# theirs\n{token}"));
    lab.write(".twinshareignore", "!a.py\n");
    let shown = |share: &Share, path: &str| paths(share, share.head().root).contains(&path.to_owned());
    let (shares, share) = lab.share(live());
    settle(&share);
    assert!(shown(&share, "a.py") && shown(&share, "vendor/b.py"));
    lab.write(".twinshareignore", "");
    wait(&share, |head| !head.provisional && !shown(&share, "a.py"));
    fs::rename(lab.path("vendor"), lab.path("lib")).unwrap();
    wait(&share, |head| !head.provisional && !shown(&share, "vendor"));
    assert!(!shown(&share, "lib/b.py"));
    // Their digests are in the cache now, from when they were shared; that says nothing of the rules of another day.
    lab.write(".twinshareignore", "!*.py\n");
    lab.write("seen", "");
    wait(&share, |head| !head.provisional && shown(&share, "seen"));
    assert!(!shown(&share, "a.py"), "a pattern that names nothing in particular exempts nothing");
    lab.write(".twinshareignore", "!a.py\n!b.py\n");
    wait(&share, |head| !head.provisional && shown(&share, "lib/b.py"));
    drop((share, shares));
    lab.write(".twinshareignore", "");
    let (_shares, share) = lab.share(live());
    settle(&share);
    assert!(!shown(&share, "a.py") && !shown(&share, "lib/b.py"));
}

#[test]
fn case_u6_what_is_not_shared_is_told_with_its_reason() {
    let lab = Lab::new();
    for path in
        [".env", "k/id_rsa", "d/x.log", "d/keep.log", "build/out", "node/key", ".gitignore", "sub/.env"]
    {
        lab.write(path, "data");
    }
    lab.write("site/cacert.pem", "-----BEGIN CERTIFICATE-----\n");
    lab.write("site/server.pem", "-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n");
    lab.write(".twinshareignore", "*.log\n/build/\n");
    lab.write("d/.twinshareignore", "!keep.log\n");
    lab.write("sub/.twinshareignore", "!.env\n");
    rustix::fs::mkfifoat(rustix::fs::CWD, lab.path("fifo"), rustix::fs::Mode::RUSR).unwrap();
    let options = SharesOptions { own: vec![lab.path("node")], ..live() };
    let (shares, share) = lab.share(options.clone());
    let head = settle(&share);
    let expected = [
        ".gitignore",
        ".twinshareignore",
        "d",
        "d/.twinshareignore",
        "d/keep.log",
        "k",
        "site",
        "site/cacert.pem",
        "sub",
        "sub/.env",
        "sub/.twinshareignore",
        "workspace.yaml",
    ];
    assert_eq!(paths(&share, head.root), expected);
    let LeftOut { counts, first } = share.left_out();
    let secret = |path: &str| (path.to_owned(), Reason::Secret);
    let ignored = |path: &str| (path.to_owned(), Reason::Ignored);
    let all = [
        secret(".env"),
        ignored("build"),
        ignored("d/x.log"),
        ("fifo".into(), Reason::Special),
        secret("k/id_rsa"),
        ("node".into(), Reason::Own),
        secret("site/server.pem"),
    ];
    assert_eq!(first, all);
    assert_eq!(
        counts,
        [(Reason::Secret, 3), (Reason::Ignored, 2), (Reason::Own, 1), (Reason::Special, 1)].into()
    );
    assert!(matches!(shares.add(&lab.path("node"), ShareOptions::default()), Err(PublishError::Own(_))));

    // A change of the rules holds for what was there before.
    lab.write(".twinshareignore", "keep*\n!.env\n");
    lab.write("d/.twinshareignore", "");
    let changed = wait(&share, |head| {
        let paths = paths(&share, head.root);
        !head.provisional && !paths.contains(&"d/keep.log".into()) && paths.contains(&"d/x.log".into())
    });
    assert!(paths(&share, changed.root).contains(&".env".into()));
    assert!(paths(&share, changed.root).contains(&"build/out".into()));
    lab.converge(&share, SharesOptions { watches: 0, ..options });
}

#[test]
fn a_folder_whose_ignore_file_cannot_be_read_is_not_shared() {
    let lab = Lab::new();
    lab.write("d/f", "");
    symlink("f", lab.path("d/.twinshareignore")).unwrap();
    let (_shares, share) = lab.share(quiet());
    let head = settle(&share);
    assert_eq!(paths(&share, head.root), ["workspace.yaml"]);
    assert_eq!(share.left_out().first, [("d".to_owned(), Reason::Unreadable)]);
}

#[test]
fn what_the_sharer_cannot_read_is_left_out_and_holds_nothing_up() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root can read everything");
        return;
    }
    let lab = Lab::new();
    lab.write("f", "closed");
    lab.write("d/f", "closed too");
    for path in ["f", "d"] {
        fs::set_permissions(lab.path(path), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let (_shares, share) = lab.share(live());
    let head = settle(&share);
    assert_eq!(paths(&share, head.root), ["workspace.yaml"]);
    assert_eq!(share.left_out().counts, [(Reason::Unreadable, 2)].into());
    for path in ["f", "d"] {
        fs::set_permissions(lab.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
    lab.converge(&share, quiet());
    assert_eq!(share.left_out(), LeftOut::default());
}

#[test]
fn case_08_names_are_bytes() {
    let lab = Lab::new();
    let all: [&[u8]; 4] = [b"caf\xc3\xa9", b"cafe\xcc\x81", b"caf\xe9", &[b'n'; 255]];
    for name in all {
        fs::write(lab.root.path().join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    let (_shares, share) = lab.share(quiet());
    let head = settle(&share);
    let found = entries(&share, head.root);
    for name in all {
        assert_eq!(digest(&found[name]), Some(Digest::of(name)));
        assert_eq!(read(&share, name).unwrap(), name);
        let blob = Blob { digest: Digest::of(name), size: name.len() as u64 };
        assert_eq!(share.content(&[Name::new(name).unwrap()]), Some(blob));
    }
    assert_eq!(share.content(&names("none")), None);
    assert_eq!(found.len(), 5);
}

#[test]
fn case_04_hard_links_keep_their_group() {
    let lab = Lab::new();
    let outside = tempfile::Builder::new().tempdir_in(lab.root.path().parent().unwrap()).unwrap();
    lab.write("d/b", "same");
    fs::hard_link(lab.path("d/b"), lab.path("a")).unwrap();
    lab.write("alone", "cached");
    fs::hard_link(lab.path("alone"), outside.path().join("cache")).unwrap();
    let (_shares, share) = lab.share(live());
    let head = settle(&share);
    let found = entries(&share, head.root);
    let link = |found: &BTreeMap<Vec<u8>, Entry>, path: &str| found[path.as_bytes()].attributes.link;
    let group = link(&found, "a").unwrap();
    assert_eq!(group.count, 2);
    assert_eq!(link(&found, "d/b"), Some(group));
    assert_eq!(found[&b"a"[..]].attributes.token, found[&b"d/b"[..]].attributes.token);
    assert_eq!(link(&found, "alone"), None, "the other name isn't in the workspace");

    fs::create_dir(lab.path("e")).unwrap();
    fs::hard_link(lab.path("a"), lab.path("e/c")).unwrap();
    let count = |head: Head, path: &str| {
        let found = entries(&share, head.root);
        found.get(path.as_bytes()).and_then(|entry| entry.attributes.link).map(|link| link.count)
    };
    let all = ["a", "d/b", "e/c"];
    wait(&share, |head| !head.provisional && all.iter().all(|path| count(head, path) == Some(3)));
    fs::remove_file(lab.path("e/c")).unwrap();
    fs::remove_file(lab.path("d/b")).unwrap();
    let last = lab.converge(&share, quiet());
    assert_eq!(count(last, "a"), None);
}

#[test]
fn holes_cost_nothing() {
    let lab = Lab::new();
    let file = fs::File::create(lab.path("disk")).unwrap();
    file.set_len(10 << 30).unwrap();
    let data: Vec<u8> = (0..500_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    file.write_all_at(&data, 4 << 30).unwrap();
    file.sync_all().unwrap();
    fs::File::create(lab.path("hole")).unwrap().set_len(1 << 40).unwrap();
    let (shares, share) = lab.share(quiet());
    let head = settle(&share);
    let found = entries(&share, head.root);
    assert_eq!(digest(&found[&b"hole"[..]]), Some(Digest::of(b"")));
    let Kind::File { size, content: Content::Sparse { blob, extents } } = &found[&b"disk"[..]].kind else {
        panic!("not sparse: {found:?}")
    };
    assert_eq!(*size, 10 << 30);
    let length: u64 = extents.iter().map(|extent| extent.length).sum();
    let start = ((4 << 30) - extents[0].offset) as usize;
    let blob = Blob { digest: *blob, size: length };
    let local = share.blob(&blob.digest).unwrap();
    assert_eq!(local.size(), length);
    let encoded = local.slice(0..blob.groups()).unwrap();
    let leaves = VerifiedSlice::verify(blob, 0..blob.groups(), &encoded).unwrap().leaves().concat();
    assert_eq!(leaves[start..][..data.len()], data);
    assert_eq!(share.blob(&Digest::of(b"")).unwrap().read_whole().unwrap().bytes().len(), 0);
    drop((local, shares, share));
    let (shares, share) = lab.share(quiet());
    assert_eq!((share.head().root, hashes(&shares)), (head.root, 0), "extents are remembered too");
}

#[test]
fn a_folder_replaced_by_a_link_leads_nowhere() {
    let lab = Lab::new();
    let outside = tempfile::Builder::new().tempdir_in(lab.root.path().parent().unwrap()).unwrap();
    lab.write("d/f", "inside");
    // The same inode, so that nothing but the way to it tells that it is outside.
    fs::hard_link(lab.path("d/f"), outside.path().join("f")).unwrap();
    let (shares, share) = lab.share(quiet());
    let head = settle(&share);
    let token = entries(&share, head.root)[&b"d/f"[..]].attributes.token;
    assert_eq!(share.pending(&names("d/f"), token, 2, 100).unwrap(), b"side");
    assert_eq!(read(&share, b"inside").unwrap(), b"inside");
    fs::rename(lab.path("d"), outside.path().join("moved")).unwrap();
    symlink(outside.path(), lab.path("d")).unwrap();
    assert!(matches!(
        share.pending(&names("d/f"), token, 0, 6),
        Err(ServeError::Changed | ServeError::Unknown)
    ));
    assert!(matches!(read(&share, b"inside"), Err(ServeError::Changed | ServeError::Unknown)));
    // Serving has noticed it, without a watch.
    let head = wait(&share, |head| !head.provisional && !paths(&share, head.root).contains(&"d/f".into()));
    assert!(matches!(entries(&share, head.root)[&b"d"[..]].kind, Kind::Link(_)));
    drop(shares);
}

#[test]
fn a_provisional_head_comes_first_and_its_files_can_be_read() {
    let lab = Lab::new();
    lab.write("d/f", "not hashed yet");
    lab.write("g", "grows");
    let shares = lab.open(live());
    let held = shares.engine().hold.write().unwrap();
    let share = shares.add(lab.root.path(), ShareOptions::default()).unwrap();
    let first = share.head();
    assert!(first.provisional);
    let found = entries(&share, first.root);
    let entry = &found[&b"d/f"[..]];
    assert!(matches!(entry.kind, Kind::File { size: 14, content: Content::Pending }));
    let token = entry.attributes.token;
    assert_eq!(share.pending(&names("d/f"), token, 4, 6).unwrap(), b"hashed");
    assert_eq!(share.pending(&names("d/f"), token, 11, u32::MAX).unwrap(), b"yet");
    assert_eq!(share.pending(&names("d/f"), token, 99, 5).unwrap(), b"");
    assert!(matches!(share.pending(&names("d/f"), token ^ 1, 0, 1), Err(ServeError::Changed)));
    assert!(matches!(share.pending(&names("d"), 0, 0, 1), Err(ServeError::Unknown)));
    assert!(matches!(share.pending(&names("d/f/x"), token, 0, 1), Err(ServeError::Unknown)));
    assert!(matches!(share.pending(&[], token, 0, 1), Err(ServeError::Unknown)));
    let progress = share.progress();
    assert_eq!((progress.files, progress.hashed_files), (3, 0));

    // An edit is published although hashing stands still.
    lab.write("g", "grown larger");
    let second = wait(&share, |head| {
        matches!(entries(&share, head.root)[&b"g"[..]].kind, Kind::File { size: 12, .. })
    });
    assert!(second.provisional && second.sequence > first.sequence);
    drop(held);
    let head = settle(&share);
    assert!(head.sequence > second.sequence);
    assert_eq!(digest(&entries(&share, head.root)[&b"d/f"[..]]), Some(Digest::of(b"not hashed yet")));
    assert_eq!(read(&share, b"grown larger").unwrap(), b"grown larger");
    assert_eq!(share.pending(&names("d/f"), token, 0, 3).unwrap(), b"not", "what guests still hold goes on");
}

#[test]
fn case_14_what_changed_is_never_served_under_its_digest() {
    let lab = Lab::new();
    lab.write("f", "first");
    lab.write("copy/of/f", "first");
    let (_shares, share) = lab.share(quiet());
    let before = settle(&share);
    let held = share.blob(&Digest::of(b"first")).unwrap();
    for path in ["f", "copy/of/f"] {
        fs::File::options().write(true).open(lab.path(path)).unwrap().write_all_at(b"other", 0).unwrap();
        if path == "f" {
            assert_eq!(read(&share, b"first").unwrap(), b"first", "another file still has it");
        }
    }
    assert!(matches!(held.read_whole(), Err(ServeError::Changed)));
    assert!(matches!(read(&share, b"first"), Err(ServeError::Changed | ServeError::Unknown)));
    let both = |head: Head| {
        let found = entries(&share, head.root);
        ["f", "copy/of/f"].iter().all(|path| digest(&found[path.as_bytes()]) == Some(Digest::of(b"other")))
    };
    let after = wait(&share, both);
    assert!(after.sequence > before.sequence);
    assert_eq!(read(&share, b"other").unwrap(), b"other");
}

#[test]
fn slices_come_from_the_file_in_place() {
    let lab = Lab::new();
    let bytes: Vec<u8> = (0..9_000_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    lab.write("large", &bytes);
    let (shares, share) = lab.share(quiet());
    settle(&share);
    let blob = Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 };
    let local = share.blob(&blob.digest).unwrap();
    let slice = |groups: std::ops::Range<u64>| {
        let encoded = local.slice(groups.clone())?;
        let leaves = VerifiedSlice::verify(blob, groups.clone(), &encoded).unwrap().leaves().concat();
        let end = (groups.end * GROUP).min(blob.size) as usize;
        assert_eq!(leaves, bytes[(groups.start * GROUP) as usize..end]);
        Ok::<_, ServeError>(())
    };
    slice(3..7).unwrap();
    slice(blob.groups() - 1..blob.groups()).unwrap();
    for groups in [0..0, 0..blob.groups() + 1, u64::MAX - 1..u64::MAX] {
        assert!(matches!(local.slice(groups), Err(ServeError::Unknown)));
    }
    assert!(matches!(local.read_whole(), Err(ServeError::Unknown)));
    for window in 0..2 {
        let outline = Outline::verify(blob, window, &local.outline(window).unwrap()).unwrap();
        let chunks = ChunkList::of_window(&bytes, 0..blob.size, window).unwrap();
        assert_eq!(outline.chunks(), chunks.chunks());
    }
    assert!(matches!(local.outline(2), Err(ServeError::Unknown)));
    let hashed = hashes(&shares);

    // A damaged outboard is made anew, a missing one too.
    let outboard = {
        let name = blob.digest.to_string();
        lab.state.path().join("outboards").join(&name[..2]).join(name)
    };
    let good = fs::read(&outboard).unwrap();
    fs::write(&outboard, vec![7; good.len()]).unwrap();
    assert!(matches!(slice(0..1), Err(ServeError::Changed)));
    poll(|| hashes(&shares) > hashed && share.blob(&blob.digest).is_ok());
    slice(0..1).unwrap();
    assert_eq!(fs::read(&outboard).unwrap(), good);
    fs::remove_file(&outboard).unwrap();
    slice(0..1).unwrap();
    assert_eq!(fs::read(&outboard).unwrap(), good);
    drop(shares);
}
