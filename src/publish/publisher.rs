use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, RwLock, atomic::Ordering, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rayon::prelude::*;
use tokio::sync::watch;

use super::{
    content::{Outcome, hash_file, young},
    item::{HashedContent, Item, ItemKind, State},
    model::{Changes, FolderId, Model, Scanned},
    objects::{Objects, Written},
    place::{Root, Status, below, means_changed},
    scan::Scanner,
    share::{Head, Published, Share},
    shares::{Engine, PublishError, ShareOptions},
    watch::Watch,
};
use crate::{
    tree::Totals,
    types::{Digest, Name, Timestamp},
    workspace::{MANIFEST_FILE, Manifest},
};

/// A change is looked at when it has been quiet for this long …
const QUIET: Duration = Duration::from_millis(50);
/// … or when this much time has gone by since the first change.
const PATIENCE: Duration = Duration::from_millis(500);

/// When hashing takes longer than this, a changed workspace gets a provisional head first.
const PROVISIONAL_AFTER: Duration = Duration::from_millis(200);

/// Files from this size on are hashed apart from the small ones, each on all cores, and once nobody writes to them.
const LARGE: u64 = 8 << 20;

/// Small files are hashed in batches of so many files or bytes.
const BATCH_FILES: usize = 512;
const BATCH_BYTES: u64 = 64 << 20;

/// A file that changed while it was hashed is hashed again after this time, unless a look at its folder comes before.
const AGAIN: Duration = Duration::from_secs(1);

/// So many new contents are remembered in the hash cache at a time: each time waits for the disk, and no file is hashed
/// meanwhile.
const REMEMBERED: usize = 16_384;

/// Without watches for all folders, a workspace is looked through this often, or a tenth of the time if a look is long.
const UNWATCHED_RESCAN: Duration = Duration::from_secs(10);

/// What a publisher is told.
#[derive(Debug)]
pub(super) enum Message {
    /// The watch has heard something.
    Heard,
    /// A file of this folder isn't what it was.
    Stale(FolderId),
    /// A file's bytes aren't what its digest stands for, though its status is the same.
    Mismatch { folder: FolderId, name: Name, token: u64 },
    /// Files were hashed.
    Hashed { large: bool, results: Vec<(Job, Outcome)> },
    /// The workspace isn't shared any more.
    Stop,
}

/// A file to hash.
#[derive(Debug)]
pub(super) struct Job {
    folder: FolderId,
    name: Name,
    path: Vec<Name>,
    token: u64,
    /// What was known of the same token: its content is being looked at again.
    before: Option<State>,
}

/// A file to look at later.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Later {
    due: Instant,
    folder: FolderId,
    name: Name,
    token: u64,
}

/// The thread behind a share: the only one that changes its model and publishes heads.
pub(super) struct Publisher {
    share: Arc<Share>,
    inbox: mpsc::Receiver<Message>,
    own: Vec<Vec<Name>>,
    watch: Option<Watch>,
    watches: HashMap<i32, FolderId>,

    /// Folders in which something changed, and when the first and the last change was heard of.
    dirty: HashSet<FolderId>,
    heard: Option<(Instant, Instant)>,
    next_rescan: Instant,
    /// The workspace's own folder can't be looked through: nothing is tried until the next full look.
    lost: bool,

    /// Folders that may hold pending files.
    pending: VecDeque<FolderId>,
    small: VecDeque<Job>,
    large: VecDeque<Job>,
    small_busy: bool,
    large_busy: bool,
    later: BinaryHeap<Reverse<Later>>,
    unremembered: Vec<(Status, HashedContent)>,

    /// Since when the folder has looked otherwise than the newest head.
    changed: Option<Instant>,
    /// Contents have become known since the newest head.
    learned: bool,
    released: Vec<Digest>,
    sequence: u64,
    sequences_end: u64,
    manifest_token: Option<u64>,
}

