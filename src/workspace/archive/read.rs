use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek},
    ops::ControlFlow,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps, renameat_with, utimensat};
use zip::{CompressionMethod, ZipArchive, extra_fields::ExtraField, read::ZipReadOptions, result::ZipError};

use super::{
    ArchiveError, Exact, FIELD,
    names::{fault, leads_to_system, portable_path, stays_inside},
    shown,
};
use crate::{
    types::{Timestamp, WorkspaceName},
    workspace::{MANIFEST_FILE, MANIFEST_MAX, Manifest},
};

/// Bytes that are unpacked at once; so many zeros become a hole.
const PIECE: usize = 64 << 10;

static ZEROS: [u8; PIECE] = [0; PIECE];

/// Deflate makes at most 1032 bytes of one.
const MOST_OF_ONE: u64 = 1040;

/// What a file or folder takes on a disk beside its content.
const ENTRY: u64 = 4096;

/// What is left free on a disk.
const KEPT_FREE: u64 = 64 << 20;

/// No link can be longer.
const LINK_MAX: u64 = 4095;

/// How many bytes may be written where `folder` is.
pub fn room(folder: &Path) -> io::Result<u64> {
    let system = rustix::fs::statvfs(folder)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize).saturating_sub(KEPT_FREE))
}

/// An archive whose directory was read, and found to be one of a workspace.
pub struct Archive<R> {
    zip: ZipArchive<R>,
    entries: BTreeMap<Vec<u8>, Entry>,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
    Link,
}

struct Entry {
    /// Its place in the archive's directory.
    index: usize,
    kind: Kind,
    mode: Option<u32>,
    modified: Option<Timestamp>,
    length: u64,
}

/// What is to become of an archive.
pub struct Unpack<'a> {
    /// The folder to make; one that is there must be empty.
    pub destination: &'a Path,
    /// Whether links may lead anywhere.
    pub links_outside: bool,
    /// Where what is at the destination is put, instead of refusing.
    pub replaced: Option<PathBuf>,
    /// How many bytes may be written.
    pub room: u64,
    /// What is still to be done with the folder, before it gets its name: links aren't in it yet.
    pub prepare: &'a mut dyn FnMut(&Path) -> Result<(), ArchiveError>,
    /// Is told every piece of a file, and can stop it.
    pub progress: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
}

/// What was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Files, links and folders.
    pub entries: u64,
    /// Bytes in the files.
    pub bytes: u64,
}

fn damaged(error: impl ToString) -> ArchiveError {
    ArchiveError::Damaged(error.to_string())
}

