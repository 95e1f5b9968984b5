//! A container as a [`Room`], by the API that Docker and Podman have in common.

mod engine;
mod root;
mod session;

use std::{
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    pin::Pin,
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use bollard::{
    Docker,
    exec::{CreateExecOptions, StartExecOptions, StartExecResults},
    models::{ContainerCreateBody, HostConfig},
    query_parameters::{
        AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder,
    },
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWrite, net::TcpStream, sync::watch};

pub use self::{engine::Engine, root::ContainerRoot};
use super::{
    agent::{Program, Report},
    channel::{Channel, pair},
    limits::Limits,
    room::{Connection, Room, RoomError, Running, Streams},
};

/// What holds a container: it ends when its standard input does, and with it all that runs in the container.
const HOLDER: &str = "mkdir -p /tmp/.twinshare && cat > /dev/null";

/// How a container is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contained {
    /// What makes it.
    pub engine: Engine,
    /// Its name there. One of that name that is left over is removed.
    pub name: String,
    /// What is its root.
    pub root: ContainerRoot,
    /// Where the workspace is on this machine, and in the container.
    pub workspace: (PathBuf, PathBuf),
    /// Folders of this machine that are in it too: where here, where there, and whether they can't be changed there.
    pub mounts: Vec<(PathBuf, PathBuf, bool)>,
    /// Variables that all have in it.
    pub variables: Vec<(String, String)>,
    /// Whether it may use the network.
    pub network: bool,
    /// What it may use.
    pub limits: Limits,
}

/// A container that runs.
pub(super) struct Container {
    docker: Docker,
    name: String,
    workspace: String,
    /// The holder's standard input: closed with this process.
    _holder: Mutex<Pin<Box<dyn AsyncWrite + Send>>>,
    /// Its first process on this machine.
    process: i64,
    next: AtomicU32,
    over: watch::Receiver<bool>,
    how: Contained,
    _engine: engine::Running,
}

fn failed(what: &str, error: impl std::fmt::Display) -> RoomError {
    RoomError::Ended(format!("the container {what}: {error}"))
}

