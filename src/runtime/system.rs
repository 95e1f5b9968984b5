//! What a sandbox shows of this machine: its programs and settings, without its secrets.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::RuntimeError;

/// The folders that hold a system's programs and settings.
pub(super) const SYSTEM_FOLDERS: [&str; 8] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc"];

/// Whether a path lies in what a sandbox shows of the system.
pub fn is_system(path: &Path) -> bool {
    SYSTEM_FOLDERS.iter().any(|folder| path.starts_with(folder))
}

/// The parts of /proc by which the kernel can be told something, other than what is in the folders of processes.
const KERNEL: [&str; 7] =
    ["/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi", "/proc/mtrr"];

/// How deep the settings are searched for secrets; what lies deeper is hidden whole.
const MAX_DEPTH: usize = 8;

/// This machine's system folders, as a sandbox shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct System {
    /// Folders that are shown, read-only.
    pub(super) folders: Vec<PathBuf>,
    /// Folders that are links, as `/bin` is since it moved into `/usr`, with where they point.
    pub(super) links: Vec<(PathBuf, PathBuf)>,
    /// Files that are hidden.
    pub(super) hidden_files: Vec<PathBuf>,
    /// Folders that are shown empty.
    pub(super) hidden_folders: Vec<PathBuf>,
    /// The parts of /proc by which the kernel is told something.
    pub(super) kernel: Vec<PathBuf>,
}

impl System {
    /// Looks at this machine. Whatever in `/etc` isn't everybody's to read is hidden: as root the sandbox could read it
    /// (password hashes, host keys, sudoers), and no environment needs it.
    ///
    /// # Errors
    /// [`RuntimeError::Io`] when a folder can't be read.
    pub fn scan() -> Result<Self, RuntimeError> {
        let mut system = Self::default();
        for folder in SYSTEM_FOLDERS.map(PathBuf::from) {
            match fs::symlink_metadata(&folder) {
                Ok(found) if found.is_symlink() => {
                    let target = fs::read_link(&folder).map_err(|source| io(&folder, source))?;
                    system.links.push((folder, target));
                }
                Ok(_) => system.folders.push(folder),
                Err(_) => {}
            }
        }
        system.hide_secrets(Path::new("/etc"), 0)?;
        system.kernel = KERNEL.iter().map(PathBuf::from).filter(|path| path.exists()).collect();
        Ok(system)
    }

    fn hide_secrets(&mut self, folder: &Path, depth: usize) -> Result<(), RuntimeError> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            // It is open to everybody and yet not to us, or it has just gone: then there is nothing to hide from us.
            Err(_) if depth > 0 => return Ok(()),
            Err(source) => return Err(io(folder, source)),
        };
        for entry in entries {
            let entry = entry.map_err(|source| io(folder, source))?;
            let path = entry.path();
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            let (kind, mode) = (found.file_type(), found.permissions().mode());
            if kind.is_dir() && (mode & 0o005 != 0o005 || depth == MAX_DEPTH) {
                self.hidden_folders.push(path);
            } else if kind.is_dir() {
                self.hide_secrets(&path, depth + 1)?;
            } else if (kind.is_file() && mode & 0o004 == 0) || kind.is_socket() || kind.is_fifo() {
                self.hidden_files.push(path);
            }
        }
        Ok(())
    }
}

fn io(path: &Path, source: std::io::Error) -> RuntimeError {
    RuntimeError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_everybodys_is_hidden() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, mode| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let shadow = make("shadow", 0o640);
        let key = make("ssh/ssh_host_ed25519_key", 0o600);
        let private = make("ssl/private/key.pem", 0o644).parent().unwrap().to_owned();
        make("passwd", 0o644);
        fs::set_permissions(&private, fs::Permissions::from_mode(0o710)).unwrap();
        let mut system = System::default();
        system.hide_secrets(folder.path(), 0).unwrap();
        system.hidden_files.sort();
        assert_eq!(system.hidden_files, [shadow, key]);
        assert_eq!(system.hidden_folders, [private]);
    }
}
