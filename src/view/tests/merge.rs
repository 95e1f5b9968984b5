//! Layers as a whole: differences, discarding, and merging with what the owner has made meanwhile.

use proptest::prelude::*;

use super::{
    changes::{WHO, Written},
    *,
};

fn path(text: &str) -> Vec<Name> {
    text.split('/').filter(|name| !name.is_empty()).map(|name| Name::new(name.as_bytes()).unwrap()).collect()
}

fn text(path: &[Name]) -> String {
    path.iter().map(Name::to_string).collect::<Vec<_>>().join("/")
}

impl Written {
    /// The differences, a line each.
    fn differences(&self) -> Vec<String> {
        let line = |difference: Difference| {
            let what = match difference.kind {
                DifferenceKind::Made => "made".to_owned(),
                DifferenceKind::Changed => "changed".to_owned(),
                DifferenceKind::Removed => "removed".to_owned(),
                DifferenceKind::Moved { from, changed: false } => format!("from {}", text(&from)),
                DifferenceKind::Moved { from, changed: true } => format!("changed, from {}", text(&from)),
                DifferenceKind::Theirs { of } => format!("theirs of {}", text(&of)),
            };
            format!("{} {what}", text(&difference.path))
        };
        self.view().differences(&ID).unwrap().into_iter().map(line).collect()
    }

    fn pull(&self) -> Vec<(String, ConflictKind)> {
        let conflicts = now(self.view().pull(&ID)).unwrap();
        conflicts.into_iter().map(|conflict| (text(&conflict.path), conflict.kind)).collect()
    }

    fn discard(&self, at: &str) -> Result<Vec<String>> {
        let discarded = self.view().discard(&ID, &path(at))?;
        Ok(discarded.iter().map(|path| text(path)).collect())
    }
}

fn edited() -> Written {
    let written = Written::new();
    written.view().write(written.ino("a"), 0, b"GUEST", false).unwrap();
    written.remove("", "b", false).unwrap();
    written.put("d", "new", "made here");
    written.rename(("d", "deep"), ("", "moved"), Rename::Replace).unwrap();
    written.put("", "tmp", "saved");
    written.rename(("", "tmp"), ("d", "f"), Rename::Replace).unwrap();
    written
}

#[test]
fn differences_say_what_was_changed_and_where_it_came_from() {
    let written = edited();
    let expected = ["a changed", "b removed", "d/f changed", "d/new made", "moved from d/deep"];
    assert_eq!(written.differences(), expected);
    written.view().write(written.ino("moved/z"), 0, b"Z", false).unwrap();
    assert!(written.differences().contains(&"moved/z changed".to_owned()), "{:?}", written.differences());
    let versions = |at: &str| now(written.view().versions(&ID, &path(at), 100)).unwrap();
    assert_eq!(versions("a"), (Some(b"the owner's a".to_vec()), Some(b"GUESTwner's a".to_vec())));
    assert_eq!(versions("b"), (Some(b"b".to_vec()), None));
    assert_eq!(versions("d/new"), (None, Some(b"made here".to_vec())));
    assert_eq!(versions("d/f"), (Some(b"inner f".to_vec()), Some(b"saved".to_vec())));
}

#[test]
fn what_is_discarded_is_the_owners_again_and_the_rest_stays() {
    let mut written = edited();
    let a = written.ino("a");
    assert_eq!(written.discard("a").unwrap(), ["a"]);
    assert_eq!((written.cat("a"), written.ino("a")), ("the owner's a".into(), a));
    assert_eq!(written.discard("nothing").unwrap_err(), ViewError::NotFound);
    // A move is taken back whole, from whichever end.
    let mut discarded = written.discard("d/deep").unwrap();
    discarded.sort();
    assert_eq!(discarded, ["d/deep", "moved"]);
    assert_eq!(written.cat("d/deep/z"), "zett");
    assert!(written.at("moved").is_err());
    assert_eq!(written.differences(), ["b removed", "d/f changed", "d/new made"]);
    written.restart();
    assert_eq!(written.differences(), ["b removed", "d/f changed", "d/new made"]);
    written.discard("").unwrap();
    assert_eq!(written.differences(), Vec::<String>::new());
    assert_eq!(written.names(""), ["a", "b", "c", "d"]);
    assert_eq!(written.names("d"), ["a", "deep", "f"]);
    assert_eq!(written.cat("d/f"), "inner f");
}

