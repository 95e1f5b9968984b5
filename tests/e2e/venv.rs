//! The whole path: an owner shares a Python environment, a guest sees it and runs it.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use crate::{
    bed::Bed,
    node::{stdout, within},
    sample::{copy_venv, find, python, site_packages, total_bytes},
    wait::wait_for,
};

/// What beacons, waiting connections and their like may send while nothing is fetched.
const IDLE: u64 = 64 << 10;

#[test]
fn a_shared_venv_is_seen_equal_and_runs_fetching_what_it_touches() {
    let Some(bed) = Bed::new() else { return };
    let (owner, guest) = (bed.owner(), bed.guest());
    let workspace = bed.workspace("lab");
    let pandas = copy_venv(&workspace);
    owner.up(&[]);
    let shared = owner.share(&workspace, "lab");
    assert_eq!(shared["provisional"], false, "{shared}");
    assert!(shared["files"].as_u64().unwrap() > 1000, "{shared}");
    guest.up(&[]);
    let seen = guest.mount().join("owner/lab");
    wait_for("the guest sees the workspace", Duration::from_secs(2), || {
        fs::read_dir(&seen).ok()?.next().map(|_| ())
    });

    let theirs = find(&workspace);
    let mut ours = find(&seen);
    for (path, entry) in &theirs {
        let mirrored = ours.remove(path).unwrap_or_else(|| panic!("{path} is missing from the mount"));
        if entry.kind == "l" && entry.target.starts_with('/') {
            // What a link out of the workspace points to is the owner's, so it is shown where only the owner's things are.
            assert!(mirrored.target.contains(".outside/owner"), "{path} -> {}", mirrored.target);
            assert!(mirrored.target.ends_with(&entry.target), "{path} -> {}", mirrored.target);
            assert_eq!((&mirrored.kind, &mirrored.modified), (&entry.kind, &entry.modified), "{path}");
        } else {
            assert_eq!(mirrored, *entry, "{path}");
        }
    }
    assert!(ours.is_empty(), "not on the owner's machine: {:?}", ours.keys().take(10).collect::<Vec<_>>());
    let (there, back) = bed.bytes();
    assert!(there + back < 3 << 20, "looking at the tree moved {there} bytes, {back} back");

    let program = "import numpy, pandas; print(pandas.__version__)";
    let run = || guest.ask(&["run", "owner/lab", "--", ".venv/bin/python", "-c", program]);
    assert_eq!(run().trim(), pandas);
    bed.wait_until_quiet();
    let (there, back) = bed.bytes();
    let size = total_bytes(&workspace);
    assert!((there + back) * 2 < size, "{there} bytes and {back} back crossed, of a workspace of {size}");

    assert_eq!(run().trim(), pandas);
    let (there_later, back_later) = bed.bytes();
    let moved = there_later + back_later - there - back;
    assert!(moved < IDLE, "the second run moved {moved} bytes");
}

#[test]
fn case_21_a_moved_venv_runs_its_own_tools_or_names_what_is_missing() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    copy_venv(&workspace);
    // As installers write them: with the interpreter's absolute path, here one that this machine has and one that it hasn't.
    let tool = |name: &str, interpreter: &str| {
        let path = workspace.join(".venv/bin").join(name);
        fs::write(&path, format!("#!{interpreter}\nimport sys\nprint('of', sys.prefix)\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    tool("pytest", &format!("{}/.venv/bin/python", workspace.display()));
    tool("moved", "/nowhere/lab/.venv/bin/python");
    fs::create_dir_all(workspace.join("other/bin")).unwrap();
    fs::write(workspace.join("other/pyvenv.cfg"), "home = /nowhere/bin\nversion = 3.99.1\n").unwrap();
    std::os::unix::fs::symlink("/nowhere/bin/python3.99", workspace.join("other/bin/python")).unwrap();
    let seen = bed.share(&workspace);

    let run = |command: &[&str]| bed.guest().cli(&[&["run", "owner/lab", "--"], command].concat());
    let ran = run(&[".venv/bin/pytest", "--version"]);
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        format!("of {}/.venv\n", workspace.display()),
        "{ran:?}"
    );
    // What can't run says what it lacks: a script its interpreter, an environment the one that it is based on.
    for (command, lacking) in [
        (".venv/bin/moved", "#!/nowhere/lab/.venv/bin/python"),
        ("other/bin/python", "Python 3.99 at /nowhere/bin"),
    ] {
        let output = run(&[command, "--version"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(lacking), "{said}");
    }
    // Without twinshare it's the shell that speaks; what this machine has under these names isn't run.
    let own = bed.folder().join("own");
    fs::create_dir(&own).unwrap();
    for name in ["moved", "python"] {
        fs::write(own.join(name), "#!/bin/sh\necho the own one\n").unwrap();
        fs::set_permissions(own.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", own.display(), std::env::var("PATH").unwrap());
    let mut moved = within(60, "bash");
    moved.args(["-c", "\"$0\" --version"]).arg(seen.join(".venv/bin/moved")).env("PATH", &path);
    let output = moved.output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
}

#[test]
fn case_20_second_interpreter_start_needs_no_network() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    copy_venv(&workspace);
    let seen = bed.share(&workspace);
    let packages = site_packages(&seen);
    let start = || {
        let mut command = within(120, python());
        command.args(["-c", "import numpy, pandas; print(pandas.__file__)"]).env("PYTHONPATH", &packages);
        let file = stdout(&mut command);
        assert!(file.starts_with(packages.to_str().unwrap()), "pandas came from {file}");
    };
    start();
    bed.wait_until_quiet();
    let (there, back) = bed.bytes();
    start();
    let (there_later, back_later) = bed.bytes();
    let moved = there_later + back_later - there - back;
    assert!(moved < IDLE, "the second start moved {moved} bytes");
}
