//! From what is to be run to the arguments of bubblewrap: pure, so that what a sandbox is can be read and tested.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Component, Path, PathBuf},
};

use super::{
    RuntimeError,
    sandbox::FILTER,
    system::{SYSTEM_FOLDERS, System},
    venv::Interpreter,
};

/// Where programs are found in a sandbox.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The home folder where the user's own can't be made, because the workspace holds it.
const SPARE_HOME: &str = "/tmp/home";

/// What a sandbox is.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// Where the workspace is on this machine: `~/twinshare/<host>/<workspace>`.
    pub mount_view: PathBuf,
    /// Where it stood on its owner's machine, and stands in the sandbox. From a peer.
    pub original: PathBuf,
    /// `~/twinshare/.outside/<host>`: where the mount lets links point that leave the workspace.
    pub outside: PathBuf,
    /// Whether the workspace can be changed in it.
    pub writable: bool,
    /// Folders of the workspace that are elsewhere too: below the workspace, where, and whether they can't be changed there.
    pub mounts: Vec<(PathBuf, PathBuf, bool)>,
    /// The interpreters of this machine that the workspace's environments are based on.
    pub interpreters: Vec<Interpreter>,
    /// Whether it may use the network.
    pub network: bool,
    /// The variables that it gets besides PATH, HOME, USER and LANG, or instead of them. TERM is among them where there is
    /// a terminal.
    pub environment: Vec<(OsString, OsString)>,
    /// The name of the user.
    pub user: OsString,
    /// The user's home folder: in the sandbox, an empty one.
    pub home: PathBuf,
    /// Whether the user is root, for whom the sandbox has no user namespace.
    pub root: bool,
    /// Whether what runs in it stays in the session of the terminal that it was started from, so that job control works; the
    /// filter keeps it from typing into the terminal what the user's shell would run after it. Else it gets a session of its
    /// own.
    pub terminal: bool,
}

/// Finds bubblewrap in the folders of `search`, a value such as PATH has.
///
/// # Errors
/// [`RuntimeError::NoBubblewrap`].
pub fn find_bubblewrap(search: &OsStr) -> Result<PathBuf, RuntimeError> {
    env::split_paths(search)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("bwrap"))
        .find(|path| path.is_file())
        .ok_or(RuntimeError::NoBubblewrap)
}

/// The arguments with which bubblewrap runs what comes behind them, without its own name. It exits with the status of that, or
/// with 128 and the number of the signal that ended it. For [`FILTER`] stands the descriptor from which it is to read
/// [`super::filter`].
///
/// # Errors
/// [`RuntimeError::Place`] where the workspace can't be put at its original path, or a folder of it where it's to be.
pub fn arguments(spec: &SandboxSpec, system: &System) -> Result<Vec<OsString>, RuntimeError> {
    check_place(&spec.original)?;
    for (source, target, _) in &spec.mounts {
        check_place(target)?;
        let plain = source.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !plain {
            return Err(RuntimeError::Place { path: source.clone(), reason: "it isn't below the workspace" });
        }
    }
    let mut line = Line::default();
    isolate(spec, &mut line);
    // Later mounts lie over earlier ones: the system, then the empty places, then what is put into them, the workspace last.
    show_system(system, &mut line);
    line.add("--proc", ["/proc"]);
    if spec.root {
        // The kernel's settings are root's to change, also without any capability.
        for folder in &system.kernel {
            line.add("--ro-bind", [folder, folder]);
        }
    }
    line.add("--dev", ["/dev"]);
    line.add("--tmpfs", ["/tmp"]).add("--tmpfs", ["/var/tmp"]).add("--dir", ["/run"]);
    if spec.network {
        // /etc/resolv.conf is a link to there where systemd resolves names.
        line.add("--ro-bind-try", ["/run/systemd/resolve", "/run/systemd/resolve"]);
    }
    let home = if spec.home.starts_with(&spec.original) {
        line.add("--dir", [SPARE_HOME]);
        Path::new(SPARE_HOME)
    } else {
        line.add("--tmpfs", [&spec.home]);
        &spec.home
    };
    // A workspace that would hold this link can't be given it: it is read-only.
    if !spec.outside.starts_with(&spec.original) {
        line.add("--symlink", [Path::new("/"), &spec.outside]);
    }
    for path in spec.interpreters.iter().flat_map(|interpreter| &interpreter.paths) {
        if !path.starts_with(&spec.original) {
            line.add("--ro-bind", [path, path]);
        }
    }
    let bind = |read_only| if read_only { "--ro-bind" } else { "--bind" };
    line.add(bind(!spec.writable), [&spec.mount_view, &spec.original]);
    for (source, target, read_only) in &spec.mounts {
        line.add(bind(*read_only || !spec.writable), [&spec.mount_view.join(source), target]);
    }
    line.add("--chdir", [&spec.original]);
    set_environment(spec, home, &mut line);
    line.0.push("--".into());
    Ok(line.0)
}

