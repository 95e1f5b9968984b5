use std::{collections::BTreeSet, path::Path, time::Duration};

use futures_util::StreamExt;

use reqwest::{
    Method, Url,
    header::{AUTHORIZATION, HeaderValue},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use super::{
    AccessReport, AccessRequest, AuditEntry, BulkTurn, CacheReport, Decision, Endpoint, EndpointError, Event,
    FileEntry, FilePath, Finding, GrantRequest, Groups, Host, Invitation, Join, JoinRequest, Judgement,
    Launch, LaunchPlan, LaunchRequest, LayerChange, MergeReport, PREFIX, PairingEnd, PasswordRequest, Peer,
    PeerAddress, Pin, PrefetchStep, Problem, PushReport, RawText, Share, ShareRequest, SnapshotInfo,
    StartAnswer, StartRequest, Status,
};
use crate::{
    access::Group,
    peer::PairingCode,
    types::{NodeId, WorkspaceName},
};

/// How long the node may take to answer what it does at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why the node didn't answer as hoped.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No node runs here.
    #[error("no node is running")]
    NotRunning,
    /// Where the node is can't be found out.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The node doesn't answer, or not in HTTP and JSON.
    #[error("the node on port {port} doesn't answer: {why}")]
    Unreachable {
        /// The port of its control API.
        port: u16,
        /// What went wrong.
        why: String,
    },
    /// The node says why it can't do it.
    #[error(transparent)]
    Problem(#[from] Problem),
}

/// Asks this machine's node.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
}

impl Client {
    /// A client of the node that runs with this runtime folder.
    pub fn find(runtime: &Path) -> Result<Self, ClientError> {
        Self::new(Endpoint::find(runtime)?.ok_or(ClientError::NotRunning)?)
    }

