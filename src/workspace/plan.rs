//! Which environments a workspace has: those that it describes, and where it describes none, what its files suggest.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::{self, File},
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{
    definition::{Amount, Environment, Port, Probe, Quantity, Resources, Service},
    detect,
    manifest::MANIFEST_FILE,
};
use crate::types::ByteSize;

/// Files that describe something are written by people: what is longer is something else.
const MOST: u64 = 1 << 20;

/// Where further environments are described, a file each.
const FOLDER: &str = "environments";

/// More are a mistake.
const MOST_ENVIRONMENTS: usize = 256;

/// The files of a workspace, by paths below its folder.
pub trait Files {
    /// What is in a file, if it's there and not longer than 1 MiB.
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;

    /// The names in a folder, in order; none if it isn't there.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
}

/// A folder of this machine, or of the mount.
pub struct Folder(pub PathBuf);

impl Files for Folder {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let absent = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
            )
        };
        let path = self.0.join(path);
        match fs::metadata(&path) {
            Ok(status) if !status.is_file() || status.len() > MOST => return Ok(None),
            Ok(_) => {}
            Err(error) if absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut bytes = Vec::new();
        match File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut bytes)) {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.0.join(folder)) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }
}

/// What a workspace can run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Its environments, the usual one first.
    pub environments: Vec<Planned>,
}

/// An environment, and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Planned {
    /// What it is.
    #[serde(flatten)]
    pub environment: Environment,
    /// The files that say so.
    pub from: Vec<String>,
    /// Why it is as it is, for people.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<String>,
    /// What the files say beside that isn't followed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
}

/// Why a workspace's environments can't be told.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A file can't be read.
    #[error("can't read {path}: {source}")]
    Read {
        /// Below the workspace's folder.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file doesn't have the form that it should. The message has the line and column.
    #[error("{path}: {source}")]
    Form {
        /// Below the workspace's folder.
        path: String,
        /// What is wrong, and where.
        source: serde_yaml::Error,
    },
    /// An environment contradicts itself.
    #[error("{path}, line {line}: the environment '{environment}' {what}")]
    Wrong {
        /// Below the workspace's folder.
        path: String,
        /// Where the environment begins, from 1.
        line: usize,
        /// Its name.
        environment: String,
        /// What is wrong with it.
        what: String,
    },
}

/// The part of workspace.yaml that lists environments. All else in it is others' business.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    environments: Option<Vec<Entry>>,
}

enum Entry {
    /// One that is described elsewhere, or derived.
    Named(String),
    Described(Box<Environment>),
}

impl<'de> Deserialize<'de> for Entry {
    // By hand, so that an error tells its place.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrMapping;

        impl<'de> Visitor<'de> for NameOrMapping {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an environment's name, or a mapping that describes one")
            }

            fn visit_str<E>(self, name: &str) -> Result<Entry, E> {
                Ok(Entry::Named(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
                Environment::deserialize(MapAccessDeserializer::new(map))
                    .map(|environment| Entry::Described(Box::new(environment)))
            }
        }

        deserializer.deserialize_any(NameOrMapping)
    }
}

/// Finds a workspace's environments.
pub fn plan(files: &dyn Files) -> Result<Plan, PlanError> {
    let mut named = BTreeSet::new();
    let mut planned: Vec<Planned> = Vec::new();
    if let Some(text) = read(files, MANIFEST_FILE)?
        && !text.trim_ascii().is_empty()
    {
        let document: Document = parse(MANIFEST_FILE, &text)?;
        for entry in document.environments.unwrap_or_default() {
            match entry {
                Entry::Named(name) => drop(named.insert(name)),
                Entry::Described(environment) => add(&mut planned, *environment, MANIFEST_FILE, &text)?,
            }
        }
    }
    let list = |folder: &str| {
        files.list(folder).map_err(|source| PlanError::Read { path: folder.to_owned(), source })
    };
    for name in list(FOLDER)? {
        let Some(stem) = name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".yml")) else { continue };
        let path = format!("{FOLDER}/{name}");
        let Some(text) = read(files, &path)? else { continue };
        let mut environment: Environment = parse(&path, &text)?;
        if environment.name.is_empty() {
            stem.clone_into(&mut environment.name);
        }
        add(&mut planned, environment, &path, &text)?;
    }
    if planned.is_empty() {
        let found = detect::derive(files).map_err(|(path, source)| PlanError::Read { path, source })?;
        // A name alone says which of what was found is meant.
        planned.extend(
            found.into_iter().filter(|one| named.is_empty() || named.contains(&one.environment.name)),
        );
    }
    Ok(Plan { environments: planned })
}

