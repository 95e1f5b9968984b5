//! The kernel's side of the mount: decodes, calls the view, replies. Everything that knows `fuser` or an errno is here.

mod adapter;
mod errno;
mod invalidate;
mod mount;

pub(crate) use mount::{Mount, MountOptions};

/// The part of the log that tells of answers which the kernel doesn't wait for any more: an interruption came too late, or the
/// mount has ended. fuser calls them errors.
pub(crate) const REPLIES: &str = "fuser::reply";
