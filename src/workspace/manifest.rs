use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_yaml::{Mapping, Value};

use crate::types::{NameError, WorkspaceId, WorkspaceName};

/// The manifest's file name, at the root of its workspace.
pub const MANIFEST_FILE: &str = "workspace.yaml";

/// A manifest is written by people: anything longer than this is something else.
pub const MANIFEST_MAX: u64 = 1 << 20;

/// Why a workspace's manifest can't be used. Nothing is ever written over a manifest that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file exists and can't be read.
    #[error("can't read {path}: {source}; make it readable for the user who shares the workspace")]
    Read {
        /// The manifest.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is far longer than a manifest can be.
    #[error("{path} is larger than 1 MiB, so it can't be a workspace's manifest; move it away")]
    TooLarge {
        /// The manifest.
        path: PathBuf,
    },
    /// The file isn't YAML, or a field has the wrong type. The message has the line and column.
    #[error("{path} is damaged: {source}; correct it, or move it away to get a new one with a new id")]
    Damaged {
        /// The manifest.
        path: PathBuf,
        /// What is wrong, and where.
        source: serde_yaml::Error,
    },
    /// The manifest can't be written.
    #[error(
        "can't write {path}: {source}; a workspace keeps its identity in this file, \
         so make the folder writable, or write the file there yourself"
    )]
    Write {
        /// The manifest.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no manifest, and the folder's name can't be a workspace's name.
    #[error("the folder's name {folder:?} can't be a workspace's name ({why}); choose one with --name")]
    Unnamed {
        /// The folder's name.
        folder: String,
        /// Why it can't be.
        why: NameError,
    },
}

/// What workspace.yaml says.
///
/// Fields that this version doesn't know, and the order of all of them, survive a rewrite; comments don't.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The workspace's name, as others see it.
    pub name: WorkspaceName,
    /// The workspace's identity: made once, never changed.
    pub id: WorkspaceId,
    /// What it is, for people.
    pub description: Option<String>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Its projects: names, or mappings that have a `name`.
    pub projects: Vec<Value>,
    /// Its environments: names, or mappings that have a `name`.
    pub environments: Vec<Value>,
    /// When the manifest was made, as it stands there (RFC 3339 when this program wrote it).
    pub created_at: Option<String>,
    /// When this program last changed the manifest, as it stands there.
    pub updated_at: Option<String>,
    /// The manifest's version, as it stands there.
    pub version: Option<Value>,
    /// The whole document.
    document: Mapping,
}

/// The fields that this version knows. They are read from the text itself, so that errors tell line and column.
#[derive(Default, Deserialize)]
struct Fields {
    name: Option<WorkspaceName>,
    id: Option<WorkspaceId>,
    description: Option<String>,
    tags: Option<Vec<String>>,
    projects: Option<Vec<Value>>,
    environments: Option<Vec<Value>>,
    created_at: Option<String>,
    updated_at: Option<String>,
    version: Option<Value>,
}

impl Manifest {
    /// Reads the manifest of the workspace at `folder`; `None` when it has none, or one without a name or an id yet.
    pub fn load(folder: &Path) -> Result<Option<Self>, ManifestError> {
        let Some((fields, document)) = read(folder)? else { return Ok(None) };
        let (Some(name), Some(id)) = (fields.name.clone(), fields.id) else { return Ok(None) };
        Ok(Some(Self::from_fields(fields, name, id, document)))
    }

    /// Reads the text of a manifest; `None` when it has no name or no id yet.
    pub fn parse(text: &[u8]) -> Result<Option<Self>, serde_yaml::Error> {
        let (fields, document) = fields_of(text)?;
        let (Some(name), Some(id)) = (fields.name.clone(), fields.id) else { return Ok(None) };
        Ok(Some(Self::from_fields(fields, name, id, document)))
    }

