use std::{future::ready, pin::Pin, sync::Arc, time::Duration};

use bollard::{
    Docker,
    container::LogOutput,
    exec::{CreateExecOptions, StartExecOptions},
    query_parameters::ResizeExecOptionsBuilder,
};
use futures_util::{FutureExt, Stream, StreamExt};
use rustix::termios::tcgetwinsize;
use tokio::io::AsyncWrite;

use crate::runtime::{
    relay::{Ends, Piece, feed, write},
    room::{RoomError, Running, Streams},
};

/// The pause between two looks at whether something that closed its streams has ended.
const PAUSE: Duration = Duration::from_millis(20);

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;
type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// Joins what runs in a container with the streams of whoever runs it.
pub(super) fn join(
    docker: &Docker,
    container: &str,
    number: u32,
    exec: String,
    output: Output,
    input: Input,
    streams: Streams,
) -> Result<Running, RoomError> {
    let Ends { front, back, stdin, stdout, stderr } = Ends::new(streams)?;
    let reading = tokio::spawn(feed(stdin, input));
    let pieces = output.take_while(|piece| ready(piece.is_ok())).filter_map(|piece| {
        ready(piece.ok().map(|piece| match piece {
            LogOutput::StdErr { message } => Piece::Err(message),
            LogOutput::StdOut { message } | LogOutput::Console { message } | LogOutput::StdIn { message } => {
                Piece::Out(message)
            }
        }))
    });
    let ended = {
        let (docker, exec) = (docker.clone(), exec.clone());
        tokio::spawn(async move {
            write(pieces, stdout, stderr).await;
            reading.abort();
            let code = code(&docker, &exec).await.ok()?;
            Some(code.to_le_bytes()[0])
        })
    };
    let (docker, container) = (docker.clone(), container.to_owned());
    let signal = move |signal: i32| {
        let (docker, container, exec, back) = (docker.clone(), container.clone(), exec.clone(), back.clone());
        async move {
            if let (libc::SIGWINCH, Some(back)) = (signal, back) {
                if let Ok(size) = tcgetwinsize(&*back) {
                    let options = ResizeExecOptionsBuilder::new();
                    let options = options.h(size.ws_row.into()).w(size.ws_col.into()).build();
                    // It may have ended.
                    let _ = docker.resize_exec(&exec, options).await;
                }
                return;
            }
            let line = format!("kill -{signal} \"$(cat /tmp/.twinshare/{number})\"");
            let options =
                CreateExecOptions { cmd: Some(vec!["/bin/sh", "-c", &line]), ..CreateExecOptions::default() };
            if let Ok(exec) = docker.create_exec(&container, options).await {
                let options = StartExecOptions { detach: true, ..StartExecOptions::default() };
                // As above.
                let _ = docker.start_exec(&exec.id, Some(options)).await;
            }
        }
        .boxed()
    };
    let ended = ended.map(|code| code.ok().flatten()).boxed();
    Ok(Running::new(front, ended, Arc::new(signal)))
}

/// The exit code of what was run.
pub(super) async fn code(docker: &Docker, exec: &str) -> Result<i64, bollard::errors::Error> {
    loop {
        let found = docker.inspect_exec(exec).await?;
        if found.running != Some(true) {
            return Ok(found.exit_code.unwrap_or(255));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
