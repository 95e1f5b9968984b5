use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::{simulated::SimulatedDisk, *};
use crate::{
    tree::{Attributes, Entry, Kind, Owner},
    types::{Digest, Name, Timestamp},
};

const ROOT: u64 = 7;

fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanoseconds: 0 }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn meta() -> Meta {
    let (time, xattrs) = (at(1), BTreeMap::from([(b"user.a".to_vec(), b"b".to_vec())]));
    Meta { mode: 0o644, uid: 1, gid: 2, links: 1, accessed: time, modified: time, changed: time, xattrs }
}

fn origin(size: u64) -> Origin {
    let attributes = Attributes { mode: 0o644, owner: Owner::Sharer, modified: at(5), token: 9, link: None };
    let content = tree_content();
    let entry = Entry { name: name("f"), attributes, kind: Kind::File { size, content } };
    Origin { path: vec![name("d"), name("f")], entry }
}

fn tree_content() -> crate::tree::Content {
    crate::tree::Content::Blob(Digest::of(b"content"))
}

fn file(origin: Option<Origin>, size: u64) -> Box<Record> {
    let content = Content { size, shows: if origin.is_some() { size } else { 0 }, ..Content::default() };
    Box::new(Record { meta: meta(), origin, kind: RecordKind::File(content) })
}

fn layer(disk: Arc<dyn Disk>) -> Layer {
    Layer::open(disk).unwrap()
}

/// A layer with the empty file 100 at `/f`.
fn with_file(disk: Arc<dyn Disk>, origin: Option<Origin>, size: u64) -> Layer {
    let layer = layer(disk);
    layer.apply(vec![Change::Put(100, file(origin, size)), Change::Bind(ROOT, name("f"), 100)]).unwrap();
    layer
}

#[test]
fn what_was_acknowledged_survives_the_end_of_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Arc::new(RealDisk::new(folder.path().join("layer")).unwrap());
    let first = with_file(open(), None, 0);
    first.write(100, 3, b"abc", at(2)).unwrap();
    let gone = Change::Cover(ROOT, name("gone"), Box::new(origin(4)));
    first.apply(vec![gone, Change::Put(101, file(None, 0)), Change::Bind(100, name("x"), 101)]).unwrap();
    let state = (first.record(100), first.slots(ROOT, 0, 9), first.place(101));
    drop(first);

    let again = layer(open());
    assert_eq!((again.record(100), again.slots(ROOT, 0, 9), again.place(101)), state);
    assert_eq!(again.read(100, 0, 99).unwrap().bytes, b"\0\0\0abc");
    assert_eq!(again.slot(ROOT, &name("gone")), Some(Slot { node: None, over: Some(Box::new(origin(4))) }));
    assert_eq!(again.stat(100).unwrap().meta.modified, at(2));
}

#[test]
fn the_origin_shows_where_nothing_was_written() {
    let layer = with_file(Arc::new(SimulatedDisk::default()), Some(origin(100)), 100);
    layer.write(100, 10, b"0123456789", at(2)).unwrap();
    let read = layer.read(100, 5, 20).unwrap();
    assert_eq!(read.missing, [5..10, 20..25]);
    assert_eq!((&read.bytes[5..15], read.origin), (&b"0123456789"[..], Some(origin(100))));
    // What was cut off doesn't come back, and what was written over a hole of it is there.
    layer.resize(100, 15, at(3)).unwrap();
    layer.resize(100, 200, at(4)).unwrap();
    let read = layer.read(100, 0, 999).unwrap();
    assert_eq!((read.missing.len(), &read.missing[0], read.bytes.len()), (1, &(0..10), 200));
    assert!(read.bytes[15..].iter().all(|byte| *byte == 0), "zeros beyond what was cut off");
    layer.punch(100, 2, 3, false, at(5)).unwrap();
    assert_eq!(layer.read(100, 0, 999).unwrap().missing, [0..2, 5..10]);
    // Nothing of the origin is left when it was emptied.
    layer.resize(100, 0, at(6)).unwrap();
    layer.write(100, 1, b"z", at(7)).unwrap();
    let read = layer.read(100, 0, 999).unwrap();
    assert_eq!((read.missing, read.bytes), (vec![], b"\0z".to_vec()));
}

