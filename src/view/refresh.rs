use std::{cmp::Ordering, collections::VecDeque, sync::PoisonError};

use tokio::sync::oneshot;

use super::{
    Ino, Listing, Mounted, Place, View,
    folder::Folder,
    node::{NodeKind, Remote},
};
use crate::{
    fetch::SourceError,
    tree::{Content, Entry, Kind},
    types::Name,
};

/// What the kernel must forget. To be carried out in order, from a thread that never serves requests.
#[derive(Debug)]
pub enum Invalidation {
    /// What the name stands for, or that it doesn't exist.
    Entry {
        /// The folder.
        parent: Ino,
        /// The name in it.
        name: Name,
    },
    /// A node's attributes, and the content of the file or folder.
    Content(Ino),
    /// To be answered when all before it has been carried out.
    Barrier(oneshot::Sender<()>),
}

/// A workspace whose newest snapshot couldn't be taken over: the view goes on with the one before.
#[derive(Debug)]
pub struct NotTaken {
    /// Which workspace.
    pub workspace: crate::types::WorkspaceId,
    /// Why.
    pub error: SourceError,
}

/// A folder that differs between two snapshots.
struct Step {
    ino: Ino,
    old: Remote,
    new: Remote,
}

/// What taking over a snapshot consists of.
#[derive(Default)]
struct Plan {
    replace: Vec<(Ino, NodeKind)>,
    invalidate: Vec<Invalidation>,
    /// Folders that differ but that the kernel doesn't know, so nothing below them was looked at.
    skipped: Vec<Ino>,
}

impl View {
    /// Shows `next` from now on. Returns when the kernel has forgotten what isn't so any more; gives the workspaces
    /// whose new snapshot couldn't be taken over because its folders couldn't be had.
    pub async fn update(&self, mut next: Listing) -> Vec<NotTaken> {
        let _turn = self.refreshing.lock().await;
        let old = self.listing();
        let mut not_taken = Vec::new();
        loop {
            let mut plan = Plan::default();
            for (before, after) in remote_changes(&old, &mut next) {
                if let Err(error) = self.plan(before, after, &mut plan).await {
                    not_taken.push(NotTaken { workspace: after.id, error });
                    *after = before.clone();
                }
            }
            let mut table = self.table();
            if plan.skipped.iter().any(|&ino| table.contains(ino)) {
                // Looked up just now: walk again, with them. What the kernel knows only grows, so this ends.
                continue;
            }
            for (ino, kind) in plan.replace {
                table.replace(ino, kind);
            }
            table.next_generation();
            *self.listing.write().unwrap_or_else(PoisonError::into_inner) = std::sync::Arc::new(next.clone());
            drop(table);
            for invalidation in plan.invalidate.into_iter().chain(virtual_changes(&old, &next)) {
                self.invalidate(invalidation);
            }
            break;
        }
        let (done, carried_out) = oneshot::channel();
        self.invalidate(Invalidation::Barrier(done));
        // An error means that nobody carries out invalidations: then there is no kernel to be kept right.
        let _ = carried_out.await;
        not_taken
    }

    fn invalidate(&self, invalidation: Invalidation) {
        // Without a receiver there's no kernel to tell.
        let _ = self.invalidations.send(invalidation);
    }

    /// Walks the folders that differ between two snapshots as far as the kernel knows them.
    async fn plan(&self, before: &Mounted, after: &Mounted, plan: &mut Plan) -> Result<(), SourceError> {
        let (Some(old), Some(new)) = (Remote::root(before), Remote::root(after)) else { return Ok(()) };
        let mut steps = VecDeque::from([Step { ino: new.ino(), old, new }]);
        while let Some(Step { ino, old, new }) = steps.pop_front() {
            if !self.table().contains(ino) {
                plan.skipped.push(ino);
                continue;
            }
            plan.replace.push((ino, NodeKind::Remote(new.clone())));
            plan.invalidate.push(Invalidation::Content(ino));
            if old.entry.kind == new.entry.kind && before.root.is_some() == after.root.is_some() {
                continue;
            }
            let (Some(_), Some(_)) = (before.root, after.root) else {
                // It was or becomes closed to this node: whatever the kernel knows of it may be wrong.
                plan.invalidate.extend(self.known_children(ino));
                continue;
            };
            let new_folder = self.folder_of(&new).await?;
            match self.folder_of(&old).await {
                Ok(old_folder) => compare(ino, (&old, &old_folder), (&new, &new_folder), plan, &mut steps),
                Err(_) => {
                    plan.invalidate.extend(self.known_children(ino));
                    plan.invalidate.extend(new_folder.entries().iter().map(|entry| entry_of(ino, entry)));
                }
            }
        }
        Ok(())
    }

