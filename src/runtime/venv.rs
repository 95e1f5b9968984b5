//! The base interpreter of a Python venv: which one it is, and which parts of this machine it consists of.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Component, Path, PathBuf},
};

use super::RuntimeError;

/// The most bytes that a pyvenv.cfg may have; real ones have some two hundred.
const MAX_CONFIG_BYTES: usize = 64 * 1024;
/// The most shared libraries that an interpreter is given.
const MAX_LIBRARIES: usize = 16;

/// What a venv's pyvenv.cfg says about the interpreter that it is based on. From a peer: its claims are only looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VenvConfig {
    /// The folder of the interpreter's executable, absolute.
    home: PathBuf,
    /// Its version, such as `3.11`.
    version: String,
}

/// An interpreter of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// Its version, such as `3.11`.
    pub version: String,
    /// What must be shown, read-only and at the same place, so that it runs. Empty for one of the system's own.
    pub paths: Vec<PathBuf>,
}

impl VenvConfig {
    /// Reads the content of a pyvenv.cfg.
    ///
    /// # Errors
    /// [`RuntimeError::VenvConfig`] when it names no interpreter, or one that no venv would.
    pub fn parse(content: &[u8]) -> Result<Self, RuntimeError> {
        let wrong = |reason| Err(RuntimeError::VenvConfig(reason));
        if content.len() > MAX_CONFIG_BYTES {
            return wrong("is too large");
        }
        // The last of several lines with the same key counts, as it does for Python.
        let value = |keys: &[&str]| {
            let mut settings = content.split(|&byte| byte == b'\n').filter_map(|line| {
                let at = line.iter().position(|&byte| byte == b'=')?;
                let key = line[..at].trim_ascii().to_ascii_lowercase();
                keys.iter().any(|known| known.as_bytes() == key).then_some(line[at + 1..].trim_ascii())
            });
            settings.next_back()
        };
        let Some(home) = value(&["home"]) else { return wrong("names no home") };
        let home = Path::new(OsStr::from_bytes(home));
        let plain = home.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !home.is_absolute() || !plain || home.as_os_str().as_bytes().contains(&0) {
            return wrong("has a home that isn't a plain absolute path");
        }
        // virtualenv and uv write version_info where venv writes version.
        let version =
            value(&["version", "version_info"]).and_then(|version| std::str::from_utf8(version).ok());
        match version.and_then(major_and_minor) {
            Some(version) => Ok(Self { home: home.components().collect(), version }),
            None => wrong("names no version"),
        }
    }

    /// Finds the interpreter on this machine. Only the interpreter's own executables and libraries are shown to a sandbox,
    /// never the folder around them, and only where an interpreter is: a peer's file can't open anything else.
    ///
    /// # Errors
    /// [`RuntimeError::NoInterpreter`] when it isn't where the venv expects it.
    pub fn find_interpreter(&self) -> Result<Interpreter, RuntimeError> {
        let Self { home, version } = self;
        let missing = |reason: String| RuntimeError::NoInterpreter {
            version: version.clone(),
            home: home.clone(),
            reason,
        };
        let executable = home.join(format!("python{version}"));
        let runs = fs::metadata(&executable)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
        if !runs {
            return Err(missing(format!("there is no {}", executable.display())));
        }
        if ["/usr", "/bin", "/sbin"].iter().any(|folder| home.starts_with(folder)) {
            return Ok(Interpreter { version: version.clone(), paths: Vec::new() });
        }
        let prefix = match home.parent() {
            Some(prefix) if home.ends_with("bin") => prefix,
            _ => {
                return Err(missing(
                    "only an interpreter in a folder 'bin' can be shown to a sandbox".into(),
                ));
            }
        };
        // Else a peer could ask for the packages of an environment of this machine's user.
        if prefix.join("pyvenv.cfg").exists() {
            return Err(missing("what is there is an environment itself, not an interpreter".into()));
        }
        let library = prefix.join("lib").join(format!("python{version}"));
        if !library.join("os.py").is_file() {
            return Err(missing(format!("there is no standard library in {}", library.display())));
        }
        let executables = ["python", "python3"].map(|name| home.join(name)).into_iter().chain([executable]);
        let mut paths: Vec<_> = executables.filter(|path| path.is_file()).collect();
        paths.push(library);
        paths.extend(shared_libraries(&prefix.join("lib")));
        let lib64 = prefix.join("lib64");
        paths.extend(Some(lib64.join(format!("python{version}"))).filter(|path| path.is_dir()));
        paths.extend(shared_libraries(&lib64));
        Ok(Interpreter { version: version.clone(), paths })
    }
}

