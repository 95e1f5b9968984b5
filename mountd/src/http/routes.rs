use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{
        DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, RawQuery, Request, State,
        rejection::QueryRejection,
        ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{StatusCode, header::CONTENT_TYPE, request::Parts},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use futures_util::StreamExt;
use serde::{Deserialize, de::DeserializeOwned};
use twinshare::{
    access::Group,
    api::{
        AccessReport, AccessRequest, AuditEntry, BODY_LIMIT, BulkTurn, CacheReport, Control, FileEntry,
        FilePath, Finding, Following, GrantRequest, Groups, Host, Invitation, Join, JoinRequest, Judgement,
        Launch, LaunchPlan, LaunchRequest, LayerChange, MergeReport, PREFIX, PairingEnd, PasswordRequest,
        Peer, Pin, Problem, PushReport, RawText, Share, ShareRequest, SnapshotInfo, StartAnswer,
        StartRequest, Status,
    },
    peer::PairingCode,
    types::{NodeId, WorkspaceName},
};

/// How often a follower of events shows that it's there.
const PING: Duration = Duration::from_secs(30);

/// A problem as an answer.
pub(super) struct Failure(Problem);

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(CONTENT_TYPE, "application/problem+json")], Json(self.0).into_response().into_body())
            .into_response()
    }
}

/// A JSON body; what is wrong with it is said as a problem.
struct Sent<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Sent<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let Json(value) = Json::from_request(request, state).await.map_err(|rejection| {
            let status = rejection.status();
            Problem::new(
                status.as_u16(),
                status.canonical_reason().unwrap_or("Bad Request"),
                rejection.body_text(),
            )
        })?;
        Ok(Self(value))
    }
}

/// The variable parts of the URL's path; what is wrong with them is said as a problem.
struct Parameters<T>(T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Parameters<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path(value) = Path::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::invalid(rejection.body_text()))?;
        Ok(Self(value))
    }
}

/// The path in the URL's query.
struct Asked(FilePath);

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let path = FilePath::from_query(parts.uri.query().unwrap_or_default());
        Ok(Self(path.map_err(Problem::invalid)?))
    }
}

/// What a handler has of the node.
type Node<C> = State<Arc<C>>;

/// All endpoints of the API.
pub(super) fn router<C: Control>(node: Arc<C>) -> Router {
    let api = Router::new()
        .route("/status", get(status::<C>))
        .route("/shutdown", post(shutdown::<C>))
        .route("/shares", get(shares::<C>).post(share::<C>))
        .route("/shares/{name}", delete(unshare::<C>))
        .route("/hosts", get(hosts::<C>))
        .route("/files", get(files::<C>))
        .route("/peers", get(peers::<C>).post(add_peer::<C>))
        .route("/requests", get(requests::<C>))
        .route("/requests/{workspace}/{peer}", post(decide::<C>))
        .route("/shares/{name}/access", get(access::<C>).post(grant::<C>))
        .route("/pairings", post(invite::<C>).put(join::<C>))
        .route("/pairings/{which}", get(invited::<C>).delete(unpair::<C>))
        .route("/shares/{name}/password", put(set_password::<C>))
        .route("/groups", get(groups::<C>))
        .route("/groups/{name}", put(set_group::<C>))
        .route("/transfers", get(transfers::<C>))
        .route("/audit", get(audit::<C>))
        .route("/launches", post(launch::<C>))
        .route("/environments", get(environments::<C>).post(start::<C>))
        .route("/environments/{id}", delete(stop::<C>))
        .route("/environments/{id}/end", get(wait::<C>))
        .route("/secrets", get(secrets::<C>))
        .route("/secrets/{name}", put(set_secret::<C>).delete(forget_secret::<C>))
        .route("/cache", get(cache::<C>).delete(clear_cache::<C>))
        .route("/prefetches", post(prefetch::<C>))
        .route("/pins", post(pin::<C>).delete(unpin::<C>))
        .route("/changes", get(changes::<C>).delete(discard::<C>))
        .route("/diffs", get(change_text::<C>))
        .route("/history", get(history::<C>))
        .route("/pushes", post(push::<C>))
        .route("/pulls", post(pull::<C>))
        .route("/events", get(events::<C>))
        .route("/doctor", get(doctor::<C>));
    Router::new()
        .nest(PREFIX, api)
        .method_not_allowed_fallback(|| async {
            Failure(Problem::new(405, "Method Not Allowed", "this endpoint doesn't know that method"))
        })
        .fallback(|| async { Failure(Problem::missing("there's no such endpoint")) })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(node)
}

async fn status<C: Control>(State(node): Node<C>) -> Json<Status> {
    Json(node.status().await)
}

async fn shutdown<C: Control>(State(node): Node<C>) -> StatusCode {
    node.shutdown();
    StatusCode::ACCEPTED
}

async fn shares<C: Control>(State(node): Node<C>) -> Json<Vec<Share>> {
    Json(node.shares().await)
}

