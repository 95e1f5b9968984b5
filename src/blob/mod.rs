//! Blobs and verified ranges: any part of a file can be checked against nothing but the file's BLAKE3.
//!
//! BLAKE3 is a binary tree over chunks of 1 KiB. A *group* is 16 of them (16 KiB), the unit that travels; the hashes
//! above the groups are a blob's *outboard*, and a *slice* is some groups with the hashes that tie them to the root
//! (the combined encoding of the bao specification, at group granularity; crate `bao-tree`). The types
//! [`VerifiedBlob`] and [`VerifiedSlice`] can only be made by checking, so that a store can't be given anything else.
//!
//! What two versions of a file have in common is found by their content-defined [`Chunk`]s: a hint only, since groups
//! that were found that way are checked like others, by [`VerifiedHashes`]. Both travel as the [`Outline`] of a window.

mod chunks;
mod hash;
mod hashes;
mod outline;
mod slice;
mod sparse;

pub use chunks::{Chunk, ChunkList, WINDOW, window_groups, windows};
pub use hash::{Hashed, hash_bytes, hash_source, outboard_length};
pub use hashes::VerifiedHashes;
pub use outline::{Outline, encode_outline, outline_limit};
pub use slice::{Parent, SliceError, VerifiedBlob, VerifiedSlice, encode_slice};
pub use sparse::SparseView;

use crate::types::Digest;

/// Bytes in a group, the unit of verified transfer.
pub const GROUP: u64 = 16 << 10;

/// Blobs up to this many bytes are fetched whole and have no outboard.
pub const WHOLE_MAX: u64 = 256 << 10;

/// A set of group numbers, as disjoint ranges.
pub type Groups = range_collections::RangeSet2<u64>;

/// The ranges of a set of groups, in order. (An unbounded one can't come from bounded ranges.)
pub fn ranges(groups: &Groups) -> impl Iterator<Item = std::ops::Range<u64>> {
    let boundaries: &[u64] = groups.boundaries();
    boundaries.chunks_exact(2).map(|pair| pair[0]..pair[1])
}

/// Groups in one slice (256 KiB), which begins at a multiple of so many: a reader gets on with the first while the next is on
/// its way, and all who read of one file ask for the same slices, of each other and of what was sent before.
const SLICE: u64 = 16;

/// A set of groups, cut into the slices that are asked for.
pub fn slices(groups: &Groups) -> impl Iterator<Item = std::ops::Range<u64>> {
    ranges(groups).flat_map(|range| {
        (range.start / SLICE..range.end.div_ceil(SLICE))
            .map(move |slice| range.start.max(slice * SLICE)..range.end.min((slice + 1) * SLICE))
    })
}

/// How many groups are in a set.
pub fn count(groups: &Groups) -> u64 {
    ranges(groups).map(|range| range.end - range.start).sum()
}

/// A blob and its length in bytes: what is needed to ask for any part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Blob {
    /// The BLAKE3 of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

impl Blob {
    /// How many groups the blob has; an empty blob has none.
    pub fn groups(&self) -> u64 {
        self.size.div_ceil(GROUP)
    }

    /// Whether the blob is fetched whole.
    pub fn is_whole(&self) -> bool {
        self.size <= WHOLE_MAX
    }

    /// The groups that the bytes `start..end` touch, within the blob.
    pub fn touched(&self, start: u64, end: u64) -> std::ops::Range<u64> {
        let end = end.min(self.size);
        let start = start.min(end);
        start / GROUP..end.div_ceil(GROUP)
    }
}

/// Reads at positions, without a cursor: a local file, a cached blob, bytes in memory.
pub trait ReadAt: Sync {
    /// Fills `buffer` from `offset`; an early end is an error of kind `UnexpectedEof`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()>;
}

impl ReadAt for std::fs::File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        match self[start..].get(..buffer.len()) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.as_slice().read_exact_at(buffer, offset)
    }
}
