use std::{
    io::{self, Read},
    ops::Range,
};

use fastcdc::v2020::{Normalization, StreamCDC};

use super::{Blob, GROUP, ReadAt};
use crate::types::Digest;

/// Bytes in a window: lists of chunks are made and asked for a window at a time, a whole number of groups each.
pub const WINDOW: u64 = 8 << 20;

/// A chunk's shortest, average and greatest length in bytes. A blob's last chunk may be shorter.
const MIN: usize = 8 << 10;
const AVERAGE: usize = 32 << 10;
const MAX: usize = 128 << 10;

/// Where a window's chunking begins before it, in bytes: far enough that the cuts are those of whoever begins elsewhere.
const RUN_UP: u64 = 512 << 10;

/// The most chunks in one list: those that begin in the window, and one that reaches into it.
const CHUNKS: usize = WINDOW as usize / MIN + 2;

/// Bytes of one chunk in an encoded list.
const ENTRY: usize = 12;

/// Bytes before the chunks of an encoded list.
const START: usize = 12;

/// Why some bytes aren't a list of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a list of chunks that can't be one of the window")]
pub(super) struct ChunkListError;

/// A piece of content between two cuts that only depend on the content near them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u32,
    /// What it is recognised by: the first 8 bytes of its BLAKE3. Enough to find what is alike, not to trust it.
    pub mark: [u8; 8],
}

impl Chunk {
    /// Where it ends, in bytes.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }
}

/// The chunks of a blob that have a part in one window, side by side and in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChunkList(Vec<Chunk>);

/// How many windows a blob of `size` bytes has.
pub fn windows(size: u64) -> u64 {
    size.div_ceil(WINDOW)
}

/// The groups in window `window` of a blob; none beyond its end.
pub fn window_groups(blob: &Blob, window: u64) -> Range<u64> {
    let start = window.saturating_mul(WINDOW / GROUP).min(blob.groups());
    start..start.saturating_add(WINDOW / GROUP).min(blob.groups())
}

/// The longest encoded list, in bytes.
pub(super) fn chunk_list_limit() -> u64 {
    (START + CHUNKS * ENTRY) as u64
}

/// Cuts `source` between `start` and `end` into chunks, by FastCDC as of 2020 (crate `fastcdc`).
fn cut<R: ReadAt + ?Sized>(source: &R, start: u64, end: u64) -> impl Iterator<Item = io::Result<Chunk>> + '_ {
    let reader = Reader { source, position: start.min(end), end };
    let chunks = StreamCDC::with_level(reader, MIN, AVERAGE, MAX, Normalization::Level1);
    chunks.map(move |chunk| {
        let chunk = chunk.map_err(io::Error::from)?;
        let mut mark = [0; 8];
        mark.copy_from_slice(&Digest::of(&chunk.data).as_bytes()[..8]);
        Ok(Chunk { offset: start + chunk.offset, length: chunk.length as u32, mark })
    })
}

impl ChunkList {
    /// The chunks in a window, as far as the bytes `held` of `source` tell. For whoever holds all bytes they are the same;
    /// others don't find the first and last of what they hold.
    pub fn of_window<R: ReadAt + ?Sized>(source: &R, held: Range<u64>, window: u64) -> io::Result<Self> {
        let start = window.saturating_mul(WINDOW);
        let end = start.saturating_add(WINDOW);
        let mut chunks = Vec::new();
        // Not only up to the window's end, so that the last cut is what it would be for anybody.
        for chunk in cut(source, start.saturating_sub(RUN_UP).max(held.start), held.end) {
            let chunk = chunk?;
            if chunk.offset >= end {
                break;
            }
            if chunk.end() > start {
                chunks.push(chunk);
            }
        }
        Ok(Self(chunks))
    }

    /// The chunks.
    pub fn chunks(&self) -> &[Chunk] {
        &self.0
    }

