use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName,
        header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use twinshare::api::{Problem, Token};

use super::routes::Failure;

/// The names by which a browser or a program on this machine reaches us.
const HOSTS: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// Who may ask.
///
/// Being on this machine isn't enough: other users are too, and so is every page in the user's browser. A page of another
/// site that makes its own name resolve to 127.0.0.1 shows in `Host`, a page that just asks shows in `Origin`, and
/// without the token neither gets anything.
pub(super) struct Guard {
    port: u16,
    token: Token,
}

impl Guard {
    pub(super) fn new(port: u16, token: Token) -> Self {
        Self { port, token }
    }

    /// Why this request is refused.
    fn refusal(&self, headers: &HeaderMap) -> Option<Problem> {
        let ours = |authority: &str| HOSTS.iter().any(|host| authority == format!("{host}:{}", self.port));
        match only(headers, &HOST) {
            Ok(Some(host)) if ours(host) => {}
            _ => {
                return Some(Problem::new(
                    421,
                    "Misdirected Request",
                    "this is no server for that host name",
                ));
            }
        }
        match only(headers, &ORIGIN) {
            Ok(None) => {}
            Ok(Some(origin)) if origin.strip_prefix("http://").is_some_and(ours) => {}
            _ => return Some(Problem::denied("pages of other sites can't use the control API")),
        }
        match only(headers, &AUTHORIZATION) {
            Ok(Some(value)) if bearer(value).is_some_and(|token| self.token.is(token.as_bytes())) => None,
            _ => {
                let remedy = "send 'Authorization: Bearer' with the token from control.json";
                Some(
                    Problem::new(401, "Unauthorized", "the control token is missing or wrong")
                        .with_remedy(remedy),
                )
            }
        }
    }
}

/// The header's value when it's there once, as text.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().map(|value| value.to_str().map_err(drop)).transpose()?;
    if values.next().is_some() { Err(()) } else { Ok(first) }
}

/// The token of an `Authorization` header.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Lets pass what may pass.
pub(super) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.refusal(request.headers()) {
        None => next.run(request).await,
        Some(problem) if problem.status() == 401 => {
            ([(WWW_AUTHENTICATE, "Bearer")], Failure::from(problem)).into_response()
        }
        Some(problem) => Failure::from(problem).into_response(),
    }
}