#[test]
fn holes_and_data_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let layer =
        with_file(Arc::new(RealDisk::new(folder.path().into()).unwrap()), Some(origin(1 << 20)), 1 << 20);
    layer.resize(100, 3 << 20, at(2)).unwrap();
    layer.write(100, 2 << 20, &[1; 4096], at(3)).unwrap();
    let seek = |offset, what| layer.seek(100, offset, what).unwrap();
    assert_eq!(seek(0, Seek::Data), Some(0));
    assert_eq!(seek(0, Seek::Hole), Some(1 << 20));
    assert_eq!(seek(1 << 20, Seek::Data), Some(2 << 20));
    assert_eq!(seek(2 << 20, Seek::Hole), Some((2 << 20) + 4096));
    assert_eq!(seek((2 << 20) + 4096, Seek::Data), None);
    assert_eq!(seek(3 << 20, Seek::Hole), None);
}

#[test]
fn a_data_file_says_whose_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let layer = with_file(Arc::new(RealDisk::new(folder.path().into()).unwrap()), None, 0);
    layer.write(100, 0, b"x", at(2)).unwrap();
    layer.sync().unwrap();
    let path = folder.path().join("data/0000000000000064.0");
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(&path, "user.twinshare.path", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"f");
    assert_eq!(std::fs::read(path).unwrap(), b"x");
}

#[test]
fn a_journal_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("journal"), b"twinshare layer v99\nwhatever").unwrap();
    let disk = Arc::new(RealDisk::new(folder.path().into()).unwrap());
    assert!(matches!(Layer::open(disk), Err(LayerError::Damaged(_))));
    assert!(
        std::fs::read(folder.path().join("journal")).unwrap().ends_with(b"whatever"),
        "it stays as it is"
    );
}

/// What is half-written at the end is left out, wherever it was cut; what stands before it is there.
#[test]
fn a_torn_journal_opens_with_what_is_whole() {
    let disk = Arc::new(SimulatedDisk::default());
    let first = with_file(disk.clone(), None, 0);
    let before = disk.length(FileName::Journal).unwrap();
    first.write(100, 0, b"abc", at(2)).unwrap();
    let after = disk.length(FileName::Journal).unwrap();
    for length in before..after {
        let torn = disk.after_kill();
        torn.resize(FileName::Journal, length).unwrap();
        let again = layer(torn.clone());
        assert_eq!(again.stat(100).unwrap().size, 0, "cut at {length}");
        assert_eq!(torn.length(FileName::Data(DataFile { number: 100, generation: 0 })).unwrap(), 0);
        again.write(100, 1, b"z", at(3)).unwrap();
        assert_eq!(layer(torn.after_kill()).read(100, 0, 9).unwrap().bytes, b"\0z");
    }
}

#[test]
fn what_was_covered_first_counts_until_it_is_revealed() {
    let layer = layer(Arc::new(SimulatedDisk::default()));
    let (cover, f) = (|size| Change::Cover(ROOT, name("f"), Box::new(origin(size))), name("f"));
    let bound = vec![Change::Put(100, file(None, 0)), cover(1), Change::Bind(ROOT, f.clone(), 100), cover(2)];
    layer.apply(bound).unwrap();
    layer.apply(vec![Change::Unbind(ROOT, f.clone())]).unwrap();
    assert_eq!(layer.place(100), None);
    assert_eq!(layer.slot(ROOT, &f), Some(Slot { node: None, over: Some(Box::new(origin(1))) }));
    layer.apply(vec![Change::Bind(ROOT, f.clone(), 100), Change::Drop(100)]).unwrap();
    assert_eq!(layer.slot(ROOT, &f).map(|slot| slot.node), Some(None), "it still covers");
    layer.apply(vec![Change::Reveal(ROOT, f.clone())]).unwrap();
    assert_eq!(layer.slot(ROOT, &f), None);
    layer.apply(vec![Change::Bind(ROOT, f.clone(), 100), Change::Unbind(ROOT, f.clone())]).unwrap();
    assert_eq!(layer.slot(ROOT, &f), None, "nothing was covered");
}

