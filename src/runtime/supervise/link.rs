//! How a launch is asked and told from outside: by the daemon, and by the command line.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    Life, Stop,
    spec::{LaunchState, SOCKET},
};
use crate::runtime::{
    agent::{Program, TerminalSize},
    channel::{Channel, Listener},
    room::Streams,
};

/// What is asked. A connection is for one question, and what comes of it.
#[derive(Debug, Serialize, Deserialize)]
enum Question {
    /// How it is, now and whenever that changes.
    Watch,
    /// To end; then as above.
    Stop { at_once: bool },
    /// To run something in it: with the three descriptors that come along as its streams, or in a terminal.
    Run { program: Program, terminal: Option<TerminalSize> },
    /// To send what runs a signal.
    Signal(i32),
    /// To be told whenever something was printed.
    Follow,
}

/// What is told.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    State(LaunchState),
    /// It runs; the user's side of its terminal comes along.
    Started,
    Failed(String),
    Ended(u8),
    Printed,
}

/// Why a launch can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody supervises it.
    #[error("it isn't running")]
    Over,
    /// It says so.
    #[error("{0}")]
    Failed(String),
    /// The connection isn't as it should be.
    #[error("can't talk to what supervises it: {0}")]
    Io(#[from] io::Error),
}

/// A connection to a launch.
#[derive(Debug)]
pub struct Link(Channel);

impl Link {
    /// Connects to the launch of a folder.
    ///
    /// # Errors
    /// [`LinkError::Over`] when it has ended.
    pub fn open(folder: &Path) -> Result<Self, LinkError> {
        Channel::connect(&folder.join(SOCKET)).map(Self).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => LinkError::Over,
            _ => error.into(),
        })
    }

    /// Asks to be told how it is: [`Link::state`].
    ///
    /// # Errors
    /// As for all here.
    pub async fn watch(&self) -> Result<(), LinkError> {
        Ok(self.0.send(&Question::Watch, &[]).await?)
    }

    /// Asks it to end, and to be told how it is.
    ///
    /// # Errors
    /// As for all here.
    pub async fn stop(&self, at_once: bool) -> Result<(), LinkError> {
        Ok(self.0.send(&Question::Stop { at_once }, &[]).await?)
    }

    /// How it is now; none when nobody supervises it any more.
    ///
    /// # Errors
    /// As for all here.
    pub async fn state(&self) -> Result<Option<LaunchState>, LinkError> {
        match self.0.receive::<Answer>().await? {
            Some((Answer::State(state), _)) => Ok(Some(state)),
            Some((Answer::Failed(why), _)) => Err(LinkError::Failed(why)),
            _ => Ok(None),
        }
    }

    /// Asks to be told when something was printed: [`Link::printed`].
    ///
    /// # Errors
    /// As for all here.
    pub async fn follow(&self) -> Result<(), LinkError> {
        Ok(self.0.send(&Question::Follow, &[]).await?)
    }

    /// Waits until something was printed since the last time; false when nothing will be any more.
    ///
    /// # Errors
    /// As for all here.
    pub async fn printed(&self) -> Result<bool, LinkError> {
        Ok(matches!(self.0.receive::<Answer>().await?, Some((Answer::Printed, _))))
    }

    /// Runs a program in it.
    ///
    /// # Errors
    /// [`LinkError::Failed`] when it can't be run.
    pub async fn run(self, program: Program, streams: Streams) -> Result<Session, LinkError> {
        let (terminal, with): (_, Vec<OwnedFd>) = match streams {
            Streams::Terminal(size) => (Some(size), Vec::new()),
            Streams::Given(three) => (None, three.into()),
        };
        let borrowed: Vec<BorrowedFd<'_>> = with.iter().map(AsFd::as_fd).collect();
        self.0.send(&Question::Run { program, terminal }, &borrowed).await?;
        match self.0.receive::<Answer>().await? {
            Some((Answer::Started, came)) => Ok(Session { link: self.0, terminal: came.into_iter().next() }),
            Some((Answer::Failed(why), _)) => Err(LinkError::Failed(why)),
            _ => Err(LinkError::Over),
        }
    }
}

