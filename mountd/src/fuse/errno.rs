use fuser::Errno;
use twinshare::{fetch::SourceError, types::NameError, view::ViewError};

/// What the kernel is told when a call on the view fails. No wildcard: a new error must be thought about.
pub(super) fn errno(error: &ViewError) -> Errno {
    match error {
        ViewError::NotFound => Errno::ENOENT,
        ViewError::UnknownInode(_) => Errno::ESTALE,
        ViewError::NotFolder => Errno::ENOTDIR,
        ViewError::IsFolder => Errno::EISDIR,
        ViewError::WrongKind => Errno::EINVAL,
        ViewError::NoAttribute => Errno::NO_XATTR,
        ViewError::ReadOnly => Errno::EROFS,
        ViewError::Exists => Errno::EEXIST,
        ViewError::NotEmpty => Errno::ENOTEMPTY,
        ViewError::Name(NameError::TooLong(_)) => Errno::ENAMETOOLONG,
        ViewError::Name(NameError::Empty | NameError::Dots | NameError::Forbidden(_)) => Errno::EINVAL,
        ViewError::Elsewhere => Errno::EXDEV,
        ViewError::TooManyLinks => Errno::EMLINK,
        ViewError::TooLarge => Errno::EFBIG,
        ViewError::NoSpace => Errno::ENOSPC,
        ViewError::NotPermitted => Errno::EPERM,
        ViewError::NotSupported => Errno::EOPNOTSUPP,
        // A full disk, for one, is what the program should hear of.
        ViewError::Layer { code, .. } => code.map_or(Errno::EIO, Errno::from_i32),
        ViewError::Source(SourceError::Changed) => Errno::ESTALE,
        ViewError::Source(SourceError::TimedOut) => Errno::ETIMEDOUT,
        ViewError::Source(SourceError::Denied) => Errno::EACCES,
        ViewError::Source(SourceError::Failed(_)) => Errno::EIO,
    }
}