#[test]
fn who_has_a_discarded_file_open_reads_the_owners_or_gets_stale() {
    let written = edited();
    let (a, new) = (written.ino("a"), written.ino("d/new"));
    written.discard("").unwrap();
    assert_eq!(written.bench.cat(a).unwrap(), "the owner's a");
    assert_eq!(written.bench.cat(new).unwrap_err(), ViewError::UnknownInode(new.0));
}

#[test]
fn a_merge_keeps_both_sides_and_says_where_they_met() {
    let mut written = edited();
    written.put("", "both", "guest's");
    written.put("", "same", "the same");
    let memory = written.bench.memory.clone();
    let deep = memory.folder("deep", &[memory.file("z", 42, "newer z")]);
    let inner = memory.folder("d", &[deep, memory.file("g", 43, "g")]);
    let entries = [
        memory.file("a", 44, "owner's new a"),
        memory.file("b", 45, "owner's new b"),
        memory.file("both", 46, "owner's"),
        inner,
        memory.file("same", 47, "the same"),
    ];
    written.bench.show(&entries);
    let snapshot = written.bench.view.listing().mounted(&ID).unwrap().root.unwrap().short();
    let theirs = |name: &str| Name::new(format!("{name}.ann-{snapshot}").into_bytes()).unwrap();
    let mut conflicts = written.pull();
    conflicts.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        ("a".to_owned(), ConflictKind::Both { theirs: theirs("a") }),
        ("b".to_owned(), ConflictKind::RemovedHere),
        ("both".to_owned(), ConflictKind::Both { theirs: theirs("both") }),
        ("d/f".to_owned(), ConflictKind::RemovedThere),
    ];
    assert_eq!(conflicts, expected);
    let beside = |name: &str| format!("{name}.ann-{snapshot}");
    assert_eq!(
        (written.cat("a"), written.cat(&beside("a"))),
        ("GUESTwner's a".into(), "owner's new a".into())
    );
    assert_eq!((written.cat("both"), written.cat(&beside("both"))), ("guest's".into(), "owner's".into()));
    assert_eq!(
        (written.cat("b"), written.cat("d/f"), written.cat("d/g")),
        ("owner's new b".into(), "saved".into(), "g".into())
    );
    assert_eq!(written.cat("moved/z"), "newer z");
    assert_eq!(written.pull(), [], "a second merge has nothing to do");
    let differences = written.differences();
    assert!(differences.contains(&format!("{} theirs of a", beside("a"))), "{differences:?}");
    assert!(!differences.iter().any(|line| line.starts_with("same ")), "{differences:?}");
}

#[test]
fn a_file_that_was_only_moved_follows_the_owners_edits() {
    let mut written = Written::new();
    written.rename(("d", "f"), ("", "here"), Rename::Replace).unwrap();
    let memory = written.bench.memory.clone();
    let inner = memory.folder("d", &[memory.file("f", 50, "edited f")]);
    written.bench.show(&[inner]);
    assert_eq!(written.pull(), []);
    assert_eq!(written.cat("here"), "edited f");
    assert!(written.at("d/f").is_err());
    assert_eq!(written.differences(), ["here from d/f"]);
}

/// An edit of one side: a file's name in `/` or `/d`, and what happens to it.
#[derive(Debug, Clone)]
enum Edit {
    Write(&'static str, u32),
    Remove(&'static str),
    Move(&'static str, &'static str),
}

fn place() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "x", "d/f", "d/g", "d/x"])
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        4 => (place(), any::<u32>()).prop_map(|(at, number)| Edit::Write(at, number)),
        2 => place().prop_map(Edit::Remove),
        2 => (place(), place()).prop_map(|(from, to)| Edit::Move(from, to)),
    ];
    prop::collection::vec(edit, 0..6)
}

