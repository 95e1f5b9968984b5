//! What a peer says that it shares, with the heads of its workspaces, provisional ones among them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinshare::{peer::Catalogue, types::NodeId};

fuzz_target!(|json: &[u8]| {
    let Ok(catalogue) = serde_json::from_slice::<Catalogue>(json) else { return };
    for info in &catalogue.workspaces {
        // Nobody has signed it.
        assert!(info.head.verify(NodeId::from_bytes([7; 32])).is_err());
    }
    for grant in &catalogue.grants {
        assert!(grant.capability.verify().is_err());
    }
    let again = serde_json::to_vec(&catalogue).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<Catalogue>(&again).expect("and read again"), catalogue);
});
