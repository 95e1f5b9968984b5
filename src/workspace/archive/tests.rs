use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::{Cursor, Read, Seek, SeekFrom, Write},
    ops::ControlFlow,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
    process::Command,
};

use proptest::{collection::vec, prelude::*};
use tempfile::TempDir;
use zip::{
    ZipWriter,
    write::{FullFileOptions, SimpleFileOptions},
};

use super::*;

/// All paths below a folder, folders first.
fn paths(root: &Path) -> Vec<Vec<u8>> {
    fn walk(root: &Path, folder: &Path, into: &mut Vec<Vec<u8>>) {
        let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            into.push(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec());
            if path.symlink_metadata().unwrap().is_dir() {
                walk(root, &path, into);
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found
}

/// What is to come through unchanged: mode, time, and the content or target.
type Tree = BTreeMap<Vec<u8>, (u32, i64, i64, Option<Vec<u8>>)>;

fn tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    for path in paths(root) {
        let place = root.join(OsStr::from_bytes(&path));
        let status = place.symlink_metadata().unwrap();
        let content = if status.is_dir() {
            None
        } else if status.is_symlink() {
            Some(fs::read_link(&place).unwrap().as_os_str().as_bytes().to_vec())
        } else {
            Some(fs::read(&place).unwrap())
        };
        tree.insert(path, (status.mode(), status.mtime(), status.mtime_nsec(), content));
    }
    tree
}

fn packed(root: &Path) -> Vec<u8> {
    let (_, output) = pack(root, None, paths(root), Vec::new(), &mut |_| ControlFlow::Continue(())).unwrap();
    output
}

/// Unpacks with more room than there is in any test.
fn unpack(bytes: impl Read + Seek, destination: &Path) -> Result<Unpacked, ArchiveError> {
    unpack_with(bytes, destination, |_| {})
}

fn unpack_with(
    bytes: impl Read + Seek,
    destination: &Path,
    change: impl FnOnce(&mut Unpack<'_>),
) -> Result<Unpacked, ArchiveError> {
    let mut unpack = Unpack {
        destination,
        links_outside: false,
        replaced: None,
        room: 1 << 40,
        prepare: &mut |_| Ok(()),
        progress: &mut |_| ControlFlow::Continue(()),
    };
    change(&mut unpack);
    Archive::open(bytes)?.unpack(unpack)
}

fn set_time(path: &Path, seconds: i64, nanoseconds: u32) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[derive(Debug, Clone)]
enum Thing {
    Folder(u32),
    File(u32, Vec<u8>),
    Link(Vec<u8>),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let any = vec(any::<u8>(), 1..20).prop_map(|bytes| {
        bytes.into_iter().map(|byte| if byte == b'/' || byte == 0 { b'x' } else { byte }).collect()
    });
    let odd = prop::sample::select(vec![
        b"caf\xe9".to_vec(),
        b"caf%E9".to_vec(),
        b"..\\up".to_vec(),
        b"C:x".to_vec(),
        b"a\nb".to_vec(),
        "ä".into(),
        [0xff; 255].to_vec(),
    ]);
    prop_oneof![any, odd, "[a-c]".prop_map(String::into_bytes)]
        .prop_filter("not names", |name: &Vec<u8>| !matches!(name.as_slice(), b"." | b".."))
}

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        (0o700..0o1000_u32).prop_map(Thing::Folder),
        (0o400..0o1000_u32, vec(any::<u8>(), 0..300)).prop_map(|(mode, bytes)| Thing::File(mode, bytes)),
        vec(name(), 1..3).prop_map(|names| Thing::Link(names.join(&b'/'))),
    ]
}

