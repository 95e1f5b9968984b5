//! From what an environment is described as to what is started.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use regex::Regex;

use super::{
    agent::Program,
    fit::{Fit, Thing},
    supervise::{LaunchSpec, RoomSpec, ServiceSpec},
};
use crate::{
    types::Digest,
    workspace::definition::{CommandLine, Environment, Port},
};

/// `${NAME}` in the value of a variable.
static VALUE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}").expect("it's constant, and tested"));

/// What a launch takes from the machine that it's on.
#[derive(Debug, Clone, Default)]
pub struct Here {
    /// Where the workspace is in the room.
    pub workspace: PathBuf,
    /// What `${…}` may stand for in variables, beside what the fit gives.
    pub values: BTreeMap<String, String>,
    /// The secrets of whoever starts it.
    pub secrets: BTreeMap<String, String>,
}

/// Why an environment can't be started as it's described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    /// A variable stands for something that isn't there.
    #[error(
        "the variable {variable} is to have ${{{name}}} in it, which isn't known here; known are {known}"
    )]
    Value {
        /// Which.
        variable: String,
        /// What it names.
        name: String,
        /// What it could name.
        known: String,
    },
    /// A secret isn't in the store of whoever starts it.
    #[error("it needs a secret that isn't there: {0}")]
    Secret(String),
}

/// The environment as it runs with the profile that was picked.
pub fn with_profile(environment: &Environment, fit: &Fit) -> Environment {
    let mut environment = environment.clone();
    let profile = environment.profiles.iter().find(|profile| Some(&profile.name) == fit.profile.as_ref());
    let Some(profile) = profile.cloned() else { return environment };
    environment.command = profile.command.or(environment.command);
    environment.image = profile.image.or(environment.image);
    environment.env.extend(profile.env);
    environment.setup.extend(profile.setup);
    environment.profiles.clear();
    environment
}

/// What is agreed to when an environment is started: another environment, or another than it was, has another.
pub fn agreement(environment: &Environment, network: bool) -> Digest {
    // Definitions are plain data, which is always JSON.
    let text = serde_json::to_vec(&(environment, network)).unwrap_or_default();
    Digest::of(&text)
}

/// Each command that an environment runs, with what it's for, in the order in which they are run.
pub fn commands(environment: &Environment) -> Vec<(String, String)> {
    let Environment { setup, hooks, services, command, .. } = environment;
    let several = |name: &str, commands: &[CommandLine]| -> Vec<_> {
        commands.iter().map(|command| (name.to_owned(), command.to_string())).collect()
    };
    let mut all = several("set-up", setup);
    all.extend(several("before", &hooks.starting));
    for service in services {
        let image = service.image.clone().or(service.build.as_ref().map(|build| build.file.clone()));
        let what = service.command.as_ref().map(ToString::to_string).or(image);
        all.push((format!("service {}", service.name), what.unwrap_or_default()));
    }
    all.extend(command.iter().map(|command| ("runs".to_owned(), command.to_string())));
    all.extend(several("when ready", &hooks.started));
    all.extend(several("after", &hooks.stopped));
    let checks = environment.checks.iter();
    all.extend(checks.map(|check| (format!("check {}", check.name), check.command.to_string())));
    all
}

/// Makes a launch of an environment (with its profile), to be run in a room.
///
/// # Errors
/// [`ComposeError`], which says what is missing.
pub fn compose(
    environment: &Environment,
    room: RoomSpec,
    here: &Here,
    fit: &Fit,
    setup_done: Option<PathBuf>,
) -> Result<LaunchSpec, ComposeError> {
    let mut values = here.values.clone();
    values.insert("WORKSPACE".into(), here.workspace.to_string_lossy().into_owned());
    for given in &fit.given {
        let (name, amount) = match given.what {
            Thing::Cpu => ("CPUS", given.amount),
            Thing::Memory => ("MEMORY_MIB", (given.amount / f64::from(1 << 20)).floor()),
            Thing::Disk => continue,
            Thing::Gpu => ("GPUS", given.amount),
        };
        values.insert(name.into(), amount.to_string());
    }
    let mut variables = expand(&environment.env, &values)?;
    for name in &environment.secrets {
        let secret = here.secrets.get(name).ok_or_else(|| ComposeError::Secret(name.clone()))?;
        variables.insert(name.clone(), secret.into());
    }
    let inside = |path: &str| OsString::from(here.workspace.join(Path::new(path)));
    let directory = environment.directory.as_deref().map(inside);
    let program = |command: &CommandLine| Program {
        words: command.words().into_iter().map(Into::into).collect(),
        variables: variables.clone(),
        directory: directory.clone(),
    };
    let programs = |commands: &[CommandLine]| commands.iter().map(program).collect::<Vec<_>>();
    let mut services = Vec::new();
    let mut ports: Vec<Port> = environment.ports.clone();
    for service in &environment.services {
        let Some(command) = &service.command else { continue };
        let mut program = program(command);
        program.variables.extend(expand(&service.env, &values)?);
        services.push(ServiceSpec {
            name: service.name.clone(),
            program,
            ready: service.ready.clone(),
            after: service.after.clone(),
            restart: service.restart,
        });
        ports.extend(service.ports.iter().cloned());
    }
    Ok(LaunchSpec {
        room,
        setup: programs(&environment.setup),
        setup_done,
        starting: programs(&environment.hooks.starting),
        main: environment.command.as_ref().map(program),
        services,
        started: programs(&environment.hooks.started),
        stopped: programs(&environment.hooks.stopped),
        ports,
    })
}