    /// A client of the node at this endpoint.
    pub fn new(endpoint: Endpoint) -> Result<Self, ClientError> {
        let unreachable = |why: String| ClientError::Unreachable { port: endpoint.port, why };
        // Only plain HTTP is spoken here, but the HTTP library insists on a TLS configuration: one that trusts nobody.
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unreachable(error.to_string()))?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            // A proxy in the environment must neither get the token nor stand between.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .build()
            .map_err(|error| unreachable(chain(&error)))?;
        Ok(Self { http, endpoint })
    }

    /// Where the node is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How the node is.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get(&["status"]).await
    }

    /// Asks the node to end.
    pub async fn shutdown(&self) -> Result<(), ClientError> {
        self.send(Method::POST, self.url(&["shutdown"]), NOTHING, Some(PATIENCE)).await.map(drop)
    }

    /// The workspaces that the node shares.
    pub async fn shares(&self) -> Result<Vec<Share>, ClientError> {
        self.get(&["shares"]).await
    }

    /// Shares a folder.
    pub async fn share(&self, request: &ShareRequest) -> Result<Share, ClientError> {
        // Hashing takes as long as it takes.
        let patience = (!request.wait).then_some(PATIENCE);
        self.json(Method::POST, self.url(&["shares"]), Some(request), patience).await
    }

    /// Ends the sharing of a workspace.
    pub async fn unshare(&self, name: &WorkspaceName) -> Result<(), ClientError> {
        let url = self.url(&["shares", name.as_str()]);
        self.send(Method::DELETE, url, NOTHING, Some(PATIENCE)).await.map(drop)
    }

    /// The hosts and their workspaces.
    pub async fn hosts(&self) -> Result<Vec<Host>, ClientError> {
        self.get(&["hosts"]).await
    }

    /// The entries of a folder of a workspace.
    pub async fn files(&self, path: &FilePath) -> Result<Vec<FileEntry>, ClientError> {
        self.json(Method::GET, self.at("files", path), NOTHING, Some(PATIENCE)).await
    }

    /// The nodes that were found or added.
    pub async fn peers(&self) -> Result<Vec<Peer>, ClientError> {
        self.get(&["peers"]).await
    }

    /// Adds a peer by its address.
    pub async fn add_peer(&self, address: PeerAddress) -> Result<Peer, ClientError> {
        self.json(Method::POST, self.url(&["peers"]), Some(&Join { address }), Some(PATIENCE)).await
    }

    /// Who asks for a workspace.
    pub async fn requests(&self) -> Result<Vec<AccessRequest>, ClientError> {
        self.get(&["requests"]).await
    }

    /// Who may do what with a workspace of this node.
    pub async fn access(&self, workspace: &WorkspaceName) -> Result<AccessReport, ClientError> {
        self.get(&["shares", workspace.as_str(), "access"]).await
    }

    /// Decides what somebody may do with a workspace, or takes that back.
    pub async fn grant(&self, workspace: &WorkspaceName, request: &GrantRequest) -> Result<(), ClientError> {
        let url = self.url(&["shares", workspace.as_str(), "access"]);
        self.send(Method::POST, url, Some(request), Some(PATIENCE)).await.map(drop)
    }

    /// Sets a workspace's password, or removes it.
    pub async fn set_password(
        &self,
        workspace: &WorkspaceName,
        request: &PasswordRequest,
    ) -> Result<(), ClientError> {
        let url = self.url(&["shares", workspace.as_str(), "password"]);
        self.send(Method::PUT, url, Some(request), Some(PATIENCE)).await.map(drop)
    }

    /// Invites a node to pair, by a code.
    pub async fn invite(&self) -> Result<Invitation, ClientError> {
        self.json(Method::POST, self.url(&["pairings"]), NOTHING, Some(PATIENCE)).await
    }

    /// What becomes of an invitation; waits for it.
    pub async fn invited(&self, code: &PairingCode) -> Result<PairingEnd, ClientError> {
        self.json(Method::GET, self.url(&["pairings", &code.to_string()]), NOTHING, None).await
    }

    /// Pairs with a node that has invited.
    pub async fn join(&self, request: &JoinRequest) -> Result<(), ClientError> {
        self.send(Method::PUT, self.url(&["pairings"]), Some(request), Some(PATIENCE)).await.map(drop)
    }

    /// Ends a pairing.
    pub async fn unpair(&self, peer: NodeId) -> Result<(), ClientError> {
        let url = self.url(&["pairings", &peer.to_string()]);
        self.send(Method::DELETE, url, NOTHING, Some(PATIENCE)).await.map(drop)
    }

    /// The groups of peers.
    pub async fn groups(&self) -> Result<Groups, ClientError> {
        self.get(&["groups"]).await
    }

    /// Makes a group of these peers; of none, removes it.
    pub async fn set_group(&self, name: &Group, members: &BTreeSet<NodeId>) -> Result<(), ClientError> {
        let url = self.url(&["groups", &name.to_string()]);
        self.send(Method::PUT, url, Some(members), Some(PATIENCE)).await.map(drop)
    }

    /// Who is being sent something in bulk, and who waits, in the order of their turns.
    pub async fn transfers(&self) -> Result<Vec<BulkTurn>, ClientError> {
        self.get(&["transfers"]).await
    }

    /// The newest lines of the audit log, the oldest of them first.
    pub async fn audit(&self) -> Result<Vec<AuditEntry>, ClientError> {
        self.get(&["audit"]).await
    }

    /// Allows or denies a peer a workspace.
    pub async fn decide(
        &self,
        workspace: &WorkspaceName,
        peer: NodeId,
        decision: Decision,
    ) -> Result<(), ClientError> {
        let url = self.url(&["requests", workspace.as_str(), &peer.to_string()]);
        self.send(Method::POST, url, Some(&Judgement { decision }), Some(PATIENCE)).await.map(drop)
    }

    /// Prepares a launch.
    pub async fn launch(&self, request: &LaunchRequest) -> Result<LaunchPlan, ClientError> {
        self.json(Method::POST, self.url(&["launches"]), Some(request), Some(PATIENCE)).await
    }

    /// Starts an environment, unless it runs already or must be agreed to first.
    pub async fn start(&self, request: &StartRequest) -> Result<StartAnswer, ClientError> {
        self.json(Method::POST, self.url(&["environments"]), Some(request), Some(PATIENCE)).await
    }

    /// The environments that were started.
    pub async fn environments(&self) -> Result<Vec<Launch>, ClientError> {
        self.get(&["environments"]).await
    }

    /// Ends one, and waits for that.
    pub async fn stop(&self, id: &str, at_once: bool) -> Result<Launch, ClientError> {
        let mut url = self.url(&["environments", id]);
        url.set_query(at_once.then_some("at_once=true"));
        self.json(Method::DELETE, url, NOTHING, Some(PATIENCE)).await
    }

    /// Waits until one has ended.
    pub async fn wait(&self, id: &str) -> Result<Launch, ClientError> {
        self.json(Method::GET, self.url(&["environments", id, "end"]), NOTHING, None).await
    }

    /// The names of the user's secrets.
    pub async fn secrets(&self) -> Result<Vec<String>, ClientError> {
        self.get(&["secrets"]).await
    }

    /// Sets a secret.
    pub async fn set_secret(&self, name: &str, value: &str) -> Result<(), ClientError> {
        self.send(Method::PUT, self.url(&["secrets", name]), Some(&value), Some(PATIENCE)).await.map(drop)
    }

    /// Forgets a secret.
    pub async fn forget_secret(&self, name: &str) -> Result<(), ClientError> {
        self.send(Method::DELETE, self.url(&["secrets", name]), NOTHING, Some(PATIENCE)).await.map(drop)
    }

    /// What the cache holds.
    pub async fn cache(&self) -> Result<CacheReport, ClientError> {
        self.get(&["cache"]).await
    }

    /// What was changed at a path and below.
    pub async fn changes(&self, path: &FilePath) -> Result<Vec<LayerChange>, ClientError> {
        self.json(Method::GET, self.at("changes", path), NOTHING, Some(PATIENCE)).await
    }

    /// The same as a unified diff.
    pub async fn change_text(&self, path: &FilePath) -> Result<String, ClientError> {
        self.json(Method::GET, self.at("diffs", path), NOTHING, None).await
    }

    /// Takes back what was changed at a path and below; gives the paths.
    pub async fn discard(&self, path: &FilePath) -> Result<Vec<RawText>, ClientError> {
        self.json(Method::DELETE, self.at("changes", path), NOTHING, None).await
    }

    /// The snapshots that the owner of a workspace keeps, the newest first.
    pub async fn history(&self, path: &FilePath) -> Result<Vec<SnapshotInfo>, ClientError> {
        self.json(Method::GET, self.at("history", path), NOTHING, Some(PATIENCE)).await
    }

    /// Has the owner of a workspace make what was changed in it here.
    pub async fn push(&self, path: &FilePath) -> Result<PushReport, ClientError> {
        self.json(Method::POST, self.at("pushes", path), NOTHING, None).await
    }

    /// Merges what was changed in a workspace with its owner's newest snapshot.
    pub async fn pull(&self, path: &FilePath) -> Result<MergeReport, ClientError> {
        self.json(Method::POST, self.at("pulls", path), NOTHING, None).await
    }

    /// Forgets what came for one workspace alone, else all that isn't pinned; tells what is left.
    pub async fn clear_cache(&self, which: Option<&FilePath>) -> Result<CacheReport, ClientError> {
        let mut url = self.url(&["cache"]);
        url.set_query(which.map(FilePath::to_query).as_deref());
        self.json(Method::DELETE, url, NOTHING, Some(PATIENCE)).await
    }

    /// Fetches what is at a path, and calls `each` with every step up to the last; dropping the future ends it.
    pub async fn prefetch(
        &self,
        path: &FilePath,
        mut each: impl FnMut(&PrefetchStep),
    ) -> Result<PrefetchStep, ClientError> {
        let mut answer = self.send(Method::POST, self.at("prefetches", path), NOTHING, None).await?;
        let mut unread = Vec::new();
        loop {
            let more = answer.chunk().await.map_err(|error| self.unreachable(&error))?;
            // What ends the answer ends its last line too.
            unread.extend_from_slice(more.as_deref().unwrap_or(b"\n"));
            let end = unread.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            let lines: Vec<u8> = unread.drain(..end).collect();
            for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let step: PrefetchStep = serde_json::from_slice(line).map_err(|error| self.broken(&error))?;
                each(&step);
                match step.problem {
                    Some(problem) => return Err(problem.into()),
                    None if step.ended => return Ok(step),
                    None => {}
                }
            }
            if more.is_none() {
                return Err(self.broken("it stopped in the middle"));
            }
        }
    }

    /// Keeps what is at a path complete and offline.
    pub async fn pin(&self, path: &FilePath) -> Result<Pin, ClientError> {
        self.json(Method::POST, self.at("pins", path), NOTHING, Some(PATIENCE)).await
    }

    /// Keeps it no longer.
    pub async fn unpin(&self, path: &FilePath) -> Result<(), ClientError> {
        self.send(Method::DELETE, self.at("pins", path), NOTHING, Some(PATIENCE)).await.map(drop)
    }

    /// Tells `each` what happens, beginning behind the event with the number `after`, else now, until `each` answers false or
    /// the node ends.
    pub async fn events(
        &self,
        after: Option<u64>,
        mut each: impl FnMut(Event) -> bool,
    ) -> Result<(), ClientError> {
        let query = after.map_or_else(String::new, |after| format!("?after={after}"));
        let authority = format!("127.0.0.1:{}", self.endpoint.port);
        let mut request = format!("ws://{authority}{PREFIX}/events{query}")
            .into_client_request()
            .map_err(|error| self.broken(error))?;
        let token = format!("Bearer {}", self.endpoint.token.secret());
        let token = HeaderValue::from_str(&token).map_err(|error| self.broken(error))?;
        request.headers_mut().insert(AUTHORIZATION, token);
        let stream = TcpStream::connect(authority).await.map_err(|error| self.broken(error))?;
        let (mut socket, _) =
            tokio_tungstenite::client_async(request, stream).await.map_err(|error| self.broken(error))?;
        while let Some(message) = socket.next().await {
            let text = match message {
                Ok(Message::Text(text)) => text,
                Ok(_) => continue,
                // The node ended.
                Err(_) => break,
            };
            let event = serde_json::from_str(&text).map_err(|error| self.broken(error))?;
            if !each(event) {
                break;
            }
        }
        Ok(())
    }

    /// What the node finds when it examines itself.
    pub async fn doctor(&self) -> Result<Vec<Finding>, ClientError> {
        self.get(&["doctor"]).await
    }

    /// The URL of an endpoint; the parts of its path are encoded.
    fn url(&self, parts: &[&str]) -> Url {
        let mut path = PREFIX.to_owned();
        for part in parts {
            path.push('/');
            path.push_str(&encode(part));
        }
        // Digits and encoded text make no URL that can't be parsed.
        #[expect(clippy::unwrap_used, reason = "infallible, see above")]
        Url::parse(&format!("http://127.0.0.1:{}{path}", self.endpoint.port)).unwrap()
    }

    /// The URL of an endpoint that is asked about a path.
    fn at(&self, endpoint: &str, path: &FilePath) -> Url {
        let mut url = self.url(&[endpoint]);
        url.set_query(Some(&path.to_query()));
        url
    }

    async fn get<T: DeserializeOwned>(&self, parts: &[&str]) -> Result<T, ClientError> {
        self.json(Method::GET, self.url(parts), NOTHING, Some(PATIENCE)).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        url: Url,
        body: Option<&impl Serialize>,
        patience: Option<Duration>,
    ) -> Result<T, ClientError> {
        let answer = self.send(method, url, body, patience).await?;
        answer.json().await.map_err(|error| self.unreachable(&error))
    }

    async fn send(
        &self,
        method: Method,
        url: Url,
        body: Option<&impl Serialize>,
        patience: Option<Duration>,
    ) -> Result<reqwest::Response, ClientError> {
        let mut request = self.http.request(method, url).bearer_auth(self.endpoint.token.secret());
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(patience) = patience {
            request = request.timeout(patience);
        }
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let problem = answer.json().await.unwrap_or_else(|_| {
            let title = status.canonical_reason().unwrap_or("Failed");
            Problem::new(status.as_u16(), title, format!("the node answers {status}, without a reason"))
        });
        Err(ClientError::Problem(problem))
    }

    fn broken(&self, why: impl std::fmt::Display) -> ClientError {
        ClientError::Unreachable { port: self.endpoint.port, why: why.to_string() }
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        ClientError::Unreachable { port: self.endpoint.port, why: chain(error) }
    }
}

/// No body.
const NOTHING: Option<&()> = None;

/// Percent-encodes one part of a URL's path.
fn encode(part: &str) -> String {
    part.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// The deepest cause of an error: the others repeat the URL.
fn chain(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
