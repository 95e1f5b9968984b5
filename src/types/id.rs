use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Name;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits for a {kind}, got {got:?}")]
pub struct ParseIdError {
    kind: &'static str,
    expected: usize,
    got: String,
}

/// Defines a fixed-size byte identifier that is written as lower-case hexadecimal.
macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Wraps raw bytes.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// The first eight hexadecimal digits: for people, never for comparison.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; $bytes];
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) => Ok(Self(bytes)),
                    Err(_) => Err(ParseIdError {
                        kind: $kind,
                        expected: 2 * $bytes,
                        got: text.chars().take(80).collect(),
                    }),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
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

identifier!(
    /// The BLAKE3 hash of some bytes: the name of a blob, a tree object or a snapshot.
    Digest, 32, "digest"
);
identifier!(
    /// A node's identity: its Ed25519 public key.
    NodeId, 32, "node id"
);
identifier!(
    /// A place within a workspace: made of the names from its root, to be looked up by.
    PathKey, 16, "path key"
);
identifier!(
    /// A workspace's identity: random, made once by its owner and kept in workspace.yaml.
    WorkspaceId, 16, "workspace id"
);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl From<Digest> for blake3::Hash {
    fn from(digest: Digest) -> Self {
        Self::from_bytes(digest.0)
    }
}

impl PathKey {
    /// The key of the path with these names, of which none is the workspace's root.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a Name>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for name in names {
            // With its length, so that no two paths give the same bytes. (A name has at most 255.)
            hasher.update(&[name.as_bytes().len() as u8]).update(name.as_bytes());
        }
        let mut key = [0; 16];
        hasher.finalize_xof().fill(&mut key);
        Self(key)
    }
}

impl WorkspaceId {
    /// A new random identity.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_key_is_made_of_the_names_and_where_they_end() {
        let key = |names: &[&str]| {
            let names: Vec<Name> = names.iter().map(|name| Name::new(name.as_bytes()).unwrap()).collect();
            PathKey::of(&names)
        };
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
        let different = [key(&[]), key(&["ab"]), key(&["a", "b"]), key(&["b", "a"]), key(&["a"])];
        let distinct: std::collections::HashSet<_> = different.into_iter().collect();
        assert_eq!(distinct.len(), different.len());
    }

    #[test]
    fn identifiers_are_hexadecimal_both_ways() {
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        assert!("zz".parse::<WorkspaceId>().unwrap_err().to_string().contains("32 hexadecimal digits"));
    }
}
