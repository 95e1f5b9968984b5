use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// The file that says where the control API is.
const ENDPOINT: &str = "control.json";

/// The file whose lock a daemon holds as long as it lives.
const LOCK: &str = "control.lock";

/// No endpoint file is longer, in bytes.
const ENDPOINT_LIMIT: u64 = 4096;

/// Why the endpoint can't be published or found.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Another daemon has this runtime folder.
    #[error("another node already runs with the runtime folder {0:?}")]
    Running(PathBuf),
    /// The file or its folder isn't this user's: what it says could make the CLI run anything.
    #[error("{path:?} belongs to user {owner}, not to user {user}")]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// Whose it is, as uid.
        owner: u32,
        /// Who asks, as uid.
        user: u32,
    },
    /// The file says nothing that makes sense.
    #[error("{path:?} is damaged: {why}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The disk doesn't do what it should.
    #[error("can't {doing} {path:?}: {source}")]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The secret that allows to use the control API.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// A new one, of 32 random bytes.
    pub fn random() -> Self {
        Self(hex::encode(rand::random::<[u8; 32]>()))
    }

    /// The secret itself.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Whether this is it. The time it takes tells nothing about the token.
    pub fn is(&self, presented: &[u8]) -> bool {
        // Hashes compare in constant time.
        blake3::hash(presented) == blake3::hash(self.0.as_bytes())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Where a running node's control API is, and the secret that opens it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Endpoint {
    /// The TCP port on 127.0.0.1.
    pub port: u16,
    /// The bearer token.
    pub token: Token,
    /// The daemon's process.
    pub pid: u32,
}

impl Endpoint {
    /// Finds the node that runs with this runtime folder, if one does.
    ///
    /// A file that a killed daemon left is not taken for one: its port may be another program's by now, and that of
    /// another user. The lock tells, since the kernel releases it with the daemon's last breath.
    pub fn find(runtime: &Path) -> Result<Option<Self>, EndpointError> {
        if !Claim::is_held(runtime)? {
            return Ok(None);
        }
        let path = runtime.join(ENDPOINT);
        let disk = |doing| move |source| EndpointError::Disk { doing, path: runtime.join(ENDPOINT), source };
        let file = match open_own(&path, OpenOptions::new().read(true))? {
            Some(file) => file,
            // It is just starting.
            None => return Ok(None),
        };
        let mut text = String::new();
        file.take(ENDPOINT_LIMIT).read_to_string(&mut text).map_err(disk("read"))?;
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| EndpointError::Damaged { path, why: error.to_string() })
    }
}

/// Opens a file that must be this user's; `None` when it doesn't exist.
fn open_own(path: &Path, options: &OpenOptions) -> Result<Option<File>, EndpointError> {
    let disk = |source| EndpointError::Disk { doing: "open", path: path.to_owned(), source };
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(disk(error)),
    };
    let owner = file.metadata().map_err(disk)?.uid();
    let user = rustix::process::geteuid().as_raw();
    if owner != user {
        return Err(EndpointError::Foreign { path: path.to_owned(), owner, user });
    }
    Ok(Some(file))
}

/// A daemon's hold on its runtime folder, from before it does anything until its end.
#[derive(Debug)]
pub struct Claim {
    runtime: PathBuf,
    /// Keeps the lock.
    _lock: File,
}

