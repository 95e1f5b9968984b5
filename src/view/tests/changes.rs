//! Changes of the view: single rules, and random operations against a tree in memory.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::layer::{Layers, Seek};

pub(super) const WHO: Maker = Maker { uid: 1, gid: 2, mode: 0o640 };

/// A view over the owner's tree whose changes are kept in a folder.
pub(super) struct Written {
    pub(super) bench: Bench,
    state: tempfile::TempDir,
    root: Digest,
}

impl Written {
    pub(super) fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut bench = with_layers(Arc::new(Memory::default()), &state);
        let memory = bench.memory.clone();
        let linked = |name: &str| {
            let mut entry = memory.file(name, 9, "linked");
            entry.attributes.link = Some(HardLink { group: 5, count: 2 });
            entry
        };
        let deep = memory.folder("deep", &[memory.file("z", 4, "zett")]);
        let inner = memory.folder("d", &[linked("a"), deep, memory.file("f", 2, "inner f")]);
        let entries = [memory.file("a", 1, "the owner's a"), memory.file("b", 3, "b"), linked("c"), inner];
        bench.show(&entries);
        let Ok(root) = write_folder(&entries, &*memory);
        Self { bench, state, root }
    }

    /// The same after a restart of the node.
    pub(super) fn restart(&mut self) {
        self.bench = with_layers(self.bench.memory.clone(), &self.state);
        self.bench.show_root(Some(self.root));
    }

    pub(super) fn ino(&self, path: &str) -> Ino {
        self.at(path).unwrap()
    }

    pub(super) fn at(&self, path: &str) -> Result<Ino> {
        self.bench.walk(&format!("ann/lab/{path}")).map(|attr| attr.ino)
    }

    pub(super) fn put(&self, parent: &str, name: &str, content: &str) -> Ino {
        let made = now(self.view().make(self.ino(parent), name.as_bytes(), New::File, WHO)).unwrap();
        self.view().write(made.ino, 0, content.as_bytes(), false).unwrap();
        made.ino
    }

    pub(super) fn view(&self) -> &View {
        &self.bench.view
    }

    pub(super) fn cat(&self, path: &str) -> String {
        self.bench.cat(self.ino(path)).unwrap()
    }

    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let names = self.bench.names(self.ino(path));
        names.into_iter().filter(|name| !name.starts_with('.')).collect()
    }

    pub(super) fn rename(&self, from: (&str, &str), to: (&str, &str), how: Rename) -> Result<()> {
        let (from_ino, to_ino) = (self.at(from.0)?, self.at(to.0)?);
        now(self.view().rename((from_ino, from.1.as_bytes()), (to_ino, to.1.as_bytes()), how))
    }

    pub(super) fn remove(&self, folder: &str, name: &str, is_folder: bool) -> Result<()> {
        now(self.view().remove(self.at(folder)?, name.as_bytes(), is_folder))
    }

    fn reads(&self) -> usize {
        self.bench.memory.reads.lock().unwrap().len()
    }
}

fn with_layers(memory: Arc<Memory>, state: &tempfile::TempDir) -> Bench {
    let (layers, failed) = Layers::open(state.path().join("layers"));
    assert!(failed.is_empty());
    let deadline = Duration::from_secs(10);
    let layers = Some(Arc::new(layers));
    let options = ViewOptions { mount: "/m".into(), uid: 1000, gid: 100, deadline, layers };
    let (view, invalidations) = View::new(options, memory.clone());
    Bench { memory, view, invalidations }
}

