//! A process sandbox as a [`Room`]: bubblewrap with an [`agent`](super::agent) in it.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::File,
    io::{self, Seek, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use futures_util::{FutureExt, future::BoxFuture};
use rustix::{
    fs::{MemfdFlags, Mode, OFlags, memfd_create},
    io::{FdFlags, fcntl_setfd},
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpStream,
    process::Child,
    sync::{oneshot, watch},
};

use super::{
    agent::{Order, Program, Report, TerminalSize},
    channel::{Channel, pair},
    confine::filter,
    limits::Limits,
    room::{Connection, Room, RoomError, Running, Streams},
};

/// Stands among the sandbox's arguments for the descriptor from which it reads its filter.
pub const FILTER: &str = "@FILTER@";

/// The filter of system calls, in a file that is closed on exec.
///
/// # Errors
/// When there's no memory, or no descriptor.
pub fn filter_file() -> io::Result<File> {
    let mut file = File::from(memfd_create("filter", MemfdFlags::CLOEXEC)?);
    file.write_all(&filter())?;
    file.rewind()?;
    Ok(file)
}

/// Arguments of bubblewrap with the filter's descriptor in the place of [`FILTER`].
pub fn with_filter(arguments: &[OsString], file: &File) -> Vec<OsString> {
    let descriptor = OsString::from(file.as_raw_fd().to_string());
    arguments.iter().map(|one| if one == FILTER { descriptor.clone() } else { one.clone() }).collect()
}

/// How a sandbox is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandboxed {
    /// Bubblewrap.
    pub program: PathBuf,
    /// Its arguments but for the command; one of them may be [`FILTER`].
    pub arguments: Vec<OsString>,
    /// What it may use.
    pub limits: Limits,
}

/// A sandbox that runs.
pub struct Sandbox {
    channel: Arc<Channel>,
    shared: Arc<Shared>,
    next: AtomicU32,
    child: Mutex<Option<Child>>,
    over: watch::Receiver<Option<String>>,
}

/// The descriptors that an order brought, or why it couldn't be followed.
type Done = Result<Vec<OwnedFd>, String>;

