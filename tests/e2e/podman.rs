//! A real Podman, with a storage of its own, for the guest of a bed.

use std::{
    env, fs,
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{bed::Bed, wait::wait_for};

/// Programs that a small root has.
const APPLETS: [&str; 17] = [
    "cat", "echo", "httpd", "id", "kill", "ls", "mkdir", "ps", "pwd", "seq", "setsid", "sh", "sleep", "stat",
    "test", "touch", "true",
];

/// What doesn't go in a machine without control groups of its own, as the tests' often is: they ask for none.
const SETTINGS: &str = r#"
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"#;

/// Makes a root out of a static busybox.
pub(crate) fn busybox(root: &Path) {
    for folder in ["bin", "etc", "tmp"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
}

/// The service, for as long as this is.
pub(crate) struct Podman {
    folder: PathBuf,
    /// The guest's home folder, which Podman sees with what is mounted in it later.
    home: PathBuf,
    service: Child,
}

impl Podman {
    /// Starts it and has the guest use it; none where it isn't installed.
    pub(crate) fn new(bed: &Bed) -> Option<Self> {
        let there = ["/usr/bin/podman", "/bin/busybox"].iter().all(|path| Path::new(path).exists());
        if !there {
            let required = env::var_os("TWINSHARE_TEST_REQUIRE").is_some();
            assert!(!required, "podman or busybox-static isn't installed");
            eprintln!("skipped: podman or busybox-static isn't installed");
            return None;
        }
        let folder = bed.folder().join("podman");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("containers.conf"), SETTINGS).unwrap();
        let (socket, home) = (folder.join("socket"), bed.guest().home());
        bed.guest().configure(&format!("containers: {{socket: {}}}\n", socket.display()));
        rustix::mount::mount_bind(&home, &home).unwrap();
        rustix::mount::mount_change(&home, rustix::mount::MountPropagationFlags::SHARED).unwrap();
        // Podman doesn't work where both generations of control groups are mounted; what is mounted later it must see.
        let script = "umount /sys/fs/cgroup/unified 2> /dev/null; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c", script, "sh"]);
        let service = Self::podman(&folder, command)
            .args(["system", "service", "--time=0"])
            .arg(format!("unix://{}", socket.display()))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(fs::File::create(folder.join("log")).unwrap())
            .stderr(fs::File::create(folder.join("errors")).unwrap())
            .spawn()
            .unwrap();
        let started = Self { folder, home, service };
        wait_for("podman listens", Duration::from_secs(20), || socket.exists().then_some(()));
        Some(started)
    }

    fn podman(folder: &Path, mut command: Command) -> Command {
        command.arg("podman").arg("--root").arg(folder.join("root")).arg("--runroot").arg(folder.join("run"));
        command.args(["--storage-driver=vfs"]).env("CONTAINERS_CONF", folder.join("containers.conf"));
        command
    }

    /// The containers that there are.
    pub(crate) fn containers(&self) -> String {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c"]);
        command.args(["umount /sys/fs/cgroup/unified 2> /dev/null; exec \"$@\"", "sh"]);
        let output = Self::podman(&self.folder, command).args(["ps", "--all", "--quiet"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "---- podman ----\n{}",
                fs::read_to_string(self.folder.join("errors")).unwrap_or_default()
            );
        }
        // It may have ended.
        let _ = self.service.kill();
        let _ = self.service.wait();
        // With all that is mounted in it: the bed ends the guest before or afterwards.
        let _ = rustix::mount::unmount(&self.home, rustix::mount::UnmountFlags::DETACH);
    }
}
