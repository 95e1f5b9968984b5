//! Messages with descriptors between the processes of a launch: a sequenced-packet socket, of which each packet is one
//! message as JSON.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    cmsg_space,
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
        listen, recvmsg, sendmsg, socket_with, socketpair,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::unix::AsyncFd;

/// No message is longer, in bytes: less than what a socket's buffer holds.
const MOST: usize = 128 << 10;

/// No message brings more descriptors.
const MOST_DESCRIPTORS: usize = 3;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;

/// A message, and the descriptors that came with it.
pub(super) type Received<T> = (T, Vec<OwnedFd>);

/// A pair of connected sockets, closed on exec.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message; waits for room unless the socket is non-blocking.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    message: &impl Serialize,
    with: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MOST {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the arguments and variables are too long"));
    }
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !with.is_empty() && !control.push(SendAncillaryMessage::ScmRights(with)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message; none when the other end is closed.
pub(super) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<Received<T>>> {
    let mut bytes = vec![0; MOST];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => received,
            Err(Errno::CONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            descriptors.extend(came);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes[..received.bytes])?, descriptors)))
}

fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor gives the same descriptor whenever it's asked, and is closed only when it's dropped.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

/// One end of such a socket, for asynchronous use.
#[derive(Debug)]
pub(super) struct Channel(AsyncFd<OwnedFd>);

impl Channel {
    /// Must be called within a runtime.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        register(socket).map(Self)
    }

    /// Connects to a socket in the file system.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(path.as_os_str().as_bytes())?)?;
        Self::new(socket)
    }

    pub(super) async fn send(&self, message: &impl Serialize, with: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut ready = self.0.writable().await?;
            if let Ok(result) = ready.try_io(|socket| send(socket.as_fd(), message, with)) {
                return result;
            }
        }
    }

    /// The next message; none when the other end is closed.
    pub(super) async fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<Received<T>>> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(result) = ready.try_io(|socket| receive(socket.as_fd())) {
                return result;
            }
        }
    }
}

/// A socket in the file system that takes connections.
#[derive(Debug)]
pub(super) struct Listener(AsyncFd<OwnedFd>);

impl Listener {
    /// Makes the socket; one that is left over from before is removed. Who may connect is a matter of its folder.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind(&socket, &SocketAddrUnix::new(path.as_os_str().as_bytes())?)?;
        listen(&socket, BACKLOG)?;
        register(socket).map(Self)
    }

    pub(super) async fn accept(&self) -> io::Result<Channel> {
        loop {
            let mut ready = self.0.readable().await?;
            let accepted = ready.try_io(|socket| Ok(accept_with(socket, SocketFlags::CLOEXEC)?));
            if let Ok(socket) = accepted {
                return Channel::new(socket?);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read};

    use super::*;

    #[tokio::test]
    async fn messages_come_whole_with_what_they_bring() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        std::fs::write(&path, "left over").unwrap();
        let listener = Listener::bind(&path).unwrap();
        let there = Channel::connect(&path).unwrap();
        let here = listener.accept().await.unwrap();
        let file = File::open("/proc/self/status").unwrap();
        there.send(&"x".repeat(100_000), &[file.as_fd()]).await.unwrap();
        there.send(&"second", &[]).await.unwrap();
        let (text, mut came) = here.receive::<String>().await.unwrap().unwrap();
        assert_eq!((text.len(), came.len()), (100_000, 1));
        let mut status = String::new();
        File::from(came.remove(0)).read_to_string(&mut status).unwrap();
        assert!(status.starts_with("Name:"));
        assert_eq!(here.receive::<String>().await.unwrap().unwrap().0, "second");
        assert!(there.send(&"x".repeat(MOST), &[]).await.is_err());
        drop(there);
        assert!(here.receive::<String>().await.unwrap().is_none());
    }
}
