//! What a workspace's layer and its owner's snapshot look like together.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{
    Cookie, Ino, Reading, Result, View, ViewError,
    folder::Folder,
    node::{Layered, Node, NodeKind, Remote},
};
use crate::{
    layer::{Change, Origin, Slot},
    tree::Kind,
    types::{Name, WorkspaceId},
};

/// So many children are put together at a time.
const TOGETHER: usize = 256;

/// The owner's folder that shows through a folder of the layer.
pub(super) type Lower = Option<(Remote, Arc<Folder>)>;

/// What a name stands for.
pub(super) struct At {
    /// What shows; none if there's no such name.
    pub(super) shown: Option<NodeKind>,
    /// What the owner has there, whether or not it shows.
    pub(super) lower: Option<Remote>,
}

/// What the owner has under a name.
fn find(lower: Option<&(Remote, Arc<Folder>)>, name: &Name) -> Option<Remote> {
    let (remote, folder) = lower?;
    folder.find(name.as_bytes()).map(|entry| remote.child(entry))
}

impl Node {
    /// The extended attributes that were set here.
    pub(super) fn set_xattrs(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        match &self.kind {
            NodeKind::Layered(layered) => {
                layered.layer.stat(layered.number).map(|stat| stat.meta.xattrs).unwrap_or_default()
            }
            _ => BTreeMap::new(),
        }
    }
}

impl Layered {
    /// What a name stands for of which the layer says this.
    fn named(&self, slot: &Slot, name: &Name) -> Option<NodeKind> {
        Self::new(&self.workspace, &self.layer, slot.node?, name).map(NodeKind::Layered)
    }

    /// Some children behind a position, maybe none; and up to where these are all, unless that's the end.
    pub(super) fn children(
        &self,
        lower: Option<&(Remote, Arc<Folder>)>,
        behind: Cookie,
    ) -> (Vec<(Cookie, NodeKind)>, Option<Cookie>) {
        let slots = self.layer.slots(self.number, behind.0, TOGETHER);
        let below: Vec<_> =
            lower.iter().flat_map(|(_, folder)| folder.after(behind)).take(TOGETHER).collect();
        // What both have told everything about.
        let until = |full: bool, last: Option<u64>| if full { last.unwrap_or(u64::MAX) } else { u64::MAX };
        let last_slot = until(slots.len() == TOGETHER, slots.last().map(|(position, ..)| *position));
        let last_below = until(below.len() == TOGETHER, below.last().map(|(cookie, _)| cookie.0));
        let end = last_slot.min(last_below);

        let mut children = BTreeMap::new();
        if let Some((remote, _)) = lower {
            for (cookie, entry) in below.into_iter().filter(|(cookie, _)| cookie.0 <= end) {
                children.insert((cookie, entry.name.clone()), NodeKind::Remote(remote.child(entry)));
            }
        }
        for (position, name, slot) in slots.into_iter().filter(|(position, ..)| *position <= end) {
            let key = (Cookie(position), name);
            match self.named(&slot, &key.1) {
                Some(kind) => children.insert(key, kind),
                None => children.remove(&key),
            };
        }
        let children = children.into_iter().map(|((cookie, _), kind)| (cookie, kind)).collect();
        (children, (end < u64::MAX).then_some(Cookie(end)))
    }
}

impl View {
    /// What `name` stands for in a folder of the layer.
    pub(super) async fn layered_child(&self, folder: &Layered, name: &[u8]) -> Result<NodeKind> {
        let name = Name::new(name).map_err(|_| ViewError::NotFound)?;
        if let Some(slot) = folder.layer.slot(folder.number, &name) {
            return folder.named(&slot, &name).ok_or(ViewError::NotFound);
        }
        let lower = self.lower(folder).await?;
        find(lower.as_ref(), &name).map(NodeKind::Remote).ok_or(ViewError::NotFound)
    }