/// The bytes of docs/FORMAT.md.
#[test]
fn changes_are_written_as_documented() {
    let hex = |change: Change| hex::encode(minicbor::to_vec(change).unwrap());
    assert_eq!(hex(Change::Wrote(100, 3, 2, at(5))), "820684186403028205 00".replace(' ', ""));
    assert_eq!(hex(Change::Unbind(7, name("ab"))), "82038207426162");
    assert_eq!(hex(Change::Drop(300)), "82058119012c");
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_no_changes_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(change) = minicbor::decode::<Change>(&bytes) {
            let again = minicbor::decode::<Change>(&minicbor::to_vec(&change).unwrap());
            prop_assert_eq!(again.unwrap(), change);
        }
    }
}

/// A step of the crash test.
#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    Write(u8, u8, u8, u8),
    Resize(u8, u8),
    Punch(u8, u8, u8),
    Rename(u8, u8),
    Remove(u8),
    Sync,
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let file = 0..5_u8;
    let step = prop_oneof![
        3 => file.clone().prop_map(Step::Create),
        6 => (file.clone(), 0..100_u8, 1..60_u8, 1..=255_u8).prop_map(|(f, o, l, b)| Step::Write(f, o, l, b)),
        3 => (file.clone(), 0..120_u8).prop_map(|(f, s)| Step::Resize(f, s)),
        1 => (file.clone(), 0..100_u8, 1..50_u8).prop_map(|(f, o, l)| Step::Punch(f, o, l)),
        2 => (file.clone(), file.clone()).prop_map(|(a, b)| Step::Rename(a, b)),
        2 => file.prop_map(Step::Remove),
        3 => Just(Step::Sync),
        1 => Just(Step::Kill),
    ];
    prop::collection::vec(step, 1..60)
}

/// What should be there: names, and the bytes of numbers.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    names: BTreeMap<Name, u64>,
    files: BTreeMap<u64, Vec<u8>>,
}

/// A layer, and what should be in it.
struct Run {
    disk: Arc<SimulatedDisk>,
    layer: Layer,
    model: Model,
    next: u64,
}

impl Run {
    /// Does a step in the model, then in the layer.
    fn step(&mut self, step: &Step) -> Result<(), LayerError> {
        let file = |number: &u8| name(&format!("f{number}"));
        let number = |model: &Model, of: &u8| model.names.get(&file(of)).copied();
        match step {
            Step::Create(new) => {
                let old = number(&self.model, new);
                self.next += 1;
                self.model.names.insert(file(new), self.next);
                self.model.files.insert(self.next, Vec::new());
                let mut changes = vec![
                    Change::Put(self.next, super::tests::file(None, 0)),
                    Change::Bind(ROOT, file(new), self.next),
                ];
                changes.extend(old.map(Change::Drop));
                old.map(|old| self.model.files.remove(&old));
                self.layer.apply(changes)
            }
            Step::Write(of, offset, length, byte) => {
                let Some(number) = number(&self.model, of) else { return Ok(()) };
                let bytes = vec![*byte; *length as usize];
                let content = self.model.files.get_mut(&number).unwrap();
                let end = *offset as usize + bytes.len();
                content.resize(content.len().max(end), 0);
                content[*offset as usize..end].copy_from_slice(&bytes);
                self.layer.write(number, (*offset).into(), &bytes, at(1))
            }
            Step::Resize(of, size) => {
                let Some(number) = number(&self.model, of) else { return Ok(()) };
                self.model.files.get_mut(&number).unwrap().resize(*size as usize, 0);
                self.layer.resize(number, (*size).into(), at(1))
            }
            Step::Punch(of, offset, length) => {
                let Some(number) = number(&self.model, of) else { return Ok(()) };
                let content = self.model.files.get_mut(&number).unwrap();
                let end = content.len().min(*offset as usize + *length as usize);
                content[end.min(*offset as usize)..end].fill(0);
                self.layer.punch(number, (*offset).into(), (*length).into(), false, at(1))
            }
            Step::Rename(from, to) => {
                let Some(number) = number(&self.model, from).filter(|_| from != to) else { return Ok(()) };
                let old = self.model.names.insert(file(to), number);
                self.model.names.remove(&file(from));
                old.map(|old| self.model.files.remove(&old));
                let mut changes =
                    vec![Change::Unbind(ROOT, file(from)), Change::Bind(ROOT, file(to), number)];
                changes.extend(old.map(Change::Drop));
                self.layer.apply(changes)
            }
            Step::Remove(of) => {
                let Some(number) = number(&self.model, of) else { return Ok(()) };
                self.model.names.remove(&file(of));
                self.model.files.remove(&number);
                self.layer.apply(vec![Change::Unbind(ROOT, file(of)), Change::Drop(number)])
            }
            Step::Sync => self.layer.sync(),
            Step::Kill => {
                let left = self.disk.after_kill();
                self.layer = Layer::open(left.clone())?;
                self.disk = left;
                assert_eq!(found(&self.layer), self.model, "after the end of the process");
                Ok(())
            }
        }
    }
}

