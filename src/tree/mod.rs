//! Directory objects: what a folder contains, as bytes whose BLAKE3 is their name.
//!
//! docs/FORMAT.md describes the encoding. A folder is one *leaf* page, or, when it is big, an *index* page
//! over leaf pages. Equal folders have equal bytes: the encoding is deterministic CBOR (RFC 8949 §4.2) and the
//! cuts between pages depend on the sorted names alone.

mod codec;
mod edit;
mod entry;
mod snapshot;
#[cfg(test)]
mod tests;

pub use codec::{FormatError, MAX_EXTENTS, MAX_OBJECT, Page, PageRef, decode, encode};
pub use edit::{Base, Edit, NewFile, Step};
pub use entry::{Attributes, Content, Entry, Extent, HardLink, Kind, Owner, Totals};
pub use snapshot::Snapshot;

use crate::types::Digest;

/// Where new tree objects are put.
pub trait TreeSink {
    /// What can go wrong when an object is put.
    type Error;

    /// Keeps `object`, whose name is its digest.
    fn put_tree(&self, digest: Digest, object: &[u8]) -> Result<(), Self::Error>;
}

/// The objects that a tree object names: a big folder's pages, or its subfolders.
pub fn children(object: &[u8]) -> Result<Vec<Digest>, FormatError> {
    Ok(match decode(object)? {
        Page::Index(pages) => pages.into_iter().map(|page| page.digest).collect(),
        Page::Leaf(entries) => entries
            .into_iter()
            .filter_map(|entry| match entry.kind {
                Kind::Folder { tree, .. } => Some(tree),
                Kind::File { .. } | Kind::Link(_) => None,
            })
            .collect(),
    })
}

/// Encodes a whole folder, puts its objects into `sink` and gives the digest of the folder.
///
/// `entries` must be sorted by name, without duplicates.
pub fn write_folder<S: TreeSink + ?Sized>(entries: &[Entry], sink: &S) -> Result<Digest, S::Error> {
    let put = |object: Vec<u8>| {
        let digest = Digest::of(&object);
        sink.put_tree(digest, &object).map(|()| digest)
    };
    let pages: Vec<&[Entry]> = codec::pages(entries).collect();
    if let [] | [_] = pages[..] {
        return put(encode(&Page::Leaf(entries.to_vec())));
    }
    let mut index = Vec::with_capacity(pages.len());
    for page in pages {
        let digest = put(encode(&Page::Leaf(page.to_vec())))?;
        index.push(PageRef { first: page[0].name.clone(), digest, entries: page.len() as u64 });
    }
    put(encode(&Page::Index(index)))
}
