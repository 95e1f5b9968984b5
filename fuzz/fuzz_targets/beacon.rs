//! A datagram from anybody on the network: a bounded one is made of it, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinshare::discovery::Beacon;

fuzz_target!(|datagram: &[u8]| {
    if let Ok((beacon, _)) = Beacon::parse(datagram, 1_800_000_000_000) {
        // What is kept of it is no larger than what could be sent.
        assert!(format!("{beacon:?}").len() < 1 << 20);
    }
});