/// A program that somebody runs in a launch. It's hung up on when this is dropped.
#[derive(Debug)]
pub struct Session {
    link: Channel,
    /// The user's side of its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
}

impl Session {
    /// Sends it a signal.
    ///
    /// # Errors
    /// As for all here.
    pub async fn signal(&self, signal: i32) -> Result<(), LinkError> {
        Ok(self.link.send(&Question::Signal(signal), &[]).await?)
    }

    /// Waits for its end: its exit code, or 128 and the number of the signal.
    ///
    /// # Errors
    /// [`LinkError::Over`] when the environment ends before.
    pub async fn wait(&self) -> Result<u8, LinkError> {
        match self.link.receive::<Answer>().await? {
            Some((Answer::Ended(code), _)) => Ok(code),
            _ => Err(LinkError::Over),
        }
    }
}

/// Answers whoever connects, until it's aborted.
pub(super) async fn serve(listener: Listener, life: Arc<Life>) {
    loop {
        match listener.accept().await {
            Ok(channel) => {
                let life = life.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(&channel, &life).await {
                        tracing::debug!(%error, "a question broke off");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "questions can't be taken");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(channel: &Channel, life: &Arc<Life>) -> io::Result<()> {
    let Some((question, with)) = channel.receive::<Question>().await? else { return Ok(()) };
    match question {
        Question::Watch => tell_state(channel, life).await,
        Question::Stop { at_once } => {
            let how = if at_once { Stop::AtOnce } else { Stop::Gently };
            life.stop.send_modify(|stop| *stop = how.max(*stop));
            tell_state(channel, life).await
        }
        Question::Run { program, terminal } => {
            let streams = match (terminal, <[OwnedFd; 3]>::try_from(with)) {
                (Some(size), _) => Streams::Terminal(size),
                (None, Ok(three)) => Streams::Given(three),
                (None, Err(_)) => {
                    return channel.send(&Answer::Failed("three streams are needed".to_owned()), &[]).await;
                }
            };
            let running = match life.room.spawn(program, streams).await {
                Ok(running) => running,
                Err(error) => return channel.send(&Answer::Failed(error.to_string()), &[]).await,
            };
            let terminal: Vec<_> = running.terminal.iter().map(AsFd::as_fd).collect();
            channel.send(&Answer::Started, &terminal).await?;
            let ended = running.wait();
            tokio::pin!(ended);
            loop {
                tokio::select! {
                    code = &mut ended => {
                        return match code {
                            Some(code) => channel.send(&Answer::Ended(code), &[]).await,
                            None => Ok(()),
                        };
                    }
                    said = channel.receive::<Question>() => match said {
                        Ok(Some((Question::Signal(signal), _))) => running.signals()(signal).await,
                        // Whoever ran it has gone.
                        _ => {
                            running.signals()(libc::SIGHUP).await;
                            return Ok(());
                        }
                    },
                }
            }
        }
        Question::Follow => {
            let (mut written, mut state) = (life.log.written(), life.state.subscribe());
            loop {
                channel.send(&Answer::Printed, &[]).await?;
                tokio::select! {
                    changed = written.changed() => if changed.is_err() { return Ok(()) },
                    _ = state.wait_for(|state| state.phase.is_over()) => return Ok(()),
                    gone = channel.receive::<Question>() => if !matches!(gone, Ok(Some(_))) { return Ok(()) },
                }
            }
        }
        Question::Signal(_) => channel.send(&Answer::Failed("nothing was run".to_owned()), &[]).await,
    }
}

/// Tells how the launch is until it's over.
async fn tell_state(channel: &Channel, life: &Arc<Life>) -> io::Result<()> {
    let mut state = life.state.subscribe();
    loop {
        let now = state.borrow_and_update().clone();
        let over = now.phase.is_over();
        channel.send(&Answer::State(now), &[]).await?;
        if over {
            return Ok(());
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return Ok(()) },
            // Whoever asked has gone.
            gone = channel.receive::<Question>() => if !matches!(gone, Ok(Some(_))) { return Ok(()) },
        }
    }
}
