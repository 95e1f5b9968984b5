//! What a guest wants changed in an owner's folder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinshare::peer::fuzzing;

fuzz_target!(|cbor: &[u8]| fuzzing::edit(cbor));
