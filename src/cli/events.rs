use std::io::{self, Write};

use jiff::tz::TimeZone;
use twinshare::{
    api::{Event, Happening},
    types::Digest,
};

use super::{failure::Failure, list::moment, session::Session};

pub(super) async fn follow(session: &Session, after: Option<u64>, as_json: bool) -> Result<String, Failure> {
    let client = session.client()?;
    let mut failed = None;
    let tell = |event: Event| {
        let line = if as_json { serde_json::to_string(&event).unwrap_or_default() } else { said(&event) };
        // Somebody may wait for the line at the other end of a pipe; and that end may be gone.
        let written = writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
        failed = written.err();
        failed.is_none()
    };
    tokio::select! {
        ended = client.events(after, tell) => ended?,
        _ = tokio::signal::ctrl_c() => {}
    }
    match failed {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("can't write to standard output: {error}")))
        }
        _ => Ok(String::new()),
    }
}

fn said(event: &Event) -> String {
    let of = |snapshot: &Option<Digest>| match snapshot {
        Some(snapshot) => format!(": snapshot {}", &snapshot.to_string()[..8]),
        None => String::new(),
    };
    let what = match &event.what {
        Happening::Missed => "some events were missed".to_owned(),
        Happening::WorkspaceAppeared { host, workspace, snapshot } => {
            format!("{host}/{workspace} appeared{}", of(snapshot))
        }
        Happening::WorkspaceChanged { host, workspace, snapshot } => {
            format!("{host}/{workspace} changed{}", of(snapshot))
        }
        Happening::EnvironmentChanged { host, workspace, environment, phase, code } => {
            let code = code.map(|code| format!(" with code {code}")).unwrap_or_default();
            format!("{environment} of {host}/{workspace}: {}{code}", phase.name())
        }
        Happening::WorkspaceLeft { host, workspace } => format!("{host}/{workspace} left"),
        Happening::HostOnline { host } => format!("{host} is online"),
        Happening::HostAway { host } => format!("{host} is away"),
        Happening::PeerAlert { peer, what } => {
            format!("something is wrong with {}: {what}", peer.short())
        }
        Happening::AccessRequested { workspace, peer, write } => {
            let wants = if *write { "change" } else { "read" };
            format!("{} asks to {wants} {workspace} ('twinshare requests')", peer.short())
        }
    };
    format!("{}  {what}", moment(event.at, &TimeZone::system()))
}
