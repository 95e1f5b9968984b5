use std::{collections::HashMap, sync::Arc};

use super::{
    bulk::BulkError,
    fetcher::Fetcher,
    source::{Source, SourceError},
};
use crate::{
    tree::{Entry, Kind, Page, decode},
    types::{Digest, Name, WorkspaceId},
};

/// Finds entries of a snapshot by their paths, and keeps the folders on the way.
pub(super) struct Folders<'a> {
    fetcher: &'a Fetcher,
    workspace: &'a WorkspaceId,
    pages: HashMap<Digest, Arc<Page>>,
}

impl<'a> Folders<'a> {
    pub(super) fn new(fetcher: &'a Fetcher, workspace: &'a WorkspaceId) -> Self {
        Self { fetcher, workspace, pages: HashMap::new() }
    }

    /// The objects of all folders that were looked into.
    pub(super) fn digests(&self) -> impl Iterator<Item = Digest> {
        self.pages.keys().copied()
    }

    /// What lies at a path below a folder.
    pub(super) async fn kind(&mut self, root: Kind, path: &[Name]) -> Result<Kind, BulkError> {
        let mut kind = root;
        for name in path {
            let Kind::Folder { tree, .. } = kind else { return Err(BulkError::Missing(name.clone())) };
            kind = self.find(&tree, name).await?.kind;
        }
        Ok(kind)
    }

    async fn page(&mut self, digest: &Digest) -> Result<Arc<Page>, BulkError> {
        if let Some(page) = self.pages.get(digest) {
            return Ok(page.clone());
        }
        let object = self.fetcher.tree(self.workspace, digest).await?;
        let page = decode(&object).map_err(|error| SourceError::Failed(error.to_string()))?;
        Ok(self.pages.entry(*digest).or_insert(Arc::new(page)).clone())
    }

    /// The entry of this name in a folder.
    async fn find(&mut self, folder: &Digest, name: &Name) -> Result<Entry, BulkError> {
        let mut page = self.page(folder).await?;
        if let Page::Index(pages) = &*page {
            let behind = pages.partition_point(|page| page.first <= *name);
            let fitting = behind.checked_sub(1).and_then(|position| pages.get(position));
            let digest = fitting.ok_or_else(|| BulkError::Missing(name.clone()))?.digest;
            page = self.page(&digest).await?;
        }
        let found = match &*page {
            Page::Leaf(entries) => {
                let position = entries.binary_search_by(|entry| entry.name.cmp(name));
                position.ok().and_then(|position| entries.get(position))
            }
            Page::Index(_) => None,
        };
        found.cloned().ok_or_else(|| BulkError::Missing(name.clone()))
    }
}
