//! A node of the bed: a daemon in its namespace, with a home of its own, driven through the CLI.

use std::{
    fs,
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::wait::wait_for;

/// The CLI; the daemon lies beside it.
pub(crate) const CLI: &str = env!("CARGO_BIN_EXE_twinshare");

/// How much of a log is shown when a test fails.
const LOG_TAIL: usize = 60;

/// A command that is ended when it takes longer than that many seconds, and then exits with 124.
pub(crate) fn within(seconds: u32, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", &seconds.to_string()]).arg(program);
    command
}

/// What a program printed; panics with what it said when it fails.
pub(crate) fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A host of the bed.
pub(crate) struct Node {
    name: &'static str,
    namespace: String,
    address: Ipv4Addr,
    folder: PathBuf,
    /// The PATH of its user, if it's another than the test's.
    path: OnceLock<String>,
}

impl Node {
    /// A host whose files are to lie under `folder`; nothing runs yet.
    pub(crate) fn new(name: &'static str, namespace: &str, address: Ipv4Addr, folder: PathBuf) -> Self {
        fs::create_dir_all(folder.join("home")).unwrap();
        fs::create_dir_all(folder.join("files")).unwrap();
        Self { name, namespace: namespace.to_owned(), address, folder, path: OnceLock::new() }
    }

    /// Has its user have another PATH than the test.
    pub(crate) fn set_path(&self, path: &str) {
        self.path.set(path.to_owned()).unwrap();
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The node's TWINSHARE_HOME.
    pub(crate) fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    /// Where the node mounts.
    pub(crate) fn mount(&self) -> PathBuf {
        self.home().join("mnt")
    }

    /// A folder for the host's own files, on the disk of its home and outside it.
    pub(crate) fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    /// The CLI with these arguments, in this host. Only its network is the host's: a mount is seen by the test as well.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = within(300, "nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .arg("--")
            .arg(CLI)
            .args(arguments)
            .env("TWINSHARE_HOME", self.home());
        if let Some(path) = self.path.get() {
            command.env("PATH", path);
        }
        command
    }

    /// Runs the CLI to its end.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs the CLI, which must succeed; gives what it printed.
    pub(crate) fn ask(&self, arguments: &[&str]) -> String {
        stdout(&mut self.command(arguments))
    }

    /// Runs the CLI, which must succeed and print JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ask(arguments);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?} printed no JSON ({e}): {text}"))
    }

    /// Starts the node; it is mounted when this returns.
    pub(crate) fn up(&self, more: &[&str]) {
        self.ask(&[&["up", "--name", self.name], more].concat());
    }

    /// Stops the node.
    pub(crate) fn down(&self) {
        self.ask(&["down"]);
    }

    /// Kills the node's daemon; its mount is dead when this returns.
    pub(crate) fn kill(&self) {
        kill_process(self.pid(), Signal::KILL).unwrap();
        wait_for("the mount is dead", Duration::from_secs(5), || {
            (rustix::fs::statfs(self.mount()).err() == Some(rustix::io::Errno::NOTCONN)).then_some(())
        });
    }

    /// The daemon's process.
    pub(crate) fn pid(&self) -> Pid {
        let control = fs::read(self.home().join("runtime/control.json")).unwrap();
        let control: Value = serde_json::from_slice(&control).unwrap();
        Pid::from_raw(control["pid"].as_i64().unwrap() as i32).unwrap()
    }

    /// Writes the node's config.yaml; it counts from the next start on.
    pub(crate) fn configure(&self, text: &str) {
        let folder = self.home().join("config");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.yaml"), text).unwrap();
    }

    /// Stops the node if it runs, and doesn't mind if it can't.
    pub(crate) fn down_if_up(&self) {
        if self.home().join("runtime/control.json").exists() {
            let _ = within(20, "nsenter")
                .arg(format!("--net=/run/netns/{}", self.namespace))
                .args(["--", CLI, "down"])
                .env("TWINSHARE_HOME", self.home())
                .output();
        }
    }

    /// Shares a folder with everybody and waits until all of it is hashed.
    pub(crate) fn share(&self, folder: &Path, name: &str) -> Value {
        let path = folder.to_str().unwrap();
        self.json(&["share", path, "--name", name, "--access", "public", "--wait", "--json"])
    }

    /// Sets the password of a workspace that it shares; false if it won't have that one.
    pub(crate) fn set_password(&self, workspace: &str, password: &str) -> bool {
        let mut command = self.command(&["access", workspace, "--password"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
        child.wait().unwrap().success()
    }

    /// What this node's `ls` says of a workspace, if it lists it.
    pub(crate) fn workspace(&self, host: &str, name: &str) -> Option<Value> {
        let hosts = self.json(&["ls", "--json"]);
        let host = hosts.as_array()?.iter().find(|one| one["name"] == host)?;
        host["workspaces"].as_array()?.iter().find(|one| one["name"] == name).cloned()
    }

    /// The name of a workspace's snapshot, if this node knows a final one.
    pub(crate) fn snapshot(&self, host: &str, name: &str) -> Option<String> {
        let workspace = self.workspace(host, name)?;
        if workspace["provisional"] != false {
            return None;
        }
        workspace["snapshot"].as_str().map(str::to_owned)
    }

    /// Waits until a workspace is listed and stands in the mount; gives its folder there.
    pub(crate) fn wait_for_workspace(&self, host: &str, name: &str) -> PathBuf {
        let folder = self.mount().join(host).join(name);
        wait_for(&format!("{} sees {host}/{name}", self.name), Duration::from_secs(20), || {
            self.workspace(host, name)?;
            fs::read_dir(&folder).ok().map(|_| ())
        });
        folder
    }

    /// The end of the daemon's log.
    pub(crate) fn log_tail(&self) -> String {
        let path = self.home().join("state/mountd.log");
        let Ok(log) = fs::read(&path) else {
            return format!("(no log at {})", path.display());
        };
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }
}
