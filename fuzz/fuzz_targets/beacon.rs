//! A datagram from anybody on the network: what is taken for a beacon reads the same when it's read once more.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinshare::discovery::Beacon;

fuzz_target!(|datagram: &[u8]| {
    if let Ok((beacon, signed)) = Beacon::parse(datagram, 1_800_000_000_000) {
        assert!(signed || beacon.check().is_ok());
    }
});
