//! Environments that run: started, looked at, entered and ended.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, IsTerminal, Read, Write},
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
    thread,
};

use jiff::{Timestamp, tz::TimeZone};
use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use twinshare::{
    api::{Agreement, Client, FilePath, Launch, StartAnswer, StartRequest},
    runtime::{
        LaunchState, Link, LinkError, LogLine, Phase, Program, STATE_FILE, Session as Running, Streams, Tail,
        read,
    },
};

use super::{
    Answer,
    arguments::{Exec, Launched, Logs, Start, Stop},
    failure::Failure,
    list::moment,
    output::{Side, duration, json, plain, table},
    session::Session,
};

/// Starts an environment; asks what must be agreed to.
pub(super) async fn start(session: &Session, options: Start) -> Result<String, Failure> {
    let client = session.client()?;
    let mut launch = begin(&client, &options).await?;
    if options.wait {
        launch.state = ready(&launch).await?;
    }
    if launch.state.phase == Phase::Failed {
        ended(&launch)?;
    }
    if options.format.json {
        return json(&launch);
    }
    Ok(format!("{}\n", said(&launch)))
}

/// Waits until a launch is ready, or over.
pub(super) async fn ready(launch: &Launch) -> Result<LaunchState, Failure> {
    let cannot = |error: LinkError| Failure::new(format!("can't wait for it: {error}"));
    let mut state = launch.state.clone();
    let link = match Link::open(launch.folder.as_path()) {
        // It has ended meanwhile.
        Err(LinkError::Over) => {
            return Ok(read(launch.folder.as_path(), STATE_FILE).ok().flatten().unwrap_or(state));
        }
        link => link.map_err(cannot)?,
    };
    link.watch().await.map_err(cannot)?;
    while let Some(now) = link.state().await.map_err(cannot)? {
        state = now;
        if state.phase == Phase::Running || state.phase.is_over() {
            break;
        }
    }
    Ok(state)
}

/// Starts an environment, shows what it prints, and ends it with Ctrl-C; the exit code is that of what it runs.
pub(super) async fn run(session: &Session, options: &Start) -> Result<Answer, Failure> {
    let client = session.client()?;
    let launch = begin(&client, options).await?;
    let folder = launch.folder.as_path().to_path_buf();
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let shown = async {
        let mut tail = Tail::open(&folder)?;
        follow(&folder, &mut tail, launch.state.since).await
    };
    tokio::select! {
        shown = shown => shown.map_err(|error| Failure::new(format!("can't show what it prints: {error}")))?,
        _ = interrupt.recv() => drop(client.stop(&launch.id, false).await?),
        _ = terminate.recv() => drop(client.stop(&launch.id, false).await?),
    }
    let launch = client.wait(&launch.id).await?;
    let code = ExitCode::from(ended(&launch)?);
    Ok(Answer::Said { text: String::new(), code })
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(format!("can't take signals: {error}")))
}

pub(super) async fn begin(client: &Client, options: &Start) -> Result<Launch, Failure> {
    let place = &options.workspace;
    let mut request = StartRequest {
        host: place.host.clone(),
        workspace: place.workspace.clone(),
        environment: options.environment.clone(),
        network: options.net,
        agreed: None,
        idle: options.idle,
        anyway: options.anyway,
    };
    loop {
        match client.start(&request).await? {
            StartAnswer::Started(launch) => return Ok(*launch),
            StartAnswer::Agree(agreement) => {
                agree(place, &agreement, options.yes)?;
                request.agreed = Some(agreement.digest);
            }
        }
    }
}

/// Shows what is to be agreed to, and asks.
fn agree(place: &FilePath, agreement: &Agreement, yes: bool) -> Result<(), Failure> {
    let mut text = format!("'{}' of {place}", plain(&agreement.environment));
    text += if agreement.changed {
        " has changed since you agreed to it. It runs now, in a sandbox:\n"
    } else {
        " runs this, in a sandbox:\n"
    };
    let rows: Vec<_> =
        agreement.commands.iter().map(|(what, command)| [plain(what), plain(command)]).collect();
    for line in super::output::lines([Side::Left; 2], rows.iter()).lines() {
        text += &format!("  {line}\n");
    }
    if rows.is_empty() {
        text += "  nothing by itself: it's there for 'twinshare exec'\n";
    }
    if agreement.network {
        text += "It may use the network.\n";
    }
    if !agreement.secrets.is_empty() {
        text += &format!("It gets these secrets of yours: {}\n", plain(&agreement.secrets.join(", ")));
    }
    if !agreement.ports.is_empty() {
        let ports: Vec<_> = agreement.ports.iter().map(u16::to_string).collect();
        text += &format!("It's reached at port {} of this machine.\n", ports.join(", "));
    }
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(
            Failure::new(format!("{text}This must be agreed to first.")).with_remedy("'--yes' agrees to it")
        );
    }
    let failed = |error: io::Error| Failure::new(format!("can't ask: {error}"));
    let mut error = io::stderr();
    write!(error, "{text}Start it? [y/N] ").and_then(|()| error.flush()).map_err(failed)?;
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(failed)?;
    match line.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new("it wasn't agreed to, and nothing was started")),
    }
}

