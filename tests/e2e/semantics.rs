//! The mount behaves as the owner's folder does.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    fs::{self, Permissions},
    io::{Read, Write},
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, PermissionsExt, symlink},
        },
    },
    path::Path,
    process::Command,
    time::Duration,
};

use rustix::fs::{Mode, OFlags};

use crate::{
    bed::Bed,
    node::{stdout, within},
    sample::{python, write_random},
    wait::{repeat, wait_for},
};

#[test]
fn case_01_shared_mmap_and_import_of_a_library_work() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::write(workspace.join("x"), "mapped").unwrap();
    // A module of the interpreter that is a shared library, under its own name in the workspace.
    let library = stdout(within(20, python()).args(["-c", "import _ctypes; print(_ctypes.__file__)"]));
    let library = Path::new(library.trim());
    fs::copy(library, workspace.join(library.file_name().unwrap())).unwrap();
    let seen = bed.share(&workspace);

    let map = "import mmap, sys; f = open(sys.argv[1], 'rb'); \
               print(mmap.mmap(f.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)[:6])";
    assert_eq!(stdout(within(20, python()).args(["-c", map]).arg(seen.join("x"))), "b'mapped'\n");

    let import = "import sys; sys.path.insert(0, sys.argv[1]); import _ctypes; print(_ctypes.__file__)";
    let imported = stdout(within(20, python()).args(["-c", import]).arg(&seen));
    assert_eq!(Path::new(imported.trim()), seen.join(library.file_name().unwrap()));
}

#[test]
fn case_04_hard_links_share_their_number() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::create_dir(workspace.join("folder")).unwrap();
    fs::write(workspace.join("a"), "linked").unwrap();
    fs::hard_link(workspace.join("a"), workspace.join("folder/b")).unwrap();
    for name in ["c", "d", "folder/e"] {
        fs::write(workspace.join(name), "linked").unwrap();
    }
    let seen = bed.share(&workspace);
    let numbers = || {
        let number = |name: &str| {
            let stat = fs::symlink_metadata(seen.join(name)).unwrap();
            (stat.ino(), stat.nlink())
        };
        let (linked, links) = number("a");
        assert_eq!(links, 2);
        assert_eq!(number("folder/b"), (linked, 2));
        let others = ["c", "d", "folder/e", "workspace.yaml", "folder", "."].map(|name| number(name).0);
        let distinct: BTreeSet<u64> = others.iter().copied().chain([linked]).collect();
        assert_eq!(distinct.len(), others.len() + 1, "two files share a number: {others:?}, {linked}");
        (linked, others)
    };
    let before = numbers();
    bed.guest().down();
    bed.guest().up(&[]);
    bed.guest().wait_for_workspace("owner", "lab");
    assert_eq!(numbers(), before, "numbers changed with the remount");
}

