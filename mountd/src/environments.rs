//! The environments that run on this machine: started, found again, and ended. Each is supervised by a process of its own
//! (`attend`), which survives this one.

mod rooms;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::timeout};
use twinshare::{
    api::{Agreement, Happening, Launch, Problem, RawText, StartAnswer, StartRequest},
    runtime::{
        ComposeError, Fit, Given, Here, LAUNCH_FILE, LaunchSpec, LaunchState, Limits, Link, LinkError,
        Machine, Means, Phase, RoomSpec, STATE_FILE, Thing, agreement, commands, compose, fit, read,
        with_profile,
    },
    types::{Digest, HostName, WorkspaceName},
    workspace::{
        self, Folder, Planned,
        definition::{Check, Consent, Environment, Port},
    },
};

pub(crate) use self::rooms::Found;
use self::rooms::room;
use crate::{
    events::Events,
    files,
    launch::{self, Ground},
    node::Node,
};

/// What this node remembers of a launch, in its folder.
const META: &str = "environment.json";

/// What the supervisor itself prints.
const SUPERVISOR_LOG: &str = "supervisor.log";

/// The secrets of this node's user.
const SECRETS: &str = "secrets.json";

/// How long a supervisor may take to say that it's there.
const BEGINNING: Duration = Duration::from_secs(20);

/// How long an environment may take to end when the node does.
const LEAVING: Duration = Duration::from_secs(5);

/// What is remembered of a launch.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Meta {
    host: HostName,
    workspace: WorkspaceName,
    environment: String,
    runtime: String,
    #[serde(default)]
    profile: Option<String>,
    limits: String,
    network: bool,
    /// What was agreed to last.
    #[serde(default)]
    agreed: Option<Digest>,
    /// Whether it's to start with the node.
    #[serde(default)]
    autostart: bool,
    /// Whether its user wants it to run.
    #[serde(default)]
    wanted: bool,
    #[serde(default)]
    checks: Vec<Check>,
    /// What it takes of the machine while it runs.
    #[serde(default)]
    given: Vec<Given>,
}

struct Entry {
    meta: Meta,
    state: watch::Receiver<LaunchState>,
}

/// All launches that are known.
pub(crate) struct Environments {
    /// Of this node's state.
    folder: PathBuf,
    state: PathBuf,
    events: Arc<Events>,
    found: Found,
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Held while one is started: what the machine has is given once.
    starting: tokio::sync::Mutex<()>,
}

impl Environments {
    pub(crate) fn open(state: &Path, events: Arc<Events>, found: Found) -> std::io::Result<Self> {
        let folder = state.join("launches");
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let (state, entries, starting) = (state.to_owned(), Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self { folder, state, events, found, entries, starting })
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // Every change is complete before anything can panic.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    /// All launches, in the order of their names.
    pub(crate) fn list(&self) -> Vec<Launch> {
        let entries = self.entries();
        let mut launches: Vec<_> = entries.iter().map(|(id, entry)| self.launch(id, entry)).collect();
        launches.sort_by(|a, b| {
            (&a.host, &a.workspace, &a.environment).cmp(&(&b.host, &b.workspace, &b.environment))
        });
        launches
    }

    fn launch(&self, id: &str, entry: &Entry) -> Launch {
        let meta = entry.meta.clone();
        Launch {
            id: id.to_owned(),
            host: meta.host,
            workspace: meta.workspace,
            environment: meta.environment,
            runtime: meta.runtime,
            profile: meta.profile,
            limits: meta.limits,
            folder: RawText::from(self.of(id).into_os_string()),
            checks: meta.checks,
            state: entry.state.borrow().clone(),
        }
    }

    fn find(&self, id: &str) -> Result<Launch, Problem> {
        let entries = self.entries();
        let entry = entries.get(id).map(|entry| self.launch(id, entry));
        entry.ok_or_else(|| {
            Problem::missing(format!("there is no launch '{id}'")).with_remedy("`twinshare ps` lists them")
        })
    }

    /// What runs now takes of the machine.
    fn taken(&self) -> Vec<Given> {
        let entries = self.entries();
        let running = entries.values().filter(|entry| !entry.state.borrow().phase.is_over());
        running.flat_map(|entry| entry.meta.given.iter().cloned()).collect()
    }

    /// Looks at what was started before this node was. What isn't supervised any more has ended.
    pub(crate) async fn resume(self: &Arc<Self>) {
        let found = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for entry in found {
            let folder = entry.path();
            let Ok(id) = entry.file_name().into_string() else { continue };
            let meta = match files::read_json::<Meta>(&folder.join(META)) {
                Ok(Some(meta)) => meta,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(%error, "a launch isn't shown");
                    continue;
                }
            };
            match Link::open(&folder) {
                Ok(link) => self.watch(id, meta, link).await,
                Err(_) => {
                    let state = read::<LaunchState>(&folder, STATE_FILE).ok().flatten();
                    if state.as_ref().is_none_or(|state| !state.phase.is_over()) {
                        self.sweep(&id).await;
                    }
                    self.note_over(id, meta, state);
                }
            }
        }
    }