fn said(launch: &Launch) -> String {
    let state = &launch.state;
    let mut text =
        format!("{} of {}/{} is {}", launch.environment, launch.host, launch.workspace, state.phase.name());
    if let Some(code) = state.code {
        text += &format!(" with code {code}");
    }
    if let Some(reason) = &state.reason {
        text += &format!(": {}", plain(reason));
    }
    for port in &state.ports {
        let name = port.name.as_ref().map(|name| format!(" ({})", plain(name))).unwrap_or_default();
        text += &format!("\nport {}{name} is at 127.0.0.1:{}", port.port, port.here);
    }
    text
}

/// The exit code of what a launch ran.
pub(super) fn ended(launch: &Launch) -> Result<u8, Failure> {
    match (launch.state.phase, launch.state.code) {
        (Phase::Failed, _) => Err(Failure::new(said(launch)).with_remedy(format!(
            "'twinshare logs {}/{} {}' shows what it printed",
            launch.host, launch.workspace, launch.environment
        ))),
        (_, code) => Ok(code.unwrap_or(0)),
    }
}

/// The launch that is meant: of several environments the one that runs.
async fn find(client: &Client, what: &Launched) -> Result<Launch, Failure> {
    let Launched { workspace: place, environment } = what;
    let mut found: Vec<_> = client
        .environments()
        .await?
        .into_iter()
        .filter(|launch| launch.host == place.host && launch.workspace == place.workspace)
        .filter(|launch| environment.as_ref().is_none_or(|name| *name == launch.environment))
        .collect();
    if found.len() > 1 && found.iter().any(|launch| !launch.state.phase.is_over()) {
        found.retain(|launch| !launch.state.phase.is_over());
    }
    let names = || found.iter().map(|launch| launch.environment.clone()).collect::<Vec<_>>().join(", ");
    match &found[..] {
        [] => {
            let name = environment.as_ref().map(|name| format!("'{}' of ", plain(name))).unwrap_or_default();
            Err(Failure::new(format!("{name}{place} wasn't started here"))
                .with_remedy(format!("'twinshare start {place}' starts it, 'twinshare ps' lists what was")))
        }
        [_] => Ok(found.remove(0)),
        _ => Err(Failure::new(format!("several environments of {place} are meant"))
            .with_remedy(format!("name one of them: {}", names()))),
    }
}

pub(super) async fn stop(session: &Session, options: &Stop) -> Result<String, Failure> {
    let client = session.client()?;
    let launch = find(&client, &options.what).await?;
    let launch = client.stop(&launch.id, options.force).await?;
    Ok(format!("{}\n", said(&launch)))
}

pub(super) async fn restart(session: &Session, options: Start) -> Result<String, Failure> {
    let client = session.client()?;
    let what = Launched { workspace: options.workspace.clone(), environment: options.environment.clone() };
    let launch = find(&client, &what).await?;
    client.stop(&launch.id, false).await?;
    let options = Start { environment: Some(launch.environment), ..options };
    start(session, options).await
}

pub(super) async fn wait(session: &Session, what: &Launched) -> Result<Answer, Failure> {
    let client = session.client()?;
    let launch = client.wait(&find(&client, what).await?.id).await?;
    Ok(Answer::Said { code: ExitCode::from(ended(&launch)?), text: format!("{}\n", said(&launch)) })
}

pub(super) async fn list(session: &Session, all: bool, as_json: bool) -> Result<String, Failure> {
    let launches: Vec<_> = session.client()?.environments().await?;
    let launches: Vec<_> =
        launches.into_iter().filter(|launch| all || !launch.state.phase.is_over()).collect();
    if as_json {
        return json(&launches);
    }
    if launches.is_empty() {
        return Ok("no environment runs; 'twinshare start HOST/WORKSPACE' starts one\n".to_owned());
    }
    let now = Timestamp::now();
    let row = |launch: &Launch| {
        let state = &launch.state;
        let mut how = state.phase.name().to_owned();
        if let Some(code) = state.code {
            how += &format!(" ({code})");
        }
        let waits = state.services.iter().filter(|(_, service)| !service.ready);
        let waits: Vec<_> = waits.map(|(name, _)| plain(name)).collect();
        if !waits.is_empty() && !state.phase.is_over() {
            how += &format!(", not ready: {}", waits.join(", "));
        }
        let seconds = now.duration_since(state.since).as_secs();
        let ports = state.ports.iter().map(|port| match port.port == port.here {
            true => port.here.to_string(),
            false => format!("{} at {}", port.port, port.here),
        });
        [
            format!("{}/{}", launch.host, launch.workspace),
            plain(&launch.environment),
            plain(&launch.runtime),
            how,
            duration(u64::try_from(seconds).unwrap_or(0)),
            ports.collect::<Vec<_>>().join(", "),
        ]
    };
    let rows: Vec<_> = launches.iter().map(row).collect();
    let columns = ["WORKSPACE", "ENVIRONMENT", "TYPE", "STATE", "SINCE", "PORTS"];
    Ok(table(columns.map(|heading| (heading, Side::Left)), &rows))
}

