//! The cache as its user sees it: what it may take and holds, what is kept complete, what is fetched before it's needed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::AbortHandle};
use twinshare::{
    access::Right,
    api::{
        self, CacheReport, CacheUse, CachedWorkspace, FilePath, PinState, Prefetch, PrefetchStep, Problem,
        RawText, Transfer,
    },
    fetch::{BulkError, Fetcher, Observer, Progress, SourceError},
    store::{DiskStore, Pin, PruneStore, StoreError},
    types::{ByteSize, Digest, PathKey, WorkspaceId},
    view::{Mounted, Place, View},
};

use crate::files::{self, FileError};

/// What the cache may take when its user hasn't said, in bytes.
const LIMIT: u64 = 50 << 30;

/// What can be pinned at a time: each pin has a task.
const MAX_PINS: usize = 1000;

/// After what time it's tried again to complete a pin, if nothing changes before.
const RETRY: Duration = Duration::from_secs(10);

/// How often a prefetch tells how far it is.
const STEP: Duration = Duration::from_millis(200);

/// The cache with its pins.
pub(crate) struct Cache {
    store: Arc<DiskStore>,
    fetcher: Arc<Fetcher>,
    view: Arc<View>,
    limit: u64,
    file: PathBuf,
    pins: Mutex<BTreeMap<RawText, Kept>>,
    /// Grows with what the mount shows.
    shown: watch::Sender<u64>,
}

/// A pin as it's remembered, by its path as its user gave it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Remembered {
    path: RawText,
    /// Names can change, this can't.
    workspace: WorkspaceId,
}

/// A pin and who completes it.
struct Kept {
    workspace: WorkspaceId,
    status: Arc<Mutex<Status>>,
    lifted: Arc<Mutex<bool>>,
    task: AbortHandle,
}

#[derive(Debug, Clone)]
struct Status {
    state: PinState,
    progress: Transfer,
    trouble: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete before anything can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the cache may take: as said now, else as said last.
pub(crate) fn limit(state: &Path, wanted: Option<ByteSize>) -> Result<u64, FileError> {
    #[derive(Serialize, Deserialize)]
    struct Said {
        limit: u64,
    }
    let file = state.join("cache.json");
    match wanted {
        Some(ByteSize(limit)) => files::write_json(&file, &Said { limit }).map(|()| limit),
        None => Ok(files::read_json::<Said>(&file)?.map_or(LIMIT, |said| said.limit)),
    }
}

impl Cache {
    /// Takes up the pins of earlier runs.
    pub(crate) fn open(
        state: &Path,
        store: Arc<DiskStore>,
        fetcher: Arc<Fetcher>,
        view: Arc<View>,
        limit: u64,
    ) -> Result<Arc<Self>, FileError> {
        let (file, shown) = (state.join("pins.json"), watch::Sender::new(0));
        let remembered: Vec<Remembered> = files::read_json(&file)?.unwrap_or_default();
        let cache = Arc::new(Self { store, fetcher, view, limit, file, pins: Mutex::default(), shown });
        for Remembered { path, workspace } in remembered {
            // Only what this program wrote is there.
            if let Ok(parsed) = parse(&path) {
                let kept = cache.keep(&parsed, workspace);
                lock(&cache.pins).insert(path, kept);
            }
        }
        Ok(cache)
    }

    /// What it may take, in bytes.
    pub(crate) fn size(&self) -> CacheUse {
        CacheUse { used: self.store.used(), limit: self.limit }
    }

    /// Notes that the mount shows something else than before.
    pub(crate) fn note_shown(&self) {
        self.shown.send_modify(|count| *count += 1);
    }

    pub(crate) async fn report(&self) -> Result<CacheReport, Problem> {
        let store = self.store.clone();
        let usage = blocking(move || store.usage()).await?;
        let counts = self.fetcher.counts();
        let listing = self.view.listing();
        let places: BTreeMap<WorkspaceId, String> = listing
            .hosts
            .iter()
            .flat_map(|(host, shown)| shown.places.iter().map(move |place| (host, place)))
            .filter_map(|(host, (name, place))| match place {
                Place::Remote(mounted) => Some((mounted.id, format!("{host}/{name}"))),
                Place::Local(_) => None,
            })
            .collect();
        let mut workspaces: Vec<CachedWorkspace> = usage
            .workspaces
            .iter()
            .map(|(id, bytes)| CachedWorkspace {
                id: *id,
                place: places.get(id).map(RawText::from),
                bytes: *bytes,
            })
            .collect();
        workspaces.sort_by_key(|workspace| (std::cmp::Reverse(workspace.bytes), workspace.id));
        Ok(CacheReport {
            size: self.size(),
            pinned: usage.pinned,
            reads_held: counts.held,
            reads_fetched: counts.fetched,
            fetched: counts.bytes,
            workspaces,
            pins: lock(&self.pins).iter().map(|(path, kept)| kept.described(path)).collect(),
        })
    }

