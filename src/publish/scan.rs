use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rayon::prelude::*;
use rustix::fs::{FileType, fstatfs, readlinkat};

use super::{
    cache::Known,
    item::{Item, ItemKind, Stat, State},
    model::{Folder, FolderId, Model, Scanned},
    place::{Root, Status, means_changed, names, open_file, status_at, status_of},
    rules::{IGNORE_FILE, Reason, Rules, Verdict, has_private_key},
    secrets::{has_secret, is_suspect},
    take::INCOMING,
    watch::Watch,
};
use crate::{tree::Owner, types::Name};

/// Folders deeper than this aren't shared: no program could name what is in them in one path, and walks are recursive.
const DEPTH_MAX: usize = 256;

/// Looks through folders: names, status and link targets, no content but that of ignore files and possible keys.
pub(super) struct Scanner<'a> {
    pub(super) root: &'a Root,
    /// This node's own folders within the workspace: never looked at, since a look at a mount asks its node.
    pub(super) own: &'a [Vec<Name>],
    /// The user who shares.
    pub(super) user: u32,
    pub(super) known: &'a Known,
    pub(super) watch: Option<&'a Watch>,
    /// The workspace as it was last seen.
    pub(super) model: &'a Model,
}

/// A folder to look through.
struct Place<'a> {
    path: &'a [Name],
    /// The rules of the folder above.
    rules: &'a Arc<Rules>,
    /// What the folder was.
    previous: Option<FolderId>,
    /// Whether folders in it are looked through even if they look the same from outside.
    deep: bool,
    /// The device of the folder.
    device: u64,
}

