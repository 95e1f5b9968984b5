//! The guest changes what it sees, and keeps what it changed.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rustix::fs::{FallocateFlags, FlockOperation, RenameFlags};

use crate::{
    bed::Bed,
    node::{stdout, within},
    sample::{random, sha256, write_random},
    wait::wait_for,
};

fn is_full() -> bool {
    env::var_os("TWINSHARE_TEST_FULL").is_some_and(|value| value == "1")
}

fn restart(bed: &Bed) {
    bed.guest().down();
    bed.guest().up(&[]);
    bed.guest().wait_for_workspace("owner", "lab");
}

#[test]
fn changes_stay_with_the_guest_and_fetch_only_what_they_must() {
    const SIZE: u64 = 64 << 20;
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    for name in ["one-byte", "cut", "replaced", "emptied"] {
        write_random(&workspace.join(name), name, SIZE);
    }
    let before = sha256(&workspace.join("one-byte"));
    let seen = bed.share(&workspace);
    bed.wait_until_quiet();
    let received = bed.received();

    let file = OpenOptions::new().write(true).open(seen.join("one-byte")).unwrap();
    file.write_all_at(b"!", SIZE / 2).unwrap();
    file.sync_all().unwrap();
    OpenOptions::new().write(true).open(seen.join("cut")).unwrap().set_len(1000).unwrap();
    fs::write(seen.join("draft"), "all new").unwrap();
    fs::rename(seen.join("draft"), seen.join("replaced")).unwrap();
    fs::write(seen.join("emptied"), "short").unwrap();
    fs::rename(seen.join("one-byte"), seen.join("elsewhere")).unwrap();
    let moved = bed.received() - received;
    assert!(moved < 1 << 20, "changing files of 64 MiB moved {moved} bytes");

    let mut expected = random("one-byte", 0, SIZE as usize);
    expected[SIZE as usize / 2] = b'!';
    for _ in 0..2 {
        assert!(fs::read(seen.join("elsewhere")).unwrap() == expected, "the rest is the owner's");
        assert_eq!(fs::read(seen.join("cut")).unwrap(), random("cut", 0, 1000));
        assert_eq!(fs::read_to_string(seen.join("replaced")).unwrap(), "all new");
        assert_eq!(fs::read_to_string(seen.join("emptied")).unwrap(), "short");
        assert!(!seen.join("one-byte").exists());
        restart(&bed);
    }
    assert_eq!(sha256(&workspace.join("one-byte")), before, "the owner's file is untouched");
    assert_eq!(fs::read_dir(&workspace).unwrap().count(), 5);
}

#[test]
fn a_folder_of_20000_files_is_renamed_without_moving_content() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    for folder in 0..100 {
        let path = workspace.join(format!("large/{folder}"));
        fs::create_dir_all(&path).unwrap();
        for file in 0..200 {
            fs::write(path.join(file.to_string()), format!("{folder}/{file}")).unwrap();
        }
    }
    let seen = bed.share(&workspace);
    bed.wait_until_quiet();
    let received = bed.received();
    let start = Instant::now();
    fs::rename(seen.join("large"), seen.join("renamed")).unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "it took {:?}", start.elapsed());
    let moved = bed.received() - received;
    assert!(moved < 1 << 20, "renaming moved {moved} bytes");
    let found = stdout(within(60, "find").arg(seen.join("renamed")).args(["-type", "f"]));
    assert_eq!(found.lines().count(), 20_000);
    assert_eq!(fs::read_to_string(seen.join("renamed/42/7")).unwrap(), "42/7");
    assert!(!seen.join("large").exists());
}

#[test]
fn case_22_a_read_only_mount_answers_erofs_and_shows_the_changes() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::write(workspace.join("f"), "owner's").unwrap();
    let seen = bed.share(&workspace);
    fs::write(seen.join("g"), "guest's").unwrap();
    bed.guest().down();
    bed.guest().up(&["--read-only"]);
    bed.guest().wait_for_workspace("owner", "lab");
    assert_eq!(fs::read_to_string(seen.join("g")).unwrap(), "guest's");
    let refused = |what: &str, outcome: io::Result<()>| {
        assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EROFS), "{what}");
    };
    refused("make", fs::write(seen.join("new"), ""));
    refused("write", OpenOptions::new().write(true).open(seen.join("f")).map(|_| ()));
    refused("mkdir", fs::create_dir(seen.join("d")));
    refused("symlink", symlink("f", seen.join("l")));
    refused("link", fs::hard_link(seen.join("f"), seen.join("l")));
    refused("rename", fs::rename(seen.join("f"), seen.join("l")));
    refused("remove", fs::remove_file(seen.join("f")));
    refused("chmod", fs::set_permissions(seen.join("f"), fs::metadata(&workspace).unwrap().permissions()));
}

