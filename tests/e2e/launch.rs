//! `twinshare run`: a command in a sandbox where the workspace stands at its original path.

use std::{
    fs::{self, Permissions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::{self, Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    bed::Bed,
    node::{CLI, Node},
    wait::wait_for,
};

#[test]
fn a_launch_stands_at_the_original_path_and_passes_its_exit_through() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::copy("/bin/sh", workspace.join("sh")).unwrap();
    // Works only where the workspace has its original path.
    let script = workspace.join("script");
    fs::write(
        &script,
        format!("#!{}/sh\npwd\nread line && echo \"got $line\"\nexit 7\n", workspace.display()),
    )
    .unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    fs::write(bed.owner().files().join("neighbour"), "not shared").unwrap();
    bed.share(&workspace);
    let guest = bed.guest();

    let input = bed.folder().join("input");
    fs::write(&input, "a line\n").unwrap();
    let mut run = guest.command(&["run", "owner/lab", "--", "./script"]);
    let output = run.stdin(fs::File::open(&input).unwrap()).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed, format!("{}\ngot a line\n", workspace.display()), "{output:?}");
    assert_eq!(output.status.code(), Some(7), "{output:?}");

    // What stands there is the mount, and nothing else of that path's surroundings.
    let mounts = guest.ask(&["run", "owner/lab", "--", "cat", "/proc/self/mounts"]);
    let own = mounts.lines().find(|line| line.split(' ').nth(1) == workspace.to_str());
    assert!(own.is_some_and(|line| line.contains("fuse.twinshare")), "{mounts}");
    let around = guest.ask(&["run", "owner/lab", "--", "ls", workspace.parent().unwrap().to_str().unwrap()]);
    assert_eq!(around, "lab\n");

    // A command that ends by a signal gives what a shell would.
    let output = guest.cli(&["run", "owner/lab", "--", "sh", "-c", "kill -TERM $$"]);
    assert_eq!(output.status.code(), Some(128 + 15), "{output:?}");

    let output = guest.cli(&["run", "owner/nothing", "--", "true"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing"), "{output:?}");
}

#[test]
fn case_52_git_works_in_a_workspace_of_another_user() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    let git = |arguments: &[&str]| {
        let identity =
            ["-c", "user.name=a", "-c", "user.email=a@example.org", "-C", workspace.to_str().unwrap()];
        assert!(Command::new("git").args(identity).args(arguments).status().unwrap().success());
    };
    git(&["init", "--quiet"]);
    fs::write(workspace.join("file"), "content").unwrap();
    git(&["add", "file"]);
    git(&["commit", "--quiet", "--message", "first"]);
    // Neither the sharer's nor root's.
    let chown = Command::new("chown").args(["-R", "12345:12345"]).arg(&workspace).status().unwrap();
    assert!(chown.success());
    let seen = bed.share(&workspace);
    assert_eq!(fs::metadata(seen.join("file")).unwrap().uid(), 65534);
    let path = workspace.to_str().unwrap();
    let run = |command: &[&str]| bed.guest().ask(&[&["run", "owner/lab", "--"], command].concat());
    let status = run(&["git", "-C", path, "status", "--porcelain", "--untracked-files=no"]);
    assert_eq!(status, "");
    assert_eq!(
        run(&["git", "config", "--get-all", "safe.directory"]),
        format!("{path}\n"),
        "for nothing else"
    );
}

/// Says when it's ready, and how it was told to end; ends by itself, so that a failure leaves nothing behind.
const TRAPS: &str = "trap 'echo told 21; exit 21' TERM; trap 'echo typed 22; exit 22' INT; \
                     trap 'echo going on' CONT; echo ready; \
                     for i in $(seq 600); do sleep 0.1; done; exit 99";

/// The program itself and not a guard before it, so that a signal gets to the CLI; it has to end by itself.
fn unguarded(node: &Node, program: &[&str], arguments: &[&str]) -> Child {
    Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", node.namespace()))
        .arg("--")
        .args(program)
        .args(arguments)
        .env("TWINSHARE_HOME", node.home())
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads what it prints until a line has this.
fn read_until(lines: &mut impl Iterator<Item = io::Result<String>>, part: &str) {
    let mut seen = Vec::new();
    for line in lines {
        let line = line.unwrap();
        if line.contains(part) {
            return;
        }
        seen.push(line);
    }
    panic!("no line with {part}, but {seen:?}");
}

/// Waits until no process has this in its command line.
fn wait_until_none_runs(mark: &str) {
    wait_for(&format!("nothing of {mark} runs"), Duration::from_secs(20), || {
        let running = fs::read_dir("/proc").unwrap().flatten().any(|process| {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            line.windows(mark.len()).any(|part| part == mark.as_bytes())
        });
        (!running).then_some(())
    });
}

#[test]
fn signals_reach_the_launched_and_nothing_is_left_of_it() {
    let Some(bed) = Bed::new() else { return };
    bed.share(&bed.workspace("lab"));
    let mark = format!("mark-{}", process::id());
    let run = ["run", "owner/lab", "--", "sh", "-c", TRAPS, &mark];

    for (signal, answer, code) in [(Signal::TERM, "told 21", 21), (Signal::INT, "typed 22", 22)] {
        let mut launch = unguarded(bed.guest(), &[CLI], &run);
        let mut lines = BufReader::new(launch.stdout.take().unwrap()).lines();
        read_until(&mut lines, "ready");
        kill_process(Pid::from_child(&launch), signal).unwrap();
        read_until(&mut lines, answer);
        assert_eq!(launch.wait().unwrap().code(), Some(code), "{signal:?}");
        wait_until_none_runs(&mark);
    }

    let mut launch = unguarded(bed.guest(), &[CLI], &run);
    read_until(&mut BufReader::new(launch.stdout.take().unwrap()).lines(), "ready");
    launch.kill().unwrap();
    launch.wait().unwrap();
    wait_until_none_runs(&mark);
}

#[test]
fn a_terminal_is_the_launcheds_own() {
    let Some(bed) = Bed::new() else { return };
    bed.share(&bed.workspace("lab"));
    let mark = format!("typed-{}", process::id());
    // Types ^C once the command is ready. The shell that set the size would end by it too, so it steps aside.
    let typed = |script: &str, expected: &str| {
        let line = format!("stty rows 31 cols 97; exec {CLI} run owner/lab -- sh -c '{script}' {mark}");
        let mut terminal =
            unguarded(bed.guest(), &["timeout", "60", "script", "-qec", &line, "/dev/null"], &[]);
        let mut lines = BufReader::new(terminal.stdout.take().unwrap()).lines();
        read_until(&mut lines, "ready");
        let mut keys = terminal.stdin.take().unwrap();
        keys.write_all(b"\x03").unwrap();
        read_until(&mut lines, expected);
        let code = terminal.wait().unwrap().code();
        wait_until_none_runs(&mark);
        code
    };
    let sized = "test -t 0 && test \"$(stty size)\" = \"31 97\" && echo ready && exec sleep 100";
    assert_eq!(typed(sized, "^C"), Some(128 + 2));
    assert_eq!(typed(&TRAPS.replace('\'', "\""), "typed 22"), Some(22));

    // A shell with jobs takes the terminal for itself; who comes after it gets it back.
    let line = format!("{CLI} run owner/lab -- bash -ic 'exit 5'; code=$?; stty cols 98 && exit $code");
    let terminal = unguarded(bed.guest(), &["timeout", "60", "script", "-qec", &line, "/dev/null"], &[]);
    let output = terminal.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
}

#[test]
fn a_launch_stops_and_goes_on_as_a_job() {
    let Some(bed) = Bed::new() else { return };
    bed.share(&bed.workspace("lab"));
    // A file, so that what the shell repeats of its job has none of the words that are waited for.
    let job = bed.folder().join("job");
    fs::write(
        &job,
        format!("#!/bin/sh\nexec {CLI} run owner/lab -- sh -c \"{TRAPS}\"\n").replace("$(", "\\$("),
    )
    .unwrap();
    fs::set_permissions(&job, Permissions::from_mode(0o755)).unwrap();
    let mut terminal =
        unguarded(bed.guest(), &["timeout", "60", "script", "-qec", "bash --norc -i", "/dev/null"], &[]);
    let mut lines = BufReader::new(terminal.stdout.take().unwrap()).lines();
    let mut keys = terminal.stdin.take().unwrap();
    let steps = [
        (format!("{}\n", job.display()), "ready"),
        ("\x1a".to_owned(), "Stopped"),
        // The shell gives the terminal away first, and then wakes the job.
        ("fg\n".to_owned(), "going on"),
        ("\x03".to_owned(), "typed 22"),
        ("echo code $?\n".to_owned(), "code 22"),
    ];
    for (typed, expected) in steps {
        keys.write_all(typed.as_bytes()).unwrap();
        read_until(&mut lines, expected);
    }
    keys.write_all(b"exit\n").unwrap();
    // Read to its end: a shell that can't print doesn't end well.
    lines.for_each(drop);
    assert_eq!(terminal.wait().unwrap().code(), Some(0));
}

#[test]
fn a_plan_shows_what_the_owners_workspace_can_run() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::write(workspace.join("requirements.txt"), "numpy\n").unwrap();
    let seen = bed.share(&workspace);
    let plan = |arguments: &[&str]| bed.guest().json(&[&["plan", "--json"], arguments].concat());
    let found = plan(&["owner/lab"]);
    assert_eq!(found["environments"][0]["name"], "python", "{found}");
    // What is free on this machine may be another by then.
    let by_path = plan(&[seen.to_str().unwrap()]);
    assert_eq!(by_path["environments"], found["environments"], "by its path as well");
    let text = bed.guest().ask(&["plan", "owner/lab"]);
    assert!(text.contains("set-up   .venv/bin/pip install -r requirements.txt"), "{text}");
    fs::create_dir(seen.join("environments")).unwrap();
    fs::write(seen.join("environments/mine.yaml"), "comand: x\n").unwrap();
    let refused = bed.guest().cli(&["plan", "owner/lab"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("environments/mine.yaml: unknown field `comand`"),
        "{said}"
    );
}
