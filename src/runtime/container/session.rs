use std::{fs::File, io, os::fd::OwnedFd, pin::Pin, sync::Arc, time::Duration};

use bollard::{
    Docker,
    container::LogOutput,
    exec::{CreateExecOptions, StartExecOptions},
    query_parameters::ResizeExecOptionsBuilder,
};
use futures_util::{FutureExt, Stream, StreamExt};
use rustix::termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::runtime::{
    agent::open_terminal,
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
    mut input: Input,
    streams: Streams,
) -> Result<Running, RoomError> {
    let wrong = |error: io::Error| RoomError::Program(error.to_string());
    let (front, back, [stdin, stdout, stderr]) = match streams {
        Streams::Given(three) => (None, None, three),
        Streams::Terminal(size) => {
            let (front, back) = open_terminal(size).map_err(wrong)?;
            // The container's own terminal does what a terminal does.
            let mut raw = tcgetattr(&back).map_err(|error| wrong(error.into()))?;
            raw.make_raw();
            tcsetattr(&back, OptionalActions::Now, &raw).map_err(|error| wrong(error.into()))?;
            let copies = || Ok([back.try_clone()?, back.try_clone()?, back.try_clone()?]);
            let three = copies().map_err(wrong)?;
            (Some(front), Some(Arc::new(back)), three)
        }
    };
    let reading = tokio::spawn(async move {
        let mut stdin = file(stdin);
        let mut buffer = vec![0; 16 << 10];
        while let Ok(length @ 1..) = stdin.read(&mut buffer).await {
            if input.write_all(&buffer[..length]).await.is_err() || input.flush().await.is_err() {
                return;
            }
        }
        // What runs there may have closed it already.
        let _ = input.shutdown().await;
    });
    let ended = {
        let (docker, exec) = (docker.clone(), exec.clone());
        tokio::spawn(async move {
            write(output, stdout, stderr).await;
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

fn file(descriptor: OwnedFd) -> tokio::fs::File {
    tokio::fs::File::from_std(File::from(descriptor))
}

/// Writes what comes until nothing will any more. Where nobody takes it, it's passed over.
async fn write(mut output: Output, stdout: OwnedFd, stderr: OwnedFd) {
    let (mut stdout, mut stderr) = (file(stdout), file(stderr));
    while let Some(Ok(piece)) = output.next().await {
        let (to, bytes) = match piece {
            LogOutput::StdErr { message } => (&mut stderr, message),
            LogOutput::StdOut { message } | LogOutput::Console { message } | LogOutput::StdIn { message } => {
                (&mut stdout, message)
            }
        };
        if to.write_all(&bytes).await.is_ok() {
            // As above.
            let _ = to.flush().await;
        }
    }
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
