//! Asking the kernel for what will be read next, in larger steps than its own: after a start, reads come in the order in
//! which the content came, and each wait for the disk is one that a program waits too.

use std::{
    fs::File,
    num::NonZeroU64,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::fs::{Advice, fadvise};

use super::pack::Place;
use crate::blob::Blob;

/// What is asked for at a time.
const STEP: u64 = 1 << 20;

/// Blobs up to this size are libraries and the like, which are read here and there until most of them is read. Of a larger
/// one, a read says nothing about what lies around it.
const LIBRARY: u64 = 32 << 20;

/// Where packs were read last.
#[derive(Debug, Default)]
pub(super) struct Ahead(AtomicU64);

impl Ahead {
    /// Notes that a piece is read; when the reads have gone on from one step of the pack to the next, the one behind it
    /// is asked for.
    pub(super) fn read(&self, file: &File, place: &Place) {
        let step = place.offset / STEP;
        let here = u64::from(place.pack) << 32 | step;
        if self.0.swap(here, Ordering::Relaxed) + 1 == here {
            ask(file, step * STEP, 2 * STEP);
        }
    }
}

/// Asks for what lies around a part of a blob that is read.
pub(super) fn around(file: &File, blob: &Blob, offset: u64) {
    if blob.size <= LIBRARY {
        ask(file, offset / STEP * STEP, STEP);
    }
}

/// Asks for what will be read.
pub(super) fn bring(file: &File, bytes: Range<u64>) {
    ask(file, bytes.start, bytes.end - bytes.start);
}

/// What the kernel has already is not read again.
fn ask(file: &File, offset: u64, length: u64) {
    // Only advice: that it isn't taken does no harm.
    let _ = fadvise(file, offset, NonZeroU64::new(length), Advice::WillNeed);
}
