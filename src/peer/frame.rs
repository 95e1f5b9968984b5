//! The frames of a batch answer: a header of 14 bytes, numbers big-endian, then the payload.

use bytes::Bytes;

use crate::{
    blob::{GROUP, WHOLE_MAX, outline_limit},
    tree::MAX_OBJECT,
    types::Digest,
};

use super::{
    packed::{Packed, decompress},
    wire::MAX_RANGE,
};

/// Tree objects are gathered in bundles of at most this many bytes; a larger object is a bundle of its own.
pub(super) const BUNDLE: usize = 256 << 10;

/// Every object in a bundle is preceded by its length.
pub(super) const BUNDLE_LENGTH: usize = 4;

/// A hash tree over 2^49 groups, more than a file can have, is less deep than this.
const MAX_DEPTH: u64 = 64;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The last frame: no payload; the index is the number of pieces.
    End,
    /// Tree objects: for each its length (4 bytes) and its bytes.
    Trees,
    /// A whole blob.
    Blob,
    /// A slice in bao's encoding.
    Slice,
    /// Bytes of a pending file.
    Pending,
    /// The outline of a window.
    Outline,
    /// No payload: before the answer to a bulk request begins, so many others have their turn as the index says.
    Waiting,
    /// A refusal, without payload: the owner doesn't have it.
    Unknown,
    /// A refusal, without payload: the file has changed since.
    Changed,
    /// A refusal, without payload: the owner can't read it at present.
    Failed,
    /// A refusal, without payload: the reader may not have it, or not any more.
    Denied,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::End => 0,
            Self::Trees => 1,
            Self::Blob => 2,
            Self::Slice => 3,
            Self::Pending => 4,
            Self::Outline => 5,
            Self::Waiting => 6,
            Self::Unknown => 16,
            Self::Changed => 17,
            Self::Failed => 18,
            Self::Denied => 19,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::End,
            1 => Self::Trees,
            2 => Self::Blob,
            3 => Self::Slice,
            4 => Self::Pending,
            5 => Self::Outline,
            6 => Self::Waiting,
            16 => Self::Unknown,
            17 => Self::Changed,
            18 => Self::Failed,
            19 => Self::Denied,
            _ => return None,
        })
    }

    /// The longest payload, in bytes, before compression.
    fn limit(self) -> u64 {
        match self {
            Self::End | Self::Waiting | Self::Unknown | Self::Changed | Self::Failed | Self::Denied => 0,
            Self::Trees => (MAX_OBJECT + BUNDLE_LENGTH) as u64,
            Self::Blob => WHOLE_MAX,
            Self::Slice => slice_limit(MAX_RANGE / GROUP),
            Self::Pending => MAX_RANGE,
            Self::Outline => outline_limit(),
        }
    }
}

/// An upper bound for the length of a slice of so many groups.
pub(super) fn slice_limit(groups: u64) -> u64 {
    // Each group, a pair of hashes above each, and the pairs on the paths to the root from both ends.
    groups * (GROUP + 64) + 2 * MAX_DEPTH * 64
}

/// Why some bytes aren't a frame that may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    #[error("a frame with unknown flags {0:#x}")]
    Flags(u8),
    #[error("a frame that is too long")]
    TooLong,
    #[error("a frame whose lengths contradict each other")]
    Lengths,
    #[error("a frame that doesn't decompress to the length it states")]
    Compression,
    #[error("a bundle of tree objects that is cut off")]
    Bundle,
}

/// What precedes a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// Whether the payload is compressed with zstd.
    pub(super) compressed: bool,
    /// Which piece of the request this answers.
    pub(super) index: u32,
    /// The length of the payload as it follows, in bytes.
    pub(super) payload: u32,
    /// Its length when decompressed, in bytes.
    pub(super) length: u32,
}

impl Header {
    /// The length of a header, in bytes.
    pub(super) const LENGTH: usize = 14;

