//! What an environment is: how it's described in workspace.yaml, or derived from a project's files (docs/WORKSPACE.md).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An environment: something that can be started, with all that it needs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Environment {
    /// Its name within the workspace.
    pub name: String,
    /// What runs it: `process` (a sandbox, the default), `container`, `vm`, or the name of a plugin.
    #[serde(rename = "type", skip_serializing_if = "is_process")]
    pub runtime: String,
    /// What it is, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What is started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandLine>,
    /// Where, below the workspace's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// A container's image: a name, or an OCI layout or archive in the workspace as `oci:PATH`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// A container's image that is built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,
    /// A folder in the workspace that is a container's root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<String>,
    /// A VM's disk image in the workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// What is done once before the first start, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub setup: Vec<CommandLine>,
    /// What runs beside it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
    /// What a browser opens: `jupyter`, `vscode`, `terminal`, `chat`, or of a plugin.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// TCP ports that it listens on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// What it needs of the machine.
    #[serde(skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// Other values for machines that have something or lack it: the first whose resources the machine has counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<Profile>,
    /// Variables. `${NAME}` stands for the host's; what is secret is given by whoever starts it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Names of variables that are secret: their values come from the store of whoever starts it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Folders of the workspace that are elsewhere too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Whether it starts with the node.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub autostart: bool,
    /// What is done at which moment.
    #[serde(skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// What tells whether it's as it should be: `twinshare ci` runs these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// What must be agreed to before it runs on another's machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consent: Option<Consent>,
}

fn is_process(runtime: &str) -> bool {
    runtime.is_empty() || runtime == "process"
}

impl Environment {
    /// What runs it.
    pub fn runtime(&self) -> &str {
        if self.runtime.is_empty() { "process" } else { &self.runtime }
    }
}

/// A program with its arguments, or a line for a shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a line for the shell, or a list of a program and its arguments")]
pub enum CommandLine {
    /// A line for `sh -c`.
    Line(String),
    /// The program and its arguments.
    Words(Vec<String>),
}

impl std::fmt::Display for CommandLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line(line) => f.write_str(line),
            Self::Words(words) => {
                let quoted = shell_words::join(words);
                f.write_str(&quoted)
            }
        }
    }
}

impl CommandLine {
    /// The words among which the program that it names can be looked for: of a line for the shell, if it's a plain command.
    pub fn plain_words(&self) -> Vec<String> {
        match self {
            Self::Line(line) => shell_words::split(line).unwrap_or_default(),
            Self::Words(words) => words.clone(),
        }
    }

    /// The program and its arguments.
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::Line(line) => vec!["sh".to_owned(), "-c".to_owned(), line.clone()],
            Self::Words(words) => words.clone(),
        }
    }
}

/// How an image is built.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Build {
    /// The Containerfile, below the workspace's folder.
    pub file: String,
    /// The folder that it may take files from; the file's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The stage that is wanted of several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Its arguments.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
}

/// A process beside the environment's own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    /// Its name within the environment.
    pub name: String,
    /// What is started; in a container of its own the image's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandLine>,
    /// An image of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// An image of its own that is built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<Build>,
    /// When it's ready; as soon as it runs when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<Probe>,
    /// Services that must be ready before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// What happens when it ends.
    #[serde(skip_serializing_if = "is_default")]
    pub restart: Restart,
    /// TCP ports that it listens on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Variables of its own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How readiness shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a mapping with one of `tcp`, `http`, `command` and `log`")]
pub enum Probe {
    /// The port takes connections.
    Tcp {
        /// Which.
        tcp: u16,
    },
    /// The address answers with a status below 400.
    Http {
        /// Which.
        http: String,
    },
    /// The command succeeds.
    Command {
        /// Which.
        command: CommandLine,
    },
    /// A line with this text is printed.
    Log {
        /// Which.
        log: String,
    },
}

/// What happens when a service ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Nothing.
    #[default]
    Never,
    /// It's started again when it failed.
    OnFailure,
    /// It's started again.
    Always,
}

/// A TCP port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a port from 1 to 65535, or a mapping with `port` and `name`")]
pub enum Port {
    /// Its number.
    Number(#[schemars(range(min = 1))] u16),
    /// With a name.
    Named {
        /// Its number.
        #[schemars(range(min = 1))]
        port: u16,
        /// What it's called.
        name: String,
    },
}

impl Port {
    /// Its number.
    pub fn number(&self) -> u16 {
        match self {
            Self::Number(port) | Self::Named { port, .. } => *port,
        }
    }
}

/// What an environment needs of the machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Processor cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Amount>,
    /// Memory, as in `16GiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Amount>,
    /// Space on the disk, as in `40GB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<Amount>,
    /// Graphics processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Amount>,
}

impl Resources {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How much of something: wanted, and at least.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number or size, or a mapping with `wanted` and `minimum`")]
pub enum Amount {
    /// So much and no less.
    Exactly(Quantity),
    /// So much if there is, and at least so much.
    Between {
        /// As much as is good.
        wanted: Quantity,
        /// Less won't do.
        minimum: Quantity,
    },
}

/// A number, or a size as people write it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number, or a size like 16GiB")]
pub enum Quantity {
    /// A number.
    Number(f64),
    /// A size.
    Size(String),
}

/// Other values of an environment for some machines.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Profile {
    /// Its name within the environment, such as `gpu`.
    pub name: String,
    /// What is started instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandLine>,
    /// Another image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What it needs instead.
    #[serde(skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// Further variables.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Further set-up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub setup: Vec<CommandLine>,
}

/// A folder of the workspace that is elsewhere too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mount {
    /// Which, below the workspace's folder.
    pub source: String,
    /// Where, absolute.
    pub target: String,
    /// Whether it can't be changed there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// What is done at which moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// After a clone is complete.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cloned: Vec<CommandLine>,
    /// Before each start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub starting: Vec<CommandLine>,
    /// When it's ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub started: Vec<CommandLine>,
    /// After it has ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stopped: Vec<CommandLine>,
}

impl Hooks {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A check: it's passed when its command succeeds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Its name within the environment.
    pub name: String,
    /// What is run.
    pub command: CommandLine,
}

/// What must be agreed to before an environment runs on another's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Consent {
    /// Each start.
    Each,
    /// The first start, and each after the definition has changed.
    Once,
}

/// The JSON Schema of an environment, as docs/environment.schema.json has it.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Environment).to_value()
}
