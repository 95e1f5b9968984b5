//! What a workspace's layer and its owner's snapshot look like together.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{
    Cookie, Ino, Reading, Result, View, ViewError,
    folder::Folder,
    node::{Layered, Node, NodeKind, Remote},
};
use crate::{
    layer::{Change, Origin},
    tree::Kind,
    types::{Name, WorkspaceId},
};

/// So many children are put together at a time.
const TOGETHER: usize = 256;

/// The owner's folder that shows through a folder of the layer.
pub(super) type Lower = Option<(Remote, Arc<Folder>)>;

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
    /// Another node of the same layer.
    pub(super) fn sibling(&self, number: u64, name: &Name) -> Option<Self> {
        Self::new(&self.workspace, &self.layer, number, name)
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
            match slot.node.and_then(|number| self.sibling(number, &key.1)) {
                Some(layered) => children.insert(key, NodeKind::Layered(layered)),
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
            let child = slot.node.and_then(|number| folder.sibling(number, &name));
            return child.map(NodeKind::Layered).ok_or(ViewError::NotFound);
        }
        let lower = self.lower(folder).await?;
        let (remote, lower) = lower.as_ref().ok_or(ViewError::NotFound)?;
        let entry = lower.find(name.as_bytes()).ok_or(ViewError::NotFound)?;
        Ok(NodeKind::Remote(remote.child(entry)))
    }

    /// The owner's folder that shows through, as the newest snapshot has it; none if there's none.
    pub(super) async fn lower(&self, folder: &Layered) -> Result<Lower> {
        if !folder.is_folder {
            return Err(ViewError::NotFolder);
        }
        let Some(Origin { path, .. }) = folder.layer.origin(folder.number) else { return Ok(None) };
        let mut remote = self.workspace_root(folder)?;
        for name in path {
            let above = self.folder_of(&remote).await?;
            match above.find(name.as_bytes()) {
                Some(entry) if matches!(entry.kind, Kind::Folder { .. }) => remote = remote.child(entry),
                _ => return Ok(None),
            }
        }
        let lower = self.folder_of(&remote).await?;
        Ok(Some((remote, lower)))
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

    /// What the owner has under `name` in a folder, whether or not it shows.
    pub(super) async fn lower_child(&self, folder: &Node, name: &[u8]) -> Result<Option<Remote>> {
        match &folder.kind {
            NodeKind::Remote(remote) => {
                let lower = self.remote_folder(folder, remote).await?;
                Ok(lower.find(name).map(|entry| remote.child(entry)))
            }
            NodeKind::Layered(layered) => {
                let lower = self.lower(layered).await?;
                Ok(lower.and_then(|(remote, lower)| lower.find(name).map(|entry| remote.child(entry))))
            }
            _ => Err(ViewError::ReadOnly),
        }
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
