//! Small files of the node's state: read whole, replaced whole.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// Why a state file can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The disk doesn't do what it should.
    #[error("can't {doing} {path:?}: {source}")]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file isn't what this program wrote.
    #[error("{path:?} is damaged ({why}): repair it, or move it away to start without it")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Reads a file; none if it doesn't exist.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| FileError::Damaged { path: path.to_path_buf(), why: error.to_string() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError::Disk { doing: "read", path: path.to_path_buf(), source }),
    }
}

/// Replaces a file: whoever reads it, also after a crash, finds the old or the new content.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    let disk = |source| FileError::Disk { doing: "write", path: path.to_path_buf(), source };
    let bytes = serde_json::to_vec_pretty(value).map_err(|error| disk(error.into()))?;
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(disk)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(disk)?;
    fs::rename(&temporary, path).map_err(disk)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk)
}
