//! Fetching what a launch will read, ahead of it.

use super::{bulk::BulkError, fetcher::Fetcher, folders::Folders, source::SourceError};
use crate::{
    blob::{Blob, Groups, ranges},
    profile::Profile,
    tree::{Content, Kind, Totals},
    types::{Digest, WorkspaceId},
};

impl Fetcher {
    /// Fetches what isn't held of what a profile names in a snapshot, in its order, behind what somebody waits for and what
    /// is read ahead; what is held is brought into memory. What is no longer there, or can't be had, is left out; a node that can't be reached ends it.
    ///
    /// Dropping the future stops it; what came stays.
    pub async fn stream(
        &self,
        workspace: &WorkspaceId,
        root: &Digest,
        profile: &Profile,
    ) -> Result<(), SourceError> {
        let lane = self.lane(workspace);
        let mut folders = Folders::new(self, workspace);
        let mut queued = Vec::new();
        for touched in profile.files() {
            let root = Kind::Folder { tree: *root, totals: Totals::default() };
            let blob = match folders.kind(root, &touched.path).await {
                Ok(Kind::File { content: Content::Blob(digest), size }) => Blob { digest, size },
                Ok(Kind::File { content: Content::Sparse { blob, extents }, .. }) => {
                    Blob { digest: blob, size: extents.iter().map(|extent| extent.length).sum() }
                }
                Err(BulkError::Source(error @ (SourceError::TimedOut | SourceError::Denied))) => {
                    return Err(error);
                }
                Ok(_) | Err(_) => continue,
            };
            let there = touched.groups.intersection::<[u64; 2]>(&Groups::from(0..blob.groups()));
            self.store().will_read(&blob, &there);
            queued.extend(ranges(&there).map(|groups| lane.launch(blob, groups)));
        }
        for ticket in queued {
            if let Err(error @ (SourceError::TimedOut | SourceError::Denied)) = ticket.wait().await {
                return Err(error);
            }
        }
        Ok(())
    }
}