    pub(super) fn encode(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[0] = self.kind.code();
        bytes[1] = self.compressed.into();
        bytes[2..6].copy_from_slice(&self.index.to_be_bytes());
        bytes[6..10].copy_from_slice(&self.payload.to_be_bytes());
        bytes[10..14].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// Reads a header and checks that its payload is one that may be received.
    pub(super) fn decode(bytes: &[u8; Self::LENGTH]) -> Result<Self, FrameError> {
        let [kind, flags, i0, i1, i2, i3, p0, p1, p2, p3, l0, l1, l2, l3] = *bytes;
        let kind = Kind::from_code(kind).ok_or(FrameError::Kind(kind))?;
        let compressed = match flags {
            0 => false,
            1 => true,
            _ => return Err(FrameError::Flags(flags)),
        };
        let header = Self {
            kind,
            compressed,
            index: u32::from_be_bytes([i0, i1, i2, i3]),
            payload: u32::from_be_bytes([p0, p1, p2, p3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
        };
        if u64::from(header.length) > kind.limit() {
            return Err(FrameError::TooLong);
        }
        // Compression is only used where it saves something.
        let consistent =
            if compressed { header.payload < header.length } else { header.payload == header.length };
        if consistent { Ok(header) } else { Err(FrameError::Lengths) }
    }

    /// The payload as it was before compression. Never allocates more than the header states.
    pub(super) fn open(&self, payload: Bytes) -> Result<Bytes, FrameError> {
        if !self.compressed {
            return Ok(payload);
        }
        decompress(&payload, self.length as usize).ok_or(FrameError::Compression)
    }
}

/// Appends a frame without payload.
pub(super) fn put_empty(output: &mut Vec<u8>, kind: Kind, index: u32) {
    output.extend(Header { kind, compressed: false, index, payload: 0, length: 0 }.encode());
}

/// Appends a frame.
pub(super) fn put(output: &mut Vec<u8>, kind: Kind, index: u32, packed: &Packed) {
    let header = Header {
        kind,
        compressed: packed.compressed,
        index,
        payload: packed.body.len() as u32,
        length: packed.length,
    };
    output.reserve(Header::LENGTH + packed.body.len());
    output.extend(header.encode());
    output.extend_from_slice(&packed.body);
}

/// Appends an object to a bundle.
pub(super) fn put_object(bundle: &mut Vec<u8>, object: &[u8]) {
    bundle.extend((object.len() as u32).to_be_bytes());
    bundle.extend(object);
}

/// The objects in a bundle; at least one.
pub(super) fn objects(mut bundle: Bytes) -> Result<Vec<(Digest, Bytes)>, FrameError> {
    let mut objects = Vec::new();
    while !bundle.is_empty() || objects.is_empty() {
        let (length, _) = bundle.split_first_chunk::<BUNDLE_LENGTH>().ok_or(FrameError::Bundle)?;
        let end = BUNDLE_LENGTH + u32::from_be_bytes(*length) as usize;
        // An empty object is no tree object, and would let a bundle hold millions of nothings.
        if end == BUNDLE_LENGTH || end > bundle.len() {
            return Err(FrameError::Bundle);
        }
        let object = bundle.split_to(end).slice(BUNDLE_LENGTH..);
        objects.push((Digest::of(&object), object));
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::{Blob, encode_slice, hash_bytes};
    use proptest::prelude::*;

    fn take(bytes: &[u8]) -> Result<(Header, Bytes), FrameError> {
        let (header, payload) = bytes.split_first_chunk().unwrap();
        let header = Header::decode(header)?;
        Ok((header, header.open(Bytes::copy_from_slice(payload))?))
    }

    #[test]
    fn test_vector_of_frames() {
        let mut output = Vec::new();
        put(&mut output, Kind::Blob, 2, &Packed::new(b"hello"[..].into(), 1));
        put_empty(&mut output, Kind::Changed, 3);
        let mut bundle = Vec::new();
        put_object(&mut bundle, &[0x82, 0x00, 0x80]);
        put(&mut output, Kind::Trees, 0x01020304, &Packed::new(bundle.into(), 3));
        put_empty(&mut output, Kind::End, 5);
        assert_eq!(
            hex::encode(output),
            "020000000002000000050000000568656c6c6f\
             1100000000030000000000000000\
             010001020304000000070000000700000003820080\
             0000000000050000000000000000"
        );
    }

    #[test]
    fn compression_is_used_where_it_pays() {
        let text = b"def lookup(name): return table[name]\n".repeat(4000);
        let noise: Vec<u8> = (0..200_000).map(|_| rand::random()).collect();
        for (payload, pays) in [(&text[..], true), (&noise[..], false), (&text[..80], false)] {
            let mut output = Vec::new();
            put(&mut output, Kind::Blob, 0, &Packed::new(Bytes::copy_from_slice(payload), 1));
            let (header, opened) = take(&output).unwrap();
            assert_eq!((header.compressed, &opened[..]), (pays, payload));
        }
    }

    #[test]
    fn contradicting_headers_are_refused() {
        let header = |kind, flags, payload: u32, length: u32| {
            let mut bytes = [0; Header::LENGTH];
            bytes[0] = kind;
            bytes[1] = flags;
            bytes[6..10].copy_from_slice(&payload.to_be_bytes());
            bytes[10..].copy_from_slice(&length.to_be_bytes());
            Header::decode(&bytes)
        };
        assert_eq!(header(9, 0, 0, 0), Err(FrameError::Kind(9)));
        assert_eq!(header(2, 2, 1, 1), Err(FrameError::Flags(2)));
        assert_eq!(header(2, 0, u32::MAX, u32::MAX), Err(FrameError::TooLong));
        assert_eq!(header(2, 1, 10, WHOLE_MAX as u32 + 1), Err(FrameError::TooLong));
        assert_eq!(header(1, 1, 10, (MAX_OBJECT + 5) as u32), Err(FrameError::TooLong));
        assert_eq!(header(0, 0, 1, 1), Err(FrameError::TooLong));
        assert_eq!(header(2, 0, 4, 5), Err(FrameError::Lengths));
        assert_eq!(header(2, 1, 5, 5), Err(FrameError::Lengths));
        assert!(header(2, 1, 4, 5).is_ok());
    }

    #[test]
    fn a_zip_bomb_stays_within_its_stated_length() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
        for length in [bomb.len() as u32 + 1, 100_000] {
            let header =
                Header { kind: Kind::Blob, compressed: true, index: 0, payload: bomb.len() as u32, length };
            assert_eq!(header.open(bomb.clone().into()), Err(FrameError::Compression));
        }
        // Less than it states is no better.
        let short = zstd::bulk::compress(&[0; 5000], 1).unwrap();
        let header = Header {
            kind: Kind::Blob,
            compressed: true,
            index: 0,
            payload: short.len() as u32,
            length: 6000,
        };
        assert_eq!(header.open(short.into()), Err(FrameError::Compression));
    }

    #[test]
    fn every_slice_is_within_its_limit() {
        let bytes = vec![7; 3_000_001];
        let hashed = hash_bytes(&bytes);
        let blob = Blob { digest: hashed.digest, size: bytes.len() as u64 };
        for groups in [0..1, 183..184, 0..184, 91..93] {
            let count = groups.end - groups.start;
            let slice = encode_slice(blob, groups, &bytes, &hashed.outboard).unwrap();
            assert!(slice.len() as u64 <= slice_limit(count));
        }
    }

    #[test]
    fn bundles_are_whole() {
        let mut bundle = Vec::new();
        put_object(&mut bundle, b"one");
        put_object(&mut bundle, b"three");
        let found = objects(bundle.clone().into()).unwrap();
        assert_eq!(found, [(Digest::of(b"one"), "one".into()), (Digest::of(b"three"), "three".into())]);
        bundle.pop();
        for bad in [bundle, Vec::new(), vec![0; 4], vec![0; 3], vec![0xff; 8]] {
            assert_eq!(objects(bad.into()), Err(FrameError::Bundle));
        }
    }

    proptest! {
        #[test]
        fn random_frames_never_panic(bytes in proptest::collection::vec(any::<u8>(), 14..200)) {
            let _ = take(&bytes);
            let _ = objects(bytes.into());
        }

        #[test]
        fn random_payloads_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..200), length in 0..100_000u32) {
            let header = Header { kind: Kind::Trees, compressed: true, index: 0, payload: payload.len() as u32, length };
            let _ = header.open(payload.into());
        }
    }
}