    /// Reads the manifest of the workspace at `folder`, or writes it there on the first share.
    ///
    /// A manifest that lacks its name or id is completed; `name` replaces the name it has. Without either, the
    /// workspace is named like its folder.
    pub fn load_or_create(folder: &Path, name: Option<WorkspaceName>) -> Result<Self, ManifestError> {
        let now = now();
        let (fields, document, new) = match read(folder)? {
            Some((fields, document)) => (fields, document, false),
            None => {
                let version = Some(Value::from(1));
                let created_at = Some(now.clone());
                (Fields { version, created_at, ..Fields::default() }, Mapping::new(), true)
            }
        };
        let chosen = match name.or_else(|| fields.name.clone()) {
            Some(name) => name,
            None => name_of(folder)?,
        };
        let complete = !new && fields.id.is_some() && fields.name.as_ref() == Some(&chosen);
        let id = fields.id.unwrap_or_else(WorkspaceId::random);
        let mut manifest = Self::from_fields(fields, chosen, id, document);
        if !complete {
            manifest.updated_at = Some(now);
            manifest.store(folder)?;
        }
        Ok(manifest)
    }

    /// The name in the text of a manifest, whatever else it lacks.
    pub fn name_in_text(text: &[u8]) -> Option<WorkspaceName> {
        fields_of(text).ok()?.0.name
    }

    /// Makes the manifest at `folder`, if there's one, that of an imported copy: with an id of its own, since two workspaces mustn't
    /// share one, and with where it came from and when.
    pub fn become_copy(folder: &Path, from: &str) -> Result<bool, ManifestError> {
        let Some((_, mut document)) = read(folder)? else { return Ok(false) };
        let now = now();
        for (field, value) in [
            ("id", WorkspaceId::random().to_string()),
            ("imported_from", from.to_owned()),
            ("imported_at", now.clone()),
            ("updated_at", now),
        ] {
            document.insert(field.into(), value.into());
        }
        write(folder, &document)?;
        Ok(true)
    }

    /// Makes the manifest at `folder`, which is that of a template if there's one, that of a new workspace: with its name, also
    /// wherever a text in it says `{{name}}`, and an id and times of its own.
    pub fn become_new(folder: &Path, name: &WorkspaceName) -> Result<(), ManifestError> {
        let (fields, document) = match read(folder)? {
            Some((fields, document)) => (fields, document),
            None => (Fields { version: Some(Value::from(1)), ..Fields::default() }, Mapping::new()),
        };
        let mut document: Mapping = document
            .into_iter()
            .filter(|(field, _)| !matches!(field.as_str(), Some("imported_from" | "imported_at")))
            .map(|(field, value)| (field, fill_in(value, name)))
            .collect();
        let now = now();
        for (field, value) in [
            ("name", name.as_str().to_owned()),
            ("id", WorkspaceId::random().to_string()),
            ("created_at", now.clone()),
            ("updated_at", now),
        ] {
            document.insert(field.into(), value.into());
        }
        if let Some(version) = fields.version {
            document.insert("version".into(), version);
        }
        write(folder, &document)
    }

    /// The names of the environments, in their order; those without a name are left out.
    pub fn environment_names(&self) -> impl Iterator<Item = &str> {
        self.environments.iter().filter_map(name_in)
    }

    /// The names of the projects, in their order; those without a name are left out.
    pub fn project_names(&self) -> impl Iterator<Item = &str> {
        self.projects.iter().filter_map(name_in)
    }

    fn from_fields(fields: Fields, name: WorkspaceName, id: WorkspaceId, document: Mapping) -> Self {
        Self {
            name,
            id,
            description: fields.description,
            tags: fields.tags.unwrap_or_default(),
            projects: fields.projects.unwrap_or_default(),
            environments: fields.environments.unwrap_or_default(),
            created_at: fields.created_at,
            updated_at: fields.updated_at,
            version: fields.version,
            document,
        }
    }

    /// Writes what this program sets into the document, and the document to its file: whole or not at all.
    fn store(&mut self, folder: &Path) -> Result<(), ManifestError> {
        self.document.insert("name".into(), self.name.as_str().into());
        self.document.insert("id".into(), self.id.to_string().into());
        if let Some(version) = &self.version {
            self.document.insert("version".into(), version.clone());
        }
        for (field, time) in [("created_at", &self.created_at), ("updated_at", &self.updated_at)] {
            if let Some(time) = time {
                self.document.insert(field.into(), time.as_str().into());
            }
        }
        write(folder, &self.document)
    }
}

