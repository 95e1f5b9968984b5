use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, future::BoxFuture};

use super::{
    holder::{Holders, Piece, Refused, Want},
    lane::{Class, Lane},
    readahead::Readahead,
    source::{FileContent, Source, SourceError},
};
use crate::{
    blob::{Blob, GROUP},
    store::{StoreError, WriteStore},
    types::{Digest, Name, WorkspaceId},
};

/// How often content that turns out damaged, or is evicted as soon as it is here, is fetched again for one read.
const ATTEMPTS: usize = 3;

/// Bytes that one workspace may have queued ahead of its readers.
const READAHEAD_BUDGET: u64 = 32 << 20;

/// How content is fetched.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// How long one read may wait before it fails.
    pub deadline: Duration,
}

/// Content from the store, and into it from whoever holds it.
pub struct Fetcher {
    store: Arc<dyn WriteStore>,
    holders: Arc<dyn Holders>,
    options: FetchOptions,
    lanes: Mutex<HashMap<WorkspaceId, Arc<Lane>>>,
    readahead: Mutex<Readahead>,
}

impl Fetcher {
    /// A fetcher into `store`. Its futures must be polled within a tokio runtime.
    pub fn new(store: Arc<dyn WriteStore>, holders: Arc<dyn Holders>, options: FetchOptions) -> Self {
        Self { store, holders, options, lanes: Mutex::default(), readahead: Mutex::new(Readahead::new()) }
    }

    fn lane(&self, workspace: &WorkspaceId) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Lane::new(*workspace, self.store.clone(), self.holders.clone()));
        lanes.entry(*workspace).or_insert_with(new).clone()
    }

    async fn within<T>(&self, fetch: impl Future<Output = Result<T, SourceError>>) -> Result<T, SourceError> {
        tokio::time::timeout(self.options.deadline, fetch).await.unwrap_or(Err(SourceError::TimedOut))
    }

    async fn fetch_tree(&self, workspace: &WorkspaceId, digest: &Digest) -> Result<Bytes, SourceError> {
        for _ in 0..ATTEMPTS {
            match self.store.tree(digest) {
                Ok(Some(object)) => return Ok(object),
                Ok(None) => {
                    let ticket = self.lane(workspace).whole(*digest, Want::Tree(*digest), Class::Demand);
                    ticket.map_err(|error| failed(&error))?.wait().await?;
                }
                Err(StoreError::Corrupt(digest)) => tracing::warn!(%digest, "a stored folder was damaged"),
                Err(error) => return Err(failed(&error)),
            }
        }
        Err(SourceError::Failed("the folder can't be kept".into()))
    }

    async fn read_blob(
        &self,
        workspace: &WorkspaceId,
        blob: &Blob,
        offset: u64,
        length: u32,
    ) -> Result<Bytes, SourceError> {
        let end = offset + u64::from(length);
        if end > blob.size {
            return Err(SourceError::Failed("a read beyond the end of the content".into()));
        }
        let mut buffer = BytesMut::zeroed(length as usize);
        for _ in 0..ATTEMPTS {
            match self.store.read_at(blob, offset, &mut buffer) {
                Ok(true) => {
                    self.read_ahead(workspace, blob, offset, end);
                    return Ok(buffer.freeze());
                }
                Ok(false) => {}
                Err(StoreError::Corrupt(digest)) => tracing::warn!(%digest, "stored content was damaged"),
                Err(error) => return Err(failed(&error)),
            }
            let lane = self.lane(workspace);
            let ticket = if blob.is_whole() {
                lane.whole(blob.digest, Want::Blob(*blob), Class::Demand)
            } else {
                lane.slice(*blob, blob.touched(offset, end), Class::Demand)
            }
            .map_err(|error| failed(&error))?;
            // Asked for after the demand, so that it doesn't come before it.
            self.read_ahead(workspace, blob, offset, end);
            ticket.wait().await?;
        }
        Err(SourceError::Failed("the content can't be kept".into()))
    }

    fn read_ahead(&self, workspace: &WorkspaceId, blob: &Blob, start: u64, end: u64) {
        if blob.is_whole() {
            return;
        }
        let mut readahead = self.readahead.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = readahead.note(blob.digest, blob.size, start..end);
        drop(readahead);
        let Some(wanted) = wanted else { return };
        let lane = self.lane(workspace);
        if lane.readahead_queued() > READAHEAD_BUDGET {
            return;
        }
        // What the demand fetches is not asked for again: it's under way already.
        let groups = wanted.start / GROUP..wanted.end.div_ceil(GROUP);
        if let Err(error) = lane.slice(*blob, groups, Class::Readahead) {
            tracing::debug!(%error, "not reading ahead");
        }
    }

    async fn read_pending(
        &self,
        workspace: &WorkspaceId,
        path: &[Name],
        token: u64,
        offset: u64,
        length: u32,
    ) -> Result<Bytes, SourceError> {
        let want = [Want::Pending { path: path.to_vec(), token, offset, length }];
        let mut last = Err(SourceError::TimedOut);
        for holder in self.holders.holders(workspace) {
            let mut result = Err(SourceError::TimedOut);
            let mut sink = |_: usize, piece: Result<Piece, Refused>| match piece {
                Ok(Piece::Pending(bytes)) => result = Ok(bytes),
                Ok(_) => {}
                Err(_) => result = Err(SourceError::Changed),
            };
            if let Err(error) = holder.fetch(workspace, &want, &mut sink).await {
                tracing::debug!(%error, "reading a pending file failed");
            }
            match result {
                Ok(bytes) if bytes.len() == length as usize => return Ok(bytes),
                Ok(_) => {
                    last = Err(SourceError::Failed("the owner sent another length than was asked for".into()))
                }
                Err(error) => last = Err(error),
            }
        }
        last
    }
}

fn failed(error: &StoreError) -> SourceError {
    SourceError::Failed(error.to_string())
}

impl Source for Fetcher {
    fn tree<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        digest: &'a Digest,
    ) -> BoxFuture<'a, Result<Bytes, SourceError>> {
        self.within(self.fetch_tree(workspace, digest)).boxed()
    }

    fn read<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        content: &'a FileContent,
        offset: u64,
        length: u32,
    ) -> BoxFuture<'a, Result<Bytes, SourceError>> {
        match content {
            FileContent::Blob(blob) => self.within(self.read_blob(workspace, blob, offset, length)).boxed(),
            FileContent::Pending { path, token } => {
                self.within(self.read_pending(workspace, path, *token, offset, length)).boxed()
            }
        }
    }

    fn knock(&self, workspace: &WorkspaceId) {
        self.holders.knock(workspace);
    }
}
