use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use futures_util::FutureExt;
use twinshare::view::{Attr, Cookie, FileKind, Ino, Reading, View, ViewError};

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
    let modified = SystemTime::from(attr.modified);
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.allocated.div_ceil(512),
        atime: modified,
        mtime: modified,
        ctime: modified,
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Folder => FileType::Directory,
        FileKind::File => FileType::RegularFile,
        FileKind::Link => FileType::Symlink,
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
            | InitFlags::FUSE_AUTO_INVAL_DATA;
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
                Ok(attr) => reply.entry(&FOREVER, &file_attr(&attr), GENERATION),
                Err(ViewError::NotFound) => reply.entry(&FOREVER, &absent(), GENERATION),
                Err(error) => reply.error(failed(error)),
            }
        });
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.view.forget(Ino(ino.0), count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.view.getattr(Ino(ino.0)) {
            Ok(attr) => reply.attr(&FOREVER, &file_attr(&attr)),
            Err(error) => reply.error(failed(error)),
        }
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
        let blocks = space.bytes.div_ceil(BLOCK.into());
        reply.statfs(blocks, 0, 0, space.files, 0, BLOCK, 255, BLOCK);
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
                let list: Vec<u8> = names.iter().flat_map(|name| name.bytes().chain([0])).collect();
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
