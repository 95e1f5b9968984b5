mod changes;
mod merge;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};

use super::*;
use crate::{
    blob::{ReadAt, SparseView},
    fetch::Surroundings,
    tree::{Attributes, Entry, HardLink, Owner, Totals, TreeSink, write_folder},
    types::{Timestamp, WorkspaceName},
};

/// Content in memory: what an owner and a store would give together.
#[derive(Default)]
struct Memory {
    trees: Mutex<HashMap<Digest, Bytes>>,
    blobs: Mutex<HashMap<Digest, Vec<u8>>>,
    pending: Mutex<HashMap<String, (u64, Vec<u8>)>>,
    knocks: Mutex<Vec<WorkspaceId>>,
    reads: Mutex<Vec<(u64, u32)>>,
    nearby: Mutex<Vec<Blob>>,
    /// Trees that come only when they are asked for a second time.
    slow: Mutex<HashSet<Digest>>,
    ahead: Mutex<Vec<Digest>>,
}

impl TreeSink for Memory {
    type Error = Infallible;

    fn put_tree(&self, digest: Digest, object: &[u8]) -> std::result::Result<(), Infallible> {
        self.trees.lock().unwrap().insert(digest, Bytes::copy_from_slice(object));
        Ok(())
    }
}

impl Source for Memory {
    fn tree<'a>(
        &'a self,
        _: &'a WorkspaceId,
        digest: &'a Digest,
    ) -> BoxFuture<'a, std::result::Result<Bytes, SourceError>> {
        let found = self.trees.lock().unwrap().get(digest).cloned().ok_or(SourceError::TimedOut);
        let slow = self.slow.lock().unwrap().remove(digest);
        async move {
            if slow {
                tokio::task::yield_now().await;
            }
            found
        }
        .boxed()
    }

    fn folders_ahead(&self, _: &WorkspaceId, folders: Vec<Digest>) {
        *self.ahead.lock().unwrap() = folders;
    }

    fn read<'a>(
        &'a self,
        _: &'a WorkspaceId,
        content: &'a FileContent,
        offset: u64,
        length: u32,
        around: &'a dyn Surroundings,
    ) -> BoxFuture<'a, std::result::Result<Bytes, SourceError>> {
        *self.nearby.lock().unwrap() = around.nearby();
        self.reads.lock().unwrap().push((offset, length));
        let bytes = match content {
            FileContent::Blob(blob) => self.blobs.lock().unwrap().get(&blob.digest).cloned(),
            FileContent::Pending { path, token } => {
                let path = path.iter().map(Name::to_string).collect::<Vec<_>>().join("/");
                let pending = self.pending.lock().unwrap();
                pending.get(&path).filter(|(known, _)| known == token).map(|(_, bytes)| bytes.clone())
            }
        };
        let range = offset as usize..offset as usize + length as usize;
        let result = bytes.map(|bytes| Bytes::copy_from_slice(&bytes[range])).ok_or(SourceError::Changed);
        std::future::ready(result).boxed()
    }

    fn held(&self, blob: &Blob) -> u64 {
        if self.blobs.lock().unwrap().contains_key(&blob.digest) { blob.size } else { 0 }
    }

    fn knock(&self, workspace: &WorkspaceId) {
        self.knocks.lock().unwrap().push(*workspace);
    }
}

fn entry(name: &str, token: u64, kind: Kind) -> Entry {
    let mode = if matches!(kind, Kind::Folder { .. }) { 0o755 } else { 0o4644 };
    let modified = Timestamp { seconds: token as i64, nanoseconds: 5 };
    Entry {
        name: Name::new(name.as_bytes()).unwrap(),
        attributes: Attributes { mode, owner: Owner::Sharer, modified, token, link: None },
        kind,
    }
}

impl Memory {
    fn file(&self, name: &str, token: u64, content: &str) -> Entry {
        let digest = Digest::of(content.as_bytes());
        self.blobs.lock().unwrap().insert(digest, content.into());
        entry(name, token, Kind::File { size: content.len() as u64, content: Content::Blob(digest) })
    }

