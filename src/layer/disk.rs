use std::{
    fs::{File, OpenOptions},
    io,
    num::NonZeroUsize,
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use lru::LruCache;
use rustix::fs::{FallocateFlags, SeekFrom, XattrFlags};

/// Descriptors that a layer keeps open.
const OPEN: NonZeroUsize = NonZeroUsize::new(128).unwrap();

/// The attribute that says which path a data file belongs to, for people who have to do without the journal.
const LABEL: &str = "user.twinshare.path";

/// The bytes that were written to one file of the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataFile {
    /// The node's number.
    pub number: u64,
    /// Grows when the file starts anew.
    pub generation: u32,
}

/// A file that a layer consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// The journal.
    Journal,
    /// The journal that will take its place.
    NextJournal,
    /// Data.
    Data(DataFile),
}

/// What a layer asks of a disk. Files are made by writing to them; what isn't there is empty.
pub trait Disk: Send + Sync {
    /// Another value after each start of the machine: what wasn't synced before it may be lost.
    fn boot(&self) -> [u8; 16];
    /// Up to `buffer.len()` bytes from `offset`; fewer only at the end.
    fn read(&self, file: FileName, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all bytes at `offset`.
    fn write(&self, file: FileName, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// The file's length; 0 if there's none.
    fn length(&self, file: FileName) -> io::Result<u64>;
    /// Shortens or extends the file.
    fn resize(&self, file: FileName, size: u64) -> io::Result<()>;
    /// Reserves space without changing the length.
    fn reserve(&self, file: FileName, offset: u64, length: u64) -> io::Result<()>;
    /// Makes bytes zero without changing the length.
    fn punch(&self, file: FileName, offset: u64, length: u64) -> io::Result<()>;
    /// Where from `offset` on the next data is; none if there are only zeros.
    fn next_data(&self, file: FileName, offset: u64) -> io::Result<Option<u64>>;
    /// Where from `offset`, which is in data, the next hole or the end is.
    fn next_hole(&self, file: FileName, offset: u64) -> io::Result<u64>;
    /// The bytes that the file takes.
    fn allocated(&self, file: FileName) -> io::Result<u64>;
    /// Says which path it belongs to, in a way that people find.
    fn label(&self, file: FileName, path: &[u8]) -> io::Result<()>;
    /// Returns when the file's content will survive a power loss.
    fn sync(&self, file: FileName) -> io::Result<()>;
    /// Returns when the content of all files, and their names, will.
    fn sync_all(&self) -> io::Result<()>;
    /// Returns when the names of files will.
    fn sync_names(&self) -> io::Result<()>;
    /// Removes the file, if it's there.
    fn remove(&self, file: FileName) -> io::Result<()>;
    /// Puts the next journal in the place of the journal.
    fn switch(&self) -> io::Result<()>;
    /// All data files.
    fn list(&self) -> io::Result<Vec<DataFile>>;
}

/// A folder of the machine's own disk: the journal, and the data files in `data/`.
pub struct RealDisk {
    folder: PathBuf,
    open: Mutex<LruCache<FileName, Arc<File>>>,
}

impl RealDisk {
    /// Makes the folder if it isn't there.
    pub fn new(folder: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(folder.join("data"))?;
        Ok(Self { folder, open: Mutex::new(LruCache::new(OPEN)) })
    }

    fn path(&self, file: FileName) -> PathBuf {
        match file {
            FileName::Journal => self.folder.join("journal"),
            FileName::NextJournal => self.folder.join("journal.next"),
            FileName::Data(DataFile { number, generation }) => {
                self.folder.join("data").join(format!("{number:016x}.{generation}"))
            }
        }
    }

    /// The open file; none if it doesn't exist and isn't to be made.
    fn file(&self, file: FileName, make: bool) -> io::Result<Option<Arc<File>>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = open.get(&file) {
            return Ok(Some(known.clone()));
        }
        match OpenOptions::new().read(true).write(true).create(make).truncate(false).open(self.path(file)) {
            Ok(opened) => {
                let opened = Arc::new(opened);
                open.put(file, opened.clone());
                Ok(Some(opened))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !make => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn made(&self, file: FileName) -> io::Result<Arc<File>> {
        self.file(file, true)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn close(&self, file: FileName) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).pop(&file);
    }
}

impl Disk for RealDisk {
    fn boot(&self) -> [u8; 16] {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let mut id = [0; 16];
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        // Without one, each start counts as another: then only what was synced is trusted.
        if hex::decode_to_slice(digits, &mut id).is_err() {
            id = rand::random();
        }
        id
    }

    fn read(&self, file: FileName, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(file) = self.file(file, false)? else { return Ok(0) };
        let mut done = 0;
        while done < buffer.len() {
            match file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write(&self, file: FileName, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.made(file)?.write_all_at(bytes, offset)
    }

    fn length(&self, file: FileName) -> io::Result<u64> {
        Ok(self.file(file, false)?.map(|file| file.metadata()).transpose()?.map_or(0, |stat| stat.len()))
    }

    fn resize(&self, file: FileName, size: u64) -> io::Result<()> {
        self.made(file)?.set_len(size)
    }

    fn reserve(&self, file: FileName, offset: u64, length: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(self.made(file)?, FallocateFlags::KEEP_SIZE, offset, length)?)
    }

    fn punch(&self, file: FileName, offset: u64, length: u64) -> io::Result<()> {
        let Some(file) = self.file(file, false)? else { return Ok(()) };
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(file, flags, offset, length)?)
    }

    fn next_data(&self, file: FileName, offset: u64) -> io::Result<Option<u64>> {
        let Some(file) = self.file(file, false)? else { return Ok(None) };
        match rustix::fs::seek(&file, SeekFrom::Data(offset)) {
            Ok(found) => Ok(Some(found)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn next_hole(&self, file: FileName, offset: u64) -> io::Result<u64> {
        match self.file(file, false)? {
            Some(file) => Ok(rustix::fs::seek(&file, SeekFrom::Hole(offset))?),
            None => Ok(offset),
        }
    }

    fn allocated(&self, file: FileName) -> io::Result<u64> {
        let stat = self.file(file, false)?.map(|file| file.metadata()).transpose()?;
        Ok(stat.map_or(0, |stat| stat.blocks() * 512))
    }

    fn label(&self, file: FileName, path: &[u8]) -> io::Result<()> {
        let Some(file) = self.file(file, false)? else { return Ok(()) };
        match rustix::fs::fsetxattr(file, LABEL, path, XattrFlags::empty()) {
            // A disk without attributes, or a path that doesn't fit: people have to do without.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSPC) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&self, file: FileName) -> io::Result<()> {
        self.file(file, false)?.map_or(Ok(()), |file| file.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(&self.folder)?)?)
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(self.folder.join("data"))?.sync_all()?;
        File::open(&self.folder)?.sync_all()
    }

    fn remove(&self, file: FileName) -> io::Result<()> {
        self.close(file);
        match std::fs::remove_file(self.path(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn switch(&self) -> io::Result<()> {
        std::fs::rename(self.path(FileName::NextJournal), self.path(FileName::Journal))?;
        self.close(FileName::Journal);
        self.close(FileName::NextJournal);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<DataFile>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(self.folder.join("data"))? {
            let name = entry?.file_name();
            let parsed =
                name.to_str().and_then(|name| name.split_once('.')).and_then(|(number, generation)| {
                    Some(DataFile {
                        number: u64::from_str_radix(number, 16).ok()?,
                        generation: generation.parse().ok()?,
                    })
                });
            files.extend(parsed);
        }
        Ok(files)
    }
}
