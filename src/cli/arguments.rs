mod environments;

use std::{
    ffi::OsString,
    os::fd::RawFd,
    path::{Component, PathBuf},
};

use clap::{Parser, Subcommand, builder::OsStringValueParser, builder::TypedValueParser};
pub(super) use environments::{Ci, Exec, Launched, Logs, Ports, Ps, SecretVerb, Secrets, Start, Stop};
use twinshare::{
    access::{self, Group, Rights},
    api::{FilePath, NodeOptions, PeerAddress},
    peer::PairingCode,
    types::{HostName, NameError, WorkspaceName},
};

/// Share working environments on the LAN: seen at once, fetched as touched, run in one command.
#[derive(Debug, Parser)]
#[command(
    name = "twinshare",
    version,
    arg_required_else_help = true,
    after_help = "\
Example:
  twinshare up
  twinshare share ~/lab --access public
  twinshare ls
  twinshare run colleague/lab -- python train.py

Exit codes: 0 fine, 1 failure, 2 wrong usage; of 'run', the command's own.

TWINSHARE_HOME=DIR keeps a node's configuration, state, cache and mount (DIR/mnt) under one folder,
so that several nodes can live on one machine."
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Start this machine's node and its mount
    #[command(after_help = "\
Returns when the mount answers. The node's log is mountd.log in its state folder.

Example:
  twinshare up
  twinshare up --name lab-3 --interface eth0 --peer 10.1.2.3")]
    Up(Up),

    /// Stop this machine's node and its mount
    #[command(after_help = "\
Returns when the node has ended and the mount is gone.

Example:
  twinshare down")]
    Down,

    /// Show how this machine's node is
    #[command(after_help = "Example:\n  twinshare status\n  twinshare status --json")]
    Status(Format),

    /// Share a folder as a workspace
    #[command(after_help = "\
The content isn't copied: the folder stays where it is, and its edits are published as they happen.

Example:
  twinshare share ~/lab
  twinshare share ~/lab --name gpu-lab --access public --wait")]
    Share(Share),

    /// Stop sharing a workspace; its folder stays
    #[command(after_help = "Example:\n  twinshare unshare lab\n  twinshare unshare ~/lab")]
    Unshare {
        /// The workspace's name, or its folder
        #[arg(value_name = "NAME|PATH")]
        workspace: OsString,
    },

    /// List hosts and workspaces, or the files of a workspace
    #[command(after_help = "\
Example:
  twinshare ls
  twinshare ls colleague
  twinshare ls -l colleague/lab/src")]
    Ls(Ls),

    /// Run a command in a workspace's environment
    #[command(after_help = "\
The command runs in a sandbox in which the workspace stands at the path that it has on its owner's machine.
Without a command, a shell is started. The exit code is the command's own,
or 128 and the number of the signal that ended it. Signals are passed on to the command.

Example:
  twinshare run colleague/lab -- .venv/bin/python train.py --epochs 3
  twinshare run colleague/lab --net")]
    Run(Run),

    /// Start an environment of a workspace
    #[command(after_help = "\
It's one of those that 'twinshare plan' shows, the first unless named, and goes on in the background. What another's
workspace runs is shown first and must be agreed to, again when it has changed.

Example:
  twinshare start colleague/lab
  twinshare start colleague/lab train --net --yes")]
    Start(Start),

    /// Stop an environment
    #[command(
        after_help = "Example:\n  twinshare stop colleague/lab\n  twinshare stop colleague/lab train --force"
    )]
    Stop(Stop),

    /// Stop an environment and start it again
    #[command(after_help = "Example:\n  twinshare restart colleague/lab")]
    Restart(Start),

    /// List the environments that run
    #[command(after_help = "Example:\n  twinshare ps\n  twinshare ps --all --json")]
    Ps(Ps),

    /// Show what an environment printed
    #[command(
        after_help = "Example:\n  twinshare logs colleague/lab -f\n  twinshare logs colleague/lab train --tail 20"
    )]
    Logs(Logs),

    /// Run a command in a running environment (without one: a shell)
    #[command(
        visible_alias = "attach",
        after_help = "\
It has the environment's bounds and ends with it. The exit code is the command's own.

