use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use super::{
    Change, Content, DataFile, Disk, FileKind, FileName, LayerError, Origin, RealDisk, Record, RecordKind,
    Slot, Stat, journal::Journal, state::State,
};
use crate::types::{Name, Timestamp, WorkspaceId};

/// A journal is written anew when it has grown by this and to a multiple of what it says.
const LONG: u64 = 4 << 20;

/// From so many files on, the whole disk is synced rather than one after the other.
const MANY: usize = 64;

type Result<T> = std::result::Result<T, LayerError>;

/// One workspace's layer.
///
/// What was acknowledged survives the end of the process; what [`Layer::sync`] returned for survives a power loss too.
/// Calls take microseconds, but for `sync`, which waits for the disk.
pub struct Layer {
    disk: Arc<dyn Disk>,
    inner: Mutex<Inner>,
    /// Held while a barrier is made: one at a time.
    syncing: Mutex<()>,
}

struct Inner {
    journal: Journal,
    state: State,
    /// Data files written since the last barrier.
    dirty: BTreeSet<DataFile>,
    /// How much of a data file is on the disk for good, where that's anything.
    durable: HashMap<DataFile, u64>,
    /// Data files that nothing refers to, to be removed when that is on the disk for good.
    garbage: Vec<DataFile>,
    /// Up to where the journal, and all data that it speaks of, are on the disk for good.
    synced: u64,
}

/// What a layer has of a range of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    /// The bytes, up to the file's end; zeros where the origin's belong.
    pub bytes: Vec<u8>,
    /// What the origin's bytes belong in, as offsets in the file.
    pub missing: Vec<Range<u64>>,
    /// What to take them from.
    pub origin: Option<Origin>,
}

/// What is looked for in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// Where the next data is.
    Data,
    /// Where the next hole is; the end of the file is one.
    Hole,
}

impl Layer {
    /// Opens a layer, or begins one.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Self> {
        let opened = Journal::open(disk.clone())?;
        if opened.unreadable > 0 {
            tracing::warn!(
                bytes = opened.unreadable,
                "the end of a layer's journal was not written whole: left out"
            );
        }
        let (journal, mut state) = (opened.journal, opened.state);
        // Nobody holds a file without a name any more.
        let nameless: Vec<u64> = state
            .numbers()
            .filter(|number| state.record(*number).is_some_and(|record| record.meta.links == 0))
            .collect();
        nameless.into_iter().for_each(|number| state.apply(&Change::Drop(number), &mut Vec::new()));
        clear(&*disk, &state)?;
        let mut durable = HashMap::new();
        for file in disk.list()? {
            durable.insert(file, disk.length(FileName::Data(file))?);
        }
        let synced = journal.end();
        let (dirty, garbage) = Default::default();
        let inner = Inner { journal, state, dirty, durable, garbage, synced };
        Ok(Self { disk, inner: Mutex::new(inner), syncing: Mutex::default() })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Changes are noted before they are made, and making them doesn't panic half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no node has.
    pub fn fresh(&self) -> u64 {
        let inner = self.inner();
        loop {
            // By chance nobody ever has the same twice, as with the hashes that other nodes' numbers are.
            let number = rand::random::<u64>();
            if number > 1 && inner.state.record(number).is_none() {
                return number;
            }
        }
    }

    /// Makes changes: all of them or, on an error, none.
    pub fn apply(&self, changes: Vec<Change>) -> Result<()> {
        let inner = &mut *self.inner();
        inner.journal.note(changes.clone())?;
        changes.iter().for_each(|change| inner.state.apply(change, &mut inner.garbage));
        Ok(())
    }

    /// All that it holds of a node.
    pub fn record(&self, number: u64) -> Option<Record> {
        self.inner().state.record(number).cloned()
    }

    /// What `stat` tells of a node.
    pub fn stat(&self, number: u64) -> Option<Stat> {
        self.inner().state.record(number).map(Record::stat)
    }

    /// What kind of node it holds under a number.
    pub fn kind(&self, number: u64) -> Option<FileKind> {
        self.inner().state.record(number).map(Record::kind)
    }

    /// What a node was made of.
    pub fn origin(&self, number: u64) -> Option<Origin> {
        self.inner().state.record(number)?.origin.clone()
    }

    /// Where the owner has (or had) what a node was made of.
    pub fn origin_path(&self, number: u64) -> Option<Vec<Name>> {
        Some(self.inner().state.record(number)?.origin.as_ref()?.path.clone())
    }

