use std::{
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    process::Command,
};

use super::*;
use crate::{
    blob::GROUP,
    store::{
        PATHS_MAX,
        contract::{Sample, read, read_all, small},
    },
    types::Name,
};

const ROOMY: DiskLimits = DiskLimits { bytes: 1 << 30, descriptors: 16 };

/// A store that records only what it is told to.
fn open(folder: &Path) -> DiskStore {
    open_limited(folder, ROOMY)
}

fn open_limited(folder: &Path, limits: DiskLimits) -> DiskStore {
    DiskStore::open_with_delay(folder, limits, Duration::from_secs(3600)).unwrap()
}

/// All files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}

/// Bytes that packs and blobs take on the disk.
fn on_disk(folder: &Path) -> u64 {
    let all = ["packs", "blobs"].map(|name| files_below(&folder.join(name)));
    all.iter().flatten().map(|path| path.metadata().unwrap().blocks() * 512).sum()
}

fn flip(path: &Path, offset: u64) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

fn content_path(store: &DiskStore, blob: &Blob) -> PathBuf {
    store.disk.files.path(FileKey::Content(*blob))
}

/// Puts a tree, a small blob, a complete large one and a part of another.
fn fill(store: &DiskStore) -> (Digest, Blob, Sample, Sample) {
    let tree = Digest::of(b"tree");
    store.put_tree(tree, b"tree").unwrap();
    let (blob, verified) = small(b"small");
    store.put_blob(&verified).unwrap();
    let (complete, partial) = (Sample::new(500_000, 1), Sample::new(700_000, 2));
    store.put_slice(&complete.all()).unwrap();
    store.put_slice(&partial.slice(3..9)).unwrap();
    (tree, blob, complete, partial)
}

#[test]
fn reopening_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (tree, blob, complete, partial) = fill(&store);
    let used = store.used();
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.used(), used);
    assert_eq!(store.tree(&tree).unwrap().unwrap(), "tree");
    assert_eq!(read_all(&store, &blob).unwrap(), b"small");
    assert_eq!(read_all(&store, &complete.blob).unwrap(), complete.bytes);
    assert_eq!(store.held(&partial.blob).unwrap(), Groups::from(3..9));
    store.put_slice(&partial.all()).unwrap();
    assert_eq!(read_all(&store, &partial.blob).unwrap(), partial.bytes);
    let mode = content_path(&store, &partial.blob).metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o400);
    assert_eq!(folder.path().join("packs").metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_kill_loses_nothing_that_was_flushed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (tree, blob, complete, partial) = fill(&store);
    store.flush().unwrap();
    // None of this is recorded.
    store.put_slice(&partial.slice(20..30)).unwrap();
    let (lost, verified) = small(b"put too late");
    store.put_blob(&verified).unwrap();
    let unknown = Sample::new(400_000, 7);
    store.put_slice(&unknown.all()).unwrap();

    let copy = tempfile::tempdir().unwrap();
    let copied = copy.path().join("store");
    assert!(Command::new("cp").arg("-a").args([folder.path(), &copied]).status().unwrap().success());
    let store = open(&copied);
    assert_eq!(store.tree(&tree).unwrap().unwrap(), "tree");
    assert_eq!(read_all(&store, &blob).unwrap(), b"small");
    assert_eq!(read_all(&store, &complete.blob).unwrap(), complete.bytes);
    assert_eq!(store.held(&partial.blob).unwrap(), Groups::from(3..9));
    assert_eq!(
        read(&store, &partial.blob, 3 * GROUP, 9 * GROUP).unwrap(),
        partial.bytes[3 * GROUP as usize..9 * GROUP as usize]
    );
    assert_eq!(read_all(&store, &lost), None);
    assert!(store.held(&unknown.blob).unwrap().is_empty());
    assert!(!content_path(&store, &unknown.blob).exists(), "what isn't recorded is swept");
    assert_eq!(store.used(), on_disk(&copied));
    // And it goes on.
    store.put_blob(&verified).unwrap();
    store.put_slice(&partial.all()).unwrap();
    assert_eq!(read_all(&store, &lost).unwrap(), b"put too late");
    assert_eq!(read_all(&store, &partial.blob).unwrap(), partial.bytes);
}