fn split(at: &str) -> (&str, &str) {
    at.rsplit_once('/').unwrap_or(("", at))
}

/// The owner's files, by path: a version token and content.
type Files = BTreeMap<String, (u64, String)>;

fn snapshot(memory: &Memory, files: &Files) -> Vec<Entry> {
    let of = |folder: &str| {
        let inside = files.iter().filter(move |(path, _)| split(path).0 == folder);
        inside.map(|(path, (token, content))| memory.file(split(path).1, *token, content)).collect::<Vec<_>>()
    };
    let mut entries = of("");
    entries.push(memory.folder("d", &of("d")));
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

/// The contents of all files that the view shows.
fn contents(written: &Written) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["", "d"] {
        for name in written.at(folder).map(|_| written.names(folder)).unwrap_or_default() {
            let path = format!("{folder}/{name}");
            if written.bench.walk(&format!("ann/lab/{path}")).unwrap().kind == FileKind::File {
                found.push(written.cat(&path));
            }
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever both sides do between merges: what the guest wrote last under a name is there, and so is what the owner wrote
    /// since the last merge, unless the guest had the same idea.
    #[test]
    fn no_edit_of_either_side_is_ever_lost(rounds in prop::collection::vec((edits(), edits()), 1..4)) {
        let mut written = Written::new();
        let mut files = Files::from([("a".into(), (1, "a".into())), ("d/f".into(), (2, "f".into()))]);
        let entries = snapshot(&written.bench.memory, &files);
        written.bench.show(&entries);
        let mut token = 100;
        // What the guest has written and not removed or written over, by where it is now.
        let mut own = BTreeMap::<String, String>::new();
        for (index, (guest, owner)) in rounds.iter().enumerate() {
            for edit in guest {
                match edit {
                    Edit::Write(at, number) => {
                        let (folder, name) = split(at);
                        let content = format!("guest {index} {number}");
                        if let Ok(ino) = written.at(at) {
                            written.view().set(ino, &Set { size: Some(0), ..Set::default() }).unwrap();
                            written.view().write(ino, 0, content.as_bytes(), false).unwrap();
                        } else {
                            if written.at(folder).is_err() {
                                now(written.view().make(written.ino(""), b"d", New::Folder, WHO)).unwrap();
                            }
                            written.put(folder, name, &content);
                        }
                        own.insert((*at).to_owned(), content);
                    }
                    Edit::Remove(at) => {
                        let (folder, name) = split(at);
                        if written.remove(folder, name, false).is_ok() {
                            own.remove(*at);
                        }
                    }
                    Edit::Move(from, to) => {
                        if written.rename(split(from), split(to), Rename::Replace).is_ok() && from != to {
                            let moved = own.remove(*from);
                            own.remove(*to);
                            own.extend(moved.map(|content| ((*to).to_owned(), content)));
                        }
                    }
                }
            }
            let before = files.clone();
            for edit in owner {
                token += 1;
                match edit {
                    Edit::Write(at, number) => {
                        files.insert((*at).to_owned(), (token, format!("owner {index} {number}")));
                    }
                    Edit::Remove(at) => {
                        files.remove(*at);
                    }
                    Edit::Move(from, to) => {
                        if let Some((_, content)) = files.remove(*from) {
                            files.insert((*to).to_owned(), (token, content));
                        }
                    }
                }
            }
            let entries = snapshot(&written.bench.memory, &files);
            written.bench.show(&entries);
            written.pull();
            let shown = contents(&written);
            for (at, content) in &own {
                prop_assert!(shown.contains(content), "the guest's {at} ({content}) is lost: {shown:?}");
            }
            for (at, version) in files.iter().filter(|(at, version)| before.get(*at).map(|old| &old.1) != Some(&version.1)) {
                prop_assert!(shown.contains(&version.1), "the owner's {at} ({}) is lost: {shown:?}", version.1);
            }
            prop_assert_eq!(written.pull(), [], "a merge is done once");
        }
    }
}
