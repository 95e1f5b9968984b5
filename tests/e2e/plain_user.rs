//! A node of a user without privileges: mounted through fusermount3, sandboxed through user namespaces.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
    process::Command,
    time::Duration,
};

use crate::{
    bed::Bed,
    node::{CLI, stdout, within},
    wait::wait_for,
};

/// The user: one that every machine has, as fusermount3 wants it.
const NOBODY: u32 = 65534;

/// A program as the user, in the guest's network.
fn as_user(bed: &Bed, program: &Path) -> Command {
    let mut command = within(60, "nsenter");
    command
        .arg(format!("--net=/run/netns/{}", bed.guest().namespace()))
        .args(["setpriv", &format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups"])
        .arg(program)
        .current_dir("/")
        .env("TWINSHARE_HOME", bed.guest().home());
    command
}

/// The device is everybody's on ordinary machines; on some that build, only root's.
fn open_the_device() {
    let mode = fs::metadata("/dev/fuse").unwrap().permissions().mode();
    if mode & 0o006 != 0o006 {
        fs::set_permissions("/dev/fuse", Permissions::from_mode(mode | 0o666)).unwrap();
    }
}

#[test]
fn a_plain_user_mounts_reads_and_runs() {
    let Some(bed) = Bed::new() else { return };
    open_the_device();
    let workspace = bed.workspace("lab");
    fs::write(workspace.join("f"), "content").unwrap();
    fs::write(workspace.join("private"), "the sharer's own").unwrap();
    fs::set_permissions(workspace.join("private"), Permissions::from_mode(0o600)).unwrap();
    bed.owner().up(&[]);
    bed.owner().share(&workspace, "lab");

    let home = bed.guest().home();
    chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    // The build's folder needn't be open to others.
    let programs = bed.folder().join("programs");
    fs::create_dir(&programs).unwrap();
    for name in ["twinshare", "twinshare-mountd"] {
        fs::copy(Path::new(CLI).with_file_name(name), programs.join(name)).unwrap();
    }
    let cli = programs.join("twinshare");
    stdout(as_user(&bed, &cli).args(["up", "--name", "guest"]));

    let view = bed.guest().mount().join("owner/lab");
    let cat = |name: &str| as_user(&bed, Path::new("cat")).arg(view.join(name)).output().unwrap();
    wait_for("the user sees the workspace", Duration::from_secs(20), || {
        cat("f").status.success().then_some(())
    });
    assert_eq!(cat("f").stdout, b"content");
    // What the sharer owns belongs to the guest's user, whoever that is.
    assert_eq!(cat("private").stdout, b"the sharer's own");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(1) == bed.guest().mount().to_str()).unwrap();
    assert!(line.starts_with("twinshare:guest ") && line.contains(" fuse.twinshare "), "{line}");
    assert!(line.contains("nosuid,nodev") && line.contains(&format!("user_id={NOBODY}")), "{line}");
    // Others, even root, can't enter.
    assert_eq!(fs::read_dir(&view).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);

    let script = "id -u; cat f; cat /etc/shadow; exit 3";
    let run = as_user(&bed, &cli).args(["run", "owner/lab", "--", "sh", "-c", script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&run.stdout), format!("{NOBODY}\ncontent"), "{run:?}");
    assert_eq!(run.status.code(), Some(3), "{run:?}");

    stdout(as_user(&bed, &cli).arg("down"));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(bed.guest().mount().to_str().unwrap()), "{mounts}");
}
