use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, oneshot},
};
use twinshare::{
    access::{Access, Group},
    api::{
        AccessReport, AccessRequest, AuditEntry, BODY_LIMIT, BulkTurn, CacheReport, CacheUse,
        CachedWorkspace, Claim, Client, ClientError, Decision, Deed, Endpoint, Event, FileEntry, FileKind,
        FilePath, Finding, Following, GrantRequest, Groups, Happening, Host, Invitation, JoinRequest, Launch,
        LaunchPlan, LaunchRequest, LayerChange, LeftOut, MergeReport, PairingEnd, PasswordRequest, Peer,
        PeerAddress, PeerSource, PeerState, Pin, PinState, Prefetch, PrefetchStep, Problem, Progress,
        PushReport, RawText, Share, ShareRequest, SnapshotInfo, StartAnswer, StartRequest, Status, Transfer,
        Workspace,
    },
    peer::PairingCode,
    types::{Digest, Name, NodeId, Timestamp, WorkspaceId, WorkspaceName},
};

use futures_util::{StreamExt, stream};

use super::*;

/// A node that knows one of everything and remembers what it was asked.
#[derive(Default)]
struct FakeNode {
    asked: Mutex<Vec<String>>,
    stopped: Notify,
    stuck: AtomicBool,
}

fn a_status() -> Status {
    Status {
        node: NodeId::from_bytes([1; 32]),
        hostname: "owner".parse().unwrap(),
        version: "0.1.0".to_owned(),
        mount: "/m".into(),
        mounted: true,
        share_port: 37778,
        control_port: 37779,
        workspaces_shared: 1,
        peers_online: 2,
        cache: CacheUse { used: 3, limit: 4 },
        encryption: true,
        alerts: vec!["odd".to_owned()],
        uptime_s: 5,
    }
}

fn a_share() -> Share {
    Share {
        id: WorkspaceId::from_bytes([2; 16]),
        name: "lab".parse().unwrap(),
        path: "/w/lab".into(),
        access: Access::Public,
        keep: false,
        snapshots: 64,
        snapshot: Some(Digest::of(b"lab")),
        provisional: false,
        sequence: 7,
        files: 8,
        bytes: 9,
        left_out: LeftOut { count: 1, secrets: 1, examples: vec![".env".into()] },
        progress: Progress { files: 8, bytes: 9, hashed_files: 8, hashed_bytes: 9 },
    }
}

fn a_host() -> Host {
    Host {
        name: "owner".parse().unwrap(),
        id: NodeId::from_bytes([1; 32]),
        local: false,
        state: PeerState::Online,
        address: Some("10.0.0.1:37778".parse().unwrap()),
        version: "0.1.0".to_owned(),
        last_seen: None,
        workspaces: vec![Workspace {
            id: WorkspaceId::from_bytes([2; 16]),
            name: "lab".parse().unwrap(),
            description: "a lab".to_owned(),
            tags: vec!["gpu".to_owned()],
            snapshot: None,
            provisional: true,
            sequence: 7,
            files: 8,
            bytes: 9,
            access: Access::Ask,
            rights: "browse".parse().unwrap(),
            path: "/w/lab".into(),
            environments: vec!["default".to_owned()],
        }],
    }
}

fn an_entry() -> FileEntry {
    let time = Timestamp { seconds: 1_700_000_000, nanoseconds: 5 };
    FileEntry::new(
        &Name::new(&b"caf\xe9"[..]).unwrap(),
        FileKind::Symlink,
        3,
        0o777,
        time,
        Some("../x".into()),
    )
}

fn a_peer() -> Peer {
    Peer {
        id: Some(NodeId::from_bytes([1; 32])),
        host: Some("owner".parse().unwrap()),
        address: "10.0.0.1:37778".to_owned(),
        state: PeerState::Away,
        source: PeerSource::Address,
        version: "0.1.0".to_owned(),
        last_seen: None,
        alerts: vec!["its clock is wrong".to_owned()],
    }
}