    pub(crate) async fn clear(&self, which: Option<&FilePath>) -> Result<(), Problem> {
        let store = self.store.clone();
        let Some(which) = which else { return blocking(move || store.evict_to(0)).await };
        if !which.path.is_empty() {
            return Err(Problem::invalid(format!("{which} is within a workspace"))
                .with_remedy(format!("clear all of it: {}/{}", which.host, which.workspace)));
        }
        let workspace = self.mounted(which)?.id;
        let pinned = |(path, kept): (&RawText, &Kept)| (kept.workspace == workspace).then(|| path.clone());
        let pinned = lock(&self.pins).iter().find_map(pinned);
        if let Some(path) = pinned {
            return Err(Problem::conflict(format!("{path} is pinned"))
                .with_remedy(format!("`twinshare unpin {path}` first")));
        }
        blocking(move || store.clear(&workspace)).await
    }

    /// The workspace of another host in which a path is, if it may be fetched whole.
    fn clonable(&self, path: &FilePath) -> Result<Mounted, Problem> {
        let mounted = self.mounted(path)?;
        // Who may not even look into it is told so below.
        if mounted.root.is_some() && !mounted.rights.has(Right::Clone) {
            let why =
                format!("the owner of {}/{} doesn't let you fetch all of it", path.host, path.workspace);
            return Err(Problem::denied(why).with_remedy("what you read is fetched as you read it"));
        }
        Ok(mounted)
    }

    /// Fetches what is at a path of a workspace, step by step as the stream is read.
    pub(crate) fn prefetch(&self, path: FilePath) -> Result<Prefetch, Problem> {
        let mounted = self.clonable(&path)?;
        let root = root(&mounted, &path)?;
        let (fetcher, observer) = (self.fetcher.clone(), Reached(watch::Sender::default()));
        let reached = observer.0.subscribe();
        let job = async move { fetcher.complete(&mounted.id, root, &path.path, &observer).await }.boxed();
        let steps = stream::unfold(Some((job, reached)), async |under_way| {
            let (mut job, reached) = under_way?;
            let result = tokio::time::timeout(STEP, &mut job).await;
            let progress = transfer(&reached.borrow());
            Some(match result {
                Err(_) => (PrefetchStep { progress, ended: false, problem: None }, Some((job, reached))),
                Ok(Ok(all)) => (PrefetchStep { progress: transfer(&all), ended: true, problem: None }, None),
                Ok(Err(error)) => {
                    (PrefetchStep { progress, ended: false, problem: Some(problem(error)) }, None)
                }
            })
        });
        Ok(steps.boxed())
    }

    pub(crate) async fn pin(self: &Arc<Self>, path: &FilePath) -> Result<api::Pin, Problem> {
        let mounted = self.clonable(path)?;
        let (_, total) = root(&mounted, path)?;
        if path.path.is_empty() && total.bytes > self.limit {
            return Err(problem(BulkError::Full));
        }
        let text = RawText::from(path.to_os_string());
        let described = {
            let mut pins = lock(&self.pins);
            if pins.len() >= MAX_PINS && !pins.contains_key(&text) {
                return Err(Problem::conflict(format!("{MAX_PINS} pins are as many as can be")));
            }
            let kept = pins.entry(text.clone()).or_insert_with(|| self.keep(path, mounted.id));
            kept.described(&text)
        };
        self.remember().await?;
        Ok(described)
    }

    pub(crate) async fn unpin(&self, path: &FilePath) -> Result<(), Problem> {
        let text = RawText::from(path.to_os_string());
        let Some(kept) = lock(&self.pins).remove(&text) else {
            let pins: Vec<String> = lock(&self.pins).keys().map(ToString::to_string).collect();
            let remedy = match pins.as_slice() {
                [] => "nothing is".to_owned(),
                pins => format!("these are: {}", pins.join(", ")),
            };
            return Err(Problem::missing(format!("{path} isn't pinned")).with_remedy(remedy));
        };
        kept.task.abort();
        self.remember().await?;
        let (store, pin) = (self.store.clone(), pin_of(path, kept.workspace));
        blocking(move || {
            *lock(&kept.lifted) = true;
            store.lift(&pin, u64::MAX)
        })
        .await
    }

