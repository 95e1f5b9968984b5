//! What the verbs about running environments take.

use std::{ffi::OsString, path::PathBuf};

use clap::{Subcommand, builder::OsStringValueParser, builder::TypedValueParser};
use twinshare::api::FilePath;

use super::{Format, workspace};

#[derive(Debug, clap::Args)]
pub(in super::super) struct Start {
    /// Whose workspace
    #[arg(value_name = "HOST/WORKSPACE", value_parser = OsStringValueParser::new().try_map(workspace))]
    pub(in super::super) workspace: FilePath,

    /// Which of its environments (default: the first)
    #[arg(value_name = "ENVIRONMENT")]
    pub(in super::super) environment: Option<String>,

    /// Let it use the network
    #[arg(long)]
    pub(in super::super) net: bool,

    /// Agree to what it runs
    #[arg(long, short)]
    pub(in super::super) yes: bool,

    /// Return when it's ready, not when it's begun
    #[arg(long, short)]
    pub(in super::super) wait: bool,

    /// Without its command: it's there for 'exec'
    #[arg(long)]
    pub(in super::super) idle: bool,

    /// Start it although this machine has less than it needs
    #[arg(long)]
    pub(in super::super) anyway: bool,

    #[command(flatten)]
    pub(in super::super) format: Format,
}

/// An environment that was started.
#[derive(Debug, clap::Args)]
pub(in super::super) struct Launched {
    /// Whose workspace
    #[arg(value_name = "HOST/WORKSPACE", value_parser = OsStringValueParser::new().try_map(workspace))]
    pub(in super::super) workspace: FilePath,

    /// Which of its environments (default: the one that runs)
    #[arg(value_name = "ENVIRONMENT")]
    pub(in super::super) environment: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(in super::super) struct Stop {
    #[command(flatten)]
    pub(in super::super) what: Launched,

    /// End it at once, without asking what runs in it
    #[arg(long, short)]
    pub(in super::super) force: bool,
}

#[derive(Debug, clap::Args)]
pub(in super::super) struct Ps {
    /// Also those that have ended
    #[arg(long, short)]
    pub(in super::super) all: bool,

    #[command(flatten)]
    pub(in super::super) format: Format,
}

#[derive(Debug, clap::Args)]
pub(in super::super) struct Logs {
    #[command(flatten)]
    pub(in super::super) what: Launched,

    /// Go on with what it prints from now on
    #[arg(long, short)]
    pub(in super::super) follow: bool,

    /// Only the last lines
    #[arg(long, short = 'n', value_name = "N")]
    pub(in super::super) tail: Option<usize>,

    /// With the time of each line
    #[arg(long, short)]
    pub(in super::super) timestamps: bool,
}

#[derive(Debug, clap::Args)]
pub(in super::super) struct Exec {
    /// Whose workspace
    #[arg(value_name = "HOST/WORKSPACE", value_parser = OsStringValueParser::new().try_map(workspace))]
    pub(in super::super) workspace: FilePath,

    /// Which of its environments (default: the one that runs)
    #[arg(long, short, value_name = "NAME")]
    pub(in super::super) environment: Option<String>,

    /// Without a terminal of its own, even here in one
    #[arg(long, short = 'T')]
    pub(in super::super) no_terminal: bool,

    /// What to run (default: a shell)
    #[arg(value_name = "CMD", last = true)]
    pub(in super::super) command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
pub(in super::super) struct Ports {
    #[command(flatten)]
    pub(in super::super) what: Launched,

    #[command(flatten)]
    pub(in super::super) format: Format,
}

#[derive(Debug, clap::Args)]
pub(in super::super) struct Secrets {
    #[command(subcommand)]
    pub(in super::super) verb: Option<SecretVerb>,

    #[command(flatten)]
    pub(in super::super) format: Format,
}

#[derive(Debug, Subcommand)]
pub(in super::super) enum SecretVerb {
    /// Set one: its value is asked for, or read from standard input
    Set {
        /// The variable's name
        name: String,
    },
    /// Forget one
    Forget {
        /// The variable's name
        name: String,
    },
}

#[derive(Debug, clap::Args)]
pub(in super::super) struct Ci {
    /// Whose workspace
    #[arg(value_name = "HOST/WORKSPACE", value_parser = OsStringValueParser::new().try_map(workspace))]
    pub(in super::super) workspace: FilePath,

    /// Which of its environments (default: the first)
    #[arg(value_name = "ENVIRONMENT")]
    pub(in super::super) environment: Option<String>,

    /// Write the results to this file, as JUnit's XML
    #[arg(long, value_name = "FILE")]
    pub(in super::super) junit: Option<PathBuf>,

    /// Let it use the network
    #[arg(long)]
    pub(in super::super) net: bool,

    /// Agree to what it runs
    #[arg(long, short)]
    pub(in super::super) yes: bool,
}
