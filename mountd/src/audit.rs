//! What was granted, refused and revoked, a line of JSON each.

use std::{
    fs::{self, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::OpenOptionsExt,
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

/// The log.
pub(crate) struct Audit {
    file: PathBuf,
    /// Held while a line is written.
    lock: Mutex<()>,
}

impl Audit {
    pub(crate) fn new(state: &Path) -> Self {
        Self { file: state.join("audit.jsonl"), lock: Mutex::default() }
    }

    fn before(&self) -> PathBuf {
        self.file.with_extension("jsonl.1")
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
        if let Err(error) = self.append(&entry) {
            tracing::error!(%error, ?entry, "the audit log can't be written");
        }
    }

    fn append(&self, entry: &AuditEntry) -> io::Result<()> {
        let _one_at_a_time = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.file)?;
        if file.metadata()?.len() > MOST {
            fs::rename(&self.file, self.before())?;
            file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.file)?;
        }
        // In one call, so that a crash leaves whole lines.
        file.write_all(&line)
    }

    /// The last entries, the oldest of them first, at most `most`.
    pub(crate) fn read(&self, most: usize) -> io::Result<Vec<AuditEntry>> {
        let mut entries = std::collections::VecDeque::new();
        for path in [self.before(), self.file.clone()] {
            let file = match fs::File::open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for line in BufReader::new(file).lines() {
                // A line that a crash has torn is no entry.
                let Ok(entry) = serde_json::from_str(&line?) else { continue };
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
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"at\": \"20\n").unwrap();
        audit.note(Deed::Revoked, None, &whom, None);
        assert!(fs::metadata(&path).unwrap().len() < 1000, "a new one");
        let last = audit.read(2).unwrap();
        assert_eq!(last.iter().map(|entry| entry.deed).collect::<Vec<_>>(), [Deed::Denied, Deed::Revoked]);
    }
}