Example:
  twinshare exec colleague/lab -- python -V
  twinshare exec colleague/lab -e train"
    )]
    Exec(Exec),

    /// Show at which ports of this machine an environment is reached
    #[command(after_help = "Example:\n  twinshare ports colleague/lab")]
    Ports(Ports),

    /// Wait for the end of an environment; the exit code is that of what it ran
    #[command(after_help = "Example:\n  twinshare wait colleague/lab train")]
    Wait(Launched),

    /// Run an environment's checks; the exit code is 0 when all pass
    #[command(after_help = "Example:\n  twinshare ci colleague/lab --yes --junit results.xml")]
    Ci(Ci),

    /// List, set and forget the secrets that environments are given which ask for them
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Example:\n  twinshare secret\n  twinshare secret set HF_TOKEN < token\n  twinshare secret forget HF_TOKEN"
    )]
    Secret(Secrets),

    /// Make a new workspace from a template
    #[command(after_help = "\
In workspace.yaml, '{{name}}' becomes its name. A template of your own is any folder or workspace: what of it would be shared is taken.

Example:
  twinshare create --templates
  twinshare create lab --template python
  twinshare create ~/work/lab --template colleague/lab")]
    Create(super::create::Create),

    /// Write a workspace as a ZIP archive
    #[command(after_help = "\
What isn't shared isn't in it either: secrets, and what .twinshareignore names. Of another's workspace it's as the mount shows it, and
all of it is fetched.

Example:
  twinshare export colleague/lab
  twinshare export ~/lab -o lab.zip")]
    Export(super::archive::Export),

    /// Make a workspace of a ZIP archive
    #[command(after_help = "\
All of it is made, or nothing. An archive that could write elsewhere is refused. The workspace gets a new id, and workspace.yaml
says where it came from.

Example:
  twinshare import lab-20260131-120000.zip
  twinshare import lab.zip ~/lab-2")]
    Import(super::archive::Import),

    /// Show which environments a workspace has, and why
    #[command(after_help = "\
What workspace.yaml and the files in environments/ describe; where they describe nothing, what the project's files suggest
(docs/WORKSPACE.md); and how each would fit this machine. Nothing is run.

Example:
  twinshare plan
  twinshare plan colleague/lab
  twinshare plan ~/lab --json")]
    Plan(PlanOptions),

    /// Show what this machine has to run environments with
    #[command(after_help = "Example:\n  twinshare resources\n  twinshare resources --json")]
    Resources(Format),

    /// Become the command of a launch: 'run' starts this in its sandbox
    #[command(hide = true)]
    Enter(Enter),

    /// List or add peers
    #[command(subcommand, after_help = "Example:\n  twinshare peer list\n  twinshare peer add 10.1.2.3")]
    Peer(PeerVerb),

    /// List who asks for your workspaces, and answer them
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "\
Example:
  twinshare requests
  twinshare requests allow lab colleague"
    )]
    Requests(Requests),

    /// Show who may do what with a workspace of yours, and change it
    #[command(after_help = "\
The rights: browse (see the names), read (the files), clone (fetch all of it ahead of need), run (start its environments),
write (push to it); each brings what it needs. What is decided about a peer counts more than what is about its groups.
What is taken back ends within a second, also what is under way; what a peer has already fetched it has.

Example:
  twinshare access lab
  twinshare access lab --allow colleague --rights read,run --for 8h
  twinshare access lab --allow group:team --deny guest-laptop
  twinshare access lab --revoke colleague")]
    Access(Access),

    /// Show the groups of peers, or change them
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "\
A group can be given rights as a peer can: 'twinshare access lab --allow group:team'.

Example:
  twinshare group
  twinshare group add team ann bob
  twinshare group remove team bob"
    )]
    Group(Groups),

    /// Make sure that another node is the one that you mean, and count it among your peers
    #[command(after_help = "\