fn an_audit_entry() -> AuditEntry {
    AuditEntry {
        at: "2026-01-02T03:04:05Z".parse().unwrap(),
        deed: Deed::Granted,
        workspace: "lab".parse().ok(),
        whom: "group:team".parse().unwrap(),
        rights: Some("run".parse().unwrap()),
        expires: Some(5),
    }
}

fn a_launch() -> Launch {
    let state = serde_json::json!({"phase": "running", "since": "2026-01-02T03:04:05Z", "supervisor": 7});
    Launch {
        id: "1a".into(),
        host: "owner".parse().unwrap(),
        workspace: "lab".parse().unwrap(),
        environment: "train".into(),
        runtime: "process".into(),
        profile: None,
        limits: "a control group".into(),
        folder: "/state/launches/1a".into(),
        checks: vec![],
        state: serde_json::from_value(state).unwrap(),
    }
}

fn a_turn() -> BulkTurn {
    BulkTurn { peer: Some(NodeId::from_bytes([3; 32])), host: "guest".to_owned(), position: Some(2) }
}

fn a_report() -> CacheReport {
    CacheReport {
        size: CacheUse { used: 3, limit: 4 },
        pinned: 2,
        reads_held: 9,
        reads_fetched: 1,
        fetched: 5,
        workspaces: vec![CachedWorkspace {
            id: WorkspaceId::from_bytes([2; 16]),
            place: Some("owner/lab".into()),
            bytes: 3,
        }],
        pins: vec![Pin {
            path: "owner/lab/data".into(),
            state: PinState::Waiting,
            progress: Transfer::default(),
            trouble: Some("its owner is away".to_owned()),
        }],
    }
}

impl FakeNode {
    fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }
}

