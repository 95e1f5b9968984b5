//! What the mount shows, made from what is shared here and what the neighbours share.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use twinshare::{
    peer::Served,
    store::ReadStore,
    tree::Totals,
    types::Timestamp,
    view::{HostListing, HostState, Listing, Mounted, Place},
};

use crate::{
    neighbours::{mounted_id, places},
    node::Node,
};

/// A snapshot that couldn't be taken over is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the view as the network is, until the node ends.
pub(crate) async fn keep(node: Arc<Node>) {
    let (mut heads, mut neighbours) = (node.sharing.changes(), node.neighbours.changes());
    loop {
        heads.borrow_and_update();
        neighbours.borrow_and_update();
        let not_taken = node.view.update(listing(&node)).await;
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
            changed = heads.changed() => changed,
            changed = neighbours.changed() => changed,
            () = retry => Ok(()),
        };
        if changed.is_err() {
            return;
        }
        if heads.has_changed().unwrap_or(false) {
            // Others hear of what changed here at once.
            node.discovery.announce_now();
        }
    }
}

/// All hosts with something to show, this one among them.
fn listing(node: &Node) -> Listing {
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
    for (id, neighbour) in node.neighbours.list() {
        let online = neighbour.client.is_some();
        let mut shown = BTreeMap::new();
        for (name, info) in places(&neighbour.workspaces) {
            let head = &info.head.head;
            // Of a host that isn't there, only what can be looked at from here is shown.
            if !online && !matches!(node.store.tree(&head.root), Ok(Some(_))) {
                continue;
            }
            let mounted = Mounted {
                id: mounted_id(&id, &info.id),
                host: neighbour.folder.clone(),
                root: info.allowed.then_some(head.root),
                totals: Totals { files: head.files, bytes: head.bytes },
                mode: head.mode,
                modified: Timestamp {
                    seconds: head.modified.0,
                    nanoseconds: head.modified.1.min(999_999_999),
                },
                original: info.path.as_bytes().to_vec(),
            };
            shown.insert(name, Place::Remote(mounted));
        }
        if !shown.is_empty() {
            let state = if online { HostState::Online } else { HostState::Away };
            hosts.insert(neighbour.folder.clone(), HostListing { state, places: shown });
        }
    }
    Listing { hosts }
}
