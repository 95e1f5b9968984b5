//! What is kept, what is fetched ahead, and what goes.

use std::{fs, os::unix::fs::MetadataExt, path::Path, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    bed::Bed,
    sample::{random, write_random},
    wait::wait_for,
};

const MIB: u64 = 1 << 20;

/// Waits until the guest's only pin is complete, and gives it.
fn wait_until_complete(bed: &Bed, files: u64) -> Value {
    wait_for("the pin is complete", Duration::from_secs(30), || {
        let pin = bed.guest().json(&["cache", "--json"])["pins"][0].clone();
        (pin["state"] == "complete" && pin["progress"]["here_files"] == files).then_some(pin)
    })
}

/// Bytes that a folder takes on the disk.
fn on_disk(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let sizes = entries.map(|path| match path.symlink_metadata().unwrap() {
        found if found.is_dir() => on_disk(&path),
        found => found.blocks() * 512,
    });
    sizes.sum()
}

#[test]
fn a_pinned_workspace_is_complete_without_its_owner_and_follows_it() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::create_dir(workspace.join("folder")).unwrap();
    for file in 0..40 {
        write_random(&workspace.join(format!("folder/{file}")), &format!("pin {file}"), 9000 * (file + 1));
    }
    write_random(&workspace.join("large"), "pin large", 5 * MIB + 7);
    let seen = bed.share(&workspace);
    // Its workspace.yaml is one more.
    bed.guest().ask(&["pin", "owner/lab"]);
    let pin = wait_until_complete(&bed, 42);
    assert_eq!(pin["progress"]["here_bytes"], pin["progress"]["bytes"]);

    let check = || {
        for file in 0..40 {
            let content = fs::read(seen.join(format!("folder/{file}"))).unwrap();
            assert!(content == random(&format!("pin {file}"), 0, 9000 * (file + 1)), "{file}");
        }
        assert!(fs::read(seen.join("large")).unwrap() == random("pin large", 0, 5 * MIB as usize + 7));
    };
    bed.link().set(false);
    bed.guest().down();
    bed.guest().up(&[]);
    bed.guest().wait_for_workspace("owner", "lab");
    check();
    wait_until_complete(&bed, 42);

    bed.link().set(true);
    fs::write(workspace.join("new"), "came later").unwrap();
    wait_until_complete(&bed, 43);
    bed.link().set(false);
    assert_eq!(fs::read(seen.join("new")).unwrap(), b"came later");
    check();

    bed.guest().ask(&["unpin", "owner/lab"]);
    let report = bed.guest().json(&["cache", "clear", "--json"]);
    assert_eq!((&report["pins"], &report["pinned"]), (&Value::Array(vec![]), &0.into()));
    // The pack that is written to next keeps its page, and ext4 one of its own when the file was in more than four parts.
    assert!(report["used"].as_u64().unwrap() <= 8192, "{report}");
}

#[test]
fn the_limit_holds_while_files_are_read_and_pins_stay() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    for folder in ["kept", "other"] {
        fs::create_dir(workspace.join(folder)).unwrap();
    }
    for file in 0..40 {
        write_random(&workspace.join(format!("kept/{file}")), &format!("kept {file}"), 100_000);
        write_random(&workspace.join(format!("other/{file}")), &format!("other {file}"), MIB);
    }
    bed.owner().up(&[]);
    bed.owner().share(&workspace, "lab");
    bed.guest().up(&["--cache-limit", "16MiB"]);
    let seen = bed.guest().wait_for_workspace("owner", "lab");
    bed.guest().ask(&["pin", "owner/lab/kept"]);
    wait_until_complete(&bed, 40);
    let store = bed.guest().home().join("cache/store");
    for file in 0..40 {
        let open = fs::File::open(seen.join(format!("other/{file}"))).unwrap();
        let content = fs::read(seen.join(format!("other/{file}"))).unwrap();
        assert!(content == random(&format!("other {file}"), 0, MIB as usize), "{file}");
        let used: u64 = ["packs", "blobs"].map(|part| on_disk(&store.join(part))).iter().sum();
        assert!(used <= 16 * MIB, "{used}");
        drop(open);
    }
    let limit = || bed.guest().json(&["cache", "--json"])["limit"].clone();
    assert_eq!(limit(), 16 * MIB);
    bed.link().set(false);
    bed.guest().down();
    bed.guest().up(&[]);
    assert_eq!(limit(), 16 * MIB, "as said before");
    bed.guest().wait_for_workspace("owner", "lab");
    for file in 0..40 {
        let content = fs::read(seen.join(format!("kept/{file}"))).unwrap();
        assert!(content == random(&format!("kept {file}"), 0, 100_000), "{file}");
    }
}

#[test]
fn a_prefetch_brings_all_goes_on_after_it_was_stopped_and_can_be_cleared() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    write_random(&workspace.join("large"), "prefetch", 256 * MIB);
    fs::write(workspace.join("small"), "small").unwrap();
    let seen = bed.share(&workspace);
    let used = || bed.guest().json(&["cache", "--json"])["used"].as_u64().unwrap();

    let mut stopped = bed.guest().command(&["prefetch", "owner/lab/large"]);
    let stopped = stopped.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("something has come", Duration::from_secs(10), || (used() > 8 * MIB).then_some(()));
    kill_process(Pid::from_child(&stopped), Signal::INT).unwrap();
    let output = stopped.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("the same command goes on from there"), "{said}");
    bed.wait_until_quiet();
    let (before, received) = (used(), bed.received());
    assert!(before < 200 * MIB, "it wasn't stopped: {before}");

    let progress = bed.guest().json(&["prefetch", "owner/lab", "--json"]);
    assert_eq!(progress["here_bytes"], progress["bytes"]);
    let (moved, missing) = (bed.received() - received, 256 * MIB - before);
    assert!(moved < missing / 10 * 11 + 2 * MIB, "{missing} bytes were missing, and {moved} came");
    bed.link().set(false);
    assert!(fs::read(seen.join("large")).unwrap() == random("prefetch", 0, 256 * MIB as usize));
    assert_eq!(fs::read(seen.join("small")).unwrap(), b"small");
    let report = bed.guest().json(&["cache", "--json"]);
    assert_eq!(report["workspaces"][0]["place"], "owner/lab");
    assert!(report["reads_held"].as_u64().unwrap() > 100);

    let output = bed.guest().cli(&["prefetch", "owner/lba"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("no workspace 'lba'") && said.contains("lab"), "{said}");
    let output = bed.guest().cli(&["pin", "owner/lab/nothing"]);
    assert_eq!(output.status.code(), Some(1));
    bed.guest().ask(&["cache", "clear", "owner/lab"]);
    assert!(used() < MIB, "{}", used());
}
