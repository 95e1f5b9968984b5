//! What twinshare is made of, bottom up: each room uses only the rooms above it in this list.
//!
//! docs/ARCHITECTURE.md tells the way of a read through them; `tests/tidy.rs` enforces the order.

pub mod types;

pub mod access;

pub mod tree;

pub mod blob;

pub mod profile;

pub mod workspace;

pub mod publish;

pub mod store;

pub mod peer;

pub mod discovery;

pub mod fetch;

pub mod layer;

pub mod view;

pub mod runtime;

pub mod api;
