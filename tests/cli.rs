//! The command line as a process, against a node that is a few canned answers.
#![expect(clippy::unwrap_used, reason = "it's all tests here")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use twinshare::api::{Claim, Token};

const TWINSHARE: &str = env!("CARGO_BIN_EXE_twinshare");

/// A node's folder.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program.as_ref());
        command.args(arguments).env("TWINSHARE_HOME", self.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(TWINSHARE, arguments).output().unwrap()
    }

    /// Runs a verb that must succeed, and gives what it printed.
    fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a verb that must fail with 1, and gives what it said.
    fn complaint(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
        stderr(&output)
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

type Answers = dyn FnMut(&str, Value) -> (u16, Value) + Send;

/// A control API that answers from a function of "METHOD /path" and the body, published in a home.
struct FakeNode {
    claim: Option<Claim>,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl FakeNode {
    fn publish(home: &Home, answers: Box<Answers>) -> Self {
        Self::publish_in(Claim::take(&home.path().join("runtime")).unwrap(), answers)
    }

    fn publish_in(claim: Claim, mut answers: Box<Answers>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        claim.publish(port, &Token::random()).unwrap();
        let log = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let (mut first, mut length) = (String::new(), 0);
                stream.read_line(&mut first).unwrap();
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).unwrap();
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).unwrap();
                let endpoint = first.replace("/api/v1", "").trim_end_matches(" HTTP/1.1\r\n").to_owned();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                log.lock().unwrap().push((endpoint.clone(), Value::clone(&body)));
                let (status, answer) = answers(&endpoint, body);
                let answer = answer.to_string();
                let head = format!(
                    "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                    answer.len()
                );
                let _ = stream.get_mut().write_all((head + &answer).as_bytes());
            }
        });
        Self { claim: Some(claim), asked }
    }

    /// A node that knows one of everything.
    fn usual(home: &Home) -> Self {
        Self::publish(home, Box::new(|endpoint, _| usual(endpoint)))
    }

    /// What it was asked for under this endpoint last.
    fn asked(&self, endpoint: &str) -> Value {
        let asked = self.asked.lock().unwrap();
        asked
            .iter()
            .rev()
            .find(|(asked, _)| asked == endpoint)
            .unwrap_or_else(|| panic!("{asked:?}"))
            .1
            .clone()
    }
}

fn status() -> Value {
    json!({
        "node": "01".repeat(32), "hostname": "guest", "version": "0.1.0", "mount": "/nowhere", "mounted": true,
        "share_port": 37778, "control_port": 37779, "workspaces_shared": 1, "peers_online": 1,
        "cache": {"used": 1024, "limit": 4096}, "uptime_s": 61,
    })
}

fn share(provisional: bool) -> Value {
    json!({
        "id": "02".repeat(16), "name": "tools", "path": "/w/tools", "access": "ask", "keep": true, "snapshots": 9,
        "snapshot": if provisional { Value::Null } else { "ab".repeat(32).into() }, "provisional": provisional,
        "sequence": 3, "files": 12345, "bytes": 1_288_490_189_u64,
        "left_out": {"count": 7, "secrets": 2, "examples": [".env", "id_rsa"]},
        "progress": {"files": 12345, "bytes": 1_288_490_189_u64, "hashed_files": 0, "hashed_bytes": 0},
    })
}

fn host() -> Value {
    json!({
        "name": "owner", "id": "03".repeat(32), "local": false, "state": "online", "address": "10.0.0.1:37778",
        "version": "0.1.0", "last_seen": "2026-01-02T03:04:05Z",
        "workspaces": [{
            "id": "04".repeat(16), "name": "lab", "description": "a \u{1b}[2J lab", "tags": [], "snapshot": "cd".repeat(32),
            "provisional": false, "sequence": 1, "files": 2, "bytes": 3, "access": "public", "rights": ["browse", "read", "clone", "run"],
            "path": "/home/o/lab", "environments": [],
        }],
    })
}

fn report() -> Value {
    json!({
        "used": 512, "limit": 4096, "pinned": 100, "reads_held": 1990, "reads_fetched": 10, "fetched": 2048,
        "workspaces": [
            {"id": "04".repeat(16), "place": "owner/lab", "bytes": 1000},
            {"id": "05".repeat(16), "place": null, "bytes": 10},
        ],
        "pins": [{
            "path": "owner/lab/data", "state": "waiting", "trouble": "\u{1b} is away",
            "progress": {"files": 12345, "bytes": 9000, "here_files": 7, "here_bytes": 100, "failed": 0, "pending": 0},
        }],
    })
}

