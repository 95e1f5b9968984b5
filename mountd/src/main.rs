//! The twinshare node: discovery, share service, cache and mount in one daemon.
//!
//! `twinshare up` starts it; it reads no environment variable and no configuration of its own choice.

mod control;
mod files;
mod fuse;
mod holder;
mod http;
mod launch;
mod listing;
mod neighbours;
mod node;
mod sharing;

use std::process::ExitCode;

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

fn main() -> ExitCode {
    let arguments = Arguments::parse().daemon;
    // fuser warns of every kind of request that the mount doesn't know. A log that can't be written is no reason to
    // end: the disk may be full.
    let levels = Targets::new().with_default(LevelFilter::INFO).with_target("fuser", LevelFilter::ERROR);
    let wanted = std::env::var("TWINSHARE_LOG").ok().and_then(|wanted| wanted.parse().ok());
    let levels = wanted.unwrap_or(levels);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .log_internal_errors(false);
    tracing_subscriber::registry().with(lines.with_filter(levels)).init();
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
