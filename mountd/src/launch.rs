//! Prepares a launch: what the sandbox shows, and how it's started.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use twinshare::{
    access::Right,
    api::{LaunchPlan, LaunchRequest, Problem, RawText},
    fetch::Fetcher,
    runtime::{
        Interpreter, RuntimeError, SandboxSpec, System, VenvConfig, arguments, find_bubblewrap, is_system,
        script_interpreter,
    },
    types::{HostName, Name, WorkspaceId, WorkspaceName},
    view::{OUTSIDE, Place},
};

use crate::node::Node;

/// Where bubblewrap is looked for.
const SEARCH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Folders of a workspace that are usually a Python environment.
const USUAL_VENVS: [&str; 4] = ["", ".venv", "venv", "env"];

/// No pyvenv.cfg is longer, in bytes.
const MAX_CONFIG: u64 = 64 << 10;

/// So much of a script the system looks at for what is to run it, in bytes.
const FIRST_LINE: u64 = 256;

/// Where something is launched.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    /// The workspace on this machine.
    pub(crate) view: PathBuf,
    /// Where it stands on its owner's machine, and in the sandbox.
    pub(crate) original: PathBuf,
    /// Its identity, if it's another's.
    pub(crate) id: Option<WorkspaceId>,
    /// Where the mount lets its links lead that leave it.
    outside: PathBuf,
}

/// Finds a workspace that this node may run something in.
pub(crate) fn ground(node: &Node, host: &HostName, workspace: &WorkspaceName) -> Result<Ground, Problem> {
    let place = format!("{host}/{workspace}");
    let listing = node.view.listing();
    let found = listing.hosts.get(host).and_then(|host| host.places.get(workspace));
    let found = found.ok_or_else(|| {
        Problem::missing(format!("there is no workspace {place}"))
            .with_remedy("`twinshare ls` shows what is there")
    })?;
    let outside = node.mount.join(OUTSIDE).join(host.as_str());
    match found {
        Place::Local(path) => Ok(Ground { view: path.clone(), original: path.clone(), id: None, outside }),
        Place::Remote(mounted) if mounted.root.is_some() && !mounted.rights.has(Right::Run) => {
            Err(Problem::denied(format!("the owner of {place} doesn't let this node run what is in it"))
                .with_remedy("the owner can: 'twinshare access' gives the right to run"))
        }
        Place::Remote(mounted) if mounted.root.is_some() => {
            let view = node.mount.join(host.as_str()).join(workspace.as_str());
            let original = PathBuf::from(OsStr::from_bytes(&mounted.original));
            Ok(Ground { view, original, id: Some(mounted.id), outside })
        }
        Place::Remote(mounted) => {
            twinshare::fetch::Holders::knock(&*node.neighbours, &mounted.id);
            Err(Problem::denied(format!("the owner of {place} hasn't allowed this node to read it"))
                .with_remedy("the owner has been asked, and answers with `twinshare requests`"))
        }
    }
}

/// Makes the plan that the CLI carries out.
pub(crate) async fn plan(node: &Node, request: LaunchRequest) -> Result<LaunchPlan, Problem> {
    let ground = ground(node, &request.host, &request.workspace)?;
    let place = format!("{}/{}", request.host, request.workspace);
    let fetcher = node.fetcher.clone();
    let prepare = move || {
        let command: Vec<OsString> = request.command.iter().map(|word| word.as_os_str().to_owned()).collect();
        ground.note_launch(&fetcher, command.iter().map(Path::new));
        let variables = request.environment.iter();
        let wanted = Wanted {
            programs: vec![command],
            network: request.network,
            terminal: request.terminal,
            variables: variables.map(|(name, value)| (name.into(), value.as_os_str().to_owned())).collect(),
            ..Wanted::default()
        };
        let (program, arguments) = ground.sandbox(wanted)?;
        Ok::<_, RuntimeError>(LaunchPlan {
            program: RawText::from(program.into_os_string()),
            arguments: arguments.into_iter().map(RawText::from).collect(),
            environment: BTreeMap::new(),
        })
    };
    // Reads files of the mount, which this very node serves: on a thread of its own.
    tokio::task::spawn_blocking(prepare)
        .await
        .map_err(Problem::failed)?
        .map_err(|error| Problem::failed(format!("can't run in {place}: {error}")))
}