async fn share<C: Control>(
    State(node): Node<C>,
    Sent(request): Sent<ShareRequest>,
) -> Result<(StatusCode, Json<Share>), Failure> {
    if !request.path.as_path().is_absolute() {
        return Err(Problem::invalid("the path of a share must be absolute").into());
    }
    Ok((StatusCode::CREATED, Json(node.share(request).await?)))
}

async fn unshare<C: Control>(
    State(node): Node<C>,
    Parameters(name): Parameters<WorkspaceName>,
) -> Result<StatusCode, Failure> {
    node.unshare(name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn hosts<C: Control>(State(node): Node<C>) -> Json<Vec<Host>> {
    Json(node.hosts().await)
}

async fn files<C: Control>(
    State(node): Node<C>,
    Asked(path): Asked,
) -> Result<Json<Vec<FileEntry>>, Failure> {
    Ok(Json(node.files(path).await?))
}

async fn cache<C: Control>(State(node): Node<C>) -> Result<Json<CacheReport>, Failure> {
    Ok(Json(node.cache().await?))
}

async fn clear_cache<C: Control>(
    State(node): Node<C>,
    RawQuery(query): RawQuery,
) -> Result<Json<CacheReport>, Failure> {
    let which = query.map(|query| FilePath::from_query(&query)).transpose().map_err(Problem::invalid)?;
    Ok(Json(node.clear_cache(which).await?))
}

/// Answers with a line of JSON for each step. When the caller goes away, the answer is dropped and the prefetch with it.
async fn prefetch<C: Control>(State(node): Node<C>, Asked(path): Asked) -> Result<Response, Failure> {
    let steps = node.prefetch(path).await?;
    let lines = steps.map(|step| {
        let mut line = serde_json::to_vec(&step)?;
        line.push(b'\n');
        Ok::<_, serde_json::Error>(line)
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

async fn pin<C: Control>(
    State(node): Node<C>,
    Asked(path): Asked,
) -> Result<(StatusCode, Json<Pin>), Failure> {
    Ok((StatusCode::CREATED, Json(node.pin(path).await?)))
}

async fn unpin<C: Control>(State(node): Node<C>, Asked(path): Asked) -> Result<StatusCode, Failure> {
    node.unpin(path).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn changes<C: Control>(
    State(node): Node<C>,
    Asked(path): Asked,
) -> Result<Json<Vec<LayerChange>>, Failure> {
    Ok(Json(node.changes(path).await?))
}

async fn change_text<C: Control>(State(node): Node<C>, Asked(path): Asked) -> Result<Json<String>, Failure> {
    Ok(Json(node.change_text(path).await?))
}

async fn discard<C: Control>(
    State(node): Node<C>,
    Asked(path): Asked,
) -> Result<Json<Vec<RawText>>, Failure> {
    Ok(Json(node.discard(path).await?))
}

async fn history<C: Control>(
    State(node): Node<C>,
    Asked(path): Asked,
) -> Result<Json<Vec<SnapshotInfo>>, Failure> {
    Ok(Json(node.history(path).await?))
}

async fn push<C: Control>(State(node): Node<C>, Asked(path): Asked) -> Result<Json<PushReport>, Failure> {
    Ok(Json(node.push(path).await?))
}

async fn pull<C: Control>(State(node): Node<C>, Asked(path): Asked) -> Result<Json<MergeReport>, Failure> {
    Ok(Json(node.pull(path).await?))
}

async fn peers<C: Control>(State(node): Node<C>) -> Json<Vec<Peer>> {
    Json(node.peers().await)
}

async fn add_peer<C: Control>(
    State(node): Node<C>,
    Sent(join): Sent<Join>,
) -> Result<(StatusCode, Json<Peer>), Failure> {
    Ok((StatusCode::CREATED, Json(node.add_peer(join.address).await?)))
}

async fn requests<C: Control>(State(node): Node<C>) -> Json<Vec<AccessRequest>> {
    Json(node.requests().await)
}

async fn decide<C: Control>(
    State(node): Node<C>,
    Parameters((workspace, peer)): Parameters<(WorkspaceName, NodeId)>,
    Sent(judgement): Sent<Judgement>,
) -> Result<StatusCode, Failure> {
    node.decide(workspace, peer, judgement.decision).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn access<C: Control>(
    State(node): Node<C>,
    Parameters(name): Parameters<WorkspaceName>,
) -> Result<Json<AccessReport>, Failure> {
    Ok(Json(node.access(name).await?))
}

async fn grant<C: Control>(
    State(node): Node<C>,
    Parameters(name): Parameters<WorkspaceName>,
    Sent(request): Sent<GrantRequest>,
) -> Result<StatusCode, Failure> {
    node.grant(name, request).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn set_password<C: Control>(
    State(node): Node<C>,
    Parameters(name): Parameters<WorkspaceName>,
    Sent(request): Sent<PasswordRequest>,
) -> Result<StatusCode, Failure> {
    node.set_password(name, request).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn invite<C: Control>(State(node): Node<C>) -> (StatusCode, Json<Invitation>) {
    (StatusCode::CREATED, Json(node.invite().await))
}

async fn invited<C: Control>(
    State(node): Node<C>,
    Parameters(code): Parameters<PairingCode>,
) -> Json<PairingEnd> {
    Json(node.invited(code).await)
}

async fn join<C: Control>(
    State(node): Node<C>,
    Sent(request): Sent<JoinRequest>,
) -> Result<StatusCode, Failure> {
    node.join(request).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn unpair<C: Control>(
    State(node): Node<C>,
    Parameters(peer): Parameters<NodeId>,
) -> Result<StatusCode, Failure> {
    node.unpair(peer).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn groups<C: Control>(State(node): Node<C>) -> Json<Groups> {
    Json(node.groups().await)
}

async fn set_group<C: Control>(
    State(node): Node<C>,
    Parameters(name): Parameters<Group>,
    Sent(members): Sent<BTreeSet<NodeId>>,
) -> Result<StatusCode, Failure> {
    node.set_group(name, members).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn transfers<C: Control>(State(node): Node<C>) -> Json<Vec<BulkTurn>> {
    Json(node.transfers().await)
}

async fn audit<C: Control>(State(node): Node<C>) -> Result<Json<Vec<AuditEntry>>, Failure> {
    Ok(Json(node.audit().await?))
}

async fn launch<C: Control>(
    State(node): Node<C>,
    Sent(request): Sent<LaunchRequest>,
) -> Result<Json<LaunchPlan>, Failure> {
    if request.command.is_empty() {
        return Err(Problem::invalid("the command of a launch can't be empty").into());
    }
    Ok(Json(node.launch(request).await?))
}

async fn start<C: Control>(
    State(node): Node<C>,
    Sent(request): Sent<StartRequest>,
) -> Result<Json<StartAnswer>, Failure> {
    Ok(Json(node.start(request).await?))
}

async fn environments<C: Control>(State(node): Node<C>) -> Json<Vec<Launch>> {
    Json(node.environments().await)
}

/// How an environment is to end.
#[derive(Deserialize)]
struct Ending {
    #[serde(default)]
    at_once: bool,
}

async fn stop<C: Control>(
    State(node): Node<C>,
    Parameters(id): Parameters<String>,
    ending: Result<Query<Ending>, QueryRejection>,
) -> Result<Json<Launch>, Failure> {
    let Query(ending) = ending.map_err(|rejection| Problem::invalid(rejection.body_text()))?;
    Ok(Json(node.stop(id, ending.at_once).await?))
}

async fn wait<C: Control>(
    State(node): Node<C>,
    Parameters(id): Parameters<String>,
) -> Result<Json<Launch>, Failure> {
    Ok(Json(node.wait(id).await?))
}

async fn secrets<C: Control>(State(node): Node<C>) -> Result<Json<Vec<String>>, Failure> {
    Ok(Json(node.secrets().await?))
}

async fn set_secret<C: Control>(
    State(node): Node<C>,
    Parameters(name): Parameters<String>,
    Sent(value): Sent<String>,
) -> Result<StatusCode, Failure> {
    node.set_secret(name, Some(value)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn forget_secret<C: Control>(
    State(node): Node<C>,
    Parameters(name): Parameters<String>,
) -> Result<StatusCode, Failure> {
    node.set_secret(name, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// From where events are wanted.
#[derive(Deserialize)]
struct After {
    after: Option<u64>,
}

/// Sends each event as a text message with JSON in it, until the caller goes away.
async fn events<C: Control>(
    State(node): Node<C>,
    after: Result<Query<After>, QueryRejection>,
    socket: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Failure> {
    let Query(After { after }) = after.map_err(|rejection| Problem::invalid(rejection.body_text()))?;
    let socket = socket.map_err(|_| {
        Problem::new(426, "Upgrade Required", "events come by WebSocket")
            .with_remedy("use 'twinshare events'")
    })?;
    Ok(socket.on_upgrade(move |socket| follow(socket, node.events(after))))
}

async fn follow(mut socket: WebSocket, mut events: Following) {
    // Else a caller that vanished would be noticed at the next event only.
    let mut pings = tokio::time::interval(PING);
    loop {
        let message = tokio::select! {
            event = events.next() => match event.and_then(|event| serde_json::to_string(&event).ok()) {
                Some(text) => Message::text(text),
                None => return,
            },
            _ = pings.tick() => Message::Ping(Default::default()),
            heard = socket.recv() => match heard {
                Some(Ok(_)) => continue,
                _ => return,
            },
        };
        if socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn doctor<C: Control>(State(node): Node<C>) -> Json<Vec<Finding>> {
    Json(node.doctor().await)
}
