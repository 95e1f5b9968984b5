use std::{collections::HashSet, fmt, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http_body_util::Full;
use reqwest::{StatusCode, header};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    bandwidth::{Bandwidth, Meter},
    capability::Capability,
    line::{LineError, Lines, Stream},
    pairing::{Joining, NotPaired, PairingCode, Reply},
    receive::Answer,
    tls::{Credentials, CredentialsError, Expected, Found, ServerVerifier},
    wire::{
        BatchRequest, Catalogue, EditOutcome, Grant, HOLDERS_HEADER, MAX_BATCH, MAX_EDIT, MAX_HOLDERS,
        MAX_JSON, MAX_REVOKED, MAX_TAG, MAX_WAIT, MAX_WORKSPACES, NodeInfo, PairRequest, PieceRequest,
        WorkspaceInfo,
    },
};
use crate::{
    profile::Profile,
    tree::{Edit, Snapshot},
    types::{NodeId, PathKey, WorkspaceId},
};

/// How long a peer may send nothing, unless the caller wants it otherwise.
pub const IDLE: Duration = Duration::from_secs(10);

/// An edit, with the bytes of all its files, must be made after this time.
const EDITING: Duration = Duration::from_secs(3600);

/// A connection, with its handshake, must stand after this time.
pub(super) const CONNECT: Duration = Duration::from_secs(3);

/// The next address is tried when the one before hasn't answered for this long (as RFC 8305 recommends).
const STAGGER: Duration = Duration::from_millis(250);

/// Idle connections are given up before the server does, so that no request runs into a closing one.
pub(super) const POOL_IDLE: Duration = Duration::from_secs(45);

/// The host in every address: it is never looked up, since the client knows where it connects.
pub(super) const HOST: &str = "node.twinshare.invalid";

/// The longest message of a peer that is shown, in characters.
const MAX_MESSAGE: usize = 200;

/// Why a peer doesn't give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// No address of the peer is known.
    #[error("no address of the peer is known")]
    NoAddress,
    /// There's no connection.
    #[error("can't reach {address}")]
    Unreachable {
        /// Where it should be.
        address: SocketAddr,
        /// What the connection said.
        #[source]
        source: LineError,
    },
    /// An answer began and broke off.
    #[error("the answer of {address} broke off")]
    Interrupted {
        /// Where the peer is.
        address: SocketAddr,
        /// What the connection said; nothing when the peer ended it in good form.
        #[source]
        source: Option<LineError>,
    },
    /// Nothing came for too long.
    #[error("{address} took too long {doing}")]
    Timeout {
        /// Where the peer is.
        address: SocketAddr,
        /// What took too long, as in "connecting".
        doing: &'static str,
    },
    /// Something else listens there.
    #[error("what answers at {address} is no twinshare node: {why}")]
    NotANode {
        /// Where it is.
        address: SocketAddr,
        /// What shows it.
        why: String,
    },
    /// Another node is there than the one that was meant.
    #[error("the node at {address} is {found} and not {expected}")]
    WrongIdentity {
        /// Where it is.
        address: SocketAddr,
        /// The node that was meant.
        expected: NodeId,
        /// The node that claims to be there.
        found: NodeId,
    },
    /// The owner doesn't let this node read the workspace.
    #[error("{peer} refused: {message}")]
    Denied {
        /// The owner.
        peer: NodeId,
        /// What it said, made fit to be shown.
        message: String,
    },
    /// The peer has no such workspace, or doesn't tell.
    #[error("{peer} has no such workspace")]
    Unknown {
        /// The peer.
        peer: NodeId,
    },
    /// The peer serves too many at present: try again later.
    #[error("{0} is busy")]
    Busy(NodeId),
    /// The request breaks the limits of the protocol: an error of the caller.
    #[error("the request is not valid: {0}")]
    Request(String),
    /// The peer sent what no peer should: nothing of it was passed on.
    #[error("{peer} misbehaved: {what}")]
    Misbehaved {
        /// The peer.
        peer: NodeId,
        /// What it did.
        what: String,
    },
    /// The peer answered with an error that isn't any of the others.
    #[error("{peer} failed: {message}")]
    Failed {
        /// The peer.
        peer: NodeId,
        /// What it said, made fit to be shown.
        message: String,
    },
    /// This node's own TLS settings don't work.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// Connections to the share service of one peer, whose identity they have proved. Cheap to clone.
