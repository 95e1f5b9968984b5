//! Joins the streams of whoever runs a program with a program that is reached by messages only.

use std::{fs::File, io, os::fd::OwnedFd, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    agent::open_terminal,
    room::{RoomError, Streams},
};

/// Bytes that are passed on at a time.
const PIECE: usize = 16 << 10;

/// A program's streams at this end.
pub(super) struct Ends {
    /// The user's side of the terminal, if there's one …
    pub(super) front: Option<OwnedFd>,
    /// … and the other, which knows its size.
    pub(super) back: Option<Arc<OwnedFd>>,
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Ends {
    pub(super) fn new(streams: Streams) -> Result<Self, RoomError> {
        let wrong = |error: io::Error| RoomError::Program(error.to_string());
        match streams {
            Streams::Given([stdin, stdout, stderr]) => {
                Ok(Self { front: None, back: None, stdin, stdout, stderr })
            }
            Streams::Terminal(size) => {
                let terminal = || {
                    let (front, back) = open_terminal(size)?;
                    // The terminal over there does what a terminal does.
                    let mut raw = tcgetattr(&back)?;
                    raw.make_raw();
                    tcsetattr(&back, OptionalActions::Now, &raw)?;
                    let [stdin, stdout, stderr] = [back.try_clone()?, back.try_clone()?, back.try_clone()?];
                    let back = Some(Arc::new(back));
                    Ok(Self { front: Some(front), back, stdin, stdout, stderr })
                };
                terminal().map_err(wrong)
            }
        }
    }
}

/// Something that a program printed.
pub(super) enum Piece {
    Out(Bytes),
    Err(Bytes),
}

fn file(descriptor: OwnedFd) -> tokio::fs::File {
    tokio::fs::File::from_std(File::from(descriptor))
}

/// Passes input on to its end.
pub(super) async fn feed(stdin: OwnedFd, mut input: impl AsyncWrite + Unpin) {
    let mut stdin = file(stdin);
    let mut buffer = vec![0; PIECE];
    while let Ok(length @ 1..) = stdin.read(&mut buffer).await {
        if input.write_all(&buffer[..length]).await.is_err() || input.flush().await.is_err() {
            return;
        }
    }
    // What runs there may have closed it already.
    let _ = input.shutdown().await;
}

/// Writes what comes until nothing will any more. Where nobody takes it, it's passed over.
pub(super) async fn write(mut output: impl Stream<Item = Piece> + Unpin, stdout: OwnedFd, stderr: OwnedFd) {
    let (mut stdout, mut stderr) = (file(stdout), file(stderr));
    while let Some(piece) = output.next().await {
        let (to, bytes) = match piece {
            Piece::Out(bytes) => (&mut stdout, bytes),
            Piece::Err(bytes) => (&mut stderr, bytes),
        };
        if to.write_all(&bytes).await.is_ok() {
            // As above.
            let _ = to.flush().await;
        }
    }
}
