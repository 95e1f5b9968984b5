//! The verbs of `twinshare`. They read the environment and the terminal; all else they ask the node.

mod access;
mod archive;
mod arguments;
mod cache;
mod changes;
mod ci;
mod create;
mod doctor;
mod environments;
mod events;
mod failure;
mod id;
mod launch;
mod layer;
mod list;
mod mounts;
mod node;
mod output;
mod pair;
mod plan;
mod run;
mod session;
mod share;
mod state;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

use self::{
    arguments::{
        Arguments, CacheVerb, Format, GroupVerb, LayerVerb, PeerVerb, RequestVerb, Run, SecretVerb, Start,
        Verb,
    },
    failure::Failure,
    launch::Launch,
    session::Session,
};
use twinshare::api::Decision;

/// Runs what the command line says.
pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match answer(arguments.verb) {
        Ok(code) => code,
        Err(failure) => {
            // With standard error closed too, there's nobody left to tell.
            let _ = write!(io::stderr(), "{failure}");
            ExitCode::FAILURE
        }
    }
}

fn answer(verb: Verb) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("can't start: {error}")))?;
    let answer = runtime.block_on(perform(verb))?;
    // With it end the threads that it may have started: a launch wants to be alone.
    drop(runtime);
    match answer {
        Answer::Said { text, code } => print(&text).map(|()| code),
        Answer::Launch(launch) => launch.carry_out(),
    }
}

/// What comes of a verb in the end.
enum Answer {
    Said { text: String, code: ExitCode },
    Launch(Box<Launch>),
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self::Said { text, code: ExitCode::SUCCESS }
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
        Verb::Create(options) => create::create(&session, options).await?.into(),
        Verb::Export(options) => archive::export(&session, options).await?.into(),
        Verb::Import(options) => archive::import(options).await?.into(),
        Verb::Plan(options) => plan::plan(&session, &options.place, options.format.json).await?.into(),
        Verb::Resources(format) => plan::resources(&session, format.json).await?.into(),
        Verb::Start(options) => environments::start(&session, options).await?.into(),
        Verb::Stop(options) => environments::stop(&session, &options).await?.into(),
        Verb::Restart(options) => environments::restart(&session, options).await?.into(),
        Verb::Ps(options) => environments::list(&session, options.all, options.format.json).await?.into(),
        Verb::Logs(options) => environments::logs(&session, &options).await?.into(),
        Verb::Exec(options) => environments::exec(&session, options).await?,
        Verb::Ports(options) => {
            environments::ports(&session, &options.what, options.format.json).await?.into()
        }
        Verb::Ci(options) => ci::ci(&session, options).await?,
        Verb::Wait(what) => environments::wait(&session, &what).await?,
        Verb::Secret(secrets) => match secrets.verb {
            None => environments::secrets(&session, secrets.format.json).await?.into(),
            Some(SecretVerb::Set { name }) => environments::set_secret(&session, &name).await?.into(),
            Some(SecretVerb::Forget { name }) => environments::forget_secret(&session, &name).await?.into(),
        },
        Verb::Run(Run { workspace, net, environment: Some(environment), yes, .. }) => {
            let (environment, format) = (Some(environment), Format { json: false });
            let options =
                Start { workspace, environment, net, yes, wait: false, idle: false, anyway: false, format };
            environments::run(&session, &options).await?
        }
        Verb::Run(options) => Answer::Launch(Box::new(run::run(&session, options).await?)),
        Verb::Enter(options) => match launch::enter(&options)? {},
        Verb::Peer(PeerVerb::List(format)) => list::peers(&session, format.json).await?.into(),
        Verb::Peer(PeerVerb::Add { address }) => list::add_peer(&session, address).await?.into(),
        Verb::Requests(requests) => match requests.verb {
            None => share::requests(&session, requests.format.json).await?.into(),
            Some(RequestVerb::Allow { whom, write, once }) => {
                let decision = match (write, once) {
                    (true, _) => Decision::Write,
                    (false, true) => Decision::Once,
                    (false, false) => Decision::Allow,
                };
                share::decide(&session, whom, decision).await?.into()
            }
            Some(RequestVerb::Deny(whom)) => share::decide(&session, whom, Decision::Deny).await?.into(),
        },
        Verb::Access(options) => access::access(&session, options).await?.into(),
        Verb::Group(group) => match group.verb {
            None => access::groups(&session, group.format.json).await?.into(),
            Some(GroupVerb::Add { group, peers }) => {
                access::change_group(&session, &group, &peers, true).await?.into()
            }
            Some(GroupVerb::Remove { group, peers }) => {
                access::change_group(&session, &group, &peers, false).await?.into()
            }
        },
        Verb::Pair { peer: None, .. } => pair::invite(&session).await?.into(),
        Verb::Pair { peer: Some(peer), code: Some(code) } => pair::join(&session, &peer, code).await?.into(),
        // Clap sees to it that this isn't so.
        Verb::Pair { .. } => return Err(Failure::new("the code is missing")),
        Verb::Unpair { peer } => pair::unpair(&session, &peer).await?.into(),
        Verb::Transfers(format) => share::transfers(&session, format.json).await?.into(),
        Verb::Audit(format) => access::audit(&session, format.json).await?.into(),
        Verb::Id(format) => id::id(&session, format.json).await?.into(),
        Verb::Cache(options) => match options.verb {
            None => cache::cache(&session, options.format.json).await?.into(),
            Some(CacheVerb::Clear { place, format }) => {
                let place = match place {
                    Some(place) => Some(session.locate(&place).await?),
                    None => None,
                };
                cache::clear(&session, place.as_ref(), format.json).await?.into()
            }
        },
        Verb::Diff { what, text } => {
            changes::diff(&session, &session.locate(&what.path).await?, text, what.format.json).await?.into()
        }
        Verb::Discard(what) => {
            changes::discard(&session, &session.locate(&what.path).await?, what.format.json).await?.into()
        }
        Verb::Layer(LayerVerb::Export { what, file }) => {
            layer::export(&session, &session.locate(&what).await?, &file).await?.into()
        }
        Verb::History(what) => {
            changes::history(&session, &session.locate(&what.path).await?, what.format.json).await?.into()
        }
        Verb::Push(what) => {
            changes::push(&session, &session.locate(&what.path).await?, what.format.json).await?.into()
        }
        Verb::Pull(what) => {
            changes::pull(&session, &session.locate(&what.path).await?, what.format.json).await?.into()
        }
        Verb::Prefetch(what) => {
            cache::prefetch(&session, &session.locate(&what.path).await?, what.format.json).await?.into()
        }
        Verb::Pin(what) => {
            cache::pin(&session, &session.locate(&what.path).await?, what.format.json).await?.into()
        }
        Verb::Unpin { path } => cache::unpin(&session, &session.locate(&path).await?).await?.into(),
        Verb::State(what) => {
            state::state(&session, &session.locate(&what.path).await?, what.format.json).await?.into()
        }
        Verb::Events { after, format } => events::follow(&session, after, format.json).await?.into(),
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