#[test]
fn a_change_stays_over_the_owners_file_and_survives_a_restart() {
    let mut written = Written::new();
    let a = written.ino("a");
    written.view().write(a, 4, b"GUEST", false).unwrap();
    assert_eq!(written.cat("a"), "the GUEST's a");
    assert_eq!(written.ino("a"), a, "the number stays");
    written.put("d", "new", "made here");
    written.remove("", "b", false).unwrap();
    for _ in 0..2 {
        assert_eq!(written.names(""), ["a", "c", "d"]);
        assert_eq!(written.names("d"), ["a", "deep", "f", "new"]);
        assert_eq!((written.cat("a"), written.cat("d/new")), ("the GUEST's a".into(), "made here".into()));
        assert_eq!(written.at("b").unwrap_err(), ViewError::NotFound);
        assert_eq!(written.ino("a"), a);
        written.restart();
    }
}

#[test]
fn cutting_and_replacing_fetch_nothing() {
    let written = Written::new();
    let a = written.ino("a");
    written.view().set(a, &Set { size: Some(0), ..Set::default() }).unwrap();
    written.view().write(a, 0, b"all new", false).unwrap();
    written.rename(("d", "deep"), ("", "moved"), Rename::Replace).unwrap();
    written.put("", "tmp", "saved");
    written.rename(("", "tmp"), ("d", "f"), Rename::Replace).unwrap();
    assert_eq!((written.cat("a"), written.cat("d/f")), ("all new".into(), "saved".into()));
    assert_eq!(written.reads(), 0, "none of the owner's bytes was needed");
    // What moved along is the owner's, and is read by the path that the owner knows.
    assert_eq!(written.cat("moved/z"), "zett");
    assert_eq!(written.names("d"), ["a", "f"]);
}

#[test]
fn a_hard_link_is_changed_under_all_its_names() {
    let written = Written::new();
    written.view().write(written.ino("c"), 0, b"L", false).unwrap();
    assert_eq!(written.cat("d/a"), "Linked");
    written.remove("", "c", false).unwrap();
    assert_eq!(written.bench.walk("ann/lab/d/a").unwrap().links, 1);
    now(written.view().link(written.ino("d/a"), written.ino(""), b"again")).unwrap();
    assert_eq!((written.cat("again"), written.ino("again")), ("Linked".into(), written.ino("d/a")));
}

#[test]
fn what_is_removed_can_be_used_until_it_is_forgotten() {
    let mut written = Written::new();
    let made = written.put("", "x", "still here");
    let (b, lookups) = (written.ino("b"), 3);
    written.remove("", "x", false).unwrap();
    written.remove("", "b", false).unwrap();
    written.put("", "b", "another");
    assert_eq!(written.view().getattr(b).unwrap().links, 0);
    assert_eq!(written.bench.cat(b).unwrap(), "b");
    written.view().write(made, 0, b"S", false).unwrap();
    assert_eq!(written.bench.cat(made).unwrap(), "Still here");
    written.view().forget(made, lookups);
    assert_eq!(written.bench.cat(made).unwrap_err(), ViewError::UnknownInode(made.0));
    written.restart();
    assert_eq!(written.cat("b"), "another");
}

/// A folder that was removed and made again is empty, and so it stays.
#[test]
fn a_folder_made_again_doesnt_show_what_was_in_it() {
    let mut written = Written::new();
    assert_eq!(written.remove("d", "deep", true).unwrap_err(), ViewError::NotEmpty);
    written.remove("d/deep", "z", false).unwrap();
    written.remove("d", "deep", true).unwrap();
    now(written.view().make(written.ino("d"), b"deep", New::Folder, WHO)).unwrap();
    written.restart();
    assert_eq!(written.names("d/deep"), Vec::<String>::new());
}