    fn folder(&self, name: &str, entries: &[Entry]) -> Entry {
        let Ok(tree) = write_folder(entries, self);
        entry(name, 0, Kind::Folder { tree, totals: Totals::default() })
    }
}

struct Bench {
    memory: Arc<Memory>,
    view: View,
    invalidations: tokio::sync::mpsc::UnboundedReceiver<Invalidation>,
}

const ID: WorkspaceId = WorkspaceId::from_bytes([7; 16]);

impl Bench {
    fn new() -> Self {
        let memory = Arc::new(Memory::default());
        let deadline = Duration::from_secs(10);
        let options = ViewOptions { mount: "/m".into(), uid: 1000, gid: 100, deadline, layers: None };
        let (view, invalidations) = View::new(options, memory.clone());
        Self { memory, view, invalidations }
    }

    /// Shows a workspace with these entries and gives what the kernel was told to forget.
    fn show(&mut self, entries: &[Entry]) -> Vec<String> {
        let Ok(root) = write_folder(entries, &*self.memory);
        self.show_root(Some(root))
    }

    fn show_root(&mut self, root: Option<Digest>) -> Vec<String> {
        let mounted = Mounted {
            id: ID,
            host: "ann".parse().unwrap(),
            root,
            totals: Totals { files: 3, bytes: 10 },
            mode: 0o750,
            modified: Timestamp { seconds: 42, nanoseconds: 7 },
            original: b"/home/ann/lab".to_vec(),
            fixed: false,
            rights: crate::access::Rights::USUAL,
        };
        let places = BTreeMap::from([
            ("lab".parse::<WorkspaceName>().unwrap(), Place::Remote(mounted)),
            ("mine".parse().unwrap(), Place::Local("/home/me/mine".into())),
        ]);
        let host = HostListing { state: HostState::Online, places };
        let listing = Listing { hosts: BTreeMap::from([("ann".parse().unwrap(), host)]) };
        let (not_taken, told) = self.update(listing);
        assert!(not_taken.is_empty(), "{not_taken:?}");
        told
    }

    /// Takes a listing over; gives what couldn't be taken and what the kernel was told.
    fn update(&mut self, listing: Listing) -> (Vec<NotTaken>, Vec<String>) {
        let not_taken = now(self.view.update(listing));
        let mut told = Vec::new();
        while let Ok(Invalidation { what, .. }) = self.invalidations.try_recv() {
            match what {
                Notice::Entry { name, .. } => told.push(name.to_string()),
                Notice::Content(ino) => told.push(format!("#{}", ino.0)),
                Notice::Told(workspace, root) => self.view.told(workspace, root),
            }
        }
        (not_taken, told)
    }

    fn walk(&self, path: &str) -> Result<Attr> {
        let mut attr = self.view.getattr(Ino::ROOT)?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            attr = now(self.view.lookup(attr.ino, name.as_bytes()))?;
        }
        Ok(attr)
    }

    fn cat(&self, ino: Ino) -> Result<String> {
        now(self.view.read(ino, 0, 1 << 20, Reading::ToSee))
            .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    fn names(&self, ino: Ino) -> Vec<String> {
        let mut names = Vec::new();
        now(self.view.readdir(ino, Cookie::START, false, |_, name, _| {
            names.push(String::from_utf8(name.to_vec()).unwrap());
            false
        }))
        .unwrap();
        names.sort();
        names
    }
}

/// Everything is local here, so every future is ready at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    // Deadlines need a clock, although none of them is waited for.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    future.now_or_never().expect("a local answer must not wait")
}

