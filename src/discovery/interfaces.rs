//! Which of the machine's network interfaces discovery uses.

use std::{collections::BTreeMap, io, net::IpAddr};

use if_addrs::{IfAddr, IfOperStatus};

/// Interfaces that lead to containers, virtual machines and tunnels rather than to colleagues.
const SKIPPED: [&str; 14] = [
    "docker*", "br-*", "virbr*", "veth*", "lxcbr*", "lxdbr*", "podman*", "cni*", "flannel*", "cali*",
    "vmnet*", "vboxnet*", "tun*", "wg*",
];

/// The most interfaces that are used at once.
const MAX_INTERFACES: usize = 64;

/// Which interfaces are used, by name; a name may end in `*`.
#[derive(Debug, Clone, Default)]
pub struct InterfaceRules {
    /// When not empty, only these are used, and of these also such as are skipped by default.
    pub allow: Vec<String>,
    /// These are never used.
    pub deny: Vec<String>,
}

/// A network interface that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) index: u32,
    pub(super) point_to_point: bool,
    /// Its addresses, each with the length of its prefix.
    pub(super) addresses: Vec<(IpAddr, u8)>,
}

impl Interface {
    fn is_loopback(&self) -> bool {
        self.addresses.iter().any(|(address, _)| address.is_loopback())
    }

    /// The address that stands for the interface in a family: for IPv6, best the one that every link has.
    pub(super) fn local(&self, v4: bool) -> Option<IpAddr> {
        let of_family = || self.addresses.iter().map(|(address, _)| *address).filter(|ip| ip.is_ipv4() == v4);
        of_family()
            .find(|ip| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()))
            .or(of_family().next())
    }

    /// Whether `address` is one of the interface's own.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(own, _)| *own == address)
    }

    /// Whether `address` is reached over this interface without a router.
    pub(super) fn on_link(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|&(own, prefix)| match (own, address) {
            // What an interface without a netmask is said to have.
            _ if prefix == 0 => false,
            (IpAddr::V4(own), IpAddr::V4(address)) => {
                let differing = u32::from(own) ^ u32::from(address);
                differing.checked_shr(32 - u32::from(prefix.min(32))).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(address)) => {
                let differing = u128::from(own) ^ u128::from(address);
                differing.checked_shr(128 - u32::from(prefix.min(128))).unwrap_or(0) == 0
            }
            _ => false,
        })
    }
}

/// Whether the rules let an interface be used at all; which of those are used to find others, [`select`] says.
pub(super) fn is_used(name: &str, rules: &InterfaceRules) -> bool {
    !listed(&rules.deny, name) && (rules.allow.is_empty() || listed(&rules.allow, name))
}

/// The interfaces that are up now.
pub(super) fn scan() -> io::Result<Vec<Interface>> {
    let mut found: BTreeMap<u32, Interface> = BTreeMap::new();
    for entry in if_addrs::get_if_addrs()? {
        let (Some(index), IfOperStatus::Up) = (entry.index, &entry.oper_status) else { continue };
        let address = match &entry.addr {
            IfAddr::V4(v4) => (IpAddr::V4(v4.ip), v4.prefixlen),
            IfAddr::V6(v6) => (IpAddr::V6(v6.ip), v6.prefixlen),
        };
        let interface = found.entry(index).or_insert_with(|| Interface {
            name: entry.name.clone(),
            index,
            point_to_point: entry.is_p2p,
            addresses: Vec::new(),
        });
        interface.addresses.push(address);
    }
    Ok(found.into_values().collect())
}

/// Those that the rules let through. Loopback is the last resort: alone on a machine without a network, where two nodes
/// still want to see each other.
pub(super) fn select(interfaces: Vec<Interface>, rules: &InterfaceRules) -> Vec<Interface> {
    let (loopback, others): (Vec<_>, Vec<_>) = interfaces
        .into_iter()
        .filter(|interface| !listed(&rules.deny, &interface.name))
        .partition(Interface::is_loopback);
    let mut chosen: Vec<_> = if rules.allow.is_empty() {
        let usable = others
            .into_iter()
            .filter(|it| !it.point_to_point && !SKIPPED.iter().any(|p| matches(p, &it.name)));
        let usable: Vec<_> = usable.collect();
        if usable.is_empty() { loopback } else { usable }
    } else {
        others.into_iter().chain(loopback).filter(|it| listed(&rules.allow, &it.name)).collect()
    };
    chosen.truncate(MAX_INTERFACES);
    chosen
}

