use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Where a node keeps what is its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// What the user decides: settings, the list of shares.
    pub config: PathBuf,
    /// What must not be lost: the node's key, layers, the log.
    pub state: PathBuf,
    /// What can be fetched again.
    pub cache: PathBuf,
    /// What lives as long as the daemon: its port and token.
    pub runtime: PathBuf,
    /// Where hosts and workspaces appear, unless the user says otherwise.
    pub mount: PathBuf,
}

impl Paths {
    /// Everything under one folder, so that several nodes live on one machine.
    pub fn under(home: &Path) -> Self {
        Self {
            config: home.join("config"),
            state: home.join("state"),
            cache: home.join("cache"),
            runtime: home.join("runtime"),
            mount: home.join("mnt"),
        }
    }

    /// Where the XDG base directory specification puts it; `variable` gives the environment's variables.
    ///
    /// As it demands, variables that are empty or relative count as absent. Without `XDG_RUNTIME_DIR`, as under `su`
    /// or cron, the runtime folder lies in the state folder.
    pub fn xdg(home: &Path, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let base = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let folder =
            |name: &str, usual: &str| base(name).unwrap_or_else(|| home.join(usual)).join("twinshare");
        let state = folder("XDG_STATE_HOME", ".local/state");
        Self {
            config: folder("XDG_CONFIG_HOME", ".config"),
            cache: folder("XDG_CACHE_HOME", ".cache"),
            runtime: base("XDG_RUNTIME_DIR")
                .map_or_else(|| state.join("runtime"), |base| base.join("twinshare")),
            mount: home.join("twinshare"),
            state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_folder_holds_all() {
        let paths = Paths::under(Path::new("/n"));
        for path in [&paths.config, &paths.state, &paths.cache, &paths.runtime] {
            assert_eq!(path.parent(), Some(Path::new("/n")));
        }
        assert_eq!(paths.mount, Path::new("/n/mnt"));
    }

    #[test]
    fn xdg_variables_count_when_they_are_absolute() {
        let home = Path::new("/home/u");
        let plain = Paths::xdg(home, |_| None);
        assert_eq!(plain.config, Path::new("/home/u/.config/twinshare"));
        assert_eq!(plain.state, Path::new("/home/u/.local/state/twinshare"));
        assert_eq!(plain.cache, Path::new("/home/u/.cache/twinshare"));
        assert_eq!(plain.runtime, Path::new("/home/u/.local/state/twinshare/runtime"));
        assert_eq!(plain.mount, Path::new("/home/u/twinshare"));
        let set = Paths::xdg(home, |name| match name {
            "XDG_RUNTIME_DIR" => Some("/run/user/7".into()),
            "XDG_CONFIG_HOME" => Some("/etc/u".into()),
            "XDG_CACHE_HOME" => Some("relative".into()),
            "XDG_STATE_HOME" => Some("".into()),
            _ => None,
        });
        assert_eq!(set.runtime, Path::new("/run/user/7/twinshare"));
        assert_eq!(set.config, Path::new("/etc/u/twinshare"));
        assert_eq!((set.cache, set.state), (plain.cache, plain.state));
    }
}
