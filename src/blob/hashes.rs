use std::ops::Range;

use blake3::hazmat::{ChainingValue, Mode, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;

use super::{
    Blob, GROUP, ReadAt,
    hash::leaf,
    slice::{Parent, SliceError, VerifiedSlice, check_range},
};

/// Groups in one of the slices that are made of groups found elsewhere (1 MiB).
const RUN: usize = 64;

/// The hashes between a large blob's root and some of its groups, known to be right, without the groups.
///
/// With them, groups that were found elsewhere (in an older version of the file) can be told to be the blob's.
#[derive(Debug, Clone)]
pub struct VerifiedHashes {
    blob: Blob,
    groups: Range<u64>,
    /// In pre-order, each with the groups below it.
    parents: Vec<(Range<u64>, Parent)>,
    /// The hash of each group.
    leaves: Vec<ChainingValue>,
}

/// A part of a hash tree, and what its hash must be.
struct Subtree {
    /// Its number in pre-order.
    node: u64,
    groups: Range<u64>,
    expected: ChainingValue,
}

/// An upper bound for the length of the hashes above so many groups.
pub(super) fn hashes_limit(groups: u64) -> u64 {
    // A pair above each group, and the pairs on the paths to the root from both ends.
    groups * 64 + 2 * 64 * 64
}

/// Makes the hashes above `groups` of `blob` from its outboard: a slice (see FORMAT.md) without its groups.
///
/// They are checked on the way: a damaged outboard gives [`SliceError::Corrupt`].
pub(super) fn encode_hashes(
    blob: Blob,
    groups: Range<u64>,
    outboard: &(impl ReadAt + ?Sized),
) -> Result<Vec<u8>, SliceError> {
    let hashes = VerifiedHashes::descend(blob, groups, |node| {
        let mut pair = [0; 64];
        let read = outboard.read_exact_at(&mut pair, node * 64);
        read.map_err(|error| SliceError::Read(blob.digest, error))?;
        Ok(pair)
    })?;
    Ok(hashes.parents.iter().flat_map(|(_, parent)| parent.pair).collect())
}

impl VerifiedHashes {
    /// Checks what a peer sent as the hashes above `groups` of `blob`.
    pub fn verify(blob: Blob, groups: Range<u64>, encoded: &[u8]) -> Result<Self, SliceError> {
        let corrupt = SliceError::Corrupt(blob.digest);
        let (pairs, rest) = encoded.as_chunks::<64>();
        let mut pairs = pairs.iter();
        let hashes =
            Self::descend(blob, groups, |_| pairs.next().copied().ok_or(SliceError::Corrupt(blob.digest)))?;
        if pairs.next().is_none() && rest.is_empty() { Ok(hashes) } else { Err(corrupt) }
    }

    /// Goes from the root down to `groups`, and checks each pair of hashes that `pair` gives for a number in pre-order.
    fn descend(
        blob: Blob,
        groups: Range<u64>,
        mut pair: impl FnMut(u64) -> Result<[u8; 64], SliceError>,
    ) -> Result<Self, SliceError> {
        check_range(blob, &groups)?;
        let (mut parents, mut leaves) = (Vec::new(), Vec::new());
        let root = Subtree { node: 0, groups: 0..blob.groups(), expected: *blob.digest.as_bytes() };
        let mut stack = vec![root];
        while let Some(Subtree { node, groups: below, expected }) = stack.pop() {
            if below.end <= groups.start || groups.end <= below.start {
                continue;
            }
            let count = below.end - below.start;
            if count == 1 {
                leaves.push(expected);
                continue;
            }
            let pair = pair(node)?;
            let (mut left, mut right) = ([0; 32], [0; 32]);
            left.copy_from_slice(&pair[..32]);
            right.copy_from_slice(&pair[32..]);
            let merged = if node == 0 {
                *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
            } else {
                merge_subtrees_non_root(&left, &right, Mode::Hash)
            };
            if merged != expected {
                return Err(SliceError::Corrupt(blob.digest));
            }
            // BLAKE3's shape: the left half is the largest power of two that leaves something for the right.
            let split = count.next_power_of_two() / 2;
            let middle = below.start + split;
            // The left subtree's pairs follow the node's own, the right one's come after them.
            stack.push(Subtree { node: node + split, groups: middle..below.end, expected: right });
            stack.push(Subtree { node: node + 1, groups: below.start..middle, expected: left });
            parents.push((below, Parent { offset: node * 64, pair }));
        }
        Ok(Self { blob, groups, parents, leaves })
    }

    /// The blob that they are of.
    pub fn blob(&self) -> Blob {
        self.blob
    }

    /// The groups that they lead to.
    pub fn groups(&self) -> Range<u64> {
        self.groups.clone()
    }

    /// Passes those of `found` on to `keep`, as slices, that are the blob's groups by these numbers. Numbers ascend.
    pub fn check(&self, found: impl IntoIterator<Item = (u64, Bytes)>, mut keep: impl FnMut(VerifiedSlice)) {
        let mut run: Vec<Bytes> = Vec::new();
        let mut start = 0;
        for (group, bytes) in found {
            let good = self.is(group, &bytes);
            if !run.is_empty() && (!good || group != start + run.len() as u64 || run.len() == RUN) {
                keep(self.slice(start, std::mem::take(&mut run)));
            }
            if good {
                if run.is_empty() {
                    start = group;
                }
                run.push(bytes);
            }
        }
        if !run.is_empty() {
            keep(self.slice(start, run));
        }
    }

    /// Whether some bytes are the group of this number.
    fn is(&self, group: u64, bytes: &[u8]) -> bool {
        let expected = group.checked_sub(self.groups.start).and_then(|place| self.leaves.get(place as usize));
        let length = GROUP.min(self.blob.size.saturating_sub(group * GROUP));
        bytes.len() as u64 == length && expected.is_some_and(|hash| leaf(group * GROUP, bytes) == *hash)
    }

    /// Groups that have been checked, with the hashes above them.
    fn slice(&self, start: u64, leaves: Vec<Bytes>) -> VerifiedSlice {
        let groups = start..start + leaves.len() as u64;
        let above = |below: &Range<u64>| below.start < groups.end && groups.start < below.end;
        let parents = self.parents.iter().filter(|(below, _)| above(below));
        let parents = parents.map(|(_, parent)| *parent).collect();
        VerifiedSlice::checked(self.blob, groups, parents, leaves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::{encode_slice, hash_bytes};

    fn sample(groups: u64) -> (Vec<u8>, Blob, Vec<u8>) {
        let bytes: Vec<u8> =
            (0..groups * GROUP - 77).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let hashed = hash_bytes(&bytes);
        let blob = Blob { digest: hashed.digest, size: bytes.len() as u64 };
        (bytes, blob, hashed.outboard)
    }

    fn groups_of(bytes: &[u8]) -> Vec<(u64, Bytes)> {
        let groups = bytes.chunks(GROUP as usize).map(Bytes::copy_from_slice);
        groups.enumerate().map(|(number, bytes)| (number as u64, bytes)).collect()
    }

    #[test]
    fn groups_from_elsewhere_become_the_slices_that_the_owner_would_send() {
        for count in [17, 33, 200] {
            let (bytes, blob, outboard) = sample(count);
            for range in [0..1, 3..16, count - 1..count, 0..count] {
                let encoded = encode_hashes(blob, range.clone(), &outboard).unwrap();
                assert!(encoded.len() as u64 <= hashes_limit(range.end - range.start));
                let hashes = VerifiedHashes::verify(blob, range.clone(), &encoded).unwrap();
                let mut seen = Vec::new();
                hashes.check(groups_of(&bytes), |slice| {
                    let sent = encode_slice(blob, slice.groups(), &bytes, &outboard).unwrap();
                    let sent = VerifiedSlice::verify(blob, slice.groups(), &sent).unwrap();
                    assert_eq!(slice.parents(), sent.parents());
                    assert_eq!(slice.leaves(), sent.leaves());
                    assert!(slice.leaves().len() <= RUN);
                    seen.extend(slice.groups());
                });
                assert_eq!(seen, range.collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn what_isnt_the_blobs_group_is_left_out() {
        let (bytes, blob, outboard) = sample(30);
        let encoded = encode_hashes(blob, 0..30, &outboard).unwrap();
        let hashes = VerifiedHashes::verify(blob, 0..30, &encoded).unwrap();
        let mut groups = groups_of(&bytes);
        groups[3].1 = groups[4].1.clone();
        groups[7].1 = groups[7].1.slice(1..);
        groups.push((30, Bytes::from_static(b"beyond the end")));
        groups.push((u64::MAX / GROUP, Bytes::new()));
        let mut seen = Vec::new();
        hashes.check(groups, |slice| seen.push(slice.groups()));
        assert_eq!(seen, [0..3, 4..7, 8..30]);
    }

    #[test]
    fn hashes_that_lie_are_refused() {
        let (_, blob, outboard) = sample(100);
        let good = encode_hashes(blob, 10..20, &outboard).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let mut long = good.clone();
        long.extend([0; 64]);
        for bad in [&flipped, &long, &good[..good.len() - 64].to_vec(), &good[1..].to_vec(), &Vec::new()] {
            assert!(matches!(VerifiedHashes::verify(blob, 10..20, bad), Err(SliceError::Corrupt(_))));
        }
        assert!(VerifiedHashes::verify(blob, 10..21, &good).is_err());
        for groups in [5..5, 90..101] {
            assert!(matches!(VerifiedHashes::verify(blob, groups, &good), Err(SliceError::Range(_))));
        }
        let mut damaged = outboard;
        damaged[0] ^= 1;
        assert!(matches!(encode_hashes(blob, 10..20, &damaged), Err(SliceError::Corrupt(_))));
    }
}
