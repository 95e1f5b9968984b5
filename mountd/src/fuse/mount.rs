use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread::JoinHandle,
};

use fuser::{Config, MountOption, Session, SessionACL};
use rustix::mount::MountFlags;
use tokio::sync::mpsc::UnboundedReceiver;
use twinshare::view::{Invalidation, View};

use super::{adapter::Adapter, invalidate};

/// Threads that take requests from the kernel. Two keep both cores of a small machine busy; more brought nothing.
const THREADS: usize = 2;

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    /// The folder to mount on isn't usable.
    #[error("can't use {folder} as the mount point: {why}")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What's wrong with it.
        why: String,
    },
    /// Others can't be let in.
    #[error(
        "other users can be let into the mount only if /etc/fuse.conf has a line 'user_allow_other': \
         ask root to add it, or leave --allow-other out"
    )]
    Others,
    /// The system refused.
    #[error("mounting on {folder} failed ({hint})")]
    Refused {
        /// The folder.
        folder: PathBuf,
        /// What to do.
        hint: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Where and how to mount.
pub(crate) struct MountOptions {
    /// The folder; made if it doesn't exist.
    pub(crate) folder: PathBuf,
    /// This host's name, shown as the source of the mount.
    pub(crate) host: String,
    /// Whether nothing can be changed through it.
    pub(crate) read_only: bool,
    /// Whether other users are let in; permissions decide what they may do.
    pub(crate) allow_other: bool,
}

/// A mounted view. Dropping it unmounts.
pub(crate) struct Mount {
    folder: PathBuf,
    session: Option<JoinHandle<()>>,
}

impl Mount {
    /// Mounts `view`; requests are served from now on.
    pub(crate) fn new(
        view: Arc<View>,
        invalidations: UnboundedReceiver<Invalidation>,
        options: &MountOptions,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self, MountError> {
        if options.allow_other && !rustix::process::geteuid().is_root() && !others_may_be_let_in(FUSE_CONF) {
            return Err(MountError::Others);
        }
        let folder = prepare(&options.folder)?;
        // The ':' makes desktops and indexers treat it as remote.
        let source = format!("twinshare:{}", options.host.replace([',', ' '], "_"));
        let refused =
            |source: io::Error| MountError::Refused { folder: folder.clone(), hint: hint(&source), source };
        let mut config = Config::default();
        config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(THREADS);
        let adapter = Adapter::new(view.clone(), runtime);
        let session = match mount_directly(&folder, &source, options).map_err(refused)? {
            Some(device) => Session::from_fd(adapter, device, config.acl, config),
            None => {
                config.mount_options = vec![
                    MountOption::FSName(source),
                    MountOption::Subtype("twinshare".into()),
                    if options.read_only { MountOption::RO } else { MountOption::RW },
                    MountOption::NoSuid,
                    MountOption::NoDev,
                    MountOption::NoAtime,
                    MountOption::DefaultPermissions,
                ];
                Session::new(adapter, &folder, &config)
            }
        };
        let session = session.map_err(|error| {
            // A half-made mount would block whoever looks at it.
            let _ = detach(&folder);
            refused(error)
        })?;
        invalidate::spawn(&session.notifier(), &view, invalidations).map_err(refused)?;
        let thread = std::thread::Builder::new().name("fuse".into());
        let session = thread
            .spawn(move || {
                if let Err(error) = session.run() {
                    tracing::warn!(%error, "the mount ended");
                }
            })
            .map_err(refused)?;
        Ok(Self { folder: folder.clone(), session: Some(session) })
    }

    /// Unmounts; programs that still use the mount keep a dead view of it.
    pub(crate) fn unmount(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(session) = self.session.take() else { return };
        if let Err(error) = detach(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "unmounting failed");
            return;
        }
        // While a program holds the mount the kernel keeps the session: its thread then ends with the process.
        if session.is_finished() {
            let _ = session.join();
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.end();
    }
}

/// Mounts as root does, without a helper program; none when only the helper may. fuser would do it too, but
/// leaves out the subtype, by which others see what kind of mount it is.
fn mount_directly(folder: &Path, source: &str, wanted: &MountOptions) -> io::Result<Option<OwnedFd>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{}",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
        if wanted.allow_other { ",allow_other" } else { "" },
    );
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    flags.set(MountFlags::RDONLY, wanted.read_only);
    let options = std::ffi::CString::new(options)?;
    match rustix::mount::mount(source, folder, "fuse.twinshare", flags, options.as_c_str()) {
        Ok(()) => Ok(Some(device.into())),
        // Root of a user namespace, for example.
        Err(rustix::io::Errno::PERM) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Where root says what users may ask of fusermount3.
const FUSE_CONF: &str = "/etc/fuse.conf";

/// Whether root lets users let others into their mounts.
fn others_may_be_let_in(configuration: &str) -> bool {
    let text = std::fs::read_to_string(configuration).unwrap_or_default();
    text.lines().any(|line| line.trim() == "user_allow_other")
}

/// Makes the folder, clearing away a dead mount of an earlier daemon.
fn prepare(folder: &Path) -> Result<PathBuf, MountError> {
    let unusable = |why: String| MountError::Folder { folder: folder.to_path_buf(), why };
    // `stat` and even a listing of a dead mount may come from the kernel's cache; this always asks its daemon.
    if rustix::fs::statfs(folder).err() == Some(rustix::io::Errno::NOTCONN) {
        tracing::info!(folder = %folder.display(), "clearing a dead mount away");
        detach(folder).map_err(|error| unusable(format!("a dead mount is in the way: {error}")))?;
    }
    if folder.exists() && !folder.is_dir() {
        return Err(unusable("it isn't a folder".into()));
    }
    std::fs::create_dir_all(folder).map_err(|error| unusable(error.to_string()))?;
    let folder = folder.canonicalize().map_err(|error| unusable(error.to_string()))?;
    let mut entries = std::fs::read_dir(&folder).map_err(|error| unusable(error.to_string()))?;
    if entries.next().is_some() {
        return Err(unusable("it isn't empty: choose another with --mount".into()));
    }
    Ok(folder)
}

/// Takes the mount out of the tree at once; it goes away when nobody uses it any more.
fn detach(folder: &Path) -> io::Result<()> {
    match rustix::mount::unmount(folder, rustix::mount::UnmountFlags::DETACH) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    // Only root may unmount directly; fusermount3 does it for the user who mounted.
    let status = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(folder).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("fusermount3 ended with {status}"))) }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "is the kernel module 'fuse' loaded, and the package fuse3 installed?",
        Some(libc::EACCES | libc::EPERM) => "may this user open /dev/fuse, and is fusermount3 installed?",
        _ => "`twinshare doctor` may know more",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_let_in_only_where_root_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fuse.conf");
        let may = || others_may_be_let_in(file.to_str().unwrap());
        assert!(!may(), "there is no such file");
        for (text, expected) in [("#user_allow_other\n", false), ("mount_max = 9\nuser_allow_other \n", true)]
        {
            std::fs::write(&file, text).unwrap();
            assert_eq!(may(), expected, "{text:?}");
        }
    }
}
