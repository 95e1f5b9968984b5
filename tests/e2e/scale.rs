//! Large files and many of them.

use std::{
    env,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    bed::Bed,
    node::{stdout, within},
    sample::{python, random, write_random},
    wait::wait_for,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Whether the long runs have their full length.
fn full() -> bool {
    env::var_os("TWINSHARE_TEST_FULL").is_some_and(|value| value == "1")
}

#[test]
fn case_16_the_heads_of_huge_files_are_read_quickly() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    for number in 0..20 {
        let file = File::create(workspace.join(format!("{number:02}.bin"))).unwrap();
        file.set_len(5 * GIB).unwrap();
        for offset in [0, 2 * GIB, 5 * GIB - MIB] {
            file.write_all_at(&random(&format!("{number}"), offset, MIB as usize), offset).unwrap();
        }
    }
    let seen = bed.share(&workspace);
    bed.wait_until_quiet();
    let before = bed.received();
    let start = Instant::now();
    for number in 0..20 {
        let file = seen.join(format!("{number:02}.bin"));
        let head = within(20, "head").args(["-c", "65536"]).arg(&file).output().unwrap().stdout;
        assert!(head == random(&format!("{number}"), 0, 65536), "wrong bytes in {number}");
    }
    let elapsed = start.elapsed();
    bed.wait_until_quiet();
    let moved = bed.received() - before;
    assert!(elapsed < Duration::from_secs(10), "20 heads took {elapsed:?}");
    assert!(moved < 200 * MIB, "20 heads moved {moved} bytes");
}

/// Loads a file as safetensors does: the header, then each tensor out of one mapping of the whole file; with `readers`
/// several threads take turns with the tensors. Prints how long that took in seconds, and the bytes' sum.
const LOAD: &str = r#"
import json, mmap, struct, sys, threading, time, zlib
path, readers = sys.argv[1], int(sys.argv[2])
start = time.monotonic()
with open(path, "rb") as file:
    (length,) = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(length))
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    tensors = [(8 + length + a, 8 + length + b) for a, b in (one["data_offsets"] for one in header.values())]
    loaded = [None] * len(tensors)
    def load(reader):
        for number in range(reader, len(tensors), readers):
            begin, end = tensors[number]
            loaded[number] = mapped[begin:end]
    threads = [threading.Thread(target=load, args=(reader,)) for reader in range(readers)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
took = time.monotonic() - start
total = 0
for tensor in loaded: total = zlib.crc32(tensor, total)
print(took, total)
"#;

/// Writes a file of the safetensors format whose tensors have 8 MiB each.
fn write_tensors(path: &Path, seed: &str, size: u64) {
    let tensor = 8 * MIB;
    let described: Vec<String> = (0..size / tensor)
        .map(|number| {
            let (begin, end) = (number * tensor, (number + 1) * tensor);
            format!(r#""layer.{number}":{{"dtype":"U8","shape":[{tensor}],"data_offsets":[{begin},{end}]}}"#)
        })
        .collect();
    let mut header = format!("{{{}}}", described.join(","));
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let body = path.with_extension("body");
    write_random(&body, seed, size);
    let mut start = (header.len() as u64).to_le_bytes().to_vec();
    start.extend_from_slice(header.as_bytes());
    let mut file = File::create(path).unwrap();
    std::io::Write::write_all(&mut file, &start).unwrap();
    std::io::copy(&mut File::open(&body).unwrap(), &mut file).unwrap();
    fs::remove_file(body).unwrap();
}

fn load(path: &Path, readers: usize) -> (Duration, String) {
    let printed = stdout(within(300, python()).args(["-c", LOAD]).arg(path).arg(readers.to_string()));
    let (took, sum) = printed.trim().split_once(' ').unwrap();
    (Duration::from_secs_f64(took.parse().unwrap()), sum.to_owned())
}

#[test]
fn case_19_mapped_models_load_as_fast_as_they_are_read() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    let size = if full() { 2 * GIB } else { 256 * MIB };
    // Each is read once, cold; no two have a byte in common.
    let names = ["plain", "mapped", "interleaved"];
    for name in names {
        write_tensors(&workspace.join(name), name, size);
    }
    let seen = bed.share(&workspace);
    let start = Instant::now();
    stdout(within(300, "sh").args(["-c", "cat \"$0\" | wc -c"]).arg(seen.join("plain")));
    let plain = start.elapsed();

    let (mapped, sum) = load(&seen.join("mapped"), 1);
    assert_eq!(sum, load(&workspace.join("mapped"), 1).1, "wrong bytes");
    bed.wait_until_quiet();
    let before = bed.received();
    load(&seen.join("mapped"), 1);
    let moved = bed.received() - before;
    assert!(moved < 100_000, "the second load moved {moved} bytes");

    let (interleaved, sum) = load(&seen.join("interleaved"), 4);
    assert_eq!(sum, load(&workspace.join("interleaved"), 4).1, "wrong bytes");
    let what = format!("cat {plain:?}, mapped {mapped:?}, by four readers {interleaved:?}");
    assert!(mapped <= plain.mul_f64(1.5), "{what}");
    assert!(interleaved <= plain * 2, "{what}");
}

/// How many folders a process watches.
fn watches(process: &str) -> usize {
    let folder = fs::read_dir(format!("/proc/{process}/fdinfo")).unwrap();
    folder
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok())
        .map(|text| text.lines().filter(|line| line.starts_with("inotify ")).count())
        .sum()
}