fn plant(root: &Path, things: &[(Vec<Vec<u8>>, Thing, i64, u32)]) {
    for (names, thing, ..) in things {
        let path = root.join(OsStr::from_bytes(&names.join(&b'/')));
        // What doesn't fit what is there already isn't made.
        let _ = path.parent().map(fs::create_dir_all);
        let _ = match thing {
            Thing::Folder(_) => fs::create_dir(&path),
            Thing::File(_, bytes) if !path.exists() => fs::write(&path, bytes),
            Thing::File(..) => Ok(()),
            Thing::Link(target) => symlink(OsStr::from_bytes(target), &path),
        };
    }
    for (names, thing, seconds, nanoseconds) in things {
        let path = root.join(OsStr::from_bytes(&names.join(&b'/')));
        let Ok(status) = path.symlink_metadata() else { continue };
        if let (Thing::Folder(mode) | Thing::File(mode, _), false) = (thing, status.is_symlink()) {
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        set_time(&path, *seconds, *nanoseconds);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_packed_comes_out_as_it_was(
        things in vec((vec(name(), 1..4), thing(), -5_000_000_000..9_000_000_000_i64, 0..1_000_000_000_u32), 0..24)
    ) {
        let from = tempfile::tempdir().unwrap();
        plant(from.path(), &things);
        let to = tempfile::tempdir().unwrap();
        let made = to.path().join("made");
        // Names of links may be `..` and more: all of them are to come through.
        unpack_with(Cursor::new(packed(from.path())), &made, |unpack| unpack.links_outside = true).unwrap();
        prop_assert_eq!(tree(&made), tree(from.path()));
    }
}

/// A folder with one of everything that another program can read too.
fn sample() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    fs::create_dir_all(at("src/empty")).unwrap();
    fs::write(at("src/main.py"), "print('hello')\n".repeat(1000)).unwrap();
    fs::write(at("ä ü.txt"), "umlauts").unwrap();
    fs::write(folder.path().join(OsStr::from_bytes(b"caf\xe9")), "latin 1").unwrap();
    fs::write(at("nothing"), "").unwrap();
    symlink("src/main.py", at("link")).unwrap();
    fs::set_permissions(at("src/main.py"), fs::Permissions::from_mode(0o755)).unwrap();
    set_time(&at("src/main.py"), 1_700_000_000, 123_456_789);
    folder
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

#[test]
fn other_programs_read_it_and_theirs_are_read() {
    let from = sample();
    let work = tempfile::tempdir().unwrap();
    let archive = work.path().join("a.zip");
    fs::write(&archive, packed(from.path())).unwrap();
    let said = run(Command::new("unzip").arg("-t").arg(&archive));
    assert!(said.contains("No errors detected"), "{said}");
    let script = "import sys, zipfile\n\
        z = zipfile.ZipFile(sys.argv[1])\n\
        assert z.testzip() is None\n\
        i = z.getinfo('src/main.py')\n\
        assert i.external_attr >> 16 == 0o100755, oct(i.external_attr >> 16)\n\
        assert z.read('link') == b'src/main.py' and z.getinfo('src/empty/').is_dir()\n\
        assert z.read('caf%E9') == b'latin 1' and z.read('ä ü.txt') == b'umlauts'\n\
        w = zipfile.ZipFile(sys.argv[2], 'w', zipfile.ZIP_DEFLATED)\n\
        w.writestr('a/b.txt', 'of python'); w.close()\n";
    let theirs = work.path().join("python.zip");
    run(Command::new("python3").args(["-c", script]).arg(&archive).arg(&theirs));
    unpack(File::open(&theirs).unwrap(), &work.path().join("python")).unwrap();
    assert_eq!(fs::read_to_string(work.path().join("python/a/b.txt")).unwrap(), "of python");

    // Unpacked by Info-ZIP and packed again, all of it but what only our field says comes through.
    let unzipped = work.path().join("unzipped");
    run(Command::new("unzip").arg("-q").arg(&archive).arg("-d").arg(&unzipped));
    let again = work.path().join("again.zip");
    run(Command::new("zip").args(["-q", "-r", "-y"]).arg(&again).arg(".").current_dir(&unzipped));
    let made = work.path().join("made");
    unpack(File::open(&again).unwrap(), &made).unwrap();
    let (before, after) = (tree(from.path()), tree(&made));
    for path in ["src/main.py", "link", "nothing", "src/empty", "ä ü.txt"] {
        let ((mode, seconds, _, content), (mode_after, seconds_after, _, content_after)) =
            (&before[path.as_bytes()], &after[path.as_bytes()]);
        assert_eq!((mode, content), (mode_after, content_after), "{path}");
        if path == "src/main.py" {
            assert_eq!(seconds, seconds_after);
        }
    }
}

/// What made an archive, entry by entry, as only an attacker would.
struct Forged(ZipWriter<Cursor<Vec<u8>>>);

impl Forged {
    fn new() -> Self {
        Self(ZipWriter::new(Cursor::new(Vec::new())))
    }

    fn with(mut self, name: &[u8], mode: u32, content: &[u8]) -> Self {
        let options = SimpleFileOptions::default().external_attributes(mode << 16).name(name);
        self.0.start_file_with_options(options).unwrap();
        self.0.write_all(content).unwrap();
        self
    }

    fn file(self, name: &str) -> Self {
        self.with(name.as_bytes(), 0o100_644, b"pwned")
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.with(name.as_bytes(), 0o120_777, target.as_bytes())
    }

    fn bytes(self) -> Vec<u8> {
        self.0.finish().unwrap().into_inner()
    }
}

/// A hostile archive must be refused with these words, and leave nothing behind: neither where it was to be unpacked, nor outside.
fn assert_refused(bytes: &[u8], said: &str) {
    let around = tempfile::tempdir().unwrap();
    let folder = around.path().join("a/b");
    fs::create_dir_all(&folder).unwrap();
    let before = paths(around.path());
    let error = unpack(Cursor::new(bytes), &folder.join("made")).map(drop).unwrap_err().to_string();
    assert!(error.contains(said), "{error}, not {said}");
    assert_eq!(paths(around.path()), before, "{said}");
}

#[test]
fn case_44_names_that_lead_elsewhere_are_refused() {
    let out = tempfile::tempdir().unwrap();
    let absolute = out.path().join("pwn");
    let absolute = absolute.to_str().unwrap();
    for (name, said) in [
        ("../up", "leads upwards"),
        ("a/../../up", "leads upwards"),
        ("..", "leads upwards"),
        (absolute, "root of the system"),
        ("a//b", "empty name"),
        ("a/./b", "empty name"),
        ("..\\up", "backslash"),
        ("a\\b", "backslash"),
        ("a\0b", "NUL"),
    ] {
        assert_refused(&Forged::new().file("before").file(name).bytes(), said);
    }
    assert_refused(&Forged::new().with(b"../up/", 0o040_755, b"").bytes(), "leads upwards");
    assert!(fs::read_dir(out.path()).unwrap().next().is_none());
}

#[test]
fn case_44_nothing_is_written_through_a_link() {
    let out = tempfile::tempdir().unwrap();
    let target = out.path().to_str().unwrap();
    assert_refused(&Forged::new().link("l", target).file("l/pwn").bytes(), "is no folder");
    assert_refused(&Forged::new().file("l/pwn").link("l", target).bytes(), "is no folder");
    assert_refused(&Forged::new().link("l", target).bytes(), "leads out of the workspace");
    assert_refused(&Forged::new().link("d/l", "../../x").bytes(), "leads out of the workspace");
    assert_refused(&Forged::new().link("l", "x\0y").bytes(), "can't lead there");
    assert_refused(&Forged::new().link("l", "").bytes(), "can't lead there");
    assert!(fs::read_dir(out.path()).unwrap().next().is_none());

    let made = out.path().join("made");
    let harmless = Forged::new().link("bin/python", "/usr/bin/python3").link("bin/x", "../y");
    unpack(Cursor::new(harmless.bytes()), &made).unwrap();
    assert_eq!(fs::read_link(made.join("bin/python")).unwrap(), Path::new("/usr/bin/python3"));
    let other = out.path().join("other");
    let leaving = Forged::new().link("l", "/tmp/x").bytes();
    unpack_with(Cursor::new(leaving), &other, |unpack| unpack.links_outside = true).unwrap();
    assert_eq!(fs::read_link(other.join("l")).unwrap(), Path::new("/tmp/x"));
}

#[test]
fn one_name_is_one_thing() {
    assert_refused(&Forged::new().file("a").file("a/b").bytes(), "is no folder");
    assert_refused(&Forged::new().file("a/b").file("a").bytes(), "is no folder");
    assert_refused(&Forged::new().file("a").with(b"a/", 0o040_755, b"").bytes(), "there twice");
    // The crate writes no name twice, so a byte of another name is changed.
    let mut twice = Forged::new().file("same-1").file("same-2").bytes();
    let places: Vec<_> = (0..twice.len() - 6).filter(|at| twice[*at..].starts_with(b"same-2")).collect();
    assert_eq!(places.len(), 2);
    for at in places {
        twice[at + 5] = b'1';
    }
    assert_refused(&twice, "a name twice");
}

#[test]
fn a_second_name_must_be_that_which_others_see() {
    let forged = |exact: &[u8]| {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        let mut options = FullFileOptions::default();
        let field = Exact { modified: Timestamp::default(), path: Some(exact.to_vec()) }.encode();
        options.add_extra_field(FIELD, field, true).unwrap();
        archive.start_file("seen", options).unwrap();
        archive.finish().unwrap().into_inner()
    };
    for exact in [&b"../up"[..], b"/abs", b"other", b"a\0b", b"see%6E"] {
        assert_refused(&forged(exact), "two names");
    }
}

#[test]
fn only_files_folders_and_links_are_made() {
    for kind in [0o010_000, 0o020_000, 0o060_000, 0o140_000] {
        assert_refused(&Forged::new().with(b"d", kind | 0o666, b"").bytes(), "device, pipe or socket");
    }
    assert_refused(&Forged::new().with(b"d", 0o040_755, b"").bytes(), "not both");
    assert_refused(&Forged::new().with(b"d/", 0o100_644, b"").bytes(), "not both");
    assert_refused(&Forged::new().with(b"d/", 0o040_755, b"x").bytes(), "can't have the 1 bytes");
    let to = tempfile::tempdir().unwrap();
    let made = to.path().join("made");
    unpack(Cursor::new(Forged::new().with(b"s", 0o104_755, b"x").bytes()), &made).unwrap();
    assert_eq!(made.join("s").metadata().unwrap().mode() & 0o7777, 0o755, "no set-user-id bit is made");
}

/// The place of the only entry's head in the directory at the archive's end.
fn head(bytes: &[u8]) -> usize {
    (0..bytes.len()).find(|at| bytes[*at..].starts_with(b"PK\x01\x02")).unwrap()
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let honest = Forged::new().with(b"f", 0o100_644, &[7; 100_000]).bytes();
    // The length, at 24 of an entry's head in the directory, and at 22 of the one before its content.
    let said = |length: u32| {
        let mut bytes = honest.clone();
        let at = head(&bytes) + 24;
        bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
        bytes[22..26].copy_from_slice(&length.to_le_bytes());
        bytes
    };
    assert_refused(&said(4_000_000_000), "can't have the 4000000000 bytes");
    assert_refused(&said(99_999), "");
    assert_refused(&said(100_001), "");
}

#[test]
fn bombs_fill_no_disk() {
    let mut content = vec![1; 1 << 20];
    content.extend(vec![0; 8 << 20]);
    let bomb = Forged::new().with(b"f", 0o100_644, &content).bytes();
    assert!(bomb.len() < 32 << 10);
    let to = tempfile::tempdir().unwrap();
    let made = to.path().join("made");
    let full = unpack_with(Cursor::new(&bomb), &made, |unpack| unpack.room = (1 << 20) - 1);
    assert!(matches!(full, Err(ArchiveError::NoSpace { .. })), "{full:?}");
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
    // What is zero takes no space.
    unpack_with(Cursor::new(&bomb), &made, |unpack| unpack.room = (1 << 20) + 4096).unwrap();
    let status = made.join("f").metadata().unwrap();
    assert!(status.blocks() * 512 <= 2 << 20 && status.len() == 9 << 20, "{} blocks", status.blocks());
    assert!(fs::read(made.join("f")).unwrap() == content);

    let many = (0..100)
        .fold(Forged::new(), |forged, file| forged.with(format!("{file}").as_bytes(), 0o100_644, b""));
    let full =
        unpack_with(Cursor::new(many.bytes()), &to.path().join("many"), |unpack| unpack.room = 99 * 4096);
    assert!(matches!(full, Err(ArchiveError::NoSpace { .. })), "{full:?}");
}

#[test]
fn entries_that_share_bytes_are_refused() {
    // The second's head in the directory says that it begins where the first does.
    let mut bytes = Forged::new().file("a").file("b").bytes();
    let second = head(&bytes[head(&bytes) + 4..]) + head(&bytes) + 4;
    bytes[second + 42..second + 46].copy_from_slice(&0_u32.to_le_bytes());
    assert_refused(&bytes, "lie over each other");
}

#[test]
fn encrypted_and_unknown_content_is_refused() {
    let mut bytes = Forged::new().file("f").bytes();
    let at = head(&bytes);
    bytes[at + 8] |= 1;
    bytes[6] |= 1;
    assert_refused(&bytes, "encrypted");
    let mut bytes = Forged::new().file("f").bytes();
    bytes[at + 10] = 14;
    bytes[8] = 14;
    assert_refused(&bytes, "isn't known here");
}

#[test]
fn damaged_archives_are_refused_whole() {
    let whole = Forged::new().file("a").with(b"b", 0o100_644, &[7; 100_000]).bytes();
    for length in [0, 1, 21, 22, 60, whole.len() / 2, whole.len() - 23, whole.len() - 1] {
        assert_refused(&whole[..length], "isn't a whole ZIP archive");
    }
    // A wrong checksum, in both places where it stands.
    let mut bytes = Forged::new().file("a").bytes();
    let at = head(&bytes);
    bytes[at + 16] ^= 1;
    bytes[14] ^= 1;
    assert_refused(&bytes, "");
    // Or a name that differs before the content.
    let mut bytes = Forged::new().file("name").bytes();
    bytes[30] = b'N';
    assert_refused(&bytes, "");
    assert_refused(b"no archive at all", "isn't a whole ZIP archive");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_is_wrong_with_it_all_comes_out_or_nothing(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut in any::<prop::sample::Index>(), cuts in any::<bool>()
    ) {
        let mut bytes = Forged::new()
            .with(b"d/", 0o040_755, b"").file("d/a").with(b"b", 0o100_644, &[7; 1000]).link("l", "d/a").bytes();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        let around = tempfile::tempdir().unwrap();
        let folder = around.path().join("a");
        fs::create_dir(&folder).unwrap();
        let done = unpack(Cursor::new(&bytes), &folder.join("made"));
        let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        prop_assert_eq!(names.len(), usize::from(done.is_ok()), "{:?}", done);
        prop_assert_eq!(fs::read_dir(around.path()).unwrap().count(), 1);
    }
}

#[test]
fn more_entries_than_16_bits_count_are_there() {
    let mut archive = Writer::new(Vec::new());
    let attributes = Attributes { mode: 0o755, modified: Timestamp::default() };
    for folder in 0..70_000 {
        archive.folder(folder.to_string().as_bytes(), attributes).unwrap();
    }
    let mut bytes = archive.finish("").unwrap();
    assert!(Archive::open(Cursor::new(&bytes)).is_ok());
    bytes.truncate(bytes.len() - 1);
    assert!(Archive::open(Cursor::new(&bytes)).is_err());
}

#[test]
fn what_is_there_is_kept() {
    let to = tempfile::tempdir().unwrap();
    let archive = Forged::new().with(b"new", 0o100_644, b"new").bytes();
    let there = to.path().join("there");
    fs::create_dir(&there).unwrap();
    unpack(Cursor::new(&archive), &there).expect("an empty folder is nothing");
    let refused = unpack(Cursor::new(&archive), &there);
    assert!(matches!(refused, Err(ArchiveError::Exists { .. })), "{refused:?}");
    let file = to.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(unpack(Cursor::new(&archive), &file), Err(ArchiveError::Exists { .. })));

    fs::write(there.join("mine"), "mine").unwrap();
    let aside = to.path().join("aside");
    unpack_with(Cursor::new(&archive), &there, |unpack| unpack.replaced = Some(aside.clone())).unwrap();
    assert_eq!(paths(&there), [b"new"]);
    assert_eq!(fs::read_to_string(aside.join("mine")).unwrap(), "mine");
    // Where there's no place for it, all stays.
    let again = unpack_with(Cursor::new(&archive), &there, |unpack| unpack.replaced = Some(aside.clone()));
    assert!(matches!(again, Err(ArchiveError::Destination { .. })), "{again:?}");
    assert!(aside.join("mine").exists() && there.join("new").exists());
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 3, "nothing else is left");
}