#[test]
fn the_upper_levels_are_hosts_and_workspaces() {
    let mut bench = Bench::new();
    bench.show(&[]);
    assert_eq!(bench.names(Ino::ROOT), [".", "..", "ann"]);
    assert_eq!(bench.names(bench.walk("ann").unwrap().ino), [".", "..", "lab", "mine"]);
    let mine = bench.walk("ann/mine").unwrap();
    assert_eq!(
        (mine.kind, bench.view.readlink(mine.ino).unwrap()),
        (FileKind::Link, b"/home/me/mine".to_vec())
    );
    let lab = bench.walk("ann/lab").unwrap();
    assert_eq!((lab.mode, lab.modified), (0o750, Timestamp { seconds: 42, nanoseconds: 7 }));
    assert_eq!(bench.walk("ann/none").unwrap_err(), ViewError::NotFound);
    assert_eq!(bench.names(bench.walk(".outside/ann").unwrap().ino), [".", ".."]);
    assert_eq!(bench.view.getattr(Ino(12345)), Err(ViewError::UnknownInode(12345)));
}

#[test]
fn files_are_read_and_shown_as_their_owner_has_them() {
    let mut bench = Bench::new();
    let file = bench.memory.file("f", 5, "hello");
    let link = entry("l", 1, Kind::Link(b"/etc/passwd".as_slice().into()));
    let folder = bench.memory.folder("d", &[file, link]);
    bench.show(&[folder]);
    let attr = bench.walk("ann/lab/d/f").unwrap();
    assert_eq!((attr.size, attr.mode, attr.uid, attr.gid, attr.links), (5, 0o644, 1000, 100, 1));
    assert_eq!(attr.modified, Timestamp { seconds: 5, nanoseconds: 5 });
    assert_eq!(bench.cat(attr.ino).unwrap(), "hello");
    assert_eq!(now(bench.view.read(attr.ino, 3, 100, Reading::ToSee)).unwrap(), "lo");
    assert_eq!(now(bench.view.read(attr.ino, 5, 100, Reading::ToSee)).unwrap(), "");
    assert_eq!(now(bench.view.read(attr.ino, u64::MAX, 100, Reading::ToSee)).unwrap(), "");
    let link = bench.walk("ann/lab/d/l").unwrap();
    let target = bench.view.readlink(link.ino).unwrap();
    assert_eq!(target, b"/m/.outside/ann/etc/passwd");
    assert_eq!(link.size, target.len() as u64);
    assert_eq!(bench.cat(bench.walk("ann/lab/d").unwrap().ino), Err(ViewError::IsFolder));
}

#[test]
fn a_read_tells_of_small_files_nearby() {
    let mut bench = Bench::new();
    let content = |size: usize| "x".repeat(size);
    let big = bench.memory.file("b-big", 1, &content(100_000));
    let mut entries = vec![bench.memory.file("a", 1, "1"), big, bench.memory.file("c", 1, "333")];
    entries.extend([bench.memory.file("d", 1, "4444"), bench.memory.file("e-empty", 1, "")]);
    bench.show(&entries);
    let sizes = |bench: &Bench, name: &str| {
        bench.cat(bench.walk(&format!("ann/lab/{name}")).unwrap().ino).unwrap();
        bench.memory.nearby.lock().unwrap().iter().map(|blob| blob.size).collect::<Vec<_>>()
    };
    // Those behind it first, then from the start; no large and no empty ones.
    assert_eq!(sizes(&bench, "c"), [4, 1]);
    assert_eq!(sizes(&bench, "a"), [3, 4]);
    let many: Vec<_> =
        (10..99).map(|i| bench.memory.file(&format!("f{i}"), 1, &content(60_000 + i))).collect();
    bench.show(&many);
    assert_eq!(sizes(&bench, "f50").len(), 8, "not more than half a megabyte");
}

