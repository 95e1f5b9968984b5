//! Files of a project, from which environments are derived: each of them has the same text.
#![no_main]

use std::io;

use libfuzzer_sys::fuzz_target;
use twinshare::workspace::{Files, plan};

/// All files that are looked at, but workspace.yaml, which has a target of its own unless it's meant.
const NAMES: [&str; 11] = [
    ".devcontainer.json", "Cargo.toml", "Dockerfile", "Makefile", "compose.yaml", "environment.yml", "go.mod", "package.json",
    "pyproject.toml", "requirements.txt", "uv.lock",
];

struct Same<'a>(&'a [u8]);

impl Files for Same<'_> {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let described = self.0.starts_with(b"environments:");
        let there = if described { path == "workspace.yaml" } else { NAMES.contains(&path) };
        Ok(there.then(|| self.0.to_vec()))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        Ok(if folder.is_empty() { NAMES.map(str::to_owned).to_vec() } else { Vec::new() })
    }
}

fuzz_target!(|text: &[u8]| {
    let _ = plan(&Same(text));
});
