//! Opening: the lock, the index or its rebuild, and what a crash left behind.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::{Mutex, atomic::AtomicU64},
};

use super::{
    Disk, DiskLimits,
    ahead::Ahead,
    evict::Space,
    files::{FileKey, Files, allocated, create_folder, disk},
    index::{Changes, Index, LargeRow},
    pack::{self, Packer},
    pending::Pending,
};
use crate::{
    blob::{Blob, Groups, outboard_length},
    store::StoreError,
};

/// Pieces that a rebuild records at a time.
const REBUILD_STEP: usize = 1 << 16;

impl Disk {
    pub(super) fn open(folder: &Path, limits: DiskLimits) -> Result<(Self, File), StoreError> {
        let files = Files::new(folder, limits.descriptors);
        for folder in [folder, &files.packs(), &files.blobs()] {
            create_folder(folder).map_err(disk(format!("make the folder {}", folder.display())))?;
        }
        let lock = take_lock(folder)?;
        let path = folder.join("index.redb");
        // What can't be read through now would fail the steps below.
        let readable = Index::open(&path)?.filter(|index| index.each_large(|_, _| {}).is_ok());
        let index = match readable {
            Some(index) => index,
            None => rebuild(&path, &files)?,
        };
        let space = Space::default();
        let packer = count_packs(&files, &space).map_err(disk("look through its packs"))?;
        let found = sweep(&index, &files, &space)?;
        drop_rows_without_file(&index, &found)?;
        let clock = AtomicU64::new(index.clock()?);
        let disk = Self {
            folder: folder.to_owned(),
            limits,
            files,
            ahead: Ahead::default(),
            index,
            pending: Pending::default(),
            space,
            packer: Mutex::new(packer),
            large: Mutex::default(),
            clock,
            turn: Mutex::default(),
        };
        Ok((disk, lock))
    }
}

fn take_lock(folder: &Path) -> Result<File, StoreError> {
    let open =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(folder.join("lock"));
    let file = open.map_err(disk("open its lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(folder.to_owned())),
        Err(TryLockError::Error(error)) => Err(disk("take its lock")(error)),
    }
}

/// The pack files there are, by number.
fn packs(files: &Files) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(files.packs())? {
        let name = entry?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.strip_suffix(".pack")?.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn count_packs(files: &Files, space: &Space) -> io::Result<Packer> {
    let mut packer = Packer::new(0, 0);
    for number in packs(files)? {
        let found = files.path(FileKey::Pack(number)).metadata()?;
        space.set_pack(number, allocated(&found));
        packer = Packer::new(number, found.len());
    }
    Ok(packer)
}

/// A file below `blobs/`: the blob that it belongs to, and whether it is its outboard.
fn parse_name(name: &str) -> Option<(Blob, bool)> {
    let (name, outboard) = match name.strip_suffix(".outboard") {
        Some(name) => (name, true),
        None => (name, false),
    };
    let (digest, size) = name.split_once('-')?;
    Some((Blob { digest: digest.parse().ok()?, size: size.parse().ok()? }, outboard))
}

/// Calls `each` with the path of every file below `blobs/`.
fn each_blob_file(
    files: &Files,
    mut each: impl FnMut(&Path, Option<(Blob, bool)>) -> io::Result<()>,
) -> io::Result<()> {
    for folder in fs::read_dir(files.blobs())? {
        let folder = folder?;
        if !folder.file_type()?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(folder.path())? {
            let entry = entry?;
            each(&entry.path(), entry.file_name().to_str().and_then(parse_name))?;
        }
    }
    Ok(())
}

/// Counts the large blobs' files and deletes what the index doesn't know; returns the blobs whose content is there.
fn sweep(index: &Index, files: &Files, space: &Space) -> Result<HashSet<Blob>, StoreError> {
    let mut known = HashSet::new();
    index.each_large(|blob, _| known.extend([blob]))?;
    let mut found = HashSet::new();
    let swept = each_blob_file(files, |path, name| {
        match name {
            Some((blob, outboard)) if known.contains(&blob) => {
                space.change(0, allocated(&path.metadata()?));
                if !outboard {
                    found.insert(blob);
                }
            }
            _ => fs::remove_file(path)?,
        }
        Ok(())
    });
    swept.map_err(disk("look through its blobs"))?;
    Ok(found)
}

/// An eviction that was cut short deletes files before the index follows.
fn drop_rows_without_file(index: &Index, found: &HashSet<Blob>) -> Result<(), StoreError> {
    let mut gone = Vec::new();
    index.each_large(|blob, row| {
        if !found.contains(&blob) {
            gone.push((blob, LargeRow { held: Groups::empty(), ..row }));
        }
    })?;
    if gone.is_empty() {
        return Ok(());
    }
    index.commit(&Changes { large: &gone, clock: index.clock()?, ..Changes::default() })
}

/// Makes a new index from the files: every intact piece of the packs, and the complete large blobs, which are told by
/// being read-only and are checked when they are read.
fn rebuild(path: &Path, files: &Files) -> Result<Index, StoreError> {
    tracing::info!("rebuilding the store's index from its files");
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(disk("replace its index")(error));
        }
        _ => {}
    }
    let index = Index::create(path)?;
    let mut clock = 0;
    for number in packs(files).map_err(disk("look through its packs"))? {
        let mut found = Vec::new();
        pack::scan(&files.path(FileKey::Pack(number)), number, |key, place| {
            clock += 1;
            found.push((key, Some((place, clock))));
        })
        .map_err(disk(format!("read pack {number}")))?;
        for step in found.chunks(REBUILD_STEP) {
            index.commit(&Changes { packed: step, clock: clock + 1, ..Changes::default() })?;
        }
    }
    let mut large = Vec::new();
    let looked = each_blob_file(files, |path, name| {
        let Some((blob, false)) = name else { return Ok(()) };
        let content = path.metadata()?;
        let outboard = files.path(FileKey::Outboard(blob)).metadata();
        let fits = content.len() == blob.size
            && !blob.is_whole()
            && outboard.is_ok_and(|outboard| outboard.len() == outboard_length(blob.size));
        if fits && content.permissions().mode() & 0o200 == 0 {
            clock += 1;
            large.push((blob, LargeRow { last_use: clock, held: Groups::from(0..blob.groups()) }));
        }
        Ok(())
    });
    looked.map_err(disk("look through its blobs"))?;
    index.commit(&Changes { large: &large, clock: clock + 1, ..Changes::default() })?;
    index.finish()?;
    if let Some(folder) = path.parent() {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk("write its folder"))?;
    }
    Ok(index)
}
