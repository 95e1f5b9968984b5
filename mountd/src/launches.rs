//! Launch profiles at work: what a launch will read is fetched ahead of it, and what it has read is kept for the next one,
//! here and at the owner.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tokio::sync::mpsc;
use twinshare::{
    fetch::{Fetcher, Launch},
    peer::PeerClient,
    profile::Profile,
    types::{PathKey, WorkspaceId},
    view::View,
};

use crate::{files, neighbours::Neighbours};

/// Profiles that are kept of one workspace: those that were changed last.
const MAX_PROFILES: usize = 64;

/// The profiles of workspaces: of this node's own, for all, and of others', for this node.
pub(crate) struct Profiles {
    folder: PathBuf,
    /// Held while one is changed.
    turn: Mutex<()>,
}

impl Profiles {
    pub(crate) fn open(state: &Path) -> Self {
        Self { folder: state.join("profiles"), turn: Mutex::default() }
    }

    fn file(&self, workspace: &WorkspaceId, program: &PathKey) -> PathBuf {
        self.folder.join(workspace.to_string()).join(format!("{program}.json"))
    }

    /// What launches of a program are known to read. May block on the disk.
    pub(crate) fn get(&self, workspace: &WorkspaceId, program: &PathKey) -> Profile {
        let file = self.file(workspace, program);
        match files::read_json(&file) {
            Ok(profile) => profile.unwrap_or_default(),
            Err(error) => {
                // It's only advice, and will be written anew.
                tracing::debug!(%error, "a launch profile can't be read");
                Profile::default()
            }
        }
    }

    /// All that are kept of a workspace, the one changed last first. May block on the disk.
    pub(crate) fn list(&self, workspace: &WorkspaceId) -> Vec<Profile> {
        let folder = self.folder.join(workspace.to_string());
        let mut kept = kept(&folder).unwrap_or_default();
        kept.sort_by(|a, b| b.cmp(a));
        kept.into_iter().filter_map(|(_, file)| files::read_json(&file).ok().flatten()).collect()
    }

    /// Adds what a launch has read. May block on the disk.
    pub(crate) fn merge(&self, workspace: &WorkspaceId, program: &PathKey, read: Profile) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.get(workspace, program);
        if !known.merge(Vec::from(read)) {
            return;
        }
        let file = self.file(workspace, program);
        let folder = file.parent().unwrap_or(&self.folder);
        let written = make_room(folder, &file)
            .map_err(|error| error.to_string())
            .and_then(|()| files::write_json(&file, &known).map_err(|error| error.to_string()));
        if let Err(error) = written {
            tracing::warn!(%error, "what a launch has read can't be kept");
        }
    }

    /// Forgets a workspace's. May block on the disk.
    pub(crate) fn forget(&self, workspace: &WorkspaceId) {
        // That there are none is the usual case.
        let _ = fs::remove_dir_all(self.folder.join(workspace.to_string()));
    }
}

/// Makes the folder, and room in it for one more file if that isn't there yet.
fn make_room(folder: &Path, file: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    if file.exists() {
        return Ok(());
    }
    let mut kept = kept(folder)?;
    kept.sort();
    let surplus = (kept.len() + 1).saturating_sub(MAX_PROFILES);
    kept.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
}

/// The files of profiles, and when they were changed.
fn kept(folder: &Path) -> std::io::Result<Vec<(SystemTime, PathBuf)>> {
    let entries = fs::read_dir(folder)?;
    entries
        .map(|entry| {
            let entry = entry?;
            Ok((entry.metadata()?.modified()?, entry.path()))
        })
        .collect()
}

/// Attends to launches.
pub(crate) struct Launches {
    pub(crate) profiles: Arc<Profiles>,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) view: Arc<View>,
    pub(crate) neighbours: Arc<Neighbours>,
}

impl Launches {
    /// Attends to all launches that begin. (The recorder bounds how many go on at a time.)
    pub(crate) async fn run(self: Arc<Self>, mut begun: mpsc::UnboundedReceiver<Launch>) {
        while let Some(launch) = begun.recv().await {
            tokio::spawn(self.clone().attend(launch));
        }
    }

