use twinshare::api::{
    FilePath, LayerChange, LayerChangeKind, MergeConflict, MergeConflictKind, SnapshotInfo,
};

use super::{
    failure::Failure,
    list::moment,
    output::{Side, count, json, plain, size, table},
    session::Session,
};

pub(super) async fn diff(
    session: &Session,
    path: &FilePath,
    text: bool,
    as_json: bool,
) -> Result<String, Failure> {
    let client = session.client()?;
    let failed = |error| Failure::from(error).while_doing(format!("compare {path}"));
    if text {
        return client.change_text(path).await.map_err(failed);
    }
    let changes = client.changes(path).await.map_err(failed)?;
    if as_json { json(&changes) } else { Ok(changes.iter().map(line).collect()) }
}

/// A change as a line: a letter, as version control systems have it, and the path.
fn line(change: &LayerChange) -> String {
    let letter = match change.kind {
        LayerChangeKind::Made => 'A',
        LayerChangeKind::Changed => 'M',
        LayerChangeKind::Removed => 'D',
        LayerChangeKind::Moved => 'R',
        LayerChangeKind::Theirs => 'U',
    };
    let path = plain(&change.path.to_string()) + if change.folder { "/" } else { "" };
    let from = |from: &twinshare::api::RawText| plain(&from.to_string());
    match (&change.from, change.kind) {
        (Some(of), LayerChangeKind::Theirs) => {
            format!("{letter} {path} (the owner's version of {})\n", from(of))
        }
        (Some(old), _) if change.changed => format!("{letter} {path} (from {}, and changed)\n", from(old)),
        (Some(old), _) => format!("{letter} {path} (from {})\n", from(old)),
        (None, _) => format!("{letter} {path}\n"),
    }
}

pub(super) async fn discard(session: &Session, path: &FilePath, as_json: bool) -> Result<String, Failure> {
    let discarded = session
        .client()?
        .discard(path)
        .await
        .map_err(|error| Failure::from(error).while_doing(format!("discard changes of {path}")))?;
    if as_json {
        return json(&discarded);
    }
    let lines: String = discarded.iter().map(|path| format!("  {}\n", plain(&path.to_string()))).collect();
    Ok(format!("discarded:\n{lines}"))
}

pub(super) async fn history(session: &Session, path: &FilePath, as_json: bool) -> Result<String, Failure> {
    let snapshots = session
        .client()?
        .history(path)
        .await
        .map_err(|error| Failure::from(error).while_doing(format!("list the snapshots of {path}")))?;
    if as_json {
        return json(&snapshots);
    }
    let zone = jiff::tz::TimeZone::system();
    let row = |info: &SnapshotInfo| {
        let name = format!("{}@{}", path.workspace, info.snapshot.short());
        [name, moment(info.created, &zone), count(info.files), size(info.bytes)]
    };
    let columns =
        [("FOLDER", Side::Left), ("MADE", Side::Left), ("FILES", Side::Right), ("SIZE", Side::Right)];
    Ok(table(columns, &snapshots.iter().map(row).collect::<Vec<_>>()))
}

pub(super) async fn push(session: &Session, path: &FilePath, as_json: bool) -> Result<String, Failure> {
    let report = session
        .client()?
        .push(path)
        .await
        .map_err(|error| Failure::from(error).while_doing(format!("push {path}")))?;
    if report.asked {
        return Err(Failure::new(format!("the owner of {path} must let you change it, and has been asked"))
            .with_remedy(
                "once they have allowed it ('twinshare requests allow WORKSPACE HOST --write'), push again",
            ));
    }
    if !report.conflicts.is_empty() {
        let paths: Vec<_> = report.conflicts.iter().map(|path| plain(&path.to_string())).collect();
        return Err(Failure::new(format!("nothing was pushed: the owner has changed {}", paths.join(", ")))
            .with_remedy(format!("'twinshare pull {path}' merges that; then push again")));
    }
    if as_json {
        return json(&report);
    }
    Ok(match report.changes {
        0 => "nothing to push\n".to_owned(),
        1 => "1 change pushed\n".to_owned(),
        count => format!("{count} changes pushed\n"),
    })
}

pub(super) async fn pull(session: &Session, path: &FilePath, as_json: bool) -> Result<String, Failure> {
    let report = session
        .client()?
        .pull(path)
        .await
        .map_err(|error| Failure::from(error).while_doing(format!("merge {path}")))?;
    if as_json {
        return json(&report);
    }
    if report.conflicts.is_empty() {
        return Ok("up to date: no conflicts\n".to_owned());
    }
    let lines: String = report.conflicts.iter().map(conflict).collect();
    let count = report.conflicts.len();
    Ok(format!("{count} {}:\n{lines}", if count == 1 { "conflict" } else { "conflicts" }))
}

fn conflict(conflict: &MergeConflict) -> String {
    let path = plain(&conflict.path.to_string());
    match (conflict.kind, &conflict.theirs) {
        (MergeConflictKind::RemovedHere, _) => {
            format!("  {path}: removed here, changed by the owner: the owner's is back\n")
        }
        (MergeConflictKind::RemovedThere, _) => {
            format!("  {path}: changed here, removed by the owner: yours is kept\n")
        }
        (MergeConflictKind::Both, theirs) => {
            let theirs = theirs.as_ref().map(|theirs| plain(&theirs.to_string())).unwrap_or_default();
            format!("  {path}: changed by both: yours is kept, the owner's is {theirs}\n")
        }
    }
}
