use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    panic::AssertUnwindSafe,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use futures_util::FutureExt;
use twinshare::{
    layer::Seek,
    types::Timestamp,
    view::{Allocate, Attr, Cookie, FileKind, Ino, Maker, New, Reading, Rename, Set, View, ViewError},
};

use super::errno::errno;

/// The kernel keeps what it was told until it's told otherwise.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Numbers are never used for another version, so that generations aren't needed.
const GENERATION: Generation = Generation(0);

/// Names and content of a page: what `statfs` reports as the unit of space.
const BLOCK: u32 = 4096;

/// Serves a view to the kernel.
pub(super) struct Adapter {
    view: Arc<View>,
    runtime: tokio::runtime::Handle,
}

impl Adapter {
    pub(super) fn new(view: Arc<View>, runtime: tokio::runtime::Handle) -> Self {
        Self { view, runtime }
    }

    fn make(&self, parent: INodeNo, name: &OsStr, new: New, maker: Maker, reply: ReplyEntry) {
        let (view, name) = (self.view.clone(), name.as_bytes().to_vec());
        self.answer(async move { entry(view.make(Ino(parent.0), &name, new, maker).await, reply) });
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, is_folder: bool, reply: ReplyEmpty) {
        let (view, name) = (self.view.clone(), name.as_bytes().to_vec());
        self.answer(async move { done(view.remove(Ino(parent.0), &name, is_folder).await, reply) });
    }

    /// Runs `reply` on this thread if it's ready at once, else somewhere else: the kernel's threads never wait.
    fn answer(&self, reply: impl Future<Output = ()> + Send + 'static) {
        // A panic must not take the mount down; a reply that is dropped by it tells the kernel EIO.
        let mut reply = Box::pin(AssertUnwindSafe(reply).catch_unwind());
        let _entered = self.runtime.enter();
        match (&mut reply).now_or_never() {
            Some(Ok(())) => {}
            Some(Err(_)) => tracing::error!("a request made the file system panic"),
            None => {
                self.runtime.spawn(async move {
                    if reply.await.is_err() {
                        tracing::error!("a request made the file system panic");
                    }
                });
            }
        }
    }
}

fn failed(error: ViewError) -> Errno {
    match &error {
        ViewError::NotFound | ViewError::NoAttribute => {}
        ViewError::Source(source) => tracing::debug!(%source, "a request failed"),
        error => tracing::debug!(%error, "a request failed"),
    }
    errno(&error)
}

fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.allocated.div_ceil(512),
        atime: attr.accessed.into(),
        mtime: attr.modified.into(),
        ctime: attr.changed.into(),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: match attr.kind {
            FileKind::Character(device) | FileKind::Block(device) => device,
            _ => 0,
        },
        blksize: BLOCK,
        flags: 0,
    }
}

fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Folder => FileType::Directory,
        FileKind::File => FileType::RegularFile,
        FileKind::Link => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::Character(_) => FileType::CharDevice,
        FileKind::Block(_) => FileType::BlockDevice,
    }
}

/// Whom something new belongs to: whoever asks for it.
fn maker(request: &Request, mode: u32, umask: u32) -> Maker {
    Maker { uid: request.uid(), gid: request.gid(), mode: (mode & !umask & 0o7777) as u16 }
}

fn time(time: Option<TimeOrNow>) -> Option<Timestamp> {
    time.map(|time| match time {
        TimeOrNow::SpecificTime(time) => time.into(),
        TimeOrNow::Now => SystemTime::now().into(),
    })
}

/// Answers with what `stat` tells.
fn attributes(found: Result<Attr, ViewError>, reply: ReplyAttr) {
    match found {
        Ok(attr) => reply.attr(&FOREVER, &file_attr(&attr)),
        Err(error) => reply.error(failed(error)),
    }
}

/// Answers with what was made or found.
fn entry(made: Result<Attr, ViewError>, reply: ReplyEntry) {
    match made {
        Ok(attr) => reply.entry(&FOREVER, &file_attr(&attr), GENERATION),
        Err(error) => reply.error(failed(error)),
    }
}

/// Answers whether it was done.
fn done(outcome: Result<(), ViewError>, reply: ReplyEmpty) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(failed(error)),
    }
}

/// An entry that says "there is no such name", which the kernel may remember.
fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

