//! The sockets: for each interface and address family, one that is in the group and one of its own.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    num::NonZeroU32,
    sync::Arc,
};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet};

use super::{beacon::MAX_RECEIVED_BYTES, interfaces::Interface};

const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 37, 77);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0, 0x3777);

/// What a channel is made of; when any of it changes, it is another channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ChannelKey {
    pub(super) interface: String,
    index: u32,
    local: IpAddr,
}

impl ChannelKey {
    /// The channels that an interface can have: one for each family that it has an address of. Loopback has no route
    /// for IPv6 multicast, and needs none.
    pub(super) fn of(interface: &Interface) -> impl Iterator<Item = Self> {
        let key = |local| Self { interface: interface.name.clone(), index: interface.index, local };
        let locals = [true, false].into_iter().filter_map(|v4| interface.local(v4));
        locals.filter(|local| local.is_ipv4() || !local.is_loopback()).map(key)
    }
}

/// Something that came over a channel.
pub(super) enum Event {
    /// A datagram.
    Datagram {
        channel: ChannelKey,
        from: SocketAddr,
        /// Whether it was sent to the group, and not as an answer to us.
        to_group: bool,
        bytes: Vec<u8>,
    },
    /// The channel can't be read any more.
    Broken { channel: ChannelKey, error: io::Error },
}

/// One interface in one family. Dropping it leaves the group.
pub(super) struct Channel {
    interface: Interface,
    target: SocketAddr,
    /// Bound to the group and to the interface: hears the group, sends announcements and answers.
    group: Arc<UdpSocket>,
    /// Has a port that is nobody else's: sends queries, hears their answers. It isn't bound to the interface, since the
    /// answer of a node on this machine arrives over loopback.
    own: Arc<UdpSocket>,
    _readers: JoinSet<()>,
}

impl Channel {
    /// Opens the sockets and reads them into `events`; what a full queue can't take is lost, as datagrams may be.
    pub(super) fn open(
        key: &ChannelKey,
        interface: Interface,
        port: u16,
        events: &mpsc::Sender<Event>,
    ) -> io::Result<Self> {
        let (target, group, own) = match key.local {
            IpAddr::V4(local) => {
                let target = SocketAddr::from((GROUP_V4, port));
                (target, group_v4(key, local, target)?, own_v4(local)?)
            }
            IpAddr::V6(_) => {
                let target = SocketAddrV6::new(GROUP_V6, port, 0, key.index).into();
                (target, group_v6(key, target)?, own_v6(key)?)
            }
        };
        let (group, own) = (listen(group)?, listen(own)?);
        let mut readers = JoinSet::new();
        readers.spawn(read(key.clone(), group.clone(), true, events.clone()));
        readers.spawn(read(key.clone(), own.clone(), false, events.clone()));
        Ok(Self { interface, target, group, own, _readers: readers })
    }

    /// Sends to everybody on the link.
    pub(super) async fn announce(&self, datagram: &[u8]) -> io::Result<()> {
        self.group.send_to(datagram, self.target).await.map(drop)
    }

    /// Sends to everybody on the link, from where answers are awaited.
    pub(super) async fn query(&self, datagram: &[u8]) -> io::Result<()> {
        self.own.send_to(datagram, self.target).await.map(drop)
    }

    /// Answers whoever asked from `to`; who isn't on the link is answered through the group, lest a forged sender make
    /// this node send anywhere else.
    pub(super) async fn answer(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        let to = if self.interface.on_link(to.ip()) { to } else { self.target };
        self.group.send_to(datagram, to).await.map(drop)
    }
}

fn group_v4(key: &ChannelKey, local: Ipv4Addr, target: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    share(&socket)?;
    socket.bind(&target.into())?;
    // Without this, a socket hears what any socket of the machine has joined, on any interface.
    socket.set_multicast_all_v4(false)?;
    socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(key.index))?;
    set_sending_v4(&socket, local)?;
    // Best effort: kernels before 5.7 let only root do it. It keeps answers off other interfaces with the same network.
    let _ = socket.bind_device_by_index_v4(NonZeroU32::new(key.index));
    Ok(socket)
}

fn own_v4(local: Ipv4Addr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
    set_sending_v4(&socket, local)?;
    Ok(socket)
}

fn set_sending_v4(socket: &Socket, local: Ipv4Addr) -> io::Result<()> {
    socket.set_multicast_if_v4(&local)?;
    socket.set_multicast_ttl_v4(1)?;
    socket.set_ttl_v4(1)?;
    socket.set_multicast_loop_v4(true)
}

fn group_v6(key: &ChannelKey, target: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(true)?;
    share(&socket)?;
    // A group of link scope is bound together with its link: this binds the socket to the interface.
    socket.bind(&target.into())?;
    socket.join_multicast_v6(&GROUP_V6, key.index)?;
    set_sending_v6(&socket, key)?;
    Ok(socket)
}

fn own_v6(key: &ChannelKey) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
    set_sending_v6(&socket, key)?;
    Ok(socket)
}

fn set_sending_v6(socket: &Socket, key: &ChannelKey) -> io::Result<()> {
    socket.set_multicast_if_v6(key.index)?;
    socket.set_multicast_hops_v6(1)?;
    socket.set_unicast_hops_v6(1)?;
    socket.set_multicast_loop_v6(true)
}

/// Lets other nodes of this machine use the same port.
fn share(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)
}

fn listen(socket: Socket) -> io::Result<Arc<UdpSocket>> {
    socket.set_nonblocking(true)?;
    Ok(Arc::new(UdpSocket::from_std(socket.into())?))
}

async fn read(channel: ChannelKey, socket: Arc<UdpSocket>, to_group: bool, events: mpsc::Sender<Event>) {
    // One byte more than is allowed, so that a longer datagram is seen to be one.
    let mut buffer = [0; MAX_RECEIVED_BYTES + 1];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let bytes = buffer[..length].to_vec();
                let _ = events.try_send(Event::Datagram { channel: channel.clone(), from, to_group, bytes });
            }
            Err(error) => {
                let _ = events.send(Event::Broken { channel, error }).await;
                return;
            }
        }
    }
}
