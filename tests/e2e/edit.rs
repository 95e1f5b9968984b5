//! The owner edits what a guest sees.

use std::{
    fs::{self, File, FileTimes, OpenOptions},
    io::{BufRead, BufReader, Read},
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    bed::Bed,
    sample::{random, write_random},
    wait::wait_for,
};

const LIMIT: Duration = Duration::from_secs(3);

/// Puts a file in place of another at once, from a folder that isn't shared.
fn replace(bed: &Bed, file: &Path, write: impl FnOnce(&Path)) {
    let draft = bed.owner().files().join("draft");
    write(&draft);
    fs::rename(&draft, file).unwrap();
}

#[test]
fn an_edit_of_the_owner_is_read_within_three_seconds() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    let note = workspace.join("folder/note");
    fs::create_dir(workspace.join("folder")).unwrap();
    fs::write(&note, "one").unwrap();
    let seen = bed.share(&workspace).join("folder/note");
    assert_eq!(fs::read_to_string(&seen).unwrap(), "one");

    let reads = |content: &str| {
        wait_for(&format!("the guest reads {content:?}"), LIMIT, || {
            (fs::read_to_string(&seen).ok()? == content).then_some(())
        });
    };
    fs::write(&note, "two").unwrap();
    reads("two");
    replace(&bed, &note, |draft| fs::write(draft, "three").unwrap());
    reads("three");

    // Names that weren't there are remembered as missing, and must appear all the same.
    let fresh = seen.with_file_name("fresh");
    assert!(!fresh.exists());
    fs::write(note.with_file_name("fresh"), "new").unwrap();
    wait_for("the guest sees a new file", LIMIT, || {
        (fs::read_to_string(&fresh).ok()? == "new").then_some(())
    });
    fs::remove_file(note.with_file_name("fresh")).unwrap();
    wait_for("the guest sees that a file is gone", LIMIT, || (!fresh.exists()).then_some(()));
}

#[test]
fn case_15_an_edit_is_told_within_two_seconds() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::write(workspace.join("note"), "one").unwrap();
    let seen = bed.share(&workspace);
    let followed = bed.guest().snapshot("owner", "lab").unwrap();
    let mut follower = bed
        .guest()
        .command(&["events", "--json", "--after", "0"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = |what: &str| loop {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        if event["type"] == what {
            return event;
        }
    };
    // What came before is told first.
    assert_eq!(next("workspace_appeared")["workspace"], "lab");

    let edited = Instant::now();
    fs::write(workspace.join("note"), "two and longer").unwrap();
    let event = loop {
        let event = next("workspace_changed");
        if event["snapshot"] != followed.as_str() {
            break event;
        }
    };
    // Already when it's told, the mount shows it.
    assert_eq!(fs::metadata(seen.join("note")).unwrap().len(), 14);
    let passed = edited.elapsed();
    assert!(passed < Duration::from_secs(2), "it took {passed:?}");
    assert_eq!((&event["host"], &event["workspace"]), (&"owner".into(), &"lab".into()));
    bed.owner().ask(&["unshare", "lab"]);
    assert!(next("workspace_left")["id"].as_u64() > event["id"].as_u64());
    // It ends with the node.
    bed.guest().down();
    assert!(follower.wait().unwrap().success());
}

#[test]
fn case_13_edits_of_equal_length_and_time_are_seen() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    let file = workspace.join("x");
    fs::write(&file, "round ----\n").unwrap();
    let kept = fs::metadata(&file).unwrap().modified().unwrap();
    let seen = bed.share(&workspace).join("x");
    for round in 0..500 {
        let mut content = format!("round {round:04}\n");
        bed.edit(|| match round % 4 {
            // The same length in place: one write, so that the guest can't meet half of it.
            0 => OpenOptions::new()
                .write(true)
                .open(&file)
                .unwrap()
                .write_all_at(content.as_bytes(), 0)
                .unwrap(),
            // The same length in place, with the time put back.
            1 => {
                let open = OpenOptions::new().write(true).open(&file).unwrap();
                open.write_all_at(content.as_bytes(), 0).unwrap();
                open.set_times(FileTimes::new().set_modified(kept)).unwrap();
            }
            // Another file of the same length and time.
            2 => replace(&bed, &file, |draft| {
                fs::write(draft, &content).unwrap();
                let open = OpenOptions::new().write(true).open(draft).unwrap();
                open.set_times(FileTimes::new().set_modified(kept)).unwrap();
            }),
            // Another length; the next round has the old one again, so this one is undone below.
            _ => {
                content = content.repeat(2 + round % 7);
                replace(&bed, &file, |draft| fs::write(draft, &content).unwrap());
            }
        });
        assert_eq!(fs::read_to_string(&seen).unwrap(), content, "round {round}");
        match round % 4 {
            // The write and the putting back of the time may have been published one after the other.
            1 => wait_for("the guest sees the time put back", LIMIT, || {
                (fs::metadata(&seen).ok()?.modified().ok()? == kept).then_some(())
            }),
            3 => bed.edit(|| replace(&bed, &file, |draft| fs::write(draft, "round ----\n").unwrap())),
            _ => {}
        }
    }
}

