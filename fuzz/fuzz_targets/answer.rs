//! What an owner answers: the request as JSON, a zero byte, and the answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinshare::peer::fuzzing;

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(2, |byte| *byte == 0);
    if let (Some(request), Some(answer)) = (parts.next(), parts.next()) {
        fuzzing::answer(request, answer);
    }
});
