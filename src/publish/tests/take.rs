//! Edits of guests, hostile ones among them.

use super::*;
use crate::{
    publish::take::shown,
    tree::{Base, Edit, NewFile, Step},
    types::{Timestamp, WorkspaceId},
};

fn path(text: &str) -> Vec<Name> {
    text.split('/').map(|name| Name::new(name.as_bytes()).unwrap()).collect()
}

fn file(size: u64) -> NewFile {
    NewFile { mode: 0o4755, modified: Timestamp { seconds: 1_000_000_000, nanoseconds: 5 }, size }
}

/// A share of a folder with `f` and `d/g`, and beside it a folder that nobody shares, which `link` leads to.
fn shared() -> (Lab, tempfile::TempDir, Arc<Share>, Arc<Shares>) {
    let (lab, outside) = (Lab::new(), tempfile::tempdir().unwrap());
    lab.write("f", "one");
    lab.write("d/g", "two");
    fs::write(outside.path().join("own"), "not shared").unwrap();
    symlink(outside.path(), lab.path("link")).unwrap();
    let (shares, share) = lab.share(SharesOptions::default());
    settle(&share);
    (lab, outside, share, shares)
}

fn base(share: &Share, at: &str) -> Base {
    let entry = entries(share, share.head().root).get(at.as_bytes()).cloned();
    Base { path: path(at), entry }
}

fn take(share: &Arc<Share>, edit: Edit, bytes: &[u8]) -> std::result::Result<(), EditError> {
    let mut incoming = share.take(edit)?;
    // In pieces that end anywhere.
    bytes.chunks(3).try_for_each(|piece| incoming.write(piece))?;
    incoming.finish()
}

/// What is in the folder, apart from what is of this node's own.
fn names(lab: &Lab) -> Vec<String> {
    let names =
        fs::read_dir(lab.root.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != "workspace.yaml").collect();
    names.sort();
    names
}

#[test]
fn an_edit_is_made_as_it_says() {
    let (lab, _outside, share, _shares) = shared();
    let bases = vec![base(&share, "f"), base(&share, "d/g"), Base { path: path("new"), entry: None }];
    let steps = vec![
        Step::Folder(path("new"), 0o750),
        Step::File(path("new/x"), file(5)),
        Step::File(path("empty"), file(0)),
        Step::Move(path("d/g"), path("new/g")),
        Step::File(path("f"), file(3)),
        Step::Remove(path("d")),
        Step::Link(path("l"), b"f".to_vec()),
    ];
    take(&share, Edit { bases, steps }, b"helloTWO").unwrap();
    assert_eq!(names(&lab), ["empty", "f", "l", "link", "new"]);
    assert_eq!(
        (fs::read(lab.path("new/x")).unwrap(), fs::read(lab.path("f")).unwrap()),
        (b"hello".into(), b"TWO".into())
    );
    assert_eq!(fs::read(lab.path("new/g")).unwrap(), b"two");
    let status = fs::metadata(lab.path("f")).unwrap();
    assert_eq!(status.permissions().mode() & 0o7777, 0o755, "set-user-id isn't taken over");
    assert_eq!(Timestamp::from(status.modified().unwrap()).seconds, 1_000_000_000);
}

#[test]
fn what_the_owner_changed_meanwhile_is_not_touched() {
    let (lab, _outside, share, _shares) = shared();
    let bases = vec![base(&share, "f"), base(&share, "d/g"), Base { path: path("new"), entry: None }];
    lab.write("f", "the owner's");
    lab.write("new", "the owner's, too");
    let steps =
        vec![Step::File(path("f"), file(1)), Step::Remove(path("d/g")), Step::File(path("new"), file(1))];
    let Err(EditError::Conflict(paths)) = take(&share, Edit { bases, steps }, b"xy") else {
        panic!("no conflict");
    };
    assert_eq!(paths, ["f", "new"]);
    assert_eq!(fs::read(lab.path("f")).unwrap(), b"the owner's");
    assert_eq!(names(&lab), ["d", "f", "link", "new"]);
    assert_eq!(fs::read(lab.path("d/g")).unwrap(), b"two");
}

