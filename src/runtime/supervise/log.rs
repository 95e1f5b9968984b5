//! What an environment prints, kept in a file of lines, and in one more that was it before.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::unix::pipe,
    sync::watch,
};

/// A file that has become longer, in bytes, is put aside, and one that was before is forgotten.
const MOST: u64 = 16 << 20;

/// A longer line is cut into several, in bytes.
const LONGEST: u64 = 16 << 10;

/// A line that something in an environment printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When.
    pub time: Timestamp,
    /// What printed it: `main`, a service's name, `setup`, `hook`; or `twinshare`, of which it tells.
    pub from: String,
    /// Without its end.
    pub text: String,
}

/// Where lines are written.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    state: Mutex<(File, u64)>,
    /// Changes with each line.
    written: watch::Sender<()>,
}

impl Log {
    /// Goes on with the file, or makes it.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let file = append(&path)?;
        let length = file.metadata()?.len();
        Ok(Self { path, state: Mutex::new((file, length)), written: watch::Sender::new(()) })
    }

    pub(super) fn write(&self, from: &str, text: &str) {
        let line = LogLine { time: Timestamp::now(), from: from.to_owned(), text: text.to_owned() };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.append(&mut state, &line) {
            // The disk may be full: what runs goes on, and prints in vain.
            tracing::warn!(%error, "the log can't be written");
        }
        self.written.send_replace(());
    }

    /// Changes when something was written.
    pub(super) fn written(&self) -> watch::Receiver<()> {
        self.written.subscribe()
    }

    fn append(&self, (file, length): &mut (File, u64), line: &LogLine) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        if *length > MOST {
            fs::rename(&self.path, earlier(&self.path))?;
            (*file, *length) = (append(&self.path)?, 0);
        }
        file.write_all(&bytes)?;
        *length += bytes.len() as u64;
        Ok(())
    }

    /// A descriptor to print to: what comes by it is written as lines of `from`, until nobody can print to it any more. Each
    /// line is shown to `look`, too.
    pub(super) fn stream(
        self: &Arc<Self>,
        from: &str,
        mut look: impl FnMut(&str) + Send + 'static,
    ) -> io::Result<OwnedFd> {
        let (reader, writer) = std::io::pipe()?;
        let reader = pipe::Receiver::from_owned_fd(reader.into())?;
        let (log, from) = (self.clone(), from.to_owned());
        tokio::spawn(async move {
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            loop {
                line.clear();
                match (&mut reader).take(LONGEST).read_until(b'\n', &mut line).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                }
                let text = String::from_utf8_lossy(&line);
                let text = text.trim_end_matches(['\n', '\r']);
                log.write(&from, text);
                look(text);
            }
        });
        Ok(writer.into())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Reads a log from its beginning, also while it's being written.
pub struct Tail {
    path: PathBuf,
    file: Option<std::io::BufReader<File>>,
    /// The beginning of a line of which the rest isn't there yet.
    rest: Vec<u8>,
}

impl Tail {
    /// Of the launch in a folder.
    ///
    /// # Errors
    /// When the log can't be read. That there's none is no error.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(super::LOG);
        let before = open(&earlier(&path))?;
        let file = if before.is_some() { before } else { open(&path)? };
        Ok(Self { path, file: file.map(std::io::BufReader::new), rest: Vec::new() })
    }

    /// The next line, if it's there by now.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn next_line(&mut self) -> io::Result<Option<LogLine>> {
        loop {
            let Some(file) = &mut self.file else {
                self.file = open(&self.path)?.map(std::io::BufReader::new);
                if self.file.is_none() {
                    return Ok(None);
                }
                continue;
            };
            std::io::BufRead::read_until(file, b'\n', &mut self.rest)?;
            if self.rest.last() == Some(&b'\n') {
                // A line that nobody wrote is passed over.
                let line = serde_json::from_slice(&self.rest).ok();
                self.rest.clear();
                if line.is_some() {
                    return Ok(line);
                }
                continue;
            }
            // The end, for now: or it was put aside, and there's another.
            let (here, there) = (file.get_ref().metadata()?, fs::metadata(&self.path));
            let same = |other: &fs::Metadata| (here.dev(), here.ino()) == (other.dev(), other.ino());
            match there {
                Ok(there) if !same(&there) => (self.file, self.rest) = (None, Vec::new()),
                _ => return Ok(None),
            }
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a log was before it became too long.
fn earlier(path: &Path) -> PathBuf {
    path.with_extension("1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_kept_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Arc::new(Log::open(path.clone()).unwrap());
        let (seen, mut lines) = tokio::sync::mpsc::unbounded_channel();
        let mut stream =
            File::from(log.stream("main", move |line| seen.send(line.to_owned()).unwrap()).unwrap());
        let long = "x".repeat(usize::try_from(LONGEST).unwrap() + 10);
        stream.write_all(format!("one\r\n\u{fffd}\n{long}\nlast").as_bytes()).unwrap();
        drop(stream);
        let mut came = Vec::new();
        while let Some(line) = lines.recv().await {
            came.push(line.len());
        }
        assert_eq!(came, [3, 3, usize::try_from(LONGEST).unwrap(), 10, 4]);
        let kept: Vec<LogLine> = fs::read_to_string(&path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!((kept.len(), kept[0].from.as_str(), kept[0].text.as_str()), (5, "main", "one"));

        let mut tail = Tail::open(folder.path()).unwrap();
        let first = tail.next_line().unwrap().unwrap();
        log.state.lock().unwrap().1 = MOST + 1;
        log.write("main", "after");
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
        assert_eq!(fs::read_to_string(earlier(&path)).unwrap().lines().count(), 5);
        let mut texts = vec![first.text];
        while let Some(line) = tail.next_line().unwrap() {
            texts.push(line.text);
        }
        assert_eq!(
            (texts.len(), texts[0].as_str(), texts[5].as_str()),
            (6, "one", "after"),
            "across the change"
        );
        log.write("main", "later");
        assert_eq!(tail.next_line().unwrap().unwrap().text, "later");
        assert_eq!(Tail::open(folder.path()).unwrap().next_line().unwrap().unwrap().text, "one");
    }
}