#[test]
fn case_02_locks_maps_holes_and_copies_work() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    write_random(&workspace.join("f"), "f", 1 << 20);
    stdout(
        within(20, "sqlite3")
            .arg(workspace.join("d.db"))
            .arg("create table t (n); insert into t values (1);"),
    );
    let seen = bed.share(&workspace);
    let path = seen.join("f");

    // Locks exclude other programs of this machine.
    let lock = |arguments: &[&str]| {
        within(20, "flock").args(arguments).arg(&path).arg("true").status().unwrap().success()
    };
    assert!(lock(&["-n"]));
    let held = File::open(&path).unwrap();
    rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
    assert!(!lock(&["-n"]));
    drop(held);
    assert!(lock(&["-n"]));
    let query = format!("file:{}?mode=ro", seen.join("d.db").display());
    assert_eq!(stdout(within(20, "sqlite3").args([&query, ".tables"])).trim(), "t");

    // What is written through a shared map is in the file, and the other way round.
    let map = "import mmap, sys\n\
               f = open(sys.argv[1], 'r+b')\n\
               m = mmap.mmap(f.fileno(), 0)\n\
               m[5000:5005] = b'MAPPD'; m.flush()\n\
               f.seek(4999); assert f.read(7)[1:6] == b'MAPPD'\n\
               f.seek(70000); f.write(b'written'); f.flush()\n\
               assert m[70000:70007] == b'written'";
    stdout(within(20, "python3").args(["-c", map]).arg(&path));
    let mut expected = random("f", 0, 1 << 20);
    expected[5000..5005].copy_from_slice(b"MAPPD");
    expected[70_000..70_007].copy_from_slice(b"written");
    assert!(fs::read(&path).unwrap() == expected);

    // Holes are made and found; what is copied within the mount is what was there.
    let mut file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 1 << 18, 1 << 18).unwrap();
    expected[1 << 18..1 << 19].fill(0);
    let at = |what| rustix::fs::seek(&file, what).unwrap();
    assert_eq!(at(rustix::fs::SeekFrom::Hole(0)), 1 << 18);
    assert_eq!(at(rustix::fs::SeekFrom::Data(1 << 18)), 1 << 19);
    file.seek(SeekFrom::Start(0)).unwrap();
    let copy = File::create_new(seen.join("copy")).unwrap();
    let mut left = 1 << 20;
    while left > 0 {
        left -= rustix::fs::copy_file_range(&file, None, &copy, None, left).unwrap();
    }
    assert!(fs::read(seen.join("copy")).unwrap() == expected);

    // A file without a name is refused as such, so that programs fall back; a removed one goes on.
    let nameless =
        rustix::fs::open(&seen, rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR, 0o600.into());
    assert_eq!(nameless.unwrap_err(), rustix::io::Errno::OPNOTSUPP);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "another").unwrap();
    let mut old = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut old).unwrap();
    assert!(old == expected, "the open file is the old one");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    assert_eq!(fs::read_to_string(&path).unwrap(), "another");
}