fn now() -> String {
    jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default().to_string()
}

/// Writes a document to its file: whole or not at all.
fn write(folder: &Path, document: &Mapping) -> Result<(), ManifestError> {
    let path = folder.join(MANIFEST_FILE);
    let text = serde_yaml::to_string(document)
        .map_err(|source| ManifestError::Damaged { path: path.clone(), source })?;
    replace(folder, &path, text.as_bytes()).map_err(|source| ManifestError::Write { path, source })
}

/// Puts a workspace's name where a text of its template wants it.
fn fill_in(value: Value, name: &WorkspaceName) -> Value {
    match value {
        Value::String(text) => text.replace("{{name}}", name.as_str()).into(),
        Value::Sequence(values) => values.into_iter().map(|value| fill_in(value, name)).collect(),
        Value::Mapping(fields) => {
            Value::Mapping(fields.into_iter().map(|(field, value)| (field, fill_in(value, name))).collect())
        }
        other => other,
    }
}

/// Reads the file; `None` when there is none.
fn read(folder: &Path) -> Result<Option<(Fields, Mapping)>, ManifestError> {
    let path = folder.join(MANIFEST_FILE);
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(MANIFEST_MAX + 1).read_to_string(&mut text));
    match read {
        Ok(_) if text.len() as u64 > MANIFEST_MAX => return Err(ManifestError::TooLarge { path }),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ManifestError::Read { path, source }),
    }
    fields_of(text.as_bytes()).map(Some).map_err(|source| ManifestError::Damaged { path, source })
}

fn fields_of(text: &[u8]) -> Result<(Fields, Mapping), serde_yaml::Error> {
    if text.trim_ascii().is_empty() {
        return Ok((Fields::default(), Mapping::new()));
    }
    Ok((serde_yaml::from_slice(text)?, serde_yaml::from_slice(text)?))
}

fn replace(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    let mode = fs::metadata(path).map_or(0o644, |old| old.permissions().mode() & 0o777);
    let mut file = tempfile::Builder::new().prefix(".workspace.yaml.").tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

/// The workspace name that a folder's name suggests: what a name can't contain becomes `-`, what it can't begin with goes.
fn name_of(folder: &Path) -> Result<WorkspaceName, ManifestError> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let usable: String = name
        .trim_start_matches(['.', '-'])
        .chars()
        .map(|c| if c.is_control() || matches!(c, '@' | '\\' | '/') { '-' } else { c })
        .collect();
    usable.parse().map_err(|why| ManifestError::Unnamed { folder: name, why })
}