/// Reads on in a file that was changed after its first half was read: all that is got must be old.
fn read_second_half(mut open: File, seed: &str, half: usize) {
    let mut piece = vec![0; 256 << 10];
    let mut at = half;
    loop {
        match open.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => {
                let old = random(seed, at as u64, length);
                assert!(piece[..length] == old, "bytes at {at} aren't of the version that was opened");
                at += length;
            }
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => return,
            Err(error) => panic!("at {at}: {error}"),
        }
    }
    assert_eq!(at, 2 * half, "the old version ended early");
}

#[test]
fn case_14_a_held_file_is_old_or_stale_and_never_a_mix() {
    const HALF: usize = 16 << 20;
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    let (replaced, rewritten) = (workspace.join("replaced"), workspace.join("rewritten"));
    write_random(&replaced, "replaced: old", 2 * HALF as u64);
    write_random(&rewritten, "rewritten: old", 2 * HALF as u64);
    let seen = bed.share(&workspace);

    let open_at_half = |name: &str| {
        let mut open = File::open(seen.join(name)).unwrap();
        let mut first = vec![0; HALF];
        open.read_exact(&mut first).unwrap();
        assert!(first == random(&format!("{name}: old"), 0, HALF), "wrong bytes");
        open
    };

    let open = open_at_half("replaced");
    bed.edit(|| replace(&bed, &replaced, |draft| write_random(draft, "replaced: new", 2 * HALF as u64)));
    read_second_half(open, "replaced: old", HALF);
    assert!(
        fs::read(seen.join("replaced")).unwrap() == random("replaced: new", 0, 2 * HALF),
        "not the new version"
    );

    // In place: the owner itself has the old bytes no more. One write, so that there is one edit.
    let open = open_at_half("rewritten");
    let new = random("rewritten: new", 0, 2 * HALF);
    bed.edit(|| OpenOptions::new().write(true).open(&rewritten).unwrap().write_all_at(&new, 0).unwrap());
    read_second_half(open, "rewritten: old", HALF);
    wait_for("the new version is read", LIMIT, || {
        (fs::read(seen.join("rewritten")).ok()? == new).then_some(())
    });
}

#[test]
fn a_host_that_comes_later_appears_in_a_listing_made_before() {
    let Some(bed) = Bed::new() else { return };
    let folder = bed.workspace("lab");
    fs::write(folder.join("f"), "here").unwrap();
    bed.guest().up(&[]);
    let mount = bed.guest().mount();
    let listed = |folder: &Path| -> Vec<_> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(listed(&mount), [""; 0]);

    bed.owner().up(&[]);
    bed.owner().share(&folder, "lab");
    // Names are never looked up here, only listed.
    wait_for("the host is listed", Duration::from_secs(10), || {
        listed(&mount).contains(&"owner".into()).then_some(())
    });
    assert_eq!(listed(&mount.join("owner")), ["lab"]);

    let second = bed.workspace("second");
    bed.owner().share(&second, "second");
    let both = || listed(&mount.join("owner")).contains(&"second".into()).then_some(());
    wait_for("the second workspace is listed", Duration::from_secs(10), both);
    bed.owner().ask(&["unshare", "second"]);
    let gone = || (!listed(&mount.join("owner")).contains(&"second".into())).then_some(());
    wait_for("it is gone when it isn't shared any more", Duration::from_secs(10), gone);
}
