//! What a launch has read once comes ahead of the next.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::Duration,
};

use crate::{
    bed::Bed,
    node::stdout,
    sample::{random, write_random},
    wait::wait_for,
};

const MIB: u64 = 1 << 20;

/// How many profiles a node keeps.
fn profiles(home: &Path) -> usize {
    let workspaces = fs::read_dir(home.join("state/profiles")).into_iter().flatten();
    workspaces.flat_map(|workspace| fs::read_dir(workspace.unwrap().path()).unwrap()).count()
}

#[test]
fn what_one_guest_has_launched_comes_ahead_of_the_next_launch() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::create_dir(workspace.join("parts")).unwrap();
    for part in 0..30 {
        write_random(&workspace.join(format!("parts/{part}")), &format!("part {part}"), 20_000);
    }
    write_random(&workspace.join("large"), "large", 40 * MIB);
    write_random(&workspace.join("unused"), "unused", 40 * MIB);
    let tool = workspace.join("tool");
    // Reads the parts, and one MiB out of the midst of the large one.
    let script = "#!/bin/sh\n[ $# = 0 ] || exit 0\ncd \"${0%/*}\"\n(cat parts/* && dd if=large bs=1M skip=20 count=1) | sha256sum\n";
    fs::write(&tool, script).unwrap();
    fs::set_permissions(&tool, Permissions::from_mode(0o755)).unwrap();
    let seen = bed.share(&workspace);
    let wanted = stdout(&mut Command::new(&tool));
    assert_eq!(stdout(&mut Command::new(seen.join("tool"))), wanted);
    wait_for("the owner knows what it read", Duration::from_secs(30), || {
        (profiles(&bed.owner().home()) == 1).then_some(())
    });

    // Another guest: it knows nothing, and what it starts reads nothing itself.
    bed.guest().down();
    for kept in ["cache", "state"] {
        fs::remove_dir_all(bed.guest().home().join(kept)).unwrap();
    }
    bed.guest().up(&[]);
    wait_for("the new guest may read", Duration::from_secs(30), || seen.join("tool").exists().then_some(()));
    let before = bed.received();
    assert_eq!(stdout(Command::new(seen.join("tool")).arg("nothing")), "");
    wait_for("all that it will read is here", Duration::from_secs(30), || {
        let used = bed.guest().json(&["cache", "--json"])["used"].as_u64().unwrap();
        (used >= 30 * 20_000 + MIB).then_some(())
    });
    bed.wait_until_quiet();
    bed.link().set(false);
    assert_eq!(stdout(&mut Command::new(seen.join("tool"))), wanted);
    let part = fs::read(seen.join("parts/7")).unwrap();
    assert!(part == random("part 7", 0, 20_000));
    let received = bed.received() - before;
    eprintln!("{received} bytes came for {} that are read", 30 * 20_000 + MIB);
    assert!(received < 4 * MIB, "what it doesn't read stays away: {received}");
}
