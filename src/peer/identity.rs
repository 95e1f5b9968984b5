use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::types::{NodeId, ParseIdError};

/// The key's file in the folder that the node gives.
const FILE: &str = "node.key";

/// The file's first line; another version of the format will have another.
const TITLE: &str = "twinshare node key, version 1. Keep it secret: whoever has it is this node.";

/// Why a node has no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The key's file isn't as it was written. It is left alone, since a new key would be another node.
    #[error(
        "the node key {} is damaged ({why}): put it back from a backup, or move it away to become a new node, \
         which peers then have to trust again", path.display()
    )]
    Damaged {
        /// The key's file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The disk doesn't do what it should.
    #[error("can't {doing} {}", path.display())]
    Disk {
        /// What was being done, as in "read the node key".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// An Ed25519 signature, written as 128 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature([u8; 64]);

impl Signature {
    /// Wraps raw bytes; whether they are a signature of something, [`verify`] tells.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", hex::encode(&self.0[..4]))
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        hex::decode_to_slice(text.as_bytes(), &mut bytes)
            .map_err(|_| serde::de::Error::custom("expected 128 hexadecimal digits for a signature"))?;
        Ok(Self(bytes))
    }
}

/// The signature isn't the node's over these bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature isn't that of node {0}")]
pub struct NotSigned(pub NodeId);

/// Checks that `node` signed `message`. Strict: no weak keys, no second form of the same signature.
///
/// What is signed always begins with a text that says what it is, so that no signature can pass for another kind's.
pub fn verify(node: NodeId, message: &[u8], signature: &Signature) -> Result<(), NotSigned> {
    let key = VerifyingKey::from_bytes(node.as_bytes()).map_err(|_| NotSigned(node))?;
    let signature = ed25519_dalek::Signature::from_bytes(signature.as_bytes());
    key.verify_strict(message, &signature).map_err(|_| NotSigned(node))
}

/// A node's identity in a form that two people can compare: 128 bits of the hash of its key, in groups of four digits.
pub fn fingerprint(node: NodeId) -> String {
    let hash = blake3::hash(node.as_bytes());
    let groups: Vec<String> = hash.as_bytes()[..16].chunks(2).map(hex::encode).collect();
    groups.join(" ")
}

/// The same in words: twelve of BIP 39's English list, which are told apart by their first four letters.
pub fn fingerprint_words(node: NodeId) -> String {
    let hash = blake3::hash(node.as_bytes());
    // 128 bits are among the lengths that the list is made for.
    let words = bip39::Mnemonic::from_entropy(&hash.as_bytes()[..16]);
    words.map(|words| words.words().collect::<Vec<_>>().join(" ")).unwrap_or_default()
}

/// This node's own identity: an Ed25519 key that never leaves the machine.
pub struct Identity {
    key: SigningKey,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.id().short())
    }
}

impl Identity {
    /// Reads the node's key from `dir`, or makes the folder and the key when there is none.
    ///
    /// Only the user can read either (0700, 0600). Of several processes that begin at once all get the same key. A
    /// file that isn't a whole key is an error and stays as it is.
    pub fn load_or_create(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(FILE);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(disk("make the folder of the node key", dir))?;
        keep_private(dir, 0o700)?;
        match fs::read_to_string(&path) {
            Ok(text) => {
                keep_private(&path, 0o600)?;
                Self::parse(&text).map_err(|why| IdentityError::Damaged { path, why })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(dir, &path),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(IdentityError::Damaged { path, why: "it is not text" })
            }
            Err(error) => Err(disk("read the node key", &path)(error)),
        }
    }

    /// The identity with this secret: for tests and test vectors.
    #[cfg(test)]
    pub(crate) fn from_secret(secret: [u8; 32]) -> Self {
        Self { key: SigningKey::from_bytes(&secret) }
    }

    fn create(dir: &Path, path: &Path) -> Result<Self, IdentityError> {
        let identity = Self { key: SigningKey::from_bytes(&rand::random()) };
        let write = || {
            // Temporary files are made with mode 0600. The name appears when the content is on the disk, or not at all.
            let mut file = tempfile::Builder::new().prefix(".node-key-").tempfile_in(dir)?;
            file.write_all(identity.to_text().as_bytes())?;
            file.as_file().sync_all()?;
            file.persist_noclobber(path)?;
            fs::File::open(dir)?.sync_all()
        };
        match write() {
            Ok(()) => Ok(identity),
            // Another process was first: its key is the node's.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::load_or_create(dir),
            Err(error) => Err(disk("write the node key", path)(error)),
        }
    }

