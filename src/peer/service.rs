mod connection;
mod edit;
mod pair;
mod passing;
mod profile;
mod queue;
mod ready;
mod visit;

use std::{convert::Infallible, io, net::IpAddr, ops::Range, pin::pin, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::{Body, to_bytes},
    extract::{DefaultBodyLimit, Query, State, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use self::connection::{CONNECTIONS, CONNECTIONS_EACH, Connection, Holder, Slots, Socket};
pub use self::{
    passing::Held,
    queue::{BULK_SLOTS, BulkQueue, Queued},
    visit::{VisitRefusal, Visited},
};
use super::{
    answer::Producer,
    bandwidth::Bandwidth,
    capability::Capability,
    frame::{self, Kind},
    packed::PackedPieces,
    pairing::Reply,
    tls::{Credentials, CredentialsError},
    wire::{
        BatchRequest, Catalogue, HOLDERS_HEADER, MAX_BATCH, MAX_HOLDERS, MAX_TAG, MAX_WAIT, NodeInfo,
        PieceRequest,
    },
};
use crate::{
    blob::Blob,
    profile::Profile,
    publish::{EditError, Incoming},
    tree::{Edit, Snapshot},
    types::{Digest, Name, NodeId, PathKey, WorkspaceId, WorkspaceName},
};

/// Batch answers at a time: each holds a few pieces in memory, of up to 4 MiB mostly.
const ANSWERS: usize = 64;

/// Downloads of clients without a node at a time: each has a thread for as long as it takes …
const VISITS: usize = 24;

/// … and of one address.
const VISITS_EACH: usize = 6;

/// Passwords that are looked at at a time, which takes memory and time.
const GUESSES: usize = 2;

/// A batch request that has waited this long for its turn is told to come back later.
const PATIENCE: Duration = Duration::from_secs(5);

/// The TLS handshake, and later the body of a request, must be there after this time.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// An answer of up to so many bytes is handed over in one: a few ms of a gigabit link.
const SHORT: usize = 512 << 10;

/// Answers are handed over in bits of this many bytes.
const BIT: usize = 64 << 10;

/// Compressed pieces that are kept for the next guest, in bytes: what a large environment's start needs, twice over.
const PACKED: usize = 128 << 20;

/// What is under way at the shutdown has this long to end.
const FAREWELL: Duration = Duration::from_secs(1);

/// What this node serves to others. All but [`Served::node`] and [`Served::changes`] may block on the disk.
pub trait Served: Send + Sync + 'static {
    /// Who this node is.
    fn node(&self) -> NodeInfo;

    /// What `reader` may know of, and what of it it may read; nobody is an asker without a node's certificate.
    fn catalogue(&self, reader: Option<NodeId>) -> Catalogue;

    /// Changes whenever some reader's catalogue may have changed.
    fn changes(&self) -> watch::Receiver<u64>;

    /// The workspace, for `reader` to read.
    fn workspace(
        &self,
        id: &WorkspaceId,
        reader: Option<NodeId>,
    ) -> Result<Arc<dyn ServedWorkspace>, Refusal>;

    /// What is held of another's workspace, for `reader`, whose `capability` is signed and names it and the workspace.
    /// Whether the capability's owner is that workspace's and its time has come to an end is judged here.
    fn held(&self, reader: NodeId, capability: &Capability) -> Result<Arc<dyn Held>, Refusal>;

    /// What readers will probably ask for: groups of blobs, as they'd be asked for, the likeliest first. May block on the
    /// disk.
    fn expected(&self) -> Vec<ExpectedPieces>;

    /// The names of the workspaces that are open to clients without a node.
    fn visitable(&self) -> Vec<WorkspaceName> {
        Vec::new()
    }

    /// Opens one of them, for whoever comes from `from` with this password. Blocks for as long as checking it takes.
    fn visit(&self, _: &WorkspaceName, _: Option<&str>, _: IpAddr) -> Result<Visited, VisitRefusal> {
        Err(VisitRefusal::Unknown)
    }

    /// Answers the first message of a node that wants to pair. Doesn't block.
    fn pair(&self, _: NodeId, _: &[u8]) -> Result<Reply, Refusal> {
        Err(Refusal::Denied)
    }

    /// Takes the proof of a node that was answered. Blocks for as long as writing it down takes.
    fn paired(&self, _: NodeId, _: [u8; 32]) -> Result<(), Refusal> {
        Err(Refusal::Denied)
    }
}

/// What will probably be asked for of a workspace.
pub type ExpectedPieces = (Arc<dyn ServedWorkspace>, Vec<(Blob, Range<u64>)>);

/// One workspace, as a reader who is allowed to sees it. All calls may block on the disk.
pub trait ServedWorkspace: Send + Sync {
    /// The tree object, if the workspace has it.
    fn tree(&self, digest: &Digest) -> Option<Bytes>;

    /// A blob that is fetched whole; its bytes have been checked against the digest.
    fn blob(&self, digest: &Digest) -> Result<Bytes, ServeError>;

    /// Some groups of a larger blob, in the encoding of [`crate::blob::encode_slice`].
    fn slice(&self, blob: &Blob, groups: Range<u64>) -> Result<Vec<u8>, ServeError>;

    /// The outline of a window of a larger blob, in the encoding of [`crate::blob::encode_outline`].
    fn outline(&self, blob: &Blob, window: u64) -> Result<Vec<u8>, ServeError>;

    /// Whether a file still has the blob's content as far as its status tells: what was read of it before may then be
    /// sent again.
    fn check(&self, blob: &Blob) -> Result<(), ServeError>;

    /// `length` bytes from `offset` of a file that isn't hashed yet, if its version token is still `token`.
    fn pending(&self, path: &[Name], token: u64, offset: u64, length: u32) -> Result<Vec<u8>, ServeError>;

    /// Notes that the reader asks for these pieces; gives other nodes that lately asked for parts of the same large
    /// blob, at most [`MAX_HOLDERS`]: they will hold them, and some of the work can be theirs. Doesn't block.
    fn co_readers(&self, pieces: &[PieceRequest]) -> Vec<NodeId>;

    /// What a launch reads that begins with the file at this path, as far as readers have told.
    fn profile(&self, program: &PathKey) -> Profile;

    /// The snapshots that are kept, oldest first.
    fn history(&self) -> Vec<Snapshot> {
        Vec::new()
    }

    /// Whether the reader may change it.
    fn may_write(&self) -> bool {
        false
    }

    /// Notes that the reader wants to change it.
    fn ask_to_write(&self) {}

    /// Begins to take an edit, from a reader who may.
    fn take(&self, edit: Edit) -> Result<Incoming, EditError> {
        let _ = edit;
        Err(EditError::Invalid("this workspace takes no edits"))
    }

    /// Takes what a reader's launch has read, for others: it's advice, and may be dropped.
    fn offer(&self, program: &PathKey, profile: Profile);
}

/// Why a workspace isn't served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such workspace, or the reader may not know of it.
    #[error("there's no such workspace here")]
    Unknown,
    /// The reader may not read it.
    #[error("the owner doesn't let you read this workspace")]
    Denied,
}

