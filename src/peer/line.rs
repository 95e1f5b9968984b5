use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{Connection, SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    bandwidth::{Meter, Metered},
    client::{CONNECT, HOST, POOL_IDLE, PeerError},
};

/// What a connection says when it fails.
pub(super) type LineError = Box<dyn std::error::Error + Send + Sync>;

/// Connections to one peer over which batches go.
///
/// They belong to no task of their own: whoever waits for an answer also moves its connection on. A read of the mount that
/// has to wait for the network is thereby woken once, by the socket, and not a second time by another task.
pub(super) struct Lines {
    address: SocketAddr,
    tls: TlsConnector,
    meter: Meter,
    name: ServerName<'static>,
    /// Those without a request under way, the one used last at the end.
    idle: Mutex<Vec<(Instant, Line)>>,
}

/// A connection with at most one request under way.
pub(super) struct Line {
    sender: SendRequest<Full<Bytes>>,
    /// None when it has ended.
    connection: Option<Pin<Box<Connected>>>,
}

type Connected = Connection<TokioIo<TlsStream<Metered<TcpStream>>>, Full<Bytes>>;

impl Lines {
    pub(super) fn new(
        address: SocketAddr,
        config: ClientConfig,
        meter: Meter,
    ) -> Result<Self, rustls::pki_types::InvalidDnsNameError> {
        let name = ServerName::try_from(HOST)?;
        Ok(Self { address, tls: TlsConnector::from(Arc::new(config)), meter, name, idle: Mutex::default() })
    }

    /// Posts a request, over an idle connection if there's one, and gives the head of its answer, for which it waits
    /// `patience`, apart from what a new connection takes.
    pub(super) async fn post(
        &self,
        request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> Result<(Line, Response<Incoming>), PeerError> {
        let address = self.address;
        while let Some(mut line) = self.idle() {
            match timeout(patience, line.send(request.clone())).await {
                Ok(Ok(response)) => return Ok((line, response)),
                // The peer has closed it meanwhile, mostly; what is posted here may be asked twice.
                Ok(Err(error)) => tracing::debug!(%address, %error, "an idle connection failed"),
                Err(_) => return Err(PeerError::Timeout { address, doing: "answering" }),
            }
        }
        let mut line = timeout(CONNECT, self.connect())
            .await
            .map_err(|_| PeerError::Timeout { address, doing: "connecting" })?
            .map_err(|source| PeerError::Unreachable { address, source })?;
        match timeout(patience, line.send(request)).await {
            Ok(Ok(response)) => Ok((line, response)),
            Ok(Err(error)) => Err(PeerError::Unreachable { address, source: error.into() }),
            Err(_) => Err(PeerError::Timeout { address, doing: "answering" }),
        }
    }

    async fn connect(&self) -> Result<Line, LineError> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let stream = Metered::new(stream, self.meter.clone());
        let stream = self.tls.connect(self.name.clone(), stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        Ok(Line { sender, connection: Some(Box::pin(connection)) })
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn idle(&self) -> Option<Line> {
        let (since, line) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        (since.elapsed() < POOL_IDLE).then_some(line)
    }

    /// Takes back a connection whose answer has been read to its end.
    pub(super) fn put(&self, line: Line) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, _)| since.elapsed() < POOL_IDLE);
        if line.connection.is_some() {
            idle.push((Instant::now(), line));
        }
    }
}

impl Line {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        let Self { sender, connection } = self;
        along(connection, sender.send_request(request)).await
    }

    /// The next bytes of an answer, or none at its end.
    pub(super) async fn chunk(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, hyper::Error> {
        loop {
            match along(&mut self.connection, body.frame()).await {
                None => return Ok(None),
                Some(frame) => {
                    // Trailers say nothing here.
                    if let Ok(data) = frame?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// Waits for what comes through a connection, and moves the connection on meanwhile.
async fn along<T>(connection: &mut Option<Pin<Box<Connected>>>, what: impl Future<Output = T>) -> T {
    let mut what = pin!(what);
    poll_fn(|context| {
        // Why it ended is told to whoever waits for something of it.
        if connection.as_mut().is_some_and(|connection| connection.as_mut().poll(context).is_ready()) {
            *connection = None;
        }
        what.as_mut().poll(context)
    })
    .await
}

/// An answer and the connection that it comes over.
pub(super) struct Stream {
    pub(super) lines: Arc<Lines>,
    pub(super) line: Line,
    pub(super) body: Incoming,
}

impl Stream {
    /// The next bytes, or none at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        self.line.chunk(&mut self.body).await
    }

    /// All bytes, if they come and are at most `limit`.
    pub(super) async fn whole(mut self, limit: usize) -> Option<Bytes> {
        let whole = Limited::new(self.body, limit).collect();
        Some(along(&mut self.line.connection, whole).await.ok()?.to_bytes())
    }

    /// Leaves the connection to the next request, after the end.
    pub(super) fn end(self) {
        self.lines.put(self.line);
    }
}