impl Publisher {
    /// Looks through a folder and publishes its first head. The work goes on with [`Publisher::spawn`].
    pub(super) fn start(
        engine: &Arc<Engine>,
        path: PathBuf,
        manifest: Manifest,
        options: &ShareOptions,
    ) -> Result<(Arc<Share>, Self), PublishError> {
        let (sender, inbox) = mpsc::channel();
        let least = milliseconds_now();
        let (sequence, sequences_end) = engine.cache.sequences(&manifest.id, least)?;
        let none = Head {
            root: Digest::of(&[]),
            provisional: true,
            sequence,
            created: least,
            mode: 0,
            modified: Timestamp::default(),
            totals: Totals::default(),
        };
        let own = engine.options.own.iter().filter_map(|own| below(&path, own)).collect();
        let share = Arc::new(Share {
            id: manifest.id,
            root: Root::new(path),
            access: RwLock::new(options.access),
            retention: RwLock::new(options.retention),
            manifest: RwLock::new(Arc::new(manifest)),
            model: RwLock::new(Model::new()),
            objects: Mutex::new(Objects::default()),
            heads: watch::Sender::new(Published { head: none, ended: false }),
            inbox: sender.clone(),
            limited: false.into(),
            engine: Arc::clone(engine),
        });
        let notify = move || {
            // Nobody listens to a workspace that isn't shared any more.
            let _ = sender.send(Message::Heard);
        };
        let watch = Watch::start(engine.options.watches, notify)
            .inspect_err(|error| tracing::warn!(%error, "can't watch {}", share.root_path().display()))
            .ok();
        let mut publisher = Self {
            share: Arc::clone(&share),
            inbox,
            own,
            watch,
            watches: HashMap::new(),
            dirty: HashSet::new(),
            heard: None,
            next_rescan: Instant::now(),
            lost: false,
            pending: VecDeque::new(),
            small: VecDeque::new(),
            large: VecDeque::new(),
            small_busy: false,
            large_busy: false,
            later: BinaryHeap::new(),
            unremembered: Vec::new(),
            changed: None,
            learned: false,
            released: Vec::new(),
            sequence,
            sequences_end,
            manifest_token: None,
        };
        let scanned = publisher.look(&[FolderId::ROOT], true).remove(0).1;
        let scanned = scanned
            .map_err(|source| PublishError::Folder { path: share.root_path().to_path_buf(), source })?;
        publisher.take_over(vec![(FolderId::ROOT, scanned)]);
        // All names of a file were new at once: there's none to look at again.
        publisher.dirty.clear();
        publisher.heard = None;
        publisher.manifest_token = publisher.manifest_token_now();
        publisher.publish();
        Ok((share, publisher))
    }

    /// Goes on in a thread of its own.
    pub(super) fn spawn(self) -> Result<JoinHandle<()>, PublishError> {
        let name = format!("publish {}", self.share.manifest().name);
        thread::Builder::new().name(name).spawn(move || self.run()).map_err(PublishError::Thread)
    }

