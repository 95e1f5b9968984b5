//! What is fetched, and what isn't.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use crate::{
    bed::Bed,
    node::{stdout, within},
    sample::{random, sha256, write_random},
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Many `sha256sum` of one file at once; gives the sums they came to.
fn sums_at_once(path: &Path, readers: usize) -> BTreeSet<String> {
    let running: Vec<_> = (0..readers)
        .map(|_| {
            within(500, "sha256sum").arg(path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    running
        .into_iter()
        .map(|reader| {
            let output = reader.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
        })
        .collect()
}

#[test]
fn a_read_in_a_large_file_fetches_its_surroundings_and_the_whole_is_right() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    write_random(&workspace.join("1g"), "large", GIB);
    let seen = bed.share(&workspace).join("1g");

    let before = bed.received();
    let mut middle = vec![0; 4096];
    File::open(&seen).unwrap().read_exact_at(&mut middle, GIB / 2).unwrap();
    assert!(middle == random("large", GIB / 2, 4096), "wrong bytes");
    bed.wait_until_quiet();
    let moved = bed.received() - before;
    assert!(moved < 2 * MIB, "4 KiB moved {moved} bytes");

    assert_eq!(sha256(&seen), sha256(&workspace.join("1g")));
}

#[test]
fn eight_readers_of_a_cold_large_file_get_it_right() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    write_random(&workspace.join("1g"), "eight", GIB);
    let seen = bed.share(&workspace).join("1g");
    let sums = sums_at_once(&seen, 8);
    assert_eq!(sums, BTreeSet::from([sha256(&workspace.join("1g"))]));
}

#[test]
fn case_17_indexers_move_no_content() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    for folder in 0..20 {
        let folder_path = workspace.join(format!("folder{folder}"));
        fs::create_dir(&folder_path).unwrap();
        for file in 0..10 {
            write_random(&folder_path.join(format!("{file}.bin")), &format!("{folder}/{file}"), 300_000);
        }
    }
    let seen = bed.share(&workspace);
    let mount = bed.guest().mount();

    let described = stdout(within(20, "findmnt").args(["-n", "-o", "FSTYPE,SOURCE"]).arg(&mount));
    let mut words = described.split_whitespace();
    assert_eq!(words.next(), Some("fuse.twinshare"), "{described}");
    assert!(
        words.next().is_some_and(|source| source.contains(':')),
        "indexers know network mounts by it: {described}"
    );

    let found = stdout(within(60, "find").arg(&mount).arg("-xdev"));
    assert!(found.contains(seen.join("folder19/9.bin").to_str().unwrap()), "{found}");
    stdout(within(60, "du").arg("-s").arg(&mount));
    bed.wait_until_quiet();
    let (there, back) = bed.bytes();
    assert!(there + back < MIB, "the 60 MB were crawled with {there} bytes moved, {back} back");
}

#[test]
fn case_18_small_read_of_a_huge_file_is_small() {
    const AT: u64 = 10_000 * MIB;
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    // 20 GB that take little room, with data all around the place that is read.
    let file = File::create(workspace.join("20g")).unwrap();
    file.set_len(20_000_000_000).unwrap();
    for piece in 0..64 {
        let offset = AT + piece * 4 * MIB - 128 * MIB;
        file.write_all_at(&random("huge", offset, 4 << 20), offset).unwrap();
    }
    drop(file);
    let seen = bed.share(&workspace).join("20g");
    assert_eq!(fs::metadata(&seen).unwrap().len(), 20_000_000_000);
    bed.wait_until_quiet();

    let before = bed.received();
    let start = Instant::now();
    let output = within(20, "dd")
        .arg(format!("if={}", seen.display()))
        .args(["bs=1M", "skip=10000", "count=1", "status=none"])
        .output()
        .unwrap();
    let elapsed = start.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == random("huge", AT, 1 << 20), "wrong bytes");
    bed.wait_until_quiet();
    let moved = bed.received() - before;
    assert!(moved < 8 * MIB, "1 MiB moved {moved} bytes");
    assert!(elapsed < Duration::from_secs(1), "1 MiB took {elapsed:?}");
}

#[test]
fn case_23_concurrent_first_readers_share_one_fetch() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    write_random(&workspace.join("1g"), "fifty", GIB);
    let seen = bed.share(&workspace).join("1g");
    let before = bed.received();
    let sums = sums_at_once(&seen, 50);
    let moved = bed.received() - before;
    assert_eq!(sums, BTreeSet::from([sha256(&workspace.join("1g"))]));
    assert!(moved <= GIB / 10 * 11, "1 GiB moved {moved} bytes");
}
