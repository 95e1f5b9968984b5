use std::{io, ops::Range};

use bao_tree::{
    BaoTree, BlockSize, ChunkNum, ChunkRanges,
    io::{BaoContentItem, outboard::PreOrderOutboard, sync},
};
use bytes::Bytes;

use super::{Blob, GROUP, ReadAt, outboard_length};
use crate::types::Digest;

/// 2^4 chunks of 1 KiB are a group.
const BLOCK: BlockSize = BlockSize::from_chunk_log(4);

/// Why a slice can't be made or isn't accepted.
#[derive(Debug, thiserror::Error)]
pub enum SliceError {
    /// The bytes are not those that the digest names: a hostile or broken peer, or a file that changed since it was hashed.
    #[error("the content doesn't match its digest {0}")]
    Corrupt(Digest),
    /// The groups asked for aren't in the blob.
    #[error("no such range in the blob {0}")]
    Range(Digest),
    /// The local file can't be read.
    #[error("reading the content of {0}")]
    Read(Digest, #[source] io::Error),
}

/// A blob's bytes, known to be its bytes.
#[derive(Debug, Clone)]
pub struct VerifiedBlob {
    digest: Digest,
    bytes: Bytes,
}

impl VerifiedBlob {
    /// Checks that `bytes` are the blob that `digest` names.
    pub fn verify(digest: Digest, bytes: Bytes) -> Result<Self, SliceError> {
        if Digest::of(&bytes) == digest {
            Ok(Self { digest, bytes })
        } else {
            Err(SliceError::Corrupt(digest))
        }
    }

    /// The blob's name.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The blob's bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// A pair of hashes of a blob's outboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// Where it belongs in the outboard, in bytes.
    pub offset: u64,
    /// Both hashes.
    pub pair: [u8; 64],
}

/// Some groups of a blob, known to be its groups, and the hashes that show it.
#[derive(Debug, Clone)]
pub struct VerifiedSlice {
    blob: Blob,
    groups: Range<u64>,
    parents: Vec<Parent>,
    leaves: Vec<Bytes>,
}

impl VerifiedSlice {
    /// Checks what a peer sent for `groups` of `blob`. Nothing is allocated beyond the length of `encoded`.
    pub fn verify(blob: Blob, groups: Range<u64>, encoded: &[u8]) -> Result<Self, SliceError> {
        check_range(blob, &groups)?;
        let tree = BaoTree::new(blob.size, BLOCK);
        let ranges = chunk_ranges(&groups);
        let mut input = encoded;
        let mut parents = Vec::new();
        let mut leaves = Vec::with_capacity((groups.end - groups.start) as usize);
        for item in sync::DecodeResponseIter::new(blob.digest.into(), tree, &mut input, &ranges) {
            match item.map_err(|_| SliceError::Corrupt(blob.digest))? {
                BaoContentItem::Parent(parent) => {
                    if let Some(node) = tree.pre_order_offset(parent.node) {
                        let mut pair = [0; 64];
                        pair[..32].copy_from_slice(parent.pair.0.as_bytes());
                        pair[32..].copy_from_slice(parent.pair.1.as_bytes());
                        parents.push(Parent { offset: node * 64, pair });
                    }
                }
                BaoContentItem::Leaf(leaf) => leaves.push(leaf.data),
            }
        }
        if !input.is_empty() {
            return Err(SliceError::Corrupt(blob.digest));
        }
        Ok(Self { blob, groups, parents, leaves })
    }

    /// Groups that were checked in another way.
    pub(super) fn checked(blob: Blob, groups: Range<u64>, parents: Vec<Parent>, leaves: Vec<Bytes>) -> Self {
        Self { blob, groups, parents, leaves }
    }

    /// The blob that the slice is of.
    pub fn blob(&self) -> Blob {
        self.blob
    }

    /// The groups that the slice holds.
    pub fn groups(&self) -> Range<u64> {
        self.groups.clone()
    }

    /// The hashes between the root and the groups.
    pub fn parents(&self) -> &[Parent] {
        &self.parents
    }

