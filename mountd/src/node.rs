//! The running node: every room, wired together.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, sync::watch};
use twinshare::{
    api::{self, Claim, DaemonArguments, Token},
    discovery::{
        ANNOUNCE_INTERVAL, DISCOVERY_PORT, Discovery, DiscoveryConfig, Facts, InterfaceRules, Lan, Resources,
        Signer,
    },
    fetch::{FetchOptions, Fetcher},
    layer::Layers,
    peer::{Bandwidth, BulkQueue, Credentials, Identity, ServeOptions},
    publish::{History, Shares, SharesOptions},
    store::{DiskLimits, DiskStore, WriteStore},
    types::{HostName, NodeId},
    view::{View, ViewOptions},
};

use crate::{
    cache::{self, Cache},
    config::{Config, Encryption, Interfaces},
    consent::Consent,
    environments::{Environments, Found},
    events::Events,
    files,
    fuse::{Mount, MountOptions},
    http,
    launches::{Launches, Profiles},
    listing,
    neighbours::{Neighbours, SHARE_PORT},
    pairing::Pairing,
    passing::Service,
    sharing::{self, Own, Sharing},
};

/// Descriptors of cached files that are kept open.
const DESCRIPTORS: usize = 256;

/// How long one read may wait for content.
const DEADLINE: Duration = Duration::from_secs(10);

/// Files up to this many bytes are taken for such as are mapped: nearly all libraries.
const MAPPED: u64 = 32 << 20;

/// The node, as the control API sees it.
pub(crate) struct Node {
    pub(crate) identity: Arc<Identity>,
    pub(crate) host: HostName,
    pub(crate) mount: PathBuf,
    pub(crate) share_port: u16,
    pub(crate) control_port: u16,
    pub(crate) started: Instant,
    pub(crate) store: Arc<DiskStore>,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) view: Arc<View>,
    pub(crate) sharing: Arc<Sharing>,
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) discovery: Discovery,
    pub(crate) events: Arc<Events>,
    pub(crate) pairing: Arc<Pairing>,
    pub(crate) environments: Arc<Environments>,
    pub(crate) bulk: BulkQueue,
    /// Whether those who ask for it are served without encryption.
    pub(crate) plain: bool,
    pub(crate) stop: watch::Sender<bool>,
}

/// The node's key, as discovery needs it.
struct BeaconKey(Arc<Identity>);

impl Signer for BeaconKey {
    fn id(&self) -> NodeId {
        self.0.id()
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        *self.0.sign(message).as_bytes()
    }
}

/// Whatever ends the start of a node; shown to the user as it is.
pub(crate) type StartError = Box<dyn std::error::Error + Send + Sync>;

