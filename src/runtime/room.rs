//! What every runtime gives: a place in which programs run, apart from the machine.

use std::{os::fd::OwnedFd, path::PathBuf, pin::Pin, sync::Arc};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::agent::{Program, TerminalSize};

/// A running environment, as whoever supervises it needs it. One implementation for each runtime; all pass one conformance
/// suite (tests/e2e/environments.rs).
pub trait Room: Send + Sync {
    /// Starts a program in it.
    ///
    /// # Errors
    /// [`RoomError::Program`] when it can't be run, [`RoomError::Ended`].
    fn spawn<'a>(&'a self, program: Program, streams: Streams) -> BoxFuture<'a, Result<Running, RoomError>>;

    /// Connects to a TCP port that something in it listens on.
    ///
    /// # Errors
    /// [`RoomError::Program`] when nothing does, [`RoomError::Ended`].
    fn connect(&self, port: u16) -> BoxFuture<'_, Result<Connection, RoomError>>;

    /// Waits until it isn't there any more; says why.
    fn ended(&self) -> BoxFuture<'_, String>;

    /// Ends it with all that runs in it, at once.
    fn end(&self) -> BoxFuture<'_, ()>;
}

/// A connection into an environment.
pub type Connection = Pin<Box<dyn Stream>>;

/// Bytes both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

/// What a program reads and writes.
#[derive(Debug)]
pub enum Streams {
    /// These: its standard input, output and errors.
    Given([OwnedFd; 3]),
    /// A terminal of its own, of this size.
    Terminal(TerminalSize),
}

type SendSignal = dyn Fn(i32) -> BoxFuture<'static, ()> + Send + Sync;

/// A program that was started in an environment.
pub struct Running {
    /// The user's side of its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
    code: Shared<BoxFuture<'static, Option<u8>>>,
    signal: Arc<SendSignal>,
}

impl Running {
    pub(super) fn new(
        terminal: Option<OwnedFd>,
        code: BoxFuture<'static, Option<u8>>,
        signal: Arc<SendSignal>,
    ) -> Self {
        Self { terminal, code: code.shared(), signal }
    }

    /// Waits for its end: its exit code, or 128 and the number of a signal. None if the environment has ended before.
    pub fn wait(&self) -> impl Future<Output = Option<u8>> + Send + 'static + use<> {
        self.code.clone()
    }

    /// How it's sent signals, apart from it.
    pub fn signals(&self) -> impl Fn(i32) -> BoxFuture<'static, ()> + Send + Sync + Clone + use<> {
        let signal = self.signal.clone();
        move |number| signal(number)
    }
}

/// Why something couldn't be done in an environment.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// What isolates it can't be started.
    #[error("can't start {}: {source}", program.display())]
    Start {
        /// The runtime's program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The program can't be run, or nobody listens.
    #[error("{0}")]
    Program(String),
    /// It isn't there any more.
    #[error("{0}")]
    Ended(String),
}
