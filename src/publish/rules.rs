use std::{
    ffi::OsStr,
    io::Read,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{Arc, LazyLock},
};

use ignore::{
    Match,
    gitignore::{Gitignore, GitignoreBuilder},
};
use serde::{Deserialize, Serialize};

/// The file that says what of its folder isn't shared, in the syntax of .gitignore.
pub const IGNORE_FILE: &str = ".twinshareignore";

/// An ignore file is written by people: what is beyond this many bytes isn't read.
const IGNORE_MAX: u64 = 1 << 20;

/// How far into a file the mark of a private key is looked for: certificates may stand before it.
const KEY_SEARCH: u64 = 256 << 10;

/// Files that hold secrets: never shared unless a `!` pattern in an ignore file says so. A pattern without `/` at its
/// end is for files only, so that a virtual environment called `.env` or a folder `id_cards` is shared.
const SECRETS: &[&str] = &[
    ".env",
    ".env.*",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.ppk",
    "*.kdbx",
    ".netrc",
    "_netrc",
    ".pgpass",
    ".pypirc",
    ".htpasswd",
    ".git-credentials",
    ".vault-token",
    ".s3cfg",
    ".dockercfg",
    "application_default_credentials.json",
    "**/.aws/credentials",
    "**/.docker/config.json",
    "**/.kube/config",
    "**/.config/gh/hosts.yml",
    "**/.cache/huggingface/token",
    ".ssh/",
    ".gnupg/",
    "id_*",
    KEYS_AND_CERTIFICATES,
];

/// Certificates are public and packages ship them (certifi's cacert.pem): only those with a private key are secrets.
const KEYS_AND_CERTIFICATES: &str = "*.pem";

static DEFAULTS: LazyLock<Arc<Rules>> = LazyLock::new(|| {
    let mut builder = GitignoreBuilder::new(".");
    for line in SECRETS {
        // A test compiles every pattern.
        let _ = builder.add_line(None, line);
    }
    Arc::new(Rules {
        parent: None,
        depth: 0,
        patterns: builder.build().unwrap_or_else(|_| Gitignore::empty()),
    })
});

/// Why something isn't shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// It looks like a secret. `!pattern` in an ignore file shares it.
    Secret,
    /// An ignore file names it.
    Ignored,
    /// It is this node's own: its mount, cache or state.
    Own,
    /// A socket, fifo or device.
    Special,
    /// Another file system is mounted there: one of FUSE, or one of the kernel's own.
    Mounted,
    /// The user who shares can't read it.
    Unreadable,
    /// It lies too deep.
    Deep,
}

/// What the rules say of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Share,
    /// A pattern with `!` in an ignore file says that it's to be shared.
    ShareAnyway,
    /// One without wildcards does: somebody has named it.
    ShareNamed,
    LeaveOut(Reason),
    /// A secret if there's a private key in it, else to be shared.
    LookForKey,
}

/// The ignore files that hold for a folder, its own first, the default excludes last.
#[derive(Debug)]
pub(super) struct Rules {
    parent: Option<Arc<Rules>>,
    /// How many names deep the folder is whose file this is.
    depth: usize,
    patterns: Gitignore,
}

impl Rules {
    /// The default excludes alone.
    pub(super) fn defaults() -> Arc<Rules> {
        Arc::clone(&DEFAULTS)
    }

    /// These rules, and before them the ignore file of a folder `depth` names deep. Patterns that can't be understood
    /// are skipped with a warning.
    pub(super) fn with_file(self: &Arc<Self>, depth: usize, file: impl Read) -> std::io::Result<Arc<Rules>> {
        let mut bytes = Vec::new();
        file.take(IGNORE_MAX).read_to_end(&mut bytes)?;
        let mut builder = GitignoreBuilder::new(".");
        for line in String::from_utf8_lossy(&bytes).trim_start_matches('\u{feff}').lines() {
            if let Err(error) = builder.add_line(None, line) {
                tracing::warn!(%error, "a pattern in {IGNORE_FILE} is skipped");
            }
        }
        let patterns = builder.build().map_err(std::io::Error::other)?;
        Ok(Arc::new(Rules { parent: Some(Arc::clone(self)), depth, patterns }))
    }

    /// Whether these are an ignore file's, and `parent` the rules above it.
    pub(super) fn are_below(&self, parent: &Arc<Rules>) -> bool {
        self.parent.as_ref().is_some_and(|own| Arc::ptr_eq(own, parent))
    }