/// Why a piece isn't served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The workspace has no such thing.
    #[error("there's no such piece")]
    Unknown,
    /// The file isn't any more what the digest or token names.
    #[error("the file has changed")]
    Changed,
    /// The reader may not have it, or not any more.
    #[error("the owner doesn't let you read it")]
    Denied,
    /// The file can't be read.
    #[error("the file can't be read")]
    Io(#[from] io::Error),
}

/// How the share service serves.
#[derive(Clone)]
pub struct ServeOptions {
    /// What all connections are kept within.
    pub bandwidth: Arc<Bandwidth>,
    /// Where bulk answers wait for their turn.
    pub bulk: BulkQueue,
    /// Whether those who ask for it are answered without TLS. They are nobody in particular then.
    pub plain: bool,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { bandwidth: Arc::default(), bulk: BulkQueue::new(BULK_SLOTS), plain: false }
    }
}

/// Serves `shares` on `listener` until `shutdown` completes.
///
/// Connections are taken that `admits` says yes to, by the addresses of the other end and of this one.
///
/// Every connection is TLS 1.3, unless the options say otherwise; a node shows its own certificate and is the reader, anyone
/// else is nobody. What is under way at the end is given a second to finish.
pub async fn serve(
    listener: TcpListener,
    credentials: &Credentials,
    shares: Arc<dyn Served>,
    admits: impl Fn(IpAddr, IpAddr) -> bool,
    options: ServeOptions,
    shutdown: impl Future<Output = ()>,
) -> Result<(), CredentialsError> {
    let tls = TlsAcceptor::from(Arc::new(credentials.server_config()?));
    let service = Service::new(shares, options.bulk);
    let router = router(service.clone());
    let slots = Slots::new(CONNECTIONS_EACH, CONNECTIONS);
    let (stop, stopping) = watch::channel(false);
    let ready = tokio::spawn(ready::keep_ready(service));
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let own = stream.local_addr().map_or(address.ip(), |own| own.ip());
                if !admits(address.ip(), own) {
                    tracing::debug!(%address, "a connection that isn't from the LAN is closed");
                    continue;
                }
                // Beyond the limit a connection is closed at once, so that the queue in the kernel doesn't fill up.
                if let Some(slot) = slots.take(Holder::Handshake(address.ip())) {
                    let connection = Connection {
                        address,
                        slot,
                        tls: tls.clone(),
                        plain: options.plain,
                        meter: options.bandwidth.meter(address.ip()),
                        slots: slots.clone(),
                        router: router.clone(),
                    };
                    connections.spawn(connection.run(stream, stopping.clone()));
                }
            }
            Err(error) => {
                // Out of descriptors, mostly: trying again at once would burn a core until one is free.
                tracing::warn!(%error, "can't accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    ready.abort();
    stop.send_replace(true);
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(FAREWELL, all).await;
    Ok(())
}

/// Who asks, as the connection has shown.
#[derive(Debug, Clone, Copy)]
struct Reader(Option<NodeId>);

#[derive(Clone)]
struct Service {
    shares: Arc<dyn Served>,
    /// Batch answers that may be under way.
    answers: Arc<Semaphore>,
    /// Those for other owners' guests.
    passings: Arc<Semaphore>,
    /// Launch profiles that may be being told.
    offers: Arc<Semaphore>,
    edits: Arc<Semaphore>,
    /// What clients without a node may be fetching: each has a thread for as long as it takes.
    visits: Slots,
    bulk: BulkQueue,
    /// Threads that may make bulk answers at a time, so that a core is left to those whom somebody waits for.
    bulk_threads: Arc<Semaphore>,
    /// Passwords that may be being looked at.
    guesses: Arc<Semaphore>,
    /// Tells when a launch profile has been told.
    told: Arc<Notify>,
    /// What was compressed for earlier answers.
    packed: Arc<PackedPieces>,
    /// Threads that may read and compress at a time: more would only keep the mount's own reads from theirs.
    threads: Arc<Semaphore>,
}

fn router(service: Service) -> Router {
    Router::new()
        .route("/v1/node", get(node))
        .route("/v1/catalogue", get(catalogue))
        .route("/v1/batch", post(batch))
        .route("/v1/history", get(history))
        .route("/v1/pair", post(pair::pair))
        .route("/w", get(visit::names))
        .route("/w/", get(visit::names))
        .route("/w/{*path}", get(visit::visit))
        .route("/v1/edits", post(edit::take).layer(DefaultBodyLimit::disable()))
        .route("/v1/profile", get(profile::give).post(profile::take))
        .fallback(async || {
            ServiceError::new(StatusCode::NOT_FOUND, "unknown", "there's nothing at this address")
        })
        .method_not_allowed_fallback(async || {
            ServiceError::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this address takes another method")
        })
        .with_state(service)
}

/// An answer that says why there is none.
struct ServiceError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ServiceError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    fn failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", message)
    }

    fn busy() -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", "too many are being served; try again")
    }

    fn refused(refusal: Refusal, reader: Option<NodeId>) -> Self {
        let status = match (refusal, reader) {
            (Refusal::Unknown, _) => StatusCode::NOT_FOUND,
            (Refusal::Denied, None) => StatusCode::UNAUTHORIZED,
            (Refusal::Denied, Some(_)) => StatusCode::FORBIDDEN,
        };
        let code = if refusal == Refusal::Unknown { "unknown" } else { "denied" };
        Self::new(status, code, refusal.to_string())
    }
}