#[test]
fn links_of_a_mount_are_written_as_the_owner_has_them() {
    let from = tempfile::tempdir().unwrap();
    for (name, target) in [
        ("a", "/m/.outside/ann/usr/bin/python3"),
        ("b", "/m/.outside/ann"),
        ("c", "/m/.outside/annabel/x"),
        ("d", "e"),
    ] {
        symlink(target, from.path().join(name)).unwrap();
    }
    let outside = Some(Path::new("/m/.outside/ann"));
    let (_, archive) =
        pack(from.path(), outside, paths(from.path()), Vec::new(), &mut |_| ControlFlow::Continue(()))
            .unwrap();
    let to = tempfile::tempdir().unwrap();
    let made = to.path().join("made");
    unpack_with(Cursor::new(archive), &made, |unpack| unpack.links_outside = true).unwrap();
    let leads = |name: &str| fs::read_link(made.join(name)).unwrap().to_str().unwrap().to_owned();
    assert_eq!(["a", "b", "c", "d"].map(leads), ["/usr/bin/python3", "/", "/m/.outside/annabel/x", "e"]);
}

#[test]
fn it_stops_when_told() {
    let from = sample();
    let archive = packed(from.path());
    let to = tempfile::tempdir().unwrap();
    let made = to.path().join("made");
    let stopped = unpack_with(Cursor::new(&archive), &made, |unpack| {
        unpack.progress = Box::leak(Box::new(|_| ControlFlow::Break(())));
    });
    assert!(matches!(stopped, Err(ArchiveError::Stopped)), "{stopped:?}");
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
    let mut output = Vec::new();
    let stopped = pack(from.path(), None, paths(from.path()), &mut output, &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(ArchiveError::Stopped)));
    assert!(Archive::open(Cursor::new(output)).is_err());
}

