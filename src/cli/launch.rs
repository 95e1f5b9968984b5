//! Carries out a launch: starts the sandbox, passes signals to the command in it, and ends as the command does.
//!
//! The launcher stays the sandbox's parent. Bubblewrap dies of signals that mean the command, and its death is the
//! command's; so it's started with them ignored. In the sandbox they get their meaning back from this same program
//! (`enter`), which then becomes the command. It is known to the launcher by a pidfd that `enter` sends: no number is
//! looked for in /proc, and none can be reused. The command isn't process 1 of its namespace (bubblewrap is): signals
//! without a handler would have no effect on it there.

use std::{
    convert::Infallible,
    ffi::OsString,
    fs::File,
    io::{self, IoSlice, IoSliceMut, stdin},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{
            net::UnixDatagram,
            process::{CommandExt, ExitStatusExt},
        },
    },
    process::{Child, Command, ExitCode, ExitStatus},
    ptr,
};

use rustix::{
    cmsg_space,
    fs::{Mode, OFlags},
    io::{Errno, FdFlags, fcntl_setfd},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
    process::{PidfdFlags, Signal, getpgrp, getpid, pidfd_open, pidfd_send_signal, test_kill_process_group},
    termios::{tcgetpgrp, tcsetpgrp},
};

use super::{arguments::Enter, failure::Failure};

/// What a user says to a command through its launcher.
const PASSED_ON: [i32; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// A sandbox that is ready to be started.
pub(super) struct Launch {
    /// Starts the sandbox; its arguments are complete but for the command.
    pub(super) sandbox: Command,
    /// What runs in it.
    pub(super) command: Vec<OsString>,
    /// The filter that the sandbox inherits.
    pub(super) filter: File,
    /// Whether it runs in this terminal.
    pub(super) terminal: bool,
}

impl Launch {
    /// Runs the command to its end; gives its exit code, or 128 and the number of the signal that ended it.
    ///
    /// No other thread may run: it would get the signals that are waited for here. And the sandbox ends with the thread
    /// that started it.
    pub(super) fn carry_out(mut self) -> Result<ExitCode, Failure> {
        let signals = Signals::hold();
        let (mut child, channel) = self.start(&signals).map_err(|error| {
            let program = self.sandbox.get_program().display();
            Failure::new(format!("can't start {program}: {error}"))
                .with_remedy("'twinshare doctor' shows what is missing on this machine")
        })?;
        let code = attend(&mut child, &channel, &signals, self.terminal)
            .map_err(|error| Failure::new(format!("can't wait for the command: {error}")))?;
        if self.terminal {
            take_terminal_back();
        }
        Ok(ExitCode::from(code))
    }

    fn start(&mut self, signals: &Signals) -> io::Result<(Child, UnixDatagram)> {
        // Both are inherited by the sandbox. This program need not be visible in it.
        let program = rustix::fs::open("/proc/self/exe", OFlags::PATH, Mode::empty())?;
        let (ours, theirs) = UnixDatagram::pair()?;
        fcntl_setfd(&theirs, FdFlags::empty())?;
        fcntl_setfd(&self.filter, FdFlags::empty())?;

        self.sandbox.arg(format!("/proc/self/fd/{}", program.as_raw_fd())).arg("enter");
        self.sandbox.arg(format!("--program={}", program.as_raw_fd()));
        self.sandbox.arg(format!("--launcher={}", theirs.as_raw_fd()));
        self.sandbox.args(signals.heeded.iter().map(|signal| format!("--signal={signal}")));
        self.sandbox.arg("--").args(&self.command);
        let mask = signals.before;
        // SAFETY: signal and sigprocmask are async-signal-safe, and nothing else runs between fork and exec.
        unsafe {
            self.sandbox.pre_exec(move || {
                for signal in PASSED_ON {
                    libc::signal(signal, libc::SIG_IGN);
                }
                libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, ptr::null_mut());
                Ok(())
            });
        }
        Ok((self.sandbox.spawn()?, ours))
    }
}