impl<R: Read + Seek> Archive<R> {
    /// Reads the directory, and refuses what isn't an archive of a workspace.
    pub fn open(file: R) -> Result<Self, ArchiveError> {
        let mut zip = ZipArchive::new(file).map_err(damaged)?;
        if zip.has_duplicate_names() {
            return Err(damaged("it has a name twice"));
        }
        if zip.has_overlapping_entries().map_err(damaged)? {
            return Err(damaged("entries of it lie over each other"));
        }
        let mut entries = BTreeMap::new();
        let mut bytes = 0_u64;
        for index in 0..zip.len() {
            let (path, entry) = entry(&mut zip, index)?;
            bytes = bytes.saturating_add(entry.length);
            let shown = shown(&path);
            if entries.insert(path, entry).is_some() {
                return Err(ArchiveError::Refused { path: shown, why: "it's there twice".to_owned() });
            }
        }
        for path in entries.keys() {
            for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
                if entries.get(&path[..at]).is_some_and(|above| above.kind != Kind::Folder) {
                    let why = format!("{:?}, in which it is, is no folder", shown(&path[..at]));
                    return Err(ArchiveError::Refused { path: shown(path), why });
                }
            }
        }
        Ok(Self { zip, entries, bytes })
    }

    /// Bytes in all files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The name of the workspace, if workspace.yaml says one.
    pub fn workspace_name(&mut self) -> Option<WorkspaceName> {
        let entry = self.entries.get(MANIFEST_FILE.as_bytes())?;
        if entry.kind != Kind::File || entry.length > MANIFEST_MAX {
            return None;
        }
        let mut text = Vec::new();
        self.zip.by_index(entry.index).ok()?.take(MANIFEST_MAX).read_to_end(&mut text).ok()?;
        Manifest::name_in_text(&text)
    }

    /// Makes a folder of it: all of it, or nothing.
    pub fn unpack(mut self, to: Unpack<'_>) -> Result<Unpacked, ArchiveError> {
        let Unpack { destination, links_outside, replaced, room, prepare, progress } = to;
        let refused = |why: String| ArchiveError::Destination { path: destination.to_path_buf(), why };
        let name = destination.file_name().ok_or_else(|| refused("it has no name".to_owned()))?;
        let parent = match destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let is_free = is_free(destination).map_err(|error| refused(error.to_string()))?;
        if !is_free && replaced.is_none() {
            return Err(ArchiveError::Exists { path: destination.to_path_buf() });
        }
        let links = self.links(links_outside)?;
        // A name too long for more beside it is one anyway.
        let prefix: String = name.to_string_lossy().chars().take(40).collect();
        let made = tempfile::Builder::new()
            .prefix(&format!(".{prefix}."))
            .suffix(".part")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(parent)
            .map_err(|error| refused(error.to_string()))?;
        let folder = made.path();
        let mut unpacking = Unpacking { folder, room, left: room, unpacked: Unpacked::default(), progress };
        for (path, entry) in &self.entries {
            unpacking.add(&mut self.zip, path, entry)?;
        }
        prepare(folder)?;
        for (path, (target, modified)) in &links {
            let place = unpacking.place(path);
            let make = symlink(OsStr::from_bytes(target), &place).and_then(|()| set_time(&place, *modified));
            make.map_err(at(path))?;
        }
        // From the innermost, since a time changes with what is in it, and without write permission nothing could be.
        for (path, entry) in self.entries.iter().rev().filter(|(_, entry)| entry.kind == Kind::Folder) {
            let place = unpacking.place(path);
            let mode = entry.mode.map_or_else(|| usual(0o777), |mode| mode & 0o777);
            set_time(&place, entry.modified)
                .and_then(|()| fs::set_permissions(&place, fs::Permissions::from_mode(mode)))
                .map_err(at(path))?;
        }
        let unpacked = unpacking.unpacked;
        let failed = |error: io::Error| refused(error.to_string());
        fs::set_permissions(folder, fs::Permissions::from_mode(usual(0o777))).map_err(failed)?;
        rustix::fs::syncfs(File::open(folder).map_err(failed)?).map_err(|error| failed(error.into()))?;
        put(folder, destination, replaced.as_deref().filter(|_| !is_free)).map_err(failed)?;
        // It isn't where it was made any more.
        let _ = made.keep();
        // The names themselves, against a power loss. What was made is there in any case.
        let _ = File::open(parent).and_then(|parent| parent.sync_all());
        Ok(unpacked)
    }

    /// Where the links lead, if they may.
    fn links(&mut self, outside: bool) -> Result<Links, ArchiveError> {
        let mut links = Links::new();
        for (path, entry) in self.entries.iter().filter(|(_, entry)| entry.kind == Kind::Link) {
            let mut target = Vec::new();
            content(&mut self.zip, entry.index)
                .and_then(|file| Ok(file.take(LINK_MAX + 1).read_to_end(&mut target)?))
                .map_err(|error| broken(path, &error))?;
            let refused = |why: &str| Err(ArchiveError::Refused { path: shown(path), why: why.to_owned() });
            if target.is_empty() || target.len() as u64 > LINK_MAX || target.contains(&0) {
                return refused("a link can't lead there");
            }
            let depth = path.iter().filter(|byte| **byte == b'/').count();
            if !outside && !stays_inside(depth, &target) && !leads_to_system(&target) {
                return Err(ArchiveError::LeadsOut { path: shown(path), target: shown(&target) });
            }
            links.insert(path.clone(), (target, entry.modified));
        }
        Ok(links)
    }
}

/// Targets and times by paths.
type Links = BTreeMap<Vec<u8>, (Vec<u8>, Option<Timestamp>)>;

