//! Identifiers and names. Everything that arrives from outside becomes one of these or is refused.

mod id;
mod name;
mod size;
mod time;

pub use id::{Digest, NodeId, ParseIdError, PathKey, WorkspaceId};
pub use name::{HostName, Name, NameError, WorkspaceName, position};
pub use size::{ByteSize, ByteSizeError};
pub use time::Timestamp;