#[test]
fn more_than_4_gib_come_through_without_memory_for_them() {
    const SIZE: u64 = (4 << 30) + (1 << 20);
    let from = tempfile::tempdir().unwrap();
    let mut file = File::create(from.path().join("sparse")).unwrap();
    file.set_len(SIZE).unwrap();
    file.seek(SeekFrom::Start(SIZE - 5)).unwrap();
    file.write_all(b"tail!").unwrap();
    let work = tempfile::tempdir().unwrap();
    let archive = work.path().join("a.zip");
    let (done, _) = pack(from.path(), None, [b"sparse"], File::create(&archive).unwrap(), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(done.bytes, SIZE);
    let script = "import sys, zipfile; print(zipfile.ZipFile(sys.argv[1]).getinfo('sparse').file_size)";
    assert_eq!(run(Command::new("python3").args(["-c", script]).arg(&archive)).trim(), SIZE.to_string());
    let made = work.path().join("made");
    unpack_with(File::open(&archive).unwrap(), &made, |unpack| unpack.room = 1 << 20).unwrap();
    let mut copy = File::open(made.join("sparse")).unwrap();
    assert_eq!(copy.metadata().unwrap().len(), SIZE);
    copy.seek(SeekFrom::End(-5)).unwrap();
    let mut tail = String::new();
    copy.read_to_string(&mut tail).unwrap();
    assert_eq!(tail, "tail!");
    let peak = fs::read_to_string("/proc/self/status").unwrap();
    let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().to_owned();
    let kib: u64 = peak.split(' ').next().unwrap().parse().unwrap();
    assert!(kib < 400 << 10, "{peak}");
}
