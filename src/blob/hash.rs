use std::io;

use blake3::{
    Hasher,
    hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root},
};
use rayon::prelude::*;

use super::{GROUP, ReadAt, WHOLE_MAX};
use crate::types::Digest;

/// Bytes that one task reads and hashes at a time: large enough for BLAKE3's widest SIMD, small enough to stay in cache.
const STEP: u64 = 1 << 20;

/// The hashes above so many groups are made by one thread.
const ALONE: usize = 256;

/// A digest together with the hashes below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    /// The BLAKE3 of the bytes.
    pub digest: Digest,
    /// The pairs of hashes above the groups, in pre-order, 64 bytes each. Empty for blobs that are fetched whole.
    pub outboard: Vec<u8>,
}

/// How many bytes the outboard of a blob of `size` bytes has.
pub fn outboard_length(size: u64) -> u64 {
    if size <= WHOLE_MAX { 0 } else { (size.div_ceil(GROUP) - 1) * 64 }
}

/// Hashes bytes in memory.
pub fn hash_bytes(bytes: &[u8]) -> Hashed {
    match hash_source(bytes, bytes.len() as u64) {
        Ok(hashed) => hashed,
        Err(_) => unreachable!("memory of the stated length can be read"),
    }
}

/// Hashes the first `size` bytes of `source`, on all cores if they are many. A source that ends early gives `UnexpectedEof`.
pub fn hash_source<R: ReadAt + ?Sized>(source: &R, size: u64) -> io::Result<Hashed> {
    if size <= WHOLE_MAX {
        let mut bytes = vec![0; size as usize];
        source.read_exact_at(&mut bytes, 0)?;
        return Ok(Hashed { digest: Digest::of(&bytes), outboard: Vec::new() });
    }
    let leaves: Vec<Vec<ChainingValue>> = (0..size.div_ceil(STEP))
        .into_par_iter()
        .map_init(
            || vec![0; STEP as usize],
            |buffer, step| {
                let start = step * STEP;
                let buffer = &mut buffer[..STEP.min(size - start) as usize];
                source.read_exact_at(buffer, start)?;
                Ok(buffer
                    .chunks(GROUP as usize)
                    .enumerate()
                    .map(|(group, bytes)| leaf(start + group as u64 * GROUP, bytes))
                    .collect())
            },
        )
        .collect::<io::Result<_>>()?;
    let leaves = leaves.concat();
    let mut outboard = vec![0; (leaves.len() - 1) * 64];
    let (left, right) = children(&leaves, &mut outboard);
    let digest = merge_subtrees_root(&left, &right, Mode::Hash).into();
    Ok(Hashed { digest, outboard })
}

/// The chaining value of one group that is not the whole blob.
pub(super) fn leaf(offset: u64, bytes: &[u8]) -> ChainingValue {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(offset).update(bytes);
    hasher.finalize_non_root()
}

/// The two halves of a subtree of two leaves or more; fills its part of the outboard in pre-order.
fn children(leaves: &[ChainingValue], outboard: &mut [u8]) -> (ChainingValue, ChainingValue) {
    // BLAKE3's shape: the left half is the largest power of two that leaves something for the right.
    let split = leaves.len().next_power_of_two() / 2;
    let (first, rest) = outboard.split_at_mut(64);
    let (left_part, right_part) = rest.split_at_mut((split - 1) * 64);
    let (left, right) = if leaves.len() > ALONE {
        rayon::join(|| subtree(&leaves[..split], left_part), || subtree(&leaves[split..], right_part))
    } else {
        (subtree(&leaves[..split], left_part), subtree(&leaves[split..], right_part))
    };
    first[..32].copy_from_slice(&left);
    first[32..].copy_from_slice(&right);
    (left, right)
}

fn subtree(leaves: &[ChainingValue], outboard: &mut [u8]) -> ChainingValue {
    match leaves {
        [leaf] => *leaf,
        _ => {
            let (left, right) = children(leaves, outboard);
            merge_subtrees_non_root(&left, &right, Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bao_tree::{BlockSize, io::outboard::PreOrderMemOutboard};

    /// Bytes that differ from group to group.
    fn sample(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
    }

    #[test]
    fn digest_is_blake3_and_outboard_is_bao() {
        for size in [0, 1, 1024, 16 << 10, (256 << 10) + 1, 300_000, 1 << 20, (1 << 20) + 1, 5_000_001] {
            let bytes = sample(size);
            let hashed = hash_bytes(&bytes);
            assert_eq!(hashed.digest, Digest::of(&bytes), "{size}");
            assert_eq!(hashed.outboard.len() as u64, outboard_length(size as u64), "{size}");
            if size as u64 > WHOLE_MAX {
                let reference = PreOrderMemOutboard::create(&bytes, BlockSize::from_chunk_log(4));
                assert_eq!(hashed.outboard, reference.data, "{size}");
            }
        }
    }

    #[test]
    fn an_early_end_is_an_error() {
        let error = hash_source(&sample(1 << 20), (1 << 20) + 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
