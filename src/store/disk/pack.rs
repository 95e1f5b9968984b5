//! Pack files: small pieces one after the other, each with a header that tells what it is.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path, sync::Arc};

use super::{
    ahead::Ahead,
    files::{FileKey, Files, allocated},
};
use crate::types::Digest;

/// A pack is closed when it has grown to this many bytes.
pub(super) const PACK_MAX: u64 = 64 << 20;

const MAGIC: &[u8; 8] = b"tw-piece";

/// Magic, kind, three zero bytes, length (little-endian), digest.
const HEADER: usize = 48;

/// Records start at multiples of this, so that a scan finds the next one after a hole or a torn record.
const ALIGN: u64 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Kind {
    Tree = 1,
    Blob = 2,
}

/// What a piece is named by. A file may hold the very bytes of a tree object: the kind keeps them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PackedKey {
    pub(super) kind: Kind,
    pub(super) digest: Digest,
}

impl PackedKey {
    pub(super) fn parse(kind: u8, digest: Digest) -> Option<Self> {
        let kind = match kind {
            1 => Kind::Tree,
            2 => Kind::Blob,
            _ => return None,
        };
        Some(Self { kind, digest })
    }
}

/// Where a piece's record starts, and how long its content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pack: u32,
    pub(super) offset: u64,
    pub(super) length: u32,
}

impl Place {
    /// Where the record ends, with its padding.
    pub(super) fn end(&self) -> u64 {
        self.offset + record_length(self.length)
    }

    /// Reads the piece's content and checks it; none when it isn't what the digest names.
    pub(super) fn read(&self, files: &Files, ahead: &Ahead, digest: &Digest) -> io::Result<Option<Vec<u8>>> {
        let file = files.read(FileKey::Pack(self.pack))?;
        ahead.read(&file, self);
        let mut bytes = vec![0; self.length as usize];
        file.read_exact_at(&mut bytes, self.offset + HEADER as u64)?;
        Ok((Digest::of(&bytes) == *digest).then_some(bytes))
    }
}

/// Bytes that a record with this much content takes.
pub(super) fn record_length(length: u32) -> u64 {
    (HEADER as u64 + u64::from(length)).next_multiple_of(ALIGN)
}

/// Appends records.
#[derive(Debug)]
pub(super) struct Packer {
    number: u32,
    position: u64,
    file: Option<Arc<File>>,
}

impl Packer {
    /// Goes on where the last pack ends.
    pub(super) fn new(number: u32, position: u64) -> Self {
        Self { number, position: position.next_multiple_of(ALIGN), file: None }
    }

    /// The pack that is written to, and up to where. What lies before is recorded, pending or dead.
    pub(super) fn position(&self) -> (u32, u64) {
        (self.number, self.position)
    }

    /// Bytes that the pack being written takes on the disk.
    pub(super) fn allocated(&self) -> u64 {
        let metadata = self.file.as_ref().and_then(|file| file.metadata().ok());
        metadata.map_or(0, |found| allocated(&found))
    }

    /// Writes a record. After an error its place is left as a gap.
    pub(super) fn append(&mut self, files: &Files, key: PackedKey, content: &[u8]) -> io::Result<Place> {
        let length = u32::try_from(content.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if self.position > 0 && self.position + record_length(length) > PACK_MAX {
            self.number += 1;
            self.position = 0;
            self.file = None;
        }
        let file = match &self.file {
            Some(file) => file.clone(),
            None => self.file.insert(Arc::new(files.write(FileKey::Pack(self.number))?)).clone(),
        };
        let place = Place { pack: self.number, offset: self.position, length };
        self.position = place.end();
        // Padded, so that the next record begins where the file ends.
        let mut record = Vec::with_capacity(record_length(length) as usize);
        record.extend_from_slice(MAGIC);
        record.extend_from_slice(&[key.kind as u8, 0, 0, 0]);
        record.extend_from_slice(&length.to_le_bytes());
        record.extend_from_slice(key.digest.as_bytes());
        record.extend_from_slice(content);
        record.resize(record_length(length) as usize, 0);
        file.write_all_at(&record, place.offset)?;
        Ok(place)
    }
}

/// Calls `each` for every intact record of a pack file, in order: for a lost index.
pub(super) fn scan(path: &Path, number: u32, mut each: impl FnMut(PackedKey, Place)) -> io::Result<()> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut offset = 0;
    let mut header = [0; HEADER];
    while offset + HEADER as u64 <= size {
        file.read_exact_at(&mut header, offset)?;
        match intact(&file, size, number, offset, &header)? {
            Some((key, place)) => {
                each(key, place);
                offset = place.end();
            }
            None => offset = next_candidate(&file, size, offset + ALIGN)?,
        }
    }
    Ok(())
}

/// The record at `offset`, if there is one whose content is what its digest names.
fn intact(
    file: &File,
    size: u64,
    number: u32,
    offset: u64,
    header: &[u8; HEADER],
) -> io::Result<Option<(PackedKey, Place)>> {
    let (magic, rest) = header.split_at(8);
    let (kind, rest) = rest.split_at(4);
    let (length, digest) = rest.split_at(4);
    let (Ok(length), Ok(digest)) = (length.try_into().map(u32::from_le_bytes), digest.try_into()) else {
        return Ok(None);
    };
    let place = Place { pack: number, offset, length };
    let Some(key) = PackedKey::parse(kind[0], Digest::from_bytes(digest)) else { return Ok(None) };
    if magic != MAGIC || offset + HEADER as u64 + u64::from(length) > size {
        return Ok(None);
    }
    let mut content = vec![0; length as usize];
    file.read_exact_at(&mut content, offset + HEADER as u64)?;
    Ok((Digest::of(&content) == key.digest).then_some((key, place)))
}

/// The first aligned place from `offset` on at which a record may start.
fn next_candidate(file: &File, size: u64, mut offset: u64) -> io::Result<u64> {
    let mut window = vec![0; 1 << 20];
    while offset < size {
        let length = (window.len() as u64).min(size - offset) as usize;
        file.read_exact_at(&mut window[..length], offset)?;
        if let Some(found) = window[..length].chunks(ALIGN as usize).position(|bytes| bytes == MAGIC) {
            return Ok(offset + found as u64 * ALIGN);
        }
        offset += length as u64;
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_finds_all_but_the_damaged_and_the_torn() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path(), 4);
        let mut packer = Packer::new(0, 0);
        let pieces: Vec<Vec<u8>> = (0..9u8).map(|i| vec![i; 100 + 333 * usize::from(i)]).collect();
        let mut written = Vec::new();
        for piece in &pieces {
            let key = PackedKey { kind: Kind::Blob, digest: Digest::of(piece) };
            written.push((key, packer.append(&files, key, piece).unwrap()));
        }
        let file = files.write(FileKey::Pack(0)).unwrap();
        // A flipped byte in the content of one, a zeroed header of another, the end cut off.
        file.write_all_at(b"!", written[2].1.offset + 60).unwrap();
        file.write_all_at(&[0; HEADER], written[5].1.offset).unwrap();
        file.set_len(written[8].1.end() - 200).unwrap();
        let mut found = Vec::new();
        scan(&files.path(FileKey::Pack(0)), 0, |key, place| found.push((key, place))).unwrap();
        let expected: Vec<_> = [0, 1, 3, 4, 6, 7].map(|i| written[i]).into();
        assert_eq!(found, expected);
    }
}