pub(super) async fn ports(session: &Session, what: &Launched, as_json: bool) -> Result<String, Failure> {
    let launch = find(&session.client()?, what).await?;
    if as_json {
        return json(&launch.state.ports);
    }
    if launch.state.ports.is_empty() {
        return Ok("it has no ports\n".to_owned());
    }
    let rows: Vec<_> = launch
        .state
        .ports
        .iter()
        .map(|port| {
            let name = port.name.as_deref().map(plain).unwrap_or_default();
            [port.port.to_string(), name, format!("127.0.0.1:{}", port.here)]
        })
        .collect();
    Ok(table(["PORT", "NAME", "HERE"].map(|heading| (heading, Side::Left)), &rows))
}

/// Shows what an environment printed; with `follow` also what it prints from now on.
pub(super) async fn logs(session: &Session, options: &Logs) -> Result<String, Failure> {
    let launch = find(&session.client()?, &options.what).await?;
    let folder = launch.folder.as_path();
    let cannot = |error: io::Error| Failure::new(format!("can't read the log: {error}"));
    let mut tail = Tail::open(folder).map_err(cannot)?;
    let mut lines = Vec::new();
    while let Some(line) = tail.next_line().map_err(cannot)? {
        lines.push(line);
    }
    let skipped = options.tail.map_or(0, |most| lines.len().saturating_sub(most));
    let zone = options.timestamps.then(TimeZone::system);
    let print = |line: &LogLine| {
        let time = zone.as_ref().map(|zone| moment(line.time, zone) + "  ").unwrap_or_default();
        writeln!(io::stdout(), "{time}{} | {}", plain(&line.from), line.text)
    };
    let result = lines[skipped..].iter().try_for_each(&print);
    let result = match result {
        Ok(()) if options.follow => tokio::select! {
            result = follow_with(folder, &mut tail, print) => result,
            _ = tokio::signal::ctrl_c() => Ok(()),
        },
        result => result,
    };
    match result {
        // Whoever read it has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(String::new()),
        result => result.map(|()| String::new()).map_err(cannot),
    }
}

/// Shows what is printed from a time on, as it's printed, to the end of the launch.
async fn follow(folder: &std::path::Path, tail: &mut Tail, from: Timestamp) -> io::Result<()> {
    follow_with(folder, tail, |line| match line.from.as_str() {
        _ if line.time < from => Ok(()),
        "main" => writeln!(io::stdout(), "{}", line.text),
        from => writeln!(io::stderr(), "{} | {}", plain(from), line.text),
    })
    .await
}

async fn follow_with(
    folder: &std::path::Path,
    tail: &mut Tail,
    print: impl Fn(&LogLine) -> io::Result<()>,
) -> io::Result<()> {
    let link = Link::open(folder).ok();
    if let Some(link) = &link
        && link.follow().await.is_err()
    {
        return Ok(());
    }
    loop {
        let more = match &link {
            Some(link) => link.printed().await.unwrap_or(false),
            None => false,
        };
        while let Some(line) = tail.next_line()? {
            print(&line)?;
        }
        if !more {
            return Ok(());
        }
    }
}

/// Runs a command in a running environment.
pub(super) async fn exec(session: &Session, options: Exec) -> Result<Answer, Failure> {
    let launch = find(
        &session.client()?,
        &Launched { workspace: options.workspace, environment: options.environment },
    )
    .await?;
    let cannot = |error: LinkError| Failure::new(format!("can't run it there: {error}"));
    let link = Link::open(launch.folder.as_path()).map_err(|error| {
        let name = format!("{}/{} {}", launch.host, launch.workspace, launch.environment);
        cannot(error).with_remedy(format!("'twinshare start {name}' starts the environment"))
    })?;
    let words = if options.command.is_empty() { shell() } else { options.command };
    let variables = [("TERM", std::env::var_os("TERM"))];
    let variables = variables.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let program = Program { words, variables: variables.collect(), directory: None };
    let in_terminal = !options.no_terminal && io::stdin().is_terminal() && io::stdout().is_terminal();
    let code = if in_terminal {
        let size = tcgetwinsize(io::stdout()).map_or((24, 80), |size| (size.ws_row, size.ws_col));
        let running = link.run(program, Streams::Terminal(size)).await.map_err(cannot)?;
        converse(running).await?
    } else {
        let own = || -> io::Result<[OwnedFd; 3]> {
            Ok([
                io::stdin().as_fd().try_clone_to_owned()?,
                io::stdout().as_fd().try_clone_to_owned()?,
                io::stderr().as_fd().try_clone_to_owned()?,
            ])
        };
        let own = own().map_err(|error| cannot(error.into()))?;
        let running = link.run(program, Streams::Given(own)).await.map_err(cannot)?;
        pass_signals(&running).await?
    };
    Ok(Answer::Said { text: String::new(), code: ExitCode::from(code) })
}

