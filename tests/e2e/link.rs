//! A shaped LAN between two network namespaces: 1 Gbit/s, 0.5 ms round trip, multicast crosses, no way out.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, UdpSocket},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fd::AsFd,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    cable::Cable,
    wait::{poll, wait_for},
};

/// The device that is the link, in both namespaces.
pub(crate) const DEVICE: &str = "lan0";
/// What a round trip takes.
const ROUND_TRIP: Duration = Duration::from_micros(500);
/// A frame must fit the burst, or tbf takes it apart.
const LARGEST_FRAME: &str = "32000";
/// The port on which the round trip is measured.
const ECHO: u16 = 7;

/// Runs something in a network namespace, on a thread of its own. Sockets made there stay there.
pub(crate) fn in_namespace<T: Send>(namespace: &str, act: impl FnOnce() -> T + Send) -> T {
    let entry = File::open(format!("/run/netns/{namespace}")).expect("the namespace is there");
    thread::scope(|scope| {
        scope
            .spawn(|| {
                move_into_link_name_space(entry.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
                act()
            })
            .join()
            .expect("what ran in the namespace didn't panic")
    })
}

/// Runs a program to its end; panics with what it said when it fails.
pub(crate) fn must(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {}: {}\n{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The link; taken down with its namespaces when dropped, and all that still runs in them.
pub(crate) struct Link {
    namespaces: [String; 2],
    addresses: [Ipv4Addr; 2],
    /// Absent where the kernel makes the delay.
    _cable: Option<Cable>,
}

impl Link {
    /// Lays the link `slot`, between namespaces that are named by it. What an earlier process left there is removed.
    pub(crate) fn lay(slot: u8) -> Self {
        let namespaces = namespaces(slot);
        remove(slot);
        let addresses = [1, 2].map(|host| Ipv4Addr::new(198, 18, slot, host));
        for namespace in &namespaces {
            must("ip", &["netns", "add", namespace]);
        }
        let [owner, guest] = &namespaces;
        let netem = has_netem(owner);
        let cable = if netem {
            must(
                "ip",
                &[
                    "link", "add", DEVICE, "netns", owner, "type", "veth", "peer", "name", DEVICE, "netns",
                    guest,
                ],
            );
            None
        } else {
            Some(Cable::plug([owner, guest], DEVICE))
        };
        for (namespace, address) in namespaces.iter().zip(addresses) {
            configure(namespace, address);
            shape(namespace, netem);
        }
        let link = Self { namespaces, addresses, _cable: cable };
        // The carrier takes some time of its own, which is taken off.
        if let Some(cable) = &link._cable {
            cable.set_delay(ROUND_TRIP / 2);
            let own = link.round_trip().saturating_sub(ROUND_TRIP);
            cable.set_delay(ROUND_TRIP.saturating_sub(own) / 2);
        }
        link
    }

    /// The names of the owner's and the guest's namespace.
    pub(crate) fn namespaces(&self) -> &[String; 2] {
        &self.namespaces
    }

    /// The addresses of the owner and the guest.
    pub(crate) fn addresses(&self) -> [Ipv4Addr; 2] {
        self.addresses
    }

    /// Bytes on the wire since the link was laid: from the owner to the guest, and back.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let [owner, guest] = &self.namespaces;
        (sent(owner), sent(guest))
    }

    /// Pulls the owner's plug, or puts it back.
    pub(crate) fn set(&self, up: bool) {
        let [owner, _] = &self.namespaces;
        must("ip", &["-n", owner, "link", "set", DEVICE, if up { "up" } else { "down" }]);
        if up {
            route(owner);
        }
    }

    /// The median of some round trips of a small datagram.
    pub(crate) fn round_trip(&self) -> Duration {
        let [owner, guest] = &self.namespaces;
        let echo = in_namespace(owner, || UdpSocket::bind((self.addresses[0], ECHO)).unwrap());
        let caller = in_namespace(guest, || UdpSocket::bind((self.addresses[1], 0)).unwrap());
        caller.connect((self.addresses[0], ECHO)).unwrap();
        caller.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = [0; 8];
                while let Ok((length, from)) = echo.recv_from(&mut buffer)
                    && length > 0
                {
                    // A lost answer is asked for again.
                    let _ = echo.send_to(&buffer[..length], from);
                }
            });
            let mut number = 0_u64;
            let mut once = || {
                number += 1;
                let start = Instant::now();
                caller.send(&number.to_be_bytes()).ok()?;
                let mut buffer = [0; 8];
                // Answers to earlier questions that came too late are passed over.
                while caller.recv(&mut buffer).ok()? != 8 || u64::from_be_bytes(buffer) != number {}
                Some(start.elapsed())
            };
            let first = poll(Duration::from_secs(10), &mut once);
            let mut times: Vec<_> = (0..100).filter_map(|_| once()).collect();
            // An empty datagram ends the echo; it is sent from within the owner's namespace, so it arrives in any case.
            in_namespace(owner, || {
                UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&[], (self.addresses[0], ECHO)).unwrap();
            });
            first.expect("a datagram comes back over the link");
            times.sort();
            times[times.len() / 2]
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            remove_namespace(namespace);
        }
    }
}

