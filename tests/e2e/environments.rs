//! Environments that run: what every runtime must do, and what the daemon's death does to them.

use std::{
    env, fs,
    net::Ipv4Addr,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::{
    bed::Bed,
    node::{Node, within},
    podman::{Podman, busybox},
    wait::wait_for,
};

/// What a runtime is given to run the conformance suite's environment.
struct Flavour<'a> {
    /// Its name.
    runtime: &'a str,
    /// What the definition says beside all that they have in common.
    definition: &'static str,
    /// A server of the folder `web` on port 8123.
    server: &'static str,
    /// Whether what runs needs nothing of the mount once it runs.
    lives_on: bool,
}

const PROCESS: Flavour<'static> = Flavour {
    runtime: "process",
    definition: "",
    server: "exec python3 -m http.server 8123 --directory web",
    lives_on: true,
};

/// Its root is a folder of the workspace, of which everything that it runs comes.
const CONTAINER: Flavour<'static> = Flavour {
    runtime: "container",
    definition: "rootfs: root",
    server: "exec httpd -f -p 8123 -h web",
    lives_on: false,
};

/// The environment's own program: it prints where it is and what it was given, and ends with 3 when it's asked to.
const MAIN: &str = r#"
echo "main in $PWD, $MODE"
trap 'echo asked to end; exit 3' TERM
while :; do sleep 0.1 & wait $!; done
"#;

/// Writes what all runtimes are given.
fn write_workspace(folder: &Path, flavour: &Flavour<'_>) {
    fs::write(folder.join("main.sh"), MAIN).unwrap();
    fs::create_dir(folder.join("web")).unwrap();
    fs::write(folder.join("web/page"), "a page\n").unwrap();
    let definition = format!(
        "environments:\n\
         - name: suite\n  type: {}\n  command: [sh, main.sh]\n  env: {{MODE: 'at ${{WORKSPACE}}'}}\n  {}\n  \
           setup: [echo once >> made]\n  hooks: {{started: [echo ready], stopped: [echo all over]}}\n  services:\n  \
           - {{name: late, command: echo served; sleep 1000, after: [web], ready: {{log: served}}}}\n  \
           - {{name: web, command: {}, ready: {{http: 'http://127.0.0.1:8123/page'}}, ports: [8123]}}\n\
         - name: seven\n  type: {}\n  command: exit 7\n  {}\n\
         - name: shot\n  type: {}\n  command: kill -9 $$\n  {}\n\
         - name: again\n  type: {}\n  {}\n  services:\n  \
           - {{name: flaky, command: echo tried >> tries; exit 1, restart: on-failure}}\n",
        flavour.runtime,
        flavour.definition,
        flavour.server,
        flavour.runtime,
        flavour.definition,
        flavour.runtime,
        flavour.definition,
        flavour.runtime,
        flavour.definition,
    );
    fs::write(folder.join("workspace.yaml"), definition).unwrap();
}

/// How an environment of the owner's `lab` is, as the guest's `ps` says.
fn launch(guest: &Node, environment: &str) -> Value {
    let all = guest.json(&["ps", "--all", "--json"]);
    let found = all.as_array().unwrap().iter().find(|one| one["environment"] == environment);
    found.unwrap_or_else(|| panic!("{environment} isn't in {all}")).clone()
}

fn start(guest: &Node, environment: &str) -> Value {
    guest.json(&["start", "owner/lab", environment, "--yes", "--wait", "--json"])
}

/// What a page at a port of the guest's loopback interface says.
fn page(guest: &Node, port: &Value, page: &str) -> Output {
    let mut curl = within(30, "nsenter");
    curl.arg(format!("--net=/run/netns/{}", guest.namespace()));
    curl.args(["--", "curl", "-s"]).arg(format!("http://{}:{port}/{page}", Ipv4Addr::LOCALHOST));
    curl.output().unwrap()
}

