//! The twinshare node: discovery, share service, cache and mount in one daemon.
//!
//! `twinshare up` starts it; it reads no environment variable and no configuration of its own choice.

mod audit;
mod cache;
mod changes;
mod config;
mod consent;
mod control;
mod environments;
mod events;
mod files;
mod fuse;
mod holder;
mod http;
mod launch;
mod launches;
mod layers;
mod listing;
mod neighbours;
mod node;
mod pairing;
mod passing;
mod readers;
mod sharing;
mod swarm;
mod visitors;

use std::{
    os::fd::RawFd,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};
use twinshare::api::DaemonArguments;

/// The twinshare node. Start it with `twinshare up`.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    daemon: DaemonArguments,
}

/// What else this program is: processes that live and end apart from the daemon.
#[derive(Parser)]
enum Part {
    /// Supervise the launch of this folder
    Attend {
        /// The launch's folder
        folder: PathBuf,
    },
    /// Connect to a port in the network of another process
    Reach {
        /// Which process
        #[arg(long)]
        process: i64,
        /// Which port
        #[arg(long)]
        port: u16,
        /// Descriptor of the socket on which the connection is handed over
        #[arg(long)]
        socket: RawFd,
    },
    /// Start what is told within a sandbox
    Agent {
        /// Descriptor of the socket on which it's told
        #[arg(long)]
        socket: RawFd,
    },
}

fn main() -> ExitCode {
    let is_part = std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == "attend" || first == "agent" || first == "reach");
    if !is_part {
        return start(Arguments::parse().daemon);
    }
    match Part::parse() {
        Part::Attend { folder } => attend(&folder),
        Part::Agent { socket } => code(&twinshare::runtime::serve_agent(socket)),
        Part::Reach { process, port, socket } => code(&twinshare::runtime::reach(process, port, socket)),
    }
}

fn start(arguments: DaemonArguments) -> ExitCode {
    let wanted = std::env::var_os("TWINSHARE_LOG").unwrap_or_default();
    let levels = levels(&wanted.to_string_lossy());
    // A log that can't be written is no reason to end: the disk may be full.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .log_internal_errors(false);
    let (levels, wrong) = match levels {
        Ok(levels) => (levels, None),
        Err(error) => (usual_levels(), Some(error)),
    };
    tracing_subscriber::registry().with(lines.with_filter(levels)).init();
    if let Some(error) = wrong {
        return failed(&error);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let result = runtime.block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        node::run(arguments, async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await
    });
    // Whatever still waits (a blocked disk, a silent peer) doesn't keep the process from ending.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn code(result: &std::io::Result<()>) -> ExitCode {
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Supervises a launch to its end. What it starts ends with this thread.
fn attend(folder: &Path) -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let supervised = runtime.block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let interrupted = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        twinshare::runtime::supervise(folder, interrupted).await
    });
    // Somebody's input may be read for ever.
    runtime.shutdown_background();
    match supervised {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error.into()),
    }
}

/// What is logged unless told otherwise. fuser warns of every kind of request that the mount doesn't know.
fn usual_levels() -> Targets {
    Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target("fuser", LevelFilter::ERROR)
        .with_target(fuse::REPLIES, LevelFilter::OFF)
}

/// What is logged: the usual, and what is `wanted` beside or instead, as in `twinshare::fetch=trace,debug`.
fn levels(wanted: &str) -> Result<Targets, node::StartError> {
    let usual = usual_levels();
    if wanted.is_empty() {
        return Ok(usual);
    }
    let parsed: Targets = wanted.parse().map_err(|error| {
        format!("TWINSHARE_LOG is '{wanted}': {error} (expected something like twinshare::fetch=trace)")
    })?;
    let usual = match parsed.default_level() {
        Some(level) => usual.with_default(level),
        None => usual,
    };
    Ok(usual.with_targets(parsed))
}

/// Says why the node ended, with all causes: `twinshare up` shows it to the user.
fn failed(error: &node::StartError) -> ExitCode {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    tracing::error!("{text}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::filter::LevelFilter as Level;

    use super::*;

    #[test]
    fn more_is_logged_where_wanted_and_the_usual_elsewhere() {
        let shown = |levels: &Targets, target: &str, level: Level| {
            levels.would_enable(target, &level.into_level().unwrap())
        };
        let more = levels("twinshare::fetch=trace").unwrap();
        assert!(shown(&more, "twinshare::fetch::lane", Level::TRACE));
        assert!(shown(&more, "twinshare_mountd", Level::INFO), "the usual stays");
        assert!(!shown(&more, "twinshare_mountd", Level::DEBUG) && !shown(&more, "fuser", Level::WARN));
        assert!(shown(&levels("debug").unwrap(), "twinshare_mountd", Level::DEBUG));
        assert_eq!(levels("").unwrap(), usual_levels());
        assert!(levels("twinshare=loud").unwrap_err().to_string().contains("TWINSHARE_LOG"));
    }
}
