use std::{
    collections::HashSet,
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};

/// What was heard since the last time it was taken.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Watches of folders in which something changed.
    pub(super) folders: HashSet<i32>,
    /// Events were lost: anything may have changed.
    pub(super) lost: bool,
}

/// Watches of folders, with inotify.
///
/// A folder is watched by its descriptor before its names are read, so that no change falls between, and a watch stays
/// with its folder when that is renamed.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: Arc<OwnedFd>,
    heard: Arc<Mutex<Heard>>,
    /// A watch that hears nothing: its removal ends the thread that listens.
    end: i32,
    watches: AtomicUsize,
    limit: usize,
    limited: AtomicBool,
}

impl Watch {
    /// Starts to listen. `notify` is called when there's something to take; at most `limit` folders are watched.
    pub(super) fn start(limit: usize, notify: impl Fn() + Send + 'static) -> io::Result<Self> {
        let inotify = Arc::new(inotify::init(CreateFlags::CLOEXEC)?);
        let end = inotify::add_watch(&inotify, "/", WatchFlags::DELETE_SELF)?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let (descriptor, all) = (Arc::clone(&inotify), Arc::clone(&heard));
        thread::Builder::new()
            .name("workspace-watch".into())
            .spawn(move || listen(&descriptor, &all, end, notify))?;
        Ok(Self { inotify, heard, end, watches: AtomicUsize::new(0), limit, limited: AtomicBool::new(false) })
    }

    /// Watches an open folder; `None` when that isn't possible. Watching a folder again gives the same number.
    pub(super) fn add(&self, folder: BorrowedFd<'_>) -> Option<i32> {
        let events = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR
            | WatchFlags::EXCL_UNLINK;
        if self.watches.load(Ordering::Relaxed) >= self.limit {
            self.limited.store(true, Ordering::Relaxed);
            return None;
        }
        match inotify::add_watch(&self.inotify, format!("/proc/self/fd/{}", folder.as_raw_fd()), events) {
            Ok(watch) => {
                // Watching a folder again counts twice until the count is set right after the round.
                self.watches.fetch_add(1, Ordering::Relaxed);
                Some(watch)
            }
            Err(Errno::NOSPC) => {
                self.limited.store(true, Ordering::Relaxed);
                None
            }
            Err(error) => {
                tracing::debug!(%error, "can't watch a folder");
                None
            }
        }
    }

    /// Tells how many folders are watched now, so that the limit can be kept.
    pub(super) fn count(&self, watches: usize) {
        self.watches.store(watches, Ordering::Relaxed);
    }

    /// Ends the watch of a folder.
    pub(super) fn remove(&self, watch: i32) {
        // A folder that doesn't exist any more has taken its watch with it.
        let _ = inotify::remove_watch(&self.inotify, watch);
    }

    /// What was heard since the last call.
    pub(super) fn take(&self) -> Heard {
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether some folder couldn't be watched for want of watches.
    pub(super) fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = inotify::remove_watch(&self.inotify, self.end);
    }
}

fn listen(inotify: &OwnedFd, heard: &Mutex<Heard>, end: i32, notify: impl Fn()) {
    let mut buffer = [MaybeUninit::uninit(); 64 << 10];
    let mut reader = Reader::new(inotify, &mut buffer);
    loop {
        let (watch, lost) = match reader.next() {
            Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => (None, true),
            Ok(event) if event.wd() == end => return,
            Ok(event) => (Some(event.wd()), false),
            Err(Errno::INTR) => continue,
            Err(error) => {
                tracing::warn!(%error, "can't hear of changes any more: folders are looked through from time to time");
                return;
            }
        };
        let news = {
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            let news = heard.folders.is_empty() && !heard.lost;
            heard.folders.extend(watch);
            heard.lost |= lost;
            news
        };
        if news {
            notify();
        }
    }
}
