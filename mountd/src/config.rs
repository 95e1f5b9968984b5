//! What the user has written into `config.yaml` in the configuration folder.

use std::{
    io,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::Deserialize;
use twinshare::{
    peer::{BULK_SLOTS, Caps},
    types::ByteSize,
};

/// The file's name.
const FILE: &str = "config.yaml";

/// The settings. What the file doesn't say is as usual.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Networks beyond the LAN from which connections are taken.
    pub(crate) allow_from: Vec<IpNet>,
    /// Which network interfaces are used, for beacons and connections.
    pub(crate) interfaces: Interfaces,
    /// How much is sent and received in a second at most.
    pub(crate) bandwidth: BandwidthCaps,
    /// Bulk answers under way at a time.
    pub(crate) bulk_slots: usize,
    /// Whether everything is encrypted.
    pub(crate) encryption: Encryption,
    /// What makes containers.
    pub(crate) containers: Containers,
}

/// What makes containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Containers {
    /// The socket of an engine that has Docker's API; without it the usual ones are looked for.
    pub(crate) socket: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allow_from: Vec::new(),
            interfaces: Interfaces::default(),
            bandwidth: BandwidthCaps::default(),
            bulk_slots: BULK_SLOTS,
            encryption: Encryption::On,
            containers: Containers::default(),
        }
    }
}

/// Sizes a second; what isn't given has no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BandwidthCaps {
    pub(crate) up: Option<Speed>,
    pub(crate) down: Option<Speed>,
    pub(crate) up_each: Option<Speed>,
    pub(crate) down_each: Option<Speed>,
}

impl BandwidthCaps {
    pub(crate) fn caps(&self) -> Caps {
        let bytes = |speed: Option<Speed>| speed.map(|Speed(bytes)| bytes);
        Caps {
            up: bytes(self.up),
            down: bytes(self.down),
            up_each: bytes(self.up_each),
            down_each: bytes(self.down_each),
        }
    }
}

/// Bytes a second, written as a size: `10MB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub(crate) struct Speed(u64);

/// A size in YAML, where a plain number is no text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u64),
    Text(String),
}

impl TryFrom<Written> for Speed {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let bytes = match written {
            Written::Number(bytes) => bytes,
            Written::Text(text) => text.parse::<ByteSize>().map_err(|error| error.to_string())?.0,
        };
        match bytes {
            ..SLOWEST => Err(format!("{bytes} bytes a second are too slow to work with: at least {SLOWEST}")),
            _ => Ok(Self(bytes)),
        }
    }
}

/// A slower connection would run into every deadline there is.
const SLOWEST: u64 = 100_000;

/// Whether everything between nodes is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encryption {
    On,
    /// Those who ask for it are served without: what is public alone.
    Off,
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
///
/// The messages say all, so that none has a cause that would say it again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("can't read {}: {error}", path.display())]
    Disk { path: PathBuf, error: io::Error },
    #[error("{}: {error}", path.display())]
    Invalid { path: PathBuf, error: serde_yaml::Error },
    #[error("{}: bulk_slots is 0, so that nobody would ever have a turn: at least 1", path.display())]
    NoSlots { path: PathBuf },
}

impl Config {
    /// Reads the file in the folder; without one all is as usual.
    pub(crate) fn load(folder: &Path) -> Result<Self, ConfigError> {
        let path = folder.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(ConfigError::Disk { path, error }),
        };
        // An empty file, or one of comments only, is no mapping.
        let settings: Option<Self> = serde_yaml::from_str(&text)
            .map_err(|error| ConfigError::Invalid { path: path.clone(), error })?;
        let settings = settings.unwrap_or_default();
        if settings.bulk_slots == 0 {
            return Err(ConfigError::NoSlots { path });
        }
        Ok(settings)
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
        let config =
            load("bandwidth: {up: 10MB, down_each: 1500000}\nencryption: off\nbulk_slots: 2\n").unwrap();
        let caps = Caps { up: Some(10_000_000), down_each: Some(1_500_000), ..Caps::default() };
        assert_eq!((config.bandwidth.caps(), config.bulk_slots), (caps, 2));
        assert_eq!(
            (config.encryption, load("encryption: on\n").unwrap().encryption),
            (Encryption::Off, Encryption::On)
        );
        for (text, said) in [
            ("alow_from: []\n", "alow_from"),
            ("allow_from: [203.0.113.0/33]\n", "line 1"),
            ("interfaces: {only: [a]}\n", "only"),
            ("[", "config.yaml"),
            ("bandwidth: {up: quick}\n", "quick"),
            ("bandwidth: {up: 12}\n", "too slow"),
            ("bandwidth: {upp: 10MB}\n", "upp"),
            ("bulk_slots: 0\n", "at least 1"),
            ("encryption: maybe\n", "maybe"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("config.yaml"), "{text}: {error}");
        }
    }
}
