use minicbor::{Decoder, Encoder, data::Type};

use super::{Attributes, Content, Entry, Extent, HardLink, Kind, Owner, Totals};
use crate::types::{Digest, Name, Timestamp};

/// The largest tree object that is accepted, in bytes.
pub const MAX_OBJECT: usize = 16 << 20;

/// The most data extents that a sparse file may be described by.
pub const MAX_EXTENTS: usize = 4096;

/// A page may end after this many entries, where a name's hash says so …
const PAGE_MIN: usize = 128;
/// … and ends after this many in any case.
const PAGE_MAX: usize = 1024;

/// A folder, or the part of it that one object holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// Entries, sorted by name.
    Leaf(Vec<Entry>),
    /// The leaf pages of a big folder, in the order of their names.
    Index(Vec<PageRef>),
}

/// One leaf page of a big folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRef {
    /// The first name in the page.
    pub first: Name,
    /// The page's digest.
    pub digest: Digest,
    /// How many entries it holds.
    pub entries: u64,
}

/// Why some bytes are not a tree object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The object is larger than any that we make.
    #[error("the tree object has {0} bytes, more than the {MAX_OBJECT} allowed")]
    TooLarge(usize),
    /// The bytes are not the CBOR that was expected.
    #[error("the tree object is not well-formed: {0}")]
    Malformed(String),
    /// Well-formed, but a value is out of its range.
    #[error("the tree object is not valid: {0}")]
    Invalid(&'static str),
    /// The same content has another, canonical encoding.
    #[error("the tree object is not in its canonical encoding")]
    NotCanonical,
}

impl From<minicbor::decode::Error> for FormatError {
    fn from(error: minicbor::decode::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

type Result<T> = std::result::Result<T, FormatError>;

/// Cuts sorted entries into pages; the cuts depend on the names alone, so that a change moves few of them.
pub(super) fn pages(entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let limit = rest.len().min(PAGE_MAX);
        let ends = |entry: &Entry| blake3::hash(entry.name.as_bytes()).as_bytes()[0] == 0;
        let length = (PAGE_MIN..limit).find(|&n| ends(&rest[n - 1])).unwrap_or(limit);
        let (page, after) = rest.split_at(length);
        rest = after;
        Some(page)
    })
}

/// The canonical bytes of a page.
pub fn encode(page: &Page) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut cbor = Encoder::new(&mut bytes);
    let result = match page {
        Page::Leaf(entries) => put_leaf(&mut cbor, entries),
        Page::Index(pages) => put_index(&mut cbor, pages),
    };
    // Writing into a Vec can't fail: its error type has no values.
    let Ok(()) = result;
    bytes
}

type Put = std::result::Result<(), std::convert::Infallible>;
type Cbor<'a> = Encoder<&'a mut Vec<u8>>;

fn infallible(
    result: std::result::Result<&mut Cbor<'_>, minicbor::encode::Error<std::convert::Infallible>>,
) -> Put {
    match result {
        Ok(_) => Ok(()),
        Err(_) => unreachable!("a vector takes every byte and every value here has an encoding"),
    }
}

macro_rules! put {
    ($cbor:expr, $($method:ident($($value:expr)?)),+) => {{
        $(infallible($cbor.$method($($value)?))?;)+
    }};
}

fn put_index(cbor: &mut Cbor<'_>, pages: &[PageRef]) -> Put {
    put!(cbor, array(2), u8(1), array(pages.len() as u64));
    for page in pages {
        put!(cbor, array(3), bytes(page.first.as_bytes()), bytes(page.digest.as_bytes()), u64(page.entries));
    }
    Ok(())
}

fn put_leaf(cbor: &mut Cbor<'_>, entries: &[Entry]) -> Put {
    put!(cbor, array(2), u8(0), array(entries.len() as u64));
    for entry in entries {
        put_entry(cbor, entry)?;
    }
    Ok(())
}