/// Runs a node until it's told to stop, by the control API or by `interrupted`.
pub(crate) async fn run(
    arguments: DaemonArguments,
    interrupted: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let claim = Claim::take(&arguments.runtime)?;
    for folder in [&arguments.config, &arguments.state, &arguments.cache] {
        private_folder(folder)?;
    }
    let config = Config::load(&arguments.config)?;
    let rules = interface_rules(&arguments.node.interfaces, &config.interfaces);
    let identity = Arc::new(Identity::load_or_create(&arguments.state.join("identity"))?);
    let host = host(&arguments, identity.id())?;
    let credentials = Credentials::new(&identity)?;
    let cache_limit = cache::limit(&arguments.state, arguments.node.cache_limit)?;
    let limits = DiskLimits { bytes: cache_limit, descriptors: DESCRIPTORS };
    let store = Arc::new(DiskStore::open(&arguments.cache.join("store"), limits)?);

    let share_listener = listen(arguments.node.port).await?;
    let share_port = share_listener.local_addr()?.port();
    let control_listener = control_listener().await?;
    let control_port = control_listener.local_addr()?.port();

    let shares = Shares::open(
        &arguments.state,
        SharesOptions {
            own: vec![arguments.mount.clone(), arguments.state.clone(), arguments.cache.clone()],
            ..SharesOptions::default()
        },
    )?;
    let bandwidth = Arc::new(Bandwidth::new(config.bandwidth.caps()));
    let bulk = BulkQueue::new(config.bulk_slots);
    let plain = config.encryption == Encryption::Off;
    if plain {
        tracing::warn!(
            "encryption is off in config.yaml: public workspaces are served without it to those who ask for that"
        );
    }
    let events = Events::new();
    let consent = Consent::open(&arguments.state, events.clone())?;
    let environments = Arc::new(Environments::open(
        &arguments.state,
        events.clone(),
        Found { engine: config.containers.socket, search: arguments.search.clone() },
    )?);
    let pairing = Pairing::new(identity.clone(), consent.clone());
    let profiles = Arc::new(Profiles::open(&arguments.state));
    let sharing = Sharing::open(
        &arguments.state,
        Own { identity: identity.clone(), host: host.clone(), port: share_port, plain },
        shares,
        profiles.clone(),
        Arc::new(History::open(&arguments.state)?),
        consent.clone(),
    )?;
    let neighbours = Neighbours::open(
        &arguments.state,
        host.clone(),
        credentials.clone(),
        bandwidth.clone(),
        events.clone(),
        store.clone(),
    );

    let options = FetchOptions { deadline: DEADLINE, mapped: MAPPED };
    let (fetcher, begun) = Fetcher::new(store.clone(), neighbours.clone(), options);
    let fetcher = Arc::new(fetcher);
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let (layers, damaged) = Layers::open(arguments.state.join("layers"));
    for (folder, error) in damaged {
        tracing::error!(%error, folder = %folder.display(), "a layer isn't shown; it's left as it is");
    }
    let layers = Arc::new(layers);
    let options = ViewOptions {
        mount: arguments.mount.clone(),
        uid,
        gid,
        deadline: DEADLINE,
        layers: Some(layers.clone()),
    };
    let (view, invalidations) = View::new(options, fetcher.clone());
    let view = Arc::new(view);
    let cache = Cache::open(&arguments.state, store.clone(), fetcher.clone(), view.clone(), cache_limit)?;
    let options = MountOptions {
        folder: arguments.mount.clone(),
        host: host.to_string(),
        read_only: arguments.node.read_only,
        allow_other: arguments.node.allow_other,
    };
    let mount = {
        let (view, runtime) = (view.clone(), tokio::runtime::Handle::current());
        tokio::task::spawn_blocking(move || Mount::new(view, invalidations, &options, runtime)).await??
    };

    let (stop, mut stopping) = watch::channel(false);
    let shutdown = {
        let stopping = stopping.clone();
        move || {
            let mut stopping = stopping.clone();
            async move {
                // An error means that the sender is gone: then it's over as well.
                let _ = stopping.wait_for(|stop| *stop).await;
            }
        }
    };
    let discovery = Discovery::start(
        DiscoveryConfig {
            signer: Arc::new(BeaconKey(identity.clone())),
            interfaces: rules,
            interval: ANNOUNCE_INTERVAL,
            port: DISCOVERY_PORT,
            facts: facts(host.clone(), share_port, sharing.clone()),
        },
        shutdown(),
    );
    let node = Arc::new(Node {
        identity,
        host,
        mount: arguments.mount.clone(),
        share_port,
        control_port,
        started: Instant::now(),
        store,
        fetcher: fetcher.clone(),
        cache,
        view,
        sharing: sharing.clone(),
        neighbours: neighbours.clone(),
        discovery: discovery.clone(),
        events,
        pairing: pairing.clone(),
        environments: environments.clone(),
        bulk: bulk.clone(),
        plain,
        stop,
    });

    let launches = Launches {
        profiles,
        fetcher: fetcher.clone(),
        view: node.view.clone(),
        neighbours: neighbours.clone(),
    };
    tokio::spawn(Arc::new(launches).run(begun));
    tokio::spawn(listing::keep(node.clone()));
    let kept = tokio::spawn(crate::layers::keep(layers, stopping.clone()));
    tokio::spawn(neighbours.clone().run(discovery.clone()));
    for peer in &arguments.node.peers {
        neighbours.add(peer, &discovery).await?;
    }

    // The option says where to announce; who may connect is a matter of what is written.
    let lan = Lan::new(interface_rules(&[], &config.interfaces), config.allow_from);
    let admits = move |peer, own| lan.admits(peer, own);
    let options = ServeOptions { bandwidth, bulk, plain };
    let service = {
        let (shutdown, mut stopping) = (shutdown(), stopping.clone());
        let served = Arc::new(Service {
            sharing: sharing.clone(),
            neighbours: neighbours.clone(),
            pairing,
            store: node.store.clone(),
            fetcher,
        });
        tokio::spawn(async move {
            let resumed = sharing.clone();
            let resuming = tokio::task::spawn_blocking(move || resumed.resume());
            // Until then others find this node away and show what they have: a catalogue that lacks what isn't listed
            // yet would take it from them.
            tokio::select! {
                resumed = resuming => if let Err(error) = resumed {
                    tracing::error!(%error, "what was shared before can't be shared again");
                },
                _ = stopping.wait_for(|stop| *stop) => return,
            }
            if let Err(error) =
                twinshare::peer::serve(share_listener, &credentials, served, admits, options, shutdown).await
            {
                tracing::error!(%error, "the share service ended");
            }
        })
    };
    environments.resume().await;
    tokio::spawn(environments.clone().autostart(node.clone()));
    let token = Token::random();
    let control = tokio::spawn(http::serve(control_listener, token.clone(), node.clone(), shutdown()));
    claim.publish(control_port, &token)?;
    tracing::info!(node = %node.identity.id(), host = %node.host, share_port, control_port, mount = %node.mount.display(), "up");

    tokio::select! {
        () = interrupted => {}
        _ = stopping.wait_for(|stop| *stop) => {}
    }
    tracing::info!("stopping");
    // What they run is on the mount.
    environments.end_all().await;
    node.stop.send_replace(true);
    let unmounted = tokio::task::spawn_blocking(move || mount.unmount());
    // Each of these has its own bound; none of them may keep the node from ending.
    let farewell = async {
        let _ = tokio::join!(unmounted, service, control, kept, discovery.finished());
        // Last, when nobody reads any more.
        let store = node.store.clone();
        let (saved, flushed) =
            tokio::join!(neighbours.save(), tokio::task::spawn_blocking(move || store.flush()));
        if let Err(error) = saved {
            tracing::warn!(%error, "what is known of the peers can't be kept");
        }
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "what was cached last will be fetched again");
        }
    };
    if tokio::time::timeout(Duration::from_secs(5), farewell).await.is_err() {
        tracing::warn!("something took too long to end");
    }
    drop(claim);
    Ok(())
}