impl Claim {
    /// Whether a daemon has the folder: from when it begins to start, before [`Endpoint::find`] finds it.
    pub fn is_held(runtime: &Path) -> Result<bool, EndpointError> {
        let path = runtime.join(LOCK);
        let Some(file) = open_own(&path, OpenOptions::new().read(true))? else { return Ok(false) };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(source)) => Err(EndpointError::Disk { doing: "lock", path, source }),
        }
    }

    /// Takes the folder, which is made if need be and closed to other users, or fails when another daemon has it.
    pub fn take(runtime: &Path) -> Result<Self, EndpointError> {
        let disk = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| EndpointError::Disk { doing, path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(runtime).map_err(disk("make", runtime))?;
        let folder = open_own(runtime, OpenOptions::new().read(true))?;
        let folder = folder.ok_or(io::ErrorKind::NotFound.into()).map_err(disk("open", runtime))?;
        folder
            .set_permissions(fs::Permissions::from_mode(0o700))
            .map_err(disk("close to others", runtime))?;

        let path = runtime.join(LOCK);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock =
            open_own(&path, &options)?.ok_or(io::ErrorKind::NotFound.into()).map_err(disk("open", &path))?;
        // Whoever just looks whether a daemon runs has the lock for a moment: some tries tell them from a daemon.
        for _ in 0..20 {
            match lock.try_lock() {
                Ok(()) => {
                    let claim = Self { runtime: runtime.to_owned(), _lock: lock };
                    claim.withdraw();
                    return Ok(claim);
                }
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
                Err(TryLockError::Error(source)) => return Err(disk("lock", &path)(source)),
            }
        }
        Err(EndpointError::Running(runtime.to_owned()))
    }

    /// Says where the control API of this process listens; from now on [`Endpoint::find`] finds it.
    pub fn publish(&self, port: u16, token: &Token) -> Result<(), EndpointError> {
        let path = self.runtime.join(ENDPOINT);
        let disk = |doing| {
            let path = path.clone();
            move |source| EndpointError::Disk { doing, path, source }
        };
        let endpoint = Endpoint { port, token: token.clone(), pid: std::process::id() };
        let text = serde_json::to_vec(&endpoint).map_err(|error| disk("write")(error.into()))?;
        let temporary = self.runtime.join("control.json.new");
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(disk("write")(error)),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(disk("write"))?;
        // Not synced: what a crash of the machine loses here, is of no use after it.
        file.write_all(&text).and_then(|()| fs::rename(&temporary, &path)).map_err(disk("write"))
    }

    /// Removes the endpoint file.
    fn withdraw(&self) {
        // One that can't be removed does no harm: without the lock, nobody believes it.
        let _ = fs::remove_file(self.runtime.join(ENDPOINT));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.withdraw();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn case_48_only_the_user_can_read_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = dir.path().join("a/runtime");
        fs::create_dir_all(&runtime).unwrap();
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
        let claim = Claim::take(&runtime).unwrap();
        claim.publish(4000, &Token::random()).unwrap();
        assert_eq!(mode(&runtime), 0o700);
        assert_eq!(mode(&runtime.join(ENDPOINT)), 0o600);
        assert_eq!(mode(&runtime.join(LOCK)), 0o600);
    }

    #[test]
    fn an_endpoint_is_found_as_long_as_its_daemon_lives() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = dir.path().join("runtime");
        assert!(Endpoint::find(&runtime).unwrap().is_none());
        let claim = Claim::take(&runtime).unwrap();
        assert!(Endpoint::find(&runtime).unwrap().is_none(), "nothing published yet");
        assert!(Claim::is_held(&runtime).unwrap());
        let token = Token::random();
        claim.publish(4000, &token).unwrap();
        let found = Endpoint::find(&runtime).unwrap().unwrap();
        assert_eq!((found.port, found.pid), (4000, std::process::id()));
        assert!(token.is(found.token.secret().as_bytes()));
        assert!(matches!(Claim::take(&runtime), Err(EndpointError::Running(_))));
        let text = fs::read(runtime.join(ENDPOINT)).unwrap();
        drop(claim);
        assert!(!runtime.join(ENDPOINT).exists());
        assert!(!Claim::is_held(&runtime).unwrap());
        // As a killed daemon leaves it.
        fs::write(runtime.join(ENDPOINT), text).unwrap();
        assert!(Endpoint::find(&runtime).unwrap().is_none());
    }

    #[test]
    fn looking_for_a_daemon_does_not_keep_one_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        drop(Claim::take(dir.path()).unwrap());
        let looker = File::open(dir.path().join(LOCK)).unwrap();
        looker.lock_shared().unwrap();
        let taking = thread::scope(|scope| {
            let taking = scope.spawn(|| Claim::take(dir.path()));
            looker.unlock().unwrap();
            taking.join().unwrap()
        });
        assert!(taking.is_ok());
    }

    #[test]
    fn damaged_and_foreign_files_are_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let claim = Claim::take(dir.path()).unwrap();
        fs::write(dir.path().join(ENDPOINT), "{").unwrap();
        assert!(matches!(Endpoint::find(dir.path()), Err(EndpointError::Damaged { .. })));
        claim.publish(4000, &Token::random()).unwrap();
        // Only root can give a file away.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(dir.path().join(ENDPOINT), Some(65534), None).unwrap();
            assert!(matches!(Endpoint::find(dir.path()), Err(EndpointError::Foreign { owner: 65534, .. })));
        }
    }

    #[test]
    fn tokens_are_told_apart_and_not_shown() {
        let token = Token::random();
        assert!(!token.is(Token::random().secret().as_bytes()));
        assert!(!token.is(b""));
        assert!(!format!("{token:?}").contains(token.secret()));
    }
}
