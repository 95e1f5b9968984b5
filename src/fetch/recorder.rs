use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::source::Surroundings;
use crate::{
    blob::{Blob, Groups},
    profile::{MAX_FILES, Profile, Touched},
    types::{Digest, Name, PathKey, WorkspaceId},
};

/// A launch is over when it has read nothing new for so long …
const QUIET: Duration = Duration::from_secs(5);

/// … or after this: what comes then is work, not start.
const LONGEST: Duration = Duration::from_secs(60);

/// Launches that are recorded at a time, in one workspace …
const LAUNCHES_EACH: usize = 4;

/// … and in all.
const LAUNCHES: usize = 64;

/// A launch: a program of a workspace was started.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Launch {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The file that begins it: what it reads is known by that file's path.
    pub program: PathKey,
}

/// Notes what launches read.
///
/// That something is launched is seen by the first read of a program, or told. Which process reads isn't known (the kernel
/// reads ahead for all): what others read in the workspace meanwhile is taken for the launch's too.
pub struct Recorder {
    recordings: Mutex<HashMap<WorkspaceId, Vec<Recording>>>,
    begun: mpsc::UnboundedSender<Launch>,
}

struct Recording {
    program: PathKey,
    begun: Instant,
    /// When it last read something new.
    latest: Instant,
    files: HashMap<Digest, usize>,
    touched: Vec<(Option<Vec<Name>>, Groups)>,
}

impl Recording {
    fn end(&self) -> Instant {
        (self.latest + QUIET).min(self.begun + LONGEST)
    }

    fn note(&mut self, digest: Digest, groups: &Groups, path: &mut dyn FnMut() -> Option<Vec<Name>>) {
        let position = *self.files.entry(digest).or_insert(self.touched.len());
        match self.touched.get_mut(position) {
            Some((_, known)) if known.is_superset(groups) => return,
            Some((_, known)) => *known |= groups.clone(),
            None => self.touched.push((path(), groups.clone())),
        }
        self.latest = Instant::now();
    }
}

impl Recorder {
    /// A recorder, and the launches that begin from now on: whoever takes one has to take what it reads with
    /// [`Recorder::finished`].
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Launch>) {
        let (begun, launches) = mpsc::unbounded_channel();
        (Self { recordings: Mutex::default(), begun }, launches)
    }

    fn recordings(&self) -> MutexGuard<'_, HashMap<WorkspaceId, Vec<Recording>>> {
        // Every change is complete before anything can panic.
        self.recordings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a program is being started, by the names of the file that begins it.
    pub fn begin(&self, workspace: &WorkspaceId, program: &[Name]) {
        let program = PathKey::of(program);
        let mut recordings = self.recordings();
        if recordings.values().map(Vec::len).sum::<usize>() >= LAUNCHES {
            return;
        }
        let here = recordings.entry(*workspace).or_default();
        if here.len() >= LAUNCHES_EACH || here.iter().any(|recording| recording.program == program) {
            return;
        }
        let launch = Launch { workspace: *workspace, program };
        if self.begun.send(launch).is_ok() {
            let (now, files, touched) = (Instant::now(), HashMap::new(), Vec::new());
            here.push(Recording { program, begun: now, latest: now, files, touched });
        }
    }

    /// Notes that some of a file's content is read.
    pub(super) fn note(&self, workspace: &WorkspaceId, blob: &Blob, read: Groups, around: &dyn Surroundings) {
        if read.contains(&0)
            && around.is_program()
            && let Some(program) = around.path()
        {
            self.begin(workspace, &program);
        }
        let mut recordings = self.recordings();
        let Some(here) = recordings.get_mut(workspace) else { return };
        let mut path = None;
        for recording in here.iter_mut().filter(|recording| recording.touched.len() < MAX_FILES) {
            let mut path = || path.get_or_insert_with(|| around.path()).clone();
            recording.note(blob.digest, &read, &mut path);
        }
    }

    /// Waits until a launch is over; gives what it has read.
    pub async fn finished(&self, launch: &Launch) -> Profile {
        let is_it = |recording: &Recording| recording.program == launch.program;
        loop {
            let end = {
                let mut recordings = self.recordings();
                let Some(here) = recordings.get_mut(&launch.workspace) else { return Profile::default() };
                let Some(position) = here.iter().position(is_it) else { return Profile::default() };
                let end = here[position].end();
                if end <= Instant::now() {
                    let recording = here.swap_remove(position);
                    if here.is_empty() {
                        recordings.remove(&launch.workspace);
                    }
                    return profile(recording);
                }
                end
            };
            sleep_until(end).await;
        }
    }
}

fn profile(recording: Recording) -> Profile {
    let named = |(path, groups): (Option<Vec<Name>>, Groups)| Some(Touched { path: path?, groups });
    let mut profile = Profile::default();
    profile.merge(recording.touched.into_iter().filter_map(named));
    profile
}
