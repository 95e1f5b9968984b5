//! One connection to the share service, from its first byte to its last, and how many there may be.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use super::{BULK_SLOTS, HANDSHAKE, Reader, visit};
use crate::{
    peer::{
        bandwidth::{Meter, Metered},
        tls::node_of,
    },
    types::NodeId,
};

/// A connection on which no request begins and completes its head for this long is closed. Clients give theirs up earlier.
const HEADERS: Duration = Duration::from_secs(60);

/// A client that takes nothing of its answer for this long is cut off.
pub(super) const STALLED: Duration = Duration::from_secs(30);

/// So much of all bulk answers is on its way at a time, in bytes (the kernel doubles it): a reader's answer waits behind it in
/// the network.
const BULK_BUFFER: usize = 64 << 10;

/// What a TLS connection begins with: the type of a handshake record (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Connections at a time of one peer, or of one address as long as the peer isn't known.
pub(super) const CONNECTIONS_EACH: usize = 32;

/// Connections at a time, those in their handshake included.
pub(super) const CONNECTIONS: usize = 512;

/// A connection from its first byte to its last.
pub(super) struct Connection {
    pub(super) address: SocketAddr,
    pub(super) slot: Slot,
    pub(super) slots: Slots,
    pub(super) tls: TlsAcceptor,
    pub(super) plain: bool,
    pub(super) meter: Meter,
    pub(super) router: Router,
}

impl Connection {
    pub(super) async fn run(self, stream: TcpStream, stopping: watch::Receiver<bool>) {
        let address = self.address;
        let _ = stream.set_nodelay(true);
        let socket = Socket::default();
        let is_plain = self.plain && timeout(HANDSHAKE, begins_plain(&stream)).await.unwrap_or(false);
        let mut stream = TimeoutStream::new(stream);
        // Whatever the answer is: a client that takes nothing of it for so long is cut off.
        stream.set_write_timeout(Some(STALLED));
        let stream = Stepping { stream: Box::pin(stream), socket: socket.clone(), buffer: 0 };
        let stream = Metered::new(stream, self.meter.clone());
        if is_plain {
            return self.answer(stream, None, socket, true, stopping).await;
        }
        let stream = match timeout(HANDSHAKE, self.tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%address, %error, "the TLS handshake failed"),
            Err(_) => return tracing::debug!(%address, "the TLS handshake took too long"),
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let reader = match certificate.map(node_of).transpose() {
            Ok(reader) => reader,
            // The handshake has checked it already.
            Err(error) => return tracing::debug!(%address, %error, "not a node's certificate"),
        };
        self.answer(stream, reader, socket, false, stopping).await;
    }

    async fn answer(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        reader: Option<NodeId>,
        socket: Socket,
        is_plain: bool,
        mut stopping: watch::Receiver<bool>,
    ) {
        let Self { address, slot, slots, router, .. } = self;
        let from = address.ip().to_canonical();
        let holder = reader.map_or(Holder::Anonymous(from), Holder::Node);
        let Some(_slot) = slots.take(holder) else {
            return tracing::warn!(%address, ?reader, "too many connections of one peer");
        };
        drop(slot);
        let router =
            router.layer(Extension(Reader(reader))).layer(Extension(holder)).layer(Extension(socket));
        let router = router.layer(Extension(visit::From { address: from, is_plain }));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS)
            .max_buf_size(64 << 10)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = async { let _ = stopping.wait_for(|stop| *stop).await; } => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "a connection ended early");
        }
    }
}

/// Whether a connection begins with something else than a TLS handshake.
async fn begins_plain(stream: &TcpStream) -> bool {
    let mut first = [0];
    matches!(stream.peek(&mut first).await, Ok(1) if first != [TLS_HANDSHAKE])
}

/// The connection of the request: the send buffer that it's to have, in bytes; 0 leaves that to the kernel.
#[derive(Debug, Clone, Default)]
pub(super) struct Socket(Arc<AtomicUsize>);

impl Socket {
    /// Lets little be on its way at a time, from now on: an equal part of what all together may have.
    pub(super) fn step_back(&self, together: usize) {
        self.0.store(BULK_BUFFER / together.clamp(1, BULK_SLOTS), Ordering::Relaxed);
    }
}

/// Gives a connection the send buffer that it's to have before it writes.
struct Stepping {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    socket: Socket,
    /// What it has been given.
    buffer: usize,
}

impl Stepping {
    fn step(&mut self) {
        let wanted = self.socket.0.load(Ordering::Relaxed);
        if wanted == self.buffer {
            return;
        }
        self.buffer = wanted;
        if let Err(error) = rustix::net::sockopt::set_socket_send_buffer_size(self.stream.get_ref(), wanted) {
            tracing::debug!(%error, "a send buffer stays as it is");
        }
    }
}

impl AsyncRead for Stepping {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(context, buffer)
    }
}

impl AsyncWrite for Stepping {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.step();
        self.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.step();
        self.stream.as_mut().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(context)
    }
}

/// Whose connections are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    Handshake(IpAddr),
    Anonymous(IpAddr),
    Node(NodeId),
}

/// Counts what there may be only so much of, for each holder and in all.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    each: usize,
    all: usize,
    counts: Arc<Mutex<HashMap<Holder, usize>>>,
}

/// One counted thing, until it's dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Slots,
    holder: Holder,
}

impl Slots {
    pub(super) fn new(each: usize, all: usize) -> Self {
        Self { each, all, counts: Arc::default() }
    }

    /// Counts one more, unless there are too many.
    pub(super) fn take(&self, holder: Holder) -> Option<Slot> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = counts.get(&holder).copied().unwrap_or(0);
        if mine >= self.each || counts.values().sum::<usize>() >= self.all {
            return None;
        }
        counts.insert(holder, mine + 1);
        Some(Slot { slots: self.clone(), holder })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.slots.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_limited_each_and_in_all() {
        let slots = Slots::new(CONNECTIONS_EACH, CONNECTIONS);
        let holder = |n: u8| Holder::Node(NodeId::from_bytes([n; 32]));
        let mut held: Vec<Slot> = (0..CONNECTIONS_EACH).map(|_| slots.take(holder(0)).unwrap()).collect();
        assert!(slots.take(holder(0)).is_none());
        held.pop();
        held.push(slots.take(holder(0)).unwrap());
        for n in 1..(CONNECTIONS / CONNECTIONS_EACH) as u8 {
            held.extend((0..CONNECTIONS_EACH).map(|_| slots.take(holder(n)).unwrap()));
        }
        assert!(slots.take(holder(99)).is_none());
        held.clear();
        assert!(slots.counts.lock().unwrap().is_empty());
    }
}
