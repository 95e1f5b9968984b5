//! What the user asks about changes: what they are, taking them back, merging them.

use std::fmt::Write;

use similar::TextDiff;
use twinshare::{
    api::{
        FilePath, LayerChange, LayerChangeKind, MergeConflict, MergeConflictKind, MergeReport, Problem,
        RawText,
    },
    types::{Name, WorkspaceId},
    view::{Conflict, ConflictKind, Difference, DifferenceKind, View, ViewError},
};

/// Larger files are only said to differ, in bytes.
const TEXT_MAX: u32 = 1 << 20;

/// The path as people write it.
fn raw(path: &[Name]) -> RawText {
    use std::os::unix::ffi::OsStringExt;
    let bytes = path.iter().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/');
    RawText::from(std::ffi::OsString::from_vec(bytes))
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