/// Case: the owner changes what the guest has changed; the guest's stays, the rest follows.
#[test]
fn the_owners_edits_show_around_the_guests() {
    let mut written = Written::new();
    written.view().write(written.ino("d/f"), 0, b"GUEST", false).unwrap();
    written.remove("", "b", false).unwrap();
    written.rename(("d", "deep"), ("", "moved"), Rename::Replace).unwrap();
    let memory = written.bench.memory.clone();
    let deep = memory.folder("deep", &[memory.file("more", 21, "more"), memory.file("z", 22, "newer z")]);
    let inner = memory.folder("d", &[deep, memory.file("f", 23, "owner's new f"), memory.file("g", 24, "g")]);
    let told = written.bench.show(&[memory.file("a", 25, "newer a"), memory.file("b", 26, "newer b"), inner]);
    assert!(told.contains(&"g".to_owned()), "the kernel hears of what is new: {told:?}");
    assert_eq!(written.names(""), ["a", "d", "moved"]);
    assert_eq!(written.names("d"), ["f", "g"]);
    assert_eq!(written.names("moved"), ["more", "z"]);
    assert_eq!((written.cat("a"), written.cat("moved/z")), ("newer a".into(), "newer z".into()));
    assert_eq!(written.cat("d/f"), "GUEST f");
}

/// Removing what the owner has put under a name that was made here doesn't bring the owner's up.
#[test]
fn a_name_that_both_made_is_gone_when_it_is_removed() {
    let mut written = Written::new();
    written.put("", "both", "guest's");
    let memory = written.bench.memory.clone();
    written.bench.show(&[memory.file("both", 31, "owner's")]);
    assert_eq!(written.cat("both"), "guest's");
    written.remove("", "both", false).unwrap();
    assert_eq!(written.at("both").unwrap_err(), ViewError::NotFound);
}

#[test]
fn nothing_can_be_changed_outside_the_workspaces_or_without_a_layer() {
    let written = Written::new();
    let host = written.bench.walk("ann").unwrap().ino;
    assert_eq!(now(written.view().make(host, b"x", New::Folder, WHO)), Err(ViewError::ReadOnly));
    assert_eq!(now(written.view().remove(host, b"lab", true)), Err(ViewError::ReadOnly));
    assert_eq!(written.view().set(Ino::ROOT, &Set::default()), Err(ViewError::ReadOnly));
    let mut bench = Bench::new();
    let a = bench.memory.file("a", 1, "a");
    bench.show(&[a]);
    let a = bench.walk("ann/lab/a").unwrap().ino;
    assert_eq!(bench.view.write(a, 0, b"x", false), Err(ViewError::ReadOnly));
    assert_eq!(
        now(bench.view.make(bench.walk("ann/lab").unwrap().ino, b"x", New::File, WHO)),
        Err(ViewError::ReadOnly)
    );
}

#[test]
fn attributes_can_be_set_and_the_views_own_cannot() {
    let written = Written::new();
    let (view, a) = (written.view(), written.ino("a"));
    view.setxattr(a, b"user.x", b"1", Some(false)).unwrap();
    assert_eq!(view.setxattr(a, b"user.x", b"2", Some(false)), Err(ViewError::Exists));
    assert_eq!(view.setxattr(a, b"user.y", b"2", Some(true)), Err(ViewError::NoAttribute));
    assert_eq!(view.setxattr(a, b"user.twinshare.state", b"2", None), Err(ViewError::NotPermitted));
    assert_eq!(view.setxattr(a, b"security.capability", b"2", None), Err(ViewError::NotSupported));
    assert_eq!(view.setxattr(a, b"user.big", &[0; 70_000], None), Err(ViewError::NoSpace));
    assert_eq!(view.getxattr(a, b"user.x").unwrap(), b"1");
    assert_eq!(view.getxattr(a, b"user.twinshare.state").unwrap(), b"changed");
    assert!(view.listxattr(a).unwrap().contains(&b"user.x".to_vec()));
    view.removexattr(a, b"user.x").unwrap();
    assert_eq!(view.getxattr(a, b"user.x"), Err(ViewError::NoAttribute));
}

#[test]
fn set_user_id_ends_with_a_change_by_another() {
    let written = Written::new();
    let (view, b) = (written.view(), written.ino("b"));
    view.set(b, &Set { mode: Some(0o6755), ..Set::default() }).unwrap();
    view.write(b, 0, b"x", false).unwrap();
    assert_eq!(view.getattr(b).unwrap().mode, 0o6755);
    view.write(b, 0, b"x", true).unwrap();
    assert_eq!(view.getattr(b).unwrap().mode, 0o755);
}