fn isolate(spec: &SandboxSpec, line: &mut Line) {
    line.add("--die-with-parent", [""; 0]);
    line.add("--seccomp", [FILTER]);
    if !spec.terminal {
        line.add("--new-session", [""; 0]);
    }
    for namespace in ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"] {
        line.add(namespace, [""; 0]);
    }
    if !spec.root {
        line.add("--unshare-user", [""; 0]);
    }
    if !spec.network {
        line.add("--unshare-net", [""; 0]);
    }
    // For root, bubblewrap would keep them all.
    line.add("--cap-drop", ["ALL"]);
}

fn show_system(system: &System, line: &mut Line) {
    for folder in &system.folders {
        line.add("--ro-bind", [folder, folder]);
    }
    for (link, target) in &system.links {
        line.add("--symlink", [target, link]);
    }
    for folder in &system.hidden_folders {
        line.add("--tmpfs", [folder]);
    }
    for file in &system.hidden_files {
        line.add("--ro-bind", [Path::new("/dev/null"), file]);
    }
}

fn set_environment(spec: &SandboxSpec, home: &Path, line: &mut Line) {
    line.add("--clearenv", [""; 0]);
    let given: [(&str, &OsStr); 7] = [
        ("PATH", PATH.as_ref()),
        ("HOME", home.as_os_str()),
        ("USER", &spec.user),
        ("LANG", "C.UTF-8".as_ref()),
        // Files of other users are shown as nobody's, and git wants to be told that it may trust what is in their folders.
        ("GIT_CONFIG_COUNT", "1".as_ref()),
        ("GIT_CONFIG_KEY_0", "safe.directory".as_ref()),
        ("GIT_CONFIG_VALUE_0", spec.original.as_os_str()),
    ];
    for (name, value) in given {
        line.add("--setenv", [name.as_ref(), value]);
    }
    for (name, value) in &spec.environment {
        line.add("--setenv", [name, value]);
    }
}