/// What is in a layer.
fn found(layer: &Layer) -> Model {
    let mut model = Model::default();
    for (_, name, slot) in layer.slots(ROOT, 0, usize::MAX) {
        let Some(number) = slot.node else { continue };
        model.files.insert(number, layer.read(number, 0, 1 << 20).unwrap().bytes);
        model.names.insert(name, number);
    }
    model
}

/// Whether what was found can be what a power loss leaves of `history[from..]`: names and lengths as at one moment, and
/// bytes as they were then or later.
fn is_left_of(found: &Model, history: &[Model]) -> bool {
    (0..history.len()).any(|then| {
        let same = |number: &u64, bytes: &Vec<u8>| {
            history[then].files.get(number).is_some_and(|known| known.len() == bytes.len())
                && bytes.iter().enumerate().all(|(index, byte)| {
                    history[then..].iter().any(|later| {
                        later.files.get(number).is_some_and(|known| known.get(index) == Some(byte))
                    })
                })
        };
        found.names == history[then].names && found.files.iter().all(|(number, bytes)| same(number, bytes))
    })
}

/// Runs steps until the power goes, at any operation of the disk, and looks at what is left.
fn crash(steps: &[Step], operations: u32, seed: u64) {
    let disk = Arc::new(SimulatedDisk::default());
    let mut run = Run { layer: layer(disk.clone()), disk, model: Model::default(), next: 100 };
    let mut history = vec![Model::default()];
    run.disk.fail_after(operations);
    for step in steps {
        if matches!(step, Step::Kill) {
            continue;
        }
        let outcome = run.step(step);
        history.push(run.model.clone());
        match (outcome, step) {
            // From here on everything before must be there.
            (Ok(()), Step::Sync) => history = vec![run.model.clone()],
            (Ok(()), _) => {}
            (Err(_), _) => break,
        }
    }
    let again = layer(run.disk.after_power_loss(seed));
    let found = found(&again);
    assert!(is_left_of(&found, &history), "{steps:?}\nfound {found:?}\nof {history:?}");
    // And a second start finds the same.
    drop(again);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_power_loss_at_any_moment_leaves_what_was_synced(
        steps in steps(), operations in 0..150_u32, seed: u64
    ) {
        crash(&steps, operations, seed);
    }

    #[test]
    fn the_end_of_the_process_at_any_moment_loses_nothing(steps in steps()) {
        let disk = Arc::new(SimulatedDisk::default());
        let mut run = Run { layer: layer(disk.clone()), disk, model: Model::default(), next: 100 };
        for step in &steps {
            run.step(step).unwrap();
        }
        run.step(&Step::Kill).unwrap();
    }
}

#[test]
fn a_long_journal_is_written_anew_and_survives_a_power_loss() {
    let disk = Arc::new(SimulatedDisk::default());
    let layer = with_file(disk.clone(), Some(origin(1 << 20)), 1 << 20);
    let big = vec![b'v'; 1 << 20];
    for round in 0..12 {
        let mut meta = meta();
        meta.xattrs.insert(b"user.big".to_vec(), big.clone());
        meta.mode = 0o600 + round;
        layer.apply(vec![Change::Meta(100, meta)]).unwrap();
        layer.sync().unwrap();
    }
    layer.write(100, 10, b"xyz", at(2)).unwrap();
    layer.sync().unwrap();
    assert!(disk.length(FileName::Journal).unwrap() < 8 << 20, "it has been written anew");
    for seed in 0..20 {
        let again = Layer::open(disk.after_power_loss(seed)).unwrap();
        assert_eq!(again.record(100), layer.record(100));
        assert_eq!(&again.read(100, 10, 3).unwrap().bytes, b"xyz");
    }
}