/// What a sandbox is wanted for.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// The programs that will run in it, each with its arguments: their environments are looked for.
    pub(crate) programs: Vec<Vec<OsString>>,
    pub(crate) network: bool,
    pub(crate) terminal: bool,
    pub(crate) writable: bool,
    pub(crate) mounts: Vec<(PathBuf, PathBuf, bool)>,
    pub(crate) variables: Vec<(OsString, OsString)>,
}

impl Ground {
    /// Has what the launch of a command will read recorded, and fetched ahead of it.
    pub(crate) fn note_launch<'a>(&self, fetcher: &Fetcher, words: impl Iterator<Item = &'a Path>) {
        if let (Some(id), Some(program)) = (self.id, program(&self.view, &self.original, words)) {
            fetcher.recorder().begin(&id, &program);
        }
    }

    /// The program that makes a sandbox, and its arguments but for what runs in it. Reads files of the mount.
    pub(crate) fn sandbox(&self, wanted: Wanted) -> Result<(PathBuf, Vec<OsString>), RuntimeError> {
        let program = find_bubblewrap(SEARCH.as_ref())?;
        let mut interpreters = Vec::new();
        for command in &wanted.programs {
            add_interpreters(&mut interpreters, &self.view, &self.original, command)?;
            check_script(&self.view, &self.original, command, &interpreters)?;
        }
        let uid = rustix::process::geteuid();
        let spec = SandboxSpec {
            mount_view: self.view.clone(),
            original: self.original.clone(),
            outside: self.outside.clone(),
            writable: wanted.writable,
            mounts: wanted.mounts,
            interpreters,
            network: wanted.network,
            environment: wanted.variables,
            user: if uid.is_root() { "root".into() } else { format!("user{}", uid.as_raw()).into() },
            // The user's own home is never shown; an empty one that has the same name wherever one launches.
            home: if uid.is_root() { "/root".into() } else { format!("/home/user{}", uid.as_raw()).into() },
            root: uid.is_root(),
            terminal: wanted.terminal,
        };
        Ok((program, arguments(&spec, &System::scan()?)?))
    }

    /// The folders of programs of its environments, from the workspace's root.
    pub(crate) fn program_folders(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let venvs = USUAL_VENVS.iter().filter(|folder| !folder.is_empty());
        let venvs = venvs.filter(|folder| self.view.join(folder).join("pyvenv.cfg").is_file());
        let node = ["node_modules/.bin"].into_iter().filter(|folder| self.view.join(folder).is_dir());
        venvs
            .map(|folder| self.original.join(folder).join("bin"))
            .chain(node.map(|bin| self.original.join(bin)))
    }
}

/// The base interpreters of the environments that the command may use. That one is missing is an error only for the
/// environment that the command names.
fn add_interpreters(
    found: &mut Vec<Interpreter>,
    view: &Path,
    original: &Path,
    command: &[OsString],
) -> Result<(), RuntimeError> {
    let named = command.first().and_then(|program| named_venv(Path::new(program), original));
    let usual = USUAL_VENVS.iter().map(|folder| (Path::new(folder), false));
    for (folder, needed) in named.as_deref().map(|folder| (folder, true)).into_iter().chain(usual) {
        // The view is the guest's, and its links never lead out of the mount.
        let Some(config) = read_start(&view.join(folder).join("pyvenv.cfg"), MAX_CONFIG) else { continue };
        match VenvConfig::parse(&config).and_then(|config| config.find_interpreter()) {
            Ok(interpreter) if found.contains(&interpreter) => {}
            Ok(interpreter) => found.push(interpreter),
            Err(error) if needed => return Err(error),
            Err(error) => {
                tracing::debug!(%error, folder = %folder.display(), "an environment can't be used here")
            }
        }
    }
    Ok(())
}

