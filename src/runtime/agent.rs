//! What starts processes within a sandbox: a small program of ours that is told from outside, over a [`channel`].
//!
//! All that runs in an environment is started by it: so all has the sandbox's bounds, whoever asked, and ends with it.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::{Pid, Signal, WaitId, WaitIdOptions, ioctl_tiocsctty, kill_process_group, setsid, waitid},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use serde::{Deserialize, Serialize};

use super::channel::{receive, send};

/// How long a port may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// What is to be started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The program and its arguments; never empty.
    pub words: Vec<OsString>,
    /// Variables beside those that the environment has anyway.
    #[serde(default)]
    pub variables: BTreeMap<String, OsString>,
    /// Where; the workspace's folder when absent.
    #[serde(default)]
    pub directory: Option<OsString>,
}

/// Rows and columns of a terminal.
pub type TerminalSize = (u16, u16);

/// What the agent is told. Numbers are the caller's, each used once.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Start a program: with the three descriptors that come along as its standard streams, or in a new terminal.
    Start { number: u32, program: Program, terminal: Option<TerminalSize> },
    /// Send a signal to a program's process group.
    Signal { number: u32, signal: i32 },
    /// Connect to a TCP port on the loopback interface.
    Connect { number: u32, port: u16 },
}

/// What the agent says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// It takes orders.
    Ready,
    /// A program was started, or a connection made, whose descriptor comes along; with a terminal, the side of it that the
    /// user has.
    Done { number: u32 },
    /// It couldn't be.
    Failed { number: u32, why: String },
    /// A program has ended, with this code, or 128 and the number of the signal.
    Ended { number: u32, code: u8 },
}

type Running = Arc<Mutex<HashMap<u32, Pid>>>;

/// Follows orders until the other end is closed: what the sandbox's first program does.
///
/// # Errors
/// When the socket isn't one.
pub fn serve(socket: RawFd) -> io::Result<()> {
    // SAFETY: whoever started this program left the descriptor open for it, and nothing else in it knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    let socket = Arc::new(socket);
    let running = Running::default();
    send(socket.as_fd(), &Report::Ready, &[])?;
    while let Some((order, with)) = receive::<Order>(socket.as_fd())? {
        match order {
            Order::Start { number, program, terminal } => {
                let started = start(&program, terminal, with);
                match started {
                    Ok((pid, terminal)) => {
                        lock(&running).insert(number, pid);
                        let with: Vec<BorrowedFd<'_>> = terminal.iter().map(AsFd::as_fd).collect();
                        send(socket.as_fd(), &Report::Done { number }, &with)?;
                        let (socket, running) = (socket.clone(), running.clone());
                        thread::spawn(move || {
                            let code = attend(number, pid, &running);
                            // If the other end has gone, the sandbox is about to end.
                            let _ = send(socket.as_fd(), &Report::Ended { number, code }, &[]);
                        });
                    }
                    Err(error) => {
                        let program = program.words.first().cloned().unwrap_or_default();
                        let why = format!("can't run {}: {error}", program.display());
                        send(socket.as_fd(), &Report::Failed { number, why }, &[])?;
                    }
                }
            }
            Order::Signal { number, signal } => {
                if let (Some(pid), Some(signal)) =
                    (lock(&running).get(&number), Signal::from_named_raw(signal))
                {
                    // It may be about to end.
                    let _ = kill_process_group(*pid, signal);
                }
            }
            Order::Connect { number, port } => {
                let socket = socket.clone();
                thread::spawn(move || {
                    // As above.
                    let _ = match connect(port) {
                        Ok(stream) => send(socket.as_fd(), &Report::Done { number }, &[stream.as_fd()]),
                        Err(error) => {
                            let why = format!("port {port}: {error}");
                            send(socket.as_fd(), &Report::Failed { number, why }, &[])
                        }
                    };
                });
            }
        }
    }
    Ok(())
}

fn lock(running: &Running) -> std::sync::MutexGuard<'_, HashMap<u32, Pid>> {
    // Every change is complete before anything can panic.
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a program. Only when it can't be named any more its number is given back.
fn attend(number: u32, pid: Pid, running: &Running) -> u8 {
    while let Err(rustix::io::Errno::INTR) =
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
    {}
    lock(running).remove(&number);
    match rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()) {
        Ok(Some((_, status))) => code(ExitStatus::from_raw(status.as_raw())),
        // Somebody else has waited for it, which nobody does.
        _ => u8::MAX,
    }
}

/// The exit code, or 128 and the number of the signal.
fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code.to_le_bytes()[0],
        (None, signal) => 128 | signal.unwrap_or_default().to_le_bytes()[0],
    }
}

fn start(
    program: &Program,
    terminal: Option<TerminalSize>,
    with: Vec<OwnedFd>,
) -> io::Result<(Pid, Option<OwnedFd>)> {
    let wrong = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
    let (first, arguments) = program.words.split_first().ok_or_else(|| wrong("there is nothing to run"))?;
    let mut command = Command::new(first);
    command.args(arguments).envs(&program.variables);
    if let Some(directory) = &program.directory {
        command.current_dir(directory);
    }
    let front = match terminal {
        Some(size) => {
            let (front, back) = open_terminal(size)?;
            command.stdin(back.try_clone()?).stdout(back.try_clone()?).stderr(back);
            Some(front)
        }
        None => {
            let [stdin, stdout, stderr] =
                <[OwnedFd; 3]>::try_from(with).map_err(|_| wrong("three streams are needed"))?;
            command.stdin(Stdio::from(stdin)).stdout(stdout).stderr(stderr);
            None
        }
    };
    let has_terminal = front.is_some();
    // SAFETY: setsid and ioctl are async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            if has_terminal {
                ioctl_tiocsctty(BorrowedFd::borrow_raw(0))?;
            }
            Ok(())
        });
    }
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    Ok((pid.ok_or_else(|| wrong("it has no number"))?, front))
}

/// A new terminal: the user's side of it, and the program's.
pub(super) fn open_terminal((rows, columns): TerminalSize) -> io::Result<(OwnedFd, OwnedFd)> {
    let front = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&front)?;
    unlockpt(&front)?;
    let name = ptsname(&front, Vec::new())?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let back = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty())?;
    tcsetwinsize(&back, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
    Ok((front, back))
}

/// Connects to a port in the network of another process, and hands the connection over on a socket.
///
/// # Errors
/// When the socket isn't one.
pub fn reach(process: i64, port: u16, socket: RawFd) -> io::Result<()> {
    // SAFETY: as for `serve`.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    match enter_network(process).and_then(|()| connect(port)) {
        Ok(stream) => send(socket.as_fd(), &Report::Done { number: 0 }, &[stream.as_fd()]),
        Err(error) => {
            send(socket.as_fd(), &Report::Failed { number: 0, why: format!("port {port}: {error}") }, &[])
        }
    }
}

/// Enters the network namespace of a process; if it's another user's namespace, that one first.
fn enter_network(process: i64) -> io::Result<()> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    let open = |kind: &str| std::fs::File::open(format!("/proc/{process}/ns/{kind}"));
    let is_own = |kind: &str| -> io::Result<bool> {
        let link = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/{kind}"));
        Ok(link(&process.to_string())? == link("self")?)
    };
    let (user, network) = (open("user")?, open("net")?);
    if !is_own("user")? {
        move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))?;
    }
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let addresses =
        [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))];
    let first = TcpStream::connect_timeout(&addresses[0], CONNECT);
    // What the first says is what people know.
    first.or_else(|error| TcpStream::connect_timeout(&addresses[1], CONNECT).map_err(|_| error))
}