#[test]
fn case_05_overlay_keeps_inodes() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    for folder in 0..10 {
        fs::create_dir(workspace.join(format!("{folder}"))).unwrap();
        for file in 0..10 {
            fs::write(workspace.join(format!("{folder}/{file}")), format!("{folder}/{file}")).unwrap();
        }
    }
    let seen = bed.share(&workspace);
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| {
        let path = bed.folder().join(name);
        fs::create_dir(&path).unwrap();
        path
    });
    let options =
        format!("lowerdir={},upperdir={},workdir={}", seen.display(), upper.display(), work.display());
    stdout(within(20, "mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&merged));

    let look = || {
        stdout(within(20, "ls").arg("-lRi").arg(&seen)) + &stdout(within(20, "ls").arg("-lR").arg(&merged))
    };
    let first = look();
    let full = env::var_os("TWINSHARE_TEST_FULL").is_some_and(|value| value == "1");
    let total = Duration::from_secs(if full { 180 } else { 30 });
    repeat(total, Duration::from_secs(1), || {
        fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
        assert_eq!(look(), first);
        assert_eq!(fs::read_to_string(merged.join("7/3")).unwrap(), "7/3");
    });
    // The overlay takes writes, which the workspace beneath doesn't see.
    fs::write(merged.join("7/3"), "changed").unwrap();
    assert_eq!(fs::read_to_string(merged.join("7/3")).unwrap(), "changed");
    assert_eq!(fs::read_to_string(seen.join("7/3")).unwrap(), "7/3");
    stdout(within(20, "umount").arg(&merged));
}

#[test]
fn case_06_git_sees_a_clean_tree() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    let git = |folder: &Path, arguments: &[&str]| {
        let mut command = within(60, "git");
        command.arg("-C").arg(folder).args(["-c", "user.name=Owner", "-c", "user.email=owner@localhost"]);
        stdout(command.args(arguments).env("GIT_CONFIG_GLOBAL", "/dev/null"))
    };
    // What sharing writes into the folder is there before the commit.
    bed.owner().up(&[]);
    bed.owner().share(&workspace, "lab");
    git(&workspace, &["init", "--quiet"]);
    for folder in 0..20 {
        let folder_path = workspace.join(format!("folder{folder}"));
        fs::create_dir(&folder_path).unwrap();
        for file in 0..10 {
            write_random(&folder_path.join(format!("{file}.bin")), &format!("{folder}/{file}"), 50_000);
        }
    }
    fs::set_permissions(workspace.join("folder3/3.bin"), Permissions::from_mode(0o755)).unwrap();
    git(&workspace, &["add", "--all"]);
    git(&workspace, &["commit", "--quiet", "--message", "All"]);
    assert_eq!(git(&workspace, &["status", "--porcelain"]), "");

    bed.guest().up(&[]);
    let seen = bed.guest().wait_for_workspace("owner", "lab");
    let stat = |folder: &Path| {
        let script = "find . -path ./.git -prune -o -exec stat -c '%n %F %Y %a' {} + | sort; \
                      find . -path ./.git -prune -o -type f -exec stat -c '%n %s' {} + | sort";
        stdout(within(60, "sh").args(["-c", script]).current_dir(folder))
    };
    let theirs = stat(&workspace);
    wait_for("the guest has the commit", Duration::from_secs(10), || {
        (git(&workspace, &["rev-parse", "HEAD"]) == read_head(&seen)? && seen.join("folder19/9.bin").exists())
            .then_some(())
    });
    bed.wait_until_quiet();
    let before = bed.received();
    assert_eq!(stat(&seen), theirs);
    let moved = bed.received() - before;
    assert!(moved < 1 << 20, "stat of 10 MB moved {moved} bytes");
    for _ in 0..2 {
        assert_eq!(git(&seen, &["status", "--porcelain"]), "");
    }
}

/// The commit that a fresh repository's only branch is at, read without git.
fn read_head(repository: &Path) -> Option<String> {
    let head = fs::read_to_string(repository.join(".git/HEAD")).ok()?;
    let branch = head.trim().strip_prefix("ref: ")?;
    fs::read_to_string(repository.join(".git").join(branch)).ok()
}

#[test]
fn case_08_any_name_is_an_entry_of_its_own() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    let long = [b'n'; 255];
    // The first three differ in nothing that people see, the next three in case only.
    let names: [&[u8]; 7] =
        [b"caf\xc3\xa9", b"cafe\xcc\x81", b"caf\xe9", b"Read.me", b"READ.ME", b"read.me", &long];
    for (number, name) in names.iter().enumerate() {
        fs::write(workspace.join(OsStr::from_bytes(name)), format!("content {number}")).unwrap();
    }
    let seen = bed.share(&workspace);

    let listed: BTreeSet<Vec<u8>> = fs::read_dir(&seen)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .filter(|name| name != b"workspace.yaml")
        .collect();
    assert_eq!(listed, names.iter().map(|name| name.to_vec()).collect());
    for (number, name) in names.iter().enumerate() {
        assert_eq!(
            fs::read_to_string(seen.join(OsStr::from_bytes(name))).unwrap(),
            format!("content {number}")
        );
    }

    // And through the API: a name that isn't UTF-8 comes as base64 as well.
    let files = bed.guest().json(&["ls", "owner/lab", "--json"]);
    let files = files.as_array().unwrap();
    for name in [names[0], names[1], names[3], names[6]] {
        let name = str::from_utf8(name).unwrap();
        assert!(files.iter().any(|file| file["name"] == name), "{name} isn't in {files:?}");
    }
    let encoded: Vec<_> = files.iter().filter_map(|file| file["name_base64"].as_str()).collect();
    assert_eq!(encoded.len(), 1, "{files:?}");
    assert_eq!(encoded[0].trim_end_matches('='), "Y2Fm6Q");

    // And in a ZIP archive, where what isn't text is written as text.
    let archive = bed.folder().join("lab.zip");
    stdout(bed.curl("https", "/w/lab?zip").args(["-f", "-o"]).arg(&archive));
    const LIST: &str = "import sys, zipfile\n\
        with zipfile.ZipFile(sys.argv[1]) as archive:\n    \
        for name in archive.namelist():\n        \
        print(archive.read(name).decode() if name != 'workspace.yaml' else '', name.encode().hex())";
    let archived = stdout(within(60, python()).args(["-c", LIST]).arg(&archive));
    for (number, name) in names.iter().enumerate() {
        let name = if number == 2 { b"caf%E9" } else { *name };
        let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(archived.lines().any(|line| line == format!("content {number} {hex}")), "{hex}: {archived}");
    }
}