    /// What holds for `path`, whose names below the workspace's root are joined by `/`.
    pub(super) fn verdict(&self, path: &[u8], is_folder: bool) -> Verdict {
        let mut rules = self;
        loop {
            let found = rules.patterns.matched(Path::new(OsStr::from_bytes(rules.relative(path))), is_folder);
            match (found, &rules.parent) {
                (Match::Whitelist(glob), _) if glob.original().contains(['*', '?', '[', '{']) => {
                    return Verdict::ShareAnyway;
                }
                (Match::Whitelist(_), _) => return Verdict::ShareNamed,
                (Match::Ignore(_), Some(_)) => return Verdict::LeaveOut(Reason::Ignored),
                (Match::Ignore(glob), None) if is_folder && !glob.is_only_dir() => return Verdict::Share,
                (Match::Ignore(glob), None) => return secret(glob.original(), path),
                (Match::None, Some(parent)) => rules = parent,
                (Match::None, None) => return Verdict::Share,
            }
        }
    }

    /// `path` as seen from the folder that the rules stand in.
    fn relative<'a>(&self, path: &'a [u8]) -> &'a [u8] {
        let mut rest = path;
        for _ in 0..self.depth {
            match rest.iter().position(|&byte| byte == b'/') {
                Some(slash) => rest = &rest[slash + 1..],
                None => break,
            }
        }
        rest
    }
}

/// The verdict on a file that the default pattern `pattern` matches.
fn secret(pattern: &str, path: &[u8]) -> Verdict {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    // Keys are called id_rsa, id_work, id_ed25519; id_rsa.pub is public, and id_map.py is a program.
    let maybe = pattern == KEYS_AND_CERTIFICATES || (pattern == "id_*" && name.contains(&b'.'));
    if maybe { Verdict::LookForKey } else { Verdict::LeaveOut(Reason::Secret) }
}

/// Whether there's a private key in PEM form near the start of `file`.
pub(super) fn has_private_key(file: impl Read) -> std::io::Result<bool> {
    const MARK: &[u8] = b"PRIVATE KEY-----";
    let mut head = Vec::new();
    file.take(KEY_SEARCH).read_to_end(&mut head)?;
    Ok(head.windows(MARK.len()).any(|bytes| bytes == MARK))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(rules: &Rules, path: &str) -> Verdict {
        rules.verdict(path.trim_end_matches('/').as_bytes(), path.ends_with('/'))
    }

    #[test]
    fn every_default_pattern_compiles() {
        assert_eq!(DEFAULTS.patterns.num_ignores(), SECRETS.len() as u64);
    }

    #[test]
    fn case_u6_secrets_are_left_out_and_nothing_else() {
        let rules = Rules::defaults();
        for path in [
            ".env",
            "a/.env.local",
            "id_rsa",
            "x/id_work",
            "a/b.key",
            ".ssh/",
            "h/.aws/credentials",
            ".netrc",
        ] {
            assert_eq!(verdict(&rules, path), Verdict::LeaveOut(Reason::Secret), "{path}");
        }
        for path in ["site/certifi/cacert.pem", "id_rsa.pub", "lib/id_map.py"] {
            assert_eq!(verdict(&rules, path), Verdict::LookForKey, "{path}");
        }
        for path in [".env/", "id_cards/", ".gitignore", "env", "credentials", "aws/credentials", "m.keys"] {
            assert_eq!(verdict(&rules, path), Verdict::Share, "{path}");
        }
        assert!(has_private_key(&b"-----BEGIN OPENSSH PRIVATE KEY-----\n"[..]).unwrap());
        assert!(!has_private_key(&b"-----BEGIN CERTIFICATE-----\n"[..]).unwrap());
    }

    #[test]
    fn nearer_files_decide_and_can_share_secrets() {
        let root = Rules::defaults().with_file(0, &b"*.log\n/build\n!.env\n[bad\n"[..]).unwrap();
        let nested = root.with_file(1, &b"!keep.log\n/data\nd.pem\n"[..]).unwrap();
        let left_out = Verdict::LeaveOut(Reason::Ignored);
        assert_eq!(verdict(&root, "a/x.log"), left_out);
        assert_eq!(verdict(&root, "build/"), left_out);
        assert_eq!(verdict(&root, "a/build/"), Verdict::Share);
        assert_eq!(verdict(&root, "a/.env"), Verdict::ShareNamed);
        assert_eq!(verdict(&nested, "a/keep.log"), Verdict::ShareNamed);
        let broad = root.with_file(1, &b"!*.log\n"[..]).unwrap();
        assert_eq!(verdict(&broad, "a/other.log"), Verdict::ShareAnyway);
        assert_eq!(verdict(&nested, "a/other.log"), left_out);
        assert_eq!(verdict(&nested, "a/data/"), left_out);
        assert_eq!(verdict(&nested, "a/b/data/"), Verdict::Share);
        assert_eq!(verdict(&nested, "a/d.pem"), left_out);
        assert_eq!(verdict(&nested, "a/id_rsa"), Verdict::LeaveOut(Reason::Secret));
        let bytes = [&b"a/caf\xe9.log"[..]].concat();
        assert_eq!(root.verdict(&bytes, false), left_out);
    }
}