#[test]
fn the_flusher_records_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::open_with_delay(folder.path(), ROOMY, Duration::from_millis(1)).unwrap();
    let (blob, verified) = small(b"small");
    store.put_blob(&verified).unwrap();
    let key = PackedKey { kind: Kind::Blob, digest: blob.digest };
    while store.disk.index.packed(&key).unwrap().is_none() {
        thread::yield_now();
    }
}

fn path(number: usize) -> PathKey {
    PathKey::of(&[Name::new(number.to_string().into_bytes()).unwrap()])
}

#[test]
fn what_came_for_whom_is_forgotten_with_the_content() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (tree, blob, complete, partial) = fill(&store);
    let [lab, home] = [WorkspaceId::random(), WorkspaceId::random()];
    let digests = [tree, blob.digest, complete.blob.digest, partial.blob.digest];
    for digest in &digests {
        store.note(&lab, digest).unwrap();
    }
    store.note_at(&home, path(1), &partial.blob).unwrap();
    store.note_at(&lab, path(1), &partial.blob).unwrap();
    store.note_at(&lab, path(2), &partial.blob).unwrap();
    drop(store);
    let store = open(folder.path());
    for digest in &digests {
        assert!(store.belongs(&lab, digest).unwrap());
    }
    // Another version came for one of the paths.
    store.note_at(&lab, path(2), &complete.blob).unwrap();
    store.remove(&partial.blob.digest).unwrap();
    store.remove(&blob.digest).unwrap();
    assert!(store.belongs(&lab, &tree).unwrap() && store.belongs(&lab, &complete.blob.digest).unwrap());
    for workspace in [&lab, &home] {
        assert!(!store.belongs(workspace, &partial.blob.digest).unwrap());
        assert!(!store.belongs(workspace, &blob.digest).unwrap());
        assert_eq!(store.at(workspace, path(1)).unwrap(), None);
    }
    assert_eq!(store.at(&lab, path(2)).unwrap(), Some(complete.blob));
    // A note that comes too late leaves nothing behind.
    store.note_at(&lab, path(1), &partial.blob).unwrap();
    store.flush().unwrap();
    assert!(!store.belongs(&lab, &partial.blob.digest).unwrap());
    assert_eq!(store.at(&lab, path(1)).unwrap(), None);
}

#[test]
fn the_paths_of_a_blob_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (_, _, complete, _) = fill(&store);
    let lab = WorkspaceId::random();
    for number in 0..2 * PATHS_MAX {
        store.note_at(&lab, path(number), &complete.blob).unwrap();
    }
    store.flush().unwrap();
    let known = (0..2 * PATHS_MAX).filter(|number| store.at(&lab, path(*number)).unwrap().is_some());
    assert_eq!(known.count(), PATHS_MAX);
}

#[test]
fn an_index_without_notes_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, blob, complete, partial) = fill(&open(folder.path()));
    let database = redb::Database::open(folder.path().join("index.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    for table in ["notes", "paths"] {
        let table = redb::TableDefinition::<&[u8], &[u8]>::new(table);
        assert!(transaction.delete_table(table).unwrap());
    }
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    transaction.open_table(meta).unwrap().insert("version", 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    for _ in 0..2 {
        let store = open(folder.path());
        assert!(store.tree(&tree).unwrap().is_some());
        assert_eq!(read_all(&store, &blob).unwrap(), b"small");
        assert_eq!(read_all(&store, &complete.blob).unwrap(), complete.bytes);
        // What a rebuild would lose.
        assert_eq!(store.held(&partial.blob).unwrap(), Groups::from(3..9));
        assert!(!store.belongs(&WorkspaceId::random(), &tree).unwrap());
        assert_eq!(store.at(&WorkspaceId::random(), path(1)).unwrap(), None);
    }
}

#[test]
fn damage_in_a_pack_is_found_and_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (tree, blob, ..) = fill(&store);
    store.flush().unwrap();
    let place = store.disk.place(&PackedKey { kind: Kind::Blob, digest: blob.digest }).unwrap().unwrap();
    flip(&folder.path().join("packs/0.pack"), place.offset + 50);
    let mut buffer = [0; 5];
    assert!(matches!(store.read_at(&blob, 0, &mut buffer), Err(StoreError::Corrupt(d)) if d == blob.digest));
    assert!(!store.read_at(&blob, 0, &mut buffer).unwrap());
    drop(store);
    let store = open(folder.path());
    assert_eq!(read_all(&store, &blob), None);
    assert_eq!(store.tree(&tree).unwrap().unwrap(), "tree");
    store.put_blob(&small(b"small").1).unwrap();
    assert_eq!(read_all(&store, &blob).unwrap(), b"small");
    // A file that is gone is damage too.
    drop(store);
    std::fs::remove_file(folder.path().join("packs/0.pack")).unwrap();
    let store = open(folder.path());
    assert!(matches!(store.tree(&tree), Err(StoreError::Corrupt(_))));
    assert_eq!(store.tree(&tree).unwrap(), None);
}

