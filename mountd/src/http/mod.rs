//! The control API's server: checks who asks, decodes, calls [`Control`], answers.

mod guard;
mod routes;

use std::{future::Future, io, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::net::TcpListener;
use twinshare::api::{Control, Token};

/// How long requests that are being answered may take when the node ends.
const GRACE: Duration = Duration::from_secs(2);

/// Serves the control API on a listener that is bound to 127.0.0.1, until `shutdown` is ready.
///
/// Requests under way then get two seconds. Fails when the listener does.
pub(crate) async fn serve<C: Control>(
    listener: TcpListener,
    token: Token,
    node: Arc<C>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let shutdown = shutdown.shared();
    let guard = Arc::new(guard::Guard::new(listener.local_addr()?.port(), token));
    let router = routes::router(node).layer(axum::middleware::from_fn_with_state(guard, guard::check));
    let server = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone());
    tokio::select! {
        result = server.into_future() => result,
        () = async { shutdown.await; tokio::time::sleep(GRACE).await } => Ok(()),
    }
}

#[cfg(test)]
mod tests;
