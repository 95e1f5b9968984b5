//! Environments that are containers: devcontainer.json (containers.dev), Compose files and Containerfiles.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{Found, Project, named, planned};
use crate::workspace::definition::{
    Amount, Build, CommandLine, Environment, Mount, Port, Quantity, Resources, Restart, Service,
};

/// Where devcontainer.json may be, in the order of the specification.
const DEVCONTAINERS: [(&str, &str); 2] =
    [(".devcontainer", ".devcontainer/devcontainer.json"), ("", ".devcontainer.json")];

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct DevContainer {
    name: Option<String>,
    image: Option<String>,
    build: Option<DevBuild>,
    docker_file: Option<String>,
    docker_compose_file: Option<Value>,
    features: BTreeMap<String, Value>,
    forward_ports: Vec<Value>,
    container_env: BTreeMap<String, String>,
    remote_env: BTreeMap<String, Option<String>>,
    mounts: Vec<Value>,
    host_requirements: HostRequirements,
    on_create_command: Option<Commands>,
    update_content_command: Option<Commands>,
    post_create_command: Option<Commands>,
    post_start_command: Option<Commands>,
    post_attach_command: Option<Commands>,
    initialize_command: Option<Value>,
    run_args: Vec<String>,
    privileged: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DevBuild {
    dockerfile: Option<String>,
    context: Option<String>,
    target: Option<String>,
    args: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct HostRequirements {
    cpus: Option<f64>,
    memory: Option<String>,
    storage: Option<String>,
    gpu: Option<Value>,
}

/// One command, or several that have names.
#[derive(Deserialize)]
#[serde(untagged)]
enum Commands {
    One(CommandLine),
    Several(BTreeMap<String, CommandLine>),
}

impl Commands {
    fn all(self) -> Vec<CommandLine> {
        match self {
            Self::One(command) => vec![command],
            Self::Several(commands) => commands.into_values().collect(),
        }
    }
}

pub(super) fn devcontainer(project: &Project<'_>) -> Found {
    let mut read = None;
    for (folder, path) in DEVCONTAINERS {
        if read.is_none()
            && let Some(text) = project.text(path)?
        {
            read = Some((folder, path, text));
        }
    }
    let Some((folder, path, text)) = read else { return Ok(None) };
    let mut environment = Environment { runtime: "container".to_owned(), ..named("devcontainer") };
    let about: DevContainer = match jsonc_parser::parse_to_serde_value(&text, &Default::default()) {
        Ok(about) => about,
        Err(error) => {
            let mut found = planned(environment, &[path]);
            found.ignored.push(format!("it can't be understood: {error}"));
            return Ok(Some(found));
        }
    };
    let (mut because, mut ignored) = (Vec::new(), Vec::new());
    environment.description = about.name;
    let below = |name: &str| join(folder, name);
    let build = about.build.unwrap_or_default();
    let file = build.dockerfile.or(about.docker_file);
    match (about.image, file, about.docker_compose_file) {
        (Some(image), ..) => environment.image = Some(image),
        (None, Some(file), _) => {
            let context = build.context.or(Some(".".to_owned())).and_then(|context| below(&context));
            match below(&file) {
                Some(file) => {
                    environment.build = Some(Build { file, context, target: build.target, args: build.args })
                }
                None => ignored.push(format!("the Dockerfile {file}, which lies outside the workspace")),
            }
        }
        (None, None, Some(compose)) => ignored.push(format!("dockerComposeFile: {compose}")),
        (None, None, None) => {
            environment.image = Some("mcr.microsoft.com/devcontainers/base:debian".to_owned());
            because.push("no image is named: the usual one of the specification's authors".to_owned());
        }
    }
    ignored.extend(
        about.features.keys().map(|feature| format!("the feature {feature}: it's installed from a registry")),
    );
    for commands in [about.on_create_command, about.update_content_command, about.post_create_command] {
        environment.setup.extend(commands.into_iter().flat_map(Commands::all));
    }
    environment.hooks.started = about.post_start_command.into_iter().flat_map(Commands::all).collect();
    if about.post_attach_command.is_some() {
        ignored.push("postAttachCommand".to_owned());
    }
    if about.initialize_command.is_some() {
        ignored.push("initializeCommand, which would run outside the container".to_owned());
    }
    if about.privileged || !about.run_args.is_empty() {
        ignored.push("runArgs and privileged, which could open the container".to_owned());
    }
    for port in about.forward_ports {
        match port.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0) {
            Some(port) => environment.ports.push(Port::Number(port)),
            None => ignored.push(format!("the port {port}")),
        }
    }
    environment.env = about.container_env;
    let remote = about.remote_env.into_iter().filter_map(|(name, value)| Some((name, value?)));
    environment.env.extend(remote);
    environment.env.retain(|name, value| {
        let is_plain = !value.contains("${localEnv:") && !value.contains("${env:");
        if !is_plain {
            ignored.push(format!("the variable {name}, which is of the owner's machine"));
        }
        is_plain
    });
    for mount in about.mounts {
        match workspace_mount(&mount) {
            Some(mount) => environment.mounts.push(mount),
            None => ignored.push(format!("the mount {mount}, which isn't of the workspace")),
        }
    }
    environment.resources = required(about.host_requirements);
    let mut found = planned(environment, &[path]);
    (found.because, found.ignored) = (because, ignored);
    Ok(Some(found))
}

/// A path below the workspace's folder, by one that is seen from `folder`.
fn join(folder: &str, path: &str) -> Option<String> {
    let mut names: Vec<&str> = folder.split('/').filter(|name| !name.is_empty()).collect();
    if path.starts_with('/') {
        return None;
    }
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    Some(if names.is_empty() { ".".to_owned() } else { names.join("/") })
}

/// A mount whose source is a folder of the workspace.
fn workspace_mount(mount: &Value) -> Option<Mount> {
    let text = |key: &str| match mount {
        Value::String(mount) => {
            let mut parts = mount.split(',').filter_map(|part| part.split_once('='));
            parts.find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
        }
        mount => mount.get(key)?.as_str().map(str::to_owned),
    };
    let source = text("source")?;
    let source = source.strip_prefix("${localWorkspaceFolder}/")?;
    Some(Mount { source: join("", source)?, target: text("target")?, read_only: false })
}

fn required(host: HostRequirements) -> Resources {
    let size = |text: Option<String>| text.map(|text| Amount::Exactly(Quantity::Size(text)));
    Resources {
        cpu: host.cpus.map(|cpus| Amount::Exactly(Quantity::Number(cpus))),
        memory: size(host.memory),
        disk: size(host.storage),
        gpu: match host.gpu {
            Some(Value::Bool(true)) | Some(Value::Object(_)) => Some(Amount::Exactly(Quantity::Number(1.0))),
            Some(Value::String(text)) if text == "optional" => {
                Some(Amount::Between { wanted: Quantity::Number(1.0), minimum: Quantity::Number(0.0) })
            }
            _ => None,
        },
    }
}

pub(super) fn containerfile(project: &Project<'_>) -> Found {
    let Some(file) = project.first(&["Containerfile", "Dockerfile"]) else { return Ok(None) };
    let text = project.text(file)?.unwrap_or_default();
    let build = Build { file: file.to_owned(), ..Build::default() };
    let mut environment =
        Environment { runtime: "container".to_owned(), build: Some(build), ..named("container") };
    let mut ignored = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if !words.next().is_some_and(|word| word.eq_ignore_ascii_case("EXPOSE")) {
            continue;
        }
        for port in words {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            match number.parse() {
                Ok(number @ 1..) if protocol == "tcp" => environment.ports.push(Port::Number(number)),
                _ => ignored.push(format!("EXPOSE {port}")),
            }
        }
    }
    environment.ports.dedup();
    let mut found = planned(environment, &[file]);
    found.because.push(format!("{file} says how an image is built"));
    found.ignored = ignored;
    Ok(Some(found))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Compose {
    services: BTreeMap<String, ComposeService>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ComposeService {
    image: Option<String>,
    build: Option<ComposeBuild>,
    command: Option<CommandLine>,
    depends_on: DependsOn,
    ports: Vec<serde_yaml::Value>,
    environment: ComposeEnvironment,
    restart: Option<String>,
    volumes: Vec<serde_yaml::Value>,
    privileged: bool,
    network_mode: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ComposeBuild {
    Context(String),
    Described { context: Option<String>, dockerfile: Option<String>, target: Option<String> },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum DependsOn {
    Names(Vec<String>),
    Described(BTreeMap<String, serde_yaml::Value>),
}

impl Default for DependsOn {
    fn default() -> Self {
        Self::Names(Vec::new())
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ComposeEnvironment {
    Lines(Vec<String>),
    Mapping(BTreeMap<String, serde_yaml::Value>),
}

impl Default for ComposeEnvironment {
    fn default() -> Self {
        Self::Lines(Vec::new())
    }
}

pub(super) fn compose(project: &Project<'_>) -> Found {
    let names = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];
    let Some(file) = project.first(&names) else { return Ok(None) };
    let text = project.text(file)?.unwrap_or_default();
    let mut environment = Environment { runtime: "container".to_owned(), ..named("compose") };
    let about: Compose = match serde_yaml::from_str(&text) {
        Ok(about) => about,
        Err(error) => {
            let mut found = planned(environment, &[file]);
            found.ignored.push(format!("it can't be understood: {error}"));
            return Ok(Some(found));
        }
    };
    let mut ignored = Vec::new();
    for (name, service) in about.services {
        let after = match service.depends_on {
            DependsOn::Names(names) => names,
            DependsOn::Described(names) => names.into_keys().collect(),
        };
        let env = match service.environment {
            ComposeEnvironment::Lines(lines) => lines
                .iter()
                .filter_map(|line| line.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            ComposeEnvironment::Mapping(mapping) => {
                mapping.into_iter().filter_map(|(name, value)| Some((name, scalar(&value)?))).collect()
            }
        };
        let mut ports = Vec::new();
        for port in &service.ports {
            match container_port(port) {
                Some(port) => ports.push(Port::Number(port)),
                None => ignored.push(format!(
                    "a port of {name}: {}",
                    scalar(port).unwrap_or_else(|| "a mapping".into())
                )),
            }
        }
        let build = service.build.and_then(|build| {
            let (context, dockerfile, target) = match build {
                ComposeBuild::Context(context) => (Some(context), None, None),
                ComposeBuild::Described { context, dockerfile, target } => (context, dockerfile, target),
            };
            let context = join("", context.as_deref().unwrap_or("."));
            let Some(context) = context else {
                ignored.push(format!("how {name} is built: it lies outside the workspace"));
                return None;
            };
            let file = join(&context, dockerfile.as_deref().unwrap_or("Dockerfile"))?;
            Some(Build { file, context: Some(context), target, args: BTreeMap::new() })
        });
        if !service.volumes.is_empty() {
            ignored.push(format!("the volumes of {name}"));
        }
        if service.privileged || service.network_mode.is_some() {
            ignored.push(format!("privileged and network_mode of {name}, which could open the container"));
        }
        environment.services.push(Service {
            restart: match service.restart.as_deref() {
                Some("always" | "unless-stopped") => Restart::Always,
                Some(policy) if policy.starts_with("on-failure") => Restart::OnFailure,
                _ => Restart::Never,
            },
            name,
            command: service.command,
            image: service.image,
            build,
            ready: None,
            after,
            ports,
            env,
        });
    }
    let mut found = planned(environment, &[file]);
    found.because.push(format!("{file} describes services that belong together"));
    found.ignored = ignored;
    Ok(Some(found))
}

fn scalar(value: &serde_yaml::Value) -> Option<String> {
    match value {
        serde_yaml::Value::String(text) => Some(text.clone()),
        serde_yaml::Value::Number(number) => Some(number.to_string()),
        serde_yaml::Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

/// The port within the container.
fn container_port(port: &serde_yaml::Value) -> Option<u16> {
    let text = match port.get("target") {
        Some(target) => scalar(target)?,
        None => scalar(port)?,
    };
    let text = text.strip_suffix("/tcp").unwrap_or(&text);
    text.rsplit(':').next()?.parse().ok().filter(|port| *port > 0)
}