#[test]
fn changes_are_shown_taken_back_and_merged() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::create_dir(workspace.join("d")).unwrap();
    for (name, content) in
        [("edit.txt", "one\ntwo\nthree\n"), ("gone", "x"), ("d/moved", "y"), ("both.py", "base\n")]
    {
        fs::write(workspace.join(name), content).unwrap();
    }
    let seen = bed.share(&workspace);
    let guest = bed.guest();
    assert_eq!(guest.ask(&["diff", "owner/lab"]), "");
    fs::write(seen.join("edit.txt"), "one\n2\nthree\n").unwrap();
    fs::remove_file(seen.join("gone")).unwrap();
    fs::rename(seen.join("d/moved"), seen.join("here")).unwrap();
    fs::write(seen.join("d/new"), "made\n").unwrap();
    fs::write(seen.join("both.py"), "guest\n").unwrap();
    assert_eq!(
        guest.ask(&["diff", "owner/lab"]),
        "M both.py\nA d/new\nM edit.txt\nD gone\nR here (from d/moved)\n"
    );
    let text = guest.ask(&["diff", "owner/lab/edit.txt", "--text"]);
    assert_eq!(text, "--- a/edit.txt\n+++ b/edit.txt\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n");
    assert_eq!(guest.json(&["diff", "owner/lab/d", "--json"])[0]["kind"], "made");

    // Taken back, the owner's shows at once, to programs as well.
    assert_eq!(guest.ask(&["discard", "owner/lab/edit.txt"]), "discarded:\n  edit.txt\n");
    assert_eq!(fs::read_to_string(seen.join("edit.txt")).unwrap(), "one\ntwo\nthree\n");
    guest.ask(&["discard", "owner/lab/gone"]);
    wait_for("the owner's file shows again", Duration::from_secs(5), || {
        seen.join("gone").exists().then_some(())
    });
    let nothing = guest.cli(&["discard", "owner/lab/gone"]);
    assert!(!nothing.status.success());
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("nothing was changed"), "{nothing:?}");

    // The owner goes on meanwhile.
    bed.edit(|| fs::write(workspace.join("both.py"), "owner\n").unwrap());
    assert_eq!(fs::read_to_string(seen.join("both.py")).unwrap(), "guest\n");
    let report = guest.json(&["pull", "owner/lab", "--json"]);
    let theirs = report["conflicts"][0]["theirs"].as_str().unwrap().to_owned();
    assert_eq!(report["conflicts"].as_array().unwrap().len(), 1, "{report}");
    assert!(theirs.starts_with("both.owner-") && theirs.ends_with(".py"), "{theirs}");
    assert_eq!(fs::read_to_string(seen.join(&theirs)).unwrap(), "owner\n");
    assert_eq!(fs::read_to_string(seen.join("both.py")).unwrap(), "guest\n");
    assert_eq!(guest.ask(&["pull", "owner/lab"]), "up to date: no conflicts\n");
    guest.ask(&["discard", "owner/lab"]);
    assert_eq!(guest.ask(&["diff", "owner/lab"]), "");
    wait_for("all is the owner's again", Duration::from_secs(5), || {
        (fs::read_to_string(seen.join("both.py")).ok()? == "owner\n"
            && !seen.join(&theirs).exists()
            && seen.join("d/moved").exists())
        .then_some(())
    });
}

#[test]
fn earlier_snapshots_stay_as_they_were_and_cant_be_changed() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::create_dir(workspace.join("d")).unwrap();
    for (name, content) in [("same", "the same"), ("edited", "first"), ("d/removed", "there")] {
        fs::write(workspace.join(name), content).unwrap();
    }
    let seen = bed.share(&workspace);
    let first = bed.guest().snapshot("owner", "lab").unwrap();
    assert_eq!(fs::read_to_string(seen.join("edited")).unwrap(), "first");
    bed.edit(|| fs::write(workspace.join("edited"), "second").unwrap());
    bed.edit(|| fs::remove_file(workspace.join("d/removed")).unwrap());
    let history = wait_for("the owner keeps the last snapshot", Duration::from_secs(10), || {
        let history = bed.guest().json(&["history", "owner/lab", "--json"]);
        (history[0]["snapshot"] == bed.guest().snapshot("owner", "lab")?).then_some(history)
    });
    let names: Vec<_> =
        history.as_array().unwrap().iter().map(|one| one["snapshot"].as_str().unwrap()).collect();
    assert!(names.len() >= 3 && names.contains(&first.as_str()), "{history}");
    let text = bed.guest().ask(&["history", "owner/lab"]);
    assert!(text.contains(&format!("lab@{}", &first[..8])), "{text}");

    for name in [&first[..8], &first[..]] {
        let old = seen.with_file_name(format!("lab@{name}"));
        assert_eq!(fs::read_to_string(old.join("same")).unwrap(), "the same");
        // The guest has read it, so it holds it.
        assert_eq!(fs::read_to_string(old.join("edited")).unwrap(), "first");
        // Nobody holds this one any more.
        assert!(old.join("d/removed").exists());
        assert_eq!(fs::read(old.join("d/removed")).unwrap_err().raw_os_error(), Some(libc::ESTALE));
        assert_eq!(fs::metadata(&old).unwrap().mode() & 0o222, 0, "no write bits");
        assert_eq!(fs::write(old.join("new"), "").unwrap_err().raw_os_error(), Some(libc::EROFS));
        assert_eq!(fs::remove_file(old.join("same")).unwrap_err().raw_os_error(), Some(libc::EROFS));
        let write =
            OpenOptions::new().write(true).open(old.join("same")).and_then(|mut file| file.write_all(b"x"));
        assert_eq!(write.unwrap_err().raw_os_error(), Some(libc::EROFS));
    }
    assert!(!seen.with_file_name("lab@00000000").exists());
    assert!(!seen.with_file_name("lab@12").exists(), "too few digits");
    assert_eq!(fs::read_to_string(seen.join("edited")).unwrap(), "second");
    // Also after the owner has been down.
    bed.owner().down();
    bed.owner().up(&[]);
    let old = seen.with_file_name(format!("lab@{}", &first[..12]));
    wait_for("the owner is back", Duration::from_secs(30), || fs::read_to_string(old.join("same")).ok());
}

