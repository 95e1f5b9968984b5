//! Keeps the dependency rules of docs/ARCHITECTURE.md, and the sizes of files.
//!
//! Rooms use only the rooms above them; what belongs behind one door is named nowhere else. The check reads source text,
//! without its comments, and is itself tested with planted violations.
#![expect(clippy::unwrap_used, reason = "a test ends with a panic when a file can't be read")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The rooms of the library, bottom up, as src/lib.rs lists them.
const ROOMS: [&str; 15] = [
    "types",
    "access",
    "tree",
    "blob",
    "profile",
    "workspace",
    "publish",
    "store",
    "peer",
    "discovery",
    "fetch",
    "layer",
    "view",
    "runtime",
    "api",
];

/// Rooms that may not be used although they lie above: (room, what it must not use).
const APART: [(&str, &str); 2] = [("view", "peer"), ("view", "discovery")];

/// Crates that stay behind one door: (crate, the path prefixes where it may be named).
const DOORS: [(&str, &[&str]); 4] = [
    ("bollard", &["src/runtime/container"]),
    ("fuser", &["mountd/src/fuse"]),
    ("axum", &["src/peer/service", "mountd/src/http"]),
    ("socket2", &["src/discovery"]),
];

/// Where the environment and the home folder may be looked at.
const KNOWS_ENVIRONMENT: [&str; 2] = ["src/cli", "src/main.rs"];

/// More lines than this in a file ask for two.
const MOST_LINES: usize = 800;

/// The only place in the tests that waits for a time to pass.
const WAITING: &str = "tests/e2e/wait.rs";

/// What is wrong with one source file; `path` is relative to the repository.
fn violations(path: &str, source: &str) -> Vec<String> {
    let code = without_comments(source);
    let mut found = Vec::new();

    let library = path.starts_with("src/") && !path.starts_with("src/cli") && path != "src/main.rs";
    if library && let Some(position) = room_of(path) {
        let room = ROOMS[position];
        for used in used_rooms(&code) {
            let below = ROOMS.iter().position(|one| *one == used).is_some_and(|used| used > position);
            if below || APART.contains(&(room, &used)) {
                found.push(format!("the room `{room}` uses `{used}`"));
            }
        }
    }
    let product = path.starts_with("src/") || path.starts_with("mountd/src/");
    if product {
        for (name, doors) in DOORS {
            let names = code.match_indices(name).any(|(at, _)| {
                starts_word(&code, at)
                    && (code[at + name.len()..].starts_with("::") || code[..at].trim_end().ends_with("use"))
            });
            if names && !doors.iter().any(|door| path.starts_with(door)) {
                found.push(format!("`{name}` is named outside {}", doors.join(" and ")));
            }
        }
        if !path.starts_with("mountd/src/fuse") && names_errno(&code) {
            found.push("an errno of libc is named outside mountd/src/fuse".to_owned());
        }
    }
    if path.starts_with("src/") && !KNOWS_ENVIRONMENT.iter().any(|place| path.starts_with(place)) {
        for forbidden in ["env::var", "home_dir("] {
            if code.contains(forbidden) {
                found.push(format!("`{forbidden}` in the library: configuration comes in as a value"));
            }
        }
    }
    let test = path.split('/').any(|part| part == "tests") && path != WAITING && path != "tests/tidy.rs";
    if test && code.match_indices("sleep(").any(|(at, _)| starts_word(&code, at)) {
        found.push(format!("a test sleeps: wait for a condition, as in {WAITING}"));
    }
    let lines = source.lines().count();
    if lines > MOST_LINES {
        found.push(format!("{lines} lines: more than {MOST_LINES}"));
    }
    found
}

/// The place in `ROOMS` of the room that a file of the library belongs to; None for src/lib.rs.
fn room_of(path: &str) -> Option<usize> {
    let first = path.strip_prefix("src/")?.split('/').next()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    ROOMS.iter().position(|room| *room == name)
}