#[test]
fn large_folders_are_listed_whole_and_once() {
    let mut written = Written::new();
    let memory = written.bench.memory.clone();
    let entries: Vec<_> =
        (1000..2500).map(|number| memory.file(&format!("n{number}"), number, "x")).collect();
    written.bench.show(&entries);
    let root = written.ino("");
    for number in (1000..2500).step_by(2) {
        written.remove("", &format!("n{number}"), false).unwrap();
        now(written.view().make(root, format!("m{number}").as_bytes(), New::Fifo, WHO)).unwrap();
    }
    let mut expected: Vec<String> =
        (1000..2500).map(|number| format!("{}{number}", if number % 2 == 0 { "m" } else { "n" })).collect();
    expected.sort();
    assert_eq!(written.names(""), expected);
    assert_eq!(written.remove("", "d", true).unwrap_err(), ViewError::NotFound);
}

/// More of the owner's names are hidden than are looked at together: there's an end all the same.
#[test]
fn a_folder_whose_names_are_all_hidden_is_listed_as_empty_and_can_go() {
    let mut written = Written::new();
    let memory = written.bench.memory.clone();
    let entries: Vec<_> =
        (1000..1600).map(|number| memory.file(&format!("n{number}"), number, "x")).collect();
    let full = memory.folder("full", &entries);
    written.bench.show(&[full]);
    for number in 1000..1600 {
        written.remove("full", &format!("n{number}"), false).unwrap();
    }
    assert_eq!(written.names("full"), Vec::<String>::new());
    written.put("full", "one", "left");
    assert_eq!(written.names("full"), ["one"]);
    assert_eq!(written.remove("", "full", true), Err(ViewError::NotEmpty));
    written.remove("full", "one", false).unwrap();
    written.remove("", "full", true).unwrap();
}

// --- Random operations -------------------------------------------------------------------------------------------

/// A tree in memory: what a file system should be.
#[derive(Debug, Clone, PartialEq)]
enum Thing {
    Folder(BTreeMap<String, usize>),
    File(Vec<u8>),
    Link(Vec<u8>),
}

#[derive(Debug, Clone)]
struct Model {
    things: Vec<Thing>,
}

impl Model {
    /// What [`Written::new`] shows.
    fn new() -> Self {
        let mut model = Self { things: Vec::new() };
        let mut add = |thing| {
            model.things.push(thing);
            model.things.len() - 1
        };
        let file = |text: &str| Thing::File(text.into());
        let root = add(Thing::Folder(BTreeMap::new()));
        let linked = add(file("linked"));
        let z = add(file("zett"));
        let deep = add(Thing::Folder(BTreeMap::from([("z".into(), z)])));
        let f = add(file("inner f"));
        let inner = BTreeMap::from([("a".into(), linked), ("deep".into(), deep), ("f".into(), f)]);
        let (a, b, d) = (add(file("the owner's a")), add(file("b")), add(Thing::Folder(inner)));
        model.things[root] = Thing::Folder(BTreeMap::from([
            ("a".into(), a),
            ("b".into(), b),
            ("c".into(), linked),
            ("d".into(), d),
        ]));
        model
    }