#[test]
fn what_the_owner_keeps_can_be_read_whoever_has_it() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    let large = random("kept", 0, 3_000_000);
    fs::write(workspace.join("large"), &large).unwrap();
    fs::write(workspace.join("small"), "first").unwrap();
    bed.owner().up(&[]);
    let path = workspace.to_str().unwrap();
    bed.owner().ask(&["share", path, "--name", "lab", "--access", "public", "--keep", "--wait"]);
    let copies = bed.owner().home().join("state/kept");
    let count = || -> usize {
        let folders =
            |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        folders(&copies)
            .flat_map(|one| folders(&one).collect::<Vec<_>>())
            .map(|one| folders(&one).count())
            .sum()
    };
    // With the manifest.
    wait_for("the owner keeps copies", Duration::from_secs(10), || (count() == 3).then_some(()));
    bed.guest().up(&[]);
    let seen = bed.guest().wait_for_workspace("owner", "lab");
    let first = bed.guest().snapshot("owner", "lab").unwrap();
    bed.edit(|| fs::write(workspace.join("large"), "other").unwrap());
    bed.edit(|| fs::remove_file(workspace.join("small")).unwrap());
    // The guest has read neither before.
    let old = seen.with_file_name(format!("lab@{}", &first[..8]));
    assert_eq!(fs::read_to_string(old.join("small")).unwrap(), "first");
    assert!(fs::read(old.join("large")).unwrap() == large);
    bed.owner().ask(&["share", path, "--keep=false"]);
    wait_for("the copies are gone", Duration::from_secs(10), || (count() == 0).then_some(()));
}

/// Applies an OCI layer to a folder with the system's tar.
fn apply(layer: &Path, folder: &Path) {
    let names = stdout(within(60, "tar").arg("tf").arg(layer));
    for mark in names.lines().map(Path::new) {
        let (parent, name) =
            (folder.join(mark.parent().unwrap()), mark.file_name().unwrap().to_str().unwrap());
        if name == ".wh..wh..opq" {
            // What hides nothing is allowed.
            let _ = fs::remove_dir_all(parent);
        } else if let Some(gone) = name.strip_prefix(".wh.") {
            let gone = parent.join(gone);
            if fs::symlink_metadata(&gone).unwrap().is_dir() {
                fs::remove_dir_all(gone).unwrap();
            } else {
                fs::remove_file(gone).unwrap();
            }
        } else if !mark.as_os_str().to_str().unwrap().ends_with('/') && folder.join(mark).is_dir() {
            // Containerd and others do so too; tar refuses.
            fs::remove_dir_all(folder.join(mark)).unwrap();
        }
    }
    let mut tar = within(60, "tar");
    stdout(tar.args(["xpf"]).arg(layer).args(["--exclude=.wh.*", "-C"]).arg(folder));
}