    /// Removes what a launch left that had no end.
    async fn sweep(&self, id: &str) {
        let spec = read::<LaunchSpec>(&self.of(id), LAUNCH_FILE).ok().flatten();
        if let Some(RoomSpec::Container(how)) = spec.map(|spec| spec.room) {
            twinshare::runtime::sweep(&how).await;
        }
    }

    fn note_over(&self, id: String, meta: Meta, state: Option<LaunchState>) {
        let (_, state) = watch::channel(ended(state));
        self.entries().insert(id, Entry { meta, state });
    }

    /// Follows a launch: how it is, as its supervisor tells.
    async fn watch(self: &Arc<Self>, id: String, meta: Meta, link: Link) {
        let first = async {
            link.watch().await?;
            link.state().await
        };
        let Ok(Ok(Some(first))) = timeout(BEGINNING, first).await else {
            let state = read::<LaunchState>(&self.of(&id), STATE_FILE).ok().flatten();
            return self.note_over(id, meta, state);
        };
        let (tell, state) = watch::channel(first);
        self.entries().insert(id.clone(), Entry { meta, state });
        let all = self.clone();
        tokio::spawn(async move {
            loop {
                let before = tell.borrow().phase;
                match link.state().await {
                    Ok(Some(state)) => drop(tell.send_replace(state)),
                    _ => {
                        let last = read::<LaunchState>(&all.of(&id), STATE_FILE).ok().flatten();
                        if !tell.borrow().phase.is_over() {
                            all.sweep(&id).await;
                            tell.send_replace(ended(last));
                        }
                    }
                }
                let now = tell.borrow().clone();
                if now.phase != before
                    && let Ok(launch) = all.find(&id)
                {
                    all.events.note(Happening::EnvironmentChanged {
                        host: launch.host,
                        workspace: launch.workspace,
                        environment: launch.environment,
                        phase: now.phase,
                        code: now.code,
                    });
                }
                if now.phase.is_over() {
                    return;
                }
            }
        });
    }

    /// Starts an environment, unless it runs already or must be agreed to first.
    pub(crate) async fn start(
        self: &Arc<Self>,
        node: &Node,
        request: StartRequest,
    ) -> Result<StartAnswer, Problem> {
        let _turn = self.starting.lock().await;
        let ground = launch::ground(node, &request.host, &request.workspace)?;
        let place = format!("{}/{}", request.host, request.workspace);
        let planned = {
            let (view, name) = (ground.view.clone(), request.environment.clone());
            blocking(move || pick(&view, name.as_deref())).await?
        }
        .map_err(|problem| prefixed(&place, problem))?;
        let environment = &planned.environment;
        let id = id(&request.host, &request.workspace, &environment.name);
        if let Ok(launch) = self.find(&id)
            && !launch.state.phase.is_over()
        {
            return Ok(StartAnswer::Started(Box::new(launch)));
        }
        let before = files::read_json::<Meta>(&self.of(&id).join(META)).unwrap_or_default();
        let agreed = agreement(environment, request.network);
        let known = before.as_ref().and_then(|meta| meta.agreed);
        let agrees = |digest: Option<Digest>| digest == Some(agreed);
        let once = environment.consent != Some(Consent::Each) && agrees(known);
        // What is the user's own needs no agreement.
        if ground.id.is_some() && !once && !agrees(request.agreed) {
            return Ok(StartAnswer::Agree(Agreement {
                digest: agreed,
                environment: environment.name.clone(),
                runtime: environment.runtime().to_owned(),
                changed: known.is_some_and(|known| known != agreed),
                commands: commands(environment),
                network: request.network,
                secrets: environment.secrets.clone(),
                ports: ports(environment),
            }));
        }
        let fitted = self.fit(environment).await?;
        if fitted.is_short && !request.anyway {
            let short = short(&fitted);
            return Err(Problem::conflict(format!(
                "{place}: '{}' needs more than there is here: {short}",
                environment.name
            ))
            .with_remedy("'--anyway' starts it all the same; 'twinshare ps' shows what else runs"));
        }
        let mut environment = with_profile(environment, &fitted);
        if request.idle {
            environment.command = None;
        }
        let meta = Meta {
            host: request.host.clone(),
            workspace: request.workspace.clone(),
            environment: environment.name.clone(),
            runtime: environment.runtime().to_owned(),
            profile: fitted.profile.clone(),
            limits: String::new(),
            network: request.network,
            agreed: Some(agreed),
            autostart: environment.autostart,
            wanted: true,
            checks: environment.checks.clone(),
            given: fitted.given.clone(),
        };
        self.begin(node, &id, ground, environment, fitted, meta)
            .await
            .map_err(|error| prefixed(&place, error))?;
        self.find(&id).map(|launch| StartAnswer::Started(Box::new(launch)))
    }

