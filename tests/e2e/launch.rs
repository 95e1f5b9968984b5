//! `twinshare run`: a command in a sandbox where the workspace stands at its original path.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use crate::bed::Bed;

#[test]
fn a_launch_stands_at_the_original_path_and_passes_its_exit_through() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::copy("/bin/sh", workspace.join("sh")).unwrap();
    // Works only where the workspace has its original path.
    let script = workspace.join("script");
    fs::write(
        &script,
        format!("#!{}/sh\npwd\nread line && echo \"got $line\"\nexit 7\n", workspace.display()),
    )
    .unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    fs::write(bed.owner().files().join("neighbour"), "not shared").unwrap();
    bed.share(&workspace);
    let guest = bed.guest();

    let input = bed.folder().join("input");
    fs::write(&input, "a line\n").unwrap();
    let mut run = guest.command(&["run", "owner/lab", "--", "./script"]);
    let output = run.stdin(fs::File::open(&input).unwrap()).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed, format!("{}\ngot a line\n", workspace.display()), "{output:?}");
    assert_eq!(output.status.code(), Some(7), "{output:?}");

    // What stands there is the mount, and nothing else of that path's surroundings.
    let mounts = guest.ask(&["run", "owner/lab", "--", "cat", "/proc/self/mounts"]);
    let own = mounts.lines().find(|line| line.split(' ').nth(1) == workspace.to_str());
    assert!(own.is_some_and(|line| line.contains("fuse.twinshare")), "{mounts}");
    let around = guest.ask(&["run", "owner/lab", "--", "ls", workspace.parent().unwrap().to_str().unwrap()]);
    assert_eq!(around, "lab\n");

    // A command that ends by a signal gives what a shell would.
    let output = guest.cli(&["run", "owner/lab", "--", "sh", "-c", "kill -TERM $$"]);
    assert_eq!(output.status.code(), Some(128 + 15), "{output:?}");

    let output = guest.cli(&["run", "owner/nothing", "--", "true"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing"), "{output:?}");
}
