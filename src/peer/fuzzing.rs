//! What `fuzz/` has of this room that nobody else needs.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::{receive::Answer, wire::BatchRequest};
use crate::{tree::Edit, types::NodeId};

/// Reads a request as an owner does.
pub fn request(json: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<BatchRequest>(json) {
        // What breaks a limit is refused in words.
        let _ = request.check();
    }
}

/// Reads an edit as an owner does.
pub fn edit(cbor: &[u8]) {
    if let Ok(edit) = minicbor::decode::<Edit>(cbor) {
        let _ = edit.places();
    }
}

/// Reads an answer to a request as a guest does.
pub fn answer(request: &[u8], answer: &[u8]) {
    let Ok(request) = serde_json::from_slice::<BatchRequest>(request) else { return };
    if request.check().is_ok() {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let peer = NodeId::from_bytes([1; 32]);
        Answer::of_bytes(peer, address, Duration::ZERO, request.pieces, request.bulk, answer).drain();
    }
}
