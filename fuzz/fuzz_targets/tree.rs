//! A tree object from a peer: what is accepted has one encoding only, so that no two digests name the same folder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinshare::tree::{children, decode, encode};

fuzz_target!(|object: &[u8]| {
    let children = children(object);
    if let Ok(page) = decode(object) {
        assert_eq!(encode(&page), object);
        assert!(children.is_ok());
    }
});
