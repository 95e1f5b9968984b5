//! The content of earlier snapshots, where the owner wants it kept: copies of files as they were when they were published.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{
    item::{Item, ItemKind},
    model::FolderId,
    place::status_of,
    share::Share,
};
use crate::{
    blob::Blob,
    tree::Extent,
    types::{Digest, Name, WorkspaceId},
};

/// So many bytes of the disk are left free.
const FREE: u64 = 1 << 30;

/// What a copy is called while it is made.
const UNFINISHED: &str = "unfinished";

/// The copies, one file a blob, below a folder for each workspace.
#[derive(Debug)]
pub(super) struct Kept(PathBuf);

/// What came of one look through a workspace for content to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keeping {
    /// How many blobs were copied.
    pub copied: u64,
    /// How many files have changed since they were published, so that what they were is lost.
    pub missed: u64,
}

impl Kept {
    pub(super) fn new(state: &Path) -> Self {
        Self(state.join("kept"))
    }

    fn folder(&self, workspace: &WorkspaceId) -> PathBuf {
        self.0.join(workspace.to_string())
    }

    fn path(&self, workspace: &WorkspaceId, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.folder(workspace).join(&name[..2]).join(name)
    }

    /// Opens a blob's copy. Its content isn't checked.
    pub(super) fn open(&self, workspace: &WorkspaceId, digest: &Digest) -> Option<(Blob, File, PathBuf)> {
        let path = self.path(workspace, digest);
        let file = File::open(&path).ok()?;
        let size = file.metadata().ok()?.len();
        Some((Blob { digest: *digest, size }, file, path))
    }

    fn digests(&self, workspace: &WorkspaceId) -> HashSet<Digest> {
        let folders = fs::read_dir(self.folder(workspace)).into_iter().flatten().flatten();
        let files = folders.filter_map(|folder| fs::read_dir(folder.path()).ok()).flatten().flatten();
        files.filter_map(|file| file.file_name().to_str()?.parse().ok()).collect()
    }

    fn remove(&self, workspace: &WorkspaceId, digest: &Digest) {
        // What can't be removed takes room and does no harm.
        let _ = fs::remove_file(self.path(workspace, digest));
    }
}

/// A file whose content is to be kept.
struct Candidate {
    path: Vec<Name>,
    token: u64,
    extents: Box<[Extent]>,
    digest: Digest,
}

impl Share {
    /// Copies what the newest head has and no copy holds yet. Where the file system shares extents between files (XFS, Btrfs)
    /// the copies take no room of their own.
    ///
    /// Blocks for as long as that takes. The copies are on the disk after this.
    pub fn keep_content(&self) -> io::Result<Keeping> {
        let kept = &self.engine.kept;
        let held = kept.digests(&self.id);
        let (mut keeping, mut seen) = (Keeping::default(), HashSet::new());
        for candidate in self.candidates(&held) {
            if !seen.insert(candidate.digest) {
                continue;
            }
            if self.copy(&candidate)? { keeping.copied += 1 } else { keeping.missed += 1 }
        }
        if keeping.copied > 0 {
            rustix::fs::syncfs(File::open(kept.folder(&self.id))?)?;
        }
        Ok(keeping)
    }

    fn candidates(&self, held: &HashSet<Digest>) -> Vec<Candidate> {
        let model = self.model();
        let of_item = |(folder, item): (FolderId, &Item)| {
            let ItemKind::File { size, state } = &item.kind else { return None };
            let digest = state.digest().filter(|digest| !held.contains(digest))?;
            let mut path = model.path(folder);
            path.push(item.name.clone());
            let whole = [Extent { offset: 0, length: *size }];
            let extents = state.extents().unwrap_or(&whole).into();
            Some(Candidate { path, token: item.stat.token, extents, digest })
        };
        let items =
            model.folders.iter().flat_map(|(&id, folder)| folder.items.iter().map(move |item| (id, item)));
        items.filter_map(of_item).collect()
    }

    /// Copies one file's data; not if it has changed.
    fn copy(&self, candidate: &Candidate) -> io::Result<bool> {
        let Ok((mut file, status)) = self.root.file(&candidate.path) else { return Ok(false) };
        if status.token() != candidate.token {
            return Ok(false);
        }
        let path = self.engine.kept.path(&self.id, &candidate.digest);
        let folder = path.parent().unwrap_or(&path);
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let length: u64 = candidate.extents.iter().map(|extent| extent.length).sum();
        let disk = rustix::fs::statvfs(folder)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < length.saturating_add(FREE) {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                "the disk has too little room for copies",
            ));
        }
        let unfinished = self.engine.kept.folder(&self.id).join(UNFINISHED);
        let mut copy =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        let mut copied = 0;
        for extent in &candidate.extents {
            file.seek(SeekFrom::Start(extent.offset))?;
            // The kernel does this, and shares extents where it can.
            copied += io::copy(&mut (&mut file).take(extent.length), &mut copy)?;
        }
        if copied != length || status_of(&file)?.token() != candidate.token {
            fs::remove_file(&unfinished)?;
            return Ok(false);
        }
        fs::rename(unfinished, path)?;
        Ok(true)
    }

    /// Removes all copies but those of `used`.
    pub fn drop_content(&self, used: &HashSet<Digest>) {
        let Self { engine, id, .. } = self;
        for digest in engine.kept.digests(id).difference(used) {
            engine.kept.remove(id, digest);
            if !self.model().has_content(*digest) {
                engine.cache.drop_outboard(digest);
            }
        }
    }
}