fn read(files: &dyn Files, path: &str) -> Result<Option<Vec<u8>>, PlanError> {
    files.read(path).map_err(|source| PlanError::Read { path: path.to_owned(), source })
}

fn parse<T: for<'de> Deserialize<'de>>(path: &str, text: &[u8]) -> Result<T, PlanError> {
    serde_yaml::from_slice(text).map_err(|source| PlanError::Form { path: path.to_owned(), source })
}

/// Adds an environment that is described, if it makes sense.
fn add(
    planned: &mut Vec<Planned>,
    environment: Environment,
    path: &str,
    text: &[u8],
) -> Result<(), PlanError> {
    let twice = planned.iter().any(|one| one.environment.name == environment.name);
    let wrong = match twice {
        true => Some("is described twice".to_owned()),
        false if planned.len() >= MOST_ENVIRONMENTS => Some(format!("is one more than {MOST_ENVIRONMENTS}")),
        false => fault(&environment),
    };
    if let Some(what) = wrong {
        let line = line_of(text, &environment.name);
        return Err(PlanError::Wrong { path: path.to_owned(), line, environment: environment.name, what });
    }
    planned.push(Planned {
        environment,
        from: vec![path.to_owned()],
        because: Vec::new(),
        ignored: Vec::new(),
    });
    Ok(())
}

/// The line in which an environment of this name begins: the last that names it so; else the first.
fn line_of(text: &[u8], name: &str) -> usize {
    let text = String::from_utf8_lossy(text);
    let names = |line: &str| {
        let line = line.trim_start().trim_start_matches("- ").trim_start();
        line.strip_prefix("name:").is_some_and(|rest| rest.trim().trim_matches(['\'', '"']) == name)
    };
    let lines: Vec<_> = text.lines().collect();
    lines.iter().rposition(|line| names(line)).map_or(1, |at| at + 1)
}

/// What is wrong with an environment, if anything.
fn fault(environment: &Environment) -> Option<String> {
    let Environment { image, build, rootfs, disk, services, resources, mounts, directory, .. } = environment;
    if !is_name(&environment.name) {
        return Some("needs a name of letters, digits, '-', '_' and '.', at most 64 of them".to_owned());
    }
    let images = usize::from(image.is_some()) + usize::from(build.is_some()) + usize::from(rootfs.is_some());
    match environment.runtime() {
        "process" if images > 0 || disk.is_some() => {
            return Some(
                "is a process, which has no image, rootfs or disk: say `type: container` or `type: vm`"
                    .to_owned(),
            );
        }
        "container" if images > 1 || (images == 0 && services.is_empty()) => {
            return Some(
                "is a container, which has one of `image`, `build` and `rootfs`, or services that have"
                    .to_owned(),
            );
        }
        "vm" if disk.is_none() || images > 0 => {
            return Some("is a VM, which has a `disk` and no image".to_owned());
        }
        runtime if !is_name(runtime) => {
            return Some(format!("has the type {runtime:?}, which can't be a plugin's name"));
        }
        _ => {}
    }
    let inside = [directory, rootfs, disk].into_iter().flatten().map(String::as_str);
    let built =
        build.iter().flat_map(|build| [Some(build.file.as_str()), build.context.as_deref()]).flatten();
    let sources = mounts.iter().map(|mount| mount.source.as_str());
    if let Some(path) = inside.chain(built).chain(sources).find(|path| !is_inside(path)) {
        return Some(format!("names {path:?}, which isn't a path below the workspace's folder"));
    }
    if let Some(mount) = mounts.iter().find(|mount| !mount.target.starts_with('/')) {
        return Some(format!("mounts {:?} at {:?}, which isn't absolute", mount.source, mount.target));
    }
    if environment.profiles.iter().any(|profile| !is_name(&profile.name)) {
        return Some("has a profile without a name of letters, digits, '-', '_' and '.'".to_owned());
    }
    let profiles = environment.profiles.iter().map(|profile| &profile.resources);
    if let Some(what) = [resources].into_iter().chain(profiles).find_map(resource_fault) {
        return Some(what);
    }
    let ports = environment.ports.iter().chain(services.iter().flat_map(|service| &service.ports));
    let mut seen = BTreeSet::new();
    for port in ports.map(Port::number) {
        if port == 0 {
            return Some("has a port 0, which there isn't".to_owned());
        }
        if !seen.insert(port) {
            return Some(format!("has the port {port} twice"));
        }
    }
    services_fault(services, environment.runtime() != "container" || images == 1)
}

