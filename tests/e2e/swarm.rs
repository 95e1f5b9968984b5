//! Many guests at once: they have from each other what the owner's link is too slow for.

use std::{
    env, fs,
    io::Read,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::{
    lan::{Lan, RATE},
    node::Node,
    sample::random,
    wait::wait_for,
};

/// Reads a file to its end, as anybody would, and gives how long that took.
fn read(file: &Path, expected: &blake3::Hash) -> Duration {
    let start = Instant::now();
    let mut file = fs::File::open(file).unwrap();
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer).unwrap();
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
    }
    let took = start.elapsed();
    assert_eq!(hasher.finalize(), *expected);
    took
}

/// Writes a file of random bytes.
fn noise(path: &Path, seed: &str, size: usize) -> blake3::Hash {
    let bytes = random(seed, 0, size);
    fs::write(path, &bytes).unwrap();
    blake3::hash(&bytes)
}

/// Eight guests read the same file at once. TWINSHARE_TEST_FULL=1 gives it the 128 MiB of the promise.
#[test]
fn eight_guests_share_the_fetching_of_one_file() {
    let Some(lan) = Lan::new() else { return };
    let full = env::var_os("TWINSHARE_TEST_FULL").is_some_and(|value| value == "1");
    let size = if full { 128 << 20 } else { 32 << 20 };
    let folder = lan.owner.files().join("lab");
    fs::create_dir(&folder).unwrap();
    let [alone, shared] = ["alone", "shared"].map(|name| (name, noise(&folder.join(name), name, size)));
    lan.owner.up(&[]);
    lan.owner.share(&folder, "lab");
    thread::scope(|scope| {
        for guest in &lan.guests {
            scope.spawn(move || {
                guest.up(&[]);
                guest.wait_for_workspace("owner", "lab");
            });
        }
    });
    // All know all others, as they do after a while on any LAN.
    for guest in &lan.guests {
        wait_for("a guest knows the others", Duration::from_secs(30), || {
            let online = guest.json(&["status", "--json"])["peers_online"].as_u64()?;
            (online >= lan.guests.len() as u64).then_some(())
        });
    }

    let at = |guest: &Node, name: &str| guest.mount().join("owner/lab").join(name);
    let one = read(&at(&lan.guests[0], alone.0), &alone.1);
    let before = lan.sent(&lan.owner);
    let times: Vec<Duration> = thread::scope(|scope| {
        let readers: Vec<_> = lan
            .guests
            .iter()
            .map(|guest| scope.spawn(move || read(&at(guest, shared.0), &shared.1)))
            .collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    let sent = (lan.sent(&lan.owner) - before) as f64 / size as f64;
    let last = times.iter().max().unwrap().as_secs_f64() / one.as_secs_f64();
    eprintln!(
        "one guest alone: {one:?} ({:.0}% of the link); eight: {times:?}, the last {last:.2} times that; the owner sent {sent:.2} times the file",
        size as f64 / one.as_secs_f64() / RATE * 100.0
    );
    assert!(sent <= 1.5, "the owner sent {sent:.2} times the file");
    // Eight nodes on a few cores are bound by these when the file is small.
    assert!(!full || last <= 1.5, "the last guest took {last:.2} times as long as one alone");
}
