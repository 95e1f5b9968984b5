//! Who is on the LAN, by address.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ipnet::IpNet;

use super::interfaces::{Interface, InterfaceRules, is_used, scan};

/// The machine's interfaces are looked at again after this time.
const FRESH: Duration = Duration::from_secs(2);

/// If one came to an address that isn't known, they are looked at again after this.
const HURRIED: Duration = Duration::from_millis(100);

/// Judges connections by the addresses of their ends.
#[derive(Debug)]
pub struct Lan {
    rules: InterfaceRules,
    allow_from: Vec<IpNet>,
    interfaces: Mutex<Option<(Instant, Vec<Interface>)>>,
}

impl Lan {
    /// Connections over interfaces that `rules` let through are taken from the LAN and from the networks `allow_from`.
    pub fn new(rules: InterfaceRules, allow_from: Vec<IpNet>) -> Self {
        Self { rules, allow_from, interfaces: Mutex::default() }
    }

    /// Whether a connection from `peer` that came to `own` is taken: over an interface that may be used, from a private,
    /// link-local or unique-local address, one on the network of one of the machine's interfaces, or one that was allowed.
    pub fn admits(&self, peer: IpAddr, own: IpAddr) -> bool {
        let mut known = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        // An address that no interface is known to have came up a moment ago.
        let own = own.to_canonical();
        let is_fresh = |(at, found): &(Instant, Vec<Interface>)| {
            at.elapsed() < if found.iter().any(|it| it.has(own)) { FRESH } else { HURRIED }
        };
        if !known.as_ref().is_some_and(is_fresh) {
            match scan() {
                Ok(found) => *known = Some((Instant::now(), found)),
                Err(error) => tracing::debug!(%error, "could not list the network interfaces"),
            }
        }
        let interfaces = known.as_ref().map_or(&[][..], |(_, found)| found);
        self.admits_on(interfaces, peer.to_canonical(), own)
    }

    fn admits_on(&self, interfaces: &[Interface], peer: IpAddr, own: IpAddr) -> bool {
        if peer.is_loopback() {
            return true;
        }
        // A machine answers for all its addresses on every network: so both ends must be on an interface that may be used, as
        // far as the other end is on any. Where nothing is known of the interfaces, none may be used that isn't all of them.
        let is_used = |it: &Interface| is_used(&it.name, &self.rules);
        let came_to = interfaces.iter().find(|it| it.has(own));
        let mut came_from = interfaces.iter().filter(|it| it.on_link(peer)).peekable();
        let is_ruled = !self.rules.allow.is_empty() || !self.rules.deny.is_empty();
        if is_ruled
            && (!came_to.is_some_and(is_used) || (came_from.peek().is_some() && !came_from.any(is_used)))
        {
            return false;
        }
        is_local(peer)
            || interfaces.iter().any(|it| it.on_link(peer))
            || self.allow_from.iter().any(|network| network.contains(&peer))
    }
}

/// Whether an address is one of those that aren't routed on the internet.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        let address = |text: &&str| {
            let network: IpNet = text.parse().unwrap();
            (network.addr(), network.prefix_len())
        };
        Interface {
            name: name.to_owned(),
            index: 1,
            point_to_point: false,
            addresses: addresses.iter().map(address).collect(),
        }
    }

    #[test]
    fn the_lan_is_let_in_and_the_internet_is_not() {
        let interfaces = [
            interface("eth0", &["198.51.100.7/24", "2001:db8:1::7/64"]),
            interface("wlan0", &["10.0.0.7/8"]),
        ];
        let admits = |lan: &Lan, peer: &str, own: &str| {
            lan.admits_on(&interfaces, peer.parse().unwrap(), own.parse().unwrap())
        };
        let lan = Lan::new(InterfaceRules::default(), vec!["203.0.113.0/24".parse().unwrap()]);
        for (peer, expected) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("10.9.9.9", true),
            ("172.16.0.1", true),
            ("172.32.0.1", false),
            ("192.168.3.4", true),
            ("169.254.1.1", true),
            ("fe80::1", true),
            ("fd00::1", true),
            ("198.51.100.200", true),
            ("198.51.101.1", false),
            ("2001:db8:1::99", true),
            ("2001:db8:2::1", false),
            ("203.0.113.77", true),
            ("8.8.8.8", false),
        ] {
            assert_eq!(admits(&lan, peer, "198.51.100.7"), expected, "{peer}");
        }
        let rules = InterfaceRules { allow: Vec::new(), deny: vec!["wlan*".to_owned()] };
        let wired = Lan::new(rules, Vec::new());
        assert!(admits(&wired, "192.168.9.9", "198.51.100.7") && !admits(&wired, "192.168.9.9", "10.0.0.7"));
        assert!(!admits(&wired, "10.9.9.9", "198.51.100.7"), "from the denied network to another address");
        assert!(!admits(&wired, "192.168.9.9", "192.0.2.1"), "of an interface that nothing is known of");
        assert!(!wired.admits_on(&[], "192.168.9.9".parse().unwrap(), "198.51.100.7".parse().unwrap()));
        let rules = InterfaceRules { allow: vec!["wlan0".to_owned()], deny: Vec::new() };
        let wireless = Lan::new(rules, Vec::new());
        assert!(!admits(&wireless, "10.9.9.9", "198.51.100.7") && admits(&wireless, "10.9.9.9", "10.0.0.7"));
        assert!(!admits(&wireless, "198.51.100.9", "10.0.0.7"));
        assert!(admits(&wireless, "127.0.0.1", "127.0.0.1"));
        // Written as IPv6, an address is the same.
        let mapped = Lan::new(InterfaceRules::default(), Vec::new());
        assert!(mapped.admits("::ffff:192.168.1.1".parse().unwrap(), "::ffff:192.168.1.2".parse().unwrap()));
        assert!(!mapped.admits("::ffff:8.8.8.8".parse().unwrap(), "::ffff:192.168.1.2".parse().unwrap()));
    }
}