fn name_in(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("name")?.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::Builder::new().prefix("lab").tempdir().unwrap()
    }

    fn write(folder: &tempfile::TempDir, text: &str) {
        fs::write(folder.path().join(MANIFEST_FILE), text).unwrap();
    }

    fn text(folder: &tempfile::TempDir) -> String {
        fs::read_to_string(folder.path().join(MANIFEST_FILE)).unwrap()
    }

    #[test]
    fn first_share_writes_it_and_the_next_reads_it() {
        let folder = folder();
        let made = Manifest::load_or_create(folder.path(), None).unwrap();
        assert_eq!(made.name.as_str(), folder.path().file_name().unwrap().to_str().unwrap());
        assert_eq!(Manifest::load_or_create(folder.path(), None).unwrap().id, made.id);
        assert_eq!(Manifest::load(folder.path()).unwrap().unwrap(), made);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn unknown_fields_and_their_order_survive_a_rewrite() {
        let folder = folder();
        write(
            &folder,
            "zebra: [1, {two: 3}]\ndescription: A lab\nid: '00112233445566778899aabbccddeeff'\nalpha: yes\nname: old\n",
        );
        let renamed = Manifest::load_or_create(folder.path(), Some("new".parse().unwrap())).unwrap();
        assert_eq!(renamed.id.to_string(), "00112233445566778899aabbccddeeff");
        let text = text(&folder);
        let at = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word} in {text}"));
        let order = ["zebra:", "description: A lab", "id:", "alpha:", "name: new", "updated_at:"].map(at);
        assert!(order.is_sorted(), "{text}");
        let document: Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(document["zebra"][1]["two"], Value::from(3));
    }

    #[test]
    fn a_manifest_without_id_is_completed() {
        let folder = folder();
        write(
            &folder,
            "name: lab\nenvironments: [py, {name: web, port: 80}, {port: 1}]\nprojects: [{name: a}]\n",
        );
        assert_eq!(Manifest::load(folder.path()).unwrap(), None);
        let manifest = Manifest::load_or_create(folder.path(), None).unwrap();
        assert_eq!(manifest.environment_names().collect::<Vec<_>>(), ["py", "web"]);
        assert_eq!(manifest.project_names().collect::<Vec<_>>(), ["a"]);
        assert_eq!(Manifest::load(folder.path()).unwrap(), Some(manifest));
    }

    #[test]
    fn nothing_is_written_without_need() {
        let folder = folder();
        let original = "# ours\nname: lab\nid: '00112233445566778899aabbccddeeff'\n";
        write(&folder, original);
        Manifest::load_or_create(folder.path(), Some("lab".parse().unwrap())).unwrap();
        assert_eq!(text(&folder), original);
    }

    #[test]
    fn a_damaged_manifest_is_an_error_with_its_place_and_stays() {
        let folder = folder();
        for bad in
            ["name: lab\nid: [1\n", "name: lab\ntags: 5\n", "name: ../up\n", "id: zz\n", "- a\n", "\u{1}"]
        {
            write(&folder, bad);
            let error = Manifest::load_or_create(folder.path(), Some("x".parse().unwrap())).unwrap_err();
            let message = error.to_string();
            assert!(matches!(error, ManifestError::Damaged { .. }), "{message}");
            assert!(message.contains("workspace.yaml is damaged"), "{message}");
            assert_eq!(text(&folder), bad);
        }
        write(&folder, "name: lab\ntags: 5\n");
        let message = Manifest::load(folder.path()).unwrap_err().to_string();
        assert!(message.contains("line 2 column 7"), "{message}");
        fs::write(folder.path().join(MANIFEST_FILE), b"\xff").unwrap();
        assert!(matches!(Manifest::load(folder.path()), Err(ManifestError::Read { .. })));
    }

    #[test]
    fn a_folder_that_cannot_be_written_says_so() {
        let path = Path::new("/proc/self");
        let error = Manifest::load_or_create(path, Some("x".parse().unwrap())).unwrap_err();
        assert!(error.to_string().contains("make the folder writable"), "{error}");
    }

    #[test]
    fn names_come_from_folders() {
        assert_eq!(name_of(Path::new("/x/.my@lab")).unwrap().as_str(), "my-lab");
        assert!(matches!(name_of(Path::new("/")), Err(ManifestError::Unnamed { .. })));
    }

    #[test]
    fn a_copy_has_an_id_of_its_own_and_says_where_it_is_from() {
        let folder = folder();
        assert!(!Manifest::become_copy(folder.path(), "lab.zip").unwrap(), "there's none");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        write(&folder, "zebra: 1\nname: lab\nid: '00112233445566778899aabbccddeeff'\n");
        assert!(Manifest::become_copy(folder.path(), "lab.zip").unwrap());
        let text = text(&folder);
        let document: Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(document["zebra"], Value::from(1));
        assert_eq!(document["imported_from"], Value::from("lab.zip"));
        assert!(document["imported_at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{text}");
        let manifest = Manifest::load(folder.path()).unwrap().unwrap();
        assert_eq!(manifest.name.as_str(), "lab");
        assert_ne!(manifest.id.to_string(), "00112233445566778899aabbccddeeff");
        super::super::plan(&crate::workspace::Folder(folder.path().to_path_buf())).unwrap();
    }
}
