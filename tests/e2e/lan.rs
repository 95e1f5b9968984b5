//! Many hosts on a switch, each at the end of a slow link of its own.

use crate::{
    bed::{Slot, usable},
    link::{DEVICE, in_namespace, must, sent},
    node::Node,
};

/// The guests' names.
const GUESTS: [&str; 8] = ["ada", "ben", "cid", "dora", "eve", "finn", "gil", "hugo"];

/// What is left of the 100 Mbit/s of each link when the headers are taken off, in bytes a second, at most.
pub(crate) const RATE: f64 = 12.5e6 * 0.95;

/// An owner and eight guests; everything is taken down when it is dropped.
pub(crate) struct Lan {
    pub(crate) owner: Node,
    pub(crate) guests: Vec<Node>,
    slot: Slot,
}

impl Lan {
    /// Hosts in which nothing runs yet; None, with the reason printed, where there can't be any.
    pub(crate) fn new() -> Option<Self> {
        if !usable() {
            return None;
        }
        let slot = Slot::take();
        let switch = format!("twinbed{}-switch", slot.number);
        must("ip", &["netns", "add", &switch]);
        must("ip", &["-n", &switch, "link", "add", "switch", "type", "bridge", "mcast_snooping", "0"]);
        must("ip", &["-n", &switch, "link", "set", "switch", "up"]);
        let mut hosts = ["owner"].iter().chain(&GUESTS).zip(1_u8..).map(|(name, number)| {
            let namespace = format!("twinbed{}-{name}", slot.number);
            let address = std::net::Ipv4Addr::new(198, 19, slot.number, number);
            plug(&switch, &namespace, number, &address.to_string());
            Node::new(name, &namespace, address, slot.folder.join(name))
        });
        let owner = hosts.next().expect("the first is the owner");
        let guests = hosts.collect();
        Some(Self { owner, guests, slot })
    }

    /// Bytes that a host has sent since it was plugged in.
    pub(crate) fn sent(&self, host: &Node) -> u64 {
        sent(host.namespace())
    }

    /// Pulls a host's plug.
    pub(crate) fn unplug(&self, host: &Node) {
        must("ip", &["-n", host.namespace(), "link", "set", DEVICE, "down"]);
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for host in self.guests.iter().chain([&self.owner]) {
            if std::thread::panicking() {
                eprintln!("--- log of {}\n{}", host.namespace(), host.log_tail());
            }
            host.down_if_up();
        }
        crate::link::remove(self.slot.number);
    }
}

/// Makes a host and joins it to the switch by a link of 100 Mbit/s in both directions.
fn plug(switch: &str, host: &str, number: u8, address: &str) {
    let port = format!("port{number}");
    must("ip", &["netns", "add", host]);
    must(
        "ip",
        &["link", "add", DEVICE, "netns", host, "type", "veth", "peer", "name", &port, "netns", switch],
    );
    must("ip", &["-n", switch, "link", "set", &port, "master", "switch", "up"]);
    in_namespace(host, || {
        // IPv6 addresses are usable at once, without probing for a duplicate; absent where IPv6 is off.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{DEVICE}/accept_dad"), "0");
    });
    must("ip", &["-n", host, "link", "set", "lo", "up"]);
    must("ip", &["-n", host, "addr", "add", &format!("{address}/24"), "brd", "+", "dev", DEVICE]);
    must("ip", &["-n", host, "link", "set", DEVICE, "multicast", "on", "up"]);
    for target in ["224.0.0.0/4", "255.255.255.255/32"] {
        must("ip", &["-n", host, "route", "replace", target, "dev", DEVICE]);
    }
    for (namespace, device) in [(host, DEVICE), (switch, &port)] {
        // A frame must fit the burst, or tbf takes it apart.
        must("ip", &["-n", namespace, "link", "set", device, "gso_max_size", "14000"]);
        must(
            "tc",
            &[
                "-n", namespace, "qdisc", "replace", "dev", device, "root", "handle", "1:", "tbf", "rate",
                "100mbit", "burst", "16kb", "latency", "50ms",
            ],
        );
    }
}