    fn at(&self, path: &str) -> Result<usize> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(0, |at, name| match &self.things[at] {
            Thing::Folder(names) => names.get(name).copied().ok_or(ViewError::NotFound),
            _ => Err(ViewError::NotFolder),
        })
    }

    fn names(&mut self, folder: usize) -> Result<&mut BTreeMap<String, usize>> {
        match &mut self.things[folder] {
            Thing::Folder(names) => Ok(names),
            _ => Err(ViewError::NotFolder),
        }
    }

    fn is_folder(&self, thing: usize) -> bool {
        matches!(self.things[thing], Thing::Folder(_))
    }

    fn is_empty(&self, thing: usize) -> bool {
        matches!(&self.things[thing], Thing::Folder(names) if names.is_empty())
    }

    fn make(&mut self, folder: &str, name: &str, thing: Thing) -> Result<()> {
        let folder = self.at(folder)?;
        let next = self.things.len();
        let names = self.names(folder)?;
        if names.contains_key(name) {
            return Err(ViewError::Exists);
        }
        names.insert(name.into(), next);
        self.things.push(thing);
        Ok(())
    }

    fn remove(&mut self, folder: &str, name: &str, is_folder: bool) -> Result<()> {
        let folder = self.at(folder)?;
        let thing = *self.names(folder)?.get(name).ok_or(ViewError::NotFound)?;
        match (is_folder, self.is_folder(thing)) {
            (true, false) => return Err(ViewError::NotFolder),
            (false, true) => return Err(ViewError::IsFolder),
            (true, true) if !self.is_empty(thing) => return Err(ViewError::NotEmpty),
            _ => self.names(folder)?.remove(name),
        };
        Ok(())
    }

    fn rename(&mut self, from: (&str, &str), to: (&str, &str), how: Rename) -> Result<()> {
        let (from_folder, to_folder) = (self.at(from.0)?, self.at(to.0)?);
        let thing = *self.names(from_folder)?.get(from.1).ok_or(ViewError::NotFound)?;
        let other = self.names(to_folder)?.get(to.1).copied();
        match (other, how) {
            (Some(_), Rename::Keep) => return Err(ViewError::Exists),
            (None, Rename::Exchange) => return Err(ViewError::NotFound),
            (Some(other), Rename::Replace) => match (self.is_folder(thing), self.is_folder(other)) {
                (true, false) => return Err(ViewError::NotFolder),
                (false, true) => return Err(ViewError::IsFolder),
                (true, true) if !self.is_empty(other) => return Err(ViewError::NotEmpty),
                _ => {}
            },
            _ => {}
        }
        if other == Some(thing) {
            return Ok(());
        }
        self.names(from_folder)?.remove(from.1);
        self.names(to_folder)?.insert(to.1.into(), thing);
        if let (Some(other), Rename::Exchange) = (other, how) {
            self.names(from_folder)?.insert(from.1.into(), other);
        }
        Ok(())
    }

    fn link(&mut self, from: &str, folder: &str, name: &str) -> Result<()> {
        let (thing, folder) = (self.at(from)?, self.at(folder)?);
        if self.is_folder(thing) {
            return Err(ViewError::NotPermitted);
        }
        if self.names(folder)?.contains_key(name) {
            return Err(ViewError::Exists);
        }
        self.names(folder)?.insert(name.into(), thing);
        Ok(())
    }

    fn content(&mut self, path: &str) -> Result<&mut Vec<u8>> {
        let thing = self.at(path)?;
        match &mut self.things[thing] {
            Thing::File(content) => Ok(content),
            Thing::Folder(_) => Err(ViewError::IsFolder),
            Thing::Link(_) => Err(ViewError::WrongKind),
        }
    }

    /// All that is there, by path.
    fn all(&self, thing: usize, path: &str, into: &mut BTreeMap<String, Thing>) {
        if let Thing::Folder(names) = &self.things[thing] {
            for (name, thing) in names {
                self.all(*thing, &format!("{path}/{name}"), into);
            }
            into.insert(path.into(), Thing::Folder(BTreeMap::new()));
        } else {
            into.insert(path.into(), self.things[thing].clone());
        }
    }
}

