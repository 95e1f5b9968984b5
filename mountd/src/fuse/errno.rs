use fuser::Errno;
use twinshare::{fetch::SourceError, view::ViewError};

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
        ViewError::Source(SourceError::Changed) => Errno::ESTALE,
        ViewError::Source(SourceError::TimedOut) => Errno::ETIMEDOUT,
        ViewError::Source(SourceError::Denied) => Errno::EACCES,
        ViewError::Source(SourceError::Failed(_)) => Errno::EIO,
    }
}
