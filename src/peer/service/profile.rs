//! Launch profiles: what a launch of a workspace's program reads, kept by its owner for all who may read it.

use axum::{
    Extension, Json,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{Reader, Refusal, Service, ServiceError, json_body};
use crate::{
    peer::wire::MAX_PROFILE,
    profile::Profile,
    types::{PathKey, WorkspaceId},
};

/// Which profile is meant.
#[derive(Deserialize)]
pub(super) struct Which {
    workspace: WorkspaceId,
    program: PathKey,
}

/// What the launch of a program reads; nothing when that isn't known.
pub(super) async fn give(
    State(service): State<Service>,
    Extension(Reader(reader)): Extension<Reader>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Response, ServiceError> {
    let Query(Which { workspace, program }) =
        which.map_err(|error| ServiceError::invalid(error.body_text()))?;
    let shares = service.shares.clone();
    let profile = service
        .blocking(move || Ok(shares.workspace(&workspace, reader)?.profile(&program)))
        .await?
        .map_err(|refusal| ServiceError::refused(refusal, reader))?;
    Ok(Json(profile).into_response())
}

/// Takes what a reader's launch has read.
pub(super) async fn take(
    State(service): State<Service>,
    Extension(Reader(reader)): Extension<Reader>,
    which: Result<Query<Which>, QueryRejection>,
    body: Body,
) -> Result<Response, ServiceError> {
    let Query(Which { workspace, program }) =
        which.map_err(|error| ServiceError::invalid(error.body_text()))?;
    // Who nobody knows could fill it with anything.
    let reader = Some(reader.ok_or_else(|| ServiceError::refused(Refusal::Denied, None))?);
    let shares = service.shares.clone();
    let opened = service
        .blocking(move || shares.workspace(&workspace, reader))
        .await?
        .map_err(|refusal| ServiceError::refused(refusal, reader))?;
    let profile: Profile = json_body(body, MAX_PROFILE).await?;
    service.blocking(move || opened.offer(&program, profile)).await?;
    Ok(Json(()).into_response())
}