    /// A folder and the name in it that a node stands under; none for the workspace's root, and for what was removed.
    pub fn place(&self, number: u64) -> Option<(u64, Name)> {
        self.inner().state.place(number).cloned()
    }

    /// What it says about a name of a folder.
    pub fn slot(&self, folder: u64, name: &Name) -> Option<Slot> {
        self.inner().state.slot(folder, name).cloned()
    }

    /// What it says about names of a folder behind a position, at most `most` of them, by position.
    pub fn slots(&self, folder: u64, behind: u64, most: usize) -> Vec<(u64, Name, Slot)> {
        let inner = self.inner();
        let slots = inner.state.slots(folder, behind).take(most);
        slots.map(|(position, name, slot)| (position, name.clone(), slot.clone())).collect()
    }

    /// The bytes of a file that aren't holes, here and at its origin.
    pub fn allocated(&self, number: u64) -> Result<u64> {
        let inner = self.inner();
        let content = inner.state.content(number).ok_or(LayerError::Unknown(number))?;
        let file = DataFile { number, generation: content.generation };
        let shown = missing(content, 0..content.size);
        let shown: u64 = shown.iter().map(|range| range.end - range.start).sum();
        Ok(self.disk.allocated(FileName::Data(file))? + shown)
    }

    /// Writes into a file.
    pub fn write(&self, number: u64, offset: u64, bytes: &[u8], time: Timestamp) -> Result<()> {
        let inner = &mut *self.inner();
        let file = inner.state.data_file(number).ok_or(LayerError::Unknown(number))?;
        inner.dirty.insert(file);
        let wrote = self.disk.write(FileName::Data(file), offset, bytes).map_err(LayerError::from);
        let change = Change::Wrote(number, offset, bytes.len() as u64, time);
        self.finish(inner, file, wrote, change)
    }

    /// Notes what was done to a data file. If either failed, what stands beyond the file's end is taken away again: it
    /// would show when the file grows.
    fn finish(&self, inner: &mut Inner, file: DataFile, done: Result<()>, change: Change) -> Result<()> {
        let noted = done.and_then(|()| inner.journal.note(vec![change.clone()]));
        if let Err(error) = noted {
            let size = inner.state.content(file.number).map_or(0, |content| content.size);
            if self.disk.length(FileName::Data(file))? > size {
                self.disk.resize(FileName::Data(file), size)?;
            }
            return Err(error);
        }
        inner.state.apply(&change, &mut inner.garbage);
        Ok(())
    }

    /// Gives a file another length.
    pub fn resize(&self, number: u64, size: u64, time: Timestamp) -> Result<()> {
        let change = Change::Resized(number, size, time);
        let (file, shrinks_durable) = {
            let inner = &mut *self.inner();
            let file = inner.state.data_file(number).ok_or(LayerError::Unknown(number))?;
            inner.journal.note(vec![change.clone()])?;
            inner.state.apply(&change, &mut inner.garbage);
            (file, size > 0 && inner.durable.get(&file).is_some_and(|durable| *durable > size))
        };
        if size == 0 {
            // It goes on in another data file; this one stays until that is on the disk for good.
            return Ok(());
        }
        if shrinks_durable {
            // Else a power loss would bring the old length back, but not what stood there.
            self.sync()?;
        }
        let inner = &mut *self.inner();
        // As it is now: it may have changed while the disk was waited for.
        let now = inner.state.content(number).map_or(0, |content| content.size);
        if now == size && self.disk.length(FileName::Data(file))? > size {
            inner.dirty.insert(file);
            self.disk.resize(FileName::Data(file), size)?;
            inner.durable.entry(file).and_modify(|durable| *durable = size.min(*durable));
        }
        Ok(())
    }

    /// Makes bytes of a file zero, and frees them; with `grow`, the file reaches to their end at least.
    pub fn punch(&self, number: u64, offset: u64, length: u64, grow: bool, time: Timestamp) -> Result<()> {
        let inner = &mut *self.inner();
        let content = inner.state.content(number).ok_or(LayerError::Unknown(number))?;
        let end = offset.saturating_add(length);
        let end = if grow { end } else { end.min(content.size) };
        if end <= offset {
            return Ok(());
        }
        let file = DataFile { number, generation: content.generation };
        inner.dirty.insert(file);
        let punched = self.disk.punch(FileName::Data(file), offset, end - offset).map_err(LayerError::from);
        self.finish(inner, file, punched, Change::Wrote(number, offset, end - offset, time))
    }

