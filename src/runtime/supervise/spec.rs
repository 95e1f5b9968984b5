//! What a supervisor is told of a launch, and what it tells of it: the files of the launch's folder.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::super::{agent::Program, container::Contained, plugin::Plugged, sandbox::Sandboxed};
use crate::workspace::definition::{Port, Probe, Restart};

/// Files of a launch's folder.
pub(crate) const SPEC: &str = "launch.json";
pub(crate) const STATE: &str = "state.json";
pub(crate) const LOG: &str = "log";
pub(crate) const SOCKET: &str = "s";

/// A launch: an environment, ready to be started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// How its room is made.
    pub room: RoomSpec,
    /// What is run before anything else, once: until the file is there, in which what was run is noted.
    #[serde(default)]
    pub setup: Vec<Program>,
    /// That file.
    #[serde(default)]
    pub setup_done: Option<PathBuf>,
    /// What is run before each start.
    #[serde(default)]
    pub starting: Vec<Program>,
    /// What the environment runs; without it, and without services, it's there for whoever runs something in it.
    #[serde(default)]
    pub main: Option<Program>,
    /// What runs beside it.
    #[serde(default)]
    pub services: Vec<ServiceSpec>,
    /// What is run when it's ready.
    #[serde(default)]
    pub started: Vec<Program>,
    /// What is run when it has ended.
    #[serde(default)]
    pub stopped: Vec<Program>,
    /// The ports that are reached from this machine.
    #[serde(default)]
    pub ports: Vec<Port>,
}

/// How a room is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoomSpec {
    /// A process sandbox.
    Process(Sandboxed),
    /// A container.
    Container(Contained),
    /// Whatever a plugin makes.
    Plugin(Plugged),
}

/// A process beside the environment's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Its name.
    pub name: String,
    /// What it runs.
    pub program: Program,
    /// When it's ready.
    #[serde(default)]
    pub ready: Option<Probe>,
    /// Services that must be ready before.
    #[serde(default)]
    pub after: Vec<String>,
    /// What happens when it ends.
    #[serde(default)]
    pub restart: Restart,
}

/// Where a launch is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Its set-up is being run.
    SettingUp,
    /// Its services are being started.
    Starting,
    /// It runs, and all that it needs is ready.
    Running,
    /// It's being stopped.
    Stopping,
    /// What it ran has ended, or it was stopped.
    Ended,
    /// It couldn't be started, or broke.
    Failed,
}

impl Phase {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::SettingUp => "setting up",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Ended => "ended",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing runs any more.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Ended | Self::Failed)
    }
}

/// How a launch is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchState {
    /// Where it is in its life.
    pub phase: Phase,
    /// Since when.
    pub since: Timestamp,
    /// The exit code of what it ran, or 128 and the number of the signal that ended that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// Why it's so, where that isn't clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its services.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, ServiceState>,
    /// Its ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortState>,
    /// The process that supervises it.
    pub supervisor: u32,
}

/// How a service is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    /// Whether it is at all.
    pub running: bool,
    /// Whether it was found ready.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// How it ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
}

/// Where a port is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortState {
    /// The port in the environment.
    pub port: u16,
    /// What it's called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The port of 127.0.0.1 at which it's reached on this machine: another where that one is taken.
    pub here: u16,
}

/// Reads one of the files of a launch's folder; none if it isn't there.
///
/// # Errors
/// When it can't be read, or isn't what it should be.
pub fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> io::Result<Option<T>> {
    match fs::read(folder.join(name)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces one of them: whoever reads it finds the old or the new content.
pub(crate) fn write(folder: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let temporary = folder.join(format!("{name}.new"));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(value)?)?;
    fs::rename(&temporary, folder.join(name))
}