#[derive(Clone)]
pub struct PeerClient {
    http: reqwest::Client,
    lines: Arc<Lines>,
    /// Those of bulk requests, whose answers the owner sends so that little of them is on its way at a time.
    bulk_lines: Arc<Lines>,
    meter: Meter,
    node: NodeId,
    address: SocketAddr,
    idle: Duration,
}

impl fmt::Debug for PeerClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerClient").field("node", &self.node).field("address", &self.address).finish()
    }
}

/// Why two nodes aren't paired.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The other side can't be talked to, or doesn't wait for anybody.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// It isn't the one that the code is of.
    #[error(transparent)]
    NotPaired(#[from] NotPaired),
}

impl PeerClient {
    /// Connects to the first of `addresses` that answers as the node that is expected.
    ///
    /// A quarter of a second after one address the next is tried too. With [`Expected::Any`] the client stays bound to
    /// the node that it met. `idle` is how long the peer may send nothing during a request, usually [`IDLE`]; a
    /// connection must stand within three seconds.
    pub async fn connect(
        credentials: &Credentials,
        bandwidth: &Bandwidth,
        addresses: &[SocketAddr],
        expected: Expected,
        idle: Duration,
    ) -> Result<Self, PeerError> {
        let mut rest = addresses.iter();
        let mut attempts = FuturesUnordered::new();
        let mut failure = PeerError::NoAddress;
        let mut next = Instant::now();
        loop {
            if attempts.is_empty() || Instant::now() >= next {
                match rest.next() {
                    Some(address) => {
                        let meter = bandwidth.meter(address.ip());
                        attempts.push(Self::attempt(credentials, meter, *address, expected, idle));
                    }
                    None if attempts.is_empty() => return Err(failure),
                    None => {}
                }
                next = Instant::now() + STAGGER;
            }
            let more = !rest.as_slice().is_empty();
            tokio::select! {
                Some(attempt) = attempts.next() => match attempt {
                    Ok(client) => return Ok(client),
                    Err(error) => {
                        // Who was found somewhere tells more than that nobody was elsewhere.
                        let silent = matches!(error, PeerError::Unreachable { .. } | PeerError::Timeout { .. });
                        if !silent || matches!(failure, PeerError::NoAddress) {
                            failure = error;
                        }
                        next = Instant::now();
                    }
                },
                () = sleep_until(next), if more => {}
            }
        }
    }