impl Control for FakeNode {
    async fn status(&self) -> Status {
        if self.stuck.load(Ordering::SeqCst) {
            self.note("stuck");
            std::future::pending::<()>().await;
        }
        a_status()
    }
    fn shutdown(&self) {
        self.note("shutdown");
        self.stopped.notify_one();
    }
    async fn shares(&self) -> Vec<Share> {
        vec![a_share()]
    }
    async fn share(&self, request: ShareRequest) -> Result<Share, Problem> {
        self.note(format!("share {} {:?} {:?} {}", request.path, request.name, request.access, request.wait));
        Ok(a_share())
    }
    async fn unshare(&self, name: WorkspaceName) -> Result<(), Problem> {
        self.note(format!("unshare {name}"));
        Err(Problem::missing("no such share").with_remedy("look at 'twinshare ls'"))
    }
    async fn hosts(&self) -> Vec<Host> {
        vec![a_host()]
    }
    async fn files(&self, path: FilePath) -> Result<Vec<FileEntry>, Problem> {
        self.note(format!("files {path:?}"));
        Ok(vec![an_entry()])
    }
    async fn peers(&self) -> Vec<Peer> {
        vec![a_peer()]
    }
    async fn add_peer(&self, address: PeerAddress) -> Result<Peer, Problem> {
        self.note(format!("peer {address}"));
        Ok(a_peer())
    }
    async fn requests(&self) -> Vec<AccessRequest> {
        vec![AccessRequest {
            workspace: "lab".parse().unwrap(),
            peer: NodeId::from_bytes([1; 32]),
            host: "guest".parse().unwrap(),
            address: None,
            fingerprint: "0101 0101".to_owned(),
            asked: "2026-01-02T03:04:05Z".parse().unwrap(),
            write: false,
        }]
    }
    async fn decide(
        &self,
        workspace: WorkspaceName,
        peer: NodeId,
        decision: Decision,
    ) -> Result<(), Problem> {
        self.note(format!("decide {workspace} {} {decision:?}", peer.short()));
        Ok(())
    }
    async fn access(&self, workspace: WorkspaceName) -> Result<AccessReport, Problem> {
        Ok(AccessReport { workspace, access: Access::Peers, grants: Vec::new() })
    }
    async fn grant(&self, workspace: WorkspaceName, request: GrantRequest) -> Result<(), Problem> {
        self.note(format!("grant {workspace} {} {:?} {:?}", request.whom, request.rights, request.expires));
        Ok(())
    }
    async fn set_password(&self, workspace: WorkspaceName, request: PasswordRequest) -> Result<(), Problem> {
        self.note(format!("password {workspace} {:?}", request.password));
        Ok(())
    }
    async fn invite(&self) -> Invitation {
        Invitation { code: "123-456".parse().unwrap(), seconds: 300 }
    }
    async fn invited(&self, code: PairingCode) -> PairingEnd {
        self.note(format!("invited {code}"));
        PairingEnd::Paired { peer: NodeId::from_bytes([1; 32]) }
    }
    async fn join(&self, request: JoinRequest) -> Result<(), Problem> {
        self.note(format!("join {} {}", request.peer.short(), request.code));
        Ok(())
    }
    async fn unpair(&self, peer: NodeId) -> Result<(), Problem> {
        self.note(format!("unpair {}", peer.short()));
        Ok(())
    }
    async fn groups(&self) -> Groups {
        [("team".parse().unwrap(), [NodeId::from_bytes([1; 32])].into())].into()
    }
    async fn set_group(&self, name: Group, members: BTreeSet<NodeId>) -> Result<(), Problem> {
        self.note(format!("group {name} {}", members.len()));
        Ok(())
    }
    async fn transfers(&self) -> Vec<BulkTurn> {
        vec![a_turn()]
    }
    async fn audit(&self) -> Result<Vec<AuditEntry>, Problem> {
        Ok(vec![an_audit_entry()])
    }
    async fn launch(&self, request: LaunchRequest) -> Result<LaunchPlan, Problem> {
        self.note(format!("launch {}/{} {:?}", request.host, request.workspace, request.command));
        Ok(LaunchPlan {
            program: "/usr/bin/bwrap".into(),
            arguments: request.command,
            environment: request.environment,
        })
    }
    async fn start(&self, request: StartRequest) -> Result<StartAnswer, Problem> {
        self.note(format!("start {}/{}", request.host, request.workspace));
        Ok(StartAnswer::Started(Box::new(a_launch())))
    }
    async fn environments(&self) -> Vec<Launch> {
        vec![a_launch()]
    }
    async fn stop(&self, id: String, at_once: bool) -> Result<Launch, Problem> {
        self.note(format!("stop {id} {at_once}"));
        Ok(a_launch())
    }
    async fn wait(&self, id: String) -> Result<Launch, Problem> {
        self.note(format!("wait {id}"));
        Ok(a_launch())
    }
    async fn secrets(&self) -> Result<Vec<String>, Problem> {
        Ok(vec!["TOKEN".into()])
    }
    async fn set_secret(&self, name: String, value: Option<String>) -> Result<(), Problem> {
        self.note(format!("secret {name} {value:?}"));
        Ok(())
    }
    async fn cache(&self) -> Result<CacheReport, Problem> {
        Ok(a_report())
    }
    async fn clear_cache(&self, which: Option<FilePath>) -> Result<CacheReport, Problem> {
        self.note(format!("clear {}", which.map_or_else(|| "all".to_owned(), |which| which.to_string())));
        Ok(a_report())
    }
    async fn prefetch(&self, path: FilePath) -> Result<Prefetch, Problem> {
        self.note(format!("prefetch {path}"));
        let progress = Transfer { files: 2, here_files: 1, ..Transfer::default() };
        let first = PrefetchStep { progress, ended: false, problem: None };
        let last = match path.path.first() {
            None => PrefetchStep { ended: true, ..first.clone() },
            Some(_) => PrefetchStep { problem: Some(Problem::missing("it's gone")), ..first.clone() },
        };
        Ok(futures_util::stream::iter([first, last]).boxed())
    }
    fn events(&self, after: Option<u64>) -> Following {
        let event = |id| Event { id, at: "2026-01-02T03:04:05Z".parse().unwrap(), what: Happening::Missed };
        let before = after.map(|after| event(after + 1));
        stream::iter(before).chain(stream::once(std::future::ready(event(7)))).boxed()
    }
    async fn pin(&self, path: FilePath) -> Result<Pin, Problem> {
        self.note(format!("pin {path}"));
        Ok(a_report().pins.remove(0))
    }
    async fn unpin(&self, path: FilePath) -> Result<(), Problem> {
        self.note(format!("unpin {path}"));
        Err(Problem::missing("it isn't pinned"))
    }
    async fn changes(&self, _: FilePath) -> Result<Vec<LayerChange>, Problem> {
        Ok(Vec::new())
    }

