use std::{
    cell::Cell,
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    ops::ControlFlow,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    rc::Rc,
};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2, readlinkat};
use zip::{
    CompressionMethod, DateTime, ZipWriter,
    write::{FullFileOptions, SimpleFileOptions, StreamWriter},
};

use super::{ArchiveError, Exact, FIELD, names::portable_path, shown};
use crate::types::Timestamp;

/// Bytes of a file that are read at once.
const PIECE: usize = 256 << 10;

/// Files of this length and more are written so that they may have 4 GiB and more: one that still grows is to fit too.
const LARGE: u64 = 2 << 30;

/// What stands in an archive beside a file's content.
#[derive(Debug, Clone, Copy)]
pub struct Attributes {
    /// The permission bits; others aren't kept.
    pub mode: u16,
    /// When it was changed last.
    pub modified: Timestamp,
}

/// Writes an archive from its beginning to its end, without going back. What is dropped unfinished has no end, so that nobody
/// takes it for a whole archive.
pub struct Writer<W: Write> {
    archive: Option<ZipWriter<StreamWriter<Gate<W>>>>,
    shut: Rc<Cell<bool>>,
}

/// Lets nothing through any more once it's shut: the crate's writer ends an archive when it's dropped.
struct Gate<W> {
    output: W,
    shut: Rc<Cell<bool>>,
}

impl<W: Write> Write for Gate<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.shut.get() { Ok(bytes.len()) } else { self.output.write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.shut.get() { Ok(()) } else { self.output.flush() }
    }
}

impl<W: Write> Drop for Writer<W> {
    fn drop(&mut self) {
        self.shut.set(true);
    }
}

impl<W: Write> Writer<W> {
    /// Begins an archive.
    pub fn new(output: W) -> Self {
        let shut = Rc::new(Cell::new(false));
        let gate = Gate { output, shut: shut.clone() };
        Self { archive: Some(ZipWriter::new_stream(gate)), shut }
    }

    /// Adds a folder; a path's names have `/` between them.
    pub fn folder(&mut self, path: &[u8], attributes: Attributes) -> io::Result<()> {
        let (name, options) = named(path, attributes)?;
        self.archive()?.add_directory(name, options).map_err(io::Error::from)
    }

    /// Adds a link.
    pub fn link(&mut self, path: &[u8], target: &[u8], attributes: Attributes) -> io::Result<()> {
        const LINK: u32 = 0o120_777;
        let (name, options) = named(path, attributes)?;
        let options = options.external_attributes(LINK << 16).compression_method(CompressionMethod::Stored);
        let archive = self.archive()?;
        archive.start_file(name, options).map_err(io::Error::from)?;
        archive.write_all(target)
    }

    /// Begins a file of about this length. What is written from now on is its content, until the next is added.
    pub fn file(&mut self, path: &[u8], length: u64, attributes: Attributes) -> io::Result<()> {
        let (name, options) = named(path, attributes)?;
        self.archive()?.start_file(name, options.large_file(length >= LARGE)).map_err(io::Error::from)
    }

    /// Ends the archive, with a text for people in it.
    pub fn finish(mut self, comment: &str) -> io::Result<W> {
        let mut archive = self.archive.take().ok_or_else(ended)?;
        archive.set_comment(comment).map_err(io::Error::from)?;
        let gate = archive.finish().map_err(io::Error::from)?.into_inner();
        let mut output = gate.output;
        output.flush()?;
        Ok(output)
    }

    fn archive(&mut self) -> io::Result<&mut ZipWriter<StreamWriter<Gate<W>>>> {
        self.archive.as_mut().ok_or_else(ended)
    }
}

/// The content of the file that was begun last.
impl<W: Write> Write for Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.archive()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.archive()?.flush()
    }
}

fn ended() -> io::Error {
    io::Error::other("the archive has ended")
}

/// The name that something has in the archive, and what is said of it beside.
fn named(path: &[u8], attributes: Attributes) -> io::Result<(String, FullFileOptions<'static, 'static>)> {
    let Attributes { mode, modified } = attributes;
    let name = portable_path(path);
    let mut options = SimpleFileOptions::default()
        .unix_permissions(u32::from(mode & 0o777))
        .last_modified_time(archived_time(modified))
        .into_full_options();
    if let Ok(seconds) = i32::try_from(modified.seconds)
        && let Ok(seconds) = u32::try_from(seconds)
    {
        options = options.with_extended_timestamp(Some(seconds), None, None).map_err(io::Error::from)?;
    }
    let exact = Exact { modified, path: (name.as_bytes() != path).then(|| path.to_vec()) };
    options.add_extra_field(FIELD, exact.encode(), true).map_err(io::Error::from)?;
    Ok((name, options))
}