    /// The content: one piece a group, in order; all have 16 KiB but the blob's last.
    pub fn leaves(&self) -> &[Bytes] {
        &self.leaves
    }
}

pub(super) fn check_range(blob: Blob, groups: &Range<u64>) -> Result<(), SliceError> {
    if groups.start < groups.end && groups.end <= blob.groups() && !blob.is_whole() {
        Ok(())
    } else {
        Err(SliceError::Range(blob.digest))
    }
}

fn chunk_ranges(groups: &Range<u64>) -> ChunkRanges {
    let chunks = GROUP / 1024;
    ChunkRanges::from(ChunkNum(groups.start * chunks)..ChunkNum(groups.end * chunks))
}

/// Makes the slice for `groups` of `blob` from its content and its outboard (pre-order, as [`super::Hashed`] has it).
///
/// Every byte is checked on the way, so content that changed since it was hashed gives [`SliceError::Corrupt`].
pub fn encode_slice(
    blob: Blob,
    groups: Range<u64>,
    content: &(impl ReadAt + ?Sized),
    outboard: &(impl ReadAt + ?Sized),
) -> Result<Vec<u8>, SliceError> {
    check_range(blob, &groups)?;
    let tree = BaoTree::new(blob.size, BLOCK);
    let outboard = PreOrderOutboard {
        root: blob.digest.into(),
        tree,
        data: Positioned { source: outboard, length: outboard_length(blob.size) },
    };
    let content = Positioned { source: content, length: blob.size };
    let mut encoded = Vec::with_capacity(((groups.end - groups.start) * (GROUP + 128)) as usize + 4096);
    sync::encode_ranges_validated(content, outboard, &chunk_ranges(&groups), &mut encoded).map_err(
        |error| {
            match io::Error::from(error) {
                // bao-tree reports a mismatch as InvalidData or Other without a source; a real read error has an OS code.
                error if error.raw_os_error().is_some() => SliceError::Read(blob.digest, error),
                _ => SliceError::Corrupt(blob.digest),
            }
        },
    )?;
    Ok(encoded)
}

/// Our positioned reader as bao-tree's.
struct Positioned<'a, R: ?Sized> {
    source: &'a R,
    length: u64,
}

impl<R: ReadAt + ?Sized> sync::ReadAt for Positioned<'_, R> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let length = (buffer.len() as u64).min(self.length.saturating_sub(offset)) as usize;
        self.source.read_exact_at(&mut buffer[..length], offset)?;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::hash_bytes;

    fn sample() -> (Vec<u8>, Blob, Vec<u8>) {
        let bytes: Vec<u8> = (0..1_000_003u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let hashed = hash_bytes(&bytes);
        (bytes.clone(), Blob { digest: hashed.digest, size: bytes.len() as u64 }, hashed.outboard)
    }

    #[test]
    fn any_range_verifies_and_fills_the_outboard() {
        let (bytes, blob, outboard) = sample();
        let mut rebuilt = vec![0; outboard.len()];
        for groups in [0..1, 5..9, 61..62, 0..blob.groups()] {
            let encoded = encode_slice(blob, groups.clone(), &bytes, &outboard).unwrap();
            let slice = VerifiedSlice::verify(blob, groups.clone(), &encoded).unwrap();
            let start = (groups.start * GROUP) as usize;
            let end = ((groups.end * GROUP) as usize).min(bytes.len());
            assert_eq!(slice.leaves().concat(), bytes[start..end]);
            for parent in slice.parents() {
                rebuilt[parent.offset as usize..][..64].copy_from_slice(&parent.pair);
            }
        }
        assert_eq!(rebuilt, outboard);
    }

    #[test]
    fn anything_else_is_refused() {
        let (mut bytes, blob, outboard) = sample();
        let good = encode_slice(blob, 3..5, &bytes, &outboard).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let mut long = good.clone();
        long.push(0);
        for bad in [&flipped, &long, &good[..good.len() - 1].to_vec(), &Vec::new()] {
            assert!(matches!(VerifiedSlice::verify(blob, 3..5, bad), Err(SliceError::Corrupt(_))));
        }
        assert!(matches!(VerifiedSlice::verify(blob, 3..6, &good), Err(SliceError::Corrupt(_))));
        for groups in [0..0, 0..63, 70..71] {
            assert!(matches!(VerifiedSlice::verify(blob, groups, &good), Err(SliceError::Range(_))));
        }
        bytes[4 * GROUP as usize] ^= 1;
        assert!(matches!(encode_slice(blob, 3..5, &bytes, &outboard), Err(SliceError::Corrupt(_))));
        bytes.truncate(100_000);
        assert!(matches!(encode_slice(blob, 3..50, &bytes, &outboard), Err(SliceError::Corrupt(_))));
    }
}
