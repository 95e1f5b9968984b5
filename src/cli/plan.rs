use std::fmt::Write;

use serde::Serialize;
use twinshare::{
    runtime::{Fit, Machine, fit},
    workspace::{self, Folder, Planned, definition::CommandLine},
};

use super::{
    arguments::Where,
    failure::Failure,
    output::{fields, json, plain, size},
    session::Session,
};

/// Shows the environments of a workspace.
pub(super) async fn plan(session: &Session, place: &Where, as_json: bool) -> Result<String, Failure> {
    let folder = match place {
        Where::Path(path) => path.clone(),
        Where::Named(path) => session.in_mount(path).await?,
    };
    if !folder.is_dir() {
        return Err(Failure::new(format!("{} is no folder", plain(&folder.to_string_lossy()))));
    }
    let planned = tokio::task::spawn_blocking(move || workspace::plan(&Folder(folder)));
    let plan = planned.await.map_err(|error| Failure::new(error.to_string()))?;
    let plan = plan.map_err(|error| Failure::new(error.to_string()))?;
    let machine = machine(session).await?;
    let fits = plan.environments.into_iter().map(|planned| {
        let fit = fit(&planned.environment, &machine);
        Fitted { planned, fit }
    });
    let fitted: Vec<_> = fits.collect();
    if as_json {
        return json(&Answer { environments: fitted, machine });
    }
    if fitted.is_empty() {
        return Ok(
            "there's no environment: nothing here says how something is run (docs/WORKSPACE.md)\n".to_owned()
        );
    }
    Ok(fitted.iter().map(shown).collect::<Vec<_>>().join("\n"))
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Answer {
    environments: Vec<Fitted>,
    machine: Machine,
}

#[derive(Serialize)]
struct Fitted {
    #[serde(flatten)]
    planned: Planned,
    fit: Fit,
}

/// Shows what this machine has.
pub(super) async fn resources(session: &Session, as_json: bool) -> Result<String, Failure> {
    let machine = machine(session).await?;
    if as_json {
        return json(&machine);
    }
    let gpus: Vec<_> = machine
        .gpus
        .iter()
        .map(|gpu| match gpu.memory {
            Some(memory) => format!("{} ({})", plain(&gpu.name), size(memory)),
            None => plain(&gpu.name),
        })
        .collect();
    Ok(fields(&[
        ("cores", format!("{}", machine.cpus)),
        ("memory", format!("{} of {} free", size(machine.memory_free), size(machine.memory))),
        ("disk", format!("{} free", size(machine.disk_free))),
        (
            "graphics",
            if gpus.is_empty() { "none that programs can compute with".to_owned() } else { gpus.join(", ") },
        ),
    ]))
}

async fn machine(session: &Session) -> Result<Machine, Failure> {
    let state = session.paths.state.clone();
    let look = move || {
        // Before the first start of a node there's no such folder.
        let place = state.ancestors().find(|folder| folder.is_dir()).unwrap_or(&state);
        Machine::look(place)
    };
    let looked = tokio::task::spawn_blocking(look).await.map_err(|error| Failure::new(error.to_string()))?;
    looked.map_err(|error| Failure::new(format!("can't look at this machine: {error}")))
}

fn shown(fitted: &Fitted) -> String {
    let Fitted { planned, fit } = fitted;
    let environment = &planned.environment;
    let mut lines = Vec::new();
    let mut add = |name: &'static str, text: String| lines.push((name, text));
    let from = planned.from.join(", ");
    add("from", from);
    if let Some(description) = &environment.description {
        add("about", description.clone());
    }
    let image = environment.image.clone().or(environment.rootfs.clone()).or(environment.disk.clone());
    if let Some(image) = image {
        add("image", image);
    }
    if let Some(build) = &environment.build {
        add("image", format!("built from {}", build.file));
    }
    let commands = |name: &'static str, commands: &[CommandLine]| {
        commands.iter().map(move |command| (name, command.to_string())).collect::<Vec<_>>()
    };
    for (name, text) in commands("set-up", &environment.setup) {
        add(name, text);
    }
    if let Some(command) = &environment.command {
        add("runs", command.to_string());
    }
    for (name, text) in commands("then", &environment.hooks.started) {
        add(name, text);
    }
    for service in &environment.services {
        let image = service
            .image
            .clone()
            .or(service.build.as_ref().map(|build| format!("built from {}", build.file)));
        let what = service.command.as_ref().map(ToString::to_string).or(image).unwrap_or_default();
        add("service", format!("{}: {what}", service.name));
    }
    if !environment.tools.is_empty() {
        add("tools", environment.tools.join(", "));
    }
    if !environment.ports.is_empty() {
        let ports: Vec<_> = environment.ports.iter().map(|port| port.number().to_string()).collect();
        add("ports", ports.join(", "));
    }
    if let Some(profile) = &fit.profile {
        let why =
            if fit.is_short { "none has enough here; the last" } else { "the first that has enough here" };
        add("profile", format!("{profile}: {why}"));
    }
    for given in &fit.given {
        add("gets", given.describe());
    }
    for why in &planned.because {
        add("because", why.clone());
    }
    for what in &planned.ignored {
        add("ignored", what.clone());
    }
    let mut text = format!("{} ({})\n", plain(&environment.name), plain(environment.runtime()));
    for (name, value) in lines {
        // Writing to a string can't fail.
        let _ = writeln!(text, "  {name:8} {}", plain(&value));
    }
    text
}
