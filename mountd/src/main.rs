//! The twinshare node.
mod fuse;
fn main() {}
