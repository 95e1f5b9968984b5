use std::sync::atomic::{AtomicU64, Ordering};

/// What reads have found in the store, and what was fetched, since the start. What the kernel answers from its own cache
/// isn't counted: it asks nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Reads that the store answered.
    pub held: u64,
    /// Reads for which something had to be fetched.
    pub fetched: u64,
    /// Bytes of content that came.
    pub bytes: u64,
}

/// Counts as things happen.
#[derive(Debug, Default)]
pub(super) struct Tally {
    held: AtomicU64,
    fetched: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    pub(super) fn read(&self, held: bool) {
        let count = if held { &self.held } else { &self.fetched };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn came(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            held: self.held.load(Ordering::Relaxed),
            fetched: self.fetched.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}