    async fn fit(&self, environment: &Environment) -> Result<Fit, Problem> {
        let (state, environment, taken) = (self.state.clone(), environment.clone(), self.taken());
        blocking(move || {
            let machine = Machine::look(&state).map_err(Problem::failed)?;
            Ok(fit(&environment, &machine.without(&taken)))
        })
        .await?
    }

    /// Writes a launch's files and starts its supervisor.
    async fn begin(
        self: &Arc<Self>,
        node: &Node,
        id: &str,
        ground: Ground,
        environment: Environment,
        fitted: Fit,
        mut meta: Meta,
    ) -> Result<(), Problem> {
        let folder = self.of(id);
        let (fetcher, state, name) = (node.fetcher.clone(), self.state.clone(), id.to_owned());
        let here = values(node);
        let (network, found) = (meta.network, self.found.clone());
        let (spec, means) = blocking(move || {
            let mut here = here;
            here.secrets =
                files::read_json(&state.join(SECRETS)).map_err(Problem::failed)?.unwrap_or_default();
            here.workspace.clone_from(&ground.original);
            let limits = limits(&name, &fitted);
            let folder = state.join("launches").join(&name);
            let room = room(&ground, &environment, network, limits, &folder, &found)?;
            if let Some(command) = &environment.command {
                let words = command.plain_words();
                ground.note_launch(&fetcher, words.iter().map(Path::new));
            }
            let done = Some(folder.join("set-up"));
            let spec = compose(&environment, room, &here, &fitted, done).map_err(|error| {
                let problem = Problem::conflict(&error);
                match error {
                    ComposeError::Secret(name) => {
                        problem.with_remedy(format!("'twinshare secret set {name}' gives it one"))
                    }
                    ComposeError::Value { .. } => problem,
                }
            })?;
            let means = match &spec.room {
                RoomSpec::Process(how) => how.limits.means.to_string(),
                RoomSpec::Container(how) => how.limits.means.to_string(),
                RoomSpec::Plugin(how) => how.limits.means.to_string(),
            };
            Ok::<_, Problem>((spec, means))
        })
        .await??;
        meta.limits = means;
        let program = std::env::current_exe().map_err(Problem::failed)?;
        {
            let (folder, meta) = (folder.clone(), meta.clone());
            blocking(move || {
                match fs::DirBuilder::new().mode(0o700).create(&folder) {
                    Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                        return Err(Problem::failed(error));
                    }
                    _ => {}
                }
                if let RoomSpec::Plugin(how) = &spec.room {
                    fs::create_dir_all(&how.folder).map_err(Problem::failed)?;
                }
                files::write_json(&folder.join(META), &meta).map_err(Problem::failed)?;
                files::write_json(&folder.join(LAUNCH_FILE), &spec).map_err(Problem::failed)?;
                // What it was before isn't how it is.
                let _ = fs::remove_file(folder.join(STATE_FILE));
                Ok(())
            })
            .await??;
        }
        let mut child = attend(&program, &folder).map_err(|error| {
            Problem::failed(format!("can't start what supervises it ({}): {error}", program.display()))
        })?;
        let link = timeout(BEGINNING, connect(&folder, &mut child)).await;
        match link {
            Ok(Some(link)) => self.watch(id.to_owned(), meta, link).await,
            // It has told by its state, and ended.
            Ok(None) => {
                let state = read::<LaunchState>(&folder, STATE_FILE).ok().flatten();
                if state.is_none() {
                    let log = fs::read_to_string(folder.join(SUPERVISOR_LOG)).unwrap_or_default();
                    let last = log.lines().last().unwrap_or("it printed nothing").to_owned();
                    return Err(Problem::failed(format!("what supervises it ended at once: {last}")));
                }
                self.note_over(id.to_owned(), meta, state);
            }
            Err(_) => {
                // It's of no use any more.
                let _ = child.start_kill();
                return Err(Problem::failed("what supervises it doesn't answer"));
            }
        }
        Ok(())
    }

    /// Ends a launch, and waits for that.
    pub(crate) async fn stop(&self, id: &str, at_once: bool) -> Result<Launch, Problem> {
        self.find(id)?;
        self.change_wanted(id, false);
        self.end(id, at_once).await;
        self.find(id)
    }

    async fn end(&self, id: &str, at_once: bool) {
        let state = self.entries().get(id).map(|entry| entry.state.clone());
        let Some(mut state) = state else { return };
        match Link::open(&self.of(id)) {
            Ok(link) => {
                if let Err(error) = link.stop(at_once).await {
                    tracing::debug!(%error, "a launch ends by itself");
                }
                // The follower tells the rest. If it's gone, so is the launch.
                let _ = state.wait_for(|state| state.phase.is_over()).await;
            }
            Err(LinkError::Over) => {}
            Err(error) => tracing::warn!(%error, "a launch can't be ended"),
        }
    }

    fn change_wanted(&self, id: &str, wanted: bool) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(id).filter(|entry| entry.meta.wanted != wanted) else { return };
        entry.meta.wanted = wanted;
        if let Err(error) = files::write_json(&self.of(id).join(META), &entry.meta) {
            tracing::warn!(%error, "whether an environment is to start with the node can't be noted");
        }
    }

    /// Waits until a launch is over.
    pub(crate) async fn wait(&self, id: &str) -> Result<Launch, Problem> {
        let state = self.entries().get(id).map(|entry| entry.state.clone());
        if let Some(mut state) = state {
            // If the follower is gone, so is the launch.
            let _ = state.wait_for(|state| state.phase.is_over()).await;
        }
        self.find(id)
    }

    /// Ends all, as the node does.
    pub(crate) async fn end_all(&self) {
        let ids: Vec<String> = self.entries().keys().cloned().collect();
        let ends = ids.iter().map(|id| async move {
            if timeout(LEAVING, self.end(id, false)).await.is_err() {
                self.end(id, true).await;
            }
        });
        futures_util::future::join_all(ends).await;
    }

    /// Starts what is to start with the node, as soon as its workspace is there.
    pub(crate) async fn autostart(self: Arc<Self>, node: Arc<Node>) {
        let mut waiting: Vec<(HostName, WorkspaceName, Option<String>, bool)> = {
            let entries = self.entries();
            let wanted = entries.values().filter(|entry| {
                entry.meta.autostart && entry.meta.wanted && entry.state.borrow().phase.is_over()
            });
            let of = |meta: &Meta| {
                (meta.host.clone(), meta.workspace.clone(), Some(meta.environment.clone()), meta.network)
            };
            wanted.map(|entry| of(&entry.meta)).collect()
        };
        let mut events = std::pin::pin!(node.events.follow(Some(0)));
        loop {
            let listing = node.view.listing();
            let is_there = |host: &HostName, workspace: &WorkspaceName| {
                listing.hosts.get(host).is_some_and(|host| host.places.contains_key(workspace))
            };
            let (ready, rest) =
                waiting.into_iter().partition::<Vec<_>, _>(|(host, workspace, ..)| is_there(host, workspace));
            waiting = rest;
            for (host, workspace, environment, network) in ready {
                let place = format!("{host}/{workspace}");
                let request = StartRequest {
                    host,
                    workspace,
                    environment,
                    network,
                    agreed: None,
                    idle: false,
                    anyway: false,
                };
                match self.start(&node, request).await {
                    Ok(StartAnswer::Started(_)) => tracing::info!(place, "started with the node"),
                    Ok(StartAnswer::Agree(_)) => {
                        tracing::warn!(
                            place,
                            "isn't started with the node: it has changed, and must be agreed to"
                        );
                    }
                    Err(error) => tracing::warn!(place, %error, "can't be started with the node"),
                }
            }
            if waiting.is_empty() || futures_util::StreamExt::next(&mut events).await.is_none() {
                return;
            }
        }
    }

    /// The names of the secrets of this node's user.
    pub(crate) async fn secrets(&self) -> Result<Vec<String>, Problem> {
        let file = self.state.join(SECRETS);
        let secrets = blocking(move || files::read_json::<BTreeMap<String, String>>(&file)).await?;
        Ok(secrets.map_err(Problem::failed)?.unwrap_or_default().into_keys().collect())
    }

    /// Sets a secret, or forgets it.
    pub(crate) async fn set_secret(&self, name: String, value: Option<String>) -> Result<(), Problem> {
        let file = self.state.join(SECRETS);
        let _turn = self.starting.lock().await;
        blocking(move || {
            let secrets = files::read_json::<BTreeMap<String, String>>(&file).map_err(Problem::failed)?;
            let mut secrets = secrets.unwrap_or_default();
            match value {
                Some(value) => drop(secrets.insert(name, value)),
                None => {
                    secrets.remove(&name).ok_or_else(|| {
                        Problem::missing(format!("there is no secret '{name}'"))
                            .with_remedy("'twinshare secret' lists them")
                    })?;
                }
            }
            files::write_json(&file, &secrets).map_err(Problem::failed)
        })
        .await?
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(Problem::failed)
}

