//! Earlier snapshots, which the mount shows beside their workspace: `lab@1a2b3c4d`.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use lru::LruCache;

use super::{
    Mounted, Place, Result, View, ViewError,
    node::{NodeKind, Remote},
};
use crate::types::{HostName, Name, WorkspaceName};

/// So many digits of a snapshot's name must be given.
const SNAPSHOT_DIGITS: usize = 8;

/// Snapshots that are remembered.
const SNAPSHOTS: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// Those that were looked at, by their names in the mount.
pub(super) struct Snapshots(Mutex<LruCache<Vec<u8>, Mounted>>);

impl Snapshots {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(SNAPSHOTS)))
    }

    fn get(&self, name: &[u8]) -> Option<Mounted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn put(&self, name: &[u8], mounted: &Mounted) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(name.to_vec(), mounted.clone());
    }
}

impl View {
    /// An earlier snapshot of a workspace: `name` is the workspace's, `@`, and the beginning of the snapshot's, which says
    /// which one is meant.
    pub(super) async fn snapshot(&self, host: &HostName, name: &[u8]) -> Result<NodeKind> {
        let (workspace, wanted) = str::from_utf8(name)
            .ok()
            .and_then(|text| text.rsplit_once('@'))
            .and_then(|(workspace, wanted)| Some((workspace.parse::<WorkspaceName>().ok()?, wanted)))
            .filter(|(_, wanted)| wanted.len() >= SNAPSHOT_DIGITS)
            .ok_or(ViewError::NotFound)?;
        let listing = self.listing();
        let place = listing.hosts.get(host).and_then(|host| host.places.get(&workspace));
        let Some(Place::Remote(mounted)) = place else { return Err(ViewError::NotFound) };
        let known = self.snapshots.get(name);
        let mounted = match known {
            Some(known) if known.id == mounted.id => known,
            _ => {
                let all = self.source.snapshots(&mounted.id).await?;
                let mut found = all.iter().filter(|snapshot| snapshot.root.to_string().starts_with(wanted));
                let (Some(snapshot), None) = (found.next(), found.next()) else {
                    return Err(ViewError::NotFound);
                };
                let mounted = Mounted {
                    root: Some(snapshot.root),
                    totals: snapshot.totals(),
                    mode: snapshot.mode,
                    modified: snapshot.modified(),
                    fixed: true,
                    ..mounted.clone()
                };
                self.snapshots.put(name, &mounted);
                mounted
            }
        };
        Ok(NodeKind::Remote(Remote::snapshot(Name::new(name)?, &mounted)))
    }
}
