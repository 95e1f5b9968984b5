//! Derives environments from a project's files.
//!
//! Nothing is run, and no file outside is looked at: what a file says that isn't followed is told.

mod container;
mod languages;

use std::io;

use super::plan::{Files, Planned};
use crate::workspace::definition::{CommandLine, Environment};

/// A file that can't be read, and why.
pub(super) type Unreadable = (String, io::Error);

/// What the derivers share: the files, and the names at the top.
struct Project<'a> {
    files: &'a dyn Files,
    top: Vec<String>,
}

impl Project<'_> {
    fn has(&self, name: &str) -> bool {
        self.top.binary_search_by(|one| one.as_str().cmp(name)).is_ok()
    }

    /// The first of these that is there.
    fn first<'n>(&self, names: &[&'n str]) -> Option<&'n str> {
        names.iter().copied().find(|name| self.has(name))
    }

    /// A file's text, if there is one; what isn't UTF-8 is replaced.
    fn text(&self, path: &str) -> Result<Option<String>, Unreadable> {
        let bytes = self.files.read(path).map_err(|error| (path.to_owned(), error))?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn names(&self, folder: &str) -> Result<Vec<String>, Unreadable> {
        self.files.list(folder).map_err(|error| (folder.to_owned(), error))
    }
}

/// What a deriver found.
type Found = Result<Option<Planned>, Unreadable>;

/// The environments that the files suggest, the one that says most about itself first.
pub(super) fn derive(files: &dyn Files) -> Result<Vec<Planned>, Unreadable> {
    let project = &Project { top: files.list("").map_err(|error| (".".to_owned(), error))?, files };
    let derivers: [fn(&Project<'_>) -> Found; 9] = [
        container::devcontainer,
        container::compose,
        container::containerfile,
        languages::python,
        languages::conda,
        languages::node,
        languages::rust,
        languages::go,
        languages::nix,
    ];
    let mut found = Vec::new();
    for derive in derivers {
        found.extend(derive(project)?);
    }
    if found.is_empty() {
        found.extend(languages::make(project)?);
    }
    Ok(found)
}

fn planned(environment: Environment, from: &[&str]) -> Planned {
    let from = from.iter().map(|&path| path.to_owned()).collect();
    Planned { environment, from, because: Vec::new(), ignored: Vec::new() }
}

fn named(name: &str) -> Environment {
    Environment { name: name.to_owned(), ..Environment::default() }
}

fn line(text: &str) -> CommandLine {
    CommandLine::Line(text.to_owned())
}

fn words(words: &[&str]) -> CommandLine {
    CommandLine::Words(words.iter().map(|&word| word.to_owned()).collect())
}
