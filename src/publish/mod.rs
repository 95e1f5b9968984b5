//! Publishing: turns folders into snapshots and serves their content in place, without a copy.
//!
//! [`Shares`] holds all workspaces that this node shares. Each [`Share`] has a model of its folder in memory and a
//! thread that keeps it up to date: the folder is looked through, a *provisional* head is published at once, what the
//! hash cache doesn't know is hashed, and the final head follows. From then on a watch tells which folders to look
//! through again; a full look from time to time is the safety net. The content never leaves its files: a file that
//! isn't what its digest names any more isn't served under it.

mod cache;
mod content;
mod history;
mod item;
mod kept;
mod listing;
mod model;
mod objects;
mod outline;
mod place;
mod publisher;
mod rules;
mod scan;
mod secrets;
mod serve;
mod share;
mod shares;
mod take;
mod watch;
mod write;

#[cfg(test)]
mod tests;

pub use cache::CacheError;
pub use history::{History, HistoryError};
pub use kept::Keeping;
pub use listing::{Listing, listing};
pub use rules::{IGNORE_FILE, Reason};
pub use serve::{LocalBlob, PENDING_MAX, ServeError};
pub use share::{Head, LeftOut, Progress, Retention, Share};
pub use shares::{PublishError, ShareOptions, Shares, SharesOptions};
pub use take::{EditError, Incoming};