/// Whether a folder can be made there: nothing is there, or an empty folder.
fn is_free(destination: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(destination) {
        Ok(there) if there.is_dir() => Ok(fs::read_dir(destination)?.next().is_none()),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Gives a folder its name: the place of an empty folder, or of what is put elsewhere at the same moment.
fn put(folder: &Path, destination: &Path, replaced: Option<&Path>) -> io::Result<()> {
    let Some(replaced) = replaced else { return fs::rename(folder, destination) };
    renameat_with(CWD, folder, CWD, destination, RenameFlags::EXCHANGE)?;
    let moved = renameat_with(CWD, folder, CWD, replaced, RenameFlags::NOREPLACE);
    if moved.is_err() {
        renameat_with(CWD, folder, CWD, destination, RenameFlags::EXCHANGE)?;
    }
    Ok(moved?)
}

/// What an entry of the directory says.
fn entry<R: Read + Seek>(zip: &mut ZipArchive<R>, index: usize) -> Result<(Vec<u8>, Entry), ArchiveError> {
    const TYPE: u32 = 0o170_000;
    let file = zip.by_index_raw(index).map_err(damaged)?;
    let named = file.name_raw();
    let refused = |why: &str| ArchiveError::Refused { path: shown(named), why: why.to_owned() };
    if file.encrypted() {
        return Err(refused("it's encrypted"));
    }
    let (written, is_folder) = match named.strip_suffix(b"/") {
        Some(folder) => (folder, true),
        None => (named, false),
    };
    if let Some(why) = fault(written) {
        return Err(refused(why));
    }
    if written.contains(&b'\\') {
        return Err(refused("there's a backslash in its name"));
    }
    let mode = file.unix_mode();
    let kind = match (mode.unwrap_or(0) & TYPE, is_folder) {
        (0 | 0o040_000, true) => Kind::Folder,
        (0 | 0o100_000, false) => Kind::File,
        (0o120_000, false) => Kind::Link,
        (0o040_000 | 0o100_000 | 0o120_000, _) => {
            return Err(refused("it's a folder by its name or its type, not both"));
        }
        _ => return Err(refused("it's a device, pipe or socket")),
    };
    let (length, packed) = (file.size(), file.compressed_size());
    let possible = match file.compression() {
        CompressionMethod::Stored => length == packed,
        CompressionMethod::Deflated => {
            length <= packed.saturating_mul(MOST_OF_ONE).saturating_add(MOST_OF_ONE)
        }
        other => return Err(refused(&format!("it's compressed by {other}, which isn't known here"))),
    };
    if !possible || (kind == Kind::Folder && length > 0) || (kind == Kind::Link && length > LINK_MAX) {
        return Err(refused(&format!("it can't have the {length} bytes that it's said to have")));
    }
    let mut path = written.to_vec();
    let mut modified = file.last_modified().and_then(|time| {
        let (year, month, day) = (i16::try_from(time.year()).ok()?, time.month() as i8, time.day() as i8);
        let (hour, minute, second) = (time.hour() as i8, time.minute() as i8, time.second() as i8);
        let time = jiff::civil::DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
        let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
        Some(Timestamp { seconds: time.as_second(), nanoseconds: 0 })
    });
    let mut exact = None;
    for field in file.extra_data_fields() {
        match field {
            ExtraField::ExtendedTimestamp(times) => {
                if let Some(seconds) = times.mod_time() {
                    modified = Some(Timestamp { seconds: i64::from(seconds as i32), nanoseconds: 0 });
                }
            }
            ExtraField::Custom(field) if field.header_id == FIELD => exact = Exact::decode(&field.data),
            _ => {}
        }
    }
    if let Some(exact) = exact {
        modified = Some(exact.modified);
        if let Some(name) = exact.path {
            if fault(&name).is_some() || portable_path(&name).as_bytes() != written {
                return Err(refused("it has two names"));
            }
            path = name;
        }
    }
    // Programs that know nothing of permissions leave them empty.
    let mode = mode.filter(|mode| mode & TYPE != 0 || mode & 0o777 != 0);
    Ok((path, Entry { index, kind, mode, modified, length }))
}

/// The content of an entry, whose own head must say the same as the directory.
fn content<R: Read + Seek>(zip: &mut ZipArchive<R>, index: usize) -> Result<impl Read, ZipError> {
    let options = ZipReadOptions::new().enforce_header_consistency(true);
    zip.by_index_with_options(index, options)
}

/// Why an entry's content can't be had.
fn broken(path: &[u8], error: &ZipError) -> ArchiveError {
    ArchiveError::Refused { path: shown(path), why: error.to_string() }
}

fn at(path: &[u8]) -> impl FnOnce(io::Error) -> ArchiveError {
    let path = shown(path);
    move |source| ArchiveError::File { path, source }
}

fn set_time(place: &Path, time: Option<Timestamp>) -> io::Result<()> {
    let Some(time) = time else { return Ok(()) };
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, place, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The permissions that the user gives to what they make.
fn usual(mode: u32) -> u32 {
    // The mask can only be asked for by setting it, which other threads would see.
    let masked = fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?.trim().to_owned();
        u32::from_str_radix(&mask, 8).ok()
    });
    mode & !masked.unwrap_or(0o022)
}

struct Unpacking<'a> {
    folder: &'a Path,
    room: u64,
    /// How many bytes may still be written.
    left: u64,
    unpacked: Unpacked,
    progress: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
}