fn step(ended: bool) -> Value {
    let progress =
        json!({"files": 12, "bytes": 9000, "here_files": 12, "here_bytes": 9000, "failed": 0, "pending": 3});
    json!({"progress": progress, "ended": ended})
}

fn usual(endpoint: &str) -> (u16, Value) {
    let answer = match endpoint {
        "GET /status" => status(),
        "GET /shares" => json!([share(false)]),
        "POST /shares" => share(false),
        "GET /hosts" => json!([host()]),
        "GET /files?path=owner/lab/src" => json!([
            {"name": "a\u{1b}", "kind": "file", "size": 4096, "mode": 0o644, "modified": "2026-01-02T03:04:05Z"},
            {"name": "sub", "kind": "folder", "size": 0, "mode": 0o755, "modified": "2026-01-02T03:04:05Z"},
        ]),
        "GET /peers" => json!([{
            "id": "03".repeat(32), "host": "owner", "address": "10.0.0.1:37778", "state": "away", "source": "multicast",
            "version": "0.1.0", "last_seen": null, "alerts": ["its clock is wrong"],
        }]),
        "POST /peers" => json!({
            "id": null, "host": null, "address": "10.9.9.9:37778", "state": "offline", "source": "address", "version": "",
            "last_seen": null, "alerts": [],
        }),
        "GET /requests" => json!([{
            "workspace": "tools", "peer": "03".repeat(32), "host": "owner", "address": null, "fingerprint": "0303 0303",
            "asked": "2026-01-02T03:04:05Z",
        }]),
        "GET /cache" | "DELETE /cache?path=owner/lab" => report(),
        "POST /prefetches?path=owner/lab" => step(true),
        "POST /pins?path=owner/lab/data" => report()["pins"][0].clone(),
        "DELETE /pins?path=owner/lab/data" => json!({}),
        "GET /doctor" => json!([]),
        _ if endpoint.starts_with("DELETE /shares/") || endpoint.starts_with("POST /requests/") => json!({}),
        _ => {
            let problem = json!({
                "type": "about:blank", "title": "Not Found", "status": 404, "detail": "there's no such thing",
                "error": "there's no such thing", "remedy": "ask for another",
            });
            return (404, problem);
        }
    };
    (200, answer)
}

#[test]
fn every_help_shows_an_example() {
    let home = Home::new();
    for verb in [
        "",
        "up",
        "down",
        "status",
        "share",
        "unshare",
        "ls",
        "run",
        "peer",
        "peer list",
        "peer add",
        "requests",
        "requests allow",
        "requests deny",
        "cache",
        "cache clear",
        "prefetch",
        "pin",
        "unpin",
        "doctor",
    ] {
        let mut arguments: Vec<&str> = verb.split_whitespace().collect();
        arguments.push("--help");
        let help = home.text(&arguments);
        assert!(help.contains(&format!("Example:\n  twinshare {verb}")), "{help}");
    }
}

