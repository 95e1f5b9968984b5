use std::{env, path::PathBuf};

use twinshare::{
    api::{Client, ClientError, Host, Paths, Workspace},
    types::{HostName, WorkspaceName},
};

use super::{failure::Failure, output::suggestion};

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

    /// The file that a node in the background logs to.
    pub(super) fn log(&self) -> PathBuf {
        self.paths.state.join("mountd.log")
    }
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
