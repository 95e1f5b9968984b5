use std::{os::unix::ffi::OsStrExt, path::Path};

/// Whether something is mounted at the path, by the text of /proc/self/mounts.
pub(super) fn is_mounted(mounts: &[u8], path: &Path) -> bool {
    mounts
        .split(|&byte| byte == b'\n')
        .filter_map(|line| line.split(|&byte| byte == b' ').nth(1))
        .any(|point| unescape(point) == path.as_os_str().as_bytes())
}

/// Whether something is mounted at the path now.
///
/// Symbolic links on the way are followed, but the mount point itself isn't touched: a dead mount would not answer.
pub(super) fn is_mounted_now(path: &Path) -> bool {
    let real = path.parent().and_then(|parent| parent.canonicalize().ok()).zip(path.file_name());
    let path = real.map_or_else(|| path.to_owned(), |(parent, name)| parent.join(name));
    std::fs::read("/proc/self/mounts").is_ok_and(|mounts| is_mounted(&mounts, &path))
}

/// Undoes the kernel's escapes: a backslash and three octal digits for space, tab, newline and backslash.
fn unescape(mut text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    while let Some((&first, rest)) = text.split_first() {
        text = rest;
        match (first, rest) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                plain.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                text = after;
            }
            _ => plain.push(first),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found() {
        let mounts = b"twinshare /home/u/a\\040b fuse.twinshare rw 0 0\nproc /proc proc rw 0 0\n";
        assert!(is_mounted(mounts, Path::new("/home/u/a b")));
        assert!(is_mounted(mounts, Path::new("/proc")));
        assert!(!is_mounted(mounts, Path::new("/home/u")));
        assert!(!is_mounted(mounts, Path::new("proc")));
    }

    #[test]
    fn a_mount_is_found_behind_a_symbolic_link() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        assert!(is_mounted_now(&link.join("proc")));
        assert!(!is_mounted_now(&link));
    }
}