/// The processes with this in their command line.
fn processes(with: &str) -> Vec<i32> {
    let found = Command::new("pgrep").args(["-f", "--", with]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect()
}

fn logs(guest: &Node, environment: &str) -> String {
    guest.ask(&["logs", "owner/lab", environment])
}

/// What every runtime must do.
fn conformance(bed: &Bed, folder: &Path, flavour: &Flavour<'_>) {
    write_workspace(folder, flavour);
    let seen = bed.share(folder);
    let guest = bed.guest();

    // Start, readiness, ports, logs.
    let started = start(guest, "suite");
    assert_eq!(started["state"]["phase"], "running", "{started}");
    for service in ["web", "late"] {
        assert_eq!(started["state"]["services"][service]["ready"], true, "{started}");
    }
    let port = started["state"]["ports"][0]["here"].clone();
    assert_eq!(page(guest, &port, "page").stdout, b"a page\n", "{started}");
    let said = wait_for("the main program's line", Duration::from_secs(5), || {
        Some(logs(guest, "suite")).filter(|said| said.contains("main in"))
    });
    let place = folder.to_str().unwrap();
    assert!(said.contains(&format!("main | main in {place}, at {place}")), "{said}");
    assert!(said.contains("late | served") && said.contains("hook | ready"), "{said}");

    // Running something in it: its output, its exit code, what it's given, what it writes.
    let exec = |script: &str| guest.cli(&["exec", "owner/lab", "-e", "suite", "--", "sh", "-c", script]);
    let entered = exec("pwd; cat made web/page; echo problem >&2; exit 5");
    assert_eq!(String::from_utf8_lossy(&entered.stdout), format!("{place}\nonce\na page\n"));
    assert_eq!((entered.stderr.as_slice(), entered.status.code()), (&b"problem\n"[..], Some(5)));
    let missing = guest.cli(&["exec", "owner/lab", "--", "no-such-program"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no-such-program"), "{missing:?}");
    assert_eq!(fs::read_to_string(seen.join("made")).unwrap(), "once\n", "in the guest's layer");
    assert!(!folder.join("made").exists(), "and not at the owner's");

    // Stopping: gently, with all that it started, and at once.
    exec("setsid sh -c 'sleep 54321 & sleep 54321 & wait' > /dev/null 2>&1 &");
    wait_for("what was started runs", Duration::from_secs(5), || {
        (processes("sleep 54321").len() >= 2).then_some(())
    });
    guest.ask(&["stop", "owner/lab", "suite"]);
    let stopped = launch(guest, "suite");
    assert_eq!(
        (&stopped["state"]["phase"], &stopped["state"]["code"]),
        (&"ended".into(), &3.into()),
        "{stopped}"
    );
    assert!(logs(guest, "suite").contains("main | asked to end"));
    assert!(logs(guest, "suite").contains("hook | all over"));
    assert!(processes("sleep 54321").is_empty(), "nothing is left of it");
    assert_eq!(page(guest, &port, "page").status.code(), Some(7), "and its port is free");

    // Again, without the set-up; and ended at once.
    let started = start(guest, "suite");
    assert_eq!(started["state"]["phase"], "running", "{started}");
    assert_eq!(fs::read_to_string(seen.join("made")).unwrap(), "once\n");
    guest.ask(&["stop", "owner/lab", "suite", "--force"]);
    assert_eq!(launch(guest, "suite")["state"]["code"], 137);

    // Exit codes.
    assert_eq!(guest.cli(&["run", "owner/lab", "-e", "seven", "--yes"]).status.code(), Some(7));
    assert_eq!(guest.cli(&["run", "owner/lab", "-e", "shot", "--yes"]).status.code(), Some(137));
    assert_eq!(guest.cli(&["wait", "owner/lab", "seven"]).status.code(), Some(7));

    // A service that fails is tried again.
    let failing = guest.cli(&["start", "owner/lab", "again", "--yes"]);
    assert!(failing.status.success(), "{failing:?}");
    wait_for("it was tried again", Duration::from_secs(20), || {
        fs::read_to_string(seen.join("tries")).ok().filter(|tries| tries.lines().count() >= 2)
    });
    guest.ask(&["stop", "owner/lab", "again"]);

    // The daemon is killed: the next one finds what runs, and ends it.
    let before = start(guest, "suite");
    guest.kill();
    assert!(kill_process(supervisor(&before), Signal::CONT).is_ok(), "what supervises it lives on");
    guest.up(&[]);
    let after = launch(guest, "suite");
    assert!(!flavour.lives_on || after["state"]["phase"] == "running", "{after}");
    assert_eq!(after["state"]["supervisor"], before["state"]["supervisor"]);
    guest.ask(&["stop", "owner/lab", "suite", "--force"]);
    let ended = launch(guest, "suite")["state"]["phase"].clone();
    assert!(ended == "ended" || (!flavour.lives_on && ended == "failed"), "{ended}");
}

fn supervisor(launch: &Value) -> rustix::process::Pid {
    let number = launch["state"]["supervisor"].as_i64().unwrap();
    rustix::process::Pid::from_raw(number as i32).unwrap()
}

#[test]
fn processes_conform() {
    let Some(bed) = Bed::new() else { return };
    conformance(&bed, &bed.workspace("lab"), &PROCESS);
}

/// The example; or the one that TWINSHARE_TEST_PLUGIN names, for those who write one.
#[test]
fn plugins_conform() {
    let Some(bed) = Bed::new() else { return };
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/plugins/twinshare-runtime-example");
    let plugin = env::var("TWINSHARE_TEST_PLUGIN").unwrap_or_else(|_| example.to_owned());
    let plugin = Path::new(&plugin);
    let name = plugin.file_name().unwrap().to_str().unwrap().strip_prefix("twinshare-runtime-").unwrap();
    let path = format!("{}:{}", plugin.parent().unwrap().display(), env::var("PATH").unwrap());
    bed.guest().set_path(&path);
    conformance(&bed, &bed.workspace("lab"), &Flavour { runtime: name, ..PROCESS });
    assert!(processes(&format!("{} ", plugin.display())).is_empty(), "no plugin is left");
}

#[test]
fn containers_conform() {
    let Some(bed) = Bed::new() else { return };
    let Some(podman) = Podman::new(&bed) else { return };
    let folder = bed.workspace("lab");
    busybox(&folder.join("root"));
    conformance(&bed, &folder, &CONTAINER);
    assert_eq!(podman.containers(), "", "nothing is left");
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(
        !mounts.lines().any(|line| line.starts_with("twinshare ") && line.contains("/layer/root")),
        "{mounts}"
    );
}

/// Shares a workspace with these environments.
fn share(bed: &Bed, environments: &str) {
    let folder = bed.workspace("lab");
    fs::write(folder.join("workspace.yaml"), format!("environments:\n{environments}")).unwrap();
    bed.share(&folder);
}

#[test]
fn case_50_nothing_of_anothers_runs_before_it_was_shown_and_agreed_to() {
    let Some(bed) = Bed::new() else { return };
    share(&bed, "- {name: a, command: touch ran; sleep 1000, setup: [echo sneaky]}\n");
    let guest = bed.guest();
    let asked = guest.cli(&["start", "owner/lab"]);
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(!asked.status.success(), "{asked:?}");
    assert!(said.contains("echo sneaky") && said.contains("touch ran; sleep 1000"), "{said}");
    assert!(guest.json(&["ps", "--all", "--json"]).as_array().unwrap().is_empty());
    assert!(!guest.mount().join("owner/lab/ran").exists());
    guest.ask(&["start", "owner/lab", "--yes", "--wait"]);
    guest.ask(&["stop", "owner/lab"]);
    // Once is enough, until it's something else.
    guest.ask(&["start", "owner/lab", "--wait"]);
    guest.ask(&["stop", "owner/lab"]);
    bed.edit(|| {
        let text = "environments:\n- {name: a, command: cat /etc/passwd}\n";
        fs::write(bed.owner().files().join("lab/workspace.yaml"), text).unwrap();
    });
    let asked = guest.cli(&["start", "owner/lab"]);
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(!asked.status.success() && said.contains("has changed since you agreed to it"), "{asked:?}");
    assert!(said.contains("cat /etc/passwd"), "{said}");
    // What would reach out of the sandbox is refused, agreed to or not.
    for wrong in [
        "mounts: [{source: /var/run, target: /run}]",
        "mounts: [{source: ../x, target: /x}]",
        "privileged: true",
    ] {
        bed.edit(|| {
            let text = format!("environments:\n- {{name: a, command: id, {wrong}}}\n");
            fs::write(bed.owner().files().join("lab/workspace.yaml"), text).unwrap();
        });
        let refused = guest.cli(&["start", "owner/lab", "--yes"]);
        assert!(!refused.status.success(), "{wrong}: {refused:?}");
    }
}

#[test]
fn what_supervises_an_environment_takes_it_along() {
    let Some(bed) = Bed::new() else { return };
    share(&bed, "- {name: a, command: setsid sleep 65432 & sleep 65432}\n");
    let guest = bed.guest();
    let started = start(guest, "a");
    wait_for("it runs", Duration::from_secs(5), || (processes("sleep 65432").len() >= 2).then_some(()));
    kill_process(supervisor(&started), Signal::KILL).unwrap();
    wait_for("nothing of it runs", Duration::from_secs(5), || {
        processes("sleep 65432").is_empty().then_some(())
    });
    let failed = wait_for("it's known to have failed", Duration::from_secs(5), || {
        Some(launch(guest, "a")).filter(|launch| launch["state"]["phase"] == "failed")
    });
    assert!(failed["state"]["reason"].as_str().unwrap().contains("supervised"), "{failed}");
    // And it starts again.
    assert_eq!(start(guest, "a")["state"]["phase"], "running");
    // The node takes all along when it ends.
    guest.down();
    assert!(processes("sleep 65432").is_empty());
}

#[test]
fn a_taken_port_is_another_one_here() {
    let Some(bed) = Bed::new() else { return };
    let serve = |name: &str| {
        format!(
            "- {{name: {name}, services: [{{name: s, command: exec python3 -m http.server 8124, ready: {{tcp: 8124}}, \
             ports: [{{port: 8124, name: web}}]}}]}}\n"
        )
    };
    share(&bed, &format!("{}{}", serve("one"), serve("two")));
    let guest = bed.guest();
    let (one, two) = (start(guest, "one"), start(guest, "two"));
    let here = |launch: &Value| launch["state"]["ports"][0]["here"].clone();
    assert_eq!(here(&one), 8124);
    assert_ne!(here(&two), 8124);
    for launch in [&one, &two] {
        assert!(page(guest, &here(launch), "").stdout.starts_with(b"<!DOCTYPE"), "{launch}");
    }
    let shown = guest.ask(&["ports", "owner/lab", "two"]);
    assert!(shown.contains("web") && shown.contains(&format!("127.0.0.1:{}", here(&two))), "{shown}");
}

#[test]
fn an_environment_is_held_to_what_it_was_given() {
    let Some(bed) = Bed::new() else { return };
    share(
        &bed,
        "- {name: small, resources: {memory: 512MiB, cpu: 1}, env: {N: '${CPUS} ${MEMORY_MIB}'}}\n\
         - {name: large, resources: {memory: 900TiB}, command: sleep 1000}\n",
    );
    let guest = bed.guest();
    let started = start(guest, "small");
    let exec = |script: &str| guest.cli(&["exec", "owner/lab", "-e", "small", "--", "sh", "-c", script]);
    assert!(!started["limits"].as_str().unwrap().is_empty(), "it says by which means: {started}");
    let hungry = exec("python3 -c 'a = bytearray(700 << 20)'");
    assert!(!hungry.status.success(), "{hungry:?}");
    let modest = exec("python3 -c 'a = bytearray(100 << 20)'; nproc");
    assert_eq!(String::from_utf8_lossy(&modest.stdout).trim(), "1", "{modest:?}");
    let refused = guest.cli(&["start", "owner/lab", "large", "--yes"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("900 TiB of memory"), "{said}");
}

#[test]
fn secrets_are_those_of_whoever_starts_it() {
    let Some(bed) = Bed::new() else { return };
    share(&bed, "- {name: a, secrets: [TOKEN], command: 'echo got $TOKEN'}\n");
    let guest = bed.guest();
    let refused = guest.cli(&["start", "owner/lab", "--yes"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("twinshare secret set TOKEN"), "{said}");
    let mut set = guest.command(&["secret", "set", "TOKEN"]);
    let mut child = set.stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"of the guest\n").unwrap();
    assert!(child.wait().unwrap().success());
    let run = guest.cli(&["run", "owner/lab", "-e", "a", "--yes"]);
    assert_eq!(String::from_utf8_lossy(&run.stdout), "got of the guest\n", "{run:?}");
    assert_eq!(guest.ask(&["secret"]), "TOKEN\n");
    guest.ask(&["secret", "forget", "TOKEN"]);
    assert!(!guest.cli(&["run", "owner/lab", "-e", "a", "--yes"]).status.success());
}

#[test]
fn what_is_to_start_with_the_node_does() {
    let Some(bed) = Bed::new() else { return };
    share(
        &bed,
        "- {name: a, autostart: true, command: sleep 1000}\n- {name: b, autostart: true, command: sleep 1000}\n\
         - {name: c, command: sleep 1000}\n",
    );
    let guest = bed.guest();
    for environment in ["a", "b", "c"] {
        start(guest, environment);
    }
    guest.ask(&["stop", "owner/lab", "b"]);
    guest.down();
    guest.up(&[]);
    wait_for("it was started with the node", Duration::from_secs(30), || {
        (launch(guest, "a")["state"]["phase"] == "running").then_some(())
    });
    for other in ["b", "c"] {
        assert_eq!(launch(guest, other)["state"]["phase"], "ended", "{other}");
    }
}

#[test]
fn checks_say_whether_an_environment_is_as_it_should_be() {
    let Some(bed) = Bed::new() else { return };
    share(
        &bed,
        "- name: a\n  command: touch started\n  services: [{name: s, command: echo up > there; sleep 1000, ready: {command: test -e there}}]\n  \
           checks:\n  - {name: serves, command: cat there}\n  - {name: 'is <right>', command: [sh, -c, 'echo \"1 < 2\"; exit 4']}\n\
         - {name: b, checks: [{name: fine, command: 'true'}]}\n- {name: c}\n",
    );
    let guest = bed.guest();
    let results = bed.folder().join("results.xml");
    let ran = guest.cli(&["ci", "owner/lab", "a", "--yes", "--junit", results.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    assert!(said.contains("pass  serves") && said.contains("FAIL with code 4  is <right>"), "{said}");
    assert!(said.contains("  1 < 2") && said.contains("1 of 2 failed"), "{said}");
    assert!(!guest.mount().join("owner/lab/started").exists(), "its command isn't run");
    assert_eq!(launch(guest, "a")["state"]["phase"], "ended");
    // As another program reads it.
    let look = "import sys, xml.etree.ElementTree as e\n\
                for c in e.parse(sys.argv[1]).iter('testcase'): print(c.get('name'), [f.get('message') for f in c.iter('failure')], c.findtext('system-out').strip())";
    let read = Command::new("python3").args(["-c", look]).arg(&results).output().unwrap();
    let read = String::from_utf8_lossy(&read.stdout).into_owned();
    assert_eq!(read, "serves [] up\nis <right> ['it ended with code 4'] 1 < 2\n");
    assert_eq!(guest.cli(&["ci", "owner/lab", "b", "--yes"]).status.code(), Some(0));
    let none = guest.cli(&["ci", "owner/lab", "c", "--yes"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("'c' has no checks"), "{none:?}");
}
