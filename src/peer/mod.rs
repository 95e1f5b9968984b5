//! Between nodes: who a node is, how that is shown over TLS, and the share service with its client.
//!
//! docs/share-service.md describes what travels. Reading order: `identity`, `tls`, `capability`, `wire`, `packed` and `frame` (the formats),
//! `answer` (how the owner answers a batch), `service` (the server), `service/passing` (answers out of what is held of others' workspaces), `service/queue` (turns for bulk), `bandwidth` (caps), `receive` (how a guest checks an answer), `client`.

mod answer;
mod bandwidth;
mod capability;
mod client;
mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
mod identity;
mod line;
mod packed;
mod pairing;
mod receive;
mod service;
mod tls;
mod wire;

#[cfg(test)]
mod tests;

pub use bandwidth::{Bandwidth, Caps};
pub use capability::Capability;
pub use client::{IDLE, PairError, PeerClient, PeerError};
pub use identity::{Identity, IdentityError, NotSigned, Signature, fingerprint, fingerprint_words, verify};
pub use pairing::{Invited, Joining, NoCode, NotPaired, PairingCode, Reply, invite};
pub use receive::{Answer, Piece, RefusedPiece};
pub use service::{
    BULK_SLOTS, BulkQueue, ExpectedPieces, Held, Queued, Refusal, ServeError, ServeOptions, Served,
    ServedWorkspace, VisitRefusal, Visited, serve,
};
pub use tls::{Credentials, CredentialsError, Expected};
pub use wire::{
    BatchRequest, Catalogue, EditOutcome, Grant, Head, MAX_BATCH, MAX_HOLDERS, MAX_PIECES, MAX_RANGE,
    MAX_REVOKED, MAX_WAIT, MAX_WORKSPACES, NodeInfo, OwnerPath, PathError, PendingRange, PieceRequest,
    SUBTREE_BUDGET, SignedHead, WorkspaceInfo,
};
