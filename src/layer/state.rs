use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Change, Content, DataFile, Record, RecordKind, Slot};
use crate::types::Name;

/// What a layer holds: the same by replaying its journal and by the changes as they happen, since both go through
/// [`State::apply`].
#[derive(Debug, Default, PartialEq)]
pub(super) struct State {
    nodes: HashMap<u64, Node>,
    /// Of each folder, by position and name.
    folders: HashMap<u64, BTreeMap<(u64, Name), Slot>>,
}

#[derive(Debug, PartialEq)]
struct Node {
    record: Record,
    /// Where it stands: folders and names.
    names: BTreeSet<(u64, Name)>,
}

impl State {
    pub(super) fn record(&self, number: u64) -> Option<&Record> {
        self.nodes.get(&number).map(|node| &node.record)
    }

    pub(super) fn content(&self, number: u64) -> Option<&Content> {
        match &self.record(number)?.kind {
            RecordKind::File(content) => Some(content),
            _ => None,
        }
    }

    pub(super) fn data_file(&self, number: u64) -> Option<DataFile> {
        self.content(number).map(|content| DataFile { number, generation: content.generation })
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.nodes.keys().copied()
    }

    /// A folder and a name that a node stands under.
    pub(super) fn place(&self, number: u64) -> Option<&(u64, Name)> {
        self.nodes.get(&number)?.names.first()
    }

    /// The names from the workspace's root to a node, as text; empty for what has no name.
    pub(super) fn path(&self, number: u64) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = number;
        while let Some((folder, name)) = self.place(at) {
            names.push(name.as_bytes());
            at = *folder;
        }
        names.reverse();
        names.join(&b'/')
    }

    pub(super) fn slot(&self, folder: u64, name: &Name) -> Option<&Slot> {
        self.folders.get(&folder)?.get(&(name.position(), name.clone()))
    }

    /// What the layer says about names of a folder behind a position.
    pub(super) fn slots(&self, folder: u64, behind: u64) -> impl Iterator<Item = (u64, &Name, &Slot)> {
        let next = (behind.saturating_add(1), Name::least());
        let slots = self.folders.get(&folder).map(|slots| slots.range(next..));
        slots.into_iter().flatten().map(|((position, name), slot)| (*position, name, slot))
    }

    /// Makes a change; gives the data files that nothing refers to any more.
    pub(super) fn apply(&mut self, change: &Change, garbage: &mut Vec<DataFile>) {
        match change {
            Change::Put(number, record) => {
                let names = self.nodes.remove(number).map(|node| node.names).unwrap_or_default();
                self.nodes.insert(*number, Node { record: (**record).clone(), names });
            }
            Change::Meta(number, meta) => {
                if let Some(node) = self.nodes.get_mut(number) {
                    node.record.meta = meta.clone();
                }
            }
            Change::Bind(folder, name, number) => {
                let before = self.slot_mut(*folder, name).node.replace(*number);
                self.unname(*folder, name, before);
                if let Some(node) = self.nodes.get_mut(number) {
                    node.names.insert((*folder, name.clone()));
                }
            }
            Change::Unbind(folder, name) => {
                let slot = self.slot_mut(*folder, name);
                let (before, says_nothing) = (slot.node.take(), slot.over.is_none());
                if says_nothing {
                    self.forget(*folder, name);
                }
                self.unname(*folder, name, before);
            }
            Change::Cover(folder, name, origin) => {
                self.slot_mut(*folder, name).over.get_or_insert_with(|| origin.clone());
            }
            Change::Reveal(folder, name) => {
                let before = self.forget(*folder, name);
                self.unname(*folder, name, before.and_then(|slot| slot.node));
            }
            Change::Drop(number) => self.drop_node(*number, garbage),
            Change::Wrote(number, offset, length, time) => {
                let Some(node) = self.nodes.get_mut(number) else { return };
                let RecordKind::File(content) = &mut node.record.kind else { return };
                let end = offset.saturating_add(*length);
                content.size = content.size.max(end);
                if *offset < end.min(content.shows) {
                    content.written.insert(*offset..end.min(content.shows));
                }
                (node.record.meta.modified, node.record.meta.changed) = (*time, *time);
            }
            Change::Resized(number, size, time) => {
                let Some(node) = self.nodes.get_mut(number) else { return };
                let RecordKind::File(content) = &mut node.record.kind else { return };
                if *size == 0 {
                    garbage.push(DataFile { number: *number, generation: content.generation });
                    content.generation += 1;
                }
                if *size < content.shows {
                    content.written.remove(*size..content.shows);
                    content.shows = *size;
                }
                content.size = *size;
                (node.record.meta.modified, node.record.meta.changed) = (*time, *time);
            }
        }
    }

    fn slot_mut(&mut self, folder: u64, name: &Name) -> &mut Slot {
        self.folders.entry(folder).or_default().entry((name.position(), name.clone())).or_default()
    }

    fn forget(&mut self, folder: u64, name: &Name) -> Option<Slot> {
        self.folders.get_mut(&folder)?.remove(&(name.position(), name.clone()))
    }

    /// Notes that a node no longer has a name.
    fn unname(&mut self, folder: u64, name: &Name, number: Option<u64>) {
        // It may have been given the same one again.
        let slot = self.slot(folder, name).and_then(|slot| slot.node);
        if let Some(number) = number.filter(|number| slot != Some(*number))
            && let Some(node) = self.nodes.get_mut(&number)
        {
            node.names.remove(&(folder, name.clone()));
        }
    }

    fn drop_node(&mut self, number: u64, garbage: &mut Vec<DataFile>) {
        garbage.extend(self.data_file(number));
        for ((_, name), slot) in self.folders.remove(&number).unwrap_or_default() {
            self.unname(number, &name, slot.node);
        }
        let names = self.nodes.remove(&number).map(|node| node.names).unwrap_or_default();
        for (folder, name) in names {
            self.apply(&Change::Unbind(folder, name), garbage);
        }
    }

    /// Changes that make this out of nothing.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change> {
        let puts =
            self.nodes.iter().map(|(number, node)| Change::Put(*number, Box::new(node.record.clone())));
        let slots = self.folders.iter().flat_map(|(folder, slots)| {
            slots.iter().flat_map(|((_, name), slot)| {
                let over = slot.over.clone().map(|origin| Change::Cover(*folder, name.clone(), origin));
                let node = slot.node.map(|number| Change::Bind(*folder, name.clone(), number));
                over.into_iter().chain(node)
            })
        });
        puts.chain(slots)
    }
}
