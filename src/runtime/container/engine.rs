use std::{path::PathBuf, process::Stdio, time::Duration};

use bollard::{API_DEFAULT_VERSION, Docker};
use serde::{Deserialize, Serialize};
use tokio::process::Child;

use crate::runtime::room::RoomError;

/// How long an engine may take to answer, in seconds: images are built and loaded meanwhile.
const PATIENCE: u64 = 3600;

/// How long one that is started may take until it's there.
const BEGINNING: Duration = Duration::from_secs(20);

/// What makes containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// One that listens.
    Listening {
        /// Its socket.
        socket: PathBuf,
    },
    /// Podman, which listens for as long as it's needed.
    Podman {
        /// The program.
        program: PathBuf,
        /// Where it's to listen.
        socket: PathBuf,
    },
}

/// An engine that can be asked.
pub(super) struct Running {
    pub(super) docker: Docker,
    /// Ended when this is dropped.
    _service: Option<Child>,
}

impl Engine {
    /// The one that there is: of several sockets the first that is there, else Podman; `socket` is where that would listen.
    pub fn find(listening: &[PathBuf], socket: PathBuf) -> Option<Self> {
        let there = listening.iter().find(|path| path.exists());
        if let Some(socket) = there {
            return Some(Self::Listening { socket: socket.clone() });
        }
        let programs = ["/usr/bin/podman", "/usr/local/bin/podman"].map(PathBuf::from);
        let program = programs.into_iter().find(|program| program.is_file())?;
        Some(Self::Podman { program, socket })
    }

    pub(super) async fn open(&self) -> Result<Running, RoomError> {
        let (socket, service) = match self {
            Self::Listening { socket } => (socket, None),
            Self::Podman { program, socket } => {
                // What was left of one that was killed.
                let _ = std::fs::remove_file(socket);
                let mut command = tokio::process::Command::new(program);
                command.args(["system", "service", "--time=0"]);
                command.arg(format!("unix://{}", socket.display()));
                command.stdin(Stdio::null()).kill_on_drop(true);
                let service = command
                    .spawn()
                    .map_err(|source| RoomError::Start { program: program.clone(), source })?;
                (socket, Some(service))
            }
        };
        let text = socket.to_string_lossy();
        let asking = async {
            loop {
                let docker = Docker::connect_with_unix(&text, PATIENCE, API_DEFAULT_VERSION);
                let answer = match docker {
                    Ok(docker) => docker.ping().await.map(|_| docker),
                    Err(error) => Err(error),
                };
                match answer {
                    Ok(docker) => return Ok(docker),
                    Err(_) if service.is_some() => tokio::time::sleep(Duration::from_millis(50)).await,
                    Err(error) => return Err(error),
                }
            }
        };
        let silent = |why: String| {
            RoomError::Ended(format!("the container engine at {} doesn't answer: {why}", socket.display()))
        };
        let docker = match tokio::time::timeout(BEGINNING, asking).await {
            Ok(docker) => docker.map_err(|error| silent(error.to_string()))?,
            Err(_) => return Err(silent("it isn't there in time".to_owned())),
        };
        // Those that are older than this library are spoken to as they can.
        let docker = docker.negotiate_version().await.map_err(|error| silent(error.to_string()))?;
        Ok(Running { docker, _service: service })
    }
}
