//! What the user has written into `config.yaml` in the configuration folder.

use std::{
    io,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::Deserialize;

/// The file's name.
const FILE: &str = "config.yaml";

/// The settings. What the file doesn't say is as usual.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Networks beyond the LAN from which connections are taken.
    pub(crate) allow_from: Vec<IpNet>,
    /// Which network interfaces are used, for beacons and connections.
    pub(crate) interfaces: Interfaces,
}

/// Names of interfaces; one may end in `*`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Interfaces {
    /// When there are any, only these.
    pub(crate) allow: Vec<String>,
    /// Never these.
    pub(crate) deny: Vec<String>,
}

/// Why the settings can't be used. They aren't guessed at: what was meant to keep somebody out must not be skipped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("can't read {}: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Invalid { path: PathBuf, source: serde_yaml::Error },
}

impl Config {
    /// Reads the file in the folder; without one all is as usual.
    pub(crate) fn load(folder: &Path) -> Result<Self, ConfigError> {
        let path = folder.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(ConfigError::Disk { path, source }),
        };
        // An empty file, or one of comments only, is no mapping.
        let settings: Option<Self> =
            serde_yaml::from_str(&text).map_err(|source| ConfigError::Invalid { path, source })?;
        Ok(settings.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_mistakes_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let load = |text: &str| {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            Config::load(folder.path())
        };
        assert_eq!(Config::load(folder.path()).unwrap(), Config::default());
        assert_eq!(load("# nothing\n").unwrap(), Config::default());
        let config =
            load("allow_from: [203.0.113.0/24, '2001:db8::/32']\ninterfaces:\n  deny: [wlan*]\n").unwrap();
        assert_eq!((config.allow_from.len(), config.interfaces.deny), (2, vec!["wlan*".to_owned()]));
        for (text, said) in [
            ("alow_from: []\n", "alow_from"),
            ("allow_from: [203.0.113.0/33]\n", "line 1"),
            ("interfaces: {only: [a]}\n", "only"),
            ("[", "config.yaml"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("config.yaml"), "{text}: {error}");
        }
    }
}
