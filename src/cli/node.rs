use std::{
    env, fs,
    fs::{DirBuilder, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use twinshare::api::{Claim, Client, DaemonArguments, Endpoint, Status};

use super::{
    arguments::Up,
    failure::Failure,
    mounts::is_mounted_now,
    output::{duration, fields, json, plain, size},
    session::Session,
};

/// The daemon's program.
const DAEMON: &str = "twinshare-mountd";

/// How often is looked whether the node is up or down.
const INTERVAL: Duration = Duration::from_millis(25);

/// How long a node may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much of a log is shown when a node doesn't start, in bytes and lines.
const TAIL: (u64, usize) = (16 * 1024, 20);

pub(super) async fn up(session: &Session, up: Up) -> Result<String, Failure> {
    let mount = up.mount.unwrap_or_else(|| session.paths.mount.clone());
    let mount = std::path::absolute(&mount)
        .map_err(|error| Failure::new(format!("can't mount at '{}': {error}", mount.display())))?;
    let arguments = DaemonArguments {
        config: session.paths.config.clone(),
        state: session.paths.state.clone(),
        cache: session.paths.cache.clone(),
        runtime: session.paths.runtime.clone(),
        mount,
        search: std::env::var_os("PATH").unwrap_or_default(),
        node: up.node,
    };
    // One that is just ending makes way.
    if Claim::is_held(&session.paths.runtime)?
        && let Some(status) = wait_until_up(session, None).await?
    {
        return Ok(format!("already up: {}\n", describe(&status)));
    }
    let mut command = Command::new(find_daemon()?);
    command.args(arguments.to_command_line());
    if up.foreground {
        let error = command.exec();
        return Err(Failure::new(format!("can't start {DAEMON}: {error}")));
    }
    let (child, log) = start(session, command)?;
    let up = wait_until_up(session, Some((child, log))).await?;
    let status = up.ok_or_else(|| Failure::new("the node has ended"))?;
    Ok(format!("up: {}\n", describe(&status)))
}

fn describe(status: &Status) -> String {
    format!("{} is mounted at {}, share service on port {}", status.hostname, status.mount, status.share_port)
}

/// The daemon beside this program, else the one on the PATH.
fn find_daemon() -> Result<PathBuf, Failure> {
    let beside = env::current_exe().ok().and_then(|program| Some(program.parent()?.join(DAEMON)));
    let path = env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(env::split_paths(&path).map(|folder| folder.join(DAEMON)))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            Failure::new(format!("can't find {DAEMON}, neither beside this program nor on the PATH"))
                .with_remedy("install it beside 'twinshare'")
        })
}

/// A log and where what a node just started writes begins in it.
struct Log {
    path: PathBuf,
    begin: u64,
}

/// Starts the daemon in a session of its own, so that the end of this terminal isn't its end.
fn start(session: &Session, mut command: Command) -> Result<(Child, Log), Failure> {
    let path = session.log();
    let cannot = |what: &str, error: std::io::Error| Failure::new(format!("can't {what}: {error}"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&session.paths.state)
        .map_err(|error| cannot(&format!("make {}", session.paths.state.display()), error))?;
    let open = || {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let begin = file.metadata()?.len();
        Ok((file.try_clone()?, file, begin))
    };
    let (out, err, begin) =
        open().map_err(|error| cannot(&format!("write the log {}", path.display()), error))?;
    command.current_dir("/").stdin(Stdio::null()).stdout(out).stderr(err);
    // SAFETY: setsid is async-signal-safe, and nothing else runs between fork and exec.
    unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into)) };
    let child = command.spawn().map_err(|error| cannot(&format!("start {DAEMON}"), error))?;
    Ok((child, Log { path, begin }))
}

