use std::fmt::Write;

use twinshare::workspace::{self, Folder, Planned, definition::CommandLine};

use super::{
    arguments::Where,
    failure::Failure,
    output::{json, plain},
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
    if as_json {
        return json(&plan);
    }
    if plan.environments.is_empty() {
        return Ok(
            "there's no environment: nothing here says how something is run (docs/WORKSPACE.md)\n".to_owned()
        );
    }
    Ok(plan.environments.iter().map(shown).collect::<Vec<_>>().join("\n"))
}

fn shown(planned: &Planned) -> String {
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