    /// Reserves space for bytes of a file; with `grow`, it reaches to their end at least.
    pub fn reserve(&self, number: u64, offset: u64, length: u64, grow: bool, time: Timestamp) -> Result<()> {
        let (file, size) = {
            let inner = self.inner();
            let content = inner.state.content(number).ok_or(LayerError::Unknown(number))?;
            (DataFile { number, generation: content.generation }, content.size)
        };
        self.disk.reserve(FileName::Data(file), offset, length)?;
        let end = offset.saturating_add(length);
        if grow && end > size { self.resize(number, end, time) } else { Ok(()) }
    }

    /// Up to `length` bytes of a file from `offset`.
    pub fn read(&self, number: u64, offset: u64, length: u64) -> Result<Read> {
        let inner = self.inner();
        let record = inner.state.record(number).ok_or(LayerError::Unknown(number))?;
        let RecordKind::File(content) = &record.kind else { return Err(LayerError::Unknown(number)) };
        let end = content.size.min(offset.saturating_add(length));
        if offset >= end {
            return Ok(Read { bytes: Vec::new(), missing: Vec::new(), origin: None });
        }
        let missing = missing(content, offset..end);
        let origin = if missing.is_empty() { None } else { record.origin.clone() };
        let mut bytes = vec![0; (end - offset) as usize];
        let file = DataFile { number, generation: content.generation };
        // Under the lock: else a truncation in between would let old bytes show.
        self.disk.read(FileName::Data(file), offset, &mut bytes)?;
        for range in &missing {
            bytes[(range.start - offset) as usize..(range.end - offset) as usize].fill(0);
        }
        Ok(Read { bytes, missing, origin })
    }

    /// Where from `offset` on the next data or hole is, and the ranges that the origin must be asked about: none if there's
    /// no data before the end. The origin's bytes count as data here.
    pub fn seek(&self, number: u64, offset: u64, what: Seek) -> Result<Option<u64>> {
        let inner = self.inner();
        let content = inner.state.content(number).ok_or(LayerError::Unknown(number))?;
        if offset >= content.size {
            return Ok(None);
        }
        let file = FileName::Data(DataFile { number, generation: content.generation });
        let mut at = offset;
        while at < content.size {
            let from_origin = missing(content, at..content.size).into_iter().next();
            if let Some(range) = &from_origin
                && range.start == at
            {
                if what == Seek::Data {
                    return Ok(Some(at));
                }
                at = range.end;
                continue;
            }
            let end = from_origin.map_or(content.size, |range| range.start);
            let data = self.disk.next_data(file, at)?.unwrap_or(end).min(end);
            match what {
                Seek::Data if data < end => return Ok(Some(data)),
                Seek::Data => at = end,
                Seek::Hole if data > at => return Ok(Some(at)),
                Seek::Hole => {
                    let hole = self.disk.next_hole(file, at)?;
                    if hole < end {
                        return Ok(Some(hole));
                    }
                    at = end;
                }
            }
        }
        Ok((what == Seek::Hole).then_some(content.size))
    }

    /// Returns when all that was done before the call survives a power loss.
    pub fn sync(&self) -> Result<()> {
        let before = self.inner().journal.end();
        let _one = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let (dirty, labels, position, removed) = {
            let inner = &mut *self.inner();
            if inner.synced >= before {
                return Ok(());
            }
            let dirty = std::mem::take(&mut inner.dirty);
            let labels: Vec<_> = dirty.iter().map(|file| inner.state.path(file.number)).collect();
            (dirty, labels, inner.journal.end(), inner.garbage.len())
        };
        let lengths = match self.settle(&dirty, labels, position) {
            Ok(lengths) => lengths,
            Err(error) => {
                self.inner().dirty.extend(dirty);
                return Err(error);
            }
        };
        let inner = &mut *self.inner();
        for (file, length) in dirty.into_iter().zip(lengths) {
            inner.durable.insert(file, length);
        }
        let garbage: Vec<DataFile> = inner.garbage.drain(..removed).collect();
        self.remove(inner, garbage)?;
        if inner.journal.is_long(LONG) {
            inner.dirty.iter().try_for_each(|file| self.disk.sync(FileName::Data(*file)))?;
            inner.journal.rewrite(&inner.state)?;
            inner.synced = inner.journal.end();
            inner.dirty.clear();
            let garbage = std::mem::take(&mut inner.garbage);
            self.remove(inner, garbage)?;
        }
        Ok(())
    }

