use std::{ffi::OsString, fmt, os::unix::ffi::OsStringExt};

use crate::types::{HostName, Name, NameError, WorkspaceName};

/// Why some bytes are not the path of a file in a workspace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilePathError {
    /// There's no workspace in it.
    #[error("expected HOST/WORKSPACE, or HOST/WORKSPACE/PATH")]
    TooShort,
    /// The host's or workspace's name isn't one.
    #[error("{text:?} can't be the name of a {what}: {why}")]
    Label {
        /// `host` or `workspace`.
        what: &'static str,
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// A component of the path isn't a name.
    #[error("not a path inside a workspace: {0}")]
    Name(#[from] NameError),
    /// In a query, a `%` that no two hexadecimal digits follow, or no `path=`.
    #[error("the query isn't path= and a percent-encoded path")]
    Query,
}

/// A file as people name it: HOST/WORKSPACE, or HOST/WORKSPACE/PATH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePath {
    /// The host's name in the mount.
    pub host: HostName,
    /// The workspace's name.
    pub workspace: WorkspaceName,
    /// The way below the workspace; empty for the workspace itself.
    pub path: Vec<Name>,
}

impl FilePath {
    /// Reads a path. Empty components, as in `a//b/`, are skipped.
    pub fn parse(bytes: &[u8]) -> Result<Self, FilePathError> {
        let mut parts = bytes.split(|&byte| byte == b'/').filter(|part| !part.is_empty());
        let mut label = |what: &'static str| -> Result<(&str, &'static str), FilePathError> {
            let part = parts.next().ok_or(FilePathError::TooShort)?;
            let text = std::str::from_utf8(part).map_err(|_| FilePathError::Label {
                what,
                text: String::from_utf8_lossy(part).into_owned(),
                why: "it isn't UTF-8".to_owned(),
            })?;
            Ok((text, what))
        };
        let wrong = |(text, what): (&str, &'static str), why: NameError| FilePathError::Label {
            what,
            text: text.to_owned(),
            why: why.to_string(),
        };
        let host = label("host")?;
        let workspace = label("workspace")?;
        Ok(Self {
            host: host.0.parse().map_err(|why| wrong(host, why))?,
            workspace: workspace.0.parse().map_err(|why| wrong(workspace, why))?,
            path: parts.map(Name::new).collect::<Result<_, _>>()?,
        })
    }

    /// Reads the query of a URL: `path=` and the percent-encoded path.
    pub fn from_query(query: &str) -> Result<Self, FilePathError> {
        let encoded =
            query.split('&').find_map(|field| field.strip_prefix("path=")).ok_or(FilePathError::Query)?;
        let mut bytes = Vec::with_capacity(encoded.len());
        let mut rest = encoded.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            rest = tail;
            if first == b'%' {
                let (digits, tail) = rest.split_at_checked(2).ok_or(FilePathError::Query)?;
                let mut byte = [0];
                hex::decode_to_slice(digits, &mut byte).map_err(|_| FilePathError::Query)?;
                bytes.push(byte[0]);
                rest = tail;
            } else {
                bytes.push(first);
            }
        }
        Self::parse(&bytes)
    }

    /// The query of a URL that [`Self::from_query`] reads.
    pub fn to_query(&self) -> String {
        use std::fmt::Write;
        let mut query = String::from("path=");
        for byte in self.to_bytes() {
            if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
                query.push(byte.into());
            } else {
                // Writing to a string can't fail.
                let _ = write!(query, "%{byte:02X}");
            }
        }
        query
    }

    /// The path as the operating system's string type, to be read by [`Self::parse`].
    pub fn to_os_string(&self) -> OsString {
        OsString::from_vec(self.to_bytes())
    }

    /// The path as bytes, its parts joined by `/`.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{}/{}", self.host, self.workspace).into_bytes();
        for name in &self.path {
            bytes.push(b'/');
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_name_a_workspace_and_what_is_below_it() {
        let path = FilePath::parse(b"owner/lab//src/caf\xe9/").unwrap();
        assert_eq!((path.host.as_str(), path.workspace.as_str(), path.path.len()), ("owner", "lab", 2));
        assert_eq!(path.to_query(), "path=owner/lab/src/caf%E9");
        assert_eq!(FilePath::parse(b"owner"), Err(FilePathError::TooShort));
        assert_eq!(FilePath::parse(b"owner/lab/../other"), Err(FilePathError::Name(NameError::Dots)));
        assert!(matches!(FilePath::parse(b".outside/lab"), Err(FilePathError::Label { what: "host", .. })));
        for query in ["", "path=owner/lab/%4", "path=owner/lab/%zz", "other=owner/lab"] {
            assert_eq!(FilePath::from_query(query), Err(FilePathError::Query), "{query:?}");
        }
    }

    proptest! {
        #[test]
        fn queries_carry_any_bytes(names in proptest::collection::vec(proptest::collection::vec(1u8.., 1..20), 0..4)) {
            let path = names.into_iter().filter_map(|name| Name::new(name).ok()).collect();
            let path = FilePath { host: "a b&c".parse().unwrap(), workspace: "łódź%".parse().unwrap(), path };
            prop_assert_eq!(FilePath::from_query(&path.to_query()).unwrap(), path);
        }
    }
}
