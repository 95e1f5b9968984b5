use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

/// The program that is to run a script, from the script's first bytes: what stands behind `#!`, as execve(2) reads it.
/// None of what isn't a script, or names no absolute path.
pub fn script_interpreter(start: &[u8]) -> Option<&Path> {
    let line = start.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let word = line.trim_ascii_start().split(|byte| matches!(byte, b' ' | b'\t' | 0)).next()?;
    Some(Path::new(OsStr::from_bytes(word))).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_is_read_as_the_kernel_does() {
        let read =
            |start: &str| script_interpreter(start.as_bytes()).map(|path| path.to_str().unwrap().to_owned());
        assert_eq!(read("#!/a/b -x y\nz").as_deref(), Some("/a/b"));
        assert_eq!(read("#! \t/usr/bin/env python3\n").as_deref(), Some("/usr/bin/env"));
        assert_eq!(read("#!/a/b").as_deref(), Some("/a/b"));
        for other in ["", "#!", "#!\n/a", "#!python\n", "\x7fELF", " #!/a"] {
            assert_eq!(read(other), None, "{other:?}");
        }
    }
}