/// Waits until the mount answers. With a child, its end is an error, unless another node is up; without one, none means that
/// there's no node any more.
async fn wait_until_up(
    session: &Session,
    mut child: Option<(Child, Log)>,
) -> Result<Option<Status>, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Looked at before the claim: so a node that another 'up' started in the meantime is seen.
        let ended = match &mut child {
            Some((child, _)) => {
                child.try_wait().map_err(|error| Failure::new(format!("can't wait for {DAEMON}: {error}")))?
            }
            None => None,
        };
        let held = Claim::is_held(&session.paths.runtime)?;
        match (&child, held, ended) {
            (Some((_, log)), false, Some(status)) => {
                return Err(Failure::new(format!("the node ended at once ({status}){}", tail(log)))
                    .with_remedy(format!("its log is {}", log.path.display()))
                    .with_remedy("'twinshare doctor' shows what is missing on this machine"));
            }
            (None, false, _) => return Ok(None),
            _ => {}
        }
        // While it starts, it may not answer yet.
        let answer = match Endpoint::find(&session.paths.runtime)? {
            Some(endpoint) => Client::new(endpoint)?.status().await.map_err(Failure::from),
            None => Err(Failure::new("its control API isn't there yet")),
        };
        let why = match answer {
            Ok(status) if status.mounted => return Ok(Some(status)),
            Ok(status) => Failure::new(format!("{} isn't mounted yet", status.mount)),
            Err(failure) => failure,
        };
        if Instant::now() > deadline {
            return Err(why
                .while_doing(format!("wait any longer for the node, after {}", duration(PATIENCE.as_secs())))
                .with_remedy(format!("its log is {}", session.log().display()))
                .with_remedy("'twinshare down' stops it"));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The last lines that a node wrote, each on a line of its own; what it's asked for is worth showing only if it can be read.
fn tail(log: &Log) -> String {
    let read = || {
        let mut file = File::open(&log.path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(log.begin.max(length.saturating_sub(TAIL.0))))?;
        let mut bytes = Vec::new();
        file.take(TAIL.0).read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.len().saturating_sub(TAIL.1);
    lines.iter().skip(last).map(|line| format!("\n    {line}")).collect()
}

pub(super) async fn down(session: &Session) -> Result<String, Failure> {
    let Some(endpoint) = find(session).await? else {
        if is_mounted_now(&session.paths.mount) {
            return Err(Failure::new(format!(
                "no node is running, but something is still mounted at {}",
                session.paths.mount.display()
            ))
            .with_remedy(unmount(&session.paths.mount)));
        }
        return Ok("no node is running\n".to_owned());
    };
    let pid = endpoint.pid;
    let client = Client::new(endpoint)?;
    let mount = client
        .status()
        .await
        .map_or_else(|_| session.paths.mount.clone(), |status| status.mount.as_path().into());
    if let Err(error) = client.shutdown().await
        && is_running(pid)
    {
        return Err(Failure::from(error).while_doing("stop the node"));
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let running =
            is_running(pid) || Endpoint::find(&session.paths.runtime)?.is_some_and(|found| found.pid == pid);
        let mounted = is_mounted_now(&mount);
        if !running && !mounted {
            return Ok("down\n".to_owned());
        }
        if Instant::now() > deadline {
            return Err(if running {
                Failure::new(format!("the node hasn't ended after {}", duration(PATIENCE.as_secs())))
                    .with_remedy(format!("its log is {}", session.log().display()))
                    .with_remedy(format!("'kill -9 {pid}' ends it at once"))
            } else {
                Failure::new(format!("the node has ended, but {} is still mounted", mount.display()))
                    .with_remedy(unmount(&mount))
            });
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The running node; one that is just starting is waited for.
async fn find(session: &Session) -> Result<Option<Endpoint>, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Looked at first: a node that is starting will publish its endpoint, or end.
        let held = Claim::is_held(&session.paths.runtime)?;
        let found = Endpoint::find(&session.paths.runtime)?;
        if found.is_some() || !held {
            return Ok(found);
        }
        if Instant::now() > deadline {
            let message = format!("a node has been starting for {}", duration(PATIENCE.as_secs()));
            return Err(Failure::new(message).with_remedy(format!("its log is {}", session.log().display())));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn unmount(mount: &Path) -> String {
    format!("'fusermount3 -uz {}' removes it", mount.display())
}

/// Whether the process lives. One that only waits for its parent to take notice, as in a container without an init, doesn't.
fn is_running(pid: u32) -> bool {
    let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) else { return false };
    // The name, in brackets, may have brackets in it.
    let rest = stat.rsplit(|&byte| byte == b')').next().unwrap_or_default();
    let mut fields = rest.split(|&byte| byte == b' ').skip(1);
    let (state, threads) = (fields.next(), fields.nth(16));
    // The first thread may have ended before the others, which still have the files.
    !matches!(state, Some(b"Z" | b"X")) || !matches!(threads, Some(b"0" | b"1"))
}

pub(super) async fn status(session: &Session, as_json: bool) -> Result<String, Failure> {
    let status = session.client()?.status().await?;
    if as_json {
        return json(&status);
    }
    let mut shown = vec![
        ("host", status.hostname.to_string()),
        ("node", status.node.to_string()),
        ("version", status.version),
        ("mount", format!("{}{}", status.mount, if status.mounted { "" } else { " (doesn't answer)" })),
        ("share service", format!("port {}", status.share_port)),
        (
            "encryption",
            if status.encryption { "on" } else { "off for those who ask for it (config.yaml)" }.to_owned(),
        ),
        ("shares", format!("{} workspaces", status.workspaces_shared)),
        ("peers online", status.peers_online.to_string()),
        ("cache", format!("{} of {}", size(status.cache.used), size(status.cache.limit))),
        ("up for", duration(status.uptime_s)),
    ];
    shown.extend(status.alerts.into_iter().map(|alert| ("warning", plain(&alert))));
    Ok(fields(&shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_known_to_live_or_not() {
        assert!(is_running(std::process::id()));
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        // Not waited for, it becomes a zombie.
        while is_running(pid) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!is_running(pid));
    }

    #[test]
    fn the_tail_is_of_this_start_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let old = "an old failure\n";
        let new: String = (0..30).map(|line| format!("line {line}\n")).collect();
        fs::write(&path, format!("{old}{new}")).unwrap();
        let shown = tail(&Log { path, begin: old.len() as u64 });
        assert!(shown.starts_with("\n    line 10\n") && shown.ends_with("line 29"), "{shown}");
    }
}
