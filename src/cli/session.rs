use std::{
    env,
    path::{Path, PathBuf},
};

use twinshare::{
    api::{Client, ClientError, FilePath, Host, Paths, Workspace},
    types::{HostName, WorkspaceName},
};

use super::{
    arguments::Where,
    failure::Failure,
    output::{plain, suggestion},
};

/// Which node the verbs are about.
pub(super) struct Session {
    pub(super) paths: Paths,
}

impl Session {
    /// The node of `TWINSHARE_HOME`, else the user's.
    pub(super) fn from_environment() -> Result<Self, Failure> {
        let paths = match env::var_os("TWINSHARE_HOME") {
            Some(home) if !home.is_empty() => {
                let home = std::path::absolute(&home).map_err(|error| {
                    Failure::new(format!("TWINSHARE_HOME ({}) is no usable folder: {error}", home.display()))
                })?;
                Paths::under(&home)
            }
            _ => {
                let home = env::home_dir().filter(|home| home.is_absolute()).ok_or_else(|| {
                    Failure::new("there's no home folder")
                        .with_remedy("set HOME, or TWINSHARE_HOME to a folder")
                })?;
                Paths::xdg(&home, |name| env::var_os(name))
            }
        };
        Ok(Self { paths })
    }

    /// A client of the running node.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        Client::find(&self.paths.runtime).map_err(|error| match error {
            ClientError::NotRunning => {
                let elsewhere = format!("it would show in {}", self.paths.runtime.display());
                Failure::from(error).with_remedy(elsewhere)
            }
            error => error.into(),
        })
    }

    /// What is meant by a name, or by a path on this machine that leads into the mount.
    pub(super) async fn locate(&self, place: &Where) -> Result<FilePath, Failure> {
        let path = match place {
            Where::Named(path) => return Ok(path.clone()),
            Where::Path(path) => path,
        };
        let mount = self.client()?.status().await?.mount;
        let mount = canonical(mount.as_path());
        let relative = canonical(path).strip_prefix(&mount).map(Path::to_path_buf).map_err(|_| {
            Failure::new(format!("{} isn't in the mount", plain(&path.to_string_lossy())))
                .with_remedy(format!("what other hosts share is in {}", plain(&mount.to_string_lossy())))
        })?;
        FilePath::parse(relative.as_os_str().as_encoded_bytes()).map_err(|error| {
            Failure::new(format!("{} names no workspace: {error}", plain(&path.to_string_lossy())))
        })
    }

    /// Where a file is in the mount.
    pub(super) async fn in_mount(&self, path: &FilePath) -> Result<PathBuf, Failure> {
        let mut file = self.client()?.status().await?.mount.as_path().to_path_buf();
        file.extend([path.host.as_str(), path.workspace.as_str()]);
        file.extend(path.path.iter().map(|name| name.as_os_str()));
        Ok(file)
    }

    /// The file that a node in the background logs to.
    pub(super) fn log(&self) -> PathBuf {
        self.paths.state.join("mountd.log")
    }
}

/// The absolute path without links and dots on its way; a link at its end is meant itself.
pub(super) fn canonical(path: &Path) -> PathBuf {
    let found = match (path.file_name(), path.parent()) {
        (Some(name), Some(parent)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            parent.canonicalize().map(|parent| parent.join(name))
        }
        _ => path.canonicalize(),
    };
    found.or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_path_buf())
}

/// The host of this name.
pub(super) fn find_host<'a>(hosts: &'a [Host], name: &HostName) -> Result<&'a Host, Failure> {
    hosts.iter().find(|host| host.name == *name).ok_or_else(|| {
        let failure = Failure::new(format!("there's no host '{name}'"));
        match suggestion(name.as_str(), hosts.iter().map(|host| host.name.as_str())) {
            Some(suggestion) => failure.with_remedy(suggestion),
            None => failure
                .with_remedy("'twinshare ls' lists the hosts; 'twinshare peer add' adds one by its address"),
        }
    })
}

/// The workspace of this name on the host.
pub(super) fn find_workspace<'a>(host: &'a Host, name: &WorkspaceName) -> Result<&'a Workspace, Failure> {
    host.workspaces.iter().find(|workspace| workspace.name == *name).ok_or_else(|| {
        let failure = Failure::new(format!("host '{}' shares no workspace '{name}'", host.name));
        match suggestion(name.as_str(), host.workspaces.iter().map(|workspace| workspace.name.as_str())) {
            Some(suggestion) => failure.with_remedy(suggestion),
            None => failure.with_remedy(format!("'twinshare ls {}' lists its workspaces", host.name)),
        }
    })
}