    async fn change_text(&self, _: FilePath) -> Result<String, Problem> {
        Ok(String::new())
    }

    async fn discard(&self, _: FilePath) -> Result<Vec<RawText>, Problem> {
        Ok(Vec::new())
    }

    async fn history(&self, _: FilePath) -> Result<Vec<SnapshotInfo>, Problem> {
        Ok(Vec::new())
    }

    async fn push(&self, _: FilePath) -> Result<PushReport, Problem> {
        Ok(PushReport { changes: 0, asked: false, conflicts: Vec::new() })
    }

    async fn pull(&self, _: FilePath) -> Result<MergeReport, Problem> {
        Ok(MergeReport { snapshot: None, conflicts: Vec::new() })
    }

    async fn doctor(&self) -> Vec<Finding> {
        vec![Finding::missing("fuse", "no /dev/fuse", "modprobe fuse")]
    }
}

/// A server over a fake node, stopped when it is dropped.
struct Served {
    node: Arc<FakeNode>,
    client: Client,
    port: u16,
    token: Token,
    task: tokio::task::JoinHandle<io::Result<()>>,
    stop: oneshot::Sender<()>,
}

async fn served() -> Served {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let node = Arc::new(FakeNode::default());
    let token = Token::random();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(serve(listener, token.clone(), node.clone(), async { drop(stopped.await) }));
    let client = Client::new(Endpoint { port, token: token.clone(), pid: 0 }).unwrap();
    Served { node, client, port, token, task, stop }
}

