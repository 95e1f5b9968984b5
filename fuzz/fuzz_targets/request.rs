//! What a reader asks an owner for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinshare::peer::fuzzing;

fuzz_target!(|json: &[u8]| fuzzing::request(json));