/// An operation: places are a folder and a name.
#[derive(Debug, Clone)]
enum Step {
    Make(&'static str, &'static str, Option<&'static str>),
    Folder(&'static str, &'static str),
    Remove(&'static str, &'static str, bool),
    Rename((&'static str, &'static str), (&'static str, &'static str), Rename),
    Link(&'static str, &'static str, &'static str),
    Write(&'static str, u8, u8),
    Resize(&'static str, u8),
    Zero(&'static str, u8, u8),
    Restart,
}

fn folder() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "", "d", "d/deep", "e", "d/e", "e/d", "deep"])
}

fn in_folder() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c", "d", "e", "deep", "f", "z"])
}

fn anywhere() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c", "d/a", "d/f", "d/deep/z", "e", "e/a", "f", "d/e/z", "deep/z"])
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (folder(), in_folder());
    let how = prop::sample::select(vec![Rename::Replace, Rename::Replace, Rename::Keep, Rename::Exchange]);
    prop_oneof![
        3 => (place(), prop::option::weighted(0.2, Just("target"))).prop_map(|((f, n), t)| Step::Make(f, n, t)),
        2 => place().prop_map(|(f, n)| Step::Folder(f, n)),
        4 => (place(), any::<bool>()).prop_map(|((f, n), d)| Step::Remove(f, n, d)),
        5 => (place(), place(), how).prop_map(|(a, b, how)| Step::Rename(a, b, how)),
        2 => (anywhere(), place()).prop_map(|(p, (f, n))| Step::Link(p, f, n)),
        4 => (anywhere(), any::<u8>(), 1..40_u8).prop_map(|(p, o, l)| Step::Write(p, o, l)),
        2 => (anywhere(), any::<u8>()).prop_map(|(p, s)| Step::Resize(p, s)),
        1 => (anywhere(), any::<u8>(), 1..40_u8).prop_map(|(p, o, l)| Step::Zero(p, o, l)),
        1 => Just(Step::Restart),
    ]
}

/// Moving a folder into itself is refused by the kernel, before anybody is asked.
fn is_refused_by_the_kernel(from: (&str, &str), to: (&str, &str)) -> bool {
    let path = |(folder, name): (&str, &str)| format!("{folder}/{name}").trim_start_matches('/').to_owned();
    let below =
        |a: &str, b: &str| b.starts_with(a) && b.as_bytes().get(a.len()).is_none_or(|byte| *byte == b'/');
    below(&path(from), to.0) || below(&path(to), from.0)
}

fn run(written: &mut Written, model: &mut Model, step: &Step) -> (Result<()>, Result<()>) {
    match step {
        Step::Make(folder, name, target) => {
            let (thing, new) = match target {
                Some(target) => (Thing::Link((*target).into()), New::Link((*target).into())),
                None => (Thing::File(Vec::new()), New::File),
            };
            let made = written
                .at(folder)
                .and_then(|parent| now(written.view().make(parent, name.as_bytes(), new, WHO)).map(|_| ()));
            (model.make(folder, name, thing), made)
        }
        Step::Folder(folder, name) => {
            let made = written.at(folder).and_then(|parent| {
                now(written.view().make(parent, name.as_bytes(), New::Folder, WHO)).map(|_| ())
            });
            (model.make(folder, name, Thing::Folder(BTreeMap::new())), made)
        }
        Step::Remove(folder, name, is_folder) => {
            (model.remove(folder, name, *is_folder), written.remove(folder, name, *is_folder))
        }
        Step::Rename(from, to, _) if is_refused_by_the_kernel(*from, *to) => (Ok(()), Ok(())),
        Step::Rename(from, to, how) => (model.rename(*from, *to, *how), written.rename(*from, *to, *how)),
        Step::Link(from, folder, name) => {
            let linked = written.at(from).and_then(|ino| {
                now(written.view().link(ino, written.at(folder)?, name.as_bytes())).map(|_| ())
            });
            (model.link(from, folder, name), linked)
        }
        Step::Write(path, offset, length) => {
            let bytes = vec![(offset ^ length) & 0x7f; (*length).into()];
            let expected = model.content(path).map(|content| {
                let (start, end) = (usize::from(*offset), usize::from(*offset) + bytes.len());
                content.resize(content.len().max(end), 0);
                content[start..end].copy_from_slice(&bytes);
            });
            (
                expected,
                written.at(path).and_then(|ino| written.view().write(ino, (*offset).into(), &bytes, false)),
            )
        }
        Step::Resize(path, size) => {
            let expected = model.content(path).map(|content| content.resize((*size).into(), 0));
            let set = Set { size: Some((*size).into()), ..Set::default() };
            (expected, written.at(path).and_then(|ino| written.view().set(ino, &set).map(|_| ())))
        }
        Step::Zero(path, offset, length) => {
            let expected = model.content(path).map(|content| {
                let end = content.len().min(usize::from(*offset) + usize::from(*length));
                content[end.min((*offset).into())..end].fill(0);
            });
            let zeroed = written.at(path).and_then(|ino| {
                written.view().allocate(ino, (*offset).into(), (*length).into(), Allocate::Zero, false)
            });
            (expected, zeroed)
        }
        Step::Restart => {
            written.restart();
            (Ok(()), Ok(()))
        }
    }
}

