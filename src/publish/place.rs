use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::types::{Name, Timestamp};

/// What `stat` tells, as far as it matters to publishing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) inode: Inode,
    pub(super) kind: FileType,
    pub(super) mode: u16,
    pub(super) user: u32,
    /// How many names the file has, anywhere on its file system.
    pub(super) names: u64,
    pub(super) size: u64,
    /// Bytes that it takes on the disk.
    pub(super) allocated: u64,
    pub(super) modified: Timestamp,
    pub(super) changed: Timestamp,
}

/// A file, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Inode {
    pub(super) device: u64,
    pub(super) number: u64,
}

impl Status {
    /// The version token: eight bytes of BLAKE3 over what changes whenever the content may have changed.
    pub(super) fn token(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.size.to_le_bytes());
        for time in [self.modified, self.changed] {
            hasher.update(&time.seconds.to_le_bytes());
            hasher.update(&time.nanoseconds.to_le_bytes());
        }
        hasher.update(&self.inode.number.to_le_bytes());
        number(&hasher.finalize())
    }
}

/// The first eight bytes of a hash, as a number.
pub(super) fn number(hash: &blake3::Hash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl From<rustix::fs::Stat> for Status {
    fn from(stat: rustix::fs::Stat) -> Self {
        let time = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
        Self {
            inode: Inode { device: stat.st_dev as _, number: stat.st_ino as _ },
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: (stat.st_mode & 0o7777) as u16,
            user: stat.st_uid,
            names: stat.st_nlink as _,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
            modified: time(stat.st_mtime as _, stat.st_mtime_nsec as _),
            changed: time(stat.st_ctime as _, stat.st_ctime_nsec as _),
        }
    }
}

/// A workspace's folder on this machine.
///
/// Everything below it is opened one component at a time and never through a symbolic link, so that a folder that
/// somebody replaces by a link can't lead outside. What stands above it is the owner's choice and is followed.
#[derive(Debug)]
pub(super) struct Root(PathBuf);

impl Root {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Opens the folder at `path`, to read its names.
    pub(super) fn folder(&self, path: &[Name]) -> io::Result<OwnedFd> {
        match path.split_last() {
            None => Ok(open_folder(rustix::fs::CWD, self.0.as_os_str(), OFlags::RDONLY)?),
            Some((name, parents)) => {
                let parent = self.walk(parents)?;
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
                Ok(open_folder(parent, name.as_os_str(), flags)?)
            }
        }
    }

    /// Opens the regular file at `path`, to read it.
    pub(super) fn file(&self, path: &[Name]) -> io::Result<(File, Status)> {
        let Some((name, parents)) = path.split_last() else { return Err(io::ErrorKind::IsADirectory.into()) };
        open_file(self.walk(parents)?, name.as_os_str())
    }

    /// A descriptor of the folder at `path` that serves to open what is in it.
    pub(super) fn walk(&self, path: &[Name]) -> io::Result<OwnedFd> {
        let mut folder = open_folder(rustix::fs::CWD, self.0.as_os_str(), OFlags::PATH)?;
        for name in path {
            folder = open_folder(folder, name.as_os_str(), OFlags::PATH | OFlags::NOFOLLOW)?;
        }
        Ok(folder)
    }
}

/// Opens the folder of this name in another.
pub(super) fn open_folder(folder: impl AsFd, name: &OsStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(folder, name, flags | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The names in a folder that is open to be read.
pub(super) fn names(folder: impl AsFd) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        // `.` and `..` aren't names.
        names.extend(Name::new(entry?.file_name().to_bytes()));
    }
    Ok(names)
}

/// Opens a regular file in `folder`; anything else is an error of kind `InvalidInput`.
pub(super) fn open_file(folder: impl AsFd, name: &OsStr) -> io::Result<(File, Status)> {
    // Without NONBLOCK, opening a fifo that took the file's place would wait for its other end.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(folder, name, flags, Mode::empty())?);
    let status = status_of(&file)?;
    match status.kind {
        FileType::RegularFile => Ok((file, status)),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// What an open file's `stat` tells now.
pub(super) fn status_of(file: impl AsFd) -> io::Result<Status> {
    Ok(rustix::fs::fstat(file)?.into())
}

/// What `lstat` tells of a name in a folder.
pub(super) fn status_at(folder: impl AsFd, name: &OsStr) -> io::Result<Status> {
    Ok(rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?.into())
}

/// Whether an error means that a path has changed under us rather than that the disk or a permission is at fault.
pub(super) fn means_changed(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error.kind() == io::ErrorKind::InvalidInput
        || matches!(
            Errno::from_io_error(error),
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::STALE)
        )
}
/// The names of `path` below `root`, if it is below it.
pub(super) fn below(root: &Path, path: &Path) -> Option<Vec<Name>> {
    let rest = path.strip_prefix(root).ok()?;
    rest.components().map(|name| Name::new(name.as_os_str().as_bytes()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(path: &str) -> Vec<Name> {
        path.split('/').map(|name| Name::new(name.as_bytes()).unwrap()).collect()
    }

    #[test]
    fn nothing_is_opened_through_a_link() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::fs::create_dir(inside.path().join("d")).unwrap();
        std::fs::write(inside.path().join("d/f"), "f").unwrap();
        symlink(outside.path(), inside.path().join("way")).unwrap();
        symlink(outside.path().join("secret"), inside.path().join("d/link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, inside.path().join("fifo"), Mode::RUSR).unwrap();
        let root = Root::new(inside.path().to_path_buf());
        assert_eq!(root.file(&names("d/f")).unwrap().1.size, 1);
        for bad in ["way/secret", "d/link", "fifo", "d", "none", "d/f/g"] {
            let error = root.file(&names(bad)).unwrap_err();
            assert!(means_changed(&error), "{bad}: {error:?}");
        }
        assert!(root.folder(&names("way")).is_err());
        assert!(root.folder(&[]).is_ok());
    }

    #[test]
    fn paths_below() {
        assert_eq!(below(Path::new("/a"), Path::new("/a/b/c")), Some(names("b/c")));
        assert_eq!(below(Path::new("/a"), Path::new("/ab")), None);
        assert_eq!(Name::join(&names("b/c")), b"b/c");
    }
}
