//! A guest's changes over a workspace: what was made, changed, moved and removed here, kept until it is pushed or discarded.
//!
//! docs/decisions/0003 says why a layer is a journal over plain data files; docs/FORMAT.md describes both. Nothing here knows the
//! owner's tree: a layer says what *it* has to say about a folder's names and a file's bytes, and the view puts the two together.

mod disk;
mod journal;
mod record;
mod state;
mod store;

#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;

pub use disk::{DataFile, Disk, FileName, RealDisk};
pub use record::{Change, Content, FileKind, Meta, Origin, Record, RecordKind, Slot, Stat};
pub use store::{DiskSpace, Layer, Layers, Read, Seek};

use std::io;

/// Why a layer can't do something.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The disk failed, or is full.
    #[error("the layer's disk: {0}")]
    Io(#[from] io::Error),
    /// What lies on the disk isn't a layer that this version can read.
    #[error("the layer can't be read: {0}")]
    Damaged(&'static str),
    /// There is no such node in the layer.
    #[error("the layer has no node {0}")]
    Unknown(u64),
}