#[test]
fn paths_may_be_longer_than_the_kernel_takes_at_once() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    let name = "d".repeat(255);
    let enter =
        |folder: OwnedFd| rustix::fs::openat(folder, &name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
    let start =
        |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let file =
        |folder: &OwnedFd, flags| rustix::fs::openat(folder, "deep", flags, Mode::RWXU).map(fs::File::from);
    let mut folder = start(&workspace);
    for _ in 0..20 {
        rustix::fs::mkdirat(&folder, &name, Mode::RWXU).unwrap();
        folder = enter(folder).unwrap();
    }
    file(&folder, OFlags::CREATE | OFlags::WRONLY).unwrap().write_all(b"5120 bytes below").unwrap();
    let seen = bed.share(&workspace);

    let mut folder = start(&seen);
    for level in 0..20 {
        folder = enter(folder).unwrap_or_else(|error| panic!("level {level}: {error}"));
    }
    let read = |folder: &OwnedFd| {
        let mut content = String::new();
        file(folder, OFlags::RDONLY).unwrap().read_to_string(&mut content).unwrap();
        content
    };
    assert_eq!(read(&folder), "5120 bytes below");
    // The longest that the kernel takes at once.
    let base = seen.as_os_str().len();
    let levels = (4095 - base) / 256;
    let longest = std::iter::repeat_n(name.as_str(), levels).fold(seen, |path, name| path.join(name));
    assert!(longest.as_os_str().len() > 3800);
    assert!(fs::metadata(&longest).unwrap().is_dir());
    // It can be changed there too.
    file(&folder, OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY).unwrap().write_all(b"mine").unwrap();
    assert_eq!(read(&folder), "mine");
    rustix::fs::renameat(&folder, "deep", &folder, "moved").unwrap();
    let changes = bed.guest().json(&["diff", "owner/lab", "--json"]);
    assert_eq!(changes.as_array().unwrap().len(), 1, "{changes}");
    assert!(changes[0]["path"].as_str().unwrap().ends_with("/moved"), "{changes}");
}

#[test]
fn case_09_links_never_lead_to_the_guests_files() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    let secret = bed.guest().files().join("secret");
    fs::write(&secret, "the guest's own").unwrap();
    for folder in ["d", "links"] {
        fs::create_dir(workspace.join(folder)).unwrap();
    }
    fs::write(workspace.join("d/f"), "inside").unwrap();
    let far_up = "../".repeat(40);
    let hostile = [
        ("l", "/etc/passwd".to_owned()),
        ("r", "../../../../etc/passwd".to_owned()),
        ("far", format!("{far_up}etc/passwd")),
        ("secret", secret.display().to_string()),
        ("d/secret", format!("{far_up}{}", secret.display())),
        ("through", "d/../../../../../home/../etc/passwd".to_owned()),
        ("proc", "/proc/self/root/etc/passwd".to_owned()),
    ];
    for (name, target) in &hostile {
        symlink(target, workspace.join(name)).unwrap();
    }
    symlink("../d/f", workspace.join("links/ok")).unwrap();
    symlink("nowhere", workspace.join("dangling")).unwrap();
    symlink("loop", workspace.join("loop")).unwrap();
    let seen = bed.share(&workspace);

    for (name, target) in &hostile {
        let link = seen.join(name);
        // Both hosts are one machine here, so any content at all would be the guest's own.
        let error = fs::read(&link).expect_err(target);
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{name} -> {target}");
        let shown = fs::read_link(&link).unwrap();
        assert!(shown.to_str().unwrap().contains(".outside/owner"), "{name} -> {}", shown.display());
    }
    assert_eq!(fs::read_to_string(seen.join("links/ok")).unwrap(), "inside");
    assert_eq!(fs::read_link(seen.join("links/ok")).unwrap(), Path::new("../d/f"));
    assert_eq!(fs::read_to_string(seen.join("d/f")).unwrap(), "inside");
    assert_eq!(fs::read_link(seen.join("dangling")).unwrap(), Path::new("nowhere"));
    assert!(fs::read(seen.join("dangling")).is_err());
    let error = fs::read(seen.join("loop")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    let all = stdout(within(20, "find").arg(&seen));
    assert_eq!(all.lines().count(), 1 + 2 + 1 + 1 + hostile.len() + 3, "{all}");
}

