//! The services of an environment: started in their order, watched, and started again.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle, time::sleep};

use super::{Life, ServiceSpec, probe};
use crate::workspace::definition::{Probe, Restart};

/// The pause before a service is started again; it doubles each time …
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// … up to this, and is forgotten when it ran for longer than this.
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// How far a service has come.
#[derive(Debug, Clone, PartialEq)]
enum Progress {
    Waiting,
    Ready,
    /// It ended before it was ready, and won't be started again.
    Lost(String),
}

/// All services of a launch; dropping it ends their supervision.
pub(super) struct Services {
    progress: BTreeMap<String, watch::Receiver<Progress>>,
    tasks: Vec<JoinHandle<u8>>,
}

impl Services {
    pub(super) fn start(life: &Arc<Life>) -> Self {
        let senders: Vec<_> =
            life.spec.services.iter().map(|_| watch::Sender::new(Progress::Waiting)).collect();
        let named = life.spec.services.iter().zip(&senders);
        let progress: BTreeMap<_, _> =
            named.map(|(service, sender)| (service.name.clone(), sender.subscribe())).collect();
        let tasks = life.spec.services.iter().zip(senders).map(|(service, sender)| {
            let before = service.after.iter().filter_map(|name| progress.get(name).cloned()).collect();
            tokio::spawn(attend(life.clone(), service.clone(), before, sender))
        });
        let tasks = tasks.collect();
        Self { progress, tasks }
    }

    /// Waits until all are ready.
    pub(super) async fn ready(&self) -> Result<(), String> {
        let waits = self.progress.iter().map(|(name, progress)| async move {
            settled(progress.clone()).await.map_err(|why| format!("the service '{name}' {why}"))
        });
        futures_util::future::try_join_all(waits).await.map(drop)
    }

    /// Waits until none runs any more, and none will again: the greatest of their exit codes.
    pub(super) async fn ended(mut self) -> Result<Option<u8>, String> {
        let mut code = 0;
        for task in std::mem::take(&mut self.tasks) {
            code = code.max(task.await.map_err(|error| error.to_string())?);
        }
        Ok(Some(code))
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Waits until a service is ready, or never will be.
async fn settled(mut progress: watch::Receiver<Progress>) -> Result<(), String> {
    match progress.wait_for(|progress| *progress != Progress::Waiting).await.as_deref() {
        Ok(Progress::Ready) => Ok(()),
        Ok(Progress::Lost(why)) => Err(why.clone()),
        _ => Err("isn't attended to any more".to_owned()),
    }
}

/// Runs a service, again and again where it's to be; gives its last exit code.
async fn attend(
    life: Arc<Life>,
    service: ServiceSpec,
    before: Vec<watch::Receiver<Progress>>,
    progress: watch::Sender<Progress>,
) -> u8 {
    for other in before {
        if settled(other).await.is_err() {
            progress.send_replace(Progress::Lost("waits for another that isn't there".to_owned()));
            return u8::MAX;
        }
    }
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        let code = run(&life, &service, &progress).await;
        let (code, why) = match code {
            Ok(code) => (code, format!("ended with code {code} before it was ready: its log says more")),
            Err(why) => (u8::MAX, why),
        };
        life.set(|state| {
            let state = state.services.entry(service.name.clone()).or_default();
            (state.running, state.ready, state.code) = (false, false, Some(code));
        });
        let again = match service.restart {
            Restart::Never => false,
            Restart::OnFailure => code != 0,
            Restart::Always => true,
        };
        if !again {
            progress.send_if_modified(|progress| {
                let waiting = *progress == Progress::Waiting;
                if waiting {
                    *progress = Progress::Lost(why);
                }
                waiting
            });
            return code;
        }
        if begun.elapsed() > LAST_PAUSE {
            pause = FIRST_PAUSE;
        }
        life.log.write("twinshare", &format!("the service '{}' is started again in {pause:?}", service.name));
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
        life.set(|state| state.services.entry(service.name.clone()).or_default().restarts += 1);
    }
}

/// Runs a service once; gives its exit code.
async fn run(
    life: &Arc<Life>,
    service: &ServiceSpec,
    progress: &watch::Sender<Progress>,
) -> Result<u8, String> {
    let (print, printed) = watch::channel(false);
    let text = match &service.ready {
        Some(Probe::Log { log }) => Some(log.clone()),
        _ => None,
    };
    let look = move |line: &str| {
        if text.as_deref().is_some_and(|text| line.contains(text)) {
            print.send_replace(true);
        }
    };
    let running = life.start_seen(service.program.clone(), &service.name, look).await?;
    life.set(|state| state.services.entry(service.name.clone()).or_default().running = true);
    let ended = running.wait();
    tokio::pin!(ended);
    if let Some(ready) = &service.ready {
        tokio::select! {
            biased;
            code = &mut ended => return code.ok_or_else(|| "ended with the environment".to_owned()),
            () = probe::ready(&life.room, ready, &service.program, printed) => {}
        }
    }
    life.set(|state| state.services.entry(service.name.clone()).or_default().ready = true);
    progress.send_replace(Progress::Ready);
    ended.await.ok_or_else(|| "ended with the environment".to_owned())
}