impl IntoResponse for ServiceError {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.message, "code": self.code }))).into_response()
    }
}

async fn node(State(service): State<Service>) -> Json<NodeInfo> {
    Json(service.shares.node())
}

#[derive(Deserialize)]
struct CatalogueQuery {
    after: Option<String>,
    #[serde(default)]
    wait: u64,
}

async fn catalogue(
    State(service): State<Service>,
    Extension(Reader(reader)): Extension<Reader>,
    query: Result<Query<CatalogueQuery>, QueryRejection>,
) -> Result<Response, ServiceError> {
    let Query(query) = query.map_err(|error| ServiceError::invalid(error.body_text()))?;
    if query.after.as_ref().is_some_and(|tag| tag.len() > MAX_TAG) {
        return Err(ServiceError::invalid("that is no tag of a catalogue"));
    }
    let mut wait = pin!(sleep(Duration::from_secs(query.wait.min(MAX_WAIT))));
    // Watched before the catalogue is made, so that no change falls between the two.
    let mut changes = service.shares.changes();
    loop {
        let shares = service.shares.clone();
        let catalogue = service.blocking(move || shares.catalogue(reader)).await?;
        if query.after.as_ref() != Some(&catalogue.tag) {
            return Ok(Json(catalogue).into_response());
        }
        let changed = tokio::select! {
            changed = changes.changed() => changed.is_ok(),
            () = &mut wait => false,
        };
        if !changed {
            return Ok(StatusCode::NOT_MODIFIED.into_response());
        }
    }
}