impl Scanner<'_> {
    /// Looks through the folder `id`, and those below it that are new or replaced; `deep` looks through all below it.
    pub(super) fn scan(&self, id: FolderId, deep: bool) -> io::Result<Scanned> {
        let path = self.model.path(id);
        let rules = self.model.parent(id).map_or_else(Rules::defaults, |parent| Arc::clone(&parent.rules));
        let folder = self.root.folder(&path)?;
        let device = status_of(&folder)?.inode.device;
        self.look(folder, &Place { path: &path, rules: &rules, previous: Some(id), deep, device })
    }

    fn look(&self, folder: OwnedFd, place: &Place<'_>) -> io::Result<Scanned> {
        let watch = self.watch.and_then(|watch| watch.add(folder.as_fd()));
        let stat = self.stat(&status_of(&folder)?);
        let mut names = names(&folder)?;
        names.sort_unstable();
        let previous = place.previous.and_then(|id| self.model.folder(id));
        let (rules, ignore_token) = self.rules(&folder, &names, place, previous)?;
        let same_rules = previous.is_some_and(|previous| Arc::ptr_eq(&previous.rules, &rules));
        let deep = place.deep || previous.is_some_and(|previous| previous.ignore_token != ignore_token);

        let mut path = place.path.to_vec();
        let prefix = match Name::join(&path) {
            text if text.is_empty() => text,
            mut text => {
                text.push(b'/');
                text
            }
        };
        let mut items = Vec::with_capacity(names.len());
        let mut left_out = Vec::new();
        // The place among the items, what the folder was, and its device.
        let mut folders: Vec<(usize, Option<FolderId>, u64)> = Vec::new();
        for name in names {
            path.push(name.clone());
            let own = self.own.contains(&path) || name.as_bytes().starts_with(INCOMING);
            path.pop();
            if own {
                left_out.push((name, Reason::Own));
                continue;
            }
            let status = match status_at(&folder, name.as_os_str()) {
                Ok(status) => status,
                // It's gone, or the disk fails: then there's no more to say of it than that.
                Err(_) => continue,
            };
            let text = [&prefix, name.as_bytes()].concat();
            if let Some(reason) = self.reason(&folder, &name, &text, &status, &rules, place) {
                left_out.push((name, reason));
                continue;
            }
            let before = previous.and_then(|folder| folder.item(&name));
            match self.item(&folder, name, &status, before) {
                Ok(item)
                    if !(same_rules && is_same(before, &item))
                        && is_secret(&folder, &item, &text, &rules) =>
                {
                    left_out.push((item.name, Reason::Secret))
                }
                Ok(item) => {
                    if let ItemKind::Folder(id) = item.kind {
                        let same = before.is_some_and(|before| before.stat.token == item.stat.token);
                        if id == FolderId::NEW || deep || !same {
                            folders.push((
                                items.len(),
                                (id != FolderId::NEW).then_some(id),
                                status.inode.device,
                            ));
                        }
                    }
                    items.push(item);
                }
                // A link that is gone.
                Err(_) => continue,
            }
        }
        drop(folder);

        let inside: Vec<(usize, Result<Scanned, Option<Reason>>)> = folders
            .into_par_iter()
            .map(|(position, previous, device)| {
                let mut path = place.path.to_vec();
                path.push(items[position].name.clone());
                let below = Place { path: &path, rules: &rules, previous, deep, device };
                (position, self.below(&below))
            })
            .collect();
        let mut looked = Vec::with_capacity(inside.len());
        let mut removed = Vec::new();
        for (position, result) in inside {
            match result {
                // Positions are ascending, and each folder removed before this one moves it forward by one.
                Ok(scanned) => looked.push((position - removed.len(), scanned)),
                Err(reason) => {
                    left_out.extend(reason.map(|reason| (items[position].name.clone(), reason)));
                    removed.push(position);
                }
            }
        }
        for position in removed.into_iter().rev() {
            items.remove(position);
        }
        Ok(Scanned { stat, items, inside: looked, left_out: left_out.into(), rules, ignore_token, watch })
    }

    /// Looks through a folder in another; the error says why it is left out, unless it's just gone.
    fn below(&self, place: &Place<'_>) -> Result<Scanned, Option<Reason>> {
        if place.path.len() >= DEPTH_MAX {
            return Err(Some(Reason::Deep));
        }
        let looked = self.root.folder(place.path).and_then(|folder| self.look(folder, place));
        looked.map_err(|error| (!means_changed(&error)).then_some(Reason::Unreadable))
    }

    /// The rules that hold in a folder, and the version token of its ignore file. They are the same object as before for as
    /// long as nothing about them has changed.
    fn rules(
        &self,
        folder: &OwnedFd,
        names: &[Name],
        place: &Place<'_>,
        previous: Option<&Folder>,
    ) -> io::Result<(Arc<Rules>, Option<u64>)> {
        if names.binary_search_by(|name| name.as_bytes().cmp(IGNORE_FILE.as_bytes())).is_err() {
            return Ok((Arc::clone(place.rules), None));
        }
        // A folder whose ignore file can't be read isn't shared: it may name secrets.
        let opened = open_file(folder, IGNORE_FILE.as_ref()).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => error,
            _ => io::Error::other(format!("its {IGNORE_FILE} isn't a file that can be read: {error}")),
        });
        let (file, status) = opened?;
        if let Some(previous) = previous
            && previous.ignore_token == Some(status.token())
            && previous.rules.are_below(place.rules)
        {
            return Ok((Arc::clone(&previous.rules), previous.ignore_token));
        }
        Ok((place.rules.with_file(place.path.len(), file)?, Some(status.token())))
    }

    /// Why a name isn't shared.
    fn reason(
        &self,
        folder: &OwnedFd,
        name: &Name,
        text: &[u8],
        status: &Status,
        rules: &Rules,
        place: &Place<'_>,
    ) -> Option<Reason> {
        let is_folder = match status.kind {
            FileType::Directory => true,
            FileType::RegularFile | FileType::Symlink => false,
            _ => return Some(Reason::Special),
        };
        match rules.verdict(text, is_folder) {
            Verdict::Share | Verdict::ShareAnyway | Verdict::ShareNamed => {}
            Verdict::LeaveOut(reason) => return Some(reason),
            Verdict::LookForKey if status.kind == FileType::Symlink => {}
            Verdict::LookForKey => {
                // What can't be read can't be shown to be harmless.
                let key = open_file(folder, name.as_os_str()).and_then(|(file, _)| has_private_key(file));
                if key.unwrap_or(true) {
                    return Some(Reason::Secret);
                }
            }
        }
        (is_folder && status.inode.device != place.device && is_foreign(folder, name))
            .then_some(Reason::Mounted)
    }

    fn item(&self, folder: &OwnedFd, name: Name, status: &Status, before: Option<&Item>) -> io::Result<Item> {
        let stat = self.stat(status);
        let kind = match status.kind {
            FileType::Directory => ItemKind::Folder(match before {
                Some(Item { kind: ItemKind::Folder(id), .. }) if self.model.folder(*id).is_some() => *id,
                _ => FolderId::NEW,
            }),
            FileType::Symlink => {
                ItemKind::Link(readlinkat(folder, name.as_os_str(), Vec::new())?.to_bytes().into())
            }
            _ => {
                let state = match before {
                    Some(Item { kind: ItemKind::File { state, .. }, stat: old, .. })
                        if old.token == stat.token =>
                    {
                        state.clone()
                    }
                    _ => self.known.content(status).map_or(State::Pending, State::from),
                };
                ItemKind::File { size: status.size, state }
            }
        };
        let linked = status.names > 1 && status.kind != FileType::Directory;
        Ok(Item { name, stat, inode: status.inode, linked, kind })
    }

    fn stat(&self, status: &Status) -> Stat {
        let owner = match status.user {
            user if user == self.user => Owner::Sharer,
            0 => Owner::Root,
            _ => Owner::Other,
        };
        Stat { mode: status.mode, owner, modified: status.modified, token: status.token() }
    }
}