fn prefixed(place: &str, problem: Problem) -> Problem {
    problem.with_context(place)
}

/// How a launch is that isn't supervised any more.
fn ended(state: Option<LaunchState>) -> LaunchState {
    let mut state = state.unwrap_or(LaunchState {
        phase: Phase::Starting,
        since: Timestamp::now(),
        code: None,
        reason: None,
        services: BTreeMap::new(),
        ports: Vec::new(),
        supervisor: 0,
    });
    if !state.phase.is_over() {
        state.phase = Phase::Failed;
        state.since = Timestamp::now();
        state.reason = Some("what supervised it has ended, and so has all that it ran".to_owned());
        state.ports.clear();
        for service in state.services.values_mut() {
            (service.running, service.ready) = (false, false);
        }
    }
    state
}

/// The identity of the launch of an environment: short, since a socket's path may not be long.
fn id(host: &HostName, workspace: &WorkspaceName, environment: &str) -> String {
    let digest = Digest::of(format!("{host}\0{workspace}\0{environment}").as_bytes());
    digest.to_string().chars().filter(char::is_ascii_hexdigit).take(12).collect()
}

/// Picks one of a workspace's environments: the first, unless named. Reads files of the mount.
fn pick(view: &Path, name: Option<&str>) -> Result<Planned, Problem> {
    let plan = workspace::plan(&Folder(view.to_owned())).map_err(Problem::conflict)?;
    let names: Vec<_> = plan.environments.iter().map(|one| one.environment.name.clone()).collect();
    let mut found = plan.environments.into_iter();
    let picked = match name {
        Some(name) => found.find(|one| one.environment.name == name),
        None => found.next(),
    };
    picked.ok_or_else(|| match name {
        Some(name) if !names.is_empty() => Problem::missing(format!("there's no environment '{name}'"))
            .with_remedy(format!("there are: {}", names.join(", "))),
        _ => Problem::missing("it has no environments: nothing in it says how something is run")
            .with_remedy("docs/WORKSPACE.md says how to describe one; 'twinshare run' runs any command"),
    })
}