    async fn remember(&self) -> Result<(), Problem> {
        let file = self.file.clone();
        let remembered: Vec<Remembered> = lock(&self.pins)
            .iter()
            .map(|(path, kept)| Remembered { path: path.clone(), workspace: kept.workspace })
            .collect();
        tokio::task::spawn_blocking(move || files::write_json(&file, &remembered))
            .await
            .map_err(Problem::failed)?
            .map_err(Problem::failed)
    }

    /// The workspace of another host in which a path is.
    pub(crate) fn mounted(&self, path: &FilePath) -> Result<Mounted, Problem> {
        let listing = self.view.listing();
        let Some(host) = listing.hosts.get(&path.host) else {
            let others = listing.hosts.iter().filter(|(_, host)| host.places.values().any(is_remote));
            let names: Vec<&str> = others.map(|(name, _)| name.as_str()).collect();
            return Err(Problem::missing(format!("there's no host '{}'", path.host))
                .with_remedy(what_exists("hosts", &names)));
        };
        match host.places.get(&path.workspace) {
            Some(Place::Remote(mounted)) => Ok(mounted.clone()),
            Some(Place::Local(folder)) => Err(Problem::invalid(format!(
                "{}/{} is this machine's own, in {}: nothing of it is cached",
                path.host,
                path.workspace,
                folder.display()
            ))),
            None => {
                let names: Vec<&str> = host.places.keys().map(|name| name.as_str()).collect();
                let problem = Problem::missing(format!(
                    "host '{}' shares no workspace '{}'",
                    path.host, path.workspace
                ));
                Err(problem.with_remedy(what_exists("workspaces", &names)))
            }
        }
    }

    /// Starts to keep a path complete.
    fn keep(self: &Arc<Self>, path: &FilePath, workspace: WorkspaceId) -> Kept {
        let waiting = Status { state: PinState::Fetching, progress: Transfer::default(), trouble: None };
        let (status, lifted) = (Arc::new(Mutex::new(waiting)), Arc::new(Mutex::new(false)));
        let laying = Laying {
            store: self.store.clone(),
            pin: pin_of(path, workspace),
            round: 0,
            status: status.clone(),
            lifted: lifted.clone(),
        };
        // What is shown changes before the task first looks, or is seen by it.
        let task = tokio::spawn(complete(Arc::downgrade(self), self.shown.subscribe(), path.clone(), laying));
        Kept { workspace, status, lifted, task: task.abort_handle() }
    }
}

/// Completes a pin with each snapshot that the mount shows.
async fn complete(
    cache: std::sync::Weak<Cache>,
    mut shown: watch::Receiver<u64>,
    path: FilePath,
    mut laying: Laying,
) {
    let mut done = None;
    loop {
        shown.borrow_and_update();
        let Some(cache) = cache.upgrade() else { return };
        let mounted = cache.view.listing().mounted(&laying.pin.workspace).cloned();
        let trouble = match mounted.map(|mounted| root(&mounted, &path)) {
            None => Some("its owner isn't known at the moment".to_owned()),
            Some(Err(problem)) => Some(problem.detail().to_owned()),
            Some(Ok((root, _))) if done == Some(root) => None,
            Some(Ok(root)) => {
                laying.set(PinState::Fetching, None);
                laying.round = milliseconds_now();
                let workspace = laying.pin.workspace;
                match cache.fetcher.complete(&workspace, root, &path.path, &laying).await {
                    Ok(came) => {
                        laying.reached(came);
                        let trouble = left_out(&came);
                        if trouble.is_none() {
                            done = Some(root.0);
                            laying.settle().await
                        } else {
                            trouble
                        }
                    }
                    Err(error) => Some(problem(error).detail().to_owned()),
                }
            }
        };
        drop(cache);
        let waiting = trouble.is_some();
        laying.set(if waiting { PinState::Waiting } else { PinState::Complete }, trouble);
        let retry =
            async { if waiting { tokio::time::sleep(RETRY).await } else { std::future::pending().await } };
        tokio::select! {
            changed = shown.changed() => if changed.is_err() { return },
            () = retry => {}
        }
    }
}

impl Kept {
    fn described(&self, path: &RawText) -> api::Pin {
        let Status { state, progress, trouble } = lock(&self.status).clone();
        api::Pin { path: path.clone(), state, progress, trouble }
    }
}

/// Lays a pin on what is found.
struct Laying {
    store: Arc<DiskStore>,
    pin: Pin,
    round: u64,
    status: Arc<Mutex<Status>>,
    /// Held while the pin is laid on something: it isn't lifted in between, and not laid afterwards.
    lifted: Arc<Mutex<bool>>,
}

impl Laying {
    fn set(&self, state: PinState, trouble: Option<String>) {
        let mut status = lock(&self.status);
        status.state = state;
        status.trouble = trouble;
    }