Without arguments it shows a code, for the other side to type. Both sides then let each other into the workspaces that are shared with
'--access peers'. A code is good for one try and five minutes; whoever stands between the two nodes can't use it.

Example:
  twinshare pair
  twinshare pair colleague 123-456
  twinshare pair 10.1.2.3 123-456")]
    Pair {
        /// Who has invited: host name, id or address
        #[arg(value_name = "PEER", requires = "code")]
        peer: Option<String>,

        /// The code that it shows
        #[arg(value_name = "CODE")]
        code: Option<PairingCode>,
    },

    /// Count a node no longer among your peers
    #[command(after_help = "Example:\n  twinshare unpair colleague")]
    Unpair {
        /// Which: host name or id
        #[arg(value_name = "PEER")]
        peer: String,
    },

    /// Show who is being sent much at a time, and who waits for a turn
    #[command(after_help = "\
What is fetched ahead of need takes turns, so that it keeps nobody from what they wait for. How many at a time is bulk_slots in config.yaml.

Example:
  twinshare transfers")]
    Transfers(Format),

    /// Show who was let in, refused and shut out, and when
    #[command(after_help = "\
The newest 1000 lines. The log itself is audit.jsonl in the state folder.

Example:
  twinshare audit
  twinshare audit --json")]
    Audit(Format),

    /// Show this node's identity, to be compared by people
    #[command(after_help = "\
The words and the digits say the same: who sees the same at 'twinshare requests' has this node before them.

Example:
  twinshare id")]
    Id(Format),

    /// Show what the cache holds, or clear it
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "\
'twinshare up --cache-limit 20GiB' sets what it may take.

Example:
  twinshare cache
  twinshare cache --json
  twinshare cache clear colleague/lab"
    )]
    Cache(Cache),

    /// Show what you changed in a workspace of another host
    #[command(after_help = "\
A for what you made, M for what you changed, D for what you removed, R for what you moved,
U for the owner's version of what both of you changed.

Example:
  twinshare diff colleague/lab
  twinshare diff colleague/lab/src --text")]
    Diff {
        #[command(flatten)]
        what: Place,

        /// Show the lines that differ, as a unified diff
        #[arg(long, conflicts_with = "json")]
        text: bool,
    },

    /// Take back what you changed in a workspace, or in a file or folder of it
    #[command(after_help = "\
What you made there is gone for good, and what the owner has shows again. A move is taken back whole.

Example:
  twinshare discard colleague/lab/src/train.py
  twinshare discard colleague/lab")]
    Discard(Place),

    /// What you changed in a workspace, as a layer
    #[command(subcommand)]
    Layer(LayerVerb),

    /// List the snapshots of a workspace that its owner keeps
    #[command(after_help = "\
Each is a folder beside the workspace in the mount, under the workspace's name, '@' and the snapshot's name or the first 8 digits of it.
It stays as it is; what the owner has changed since can be read as far as somebody still has it.

Example:
  twinshare history colleague/lab
  ls ~/twinshare/colleague/lab@1a2b3c4d")]
    History(Place),

    /// Have the owner of a workspace make what you changed in it
    #[command(after_help = "\
The owner must let you change the workspace; if not, they are asked, and nothing is changed until you push again.
All of it is made or nothing: if the owner has changed the same files meanwhile, 'twinshare pull' comes first.

Example:
  twinshare push colleague/lab")]
    Push(Place),

    /// Merge what you changed in a workspace with its owner's newest snapshot
    #[command(after_help = "\
What the owner changed where you changed nothing shows by itself. Where both of you changed a file, yours keeps its name,
and the owner's is put beside it as NAME.HOST-SNAPSHOT.EXTENSION. Nothing of either side is lost.

Example:
  twinshare pull colleague/lab")]
    Pull(Place),

    /// Show what is known of a file or folder of another host, and how much of it is here
    #[command(after_help = "\
Of a folder it's what is known of all below it: looking through a large one takes a while.

