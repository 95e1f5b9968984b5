//! Who may do what with a workspace, seen from both sides.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    bed::Bed,
    node::{Node, within},
    sample::write_random,
    wait::{poll, wait_for},
};

/// Within which the other side knows.
const LIMIT: Duration = Duration::from_secs(5);

/// Shares a folder so that nobody is let in yet.
fn share(owner: &Node, folder: &Path, access: &str) {
    owner.ask(&["share", folder.to_str().unwrap(), "--name", "lab", "--access", access, "--wait"]);
}

/// Has the owner share a folder so that nobody is let in yet, and the guest see its name; gives where the guest sees it.
fn seen_by_guest(bed: &Bed, folder: &Path) -> PathBuf {
    bed.owner().up(&[]);
    share(bed.owner(), folder, "ask");
    bed.guest().up(&[]);
    wait_for("the name is seen", LIMIT, || bed.guest().workspace("owner", "lab"));
    bed.guest().mount().join("owner/lab")
}

/// The names in a folder. That it can be opened means nothing: the kernel does that by itself.
fn list(folder: &Path) -> std::io::Result<Vec<std::ffi::OsString>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}

/// The error number of a failure; None when it worked.
fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().map(|error| error.raw_os_error().unwrap())
}

fn wait_for_errno<T>(what: &str, expected: Option<i32>, act: impl Fn() -> std::io::Result<T>) {
    wait_for(what, LIMIT, || (errno(act()) == expected).then_some(()));
}

#[test]
fn an_unknown_node_sees_no_more_than_names_and_under_peers_nothing() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::write(workspace.join("secret"), "content").unwrap();
    let (owner, guest) = (bed.owner(), bed.guest());
    let seen = seen_by_guest(&bed, &workspace);
    assert_eq!(errno(list(&seen)), Some(libc::EACCES));
    assert_eq!(errno(fs::read(seen.join("secret"))), Some(libc::EACCES));
    let listed = guest.workspace("owner", "lab").unwrap();
    assert_eq!(
        (&listed["rights"], &listed["files"], &listed["snapshot"]),
        (&json!([]), &json!(0), &Value::Null)
    );
    // The owner is asked, once, and sees whom they let in.
    let requests = wait_for("the owner is asked", LIMIT, || {
        let requests = owner.json(&["requests", "--json"]);
        (requests.as_array().unwrap().len() == 1).then_some(requests)
    });
    let own = guest.json(&["id", "--json"]);
    assert_eq!((&requests[0]["peer"], &requests[0]["fingerprint"]), (&own["node"], &own["fingerprint"]));
    assert_eq!(own["words"].as_str().unwrap().split(' ').count(), 12);

    share(owner, &workspace, "peers");
    wait_for("nothing is seen", LIMIT, || guest.workspace("owner", "lab").is_none().then_some(()));
    assert_eq!(errno(list(&seen)), Some(libc::ENOENT));
}

#[test]
fn each_right_is_what_it_says_on_both_sides() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::write(workspace.join("small"), "content").unwrap();
    fs::write(workspace.join("other"), "other").unwrap();
    let (owner, guest) = (bed.owner(), bed.guest());
    let seen = seen_by_guest(&bed, &workspace);
    let allow = |rights: &str| {
        owner.ask(&["access", "lab", "--allow", "guest", "--rights", rights]);
        wait_for(&format!("the guest knows that it has {rights}"), LIMIT, || {
            let workspace = guest.workspace("owner", "lab")?;
            let has = workspace["rights"].as_array()?.iter().any(|right| right == rights);
            (has && list(&seen).is_ok()).then_some(())
        });
    };
    let refused = |verb: &[&str], why: &str| {
        let output = guest.cli(verb);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{verb:?}: {said}");
    };

    allow("browse");
    assert_eq!(fs::metadata(seen.join("small")).unwrap().len(), 7);
    assert_eq!(errno(fs::read(seen.join("small"))), Some(libc::EACCES));
    refused(&["prefetch", "owner/lab"], "doesn't let you fetch all of it");
    refused(&["run", "owner/lab", "--", "true"], "doesn't let this node run");

    allow("read");
    assert_eq!(fs::read_to_string(seen.join("small")).unwrap(), "content");
    refused(&["prefetch", "owner/lab"], "doesn't let you fetch all of it");
    refused(&["pin", "owner/lab"], "doesn't let you fetch all of it");
    refused(&["run", "owner/lab", "--", "true"], "doesn't let this node run");

    allow("clone");
    guest.ask(&["prefetch", "owner/lab"]);
    refused(&["run", "owner/lab", "--", "true"], "doesn't let this node run");

    allow("run");
    guest.ask(&["run", "owner/lab", "--", "true"]);
    fs::write(seen.join("small"), "changed").unwrap();
    refused(&["push", "owner/lab"], "has been asked");

    allow("write");
    guest.ask(&["push", "owner/lab"]);
    assert_eq!(fs::read_to_string(workspace.join("small")).unwrap(), "changed");

    // A group gives what the node itself hasn't been given, for as long as it says.
    owner.ask(&["access", "lab", "--revoke", "guest"]);
    wait_for_errno("it's taken back", Some(libc::EACCES), || list(&seen));
    owner.ask(&["group", "add", "team", "guest"]);
    owner.ask(&["access", "lab", "--allow", "group:team", "--rights", "read", "--for", "2s"]);
    wait_for_errno("the group is let in", None, || list(&seen));
    wait_for_errno("the time is up", Some(libc::EACCES), || list(&seen));

    let table = owner.ask(&["access", "lab", "--deny", "guest"]);
    assert!(table.contains("guest (") && table.contains("nothing"), "{table}");
    let deeds: Vec<String> = owner
        .ask(&["audit", "--json"])
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["deed"].as_str().unwrap().to_owned())
        .collect();
    for deed in ["asked", "granted", "revoked", "denied"] {
        assert!(deeds.iter().any(|one| one == deed), "{deed}: {deeds:?}");
    }
}

#[test]
fn a_revoked_peers_running_read_ends_within_a_second() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    // Some eight seconds of the link.
    write_random(&workspace.join("large"), "revoked", 1 << 30);
    let owner = bed.owner();
    let seen = seen_by_guest(&bed, &workspace).join("large");
    owner.ask(&["access", "lab", "--allow", "guest"]);
    wait_for_errno("the guest is let in", None, || fs::metadata(&seen));
    let before = bed.received();
    let mut cat = within(60, "cat").arg(&seen).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("it's under way", LIMIT, || (bed.received() - before > 32 << 20).then_some(()));

    owner.ask(&["access", "lab", "--revoke", "guest"]);
    let revoked = Instant::now();
    let status = poll(Duration::from_secs(10), || cat.try_wait().unwrap()).expect("it ends");
    let took = revoked.elapsed();
    let said = std::io::read_to_string(cat.stderr.take().unwrap()).unwrap();
    assert!(!status.success() && said.contains("Permission denied"), "{status}: {said}");
    assert!(took < Duration::from_secs(1), "it took {took:?}");
    bed.wait_until_quiet();
    assert!(bed.received() - before < 512 << 20, "what isn't read any more isn't sent");
    assert_eq!(errno(fs::read(&seen)), Some(libc::EACCES));
}
