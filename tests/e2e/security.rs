//! What neither a web page, another user nor a peer can do.

use std::{
    fs::{self, Permissions},
    io::{Read, Write},
    net::TcpStream,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt, chown},
        process::CommandExt,
    },
    process::Output,
    time::Duration,
};

use serde_json::Value;

use crate::{
    bed::Bed,
    link::{self, in_namespace, must},
    node::{stdout, within},
};

/// A user who has nothing to do with the node: Debian's `nobody`.
const OTHER: u32 = 65534;

/// Runs a program as another user.
fn as_other(program: &str, arguments: &[&str]) -> Output {
    within(20, program).args(arguments).uid(OTHER).gid(OTHER).output().unwrap()
}

fn assert_denied(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("Permission denied"), "{}: {said}", output.status);
}

#[test]
fn case_45_foreign_hosts_and_origins_are_turned_away() {
    let Some(bed) = Bed::new() else { return };
    let guest = bed.guest();
    guest.up(&[]);
    let control: Value =
        serde_json::from_slice(&fs::read(guest.home().join("runtime/control.json")).unwrap()).unwrap();
    let port = u16::try_from(control["port"].as_u64().unwrap()).unwrap();
    let token = control["token"].as_str().unwrap();
    let status = |host: &str, more: &str| -> u16 {
        let mut stream = in_namespace(guest.namespace(), || TcpStream::connect(("127.0.0.1", port)).unwrap());
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(
            stream,
            "GET /api/v1/status HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n{more}Connection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        answer.split_whitespace().nth(1).unwrap_or_else(|| panic!("no HTTP: {answer}")).parse().unwrap()
    };
    let own = format!("127.0.0.1:{port}");
    assert_eq!(status(&own, ""), 200);
    for host in
        ["evil.test", "evil.test:80", &format!("evil.test:{port}"), &format!("127.0.0.1.evil.test:{port}")]
    {
        let answer = status(host, "");
        assert!((400..500).contains(&answer), "Host: {host} got {answer}");
    }
    assert_eq!(status(&own, "Origin: http://evil.test\r\n"), 403);
}

#[test]
fn whoever_isnt_on_the_lan_is_turned_away() {
    let Some(bed) = Bed::new() else { return };
    let owner = bed.owner();
    let device = link::DEVICE;
    // The guest has an address of the internet too, and the owner knows the way there.
    let far = "203.0.113.9";
    must("ip", &["-n", bed.guest().namespace(), "address", "add", &format!("{far}/32"), "dev", device]);
    must("ip", &["-n", owner.namespace(), "route", "add", far, "dev", device]);
    let reached = |from: &str| {
        let output =
            bed.curl("https", "/v1/node").args(["--max-time", "20", "--interface", from]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("peer_id")
    };
    owner.up(&[]);
    let near = bed.guest().address().to_string();
    assert!(reached(&near) && !reached(far));
    owner.down();

    owner.configure("allow_from: [203.0.113.0/24]\n");
    owner.up(&[]);
    assert!(reached(&near) && reached(far));
    owner.down();
    owner.configure(&format!("interfaces: {{deny: [{device}]}}\n"));
    owner.up(&[]);
    assert!(!reached(&near) && !reached(far));
    owner.down();
    owner.configure("interfaces: {denied: []}\n");
    let refused = owner.cli(&["up", "--name", "owner"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("config.yaml") && said.contains("denied"), "{said}");
}

#[test]
fn case_48_other_users_reach_neither_cache_nor_private_files() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    let private = workspace.join("private");
    fs::write(&private, "mine").unwrap();
    fs::set_permissions(&private, Permissions::from_mode(0o600)).unwrap();
    let seen = bed.share(&workspace);
    assert_eq!(fs::read_to_string(seen.join("private")).unwrap(), "mine");

    // The way there is open, so it is the node that keeps them out.
    let home = bed.guest().home();
    let around = as_other("ls", &[home.parent().unwrap().to_str().unwrap()]);
    assert!(around.status.success(), "{}", String::from_utf8_lossy(&around.stderr));
    assert_denied(&as_other("ls", &[home.join("cache").to_str().unwrap()]));
    assert_denied(&as_other("cat", &[home.join("runtime/control.json").to_str().unwrap()]));
    assert_denied(&as_other("cat", &[seen.join("private").to_str().unwrap()]));
}

#[test]
fn case_49_setuid_files_and_devices_have_no_power() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    let program = workspace.join("id");
    fs::copy("/usr/bin/id", &program).unwrap();
    chown(&program, Some(OTHER), Some(OTHER)).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o4755)).unwrap();
    let device = workspace.join("null");
    stdout(within(20, "mknod").arg(&device).args(["c", "1", "3"]));
    let seen = bed.share(&workspace);

    let options = stdout(within(20, "findmnt").args(["-n", "-o", "OPTIONS"]).arg(bed.guest().mount()));
    let options: Vec<&str> = options.trim().split(',').collect();
    assert!(options.contains(&"nosuid") && options.contains(&"nodev"), "{options:?}");

    // On the owner's disk the file does change who one is; through the mount it doesn't.
    assert_eq!(stdout(within(20, &program).arg("-u")).trim(), OTHER.to_string());
    assert_eq!(stdout(within(20, seen.join("id")).arg("-u")).trim(), "0");

    // The device is left out or without function.
    let device = seen.join("null");
    if let Ok(shown) = fs::symlink_metadata(&device) {
        assert!(!shown.file_type().is_char_device() || fs::read(&device).is_err(), "the device works");
    }
}