/// A shell that is there.
fn shell() -> Vec<OsString> {
    vec!["sh".into(), "-c".into(), "command -v bash > /dev/null && exec bash || exec sh".into()]
}

/// Waits for the end, and passes on what the user says to it by signals.
async fn pass_signals(running: &Running) -> Result<u8, Failure> {
    let cannot = |error: LinkError| Failure::new(format!("it ended otherwise: {error}"));
    let mut signals = [
        (libc::SIGINT, listen(SignalKind::interrupt())?),
        (libc::SIGTERM, listen(SignalKind::terminate())?),
        (libc::SIGHUP, listen(SignalKind::hangup())?),
    ];
    let wait = running.wait();
    tokio::pin!(wait);
    loop {
        let [(_, interrupt), (_, terminate), (_, hang_up)] = &mut signals;
        let number = tokio::select! {
            code = &mut wait => return code.map_err(cannot),
            _ = interrupt.recv() => libc::SIGINT,
            _ = terminate.recv() => libc::SIGTERM,
            _ = hang_up.recv() => libc::SIGHUP,
        };
        running.signal(number).await.map_err(cannot)?;
    }
}

/// Joins this terminal and the program's, until it ends.
async fn converse(mut running: Running) -> Result<u8, Failure> {
    let failed = |error: io::Error| Failure::new(format!("can't use the terminal: {error}"));
    let far = running.terminal.take().ok_or_else(|| Failure::new("it has got no terminal"))?;
    let far = File::from(far);
    let _raw = Raw::enter().map_err(failed)?;
    let (mut keys, mut screen) = (far.try_clone().map_err(failed)?, far.try_clone().map_err(failed)?);
    let (end, ended) = oneshot::channel::<()>();
    // Threads that nobody waits for: one may read from the terminal for ever.
    thread::spawn(move || copy(&mut io::stdin().lock(), &mut keys));
    thread::spawn(move || {
        // The end of the far terminal is an error (EIO).
        copy(&mut screen, &mut io::stdout().lock());
        drop(end);
    });
    let mut resized = listen(SignalKind::window_change())?;
    let wait = running.wait();
    tokio::pin!(wait);
    let code = loop {
        tokio::select! {
            code = &mut wait => break code,
            _ = resized.recv() => {
                if let Ok(Winsize { ws_row, ws_col, .. }) = tcgetwinsize(io::stdout()) {
                    let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
                    // It may have ended.
                    let _ = tcsetwinsize(&far, size);
                }
            }
        }
    };
    // What it printed last is shown; what it left behind may hold its terminal open, which nobody waits for.
    let _ = tokio::time::timeout(std::time::Duration::from_millis(500), ended).await;
    code.map_err(|error| Failure::new(format!("it ended otherwise: {error}")))
}

/// Copies until either end is closed, and shows what came at once.
fn copy(from: &mut impl Read, to: &mut impl Write) {
    let mut buffer = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

/// The terminal without its own ways with keys, until it's dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // If the terminal is gone, nobody needs it as it was.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}

pub(super) async fn secrets(session: &Session, as_json: bool) -> Result<String, Failure> {
    let names = session.client()?.secrets().await?;
    if as_json {
        return json(&names);
    }
    if names.is_empty() {
        return Ok("there are no secrets; 'twinshare secret set NAME' adds one\n".to_owned());
    }
    Ok(names.iter().map(|name| format!("{name}\n")).collect())
}

pub(super) async fn set_secret(session: &Session, name: &str) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::new(format!("can't read the secret: {error}"));
    let value = if io::stdin().is_terminal() {
        rpassword::prompt_password(format!("{name}: ")).map_err(failed)?
    } else {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map_err(failed)?;
        text.trim_end_matches(['\n', '\r']).to_owned()
    };
    session.client()?.set_secret(name, &value).await?;
    Ok(format!("environments that ask for {name} get it\n"))
}

pub(super) async fn forget_secret(session: &Session, name: &str) -> Result<String, Failure> {
    session.client()?.forget_secret(name).await?;
    Ok(format!("{name} is forgotten\n"))
}
