//! The bed keeps what the other tests lean on.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use crate::{bed::Bed, link::in_namespace, wait::poll};

#[test]
fn the_link_has_the_rate_the_delay_and_counts_bytes() {
    let Some(bed) = Bed::new() else { return };
    let round_trip = bed.link().round_trip();
    assert!(round_trip > Duration::from_micros(250), "too quick for a LAN: {round_trip:?}");
    assert!(round_trip < Duration::from_millis(3), "too slow for a LAN: {round_trip:?}");

    const SIZE: usize = 24 << 20;
    let address = (bed.owner().address(), 9000);
    let listener = in_namespace(bed.owner().namespace(), || TcpListener::bind(address).unwrap());
    let (before, _) = bed.bytes();
    let sender = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&vec![7; SIZE]).unwrap();
    });
    let mut stream = in_namespace(bed.guest().namespace(), || TcpStream::connect(address).unwrap());
    let start = Instant::now();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    let elapsed = start.elapsed();
    sender.join().unwrap();
    assert_eq!(received.len(), SIZE);
    // 24 MiB take 200 ms at 1 Gbit/s; a loaded machine may be slower, none is quicker.
    assert!(elapsed > Duration::from_millis(180), "the rate isn't limited: {elapsed:?}");
    let crossed = bed.received() - before;
    assert!(crossed > SIZE as u64, "{crossed} bytes counted");
    assert!(crossed < SIZE as u64 * 11 / 10, "{crossed} bytes counted");
}

#[test]
fn multicast_crosses_and_a_pulled_plug_stops_it() {
    let Some(bed) = Bed::new() else { return };
    let group = Ipv4Addr::new(239, 255, 37, 77);
    let hearer = in_namespace(bed.guest().namespace(), || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 37000)).unwrap();
        socket.join_multicast_v4(&group, &bed.guest().address()).unwrap();
        socket
    });
    hearer.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let speaker =
        in_namespace(bed.owner().namespace(), || UdpSocket::bind((bed.owner().address(), 0)).unwrap());
    let heard = |number: u8| {
        // With the plug pulled there is no way to send.
        let _ = speaker.send_to(&[number], (group, 37000));
        let mut buffer = [0; 8];
        while let Ok(length) = hearer.recv(&mut buffer) {
            if buffer[..length] == [number] {
                return Some(());
            }
        }
        None
    };
    poll(Duration::from_secs(10), || heard(1)).expect("multicast crosses");
    bed.link().set(false);
    assert_eq!(heard(2), None, "something crossed a pulled plug");
    bed.link().set(true);
    poll(Duration::from_secs(10), || heard(3)).expect("multicast crosses again");
}