#[test]
fn damage_in_a_large_blob_costs_its_group() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (_, _, complete, partial) = fill(&store);
    let paths = [&complete, &partial].map(|sample| content_path(&store, &sample.blob));
    drop(store);
    paths.iter().for_each(|path| flip(path, 5 * GROUP + 7));
    let store = open(folder.path());
    for sample in [&complete, &partial] {
        let held = store.held(&sample.blob).unwrap();
        let mut buffer = vec![0; 3 * GROUP as usize];
        assert!(matches!(store.read_at(&sample.blob, 4 * GROUP, &mut buffer), Err(StoreError::Corrupt(_))));
        assert!(!store.read_at(&sample.blob, 4 * GROUP, &mut buffer).unwrap());
        assert_eq!(store.held(&sample.blob).unwrap(), held - Groups::from(5..6));
        assert!(read(&store, &sample.blob, 6 * GROUP, 7 * GROUP).is_some());
        store.put_slice(&sample.slice(5..6)).unwrap();
        assert_eq!(
            read(&store, &sample.blob, 4 * GROUP, 7 * GROUP).unwrap(),
            sample.bytes[4 * GROUP as usize..7 * GROUP as usize]
        );
    }
}

#[test]
fn a_complete_file_changed_under_the_open_store_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (_, _, complete, _) = fill(&store);
    assert_eq!(read_all(&store, &complete.blob).unwrap(), complete.bytes);
    let path = content_path(&store, &complete.blob);
    flip(&path, 3);
    let mut buffer = [0; 10];
    assert!(matches!(store.read_at(&complete.blob, 0, &mut buffer), Err(StoreError::Corrupt(_))));
    File::options().write(true).open(&path).unwrap().set_len(100_000).unwrap();
    assert!(matches!(store.read_at(&complete.blob, 300_000, &mut buffer), Err(StoreError::Corrupt(_))));
    store.put_slice(&complete.all()).unwrap();
    std::fs::remove_file(&path).unwrap();
    store.disk.files.delete(FileKey::Outboard(complete.blob)).unwrap();
    assert!(matches!(store.read_at(&complete.blob, 0, &mut buffer), Err(StoreError::Corrupt(_))));
    assert!(store.held(&complete.blob).unwrap().is_empty());
    store.put_slice(&complete.all()).unwrap();
    assert_eq!(read_all(&store, &complete.blob).unwrap(), complete.bytes);
}

#[test]
fn a_lost_index_is_rebuilt() {
    let damages: [fn(&Path); 4] = [
        |index| std::fs::remove_file(index).unwrap(),
        |index| std::fs::write(index, vec![7; 9000]).unwrap(),
        |index| File::options().write(true).open(index).unwrap().set_len(5000).unwrap(),
        // Behind an intact head, at which redb panics.
        |index| {
            let mut bytes = std::fs::read(index).unwrap();
            bytes[4096..].fill(0x5a);
            std::fs::write(index, bytes).unwrap();
        },
    ];
    for damage in damages {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let (tree, blob, complete, partial) = fill(&store);
        drop(store);
        damage(&folder.path().join("index.redb"));
        let store = open(folder.path());
        assert_eq!(store.tree(&tree).unwrap().unwrap(), "tree");
        assert_eq!(read_all(&store, &blob).unwrap(), b"small");
        assert_eq!(read_all(&store, &complete.blob).unwrap(), complete.bytes);
        assert!(store.held(&partial.blob).unwrap().is_empty());
        assert_eq!(store.used(), on_disk(folder.path()));
    }
}

#[test]
fn a_folder_is_opened_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let error = DiskStore::open(folder.path(), ROOMY).unwrap_err();
    assert!(matches!(&error, StoreError::InUse(path) if path == folder.path()));
    assert!(error.to_string().contains("another process uses the store"));
    drop(store);
    open(folder.path());
}

