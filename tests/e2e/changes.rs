//! What a new version of a workspace costs whoever has the old one.

use std::{
    env, fs,
    io::{Read, Write},
    path::Path,
    time::Instant,
};

use crate::{
    bed::Bed,
    sample::{random, write_random},
};

const MIB: u64 = 1 << 20;

/// Reads a file to its end, as anybody would.
fn hash(file: &Path) -> blake3::Hash {
    let mut file = fs::File::open(file).unwrap();
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hasher.finalize(),
            length => hasher.update(&buffer[..length]),
        };
    }
}

/// Puts a file with some bytes more in its middle in place of another, as programs do that write a file anew.
fn insert(file: &Path, beside: &Path, size: u64, inserted: &[u8]) {
    let mut old = fs::File::open(file).unwrap();
    let mut new = fs::File::create(beside).unwrap();
    std::io::copy(&mut (&mut old).take(size / 2 + 7), &mut new).unwrap();
    new.write_all(inserted).unwrap();
    std::io::copy(&mut old, &mut new).unwrap();
    fs::rename(beside, file).unwrap();
}

/// A hundredth of the small files changes, and a KiB more is in the middle of a large one: that moves at most 3% of the
/// bytes. TWINSHARE_TEST_FULL=1 makes the large one a GiB.
#[test]
fn a_new_version_moves_what_changed() {
    let Some(bed) = Bed::new() else { return };
    let full = env::var_os("TWINSHARE_TEST_FULL").is_some_and(|value| value == "1");
    let size = if full { 1 << 30 } else { 256 * MIB };
    let workspace = bed.workspace("lab");
    let large = workspace.join("large");
    write_random(&large, "large", size);
    fs::create_dir(workspace.join("small")).unwrap();
    for number in 0..500 {
        write_random(&workspace.join(format!("small/{number}")), &format!("small {number}"), 20_000);
    }
    let seen = bed.share(&workspace);
    bed.guest().ask(&["prefetch", "owner/lab"]);
    let mut total = size + 500 * 20_000;

    // Once it's fetched ahead of need, once it's read.
    for (step, fetch) in [true, false].into_iter().enumerate() {
        bed.edit(|| {
            insert(
                &large,
                &bed.folder().join("beside"),
                total - 500 * 20_000,
                &random("more", step as u64, 1024),
            );
            for number in 0..5 {
                let number = step * 5 + number;
                write_random(
                    &workspace.join(format!("small/{number}")),
                    &format!("changed {number}"),
                    20_000,
                );
            }
        });
        total += 1024;
        bed.wait_until_quiet();
        let (begun, before) = (Instant::now(), bed.received());
        if fetch {
            bed.guest().ask(&["prefetch", "owner/lab"]);
        }
        let fetched = begun.elapsed();
        let read = hash(&seen.join("large"));
        let took = begun.elapsed();
        for number in 0..500 {
            let name = format!("small/{number}");
            assert!(
                fs::read(seen.join(&name)).unwrap() == fs::read(workspace.join(&name)).unwrap(),
                "{name}"
            );
        }
        bed.wait_until_quiet();
        let moved = bed.received() - before;
        assert_eq!(read, hash(&large));
        eprintln!(
            "{} MiB of which little changed: {moved} bytes moved ({:.2}%), prefetch {fetched:?}, read {:?}",
            total >> 20,
            moved as f64 / total as f64 * 100.0,
            took - fetched,
        );
        assert!(moved <= total * 3 / 100, "{moved} of {total} bytes moved");
    }
}
