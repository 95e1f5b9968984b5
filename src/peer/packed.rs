//! Payloads made ready to be sent, and the memory of those that were.

use std::{
    cell::RefCell,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use lru::LruCache;
use zstd::bulk::{Compressor, Decompressor};

use crate::blob::Blob;

/// Payloads shorter than this aren't compressed: the frame of zstd alone would eat what it saves.
const COMPRESS_MIN: usize = 96;

/// What one entry of the memory takes beyond its bytes, about.
const ENTRY: usize = 192;

thread_local! {
    // Making a context costs as much as compressing a small file. A thread holds less than 2 MiB by them.
    static PACKER: RefCell<Option<Packer>> = const { RefCell::new(None) };
    static UNPACKER: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// What a thread keeps to compress with.
struct Packer {
    compressor: Compressor<'static>,
    output: Vec<u8>,
}

/// The output's room that a thread keeps.
const OUTPUT_KEPT: usize = 1 << 20;

/// A payload as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) body: Bytes,
    pub(super) compressed: bool,
    /// The payload's length when decompressed, in bytes.
    pub(super) length: u32,
}

impl Packed {
    /// Compresses `payload` at zstd's `level` if that saves a tenth at least.
    pub(super) fn new(payload: Bytes, level: i32) -> Self {
        let length = payload.len() as u32;
        match compress(&payload, level) {
            Some(body) => Self { body, compressed: true, length },
            None => Self { body: payload, compressed: false, length },
        }
    }
}

/// The compressed bytes, if they are fewer by a tenth at least. What doesn't shrink costs little: zstd passes over it at
/// some GB/s and stops when there's no more room.
fn compress(bytes: &[u8], level: i32) -> Option<Bytes> {
    if bytes.len() < COMPRESS_MIN {
        return None;
    }
    PACKER.with_borrow_mut(|kept| {
        let packer = match kept {
            Some(packer) => packer,
            None => kept.insert(Packer { compressor: Compressor::new(level).ok()?, output: Vec::new() }),
        };
        packer.compressor.set_compression_level(level).ok()?;
        packer.output.clear();
        packer.output.shrink_to(OUTPUT_KEPT);
        packer.output.reserve(bytes.len());
        packer.compressor.compress_to_buffer(bytes, &mut packer.output).ok()?;
        let shrinks = packer.output.len() < bytes.len() - bytes.len() / 10;
        shrinks.then(|| Bytes::copy_from_slice(&packer.output))
    })
}

/// Decompresses what must be exactly `length` bytes, and never allocates more.
pub(super) fn decompress(bytes: &[u8], length: usize) -> Option<Bytes> {
    UNPACKER.with_borrow_mut(|kept| {
        let unpacker = match kept {
            Some(unpacker) => unpacker,
            None => kept.insert(Decompressor::new().ok()?),
        };
        let unpacked = unpacker.decompress(bytes, length).ok()?;
        (unpacked.len() == length).then(|| unpacked.into())
    })
}

/// Which piece of content: a blob, and which groups of it; none of one that travels whole.
pub(super) type PieceKey = (Blob, Range<u64>);

/// The compressed pieces that were sent last, within a budget of bytes, so that a second guest costs no compression.
///
/// They are named by digest: that whoever asks may have them, and that the owner still does, is for the caller to see to.
#[derive(Debug)]
pub(super) struct PackedPieces {
    budget: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// With each, whether it was made ready with time to spare.
    pieces: LruCache<PieceKey, (Packed, bool)>,
    bytes: usize,
}

impl PackedPieces {
    /// Keeps at most `budget` bytes.
    pub(super) fn new(budget: usize) -> Self {
        Self { budget, kept: Mutex::new(Kept { pieces: LruCache::unbounded(), bytes: 0 }) }
    }

    /// The piece, if it was sent lately.
    pub(super) fn get(&self, key: &PieceKey) -> Option<Packed> {
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pieces
            .get(key)
            .map(|(packed, _)| packed.clone())
    }

    /// The bytes of a piece, if it has been made ready.
    pub(super) fn ready(&self, key: &PieceKey) -> Option<usize> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.pieces.peek(key).filter(|(_, ready)| *ready).map(|(packed, _)| cost(packed))
    }

    /// Remembers a piece. What isn't compressed is quicker read again than it's worth its room.
    pub(super) fn put(&self, key: PieceKey, packed: &Packed, ready: bool) {
        if !packed.compressed || cost(packed) > self.budget {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += cost(packed);
        let before = kept.pieces.put(key, (packed.clone(), ready));
        kept.bytes -= before.map_or(0, |(before, _)| cost(&before));
        while kept.bytes > self.budget
            && let Some((_, (oldest, _))) = kept.pieces.pop_lru()
        {
            kept.bytes -= cost(&oldest);
        }
    }
}

pub(super) fn cost(packed: &Packed) -> usize {
    packed.body.len() + ENTRY
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Digest;

    fn key(n: u64) -> PieceKey {
        (Blob { digest: Digest::of(&n.to_be_bytes()), size: 1000 }, n..n + 1)
    }

    fn packed(length: usize) -> Packed {
        Packed { body: vec![7; length].into(), compressed: true, length: 10_000 }
    }

    #[test]
    fn a_thread_compresses_one_payload_after_the_other() {
        let text = Bytes::from(b"def lookup(name): return table[name]\n".repeat(4000));
        let noise: Bytes = (0..200_000).map(|_| rand::random::<u8>()).collect();
        for level in [1, 3, 1] {
            assert_eq!(
                Packed::new(noise.clone(), level),
                Packed { body: noise.clone(), compressed: false, length: 200_000 }
            );
            let packed = Packed::new(text.clone(), level);
            assert!(packed.compressed && packed.body.len() < text.len() / 10);
            assert_eq!(decompress(&packed.body, text.len()), Some(text.clone()));
            assert_eq!(decompress(&packed.body, text.len() - 1), None);
            assert_eq!(decompress(&packed.body, text.len() + 1), None);
            assert_eq!(decompress(&packed.body[1..], text.len()), None);
        }
        assert!(!Packed::new(text.slice(..80), 1).compressed);
    }

    #[test]
    fn the_budget_holds_what_was_sent_last() {
        let pieces = PackedPieces::new(3 * (1000 + ENTRY));
        for n in 0..3 {
            pieces.put(key(n), &packed(1000), false);
        }
        assert_eq!(pieces.get(&key(0)), Some(packed(1000)));
        pieces.put(key(3), &packed(1000), false);
        assert_eq!([0, 1, 2, 3].map(|n| pieces.get(&key(n)).is_some()), [true, false, true, true]);
        // The same again takes no more room.
        for _ in 0..10 {
            pieces.put(key(3), &packed(1000), false);
        }
        assert_eq!([0, 2, 3].map(|n| pieces.get(&key(n)).is_some()), [true; 3]);
        // What is larger than all room leaves the others where they are, and so does what isn't compressed.
        pieces.put(key(4), &packed(4000), false);
        pieces.put(key(5), &Packed { compressed: false, ..packed(1000) }, false);
        assert_eq!([0, 2, 3, 4, 5].map(|n| pieces.get(&key(n)).is_some()), [true, true, true, false, false]);
        pieces.put(key(6), &packed(3000), false);
        assert_eq!([0, 2, 3, 6].map(|n| pieces.get(&key(n)).is_some()), [false, false, false, true]);
    }
}