impl Unpacking<'_> {
    fn place(&self, path: &[u8]) -> PathBuf {
        self.folder.join(OsStr::from_bytes(path))
    }

    fn take(&mut self, bytes: u64) -> Result<(), ArchiveError> {
        self.left = self.left.checked_sub(bytes).ok_or(ArchiveError::NoSpace { room: self.room })?;
        Ok(())
    }

    fn add<R: Read + Seek>(
        &mut self,
        zip: &mut ZipArchive<R>,
        path: &[u8],
        entry: &Entry,
    ) -> Result<(), ArchiveError> {
        self.take(ENTRY)?;
        let place = self.place(path);
        let folder = if entry.kind == Kind::Folder { Some(place.as_path()) } else { place.parent() };
        if let Some(folder) = folder {
            fs::create_dir_all(folder).map_err(at(path))?;
        }
        if entry.kind == Kind::File {
            self.file(zip, path, entry)?;
        }
        self.unpacked.entries += 1;
        self.step(0)
    }

    fn step(&mut self, bytes: u64) -> Result<(), ArchiveError> {
        self.unpacked.bytes += bytes;
        match (self.progress)(bytes) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ArchiveError::Stopped),
        }
    }

    /// Makes a file; what is zero in it becomes holes.
    fn file<R: Read + Seek>(
        &mut self,
        zip: &mut ZipArchive<R>,
        path: &[u8],
        entry: &Entry,
    ) -> Result<(), ArchiveError> {
        let place = self.place(path);
        let mut content = content(zip, entry.index).map_err(|error| broken(path, &error))?;
        // Nothing is there that could be a link: all there is was made by us, and links come last.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o666).open(&place);
        let file = file.map_err(at(path))?;
        let mut piece = vec![0; PIECE];
        let mut offset = 0;
        loop {
            let count = fill(&mut content, &mut piece).map_err(|error| broken(path, &error.into()))?;
            if offset + count as u64 > entry.length || (count == 0 && offset < entry.length) {
                let why = format!("it hasn't the {} bytes that it's said to have", entry.length);
                return Err(ArchiveError::Refused { path: shown(path), why });
            }
            if count == 0 {
                break;
            }
            let bytes = &piece[..count];
            if bytes != &ZEROS[..count] {
                self.take(count as u64)?;
                file.write_all_at(bytes, offset).map_err(at(path))?;
            }
            offset += count as u64;
            self.step(count as u64)?;
        }
        file.set_len(entry.length).map_err(at(path))?;
        if let Some(mode) = entry.mode {
            file.set_permissions(fs::Permissions::from_mode(mode & 0o777)).map_err(at(path))?;
        }
        drop(file);
        set_time(&place, entry.modified).map_err(at(path))
    }
}

/// Reads as many bytes as there are and there's place for.
fn fill(from: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < piece.len() {
        match from.read(&mut piece[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}