    /// As it travels: the offset of the first chunk (8 bytes), how many there are (4 bytes), then for each its length
    /// (4 bytes) and its mark.
    pub(super) fn encode(&self) -> Vec<u8> {
        let first = self.0.first().map_or(0, |chunk| chunk.offset);
        let mut bytes = Vec::with_capacity(START + self.0.len() * ENTRY);
        bytes.extend(first.to_be_bytes());
        bytes.extend((self.0.len() as u32).to_be_bytes());
        for chunk in &self.0 {
            bytes.extend(chunk.length.to_be_bytes());
            bytes.extend(chunk.mark);
        }
        bytes
    }

    /// Takes the first bytes for the list of `window` of `blob`, if they can be one, and gives what follows. Only the
    /// content will tell whether it's true.
    pub(super) fn decode<'b>(
        blob: &Blob,
        window: u64,
        bytes: &'b [u8],
    ) -> Result<(Self, &'b [u8]), ChunkListError> {
        let start = window.checked_mul(WINDOW).filter(|start| *start < blob.size).ok_or(ChunkListError)?;
        let end = start.saturating_add(WINDOW).min(blob.size);
        let (first, bytes) = bytes.split_first_chunk().ok_or(ChunkListError)?;
        let (count, bytes) = bytes.split_first_chunk().ok_or(ChunkListError)?;
        let count = u32::from_be_bytes(*count) as usize;
        if !(1..=CHUNKS).contains(&count) || bytes.len() < count * ENTRY {
            return Err(ChunkListError);
        }
        let (entries, rest) = bytes.split_at(count * ENTRY);
        let (entries, _) = entries.as_chunks::<ENTRY>();
        let mut offset = u64::from_be_bytes(*first);
        let mut chunks = Vec::with_capacity(entries.len());
        for entry in entries {
            let [l0, l1, l2, l3, mark @ ..] = *entry;
            let chunk = Chunk { offset, length: u32::from_be_bytes([l0, l1, l2, l3]), mark };
            let good = (1..=MAX as u32).contains(&chunk.length) && offset < end;
            // With the lengths bounded and the offset below the blob's size, the sum can't overflow.
            if !good || chunk.end() <= start || chunk.end() > blob.size {
                return Err(ChunkListError);
            }
            offset = chunk.end();
            chunks.push(chunk);
        }
        Ok((Self(chunks), rest))
    }
}

/// Reads from a position on.
struct Reader<'a, R: ?Sized> {
    source: &'a R,
    position: u64,
    end: u64,
}