/// What is said on the command line counts more than what is written.
fn interface_rules(named: &[String], written: &Interfaces) -> InterfaceRules {
    let allow = if named.is_empty() { &written.allow[..] } else { named };
    InterfaceRules { allow: allow.to_vec(), deny: written.deny.clone() }
}

fn private_folder(folder: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}

/// This host's name: the one that is given now, else the one given last, else the machine's.
fn host(arguments: &DaemonArguments, id: NodeId) -> Result<HostName, files::FileError> {
    let file = arguments.state.join("host.json");
    match &arguments.node.name {
        Some(name) => {
            files::write_json(&file, name)?;
            Ok(name.clone())
        }
        None => Ok(files::read_json(&file)?.unwrap_or_else(|| default_host(id))),
    }
}

/// The machine's name, made fit for a folder; if it has none that fits, the node's.
fn default_host(id: NodeId) -> HostName {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    let short = name.split('.').next().unwrap_or_default();
    short
        .parse()
        .or_else(|_| format!("node-{}", id.short()).parse())
        .unwrap_or_else(|_| unreachable!("'node-' and hexadecimal digits are a name"))
}

/// The share service's listener: on the port that was asked for, else the usual one, else any.
async fn listen(port: Option<u16>) -> std::io::Result<TcpListener> {
    let on = async |port: u16| {
        match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
            // A kernel without IPv6.
            Err(error)
                if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::AFNOSUPPORT) =>
            {
                TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
            }
            result => result,
        }
    };
    match port {
        Some(port) => on(port).await.map_err(|error| {
            std::io::Error::new(
                error.kind(),
                format!("can't listen on port {port} (--port chooses another): {error}"),
            )
        }),
        None => match on(SHARE_PORT).await {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => on(0).await,
            result => result,
        },
    }
}

async fn control_listener() -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, api::CONTROL_PORT)).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
        }
        result => result,
    }
}

/// What the beacon says.
fn facts(host: HostName, port: u16, sharing: Arc<Sharing>) -> Box<dyn Fn() -> Facts + Send + Sync> {
    let resources = resources();
    Box::new(move || Facts {
        hostname: host.clone(),
        port,
        version: env!("CARGO_PKG_VERSION").into(),
        environments: sharing::names(&sharing.list()),
        features: vec!["process".into()],
        resources,
        catalogue: sharing.tag(),
    })
}

fn resources() -> Resources {
    let gib = |bytes: u64| u32::try_from(bytes >> 30).unwrap_or(u32::MAX);
    let memory = rustix::system::sysinfo();
    let disk = rustix::fs::statvfs("/").map_or(0, |disk| disk.f_bavail * disk.f_frsize);
    Resources {
        cpu_cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
        memory_gb: gib(memory.totalram * u64::from(memory.mem_unit)),
        disk_gb: gib(disk),
    }
}
