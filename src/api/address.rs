use std::{fmt, net::Ipv6Addr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not a peer's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no address of a peer ({why}); expected NAME, NAME:PORT, 192.168.1.5, [fe80::1%eth0]:37778"
)]
pub struct AddressError {
    text: String,
    why: &'static str,
}

/// Where a peer that multicast doesn't reach is found: a name or an IP address, and perhaps a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    /// A name or an IP address, without brackets; an IPv6 address may carry its zone (`fe80::1%eth0`).
    pub host: String,
    /// The port of its share service; the usual one when absent.
    pub port: Option<u16>,
}

impl FromStr for PeerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = |why| AddressError { text: text.chars().take(80).collect(), why };
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(|| wrong("the bracket isn't closed"))?;
            (
                host,
                if rest.is_empty() {
                    None
                } else {
                    Some(rest.strip_prefix(':').ok_or_else(|| wrong("odd end"))?)
                },
            )
        } else if is_ipv6(text) {
            (text, None)
        } else {
            text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
        };
        let named = !host.is_empty()
            && host.len() <= 253
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        if !named && !is_ipv6(host) {
            return Err(wrong("neither a name nor an IP address"));
        }
        let port = match port {
            None => None,
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => return Err(wrong("a port is 1 to 65535")),
                Ok(port) => Some(port),
            },
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Whether the text is an IPv6 address, with or without a zone.
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, "any"));
    address.parse::<Ipv6Addr>().is_ok()
        && (1..=15).contains(&zone.len())
        && zone.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) if self.host.contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

impl Serialize for PeerAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PeerAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, host, port) in [
            ("192.168.1.5", "192.168.1.5", None),
            ("192.168.1.5:4000", "192.168.1.5", Some(4000)),
            ("lab-3.local:37778", "lab-3.local", Some(37778)),
            ("fe80::1%eth0", "fe80::1%eth0", None),
            ("[fe80::1%eth0]:4000", "fe80::1%eth0", Some(4000)),
            ("::1", "::1", None),
        ] {
            let address: PeerAddress = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port));
            assert_eq!(address.to_string(), text);
        }
        for bad in
            ["", ":80", "host:0", "host:70000", "[::1", "[::1]x", "a b", "http://x", "[]", "x:y:z", "::1%"]
        {
            assert!(bad.parse::<PeerAddress>().is_err(), "{bad:?}");
        }
    }
}