#[test]
fn wrong_usage_is_2() {
    let home = Home::new();
    for arguments in [
        &[][..],
        &["nothing"],
        &["share"],
        &["share", ".", "--access", "everybody"],
        &["share", ".", "--name", "a/b"],
        &["share", ".", "--snapshots", "0"],
        &["state", "owner"],
        &["events", "--after", "x"],
        &["run", "owner"],
        &["run", "owner/lab", "python"],
        &["ls", "../up"],
        &["peer"],
        &["peer", "add", "a b"],
        &["up", "--port", "0"],
        &["requests", "--json", "allow", "lab", "owner"],
    ] {
        assert_eq!(home.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn without_a_node_the_way_to_start_one_is_said() {
    let home = Home::new();
    for arguments in [
        &["status"][..],
        &["share", "."],
        &["unshare", "lab"],
        &["ls", "--json"],
        &["run", "owner/lab", "--", "true"],
        &["peer", "list"],
        &["peer", "add", "10.0.0.1"],
        &["requests"],
        &["requests", "allow", "lab", "owner"],
    ] {
        let complaint = home.complaint(arguments);
        assert!(
            complaint.contains("no node is running") && complaint.contains("twinshare up"),
            "{complaint}"
        );
    }
    assert_eq!(home.text(&["down"]), "no node is running\n");
}

#[test]
fn doctor_works_without_a_node() {
    let home = Home::new();
    let output = home.run(&["doctor", "--json"]);
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    for check in ["FUSE", "bubblewrap", "network", "node", "share port"] {
        let finding = findings.iter().find(|finding| finding["check"] == check).unwrap();
        assert!(finding["ok"] == true || finding["remedy"].is_string(), "{finding}");
    }
    let sick = findings.iter().any(|finding| finding["ok"] == false && finding["needed"] == true);
    assert_eq!(output.status.code(), Some(i32::from(sick)));
}

#[test]
fn lists_are_for_people_and_as_json_for_programs() {
    let home = Home::new();
    let _node = FakeNode::usual(&home);
    assert!(home.text(&["status"]).contains("peers online   1\n"));
    let status: Value = serde_json::from_str(&home.text(&["status", "--json"])).unwrap();
    assert_eq!(status["control_port"], 37779);

    let table = home.text(&["ls"]);
    assert_eq!(table.lines().next().unwrap(), "HOST   STATE   WORKSPACE  FILES  SIZE  READABLE  DESCRIPTION");
    assert_eq!(
        table.lines().nth(1).unwrap(),
        "owner  online  lab            2   3 B  yes       a \\u{1b}[2J lab"
    );
    assert_eq!(serde_json::from_str::<Value>(&home.text(&["ls", "--json"])).unwrap(), json!([host()]));
    assert_eq!(home.text(&["ls", "owner"]), table);

    assert_eq!(home.text(&["ls", "owner/lab/src/"]), "a\\u{1b}\nsub/\n");
    assert!(home.text(&["ls", "-l", "owner/lab/src"]).starts_with("-rw-r--r--  4.0 KiB  2026-01-0"));
    let files: Value = serde_json::from_str(&home.text(&["ls", "--json", "owner/lab/src"])).unwrap();
    assert_eq!(files[1]["kind"], "folder");

    assert!(home.text(&["peer", "list"]).contains("its clock is wrong"));
    assert_eq!(
        serde_json::from_str::<Value>(&home.text(&["peer", "list", "--json"])).unwrap()[0]["host"],
        "owner"
    );
    assert!(home.text(&["requests"]).contains("0303 0303"));
    assert_eq!(
        serde_json::from_str::<Value>(&home.text(&["requests", "--json"])).unwrap()[0]["host"],
        "owner"
    );
}

#[test]
fn share_says_what_is_shared_and_what_is_not() {
    let home = Home::new();
    let node = FakeNode::usual(&home);
    let folder = tempfile::tempdir().unwrap();
    let path = fs::canonicalize(folder.path()).unwrap();
    let text =
        home.text(&["share", path.to_str().unwrap(), "--name", "tools", "--access", "public", "--wait"]);
    for part in [
        &"ab".repeat(32),
        "tools",
        "12,345 (1.2 GiB)",
        "7: .env, id_rsa, …",
        "the last 9 snapshots, with",
        "2 of these look like secrets",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(
        node.asked("POST /shares"),
        json!({"path": path, "name": "tools", "access": "public", "wait": true})
    );
    let answer: Value =
        serde_json::from_str(&home.text(&["share", path.to_str().unwrap(), "--json"])).unwrap();
    assert_eq!(answer, share(false));
    assert_eq!(node.asked("POST /shares"), json!({"path": path, "wait": false}));
    for (keep, kept) in [("--keep", true), ("--keep=false", false)] {
        home.text(&["share", keep, "--snapshots", "9", path.to_str().unwrap()]);
        assert_eq!(
            node.asked("POST /shares"),
            json!({"path": path, "keep": kept, "snapshots": 9, "wait": false})
        );
    }

    let missing = home.complaint(&["share", "/nothing/here"]);
    assert!(missing.contains("can't share '/nothing/here': No such file"), "{missing}");
    assert!(home.complaint(&["share", TWINSHARE]).contains("it isn't a folder"));

    assert!(home.text(&["unshare", "tools"]).contains("no longer shared"));
    node.asked("DELETE /shares/tools");
    assert!(home.complaint(&["unshare", "tolls"]).contains("did you mean 'tools'?"));
}

#[test]
fn a_provisional_share_has_no_snapshot_yet() {
    let home = Home::new();
    let _node = FakeNode::publish(&home, Box::new(|_, _| (201, share(true))));
    let text = home.text(&["share", "."]);
    assert!(text.contains("not yet: 0 B of 1.2 GiB hashed"), "{text}");
}

#[test]
fn misspelt_names_get_suggestions() {
    let home = Home::new();
    let _node = FakeNode::usual(&home);
    for (arguments, hint) in [
        (&["ls", "onwer"][..], "did you mean 'owner'?"),
        (&["ls", "owner/lba"], "did you mean 'lab'?"),
        (&["run", "ownr/lab", "--", "true"], "did you mean 'owner'?"),
        (&["requests", "allow", "tool", "owner"], "did you mean 'tools'?"),
        (&["requests", "deny", "tools", "owmer"], "did you mean 'owner'?"),
        (&["ls", "printer"], "'twinshare ls' lists the hosts"),
    ] {
        let complaint = home.complaint(arguments);
        assert!(complaint.contains(hint), "{complaint}");
    }
}

#[test]
fn a_problem_of_the_node_is_told_with_its_remedy() {
    let home = Home::new();
    let _node = FakeNode::usual(&home);
    let complaint = home.complaint(&["ls", "owner/lab/nothing"]);
    assert_eq!(
        complaint,
        "twinshare: can't list 'owner/lab/nothing': there's no such thing\n  ask for another\n"
    );
}

#[test]
fn peers_are_added_and_requests_answered() {
    let home = Home::new();
    let node = FakeNode::usual(&home);
    assert!(home.text(&["peer", "add", "10.9.9.9"]).contains("hasn't answered yet"));
    assert_eq!(node.asked("POST /peers"), json!({"address": "10.9.9.9"}));
    let endpoint = format!("POST /requests/tools/{}", "03".repeat(32));
    assert_eq!(home.text(&["requests", "allow", "tools", "owner"]), "owner may read tools\n");
    assert_eq!(node.asked(&endpoint), json!({"decision": "allow"}));
    home.text(&["requests", "deny", "tools", "0303"]);
    assert_eq!(node.asked(&endpoint), json!({"decision": "deny"}));
}

/// A node whose sandbox is a shell that ends by what ends bubblewrap.
fn launching_node(home: &Home) -> FakeNode {
    let answers = |endpoint: &str, _: Value| match endpoint {
        "POST /launches" => {
            // As bubblewrap does, it closes the filter when it has read it.
            let script = "eval \"exec $1<&-\"; shift
                          echo \"$GREETING\"; test -z \"$TWINSHARE_HOME\" || exit 9; \"$@\"; exit $?";
            let arguments = ["-c", script, "sandbox", "@FILTER@"];
            let plan =
                json!({"program": "/bin/sh", "arguments": arguments, "environment": {"GREETING": "hello"}});
            (200, plan)
        }
        _ => usual(endpoint),
    };
    FakeNode::publish(home, Box::new(answers))
}

#[test]
fn run_ends_as_its_command_does() {
    let home = Home::new();
    let node = launching_node(&home);
    let run = |command: &[&str]| {
        home.command(TWINSHARE, &[&["run", "owner/lab", "--net", "--"], command].concat())
            .env("LC_ALL", "C")
            .env("SECRET", "s")
            .output()
            .unwrap()
    };
    let output = run(&["/bin/sh", "-c", "exit 42"]);
    assert_eq!(output.status.code(), Some(42), "{}", stderr(&output));
    assert_eq!(output.stdout, b"hello\n");
    let asked = node.asked("POST /launches");
    assert_eq!(asked["command"], json!(["/bin/sh", "-c", "exit 42"]));
    assert_eq!((&asked["network"], &asked["terminal"]), (&json!(true), &json!(false)));
    assert_eq!(asked["environment"]["LC_ALL"], "C");
    assert!(asked["environment"].get("SECRET").is_none());

    assert_eq!(run(&["/bin/sh", "-c", "kill -9 $$"]).status.code(), Some(128 + 9));
    let output = run(&["/nowhere/python"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("can't run /nowhere/python: No such file"), "{}", stderr(&output));
    // What the launch is made of doesn't reach the command: it finds what it would without.
    let look =
        ["/bin/sh", "-c", "for fd in /proc/$$/fd/*; do echo ${fd##*/}; done; grep SigIgn /proc/$$/status"];
    let direct = Command::new(look[0]).args(&look[1..]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&run(&look).stdout).strip_prefix("hello\n"),
        Some(&*String::from_utf8_lossy(&direct.stdout))
    );
}

#[test]
fn signals_reach_the_command_of_a_run() {
    let home = Home::new();
    let _node = launching_node(&home);
    let script = "trap 'exit 21' TERM; trap 'exit 22' INT; trap 'exit 23' HUP; trap 'exit 24' USR1; echo ready; \
                  while :; do read line; done";
    for (signal, code) in [(Signal::TERM, 21), (Signal::INT, 22), (Signal::HUP, 23), (Signal::USR1, 24)] {
        let mut child = home
            .command(TWINSHARE, &["run", "owner/lab", "--", "/bin/sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "ready"));
        kill_process(Pid::from_child(&child), signal).unwrap();
        // Held until here, so that the command doesn't end by itself.
        let input = child.stdin.take();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal:?}");
        drop(input);
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let home = Home::new();
    // More than a pipe holds.
    let _node = FakeNode::publish(&home, Box::new(|_, _| (200, json!(vec![host(); 2000]))));
    let mut child =
        home.command(TWINSHARE, &["ls"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

/// Waits for a condition; the time is only there to end a test that has failed.
fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::yield_now();
    }
}

/// The program in a folder of its own, beside a daemon that is a script.
fn beside_a_daemon(home: &Home, script: &str) -> PathBuf {
    let folder = home.path().join("bin");
    fs::create_dir(&folder).unwrap();
    let daemon = folder.join("twinshare-mountd");
    fs::write(&daemon, format!("#!/bin/sh\n{script}")).unwrap();
    fs::set_permissions(&daemon, fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.join("twinshare");
    fs::hard_link(TWINSHARE, &program).or_else(|_| fs::copy(TWINSHARE, &program).map(drop)).unwrap();
    program
}

#[test]
fn up_tells_why_the_node_did_not_start() {
    let home = Home::new();
    let program = beside_a_daemon(&home, "echo 'there is no /dev/fuse'; exit 3");
    let output = home.command(&program, &["up"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let complaint = stderr(&output);
    for part in ["exit status: 3", "\n    there is no /dev/fuse\n", "mountd.log", "twinshare doctor"] {
        assert!(complaint.contains(part), "{part}: {complaint}");
    }
    let mode = fs::metadata(home.path().join("state/mountd.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn up_returns_when_the_mount_answers_and_leaves_the_node_running() {
    let home = Home::new();
    // What a killed daemon left must not be taken for a running one.
    fs::create_dir(home.path().join("runtime")).unwrap();
    fs::write(home.path().join("runtime/control.json"), r#"{"port": 1, "token": "x", "pid": 1}"#).unwrap();
    let here = home.path().display();
    // Its session is its own when it leads it: the 6th field of stat is the session.
    let script = format!(
        "cut -d' ' -f6 /proc/$$/stat > {here}/session; echo $$ > {here}/pid; printf '%s\\n' \"$@\" > {here}/new
         mv {here}/new {here}/started; exec sleep 60"
    );
    let program = beside_a_daemon(&home, &script);
    let arguments = ["up", "--name", "lab-3", "--peer", "10.0.0.9", "--mount", "relative"];
    let mut up = home.command(&program, &arguments);
    let up = up.current_dir(home.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the daemon's start", || home.path().join("started").exists());
    let mut asked = 0;
    let _node = FakeNode::publish(
        &home,
        Box::new(move |_, _| {
            asked += 1;
            let mut status = status();
            status["mounted"] = (asked > 3).into();
            (200, status)
        }),
    );
    let output = up.wait_with_output().unwrap();
    let read = |name: &str| fs::read_to_string(home.path().join(name)).unwrap();
    let pid = read("pid").trim().to_owned();
    let alive = Path::new("/proc").join(&pid).exists();
    Command::new("kill").arg(&pid).status().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "up: guest is mounted at /nowhere, share service on port 37778\n"
    );
    assert!(alive);
    assert_eq!(read("session").trim(), pid);
    let started = read("started");
    for argument in [
        "--name=lab-3".to_owned(),
        "--peer=10.0.0.9".to_owned(),
        format!("--mount={here}/relative"),
        format!("--state={here}/state"),
        format!("--runtime={here}/runtime"),
    ] {
        assert!(started.lines().any(|line| line == argument), "{argument}: {started}");
    }
    let again = home.command(&program, &["up"]).output().unwrap();
    assert!(String::from_utf8_lossy(&again.stdout).starts_with("already up: "), "{}", stderr(&again));
}

#[test]
fn up_and_down_wait_for_a_node_that_is_just_starting() {
    let home = Home::new();
    let program = beside_a_daemon(&home, "exit 3");
    let claim = Claim::take(&home.path().join("runtime")).unwrap();
    let up = home.command(&program, &["up"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Whether it looks before or after the endpoint is published, it finds a node.
    let _node = FakeNode::publish_in(claim, Box::new(|endpoint, _| usual(endpoint)));
    let output = up.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("already up: "), "{}", stderr(&output));
    // 'down' asks the node that it found, and here it refuses.
    assert!(home.complaint(&["down"]).contains("there's no such thing"));
}

#[test]
fn up_starts_a_node_when_the_one_that_it_found_ends() {
    let home = Home::new();
    let program = beside_a_daemon(&home, "exit 3");
    let asked = Arc::new(AtomicBool::new(false));
    let seen = asked.clone();
    let ending = FakeNode::publish(
        &home,
        Box::new(move |_, _| {
            seen.store(true, Ordering::SeqCst);
            let mut status = status();
            status["mounted"] = false.into();
            (200, status)
        }),
    );
    let up = home.command(&program, &["up"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("it has found the node", || asked.load(Ordering::SeqCst));
    drop(ending);
    let output = up.wait_with_output().unwrap();
    assert!(stderr(&output).contains("the node ended at once (exit status: 3)"), "{}", stderr(&output));
}

#[test]
#[expect(clippy::zombie_processes, reason = "what stands for the node waits for it")]
fn down_waits_for_the_end_of_the_node() {
    let home = Home::new();
    // It ends by itself, and holds nothing of ours, should this test fail.
    let mut daemon =
        Command::new("sleep").arg("60").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = daemon.id();
    let node = Arc::new(Mutex::new(None::<FakeNode>));
    let held = node.clone();
    let fake = FakeNode::publish(
        &home,
        Box::new(move |endpoint, _| {
            if endpoint == "POST /shutdown" {
                daemon.kill().unwrap();
                daemon.wait().unwrap();
                held.lock().unwrap().as_mut().unwrap().claim.take();
            }
            usual(if endpoint == "POST /shutdown" { "GET /doctor" } else { endpoint })
        }),
    );
    *node.lock().unwrap() = Some(fake);
    // The claim is this process's; what ends is another.
    let file = home.path().join("runtime/control.json");
    let mut endpoint: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    endpoint["pid"] = pid.into();
    fs::write(&file, endpoint.to_string()).unwrap();
    assert_eq!(home.text(&["down"]), "down\n");
    assert!(!Path::new("/proc").join(pid.to_string()).exists());
    assert_eq!(home.text(&["down"]), "no node is running\n");
}

#[test]
fn the_cache_is_shown_and_cleared() {
    let home = Home::new();
    let _node = FakeNode::usual(&home);
    assert_eq!(
        home.text(&["cache"]),
        "\
used     512 B of 4.0 KiB
pinned   100 B
reads    99% of 2,000 were in it
fetched  2.0 KiB since the start

WORKSPACE                      CACHED
owner/lab                      1000 B
05050505 (not shown any more)    10 B

PINNED          STATE
owner/lab/data  7 of 12,345 files, 100 B of 8.8 KiB; \\u{1b} is away
"
    );
    assert_eq!(serde_json::from_str::<Value>(&home.text(&["cache", "--json"])).unwrap(), report());
    let cleared = home.text(&["cache", "clear", "owner/lab/"]);
    assert_eq!(cleared, "512 B freed, 512 B left, of which 100 B are pinned\n");
    let output = home.run(&["cache", "clear", "owner/other"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("can't clear the cache of owner/other: there's no such thing"));
}

#[test]
fn what_is_wanted_later_is_prefetched_and_pinned() {
    let home = Home::new();
    let node = FakeNode::publish(
        &home,
        Box::new(|endpoint, _| match endpoint {
            "POST /prefetches?path=owner/gone" => (200, step(false)),
            endpoint => usual(endpoint),
        }),
    );
    let fetched = home.text(&["prefetch", "owner/lab"]);
    assert_eq!(
        fetched,
        "owner/lab is here: 12 of 12 files, 8.8 KiB of 8.8 KiB in 0 s\n3 aren't hashed by their owner yet\n"
    );
    let output = home.run(&["prefetch", "owner/gone"]);
    assert!(stderr(&output).contains("it stopped in the middle"), "{}", stderr(&output));
    assert!(home.text(&["pin", "owner/lab/data"]).contains("owner/lab/data is being kept complete"));
    assert!(home.text(&["unpin", "owner/lab/data"]).contains("is no longer pinned"));
    node.asked("DELETE /pins?path=owner/lab/data");
    for wrong in
        [&["prefetch", "owner"][..], &["pin"], &["pin", "owner/.."], &["up", "--cache-limit", "1GiBs"]]
    {
        assert_eq!(home.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}
