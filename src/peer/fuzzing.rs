//! What `fuzz/` has of this room that nobody else needs.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::{receive::Answer, wire::BatchRequest};
use crate::types::NodeId;

/// Reads a request as an owner does.
pub fn request(json: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<BatchRequest>(json) {
        // What breaks a limit is refused in words.
        let _ = request.check();
    }
}

/// Reads an answer to a request as a guest does.
pub fn answer(request: &[u8], answer: &[u8]) {
    let Ok(request) = serde_json::from_slice::<BatchRequest>(request) else { return };
    if request.check().is_ok() {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        Answer::of_bytes(NodeId::from_bytes([1; 32]), address, Duration::ZERO, request.pieces, answer)
            .drain();
    }
}