    /// Lifts the pin from what earlier snapshots had; tells what goes wrong.
    async fn settle(&self) -> Option<String> {
        let (store, pin, round) = (self.store.clone(), self.pin, self.round);
        let lifted = blocking(move || store.lift(&pin, round)).await;
        lifted.err().map(|problem| problem.detail().to_owned())
    }
}

impl Observer for Laying {
    fn found(&self, digests: Vec<Digest>) -> BoxFuture<'_, Result<(), StoreError>> {
        let (store, lifted, pin, round) = (self.store.clone(), self.lifted.clone(), self.pin, self.round);
        let laid = tokio::task::spawn_blocking(move || {
            let lifted = lock(&lifted);
            if *lifted { Ok(()) } else { store.pin(&pin, round, &digests) }
        });
        async move {
            laid.await.unwrap_or_else(|error| {
                Err(StoreError::Index { doing: "be written", why: error.to_string() })
            })
        }
        .boxed()
    }

    fn reached(&self, progress: Progress) {
        lock(&self.status).progress = transfer(&progress);
    }
}

/// Tells how far a prefetch is.
struct Reached(watch::Sender<Progress>);

impl Observer for Reached {
    fn found(&self, _: Vec<Digest>) -> BoxFuture<'_, Result<(), StoreError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn reached(&self, progress: Progress) {
        self.0.send_replace(progress);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(Problem::failed)?.map_err(Problem::failed)
}

fn is_remote(place: &Place) -> bool {
    matches!(place, Place::Remote(_))
}

fn what_exists(what: &str, names: &[&str]) -> String {
    match names {
        [] => "no other host shares anything at the moment".to_owned(),
        names => format!("its {what} are: {}", names.join(", ")).replace("its hosts", "the hosts"),
    }
}

/// The snapshot that is shown, if this node may read it.
fn root(mounted: &Mounted, path: &FilePath) -> Result<(Digest, twinshare::tree::Totals), Problem> {
    match mounted.root {
        Some(root) => Ok((root, mounted.totals)),
        None => Err(Problem::denied(format!(
            "the owner of {}/{} hasn't allowed this node to read it",
            path.host, path.workspace
        ))
        .with_remedy("the owner answers with `twinshare requests`")),
    }
}

fn problem(error: BulkError) -> Problem {
    match error {
        BulkError::Missing(_) => Problem::missing(error).with_remedy("`twinshare ls` shows what is there"),
        BulkError::Full => Problem::new(507, "Insufficient Storage", error).with_remedy(
            "`twinshare cache` shows what is pinned; `twinshare up --cache-limit` sets the limit",
        ),
        BulkError::Source(SourceError::Denied) => Problem::denied(error),
        BulkError::Source(SourceError::TimedOut) => {
            Problem::unreachable(error).with_remedy("what came stays; the same command goes on from there")
        }
        error => Problem::failed(error),
    }
}

/// Why all that was fetched isn't everything.
fn left_out(came: &Progress) -> Option<String> {
    match (came.failed, came.pending) {
        (0, 0) => None,
        (0, pending) => Some(format!("{pending} files aren't hashed by their owner yet")),
        (failed, _) => Some(format!("{failed} files couldn't be had: they have changed, or can't be read")),
    }
}

fn transfer(progress: &Progress) -> Transfer {
    let Progress { total, here, failed, pending } = progress;
    Transfer {
        files: total.files,
        bytes: total.bytes,
        here_files: here.files,
        here_bytes: here.bytes,
        failed: *failed,
        pending: *pending,
    }
}

fn pin_of(path: &FilePath, workspace: WorkspaceId) -> Pin {
    Pin { workspace, path: PathKey::of(&path.path) }
}

fn parse(path: &RawText) -> Result<FilePath, api::FilePathError> {
    FilePath::parse(path.as_os_str().as_encoded_bytes())
}

fn milliseconds_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