/// The kernel's flag of a file that it opened to execute it (`__FMODE_EXEC` in linux/fs.h); it's not among the flags of open(2).
const EXECUTED: i32 = 0x20;

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_CACHE_SYMLINKS
            // A folder whose time changed drops its cached listing, should one have been read while it changed.
            | InitFlags::FUSE_AUTO_INVAL_DATA
            // Else each write would ask for the attribute that says what a program may do.
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        // What the kernel lacks costs speed, not correctness. ATOMIC_O_TRUNC is never asked for: without OPEN, old tails
        // would survive truncation.
        if let Err(lacking) = config.add_capabilities(wanted) {
            let offered = wanted.difference(lacking);
            tracing::info!(?lacking, "the kernel lacks capabilities");
            let _ = config.add_capabilities(offered);
        }
        if !config.capabilities().contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT) {
            tracing::info!("the kernel asks before each open; it will be slower");
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (view, name) = (self.view.clone(), name.as_bytes().to_vec());
        self.answer(async move {
            match view.lookup(Ino(parent.0), &name).await {
                Err(ViewError::NotFound) => reply.entry(&FOREVER, &absent(), GENERATION),
                found => entry(found, reply),
            }
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.view.forget(Ino(ino.0), count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attributes(self.view.getattr(Ino(ino.0)), reply);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.view.readlink(Ino(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(failed(error)),
        }
    }

    // ENOSYS tells the kernel to open and close without asking from now on; it then keeps pages and listings cached.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    /// Programs ask whether a file is a terminal: at every `open` of Python, for one.
    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let view = self.view.clone();
        let why = if flags.0 & EXECUTED == 0 { Reading::ToSee } else { Reading::ToExecute };
        self.answer(async move {
            match view.read(Ino(ino.0), offset, size, why).await {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(failed(error)),
            }
        });
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let view = self.view.clone();
        self.answer(async move {
            let add = |cookie: Cookie, name: &[u8], attr: Attr| {
                reply.add(INodeNo(attr.ino.0), cookie.0, file_type(attr.kind), OsStr::from_bytes(name))
            };
            match view.readdir(Ino(ino.0), Cookie(offset), false, add).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(failed(error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let view = self.view.clone();
        self.answer(async move {
            let add = |cookie: Cookie, name: &[u8], attr: Attr| {
                let name = OsStr::from_bytes(name);
                reply.add(INodeNo(attr.ino.0), cookie.0, name, &FOREVER, &file_attr(&attr), GENERATION)
            };
            match view.readdir(Ino(ino.0), Cookie(offset), true, add).await {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(failed(error)),
            }
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let space = self.view.space();
        let (blocks, free) = (space.bytes.div_ceil(BLOCK.into()), space.free / u64::from(BLOCK));
        reply.statfs(blocks, free, free, space.files, space.free_files, BLOCK, 255, BLOCK);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = Set {
            mode: mode.map(|mode| (mode & 0o7777) as u16),
            uid,
            gid,
            size,
            accessed: time(accessed),
            modified: time(modified),
            drops_privileges: request.uid() != 0,
        };
        attributes(self.view.set(Ino(ino.0), &set), reply);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let new = match mode & libc::S_IFMT {
            0 | libc::S_IFREG => New::File,
            libc::S_IFIFO => New::Fifo,
            libc::S_IFSOCK => New::Socket,
            // The kernel lets only root make them, and the mount nobody open them.
            libc::S_IFCHR => New::Character(device),
            libc::S_IFBLK => New::Block(device),
            _ => return reply.error(Errno::EPERM),
        };
        self.make(parent, name, new, maker(request, mode, umask), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.make(parent, name, New::Folder, maker(request, mode, umask), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let new = New::Link(target.as_os_str().as_bytes().to_vec());
        self.make(parent, name, new, maker(request, 0o777, 0), reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let (view, name, maker) = (self.view.clone(), name.as_bytes().to_vec(), maker(request, mode, umask));
        self.answer(async move {
            match view.make(Ino(parent.0), &name, New::File, maker).await {
                Ok(attr) => {
                    let (handle, flags) = (FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
                    reply.created(&FOREVER, &file_attr(&attr), GENERATION, handle, flags);
                }
                Err(error) => reply.error(failed(error)),
            }
        });
    }

    /// Follows CREATE until the kernel has learned that it needn't open.
    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (view, name) = (self.view.clone(), name.as_bytes().to_vec());
        self.answer(async move { entry(view.link(Ino(ino.0), Ino(parent.0), &name).await, reply) });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, false, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, true, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let how = if flags == RenameFlags::RENAME_EXCHANGE {
            Rename::Exchange
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            Rename::Keep
        } else if flags.is_empty() {
            Rename::Replace
        } else {
            return reply.error(Errno::EINVAL);
        };
        let view = self.view.clone();
        let (name, to_name) = (name.as_bytes().to_vec(), to_name.as_bytes().to_vec());
        self.answer(async move {
            done(view.rename((Ino(parent.0), &name), (Ino(to.0), &to_name), how).await, reply);
        });
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        how: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let drops_privileges = how.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        match self.view.write(Ino(ino.0), offset, data, drops_privileges) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(failed(error)),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let keeps_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let what = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => Allocate::Reserve,
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE => Allocate::Zero,
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        done(self.view.allocate(Ino(ino.0), offset, length, what, !keeps_size), reply);
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        match self.view.seek(Ino(ino.0), offset, what) {
            Ok(Some(found)) => reply.offset(found as i64),
            Ok(None) => reply.error(Errno::ENXIO),
            Err(error) => reply.error(failed(error)),
        }
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // The disk may take its time: others mustn't wait for it.
        let view = self.view.clone();
        self.runtime.spawn_blocking(move || done(view.sync(Ino(ino.0)), reply));
    }

    fn fsyncdir(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.fsync(request, ino, handle, datasync, reply);
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let there = match flags {
            libc::XATTR_CREATE => Some(false),
            libc::XATTR_REPLACE => Some(true),
            _ => None,
        };
        done(self.view.setxattr(Ino(ino.0), name.as_bytes(), value, there), reply);
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.view.removexattr(Ino(ino.0), name.as_bytes()), reply);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.view.getxattr(Ino(ino.0), name.as_bytes()) {
            Ok(value) => sized(&value, size, reply),
            Err(error) => reply.error(failed(error)),
        }
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.view.listxattr(Ino(ino.0)) {
            Ok(names) => {
                let list: Vec<u8> = names.iter().flat_map(|name| name.iter().copied().chain([0])).collect();
                sized(&list, size, reply);
            }
            Err(error) => reply.error(failed(error)),
        }
    }
}

/// Answers an attribute request: the value if it fits, its length if that is what was asked.
fn sized(value: &[u8], size: u32, reply: ReplyXattr) {
    match size {
        0 => reply.size(value.len() as u32),
        size if value.len() <= size as usize => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}
