//! The kernel's side of the mount: decodes, calls the view, replies. Everything that knows `fuser` or an errno is here.

mod adapter;
mod errno;
mod invalidate;
mod mount;

pub(crate) use mount::{Mount, MountOptions};
