//! Ranges with their proof, and outlines: nothing but the blob's own bytes is taken for them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinshare::{
    blob::{Blob, Outline, VerifiedSlice, encode_slice, hash_bytes},
    types::Digest,
};

fuzz_target!(|input: (u32, u8, u8, Vec<u8>)| {
    let (size, start, length, encoded) = input;
    let size = u64::from(size) % (8 << 20);
    let (start, end) = (u64::from(start), u64::from(start) + u64::from(length));
    let stranger = Blob { digest: Digest::from_bytes([7; 32]), size };
    assert!(VerifiedSlice::verify(stranger, start..end, &encoded).is_err());
    assert!(Outline::verify(stranger, start % 4, &encoded).is_err());
    // Of a real blob only the real encoding is accepted.
    let bytes: Vec<u8> = (0..300_000_u32).map(|byte| (byte >> 5) as u8).collect();
    let hashed = hash_bytes(&bytes);
    let blob = Blob { digest: hashed.digest, size: bytes.len() as u64 };
    let groups = start % blob.groups()..(start % blob.groups() + 1 + u64::from(length) % 4).min(blob.groups());
    let mut right = encode_slice(blob, groups.clone(), &bytes, &hashed.outboard).expect("a range of it");
    assert!(VerifiedSlice::verify(blob, groups.clone(), &right).is_ok());
    for (place, byte) in encoded.iter().enumerate().filter(|(_, byte)| **byte != 0).take(4) {
        let place = (place * 7919 + (start as usize) * 251) % right.len();
        right[place] ^= byte;
    }
    if let Ok(slice) = VerifiedSlice::verify(blob, groups.clone(), &right) {
        let first = groups.start as usize * 16384;
        assert!(slice.leaves().concat().iter().eq(bytes[first..].iter().take(slice.leaves().concat().len())));
    }
});