    async fn folder_of(&self, remote: &Remote) -> Result<std::sync::Arc<Folder>, SourceError> {
        match &remote.entry.kind {
            Kind::Folder { tree, .. } => self.folder(&remote.workspace.id, tree).await,
            Kind::File { .. } | Kind::Link(_) => Err(SourceError::Failed("not a folder".into())),
        }
    }

    fn known_children(&self, parent: Ino) -> Vec<Invalidation> {
        self.table().children(parent).into_iter().map(|name| Invalidation::Entry { parent, name }).collect()
    }
}

fn entry_of(parent: Ino, entry: &Entry) -> Invalidation {
    Invalidation::Entry { parent, name: entry.name.clone() }
}

/// Notes what differs between two versions of one folder.
fn compare(
    ino: Ino,
    (old, old_folder): (&Remote, &Folder),
    (new, new_folder): (&Remote, &Folder),
    plan: &mut Plan,
    steps: &mut VecDeque<Step>,
) {
    let (mut before, mut after) = (old_folder.entries(), new_folder.entries());
    loop {
        let order = match (before.first(), after.first()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.name.cmp(&b.name),
        };
        match order {
            Ordering::Less => {
                plan.invalidate.push(entry_of(ino, &before[0]));
                before = &before[1..];
            }
            // The kernel may have cached that the name doesn't exist.
            Ordering::Greater => {
                plan.invalidate.push(entry_of(ino, &after[0]));
                after = &after[1..];
            }
            Ordering::Equal => {
                if before[0] != after[0] {
                    changed(ino, old.child(&before[0]), new.child(&after[0]), plan, steps);
                }
                (before, after) = (&before[1..], &after[1..]);
            }
        }
    }
}

/// Notes what follows from a name that stands for something else than before.
fn changed(parent: Ino, old: Remote, new: Remote, plan: &mut Plan, steps: &mut VecDeque<Step>) {
    let ino = new.ino();
    if old.ino() != ino {
        plan.invalidate.push(entry_of(parent, &new.entry));
    } else if matches!(new.entry.kind, Kind::Folder { .. }) {
        steps.push_back(Step { ino, old, new });
    } else {
        // The same version: mostly a file that has been hashed by now, of which the kernel knows all but the digest.
        let hashed = old.entry.attributes == new.entry.attributes
            && matches!(&old.entry.kind, Kind::File { content: Content::Pending, .. });
        if !hashed {
            plan.invalidate.push(Invalidation::Content(ino));
        }
        plan.replace.push((ino, NodeKind::Remote(new)));
    }
}

/// The workspaces that are in both listings and differ.
fn remote_changes<'a>(
    old: &'a Listing,
    next: &'a mut Listing,
) -> impl Iterator<Item = (&'a Mounted, &'a mut Mounted)> {
    next.hosts.iter_mut().flat_map(|(host, listing)| {
        let before = old.hosts.get(host);
        listing.places.iter_mut().filter_map(move |(name, place)| {
            match (before.and_then(|before| before.places.get(name)), place) {
                (Some(Place::Remote(before)), Place::Remote(after))
                    if before.id == after.id && before != after =>
                {
                    Some((before, after))
                }
                _ => None,
            }
        })
    })
}

/// What changes at the two upper levels.
fn virtual_changes(old: &Listing, next: &Listing) -> Vec<Invalidation> {
    let mut changes = Vec::new();
    let mut entry = |parent: Ino, name: &str| {
        if let Ok(name) = Name::new(name.as_bytes()) {
            changes.push(Invalidation::Entry { parent, name });
        }
    };
    let hosts = old.hosts.keys().chain(next.hosts.keys());
    for host in hosts.collect::<std::collections::BTreeSet<_>>() {
        let (before, after) = (old.hosts.get(host), next.hosts.get(host));
        if before.is_some() != after.is_some() {
            entry(Ino::ROOT, host.as_str());
            entry(NodeKind::Outside.ino(), host.as_str());
        }
        let places = |listing: Option<&super::HostListing>| {
            listing.map(|listing| listing.places.clone()).unwrap_or_default()
        };
        let (before, after) = (places(before), places(after));
        let parent = NodeKind::Host(host.clone()).ino();
        for name in before.keys().chain(after.keys()).collect::<std::collections::BTreeSet<_>>() {
            let same = match (before.get(name), after.get(name)) {
                (Some(Place::Remote(before)), Some(Place::Remote(after))) => before.id == after.id,
                (before, after) => before == after,
            };
            if !same {
                entry(parent, name.as_str());
            }
        }
    }
    changes
}