/// Passes signals on until the sandbox has ended.
fn attend(child: &mut Child, channel: &UnixDatagram, signals: &Signals, terminal: bool) -> io::Result<u8> {
    let mut command = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(code(status));
        }
        let (signal, from_kernel) = signals.next()?;
        let Some(signal) = Signal::from_named_raw(signal).filter(|signal| *signal != Signal::CHILD) else {
            continue;
        };
        if command.is_none() {
            command = receive(channel)?;
        }
        match &command {
            // The command is in the terminal's session too, and what is typed goes to its whole foreground group.
            Some(_) if terminal && from_kernel => {}
            Some(command) => match pidfd_send_signal(command, signal) {
                // It has ended, and the sandbox is about to.
                Err(Errno::SRCH) | Ok(()) => {}
                Err(error) => return Err(error.into()),
            },
            // Nothing is there yet that could heed it.
            None => {
                child.kill()?;
                child.wait()?;
                return Ok(ended_by(signal.as_raw()));
            }
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    match status.code() {
        Some(code) => code.to_le_bytes()[0],
        None => ended_by(status.signal().unwrap_or_default()),
    }
}

fn ended_by(signal: i32) -> u8 {
    128 | signal.to_le_bytes()[0]
}

/// The command's pidfd, if `enter` has sent it.
fn receive(channel: &UnixDatagram) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    match recvmsg(channel, &mut [IoSliceMut::new(&mut byte)], &mut control, flags) {
        // The sandbox's end is closed when it failed before.
        Err(Errno::AGAIN | Errno::CONNRESET) => return Ok(None),
        result => result?,
    };
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

/// A shell as the command gives the terminal to a group of its own, and can't give it back: in its namespace, this
/// process's group has no number.
fn take_terminal_back() {
    let Ok(front) = tcgetpgrp(stdin()) else { return };
    if front != getpgrp() && test_kill_process_group(front) == Err(Errno::SRCH) {
        let set = set_of(&[libc::SIGTTOU]);
        // SAFETY: the set is a valid one. Blocked, the signal lets a process of the background take the terminal.
        unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
        // If the terminal is gone, nobody needs it back.
        let _ = tcsetpgrp(stdin(), getpgrp());
    }
}

/// The signals that are held back, to be taken one by one.
struct Signals {
    held: libc::sigset_t,
    /// The mask as it was before.
    before: libc::sigset_t,
    /// Those that weren't ignored when this program started, as nohup has it.
    heeded: Vec<i32>,
}

impl Signals {
    fn hold() -> Self {
        let held = set_of(&[&PASSED_ON[..], &[libc::SIGCHLD]].concat());
        let mut before = set_of(&[]);
        // SAFETY: both sets are valid ones.
        unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const held, &raw mut before) };
        Self { held, before, heeded: PASSED_ON.into_iter().filter(|signal| !is_ignored(*signal)).collect() }
    }

    /// Waits for the next one; also says whether the kernel sent it, as it does for what is typed.
    fn next(&self) -> io::Result<(i32, bool)> {
        let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
        loop {
            // SAFETY: the set is a valid one, and there is room for the answer.
            let signal = unsafe { libc::sigwaitinfo(&raw const self.held, info.as_mut_ptr()) };
            if signal >= 0 {
                // SAFETY: sigwaitinfo has filled it in.
                let info = unsafe { info.assume_init_ref() };
                return Ok((signal, info.si_code == libc::SI_KERNEL));
            }
            // A stop and a continuation interrupt the wait.
            match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            }
        }
    }
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset makes a valid set, and sigaddset is given one.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: no action is set, and there is room for the present one, for which zeroes are valid too.
    let action = unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

/// In the sandbox: becomes the command. Returns only on failure.
pub(super) fn enter(options: &Enter) -> Result<Infallible, Failure> {
    let Some((program, arguments)) = options.command.split_first() else {
        return Err(Failure::new("there's no command to run"));
    };
    let cannot = |error: io::Error| Failure::new(format!("can't run {}: {error}", program.display()));
    // Before the launcher knows of it: what it sends then has its effect.
    for signal in &options.signals {
        // SAFETY: no handler of this program is in the way.
        unsafe { libc::signal(*signal, libc::SIG_DFL) };
    }
    introduce(options).map_err(cannot)?;
    Err(cannot(Command::new(program).args(arguments).exec()))
}

/// Sends the launcher a pidfd of this process. The descriptors that `enter` was given end here or at the exec.
fn introduce(options: &Enter) -> io::Result<()> {
    let [program, launcher] = [options.program, options.launcher].map(inherited);
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty())?;
    let descriptors = [std::os::fd::AsFd::as_fd(&pidfd)];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&launcher, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    drop((program, launcher));
    Ok(())
}

fn inherited(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the launcher left it open for this program, in which nothing else knows it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}
