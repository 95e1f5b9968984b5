use super::{
    Blob, Chunk, ReadAt, SliceError, WINDOW,
    chunks::{ChunkList, chunk_list_limit, window_groups},
    hashes::{VerifiedHashes, encode_hashes, hashes_limit},
};

/// What is needed to make a window of a large blob out of another version of it: the chunks, by which its parts are found
/// there, and the hashes, by which the groups are then known to be right.
#[derive(Debug, Clone)]
pub struct Outline {
    chunks: ChunkList,
    hashes: VerifiedHashes,
}

/// The longest encoded outline, in bytes.
pub fn outline_limit() -> u64 {
    chunk_list_limit() + hashes_limit(WINDOW / super::GROUP)
}

/// Makes the outline of a window of `blob` from its chunks and its outboard.
///
/// The hashes are checked on the way: a damaged outboard gives [`SliceError::Corrupt`].
pub fn encode_outline(
    blob: Blob,
    window: u64,
    chunks: &ChunkList,
    outboard: &(impl ReadAt + ?Sized),
) -> Result<Vec<u8>, SliceError> {
    let hashes = encode_hashes(blob, window_groups(&blob, window), outboard)?;
    let mut encoded = chunks.encode();
    encoded.extend(hashes);
    Ok(encoded)
}

impl Outline {
    /// Checks what a peer sent as the outline of a window of `blob`: the hashes against the digest, the chunks for what
    /// they could be.
    pub fn verify(blob: Blob, window: u64, encoded: &[u8]) -> Result<Self, SliceError> {
        let decoded = ChunkList::decode(&blob, window, encoded);
        let (chunks, hashes) = decoded.map_err(|_| SliceError::Corrupt(blob.digest))?;
        let hashes = VerifiedHashes::verify(blob, window_groups(&blob, window), hashes)?;
        Ok(Self { chunks, hashes })
    }

    /// Whether it's the outline of this window of this blob.
    pub fn is_of(&self, blob: &Blob, window: u64) -> bool {
        self.hashes.blob() == *blob && self.hashes.groups() == window_groups(blob, window)
    }

    /// The chunks that have a part in the window: a peer's word, nothing more.
    pub fn chunks(&self) -> &[Chunk] {
        self.chunks.chunks()
    }

    /// The hashes of the window's groups.
    pub fn hashes(&self) -> &VerifiedHashes {
        &self.hashes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::hash_bytes;

    #[test]
    fn an_outline_is_accepted_for_its_own_window_alone() {
        let size = 2 * WINDOW + 12_345;
        let bytes: Vec<u8> = (0..size).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let hashed = hash_bytes(&bytes);
        let blob = Blob { digest: hashed.digest, size };
        for window in 0..3 {
            let chunks = ChunkList::of_window(&bytes, 0..size, window).unwrap();
            let good = encode_outline(blob, window, &chunks, &hashed.outboard).unwrap();
            assert!(good.len() as u64 <= outline_limit());
            assert!(window == 2 || good.len() as u64 <= WINDOW / 200, "half a hundredth of the content");
            let outline = Outline::verify(blob, window, &good).unwrap();
            assert_eq!(outline.chunks(), chunks.chunks());
            assert_eq!(outline.hashes().groups(), window_groups(&blob, window));
            for other in [window + 1, window + 2, u64::MAX] {
                assert!(Outline::verify(blob, other, &good).is_err(), "{window} for {other}");
            }
            for bad in [&good[..good.len() - 1], &good[1..], &[&good[..], &[0]].concat()] {
                assert!(matches!(Outline::verify(blob, window, bad), Err(SliceError::Corrupt(_))));
            }
        }
        assert!(encode_outline(blob, 3, &ChunkList::default(), &hashed.outboard).is_err());
    }
}
