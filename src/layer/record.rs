use std::collections::BTreeMap;

use minicbor::{Decode, Encode};
use rangemap::RangeSet;

use crate::{
    tree,
    types::{Name, Timestamp},
};

/// What `stat` tells of a node of the layer, apart from its size, and its extended attributes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Meta {
    /// Permission bits, set-user-id and the like among them: at most 0o7777.
    #[n(0)]
    pub mode: u16,
    /// The user it belongs to.
    #[n(1)]
    pub uid: u32,
    /// The group it belongs to.
    #[n(2)]
    pub gid: u32,
    /// How many names it has; 0 once it's removed.
    #[n(3)]
    pub links: u32,
    /// When it was last read, as far as somebody said so.
    #[n(4)]
    pub accessed: Timestamp,
    /// When its content last changed.
    #[n(5)]
    pub modified: Timestamp,
    /// When anything of it last changed.
    #[n(6)]
    pub changed: Timestamp,
    /// Extended attributes.
    #[cbor(n(7), with = "attributes")]
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A file or folder of the owner's: where it stood, and which version it was.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Origin {
    /// The names from the workspace's root; none for the root.
    #[n(0)]
    pub path: Vec<Name>,
    /// What the owner said of it.
    #[n(1)]
    pub entry: tree::Entry,
}

/// What the layer holds of one node.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Record {
    /// What `stat` tells.
    #[n(0)]
    pub meta: Meta,
    /// What it was made of. A folder shows what the owner's folder at that place holds, where the layer has nothing to say.
    #[n(1)]
    pub origin: Option<Origin>,
    /// What it is.
    #[n(2)]
    pub kind: RecordKind,
}

/// What a node of the layer is.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum RecordKind {
    /// A folder; its names are the layer's slots.
    #[n(0)]
    Folder,
    /// A regular file.
    #[n(1)]
    File(#[n(0)] Content),
    /// A symbolic link and its target.
    #[n(2)]
    Link(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// A named pipe.
    #[n(3)]
    Fifo,
    /// A socket.
    #[n(4)]
    Socket,
    /// A character device and its number. The mount lets nobody open it.
    #[n(5)]
    Character(#[n(0)] u32),
    /// A block device and its number.
    #[n(6)]
    Block(#[n(0)] u32),
}

/// Where a file's bytes are: in its data file, else in its origin, else they are zero.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Content {
    /// The file's length in bytes.
    #[n(0)]
    pub size: u64,
    /// Below this the origin shows through where nothing was written.
    #[n(1)]
    pub shows: u64,
    /// Which data file: another one after each truncation to nothing.
    #[n(2)]
    pub generation: u32,
    /// What was written below `shows`; beyond it everything is in the data file, whose holes are zeros.
    #[cbor(n(3), with = "ranges")]
    pub written: RangeSet<u64>,
}

/// What a layer says about a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slot {
    /// The node that it stands for; without one there's no such name.
    pub node: Option<u64>,
    /// What the owner had there when the layer first said something about the name.
    pub over: Option<Box<Origin>>,
}

/// What `stat` tells of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Everything but the size.
    pub meta: Meta,
    /// Its kind.
    pub kind: FileKind,
    /// Its length in bytes; a link's is that of its target.
    pub size: u64,
}

/// What kind of file something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A folder.
    Folder,
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device and its number; the mount lets nobody open it.
    Character(u32),
    /// A block device and its number.
    Block(u32),
}