impl Served {
    /// Sends one request as it stands and gives the answer's status and text.
    async fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += "\r\n";
        request += body;
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.unwrap();
        // A server that has answered already may refuse the rest of the body.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("no answer: {answer:?}")), answer)
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token.secret())
    }

    fn asked(&self) -> Vec<String> {
        self.node.asked.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn every_endpoint_answers_the_client() {
    let served = served().await;
    let client = &served.client;
    assert_eq!(client.status().await.unwrap(), a_status());
    assert_eq!(client.shares().await.unwrap(), [a_share()]);
    let request = ShareRequest {
        path: "/w/lab".into(),
        name: Some("lab".parse().unwrap()),
        access: Some(Access::Public),
        keep: Some(true),
        snapshots: None,
        wait: true,
    };
    assert_eq!(client.share(&request).await.unwrap(), a_share());
    let Err(ClientError::Problem(problem)) =
        client.unshare(&"a b/?%".replace('/', "-").parse().unwrap()).await
    else {
        panic!("expected a problem")
    };
    assert_eq!((problem.status(), problem.detail()), (404, "no such share"));
    assert_eq!(problem.remedy(), Some("look at 'twinshare ls'"));
    assert_eq!(client.hosts().await.unwrap(), [a_host()]);
    let path = FilePath::parse(b"owner/lab/caf\xe9").unwrap();
    let entries = client.files(&path).await.unwrap();
    assert_eq!(entries, [an_entry()]);
    assert_eq!(entries[0].name_base64.as_deref(), Some("Y2Fm6Q=="));
    assert_eq!(client.peers().await.unwrap(), [a_peer()]);
    assert_eq!(client.add_peer("10.0.0.1:9".parse().unwrap()).await.unwrap(), a_peer());
    assert_eq!(client.requests().await.unwrap()[0].fingerprint, "0101 0101");
    let peer = NodeId::from_bytes([0xab; 32]);
    client.decide(&"lab".parse().unwrap(), peer, Decision::Deny).await.unwrap();
    let lab: WorkspaceName = "lab".parse().unwrap();
    assert_eq!(client.access(&lab).await.unwrap().access, Access::Peers);
    let whom = "group:team".parse().unwrap();
    let request = GrantRequest { whom, rights: Some("read".parse().unwrap()), expires: Some(9) };
    client.grant(&lab, &request).await.unwrap();
    client.set_password(&lab, &PasswordRequest { password: Some("long enough".into()) }).await.unwrap();
    let Invitation { code, .. } = client.invite().await.unwrap();
    let peer = NodeId::from_bytes([1; 32]);
    assert_eq!(client.invited(&code).await.unwrap(), PairingEnd::Paired { peer });
    client.join(&JoinRequest { peer, code }).await.unwrap();
    client.unpair(peer).await.unwrap();
    let (team, members) = client.groups().await.unwrap().pop_first().unwrap();
    client.set_group(&team, &members).await.unwrap();
    assert_eq!(client.audit().await.unwrap(), [an_audit_entry()]);
    assert_eq!(client.transfers().await.unwrap(), [a_turn()]);
    let launch = LaunchRequest {
        host: "owner".parse().unwrap(),
        workspace: "lab".parse().unwrap(),
        command: vec!["python".into(), "-V".into()],
        network: false,
        terminal: false,
        environment: [("TERM".to_owned(), RawText::from("xterm"))].into(),
    };
    let start = StartRequest {
        host: launch.host.clone(),
        workspace: launch.workspace.clone(),
        environment: None,
        network: false,
        agreed: None,
        idle: false,
        anyway: false,
    };
    let started = client.start(&start).await.unwrap();
    assert_eq!(started, StartAnswer::Started(Box::new(a_launch())));
    assert_eq!(client.environments().await.unwrap(), [a_launch()]);
    assert_eq!(client.stop("1a", false).await.unwrap(), a_launch());
    assert_eq!(client.stop("1a", true).await.unwrap(), a_launch());
    assert_eq!(client.wait("1a").await.unwrap(), a_launch());
    client.set_secret("TOKEN", "t\"x").await.unwrap();
    client.forget_secret("TOKEN").await.unwrap();
    assert_eq!(client.secrets().await.unwrap(), ["TOKEN"]);
    let plan = client.launch(&launch).await.unwrap();
    assert_eq!((plan.arguments, plan.environment), (launch.command, launch.environment));
    assert_eq!(client.cache().await.unwrap(), a_report());
    let (lab, data) = (FilePath::parse(b"owner/lab").unwrap(), FilePath::parse(b"owner/lab/d \xe9").unwrap());
    assert_eq!(client.clear_cache(None).await.unwrap(), a_report());
    assert_eq!(client.clear_cache(Some(&lab)).await.unwrap(), a_report());
    let mut steps = 0;
    let last = client.prefetch(&lab, |_| steps += 1).await.unwrap();
    assert_eq!((steps, last.ended, last.progress.here_files), (2, true, 1));
    let Err(ClientError::Problem(problem)) = client.prefetch(&data, |_| ()).await else { panic!() };
    assert_eq!(problem.detail(), "it's gone");
    assert_eq!(client.pin(&data).await.unwrap(), a_report().pins[0]);
    let Err(ClientError::Problem(problem)) = client.unpin(&lab).await else { panic!() };
    assert_eq!(problem.status(), 404);
    let mut heard = Vec::new();
    let two = |event: Event| {
        heard.push(event.id);
        heard.len() < 2
    };
    client.events(Some(41), two).await.unwrap();
    assert_eq!(heard, [42, 7]);
    heard.clear();
    client
        .events(None, |event| {
            heard.push(event.id);
            true
        })
        .await
        .unwrap();
    assert_eq!(heard, [7], "until the node has no more");
    let (bearer, host) = (served.bearer(), served.host());
    let headers = [("Host", host.as_str()), ("Authorization", bearer.as_str())];
    let (status, answer) = served.raw("GET", "/api/v1/events", &headers, "").await;
    assert!(status == 426 && answer.contains("twinshare events"), "{answer}");
    assert_eq!(served.raw("GET", "/api/v1/events?after=x", &headers, "").await.0, 400);
    assert_eq!(client.doctor().await.unwrap()[0].check, "fuse");
    client.shutdown().await.unwrap();
    served.node.stopped.notified().await;
    assert_eq!(
        served.asked(),
        [
            "share /w/lab Some(WorkspaceName(\"lab\")) Some(Public) true".to_owned(),
            "unshare a b-?%".to_owned(),
            format!("files {path:?}"),
            "peer 10.0.0.1:9".to_owned(),
            "decide lab abababab Deny".to_owned(),
            "grant lab group:team Some(Rights(browse,read)) Some(9)".to_owned(),
            "password lab Some(\"long enough\")".to_owned(),
            "invited 123-456".to_owned(),
            "join 01010101 123-456".to_owned(),
            "unpair 01010101".to_owned(),
            "group team 1".to_owned(),
            "start owner/lab".to_owned(),
            "stop 1a false".to_owned(),
            "stop 1a true".to_owned(),
            "wait 1a".to_owned(),
            "secret TOKEN Some(\"t\\\"x\")".to_owned(),
            "secret TOKEN None".to_owned(),
            "launch owner/lab [RawText(\"python\"), RawText(\"-V\")]".to_owned(),
            "clear all".to_owned(),
            "clear owner/lab".to_owned(),
            "prefetch owner/lab".to_owned(),
            format!("prefetch {data}"),
            format!("pin {data}"),
            "unpin owner/lab".to_owned(),
            "shutdown".to_owned(),
        ]
    );
}

#[tokio::test]
async fn case_45_only_our_own_host_names_are_served() {
    let served = served().await;
    let (host, bearer) = (served.host(), served.bearer());
    let path = "/api/v1/status";
    for good in [host.clone(), format!("localhost:{}", served.port), format!("[::1]:{}", served.port)] {
        let (status, _) = served.raw("GET", path, &[("Host", &good), ("Authorization", &bearer)], "").await;
        assert_eq!(status, 200, "{good}");
    }
    let other_port = format!("127.0.0.1:{}", served.port ^ 1);
    for bad in ["evil.test", "127.0.0.1", "", &format!("evil.test:{}", served.port), &other_port] {
        let (status, _) = served.raw("GET", path, &[("Host", bad), ("Authorization", &bearer)], "").await;
        assert!((400..500).contains(&status), "{bad:?}: {status}");
    }
    let twice = [("Host", host.as_str()), ("Host", "evil.test"), ("Authorization", bearer.as_str())];
    assert!((400..500).contains(&served.raw("GET", path, &twice, "").await.0));
    assert!((400..500).contains(&served.raw("GET", path, &[("Authorization", &bearer)], "").await.0));
}

#[tokio::test]
async fn pages_of_other_sites_are_refused() {
    let served = served().await;
    let (host, bearer) = (served.host(), served.bearer());
    for (origin, expected) in [
        (format!("http://{host}"), 200),
        (format!("http://localhost:{}", served.port), 200),
        (format!("https://{host}"), 403),
        ("http://evil.test".to_owned(), 403),
        (format!("http://evil.test#http://{host}"), 403),
        ("null".to_owned(), 403),
    ] {
        let headers = [("Host", host.as_str()), ("Authorization", &bearer), ("Origin", &origin)];
        let (status, answer) = served.raw("GET", "/api/v1/status", &headers, "").await;
        assert_eq!(status, expected, "{origin}");
        assert!(!answer.to_lowercase().contains("access-control-"), "{answer}");
    }
    let preflight = [("Host", host.as_str()), ("Origin", "http://evil.test")];
    assert_eq!(served.raw("OPTIONS", "/api/v1/status", &preflight, "").await.0, 403);
}

#[tokio::test]
async fn nothing_is_answered_without_the_token() {
    let served = served().await;
    let host = served.host();
    let secret = served.token.secret();
    let wrong = Token::random();
    for header in [
        None,
        Some(String::new()),
        Some(secret.to_owned()),
        Some("Bearer".to_owned()),
        Some(format!("Bearer {}", wrong.secret())),
        Some(format!("Bearer {}", &secret[..63])),
        Some(format!("Basic {secret}")),
    ] {
        let mut headers = vec![("Host", host.as_str())];
        headers.extend(header.as_deref().map(|value| ("Authorization", value)));
        for path in ["/api/v1/status", "/nothing"] {
            let (status, answer) = served.raw("GET", path, &headers, "").await;
            assert_eq!(status, 401, "{header:?}");
            assert!(answer.to_lowercase().contains("www-authenticate: bearer"), "{answer}");
        }
    }
    assert!(matches!(
        Client::new(Endpoint { port: served.port, token: wrong, pid: 0 }).unwrap().status().await,
        Err(ClientError::Problem(problem)) if problem.status() == 401
    ));
}

#[tokio::test]
async fn failures_are_problem_documents() {
    let served = served().await;
    let (host, bearer) = (served.host(), served.bearer());
    let json = [("Host", host.as_str()), ("Authorization", &bearer), ("Content-Type", "application/json")];
    let peer = NodeId::from_bytes([1; 32]);
    for (method, path, body, expected) in [
        ("GET", "/", "", 404),
        ("GET", "/api/v1/nothing", "", 404),
        ("GET", "/api/v2/status", "", 404),
        ("PUT", "/api/v1/status", "", 405),
        ("POST", "/api/v1/shares", "{", 400),
        ("POST", "/api/v1/shares", "{}", 422),
        ("POST", "/api/v1/shares", r#"{"path": "relative"}"#, 400),
        ("POST", "/api/v1/shares", r#"{"path": "/w", "name": "../up"}"#, 422),
        ("DELETE", "/api/v1/shares/%2e%2e", "", 400),
        ("POST", "/api/v1/peers", r#"{"address": "a b"}"#, 422),
        ("POST", "/api/v1/requests/lab/short", r#"{"decision": "allow"}"#, 400),
        ("POST", &format!("/api/v1/requests/lab/{peer}"), r#"{"decision": "perhaps"}"#, 422),
        ("GET", "/api/v1/files", "", 400),
        ("GET", "/api/v1/files?path=owner/lab/../x", "", 400),
        ("POST", "/api/v1/launches", r#"{"host": "owner", "workspace": "lab", "command": []}"#, 400),
        ("POST", "/api/v1/launches", &" ".repeat(BODY_LIMIT + 1), 413),
    ] {
        let (status, answer) = served.raw(method, path, &json, body).await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
        let (_, document) = answer.split_once("\r\n\r\n").unwrap();
        let document: serde_json::Value = serde_json::from_str(document).unwrap();
        assert_eq!(document["status"], expected);
        assert_eq!(document["error"], document["detail"]);
    }
    let form = [("Host", host.as_str()), ("Authorization", &bearer), ("Content-Type", "text/plain")];
    assert_eq!(served.raw("POST", "/api/v1/shares", &form, r#"{"path": "/w"}"#).await.0, 415);
    assert!(served.asked().is_empty());
}

#[tokio::test]
async fn the_server_ends_although_a_request_hangs() {
    let served = served().await;
    served.node.stuck.store(true, Ordering::SeqCst);
    let client = served.client.clone();
    let hanging = tokio::spawn(async move { client.status().await });
    while served.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    served.stop.send(()).unwrap();
    served.task.await.unwrap().unwrap();
    drop(hanging);
}

#[tokio::test]
async fn a_published_node_is_found() {
    let served = served().await;
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Client::find(dir.path()), Err(ClientError::NotRunning)));
    let claim = Claim::take(dir.path()).unwrap();
    claim.publish(served.port, &served.token).unwrap();
    assert_eq!(Client::find(dir.path()).unwrap().status().await.unwrap(), a_status());
    drop(claim);
    assert!(matches!(Client::find(dir.path()), Err(ClientError::NotRunning)));
}