#[test]
fn the_limit_holds_while_filling() {
    let folder = tempfile::tempdir().unwrap();
    let limits = DiskLimits { bytes: 4 << 20, descriptors: 16 };
    let store = open_limited(folder.path(), limits);
    let tree = Digest::of(b"tree");
    store.put_tree(tree, b"tree").unwrap();
    // Much more than fits: large ones, and small ones that share pages.
    for round in 0..12 {
        let sample = Sample::new(900_000, round);
        store.put_slice(&sample.all()).unwrap();
        assert_eq!(read_all(&store, &sample.blob).unwrap(), sample.bytes);
        for piece in 0..100u32 {
            let (blob, verified) = small(&Sample::new(3000 + piece as usize, round * 100 + piece).bytes);
            store.put_blob(&verified).unwrap();
            assert!(read_all(&store, &blob).is_some());
        }
        let used = on_disk(folder.path());
        assert!(used <= limits.bytes / 10 * 11, "{used} in round {round}");
        assert!(used > limits.bytes / 4, "no more is evicted than must: {used} in round {round}");
    }
    assert_eq!(store.tree(&tree).unwrap().unwrap(), "tree");
    drop(store);
    let store = open_limited(folder.path(), limits);
    assert_eq!(store.used(), on_disk(folder.path()));
    // A blob larger than the limit passes through.
    let sample = Sample::new(9 << 20, 99);
    for group in (0..sample.blob.groups()).step_by(16) {
        store.put_slice(&sample.slice(group..group + 16)).unwrap();
        assert!(read(&store, &sample.blob, group * GROUP, (group + 16) * GROUP).is_some());
        assert!(on_disk(folder.path()) <= limits.bytes / 10 * 11);
    }
    // What can't fit at all evicts nothing in vain.
    let held = store.used();
    assert!(matches!(store.put_slice(&sample.all()), Err(StoreError::Full)));
    assert_eq!(store.used(), held);
}

#[test]
fn what_was_used_least_recently_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let tree = Digest::of(b"tree");
    store.put_tree(tree, b"tree").unwrap();
    let samples: Vec<_> = (0..4).map(|seed| Sample::new(500_000, seed)).collect();
    samples.iter().for_each(|sample| store.put_slice(&sample.all()).unwrap());
    let pieces: Vec<_> = (0..4).map(|seed| small(&Sample::new(200_000, 10 + seed).bytes)).collect();
    pieces.iter().for_each(|(_, verified)| store.put_blob(verified).unwrap());
    read(&store, &samples[0].blob, 0, 10).unwrap();
    // The order survives a restart.
    drop(store);
    let store = open(folder.path());
    read(&store, &pieces[0].0, 0, 10).unwrap();
    store.evict_to(store.used() - 1_850_000).unwrap();
    let held = |blob: &Blob| !store.held(blob).unwrap().is_empty();
    assert_eq!([0, 1, 2, 3].map(|i| held(&samples[i].blob)), [true, false, false, false]);
    assert_eq!([0, 1, 2, 3].map(|i| held(&pieces[i].0)), [true, false, false, true]);
    assert_eq!(store.used(), on_disk(folder.path()));
    // Trees last.
    store.evict_to(20_000).unwrap();
    assert!(!held(&samples[0].blob) && !held(&pieces[0].0));
    assert!(store.tree(&tree).unwrap().is_some());
    store.evict_to(0).unwrap();
    assert!(store.tree(&tree).unwrap().is_none());
}

#[test]
fn removing_frees_the_space_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (tree, blob, complete, partial) = fill(&store);
    let (big, verified) = small(&Sample::new(100_000, 5).bytes);
    store.put_blob(&verified).unwrap();
    store.flush().unwrap();
    let before = on_disk(folder.path());
    for digest in [complete.blob.digest, big.digest, blob.digest] {
        store.remove(&digest).unwrap();
    }
    assert!(on_disk(folder.path()) <= before - 580_000);
    assert_eq!(store.used(), on_disk(folder.path()));
    assert_eq!(read_all(&store, &blob).or(read_all(&store, &big)).or(read_all(&store, &complete.blob)), None);
    assert_eq!(store.tree(&tree).unwrap().unwrap(), "tree");
    assert_eq!(store.held(&partial.blob).unwrap(), Groups::from(3..9));
    store.put_slice(&complete.all()).unwrap();
    drop(store);
    let store = open(folder.path());
    assert_eq!(read_all(&store, &complete.blob).unwrap(), complete.bytes);
    assert_eq!(read_all(&store, &big), None);
}