    pub(super) fn run(mut self) {
        loop {
            self.hash_more();
            self.publish_when_due();
            self.remember_when_due();
            let wait = self.next_due().saturating_duration_since(Instant::now());
            match self.inbox.recv_timeout(wait) {
                Ok(Message::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Ok(message) => self.receive(message),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            self.look_when_due();
            self.revisit();
        }
        self.remember();
    }

    /// When there's something to do even if no message comes.
    fn next_due(&self) -> Instant {
        let published = self.changed.map(|since| since + PROVISIONAL_AFTER);
        if self.lost {
            return published.map_or(self.next_rescan, |due| due.min(self.next_rescan));
        }
        let looked = self.heard.map(|(first, last)| (last + QUIET).min(first + PATIENCE));
        let visited = self.later.peek().map(|Reverse(later)| later.due);
        [looked, published, visited].into_iter().flatten().fold(self.next_rescan, Instant::min)
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Heard => {
                let heard = self.watch.as_ref().map(Watch::take).unwrap_or_default();
                if heard.lost {
                    self.next_rescan = Instant::now();
                }
                let folders: Vec<FolderId> =
                    heard.folders.iter().filter_map(|watch| self.watches.get(watch).copied()).collect();
                for folder in folders {
                    self.mark(folder);
                }
            }
            Message::Stale(folder) => self.mark(folder),
            Message::Mismatch { folder, name, token } => {
                self.mark(folder);
                let before = match self.item(folder, &name, token) {
                    Some((state, _)) if state.digest().is_some() => state,
                    _ => return,
                };
                let mut changes = Changes::default();
                self.share.model_mut().set(folder, &name, token, State::Taken, &mut changes);
                self.act_on(changes, false);
                self.hash_again(folder, name, token, before);
            }
            Message::Hashed { large, results } => self.learn(large, results),
            Message::Stop => {}
        }
    }

    /// Notes that a folder has to be looked at.
    fn mark(&mut self, folder: FolderId) {
        if self.lost {
            return;
        }
        let now = Instant::now();
        self.dirty.insert(folder);
        self.heard = Some((self.heard.map_or(now, |(first, _)| first), now));
    }

    fn look_when_due(&mut self) {
        let now = Instant::now();
        if now >= self.next_rescan {
            self.dirty.clear();
            self.heard = None;
            let looked = self.look(&[FolderId::ROOT], true);
            self.found(looked);
        } else if self.heard.is_some_and(|(first, last)| now >= (last + QUIET).min(first + PATIENCE)) {
            self.heard = None;
            let folders: Vec<FolderId> = self.dirty.drain().collect();
            let looked = self.look(&folders, false);
            self.found(looked);
        }
    }

    /// Looks through folders as they are now.
    fn look(&mut self, folders: &[FolderId], deep: bool) -> Vec<(FolderId, std::io::Result<Scanned>)> {
        let engine = &self.share.engine;
        #[cfg(test)]
        engine.looks.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        let known = match engine.cache.known() {
            Ok(known) => known,
            Err(error) => {
                tracing::warn!(%error, "files are hashed without the cache");
                super::cache::Known::nothing()
            }
        };
        let model = self.share.model();
        let scanner = Scanner {
            root: &self.share.root,
            own: &self.own,
            user: engine.options.user,
            known: &known,
            watch: self.watch.as_ref(),
            model: &model,
        };
        let present = folders.par_iter().filter(|&&folder| model.folder(folder).is_some());
        let mut looked: Vec<_> =
            engine.look.install(|| present.map(|&id| (id, scanner.scan(id, deep))).collect());
        // A look at a folder may include some below it that are in the list too. What it saw there counts, since it
        // knows the rules as they are now.
        looked.sort_by_cached_key(|(id, _)| Reverse(model.path(*id).len()));
        drop(model);
        let limited = self.watch.as_ref().is_none_or(Watch::is_limited);
        if limited && !self.share.limited.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "not every folder of {} can be watched, so changes are seen late: raise the limit, for example with \
                 `sysctl fs.inotify.max_user_watches=524288`, and leave out folders that needn't be shared in \
                 .twinshareignore",
                self.share.root_path().display()
            );
        }
        if deep {
            let usual = engine.options.rescan;
            let often = UNWATCHED_RESCAN.max(began.elapsed() * 10).min(usual);
            self.next_rescan = Instant::now() + if limited { often } else { usual };
        }
        looked
    }

    /// Takes over what could be looked at; what couldn't be is seen from the folder above.
    fn found(&mut self, looked: Vec<(FolderId, std::io::Result<Scanned>)>) {
        let mut scanned = Vec::with_capacity(looked.len());
        for (id, result) in looked {
            match result {
                Ok(found) => scanned.push((id, found)),
                Err(error) if id == FolderId::ROOT => self.lose(&error),
                Err(error) => {
                    let parent = self.share.model().parent_id(id);
                    if let Some(parent) = parent.filter(|_| means_changed(&error)) {
                        self.mark(parent);
                    }
                }
            }
        }
        let root = scanned.iter().any(|(id, _)| *id == FolderId::ROOT);
        if root && std::mem::take(&mut self.lost) {
            tracing::info!("the shared folder {} is back", self.share.root_path().display());
        }
        self.take_over(scanned);
        if root {
            self.read_manifest();
        }
    }

    /// Notes that the workspace's own folder can't be looked through. What is below it can't either.
    fn lose(&mut self, error: &std::io::Error) {
        self.dirty.clear();
        self.heard = None;
        if !std::mem::replace(&mut self.lost, true) {
            let path = self.share.root_path().display();
            tracing::warn!(%error, "can't look through the shared folder {path}: its last state stays published");
        }
    }

    fn take_over(&mut self, scanned: Vec<(FolderId, Scanned)>) {
        let mut changes = Changes::default();
        {
            let mut model = self.share.model_mut();
            for (id, scanned) in scanned {
                model.apply(id, scanned, &mut changes);
            }
            if !changes.appeared.is_empty() {
                changes.linked.extend(model.with_single(&changes.appeared));
            }
        }
        self.act_on(changes, true);
    }

    fn act_on(&mut self, changes: Changes, looked: bool) {
        let Changes { any, pending, linked, appeared: _, gone, watched, dropped, released } = changes;
        self.watches.extend(watched);
        let mut gone: HashSet<i32> = gone
            .into_iter()
            // A folder that was moved has the watch under another number now.
            .filter(|(watch, folder)| self.watches.get(watch) == Some(folder))
            .map(|(watch, _)| watch)
            .collect();
        if !gone.is_empty() {
            // A folder that was moved and moved back while its places were looked at was seen twice: one of them stays.
            for (watch, folder) in self.share.model().watched_by(&gone) {
                self.watches.insert(watch, folder);
                gone.remove(&watch);
            }
            for watch in gone {
                self.watches.remove(&watch);
                if let Some(inotify) = &self.watch {
                    inotify.remove(watch);
                }
            }
        }
        if let Some(watch) = &self.watch {
            watch.count(self.watches.len());
        }
        if !dropped.is_empty() {
            let model = self.share.model();
            for digest in dropped.iter().filter(|&&digest| !model.has_content(digest)) {
                self.share.engine.cache.drop_outboard(digest);
            }
        }
        for folder in linked {
            self.mark(folder);
        }
        self.pending.extend(pending);
        self.released.extend(released);
        if any && looked {
            self.changed.get_or_insert_with(Instant::now);
        }
        self.learned |= any;
    }

    fn manifest_token_now(&self) -> Option<u64> {
        let name = Name::new(MANIFEST_FILE.as_bytes()).ok()?;
        Some(self.share.model().find(&[name])?.1.stat.token)
    }

    /// Reads the manifest again if its file has changed. The identity stays for as long as the workspace is shared.
    fn read_manifest(&mut self) {
        let token = self.manifest_token_now();
        if token == self.manifest_token {
            return;
        }
        self.manifest_token = token;
        match Manifest::load(self.share.root_path()) {
            Ok(Some(manifest)) if manifest.id == self.share.id => {
                self.share.set_manifest(manifest);
                self.share.engine.note_change();
            }
            Ok(_) => tracing::warn!(
                "{} has lost its id {}: it is shared under it until it is unshared",
                self.share.root_path().join(MANIFEST_FILE).display(),
                self.share.id
            ),
            Err(error) => tracing::warn!(%error, "the workspace keeps the description that it had"),
        }
    }

    /// The state and size of a file, if it is still the one of `token`.
    fn item(&self, folder: FolderId, name: &Name, token: u64) -> Option<(State, u64)> {
        let model = self.share.model();
        match model.folder(folder)?.item(name)? {
            Item { stat, kind: ItemKind::File { size, state }, .. } if stat.token == token => {
                Some((state.clone(), *size))
            }
            _ => None,
        }
    }

    /// Gives idle cores work.
    fn hash_more(&mut self) {
        if self.lost {
            return;
        }
        if !self.small_busy {
            let batch = self.next_batch();
            self.small_busy = !batch.is_empty();
            self.hash(false, batch);
        }
        if !self.large_busy
            && let Some(job) = self.large.pop_front()
        {
            self.large_busy = true;
            self.hash(true, vec![job]);
        }
    }

    /// Small files to hash now. The large ones on the way are queued.
    fn next_batch(&mut self) -> Vec<Job> {
        let mut batch: Vec<Job> = Vec::new();
        while batch.len() < BATCH_FILES
            && let Some(job) = self.small.pop_front()
        {
            batch.push(job);
        }
        let mut bytes = 0;
        while batch.len() < BATCH_FILES
            && bytes < BATCH_BYTES
            && let Some(folder) = self.pending.pop_front()
        {
            let mut model = self.share.model_mut();
            let path = model.path(folder);
            let now = Instant::now();
            let whole = model.take_pending(folder, |item, size| {
                let (name, token) = (item.name.clone(), item.stat.token);
                if size >= LARGE
                    && let Some(wait) = young(item.stat.modified, self.share.engine.options.racy)
                {
                    self.later.push(Reverse(Later { due: now + wait, folder, name, token }));
                    return true;
                }
                let path = [&path[..], std::slice::from_ref(&name)].concat();
                let job = Job { folder, name, path, token, before: None };
                if size >= LARGE {
                    self.large.push_back(job);
                    return true;
                }
                bytes += size;
                batch.push(job);
                batch.len() < BATCH_FILES && bytes < BATCH_BYTES
            });
            if !whole {
                self.pending.push_front(folder);
            }
        }
        batch
    }

    fn hash(&self, large: bool, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let share = Arc::clone(&self.share);
        let inbox = share.inbox.clone();
        let pool = if large { &share.engine.large } else { &share.engine.small };
        let work = {
            let share = Arc::clone(&share);
            move || {
                let hash = |job: Job| {
                    let outcome = share.hash(&job);
                    (job, outcome)
                };
                let results = jobs.into_par_iter().map(hash).collect();
                // Whoever waits for the end of all threads waits for this one's hold on the share too.
                drop(share);
                let _ = inbox.send(Message::Hashed { large, results });
            }
        };
        pool.spawn(work);
    }

    /// Takes over what hashing found out.
    fn learn(&mut self, large: bool, results: Vec<(Job, Outcome)>) {
        *(if large { &mut self.large_busy } else { &mut self.small_busy }) = false;
        let mut changes = Changes::default();
        let mut stale = Vec::new();
        {
            let mut model = self.share.model_mut();
            for (Job { folder, name, token, before, .. }, outcome) in results {
                let again =
                    |after| Reverse(Later { due: Instant::now() + after, folder, name: name.clone(), token });
                match outcome {
                    Outcome::Hashed { status, content, settled } => {
                        if settled {
                            self.unremembered.push((status, content.clone()));
                        } else {
                            self.later.push(again(self.share.engine.options.racy + QUIET));
                        }
                        let state = match before {
                            Some(before) if before.digest() == Some(content.digest) => before,
                            Some(_) => State::Revised(Box::new(content)),
                            None => content.into(),
                        };
                        model.set(folder, &name, token, state, &mut changes);
                    }
                    Outcome::Changed => {
                        stale.push(folder);
                        self.later.push(again(AGAIN));
                    }
                    Outcome::Unreadable(error) => {
                        tracing::debug!(%error, %name, "a file can't be read and isn't shared");
                        model.set(folder, &name, token, State::Unreadable, &mut changes);
                    }
                }
            }
        }
        self.act_on(changes, false);
        for folder in stale {
            self.mark(folder);
        }
    }

    /// Looks at the files whose time has come.
    fn revisit(&mut self) {
        while !self.lost
            && self.later.peek().is_some_and(|Reverse(later)| later.due <= Instant::now())
            && let Some(Reverse(Later { folder, name, token, .. })) = self.later.pop()
        {
            match self.item(folder, &name, token) {
                Some((State::Taken, _)) => {
                    let mut changes = Changes::default();
                    self.share.model_mut().set(folder, &name, token, State::Pending, &mut changes);
                    self.act_on(changes, false);
                }
                Some((state, _)) if state.digest().is_some() => self.hash_again(folder, name, token, state),
                _ => {}
            }
        }
    }

    /// Hashes a file again whose content is known, or was.
    fn hash_again(&mut self, folder: FolderId, name: Name, token: u64, before: State) {
        let Some((_, size)) = self.item(folder, &name, token) else { return };
        let mut path = self.share.model().path(folder);
        path.push(name.clone());
        let job = Job { folder, name, path, token, before: Some(before) };
        if size >= LARGE { self.large.push_back(job) } else { self.small.push_back(job) }
    }

    /// After a head is published, since this waits for the disk.
    fn remember_when_due(&mut self) {
        if self.unremembered.len() >= REMEMBERED || self.share.model().sums().open_files == 0 {
            self.remember();
        }
    }

    /// Puts new contents into the hash cache.
    fn remember(&mut self) {
        if self.unremembered.is_empty() {
            return;
        }
        if let Err(error) = self.share.engine.cache.remember(&self.unremembered) {
            tracing::warn!(%error, "files will be hashed again when they are shared again");
        }
        self.unremembered.clear();
    }

    fn publish_when_due(&mut self) {
        let settled = self.share.model().sums().open_files == 0;
        let due = self.changed.is_some_and(|since| since.elapsed() >= PROVISIONAL_AFTER);
        if due || (settled && (self.changed.is_some() || self.learned)) {
            self.publish();
        }
    }

    /// Publishes the model as it is.
    fn publish(&mut self) {
        self.changed = None;
        self.learned = false;
        let written = Written::default();
        let (root, totals, provisional, stat) = {
            let mut model = self.share.model_mut();
            let Ok((root, totals)) = model.write(&written, &mut self.released);
            (root, totals, model.sums().open_files > 0, model.root_stat())
        };
        let old = self.share.head();
        let (mode, modified) = stat.map_or((old.mode, old.modified), |stat| (stat.mode, stat.modified));
        let new = (root, provisional, mode, modified) != (old.root, old.provisional, old.mode, old.modified);
        let sequence = if new { self.next_sequence() } else { old.sequence };
        {
            let mut objects = self.share.objects.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            objects.update(sequence, written, std::mem::take(&mut self.released));
        }
        if new {
            let created = milliseconds_now();
            let head = Head { root, provisional, sequence, created, mode, modified, totals };
            self.share.heads.send_modify(|published| published.head = head);
            self.share.engine.note_change();
        }
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        if self.sequence >= self.sequences_end {
            match self.share.engine.cache.sequences(&self.share.id, self.sequence) {
                Ok((first, end)) => (self.sequence, self.sequences_end) = (first, end),
                // The time of the next start will be greater than any number of heads.
                Err(error) => tracing::warn!(%error, "can't record the number of a head"),
            }
        }
        self.sequence
    }
}

impl Share {
    fn hash(&self, job: &Job) -> Outcome {
        let engine = &self.engine;
        #[cfg(test)]
        let _held = engine.hold.read();
        engine.note_hash();
        hash_file(&self.root, &job.path, job.token, engine.options.racy, |hashed| {
            if let Err(error) = engine.cache.keep_outboard(hashed) {
                tracing::warn!(%error, "can't keep the hashes of a large file");
            }
        })
    }
}

fn milliseconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}