/// Checks a path that a peer gave: it is made in the sandbox, and mustn't cover or need the sandbox's own parts.
fn check_place(path: &Path) -> Result<(), RuntimeError> {
    let own = SYSTEM_FOLDERS.iter().chain(&["/proc", "/dev", "/sys"]);
    let reason = if !path.is_absolute() {
        "its path isn't absolute"
    } else if path.components().any(|part| part == Component::ParentDir) {
        "its path has '..' in it"
    } else if path.parent().is_none() {
        "its path is the root folder"
    } else if own.into_iter().any(|folder| path.starts_with(folder)) {
        "that is a system folder"
    } else {
        return Ok(());
    };
    Err(RuntimeError::Place { path: path.to_owned(), reason })
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn add<T: AsRef<OsStr>>(&mut self, option: &str, values: impl IntoIterator<Item = T>) -> &mut Self {
        self.0.push(option.into());
        self.0.extend(values.into_iter().map(|value| value.as_ref().to_owned()));
        self
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use rustix::io::Errno;

    use super::*;
    use crate::runtime::{VenvConfig, filter_file, with_filter};

    fn spec() -> SandboxSpec {
        SandboxSpec {
            mount_view: "/home/bob/twinshare/dev/lab".into(),
            original: "/home/ann/lab".into(),
            outside: "/home/bob/twinshare/.outside/dev".into(),
            writable: false,
            mounts: vec![],
            interpreters: vec![],
            network: false,
            environment: vec![("TERM".into(), "xterm".into())],
            user: "bob".into(),
            home: "/home/bob".into(),
            root: false,
            terminal: false,
        }
    }

    fn system() -> System {
        System {
            folders: vec!["/usr".into(), "/etc".into()],
            links: vec![("/bin".into(), "usr/bin".into())],
            hidden_files: vec!["/etc/shadow".into()],
            hidden_folders: vec!["/etc/ssl/private".into()],
            kernel: vec!["/proc/sys".into()],
        }
    }

    fn line(spec: &SandboxSpec) -> String {
        let arguments = arguments(spec, &system()).unwrap();
        arguments.iter().map(|argument| argument.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_sandbox_is_what_it_is_meant_to_be() {
        assert_eq!(
            line(&spec()),
            "--die-with-parent --seccomp @FILTER@ --new-session --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup-try \
             --unshare-user --unshare-net --cap-drop ALL \
             --ro-bind /usr /usr --ro-bind /etc /etc --symlink usr/bin /bin --tmpfs /etc/ssl/private \
             --ro-bind /dev/null /etc/shadow --proc /proc --dev /dev --tmpfs /tmp --tmpfs /var/tmp --dir /run \
             --tmpfs /home/bob --symlink / /home/bob/twinshare/.outside/dev \
             --ro-bind /home/bob/twinshare/dev/lab /home/ann/lab --chdir /home/ann/lab \
             --clearenv --setenv PATH /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
             --setenv HOME /home/bob --setenv USER bob --setenv LANG C.UTF-8 \
             --setenv GIT_CONFIG_COUNT 1 --setenv GIT_CONFIG_KEY_0 safe.directory \
             --setenv GIT_CONFIG_VALUE_0 /home/ann/lab --setenv TERM xterm --"
        );
    }

    #[test]
    fn a_workspace_that_holds_the_home_folder_stays_visible() {
        let holding = SandboxSpec { original: "/home".into(), ..spec() };
        let line = line(&holding);
        assert!(!line.contains("--tmpfs /home/bob") && !line.contains("--symlink / /home"), "{line}");
        assert!(line.contains("--setenv HOME /tmp/home"), "{line}");
        let within = SandboxSpec { original: "/home/bob/lab".into(), ..spec() };
        let line = super::tests::line(&within);
        assert!(line.find("--tmpfs /home/bob ").unwrap() < line.find("dev/lab /home/bob/lab").unwrap());
    }

    #[test]
    fn what_is_asked_for_is_given() {
        let interpreter = |path: &str| Interpreter { version: "3.11".into(), paths: vec![path.into()] };
        let asked = SandboxSpec {
            network: true,
            root: true,
            terminal: true,
            writable: true,
            mounts: vec![("data".into(), "/data".into(), true), ("out".into(), "/out".into(), false)],
            interpreters: vec![interpreter("/opt/py/bin/python3.11"), interpreter("/home/ann/lab/py")],
            ..spec()
        };
        let line = line(&asked);
        assert!(line.contains("--seccomp @FILTER@") && !line.contains("--new-session"), "{line}");
        let workspace = "--bind /home/bob/twinshare/dev/lab /home/ann/lab --ro-bind /home/bob/twinshare/dev/lab/data /data \
                         --bind /home/bob/twinshare/dev/lab/out /out --chdir";
        assert!(line.contains(workspace), "{line}");
        assert!(line.contains("--proc /proc --ro-bind /proc/sys /proc/sys --dev"), "{line}");
        assert!(!line.contains("--unshare-net") && !line.contains("--unshare-user"), "{line}");
        assert!(line.contains("--ro-bind /opt/py/bin/python3.11 /opt/py/bin/python3.11"), "{line}");
        assert!(!line.contains("/home/ann/lab/py"), "{line}");
    }

    #[test]
    fn a_peer_cannot_choose_the_sandboxs_own_places() {
        for bad in ["/", "lab", "/home/../etc", "/etc", "/usr/bin", "/proc/self", "/dev", "/sys/fs"] {
            let refused = arguments(&SandboxSpec { original: bad.into(), ..spec() }, &system());
            assert!(matches!(refused, Err(RuntimeError::Place { .. })), "{bad}");
        }
        for (source, target) in [("../x", "/data"), ("/x", "/data"), ("data", "/etc/x"), ("data", "data")] {
            let mounts = vec![(source.into(), target.into(), false)];
            let refused = arguments(&SandboxSpec { mounts, ..spec() }, &system());
            assert!(matches!(refused, Err(RuntimeError::Place { .. })), "{source} {target}");
        }
        assert!(
            find_bubblewrap("/nowhere:relative".as_ref())
                .unwrap_err()
                .to_string()
                .contains("apt-get install bubblewrap")
        );
    }

    /// A workspace `view` that stood at `original`, both in a new folder; none where bubblewrap is missing.
    struct Bed {
        folder: tempfile::TempDir,
        spec: SandboxSpec,
        program: PathBuf,
    }

    impl Bed {
        fn new() -> Option<Self> {
            let Ok(program) = find_bubblewrap("/usr/bin:/bin:/usr/local/bin".as_ref()) else {
                eprintln!("skipped: bubblewrap isn't installed");
                return None;
            };
            let folder = tempfile::tempdir().unwrap();
            let view = folder.path().join("view");
            std::fs::create_dir(&view).unwrap();
            std::fs::write(view.join("data"), "content").unwrap();
            let home = folder.path().join("home");
            std::fs::create_dir(&home).unwrap();
            std::fs::write(home.join("secret"), "secret").unwrap();
            let spec = SandboxSpec {
                mount_view: view,
                original: folder.path().join("original/lab"),
                outside: home.join("twinshare/.outside/dev"),
                home,
                root: rustix::process::getuid().is_root(),
                ..spec()
            };
            Some(Self { folder, spec, program })
        }

        fn run(&self, command: &[&str]) -> Output {
            let filter = filter_file().unwrap();
            rustix::io::fcntl_setfd(&filter, rustix::io::FdFlags::empty()).unwrap();
            let arguments = arguments(&self.spec, &System::scan().unwrap()).unwrap();
            let arguments = with_filter(&arguments, &filter);
            Command::new(&self.program).args(arguments).args(command).output().unwrap()
        }

        /// What a shell script prints, which must succeed.
        fn shell(&self, script: &str) -> String {
            let output = self.run(&["sh", "-c", script]);
            assert!(output.status.success(), "{script}: {output:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        }
    }

    #[test]
    fn the_commands_status_is_passed_on() {
        let Some(bed) = Bed::new() else { return };
        assert_eq!(bed.run(&["sh", "-c", "exit 37"]).status.code(), Some(37));
        assert_eq!(bed.run(&["sh", "-c", "kill -TERM $$"]).status.code(), Some(128 + 15));
    }

    #[test]
    fn the_workspace_is_at_its_original_path_and_read_only() {
        let Some(bed) = Bed::new() else { return };
        let original = bed.spec.original.to_str().unwrap();
        assert_eq!(bed.shell("pwd"), original);
        assert_eq!(bed.shell(&format!("cat {original}/data")), "content");
        assert!(!bed.run(&["touch", "new"]).status.success());
        assert_eq!(bed.shell("echo a > $HOME/a && echo b > /tmp/b && cat $HOME/a /tmp/b"), "a\nb");
        assert!(!bed.spec.home.join("a").exists());
    }

    #[test]
    fn the_host_is_not_visible() {
        let Some(bed) = Bed::new() else { return };
        assert_eq!(bed.shell("ls $HOME; test ! -e $HOME/secret && echo hidden"), "twinshare\nhidden");
        assert_eq!(bed.shell("cat /etc/shadow 2> /dev/null || echo hidden"), "hidden");
        assert_eq!(bed.shell("grep -c . /proc/net/dev"), "3", "two lines of headings and loopback");
        assert_eq!(bed.shell("grep CapEff /proc/self/status | tr -d 'CapEff: \t0'"), "");
        assert_eq!(
            bed.shell("env | cut -d= -f1 | sort | tr '\\n' ' '"),
            "GIT_CONFIG_COUNT GIT_CONFIG_KEY_0 GIT_CONFIG_VALUE_0 HOME LANG PATH PWD TERM USER"
        );
    }

    #[test]
    fn the_network_is_there_when_it_is_asked_for() {
        let Some(mut bed) = Bed::new() else { return };
        bed.spec.network = true;
        let outside = std::fs::read_to_string("/proc/net/dev").unwrap().lines().count();
        assert_eq!(bed.shell("grep -c . /proc/net/dev"), outside.to_string());
    }

    #[test]
    fn a_venv_runs_from_another_place() {
        let Some(mut bed) = Bed::new() else { return };
        let original = bed.spec.original.clone();
        let made = Command::new("python3")
            .args(["-m", "venv", "--without-pip"])
            .arg(original.join(".venv"))
            .status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!("skipped: python3 -m venv doesn't work here");
            return;
        }
        // As the mount shows it: elsewhere, and with the links that leave it leading into `outside`.
        let view = bed.folder.path().join("mount");
        std::fs::rename(&original, &view).unwrap();
        for entry in std::fs::read_dir(view.join(".venv/bin")).unwrap() {
            let path = entry.unwrap().path();
            let Ok(target) = std::fs::read_link(&path) else { continue };
            if let Ok(inner) = target.strip_prefix("/") {
                std::fs::remove_file(&path).unwrap();
                std::os::unix::fs::symlink(bed.spec.outside.join(inner), &path).unwrap();
            }
        }
        let config = VenvConfig::parse(&std::fs::read(view.join(".venv/pyvenv.cfg")).unwrap()).unwrap();
        bed.spec.interpreters = vec![config.find_interpreter().unwrap()];
        bed.spec.mount_view = view;
        let script = "import sys, json, ssl, ctypes; print(sys.prefix)";
        let output = bed.run(&[".venv/bin/python", "-c", script]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(
            String::from_utf8(output.stdout).unwrap().trim(),
            original.join(".venv").to_str().unwrap()
        );
    }

    #[test]
    fn a_terminal_cannot_be_typed_into() {
        let Some(bed) = Bed::new() else { return };
        if Command::new("perl").arg("-v").output().is_err() {
            eprintln!("skipped: perl isn't installed");
            return;
        }
        let asked = |request: &str| {
            let script = format!("my $c = 'x'; ioctl(STDOUT, {request}, $c); print $!+0");
            let output = bed.run(&["perl", "-e", &script]);
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        // Standard output is a pipe: without the filter every one of these is ENOTTY.
        assert_eq!(asked("0x5412"), Errno::PERM.raw_os_error().to_string());
        assert_eq!(asked("0x541c"), Errno::PERM.raw_os_error().to_string());
        assert_eq!(asked("0x5401"), Errno::NOTTY.raw_os_error().to_string());
    }
}
