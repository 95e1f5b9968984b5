//! Names of files in the store's folder, and the descriptors that are kept open.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    num::NonZeroUsize,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use lru::LruCache;

use crate::{
    blob::Blob,
    store::{StoreError, lock},
};

/// A file with content. The two of a blob are named by digest and size: a hostile tree can claim a wrong size for a
/// digest, and its groups then mustn't meet those of the true one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum FileKey {
    Pack(u32),
    Content(Blob),
    Outboard(Blob),
}

/// Opens the store's files and keeps a bounded number of them open.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    open: Mutex<LruCache<FileKey, Arc<File>>>,
}

impl Files {
    pub(super) fn new(folder: &Path, descriptors: usize) -> Self {
        let descriptors = NonZeroUsize::new(descriptors).unwrap_or(NonZeroUsize::MIN);
        Self { folder: folder.to_owned(), open: Mutex::new(LruCache::new(descriptors)) }
    }

    pub(super) fn packs(&self) -> PathBuf {
        self.folder.join("packs")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.folder.join("blobs")
    }

    pub(super) fn path(&self, key: FileKey) -> PathBuf {
        match key {
            FileKey::Pack(number) => self.packs().join(format!("{number}.pack")),
            FileKey::Content(blob) => self.blob_folder(&blob).join(format!("{}-{}", blob.digest, blob.size)),
            FileKey::Outboard(blob) => {
                self.blob_folder(&blob).join(format!("{}-{}.outboard", blob.digest, blob.size))
            }
        }
    }

    /// The folder in which the files of a blob lie.
    pub(super) fn blob_folder(&self, blob: &Blob) -> PathBuf {
        self.blobs().join(hex::encode(&blob.digest.as_bytes()[..1]))
    }

    /// The file, for reading.
    pub(super) fn read(&self, key: FileKey) -> io::Result<Arc<File>> {
        if let Some(file) = lock(&self.open).get(&key) {
            return Ok(file.clone());
        }
        let file = Arc::new(File::open(self.path(key))?);
        Ok(lock(&self.open).get_or_insert(key, || file).clone())
    }

    /// The file, for writing, made when it isn't there. Not kept open: complete files must have no writable descriptor,
    /// and content arrives in pieces large enough to bear an open each.
    pub(super) fn write(&self, key: FileKey) -> io::Result<File> {
        let path = self.path(key);
        let open =
            || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        match open() {
            // A complete file of which a damaged group was dropped.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                fs::set_permissions(&path, Permissions::from_mode(0o600))?;
                open()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(folder) = path.parent() {
                    create_folder(folder)?;
                }
                open()
            }
            other => other,
        }
    }

    /// Closes the file's descriptor: the name may lead to another file now.
    pub(super) fn forget(&self, key: FileKey) {
        lock(&self.open).pop(&key);
    }

    /// Deletes the file and frees its blocks at once, also while a reader has it open.
    pub(super) fn delete(&self, key: FileKey) -> io::Result<()> {
        self.forget(key);
        let path = self.path(key);
        let writable = match self.write_existing(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        fs::remove_file(&path)?;
        writable.set_len(0)
    }

    fn write_existing(&self, path: &Path) -> io::Result<File> {
        let open = || OpenOptions::new().write(true).open(path);
        match open() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                fs::set_permissions(path, Permissions::from_mode(0o600))?;
                open()
            }
            other => other,
        }
    }
}

/// Makes a folder that only its owner can read.
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Bytes that the file takes on the disk.
pub(super) fn allocated(metadata: &fs::Metadata) -> u64 {
    metadata.blocks() * 512
}

/// Says what the disk refused; a full disk is [`StoreError::Full`].
pub(super) fn disk(doing: impl Into<String>) -> impl FnOnce(io::Error) -> StoreError {
    let doing = doing.into();
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
        _ => StoreError::Disk { doing, source },
    }
}

/// Whether the error says that recorded content isn't there: the file is gone or was cut.
pub(super) fn lost(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_full_disk_is_full() {
        let mut full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = full.write_all(b"x").map_err(disk("write")).unwrap_err();
        assert!(matches!(error, StoreError::Full));
    }

    #[test]
    fn descriptors_stay_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path(), 2);
        for number in 0..10 {
            files.write(FileKey::Pack(number)).unwrap();
            files.read(FileKey::Pack(number)).unwrap();
        }
        assert_eq!(lock(&files.open).len(), 2);
    }
}
