//! Limits: how quick a node sends and receives, and turns for what is fetched ahead of need.

use std::{
    env, fs, thread,
    time::{Duration, Instant},
};

use crate::{bed::Bed, lan::Lan, node::Node, sample::write_random, wait::wait_for};

#[test]
fn case_u3_a_cap_holds_within_a_tenth_in_both_directions() {
    const SIZE: u64 = 40_000_000;
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    let (owner, guest) = (bed.owner(), bed.guest());
    for name in ["up", "down", "free"] {
        write_random(&workspace.join(name), name, SIZE);
    }
    owner.configure("bandwidth: {up: 10MB}\n");
    let seen = bed.share(&workspace);
    // In MB a second.
    let speed = |name: &str| {
        let start = Instant::now();
        assert_eq!(fs::read(seen.join(name)).unwrap().len() as u64, SIZE);
        SIZE as f64 / start.elapsed().as_secs_f64() / 1e6
    };
    let up = speed("up");
    owner.down();
    guest.down();
    owner.configure("");
    guest.configure("bandwidth: {down_each: 10MB}\n");
    owner.up(&[]);
    guest.up(&[]);
    guest.wait_for_workspace("owner", "lab");
    wait_for("the owner is back", Duration::from_secs(20), || {
        (guest.json(&["status", "--json"])["peers_online"] == 1).then_some(())
    });
    let down = speed("down");
    eprintln!("with a cap of 10 MB/s: {up:.2} MB/s sent, {down:.2} MB/s received");
    for speed in [up, down] {
        assert!((9.0..=11.0).contains(&speed), "{speed:.2} MB/s");
    }
}

/// Seven guests fetch three workspaces each, ahead of need; an eighth reads small files meanwhile.
#[test]
fn bulk_takes_turns_and_keeps_nobody_waiting() {
    const EACH: usize = 3;
    let Some(lan) = Lan::new() else { return };
    let full = env::var_os("TWINSHARE_TEST_FULL").is_some_and(|value| value == "1");
    let size = if full { 12 << 20 } else { 4 << 20 };
    lan.owner.up(&[]);
    let small = lan.owner.files().join("small");
    fs::create_dir(&small).unwrap();
    for number in 0..200 {
        fs::create_dir(small.join(format!("{number}"))).unwrap();
        write_random(&small.join(format!("{number}/f")), &format!("small {number}"), 4000);
    }
    lan.owner.share(&small, "small");
    for number in 0..EACH {
        let folder = lan.owner.files().join(format!("large{number}"));
        fs::create_dir(&folder).unwrap();
        write_random(&folder.join("f"), &format!("large {number}"), size);
        lan.owner.share(&folder, &format!("large{number}"));
    }
    let (reader, fetching) = lan.guests.split_last().unwrap();
    thread::scope(|scope| {
        for guest in &lan.guests {
            scope.spawn(move || {
                guest.up(&[]);
                guest.wait_for_workspace("owner", "small");
                guest.wait_for_workspace("owner", &format!("large{}", EACH - 1));
            });
        }
    });
    let seen = reader.mount().join("owner/small");
    // In order of their times: where the 95th of a hundred stands.
    let p95 = |numbers: std::ops::Range<usize>| {
        let mut times: Vec<Duration> = numbers
            .map(|number| {
                let start = Instant::now();
                assert_eq!(fs::read(seen.join(format!("{number}/f"))).unwrap().len(), 4000);
                start.elapsed()
            })
            .collect();
        times.sort();
        times[times.len() * 95 / 100]
    };
    // The folders are there, so that a read is a read of content.
    assert_eq!(fs::read_dir(&seen).unwrap().count(), 201);
    let idle = p95(0..40);
    let mut turns = Vec::new();
    let busy = thread::scope(|scope| {
        let fetches: Vec<_> = fetching
            .iter()
            .flat_map(|guest| (0..EACH).map(move |number| (guest, number)))
            .map(|(guest, number)| {
                scope.spawn(move || guest.ask(&["prefetch", &format!("owner/large{number}")]))
            })
            .collect();
        assert_eq!(fetches.len(), 21);
        turns = wait_for("some have to wait", Duration::from_secs(20), || {
            let turns = lan.owner.json(&["transfers", "--json"]).as_array()?.clone();
            turns.iter().any(|turn| turn["position"].is_u64()).then_some(turns)
        });
        let busy = p95(40..140);
        for fetch in fetches {
            fetch.join().unwrap();
        }
        busy
    });
    assert_eq!(turns.iter().filter(|turn| turn["position"].is_null()).count(), 4, "{turns:?}");
    assert!(turns.iter().all(|turn| turn["peer"].is_string()), "{turns:?}");
    eprintln!("the 95th of a hundred small reads: {idle:?} idle, {busy:?} while 21 fetches take turns");
    assert!(!full || busy <= idle + Duration::from_millis(20), "{busy:?} instead of {idle:?}");
    assert_eq!(lan.owner.json(&["transfers", "--json"]), serde_json::json!([]));
    let all_here = |guest: &Node| {
        let report = guest.json(&["cache", "--json"]);
        report["used"].as_u64().unwrap() >= EACH as u64 * size
    };
    assert!(fetching.iter().all(all_here));
}

#[test]
fn without_encryption_only_what_is_public_is_served_and_both_are_told() {
    let Some(bed) = Bed::new() else { return };
    let owner = bed.owner();
    for (name, access) in [("open", "public"), ("closed", "password"), ("asked", "ask")] {
        let workspace = bed.workspace(name);
        fs::write(workspace.join("f"), name).unwrap();
        if name == "open" {
            owner.up(&[]);
        }
        owner.ask(&["share", workspace.to_str().unwrap(), "--name", name, "--access", access, "--wait"]);
    }
    let get = |scheme: &str, path: &str, more: &[&str]| {
        let output = bed.curl(scheme, path).args(["-i", "--max-time", "20"]).args(more).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(owner.set_password("closed", "correct horse"));
    assert_eq!(get("http", "/w/open/f", &[]), "", "it's on by default");
    assert!(get("https", "/w/open/f", &[]).ends_with("open"));
    owner.down();

    owner.configure("encryption: off\n");
    owner.up(&[]);
    let page = wait_for("it's served without", Duration::from_secs(10), || {
        let page = get("http", "/w/open/f", &[]);
        page.ends_with("open").then_some(page)
    });
    assert!(page.contains("twinshare-encryption: off"), "{page}");
    assert!(
        get("http", "/w/open/", &["-H", "Accept: text/html"]).contains("This connection isn't encrypted.")
    );
    assert!(get("https", "/w/open/f", &[]).ends_with("open"), "with it as well");
    assert!(!get("https", "/w/open/f", &[]).contains("twinshare-encryption"));
    for more in [&[][..], &["-u", "me:correct horse"]] {
        let refused = get("http", "/w/closed/f", more);
        assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("use https://"), "{refused}");
    }
    assert!(get("https", "/w/closed/f", &["-u", "me:correct horse"]).ends_with("closed"));
    assert!(get("http", "/w/asked/f", &[]).starts_with("HTTP/1.1 404"));
    let catalogue = get("http", "/v1/catalogue", &[]);
    assert!(catalogue.contains("\"open\"") && !catalogue.contains("closed") && !catalogue.contains("asked"));
    assert!(owner.ask(&["status"]).contains("off for those who ask for it"));
    // Nodes go on as before.
    bed.guest().up(&[]);
    let seen = bed.guest().wait_for_workspace("owner", "open");
    assert_eq!(fs::read_to_string(seen.join("f")).unwrap(), "open");
}
