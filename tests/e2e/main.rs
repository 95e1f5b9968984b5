//! End to end: two hosts in network namespaces, driven through the CLI and looked at through the mount.
//!
//! Needs root, /dev/fuse and iproute2; a test says so when it skips. With TWINSHARE_TEST_REQUIRE set, a skip is a
//! failure. TWINSHARE_TEST_FULL=1 gives the long runs their full length.
#![expect(clippy::unwrap_used, reason = "a test ends with a panic when its surroundings fail")]

mod access;
mod bed;
mod cable;
mod hostile;
mod lan;
mod limits;
mod link;
mod node;
mod pairing;
mod passing;
mod podman;
mod sample;
mod visitors;
mod wait;

mod archive;
mod bed_itself;
mod cache;
mod changes;
mod edit;
mod environments;
mod escapes;
mod failure;
mod launch;
mod launches;
mod layers;
mod laziness;
mod network;
mod plain_user;
mod scale;
mod security;
mod semantics;
mod swarm;
mod venv;
