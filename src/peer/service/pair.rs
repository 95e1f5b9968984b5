use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};

use super::{Reader, Refusal, Service, ServiceError, json_body};
use crate::peer::wire::PairRequest;

/// The longest request, in bytes.
const MAX: usize = 4096;

/// A step of pairing.
pub(super) async fn pair(
    State(service): State<Service>,
    Extension(Reader(reader)): Extension<Reader>,
    body: Body,
) -> Result<Response, ServiceError> {
    let reader = reader.ok_or_else(|| ServiceError::refused(Refusal::Denied, None))?;
    let request: PairRequest = json_body(body, MAX).await?;
    let refused = |refusal| ServiceError::refused(refusal, Some(reader));
    Ok(match request {
        PairRequest::Message(message) => {
            Json(service.shares.pair(reader, &message).map_err(refused)?).into_response()
        }
        PairRequest::Proof(proof) => {
            let shares = service.shares.clone();
            let paired = service.blocking(move || shares.paired(reader, proof)).await?;
            Json(paired.map_err(refused)?).into_response()
        }
    })
}
