//! Environments that run.

use serde::{Deserialize, Serialize};

use super::RawText;
use crate::{
    runtime::LaunchState,
    types::{Digest, HostName, WorkspaceName},
    workspace::definition::Check,
};

/// Asks for an environment to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRequest {
    /// The host in whose folder the workspace is.
    pub host: HostName,
    /// The workspace.
    pub workspace: WorkspaceName,
    /// Which of its environments; the first when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Whether it may use the network.
    #[serde(default)]
    pub network: bool,
    /// What was agreed to, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed: Option<Digest>,
    /// To start it without its command, so that it's there for what is run in it.
    #[serde(default)]
    pub idle: bool,
    /// To start it although something that it needs is short.
    #[serde(default)]
    pub anyway: bool,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum StartAnswer {
    /// It's being started, or runs already.
    Started(Box<Launch>),
    /// This must be agreed to first: nothing was started.
    Agree(Agreement),
}

/// What is to be agreed to before an environment of somebody else is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// What to send as [`StartRequest::agreed`].
    pub digest: Digest,
    /// The environment's name.
    pub environment: String,
    /// What runs it.
    pub runtime: String,
    /// Whether something else was agreed to before.
    pub changed: bool,
    /// All commands that are run, each with what it's for.
    pub commands: Vec<(String, String)>,
    /// Whether they may use the network.
    pub network: bool,
    /// The names of the secrets that they get.
    pub secrets: Vec<String>,
    /// The ports at which they are reached.
    pub ports: Vec<u16>,
}

/// A launch of an environment, as it's remembered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Its identity: the same whenever this environment is started.
    pub id: String,
    /// The host in whose folder the workspace is.
    pub host: HostName,
    /// The workspace.
    pub workspace: WorkspaceName,
    /// The environment.
    pub environment: String,
    /// What runs it.
    pub runtime: String,
    /// The profile that was picked, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// How it's held to what it may use.
    pub limits: String,
    /// Where its files are, its log among them.
    pub folder: RawText,
    /// What tells whether it's as it should be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// How it is.
    pub state: LaunchState,
}
