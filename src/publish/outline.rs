use std::{
    io,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use lru::LruCache;

use crate::blob::{Blob, ChunkList, ReadAt};

/// Windows whose chunks are remembered: those of 4 GiB, in some 3 MiB, or 12 MiB where the content is made to have many.
const WINDOWS: usize = 512;

/// The chunks of windows of large blobs that were asked for lately. Every guest asks for the same after an edit.
#[derive(Debug)]
pub(super) struct ChunkLists(Mutex<LruCache<(Blob, u64), Arc<ChunkList>>>);

impl ChunkLists {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::new(WINDOWS).unwrap_or(NonZeroUsize::MIN))))
    }

    /// The chunks of a window of `blob`, whose content is `content`; cut here unless they are remembered.
    pub(super) fn of_window(
        &self,
        blob: Blob,
        content: &impl ReadAt,
        window: u64,
    ) -> io::Result<Arc<ChunkList>> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chunks) = known().get(&(blob, window)) {
            return Ok(chunks.clone());
        }
        let chunks = Arc::new(ChunkList::of_window(content, 0..blob.size, window)?);
        known().put((blob, window), chunks.clone());
        Ok(chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Digest;

    #[test]
    fn chunks_are_cut_once() {
        let bytes = vec![7; 1_000_000];
        let blob = Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 };
        let lists = ChunkLists::new();
        assert!(lists.of_window(blob, &Vec::new(), 0).is_err(), "there's nothing to cut");
        let cut = lists.of_window(blob, &bytes, 0).unwrap();
        assert_eq!(*cut, ChunkList::of_window(&bytes, 0..blob.size, 0).unwrap());
        assert_eq!(lists.of_window(blob, &Vec::new(), 0).unwrap(), cut, "it's remembered");
        let other = Blob { digest: Digest::of(b"other"), ..blob };
        assert!(lists.of_window(other, &Vec::new(), 0).is_err());
    }
}
