use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, RawQuery, Request, State},
    http::{StatusCode, header::CONTENT_TYPE, request::Parts},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde::de::DeserializeOwned;
use twinshare::{
    api::{
        AccessRequest, BODY_LIMIT, Control, FileEntry, FilePath, Finding, Host, Join, Judgement, LaunchPlan,
        LaunchRequest, PREFIX, Peer, Problem, Share, ShareRequest, Status,
    },
    types::{NodeId, WorkspaceName},
};

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
struct Body<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
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
        .route("/launches", post(launch::<C>))
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
    Body(request): Body<ShareRequest>,
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
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<FileEntry>>, Failure> {
    let path = FilePath::from_query(&query.unwrap_or_default()).map_err(Problem::invalid)?;
    Ok(Json(node.files(path).await?))
}

async fn peers<C: Control>(State(node): Node<C>) -> Json<Vec<Peer>> {
    Json(node.peers().await)
}

async fn add_peer<C: Control>(
    State(node): Node<C>,
    Body(join): Body<Join>,
) -> Result<(StatusCode, Json<Peer>), Failure> {
    Ok((StatusCode::CREATED, Json(node.add_peer(join.address).await?)))
}

async fn requests<C: Control>(State(node): Node<C>) -> Json<Vec<AccessRequest>> {
    Json(node.requests().await)
}

async fn decide<C: Control>(
    State(node): Node<C>,
    Parameters((workspace, peer)): Parameters<(WorkspaceName, NodeId)>,
    Body(judgement): Body<Judgement>,
) -> Result<StatusCode, Failure> {
    node.decide(workspace, peer, judgement.decision).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn launch<C: Control>(
    State(node): Node<C>,
    Body(request): Body<LaunchRequest>,
) -> Result<Json<LaunchPlan>, Failure> {
    if request.command.is_empty() {
        return Err(Problem::invalid("the command of a launch can't be empty").into());
    }
    Ok(Json(node.launch(request).await?))
}

async fn doctor<C: Control>(State(node): Node<C>) -> Json<Vec<Finding>> {
    Json(node.doctor().await)
}