/// All that the view shows, by path.
fn shown(written: &Written, path: &str, into: &mut BTreeMap<String, Thing>) {
    let attr = written.bench.walk(&format!("ann/lab{path}")).unwrap();
    let thing = match attr.kind {
        FileKind::Folder => {
            for name in written.names(path) {
                shown(written, &format!("{path}/{name}"), into);
            }
            Thing::Folder(BTreeMap::new())
        }
        FileKind::Link => Thing::Link(written.view().readlink(attr.ino).unwrap()),
        _ => {
            let content = written.bench.cat(attr.ino).unwrap().into_bytes();
            assert_eq!(attr.size, content.len() as u64, "{path}");
            Thing::File(content)
        }
    };
    into.insert(path.into(), thing);
}

proptest! {
    // A hundred times a hundred steps.
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_changes_do_what_they_do_to_a_tree_in_memory(steps in prop::collection::vec(step(), 100)) {
        let (mut written, mut model) = (Written::new(), Model::new());
        for (index, step) in steps.iter().enumerate() {
            let (expected, outcome) = run(&mut written, &mut model, step);
            prop_assert_eq!(&outcome, &expected, "step {}, {:?}", index, step);
            if index % 10 == 9 {
                let (mut seen, mut known) = (BTreeMap::new(), BTreeMap::new());
                shown(&written, "", &mut seen);
                model.all(0, "", &mut known);
                prop_assert_eq!(&seen, &known, "after step {}, {:?}", index, step);
            }
        }
    }
}

#[test]
fn data_and_holes_of_the_owners_sparse_file_are_found() {
    let mut written = Written::new();
    let memory = written.bench.memory.clone();
    let extents: Box<[Extent]> = [Extent { offset: 10, length: 5 }, Extent { offset: 100, length: 5 }].into();
    let blob = Digest::of(b"0123456789");
    memory.blobs.lock().unwrap().insert(blob, b"0123456789".to_vec());
    let sparse = entry("s", 77, Kind::File { size: 200, content: Content::Sparse { blob, extents } });
    written.bench.show(&[sparse]);
    let s = written.ino("s");
    let seek = |offset, what| written.view().seek(s, offset, what).unwrap();
    assert_eq!(
        [seek(0, Seek::Data), seek(12, Seek::Data), seek(16, Seek::Data)],
        [Some(10), Some(12), Some(100)]
    );
    assert_eq!(
        [seek(0, Seek::Hole), seek(12, Seek::Hole), seek(101, Seek::Hole)],
        [Some(0), Some(15), Some(105)]
    );
    assert_eq!([seek(105, Seek::Data), seek(200, Seek::Hole)], [None, None]);
    written.view().write(s, 12, b"XX", false).unwrap();
    assert_eq!(written.cat("s").trim_matches('\0').get(..5), Some("01XX4"));
}