#[test]
fn whoever_reads_in_the_order_of_the_listing_gets_the_next_files_ahead() {
    let mut bench = Bench::new();
    let sized = |size: usize| "x".repeat(size);
    let mut sizes = 1..;
    let mut some = |count: usize| -> Vec<Entry> {
        let file = |size| bench.memory.file(&format!("f{size:02}"), 1, &sized(size));
        sizes.by_ref().take(count).map(file).collect()
    };
    let (a, b) = (some(5), some(40));
    let below = [bench.memory.folder("a", &a), bench.memory.folder("b", &b)];
    let outside = bench.memory.file("outside", 1, "1000");
    let beside = bench.memory.folder("beside", &[outside]);
    bench.show(&[beside, bench.memory.folder("scanned", &below)]);
    // All files of the scanned folder, as they're listed: their paths and sizes.
    let mut listed = Vec::new();
    let mut folders = vec![("a", a), ("b", b)];
    folders.sort_by_key(|(name, _)| Cookie::of(name.as_bytes()));
    for (folder, mut files) in folders {
        files.sort_by_key(|file| Cookie::of(file.name.as_bytes()));
        listed.extend(files.into_iter().map(|file| match file.kind {
            Kind::File { size, .. } => (format!("ann/lab/scanned/{folder}/{}", file.name), size),
            _ => unreachable!("only files were made"),
        }));
    }
    let nearby = |place: usize| -> Vec<u64> {
        bench.cat(bench.walk(&listed[place].0).unwrap().ino).unwrap();
        bench.memory.nearby.lock().unwrap().iter().map(|blob| blob.size).collect()
    };
    let behind = |place: usize| -> Vec<u64> { listed[place + 1..].iter().map(|(_, size)| *size).collect() };
    // Across the folders, but not beyond the one in which all that was read lies.
    (0..5).for_each(|place| assert_ne!(nearby(place), behind(place)));
    assert_eq!(nearby(5), behind(5));
    assert_eq!(nearby(30), behind(30), "some of them may have come already");
    // Another order is no order.
    assert_ne!(nearby(3), behind(3));
    assert_ne!(nearby(6), behind(6));
}

#[test]
fn whoever_looks_into_many_folders_gets_the_next_ones_ahead() {
    let mut bench = Bench::new();
    let folders: Vec<_> = (10..90)
        .map(|i| bench.memory.folder(&format!("d{i}"), &[bench.memory.file(&format!("f{i}"), 1, "1")]))
        .collect();
    bench.show(&folders);
    let tree = |entry: &Entry| match entry.kind {
        Kind::Folder { tree, .. } => tree,
        _ => unreachable!("only folders were made"),
    };
    let mut listed: Vec<_> = folders.iter().collect();
    listed.sort_by_key(|entry| Cookie::of(entry.name.as_bytes()));
    let root = bench.walk("ann/lab").unwrap().ino;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let look = |place: usize| {
        let parent = now(bench.view.lookup(root, listed[place].name.as_bytes())).unwrap().ino;
        bench.memory.slow.lock().unwrap().insert(tree(listed[place]));
        let ignore = |_: Cookie, _: &[u8], _: Attr| false;
        runtime.block_on(bench.view.readdir(parent, Cookie::START, false, ignore)).unwrap();
        std::mem::take(&mut *bench.memory.ahead.lock().unwrap())
    };
    let behind = |place: usize, count: usize| -> Vec<Digest> {
        listed[place + 1..].iter().take(count).map(|entry| tree(entry)).collect()
    };
    assert_eq!(look(0), []);
    assert_eq!(look(1), behind(1, 8));
    assert_eq!(look(10), behind(10, 64));
    assert_eq!(look(3), behind(3, 512));
    assert_eq!(look(3), [], "it's in memory");
}

#[test]
fn owners_keep_their_meaning() {
    let mut bench = Bench::new();
    let owned = |name, owner| {
        let mut entry = bench.memory.file(name, 1, "x");
        entry.attributes.owner = owner;
        entry
    };
    let entries = [owned("other", Owner::Other), owned("root", Owner::Root), owned("sharer", Owner::Sharer)];
    bench.show(&entries);
    for (name, uid, gid) in [("sharer", 1000, 100), ("root", 0, 0), ("other", 65534, 65534)] {
        let attr = bench.walk(&format!("ann/lab/{name}")).unwrap();
        assert_eq!((attr.uid, attr.gid), (uid, gid), "{name}");
    }
}

