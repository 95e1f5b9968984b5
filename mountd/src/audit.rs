//! What was granted, refused and revoked, a line of JSON each.

use std::{
    collections::VecDeque,
    fs::{self, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use twinshare::{
    access::{Grant, Whom},
    types::WorkspaceName,
};

pub(crate) use twinshare::api::{AuditEntry, Deed};

/// A log of this length makes way for a new one, in bytes; the one before it is kept.
const MOST: u64 = 4 << 20;

/// The log. What others ask for has files of its own, since they decide how much that is.
pub(crate) struct Audit {
    decided: File,
    asked: File,
}

/// A file of lines, and the one before it.
struct File {
    path: PathBuf,
    /// Held while a line is written.
    lock: Mutex<()>,
}

impl Audit {
    pub(crate) fn new(state: &Path) -> Self {
        let file = |name| File { path: state.join(name), lock: Mutex::default() };
        Self { decided: file("audit.jsonl"), asked: file("asked.jsonl") }
    }

    /// Notes what was done. A disk that is full keeps nobody from being denied: what can't be noted is logged.
    pub(crate) fn note(
        &self,
        deed: Deed,
        workspace: Option<&WorkspaceName>,
        whom: &Whom,
        grant: Option<Grant>,
    ) {
        let entry = AuditEntry {
            at: Timestamp::now(),
            deed,
            workspace: workspace.cloned(),
            whom: whom.clone(),
            rights: grant.map(|grant| grant.rights),
            expires: grant.and_then(|grant| grant.expires),
        };
        let file = if deed == Deed::Asked { &self.asked } else { &self.decided };
        if let Err(error) = file.append(&entry) {
            tracing::error!(%error, ?entry, "the audit log can't be written");
        }
    }

    /// The last entries, the oldest of them first, at most `most`.
    pub(crate) fn read(&self, most: usize) -> io::Result<Vec<AuditEntry>> {
        let mut entries = [self.decided.read(most)?, self.asked.read(most)?].concat();
        entries.sort_by_key(|entry| entry.at);
        Ok(entries.split_off(entries.len().saturating_sub(most)))
    }
}

impl File {
    fn before(&self) -> PathBuf {
        self.path.with_extension("jsonl.1")
    }

    fn append(&self, entry: &AuditEntry) -> io::Result<()> {
        let _one_at_a_time = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let open = || OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path);
        let mut file = open()?;
        if file.metadata()?.len() > MOST {
            fs::rename(&self.path, self.before())?;
            file = open()?;
        }
        let mut line = Vec::new();
        // A line that a crash has torn mustn't swallow this one.
        let mut last = [b'\n'];
        if let Some(end) = file.metadata()?.len().checked_sub(1) {
            file.read_exact_at(&mut last, end)?;
        }
        if last != *b"\n" {
            line.push(b'\n');
        }
        serde_json::to_writer(&mut line, entry)?;
        line.push(b'\n');
        // In one call, so that a crash leaves whole lines.
        file.write_all(&line)
    }

    fn read(&self, most: usize) -> io::Result<Vec<AuditEntry>> {
        let mut entries = VecDeque::new();
        for path in [self.before(), self.path.clone()] {
            let file = match fs::File::open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for line in BufReader::new(file).split(b'\n') {
                // A line that a crash has torn is no entry.
                let Ok(entry) = serde_json::from_slice(&line?) else { continue };
                if entries.len() == most {
                    entries.pop_front();
                }
                entries.push_back(entry);
            }
        }
        Ok(entries.into())
    }
}

#[cfg(test)]
mod tests {
    use twinshare::types::NodeId;

    use super::*;

    #[test]
    fn the_log_is_bounded_and_survives_torn_lines() {
        let state = tempfile::tempdir().unwrap();
        let audit = Audit::new(state.path());
        assert!(audit.read(10).unwrap().is_empty());
        let (lab, whom): (WorkspaceName, _) =
            ("lab".parse().unwrap(), Whom::Peer(NodeId::from_bytes([1; 32])));
        audit.note(Deed::Denied, Some(&lab), &whom, None);
        let path = state.path().join("audit.jsonl");
        let line = fs::read(&path).unwrap();
        let many: Vec<u8> =
            line.iter().copied().cycle().take(line.len() * (MOST as usize / line.len() + 2)).collect();
        fs::write(&path, many).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"at\": \"20\xff").unwrap();
        audit.note(Deed::Revoked, None, &whom, None);
        assert!(fs::metadata(&path).unwrap().len() < 1000, "a new one");
        let last = |most| audit.read(most).unwrap().iter().map(|entry| entry.deed).collect::<Vec<_>>();
        assert_eq!(last(2), [Deed::Denied, Deed::Revoked]);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"at\": \"20\xff").unwrap();
        audit.note(Deed::Granted, None, &whom, None);
        assert_eq!(last(2), [Deed::Revoked, Deed::Granted], "a torn line swallows no other");
        // However often others ask, what was decided stays.
        fs::write(state.path().join("asked.jsonl"), vec![b'\n'; MOST as usize + 1]).unwrap();
        audit.note(Deed::Asked, Some(&lab), &whom, None);
        assert_eq!(last(3), [Deed::Revoked, Deed::Granted, Deed::Asked]);
    }
}