#[test]
fn a_layer_can_be_exported_for_container_images() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    for folder in ["d/deep", "gone", "replaced/old", "swapped"] {
        fs::create_dir_all(workspace.join(folder)).unwrap();
    }
    for file in
        ["same", "edited", "removed", "moved", "d/one", "d/deep/two", "gone/x", "replaced/old/y", "swapped/z"]
    {
        fs::write(workspace.join(file), file).unwrap();
    }
    symlink("one", workspace.join("d/link")).unwrap();
    write_random(&workspace.join("large"), "large", 3 << 20);
    let seen = bed.share(&workspace);
    fs::write(seen.join("new"), "new").unwrap();
    fs::create_dir(seen.join("folder")).unwrap();
    fs::write(seen.join("folder/inside"), "inside").unwrap();
    fs::write(seen.join("edited"), "edited here").unwrap();
    File::options().write(true).open(seen.join("large")).unwrap().write_all_at(b"changed", 2 << 20).unwrap();
    fs::remove_file(seen.join("removed")).unwrap();
    fs::remove_dir_all(seen.join("gone")).unwrap();
    fs::rename(seen.join("moved"), seen.join("elsewhere")).unwrap();
    fs::rename(seen.join("d"), seen.join("e")).unwrap();
    fs::write(seen.join("e/deep/two"), "changed in what moved").unwrap();
    fs::remove_dir_all(seen.join("replaced")).unwrap();
    fs::create_dir(seen.join("replaced")).unwrap();
    fs::write(seen.join("replaced/new"), "new").unwrap();
    fs::remove_dir_all(seen.join("swapped")).unwrap();
    fs::write(seen.join("swapped"), "a file now").unwrap();
    symlink("new", seen.join("link")).unwrap();

    let layer = bed.folder().join("layer.tar");
    let export = ["layer", "export", "owner/lab", layer.to_str().unwrap()];
    let said = bed.guest().ask(&export);
    assert!(said.contains("entries"), "{said}");
    apply(&layer, &workspace);
    assert_eq!(everything(&workspace), everything(&seen));
    let again = bed.guest().cli(&export);
    assert!(String::from_utf8_lossy(&again.stderr).contains("File exists"), "{again:?}");
}

#[test]
fn what_is_pushed_is_the_owners_once_they_allow_it() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    for folder in ["d", "gone/deep", "large"] {
        fs::create_dir_all(workspace.join(folder)).unwrap();
    }
    for (name, content) in [
        ("edit", "one"),
        ("gone/f", "x"),
        ("gone/deep/g", "y"),
        ("d/moved", "z"),
        ("a", "A"),
        ("b", "B"),
        ("tool", "#!"),
    ] {
        fs::write(workspace.join(name), content).unwrap();
    }
    write_random(&workspace.join("large/model"), "model", 8 << 20);
    fs::write(workspace.join(".env"), "a secret that isn't shared").unwrap();
    fs::write(workspace.join("gone/.env"), "another").unwrap();
    let seen = bed.share(&workspace);
    let (owner, guest) = (bed.owner(), bed.guest());
    assert_eq!(guest.ask(&["push", "owner/lab"]), "nothing to push\n");

    fs::write(seen.join("edit"), "two").unwrap();
    fs::remove_dir_all(seen.join("gone")).unwrap();
    fs::rename(seen.join("d/moved"), seen.join("here")).unwrap();
    fs::rename(seen.join("large"), seen.join("renamed")).unwrap();
    fs::create_dir(seen.join("new")).unwrap();
    write_random(&seen.join("new/file"), "new", 3 << 20);
    symlink("edit", seen.join("new/link")).unwrap();
    stdout(within(20, "chmod").arg("755").arg(seen.join("tool")));
    // Two change places.
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        seen.join("a"),
        rustix::fs::CWD,
        seen.join("b"),
        RenameFlags::EXCHANGE,
    )
    .unwrap();

    // Without the owner's consent nothing is changed; they are asked.
    let refused = guest.cli(&["push", "owner/lab"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("has been asked"), "{refused:?}");
    let requests = owner.json(&["requests", "--json"]);
    assert_eq!((&requests[0]["host"], &requests[0]["write"]), (&"guest".into(), &true.into()), "{requests}");
    assert_eq!(fs::read_to_string(workspace.join("edit")).unwrap(), "one");
    owner.ask(&["requests", "allow", "lab", "guest", "--write"]);

    // What the owner has changed meanwhile isn't written over.
    bed.edit(|| fs::write(workspace.join("edit"), "the owner's").unwrap());
    let refused = guest.cli(&["push", "owner/lab"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("the owner has changed edit"), "{refused:?}");
    assert!(workspace.join("gone/f").exists(), "all of it or nothing");
    guest.ask(&["pull", "owner/lab"]);
    let received = bed.received();
    let pushed = guest.ask(&["push", "owner/lab"]);
    assert!(pushed.ends_with(" changes pushed\n"), "{pushed}");
    assert!(bed.received() - received < 1 << 20, "what the owner has isn't fetched for a push");

    assert_eq!(fs::read_to_string(workspace.join("edit")).unwrap(), "two");
    assert_eq!(fs::read_to_string(workspace.join("here")).unwrap(), "z");
    assert_eq!(
        (fs::read_to_string(workspace.join("a")).unwrap(), fs::read_to_string(workspace.join("b")).unwrap()),
        ("B".into(), "A".into())
    );
    assert!(fs::read(workspace.join("renamed/model")).unwrap() == random("model", 0, 8 << 20));
    assert!(fs::read(workspace.join("new/file")).unwrap() == random("new", 0, 3 << 20));
    assert_eq!(fs::read_link(workspace.join("new/link")).unwrap(), Path::new("edit"));
    assert_eq!(fs::metadata(workspace.join("tool")).unwrap().mode() & 0o777, 0o755);
    assert!(
        !workspace.join("d/moved").exists()
            && !workspace.join("large").exists()
            && !workspace.join("gone/f").exists()
    );
    // What wasn't shared is nobody's to remove.
    assert!(workspace.join("gone/.env").exists() && workspace.join(".env").exists());
    let left: Vec<_> = fs::read_dir(&workspace).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".twinshare-incoming")), "{left:?}");

    // And the guest has nothing more to say.
    wait_for("the guest's layer is empty", Duration::from_secs(10), || {
        guest.ask(&["pull", "owner/lab"]);
        let rest = guest.ask(&["diff", "owner/lab"]);
        // The conflict's other version stays until it's removed.
        rest.lines().all(|line| line.starts_with('U')).then_some(())
    });
    assert!(fs::read(seen.join("renamed/model")).unwrap() == random("model", 0, 8 << 20));
    assert_eq!(fs::read_to_string(seen.join("edit")).unwrap(), "two");
    owner.ask(&["requests", "deny", "lab", "guest"]);
}