/// The addresses of these interfaces, in the order in which a peer should try them: link-local ones last.
pub(super) fn addresses(interfaces: &[Interface]) -> Vec<IpAddr> {
    let mut addresses: Vec<_> =
        interfaces.iter().flat_map(|it| it.addresses.iter().map(|(address, _)| *address)).collect();
    addresses.sort_by_key(|address| match address {
        IpAddr::V4(ip) => 2 * u8::from(ip.is_link_local()),
        IpAddr::V6(ip) => 1 + 2 * u8::from(ip.is_unicast_link_local()),
    });
    addresses
}

fn listed(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, name))
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        let split = |text: &&str| {
            let (address, prefix) = text.split_once('/').unwrap();
            (address.parse().unwrap(), prefix.parse().unwrap())
        };
        Interface {
            name: name.into(),
            index: 1,
            point_to_point: name.starts_with("ppp"),
            addresses: addresses.iter().map(split).collect(),
        }
    }

    fn machine() -> Vec<Interface> {
        vec![
            interface("lo", &["127.0.0.1/8", "::1/128"]),
            interface("docker0", &["172.17.0.1/16"]),
            interface("ppp0", &["10.8.0.2/32"]),
            interface("eth0", &["10.0.0.7/24", "fe80::7/64", "fd00::7/64"]),
            interface("wlan0", &["10.0.1.7/24"]),
        ]
    }

    fn names(interfaces: Vec<Interface>, allow: &[&str], deny: &[&str]) -> Vec<String> {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let rules = InterfaceRules { allow: owned(allow), deny: owned(deny) };
        select(interfaces, &rules).into_iter().map(|interface| interface.name).collect()
    }

    #[test]
    fn colleagues_are_looked_for_where_they_may_be() {
        assert_eq!(names(machine(), &[], &[]), ["eth0", "wlan0"]);
        assert_eq!(names(machine(), &[], &["wlan*"]), ["eth0"]);
        assert_eq!(names(machine(), &["docker0", "lo", "ppp0"], &["ppp0"]), ["docker0", "lo"]);
        assert_eq!(names(machine(), &["eth1"], &[]), [""; 0]);
    }

    #[test]
    fn loopback_is_the_last_resort() {
        let offline = || machine().into_iter().take(3).collect::<Vec<_>>();
        assert_eq!(names(offline(), &[], &[]), ["lo"]);
        assert_eq!(names(offline(), &[], &["lo"]), [""; 0]);
    }

    #[test]
    fn dead_addresses_are_not_advertised_and_link_local_ones_come_last() {
        let selected = select(machine(), &InterfaceRules::default());
        let expected: Vec<IpAddr> =
            ["10.0.0.7", "10.0.1.7", "fd00::7", "fe80::7"].iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(addresses(&selected), expected);
    }

    #[test]
    fn a_link_is_known_by_its_prefixes() {
        let eth0 = &machine()[3];
        for (address, expected) in
            [("10.0.0.200", true), ("10.0.1.7", false), ("fe80::9", true), ("2001:db8::1", false)]
        {
            assert_eq!(eth0.on_link(address.parse().unwrap()), expected, "{address}");
        }
        assert_eq!(eth0.local(true), Some("10.0.0.7".parse().unwrap()));
        assert_eq!(eth0.local(false), Some("fe80::7".parse().unwrap()));
        assert!(!interface("x", &["10.0.0.1/0"]).on_link("8.8.8.8".parse().unwrap()));
        assert!(!interface("x", &["10.0.0.1/32"]).on_link("10.0.0.2".parse().unwrap()));
    }
}