/// The 99th of a hundred.
fn late(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() * 99 / 100]
}

#[test]
fn case_60_many_files_are_listable_while_they_are_hashed() {
    const IN_ONE: usize = 100;
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    let folders = if full() { 4000 } else { 120 };
    for folder in 0..folders {
        let path = workspace.join(format!("{:02}/{folder:04}", folder / 100));
        fs::create_dir_all(&path).unwrap();
        for file in 0..IN_ONE {
            fs::write(path.join(format!("{file:02}")), format!("{folder} {file}")).unwrap();
        }
    }
    for folder in 0..50 {
        fs::create_dir_all(workspace.join(format!("ignored/{folder}"))).unwrap();
    }
    fs::write(workspace.join(".twinshareignore"), "ignored/\n").unwrap();
    // What takes long to hash.
    write_random(&workspace.join("large"), "large", if full() { 4 * GIB } else { 512 * MIB });

    let (owner, guest) = (bed.owner(), bed.guest());
    owner.up(&[]);
    guest.up(&[]);
    let start = Instant::now();
    owner.ask(&["share", workspace.to_str().unwrap(), "--name", "lab", "--access", "public"]);
    let seen = guest.wait_for_workspace("owner", "lab");
    let find = |folder: &Path| {
        let mut find: Command = within(60, "find");
        find.arg(folder).args(["-path", "*/ignored", "-prune", "-o", "-type", "f", "-print0"]);
        stdout(&mut find).split('\0').count()
    };
    assert_eq!(find(&seen), find(&workspace), "files of the guest and of the owner");
    let listed = start.elapsed();
    assert!(listed < Duration::from_secs(60), "listable after {listed:?}");

    let mut control = Vec::new();
    let mut service = Vec::new();
    wait_for("all is hashed", Duration::from_secs(240), || {
        let began = Instant::now();
        let settled = owner.snapshot("owner", "lab");
        control.push(began.elapsed());
        // A file that isn't hashed yet, or not here yet, takes a request to the owner.
        let file = format!("{:02}/{:04}/{:02}", control.len() % folders / 100, control.len() % folders, 1);
        let began = Instant::now();
        // One that has been hashed since it was listed may be stale for a moment.
        let _ = fs::read(seen.join(file));
        service.push(began.elapsed());
        settled
    });
    let (control, service) = (late(control), late(service));
    assert!(control < Duration::from_secs(1), "the control API took {control:?}");
    assert!(service < Duration::from_secs(1), "reading took {service:?}");

    let process = stdout(within(5, "pgrep").arg("-f").arg(format!("mountd.*{}", owner.home().display())));
    let watched = watches(process.split_whitespace().next().unwrap());
    // Each folder with files, those above them, the root, and the watch's own end.
    let expected = folders + folders.div_ceil(100) + 2;
    assert!((expected - 1..=expected).contains(&watched), "{watched} folders are watched, not {expected}");
}