    async fn attend(self: Arc<Self>, launch: Launch) {
        let owner = self.neighbours.owner(&launch.workspace);
        let (kept, told) = tokio::join!(self.kept(&launch), told(owner.as_ref(), &launch.program));
        let mut known = kept;
        known.merge(Vec::from(told.clone()));
        tracing::debug!(files = known.files().len(), "a launch begins");
        self.fetch(&launch, &known).await;
        let read = self.fetcher.recorder().finished(&launch).await;
        let is_news_to_all = told.clone().merge(Vec::from(read.clone()));
        known.merge(Vec::from(read.clone()));
        let (profiles, Launch { workspace, program }) = (self.profiles.clone(), launch);
        let kept = tokio::task::spawn_blocking(move || profiles.merge(&workspace, &program, known)).await;
        if let Err(error) = kept {
            tracing::error!(%error, "keeping what a launch has read failed");
        }
        if let Some((client, workspace)) = owner.filter(|_| is_news_to_all)
            && let Err(error) = client.offer(&workspace, &program, &read).await
        {
            tracing::debug!(%error, "the owner can't be told what a launch has read");
        }
    }

    async fn kept(&self, launch: &Launch) -> Profile {
        let (profiles, launch) = (self.profiles.clone(), launch.clone());
        let get = move || profiles.get(&launch.workspace, &launch.program);
        tokio::task::spawn_blocking(get).await.unwrap_or_default()
    }

    async fn fetch(&self, launch: &Launch, profile: &Profile) {
        let root = self.view.listing().mounted(&launch.workspace).and_then(|mounted| mounted.root);
        let Some(root) = root.filter(|_| !profile.is_empty()) else { return };
        if let Err(error) = self.fetcher.stream(&launch.workspace, &root, profile).await {
            tracing::debug!(%error, "what a launch will read can't be fetched ahead");
        }
    }
}

/// What the owner knows of a program's launches; nothing if it can't be asked.
async fn told(owner: Option<&(PeerClient, WorkspaceId)>, program: &PathKey) -> Profile {
    let Some((client, workspace)) = owner else { return Profile::default() };
    client.profile(workspace, program).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "the owner doesn't tell what a launch reads");
        Profile::default()
    })
}

#[cfg(test)]
mod tests {
    use twinshare::{blob::Groups, profile::Touched, types::Name};

    use super::*;

    const LAB: WorkspaceId = WorkspaceId::from_bytes([1; 16]);

    fn profile(name: &str) -> Profile {
        let path = vec![Name::new(name.as_bytes()).unwrap()];
        let mut profile = Profile::default();
        profile.merge([Touched { path, groups: Groups::from(0..1) }]);
        profile
    }

    #[test]
    fn what_launches_read_is_kept_and_merged() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (PathKey::from_bytes([1; 16]), PathKey::from_bytes([2; 16]));
        let profiles = Profiles::open(folder.path());
        assert!(profiles.get(&LAB, &a).is_empty() && profiles.list(&LAB).is_empty());
        profiles.merge(&LAB, &a, profile("x"));
        profiles.merge(&LAB, &a, profile("y"));
        let again = Profiles::open(folder.path());
        assert_eq!(again.get(&LAB, &a).files().len(), 2);
        assert_eq!(again.list(&LAB), [again.get(&LAB, &a)]);
        assert!(again.get(&LAB, &b).is_empty());
        fs::write(profiles.file(&LAB, &a), "{").unwrap();
        profiles.merge(&LAB, &a, profile("z"));
        assert_eq!(profiles.get(&LAB, &a), profile("z"), "a damaged one is begun anew");
        profiles.forget(&LAB);
        assert!(profiles.get(&LAB, &a).is_empty());
    }

    #[test]
    fn no_more_are_kept_than_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let profiles = Profiles::open(folder.path());
        for number in 0..MAX_PROFILES as u8 + 5 {
            profiles.merge(&LAB, &PathKey::from_bytes([number; 16]), profile("x"));
        }
        let latest = PathKey::from_bytes([MAX_PROFILES as u8 + 4; 16]);
        let kept = fs::read_dir(profiles.file(&LAB, &latest).parent().unwrap()).unwrap().count();
        assert_eq!(kept, MAX_PROFILES);
        assert!(!profiles.get(&LAB, &latest).is_empty());
    }
}
