//! Launch profiles: what a launch of a workspace's program reads, kept by its owner for all who may read it.

use std::sync::Arc;

use axum::{
    Extension, Json,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{Reader, Refusal, ServedWorkspace, Service, ServiceError, json_body};
use crate::{
    peer::wire::MAX_PROFILE,
    profile::Profile,
    types::{NodeId, PathKey, WorkspaceId},
};

/// Offers that are heard at a time: each may take some tens of megabytes while it's read.
pub(super) const OFFERS: usize = 4;

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
    let (workspace, program) = opened(&service, reader, which).await?;
    let profile = service.blocking(move || workspace.profile(&program)).await?;
    Ok(Json(profile).into_response())
}

/// Takes what a reader's launch has read.
pub(super) async fn take(
    State(service): State<Service>,
    Extension(Reader(reader)): Extension<Reader>,
    which: Result<Query<Which>, QueryRejection>,
    body: Body,
) -> Result<Response, ServiceError> {
    // Who nobody knows could fill it with anything.
    let reader = Some(reader.ok_or_else(|| ServiceError::refused(Refusal::Denied, None))?);
    let (workspace, program) = opened(&service, reader, which).await?;
    // It's advice: whoever comes while others are heard may as well keep it.
    let _turn = service.offers.try_acquire().map_err(|_| ServiceError::busy())?;
    let profile: Profile = json_body(body, MAX_PROFILE).await?;
    service.blocking(move || workspace.offer(&program, profile)).await?;
    service.told.notify_one();
    Ok(Json(()).into_response())
}

/// The workspace that is meant, for `reader` to read, and the program.
async fn opened(
    service: &Service,
    reader: Option<NodeId>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<(Arc<dyn ServedWorkspace>, PathKey), ServiceError> {
    let Query(Which { workspace, program }) =
        which.map_err(|error| ServiceError::invalid(error.body_text()))?;
    let shares = service.shares.clone();
    let opened = service.blocking(move || shares.workspace(&workspace, reader)).await?;
    Ok((opened.map_err(|refusal| ServiceError::refused(refusal, reader))?, program))
}
