//! Supervises one launch: its set-up, services, readiness, ports and end. It's a process of its own, so that what runs
//! survives the daemon; all that is known of it is in the launch's folder, and asked and told over the socket there.

mod link;
mod log;
mod probe;
mod service;
mod spec;

use std::{
    fs::File,
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::{
    io::copy_bidirectional,
    net::TcpListener,
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use self::{
    link::serve,
    log::Log,
    service::Services,
    spec::{LOG, SOCKET, SPEC, STATE, write},
};
pub use self::{
    link::{Link, LinkError, Session},
    log::{LogLine, Tail},
    spec::{LaunchSpec, LaunchState, Phase, PortState, RoomSpec, ServiceSpec, ServiceState, read},
};
use super::{
    agent::Program,
    channel::Listener,
    container::Container,
    plugin::Plugin,
    room::{Room, RoomError, Running, Streams},
    sandbox::Sandbox,
};
use crate::workspace::definition::Port;

/// How long programs may take to end that are asked to, unless they are to end at once.
const GRACE: Duration = Duration::from_secs(10);

/// How long what is run after the end may take.
const LAST_HOOKS: Duration = Duration::from_secs(30);

/// How long it may take until those who watch have taken the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// The launch, in its folder.
pub const LAUNCH_FILE: &str = SPEC;
/// Its state, there.
pub const STATE_FILE: &str = STATE;
/// Its log, there.
pub const LOG_FILE: &str = LOG;

/// How a launch is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    Not,
    Gently,
    AtOnce,
}

/// A launch at work.
struct Life {
    folder: PathBuf,
    spec: LaunchSpec,
    room: Arc<dyn Room>,
    log: Arc<Log>,
    state: watch::Sender<LaunchState>,
    stop: watch::Sender<Stop>,
    /// What the environment runs, once it does.
    main: Mutex<Option<Arc<Running>>>,
    /// What runs of its own: not what somebody runs in it.
    running: Mutex<Vec<(u64, Arc<Running>)>>,
    next: AtomicU64,
}

/// Supervises the launch of this folder to its end; `interrupted` asks for that.
///
/// The caller's thread must be the one that ends last: what runs ends with it.
///
/// # Errors
/// When the folder can't be used. That the launch fails is told in its state.
pub async fn supervise(folder: &Path, interrupted: impl Future<Output = ()>) -> io::Result<()> {
    let absent = || io::Error::new(io::ErrorKind::NotFound, "there's no launch in the folder");
    let spec: LaunchSpec = read(folder, SPEC)?.ok_or_else(absent)?;
    let log = Arc::new(Log::open(folder.join(LOG))?);
    let listener = Listener::bind(&folder.join(SOCKET))?;
    let state = watch::Sender::new(LaunchState {
        phase: Phase::Starting,
        since: Timestamp::now(),
        code: None,
        reason: None,
        services: Default::default(),
        ports: Vec::new(),
        supervisor: std::process::id(),
    });
    write(folder, STATE, &*state.borrow())?;
    let room = match open(&spec.room).await {
        Ok(room) => room,
        Err(error) => {
            let reason = Some(error.to_string());
            state.send_modify(|state| (state.phase, state.reason) = (Phase::Failed, reason));
            return write(folder, STATE, &*state.borrow());
        }
    };
    let life = Arc::new(Life {
        folder: folder.to_owned(),
        spec,
        room,
        log,
        state,
        stop: watch::Sender::new(Stop::Not),
        main: Mutex::default(),
        running: Mutex::default(),
        next: AtomicU64::new(0),
    });
    let serving = tokio::spawn(serve(listener, life.clone()));
    let mut stopping = life.stop.subscribe();
    let end = tokio::select! {
        end = life.live() => end,
        why = life.room.ended() => Err(why),
        _ = stopping.wait_for(|stop| *stop != Stop::Not) => Ok(None),
        () = interrupted => Ok(None),
    };
    life.end(end).await;
    // What is asked now is asked in vain; whoever watches is told the end.
    serving.abort();
    let _ = timeout(FAREWELL, life.state.closed()).await;
    // That it's gone already is as good.
    let _ = std::fs::remove_file(folder.join(SOCKET));
    Ok(())
}

async fn open(spec: &RoomSpec) -> Result<Arc<dyn Room>, RoomError> {
    Ok(match spec {
        RoomSpec::Process(how) => Arc::new(Sandbox::start(how).await?),
        RoomSpec::Container(how) => Arc::new(Container::start(how).await?),
        RoomSpec::Plugin(how) => Arc::new(Plugin::start(how).await?),
    })
}

impl Life {
    /// Changes the state, and tells of it.
    fn set(&self, change: impl FnOnce(&mut LaunchState)) {
        self.state.send_modify(|state| {
            let before = state.phase;
            change(state);
            if state.phase != before {
                state.since = Timestamp::now();
            }
        });
        if let Err(error) = write(&self.folder, STATE, &*self.state.borrow()) {
            // Those who watch know it anyway.
            tracing::warn!(%error, "the state can't be written");
        }
    }

    fn phase(&self, phase: Phase) {
        self.set(|state| state.phase = phase);
    }

    /// From the set-up to the end of what it runs: its exit code, or why it failed.
    async fn live(self: &Arc<Self>) -> Result<Option<u8>, String> {
        self.set_up().await?;
        self.phase(Phase::Starting);
        self.run_all(&self.spec.starting, "hook").await?;
        self.forward_ports().await?;
        let services = Services::start(self);
        services.ready().await?;
        let main = match &self.spec.main {
            Some(program) => Some(self.start(program.clone(), "main").await?),
            None => None,
        };
        self.main().clone_from(&main);
        self.run_all(&self.spec.started, "hook").await?;
        self.phase(Phase::Running);
        match main {
            Some(main) => main.wait().await.map(Some).ok_or_else(|| "the environment ended".to_owned()),
            None if self.spec.services.is_empty() => std::future::pending().await,
            None => services.ended().await,
        }
    }

    /// Runs the set-up, unless just that has been run before.
    async fn set_up(self: &Arc<Self>) -> Result<(), String> {
        let mark = serde_json::to_string(&self.spec.setup).map_err(|error| error.to_string())?;
        let done = self.spec.setup_done.as_deref();
        let before = done.and_then(|file| std::fs::read_to_string(file).ok());
        if self.spec.setup.is_empty() || before.as_deref() == Some(&mark) {
            return Ok(());
        }
        self.phase(Phase::SettingUp);
        self.run_all(&self.spec.setup, "setup").await?;
        if let Some(file) = done
            && let Err(error) = std::fs::write(file, &mark)
        {
            tracing::warn!(%error, "that the set-up was run can't be noted: it will be run again");
        }
        Ok(())
    }

    /// Runs one after the other; all must succeed.
    async fn run_all(self: &Arc<Self>, programs: &[Program], from: &str) -> Result<(), String> {
        for program in programs {
            let shown = shown(program);
            self.log.write("twinshare", &format!("{from}: {shown}"));
            let running = self.start(program.clone(), from).await?;
            match running.wait().await {
                Some(0) => {}
                Some(code) => return Err(format!("'{shown}' failed with code {code}: its log says more")),
                None => return Err("the environment ended".to_owned()),
            }
        }
        Ok(())
    }

    /// Starts a program whose output is logged.
    async fn start(self: &Arc<Self>, program: Program, from: &str) -> Result<Arc<Running>, String> {
        self.start_seen(program, from, |_| {}).await
    }

    /// The same, and shows its lines.
    async fn start_seen(
        self: &Arc<Self>,
        program: Program,
        from: &str,
        look: impl FnMut(&str) + Send + 'static,
    ) -> Result<Arc<Running>, String> {
        let streams = self.log.stream(from, look).and_then(|output| {
            let nothing = File::open("/dev/null")?.into();
            Ok(Streams::Given([nothing, output.try_clone()?, output]))
        });
        let streams = streams.map_err(|error| format!("can't keep what it prints: {error}"))?;
        let running = self.room.spawn(program, streams).await.map_err(|error| error.to_string())?;
        let running = Arc::new(running);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.running().push((number, running.clone()));
        let (life, ended) = (Arc::downgrade(self), running.wait());
        tokio::spawn(async move {
            ended.await;
            if let Some(life) = life.upgrade() {
                life.running().retain(|(other, _)| *other != number);
            }
        });
        Ok(running)
    }

    fn main(&self) -> std::sync::MutexGuard<'_, Option<Arc<Running>>> {
        // As below.
        self.main.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Arc<Running>)>> {
        // Every change is complete before anything can panic.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes connections to the ports here, and makes them in the environment.
    async fn forward_ports(self: &Arc<Self>) -> Result<(), String> {
        let mut ports = Vec::new();
        for port in &self.spec.ports {
            let (number, name) = match port {
                Port::Number(number) => (*number, None),
                Port::Named { port, name } => (*port, Some(name.clone())),
            };
            let bound = match TcpListener::bind((Ipv4Addr::LOCALHOST, number)).await {
                Ok(listener) => Ok(listener),
                // It's taken, or only for root: any other.
                Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await,
            };
            let listener = bound.map_err(|error| format!("there's no port for port {number}: {error}"))?;
            let here = listener.local_addr().map_err(|error| error.to_string())?.port();
            if here != number {
                self.log.write("twinshare", &format!("port {number} is taken here: it's at {here} instead"));
            }
            ports.push(PortState { port: number, name, here });
            tokio::spawn(forward(listener, self.room.clone(), number));
        }
        self.set(|state| state.ports = ports);
        Ok(())
    }

    /// Ends all that runs, and says how it ended.
    async fn end(self: &Arc<Self>, end: Result<Option<u8>, String>) {
        self.phase(Phase::Stopping);
        let room_ended = || async { self.room.ended().await };
        let mut stop = self.stop.subscribe();
        let gently = async {
            let running: Vec<Arc<Running>> =
                self.running().iter().map(|(_, running)| running.clone()).collect();
            for one in &running {
                one.signals()(libc::SIGTERM).await;
            }
            let all = join_all(running.iter().map(|one| one.wait()));
            // Whoever doesn't end in time is ended with the room.
            let _ = timeout(GRACE, all).await;
            let hooks = self.run_all(&self.spec.stopped, "hook");
            match timeout_at(Instant::now() + LAST_HOOKS, hooks).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => self.log.write("twinshare", &why),
                Err(_) => {
                    self.log.write("twinshare", "what is run after the end takes too long, and is ended")
                }
            }
        };
        tokio::select! {
            // Nobody is asked if all is to end at once.
            biased;
            _ = stop.wait_for(|stop| *stop == Stop::AtOnce) => {}
            _ = room_ended() => {}
            () = gently => {}
        }
        self.room.end().await;
        let main = self.main().clone();
        // How it ended when it was asked to; as killed if it had to be ended.
        let end = match (end, main) {
            (Ok(None), Some(main)) => {
                let code = timeout(FAREWELL, main.wait()).await.ok().flatten();
                Ok(Some(code.unwrap_or(128 + libc::SIGKILL.to_le_bytes()[0])))
            }
            (end, _) => end,
        };
        match &self.spec.room {
            RoomSpec::Process(how) => super::limits::clean(&how.limits),
            RoomSpec::Container(_) | RoomSpec::Plugin(_) => {}
        }
        self.set(|state| {
            state.ports.clear();
            for service in state.services.values_mut() {
                (service.running, service.ready) = (false, false);
            }
            match end {
                Ok(code) => (state.phase, state.code) = (Phase::Ended, code),
                Err(why) => (state.phase, state.reason) = (Phase::Failed, Some(why)),
            }
        });
    }
}

/// Makes a connection in the environment for each that comes.
async fn forward(listener: TcpListener, room: Arc<dyn Room>, port: u16) {
    loop {
        let mut here = match listener.accept().await {
            Ok((here, _)) => here,
            Err(error) => {
                // As when there are too many descriptors: others will end.
                tracing::debug!(%error, port, "a connection can't be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let room = room.clone();
        tokio::spawn(async move {
            // If nobody listens there, the connection is closed: that says it.
            if let Ok(mut there) = room.connect(port).await {
                let _ = copy_bidirectional(&mut here, &mut there).await;
            }
        });
    }
}

/// A program's words, as a shell has them.
fn shown(program: &Program) -> String {
    let words: Vec<_> = program.words.iter().map(|word| word.to_string_lossy()).collect();
    match &words[..] {
        [shell, option, line] if shell == "sh" && option == "-c" => line.to_string(),
        words => shell_words::join(words),
    }
}