// --- Random operations, compared with this machine's own disk ---------------------------------------------------------

/// What one operation came to: an error's number, or what was read.
type Outcome = Result<Vec<u8>, Option<i32>>;

fn outcome<T: Into<Vec<u8>>>(result: io::Result<T>) -> Outcome {
    result.map(Into::into).map_err(|error| error.raw_os_error())
}

/// One random operation, the same for the same state of `random`.
fn operate(root: &Path, random: &mut SmallRng) -> Outcome {
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let mut pick = |depth: usize| -> PathBuf {
        let depth = random.random_range(1..=depth);
        (0..depth).fold(root.to_path_buf(), |path, _| path.join(NAMES[random.random_range(0..NAMES.len())]))
    };
    let (path, other) = (pick(3), pick(3));
    let (offset, length) = (random.random_range(0..100_000_u64), random.random_range(1..5000_usize));
    let bytes = vec![random.random::<u8>(); length];
    let nothing = |result: io::Result<()>| outcome(result.map(|()| Vec::new()));
    let open = || OpenOptions::new().read(true).write(true).open(&path);
    match random.random_range(0..16) {
        0 | 1 => nothing(fs::create_dir(&path)),
        2 | 3 => nothing(fs::write(&path, &bytes)),
        4 => nothing(open().and_then(|file| file.write_all_at(&bytes, offset))),
        5 => nothing(open().and_then(|file| file.set_len(offset))),
        6 => nothing(fs::remove_file(&path)),
        7 => nothing(fs::remove_dir(&path)),
        8 | 9 => nothing(fs::rename(&path, &other)),
        10 => {
            let flags = if random.random() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
            let cwd = rustix::fs::CWD;
            nothing(rustix::fs::renameat_with(cwd, &path, cwd, &other, flags).map_err(io::Error::from))
        }
        11 => nothing(fs::hard_link(&path, &other)),
        12 => nothing(symlink(NAMES[random.random_range(0..NAMES.len())], &path)),
        13 => outcome(fs::read(&path)),
        14 => {
            let mode = [0o600, 0o644, 0o755][random.random_range(0..3)];
            nothing(fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)))
        }
        _ => nothing(OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(&bytes))),
    }
}