    /// Makes a barrier behind `position`; gives the lengths that the files have on the disk for good.
    fn settle(&self, dirty: &BTreeSet<DataFile>, labels: Vec<Vec<u8>>, position: u64) -> Result<Vec<u64>> {
        let mut lengths = Vec::with_capacity(dirty.len());
        for (file, path) in dirty.iter().zip(labels) {
            self.disk.label(FileName::Data(*file), &path)?;
            lengths.push(self.disk.length(FileName::Data(*file))?);
        }
        if dirty.len() > MANY {
            self.disk.sync_all()?;
        } else {
            dirty.iter().try_for_each(|file| self.disk.sync(FileName::Data(*file)))?;
            if !dirty.is_empty() {
                self.disk.sync_names()?;
            }
        }
        let covered = {
            let inner = &mut *self.inner();
            let alone = inner.journal.end() == position;
            inner.journal.note_barrier(position)?;
            if alone { inner.journal.end() } else { position }
        };
        self.disk.sync(FileName::Journal)?;
        self.inner().synced = covered;
        Ok(lengths)
    }

    fn remove(&self, inner: &mut Inner, garbage: Vec<DataFile>) -> Result<()> {
        for file in garbage {
            self.disk.remove(FileName::Data(file))?;
            inner.durable.remove(&file);
            inner.dirty.remove(&file);
        }
        Ok(())
    }
}

/// The parts of a range that the origin shows through in.
fn missing(content: &Content, range: Range<u64>) -> Vec<Range<u64>> {
    let shown = range.start..range.end.min(content.shows);
    if shown.is_empty() { Vec::new() } else { content.written.gaps(&shown).collect() }
}

/// Removes data that nothing refers to, and what stands beyond a file's end: written but not acknowledged, or taken back.
fn clear(disk: &dyn Disk, state: &State) -> Result<()> {
    for file in disk.list()? {
        if state.data_file(file.number) != Some(file) {
            disk.remove(FileName::Data(file))?;
            continue;
        }
        let size = state.content(file.number).map_or(0, |content| content.size);
        if disk.length(FileName::Data(file))? > size {
            disk.resize(FileName::Data(file), size)?;
        }
    }
    Ok(())
}

/// What a disk has, and what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes.
    pub bytes: u64,
    /// Bytes that may still be written.
    pub free: u64,
    /// Files.
    pub files: u64,
    /// Files that may still be made.
    pub free_files: u64,
}

/// The layers of all workspaces, each in a folder named by the workspace's identity.
pub struct Layers {
    folder: PathBuf,
    open: RwLock<HashMap<WorkspaceId, Arc<Layer>>>,
}

impl Layers {
    /// Opens all layers in a folder, which need not exist; and says which couldn't be opened.
    pub fn open(folder: PathBuf) -> (Self, Vec<(PathBuf, LayerError)>) {
        let (mut open, mut failed) = (HashMap::new(), Vec::new());
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<WorkspaceId>().ok())
            else {
                continue;
            };
            match RealDisk::new(entry.path())
                .map_err(LayerError::from)
                .and_then(|disk| Layer::open(Arc::new(disk)))
            {
                Ok(layer) => {
                    open.insert(id, Arc::new(layer));
                }
                Err(error) => failed.push((entry.path(), error)),
            }
        }
        (Self { folder, open: RwLock::new(open) }, failed)
    }

    /// The layer of a workspace, if anything was ever changed in it.
    pub fn get(&self, workspace: &WorkspaceId) -> Option<Arc<Layer>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(workspace).cloned()
    }

    /// The layer of a workspace, which is begun if there's none.
    pub fn begin(&self, workspace: &WorkspaceId) -> Result<Arc<Layer>> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = open.get(workspace) {
            return Ok(layer.clone());
        }
        let disk = RealDisk::new(self.folder.join(workspace.to_string()))?;
        let layer = Arc::new(Layer::open(Arc::new(disk))?);
        open.insert(*workspace, layer.clone());
        Ok(layer)
    }

    /// What `statfs` tells of the disk that they lie on.
    pub fn space(&self) -> Result<DiskSpace> {
        std::fs::create_dir_all(&self.folder)?;
        let disk = rustix::fs::statvfs(&self.folder).map_err(std::io::Error::from)?;
        let block = disk.f_frsize;
        Ok(DiskSpace {
            bytes: disk.f_blocks.saturating_mul(block),
            free: disk.f_bavail.saturating_mul(block),
            files: disk.f_files,
            free_files: disk.f_favail,
        })
    }

    /// Those that have been begun.
    pub fn all(&self) -> Vec<(WorkspaceId, Arc<Layer>)> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.iter().map(|(id, layer)| (*id, layer.clone())).collect()
    }
}
