use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::PoisonError,
    time::Duration,
};

use futures_util::future::join_all;

use super::{
    Ino, Listing, Mounted, Place, View,
    folder::Folder,
    node::{NodeKind, Remote},
};
use crate::{
    fetch::SourceError,
    tree::{Content, Entry, Kind},
    types::{Digest, Name, WorkspaceId, WorkspaceName},
};

/// Something that the kernel is to be told.
#[derive(Debug)]
pub struct Invalidation {
    /// Those of one lane are to be carried out in order; one lane may be held up by a folder whose look-ups wait for a
    /// peer, and the others must not wait for it. Less than [`LANES`].
    pub lane: usize,
    /// What it is to be told.
    pub what: Notice,
}

/// How many lanes invalidations have: one for the upper levels, the others for the workspaces.
pub const LANES: usize = 8;

/// What the kernel must forget. To be carried out by threads that never serve requests.
#[derive(Debug)]
pub enum Notice {
    /// What the name stands for, or that it doesn't exist.
    Entry {
        /// The folder.
        parent: Ino,
        /// The name in it.
        name: Name,
    },
    /// A node's attributes, and the content of the file or folder.
    Content(Ino),
    /// No more for this snapshot: to be passed to [`View::told`] when all before it in its lane has been carried out.
    Told(WorkspaceId, Option<Digest>),
}

/// How long the folders of one snapshot may take to come here; then the others are taken over without it, and it is tried
/// again.
const PATIENCE: Duration = Duration::from_secs(1);

/// A workspace whose newest snapshot couldn't be taken over: the view goes on with the one before.
#[derive(Debug)]
pub struct NotTaken {
    /// Which workspace.
    pub workspace: WorkspaceId,
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
    notices: Vec<Notice>,
    /// Folders that differ but that the kernel doesn't know, so nothing below them was looked at.
    skipped: Vec<Ino>,
}

impl View {
    /// Shows `next` from now on, and queues what the kernel must be told; gives the workspaces whose new snapshot
    /// couldn't be taken over because its folders couldn't be had (yet): the view stays with the one before.
    pub async fn update(&self, mut next: Listing) -> Vec<NotTaken> {
        let _turn = self.refreshing.lock().await;
        let old = self.listing();
        let mut not_taken = Vec::new();
        loop {
            let changes = remote_changes(&old, &mut next).map(async |(name, before, after)| {
                let plan = tokio::time::timeout(PATIENCE, self.plan(name, before, after)).await;
                match plan.unwrap_or(Err(SourceError::TimedOut)) {
                    Ok(plan) => Ok((after.id, after.root, plan)),
                    Err(error) => {
                        let failure = NotTaken { workspace: after.id, error };
                        *after = before.clone();
                        Err(failure)
                    }
                }
            });
            let mut plans = Vec::new();
            for outcome in join_all(changes).await {
                match outcome {
                    Ok(plan) => plans.push(plan),
                    Err(failure) => not_taken.push(failure),
                }
            }
            let mut table = self.table();
            let skipped = plans.iter().flat_map(|(.., plan)| &plan.skipped);
            if skipped.into_iter().any(|&ino| table.contains(ino)) {
                // Looked up just now: walk again, with them. What the kernel knows only grows, so this ends.
                continue;
            }
            for (.., plan) in &mut plans {
                for (ino, kind) in plan.replace.drain(..) {
                    table.replace(ino, kind);
                }
            }
            table.next_generation();
            *self.listing.write().unwrap_or_else(PoisonError::into_inner) = std::sync::Arc::new(next.clone());
            drop(table);
            for (workspace, root, plan) in plans {
                let lane = Self::lane(&workspace);
                let told = Notice::Told(workspace, root);
                plan.notices.into_iter().chain([told]).for_each(|what| self.notify(lane, what));
            }
            virtual_changes(&old, &next).into_iter().for_each(|what| self.notify(0, what));
            return not_taken;
        }
    }

    /// The lane of a workspace's invalidations.
    pub(super) fn lane(workspace: &WorkspaceId) -> usize {
        1 + usize::from(workspace.as_bytes()[0]) % (LANES - 1)
    }

    pub(super) fn notify(&self, lane: usize, what: Notice) {
        // Without a receiver there's no kernel to tell.
        let _ = self.invalidations.send(Invalidation { lane, what });
    }

