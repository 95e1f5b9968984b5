//! Finds secrets by what they look like, in files that people write.

use std::{io::Read, sync::LazyLock};

use regex::bytes::{Regex, RegexSet};

/// Larger files are data, mostly.
const MOST: u64 = 64 << 10;

/// What people put their tokens into, by the ends of its name.
const WRITTEN: [&str; 28] = [
    ".bash",
    ".cfg",
    ".conf",
    ".config",
    ".env",
    ".go",
    ".hcl",
    ".ini",
    ".ipynb",
    ".java",
    ".js",
    ".json",
    ".md",
    ".npmrc",
    ".php",
    ".properties",
    ".ps1",
    ".py",
    ".rb",
    ".rs",
    ".sh",
    ".tf",
    ".tfvars",
    ".toml",
    ".ts",
    ".txt",
    ".yaml",
    ".yml",
];

/// Folders of packages that others have written: what looks like a key there is an example.
const OTHERS: [&[u8]; 4] = [b"site-packages", b"dist-packages", b"node_modules", b"vendor"];

/// A key of Amazon's, and its place among all.
const AMAZON_KEY: &str = r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b";
const AMAZON: usize = 1;
static AMAZONS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(AMAZON_KEY).ok());

/// What tokens look like: those whose makers gave them a form of their own, so that they can be found.
static TOKENS: LazyLock<RegexSet> = LazyLock::new(|| {
    let patterns = [
        // A key and not the words alone, as instructions have them.
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s(?:[A-Za-z-]+:.*\s)*\s*[A-Za-z0-9+/=\s]{40}",
        AMAZON_KEY,
        r"\bgh[pousr]_[A-Za-z0-9]{36}",
        r"\bgithub_pat_[A-Za-z0-9_]{60}",
        r"\bglpat-[A-Za-z0-9_-]{20}",
        r"\bxox[abprs]-[0-9]{6,}-[A-Za-z0-9-]{10}",
        r"\bhf_[A-Za-z]{34}\b",
        r"\bsk-(?:proj-|ant-[a-z0-9]+-)?[A-Za-z0-9_-]{40}",
        r"\bAIza[0-9A-Za-z_-]{35}\b",
        r":_authToken\s*=\s*[^\s$]{8}",
    ];
    // A test compiles them.
    RegexSet::new(patterns).unwrap_or_else(|_| RegexSet::empty())
});

/// A password in an address, as git keeps it.
static IN_ADDRESS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?im)^\s*(?:push)?url\s*=\s*[a-z+]+://[^\s/:@]*:[^\s/@]+@|^\s*extraheader\s*=.*authorization",
    )
    .ok()
});

/// Whether a file is to be looked into: by its path below the workspace's root, with `/` between the names, and its length.
pub(super) fn is_suspect(path: &[u8], size: u64) -> bool {
    if size == 0 || size > MOST || path.split(|byte| *byte == b'/').any(|name| OTHERS.contains(&name)) {
        return false;
    }
    is_git_config(path) || WRITTEN.iter().any(|end| path.ends_with(end.as_bytes()))
}

/// Whether git keeps addresses in it: the settings of a repository, of its worktrees and submodules, or of the user.
fn is_git_config(path: &[u8]) -> bool {
    let mut names = path.split(|byte| *byte == b'/');
    match names.next_back() {
        Some(b".gitconfig" | b".gitmodules") => true,
        Some(b"config" | b"config.worktree") => names.any(|name| name == b".git"),
        _ => false,
    }
}

/// Whether there's a secret in the file at this path.
pub(super) fn has_secret(path: &[u8], file: impl Read) -> std::io::Result<bool> {
    let mut text = Vec::new();
    file.take(MOST).read_to_end(&mut text)?;
    if is_git_config(path) && IN_ADDRESS.as_ref().is_some_and(|address| address.is_match(&text)) {
        return Ok(true);
    }
    let found = TOKENS.matches(&text);
    // What makers of documentation write: a key of Amazon's that says so.
    let is_real = |which: usize| match which {
        AMAZON => AMAZONS
            .as_ref()
            .is_none_or(|keys| keys.find_iter(&text).any(|key| !key.as_bytes().ends_with(b"EXAMPLE"))),
        _ => true,
    };
    Ok(found.iter().any(is_real))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> bool {
        assert!(is_suspect(path.as_bytes(), text.len() as u64), "{path}");
        has_secret(path.as_bytes(), text.as_bytes()).unwrap()
    }

    #[test]
    fn every_pattern_compiles() {
        assert_eq!(TOKENS.len(), 10);
        assert!(IN_ADDRESS.is_some() && AMAZONS.is_some());
    }

    #[test]
    fn tokens_are_found_and_talk_of_tokens_is_not() {
        let (letters, digits) =
            ("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789".repeat(7));
        let key = format!(
            "k = '''-----BEGIN OPENSSH PRIVATE KEY-----\n{letters}\n-----END OPENSSH PRIVATE KEY-----'''"
        );
        for (path, text) in [
            ("train.py", key.as_str()),
            ("a/b.yaml", "aws: AKIAIOSFODNN7ABCDEFG"),
            ("x.sh", &format!("export T=ghp_{}", &digits[..36])),
            ("x.ipynb", &format!("\"hf_{}\"", &letters[..34])),
            ("x.toml", &format!("key = \"sk-proj-{}\"", &digits[..48])),
            ("x.json", &format!("{{\"k\": \"AIza{}\"}}", &digits[..35])),
            (".npmrc", "//registry.npmjs.org/:_authToken=0123456789abcdef"),
            (".git/config", "[remote \"origin\"]\n\turl = https://ann:hunter2@example.org/x.git\n"),
            ("r/.git/config", "[http]\n\textraheader = AUTHORIZATION: basic abc\n"),
            ("r/.git/config", "[http]\n\textraHeader = Authorization: bearer abc\n"),
            (".git/modules/x/config", "[remote \"origin\"]\n\tURL = https://ann:hunter2@example.org/x.git\n"),
            (".gitconfig", "[url]\n\turl = https://ann:hunter2@example.org/x.git\n"),
            ("a.yaml", "example: AKIAIOSFODNN7EXAMPLE\naws: AKIAIOSFODNN7ABCDEFG"),
        ] {
            assert!(found(path, text), "{path}: {text}");
        }
        for (path, text) in [
            ("README.md", "paste it between -----BEGIN PRIVATE KEY----- and -----END PRIVATE KEY-----\n"),
            ("x.md", "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----"),
            ("a.yaml", "aws: AKIAIOSFODNN7EXAMPLE"),
            (
                ".git/config",
                "[remote \"origin\"]\n\turl = git@example.org:x.git\n\tpushurl = https://ann@example.org/x\n",
            ),
            (".npmrc", "//registry.npmjs.org/:_authToken=${NPM_TOKEN}"),
            ("x.py", "token = os.environ['HF_TOKEN']; sk-learn; ghp_short; hf_hub_download"),
        ] {
            assert!(!found(path, text), "{path}: {text}");
        }
        for path in [
            "v/lib/python3.11/site-packages/x/test.py",
            "node_modules/a.js",
            "model.bin",
            "a.csv",
            "git/config",
        ] {
            assert!(!is_suspect(path.as_bytes(), 100), "{path}");
        }
        assert!(!is_suspect(b"a.json", MOST + 1) && !is_suspect(b"a.json", 0));
    }
}