/// A time as archives have it, in UTC: from 1980 to 2107, and in steps of two seconds.
fn archived_time(time: Timestamp) -> DateTime {
    let known = jiff::Timestamp::from_second(time.seconds).ok().and_then(|time| {
        let time = time.to_zoned(jiff::tz::TimeZone::UTC).datetime();
        let small = |part: i8| u8::try_from(part).ok();
        DateTime::from_date_and_time(
            u16::try_from(time.year()).ok()?,
            small(time.month())?,
            small(time.day())?,
            small(time.hour())?,
            small(time.minute())?,
            small(time.second())?,
        )
        .ok()
    });
    known.unwrap_or_default()
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packed {
    /// Files, links and folders.
    pub entries: u64,
    /// Bytes in the files.
    pub bytes: u64,
    /// Files that the user can't read, and so aren't in it.
    pub unreadable: u64,
}

/// Writes what is at these paths below `root` as an archive. A path's names have `/` between them, and a folder comes before what
/// is in it. What has gone meanwhile is left out. A link into `outside`, by which a mount shows its owner's other files, is written as
/// it is on the owner's machine. Every piece of a file is told to `progress`, which can stop it.
pub fn pack<W: Write>(
    root: &Path,
    outside: Option<&Path>,
    paths: impl IntoIterator<Item = impl AsRef<[u8]>>,
    output: W,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<(Packed, W), ArchiveError> {
    let at = |path: &[u8]| {
        let path = shown(path);
        move |source| ArchiveError::File { path, source }
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(root, flags, Mode::empty());
    let folder = folder.map_err(|error| at(root.as_os_str().as_bytes())(error.into()))?;
    let outside = outside.map(|outside| outside.as_os_str().as_bytes());
    let archive = Writer::new(output);
    let mut packing = Packing { folder, outside, archive, packed: Packed::default(), progress };
    let mut piece = vec![0; PIECE];
    for path in paths {
        match packing.add(path.as_ref(), &mut piece) {
            Ok(()) => {}
            Err(Failed::Read(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(Failed::Read(error)) => return Err(at(path.as_ref())(error)),
            Err(Failed::Write(error)) => return Err(ArchiveError::Write(error)),
            Err(Failed::Stopped) => return Err(ArchiveError::Stopped),
        }
    }
    let output = packing.archive.finish("").map_err(ArchiveError::Write)?;
    Ok((packing.packed, output))
}

/// Which side failed: what is read, or what is written.
enum Failed {
    Read(io::Error),
    Write(io::Error),
    Stopped,
}

struct Packing<'a, W: Write> {
    folder: OwnedFd,
    outside: Option<&'a [u8]>,
    archive: Writer<W>,
    packed: Packed,
    progress: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
}

impl<W: Write> Packing<'_, W> {
    fn add(&mut self, path: &[u8], piece: &mut [u8]) -> Result<(), Failed> {
        // What may be opened without being changed or waited for, and never through a link.
        let outside = self.outside;
        let place = self.open(path, OFlags::PATH).map_err(Failed::Read)?;
        let status = fstat(&place).map_err(|error| Failed::Read(error.into()))?;
        let modified = Timestamp { seconds: status.st_mtime as _, nanoseconds: status.st_mtime_nsec as _ };
        let attributes = Attributes { mode: (status.st_mode & 0o7777) as u16, modified };
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => self.archive.folder(path, attributes).map_err(Failed::Write)?,
            FileType::Symlink => {
                let target =
                    readlinkat(&place, c"", Vec::new()).map_err(|error| Failed::Read(error.into()))?;
                let target = match outside.and_then(|outside| target.to_bytes().strip_prefix(outside)) {
                    Some(b"") => b"/",
                    Some(rest) if rest.starts_with(b"/") => rest,
                    _ => target.to_bytes(),
                };
                self.archive.link(path, target, attributes).map_err(Failed::Write)?;
            }
            FileType::RegularFile => {
                // NONBLOCK: a fifo that took the file's place would wait for its other end.
                match self.open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
                    Ok(file) => self.file(path, File::from(file), attributes, piece)?,
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                        self.packed.unreadable += 1;
                        return Ok(());
                    }
                    Err(error) => return Err(Failed::Read(error)),
                }
            }
            _ => return Ok(()),
        }
        self.packed.entries += 1;
        self.step(0)
    }

    fn file(
        &mut self,
        path: &[u8],
        mut file: File,
        attributes: Attributes,
        piece: &mut [u8],
    ) -> Result<(), Failed> {
        let length = file.metadata().map_err(Failed::Read)?.len();
        self.archive.file(path, length, attributes).map_err(Failed::Write)?;
        loop {
            let count = match file.read(piece) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // It has begun, so that it can't be left out any more.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(Failed::Read(io::Error::other(error)));
                }
                Err(error) => return Err(Failed::Read(error)),
            };
            self.archive.write_all(&piece[..count]).map_err(Failed::Write)?;
            self.packed.bytes += count as u64;
            self.step(count as u64)?;
        }
    }

    fn step(&mut self, bytes: u64) -> Result<(), Failed> {
        match (self.progress)(bytes) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Failed::Stopped),
        }
    }

    fn open(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(self.folder.as_fd(), OsStr::from_bytes(path), flags, Mode::empty(), within)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_archives_are_as_near_as_they_get() {
        let shown = |seconds| {
            let time = archived_time(Timestamp { seconds, nanoseconds: 5 });
            (time.year(), time.month(), time.day(), time.hour(), time.minute(), time.second())
        };
        assert_eq!(shown(1_000_000_000), (2001, 9, 9, 1, 46, 40));
        for impossible in [0, -5, i64::MIN, i64::MAX, 5_000_000_000] {
            assert_eq!(shown(impossible), (1980, 1, 1, 0, 0, 0));
        }
    }

    #[test]
    fn an_archive_that_breaks_off_has_no_end() {
        let mut bytes = Vec::new();
        let attributes = Attributes { mode: 0o644, modified: Timestamp::default() };
        let mut archive = Writer::new(&mut bytes);
        archive.file(b"f", 3, attributes).unwrap();
        archive.write_all(b"abc").unwrap();
        archive.file(b"g", 3, attributes).unwrap();
        drop(archive);
        assert!(zip::ZipArchive::new(io::Cursor::new(&bytes)).is_err());
        assert!(!bytes.windows(4).any(|four| four == b"PK\x05\x06"));
    }
}
