//! Edits that guests want made in the owner's folder.

use axum::{
    Extension, Json,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
};
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::{OfWorkspace, Reader, Refusal, Service, ServiceError, connection::STALLED};
use crate::{
    peer::wire::{EditOutcome, MAX_EDIT},
    publish::EditError,
    tree::Edit,
};

/// Edits that are taken at a time.
pub(super) const EDITS: usize = 2;

impl From<EditError> for ServiceError {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Invalid(_) | EditError::NotShared(_) => Self::invalid(error.to_string()),
            error => Self::failed(error.to_string()),
        }
    }
}

/// Takes an edit: its length in 4 bytes, big-endian, the edit as CBOR, and then the bytes of its files.
pub(super) async fn take(
    State(service): State<Service>,
    Extension(Reader(reader)): Extension<Reader>,
    which: Result<Query<OfWorkspace>, QueryRejection>,
    mut body: Body,
) -> Result<Json<EditOutcome>, ServiceError> {
    let reader = Some(reader.ok_or_else(|| ServiceError::refused(Refusal::Denied, None))?);
    let Query(OfWorkspace { workspace }) = which.map_err(|error| ServiceError::invalid(error.body_text()))?;
    let shares = service.shares.clone();
    let opened = service.blocking(move || shares.workspace(&workspace, reader)).await?;
    let opened = opened.map_err(|refusal| ServiceError::refused(refusal, reader))?;
    if !opened.may_write() {
        opened.ask_to_write();
        return Ok(Json(EditOutcome { asked: true, conflicts: Vec::new() }));
    }
    let _turn = service.edits.try_acquire().map_err(|_| ServiceError::busy())?;

    let mut held = Vec::new();
    let mut incoming = None;
    while let Some(chunk) = next(&mut body).await? {
        held.extend_from_slice(&chunk);
        if incoming.is_none() {
            let Some((edit, rest)) = begun(&held)? else { continue };
            held = rest;
            let opened = opened.clone();
            incoming = Some(service.blocking(move || opened.take(edit)).await??);
        }
        // It may take long, and the right be taken back meanwhile.
        if !opened.may_write() {
            return Err(ServiceError::refused(Refusal::Denied, reader));
        }
        if let Some(mut taking) = incoming.take() {
            let bytes = std::mem::take(&mut held);
            let written = service.blocking(move || taking.write(&bytes).map(|()| taking)).await?;
            incoming = Some(written?);
        }
    }
    let incoming = incoming.ok_or_else(|| ServiceError::invalid("the edit ended early"))?;
    let finish = move || opened.may_write().then(|| incoming.finish());
    let finished = service.blocking(finish).await?;
    let finished = finished.ok_or_else(|| ServiceError::refused(Refusal::Denied, reader))?;
    let conflicts = match finished {
        Ok(()) => Vec::new(),
        Err(EditError::Conflict(paths)) => paths,
        Err(error) => return Err(error.into()),
    };
    Ok(Json(EditOutcome { asked: false, conflicts }))
}

/// The next bytes, if they come in time.
async fn next(body: &mut Body) -> Result<Option<bytes::Bytes>, ServiceError> {
    loop {
        let frame = timeout(STALLED, body.frame()).await;
        match frame.map_err(|_| ServiceError::invalid("nothing came for too long"))? {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => return Err(ServiceError::invalid(error.to_string())),
            None => return Ok(None),
        }
    }
}

/// The edit, once all of it has come, and what came behind it.
fn begun(held: &[u8]) -> Result<Option<(Edit, Vec<u8>)>, ServiceError> {
    let Some((length, rest)) = held.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_EDIT {
        return Err(ServiceError::invalid("the edit is too long"));
    }
    let Some((edit, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    let edit = minicbor::decode(edit).map_err(|error| ServiceError::invalid(error.to_string()))?;
    Ok(Some((edit, rest.to_vec())))
}
