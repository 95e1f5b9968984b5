//! Takes an edit that a guest has made into the owner's folder.
//!
//! What comes is put into a folder of its own in the workspace, which isn't shared, so that every step is a rename. Nothing is
//! touched before all has come and what the guest's changes were made over is seen to be there still.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ffi::OsString,
    fs::{File, FileTimes, Permissions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    sync::Arc,
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};

use super::{
    Share,
    item::{Item, ItemKind},
    model::{FolderId, Model},
    place::{Status, names, open_file, open_folder, status_at},
    rules::IGNORE_FILE,
};
use crate::{
    tree::{Base, Edit, Entry, Kind, NewFile, Page, Step, decode},
    types::{Digest, Name},
    workspace::{MANIFEST_FILE, MANIFEST_MAX, Manifest},
};

/// What the names of folders in which edits arrive begin with.
pub(super) const INCOMING: &[u8] = b".twinshare-incoming-";

/// An edit of more steps is refused.
const MOST_STEPS: usize = 1_000_000;

/// Why an edit isn't made.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The owner has something else at these paths by now. Nothing was changed.
    #[error("the owner has changed {}", .0.join(", "))]
    Conflict(Vec<String>),
    /// The edit reaches for what the owner doesn't share. Nothing was changed.
    #[error("the owner has something there that isn't shared: {}", .0.join(", "))]
    NotShared(Vec<String>),
    /// The edit makes no sense. Nothing was changed.
    #[error("{0}")]
    Invalid(&'static str),
    /// The disk failed.
    #[error("the owner's disk: {0}")]
    Io(#[from] io::Error),
}

impl From<rustix::io::Errno> for EditError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

type Result<T> = std::result::Result<T, EditError>;

/// An edit that is arriving. Dropping it before [`Incoming::finish`] leaves the workspace as it was.
pub struct Incoming {
    share: Arc<Share>,
    edit: Edit,
    /// Sizes of the files that come, in order.
    sizes: Vec<u64>,
    staging: OwnedFd,
    name: OsString,
    current: usize,
    written: u64,
    open: Option<File>,
}

impl Share {
    /// Begins to take an edit; its files' bytes follow.
    pub fn take(self: &Arc<Self>, edit: Edit) -> Result<Incoming> {
        if edit.steps.len() > MOST_STEPS || edit.bases.len() > MOST_STEPS {
            return Err(EditError::Invalid("the edit has too many steps"));
        }
        let is_root = |step: &Step| step.paths().any(<[Name]>::is_empty);
        if edit.steps.iter().any(is_root) || edit.bases.iter().any(|base| base.path.is_empty()) {
            return Err(EditError::Invalid("the workspace's own folder can't be edited"));
        }
        let folder = self.root.folder(&[])?;
        let name = format!("{}{:016x}", String::from_utf8_lossy(INCOMING), rand::random::<u64>());
        rustix::fs::mkdirat(&folder, name.as_str(), Mode::RWXU)?;
        let staging = open_folder(&folder, name.as_ref(), OFlags::RDONLY | OFlags::NOFOLLOW)?;
        let sizes = edit.files().map(|file| file.size).collect();
        let share = Arc::clone(self);
        Ok(Incoming { share, edit, sizes, staging, name: name.into(), current: 0, written: 0, open: None })
    }

    /// What is published at a path.
    fn published(&self, path: &[Name]) -> Option<Entry> {
        let mut folder = self.head().root;
        let (last, above) = path.split_last()?;
        for name in above {
            match self.published_in(&folder, name)?.kind {
                Kind::Folder { tree, .. } => folder = tree,
                _ => return None,
            }
        }
        self.published_in(&folder, last)
    }

    fn published_in(&self, folder: &Digest, name: &Name) -> Option<Entry> {
        self.entries(folder).into_iter().find(|entry| entry.name == *name)
    }

    fn entries(&self, folder: &Digest) -> Vec<Entry> {
        let page = |digest: &Digest| decode(&self.tree(digest)?).ok();
        match page(folder) {
            Some(Page::Leaf(entries)) => entries,
            Some(Page::Index(pages)) => {
                let leaves = pages.iter().filter_map(|leaf| match page(&leaf.digest)? {
                    Page::Leaf(entries) => Some(entries),
                    Page::Index(_) => None,
                });
                leaves.flatten().collect()
            }
            None => Vec::new(),
        }
    }
}

impl Step {
    pub(super) fn paths(&self) -> impl Iterator<Item = &[Name]> {
        let (first, second) = match self {
            Self::Move(from, to) => (from, Some(to)),
            Self::Remove(path)
            | Self::Folder(path, _)
            | Self::File(path, _)
            | Self::Link(path, _)
            | Self::Mode(path, _) => (path, None),
        };
        [Some(first), second].into_iter().flatten().map(|path| &path[..])
    }
}

impl Incoming {
    /// Takes the next bytes of the files.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let Some(size) = self.next_size()? else {
                return Err(EditError::Invalid("more bytes came than were announced"));
            };
            let length = bytes.len().min(usize::try_from(size - self.written).unwrap_or(usize::MAX));
            let (piece, rest) = bytes.split_at(length);
            self.file()?.write_all(piece)?;
            self.written += length as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// The size of the file that the next byte belongs to; those that are complete are closed.
    fn next_size(&mut self) -> Result<Option<u64>> {
        while let Some(size) = self.sizes.get(self.current).copied() {
            if self.written < size {
                return Ok(Some(size));
            }
            self.file()?.sync_data()?;
            (self.open, self.written) = (None, 0);
            self.current += 1;
        }
        Ok(None)
    }

    fn file(&mut self) -> Result<&mut File> {
        if self.open.is_none() {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file =
                rustix::fs::openat(&self.staging, staged('f', self.current), flags, Mode::RUSR | Mode::WUSR)?;
            self.open = Some(file.into());
        }
        self.open.as_mut().ok_or(EditError::Invalid("no file is open"))
    }

    /// Makes the edit, if all has come and the owner hasn't changed what it is made over.
    pub fn finish(mut self) -> Result<()> {
        if self.next_size()?.is_some() {
            return Err(EditError::Invalid("the edit ended early"));
        }
        let conflicts: Vec<String> =
            self.edit.bases.iter().filter(|base| !self.holds(base)).map(|base| shown(&base.path)).collect();
        if !conflicts.is_empty() {
            return Err(EditError::Conflict(conflicts));
        }
        let edit = std::mem::take(&mut self.edit);
        self.check(&edit)?;
        let made = self.make(&edit);
        if made.is_err() {
            self.put_back(&edit);
        }
        made
    }

    /// Refuses an edit that reaches for what isn't shared, or that would change what is shared: both are the owner's alone.
    fn check(&self, edit: &Edit) -> Result<()> {
        let model = self.share.model();
        let (mut private, mut changed) = (BTreeSet::new(), BTreeSet::new());
        // Whether there's something at a path: most steps have the folders above in common.
        let mut there = HashMap::new();
        for path in edit.steps.iter().flat_map(Step::paths) {
            if path.iter().any(|name| name.as_bytes().starts_with(INCOMING)) {
                return Err(EditError::Invalid("names of arriving edits can't be edited"));
            }
            if path.iter().any(|name| name.as_bytes() == IGNORE_FILE.as_bytes()) {
                return Err(EditError::Invalid(
                    ".twinshareignore says what is shared, so only the owner can change it",
                ));
            }
            // What is there and no part of the workspace, or lies below such.
            let ends = (1..=path.len()).map(|end| &path[..end]);
            private.extend(
                ends.take_while(|path| *there.entry(*path).or_insert_with(|| self.status(path).is_some()))
                    .find(|path| shared(&model, path).is_none()),
            );
        }
        for step in &edit.steps {
            let (Step::Move(path, _) | Step::Remove(path)) = step else { continue };
            let Some(item) = shared(&model, path) else {
                changed.insert(&path[..]);
                continue;
            };
            let (is_moved, below) = (matches!(step, Step::Move(..)), item.folder());
            if below.is_none() && !self.is_still(path, item) {
                changed.insert(path);
            }
            // Elsewhere, other rules may hold for it.
            if let Some(below) = below.filter(|_| is_moved)
                && !all_shared(&model, &self.share.root.folder(path)?, below)?
            {
                private.insert(path);
            }
        }
        if !private.is_empty() {
            return Err(EditError::NotShared(private.into_iter().map(shown).collect()));
        }
        if !changed.is_empty() {
            return Err(EditError::Conflict(changed.into_iter().map(shown).collect()));
        }
        drop(model);
        self.check_manifest(edit)
    }

    /// Refuses to take the workspace's identity away, by which the owner's decisions about others are kept.
    fn check_manifest(&self, edit: &Edit) -> Result<()> {
        const KEPT: EditError = EditError::Invalid("workspace.yaml must stay, and keep its id");
        let is_manifest =
            |path: &[Name]| matches!(path, [name] if name.as_bytes() == MANIFEST_FILE.as_bytes());
        let places = edit.places();
        for (index, step) in edit.steps.iter().enumerate().filter(|(_, step)| step.paths().any(is_manifest)) {
            match step {
                Step::File(..) => {
                    let (file, _) = open_file(&self.staging, staged('f', places[index]).as_ref())?;
                    let mut text = Vec::new();
                    file.take(MANIFEST_MAX).read_to_end(&mut text)?;
                    let manifest = Manifest::parse(&text).map_err(|_| KEPT)?;
                    if manifest.is_none_or(|manifest| manifest.id != self.share.id()) {
                        return Err(KEPT);
                    }
                }
                Step::Mode(..) => {}
                _ => return Err(KEPT),
            }
        }
        Ok(())
    }

    fn status(&self, path: &[Name]) -> Option<Status> {
        self.at(path, |folder, name| Ok(status_at(folder, name)?)).ok()
    }

    /// Whether what is published of a file or link is there still.
    fn is_still(&self, path: &[Name], item: &Item) -> bool {
        self.status(path).is_some_and(|status| status.token() == item.stat.token)
    }

    fn make(&self, edit: &Edit) -> Result<()> {
        // First everything out of the way, so that two can change places.
        for (index, step) in edit.steps.iter().enumerate() {
            if let Step::Move(from, _) = step {
                self.at(from, |folder, name| {
                    Ok(rustix::fs::renameat(folder, name, &self.staging, staged('m', index))?)
                })?;
            }
        }
        for step in edit.steps.iter().rev() {
            if let Step::Remove(path) = step {
                let entry = self.share.published(path);
                self.at(path, |folder, name| self.remove(folder, name, entry.as_ref()))?;
            }
        }
        // Folders come before what is in them.
        let mut steps: Vec<(usize, &Step)> = edit.steps.iter().enumerate().collect();
        steps.sort_by(|(_, a), (_, b)| a.paths().last().cmp(&b.paths().last()));
        let places = edit.places();
        // What may be replaced: what the guest says it saw, and what this edit has put there.
        let seen = edit.bases.iter().filter(|base| base.entry.is_some()).map(|base| &base.path);
        let moved = edit.steps.iter().filter_map(|step| match step {
            Step::Move(_, to) => Some(to),
            _ => None,
        });
        let replaced: HashSet<_> = seen.chain(moved).collect();
        let over = |path| match replaced.contains(path) {
            true => RenameFlags::empty(),
            false => RenameFlags::NOREPLACE,
        };
        for (index, step) in steps {
            match step {
                Step::Move(_, to) => self.place(to, &staged('m', index), RenameFlags::NOREPLACE)?,
                Step::Remove(_) => {}
                Step::Folder(path, mode) => self.at(path, |folder, name| {
                    match rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(u32::from(*mode) & 0o777)) {
                        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
                        Err(error) => Err(error.into()),
                    }
                })?,
                Step::File(path, file) => {
                    let staged = staged('f', places[index]);
                    self.dress(&staged, file)?;
                    self.place(path, &staged, over(path))?;
                }
                Step::Link(path, target) => {
                    let staged = staged('l', index);
                    rustix::fs::symlinkat(&target[..], &self.staging, &staged)?;
                    self.place(path, &staged, over(path))?;
                }
                Step::Mode(path, mode) => self.at(path, |folder, name| {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                    let open = rustix::fs::openat(folder, name, flags, Mode::empty())?;
                    Ok(rustix::fs::fchmod(open, Mode::from_raw_mode(u32::from(*mode) & 0o777))?)
                })?,
            }
        }
        Ok(())
    }

    /// Puts back what an edit that failed had moved out of the way and not placed yet.
    fn put_back(&self, edit: &Edit) {
        for (index, step) in edit.steps.iter().enumerate().rev() {
            let Step::Move(from, _) = step else { continue };
            match self.place(from, &staged('m', index), RenameFlags::NOREPLACE) {
                Err(EditError::Io(error)) if error.kind() != io::ErrorKind::NotFound => {
                    let (folder, path) = (self.name.display(), shown(from));
                    tracing::warn!(%error, %folder, %path, "can't be put back, so it stays in that folder");
                }
                _ => {}
            }
        }
    }

    /// Whether what an edit was made over is there still.
    fn holds(&self, base: &Base) -> bool {
        let status = self.at(&base.path, |folder, name| Ok(status_at(folder, name)?));
        match (&base.entry, status) {
            (None, Err(EditError::Io(error))) => error.kind() == io::ErrorKind::NotFound,
            (None, _) => false,
            (Some(entry), Ok(status)) => match &entry.kind {
                Kind::File { .. } => {
                    status.kind == FileType::RegularFile && status.token() == entry.attributes.token
                }
                Kind::Link(_) => status.kind == FileType::Symlink && status.token() == entry.attributes.token,
                Kind::Folder { tree, .. } => {
                    let known = self.share.published(&base.path).map(|published| published.kind);
                    status.kind == FileType::Directory
                        && matches!(known, Some(Kind::Folder { tree: now, .. }) if now == *tree)
                }
            },
            (Some(_), Err(_)) => false,
        }
    }

    /// Does something at a path, whose folders are walked without following a link.
    fn at<T>(&self, path: &[Name], act: impl FnOnce(&OwnedFd, &std::ffi::OsStr) -> Result<T>) -> Result<T> {
        let (name, above) = path.split_last().ok_or(EditError::Invalid("an empty path"))?;
        act(&self.share.root.walk(above)?, name.as_os_str())
    }

    fn place(&self, path: &[Name], staged: &str, flags: RenameFlags) -> Result<()> {
        self.at(path, |folder, name| {
            Ok(rustix::fs::renameat_with(&self.staging, staged, folder, name, flags)?)
        })
    }

    /// Gives a file its permissions and time.
    fn dress(&self, staged: &str, file: &NewFile) -> Result<()> {
        let (open, _) = open_file(&self.staging, staged.as_ref())?;
        open.set_permissions(Permissions::from_mode(u32::from(file.mode) & 0o777))?;
        Ok(open.set_times(FileTimes::new().set_modified(file.modified.into()))?)
    }

    /// Removes what is shared at a name. What isn't shared stays, and with it the folder that it's in and the ignore file
    /// that keeps it from being shared.
    fn remove(&self, folder: impl AsFd, name: &std::ffi::OsStr, entry: Option<&Entry>) -> Result<()> {
        let Some(Entry { kind: Kind::Folder { tree, .. }, .. }) = entry else {
            return Ok(rustix::fs::unlinkat(folder, name, AtFlags::empty())?);
        };
        let below = open_folder(&folder, name, OFlags::RDONLY | OFlags::NOFOLLOW)?;
        let (rules, entries): (Vec<_>, Vec<_>) = self
            .share
            .entries(tree)
            .into_iter()
            .partition(|entry| entry.name.as_bytes() == IGNORE_FILE.as_bytes());
        for entry in entries {
            match self.remove(&below, entry.name.as_os_str(), Some(&entry)) {
                Err(EditError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                outcome => outcome?,
            }
        }
        if let Some(rules) = rules.first()
            && names(&below)?.iter().all(|name| *name == rules.name)
        {
            rustix::fs::unlinkat(&below, rules.name.as_os_str(), AtFlags::empty())?;
        }
        match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOTEMPTY) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // What a failed edit had moved out of the way mustn't go: then the folder stays, for the owner to look at.
        for index in 0..self.sizes.len() {
            let _ = rustix::fs::unlinkat(&self.staging, staged('f', index), AtFlags::empty());
        }
        if let Ok(root) = self.share.root.folder(&[])
            && let Err(error) = rustix::fs::unlinkat(root, self.name.as_os_str(), AtFlags::REMOVEDIR)
        {
            tracing::warn!(%error, folder = %self.name.display(), "what is left of an edit can't be removed");
        }
    }
}

