//! What the mount shows, made from what is shared here and what the neighbours share.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use twinshare::{
    peer::WorkspaceInfo,
    tree::Totals,
    types::{HostName, NodeId, Timestamp, WorkspaceId},
    view::{HostListing, HostState, Listing, Mounted, Place},
};

use crate::{
    neighbours::{Neighbours, mounted_id, places},
    node::Node,
};

/// A snapshot that couldn't be taken over is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the view as the network is, until the node ends.
pub(crate) async fn keep(node: Arc<Node>) {
    let (mut heads, mut neighbours) = (node.sharing.changes(), node.neighbours.changes());
    // What the mount shows, by the identity it has there.
    let mut shown = Versions::new();
    loop {
        node.neighbours.note_taken(shown.values());
        let (listing, mut versions) = listing(&node);
        let before = node.view.listing();
        let not_taken = node.view.update(listing).await;
        node.events.note_listing(&before, &node.view.listing());
        node.cache.note_shown();
        for failure in &not_taken {
            // The view still shows what it showed.
            versions.remove(&failure.workspace);
            versions.extend(shown.remove_entry(&failure.workspace));
        }
        shown = versions;
        for failure in &not_taken {
            tracing::debug!(workspace = %failure.workspace, error = %failure.error, "a snapshot isn't here yet");
        }
        let retry = async {
            match not_taken.is_empty() {
                true => std::future::pending().await,
                false => tokio::time::sleep(RETRY).await,
            }
        };
        let changed = tokio::select! {
            changed = heads.changed() => {
                // Others hear of what changed here at once.
                node.discovery.announce_now();
                changed
            }
            changed = neighbours.changed() => changed,
            () = retry => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Versions of workspaces and their owners, by the identities that they have in the mount.
type Versions = BTreeMap<WorkspaceId, (NodeId, WorkspaceInfo)>;

/// All hosts with something to show, this one among them; and which versions of the others' workspaces that are.
fn listing(node: &Node) -> (Listing, Versions) {
    let mut versions = Versions::new();
    let mut hosts = BTreeMap::new();
    let own = node
        .sharing
        .list()
        .into_iter()
        .map(|share| (share.manifest().name.clone(), Place::Local(share.root_path().to_path_buf())));
    let own = HostListing { state: HostState::Local, places: own.collect() };
    if !own.places.is_empty() {
        hosts.insert(node.host.clone(), own);
    }
    add_others(&node.neighbours, &mut hosts, &mut versions);
    (Listing { hosts }, versions)
}

/// Adds what the neighbours show.
fn add_others(neighbours: &Neighbours, hosts: &mut BTreeMap<HostName, HostListing>, versions: &mut Versions) {
    for (id, neighbour) in neighbours.list() {
        let online = neighbour.client.is_some();
        let mut shown = BTreeMap::new();
        for (name, announced) in places(&neighbour.workspaces) {
            let Some(info) = neighbour.shown(announced, |root| neighbours.is_held(root)) else {
                continue;
            };
            let head = &info.head.head;
            let mounted = Mounted {
                id: mounted_id(&id, &info.id),
                host: neighbour.folder.clone(),
                root: info.is_open().then_some(head.root),
                totals: Totals { files: head.files, bytes: head.bytes },
                mode: head.mode,
                modified: Timestamp {
                    seconds: head.modified.0,
                    nanoseconds: head.modified.1.min(999_999_999),
                },
                original: info.path.as_bytes().to_vec(),
                fixed: false,
                rights: info.rights,
            };
            versions.insert(mounted.id, (id, info.clone()));
            shown.insert(name, Place::Remote(mounted));
        }
        if shown.is_empty() {
            continue;
        }
        let state = if online { HostState::Online } else { HostState::Away };
        match hosts.entry(neighbour.folder.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(HostListing { state, places: shown });
            }
            Entry::Occupied(entry) => {
                tracing::warn!(folder = %entry.key(), node = %id, "another host has this folder: not shown");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use twinshare::{
        fetch::{FetchOptions, Fetcher},
        store::MemoryStore,
        view::{Attr, Cookie, Ino, View, ViewOptions},
    };

    use super::*;
    use crate::neighbours::tests::with_many;

    #[tokio::test]
    async fn two_hundred_hosts_with_ten_workspaces_each_are_all_shown() {
        let state = tempfile::tempdir().unwrap();
        let neighbours = with_many(state.path(), 200, 10);
        let (mut hosts, mut versions) = (BTreeMap::new(), Versions::new());
        add_others(&neighbours, &mut hosts, &mut versions);
        assert_eq!((hosts.len(), versions.len()), (200, 2000));

        let deadline = Duration::from_secs(10);
        let options = FetchOptions { deadline, mapped: 0 };
        let (fetcher, _) = Fetcher::new(Arc::new(MemoryStore::new()), neighbours, options);
        let (view, _told) = View::new(
            ViewOptions { mount: "/m".into(), uid: 0, gid: 0, deadline, layers: None },
            Arc::new(fetcher),
        );
        assert!(view.update(Listing { hosts }).await.is_empty());
        let mut hosts = Vec::new();
        let add = |_: Cookie, name: &[u8], attr: Attr| {
            hosts.extend((!name.starts_with(b".")).then_some(attr.ino));
            false
        };
        view.readdir(Ino::ROOT, Cookie::START, true, add).await.unwrap();
        assert_eq!(hosts.len(), 200);
        for host in hosts {
            let mut names = 0;
            let count = |_: Cookie, _: &[u8], _: Attr| {
                names += 1;
                false
            };
            view.readdir(host, Cookie::START, true, count).await.unwrap();
            assert_eq!(names, 12, "ten workspaces and the two dots");
        }
    }
}
