//! A workspace's own description: the file workspace.yaml at its root.

mod manifest;

pub use manifest::{MANIFEST_FILE, MANIFEST_MAX, Manifest, ManifestError};
