//! Running a workspace's environments. Runtimes: a process in a bubblewrap sandbox, containers, and plugins.

mod agent;
mod bubblewrap;
mod channel;
mod compose;
mod confine;
mod container;
mod fit;
mod limits;
mod machine;
mod plugin;
mod relay;
mod room;
mod sandbox;
mod script;
mod supervise;
mod system;
mod venv;

use std::path::PathBuf;

pub use agent::{Program, TerminalSize, reach, serve as serve_agent};
pub use bubblewrap::{SandboxSpec, arguments, find_bubblewrap};
pub use compose::{ComposeError, Here, agreement, commands, compose, with_profile};
pub use confine::filter;
pub use container::{Contained, ContainerRoot, Engine, sweep};
pub use fit::{Fit, Given, Thing, fit};
pub use limits::{Limits, Means};
pub use machine::{Gpu, Machine};
pub use plugin::{Plugged, VERSION as PLUGIN_VERSION, find_plugin};
pub use room::{Connection, Room, RoomError, Running, Streams};
pub use sandbox::{FILTER, Sandbox, Sandboxed, filter_file, with_filter};
pub use script::script_interpreter;
pub use supervise::{
    LAUNCH_FILE, LOG_FILE, LaunchSpec, LaunchState, Link, LinkError, LogLine, Phase, PortState, RoomSpec,
    STATE_FILE, ServiceSpec, ServiceState, Session, Tail, read, supervise,
};
pub use system::{System, is_system};
pub use venv::{Interpreter, VenvConfig};

/// Why an environment can't be run.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The sandbox program isn't installed.
    #[error("bubblewrap (bwrap), which isolates what is run, isn't installed: apt-get install bubblewrap")]
    NoBubblewrap,
    /// The workspace's original path can't be made in a sandbox.
    #[error("a workspace that stood at {} can't be run here: {reason}", path.display())]
    Place {
        /// The path on the owner's machine.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A pyvenv.cfg isn't one.
    #[error("the environment's pyvenv.cfg {0}")]
    VenvConfig(&'static str),
    /// The interpreter that a venv is based on isn't on this machine.
    #[error("the environment needs Python {version} at {}, which isn't on this machine: {reason}", home.display())]
    NoInterpreter {
        /// Its version, such as `3.11`.
        version: String,
        /// The folder where its executable is expected.
        home: PathBuf,
        /// What was looked for in vain, or why what is there won't do.
        reason: String,
    },
    /// What a script names in its first line isn't there in the sandbox.
    #[error(
        "{} begins with #!{}, and there is no such program: was the environment moved after it was made? \
         'python -m' and the tool's name may do",
        script.display(), interpreter.display()
    )]
    NoScriptInterpreter {
        /// The script.
        script: PathBuf,
        /// What is to run it.
        interpreter: PathBuf,
    },
    /// A folder of this machine can't be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}
