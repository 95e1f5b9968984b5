use std::{ffi::OsString, path::PathBuf};

use super::PeerAddress;
use crate::types::HostName;
use crate::types::{ByteSize, ByteSizeError};

/// What a user may say about a node when it starts.
#[derive(Debug, Clone, PartialEq, Eq, Default, clap::Args)]
pub struct NodeOptions {
    /// This host's name in the mounts of its peers (default: the machine's host name)
    #[arg(long, value_name = "HOST")]
    pub name: Option<HostName>,

    /// Announce and look for peers on this interface only; may be given several times (default: all that are fit for it)
    #[arg(long = "interface", value_name = "IF")]
    pub interfaces: Vec<String>,

    /// A peer that multicast doesn't reach; may be given several times
    #[arg(long = "peer", value_name = "ADDR[:PORT]")]
    pub peers: Vec<PeerAddress>,

    /// TCP port of the share service (default: 37778, or another when it is taken)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,

    /// What the cache may take, at least 16 MiB; remembered (default: as before; at first, 50GiB)
    #[arg(long, value_name = "SIZE", value_parser = cache_limit)]
    pub cache_limit: Option<ByteSize>,

    /// Mount so that nothing can be changed
    #[arg(long)]
    pub read_only: bool,

    /// Let this machine's other users into the mount; permissions decide what they may do there
    #[arg(long)]
    pub allow_other: bool,
}

/// The least that a cache may be limited to: some pieces of work must fit.
const LEAST_CACHE: ByteSize = ByteSize(16 << 20);

fn cache_limit(text: &str) -> Result<ByteSize, String> {
    let limit: ByteSize = text.parse().map_err(|error: ByteSizeError| error.to_string())?;
    if limit < LEAST_CACHE { Err("less than 16MiB are of no use".to_owned()) } else { Ok(limit) }
}

/// The arguments of `twinshare-mountd`. It reads no environment variable: `twinshare up` says everything here.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct DaemonArguments {
    /// Folder of what the user decides
    #[arg(long, value_name = "DIR")]
    pub config: PathBuf,

    /// Folder of what must not be lost
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,

    /// Folder of what can be fetched again
    #[arg(long, value_name = "DIR")]
    pub cache: PathBuf,

    /// Folder of the control API's port and token
    #[arg(long, value_name = "DIR")]
    pub runtime: PathBuf,

    /// Where to mount
    #[arg(long, value_name = "DIR")]
    pub mount: PathBuf,

    /// Where plugins are looked for, as in PATH
    #[arg(long, value_name = "PATH", default_value = "")]
    pub search: OsString,

    /// What the user says.
    #[command(flatten)]
    pub node: NodeOptions,
}

impl DaemonArguments {
    /// The command line, without the program, that parses to these arguments.
    pub fn to_command_line(&self) -> Vec<OsString> {
        let mut line = Vec::new();
        // In one word, so that a value that begins with '-' isn't taken for an option.
        let mut option = |name: &str, value: OsString| {
            let mut word = OsString::from(format!("--{name}="));
            word.push(value);
            line.push(word);
        };
        option("config", self.config.clone().into());
        option("state", self.state.clone().into());
        option("cache", self.cache.clone().into());
        option("runtime", self.runtime.clone().into());
        option("mount", self.mount.clone().into());
        option("search", self.search.clone());
        let NodeOptions { name, interfaces, peers, port, cache_limit, read_only, allow_other } = &self.node;
        if let Some(name) = name {
            option("name", name.as_str().into());
        }
        for interface in interfaces {
            option("interface", interface.into());
        }
        for peer in peers {
            option("peer", peer.to_string().into());
        }
        if let Some(port) = port {
            option("port", port.to_string().into());
        }
        if let Some(limit) = cache_limit {
            option("cache-limit", limit.to_string().into());
        }
        let flags = [("--read-only", *read_only), ("--allow-other", *allow_other)];
        line.extend(flags.into_iter().filter(|(_, set)| *set).map(|(flag, _)| flag.into()));
        line
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Daemon {
        #[command(flatten)]
        arguments: DaemonArguments,
    }

    #[test]
    fn the_daemon_understands_what_up_says() {
        let full = DaemonArguments {
            config: "/c".into(),
            state: OsString::from_vec(b"/st\xe9".to_vec()).into(),
            cache: "/with space".into(),
            runtime: "/r".into(),
            mount: "-odd".into(),
            search: "/opt/bin:/bin".into(),
            node: NodeOptions {
                name: Some("lab".parse().unwrap()),
                interfaces: vec!["eth0".to_owned(), "-x".to_owned()],
                peers: vec!["10.0.0.1".parse().unwrap(), "[::1]:9".parse().unwrap()],
                port: Some(4000),
                cache_limit: Some(ByteSize(3 << 30)),
                read_only: true,
                allow_other: true,
            },
        };
        for arguments in [DaemonArguments { node: NodeOptions::default(), ..full.clone() }, full] {
            let line = [OsString::from("twinshare-mountd")].into_iter().chain(arguments.to_command_line());
            assert_eq!(Daemon::try_parse_from(line).unwrap().arguments, arguments);
        }
    }
}