/// One step of a change. Those of one call happen together or not at all.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Change {
    /// A node is made.
    #[n(0)]
    Put(#[n(0)] u64, #[n(1)] Box<Record>),
    /// What `stat` tells of a node becomes this.
    #[n(1)]
    Meta(#[n(0)] u64, #[n(1)] Meta),
    /// A name of a folder stands for a node from now on.
    #[n(2)]
    Bind(#[n(0)] u64, #[n(1)] Name, #[n(2)] u64),
    /// A name of a folder stands for nothing from now on.
    #[n(3)]
    Unbind(#[n(0)] u64, #[n(1)] Name),
    /// What the owner has at a name of a folder doesn't show from now on. Said before is said: the first version counts.
    #[n(4)]
    Cover(#[n(0)] u64, #[n(1)] Name, #[n(2)] Box<Origin>),
    /// What the owner has at a name of a folder shows again.
    #[n(8)]
    Reveal(#[n(0)] u64, #[n(1)] Name),
    /// A node is no more, nor its names and data.
    #[n(5)]
    Drop(#[n(0)] u64),
    /// Bytes of a file were written (or made zero) in its data file: offset and length.
    #[n(6)]
    Wrote(#[n(0)] u64, #[n(1)] u64, #[n(2)] u64, #[n(3)] Timestamp),
    /// A file's length became this.
    #[n(7)]
    Resized(#[n(0)] u64, #[n(1)] u64, #[n(2)] Timestamp),
}

impl Content {
    /// That of a file of the owner's with `size` bytes, nothing of which was changed.
    pub fn unchanged(size: u64) -> Self {
        Self { size, shows: size, ..Self::default() }
    }
}

impl Record {
    /// What `stat` tells.
    pub fn stat(&self) -> Stat {
        let size = match &self.kind {
            RecordKind::Folder => 4096,
            RecordKind::File(content) => content.size,
            RecordKind::Link(target) => target.len() as u64,
            RecordKind::Fifo | RecordKind::Socket | RecordKind::Character(_) | RecordKind::Block(_) => 0,
        };
        Stat { meta: self.meta.clone(), kind: self.kind(), size }
    }

    /// Its kind.
    pub fn kind(&self) -> FileKind {
        match self.kind {
            RecordKind::Folder => FileKind::Folder,
            RecordKind::File(_) => FileKind::File,
            RecordKind::Link(_) => FileKind::Link,
            RecordKind::Fifo => FileKind::Fifo,
            RecordKind::Socket => FileKind::Socket,
            RecordKind::Character(device) => FileKind::Character(device),
            RecordKind::Block(device) => FileKind::Block(device),
        }
    }
}

type Encoded<W> = Result<(), minicbor::encode::Error<<W as minicbor::encode::Write>::Error>>;
type Decoded<T> = Result<T, minicbor::decode::Error>;

fn invalid(why: impl std::fmt::Display) -> minicbor::decode::Error {
    minicbor::decode::Error::message(why)
}

/// Declares how a type of another room is written: what takes it apart, and what puts it together.
macro_rules! written_as {
    ($module:ident, $type:ty, |$value:ident, $to:ident| $put:expr, |$from:ident| $take:expr) => {
        mod $module {
            use minicbor::{Decoder, Encoder, encode::Write};

            use super::*;

            #[allow(clippy::ptr_arg, reason = "the derived code passes a reference to the field")]
            pub(super) fn encode<C, W: Write>($value: &$type, $to: &mut Encoder<W>, _: &mut C) -> Encoded<W> {
                $put
            }

            pub(super) fn decode<C>($from: &mut Decoder<'_>, _: &mut C) -> Decoded<$type> {
                $take
            }
        }
    };
}

written_as!(
    attributes,
    BTreeMap<Vec<u8>, Vec<u8>>,
    |value, to| {
        to.map(value.len() as u64)?;
        value.iter().try_for_each(|(name, value)| to.bytes(name)?.bytes(value)?.ok())
    },
    |from| {
        let count = from.map()?.unwrap_or_default();
        (0..count).map(|_| Ok((from.bytes()?.to_vec(), from.bytes()?.to_vec()))).collect()
    }
);

written_as!(
    ranges,
    RangeSet<u64>,
    |value, to| {
        to.array(2 * value.len() as u64)?;
        value.iter().try_for_each(|range| to.u64(range.start)?.u64(range.end)?.ok())
    },
    |from| {
        let count = from.array()?.unwrap_or_default() / 2;
        let range = |_| {
            let range = from.u64()?..from.u64()?;
            if range.is_empty() { Err(invalid("an empty range")) } else { Ok(range) }
        };
        (0..count).map(range).collect()
    }
);