#[derive(Default)]
struct Shared {
    /// Orders without an answer yet.
    open: Mutex<HashMap<u32, oneshot::Sender<Done>>>,
    /// Programs that run.
    running: Mutex<HashMap<u32, oneshot::Sender<u8>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete before anything can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sandbox {
    /// Starts the sandbox with this very program in it, as `agent --socket N`. It ends with the thread that called this.
    ///
    /// # Errors
    /// What hinders it, and what it printed.
    pub async fn start(how: &Sandboxed) -> Result<Self, RoomError> {
        let begun = begin(how).map_err(|source| RoomError::Start { program: how.program.clone(), source })?;
        let (mut child, channel) = begun;
        let ready = tokio::select! {
            ready = channel.receive::<Report>() => ready,
            // Then there's nothing more to receive.
            _ = child.wait() => Ok(None),
        };
        if !matches!(ready, Ok(Some((Report::Ready, _)))) {
            // It may have ended already.
            let _ = child.kill().await;
            return Err(RoomError::Ended("the sandbox ended as it began: its log says why".to_owned()));
        }
        let (channel, shared) = (Arc::new(channel), Arc::new(Shared::default()));
        let (end, over) = watch::channel(None);
        tokio::spawn({
            let (channel, shared) = (channel.clone(), shared.clone());
            async move {
                let why = listen(&channel, &shared).await;
                lock(&shared.open).clear();
                lock(&shared.running).clear();
                end.send_replace(Some(why));
            }
        });
        Ok(Self { channel, shared, next: AtomicU32::new(0), child: Mutex::new(Some(child)), over })
    }

    async fn order(
        &self,
        number: u32,
        order: Order,
        with: &[BorrowedFd<'_>],
    ) -> Result<Vec<OwnedFd>, RoomError> {
        let (answer, answered) = oneshot::channel();
        lock(&self.shared.open).insert(number, answer);
        let over = || RoomError::Ended("the environment has ended".to_owned());
        if let Err(error) = self.channel.send(&order, with).await {
            lock(&self.shared.open).remove(&number);
            return Err(if error.kind() == io::ErrorKind::InvalidInput {
                RoomError::Program(error.to_string())
            } else {
                over()
            });
        }
        answered.await.map_err(|_| over())?.map_err(RoomError::Program)
    }
}

/// Passes reports on until the agent is gone; says why.
async fn listen(channel: &Channel, shared: &Shared) -> String {
    loop {
        // The agent is within the sandbox: whatever it says is heard, and what isn't understood ends it.
        match channel.receive::<Report>().await {
            Ok(Some((Report::Done { number }, with))) => {
                if let Some(answer) = lock(&shared.open).remove(&number) {
                    // Whoever asked may have gone.
                    let _ = answer.send(Ok(with));
                }
            }
            Ok(Some((Report::Failed { number, why }, _))) => {
                lock(&shared.running).remove(&number);
                if let Some(answer) = lock(&shared.open).remove(&number) {
                    // As above.
                    let _ = answer.send(Err(why));
                }
            }
            Ok(Some((Report::Ended { number, code }, _))) => {
                if let Some(ended) = lock(&shared.running).remove(&number) {
                    // As above.
                    let _ = ended.send(code);
                }
            }
            Ok(Some((Report::Ready, _))) => {}
            Ok(None) => return "the sandbox has ended".to_owned(),
            Err(error) => return format!("the sandbox says what isn't understood: {error}"),
        }
    }
}

fn begin(how: &Sandboxed) -> io::Result<(Child, Channel)> {
    // All are inherited by the sandbox. This program need not be visible in it.
    let program = rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let filter = filter_file()?;
    let (ours, theirs) = pair()?;
    fcntl_setfd(&program, FdFlags::empty())?;
    fcntl_setfd(&filter, FdFlags::empty())?;
    fcntl_setfd(&theirs, FdFlags::empty())?;
    let mut words = how.limits.before();
    words.push(how.program.clone().into());
    words.extend(with_filter(&how.arguments, &filter));
    let mut command = tokio::process::Command::new(&words[0]);
    command.args(&words[1..]);
    command
        .arg(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .args(["agent", "--socket", &theirs.as_raw_fd().to_string()])
        // What runs in the sandbox can read the variables of its first process.
        .env_clear()
        .envs(how.limits.variables())
        .stdin(Stdio::null())
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    how.limits.apply(&mut command);
    let child = command.spawn()?;
    Ok((child, Channel::new(ours)?))
}

impl Room for Sandbox {
    fn spawn<'a>(&'a self, program: Program, streams: Streams) -> BoxFuture<'a, Result<Running, RoomError>> {
        async move {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let (end, ended) = oneshot::channel();
            lock(&self.shared.running).insert(number, end);
            let (terminal, with): (Option<TerminalSize>, Vec<OwnedFd>) = match streams {
                Streams::Terminal(size) => (Some(size), Vec::new()),
                Streams::Given(three) => (None, three.into()),
            };
            let order = Order::Start { number, program, terminal };
            let borrowed: Vec<BorrowedFd<'_>> = with.iter().map(AsFd::as_fd).collect();
            let came = self.order(number, order, &borrowed).await;
            if came.is_err() {
                lock(&self.shared.running).remove(&number);
            }
            let terminal = came?.into_iter().next();
            let channel = self.channel.clone();
            let signal = move |signal| {
                let channel = channel.clone();
                async move {
                    // Whoever isn't there any more needs no signal.
                    let _ = channel.send(&Order::Signal { number, signal }, &[]).await;
                }
                .boxed()
            };
            Ok(Running::new(terminal, ended.map(Result::ok).boxed(), Arc::new(signal)))
        }
        .boxed()
    }

    fn connect(&self, port: u16) -> BoxFuture<'_, Result<Connection, RoomError>> {
        async move {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let came = self.order(number, Order::Connect { number, port }, &[]).await?;
            let socket = came.into_iter().next();
            let socket = socket.ok_or_else(|| RoomError::Program("no connection came".to_owned()))?;
            let stream = std::net::TcpStream::from(socket);
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            let stream = stream.map_err(|error| RoomError::Program(error.to_string()))?;
            Ok(Box::pin(stream) as Connection)
        }
        .boxed()
    }

    fn ended(&self) -> BoxFuture<'_, String> {
        let mut over = self.over.clone();
        async move {
            let why = over.wait_for(Option::is_some).await;
            why.ok().and_then(|why| why.clone()).unwrap_or_default()
        }
        .boxed()
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        async move {
            let child = lock(&self.child).take();
            if let Some(mut child) = child {
                // With the sandbox's first process end all that it holds.
                let _ = child.kill().await;
                let _ = child.wait().await;
            }
        }
        .boxed()
    }
}