impl<R: ReadAt + ?Sized> Read for Reader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = (buffer.len() as u64).min(self.end - self.position) as usize;
        self.source.read_exact_at(&mut buffer[..length], self.position)?;
        self.position += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that anybody can make again: the extendable output of BLAKE3 over a text.
    fn noise(length: usize, seed: &str) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn blob(size: u64) -> Blob {
        Blob { digest: Digest::of(b"any"), size }
    }

    fn list(bytes: &Vec<u8>, window: u64) -> ChunkList {
        ChunkList::of_window(bytes, 0..bytes.len() as u64, window).unwrap()
    }

    #[test]
    fn test_vector_of_chunks() {
        let bytes = noise(1 << 20, "twinshare chunks");
        let chunks = list(&bytes, 0);
        let first: Vec<_> =
            chunks.chunks().iter().take(3).map(|chunk| (chunk.length, hex::encode(chunk.mark))).collect();
        let encoded = chunks.encode();
        assert_eq!(
            (chunks.chunks().len(), first, Digest::of(&encoded).to_string()),
            (
                26,
                vec![
                    (11_186, "8928b6058e72197a".into()),
                    (46_161, "6dbee03a798e1b21".into()),
                    (50_141, "0da7b735d2632159".into())
                ],
                "7e076fcfd2ec02113209de23da5caab91a058fa2db4b59f9785cfd441472975c".into()
            )
        );
    }

    #[test]
    fn windows_join_to_what_one_pass_gives() {
        let bytes = noise(3 * WINDOW as usize - 12_345, "windows");
        let pass: Vec<Chunk> = cut(&bytes, 0, bytes.len() as u64).map(Result::unwrap).collect();
        assert_eq!(pass.last().unwrap().end(), bytes.len() as u64);
        for window in 0..windows(bytes.len() as u64) {
            let range = window * WINDOW..(window + 1) * WINDOW;
            let expected: Vec<Chunk> = pass
                .iter()
                .filter(|chunk| chunk.offset < range.end && chunk.end() > range.start)
                .copied()
                .collect();
            assert_eq!(list(&bytes, window).chunks(), expected, "window {window}");
        }
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let old = noise(WINDOW as usize, "insertion");
        let mut new = old.clone();
        new.splice(4_000_000..4_000_000, noise(1000, "what is new"));
        let known: std::collections::HashSet<[u8; 8]> =
            list(&old, 0).chunks().iter().map(|chunk| chunk.mark).collect();
        let chunks = list(&new, 0);
        let changed: Vec<_> = chunks.chunks().iter().filter(|chunk| !known.contains(&chunk.mark)).collect();
        let bytes: u64 = changed.iter().map(|chunk| u64::from(chunk.length)).sum();
        assert!(!changed.is_empty() && bytes < 300_000, "{bytes} bytes in {} chunks", changed.len());
    }

    #[test]
    fn a_list_takes_a_thousandth() {
        for bytes in [noise(2 * WINDOW as usize, "size"), vec![0; 2 * WINDOW as usize]] {
            let encoded = list(&bytes, 1).encode();
            assert!(encoded.len() as u64 <= WINDOW / 1000, "{}", encoded.len());
            let blob = blob(bytes.len() as u64);
            assert_eq!(ChunkList::decode(&blob, 1, &encoded), Ok((list(&bytes, 1), &[][..])));
        }
    }

    #[test]
    fn lists_that_lie_are_refused() {
        let bytes = noise(WINDOW as usize + 300_000, "lies");
        let blob = blob(bytes.len() as u64);
        let good = list(&bytes, 1).encode();
        assert!(ChunkList::decode(&blob, 1, &good).is_ok());
        let changed = |at: usize, value: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + value.len()].copy_from_slice(value);
            bad
        };
        let of = |entries: &[u8]| {
            let count = (entries.len() / ENTRY) as u32;
            [&good[..8], &count.to_be_bytes(), entries].concat()
        };
        let last = &good[good.len() - ENTRY..];
        let long = of(&[&good[START..], &last.repeat(3)].concat());
        let many = of(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0].repeat(CHUNKS + 1));
        let bad = [
            (changed(START, &[0; 4]), "a chunk without a length"),
            (changed(START, &[0xff; 4]), "a chunk longer than any"),
            (changed(0, &[0xff; 8]), "a start beyond the blob"),
            (changed(0, &0u64.to_be_bytes()), "a start in another window"),
            (long, "chunks beyond the blob's end"),
            (many, "too many chunks"),
            (good[..good.len() - 1].to_vec(), "a chunk that is cut off"),
            (of(&[]), "no chunks"),
            (changed(8, &[0xff; 4]), "more chunks than there are bytes"),
            (Vec::new(), "nothing"),
        ];
        for (bad, what) in bad {
            assert_eq!(ChunkList::decode(&blob, 1, &bad), Err(ChunkListError), "{what}");
        }
        assert!(ChunkList::decode(&blob, 2, &good).is_err(), "no such window");
        assert!(ChunkList::decode(&blob, u64::MAX, &good).is_err(), "no such window");
    }

    proptest! {
        #[test]
        fn random_lists_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), size in 0..u64::MAX, window in 0..4u64) {
            let _ = ChunkList::decode(&blob(size), window, &bytes);
        }
    }
}