fn resource_fault(resources: &Resources) -> Option<String> {
    let Resources { cpu, memory, disk, gpu } = resources;
    let sized = [("memory", memory, true), ("disk", disk, true), ("cpu", cpu, false), ("gpu", gpu, false)];
    for (name, amount, is_size) in sized {
        let Some(amount) = amount else { continue };
        let value = |quantity: &Quantity| match quantity {
            Quantity::Number(number) => (*number >= 0.0).then_some(*number),
            #[expect(clippy::cast_precision_loss, reason = "sizes are compared, not added up")]
            Quantity::Size(size) if is_size => size.parse::<ByteSize>().ok().map(|size| size.0 as f64),
            Quantity::Size(_) => None,
        };
        let ordered = match amount {
            Amount::Exactly(quantity) => value(quantity).is_some(),
            Amount::Between { wanted, minimum } => match (value(wanted), value(minimum)) {
                (Some(wanted), Some(minimum)) if minimum > wanted => {
                    return Some(format!("wants less {name} than its minimum"));
                }
                (wanted, minimum) => wanted.is_some() && minimum.is_some(),
            },
        };
        if !ordered {
            let example = if is_size { "a size like 16GiB" } else { "a number" };
            return Some(format!("has a value for {name} that isn't {example}"));
        }
    }
    None
}

/// `has_image`: whether a service without an image of its own has somewhere to run.
fn services_fault(services: &[Service], has_image: bool) -> Option<String> {
    let mut after: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for service in services {
        if !is_name(&service.name) {
            return Some("has a service without a name of letters, digits, '-', '_' and '.'".to_owned());
        }
        if has_image && service.command.is_none() && service.image.is_none() && service.build.is_none()
            || !has_image && service.image.is_none() && service.build.is_none()
        {
            return Some(format!("has the service '{}', which has nothing to run", service.name));
        }
        if matches!(service.ready, Some(Probe::Tcp { tcp: 0 })) {
            return Some(format!("has the service '{}', which is ready at the port 0", service.name));
        }
        let before = service.after.iter().map(String::as_str).collect();
        if after.insert(&service.name, before).is_some() {
            return Some(format!("has the service '{}' twice", service.name));
        }
    }
    for (name, before) in &after {
        if let Some(missing) = before.iter().find(|one| !after.contains_key(*one)) {
            return Some(format!(
                "has the service '{name}', which comes after '{missing}', and that there isn't"
            ));
        }
    }
    // Whoever waits for nobody can start; if nobody can any more, the rest wait for each other.
    while !after.is_empty() {
        let free: Vec<_> =
            after.iter().filter(|(_, before)| before.is_empty()).map(|(name, _)| *name).collect();
        if free.is_empty() {
            let names: Vec<_> = after.keys().copied().collect();
            return Some(format!("has services that wait for each other: {}", names.join(", ")));
        }
        after.retain(|name, _| !free.contains(name));
        after.values_mut().for_each(|before| before.retain(|one| !free.contains(one)));
    }
    None
}

fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=64).contains(&name.len())
        && name.chars().all(fits)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Texts(BTreeMap<&'static str, &'static str>);

    impl Files for Texts {
        fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
            Ok(self.0.get(path).map(|text| text.as_bytes().to_vec()))
        }

        fn list(&self, folder: &str) -> io::Result<Vec<String>> {
            let names = self.0.keys().filter_map(|path| match folder {
                "" => path.split('/').next(),
                _ => path.strip_prefix(folder)?.strip_prefix('/')?.split('/').next(),
            });
            Ok(names.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect())
        }
    }

    fn planned(files: &[(&'static str, &'static str)]) -> Result<Vec<Planned>, String> {
        let plan = plan(&Texts(files.iter().copied().collect()));
        plan.map(|plan| plan.environments).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_described_counts_and_files_beside_it_too() {
        let text = "name: lab\nid: x\nenvironments:\n- name: train\n  command: [python, train.py]\n  resources:\n    memory: {wanted: 16GiB, minimum: 4GB}\n    cpu: 2\n";
        let other = "type: container\nimage: docker.io/library/postgres:17\nports: [5432]\n";
        let files =
            [("workspace.yaml", text), ("environments/db.yaml", other), ("requirements.txt", "numpy\n")];
        let found = planned(&files).unwrap();
        assert_eq!(
            found.iter().map(|one| one.environment.name.as_str()).collect::<Vec<_>>(),
            ["train", "db"]
        );
        assert_eq!(found[0].environment.command.as_ref().unwrap().words(), ["python", "train.py"]);
        assert_eq!(found[1].from, ["environments/db.yaml"]);
        // Only names: what the files suggest counts, of that name.
        let named =
            [("workspace.yaml", "environments: [python]\n"), ("requirements.txt", ""), ("Cargo.toml", "")];
        assert_eq!(planned(&named).unwrap().len(), 1);
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (text, said) in [
            ("environments: 5\n", "line 1 column 15"),
            ("environments:\n- name: a\n  comand: x\n", "unknown field `comand`"),
            ("environments:\n- name: a\n  comand: x\n", "line 3 column 3"),
            ("environments:\n- name: a\n  ports: [http]\n", "a port from 1 to 65535"),
            ("environments:\n- name: a\n  ports: [http]\n", "line 3"),
            ("environments:\n- name: a\n- name: a\n", "line 3: the environment 'a' is described twice"),
            ("environments:\n- name: a b\n", "needs a name"),
            ("environments:\n- command: x\n", "needs a name"),
            ("environments:\n- name: a\n  image: x\n", "say `type: container`"),
            ("environments:\n- name: a\n  type: container\n", "one of `image`"),
            ("environments:\n- name: a\n  type: container\n  image: x\n  rootfs: y\n", "one of `image`"),
            ("environments:\n- name: a\n  type: vm\n", "has a `disk`"),
            ("environments:\n- name: a\n  type: ../x\n", "plugin's name"),
            ("environments:\n- name: a\n  directory: ../x\n", "isn't a path below"),
            ("environments:\n- name: a\n  type: vm\n  disk: /dev/sda\n", "isn't a path below"),
            ("environments:\n- name: a\n  mounts: [{source: a, target: b}]\n", "isn't absolute"),
            ("environments:\n- name: a\n  resources: {memory: lots}\n", "value for memory"),
            ("environments:\n- name: a\n  resources: {cpu: 4GB}\n", "value for cpu"),
            (
                "environments:\n- name: a\n  resources: {gpu: {wanted: 1, minimum: 2}}\n",
                "less gpu than its minimum",
            ),
            ("environments:\n- name: a\n  profiles: [{name: gpu, resources: {cpu: -1}}]\n", "value for cpu"),
            ("environments:\n- name: a\n  profiles: [{env: {A: b}}]\n", "a profile without a name"),
            ("environments:\n- name: a\n  ports: [80, {port: 80, name: web}]\n", "the port 80 twice"),
            ("environments:\n- name: a\n  services: [{name: s}]\n", "nothing to run"),
            (
                "environments:\n- name: a\n  services: [{name: s, command: x, after: [t]}]\n",
                "'t', and that there isn't",
            ),
            (
                "environments:\n- name: a\n  services:\n  - {name: s, command: x, after: [t]}\n  - {name: t, command: x, after: [s]}\n",
                "wait for each other: s, t",
            ),
        ] {
            let error = planned(&[("workspace.yaml", text)]).unwrap_err();
            assert!(error.contains(said) && error.starts_with("workspace.yaml"), "{text}: {error}");
        }
        let error = planned(&[("environments/x.yaml", "name: [\n")]).unwrap_err();
        assert!(error.starts_with("environments/x.yaml"), "{error}");
    }
}