#[test]
fn eviction_under_readers_and_writers_gives_no_wrong_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_limited(folder.path(), DiskLimits { bytes: 2 << 20, descriptors: 4 });
    let samples: Vec<_> = (0..3).map(|seed| Sample::new(800_000, seed)).collect();
    let pieces: Vec<_> = (0..20).map(|seed| Sample::new(60_000, 50 + seed)).collect();
    thread::scope(|scope| {
        for worker in 0..4usize {
            let (store, samples, pieces) = (&store, &samples, &pieces);
            scope.spawn(move || {
                for step in 0..60 {
                    let sample = &samples[(worker + step) % 3];
                    let group = (worker * 5 + step * 3) as u64 % 48;
                    store.put_slice(&sample.slice(group..group + 1)).unwrap();
                    if let Some(bytes) = read(store, &sample.blob, group * GROUP, (group + 1) * GROUP) {
                        assert!(
                            bytes == sample.bytes[(group * GROUP) as usize..((group + 1) * GROUP) as usize]
                        );
                    }
                    let piece = &pieces[(worker * 3 + step) % 20];
                    store.put_blob(&small(&piece.bytes).1).unwrap();
                    if let Some(bytes) = read_all(store, &piece.blob) {
                        assert!(bytes == piece.bytes);
                    }
                    if step % 20 == worker {
                        store.evict_to(500_000).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(store.used(), on_disk(folder.path()));
}

/// A filesystem of its own, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder.path());
        mount.output().is_ok_and(|output| output.status.success()).then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_disk_smaller_than_the_limit_is_the_limit() {
    let Some(disk) = SmallDisk::mount("24m") else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    let store = open(disk.0.path());
    for round in 0..60 {
        let sample = Sample::new(1_000_000, round);
        store.put_slice(&sample.all()).unwrap();
        assert_eq!(read_all(&store, &sample.blob).unwrap(), sample.bytes);
        let (blob, verified) = small(&Sample::new(70_000, 1000 + round).bytes);
        store.put_blob(&verified).unwrap();
        assert!(read_all(&store, &blob).is_some());
    }
    assert!(store.used() > 10 << 20, "{}", store.used());
    // Others fill the disk: what doesn't fit is refused, and nothing is broken by it.
    let hog = File::create(disk.0.path().join("hog")).unwrap();
    let mut filled = 0;
    while hog.write_all_at(&[1; 4096], filled).is_ok() {
        filled += 4096;
    }
    let sample = Sample::new(12 << 20, 77);
    assert!(matches!(store.put_slice(&sample.all()), Err(StoreError::Full)));
    hog.set_len(0).unwrap();
    store.put_slice(&sample.all()).unwrap();
    store.flush().unwrap();
    assert_eq!(read_all(&store, &sample.blob).unwrap(), sample.bytes);
}

#[test]
fn a_piece_evicted_while_it_is_read_is_not_damage() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let piece = Sample::new(250_000, 1);
    let (blob, verified) = small(&piece.bytes);
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // Not held, or right, but never an error.
                    if let Some(bytes) = read_all(&store, &blob) {
                        assert!(bytes == piece.bytes);
                    }
                }
            });
        }
        for _ in 0..150 {
            store.put_blob(&verified).unwrap();
            store.evict_to(0).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_is_pinned_is_never_evicted() {
    let folder = tempfile::tempdir().unwrap();
    let limits = DiskLimits { bytes: 2 << 20, ..ROOMY };
    let store = open_limited(folder.path(), limits);
    let (tree, blob, complete, partial) = fill(&store);
    let pin = Pin { workspace: WorkspaceId::random(), path: path(1) };
    let other = Pin { path: path(2), ..pin };
    let later = Sample::new(300_000, 3);
    // Also what comes later.
    store.pin(&pin, 1, &[tree, complete.blob.digest, later.blob.digest]).unwrap();
    store.pin(&other, 1, &[complete.blob.digest]).unwrap();
    drop(store);
    let store = open_limited(folder.path(), limits);
    store.put_slice(&later.all()).unwrap();
    store.evict_to(0).unwrap();
    let held = |sample: &Sample| read_all(&store, &sample.blob).is_some();
    assert!(store.tree(&tree).unwrap().is_some() && held(&complete) && held(&later));
    assert!(read_all(&store, &blob).is_none() && store.held(&partial.blob).unwrap().is_empty());
    // What doesn't fit beside the pins is refused, and the limit holds.
    let mut refused = 0;
    for seed in 10..20 {
        refused += usize::from(matches!(
            store.put_slice(&Sample::new(1_500_000, seed).all()),
            Err(StoreError::Full)
        ));
        assert!(store.used() <= limits.bytes);
        store.put_slice(&Sample::new(400_000, seed).all()).unwrap();
        assert!(held(&complete) && held(&later));
    }
    assert_eq!(refused, 10);
    // The next round leaves one of them out, which another pin still keeps.
    store.pin(&pin, 2, &[later.blob.digest]).unwrap();
    store.lift(&pin, 2).unwrap();
    store.evict_to(0).unwrap();
    assert!(store.tree(&tree).unwrap().is_none() && held(&complete) && held(&later));
    store.lift(&pin, u64::MAX).unwrap();
    store.lift(&other, u64::MAX).unwrap();
    store.evict_to(0).unwrap();
    assert!(!held(&complete) && !held(&later));
}

#[test]
fn a_cache_full_of_pins_takes_again_once_they_are_lifted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_limited(folder.path(), DiskLimits { bytes: 1 << 20, ..ROOMY });
    let (pinned, other) = (Sample::new(700_000, 1), Sample::new(600_000, 2));
    let pin = Pin { workspace: WorkspaceId::random(), path: path(1) };
    store.pin(&pin, 1, &[pinned.blob.digest]).unwrap();
    store.put_slice(&pinned.all()).unwrap();
    for _ in 0..2 {
        assert!(matches!(store.put_slice(&other.all()), Err(StoreError::Full)));
    }
    store.lift(&pin, u64::MAX).unwrap();
    store.put_slice(&other.all()).unwrap();
    assert_eq!(read_all(&store, &other.blob).unwrap(), other.bytes);
}

#[test]
fn use_is_told_by_workspace_and_cleared_by_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (tree, blob, complete, partial) = fill(&store);
    let [lab, home] = [WorkspaceId::random(), WorkspaceId::random()];
    for digest in [tree, blob.digest, complete.blob.digest] {
        store.note(&lab, &digest).unwrap();
    }
    for digest in [blob.digest, partial.blob.digest] {
        store.note(&home, &digest).unwrap();
    }
    let pins = [path(1), path(2)].map(|path| Pin { workspace: lab, path });
    for pin in &pins {
        store.pin(pin, 1, &[complete.blob.digest, Digest::of(b"not held")]).unwrap();
    }
    let usage = store.usage().unwrap();
    let whole = complete.blob.groups() * GROUP;
    assert_eq!(usage.pinned, whole);
    assert_eq!(usage.workspaces[&lab], whole + 2 * 56);
    assert_eq!(usage.workspaces[&home], 6 * GROUP + 56);
    store.clear(&lab).unwrap();
    assert!(store.tree(&tree).unwrap().is_none(), "came for it alone");
    assert!(read_all(&store, &blob).is_some(), "came for another too");
    assert!(read_all(&store, &complete.blob).is_some(), "is pinned");
    store.clear(&home).unwrap();
    assert!(store.held(&partial.blob).unwrap().is_empty());
    for pin in &pins {
        store.lift(pin, u64::MAX).unwrap();
    }
    store.clear(&lab).unwrap();
    assert!(store.held(&complete.blob).unwrap().is_empty());
}

#[test]
fn a_smaller_limit_holds_from_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let samples = [1, 2, 3].map(|seed| Sample::new(700_000, seed));
    for sample in &samples {
        store.put_slice(&sample.all()).unwrap();
    }
    drop(store);
    let store = open_limited(folder.path(), DiskLimits { bytes: 1 << 20, ..ROOMY });
    assert!(store.used() <= 1 << 20 && on_disk(folder.path()) <= 1 << 20);
    assert_eq!(read_all(&store, &samples[2].blob).unwrap(), samples[2].bytes, "the one used last");
}
