//! What the user asks about changes: what they are, taking them back, merging them.

use std::{fmt::Write, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::Stream;
use similar::TextDiff;
use twinshare::{
    api::{
        FilePath, LayerChange, LayerChangeKind, MergeConflict, MergeConflictKind, MergeReport, Problem,
        PushReport, RawText,
    },
    peer::PeerClient,
    types::{Name, WorkspaceId},
    view::{Conflict, ConflictKind, Difference, DifferenceKind, Mounted, Pushed, View, ViewError},
};

use crate::{control, neighbours::mounted_id, node::Node};

/// How long the owner's new snapshot may take to come here after a push.
const SETTLING: Duration = Duration::from_secs(10);

/// Bytes of a file that are sent together.
const PIECE: u32 = 1 << 20;

/// Larger files are only said to differ, in bytes.
const TEXT_MAX: u32 = 1 << 20;

/// The path as people write it.
fn raw(path: &[Name]) -> RawText {
    control::raw(Name::join(path))
}

fn failed(error: ViewError) -> Problem {
    match error {
        ViewError::Source(error) => Problem::unreachable(error.to_string())
            .with_remedy("the owner's content is needed for this: is the owner up?"),
        error => Problem::failed(error),
    }
}

/// The differences at a path and below.
fn below(view: &View, id: &WorkspaceId, path: &FilePath) -> Result<Vec<Difference>, Problem> {
    let mut differences = view.differences(id).map_err(failed)?;
    differences.retain(|difference| difference.path.starts_with(&path.path));
    Ok(differences)
}

/// What was changed at a path and below.
pub(crate) fn list(view: &View, id: &WorkspaceId, path: &FilePath) -> Result<Vec<LayerChange>, Problem> {
    let change = |difference: Difference| {
        let (kind, from, changed) = match difference.kind {
            DifferenceKind::Made => (LayerChangeKind::Made, None, false),
            DifferenceKind::Changed => (LayerChangeKind::Changed, None, false),
            DifferenceKind::Removed => (LayerChangeKind::Removed, None, false),
            DifferenceKind::Moved { from, changed } => (LayerChangeKind::Moved, Some(from), changed),
            DifferenceKind::Theirs { of } => (LayerChangeKind::Theirs, Some(of), false),
        };
        let from = from.map(|from| raw(&from));
        LayerChange { path: raw(&difference.path), folder: difference.is_folder, kind, from, changed }
    };
    Ok(below(view, id, path)?.into_iter().map(change).collect())
}

/// The same as text: a unified diff.
pub(crate) async fn text(view: &View, id: &WorkspaceId, path: &FilePath) -> Result<String, Problem> {
    let mut text = String::new();
    for Difference { path, is_folder, kind } in below(view, id, path)? {
        let old_path = match &kind {
            DifferenceKind::Moved { from, .. } => from,
            DifferenceKind::Theirs { .. } => continue,
            _ => &path,
        };
        if is_folder || matches!(kind, DifferenceKind::Moved { changed: false, .. }) {
            continue;
        }
        let (before, now) = view.versions(id, &path, TEXT_MAX + 1).await.map_err(failed)?;
        if before == now {
            continue;
        }
        let label = |side: &str, path: &[Name], there: bool| {
            if there { format!("{side}/{}", raw(path)) } else { "/dev/null".to_owned() }
        };
        let labels = (label("a", old_path, before.is_some()), label("b", &path, now.is_some()));
        match (readable(before.as_deref()), readable(now.as_deref())) {
            (Some(before), Some(now)) => {
                let diff = TextDiff::from_lines(before, now);
                let _ = write!(text, "{}", diff.unified_diff().header(&labels.0, &labels.1));
            }
            _ => {
                let _ = writeln!(text, "Binary files {} and {} differ", labels.0, labels.1);
            }
        }
    }
    Ok(text)
}

/// The text of a version; None when it's none, or too long to be compared.
fn readable(version: Option<&[u8]>) -> Option<&str> {
    let bytes = version.unwrap_or_default();
    str::from_utf8(bytes).ok().filter(|text| text.len() <= TEXT_MAX as usize && !text.contains('\0'))
}

/// Takes back what was changed at a path and below.
pub(crate) fn discard(view: &View, id: &WorkspaceId, path: &FilePath) -> Result<Vec<RawText>, Problem> {
    match view.discard(id, &path.path) {
        Ok(paths) => Ok(paths.iter().map(|path| raw(path)).collect()),
        Err(ViewError::NotFound) => Err(Problem::missing(format!("nothing was changed at {path}"))
            .with_remedy("`twinshare diff` shows what was changed")),
        Err(error) => Err(failed(error)),
    }
}

/// Merges the changes with the owner's newest snapshot.
pub(crate) async fn pull(view: &View, id: &WorkspaceId) -> Result<MergeReport, Problem> {
    let snapshot = view.listing().mounted(id).and_then(|mounted| mounted.root);
    let conflicts = view.pull(id).await.map_err(failed)?;
    let conflict = |Conflict { path, kind }| {
        let (kind, theirs) = match kind {
            ConflictKind::Both { theirs } => {
                let above = &path[..path.len().saturating_sub(1)];
                (MergeConflictKind::Both, Some(raw(&[above, &[theirs]].concat())))
            }
            ConflictKind::RemovedHere => (MergeConflictKind::RemovedHere, None),
            ConflictKind::RemovedThere => (MergeConflictKind::RemovedThere, None),
        };
        MergeConflict { path: raw(&path), kind, theirs }
    };
    Ok(MergeReport {
        snapshot: snapshot.map(|root| root.to_string()),
        conflicts: conflicts.into_iter().map(conflict).collect(),
    })
}

/// Has the owner make what was changed here.
pub(crate) async fn push(node: &Node, mounted: &Mounted) -> Result<PushReport, Problem> {
    let (edit, files) = node.view.edit(&mounted.id).map_err(failed)?;
    let changes = edit.steps.len() as u64;
    let report = |changes, asked, conflicts: Vec<String>| PushReport {
        changes,
        asked,
        conflicts: conflicts.into_iter().map(RawText::from).collect(),
    };
    if changes == 0 {
        return Ok(report(0, false, Vec::new()));
    }
    let away = || {
        Problem::unreachable(format!("{} isn't reachable", mounted.host))
            .with_remedy("what you changed stays here: push when its owner is up")
    };
    let (client, workspace) = owner(node, mounted).ok_or_else(away)?;
    let before = node.view.listing().mounted(&mounted.id).and_then(|mounted| mounted.root);
    let content = content(node.view.clone(), mounted.id, files);
    let outcome =
        client.edit(&workspace, &edit, content).await.map_err(|error| Problem::failed(error.to_string()))?;
    if outcome.asked || !outcome.conflicts.is_empty() {
        return Ok(report(0, outcome.asked, outcome.conflicts));
    }
    // It's the owner's now: what was kept here goes when the owner's snapshot with it is here.
    let mut news = node.neighbours.changes();
    let settled = async {
        while node.view.listing().mounted(&mounted.id).and_then(|mounted| mounted.root) == before {
            // The view takes it over a moment after it's heard of.
            let heard = tokio::time::timeout(Duration::from_millis(100), news.changed()).await;
            if matches!(heard, Ok(Err(_))) {
                return;
            }
        }
    };
    if tokio::time::timeout(SETTLING, settled).await.is_ok() {
        node.view.pull(&mounted.id).await.map_err(failed)?;
    }
    Ok(report(changes, false, Vec::new()))
}

/// The client of a workspace's owner, and the workspace's identity there.
fn owner(node: &Node, mounted: &Mounted) -> Option<(PeerClient, WorkspaceId)> {
    node.neighbours.list().into_iter().find_map(|(id, neighbour)| {
        let workspace = neighbour.workspaces.iter().find(|info| mounted_id(&id, &info.id) == mounted.id)?;
        Some((neighbour.client.clone()?, workspace.id))
    })
}

/// The bytes of files, one after the other.
fn content(
    view: Arc<View>,
    id: WorkspaceId,
    files: Vec<Pushed>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let start = (files.into_iter(), None::<(Pushed, u64)>);
    futures_util::stream::try_unfold(start, move |(mut files, mut at)| {
        let view = view.clone();
        async move {
            loop {
                match at.take() {
                    Some((file, offset)) if offset < file.size => {
                        let length = PIECE.min(u32::try_from(file.size - offset).unwrap_or(PIECE));
                        let piece = view.read_pushed(&id, &file, offset, length).await;
                        let piece = piece.map_err(std::io::Error::other)?;
                        if piece.is_empty() {
                            return Err(std::io::Error::other("a file became shorter while it was pushed"));
                        }
                        let next = offset + piece.len() as u64;
                        return Ok(Some((piece, (files, Some((file, next))))));
                    }
                    _ => match files.next() {
                        Some(file) => at = Some((file, 0)),
                        None => return Ok(None),
                    },
                }
            }
        }
    })
}
