use std::sync::Arc;

use minicbor::{Decode, Encode};

use super::{Change, Disk, FileName, LayerError, state::State};

/// What a journal begins with.
const MAGIC: &[u8] = b"twinshare layer v01\n";

/// Before each entry: its length, and the start of a hash over its position and its bytes.
const HEADER: usize = 4 + 8;

/// The longest entry that is believed.
const LONGEST: usize = 64 << 20;

/// Changes that go into one entry of a journal that is written anew.
const TOGETHER: usize = 256;

/// An entry of the journal.
#[derive(Debug, PartialEq, Encode, Decode)]
enum Entry {
    /// The layer was opened under this start of the machine.
    #[n(0)]
    Opened(#[cbor(n(0), with = "minicbor::bytes")] [u8; 16]),
    /// All entries before this position, and the data that they speak of, are on the disk for good.
    #[n(1)]
    Barrier(#[n(0)] u64),
    /// These happened together.
    #[n(2)]
    Changes(#[n(0)] Vec<Change>),
}

/// The journal: what happened, in order. What it says is believed only as far as it can be.
pub(super) struct Journal {
    disk: Arc<dyn Disk>,
    end: u64,
    /// How long it was when it was last written anew.
    compact: u64,
}

/// What an opened journal says.
pub(super) struct Opened {
    pub(super) journal: Journal,
    pub(super) state: State,
    /// Bytes at the end that say nothing.
    pub(super) unreadable: u64,
}

/// One entry as it is read: its end, and what it says.
struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Iterator for Reader<'_> {
    type Item = (u64, Entry);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.position..)?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (check, rest) = rest.split_first_chunk::<8>()?;
        let entry =
            rest.get(..u32::from_le_bytes(*length) as usize).filter(|entry| entry.len() <= LONGEST)?;
        if *check != checked(self.position as u64, entry) {
            return None;
        }
        let decoded = minicbor::decode(entry).ok()?;
        self.position += HEADER + entry.len();
        Some((self.position as u64, decoded))
    }
}

fn checked(position: u64, entry: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&position.to_le_bytes()).update(entry);
    let mut check = [0; 8];
    hasher.finalize_xof().fill(&mut check);
    check
}

fn frame(position: u64, entry: &Entry) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    // Writing into a Vec can't fail: its error type has no values.
    let Ok(()) =
        minicbor::encode(entry, &mut bytes).map_err(|_| unreachable!("everything here has an encoding"));
    let (header, entry) = bytes.split_at_mut(HEADER);
    header[..4].copy_from_slice(&(entry.len() as u32).to_le_bytes());
    header[4..].copy_from_slice(&checked(position, entry));
    bytes
}

impl Journal {
    /// Opens the journal, or begins one.
    ///
    /// After another start of the machine the disk may hold any part of what wasn't synced. Then what happened since
    /// the last barrier is taken back, so that what is there belongs together.
    pub(super) fn open(disk: Arc<dyn Disk>) -> Result<Opened, LayerError> {
        let mut bytes = vec![0; disk.length(FileName::Journal)? as usize];
        let length = disk.read(FileName::Journal, 0, &mut bytes)?;
        bytes.truncate(length);
        let begun = bytes.starts_with(MAGIC);
        if !begun && bytes.iter().any(|byte| *byte != 0) && !MAGIC.starts_with(&bytes) {
            return Err(LayerError::Damaged("its journal begins like none of this version"));
        }
        let entries = || Reader { bytes: &bytes, position: if begun { MAGIC.len() } else { bytes.len() } };
        let start = MAGIC.len() as u64;
        let (mut readable, mut boot, mut barrier) = (start, None, start);
        for (end, entry) in entries() {
            match entry {
                Entry::Opened(then) => boot = Some(then),
                Entry::Barrier(position) => barrier = position.min(end).max(start),
                Entry::Changes(_) => {}
            }
            readable = end;
        }
        let now = disk.boot();
        let end = if boot == Some(now) { readable } else { barrier };
        let mut state = State::default();
        for (_, entry) in entries().take_while(|(at, _)| *at <= end) {
            if let Entry::Changes(changes) = entry {
                changes.iter().for_each(|change| state.apply(change, &mut Vec::new()));
            }
        }
        let mut journal = Self { disk, end, compact: end };
        if !begun {
            journal.disk.write(FileName::Journal, 0, MAGIC)?;
        }
        // On the disk before anything is appended, lest the one day's entries be read on behind another's.
        journal.disk.resize(FileName::Journal, end)?;
        journal.disk.sync(FileName::Journal)?;
        if readable > barrier {
            journal.disk.sync_all()?;
        }
        journal.append(&Entry::Opened(now))?;
        journal.append(&Entry::Barrier(journal.end))?;
        journal.disk.sync(FileName::Journal)?;
        journal.disk.sync_names()?;
        let unreadable = (bytes.len() as u64).saturating_sub(readable);
        Ok(Opened { journal, state, unreadable })
    }

    fn append(&mut self, entry: &Entry) -> Result<(), LayerError> {
        let bytes = frame(self.end, entry);
        // At its own position: what a failed attempt left behind is written over.
        self.disk.write(FileName::Journal, self.end, &bytes)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn note(&mut self, changes: Vec<Change>) -> Result<(), LayerError> {
        self.append(&Entry::Changes(changes))
    }

    /// Notes that all before `position` is on the disk.
    pub(super) fn note_barrier(&mut self, position: u64) -> Result<(), LayerError> {
        self.append(&Entry::Barrier(position))
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Whether it is mostly of what has been overtaken.
    pub(super) fn is_long(&self, least: u64) -> bool {
        self.end > least + 4 * self.compact
    }

    /// Writes it anew, so that it says only what is. All data must be on the disk.
    pub(super) fn rewrite(&mut self, state: &State) -> Result<(), LayerError> {
        let mut next = MAGIC.to_vec();
        let put = |next: &mut Vec<u8>, entry: &Entry| next.extend(frame(next.len() as u64, entry));
        put(&mut next, &Entry::Opened(self.disk.boot()));
        let mut changes = state.changes().peekable();
        while changes.peek().is_some() {
            let some = changes.by_ref().take(TOGETHER).collect();
            put(&mut next, &Entry::Changes(some));
        }
        let position = next.len() as u64;
        put(&mut next, &Entry::Barrier(position));
        self.disk.resize(FileName::NextJournal, 0)?;
        self.disk.write(FileName::NextJournal, 0, &next)?;
        self.disk.sync(FileName::NextJournal)?;
        self.disk.switch()?;
        self.disk.sync_names()?;
        (self.end, self.compact) = (next.len() as u64, next.len() as u64);
        Ok(())
    }
}