impl Container {
    /// Starts the container; nothing runs in it yet.
    ///
    /// # Errors
    /// What the engine says.
    pub(super) async fn start(how: &Contained) -> Result<Self, RoomError> {
        let engine = how.engine.open().await?;
        let docker = engine.docker.clone();
        // One of the same name is what was left of it.
        clear(&docker, how).await;
        let (image, mut binds) = how.root.prepare(&docker).await?;
        let bind = |here: &Path, there: &Path, read_only: bool| {
            let how = if read_only { "ro" } else { "rw" };
            format!("{}:{}:{how}", here.display(), there.display())
        };
        binds.push(bind(&how.workspace.0, &how.workspace.1, false));
        binds.extend(how.mounts.iter().map(|(here, there, read_only)| bind(here, there, *read_only)));
        let workspace = how.workspace.1.to_string_lossy().into_owned();
        #[expect(clippy::cast_possible_truncation, reason = "no machine has so many cores")]
        let nanos = how.limits.cpus.map(|cpus| (cpus * 1e9) as i64);
        let host = HostConfig {
            binds: Some(binds),
            network_mode: (!how.network).then(|| "none".to_owned()),
            memory: how.limits.memory.and_then(|bytes| i64::try_from(bytes).ok()),
            nano_cpus: nanos,
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            ..HostConfig::default()
        };
        let body = ContainerCreateBody {
            image: Some(image),
            entrypoint: Some(["/bin/sh", "-c"].map(str::to_owned).into()),
            cmd: Some(vec![HOLDER.to_owned()]),
            env: Some(how.variables.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            working_dir: Some(workspace.clone()),
            attach_stdin: Some(true),
            open_stdin: Some(true),
            stdin_once: Some(true),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(&how.name).build();
        let created = docker.create_container(Some(options), body).await;
        created.map_err(|error| failed("can't be made", error))?;
        let options = AttachContainerOptionsBuilder::new().stdin(true).stream(true).build();
        let attached = docker.attach_container(&how.name, Some(options)).await;
        let attached = attached.map_err(|error| failed("can't be held", error))?;
        let started = docker.start_container(&how.name, None).await;
        started.map_err(|error| failed("can't be started", error))?;
        let found = docker.inspect_container(&how.name, None).await;
        let found = found.map_err(|error| failed("isn't there", error))?;
        let process = found.state.and_then(|state| state.pid).unwrap_or(0);
        let (end, over) = watch::channel(false);
        tokio::spawn({
            let (docker, name) = (docker.clone(), how.name.clone());
            async move {
                let mut waits = Box::pin(docker.wait_container(&name, None));
                // Its end is one line, or an error with the code: or there's no engine any more.
                waits.next().await;
                end.send_replace(true);
            }
        });
        let container = Self {
            docker,
            name: how.name.clone(),
            workspace,
            _holder: Mutex::new(attached.input),
            process,
            next: AtomicU32::new(0),
            over,
            how: how.clone(),
            _engine: engine,
        };
        container.check_workspace().await?;
        Ok(container)
    }

    /// That what is in the workspace is seen in the container: who may not read the mount would see nothing.
    async fn check_workspace(&self) -> Result<(), RoomError> {
        let first =
            std::fs::read_dir(&self.how.workspace.0).ok().and_then(|mut entries| entries.next()?.ok());
        let Some(first) = first else { return Ok(()) };
        let path = self.how.workspace.1.join(first.file_name()).to_string_lossy().into_owned();
        let words = ["/bin/sh", "-c", "test -e \"$1\" || test -L \"$1\"", "sh", &path];
        match self.run_quietly(&words).await {
            Ok(0) => Ok(()),
            _ => Err(RoomError::Ended(
                "the container can't read the workspace: it runs as another user than this node, whose mount is its own. \
                 'twinshare up --allow-other' lets others in"
                    .to_owned(),
            )),
        }
    }

    /// Runs a command in it; gives its exit code.
    async fn run_quietly(&self, words: &[&str]) -> Result<i64, bollard::errors::Error> {
        let options = CreateExecOptions {
            cmd: Some(words.to_vec()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..CreateExecOptions::default()
        };
        let exec = self.docker.create_exec(&self.name, options).await?.id;
        let started = self.docker.start_exec(&exec, None::<StartExecOptions>).await?;
        if let StartExecResults::Attached { mut output, .. } = started {
            while output.next().await.is_some() {}
        }
        session::code(&self.docker, &exec).await
    }
}

/// Removes a container, and what was mounted for it.
async fn clear(docker: &Docker, how: &Contained) {
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    if let Err(error) = docker.remove_container(&how.name, Some(options)).await {
        // Mostly there's none.
        tracing::debug!(%error, name = how.name, "a container isn't removed");
    }
    how.root.release();
}

/// Removes what a container left whose supervisor has gone.
pub async fn sweep(how: &Contained) {
    match how.engine.open().await {
        Ok(engine) => clear(&engine.docker, how).await,
        Err(error) => {
            tracing::warn!(%error, name = how.name, "whether a container is left can't be found out")
        }
    }
}

impl Room for Container {
    fn spawn<'a>(&'a self, program: Program, streams: Streams) -> BoxFuture<'a, Result<Running, RoomError>> {
        async move {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let text = |text: &std::ffi::OsStr| {
                let wrong = || RoomError::Program(format!("{} isn't text", text.display()));
                text.to_str().map(str::to_owned).ok_or_else(wrong)
            };
            // Its number in the container is noted, since an engine sends no signals to what isn't the container's first.
            let note = format!("echo $$ > /tmp/.twinshare/{number}; exec \"$@\"");
            let mut words = ["/bin/sh", "-c", &note, "sh"].map(str::to_owned).to_vec();
            for word in &program.words {
                words.push(text(word)?);
            }
            let mut variables = Vec::new();
            for (name, value) in &program.variables {
                variables.push(format!("{name}={}", text(value)?));
            }
            let directory = match &program.directory {
                Some(directory) => text(directory)?,
                None => self.workspace.clone(),
            };
            let options = CreateExecOptions {
                cmd: Some(words),
                env: Some(variables),
                working_dir: Some(directory),
                attach_stdin: Some(true),
                attach_stdout: Some(true),
                attach_stderr: Some(true),
                tty: Some(matches!(streams, Streams::Terminal(_))),
                ..CreateExecOptions::default()
            };
            let refused = |error: bollard::errors::Error| RoomError::Program(error.to_string());
            let exec = self.docker.create_exec(&self.name, options).await.map_err(refused)?.id;
            let options =
                StartExecOptions { tty: matches!(streams, Streams::Terminal(_)), ..Default::default() };
            let started = self.docker.start_exec(&exec, Some(options)).await.map_err(refused)?;
            let StartExecResults::Attached { output, input } = started else {
                return Err(RoomError::Program("the engine gives no streams".to_owned()));
            };
            session::join(&self.docker, &self.name, number, exec, output, input, streams)
        }
        .boxed()
    }

    fn connect(&self, port: u16) -> BoxFuture<'_, Result<Connection, RoomError>> {
        reach(self.process, port).boxed()
    }

    fn ended(&self) -> BoxFuture<'_, String> {
        let mut over = self.over.clone();
        async move {
            // If nobody watches it any more, it's over too.
            let _ = over.wait_for(|over| *over).await;
            "the container has ended".to_owned()
        }
        .boxed()
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        clear(&self.docker, &self.how).boxed()
    }
}

/// Connects to a port in the network of a process. That takes another process, which enters it.
async fn reach(process: i64, port: u16) -> Result<Connection, RoomError> {
    let wrong = |error: std::io::Error| RoomError::Program(format!("port {port}: {error}"));
    let (ours, theirs) = pair().map_err(wrong)?;
    fcntl_setfd(&theirs, FdFlags::empty()).map_err(|error| wrong(error.into()))?;
    let mut child = tokio::process::Command::new("/proc/self/exe")
        .args(["reach", "--process", &process.to_string(), "--port", &port.to_string()])
        .args(["--socket", &theirs.as_raw_fd().to_string()])
        .stdin(Stdio::null())
        .spawn()
        .map_err(wrong)?;
    drop(theirs);
    let answer = Channel::new(ours).map_err(wrong)?.receive::<Report>().await.map_err(wrong)?;
    // It ends by itself.
    let _ = child.wait().await;
    match answer {
        Some((Report::Done { .. }, mut with)) if with.len() == 1 => {
            let stream = std::net::TcpStream::from(with.remove(0));
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            Ok(Box::pin(stream.map_err(wrong)?))
        }
        Some((Report::Failed { why, .. }, _)) => Err(RoomError::Program(why)),
        _ => Err(RoomError::Program(format!("port {port} can't be reached"))),
    }
}
