use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use crate::types::Name;

/// What the mount shows as the target of a link that lies in `folder` (names from the workspace's root), where `target`
/// is what the owner's link says, `original` the workspace's absolute path there, and `outside` the folder of the
/// mount that stands for the rest of the owner's machine.
///
/// A relative link that stays inside is shown as it is. An absolute one that points into its workspace is shown as
/// a relative one. Any other leads into `outside`, never to this machine's own files.
///
/// The rule must hold whatever folders on the way are links themselves. `..` is harmless in front, where the kernel
/// applies it to the real folder of the link, but after a name that may be a link it could climb from somewhere higher than it
/// seems; so such a target is shown with its `a/..` pairs taken out.
pub(super) fn shown(target: &[u8], folder: &[Name], original: &[u8], outside: &Path) -> Vec<u8> {
    let absolute = target.starts_with(b"/");
    let mut path: Vec<&[u8]> = components(original).collect();
    let root = path.len();
    if absolute {
        path.clear();
    } else {
        path.extend(folder.iter().map(Name::as_bytes));
    }
    // Whether the target never goes above the root, and whether it has a `..` behind a name.
    let (mut inside, mut plain, mut named) = (!absolute, true, false);
    for component in components(target) {
        if component == b".." {
            path.pop();
            plain &= !named;
        } else {
            path.push(component);
            named = true;
        }
        inside &= path.len() >= root;
    }
    if inside && plain {
        return target.to_vec();
    }
    let within = components(original).eq(path.iter().copied().take(root)) && path.len() >= root;
    // A relative target that went above the root and came back is judged by where it arrives, like an absolute one.
    if within {
        relative(folder.len(), &path[root..])
    } else {
        let rest = path.join(&b'/');
        outside.join(OsStr::from_bytes(&rest)).into_os_string().as_bytes().to_vec()
    }
}

/// The components of a path, without empty ones and `.`.
fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|component| !matches!(*component, b"" | b"."))
}

/// A path from a folder `depth` levels below the root to `path` from the root.
fn relative(depth: usize, path: &[&[u8]]) -> Vec<u8> {
    let mut parts = vec![&b".."[..]; depth];
    parts.extend(path);
    if parts.is_empty() {
        return b".".to_vec();
    }
    parts.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_at(folder: &str, target: &str) -> String {
        let folder: Vec<Name> = components(folder.as_bytes()).map(|name| Name::new(name).unwrap()).collect();
        let shown = shown(target.as_bytes(), &folder, b"/home/ann/lab", Path::new("/m/.outside/ann"));
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn links_that_stay_inside_are_shown_as_they_are() {
        for (folder, target) in [
            ("", "d/f"),
            ("bin", "../lib/x.js"),
            ("a/b", "../../c"),
            ("a", ".."),
            ("", "./x"),
            ("a", "..//b/./c"),
            ("", "dangling"),
        ] {
            assert_eq!(shown_at(folder, target), target);
        }
    }

    #[test]
    fn absolute_links_into_the_workspace_become_relative() {
        assert_eq!(shown_at("a/b", "/home/ann/lab/c/d"), "../../c/d");
        assert_eq!(shown_at("", "/home/ann/lab"), ".");
        assert_eq!(shown_at("", "/home/ann/x/../lab/c"), "c");
    }

    #[test]
    fn links_that_leave_never_lead_to_the_guests_files() {
        assert_eq!(shown_at("", "/etc/passwd"), "/m/.outside/ann/etc/passwd");
        assert_eq!(shown_at("", "../../../../etc/passwd"), "/m/.outside/ann/etc/passwd");
        assert_eq!(shown_at("a", "../../other"), "/m/.outside/ann/home/ann/other");
        assert_eq!(shown_at("", "/home/ann/lab2"), "/m/.outside/ann/home/ann/lab2");
        assert_eq!(shown_at("", "/home/ann/lab/../../bob"), "/m/.outside/ann/home/bob");
        // Above the root and back, by the owner's names: it arrives inside.
        assert_eq!(shown_at("", "../lab/c"), "c");
    }

    /// `s` may be a link to the root: then `s/../..` would leave the mount, although it looks harmless.
    #[test]
    fn parent_components_behind_a_name_are_taken_out() {
        assert_eq!(shown_at("p/q", "s/../../../etc/passwd"), "../../etc/passwd");
        assert_eq!(shown_at("", "a/../b"), "b");
    }
}