/// Removes all namespaces of this slot, also what an earlier process left.
pub(crate) fn remove(slot: u8) {
    let prefix = format!("twinbed{slot}-");
    // Without the folder there has never been a namespace.
    let all = fs::read_dir("/run/netns").into_iter().flatten();
    let names = all.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for namespace in names.filter(|name| name.starts_with(&prefix)) {
        remove_namespace(&namespace);
    }
}

fn namespaces(slot: u8) -> [String; 2] {
    ["owner", "guest"].map(|host| format!("twinbed{slot}-{host}"))
}

fn remove_namespace(namespace: &str) {
    if !fs::exists(format!("/run/netns/{namespace}")).unwrap() {
        return;
    }
    let running = || -> Vec<i32> {
        let output = Command::new("ip").args(["netns", "pids", namespace]).output().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .filter(|pid| *pid != own)
            .collect()
    };
    // Only what was started in this namespace of ours is in it.
    let gone = poll(Duration::from_secs(10), || {
        let pids = running();
        for pid in &pids {
            if let Some(pid) = rustix::process::Pid::from_raw(*pid) {
                // It may have ended since it was listed.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        pids.is_empty().then_some(())
    });
    if gone.is_none() {
        eprintln!("the test bed couldn't end everything in {namespace}");
    }
    // Failing to remove it is no reason to fail a test; the next bed in this slot tries again.
    let _ = Command::new("ip").args(["netns", "del", namespace]).status();
}

fn has_netem(namespace: &str) -> bool {
    let output = Command::new("tc")
        .args(["-n", namespace, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"])
        .output()
        .unwrap();
    if output.status.success() {
        must("tc", &["-n", namespace, "qdisc", "del", "dev", "lo", "root"]);
    }
    output.status.success()
}

fn configure(namespace: &str, address: Ipv4Addr) {
    in_namespace(namespace, || {
        // IPv6 addresses are usable at once, without probing for a duplicate; absent where IPv6 is off.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{DEVICE}/accept_dad"), "0");
    });
    must("ip", &["-n", namespace, "link", "set", "lo", "up"]);
    must("ip", &["-n", namespace, "addr", "add", &format!("{address}/24"), "brd", "+", "dev", DEVICE]);
    must("ip", &["-n", namespace, "link", "set", DEVICE, "gso_max_size", LARGEST_FRAME]);
    must("ip", &["-n", namespace, "link", "set", DEVICE, "multicast", "on", "up"]);
    route(namespace);
}

/// Multicast and broadcast go over the link; a device that went down has lost these routes.
fn route(namespace: &str) {
    for target in ["224.0.0.0/4", "255.255.255.255/32"] {
        must("ip", &["-n", namespace, "route", "replace", target, "dev", DEVICE]);
    }
}

fn shape(namespace: &str, netem: bool) {
    must(
        "tc",
        &[
            "-n", namespace, "qdisc", "replace", "dev", DEVICE, "root", "handle", "1:", "tbf", "rate",
            "1gbit", "burst", "40kb", "latency", "30ms",
        ],
    );
    if netem {
        let one_way = format!("{}us", (ROUND_TRIP / 2).as_micros());
        must(
            "tc",
            &[
                "-n", namespace, "qdisc", "add", "dev", DEVICE, "parent", "1:", "handle", "2:", "netem",
                "limit", "20000", "delay", &one_way,
            ],
        );
    }
}

/// Bytes that left the shaper, with the headers of each segment.
pub(crate) fn sent(namespace: &str) -> u64 {
    let json = must("tc", &["-n", namespace, "-s", "-j", "qdisc", "show", "dev", DEVICE]);
    let disciplines: serde_json::Value = serde_json::from_str(&json).unwrap();
    let root = disciplines.as_array().unwrap().iter().find(|one| one["handle"] == "1:").unwrap();
    root["bytes"].as_u64().unwrap()
}

/// Waits until nothing but beacons and idle connections crosses: the same counts, nearly, for a while.
pub(crate) fn wait_until_quiet(link: &Link) {
    let sum = || {
        let (there, back) = link.bytes();
        there + back
    };
    let mut since = Instant::now();
    let mut seen = sum();
    wait_for("the link falls quiet", Duration::from_secs(60), || {
        let now = sum();
        if now - seen > 4096 {
            since = Instant::now();
            seen = now;
        }
        (since.elapsed() > Duration::from_millis(500)).then_some(())
    });
}