Example:
  twinshare state colleague/lab/models
  twinshare state ./train.py")]
    State(Place),

    /// Show what happens, as it happens, until Ctrl-C
    #[command(after_help = "\
Workspaces that appear, change and leave, hosts that come and go, and peers that ask for access.

Example:
  twinshare events
  twinshare events --json --after 1796000000000000")]
    Events {
        /// Begin behind the event with this number (default: with what happens now)
        #[arg(long, value_name = "ID")]
        after: Option<u64>,

        #[command(flatten)]
        format: Format,
    },

    /// Fetch a workspace, or a file or folder of it, before it's needed
    #[command(after_help = "\
Whatever somebody waits for goes before it. Ctrl-C stops it; what came stays, and the same command goes on from there.
What is fetched can be evicted later: 'twinshare pin' keeps it.

Example:
  twinshare prefetch colleague/lab
  twinshare prefetch colleague/lab/models/large.safetensors")]
    Prefetch(Place),

    /// Keep a workspace, or a file or folder of it, complete and offline
    #[command(after_help = "\
It's fetched now and with every new snapshot, and never evicted, until 'twinshare unpin'.

Example:
  twinshare pin colleague/lab
  twinshare pin colleague/lab/data")]
    Pin(Place),

    /// Keep it no longer; what is here stays until its space is needed
    #[command(after_help = "Example:\n  twinshare unpin colleague/lab/data")]
    Unpin {
        /// What was pinned
        #[arg(value_name = "HOST/WORKSPACE[/PATH]", value_parser = OsStringValueParser::new().try_map(place))]
        path: Where,
    },

    /// Examine this machine: what twinshare needs, and what is missing
    #[command(after_help = "\
Exits with 1 when something that is needed is missing.

Example:
  twinshare doctor
  twinshare doctor --json")]
    Doctor(Format),
}

/// How a list is written.
#[derive(Debug, clap::Args)]
pub(super) struct Format {
    /// Write JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Up {
    /// Where to mount (default: ~/twinshare, or TWINSHARE_HOME/mnt)
    #[arg(long, value_name = "DIR")]
    pub(super) mount: Option<PathBuf>,

    /// Stay in the foreground and log to the terminal
    #[arg(long)]
    pub(super) foreground: bool,

    #[command(flatten)]
    pub(super) node: NodeOptions,
}

#[derive(Debug, clap::Args)]
pub(super) struct Share {
    /// The folder to share
    #[arg(value_name = "PATH")]
    pub(super) path: PathBuf,

    /// The workspace's name (default: the one in its workspace.yaml, else the folder's)
    #[arg(long, value_name = "N")]
    pub(super) name: Option<WorkspaceName>,

    /// Who may read it (default: as before; at first, whom you allow when they ask)
    #[arg(long, value_enum)]
    pub(super) access: Option<access::Access>,

    /// Keep copies of files as they were, so that earlier snapshots stay readable (default: as before; at first, no)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) keep: Option<bool>,

    /// Keep so many snapshots at most (default: as before; at first, 64)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) snapshots: Option<u32>,