    /// Notes that the kernel has forgotten all that isn't so in this snapshot.
    pub fn told(&self, workspace: WorkspaceId, root: Option<Digest>) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(workspace, root);
    }

    /// Whether everybody who looks at the workspace now sees the snapshot that the listing names.
    pub fn is_settled(&self, mounted: &Mounted) -> bool {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // One that hasn't changed since it appeared was never cached otherwise.
        told.get(&mounted.id).is_none_or(|root| *root == mounted.root)
    }

    /// Walks the folders that differ between two snapshots as far as the kernel knows them.
    async fn plan(
        &self,
        name: &WorkspaceName,
        before: &Mounted,
        after: &Mounted,
    ) -> Result<Plan, SourceError> {
        let mut plan = Plan::default();
        let (Some(old), Some(new)) = (Remote::root(name, before), Remote::root(name, after)) else {
            return Ok(plan);
        };
        let mut steps = VecDeque::from([Step { ino: new.ino(), old, new }]);
        while let Some(Step { ino, old, new }) = steps.pop_front() {
            if !self.table().contains(ino) {
                plan.skipped.push(ino);
                continue;
            }
            plan.replace.push((ino, NodeKind::Remote(new.clone())));
            plan.notices.push(Notice::Content(ino));
            if old.entry.kind == new.entry.kind && before.root.is_some() == after.root.is_some() {
                continue;
            }
            let (Some(_), Some(_)) = (before.root, after.root) else {
                // It was or becomes closed to this node: whatever the kernel knows of it may be wrong.
                plan.notices.extend(self.known_children(ino));
                continue;
            };
            let new_folder = self.folder_of(&new).await?;
            match self.folder_of(&old).await {
                Ok(old_folder) => {
                    compare(ino, (&old, &old_folder), (&new, &new_folder), &mut plan, &mut steps)
                }
                Err(_) => {
                    plan.notices.extend(self.known_children(ino));
                    plan.notices.extend(new_folder.entries().iter().map(|entry| entry_of(ino, entry)));
                }
            }
        }
        Ok(plan)
    }

    pub(super) async fn folder_of(&self, remote: &Remote) -> Result<std::sync::Arc<Folder>, SourceError> {
        match &remote.entry.kind {
            Kind::Folder { tree, .. } => self.folder(&remote.workspace.id, tree, None).await,
            Kind::File { .. } | Kind::Link(_) => Err(SourceError::Failed("not a folder".into())),
        }
    }

    fn known_children(&self, parent: Ino) -> Vec<Notice> {
        self.table().children(parent).into_iter().map(|name| Notice::Entry { parent, name }).collect()
    }
}

fn entry_of(parent: Ino, entry: &Entry) -> Notice {
    Notice::Entry { parent, name: entry.name.clone() }
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
                plan.notices.push(entry_of(ino, &before[0]));
                before = &before[1..];
            }
            // The kernel may have cached that the name doesn't exist.
            Ordering::Greater => {
                plan.notices.push(entry_of(ino, &after[0]));
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
        plan.notices.push(entry_of(parent, &new.entry));
    } else if matches!(new.entry.kind, Kind::Folder { .. }) {
        steps.push_back(Step { ino, old, new });
    } else {
        // The same version: mostly a file that has been hashed by now, of which the kernel knows all but the digest.
        let hashed = old.entry.attributes == new.entry.attributes
            && matches!(&old.entry.kind, Kind::File { content: Content::Pending, .. });
        if !hashed {
            plan.notices.push(Notice::Content(ino));
        }
        plan.replace.push((ino, NodeKind::Remote(new)));
    }
}

/// The workspaces that are in both listings and differ.
fn remote_changes<'a>(
    old: &'a Listing,
    next: &'a mut Listing,
) -> impl Iterator<Item = (&'a WorkspaceName, &'a Mounted, &'a mut Mounted)> {
    next.hosts.iter_mut().flat_map(|(host, listing)| {
        let before = old.hosts.get(host);
        listing.places.iter_mut().filter_map(move |(name, place)| {
            match (before.and_then(|before| before.places.get(name)), place) {
                (Some(Place::Remote(before)), Place::Remote(after))
                    if before.id == after.id && before != after =>
                {
                    Some((name, before, after))
                }
                _ => None,
            }
        })
    })
}

/// What changes at the two upper levels.
fn virtual_changes(old: &Listing, next: &Listing) -> Vec<Notice> {
    let mut changes = Vec::new();
    // The folder's cached listing goes too: a name that nobody looked up may be missing in it.
    let mut entry = |parent: Ino, name: &str| {
        if let Ok(name) = Name::new(name.as_bytes()) {
            changes.extend([Notice::Entry { parent, name }, Notice::Content(parent)]);
        }
    };
    let no_places = BTreeMap::new();
    for host in old.hosts.keys().chain(next.hosts.keys()).collect::<BTreeSet<_>>() {
        let (before, after) = (old.hosts.get(host), next.hosts.get(host));
        if before.is_some() != after.is_some() {
            entry(Ino::ROOT, host.as_str());
            entry(NodeKind::Outside.ino(), host.as_str());
        }
        let before = before.map_or(&no_places, |host| &host.places);
        let after = after.map_or(&no_places, |host| &host.places);
        for name in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            let same = match (before.get(name), after.get(name)) {
                (Some(Place::Remote(before)), Some(Place::Remote(after))) => before.id == after.id,
                (before, after) => before == after,
            };
            if !same {
                entry(NodeKind::Host(host.clone()).ino(), name.as_str());
            }
        }
    }
    changes
}
