use std::{
    env,
    fs::OpenOptions,
    io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use twinshare::api::{CONTROL_PORT, Client, ClientError, Finding};

use super::{
    Answer,
    failure::Failure,
    mounts::is_mounted_now,
    output::{Side, json, lines, plain},
    session::Session,
};

/// The share service's usual port.
const SHARE_PORT: u16 = 37778;

pub(super) async fn doctor(session: &Session, as_json: bool) -> Result<Answer, Failure> {
    let root = rustix::process::geteuid().is_root();
    let mut findings =
        vec![fuse_device(OpenOptions::new().read(true).write(true).open("/dev/fuse").err().as_ref())];
    findings.push(fusermount(find_program("fusermount3"), root));
    findings.push(allow_other(std::fs::read_to_string("/etc/fuse.conf").ok().as_deref(), root));
    findings.extend(indexer(std::fs::read_to_string("/etc/updatedb.conf").ok().as_deref()));
    findings.extend(sandbox());
    findings.push(interfaces());
    match Client::find(&session.paths.runtime) {
        Ok(client) => findings.extend(node(&client).await),
        Err(ClientError::NotRunning) => {
            let message = "not running";
            findings.push(Finding::warning("node", message, "start it with 'twinshare up'"));
            findings.push(port("share port", SHARE_PORT, Ipv4Addr::UNSPECIFIED));
            findings.push(port("control port", CONTROL_PORT, Ipv4Addr::LOCALHOST));
        }
        Err(error) => {
            findings.push(Finding::missing("node", error.to_string(), "restart it, or remove that folder"))
        }
    }
    let text = if as_json { json(&findings)? } else { describe(&findings) };
    let sick = findings.iter().any(|finding| finding.needed && !finding.ok);
    Ok(Answer::Said { text, code: if sick { ExitCode::FAILURE } else { ExitCode::SUCCESS } })
}

/// Findings, a line each, and what to do below them.
fn describe(findings: &[Finding]) -> String {
    let row = |finding: &Finding| {
        let verdict = match (finding.ok, finding.needed) {
            (true, _) => "ok",
            (false, false) => "note",
            (false, true) => "MISSING",
        };
        [verdict.to_owned(), plain(&finding.check), plain(&finding.message)]
    };
    let rows: Vec<_> = findings.iter().map(row).collect();
    let mut text = String::new();
    for (line, finding) in lines([Side::Left; 3], rows.iter()).lines().zip(findings) {
        text += line;
        text.push('\n');
        if let Some(remedy) = finding.remedy.as_ref().filter(|_| !finding.ok) {
            text += &format!("         {}\n", plain(remedy));
        }
    }
    text
}

/// Whether the kernel has FUSE and lets this user have it, by the error of opening its device.
fn fuse_device(error: Option<&io::Error>) -> Finding {
    const CHECK: &str = "FUSE";
    match error {
        None => Finding::fine(CHECK, "/dev/fuse can be used"),
        Some(error) if error.kind() == io::ErrorKind::PermissionDenied => Finding::missing(
            CHECK,
            "/dev/fuse can't be opened by this user",
            "'sudo chmod 666 /dev/fuse', which is its usual mode",
        ),
        Some(error) => Finding::missing(
            CHECK,
            format!("/dev/fuse can't be opened: {error}"),
            "'sudo modprobe fuse'; in a container, start it with --device /dev/fuse --cap-add SYS_ADMIN",
        ),
    }
}

/// Whether a user can mount.
fn fusermount(found: Option<PathBuf>, root: bool) -> Finding {
    const CHECK: &str = "fusermount3";
    match found {
        Some(path) => Finding::fine(CHECK, path.display().to_string()),
        None if root => Finding::fine(CHECK, "not found, and root doesn't need it"),
        None => Finding::missing(
            CHECK,
            "not found: a plain user can't mount without it",
            "'sudo apt-get install fuse3'",
        ),
    }
}

/// Whether the mount can be opened to other users, by the text of /etc/fuse.conf.
fn allow_other(configuration: Option<&str>, root: bool) -> Finding {
    let allowed =
        configuration.is_some_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
    Finding::fine(
        "other users",
        match (root, allowed) {
            (true, _) => "root may let them into its mount",
            (false, true) => "you may let them into your mount (user_allow_other in /etc/fuse.conf)",
            (false, false) => "only you can enter your mount (no user_allow_other in /etc/fuse.conf)",
        },
    )
}

/// Whether `locate`'s index leaves mounts out, by the text of /etc/updatedb.conf; nothing where there's no such index.
fn indexer(configuration: Option<&str>) -> Option<Finding> {
    const CHECK: &str = "locate";
    let left_out = configuration?.lines().filter_map(|line| {
        let (name, kinds) = line.split_once('=')?;
        (name.trim() == "PRUNEFS").then(|| kinds.trim().trim_matches('"'))
    });
    Some(match left_out.flat_map(str::split_whitespace).any(|kind| kind == "fuse.twinshare") {
        true => Finding::fine(CHECK, "updatedb leaves mounts of twinshare out"),
        false => Finding::warning(
            CHECK,
            "updatedb will look through everything that colleagues share",
            r#"'sudo sed -i 's/^ *PRUNEFS *= *"/&fuse.twinshare /' /etc/updatedb.conf'"#,
        ),
    })
}

/// Whether launches can be put into a sandbox: by making one.
fn sandbox() -> Vec<Finding> {
    const CHECK: &str = "bubblewrap";
    let Some(path) = find_program("bwrap") else {
        let remedy = "'sudo apt-get install bubblewrap'";
        return vec![Finding::missing(
            CHECK,
            "bwrap isn't found: nothing can be launched without it",
            remedy,
        )];
    };
    let found = Finding::fine(CHECK, path.display().to_string());
    let trial = Command::new(&path)
        .args(["--ro-bind", "/", "/", "--unshare-user", "--unshare-pid", "--unshare-net", "true"])
        .stdin(Stdio::null())
        .output();
    let why = match trial {
        Ok(output) if output.status.success() => {
            return vec![found, Finding::fine("user namespaces", "a sandbox can be made")];
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    let setting = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    vec![found, namespaces(&why, setting)]
}

/// Why no sandbox could be made, by the kernel's settings.
fn namespaces(why: &str, setting: impl Fn(&str) -> Option<String>) -> Finding {
    let remedy = if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1")
    {
        "AppArmor forbids it: 'sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0', or a profile for bwrap"
    } else if setting("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        "'sudo sysctl kernel.unprivileged_userns_clone=1'"
    } else if setting("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        "'sudo sysctl user.max_user_namespaces=15000'"
    } else {
        "in a container, its seccomp profile has to allow user namespaces"
    };
    Finding::missing("user namespaces", format!("no sandbox can be made: {why}"), remedy)
}

/// Whether there's a network to find peers on.
fn interfaces() -> Finding {
    const CHECK: &str = "network";
    let mut names: Vec<String> = if_addrs::get_if_addrs()
        .unwrap_or_default()
        .into_iter()
        .filter(|interface| !interface.is_loopback() && interface.is_oper_up())
        .map(|interface| interface.name)
        .collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        let remedy = "connect this machine, or add peers with 'twinshare peer add'";
        Finding::warning(CHECK, "no interface is up: peers can't be found", remedy)
    } else {
        Finding::fine(CHECK, format!("peers are looked for on {}", names.join(", ")))
    }
}

/// Whether a port is free.
fn port(check: &str, port: u16, address: Ipv4Addr) -> Finding {
    match TcpListener::bind((address, port)) {
        Ok(_) => Finding::fine(check, format!("{port} is free")),
        Err(error) => {
            Finding::warning(check, format!("{port} can't be had: {error}"), "another will be used")
        }
    }
}

/// How the running node is, by itself and from outside.
async fn node(client: &Client) -> Vec<Finding> {
    let restart = "see its log; restart it with 'twinshare down' and 'twinshare up'";
    let status = match client.status().await {
        Ok(status) => status,
        Err(error) => return vec![Finding::missing("node", error.to_string(), restart)],
    };
    let mut findings = vec![Finding::fine("node", format!("running, process {}", client.endpoint().pid))];
    findings.push(if status.mounted && is_mounted_now(status.mount.as_path()) {
        Finding::fine("mount", format!("{} answers", status.mount))
    } else {
        Finding::missing("mount", format!("{} doesn't answer", status.mount), restart)
    });
    match client.doctor().await {
        Ok(more) => findings.extend(more),
        Err(error) => findings.push(Finding::missing("node", error.to_string(), restart)),
    }
    findings
}

/// Finds a program on the PATH.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file: &PathBuf| Path::is_file(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_its_remedy() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(fuse_device(None).ok);
        assert!(fuse_device(Some(&denied)).remedy.unwrap().contains("chmod"));
        assert!(fusermount(None, true).ok);
        assert!(!fusermount(None, false).ok);
        assert!(allow_other(Some("# user_allow_other\n"), false).message.starts_with("only you"));
        assert!(allow_other(Some("mount_max = 9\nuser_allow_other\n"), false).message.starts_with("you may"));
        assert_eq!(indexer(None), None);
        assert!(indexer(Some("PRUNE_BIND_MOUNTS=\"yes\"\nPRUNEFS = \"NFS fuse.twinshare\"\n")).unwrap().ok);
        assert!(!indexer(Some("# PRUNEFS=\"fuse.twinshare\"\nPRUNEFS=\"NFS fuse.sshfs\"\n")).unwrap().ok);
        let ubuntu = namespaces("x", |path| path.contains("apparmor").then(|| "1".to_owned()));
        assert!(ubuntu.remedy.unwrap().contains("AppArmor"));
        let text = describe(&[Finding::fine("a", "b"), Finding::missing("longer", "c", "do this")]);
        assert_eq!(text, "ok       a       b\nMISSING  longer  c\n         do this\n");
    }

    #[test]
    fn a_port_that_is_taken_is_a_note() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let finding = port("p", taken.local_addr().unwrap().port(), Ipv4Addr::LOCALHOST);
        assert!(!finding.ok && !finding.needed);
    }
}