/// Everything below a folder, as far as it must be the same on any disk.
fn everything(root: &Path) -> BTreeMap<PathBuf, (u32, u64, u64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let content = if stat.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else if stat.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            // How much a folder counts and takes is the file system's own.
            let (links, size) = if stat.is_dir() { (0, 0) } else { (stat.nlink(), stat.size()) };
            all.insert(path.strip_prefix(root).unwrap().to_path_buf(), (stat.mode(), links, size, content));
        }
    }
    all
}

#[test]
fn random_operations_do_what_they_do_on_an_own_disk() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    for path in ["a", "b/c", "b/d", "e/f/a"] {
        fs::create_dir_all(workspace.join(path).parent().unwrap()).unwrap();
        write_random(&workspace.join(path), path, 50_000);
    }
    let seen = bed.share(&workspace);
    fs::remove_file(seen.join("workspace.yaml")).unwrap();
    let own = bed.folder().join("own");
    fs::create_dir(&own).unwrap();
    stdout(within(20, "cp").args(["-a", "a", "b", "e"]).arg(&own).current_dir(&workspace));

    let (steps, seed) = (if is_full() { 100_000 } else { 10_000 }, 20_261_126);
    let mut random = [SmallRng::seed_from_u64(seed), SmallRng::seed_from_u64(seed)];
    for step in 1..=steps {
        let before = random[0].clone();
        let (expected, found) = (operate(&own, &mut random[0]), operate(&seen, &mut random[1]));
        assert!(found == expected, "step {step}, {before:?}: {found:?} instead of {expected:?}");
        if step % 500 == 0 {
            assert_eq!(everything(&seen), everything(&own), "after step {step}");
        }
        if step % 2500 == 0 {
            restart(&bed);
        }
    }
}

// --- The daemon is killed ---------------------------------------------------------------------------------------------

/// Writes files one after the other until the daemon is gone; gives how many were acknowledged.
fn write_until_killed(folder: PathBuf, round: u32) -> u32 {
    fs::create_dir(&folder).unwrap();
    for number in 0.. {
        let written = (|| {
            let draft = folder.join("draft");
            let mut file = File::create(&draft)?;
            let content = random(&format!("{round}/{number}"), 0, 20_000);
            file.write_all(&content[..9_000])?;
            file.write_all(&content[9_000..])?;
            drop(file);
            fs::rename(&draft, folder.join(number.to_string()))
        })();
        if written.is_err() {
            return number;
        }
    }
    unreachable!("the daemon is killed at some time")
}

#[test]
fn what_was_acknowledged_survives_kills_of_the_daemon() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::write(workspace.join("f"), "owner's").unwrap();
    let seen = bed.share(&workspace);
    for round in 0..if is_full() { 200 } else { 20 } {
        let folder = seen.join(format!("round{round}"));
        let (writing, at) = (folder.clone(), round);
        let writer = std::thread::spawn(move || write_until_killed(writing, at));
        // Somewhere within its first files.
        wait_for("some files are written", Duration::from_secs(20), || {
            folder.join((round % 7).to_string()).exists().then_some(())
        });
        bed.guest().kill();
        bed.guest().up(&[]);
        bed.guest().wait_for_workspace("owner", "lab");
        let acknowledged = writer.join().unwrap();
        assert!(acknowledged > round % 7, "round {round}: {acknowledged} files");
        for number in 0..acknowledged {
            let content = fs::read(folder.join(number.to_string())).unwrap();
            assert!(
                content == random(&format!("{round}/{number}"), 0, 20_000),
                "round {round}, file {number}"
            );
        }
        // One more may have got its name unacknowledged; then it's whole as well.
        let next = folder.join(acknowledged.to_string());
        if next.exists() {
            assert!(fs::read(next).unwrap() == random(&format!("{round}/{acknowledged}"), 0, 20_000));
        }
        fs::remove_dir_all(&folder).unwrap();
    }
    assert_eq!(fs::read_to_string(seen.join("f")).unwrap(), "owner's");
}

// --- While others do something ----------------------------------------------------------------------------------------

