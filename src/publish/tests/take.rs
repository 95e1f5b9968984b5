//! Edits of guests, hostile ones among them.

use super::*;
use crate::{
    tree::{Base, Edit, NewFile, Step},
    types::Timestamp,
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
