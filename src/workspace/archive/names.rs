//! Names as archives can have them everywhere, and where links lead.

/// A name as archives can have it everywhere: what isn't UTF-8 and what some systems take for something else than a part of a
/// name is written as `%` and two digits, and so is a `%` that could be taken for that. No two names become one.
fn portable(name: &[u8]) -> String {
    let escaped = |bytes: &[u8]| bytes.iter().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let mut shown = String::new();
    for chunk in name.utf8_chunks() {
        for (at, char) in chunk.valid().char_indices() {
            let after = &chunk.valid().as_bytes()[at + char.len_utf8()..];
            let looks_escaped = || after.len() >= 2 && after[..2].iter().all(u8::is_ascii_hexdigit);
            if char.is_control() || matches!(char, '\\' | ':') || (char == '%' && looks_escaped()) {
                shown += &escaped(char.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                shown.push(char);
            }
        }
        shown += &escaped(chunk.invalid());
    }
    shown
}

/// The same for a path, whose names have `/` between them.
pub(super) fn portable_path(path: &[u8]) -> String {
    path.split(|byte| *byte == b'/').map(portable).collect::<Vec<_>>().join("/")
}

/// Why a path can't stand in an archive; its names have `/` between them.
pub(super) fn fault(path: &[u8]) -> Option<&'static str> {
    if path.starts_with(b"/") {
        return Some("its path begins at the root of the system");
    }
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => return Some("its path has an empty name, or '.'"),
            b".." => return Some("its path leads upwards"),
            _ if name.contains(&0) => return Some("there's a NUL in its name"),
            _ => {}
        }
    }
    None
}

/// Whether a link in a folder so many names deep leads to something in the same workspace, whatever other links there are in it: only up
/// through folders that are there, and then down.
pub fn stays_inside(depth: usize, target: &[u8]) -> bool {
    let mut names = target.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).peekable();
    let mut up = 0;
    while names.next_if_eq(&b"..".as_slice()).is_some() {
        up += 1;
    }
    !target.starts_with(b"/") && up <= depth && names.all(|name| name != b"..")
}

/// Whether a link stays inside also where `\` and `:` mean something.
pub fn stays_inside_everywhere(depth: usize, target: &[u8]) -> bool {
    let is_plain = str::from_utf8(target).is_ok_and(|target| !target.contains(['\\', ':']));
    is_plain && stays_inside(depth, target)
}

/// Where programs are installed, and nobody but the administrator writes.
const SYSTEM: [&[u8]; 7] = [b"usr", b"bin", b"sbin", b"lib", b"lib64", b"opt", b"nix"];

/// Whether a link leads to where a system has its programs, as those of virtual environments do.
pub(super) fn leads_to_system(target: &[u8]) -> bool {
    let Some(rest) = target.strip_prefix(b"/") else { return false };
    let mut names = rest.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).peekable();
    names.peek().is_some_and(|first| SYSTEM.contains(first)) && names.all(|name| name != b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_archives_are_safe_and_differ() {
        for (name, expected) in [
            (&b"plain \xc3\xa4 & 100% <x>"[..], "plain ä & 100% <x>"),
            (b"..\\..\\x", "..%5C..%5Cx"),
            (b"C:x", "C%3Ax"),
            (b"caf\xe9", "caf%E9"),
            (b"caf%E9", "caf%25E9"),
            (b"a\nb", "a%0Ab"),
            (b"%", "%"),
            (b"5%2", "5%2"),
        ] {
            assert_eq!(portable(name), expected);
        }
        assert_eq!(portable_path(b"a\\b/c:d/e"), "a%5Cb/c%3Ad/e");
    }

    #[test]
    fn links_in_archives_stay_inside() {
        for (depth, target) in [(0, "x"), (0, "x/y"), (1, "../x"), (2, "../../x"), (0, "./x"), (1, "..")] {
            assert!(stays_inside_everywhere(depth, target.as_bytes()), "{depth} {target}");
        }
        // The third: `x` may be a link to the top.
        for (depth, target) in [
            (0, "/etc/passwd"),
            (0, "../x"),
            (5, "x/../y"),
            (1, "../../x"),
            (1, "..\\..\\x"),
            (0, "C:x"),
            (1, ".././../x"),
        ] {
            assert!(!stays_inside_everywhere(depth, target.as_bytes()), "{depth} {target}");
        }
        assert!(stays_inside(0, b"C:x") && stays_inside(0, b"caf\xe9") && stays_inside(1, b"..\\..\\x"));
        assert!(!stays_inside_everywhere(0, b"caf\xe9"));
    }

    #[test]
    fn links_to_programs_lead_nowhere_else() {
        for target in ["/usr/bin/python3", "/bin//sh", "/opt/./x/bin/y"] {
            assert!(leads_to_system(target.as_bytes()), "{target}");
        }
        for target in ["/usr/../home/ann", "/home/ann", "/", "usr/bin", "../usr/bin", "/usrx/y", "/tmp/out"] {
            assert!(!leads_to_system(target.as_bytes()), "{target}");
        }
    }
}