fn put_entry(cbor: &mut Cbor<'_>, entry: &Entry) -> Put {
    let Attributes { mode, owner, modified, token, link } = &entry.attributes;
    put!(cbor, array(if link.is_some() { 8 } else { 7 }), bytes(entry.name.as_bytes()));
    put!(
        cbor,
        u8(match entry.kind {
            Kind::Folder { .. } => 0,
            Kind::File { .. } => 1,
            Kind::Link(_) => 2,
        }),
        u16(*mode),
        u8(match owner {
            Owner::Sharer => 0,
            Owner::Root => 1,
            Owner::Other => 2,
        })
    );
    put!(cbor, array(2), i64(modified.seconds), u32(modified.nanoseconds), u64(*token));
    match &entry.kind {
        Kind::Folder { tree, totals } => {
            put!(cbor, array(3), bytes(tree.as_bytes()), u64(totals.files), u64(totals.bytes));
        }
        Kind::File { size, content } => {
            put!(cbor, array(2), u64(*size));
            match content {
                Content::Pending => put!(cbor, null()),
                Content::Blob(digest) => put!(cbor, bytes(digest.as_bytes())),
                Content::Sparse { blob, extents } => {
                    put!(cbor, array(2), bytes(blob.as_bytes()), array(extents.len() as u64));
                    for extent in extents {
                        put!(cbor, array(2), u64(extent.offset), u64(extent.length));
                    }
                }
            }
        }
        Kind::Link(target) => put!(cbor, bytes(target)),
    }
    if let Some(link) = link {
        put!(cbor, array(2), u64(link.group), u32(link.count));
    }
    Ok(())
}

/// Reads a tree object. Whatever the bytes, memory use stays within a small multiple of their length.
pub fn decode(object: &[u8]) -> Result<Page> {
    if object.len() > MAX_OBJECT {
        return Err(FormatError::TooLarge(object.len()));
    }
    let mut cbor = Decoder::new(object);
    expect_array(&mut cbor, 2)?;
    let page = match cbor.u8()? {
        0 => Page::Leaf(take_leaf(&mut cbor)?),
        1 => Page::Index(take_index(&mut cbor)?),
        _ => return Err(FormatError::Invalid("unknown kind of page")),
    };
    // One comparison covers what a canonical decoder would check everywhere: shortest integers, definite lengths,
    // nothing after the end.
    if encode(&page) == object { Ok(page) } else { Err(FormatError::NotCanonical) }
}

fn expect_array(cbor: &mut Decoder<'_>, length: u64) -> Result<()> {
    if any_array(cbor)? == length { Ok(()) } else { Err(FormatError::Invalid("wrong number of members")) }
}

fn any_array(cbor: &mut Decoder<'_>) -> Result<u64> {
    cbor.array()?.ok_or(FormatError::NotCanonical)
}

fn take_index(cbor: &mut Decoder<'_>) -> Result<Vec<PageRef>> {
    let mut pages: Vec<PageRef> = Vec::new();
    for _ in 0..any_array(cbor)? {
        expect_array(cbor, 3)?;
        let page = PageRef { first: take_name(cbor)?, digest: take_digest(cbor)?, entries: cbor.u64()? };
        if pages.last().is_some_and(|last| last.first >= page.first) {
            return Err(FormatError::Invalid("pages out of order"));
        }
        if page.entries == 0 || page.entries > PAGE_MAX as u64 {
            return Err(FormatError::Invalid("impossible number of entries in a page"));
        }
        pages.push(page);
    }
    if pages.len() < 2 {
        return Err(FormatError::Invalid("an index of fewer than two pages"));
    }
    Ok(pages)
}