fn ports(environment: &Environment) -> Vec<u16> {
    let services = environment.services.iter().flat_map(|service| &service.ports);
    environment.ports.iter().chain(services).map(Port::number).collect()
}

/// What is short, in words.
fn short(fit: &Fit) -> String {
    let short = fit.given.iter().filter(|given| given.is_short());
    short.map(Given::describe).collect::<Vec<_>>().join("; ")
}

/// What variables may stand for.
fn values(node: &Node) -> Here {
    let values = [("HOST", node.host.to_string())];
    let values = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Here { values, ..Here::default() }
}

fn limits(id: &str, fit: &Fit) -> Limits {
    let given = |what| {
        let given = fit.given.iter().find(|given| given.what == what);
        given.map(|given| given.amount).filter(|amount| *amount > 0.0)
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it's positive, and of a machine's size"
    )]
    let memory = given(Thing::Memory).map(|bytes| bytes as u64);
    Limits { cpus: given(Thing::Cpu), memory, means: Means::find(id) }
}

/// Starts the supervisor of a launch, in a session of its own. It has this process's variables, as engines and plugins need
/// them; what runs in a room doesn't get them.
fn attend(program: &Path, folder: &Path) -> std::io::Result<tokio::process::Child> {
    let log =
        fs::OpenOptions::new().create(true).write(true).truncate(true).open(folder.join(SUPERVISOR_LOG))?;
    let mut command = std::process::Command::new(program);
    command
        .arg("attend")
        .arg(folder)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // SAFETY: setsid is async-signal-safe, and nothing else runs between fork and exec.
    unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into)) };
    tokio::process::Command::from(command).spawn()
}

/// Connects to the supervisor as soon as it's there; none if it has ended.
async fn connect(folder: &Path, child: &mut tokio::process::Child) -> Option<Link> {
    loop {
        if let Ok(link) = Link::open(folder) {
            return Some(link);
        }
        if let Ok(Some(_)) = child.try_wait() {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
