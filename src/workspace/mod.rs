//! What a workspace is: its own description, the file workspace.yaml at its root; and workspaces as archives, and from templates.

pub mod archive;
pub mod definition;
mod detect;
mod manifest;
mod plan;
pub mod template;

pub use manifest::{MANIFEST_FILE, MANIFEST_MAX, Manifest, ManifestError};
pub use plan::{Files, Folder, Plan, PlanError, Planned, plan};