fn take_leaf(cbor: &mut Decoder<'_>) -> Result<Vec<Entry>> {
    let count = any_array(cbor)?;
    if count > PAGE_MAX as u64 {
        return Err(FormatError::Invalid("too many entries in a page"));
    }
    let mut entries: Vec<Entry> = Vec::new();
    for _ in 0..count {
        let entry = take_entry(cbor)?;
        if entries.last().is_some_and(|last| last.name >= entry.name) {
            return Err(FormatError::Invalid("names out of order"));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn take_name(cbor: &mut Decoder<'_>) -> Result<Name> {
    Name::new(cbor.bytes()?).map_err(|_| FormatError::Invalid("impossible name"))
}

fn take_digest(cbor: &mut Decoder<'_>) -> Result<Digest> {
    let bytes = cbor.bytes()?.try_into().map_err(|_| FormatError::Invalid("digest of the wrong length"))?;
    Ok(Digest::from_bytes(bytes))
}

fn take_entry(cbor: &mut Decoder<'_>) -> Result<Entry> {
    let members = any_array(cbor)?;
    if !matches!(members, 7 | 8) {
        return Err(FormatError::Invalid("wrong number of members"));
    }
    let name = take_name(cbor)?;
    let kind = cbor.u8()?;
    let mode = cbor.u16()?;
    if mode > 0o7777 {
        return Err(FormatError::Invalid("mode out of range"));
    }
    let owner = match cbor.u8()? {
        0 => Owner::Sharer,
        1 => Owner::Root,
        2 => Owner::Other,
        _ => return Err(FormatError::Invalid("unknown owner")),
    };
    expect_array(cbor, 2)?;
    let modified = Timestamp { seconds: cbor.i64()?, nanoseconds: cbor.u32()? };
    if modified.nanoseconds >= 1_000_000_000 {
        return Err(FormatError::Invalid("nanoseconds out of range"));
    }
    let token = cbor.u64()?;
    let kind = match kind {
        0 => take_folder(cbor)?,
        1 => take_file(cbor)?,
        2 => take_link(cbor)?,
        _ => return Err(FormatError::Invalid("unknown kind of entry")),
    };
    let link = if members == 8 { Some(take_hard_link(cbor, &kind)?) } else { None };
    Ok(Entry { name, attributes: Attributes { mode, owner, modified, token, link }, kind })
}

fn take_hard_link(cbor: &mut Decoder<'_>, kind: &Kind) -> Result<HardLink> {
    expect_array(cbor, 2)?;
    let link = HardLink { group: cbor.u64()?, count: cbor.u32()? };
    if link.count < 2 {
        return Err(FormatError::Invalid("hard link of fewer than two names"));
    }
    // Links have none: where one leads depends on its folder, so two of them can't be one file to a guest.
    if !matches!(kind, Kind::File { .. }) {
        return Err(FormatError::Invalid("hard link of something that isn't a file"));
    }
    Ok(link)
}

fn take_folder(cbor: &mut Decoder<'_>) -> Result<Kind> {
    expect_array(cbor, 3)?;
    Ok(Kind::Folder { tree: take_digest(cbor)?, totals: Totals { files: cbor.u64()?, bytes: cbor.u64()? } })
}

fn take_file(cbor: &mut Decoder<'_>) -> Result<Kind> {
    expect_array(cbor, 2)?;
    let size = cbor.u64()?;
    if size > i64::MAX as u64 {
        return Err(FormatError::Invalid("size out of range"));
    }
    let content = match cbor.datatype()? {
        Type::Null => {
            cbor.null()?;
            Content::Pending
        }
        Type::Array => {
            expect_array(cbor, 2)?;
            Content::Sparse { blob: take_digest(cbor)?, extents: take_extents(cbor, size)? }
        }
        _ => Content::Blob(take_digest(cbor)?),
    };
    Ok(Kind::File { size, content })
}

fn take_extents(cbor: &mut Decoder<'_>, size: u64) -> Result<Box<[Extent]>> {
    let mut extents = Vec::new();
    let mut end = 0;
    for _ in 0..any_array(cbor)? {
        expect_array(cbor, 2)?;
        let extent = Extent { offset: cbor.u64()?, length: cbor.u64()? };
        // Touching extents would be one extent: only the very first may start at the end of nothing.
        let apart = extents.is_empty() || extent.offset > end;
        if !apart || extent.length == 0 {
            return Err(FormatError::Invalid("extents out of order"));
        }
        end = match extent.offset.checked_add(extent.length) {
            Some(end) if end <= size => end,
            _ => return Err(FormatError::Invalid("extent beyond the end of its file")),
        };
        if extents.len() == MAX_EXTENTS {
            return Err(FormatError::Invalid("too many extents"));
        }
        extents.push(extent);
    }
    Ok(extents.into())
}

fn take_link(cbor: &mut Decoder<'_>) -> Result<Kind> {
    let target = cbor.bytes()?;
    if target.is_empty() || target.len() > 4095 || target.contains(&0) {
        return Err(FormatError::Invalid("impossible link target"));
    }
    Ok(Kind::Link(target.into()))
}

/// In CBOR, among other things: a byte string that holds a leaf page with this entry alone.
impl<C> minicbor::Encode<C> for Entry {
    fn encode<W: minicbor::encode::Write>(
        &self,
        to: &mut Encoder<W>,
        _: &mut C,
    ) -> std::result::Result<(), minicbor::encode::Error<W::Error>> {
        to.bytes(&encode(&Page::Leaf(vec![self.clone()])))?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for Entry {
    fn decode(from: &mut Decoder<'b>, _: &mut C) -> std::result::Result<Self, minicbor::decode::Error> {
        match decode(from.bytes()?).map_err(minicbor::decode::Error::message)? {
            Page::Leaf(entries) => entries.into_iter().next(),
            Page::Index(_) => None,
        }
        .ok_or_else(|| minicbor::decode::Error::message("a page that isn't one entry"))
    }
}
