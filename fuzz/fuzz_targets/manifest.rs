//! A workspace.yaml from anybody.
#![no_main]

use libfuzzer_sys::fuzz_target;
use twinshare::workspace::Manifest;

fuzz_target!(|text: &[u8]| {
    if let Ok(Some(manifest)) = Manifest::parse(text) {
        let _ = (manifest.environment_names().count(), manifest.project_names().count());
    }
});
