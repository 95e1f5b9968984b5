use minicbor::{Decode, Encode};

use super::Entry;
use crate::types::{Name, Timestamp};

/// What a guest wants changed in the owner's folder: all of it or nothing.
#[derive(Debug, Clone, PartialEq, Default, Encode, Decode)]
pub struct Edit {
    /// What the guest's steps were made over. If the owner has something else there by now, nothing is changed.
    #[n(0)]
    pub bases: Vec<Base>,
    /// What is to be done. Removals and the first paths of moves are the owner's, all others the guest's.
    #[n(1)]
    pub steps: Vec<Step>,
}

/// What must still be so at one of the owner's paths.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Base {
    /// The names from the workspace's root.
    #[n(0)]
    pub path: Vec<Name>,
    /// What stands there; none if nothing does.
    #[n(1)]
    pub entry: Option<Entry>,
}

/// One step of an edit.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Step {
    /// Something gets another path.
    #[n(0)]
    Move(#[n(0)] Vec<Name>, #[n(1)] Vec<Name>),
    /// A file, link, or folder with all that is shared of it, is removed.
    #[n(1)]
    Remove(#[n(0)] Vec<Name>),
    /// A folder is made.
    #[n(2)]
    Folder(#[n(0)] Vec<Name>, #[n(1)] u16),
    /// A file is made or replaced. Its bytes come with the edit, in the order of the steps.
    #[n(3)]
    File(#[n(0)] Vec<Name>, #[n(1)] NewFile),
    /// A symbolic link is made or replaced.
    #[n(4)]
    Link(#[n(0)] Vec<Name>, #[cbor(n(1), with = "minicbor::bytes")] Vec<u8>),
    /// Something gets other permission bits.
    #[n(5)]
    Mode(#[n(0)] Vec<Name>, #[n(1)] u16),
}

/// A file that comes with an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct NewFile {
    /// Permission bits.
    #[n(0)]
    pub mode: u16,
    /// When its content last changed.
    #[n(1)]
    pub modified: Timestamp,
    /// Its length in bytes.
    #[n(2)]
    pub size: u64,
}

impl Edit {
    /// The files that come with it, in order.
    pub fn files(&self) -> impl Iterator<Item = &NewFile> {
        self.steps.iter().filter_map(|step| match step {
            Step::File(_, file) => Some(file),
            _ => None,
        })
    }
    /// For each step, how many files come with those before it.
    pub fn places(&self) -> Vec<usize> {
        let place = |files: &mut usize, step: &Step| {
            let place = *files;
            *files += usize::from(matches!(step, Step::File(..)));
            Some(place)
        };
        self.steps.iter().scan(0, place).collect()
    }
}