    async fn attempt(
        credentials: &Credentials,
        meter: Meter,
        address: SocketAddr,
        expected: Expected,
        idle: Duration,
    ) -> Result<Self, PeerError> {
        let verifier = ServerVerifier::new(credentials, expected);
        let config = credentials.client_config(Arc::clone(&verifier))?;
        let lines = Lines::new(address, config.clone(), meter.clone()).map_err(CredentialsError::new)?;
        let bulk_lines = Lines::new(address, config.clone(), meter.clone()).map_err(CredentialsError::new)?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .resolve(HOST, address)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT)
            .pool_idle_timeout(POOL_IDLE)
            .build()
            .map_err(|source| PeerError::Unreachable { address, source: source.into() })?;
        // The id is proved only when the request has gone through; until then it stands for nothing.
        let unproved = NodeId::from_bytes([0; 32]);
        let (lines, bulk_lines) = (Arc::new(lines), Arc::new(bulk_lines));
        let mut client = Self { http, lines, bulk_lines, meter, node: unproved, address, idle };
        let result = client.send(client.http.get(client.url("node")), CONNECT + idle).await;
        let found = verifier.found();
        match (result, found, expected) {
            (_, Some(Found::NotANode(why)), _) => Err(PeerError::NotANode { address, why: why.to_string() }),
            (_, Some(Found::Node(found)), Expected::Node(expected)) if found != expected => {
                Err(PeerError::WrongIdentity { address, expected, found })
            }
            (Ok(response), Some(Found::Node(node)), _) => {
                client.node = node;
                client.node_info(response).await?;
                Ok(client)
            }
            (Ok(_), None, _) => Err(PeerError::NotANode { address, why: "it speaks no TLS".into() }),
            (Err(error), _, _) => Err(error),
        }
    }

    /// Who the peer is: proved by every connection.
    pub fn id(&self) -> NodeId {
        self.node
    }

    /// Where the peer was reached.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the peer says about itself.
    pub async fn node(&self) -> Result<NodeInfo, PeerError> {
        let response = self.send(self.http.get(self.url("node")), CONNECT + self.idle).await?;
        self.node_info(response).await
    }

    async fn node_info(&self, response: reqwest::Response) -> Result<NodeInfo, PeerError> {
        let info: NodeInfo = self.json(response).await?;
        if info.peer_id == self.node {
            Ok(info)
        } else {
            Err(self.misbehaved(format!("it calls itself {}", info.peer_id)))
        }
    }

    /// What the peer shares with this node; none if that is still as it was under the tag `after`.
    ///
    /// With `after`, waits up to `wait` (at most [`MAX_WAIT`] seconds) for a change. The signatures of all heads have been
    /// checked. That a head isn't older than one seen before is for the caller to check.
    pub async fn catalogue(
        &self,
        after: Option<&str>,
        wait: Duration,
    ) -> Result<Option<Catalogue>, PeerError> {
        let wait = wait.as_secs().min(MAX_WAIT);
        let mut request = self.http.get(self.url("catalogue"));
        if let Some(after) = after {
            request = request.query(&[("after", after), ("wait", &wait.to_string())]);
        }
        let patience = CONNECT + self.idle + Duration::from_secs(wait);
        let response = self.send(request, patience).await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let catalogue: Catalogue = self.json(response).await?;
        if catalogue.tag.is_empty() || catalogue.tag.len() > MAX_TAG {
            return Err(self.misbehaved("its catalogue has an impossible tag"));
        }
        if catalogue.workspaces.len() > MAX_WORKSPACES {
            return Err(self.misbehaved("it shares more workspaces than a node may"));
        }
        let mut ids = HashSet::new();
        for WorkspaceInfo { id, head, .. } in &catalogue.workspaces {
            if !ids.insert(id) {
                return Err(self.misbehaved(format!("it shares the workspace {id} twice")));
            }
            if head.head.workspace != *id || head.verify(self.node).is_err() {
                return Err(self.misbehaved(format!("the head of its workspace {id} isn't signed")));
            }
        }
        if catalogue.grants.len() > catalogue.workspaces.len() {
            return Err(self.misbehaved("it grants more than it shares"));
        }
        for Grant { capability, holders, revoked } in &catalogue.grants {
            let own = capability.owner == self.node && ids.contains(&capability.workspace);
            let crowded = holders.len() > MAX_HOLDERS || revoked.len() > MAX_REVOKED;
            if !own || capability.verify().is_err() || crowded {
                return Err(self.misbehaved(format!("its grant for {} isn't right", capability.workspace)));
            }
        }
        if after == Some(&catalogue.tag) { Ok(None) } else { Ok(Some(catalogue)) }
    }

    /// Asks for pieces of a workspace; the answer gives them as they arrive, each checked.
    pub async fn batch(
        &self,
        workspace: WorkspaceId,
        pieces: Vec<PieceRequest>,
    ) -> Result<Answer, PeerError> {
        self.ask(BatchRequest { workspace, pieces, capability: None, bulk: false }).await
    }

    /// Like [`Self::batch`], but ahead of need: what others wait for goes before, and the answer may take its time.
    pub async fn batch_ahead(
        &self,
        workspace: WorkspaceId,
        pieces: Vec<PieceRequest>,
    ) -> Result<Answer, PeerError> {
        self.ask(BatchRequest { workspace, pieces, capability: None, bulk: true }).await
    }

    /// Asks for pieces of a workspace that is another's, who gave the capability.
    pub async fn batch_of(
        &self,
        capability: Capability,
        pieces: Vec<PieceRequest>,
    ) -> Result<Answer, PeerError> {
        let workspace = capability.workspace;
        self.ask(BatchRequest { workspace, pieces, capability: Some(capability), bulk: false }).await
    }

    /// What a launch of the workspace reads that begins with the program at this path; empty if nobody has told.
    pub async fn profile(&self, workspace: &WorkspaceId, program: &PathKey) -> Result<Profile, PeerError> {
        let request = self.http.get(self.profile_url(workspace, program));
        self.json(self.send(request, CONNECT + self.idle).await?).await
    }

    /// Tells the owner what a launch of the workspace has read.
    pub async fn offer(
        &self,
        workspace: &WorkspaceId,
        program: &PathKey,
        profile: &Profile,
    ) -> Result<(), PeerError> {
        let request = self.http.post(self.profile_url(workspace, program)).json(profile);
        self.json(self.send(request, CONNECT + self.idle).await?).await
    }

    /// Pairs with the node by a code that its user has told. Whatever goes wrong, the node learns that it did.
    pub async fn pair(&self, code: &PairingCode, own: NodeId) -> Result<(), PairError> {
        let (joining, message) = Joining::begin(code, own, self.node);
        let reply = self.pair_message(message).await?;
        match joining.finish(&reply) {
            Ok(proof) => Ok(self.pair_proof(proof).await?),
            Err(error) => {
                // Whether that is heard changes nothing here.
                let _ = self.pair_proof([0; 32]).await;
                Err(error.into())
            }
        }
    }

    /// The first step of pairing: the joining side's message for the node's reply.
    pub async fn pair_message(&self, message: Vec<u8>) -> Result<Reply, PeerError> {
        self.pair_step(&PairRequest::Message(message)).await
    }

    /// The second: what shows that this side has the key. Zeros say that the reply was wrong.
    pub async fn pair_proof(&self, proof: [u8; 32]) -> Result<(), PeerError> {
        self.pair_step(&PairRequest::Proof(proof)).await
    }

    async fn pair_step<T: DeserializeOwned>(&self, step: &PairRequest) -> Result<T, PeerError> {
        self.json(self.send(self.http.post(self.url("pair")).json(step), CONNECT + self.idle).await?).await
    }

    /// The snapshots of a workspace that its owner keeps, oldest first.
    pub async fn history(&self, workspace: &WorkspaceId) -> Result<Vec<Snapshot>, PeerError> {
        let request = self.http.get(self.url(&format!("history?workspace={workspace}")));
        self.json(self.send(request, CONNECT + self.idle).await?).await
    }

    /// Has the owner make an edit; `content` are the bytes of its files, in order.
    pub async fn edit(
        &self,
        workspace: &WorkspaceId,
        edit: &Edit,
        content: impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<EditOutcome, PeerError> {
        let mut head = vec![0; 4];
        minicbor::encode(edit, &mut head).map_err(|error| PeerError::Request(error.to_string()))?;
        let length = head.len() - 4;
        if length > MAX_EDIT {
            return Err(PeerError::Request("too much was changed to be pushed at once".into()));
        }
        head[..4].copy_from_slice(&(length as u32).to_be_bytes());
        let head = futures_util::stream::once(std::future::ready(Ok(Bytes::from(head))));
        let meter = self.meter.clone();
        let content = futures_util::StreamExt::then(content, move |bytes| {
            let meter = meter.clone();
            async move {
                meter.sent(bytes.as_ref().map_or(0, Bytes::len)).await;
                bytes
            }
        });
        let body = reqwest::Body::wrap_stream(futures_util::StreamExt::chain(head, content));
        let request = self.http.post(self.url(&format!("edits?workspace={workspace}"))).body(body);
        self.json(self.send(request, EDITING).await?).await
    }

    async fn ask(&self, request: BatchRequest) -> Result<Answer, PeerError> {
        request.check().map_err(PeerError::Request)?;
        let body = serde_json::to_vec(&request).map_err(|error| PeerError::Request(error.to_string()))?;
        if body.len() > MAX_BATCH {
            return Err(PeerError::Request(format!("it has {} bytes, more than {MAX_BATCH}", body.len())));
        }
        let post = hyper::Request::post("/v1/batch")
            .header(header::HOST, HOST)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body.into()))
            .map_err(|error| PeerError::Request(error.to_string()))?;
        let lines = if request.bulk { &self.bulk_lines } else { &self.lines };
        let (line, response) = lines.post(post, self.idle).await?;
        let (response, body) = response.into_parts();
        let stream = Stream { lines: lines.clone(), line, body };
        if response.status != StatusCode::OK {
            let body = timeout(self.idle, stream.whole(MAX_JSON)).await.ok().flatten();
            return Err(
                self.refusal(response.status, body.and_then(|body| serde_json::from_slice(&body).ok()))
            );
        }
        // What can't be read of it is no loss: it only helps.
        let holders = response.headers.get(HOLDERS_HEADER).and_then(|names| names.to_str().ok());
        let holders = holders.into_iter().flat_map(|names| names.split(',')).take(MAX_HOLDERS);
        let holders = holders.filter_map(|id| id.parse().ok()).collect();
        Ok(Answer::new(self.node, self.address, self.idle, stream, request.pieces, request.bulk, holders))
    }

    #[cfg(test)]
    pub(super) fn idle_lines(&self) -> usize {
        self.lines.count()
    }

    fn url(&self, what: &str) -> String {
        format!("https://{HOST}:{}/v1/{what}", self.address.port())
    }

    fn profile_url(&self, workspace: &WorkspaceId, program: &PathKey) -> String {
        self.url(&format!("profile?workspace={workspace}&program={program}"))
    }

    fn misbehaved(&self, what: impl Into<String>) -> PeerError {
        PeerError::Misbehaved { peer: self.node, what: what.into() }
    }

    /// Sends a request and gives the head of its answer, if that is a good one.
    async fn send(
        &self,
        request: reqwest::RequestBuilder,
        patience: Duration,
    ) -> Result<reqwest::Response, PeerError> {
        let address = self.address;
        let response = match timeout(patience, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_timeout() => {
                return Err(PeerError::Timeout { address, doing: "connecting" });
            }
            Ok(Err(source)) => return Err(PeerError::Unreachable { address, source: source.into() }),
            Err(_) => return Err(PeerError::Timeout { address, doing: "answering" }),
        };
        let status = response.status();
        if matches!(status, StatusCode::OK | StatusCode::NOT_MODIFIED) {
            return Ok(response);
        }
        Err(self.refusal(status, self.json(response).await.ok()))
    }

    /// What an answer means that isn't a good one, by its status and what it says.
    fn refusal(&self, status: StatusCode, body: Option<ErrorBody>) -> PeerError {
        let peer = self.node;
        let message = match body {
            Some(body) => fit_to_show(&body.error),
            None => format!("it answered with {status}"),
        };
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => PeerError::Denied { peer, message },
            StatusCode::NOT_FOUND => PeerError::Unknown { peer },
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => PeerError::Busy(peer),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => PeerError::Request(message),
            _ => PeerError::Failed { peer, message },
        }
    }

    /// Reads a short answer to its end.
    async fn json<T: DeserializeOwned>(&self, mut response: reqwest::Response) -> Result<T, PeerError> {
        let address = self.address;
        let mut body = Vec::new();
        loop {
            let chunk = timeout(self.idle, response.chunk())
                .await
                .map_err(|_| PeerError::Timeout { address, doing: "answering" })?
                .map_err(|source| PeerError::Interrupted { address, source: Some(source.into()) })?;
            let Some(chunk) = chunk else { break };
            if body.len() + chunk.len() > MAX_JSON {
                return Err(self.misbehaved("its answer is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body)
            .map_err(|error| self.misbehaved(fit_to_show(&format!("its answer can't be read: {error}"))))
    }
}

/// What a node answers when it doesn't do what was asked.
#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

/// A peer's text, short and without anything that a terminal would obey.
fn fit_to_show(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect()
}