/// That a script which is to be run can be: the system only says that something isn't there, and not what.
fn check_script(
    view: &Path,
    original: &Path,
    command: &[OsString],
    interpreters: &[Interpreter],
) -> Result<(), RuntimeError> {
    let Some(script) = command.first().map(Path::new).filter(|program| program.components().count() > 1)
    else {
        return Ok(());
    };
    let Some(start) = read_start(&view.join(script.strip_prefix(original).unwrap_or(script)), FIRST_LINE)
    else {
        return Ok(());
    };
    let Some(interpreter) = script_interpreter(&start) else { return Ok(()) };
    let shown = || interpreters.iter().flat_map(|one| &one.paths).any(|path| interpreter.starts_with(path));
    let is_there = match interpreter.strip_prefix(original) {
        // A link is followed in the sandbox only.
        Ok(inside) => view.join(inside).symlink_metadata().is_ok(),
        Err(_) => (is_system(interpreter) || shown()) && interpreter.exists(),
    };
    if is_there {
        return Ok(());
    }
    Err(RuntimeError::NoScriptInterpreter { script: script.into(), interpreter: interpreter.into() })
}

/// The file of the workspace by which the launch of a command is known: its environment's pyvenv.cfg, or else the program
/// or script that it names first. The first read of either says the same, if the kernel doesn't have it already.
fn program<'a>(view: &Path, original: &Path, words: impl Iterator<Item = &'a Path>) -> Option<Vec<Name>> {
    let file = words.into_iter().find_map(|word| {
        let inside = word.strip_prefix(original).unwrap_or(word);
        let config = named_venv(inside, original).map(|venv| venv.join("pyvenv.cfg"));
        let files = config.into_iter().chain([inside.to_path_buf()]);
        files.into_iter().find(|file| file.is_relative() && view.join(file).is_file())
    })?;
    let mut names = Vec::new();
    for part in file.components() {
        match part {
            Component::Normal(name) => names.push(Name::new(name.as_bytes()).ok()?),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(names)
}

/// The folder, from the workspace's root, of the environment in whose `bin` the program is.
fn named_venv(program: &Path, original: &Path) -> Option<PathBuf> {
    let program = match program.strip_prefix(original) {
        Ok(inside) => inside,
        Err(_) if program.is_relative() => program,
        Err(_) => return None,
    };
    let bin = program.parent()?;
    let plain = bin.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    (plain && bin.ends_with("bin")).then(|| bin.parent().unwrap_or(Path::new("")).to_path_buf())
}

fn read_start(path: &Path, length: u64) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::open(path).ok()?.take(length).read_to_end(&mut content).ok()?;
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_is_known_by_its_environment_or_by_what_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let view = folder.path();
        std::fs::create_dir_all(view.join("env/bin")).unwrap();
        for file in ["env/pyvenv.cfg", "env/bin/python", "train.sh", "plain"] {
            std::fs::write(view.join(file), "").unwrap();
        }
        let known = |command: &str| {
            let names = program(view, Path::new("/home/ann/lab"), command.split(' ').map(Path::new))?;
            Some(names.iter().map(Name::to_string).collect::<Vec<_>>().join("/"))
        };
        assert_eq!(known("env/bin/python train.sh").as_deref(), Some("env/pyvenv.cfg"));
        assert_eq!(known("/home/ann/lab/env/bin/python").as_deref(), Some("env/pyvenv.cfg"));
        assert_eq!(known("bash -e ./train.sh plain").as_deref(), Some("train.sh"));
        assert_eq!(known("/home/ann/lab/plain").as_deref(), Some("plain"));
        for other in ["bash -c true", "/usr/bin/true", "../lab/plain", "missing"] {
            assert_eq!(known(other), None, "{other}");
        }
    }

    #[test]
    fn the_environment_of_a_program_is_the_folder_above_its_bin() {
        let venv = |program: &str| named_venv(Path::new(program), Path::new("/home/ann/lab"));
        assert_eq!(venv(".venv/bin/python"), Some(".venv".into()));
        assert_eq!(venv("./a/b/bin/pytest"), Some("./a/b".into()));
        assert_eq!(venv("/home/ann/lab/.venv/bin/python"), Some(".venv".into()));
        assert_eq!(venv("bin/x"), Some("".into()));
        for other in ["python", "/usr/bin/python3", "../x/bin/python", ".venv/lib/x"] {
            assert_eq!(venv(other), None, "{other}");
        }
    }
}