#[derive(Deserialize)]
struct OfWorkspace {
    workspace: WorkspaceId,
}

/// The snapshots that are kept.
async fn history(
    State(service): State<Service>,
    Extension(Reader(reader)): Extension<Reader>,
    which: Result<Query<OfWorkspace>, QueryRejection>,
) -> Result<Json<Vec<Snapshot>>, ServiceError> {
    let Query(OfWorkspace { workspace }) = which.map_err(|error| ServiceError::invalid(error.body_text()))?;
    let shares = service.shares.clone();
    let opened = service.blocking(move || shares.workspace(&workspace, reader)).await?;
    let opened = opened.map_err(|refusal| ServiceError::refused(refusal, reader))?;
    Ok(Json(service.blocking(move || opened.history()).await?))
}

async fn batch(
    State(service): State<Service>,
    Extension(Reader(reader)): Extension<Reader>,
    Extension(holder): Extension<Holder>,
    Extension(socket): Extension<Socket>,
    body: Body,
) -> Result<Response, ServiceError> {
    let request: BatchRequest = json_body(body, MAX_BATCH).await?;
    request.check().map_err(ServiceError::invalid)?;
    if let Some(capability) = request.capability {
        return passing::pass_on(service, reader, capability, request).await;
    }
    if request.bulk {
        return bulk(service, holder, socket, reader, request).await;
    }
    let turn = timeout(PATIENCE, service.answers.clone().acquire_owned());
    let Ok(Ok(turn)) = turn.await else {
        return Err(ServiceError::busy());
    };
    let (shares, packed) = (service.shares.clone(), service.packed.clone());
    let begin = move || {
        let workspace = shares.workspace(&request.workspace, reader)?;
        let holders = workspace.co_readers(&request.pieces);
        let mut producer = Producer::new(workspace, packed, request.pieces);
        Ok((producer.portion(), producer, holders))
    };
    let begun = service.blocking(begin).await?;
    let (first, producer, holders) = begun.map_err(|refusal| ServiceError::refused(refusal, reader))?;
    let first = first.unwrap_or_default();
    // Most answers are short: such a one goes out with its head, in one step.
    let mut response = if producer.has_ended() && first.len() <= SHORT {
        answered(first.into())
    } else {
        let (sender, receiver) = mpsc::channel::<Bytes>(16);
        let threads = service.threads.clone();
        tokio::spawn(send_on(service, threads, turn, first, producer, sender));
        streamed(receiver)
    };
    let names: Vec<String> = holders.iter().take(MAX_HOLDERS).map(NodeId::to_string).collect();
    if let (false, Ok(names)) = (names.is_empty(), HeaderValue::try_from(names.join(","))) {
        response.headers_mut().insert(HOLDERS_HEADER, names);
    }
    Ok(response)
}

