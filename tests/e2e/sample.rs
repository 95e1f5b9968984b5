//! What the tests share: random files, a real Python environment; and how they compare folders.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use crate::node::{stdout, within};

/// Files are written in pieces of this size.
const PIECE: usize = 4 << 20;

/// The bytes of the endless random sequence `seed` from `offset`; no part of it is like another.
pub(crate) fn random(seed: &str, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut sequence = blake3::Hasher::new().update(seed.as_bytes()).finalize_xof();
    sequence.set_position(offset);
    sequence.fill(&mut bytes);
    bytes
}

/// Writes the first `size` bytes of the sequence to a file.
pub(crate) fn write_random(path: &Path, seed: &str, size: u64) {
    let mut file = File::create(path).unwrap();
    let mut at = 0;
    while at < size {
        let length = PIECE.min(usize::try_from(size - at).unwrap());
        file.write_all(&random(seed, at, length)).unwrap();
        at += length as u64;
    }
}

/// The sum that sha256sum gives, or panics.
pub(crate) fn sha256(path: &Path) -> String {
    let printed = stdout(within(300, "sha256sum").arg(path));
    printed.split_whitespace().next().unwrap().to_owned()
}

/// The system's Python, rather than one that lies in somebody's home folder.
pub(crate) fn python() -> &'static str {
    if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" }
}

/// Copies a virtual environment with numpy and pandas to `workspace/.venv`; gives the version of its pandas.
///
/// It is installed from PyPI once for each target folder.
pub(crate) fn copy_venv(workspace: &Path) -> String {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("venv");
    fs::create_dir_all(&kept).unwrap();
    let lock = File::create(kept.join("lock")).unwrap();
    lock.lock().unwrap();
    let venv = kept.join(".venv");
    let complete = kept.join("complete");
    if !complete.exists() {
        if venv.exists() {
            fs::remove_dir_all(&venv).unwrap();
        }
        stdout(within(120, python()).args(["-m", "venv"]).arg(&venv));
        stdout(
            within(600, venv.join("bin/python")).args(["-m", "pip", "install", "--quiet", "numpy", "pandas"]),
        );
        File::create(&complete).unwrap();
    }
    stdout(within(120, "cp").args(["--archive", "--reflink=auto"]).arg(&venv).arg(workspace));

    let name = fs::read_dir(site_packages(workspace))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .find(|name| name.starts_with("pandas-") && name.ends_with(".dist-info"))
        .expect("pandas is installed");
    name["pandas-".len()..name.len() - ".dist-info".len()].to_owned()
}

/// Where the packages of a workspace's virtual environment lie.
pub(crate) fn site_packages(workspace: &Path) -> PathBuf {
    let mut versions = fs::read_dir(workspace.join(".venv/lib")).unwrap();
    versions.next().unwrap().unwrap().path().join("site-packages")
}

/// What `find` says of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// As find's %y has it: f, d, l …
    pub(crate) kind: String,
    /// In bytes; empty for a folder, whose size is its filesystem's own affair.
    pub(crate) size: String,
    /// Permission bits, octal.
    pub(crate) mode: String,
    /// Seconds and nanoseconds of the last modification.
    pub(crate) modified: String,
    /// Where a symbolic link points.
    pub(crate) target: String,
}

/// All below a folder, by its path from there.
pub(crate) fn find(folder: &Path) -> BTreeMap<String, Listed> {
    let printed = stdout(within(120, "find").arg(folder).args([
        "-mindepth",
        "1",
        "-printf",
        "%P\\0%y\\0%s\\0%m\\0%T@\\0%l\\0",
    ]));
    let fields: Vec<&str> = printed.split_terminator('\0').collect();
    fields
        .chunks_exact(6)
        .map(|entry| {
            let [path, kind, size, mode, modified, target] = entry else { unreachable!("chunks of six") };
            let size = if *kind == "d" { "" } else { size };
            let [kind, size, mode, modified, target] =
                [kind, size, mode, modified, target].map(|s| (*s).to_owned());
            ((*path).to_owned(), Listed { kind, size, mode, modified, target })
        })
        .collect()
}

/// The sum of the sizes of all files below a folder.
pub(crate) fn total_bytes(folder: &Path) -> u64 {
    find(folder)
        .values()
        .filter(|entry| entry.kind == "f")
        .map(|entry| entry.size.parse::<u64>().unwrap())
        .sum()
}