    /// What a name of a folder that can be changed stands for.
    pub(super) async fn at(&self, folder: &Node, name: &Name) -> Result<At> {
        match &folder.kind {
            NodeKind::Remote(remote) => {
                let lower = self.remote_folder(folder, remote).await?;
                let lower = lower.find(name.as_bytes()).map(|entry| remote.child(entry));
                Ok(At { shown: lower.clone().map(NodeKind::Remote), lower })
            }
            NodeKind::Layered(layered) => {
                let folder = self.lower(layered).await?;
                let lower = find(folder.as_ref(), name);
                let shown = match layered.layer.slot(layered.number, name) {
                    Some(slot) => layered.named(&slot, name),
                    None => lower.clone().map(NodeKind::Remote),
                };
                Ok(At { shown, lower })
            }
            _ => Err(ViewError::ReadOnly),
        }
    }

    /// The owner's folder that shows through, as the newest snapshot has it; none if there's none.
    pub(super) async fn lower(&self, folder: &Layered) -> Result<Lower> {
        if !folder.is_folder {
            return Err(ViewError::NotFolder);
        }
        let Some(path) = folder.layer.origin_path(folder.number) else { return Ok(None) };
        match self.walk(self.workspace_root(folder)?, &path).await? {
            Some(remote) if matches!(remote.entry.kind, Kind::Folder { .. }) => {
                let lower = self.folder_of(&remote).await?;
                Ok(Some((remote, lower)))
            }
            _ => Ok(None),
        }
    }

    /// What the owner has at a path below `root`.
    pub(super) async fn walk(&self, root: Remote, path: &[Name]) -> Result<Option<Remote>> {
        let mut at = root;
        for name in path {
            if !matches!(at.entry.kind, Kind::Folder { .. }) {
                return Ok(None);
            }
            let folder = self.folder_of(&at).await?;
            match folder.find(name.as_bytes()) {
                Some(entry) => at = at.child(entry),
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// The root of the workspace's newest snapshot.
    fn workspace_root(&self, layered: &Layered) -> Result<Remote> {
        let listing = self.listing();
        let mounted = listing.mounted(&layered.workspace.id).unwrap_or(&layered.workspace);
        if !mounted.is_allowed() {
            self.source.knock(&mounted.id);
            return Err(crate::fetch::SourceError::Denied.into());
        }
        Ok(Remote::unnamed_root(mounted))
    }

    /// Whether nothing is in a folder.
    pub(super) async fn is_empty(&self, kind: &NodeKind) -> Result<bool> {
        match kind {
            NodeKind::Remote(remote) => Ok(self.folder_of(remote).await?.entries().is_empty()),
            NodeKind::Layered(layered) => {
                let lower = self.lower(layered).await?;
                let mut behind = Cookie::START;
                loop {
                    match layered.children(lower.as_ref(), behind) {
                        (children, _) if !children.is_empty() => return Ok(false),
                        (_, None) => return Ok(true),
                        // All of these are hidden.
                        (_, Some(end)) => behind = end,
                    }
                }
            }
            _ => Err(ViewError::NotFolder),
        }
    }

    /// Reads a file of the layer: what was written here, and around it what it was made of.
    pub(super) async fn read_layered(
        &self,
        node: &Node,
        file: &Layered,
        offset: u64,
        length: u32,
        why: Reading,
    ) -> Result<Bytes> {
        if file.is_folder {
            return Err(ViewError::IsFolder);
        }
        let read = file.layer.read(file.number, offset, length.into())?;
        let Some(Origin { entry, .. }) = &read.origin else { return Ok(read.bytes.into()) };
        let mut bytes = BytesMut::from(&read.bytes[..]);
        for range in read.missing {
            let mut at = range.start;
            while at < range.end {
                let length = (range.end - at) as u32;
                let workspace: &WorkspaceId = &file.workspace.id;
                let piece = self.read_version(node, workspace, entry, at, length, why).await?;
                if piece.is_empty() {
                    break;
                }
                let from = (at - offset) as usize;
                bytes[from..from + piece.len()].copy_from_slice(&piece);
                at += piece.len() as u64;
            }
        }
        Ok(bytes.freeze())
    }

    /// The kernel knows a node no more: without a name it's gone for good.
    pub(super) fn forgotten(&self, node: &Node) {
        let NodeKind::Layered(layered) = &node.kind else { return };
        if layered.layer.stat(layered.number).is_some_and(|stat| stat.meta.links == 0)
            && let Err(error) = layered.layer.apply(vec![Change::Drop(layered.number)])
        {
            // It goes when the layer is opened next.
            tracing::warn!(%error, ino = Ino(layered.number).0, "a removed file can't be dropped yet");
        }
    }
}
