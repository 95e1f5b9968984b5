//! Workspaces as archives, and from templates, by the command line; no node is needed for folders of this machine.
#![expect(clippy::unwrap_used, reason = "it's all tests here")]

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const TWINSHARE: &str = env!("CARGO_BIN_EXE_twinshare");

/// A node's home that no node was ever started in, and a folder to work in.
struct Desk {
    home: TempDir,
    folder: TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), folder: tempfile::tempdir().unwrap() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(TWINSHARE);
        command.args(arguments).env("TWINSHARE_HOME", self.home.path()).stdin(Stdio::null());
        command.current_dir(self.folder.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
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

    /// What is in the folder, hidden files as well.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A workspace with what is shared and what isn't.
    fn workspace(&self) {
        fs::create_dir_all(self.at("lab/src")).unwrap();
        fs::create_dir_all(self.at("lab/.ssh")).unwrap();
        for (path, text) in [
            ("workspace.yaml", "name: my lab\nid: '00112233445566778899aabbccddeeff'\nzebra: 1\n"),
            ("src/main.py", "print('hello')\n"),
            (".env", "SECRET=1\n"),
            (".ssh/config", "x"),
            (".twinshareignore", "*.log\n"),
            ("x.log", "noise"),
            ("token.py", &format!("T = 'ghp_{}'\n", "0123456789".repeat(4))),
        ] {
            fs::write(self.at("lab").join(path), text).unwrap();
        }
        symlink("src/main.py", self.at("lab/main")).unwrap();
        fs::set_permissions(self.at("lab/src/main.py"), fs::Permissions::from_mode(0o750)).unwrap();
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn field(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    line[name.len()..].trim().to_owned()
}

fn python(script: &str, arguments: &[&Path]) -> String {
    let output = Command::new("python3").args(["-c", script]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

const NAMES: &str = "import sys, zipfile; print(*sorted(zipfile.ZipFile(sys.argv[1]).namelist()))";

#[test]
fn a_workspace_goes_into_a_file_and_comes_back_as_another() {
    let desk = Desk::new();
    desk.workspace();
    let text = desk.text(&["export", "./lab"]);
    let file = field(&text, "exported");
    let stamp = file.strip_prefix("my lab-").and_then(|rest| rest.strip_suffix(".zip")).unwrap();
    assert!(jiff::civil::DateTime::strptime("%Y%m%d-%H%M%S", stamp).is_ok(), "{stamp}");
    assert_eq!(desk.names(), ["lab", &file], "no part of it stays");
    assert_eq!(field(&text, "left out"), "4: 3 that look like secrets", "{text}");
    assert_eq!(
        python(NAMES, &[&desk.at(&file)]).trim(),
        ".twinshareignore main src/ src/main.py workspace.yaml"
    );

    let text = desk.text(&["import", &file]);
    assert_eq!(field(&text, "imported"), "my lab", "{text}");
    let at = |path: &str| desk.at("my lab").join(path);
    assert_eq!(fs::read_to_string(at("main")).unwrap(), "print('hello')\n");
    assert_eq!(at("src/main.py").metadata().unwrap().permissions().mode() & 0o7777, 0o750);
    let manifest = fs::read_to_string(at("workspace.yaml")).unwrap();
    assert!(manifest.contains("name: my lab\n") && manifest.contains("zebra: 1\n"), "{manifest}");
    assert!(manifest.contains(&format!("imported_from: {file}\n")), "{manifest}");
    assert!(manifest.contains("imported_at: ") && !manifest.contains("00112233"), "{manifest}");
    let said = desk.complaint(&["import", &file]);
    assert!(said.contains("isn't an empty folder") && said.contains("--force"), "{said}");
    fs::write(at("mine"), "mine").unwrap();
    let text = desk.text(&["import", &file, "--force"]);
    let aside = field(&text, "before");
    let aside = aside.strip_prefix("is now ").unwrap();
    assert!(aside.starts_with("my lab.replaced-") && !at("mine").exists(), "{aside}");
    assert_eq!(fs::read_to_string(desk.at(aside).join("mine")).unwrap(), "mine");
}

#[test]
fn an_archive_goes_to_standard_output_alone() {
    let desk = Desk::new();
    desk.workspace();
    let output = desk.run(&["export", "./lab", "-o", "-"]);
    assert!(output.status.success() && stderr(&output).contains("standard output"), "{}", stderr(&output));
    fs::write(desk.at("piped.zip"), output.stdout).unwrap();
    assert!(python(NAMES, &[&desk.at("piped.zip")]).contains("src/main.py"));
    // A full disk is no success.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert!(full.metadata().unwrap().file_type().is_char_device());
    let output = desk.command(&["export", "./lab", "-o", "-"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("can't write the archive: No space left"), "{}", stderr(&output));
}

#[test]
fn what_cannot_be_is_said() {
    let desk = Desk::new();
    desk.workspace();
    fs::write(desk.at("there.zip"), "mine").unwrap();
    let said = desk.complaint(&["export", "./lab", "-o", "there.zip"]);
    assert!(said.contains("there.zip exists") && said.contains("-o"), "{said}");
    assert_eq!(fs::read_to_string(desk.at("there.zip")).unwrap(), "mine");
    assert!(desk.complaint(&["export", "./none"]).contains("is no folder"));
    assert!(desk.complaint(&["export", "ann/lab"]).contains("twinshare up"), "it needs the node");
    let said = desk.complaint(&["import", "there.zip"]);
    assert!(said.contains("import there.zip: it isn't a whole ZIP archive"), "{said}");
    assert!(desk.complaint(&["import", "none.zip"]).contains("No such file"));
    desk.text(&["export", "./lab", "-o", "lab.zip"]);
    assert!(desk.complaint(&["import", "lab.zip", "none/lab"]).contains("make that folder first"));
    assert_eq!(desk.names(), ["lab", "lab.zip", "there.zip"]);

    // A workspace.yaml that nobody can read is left as it is.
    let script =
        "import sys, zipfile; zipfile.ZipFile(sys.argv[1], 'w').writestr('workspace.yaml', 'name: [')";
    python(script, &[&desk.at("odd.zip")]);
    let text = desk.text(&["import", "odd.zip"]);
    assert!(text.contains("is damaged and was left as it is"), "{text}");
    assert_eq!(fs::read_to_string(desk.at("odd/workspace.yaml")).unwrap(), "name: [");
}

#[test]
fn case_44_a_hostile_archive_makes_nothing() {
    let desk = Desk::new();
    const FORGE: &str = "import sys, zipfile\n\
        z = zipfile.ZipFile(sys.argv[1], 'w')\n\
        l = zipfile.ZipInfo('l'); l.create_system = 3; l.external_attr = 0o120777 << 16\n\
        z.writestr('before', 'x')\n\
        if sys.argv[2].endswith('link'): z.writestr(l, sys.argv[3]); z.writestr('l/pwn', 'pwned')\n\
        elif sys.argv[2].endswith('out'): z.writestr(l, sys.argv[3])\n\
        else: z.writestr(sys.argv[3], 'pwned')\n";
    let out = tempfile::tempdir().unwrap();
    let absolute = out.path().join("pwn");
    for (kind, what, said) in [
        ("name", Path::new("../up"), "leads upwards"),
        ("name", &absolute, "root of the system"),
        ("link", out.path(), "is no folder"),
        ("out", out.path(), "leads out of the workspace"),
    ] {
        python(FORGE, &[&desk.at("bad.zip"), Path::new(kind), what]);
        let complaint = desk.complaint(&["import", "bad.zip", "made"]);
        assert!(complaint.contains(said), "{complaint}");
        assert_eq!(desk.names(), ["bad.zip"]);
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
    }
    desk.text(&["import", "bad.zip", "made", "--links-outside"]);
    assert_eq!(fs::read_link(desk.at("made/l")).unwrap(), out.path());
}

/// Starts a verb, waits until there's a part of what it makes, stops it, and gives what it said.
fn stopped(desk: &Desk, arguments: &[&str]) -> String {
    let mut command = desk.command(arguments);
    // As at a terminal, whose Ctrl-C goes to a whole group.
    let child = command.process_group(0).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !desk.names().iter().any(|name| name.ends_with(".part")) {
        assert!(Instant::now() < deadline, "{:?}", desk.names());
        thread::yield_now();
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    stderr(&output)
}

#[test]
fn what_is_stopped_leaves_nothing() {
    let desk = Desk::new();
    fs::create_dir(desk.at("lab")).unwrap();
    fs::File::create(desk.at("lab/sparse")).unwrap().set_len(3 << 30).unwrap();
    assert!(stopped(&desk, &["export", "./lab", "-o", "lab.zip"]).contains("stopped"));
    assert_eq!(desk.names(), ["lab"]);
    fs::File::options().write(true).open(desk.at("lab/sparse")).unwrap().set_len(1 << 30).unwrap();
    desk.text(&["export", "./lab", "-o", "lab.zip"]);
    assert!(stopped(&desk, &["import", "lab.zip", "made"]).contains("stopped"));
    assert_eq!(desk.names(), ["lab", "lab.zip"]);
}

#[test]
fn workspaces_are_made_from_templates_and_work() {
    let desk = Desk::new();
    let listed = desk.text(&["create", "--templates"]);
    let names: Vec<_> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["python", "node", "rust", "jupyter", "llm-chat"]);
    for name in &names {
        let text = desk.text(&["create", &format!("my-{name}"), "--template", name]);
        assert_eq!(field(&text, "created"), format!("my-{name}"));
        let plan = desk.text(&["plan", &format!("./my-{name}")]);
        assert_eq!(
            plan.lines().filter(|line| !line.starts_with(' ') && line.ends_with("(process)")).count(),
            field(&text, "environments").split(", ").count(),
            "{plan}"
        );
    }
    // Their own tests pass, and their programs run.
    let ok = |folder: &str, line: &[&str]| {
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).current_dir(desk.at(folder)).env("CARGO_TARGET_DIR", desk.at("target"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{folder} {line:?}: {}", stderr(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    ok("my-python", &["python3", "-m", "unittest"]);
    assert_eq!(ok("my-python", &["python3", "main.py", "Ann"]), "Hello, Ann!\n");
    ok("my-llm-chat", &["python3", "-m", "unittest"]);
    ok("my-rust", &["cargo", "test", "--offline", "--quiet"]);
    let notebook = "import json; assert json.load(open('first.ipynb'))['nbformat'] == 4";
    ok("my-jupyter", &["python3", "-c", notebook]);
    // Node.js isn't on every machine that builds this.
    if Command::new("node").arg("--version").output().is_ok() {
        ok("my-node", &["node", "--test"]);
    }
}

#[test]
fn own_folders_are_templates() {
    let desk = Desk::new();
    desk.workspace();
    let manifest = "name: '{{name}}'\nid: '00112233445566778899aabbccddeeff'\nimported_from: x\n\
        environments: [{name: run, command: 'echo {{name}}'}]\n";
    fs::write(desk.at("lab/workspace.yaml"), manifest).unwrap();
    fs::write(desk.at("lab/src/main.py"), "{{name}}").unwrap();
    symlink("/nowhere/else", desk.at("lab/out")).unwrap();
    let text = desk.text(&["create", "new", "-t", "./lab"]);
    assert_eq!(field(&text, "environments"), "run");
    let manifest = fs::read_to_string(desk.at("new/workspace.yaml")).unwrap();
    assert!(manifest.contains("name: new\n") && manifest.contains("command: echo new\n"), "{manifest}");
    assert!(!manifest.contains("imported_from") && !manifest.contains("00112233"), "{manifest}");
    assert_eq!(fs::read_to_string(desk.at("new/src/main.py")).unwrap(), "{{name}}");
    assert_eq!(fs::read_link(desk.at("new/out")).unwrap(), Path::new("/nowhere/else"));
    for kept_back in [".env", ".ssh", "token.py", "x.log"] {
        assert!(!desk.at("new").join(kept_back).exists(), "{kept_back}");
    }
    let said = desk.complaint(&["create", "new", "-t", "python"]);
    assert!(said.contains("new exists") && said.contains("another name"), "{said}");
    let said = desk.complaint(&["create", "other", "-t", "pyton"]);
    assert!(said.contains("did you mean 'python'?"), "{said}");
    assert!(desk.complaint(&["create", "a@b", "-t", "python"]).contains("can't be a workspace's name"));
    assert_eq!(desk.run(&["create", "other"]).status.code(), Some(2));
    assert_eq!(desk.names(), ["lab", "new"]);
}
