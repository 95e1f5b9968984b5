use std::{num::NonZeroUsize, ops::Range};

use lru::LruCache;

use crate::types::Digest;

/// Files whose readers are remembered.
const FILES: usize = 256;

/// Readers of one file that are told apart.
const READERS: usize = 8;

/// The window at the second read in a row, in bytes; it doubles with each further one …
const FIRST_WINDOW: u64 = 256 << 10;

/// … up to this: some 140 ms of a gigabit link, and enough for what several send at their own pace.
const LAST_WINDOW: u64 = 16 << 20;

/// A read that starts within this distance behind a reader's position still belongs to it: the kernel's own readahead
/// sends its requests from several threads, out of order.
const SLACK: u64 = 1 << 20;

/// So many files in a row of which only the beginning is read are programs that load libraries, perhaps; with more it's somebody
/// who looks through files for what they are, as a file manager does that opens a folder.
const HEADS: u32 = 16;

/// Recognises readers that go through a file in order, several of them in one file too.
pub(super) struct Readahead {
    files: LruCache<Digest, Vec<Reader>>,
    /// Of how many files in a row only the beginning has been read.
    heads: u32,
}

#[derive(Debug, Clone, Copy)]
struct Reader {
    /// Where its last read ended.
    position: u64,
    /// How far it has been read ahead for.
    ahead: u64,
    window: u64,
}

impl Readahead {
    pub(super) fn new() -> Self {
        Self { files: LruCache::new(NonZeroUsize::new(FILES).unwrap_or(NonZeroUsize::MIN)), heads: 0 }
    }

    /// Whether the file is one of those that were read last.
    pub(super) fn knows(&self, file: &Digest) -> bool {
        self.files.contains(file)
    }

    /// Whether it's only the beginnings of files that are being read: what lies behind them isn't worth fetching then.
    pub(super) fn skims(&self) -> bool {
        self.heads > HEADS
    }

    /// Notes a read of `range` bytes in a file of `size` bytes; gives what should be fetched ahead of the reader, if anything.
    pub(super) fn note(&mut self, file: Digest, size: u64, range: Range<u64>) -> Option<Range<u64>> {
        let is_head = range.start == 0 && !self.knows(&file);
        self.heads = if is_head { self.heads.saturating_add(1) } else { 0 };
        let readers = self.files.get_or_insert_mut(file, Vec::new);
        let found = readers.iter().position(|reader| {
            range.start <= reader.position + SLACK && range.end + SLACK >= reader.position
        });
        let Some(found) = found else {
            readers.truncate(READERS - 1);
            readers.insert(0, Reader { position: range.end, ahead: range.end, window: 0 });
            return None;
        };
        let mut reader = readers.remove(found);
        let further = range.end > reader.position;
        reader.position = reader.position.max(range.end);
        let mut wanted = None;
        // Ask again when half of what was fetched ahead has been used up.
        if further && reader.ahead.saturating_sub(reader.position) <= reader.window / 2 {
            reader.window = (reader.window * 2).clamp(FIRST_WINDOW, LAST_WINDOW);
            let start = reader.ahead.max(reader.position);
            let end = size.min(reader.position + reader.window);
            if start < end {
                reader.ahead = end;
                wanted = Some(start..end);
            }
        }
        readers.insert(0, reader);
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Digest = Digest::from_bytes([1; 32]);
    const READ: u64 = 128 << 10;
    const SIZE: u64 = 1 << 30;

    #[test]
    fn a_sequential_reader_is_kept_ahead_of() {
        let mut readahead = Readahead::new();
        let mut fetched = 0;
        let mut ahead = 0;
        for start in (0..64 << 20).step_by(READ as usize) {
            if let Some(range) = readahead.note(FILE, SIZE, start..start + READ) {
                assert!(range.start >= ahead, "nothing is asked for twice");
                ahead = range.end;
                fetched += range.end - range.start;
            }
            assert!(
                start < 2 * READ || ahead > start + READ,
                "the reader at {start} must find its next bytes asked for"
            );
            assert!(ahead <= start + READ + LAST_WINDOW, "bounded");
        }
        assert!(fetched > 60 << 20);
        // The end of the file is the end.
        assert_eq!(readahead.note(FILE, SIZE, SIZE - READ..SIZE), None);
    }

    #[test]
    fn random_reads_bring_nothing_more() {
        let mut readahead = Readahead::new();
        for i in 0..200u64 {
            let start = i.wrapping_mul(2_654_435_761) % 1009 * (4 << 20) % (SIZE - READ);
            let start = start / (4 << 20) * (4 << 20);
            let ahead = readahead.note(Digest::of(&i.to_le_bytes()), SIZE, start..start + 4096);
            assert_eq!(ahead, None);
        }
    }

    #[test]
    fn interleaved_readers_are_told_apart() {
        let mut readahead = Readahead::new();
        let mut asked = [0; 4];
        for step in 0..100 {
            for (reader, asked) in asked.iter_mut().enumerate() {
                let start = reader as u64 * (SIZE / 4) + step * READ;
                if let Some(range) = readahead.note(FILE, SIZE, start..start + READ) {
                    assert!(range.start >= start && range.start < start + READ + LAST_WINDOW);
                    *asked += range.end - range.start;
                }
            }
        }
        assert!(asked.iter().all(|bytes| *bytes > 12 << 20), "{asked:?}");
    }
}
