//! Finding the other nodes of the network: docs/beacon.md says what is sent, and what a reader makes of it.

mod beacon;
mod interfaces;
mod lan;
mod multicast;
mod service;
mod table;

pub use beacon::{Beacon, BeaconError, Facts, Instance, Kind, Resources, Signer, verify};
pub use interfaces::InterfaceRules;
pub use lan::Lan;
pub use service::{ANNOUNCE_INTERVAL, DISCOVERY_PORT, Discovery, DiscoveryConfig};
pub use table::{Alert, Change, Peer, PeerTable, Status};