    /// The id stands beside the secret so that damage to either shows, instead of making another node of this one.
    fn to_text(&self) -> String {
        format!("{TITLE}\nsecret {}\nnode {}\n", hex::encode(self.key.as_bytes()), self.id())
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return Err("its first line is not that of a node key");
        }
        let mut field = |name| lines.next().and_then(|line| line.strip_prefix(name));
        let (Some(secret), Some(node)) = (field("secret "), field("node ")) else {
            return Err("it is incomplete");
        };
        let mut bytes = [0; 32];
        hex::decode_to_slice(secret, &mut bytes).map_err(|_| "its secret is not 64 hexadecimal digits")?;
        let identity = Self { key: SigningKey::from_bytes(&bytes) };
        let node: Result<NodeId, ParseIdError> = NodeId::from_str(node);
        if node == Ok(identity.id()) { Ok(identity) } else { Err("its secret and its node id don't match") }
    }

    /// Who this node is: its public key.
    pub fn id(&self) -> NodeId {
        NodeId::from_bytes(self.key.verifying_key().to_bytes())
    }

    /// Signs `message`, which begins with a text that says what it is.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.key.sign(message).to_bytes())
    }

    /// This node's [`fingerprint`].
    pub fn fingerprint(&self) -> String {
        fingerprint(self.id())
    }
}

/// Takes away what others may do with a file or folder, as after a restore from a backup.
fn keep_private(path: &Path, mode: u32) -> Result<(), IdentityError> {
    let now = fs::metadata(path).map_err(disk("look at", path))?.permissions().mode() & 0o777;
    if now & !mode == 0 {
        return Ok(());
    }
    tracing::warn!(path = %path.display(), mode = format!("{now:o}"), "others could read the node's secrets; closed");
    fs::set_permissions(path, fs::Permissions::from_mode(now & mode)).map_err(disk("close to others", path))
}

fn disk<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> IdentityError + 'a {
    move |source| IdentityError::Disk { doing, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_key_is_made_once_and_only_the_user_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("deep/state");
        let first = Identity::load_or_create(&dir).unwrap();
        let second = Identity::load_or_create(&dir).unwrap();
        assert_eq!(first.id(), second.id());
        assert_eq!((mode(&dir), mode(&dir.join(FILE))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no temporary file stays");

        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(dir.join(FILE), fs::Permissions::from_mode(0o644)).unwrap();
        Identity::load_or_create(&dir).unwrap();
        assert_eq!((mode(&dir), mode(&dir.join(FILE))), (0o700, 0o600));
    }

    #[test]
    fn processes_that_begin_at_once_get_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let ids: Vec<NodeId> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| Identity::load_or_create(dir.path()).unwrap().id())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]));
    }

    #[test]
    fn a_damaged_key_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let identity = Identity::load_or_create(dir.path()).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        // Another hexadecimal digit in the secret is still a key, but not this node's.
        let at = good.find("secret ").unwrap() + 7;
        let mut flipped = good.clone().into_bytes();
        flipped[at] = if flipped[at] == b'0' { b'1' } else { b'0' };
        let halved = good.as_bytes()[..good.len() / 2].to_vec();
        for bad in [Vec::new(), vec![0xff; 32], halved, flipped, b"{}\n".to_vec()] {
            fs::write(&path, &bad).unwrap();
            let error = Identity::load_or_create(dir.path()).unwrap_err();
            assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("backup"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bad);
        }
        fs::write(&path, &good).unwrap();
        assert_eq!(Identity::load_or_create(dir.path()).unwrap().id(), identity.id());
    }

    #[test]
    fn only_the_signer_verifies() {
        let (a, b) = (Identity::from_secret([1; 32]), Identity::from_secret([2; 32]));
        let signature = a.sign(b"a message");
        assert_eq!(verify(a.id(), b"a message", &signature), Ok(()));
        assert_eq!(verify(a.id(), b"another", &signature), Err(NotSigned(a.id())));
        assert_eq!(verify(b.id(), b"a message", &signature), Err(NotSigned(b.id())));
        // The neutral point: a "key" under which anything might verify.
        let mut weak = [0; 32];
        weak[0] = 1;
        let mut forged = [0; 64];
        forged[0] = 1;
        assert!(verify(NodeId::from_bytes(weak), b"x", &Signature::from_bytes(forged)).is_err());
    }

    #[test]
    fn test_vector_of_identity() {
        let identity = Identity::from_secret([7; 32]);
        assert_eq!(
            identity.id().to_string(),
            "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c"
        );
        assert_eq!(
            identity.sign(b"twinshare").to_string(),
            concat!(
                "03782d7c20d20cfbdd23d430c7f6697754c41e75779fc16604d5eabad758ccdf",
                "09a349b3db0a5fc354a18b6af4c91d3ff123d20865ea9cc1155d95b0b3961607"
            )
        );
        assert_eq!(identity.fingerprint(), "0871 f3aa bc26 e458 2c50 8af5 c038 84e6");
    }
}