/// Reads the body of a request, which may have at most `limit` bytes.
async fn json_body<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, ServiceError> {
    let body = timeout(HANDSHAKE, to_bytes(body, limit))
        .await
        .map_err(|_| ServiceError::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the request took too long"))?
        .map_err(|_| {
            let message = format!("a request has at most {limit} bytes");
            ServiceError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
        })?;
    serde_json::from_slice(&body).map_err(|error| ServiceError::invalid(error.to_string()))
}

/// Answers a bulk request when its turn has come.
async fn bulk(
    service: Service,
    holder: Holder,
    socket: Socket,
    reader: Option<NodeId>,
    request: BatchRequest,
) -> Result<Response, ServiceError> {
    let shares = service.shares.clone();
    let opened = service.blocking(move || shares.workspace(&request.workspace, reader)).await?;
    let opened = opened.map_err(|refusal| ServiceError::refused(refusal, reader))?;
    let (sender, receiver) = mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        let tell = |position| {
            let mut frame = Vec::new();
            frame::put_empty(&mut frame, Kind::Waiting, position);
            let sender = sender.clone();
            async move { sender.send(frame.into()).await.is_ok() }
        };
        let Some(turn) = service.bulk.turn(holder, tell).await else { return };
        socket.step_back(service.bulk.under_way());
        let producer = Producer::new(opened, service.packed.clone(), request.pieces);
        let threads = service.bulk_threads.clone();
        send_on(service, threads, turn, Bytes::new(), producer, sender).await;
    });
    Ok(streamed(receiver))
}

/// Sends an answer from its first portion on, which is made already. The disk works while the network does: some of a
/// portion waits in the channel while the next one is made.
async fn send_on(
    service: Service,
    threads: Arc<Semaphore>,
    _turn: impl Send,
    mut portion: Bytes,
    mut producer: Producer,
    sender: mpsc::Sender<Bytes>,
) {
    loop {
        if !hand_over(&sender, portion).await || producer.has_ended() {
            return;
        }
        let step = service.on_thread(&threads, move || (producer.portion(), producer));
        // Without its end frame the client knows that the answer is incomplete.
        let Ok((Some(next), rest)) = step.await else { return };
        (portion, producer) = (next, rest);
    }
}

/// Hands over a part of an answer in small bits, so that little of it waits in memory for a client that is slow; false when
/// nobody takes it any more.
async fn hand_over(sender: &mpsc::Sender<Bytes>, mut part: Bytes) -> bool {
    while !part.is_empty() {
        if sender.send(part.split_to(part.len().min(BIT))).await.is_err() {
            return false;
        }
    }
    true
}

/// The answer whose bytes are received.
fn streamed(receiver: mpsc::Receiver<Bytes>) -> Response {
    let portions = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|portion| (Ok::<_, Infallible>(portion), receiver))
    });
    answered(Body::from_stream(portions))
}

fn answered(body: Body) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/vnd.twinshare.batch")];
    (kind, body).into_response()
}

impl Service {
    fn new(shares: Arc<dyn Served>, bulk: BulkQueue) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            shares,
            answers: Arc::new(Semaphore::new(ANSWERS)),
            passings: Arc::new(Semaphore::new(passing::PASSINGS)),
            offers: Arc::new(Semaphore::new(profile::OFFERS)),
            edits: Arc::new(Semaphore::new(edit::EDITS)),
            told: Arc::default(),
            packed: Arc::new(PackedPieces::new(PACKED)),
            visits: Slots::new(VISITS_EACH, VISITS),
            bulk,
            bulk_threads: Arc::new(Semaphore::new((cores / 2).max(1))),
            guesses: Arc::new(Semaphore::new(GUESSES)),
            threads: Arc::new(Semaphore::new(2 * cores)),
        }
    }

    /// Looks at a password on a thread of its own, so that reads don't wait for it.
    async fn guessing<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ServiceError> {
        self.on_thread(&self.guesses, work).await
    }

    /// Runs what may block on a thread that may.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ServiceError> {
        self.on_thread(&self.threads, work).await
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        turns: &Semaphore,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ServiceError> {
        let failed = || ServiceError::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "the node has failed");
        let _thread = turns.acquire().await.map_err(|_| failed())?;
        tokio::task::spawn_blocking(work).await.map_err(|error| {
            tracing::error!(%error, "serving a request failed");
            failed()
        })
    }
}
