//! How the rooms of environments are made, by their types.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use twinshare::{
    api::Problem,
    runtime::{Contained, ContainerRoot, Engine, Limits, Means, Plugged, RoomSpec, Sandboxed, find_plugin},
    workspace::definition::Environment,
};

use crate::launch::{Ground, Wanted};

/// Where programs are found in a sandbox.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where runtimes are found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The socket of the container engine, if the user names one.
    pub(crate) engine: Option<PathBuf>,
    /// Where plugins are looked for, as in PATH.
    pub(crate) search: OsString,
}

/// How the room of an environment is made. Reads files of the mount.
pub(super) fn room(
    ground: &Ground,
    environment: &Environment,
    network: bool,
    limits: Limits,
    folder: &Path,
    found: &Found,
) -> Result<RoomSpec, Problem> {
    let mounts = environment.mounts.iter();
    let mounts = mounts
        .map(|mount| (PathBuf::from(&mount.source), PathBuf::from(&mount.target), mount.read_only))
        .collect();
    match environment.runtime() {
        "process" => sandboxed(ground, environment, network, limits, mounts),
        "container" => contained(ground, environment, network, limits, mounts, folder, found.engine.clone()),
        other => plugged(ground, environment, network, limits, folder, other, &found.search),
    }
}

fn plugged(
    ground: &Ground,
    environment: &Environment,
    network: bool,
    mut limits: Limits,
    folder: &Path,
    name: &str,
    search: &std::ffi::OsStr,
) -> Result<RoomSpec, Problem> {
    let program = find_plugin(search, name).ok_or_else(|| {
        let problem = Problem::conflict(format!(
            "'{}' is to be run by '{name}', and there's no program twinshare-runtime-{name}",
            environment.name
        ));
        problem.with_remedy("install one into a folder of PATH, and restart the node (docs/PLUGINS.md)")
    })?;
    limits.means = Means::Runtime;
    let id = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(RoomSpec::Plugin(Plugged {
        program,
        id,
        folder: folder.join("plugin"),
        workspace: (ground.view.clone(), ground.original.clone()),
        definition: serde_json::to_value(environment).map_err(Problem::failed)?,
        network,
        limits,
    }))
}

fn sandboxed(
    ground: &Ground,
    environment: &Environment,
    network: bool,
    limits: Limits,
    mounts: Vec<(PathBuf, PathBuf, bool)>,
) -> Result<RoomSpec, Problem> {
    let services = environment.services.iter().filter_map(|service| service.command.as_ref());
    let all = environment.command.iter().chain(services);
    let mut path = OsString::new();
    for folder in ground.program_folders() {
        path.push(folder);
        path.push(":");
    }
    path.push(PATH);
    let wanted = Wanted {
        programs: all.map(|command| command.plain_words().into_iter().map(Into::into).collect()).collect(),
        network,
        terminal: false,
        writable: true,
        mounts,
        variables: vec![("PATH".into(), path)],
    };
    let (program, arguments) = ground.sandbox(wanted).map_err(Problem::failed)?;
    Ok(RoomSpec::Process(Sandboxed { program, arguments, limits }))
}

fn contained(
    ground: &Ground,
    environment: &Environment,
    network: bool,
    mut limits: Limits,
    mounts: Vec<(PathBuf, PathBuf, bool)>,
    folder: &Path,
    engine: Option<PathBuf>,
) -> Result<RoomSpec, Problem> {
    let runtime = PathBuf::from(format!("/run/user/{}", rustix::process::geteuid().as_raw()));
    let usual = || {
        let own = ["podman/podman.sock", "docker.sock"].map(|name| runtime.join(name));
        own.into_iter().chain(["/run/podman/podman.sock", "/run/docker.sock"].map(PathBuf::from)).collect()
    };
    let sockets: Vec<PathBuf> = engine.map_or_else(usual, |named| vec![named]);
    let engine = Engine::find(&sockets, folder.join("e")).ok_or_else(|| {
        Problem::conflict("there is no container engine on this machine").with_remedy(
            "apt-get install podman; or 'containers: {socket: PATH}' in config.yaml names the socket of one",
        )
    })?;
    let unable = |what: &str| {
        Problem::conflict(format!("'{}' {what}, which this version can't do yet", environment.name))
    };
    let root = match (&environment.image, &environment.rootfs, &environment.build) {
        (Some(image), ..) if image.starts_with("oci:") => {
            return Err(unable("has its image in the workspace"));
        }
        (Some(image), ..) => ContainerRoot::Image(image.clone()),
        (_, Some(rootfs), _) => {
            ContainerRoot::Folder { lower: ground.view.join(rootfs), layer: folder.join("layer") }
        }
        (.., Some(_)) => return Err(unable("has an image that is to be built")),
        _ => return Err(unable("has services with images of their own")),
    };
    // The engine holds it to them.
    limits.means = Means::Runtime;
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    Ok(RoomSpec::Container(Contained {
        engine,
        name: format!("twinshare-{name}"),
        root,
        workspace: (ground.view.clone(), ground.original.clone()),
        mounts: mounts
            .into_iter()
            .map(|(source, target, read_only)| (ground.view.join(source), target, read_only))
            .collect(),
        variables: Vec::new(),
        network,
        limits,
    }))
}
