//! Workspaces as ZIP archives.
//!
//! They are ordinary archives, which every program reads. What such archives can't say is in a field of our own beside each entry: the
//! time to the nanosecond, and the name where it had to be written otherwise (docs/FORMAT.md).

mod names;
mod read;
mod write;

#[cfg(test)]
mod tests;

use std::{io, path::PathBuf};

use crate::types::Timestamp;

pub use names::{stays_inside, stays_inside_everywhere};
pub use read::{Archive, Unpack, Unpacked, room};
pub use write::{Attributes, Packed, Writer, pack};

/// The number of the field of our own: "tw".
const FIELD: u16 = u16::from_le_bytes(*b"tw");

/// Why an archive can't be written or taken.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It isn't one, or a damaged one.
    #[error("it isn't a whole ZIP archive: {0}")]
    Damaged(String),
    /// Something in it isn't what an archive of a workspace has.
    #[error("{path:?} in it is refused: {why}")]
    Refused {
        /// The entry, as it's called there.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// A link in it leads out of the workspace.
    #[error("the link {path:?} in it leads out of the workspace, to {target:?}")]
    LeadsOut {
        /// The link.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// There's not enough space.
    #[error("there's not enough space: {room} bytes are free for it, and it has more")]
    NoSpace {
        /// How much may be written.
        room: u64,
    },
    /// Something is at the destination.
    #[error("{path:?} exists, and isn't an empty folder")]
    Exists {
        /// The destination.
        path: PathBuf,
    },
    /// The destination can't be one.
    #[error("{path:?} can't be the folder to make: {why}")]
    Destination {
        /// The destination.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A file can't be read or made.
    #[error("{path:?}: {source}")]
    File {
        /// Which, below the workspace's folder.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The archive can't be written.
    #[error("can't write the archive: {0}")]
    Write(io::Error),
    /// What describes the workspace can't be changed as it must be.
    #[error(transparent)]
    Manifest(#[from] super::ManifestError),
    /// It was to stop.
    #[error("stopped")]
    Stopped,
}

/// A path as it's shown.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// What the field of our own says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Exact {
    modified: Timestamp,
    /// The path, if it isn't written as it is.
    path: Option<Vec<u8>>,
}

impl Exact {
    const VERSION: u8 = 1;

    fn encode(&self) -> Vec<u8> {
        let Timestamp { seconds, nanoseconds } = self.modified;
        let path = self.path.as_deref().unwrap_or_default();
        [&[Self::VERSION][..], &seconds.to_le_bytes(), &nanoseconds.to_le_bytes(), path].concat()
    }

    /// None if it isn't ours: numbers of fields aren't given out by anybody any more.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (seconds, rest) = rest.split_first_chunk()?;
        let (nanoseconds, path) = rest.split_first_chunk()?;
        let modified = Timestamp {
            seconds: i64::from_le_bytes(*seconds),
            nanoseconds: u32::from_le_bytes(*nanoseconds),
        };
        let known = *version == Self::VERSION && modified.nanoseconds < 1_000_000_000;
        known.then(|| Self { modified, path: (!path.is_empty()).then(|| path.to_vec()) })
    }
}
