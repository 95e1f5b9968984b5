//! How quick a node sends and receives at most.

use std::{
    io,
    net::IpAddr,
    num::NonZeroUsize,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use async_speed_limit::Limiter;
use futures_util::future::{BoxFuture, FutureExt};
use lru::LruCache;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Peers whose speed is kept in mind.
const PEERS: usize = 1024;

/// What is written at once, in bytes: less makes a low speed more even.
const BIT: usize = 16 << 10;

/// The most that is sent and received, in bytes a second. None is as quick as it goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    /// Sent, in all.
    pub up: Option<u64>,
    /// Received, in all.
    pub down: Option<u64>,
    /// Sent to one peer.
    pub up_each: Option<u64>,
    /// Received from one peer.
    pub down_each: Option<u64>,
}

/// Keeps all connections of a node together within its caps.
///
/// Whatever goes over a connection counts, TLS and HTTP too; what the kernel adds below doesn't.
pub struct Bandwidth {
    caps: Caps,
    all: Way,
    /// By address: a peer is known by nothing else before it has said anything.
    each: Mutex<LruCache<IpAddr, Way>>,
}

/// Both directions.
#[derive(Clone)]
struct Way {
    up: Limiter,
    down: Limiter,
}

impl Way {
    fn new(up: Option<u64>, down: Option<u64>) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "nobody counts beyond 2^53 bytes a second")]
        let limiter = |cap: Option<u64>| Limiter::new(cap.map_or(f64::INFINITY, |cap| cap.max(1) as f64));
        Self { up: limiter(up), down: limiter(down) }
    }
}

impl Default for Bandwidth {
    fn default() -> Self {
        Self::new(Caps::default())
    }
}

impl Bandwidth {
    /// Within these caps.
    pub fn new(caps: Caps) -> Self {
        let peers = NonZeroUsize::new(PEERS).unwrap_or(NonZeroUsize::MIN);
        Self { caps, all: Way::new(caps.up, caps.down), each: Mutex::new(LruCache::new(peers)) }
    }

    /// What counts for connections with `peer`; none where nothing is capped.
    pub(super) fn meter(&self, peer: IpAddr) -> Meter {
        if self.caps == Caps::default() {
            return Meter(None);
        }
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer =
            each.get_or_insert(peer.to_canonical(), || Way::new(self.caps.up_each, self.caps.down_each));
        Meter(Some(Arc::new([self.all.clone(), of_peer.clone()])))
    }
}

/// Counts what goes over connections with one peer.
#[derive(Clone)]
pub(super) struct Meter(Option<Arc<[Way; 2]>>);

impl Meter {
    /// Counts bytes that were sent; returns when more may be.
    pub(super) async fn sent(self, bytes: usize) {
        for way in self.0.iter().flat_map(|ways| ways.iter()) {
            way.up.consume(bytes).await;
        }
    }

    async fn received(self, bytes: usize) {
        for way in self.0.iter().flat_map(|ways| ways.iter()) {
            way.down.consume(bytes).await;
        }
    }
}

/// A connection that is kept within the caps.
pub(super) struct Metered<S> {
    stream: S,
    meter: Meter,
    /// What was written has yet to be waited for.
    writing: Option<BoxFuture<'static, ()>>,
    /// What was read has.
    reading: Option<BoxFuture<'static, ()>>,
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S, meter: Meter) -> Self {
        Self { stream, meter, writing: None, reading: None }
    }
}

/// Waits until what went before was not too quick.
fn settle(pause: &mut Option<BoxFuture<'static, ()>>, context: &mut Context<'_>) -> Poll<()> {
    if let Some(waiting) = pause {
        ready!(waiting.as_mut().poll(context));
        *pause = None;
    }
    Poll::Ready(())
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(settle(&mut this.reading, context));
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        if this.meter.0.is_some() {
            this.reading = Some(this.meter.clone().received(buffer.filled().len() - before).boxed());
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.meter.0.is_none() {
            return Pin::new(&mut this.stream).poll_write(context, bytes);
        }
        ready!(settle(&mut this.writing, context));
        let written = ready!(Pin::new(&mut this.stream).poll_write(context, &bytes[..bytes.len().min(BIT)]))?;
        this.writing = Some(this.meter.clone().sent(written).boxed());
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.meter.0.is_none() {
            return Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        }
        let first = slices.iter().find(|slice| !slice.is_empty());
        self.poll_write(context, first.map_or(&[][..], |slice| slice))
    }

    fn is_write_vectored(&self) -> bool {
        self.meter.0.is_none() && self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// How long it takes to send so many bytes at once to each of these peers.
    async fn took(bandwidth: &Bandwidth, peers: &[&str], bytes: usize) -> Duration {
        let start = Instant::now();
        let sent = peers.iter().map(|peer| async {
            let (stream, mut other) = tokio::io::duplex(1 << 20);
            let mut stream = Metered::new(stream, bandwidth.meter(peer.parse().unwrap()));
            let drained = tokio::spawn(async move { other.read_to_end(&mut Vec::new()).await.unwrap() });
            stream.write_all(&vec![1; bytes]).await.unwrap();
            drop(stream);
            assert_eq!(drained.await.unwrap(), bytes);
        });
        futures_util::future::join_all(sent).await;
        start.elapsed()
    }

    #[tokio::test]
    async fn what_is_sent_is_capped_for_each_and_in_all() {
        let caps = Caps { up: Some(4_000_000), up_each: Some(2_000_000), ..Caps::default() };
        let bandwidth = Bandwidth::new(caps);
        let seconds = |took: Duration| took.as_secs_f64();
        let one = seconds(took(&bandwidth, &["10.0.0.1"], 1_000_000).await);
        // The last bit is sent before it has been waited for, and a bucket holds a tenth of a second.
        assert!((0.35..1.0).contains(&one), "{one}");
        let same = seconds(took(&bandwidth, &["10.0.0.2", "::ffff:10.0.0.2"], 500_000).await);
        assert!((0.35..1.0).contains(&same), "{same}: one peer, however it's written");
        let many = ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"];
        let four = seconds(took(&bandwidth, &many, 1_000_000).await);
        assert!((0.85..2.0).contains(&four), "{four}");
    }

    #[tokio::test]
    async fn what_is_received_is_capped() {
        let bandwidth = Bandwidth::new(Caps { down: Some(2_000_000), ..Caps::default() });
        let (stream, mut other) = tokio::io::duplex(1 << 20);
        let mut stream = Metered::new(stream, bandwidth.meter("10.0.0.1".parse().unwrap()));
        let start = Instant::now();
        other.write_all(&vec![1; 1_000_000]).await.unwrap();
        drop(other);
        assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 1_000_000);
        let took = start.elapsed().as_secs_f64();
        assert!((0.35..1.0).contains(&took), "{took}");
    }
}