#[test]
fn hostile_edits_reach_nothing_outside_and_leave_nothing_behind() {
    let (lab, outside, share, _shares) = shared();
    let through = |step: Step| Edit { bases: Vec::new(), steps: vec![step] };
    for (edit, bytes) in [
        (through(Step::File(path("link/own"), file(1))), &b"x"[..]),
        (through(Step::Remove(path("link/own"))), b""),
        (through(Step::Move(path("link/own"), path("stolen"))), b""),
        (through(Step::Mode(path("link"), 0o777)), b""),
        (through(Step::Folder(path("link/made"), 0o755)), b""),
        // More and fewer bytes than announced, and the workspace itself.
        (through(Step::File(path("x"), file(1))), b"xy"),
        (through(Step::File(path("x"), file(9))), b"xy"),
        (through(Step::Remove(Vec::new())), b""),
        (through(Step::Move(path("d"), Vec::new())), b""),
    ] {
        assert!(take(&share, edit.clone(), bytes).is_err(), "{edit:?}");
        assert_eq!(names(&lab), ["d", "f", "link"], "{edit:?}");
        assert_eq!(fs::read(outside.path().join("own")).unwrap(), b"not shared", "{edit:?}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "{edit:?}");
    }
}

/// A share of a folder with a secret, a folder whose name is ignored, and the node's own state in it.
fn with_private() -> (Lab, Arc<Share>, Arc<Shares>) {
    let lab = Lab::new();
    for (path, text) in [
        (".env", "KEY=1"),
        ("build/out", "kept here"),
        ("node/access.json", "{}"),
        ("d/private/x", "kept here"),
        ("d/.twinshareignore", "/private\n"),
        ("d/g", "two"),
        ("f", "one"),
        ("whole/a/b", "three"),
        (".twinshareignore", "/build\n"),
    ] {
        lab.write(path, text);
    }
    let (shares, share) =
        lab.share(SharesOptions { own: vec![lab.path("node")], ..SharesOptions::default() });
    settle(&share);
    (lab, share, shares)
}

#[test]
fn what_is_not_shared_is_not_reached_by_an_edit() {
    let (lab, share, _shares) = with_private();
    let before = every_file(&lab);
    for step in [
        Step::Move(path(".env"), path("notes")),
        Step::Move(path("f"), path(".env")),
        Step::File(path(".env"), file(1)),
        Step::Link(path(".env"), b"f".to_vec()),
        Step::Remove(path(".env")),
        Step::Mode(path(".env"), 0o777),
        Step::Move(path("build/out"), path("out")),
        Step::File(path("build/new"), file(1)),
        Step::File(path("node/access.json"), file(1)),
        Step::Move(path("node"), path("mine")),
        // It would take what isn't shared with it, to where the rule doesn't hold.
        Step::Move(path("d"), path("e")),
        Step::Remove(path(".twinshareignore")),
        Step::File(path("d/.twinshareignore"), file(1)),
        Step::File(path("whole/.twinshareignore"), file(1)),
        Step::Move(path("f"), path("whole/.twinshareignore")),
        Step::Folder(path(".twinshare-incoming-1"), 0o755),
        Step::Remove(path("workspace.yaml")),
        Step::Move(path("workspace.yaml"), path("w")),
        Step::File(path("workspace.yaml"), file(1)),
    ] {
        let bases =
            step.paths().filter(|path| path.len() == 1).map(|path| base(&share, &shown(path))).collect();
        for bases in [Vec::new(), bases] {
            let edit = Edit { bases, steps: vec![step.clone()] };
            let bytes = vec![b'x'; edit.files().count()];
            assert!(take(&share, edit, &bytes).is_err(), "{step:?}");
            assert_eq!(every_file(&lab), before, "{step:?}");
        }
    }
    let edit = Edit { bases: Vec::new(), steps: vec![Step::Move(path("d"), path("e"))] };
    assert!(matches!(take(&share, edit, b""), Err(EditError::NotShared(paths)) if paths == ["d"]));
    // What is shared as a whole can go elsewhere.
    let edit = Edit { bases: Vec::new(), steps: vec![Step::Move(path("whole"), path("moved"))] };
    take(&share, edit, b"").unwrap();
    assert_eq!(fs::read(lab.path("moved/a/b")).unwrap(), b"three");
}

#[test]
fn a_removed_folder_leaves_what_is_not_shared_and_what_says_so() {
    let (lab, share, _shares) = with_private();
    let remove = |path| Edit { bases: Vec::new(), steps: vec![Step::Remove(path)] };
    take(&share, remove(path("d")), b"").unwrap();
    assert!(lab.path("d/private/x").exists() && lab.path("d/.twinshareignore").exists());
    assert!(!lab.path("d/g").exists());
    // Where nothing is kept back, the ignore file goes too.
    lab.write("e/.twinshareignore", "/private\n");
    lab.write("e/f", "x");
    wait(&share, |head| paths(&share, head.root).contains(&"e/f".into()) && !head.provisional);
    take(&share, remove(path("e")), b"").unwrap();
    assert!(!lab.path("e").exists());
}

#[test]
fn the_manifest_can_be_edited_but_for_its_id() {
    let (lab, share, _shares) = with_private();
    let text = fs::read_to_string(lab.path("workspace.yaml")).unwrap();
    let edit = |text: &str| Edit {
        bases: vec![base(&share, "workspace.yaml")],
        steps: vec![Step::File(path("workspace.yaml"), file(text.len() as u64))],
    };
    let other = text.replace(&share.id().to_string(), &WorkspaceId::random().to_string());
    assert_ne!(other, text);
    assert!(take(&share, edit(&other), other.as_bytes()).is_err());
    let described = format!("{text}description: by a guest\n");
    take(&share, edit(&described), described.as_bytes()).unwrap();
    assert_eq!(fs::read_to_string(lab.path("workspace.yaml")).unwrap(), described);
}

#[test]
fn nothing_is_overwritten_that_the_guest_does_not_say_it_saw() {
    let (lab, _outside, share, _shares) = shared();
    for step in [Step::File(path("f"), file(1)), Step::Link(path("f"), b"d".to_vec())] {
        let edit = Edit { bases: Vec::new(), steps: vec![step] };
        let bytes = vec![b'x'; edit.files().count()];
        assert!(take(&share, edit, &bytes).is_err());
        assert_eq!(fs::read(lab.path("f")).unwrap(), b"one");
    }
}

#[test]
fn what_an_edit_moved_is_put_back_when_it_fails() {
    let (lab, _outside, share, _shares) = shared();
    // `f` is moved out of the way first; then `d/g/x` can't be made, since `d/g` is a file.
    let steps = vec![Step::Move(path("f"), path("z")), Step::File(path("d/g/x"), file(0))];
    assert!(take(&share, Edit { bases: Vec::new(), steps }, b"").is_err());
    assert_eq!(names(&lab), ["d", "f", "link"]);
    assert_eq!(fs::read(lab.path("f")).unwrap(), b"one");
}

/// What the folder holds.
fn every_file(lab: &Lab) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = ignore::WalkBuilder::new(lab.root.path()).standard_filters(false).build();
    let files = files.map(|entry| entry.unwrap());
    files.map(|entry| (entry.path().to_path_buf(), fs::read(entry.path()).unwrap_or_default())).collect()
}
