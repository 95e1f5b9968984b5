//! What an environment may use of the machine, and by which means it's held to that.

use std::{
    ffi::OsString,
    fmt, fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
};

use rustix::{
    process::{Resource, Rlimit, getpid, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde::{Deserialize, Serialize};

/// What an environment may use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Processor cores.
    #[serde(default)]
    pub cpus: Option<f64>,
    /// Memory, in bytes.
    #[serde(default)]
    pub memory: Option<u64>,
    /// How it's held to that.
    pub means: Means,
}

impl Eq for Limits {}

/// By which means an environment is held to its limits, the best first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// A scope of the user's systemd, as `systemd-run` makes it.
    Scope {
        /// That program.
        program: PathBuf,
    },
    /// A control group (v2) of its own, in this one.
    Group {
        /// Where.
        parent: PathBuf,
        /// Its name there.
        name: String,
    },
    /// Whatever the container engine or plugin has.
    Runtime,
    /// Limits of each process (its address space), and the cores that it may run on.
    #[default]
    Process,
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scope { .. } => "a systemd scope",
            Self::Group { .. } => "a control group",
            Self::Runtime => "the container engine, or the plugin",
            Self::Process => {
                "limits of each process: its address space, and the cores that it runs on (there is no \
                 control group v2 that this user may divide)"
            }
        })
    }
}

impl Means {
    /// The best that there is on this machine, for an environment of this name.
    pub fn find(name: &str) -> Self {
        let uid = rustix::process::geteuid();
        let manager = if uid.is_root() {
            PathBuf::from("/run/systemd/private")
        } else {
            PathBuf::from(format!("/run/user/{}/systemd/private", uid.as_raw()))
        };
        let run = ["/usr/bin/systemd-run", "/bin/systemd-run"].map(PathBuf::from);
        if manager.exists()
            && let Some(program) = run.into_iter().find(|program| program.is_file())
        {
            return Self::Scope { program };
        }
        let own = fs::read_to_string("/proc/self/cgroup").ok().and_then(|groups| own_group(&groups));
        match own.filter(|group| can_be_divided(group)) {
            Some(parent) => Self::Group { parent, name: format!("twinshare-{name}") },
            None => Self::Process,
        }
    }
}

/// The control group (v2) of this process, of which /proc/self/cgroup tells.
fn own_group(groups: &str) -> Option<PathBuf> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/')))
}

/// Whether groups with limits can be made in it: their controllers must be passed on, and its folder be ours to write.
fn can_be_divided(group: &Path) -> bool {
    let passed = fs::read_to_string(group.join("cgroup.subtree_control")).unwrap_or_default();
    let has = |name| passed.split_whitespace().any(|one| one == name);
    has("memory") && has("cpu") && rustix::fs::access(group, rustix::fs::Access::WRITE_OK).is_ok()
}

impl Limits {
    /// What stands before a program that is to be held to them.
    pub fn before(&self) -> Vec<OsString> {
        let Means::Scope { program } = &self.means else { return Vec::new() };
        let mut words: Vec<OsString> =
            vec![program.into(), "--scope".into(), "--quiet".into(), "--collect".into()];
        if !rustix::process::geteuid().is_root() {
            words.push("--user".into());
        }
        if let Some(memory) = self.memory {
            words.push(format!("--property=MemoryMax={memory}").into());
        }
        if let Some(cpus) = self.cpus {
            words.push(format!("--property=CPUQuota={:.0}%", cpus * 100.0).into());
        }
        words.push("--".into());
        words
    }

    /// The variables that that needs.
    pub(super) fn variables(&self) -> Option<(&'static str, String)> {
        let uid = rustix::process::geteuid().as_raw();
        matches!(self.means, Means::Scope { .. }).then(|| ("XDG_RUNTIME_DIR", format!("/run/user/{uid}")))
    }

    /// Has a program that is to be started held to them.
    pub(super) fn apply(&self, command: &mut tokio::process::Command) {
        let limits = self.clone();
        let hold = move || match &limits.means {
            Means::Scope { .. } | Means::Runtime => Ok(()),
            Means::Group { parent, name } => limits.enter(&parent.join(name)),
            Means::Process => limits.limit_process(),
        };
        // SAFETY: the process that supervises a launch has one thread, so that nothing in the child can be waited for in vain.
        unsafe { command.as_std_mut().pre_exec(hold) };
    }

    /// Makes a control group with these limits and enters it.
    fn enter(&self, group: &Path) -> io::Result<()> {
        match fs::create_dir(group) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if let Some(memory) = self.memory {
            fs::write(group.join("memory.max"), memory.to_string())?;
        }
        if let Some(cpus) = self.cpus {
            // Microseconds of each tenth of a second.
            fs::write(group.join("cpu.max"), format!("{:.0} 100000", cpus * 100_000.0))?;
        }
        fs::write(group.join("cgroup.procs"), "0")
    }

    fn limit_process(&self) -> io::Result<()> {
        if let Some(memory) = self.memory {
            let most = getrlimit(Resource::As).maximum.map_or(memory, |most| most.min(memory));
            setrlimit(Resource::As, Rlimit { current: Some(most), maximum: Some(most) })?;
        }
        if let Some(cpus) = self.cpus {
            let there = sched_getaffinity(None)?;
            let there: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| there.is_set(*cpu)).collect();
            // Each environment begins at another core, so that not all have the first ones.
            let first = usize::try_from(getpid().as_raw_nonzero().get()).unwrap_or(0) % there.len().max(1);
            let mut given = CpuSet::new();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "there are never so many"
            )]
            let count = (cpus.ceil().max(1.0) as usize).min(there.len());
            for position in first..first + count {
                given.set(there[position % there.len()]);
            }
            sched_setaffinity(None, &given)?;
        }
        Ok(())
    }
}

/// Removes what an environment left of its control group.
pub(super) fn clean(limits: &Limits) {
    if let Means::Group { parent, name } = &limits.means {
        // That it's gone already is as good.
        let _ = fs::remove_dir(parent.join(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_and_filled_where_it_may_be_divided() {
        assert_eq!(
            own_group("12:cpu:/x\n0::/user.slice/a.service\n"),
            Some("/sys/fs/cgroup/user.slice/a.service".into())
        );
        assert_eq!(own_group("12:cpu:/x\n"), None);
        let folder = tempfile::tempdir().unwrap();
        assert!(!can_be_divided(folder.path()));
        fs::write(folder.path().join("cgroup.subtree_control"), "cpuset cpu io memory pids\n").unwrap();
        assert!(can_be_divided(folder.path()));
        fs::write(folder.path().join("cgroup.subtree_control"), "io\n").unwrap();
        assert!(!can_be_divided(folder.path()));
        let limits = Limits { cpus: Some(1.5), memory: Some(1 << 30), means: Means::Process };
        let group = folder.path().join("g");
        limits.enter(&group).unwrap();
        let content = |name| fs::read_to_string(group.join(name)).unwrap();
        assert_eq!(content("memory.max"), "1073741824");
        assert_eq!(content("cpu.max"), "150000 100000");
        assert_eq!(content("cgroup.procs"), "0");
    }

    #[test]
    fn a_scope_is_asked_for_the_same() {
        let means = Means::Scope { program: "/usr/bin/systemd-run".into() };
        let words = Limits { cpus: Some(2.0), memory: Some(4096), means }.before();
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        assert!(words.contains(&"--property=MemoryMax=4096".into()), "{words:?}");
        assert!(words.contains(&"--property=CPUQuota=200%".into()), "{words:?}");
        assert!(Limits::default().before().is_empty());
    }
}
