//! Getting content here: what is local at once, anything else from whoever holds it, verified, kept, and within a deadline.
//!
//! Requests for the same range share one fetch; what waits while others are under way travels together in one request.
//! What a changed file has in common with its old content isn't fetched but made of that.

mod ahead;
mod bulk;
mod fetcher;
mod folders;
mod holder;
mod job;
mod keeping;
mod lane;
mod likeness;
mod readahead;
mod recorder;
mod source;
mod tally;
#[cfg(test)]
mod tests;

pub use bulk::{BulkError, Observer, Progress};
pub use fetcher::{FetchOptions, Fetcher};
pub use holder::{Holder, HolderError, Holders, Piece, Refused, Sink, Urgency, Want};
pub use recorder::{Launch, Recorder};
pub use source::{FileContent, Source, SourceError, Surroundings};
pub use tally::Counts;
