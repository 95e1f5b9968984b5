//! The node daemon: the only place that wires the rooms together.

mod fuse;
mod http;

fn main() {}
