use std::{fs, io, path::Path};

use serde::Serialize;
use twinshare::api::FilePath;

use super::{
    failure::Failure,
    output::{count, fields, json, size},
    session::Session,
};

/// What is known of a file, or of all files below a folder.
#[derive(Debug, Default, Serialize)]
struct State {
    /// Whether it's as its owner has it (`remote`), changed or new here, or this machine's own.
    state: String,
    /// The snapshot that is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<String>,
    /// The digest of what its owner has.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// How many files.
    files: u64,
    /// Their lengths together.
    bytes: u64,
    /// So many bytes of what the owner has of them are here.
    cached_bytes: u64,
    /// How many of the files were changed here.
    changed: u64,
    /// How many were made here.
    new: u64,
}

/// Tells what the mount tells of a file in its extended attributes.
pub(super) async fn state(session: &Session, path: &FilePath, as_json: bool) -> Result<String, Failure> {
    let file = session.in_mount(path).await?;
    let state = tokio::task::spawn_blocking(move || look(&file)).await.map_err(io::Error::other).flatten();
    let state = state.map_err(|error| Failure::new(format!("can't look at {path}: {error}")))?;
    if as_json {
        return json(&state);
    }
    let here = match state.bytes {
        0 => "all of it".to_owned(),
        bytes => {
            format!("{} ({}%)", size(state.cached_bytes), state.cached_bytes.saturating_mul(100) / bytes)
        }
    };
    let mut rows = vec![("state", state.state)];
    rows.extend(state.snapshot.map(|snapshot| ("snapshot", snapshot)));
    rows.extend(state.digest.map(|digest| ("digest", digest)));
    rows.push(("files", format!("{} ({})", count(state.files), size(state.bytes))));
    rows.push(("here", here));
    if state.changed + state.new > 0 {
        rows.push(("changed", format!("{}, and {} new", count(state.changed), count(state.new))));
    }
    Ok(fields(&rows))
}

fn look(path: &Path) -> io::Result<State> {
    let metadata = fs::symlink_metadata(path)?;
    let mut state = State {
        state: attribute(path, "state").unwrap_or_else(|| "own".to_owned()),
        snapshot: attribute(path, "snapshot"),
        digest: attribute(path, "digest"),
        ..State::default()
    };
    if metadata.is_dir() {
        let mut folders = vec![path.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    add(&mut state, &entry.path());
                }
            }
        }
    } else if metadata.is_file() {
        add(&mut state, path);
    }
    Ok(state)
}

/// Adds one file; one that vanishes meanwhile counts for nothing.
fn add(sum: &mut State, path: &Path) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    sum.files += 1;
    sum.bytes += metadata.len();
    sum.cached_bytes += attribute(path, "cached_bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    match attribute(path, "state").as_deref() {
        Some("changed") => sum.changed += 1,
        Some("new") => sum.new += 1,
        _ => {}
    }
}

/// What the mount says of a file under this name.
pub(super) fn attribute(path: &Path, name: &str) -> Option<String> {
    let mut value = [0; 128];
    let name = format!("user.twinshare.{name}");
    // Not through a link: what it points to is another file.
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    String::from_utf8(value.get(..length)?.to_vec()).ok()
}
