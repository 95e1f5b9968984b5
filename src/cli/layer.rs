use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use tar::{Builder, EntryType, Header};
use twinshare::api::{FilePath, LayerChange, LayerChangeKind};

use super::{
    failure::Failure,
    output::{count, plain, size},
    session::Session,
    state::attribute,
};

/// What a whiteout's name begins with …
const WHITEOUT: &str = ".wh.";

/// … and the name that hides all that the layers below have in a folder (OCI image specification, "Image Layer Filesystem
/// Changeset").
const OPAQUE: &str = ".wh..wh..opq";

/// Writes what was changed in a workspace as a layer of a container image.
///
/// The files are read from the mount, so that what a moved folder holds is fetched as need be.
pub(super) async fn export(session: &Session, place: &FilePath, file: &Path) -> Result<String, Failure> {
    let cannot = |failure: Failure| failure.while_doing(format!("export the changes of {place}"));
    if !place.path.is_empty() {
        return Err(cannot(Failure::new("a layer is of a whole workspace")));
    }
    let client = session.client()?;
    let changes = client.changes(place).await.map_err(|error| cannot(error.into()))?;
    let root = session.in_mount(place).await?;
    let target = file.to_path_buf();
    let written = tokio::task::spawn_blocking(move || {
        let archive = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target)?;
        let written = Export::new(root, archive).write(&changes);
        if written.is_err() {
            // Half of a layer is of no use; why there's none is said below.
            let _ = fs::remove_file(&target);
        }
        written
    });
    let entries = written.await.map_err(io::Error::other).flatten();
    let named = plain(&file.to_string_lossy());
    let entries = entries.map_err(|error| cannot(Failure::new(format!("{named}: {error}"))))?;
    let length = fs::metadata(file).map_or(0, |metadata| metadata.len());
    Ok(format!("{named}: {} entries, {}\n", count(entries), size(length)))
}

struct Export {
    root: PathBuf,
    archive: Builder<File>,
    /// What is in the archive already.
    written: BTreeSet<PathBuf>,
}

impl Export {
    fn new(root: PathBuf, file: File) -> Self {
        let mut archive = Builder::new(file);
        archive.follow_symlinks(false);
        Self { root, archive, written: BTreeSet::new() }
    }

    /// Gives the number of entries.
    fn write(mut self, changes: &[LayerChange]) -> io::Result<u64> {
        let now: BTreeSet<&Path> = changes
            .iter()
            .filter(|change| change.kind != LayerChangeKind::Removed)
            .map(|change| change.path.as_path())
            .collect();
        for change in changes {
            let path = change.path.as_path();
            match (change.kind, &change.from) {
                (LayerChangeKind::Removed, _) => self.whiteout(path)?,
                (LayerChangeKind::Moved, from) => {
                    // Nothing need hide what something new covers.
                    if let Some(from) =
                        from.as_ref().map(|from| from.as_path()).filter(|from| !now.contains(from))
                    {
                        self.whiteout(from)?;
                    }
                    self.all_below(path)?;
                }
                _ => {
                    self.entry(path)?;
                    // It took the place of a folder of the owner's.
                    let path = self.root.join(path);
                    if change.folder
                        && change.kind == LayerChangeKind::Changed
                        && attribute(&path, "state").as_deref() == Some("new")
                    {
                        self.opaque(change.path.as_path())?;
                    }
                }
            }
        }
        let entries = self.written.len() as u64;
        let mut file = self.archive.into_inner()?;
        file.flush()?;
        file.sync_all()?;
        Ok(entries)
    }

    fn entry(&mut self, path: &Path) -> io::Result<()> {
        if self.written.insert(path.to_path_buf()) {
            self.archive.append_path_with_name(self.root.join(path), path)?;
        }
        Ok(())
    }

    fn all_below(&mut self, path: &Path) -> io::Result<()> {
        let mut paths = vec![path.to_path_buf()];
        while let Some(path) = paths.pop() {
            self.entry(&path)?;
            let place = self.root.join(&path);
            if fs::symlink_metadata(&place)?.is_dir() {
                self.opaque(&path)?;
                for entry in fs::read_dir(place)? {
                    paths.push(path.join(entry?.file_name()));
                }
            }
        }
        Ok(())
    }

    fn opaque(&mut self, folder: &Path) -> io::Result<()> {
        self.mark(folder.join(OPAQUE))
    }

    fn whiteout(&mut self, path: &Path) -> io::Result<()> {
        let mut name = std::ffi::OsString::from(WHITEOUT);
        name.push(path.file_name().unwrap_or_default());
        self.mark(path.with_file_name(name))
    }

    /// An empty file that says something by its name.
    fn mark(&mut self, path: PathBuf) -> io::Result<()> {
        if self.written.insert(path.clone()) {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Regular);
            header.set_mode(0o600);
            header.set_size(0);
            self.archive.append_data(&mut header, path, io::empty())?;
        }
        Ok(())
    }
}