#[test]
fn numbers_survive_forgetting_and_no_two_files_share_one() {
    let mut bench = Bench::new();
    let entries: Vec<_> = ["a", "b", "c"].map(|name| bench.memory.file(name, 9, "same content")).into();
    bench.show(&entries);
    let inos = ["a", "b", "c"].map(|name| bench.walk(&format!("ann/lab/{name}")).unwrap().ino);
    assert!(inos[0] != inos[1] && inos[1] != inos[2] && inos[0] != inos[2]);
    bench.view.forget(inos[0], 1);
    assert_eq!(bench.view.getattr(inos[0]), Err(ViewError::UnknownInode(inos[0].0)));
    assert_eq!(bench.walk("ann/lab/a").unwrap().ino, inos[0]);
    // One look-up more than was forgotten keeps it.
    bench.walk("ann/lab/a").unwrap();
    bench.view.forget(inos[0], 1);
    assert!(bench.view.getattr(inos[0]).is_ok());
}

#[test]
fn hard_links_are_one_file() {
    let mut bench = Bench::new();
    let linked = |name| {
        let mut entry = bench.memory.file(name, 9, "x");
        entry.attributes.link = Some(HardLink { group: 1, count: 2 });
        entry
    };
    let entries = [linked("a"), linked("b"), bench.memory.file("c", 9, "x")];
    bench.show(&entries);
    let [a, b, c] = ["a", "b", "c"].map(|name| bench.walk(&format!("ann/lab/{name}")).unwrap());
    assert_eq!((a.ino, a.links), (b.ino, 2));
    assert_ne!(a.ino, c.ino);
}

#[test]
fn a_changed_file_gets_a_new_number_and_the_old_one_keeps_its_content() {
    let mut bench = Bench::new();
    let (old, other) = (bench.memory.file("f", 1, "old"), bench.memory.file("g", 1, "other"));
    bench.show(&[old, other.clone()]);
    let before = bench.walk("ann/lab/f").unwrap();
    let kept = bench.walk("ann/lab/g").unwrap();
    let lab = bench.walk("ann/lab").unwrap();
    assert_eq!(bench.walk("ann/lab/new").unwrap_err(), ViewError::NotFound);

    let changed = [bench.memory.file("f", 2, "new"), other, bench.memory.file("new", 1, "!")];
    assert_eq!(bench.show(&changed), [format!("#{}", lab.ino.0), "f".into(), "new".into()]);
    let after = bench.walk("ann/lab/f").unwrap();
    assert_ne!(after.ino, before.ino);
    assert_eq!(bench.cat(before.ino).unwrap(), "old");
    assert_eq!(bench.cat(after.ino).unwrap(), "new");
    assert_eq!(bench.walk("ann/lab/g").unwrap(), kept);
    assert_eq!(bench.walk("ann/lab").unwrap().ino, lab.ino);
    assert_eq!(bench.cat(bench.walk("ann/lab/new").unwrap().ino).unwrap(), "!");

    let gone = [bench.memory.file("g", 1, "other")];
    assert_eq!(bench.show(&gone), [format!("#{}", lab.ino.0), "f".into(), "new".into()]);
    assert_eq!(bench.walk("ann/lab/f").unwrap_err(), ViewError::NotFound);
    assert_eq!(bench.cat(after.ino).unwrap(), "new");
}

#[test]
fn changes_deep_down_reach_known_folders_only() {
    let mut bench = Bench::new();
    let tree = |bench: &Bench, content: &str, token| {
        let file = bench.memory.file("f", token, content);
        let inner = bench.memory.folder("inner", &[file]);
        let unseen = bench.memory.file("u", token, content);
        [bench.memory.folder("outer", &[inner]), bench.memory.folder("unseen", &[unseen])]
    };
    let first = tree(&bench, "1", 1);
    bench.show(&first);
    let inos = ["ann/lab", "ann/lab/outer", "ann/lab/outer/inner"].map(|path| bench.walk(path).unwrap().ino);
    bench.walk("ann/lab/outer/inner/f").unwrap();
    let second = tree(&bench, "2", 2);
    let mut told: Vec<_> = inos.iter().map(|ino| format!("#{}", ino.0)).collect();
    told.push("f".into());
    assert_eq!(bench.show(&second), told);
    assert_eq!(bench.cat(bench.walk("ann/lab/outer/inner/f").unwrap().ino).unwrap(), "2");
    assert_eq!(bench.cat(bench.walk("ann/lab/unseen/u").unwrap().ino).unwrap(), "2");
}

