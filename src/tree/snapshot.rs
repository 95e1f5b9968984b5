use serde::{Deserialize, Serialize};

use super::Totals;
use crate::types::{Digest, Timestamp};

/// An immutable version of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name: the digest of its root folder.
    pub root: Digest,
    /// When it was made, in milliseconds since 1970.
    pub created: u64,
    /// The root folder's permission bits.
    pub mode: u16,
    /// When the root folder last changed: seconds since 1970, and nanoseconds.
    pub modified: (i64, u32),
    /// How many files and links it holds.
    pub files: u64,
    /// How many bytes the files have.
    pub bytes: u64,
}

impl Snapshot {
    /// What it holds.
    pub fn totals(&self) -> Totals {
        Totals { files: self.files, bytes: self.bytes }
    }

    /// When the root folder last changed.
    pub fn modified(&self) -> Timestamp {
        let (seconds, nanoseconds) = self.modified;
        Timestamp { seconds, nanoseconds: nanoseconds.min(999_999_999) }
    }
}
