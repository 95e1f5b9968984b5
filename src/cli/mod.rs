//! The verbs of `twinshare`. They read the environment and the terminal; all else they ask the node.

mod arguments;
mod doctor;
mod failure;
mod list;
mod mounts;
mod node;
mod output;
mod run;
mod session;
mod share;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

use self::{
    arguments::{Arguments, PeerVerb, RequestVerb, Verb},
    failure::Failure,
    session::Session,
};
use twinshare::api::Decision;

/// Runs what the command line says.
pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("can't start: {error}")))
        .and_then(|runtime| runtime.block_on(perform(arguments.verb)))
        .and_then(|answer| print(&answer.text).map(|()| answer.code));
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            // With standard error closed too, there's nobody left to tell.
            let _ = write!(io::stderr(), "{failure}");
            ExitCode::FAILURE
        }
    }
}

/// What a verb has to say in the end.
struct Answer {
    text: String,
    code: ExitCode,
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self { text, code: ExitCode::SUCCESS }
    }
}

async fn perform(verb: Verb) -> Result<Answer, Failure> {
    let session = Session::from_environment()?;
    Ok(match verb {
        Verb::Up(up) => node::up(&session, up).await?.into(),
        Verb::Down => node::down(&session).await?.into(),
        Verb::Status(format) => node::status(&session, format.json).await?.into(),
        Verb::Share(options) => share::share(&session, options).await?.into(),
        Verb::Unshare { workspace } => share::unshare(&session, &workspace).await?.into(),
        Verb::Ls(options) => list::ls(&session, options).await?.into(),
        Verb::Run(options) => match run::run(&session, options).await? {},
        Verb::Peer(PeerVerb::List(format)) => list::peers(&session, format.json).await?.into(),
        Verb::Peer(PeerVerb::Add { address }) => list::add_peer(&session, address).await?.into(),
        Verb::Requests(requests) => match requests.verb {
            None => share::requests(&session, requests.format.json).await?.into(),
            Some(RequestVerb::Allow(whom)) => share::decide(&session, whom, Decision::Allow).await?.into(),
            Some(RequestVerb::Deny(whom)) => share::decide(&session, whom, Decision::Deny).await?.into(),
        },
        Verb::Doctor(format) => doctor::doctor(&session, format.json).await?,
    })
}

/// Writes to standard output. A reader that went away, as `head` does, has had enough: that's no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("can't write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
