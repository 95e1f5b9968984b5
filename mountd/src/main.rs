//! The node daemon: the only place that wires the rooms together.

#[cfg_attr(not(test), expect(dead_code, reason = "nothing is wired yet"))]
mod http;

fn main() {}