/// `3.11` of `3.11.7` or `3.11.7.final.0`.
fn major_and_minor(version: &str) -> Option<String> {
    let mut numbers = version.split('.').map(|number| number.parse::<u8>().ok());
    let (major, minor) = (numbers.next()??, numbers.next()??);
    Some(format!("{major}.{minor}"))
}

fn shared_libraries(folder: &Path) -> Vec<PathBuf> {
    let is_library = |name: &OsStr| {
        let name = name.as_bytes();
        name.starts_with(b"libpython") && name.windows(3).any(|part| part == b".so")
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let found = entries.filter(|entry| is_library(&entry.file_name())).map(|entry| entry.path());
    let mut found: Vec<_> = found.filter(|path| path.is_file()).take(MAX_LIBRARIES).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like an interpreter's.
    fn interpreter() -> tempfile::TempDir {
        let prefix = tempfile::tempdir().unwrap();
        for folder in ["bin", "lib/python3.11", "lib64", ".ssh"] {
            fs::create_dir_all(prefix.path().join(folder)).unwrap();
        }
        for file in [
            "bin/python3.11",
            "bin/python",
            "bin/pip",
            "lib/python3.11/os.py",
            "lib/libpython3.11.so.1.0",
            "lib/libz.so",
        ] {
            let path = prefix.path().join(file);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        prefix
    }

    fn config(home: &Path) -> VenvConfig {
        VenvConfig::parse(format!("home = {}\nversion = 3.11.7\n", home.display()).as_bytes()).unwrap()
    }

    #[test]
    fn the_configurations_of_the_tools_are_read() {
        let expected = VenvConfig { home: "/opt/py/bin".into(), version: "3.11".into() };
        for content in [
            "home = /opt/py/bin\ninclude-system-site-packages = false\nversion = 3.11.7\nexecutable = /x\n",
            "home = /opt/py/bin\nimplementation = CPython\nuv = 0.9\nversion_info = 3.11.7.final.0",
            "HOME=/opt/py/bin/\r\nVersion=3.11\r\n",
        ] {
            assert_eq!(VenvConfig::parse(content.as_bytes()).unwrap(), expected, "{content}");
        }
    }

    #[test]
    fn hostile_configurations_are_refused() {
        for content in [
            &b""[..],
            b"home = bin\nversion = 3.11",
            b"home = /opt/py/../../root/bin\nversion = 3.11",
            b"home = /opt/\0py\nversion = 3.11",
            b"home = /opt/py/bin",
            b"home = /opt/py/bin\nversion = 3",
            b"home = /opt/py/bin\nversion = 3./../..",
            b"home = /opt/py/bin\nversion = \xff",
            &[b'a'; MAX_CONFIG_BYTES + 1],
        ] {
            assert!(matches!(VenvConfig::parse(content), Err(RuntimeError::VenvConfig(_))), "{content:?}");
        }
    }

    #[test]
    fn only_the_interpreter_is_shown() {
        let prefix = interpreter();
        let found = config(&prefix.path().join("bin")).find_interpreter().unwrap();
        let expected = ["bin/python", "bin/python3.11", "lib/python3.11", "lib/libpython3.11.so.1.0"];
        assert_eq!(found.paths, expected.map(|path| prefix.path().join(path)));
    }

    #[test]
    fn a_home_without_an_interpreter_shows_nothing() {
        let missing = |home: &Path| match config(home).find_interpreter() {
            Err(error @ RuntimeError::NoInterpreter { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        };
        let prefix = interpreter();
        for home in ["", ".ssh", "lib/python3.11"] {
            assert!(missing(&prefix.path().join(home)).contains("Python 3.11"));
        }
        fs::write(prefix.path().join("pyvenv.cfg"), "").unwrap();
        assert!(missing(&prefix.path().join("bin")).contains("an environment itself"));

        let prefix = interpreter();
        fs::remove_file(prefix.path().join("lib/python3.11/os.py")).unwrap();
        assert!(missing(&prefix.path().join("bin")).contains("no standard library"));
        let prefix = interpreter();
        fs::rename(prefix.path().join("bin"), prefix.path().join("keys")).unwrap();
        assert!(missing(&prefix.path().join("keys")).contains("a folder 'bin'"));
    }
}