fn expand(
    variables: &BTreeMap<String, String>,
    values: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, OsString>, ComposeError> {
    let mut expanded = BTreeMap::new();
    for (variable, text) in variables {
        let unknown = VALUE.captures_iter(text).find(|found| !values.contains_key(&found[1]));
        if let Some(found) = unknown {
            let known = values.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(ComposeError::Value { variable: variable.clone(), name: found[1].to_owned(), known });
        }
        let value = VALUE.replace_all(text, |found: &regex::Captures<'_>| values[&found[1]].clone());
        expanded.insert(variable.clone(), value.into_owned().into());
    }
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Given, Limits, Sandboxed};

    fn environment(text: &str) -> Environment {
        serde_yaml::from_str(text).unwrap()
    }

    fn room() -> RoomSpec {
        RoomSpec::Process(Sandboxed {
            program: "/bwrap".into(),
            arguments: vec![],
            limits: Limits::default(),
        })
    }

    fn here() -> Here {
        let pair = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        Here { workspace: "/home/ann/lab".into(), values: pair("USER", "bob"), secrets: pair("TOKEN", "t") }
    }

    fn fit() -> Fit {
        let given = Given { what: Thing::Cpu, amount: 4.0, wanted: 8.0, minimum: 1.0, there: 4.0 };
        Fit { profile: Some("cpu".into()), given: vec![given], is_short: false }
    }

    #[test]
    fn a_launch_is_what_the_definition_says() {
        let train = environment(
            "name: train\ncommand: python t.py\ndirectory: src\nsetup: [uv sync]\nenv: {MODE: 'a-${USER}', N: '${CPUS}'}\n\
             secrets: [TOKEN]\nports: [8000]\nprofiles:\n- {name: gpu, command: x}\n- {name: cpu, env: {DEVICE: cpu}}\n\
             services:\n- {name: board, command: [board, '--x'], ports: [6006], env: {AT: '${WORKSPACE}/runs'}}\n",
        );
        let fitted = with_profile(&train, &fit());
        let spec = compose(&fitted, room(), &here(), &fit(), None).unwrap();
        let main = spec.main.unwrap();
        assert_eq!(main.words, ["sh", "-c", "python t.py"]);
        assert_eq!(main.directory.unwrap(), "/home/ann/lab/src");
        let variable = |program: &Program, name: &str| program.variables[name].to_str().unwrap().to_owned();
        assert_eq!(variable(&spec.setup[0], "MODE"), "a-bob");
        assert_eq!(variable(&spec.setup[0], "N"), "4");
        assert_eq!(variable(&spec.setup[0], "DEVICE"), "cpu");
        assert_eq!(variable(&spec.services[0].program, "AT"), "/home/ann/lab/runs");
        assert_eq!(variable(&spec.services[0].program, "TOKEN"), "t");
        assert_eq!(spec.services[0].program.words, ["board", "--x"]);
        assert_eq!(spec.ports.iter().map(Port::number).collect::<Vec<_>>(), [8000, 6006]);
        let shown = commands(&fitted);
        let shown: Vec<_> = shown.iter().map(|(what, command)| format!("{what}: {command}")).collect();
        assert_eq!(shown, ["set-up: uv sync", "service board: board --x", "runs: python t.py"]);
    }

    #[test]
    fn nothing_of_this_machine_is_given_that_was_not_meant_to_be() {
        let curious = environment("name: a\ncommand: x\nenv: {KEY: '${AWS_SECRET_ACCESS_KEY}'}\n");
        let refused = compose(&curious, room(), &here(), &fit(), None).unwrap_err();
        assert!(
            refused.to_string().contains("KEY") && refused.to_string().contains("CPUS, USER, WORKSPACE"),
            "{refused}"
        );
        let needing = environment("name: a\ncommand: x\nsecrets: [OTHER]\n");
        let refused = compose(&needing, room(), &here(), &fit(), None).unwrap_err();
        assert_eq!(refused, ComposeError::Secret("OTHER".into()));
    }

    #[test]
    fn an_agreement_is_about_all_that_is_run() {
        let train = environment("name: train\ncommand: a\n");
        let same = agreement(&train, false);
        assert_eq!(agreement(&train.clone(), false), same);
        assert_ne!(agreement(&train, true), same);
        for other in [
            "command: b",
            "command: a\nsetup: [c]",
            "command: a\nhooks: {stopped: [c]}",
            "command: a\nsecrets: [S]",
        ] {
            assert_ne!(agreement(&environment(&format!("name: train\n{other}\n")), false), same, "{other}");
        }
    }
}