/// Whether something is what it was when it was last looked at.
fn is_same(before: Option<&Item>, item: &Item) -> bool {
    before.is_some_and(|before| before.stat.token == item.stat.token)
}

/// Whether a file has a secret in it, by what it looks like.
fn is_secret(folder: &OwnedFd, item: &Item, text: &[u8], rules: &Rules) -> bool {
    let ItemKind::File { size, .. } = &item.kind else { return false };
    if !is_suspect(text, *size) || rules.verdict(text, false) == Verdict::ShareNamed {
        return false;
    }
    let look = |(file, _)| has_secret(text, file);
    // What has changed is looked at again, and what the user may not read isn't shared.
    let harmless =
        |error: io::Error| means_changed(&error) || error.kind() == io::ErrorKind::PermissionDenied;
    open_file(folder, item.name.as_os_str()).and_then(look).unwrap_or_else(|error| !harmless(error))
}

/// Whether a folder is the root of a file system that isn't part of a workspace: one of FUSE (which may be a node's
/// mount, or need the network), or one that the kernel makes up.
fn is_foreign(folder: &OwnedFd, name: &Name) -> bool {
    const FUSE: u64 = 0x6573_5546;
    let flags = rustix::fs::OFlags::RDONLY
        | rustix::fs::OFlags::DIRECTORY
        | rustix::fs::OFlags::NOFOLLOW
        | rustix::fs::OFlags::CLOEXEC;
    let kind =
        rustix::fs::openat(folder, name.as_os_str(), flags, rustix::fs::Mode::empty()).and_then(fstatfs);
    kind.map_or(true, |kind| kind.f_type as u64 == FUSE || is_kernels(&kind))
}

/// Whether the kernel makes up a file system: processes, devices and settings, not files.
pub(super) fn is_kernels(kind: &rustix::fs::StatFs) -> bool {
    const PROC: u64 = 0x9fa0;
    const SYS: u64 = 0x6265_6572;
    const TERMINALS: u64 = 0x1cd1;
    matches!(kind.f_type as u64, PROC | SYS | TERMINALS)
}