#[test]
fn a_pending_file_is_read_from_its_owner_and_keeps_its_number_when_hashed() {
    let mut bench = Bench::new();
    bench.memory.pending.lock().unwrap().insert("d/f".into(), (3, b"pending".to_vec()));
    let pending = entry("f", 3, Kind::File { size: 7, content: Content::Pending });
    let folder = bench.memory.folder("d", &[pending]);
    bench.show(&[folder]);
    let before = bench.walk("ann/lab/d/f").unwrap();
    assert_eq!(bench.cat(before.ino).unwrap(), "pending");

    bench.memory.pending.lock().unwrap().clear();
    let hashed = bench.memory.file("f", 3, "pending");
    let folder = bench.memory.folder("d", &[hashed]);
    let told = bench.show(&[folder]);
    assert!(!told.contains(&format!("#{}", before.ino.0)), "its pages stay right: {told:?}");
    assert_eq!(bench.cat(before.ino).unwrap(), "pending");
    assert_eq!(bench.walk("ann/lab/d/f").unwrap().ino, before.ino);
}

#[test]
fn holes_of_sparse_files_are_zeros_and_are_not_fetched() {
    let mut bench = Bench::new();
    let extents = [(4, 2), (9, 3)].map(|(offset, length)| Extent { offset, length });
    let file = b"....ab...cde....".to_vec();
    let mut packed = vec![0; 5];
    SparseView::new(&file, &extents).read_exact_at(&mut packed, 0).unwrap();
    let blob = Digest::of(&packed);
    bench.memory.blobs.lock().unwrap().insert(blob, packed);
    let content = Content::Sparse { blob, extents: extents.into() };
    bench.show(&[entry("s", 1, Kind::File { size: 1 << 40, content })]);
    let attr = bench.walk("ann/lab/s").unwrap();
    assert_eq!((attr.size, attr.allocated), (1 << 40, 5));
    let expected = file.iter().map(|byte| if *byte == b'.' { 0 } else { *byte });
    assert_eq!(now(bench.view.read(attr.ino, 0, 16, Reading::ToSee)).unwrap(), expected.collect::<Vec<_>>());
    assert_eq!(now(bench.view.read(attr.ino, 5, 5, Reading::ToSee)).unwrap(), b"b\0\0\0c"[..]);
    assert_eq!(
        *bench.memory.reads.lock().unwrap(),
        [(0, 5), (1, 2)],
        "one read for all extents of a request"
    );
    bench.memory.reads.lock().unwrap().clear();
    assert_eq!(now(bench.view.read(attr.ino, 1 << 30, 1 << 20, Reading::ToSee)).unwrap(), vec![0; 1 << 20]);
    assert!(bench.memory.reads.lock().unwrap().is_empty());
}

#[test]
fn listing_goes_on_where_it_stopped_while_names_vanish() {
    let mut bench = Bench::new();
    let names: Vec<_> = (0..5000).map(|i| format!("f{i:04}")).collect();
    let all: Vec<_> = names.iter().map(|name| bench.memory.file(name, 1, "")).collect();
    let half: Vec<_> = all.iter().step_by(2).cloned().collect();
    bench.show(&all);
    let lab = bench.walk("ann/lab").unwrap().ino;
    let mut seen: Vec<String> = Vec::new();
    let mut cookie = Cookie::START;
    let mut rounds = 0;
    loop {
        let mut room = 100;
        now(bench.view.readdir(lab, cookie, true, |next, name, _| {
            if room > 0 {
                room -= 1;
                cookie = next;
                seen.push(String::from_utf8(name.to_vec()).unwrap());
                return false;
            }
            true
        }))
        .unwrap();
        if room == 100 {
            break;
        }
        rounds += 1;
        if rounds == 10 {
            bench.show(&half);
        }
    }
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "a name came twice");
    assert!(
        names.iter().step_by(2).all(|name| seen.binary_search(name).is_ok()),
        "a name that stayed is missing"
    );
    assert!(count < 4800);
}