/// The rooms that code names through `crate::`, one by one or in braces.
fn used_rooms(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        if !starts_word(code, at) {
            continue;
        }
        let rest = code[at + prefix.len()..].trim_start();
        let Some(list) = rest.strip_prefix('{') else {
            rooms.push(word(rest).to_owned());
            continue;
        };
        // Of a list in braces, the first word of each part that isn't itself in braces.
        let mut depth = 1;
        let mut begins = true;
        for (at, character) in list.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => begins = true,
                _ if character.is_whitespace() => {}
                _ if depth == 1 && begins => {
                    rooms.push(word(&list[at..]).to_owned());
                    begins = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    rooms
}

/// Whether an error constant of libc is named: `libc::E…`, all in capitals.
fn names_errno(code: &str) -> bool {
    code.match_indices("libc::").any(|(at, prefix)| {
        let name = word(&code[at + prefix.len()..]);
        name.starts_with('E')
            && name.len() > 2
            && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
            && !name.starts_with("EPOLL")
    })
}

fn starts_word(code: &str, at: usize) -> bool {
    !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
}

fn word(code: &str) -> &str {
    let end = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
    &code[..end]
}

/// The source without what stands after `//` in a line, unless that belongs to an address such as `https://`.
fn without_comments(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    for line in source.lines() {
        let end = line.match_indices("//").map(|(at, _)| at).find(|at| !line[..*at].ends_with(':'));
        code.push_str(&line[..end.unwrap_or(line.len())]);
        code.push('\n');
    }
    code
}

/// All Rust files below a folder of the repository.
fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn the_source_keeps_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "mountd/src", "mountd/tests"] {
        sources(&root.join(folder), &mut files);
    }
    assert!(files.len() > 10, "the source is found");
    let mut found = Vec::new();
    for file in files {
        let path = file.strip_prefix(root).unwrap().to_str().unwrap();
        let source = fs::read_to_string(&file).unwrap();
        found.extend(violations(path, &source).into_iter().map(|violation| format!("{path}: {violation}")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_library_lists_its_rooms_in_order() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = fs::read_to_string(root.join("src/lib.rs")).unwrap();
    let code = without_comments(&source);
    let listed: Vec<&str> =
        code.lines().filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(listed, ROOMS);
}

/// Asserts that a planted violation is found, and that it is the only one.
fn assert_found(path: &str, source: &str, expected: &str) {
    let found = violations(path, source);
    assert!(found.len() == 1 && found[0].contains(expected), "{path}, {source:?}: {found:?}");
}

fn assert_fine(path: &str, source: &str) {
    assert_eq!(violations(path, source), Vec::<String>::new(), "{path}, {source:?}");
}

#[test]
fn a_room_that_uses_one_below_it_is_found() {
    assert_found("src/publish/scan.rs", "use crate::store::ReadStore;", "`publish` uses `store`");
    assert_found(
        "src/store/mod.rs",
        "use crate::{\n    blob::{Blob, Groups},\n    view::Node,\n};",
        "`store` uses `view`",
    );
    assert_found("src/tree/codec.rs", "fn f() -> crate::blob::Blob {}", "`tree` uses `blob`");
    assert_found("src/view/mod.rs", "use crate::{types::Digest, peer::PeerClient};", "`view` uses `peer`");
    assert_found("src/view.rs", "use crate::discovery::Peer;", "`view` uses `discovery`");
    assert_fine("src/store/mod.rs", "use crate::{\n    blob::{Blob, view},\n    types::Digest,\n};");
    assert_fine("src/fetch/mod.rs", "use crate::{peer, store};");
    assert_fine(
        "src/tree/mod.rs",
        "//! Used by [`crate::store`].\nuse crate::types::Digest; // not crate::blob",
    );
    assert_fine("src/cli/mod.rs", "use crate::api::Status;");
}

#[test]
fn a_crate_outside_its_door_is_found() {
    assert_found("src/view/mod.rs", "use fuser::FileAttr;", "`fuser` is named");
    assert_found("mountd/src/main.rs", "let session = fuser::Session::new();", "`fuser` is named");
    assert_found("src/peer/client.rs", "use axum::Router;", "`axum` is named");
    assert_found("src/peer/client.rs", "use socket2 as sockets;", "`socket2` is named");
    assert_fine("src/peer/service.rs", "use axum::Router;");
    assert_fine("src/peer/service/batch.rs", "use axum::Router;");
    assert_fine("mountd/src/http/mod.rs", "use axum::Router;");
    assert_fine("mountd/src/fuse/session.rs", "use fuser::Session;");
    assert_fine("mountd/src/main.rs", "EnvFilter::new(\"info,fuser=warn\")");
}

#[test]
fn an_errno_outside_its_door_is_found() {
    assert_found("src/view/error.rs", "fn code() -> i32 { libc::ENOENT }", "errno");
    assert_found("mountd/src/main.rs", "libc::EIO", "errno");
    assert_fine("mountd/src/fuse/errno.rs", "libc::ENOENT");
    assert_fine("src/publish/scan.rs", "libc::EPOLLIN; libc::Elf64_Addr; libc::O_EXCL");
}

#[test]
fn a_library_that_looks_around_is_found() {
    assert_found("src/publish/mod.rs", "std::env::var(\"HOME\")", "env::var");
    assert_found("src/api/paths.rs", "env::var_os(\"HOME\")", "env::var");
    assert_found("src/api/paths.rs", "std::env::home_dir()", "home_dir");
    assert_fine("src/cli/up.rs", "std::env::var(\"TWINSHARE_HOME\")");
    assert_fine("src/main.rs", "std::env::var(\"TWINSHARE_HOME\")");
}

#[test]
fn a_test_that_sleeps_is_found() {
    assert_found("tests/e2e/edit.rs", "std::thread::sleep(Duration::ZERO);", "sleeps");
    assert_found("mountd/tests/http.rs", "tokio::time::sleep(SECOND).await;", "sleeps");
    assert_fine("tests/e2e/wait.rs", "thread::sleep(INTERVAL);");
    assert_fine("src/discovery/multicast.rs", "tokio::time::sleep(INTERVAL).await;");
}

#[test]
fn a_long_file_is_found() {
    assert_found("src/view/mod.rs", &"\n".repeat(801), "801 lines");
    assert_fine("src/view/mod.rs", &"\n".repeat(800));
}