    /// Return only when all of it is hashed
    #[arg(long)]
    pub(super) wait: bool,

    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Ls {
    /// What to list (default: all hosts)
    #[arg(value_name = "HOST[/WORKSPACE[/PATH]]", value_parser = OsStringValueParser::new().try_map(Listed::parse))]
    pub(super) what: Option<Listed>,

    /// Show modes, sizes and times of files
    #[arg(short)]
    pub(super) long: bool,

    #[command(flatten)]
    pub(super) format: Format,
}

/// What `ls` lists.
#[derive(Debug, Clone)]
pub(super) enum Listed {
    Host(HostName),
    Files(FilePath),
}

impl Listed {
    fn parse(text: OsString) -> Result<Self, String> {
        let bytes = text.as_encoded_bytes();
        let end = bytes.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
        let bytes = bytes.get(..end).unwrap_or_default();
        if bytes.contains(&b'/') {
            return FilePath::parse(bytes).map(Self::Files).map_err(|error| error.to_string());
        }
        let host = String::from_utf8_lossy(bytes);
        host.parse().map(Self::Host).map_err(|error: NameError| error.to_string())
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct PlanOptions {
    /// HOST/WORKSPACE, or a folder
    #[arg(value_name = "PLACE", default_value = ".", value_parser = OsStringValueParser::new().try_map(place))]
    pub(super) place: Where,
    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Run {
    /// Whose workspace
    #[arg(value_name = "HOST/WORKSPACE", value_parser = OsStringValueParser::new().try_map(workspace))]
    pub(super) workspace: FilePath,

    /// Let it use the network
    #[arg(long)]
    pub(super) net: bool,

    /// Start this environment instead, show what it prints, and end it with Ctrl-C
    #[arg(long, short, value_name = "NAME", conflicts_with = "command")]
    pub(super) environment: Option<String>,

    /// With --environment: agree to what it runs
    #[arg(long, requires = "environment")]
    pub(super) yes: bool,

    /// What to run (default: a shell)
    #[arg(value_name = "CMD", last = true)]
    pub(super) command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Cache {
    #[command(subcommand)]
    pub(super) verb: Option<CacheVerb>,

    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Debug, Subcommand)]
pub(super) enum CacheVerb {
    /// Forget what is cached of one workspace, or all; never what is pinned
    #[command(after_help = "\
What came for several workspaces goes only with all of them.

Example:
  twinshare cache clear
  twinshare cache clear colleague/lab")]
    Clear {
        /// Whose content (default: all)
        #[arg(value_name = "HOST/WORKSPACE", value_parser = OsStringValueParser::new().try_map(place))]
        place: Option<Where>,

        #[command(flatten)]
        format: Format,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum LayerVerb {
    /// Write what you changed as a layer of a container image (OCI, uncompressed tar)
    #[command(after_help = "\
Files that were changed in part are written whole, and what moved folders hold too: their content is fetched.

Example:
  twinshare layer export colleague/lab lab.tar")]
    Export {
        /// Of which workspace
        #[arg(value_name = "HOST/WORKSPACE", value_parser = OsStringValueParser::new().try_map(place))]
        what: Where,

        /// The file to write, which mustn't exist yet
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// What: by its name, or as a path into the mount that begins with / or .
    #[arg(value_name = "HOST/WORKSPACE[/PATH]", value_parser = OsStringValueParser::new().try_map(place))]
    pub(super) path: Where,

    #[command(flatten)]
    pub(super) format: Format,
}

/// How a file in the mount is named.
#[derive(Debug, Clone)]
pub(super) enum Where {
    /// By host, workspace and the path in it.
    Named(FilePath),
    /// By its path on this machine.
    Path(PathBuf),
}

/// Reads HOST/WORKSPACE, or HOST/WORKSPACE/PATH, or what can only be a path on this machine.
pub(super) fn place(text: OsString) -> Result<Where, String> {
    let first = std::path::Path::new(&text).components().next();
    if let Some(Component::RootDir | Component::CurDir | Component::ParentDir) = first {
        return Ok(Where::Path(text.into()));
    }
    let named = FilePath::parse(text.as_encoded_bytes()).map(Where::Named);
    named.map_err(|error| format!("{error}, or a path on this machine, which begins with '/' or '.'"))
}

/// What `run` says to itself in the sandbox.
#[derive(Debug, clap::Args)]
pub(super) struct Enter {
    /// Descriptor of this program
    #[arg(long)]
    pub(super) program: RawFd,

    /// Descriptor of the socket on which the launcher learns who the command is
    #[arg(long)]
    pub(super) launcher: RawFd,

    /// A signal to have its usual effect again; may be given several times
    #[arg(long = "signal")]
    pub(super) signals: Vec<i32>,

    /// What to run
    #[arg(last = true)]
    pub(super) command: Vec<OsString>,
}

/// Reads HOST/WORKSPACE.
fn workspace(text: OsString) -> Result<FilePath, String> {
    let path = FilePath::parse(text.as_encoded_bytes()).map_err(|error| error.to_string())?;
    if path.path.is_empty() {
        Ok(path)
    } else {
        Err("expected HOST/WORKSPACE; name a file in it in the command, after --".to_owned())
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum PeerVerb {
    /// List the nodes that were found or added
    #[command(after_help = "Example:\n  twinshare peer list\n  twinshare peer list --json")]
    List(Format),

    /// Add a peer that multicast doesn't reach
    #[command(after_help = "Example:\n  twinshare peer add 10.1.2.3\n  twinshare peer add lab-3.local:37778")]
    Add {
        /// Its name or IP address
        #[arg(value_name = "ADDR[:PORT]")]
        address: PeerAddress,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Access {
    /// One of the workspaces that this node shares
    #[arg(value_name = "WORKSPACE")]
    pub(super) workspace: WorkspaceName,

    /// Give rights to a peer (by host name or id) or to group:NAME
    #[arg(long, value_name = "WHO")]
    pub(super) allow: Vec<String>,

    /// Which rights
    #[arg(long, value_name = "RIGHTS", default_value_t = Rights::USUAL, requires = "allow")]
    pub(super) rights: Rights,

    /// For how long, as in 8h or 2d (default: for ever)
    #[arg(long = "for", value_name = "TIME", allow_hyphen_values = true)]
    pub(super) duration: Option<jiff::Span>,

    /// Refuse it to a peer, or to group:NAME, whatever else is said
    #[arg(long, value_name = "WHO")]
    pub(super) deny: Vec<String>,

    /// Take back what was decided about a peer, or about group:NAME
    #[arg(long, value_name = "WHO")]
    pub(super) revoke: Vec<String>,

    /// Set the password for browsers and curl, with '--access password'; asked for, or read from standard input
    #[arg(long)]
    pub(super) password: bool,

    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct Groups {
    #[command(subcommand)]
    pub(super) verb: Option<GroupVerb>,

    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Debug, Subcommand)]
pub(super) enum GroupVerb {
    /// Put peers into a group, which is made if need be
    #[command(after_help = "Example:\n  twinshare group add team ann bob")]
    Add {
        /// The group
        #[arg(value_name = "GROUP")]
        group: Group,

        /// The peers, by host name or id
        #[arg(value_name = "PEER", required = true)]
        peers: Vec<String>,
    },

    /// Take peers out of a group; without any, the group is gone
    #[command(after_help = "Example:\n  twinshare group remove team bob")]
    Remove {
        /// The group
        #[arg(value_name = "GROUP")]
        group: Group,

        /// The peers, by host name or id
        #[arg(value_name = "PEER", required = true)]
        peers: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Requests {
    #[command(subcommand)]
    pub(super) verb: Option<RequestVerb>,

    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Debug, Subcommand)]
pub(super) enum RequestVerb {
    /// Let a peer read a workspace, or change it
    #[command(after_help = "\
Whom you let change a workspace can push to it: what they changed in their mount is then made in your folder.

Example:
  twinshare requests allow lab colleague
  twinshare requests allow lab colleague --once
  twinshare requests allow lab colleague --write")]
    Allow {
        #[command(flatten)]
        whom: Whom,

        /// Let it change the workspace as well
        #[arg(long)]
        write: bool,

        /// For twelve hours only
        #[arg(long, conflicts_with = "write")]
        once: bool,
    },

    /// Refuse a workspace to a peer, also when it was allowed before
    #[command(after_help = "Example:\n  twinshare requests deny lab colleague")]
    Deny(Whom),
}

#[derive(Debug, clap::Args)]
pub(super) struct Whom {
    /// One of the workspaces that this node shares
    #[arg(value_name = "WORKSPACE")]
    pub(super) workspace: WorkspaceName,

    /// The peer's host name, or its id or the beginning of it
    #[arg(value_name = "PEER")]
    pub(super) peer: String,
}

#[cfg(test)]
mod tests;