#[test]
fn case_07_listings_are_whole_while_something_deletes() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    for number in 0..5000 {
        fs::write(workspace.join(format!("n{number:04}")), "").unwrap();
    }
    fs::create_dir(workspace.join("huge")).unwrap();
    for number in 0..100_000 {
        fs::write(workspace.join(format!("huge/{number}")), "").unwrap();
    }
    let seen = bed.share(&workspace);
    for (option, limit) in [("-U", 5), ("-l", 15)] {
        let began = Instant::now();
        let listed = stdout(within(60, "ls").arg(option).arg(seen.join("huge")));
        assert!(began.elapsed() < Duration::from_secs(limit), "ls {option} took {:?}", began.elapsed());
        assert!(listed.lines().count() >= 100_000);
    }
    let list = |mut meanwhile: Box<dyn FnMut(usize) + '_>| {
        let mut names = Vec::new();
        for (index, entry) in fs::read_dir(&seen).unwrap().enumerate() {
            names.push(entry.unwrap().file_name().into_string().unwrap());
            meanwhile(index);
        }
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "an entry came twice");
        names
    };
    // The owner deletes half of them while the guest lists; then the guest itself does.
    let mut next = 0;
    let names = list(Box::new(|_| {
        if next < 2500 {
            fs::remove_file(workspace.join(format!("n{next:04}"))).unwrap();
            next += 1;
        }
    }));
    assert!((2500..5000).all(|number| names.binary_search(&format!("n{number:04}")).is_ok()));
    wait_for("the guest sees what is left", Duration::from_secs(20), || {
        (fs::read_dir(&seen).unwrap().count() == 2502).then_some(())
    });
    let mut next = 2500;
    let names = list(Box::new(|_| {
        if next < 3750 {
            fs::remove_file(seen.join(format!("n{next:04}"))).unwrap();
            next += 1;
        }
    }));
    assert!((3750..5000).all(|number| names.binary_search(&format!("n{number:04}")).is_ok()));
    assert_eq!(fs::read_dir(&seen).unwrap().count(), 1252);
}

#[test]
fn case_33_a_file_that_changes_under_many_readers_hangs_nothing() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::write(workspace.join("f"), "0".repeat(10_000)).unwrap();
    let seen = bed.share(&workspace);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let rounds = if is_full() { 1000 } else { 200 };
    std::thread::scope(|threads| {
        for _ in 0..20 {
            threads.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    // It may be gone, or old and gone; never half of one and half of another.
                    if let Ok(content) = fs::read(seen.join("f")) {
                        assert!(content.iter().all(|byte| Some(byte) == content.first()), "a mix");
                    }
                }
            });
        }
        for round in 0..rounds {
            let draft = bed.owner().files().join("draft");
            fs::write(&draft, ((round % 10) as u8 + b'0').to_string().repeat(10_000)).unwrap();
            fs::rename(&draft, workspace.join("f")).unwrap();
            if round % 10 == 9 {
                fs::remove_file(workspace.join("f")).unwrap();
                bed.guest().json(&["status", "--json"]);
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    fs::write(workspace.join("f"), "the last").unwrap();
    wait_for("the guest sees the last", Duration::from_secs(10), || {
        (fs::read_to_string(seen.join("f")).ok()? == "the last").then_some(())
    });
    let start = Instant::now();
    bed.guest().down();
    assert!(start.elapsed() < Duration::from_secs(10), "it took {:?} to end", start.elapsed());
}

/// Others of this machine come in only when they are let in, and then permissions count.
#[test]
fn other_users_are_let_in_on_request_only() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::write(workspace.join("open"), "for all").unwrap();
    fs::write(workspace.join("private"), "mine").unwrap();
    fs::set_permissions(workspace.join("private"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    let seen = bed.share(&workspace);
    let reads = |name: &str| {
        let mut command = within(20, "setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"]);
        command.arg(seen.join(name)).output().unwrap().status.success()
    };
    assert!(!reads("open"));
    bed.guest().down();
    bed.guest().up(&["--allow-other"]);
    bed.guest().wait_for_workspace("owner", "lab");
    for folder in [bed.guest().home(), bed.guest().mount()] {
        for above in folder.ancestors().take_while(|above| above.starts_with(bed.folder())) {
            if above != seen {
                let _ = fs::set_permissions(above, std::os::unix::fs::PermissionsExt::from_mode(0o755));
            }
        }
    }
    assert!(reads("open"));
    assert!(!reads("private"), "permissions count");
}