#[test]
fn a_closed_workspace_says_so_and_knocks() {
    let mut bench = Bench::new();
    bench.show_root(None);
    let lab = bench.walk("ann/lab").unwrap().ino;
    assert_eq!(now(bench.view.lookup(lab, b"f")), Err(SourceError::Denied.into()));
    assert_eq!(*bench.memory.knocks.lock().unwrap(), [ID]);
    let file = bench.memory.file("f", 1, "open");
    bench.show(&[file]);
    assert_eq!(bench.cat(bench.walk("ann/lab/f").unwrap().ino).unwrap(), "open");
}

#[test]
fn a_snapshot_whose_folders_cannot_be_had_is_not_taken_over() {
    let mut bench = Bench::new();
    let file = bench.memory.file("f", 1, "old");
    bench.show(&[file]);
    let ino = bench.walk("ann/lab/f").unwrap().ino;
    let lab = bench.walk("ann/lab").unwrap().ino;
    let mut listing = (*bench.view.listing()).clone();
    for host in listing.hosts.values_mut() {
        for place in host.places.values_mut() {
            if let Place::Remote(mounted) = place {
                mounted.root = Some(Digest::of(b"nowhere"));
            }
        }
    }
    let (not_taken, told) = bench.update(listing);
    assert_eq!((not_taken.len(), told.len()), (1, 0));
    assert_eq!(bench.cat(ino).unwrap(), "old");
    // Also for whoever holds the folder.
    assert_eq!(now(bench.view.lookup(lab, b"f")).unwrap().ino, ino);
    assert_eq!(bench.names(lab), [".", "..", "f"]);
}

#[test]
fn a_listing_of_the_upper_levels_is_forgotten_when_a_name_comes_or_goes() {
    let mut bench = Bench::new();
    let root = "#1".to_owned();
    let host = format!("#{}", NodeKind::Host("ann".parse().unwrap()).ino().0);
    let told = bench.show(&[]);
    assert!(told.contains(&root) && told.contains(&host), "{told:?}");
    assert!(bench.show(&[]).is_empty(), "nothing has changed");
    let (_, told) = bench.update(Listing::default());
    assert!(told.contains(&root) && told.contains(&host) && told.contains(&"ann".to_owned()), "{told:?}");
}

#[test]
fn the_kernel_has_been_told_when_the_view_says_so() {
    let mut bench = Bench::new();
    let (old, new) = (bench.memory.file("f", 1, "old"), bench.memory.file("f", 2, "new"));
    bench.show(&[old]);
    let settled = |bench: &Bench| bench.view.is_settled(bench.view.listing().mounted(&ID).unwrap());
    assert!(settled(&bench));
    let mut listing = (*bench.view.listing()).clone();
    let Ok(root) = write_folder(&[new], &*bench.memory);
    for place in listing.hosts.values_mut().flat_map(|host| host.places.values_mut()) {
        if let Place::Remote(mounted) = place {
            mounted.root = Some(root);
        }
    }
    now(bench.view.update(listing.clone()));
    let mut waiting = Vec::new();
    while let Ok(Invalidation { what, .. }) = bench.invalidations.try_recv() {
        if let Notice::Told(workspace, root) = what {
            waiting.push((workspace, root));
        }
    }
    bench.view.told(ID, Some(Digest::of(b"the one before")));
    assert!(!settled(&bench));
    for (workspace, root) in waiting {
        bench.view.told(workspace, root);
    }
    assert!(settled(&bench));
}
