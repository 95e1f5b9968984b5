use std::{ffi::OsStr, fmt, os::unix::ffi::OsStrExt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest file name that Linux allows, in bytes.
const NAME_MAX: usize = 255;

/// The longest label (host or workspace name), in bytes: leaves room for `@<snapshot>` in a file name.
const LABEL_MAX: usize = 120;

/// Why some bytes can't be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("a name can't be empty")]
    Empty,
    /// The name is longer than the file system allows.
    #[error("a name of {0} bytes is too long")]
    TooLong(usize),
    /// `.` or `..`.
    #[error("'.' and '..' can't be names")]
    Dots,
    /// The name has a byte that would change its meaning.
    #[error("a name can't contain {0:?}")]
    Forbidden(char),
}

/// One component of a path, as raw bytes: never empty, `.`, `..`, longer than 255 bytes, or with `/` or NUL in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks `bytes` and takes them as a name.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, NameError> {
        let bytes = bytes.into();
        Self::check(&bytes)?;
        Ok(Self(bytes))
    }

    /// Whether bytes can be a name.
    pub fn check(bytes: &[u8]) -> Result<(), NameError> {
        match bytes {
            b"" => return Err(NameError::Empty),
            b"." | b".." => return Err(NameError::Dots),
            _ => {}
        }
        if bytes.len() > NAME_MAX {
            return Err(NameError::TooLong(bytes.len()));
        }
        match bytes.iter().find(|&&byte| byte == b'/' || byte == 0) {
            Some(&byte) => Err(NameError::Forbidden(byte.into())),
            None => Ok(()),
        }
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Names with slashes between them.
    pub fn join(path: &[Self]) -> Vec<u8> {
        path.iter().map(Self::as_bytes).collect::<Vec<_>>().join(&b'/')
    }

    /// The name that no other comes before.
    pub fn least() -> Self {
        Self([1].into())
    }

    /// Where it comes in a listing: names are listed in the order of their hashes, so that a position stays right while
    /// others come and go. From 3, below the greatest signed number.
    pub fn position(&self) -> u64 {
        position(&self.0)
    }

    /// The name as the operating system's string type.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

/// What [`Name::position`] is for bytes that may not be a name.
pub fn position(name: &[u8]) -> u64 {
    let hash = blake3::hash(name);
    let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
    (u64::from_le_bytes([a, b, c, d, e, f, g, h]) >> 1).clamp(3, i64::MAX as u64 - 1)
}

/// In CBOR: a byte string.
impl<C> minicbor::Encode<C> for Name {
    fn encode<W: minicbor::encode::Write>(
        &self,
        to: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        to.bytes(&self.0)?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for Name {
    fn decode(from: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Self::new(from.bytes()?).map_err(minicbor::decode::Error::message)
    }
}

impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// Checks a label: a name that people type, and that becomes a folder of the mount.
fn check_label(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > LABEL_MAX {
        return Err(NameError::TooLong(text.len()));
    }
    // '@' separates a workspace from its snapshot; a leading '.' is the mount's own (`.outside`).
    match text.chars().find(|&c| c.is_control() || matches!(c, '/' | '@' | '\\')) {
        Some(c) => Err(NameError::Forbidden(c)),
        None if text.starts_with(['.', '-']) => {
            Err(NameError::Forbidden(if text.starts_with('.') { '.' } else { '-' }))
        }
        None => Ok(()),
    }
}

/// Defines a label type: a checked string.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The label as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check_label(text)?;
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

label!(
    /// A host's name as a folder of the mount: 1 to 120 bytes, no `/`, `@`, `\` or control characters, no leading `.` or `-`.
    HostName
);
label!(
    /// A workspace's name as a folder of the mount, with the same rules as [`HostName`].
    WorkspaceName
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_any_bytes_that_linux_allows() {
        for good in [&b"caf\xc3\xa9"[..], b"cafe\xcc\x81", b"caf\xe9", &[b'n'; 255], b"...", b" "] {
            assert_eq!(Name::new(good).unwrap().as_bytes(), good);
        }
        assert_eq!(Name::new(&b""[..]), Err(NameError::Empty));
        assert_eq!(Name::new(&b".."[..]), Err(NameError::Dots));
        assert_eq!(Name::new(&b"a/b"[..]), Err(NameError::Forbidden('/')));
        assert_eq!(Name::new(&b"a\0"[..]), Err(NameError::Forbidden('\0')));
        assert_eq!(Name::new(vec![b'n'; 256]), Err(NameError::TooLong(256)));
    }

    #[test]
    fn labels_cannot_leave_their_folder() {
        for bad in ["", "..", ".outside", "a/b", "lab@1", "a\nb", "-rf", "a\\b"] {
            assert!(bad.parse::<HostName>().is_err(), "{bad:?}");
        }
        assert_eq!("Łódź lab-1".parse::<WorkspaceName>().unwrap().as_str(), "Łódź lab-1");
    }
}