#[test]
fn case_12_modes_run_as_on_the_owners_machine() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    let modes = [0o755, 0o555, 0o111, 0o700, 0o644];
    for mode in modes {
        let program = workspace.join(format!("shell-{mode:o}"));
        fs::copy("/bin/sh", &program).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(mode)).unwrap();
    }
    let script = workspace.join("script");
    fs::write(&script, "#!/bin/sh\nexit 9\n").unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let seen = bed.share(&workspace);

    let run = |program: &Path| {
        let status = Command::new(program).args(["-c", "exit 7"]).status();
        status.map(|status| status.code()).map_err(|error| error.raw_os_error())
    };
    for mode in modes {
        let name = format!("shell-{mode:o}");
        assert_eq!(fs::metadata(seen.join(&name)).unwrap().mode() & 0o7777, mode);
        assert_eq!(run(&seen.join(&name)), run(&workspace.join(&name)), "{name}");
    }
    assert_eq!(run(&seen.join("shell-111")), Ok(Some(7)));
    assert_eq!(run(&seen.join("shell-644")), Err(Some(libc::EACCES)));
    assert_eq!(run(&seen.join("script")), Ok(Some(9)));
}

#[test]
fn attributes_tell_the_snapshot_and_the_digest_and_statfs_the_size() {
    let Some(bed) = Bed::new() else { return };
    let folder = bed.workspace("lab");
    fs::write(folder.join("f"), "content").unwrap();
    let view = bed.share(&folder);
    let attribute = |path: &Path, name: &str| {
        let mut value = [0; 256];
        let length = rustix::fs::getxattr(path, name, &mut value)?;
        Ok(String::from_utf8(value[..length].to_vec()).unwrap())
    };
    let snapshot = bed.owner().snapshot("owner", "lab").unwrap();
    assert_eq!(attribute(&view, "user.twinshare.snapshot"), Ok(snapshot.clone()));
    assert_eq!(attribute(&view, "user.twinshare.digest"), Ok(snapshot));
    // The BLAKE3 of "content", from another implementation.
    let digest = "3fba5250be9ac259c56e7250c526bc83bacb4be825f2799d3d59e5b4878dd74e";
    assert_eq!(attribute(&view.join("f"), "user.twinshare.digest"), Ok(digest.to_owned()));
    assert_eq!(attribute(&view.join("f"), "user.other"), Err(rustix::io::Errno::NODATA));

    let space = rustix::fs::statvfs(&view).unwrap();
    assert!(space.f_blocks * space.f_frsize >= 7, "{} blocks", space.f_blocks);
    // What can be written is what the guest's own disk has room for.
    assert!(space.f_bavail > 0 && space.f_bavail < space.f_blocks, "{} free", space.f_bavail);
    assert_eq!(attribute(&view.join("f"), "user.twinshare.state"), Ok("remote".to_owned()));
    let cached = || attribute(&view.join("f"), "user.twinshare.cached_bytes");
    assert_eq!(cached(), Ok("0".to_owned()));
    assert_eq!(fs::read_to_string(view.join("f")).unwrap(), "content");
    // What was read is kept a moment later.
    wait_for("it is cached", Duration::from_secs(5), || (cached() == Ok("7".to_owned())).then_some(()));
    // The command says the same, of a name and of a path.
    fs::write(view.join("new"), "12345").unwrap();
    let file = view.join("f");
    for place in ["owner/lab/f", file.to_str().unwrap()] {
        let state = bed.guest().json(&["state", place, "--json"]);
        assert_eq!(
            (&state["state"], &state["cached_bytes"], &state["bytes"]),
            (&"remote".into(), &7.into(), &7.into())
        );
        assert_eq!(state["digest"], digest);
    }
    let text = bed.guest().ask(&["state", "owner/lab"]);
    assert!(text.contains("3 (") && text.contains("0, and 1 new"), "{text}");
    let elsewhere = bed.guest().cli(&["state", "/etc/passwd"]);
    assert!(String::from_utf8_lossy(&elsewhere.stderr).contains("isn't in the mount"), "{elsewhere:?}");
    fs::write(view.join("f"), "other").unwrap();
    assert_eq!(attribute(&view.join("f"), "user.twinshare.state"), Ok("changed".to_owned()));
}
