//! Whether something in an environment is ready.

use std::{fs::File, sync::Arc, time::Duration};

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::super::{
    agent::Program,
    room::{Room, Streams},
};
use crate::workspace::definition::Probe;

/// The pause between two looks; it grows …
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// … up to this.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// How long one look may take.
const LOOK: Duration = Duration::from_secs(10);

/// Waits until the probe finds it ready. `printed` is whether the text that the probe may be about was seen.
pub(super) async fn ready(
    room: &Arc<dyn Room>,
    probe: &Probe,
    template: &Program,
    mut printed: watch::Receiver<bool>,
) {
    if let Probe::Log { .. } = probe {
        if printed.wait_for(|printed| *printed).await.is_err() {
            // It will never print anything again; its end is seen by others.
            std::future::pending::<()>().await;
        }
        return;
    }
    let mut pause = FIRST_PAUSE;
    while !matches!(timeout(LOOK, look(room, probe, template)).await, Ok(true)) {
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn look(room: &Arc<dyn Room>, probe: &Probe, template: &Program) -> bool {
    match probe {
        Probe::Tcp { tcp } => room.connect(*tcp).await.is_ok(),
        Probe::Http { http } => answers(room, http).await.unwrap_or(false),
        Probe::Command { command } => {
            let words = command.words().into_iter().map(Into::into).collect();
            let program = Program { words, ..template.clone() };
            let nothing = || File::options().read(true).write(true).open("/dev/null").map(Into::into);
            let (Ok(stdin), Ok(stdout), Ok(stderr)) = (nothing(), nothing(), nothing()) else { return false };
            match room.spawn(program, Streams::Given([stdin, stdout, stderr])).await {
                Ok(running) => running.wait().await == Some(0),
                Err(_) => false,
            }
        }
        Probe::Log { .. } => false,
    }
}

/// Whether an address in the environment answers with a status below 400.
async fn answers(
    room: &Arc<dyn Room>,
    address: &str,
) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let url: hyper::Uri = address.parse()?;
    let port = url.port_u16().unwrap_or(80);
    let stream = room.connect(port).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(connection);
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let request = hyper::Request::get(target)
        .header(hyper::header::HOST, url.host().unwrap_or("localhost"))
        .body(Empty::<bytes::Bytes>::new())?;
    let answer = sender.send_request(request).await;
    driving.abort();
    Ok(answer?.status().as_u16() < 400)
}