/// What is published at a path.
fn shared<'a>(model: &'a Model, path: &[Name]) -> Option<&'a Item> {
    let (_, item) = model.find(path)?;
    let is_shared = match &item.kind {
        ItemKind::File { state, .. } => state.is_shared(),
        ItemKind::Folder(_) | ItemKind::Link(_) => true,
    };
    is_shared.then_some(item)
}

/// Whether all that is in a folder is published, at any depth.
fn all_shared(model: &Model, folder: &OwnedFd, id: FolderId) -> Result<bool> {
    for name in names(folder)? {
        let Some(item) = model.folder(id).and_then(|folder| folder.item(&name)) else { return Ok(false) };
        match &item.kind {
            ItemKind::File { state, .. } if !state.is_shared() => return Ok(false),
            ItemKind::Folder(id) => {
                let below = open_folder(folder, name.as_os_str(), OFlags::RDONLY | OFlags::NOFOLLOW)?;
                if !all_shared(model, &below, *id)? {
                    return Ok(false);
                }
            }
            ItemKind::File { .. } | ItemKind::Link(_) => {}
        }
    }
    Ok(true)
}

/// The name of a part of an edit while it's on its way.
fn staged(kind: char, index: usize) -> String {
    format!("{kind}{index}")
}

pub(super) fn shown(path: &[Name]) -> String {
    String::from_utf8_lossy(&Name::join(path)).into_owned()
}
