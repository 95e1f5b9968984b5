//! The datagram by which a node says that it is there: docs/beacon.md is its specification.

use std::{fmt, io::Read, net::IpAddr};

use ed25519_dalek::{Signature, VerifyingKey};
use flate2::{Compression, read::ZlibDecoder, read::ZlibEncoder};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::types::{HostName, NodeId, WorkspaceName};

/// The most bytes that a beacon takes on the wire: with its headers, one unfragmented packet on every link.
pub(super) const MAX_SENT_BYTES: usize = 1200;
/// The most bytes that a datagram may have to be looked at.
pub(super) const MAX_RECEIVED_BYTES: usize = 1400;
/// The most bytes that a datagram may decompress to.
const MAX_INFLATED_BYTES: u64 = 64 * 1024;
/// How far the sender's clock may be from ours before the beacon is flagged, in milliseconds.
const CLOCK_TOLERANCE_MS: u64 = 5 * 60 * 1000;
/// What is signed starts with this, so that the signature means nothing anywhere else.
const SIGNATURE_DOMAIN: &[u8] = b"twinshare beacon v1\0";

const MAX_ENVIRONMENTS: usize = 2048;
const MAX_FEATURES: usize = 16;
pub(super) const MAX_ADDRESSES: usize = 8;
const MAX_FEATURE_BYTES: usize = 32;
const MAX_VERSION_BYTES: usize = 64;
const MAX_CATALOGUE_BYTES: usize = 128;

/// Why a datagram isn't a beacon, or why a beacon can't be made.
#[derive(Debug, thiserror::Error)]
pub enum BeaconError {
    /// The datagram is too large, or inflates to too much.
    #[error("a beacon of over {0} bytes")]
    TooLarge(u64),
    /// The datagram isn't zlib data.
    #[error("not zlib data: {0}")]
    Compression(#[from] std::io::Error),
    /// The content isn't the JSON that a beacon holds.
    #[error("not a beacon: {0}")]
    Json(#[from] serde_json::Error),
    /// A field holds what it may not.
    #[error("the beacon's {0} is out of bounds")]
    Field(&'static str),
    /// The signature isn't the claimed node's: somebody else made this.
    #[error("a beacon in the name of node {} that it hasn't signed", claimed.short())]
    Forged {
        /// The node whose name the datagram carries.
        claimed: NodeId,
    },
}

/// Signs in a node's name, so that discovery needn't hold its key.
pub trait Signer: Send + Sync {
    /// The node's identity: the public half of the key.
    fn id(&self) -> NodeId;

    /// The Ed25519 signature of `message`.
    fn sign(&self, message: &[u8]) -> [u8; 64];
}

/// Whether `signature` is `id`'s own over `message`.
pub fn verify(id: NodeId, message: &[u8], signature: &[u8; 64]) -> bool {
    // verify_strict refuses weak keys, under which one signature fits several messages.
    VerifyingKey::from_bytes(id.as_bytes())
        .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
}

/// One run of a node: random at every start, so that a restart is seen as one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Instance(u64);

impl Instance {
    /// The number for a run that starts now.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Instance({self})")
    }
}

impl From<Instance> for String {
    fn from(instance: Instance) -> Self {
        instance.to_string()
    }
}

impl TryFrom<String> for Instance {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 8];
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| "an instance is 16 hexadecimal digits")?;
        Ok(Self(u64::from_be_bytes(bytes)))
    }
}

/// What a beacon is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The node is there.
    Announce,
    /// The node is there, and wants everybody's announcement at the port that this came from.
    Query,
    /// The node leaves.
    Goodbye,
}

/// What a machine has to run environments with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Processor cores.
    pub cpu_cores: u32,
    /// Memory in GiB, rounded down.
    pub memory_gb: u32,
    /// Free disk space in GiB, rounded down.
    pub disk_gb: u32,
}

/// What a node says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The host's name, as people know it; several nodes may have the same.
    pub hostname: HostName,
    /// The TCP port of its share service.
    pub port: u16,
    /// Its program's version.
    pub version: String,
    /// The workspaces it shares. Empty when they are too many for a datagram: `catalogue` stands for them.
    pub environments: Vec<WorkspaceName>,
    /// The runtimes and abilities it has, such as `process` or `vm`.
    pub features: Vec<String>,
    /// What it has to run environments with.
    pub resources: Resources,
    /// A tag that changes whenever its catalogue does.
    pub catalogue: String,
}

impl Facts {
    /// Checks what comes from a peer by whichever way: lengths, counts and characters.
    pub fn check(&self) -> Result<(), BeaconError> {
        let printable = |text: &str, longest: usize| {
            text.len() <= longest && text.chars().all(|c| c.is_ascii_graphic() || c == ' ')
        };
        let checks = [
            (self.port != 0, "port"),
            (printable(&self.version, MAX_VERSION_BYTES), "version"),
            (self.environments.len() <= MAX_ENVIRONMENTS, "environments"),
            (self.features.len() <= MAX_FEATURES, "features"),
            (self.features.iter().all(|feature| printable(feature, MAX_FEATURE_BYTES)), "features"),
            (printable(&self.catalogue, MAX_CATALOGUE_BYTES), "catalogue"),
        ];
        match checks.iter().find(|(fine, _)| !fine) {
            Some((_, field)) => Err(BeaconError::Field(field)),
            None => Ok(()),
        }
    }
}

/// A datagram's content. One that comes from [`Beacon::parse`] is signed by its `peer_id` and within bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beacon {
    /// Who speaks.
    pub peer_id: NodeId,
    /// What it says about itself.
    #[serde(flatten)]
    pub facts: Facts,
    /// The first of `addresses`, for readers that know only one.
    pub ip: IpAddr,
    /// When this was made by the sender's clock, in milliseconds since 1970; it grows within an instance.
    pub timestamp: u64,
    /// The run of the node that this comes from.
    pub instance: Instance,
    /// Where its share service may be reached, best first.
    pub addresses: Vec<IpAddr>,
    /// What this is for.
    pub kind: Kind,
}

impl Beacon {
    /// The datagram, signed: at most 1200 bytes, without the environments where they don't fit.
    ///
    /// # Errors
    /// [`BeaconError::Field`] and [`BeaconError::TooLarge`] when the node's own facts exceed what a peer would take.
    pub fn encode(&self, signer: &dyn Signer) -> Result<Vec<u8>, BeaconError> {
        self.check()?;
        let whole = self.pack(signer)?;
        if whole.len() <= MAX_SENT_BYTES {
            return Ok(whole);
        }
        let mut cut = self.clone();
        cut.facts.environments.clear();
        let cut = cut.pack(signer)?;
        if cut.len() <= MAX_SENT_BYTES { Ok(cut) } else { Err(BeaconError::TooLarge(MAX_SENT_BYTES as u64)) }
    }

    /// Reads and checks a datagram. `now_ms` is our clock, in milliseconds since 1970; the flag that comes back says
    /// that the sender's is over five minutes from it.
    ///
    /// # Errors
    /// Everything that isn't a well-formed beacon signed by the node it names.
    pub fn parse(datagram: &[u8], now_ms: u64) -> Result<(Self, bool), BeaconError> {
        if datagram.len() > MAX_RECEIVED_BYTES {
            return Err(BeaconError::TooLarge(MAX_RECEIVED_BYTES as u64));
        }
        let mut json = Vec::new();
        ZlibDecoder::new(datagram).take(MAX_INFLATED_BYTES + 1).read_to_end(&mut json)?;
        if json.len() as u64 > MAX_INFLATED_BYTES {
            return Err(BeaconError::TooLarge(MAX_INFLATED_BYTES));
        }
        // The signature covers members that this version doesn't know, too: so it is checked on the generic value.
        let mut value: Value = serde_json::from_slice(&json)?;
        let signature = value.as_object_mut().and_then(|members| members.remove("signature"));
        let signature = signature.as_ref().and_then(Value::as_str).ok_or(BeaconError::Field("signature"))?;
        let mut bytes = [0; 64];
        hex::decode_to_slice(signature, &mut bytes).map_err(|_| BeaconError::Field("signature"))?;
        let message = signed_bytes(&value)?;
        let beacon: Self = serde_json::from_value(value)?;
        if !verify(beacon.peer_id, &message, &bytes) {
            return Err(BeaconError::Forged { claimed: beacon.peer_id });
        }
        beacon.check()?;
        let clock_skew = beacon.timestamp.abs_diff(now_ms) > CLOCK_TOLERANCE_MS;
        Ok((beacon, clock_skew))
    }

    fn check(&self) -> Result<(), BeaconError> {
        self.facts.check()?;
        if self.addresses.len() > MAX_ADDRESSES {
            return Err(BeaconError::Field("addresses"));
        }
        Ok(())
    }

    fn pack(&self, signer: &dyn Signer) -> Result<Vec<u8>, BeaconError> {
        let mut value = serde_json::to_value(self)?;
        let signature = signer.sign(&signed_bytes(&value)?);
        value["signature"] = hex::encode(signature).into();
        let json = serde_json::to_vec(&value)?;
        let mut packed = Vec::new();
        ZlibEncoder::new(&json[..], Compression::best()).read_to_end(&mut packed)?;
        Ok(packed)
    }
}

/// What a beacon's signature covers: the domain, then the members as JSON without spaces, sorted by their names.
fn signed_bytes(value: &Value) -> Result<Vec<u8>, BeaconError> {
    let mut bytes = SIGNATURE_DOMAIN.to_vec();
    write_canonical(value, &mut bytes)?;
    Ok(bytes)
}

/// Recursion is bounded, since serde_json refuses to parse deeper than 128 levels.
fn write_canonical(value: &Value, out: &mut Vec<u8>) -> Result<(), BeaconError> {
    match value {
        Value::Object(members) => {
            // serde_json's own order depends on a feature that any crate in the build may turn on.
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            out.push(b'{');
            for (index, (name, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, name)?;
                out.push(b':');
                write_canonical(member, out)?;
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_canonical(item, out)?;
            }
            out.push(b']');
        }
        // Fractions have more than one spelling.
        Value::Number(number) if !number.is_u64() && !number.is_i64() => {
            return Err(BeaconError::Field("number"));
        }
        _ => serde_json::to_writer(out, value)?,
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};
    use proptest::prelude::*;

    use super::*;

    pub(in crate::discovery) struct Key(pub(in crate::discovery) SigningKey);

    impl Key {
        pub(in crate::discovery) fn new(seed: u8) -> Self {
            Self(SigningKey::from_bytes(&[seed; 32]))
        }
    }

    impl Signer for Key {
        fn id(&self) -> NodeId {
            NodeId::from_bytes(self.0.verifying_key().to_bytes())
        }

        fn sign(&self, message: &[u8]) -> [u8; 64] {
            self.0.sign(message).to_bytes()
        }
    }

    pub(in crate::discovery) fn facts() -> Facts {
        Facts {
            hostname: "dev".parse().unwrap(),
            port: 37778,
            version: "0.1.0".into(),
            environments: vec!["lab".parse().unwrap()],
            features: vec!["process".into()],
            resources: Resources { cpu_cores: 8, memory_gb: 32, disk_gb: 400 },
            catalogue: "c1".into(),
        }
    }

    pub(in crate::discovery) fn beacon(key: &Key, instance: u64, timestamp: u64) -> Beacon {
        Beacon {
            peer_id: key.id(),
            facts: facts(),
            ip: "10.0.0.7".parse().unwrap(),
            timestamp,
            instance: Instance(instance),
            addresses: vec!["10.0.0.7".parse().unwrap(), "fe80::7".parse().unwrap()],
            kind: Kind::Announce,
        }
    }

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        ZlibEncoder::new(bytes, Compression::best()).read_to_end(&mut packed).unwrap();
        packed
    }

    fn inflate(bytes: &[u8]) -> Value {
        let mut json = Vec::new();
        ZlibDecoder::new(bytes).read_to_end(&mut json).unwrap();
        serde_json::from_slice(&json).unwrap()
    }

    /// A datagram whose members were changed by `edit` and that `key` signed.
    fn edited(key: &Key, edit: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut value = serde_json::to_value(beacon(key, 1, 1000)).unwrap();
        edit(&mut value);
        let signature = key.sign(&signed_bytes(&value).unwrap_or_default());
        value["signature"] = hex::encode(signature).into();
        deflate(&serde_json::to_vec(&value).unwrap())
    }

    #[test]
    fn a_beacon_survives_the_wire() {
        let key = Key::new(1);
        let sent = beacon(&key, 1, 1_700_000_000_000);
        let datagram = sent.encode(&key).unwrap();
        assert!(datagram.len() < 600, "{}", datagram.len());
        assert_eq!(Beacon::parse(&datagram, sent.timestamp).unwrap(), (sent, false));
    }

    #[test]
    fn the_signed_bytes_are_those_of_the_specification() {
        let key = Key::new(1);
        let value = serde_json::to_value(beacon(&key, 1, 1000)).unwrap();
        let expected = format!(
            "twinshare beacon v1\0{{\"addresses\":[\"10.0.0.7\",\"fe80::7\"],\"catalogue\":\"c1\",\
             \"environments\":[\"lab\"],\"features\":[\"process\"],\"hostname\":\"dev\",\
             \"instance\":\"0000000000000001\",\"ip\":\"10.0.0.7\",\"kind\":\"announce\",\"peer_id\":\"{}\",\
             \"port\":37778,\"resources\":{{\"cpu_cores\":8,\"disk_gb\":400,\"memory_gb\":32}},\
             \"timestamp\":1000,\"version\":\"0.1.0\"}}",
            key.id()
        );
        assert_eq!(String::from_utf8(signed_bytes(&value).unwrap()).unwrap(), expected);
    }

    #[test]
    fn a_list_that_does_not_fit_is_left_to_the_catalogue() {
        let key = Key::new(1);
        let mut sent = beacon(&key, 1, 1000);
        // Digests as names: nothing that a compressor could make small.
        sent.facts.environments =
            (0..200u8).map(|n| crate::types::Digest::of(&[n]).to_string().parse().unwrap()).collect();
        let datagram = sent.encode(&key).unwrap();
        assert!(datagram.len() <= MAX_SENT_BYTES);
        let (received, _) = Beacon::parse(&datagram, 1000).unwrap();
        assert_eq!(received.facts.environments, []);
        assert_eq!(received.facts.catalogue, "c1");
    }

    #[test]
    fn the_fullest_beacon_fits() {
        let key = Key::new(1);
        let noise = |n: usize| crate::types::Digest::of(&[n as u8]).to_string();
        let mut sent = beacon(&key, u64::MAX, u64::MAX);
        sent.facts.hostname = format!("{}{}", noise(1), &noise(2)[..56]).parse().unwrap();
        sent.facts.version = noise(3);
        sent.facts.catalogue = format!("{}{}", noise(4), noise(5));
        sent.facts.features = (10..10 + MAX_FEATURES).map(|n| noise(n)[..MAX_FEATURE_BYTES].into()).collect();
        sent.addresses = (0..MAX_ADDRESSES)
            .map(|n| std::net::Ipv6Addr::from(u128::from_str_radix(&noise(n)[..32], 16).unwrap()).into())
            .collect();
        assert!(sent.encode(&key).unwrap().len() <= MAX_SENT_BYTES);
    }

    #[test]
    fn a_clock_that_is_off_is_flagged_and_tolerated() {
        let key = Key::new(1);
        let datagram = beacon(&key, 1, 1_000_000).encode(&key).unwrap();
        assert!(!Beacon::parse(&datagram, 1_000_000 + CLOCK_TOLERANCE_MS).unwrap().1);
        assert!(Beacon::parse(&datagram, 1_000_001 + CLOCK_TOLERANCE_MS).unwrap().1);
        assert!(Beacon::parse(&datagram, 0).unwrap().1);
    }

    #[test]
    fn nobody_speaks_in_anothers_name() {
        let (honest, liar) = (Key::new(1), Key::new(2));
        let datagram = beacon(&honest, 1, 1000).encode(&liar).unwrap();
        assert!(
            matches!(Beacon::parse(&datagram, 0), Err(BeaconError::Forged { claimed }) if claimed == honest.id())
        );

        let mut value = inflate(&beacon(&honest, 1, 1000).encode(&honest).unwrap());
        value["port"] = 1.into();
        let datagram = deflate(&serde_json::to_vec(&value).unwrap());
        assert!(matches!(Beacon::parse(&datagram, 0), Err(BeaconError::Forged { .. })));
    }

    #[test]
    fn members_of_later_versions_are_signed_and_ignored() {
        let key = Key::new(1);
        let datagram = edited(&key, |value| value["later"] = serde_json::json!({"z": [1, null], "a": "é\n"}));
        assert_eq!(Beacon::parse(&datagram, 1000).unwrap().0, beacon(&key, 1, 1000));
    }

    #[test]
    fn fields_out_of_bounds_are_refused() {
        let key = Key::new(1);
        assert!(Beacon::parse(&edited(&key, |_| ()), 0).is_ok());
        let long = "x".repeat(300);
        for (field, bad) in [
            ("port", 0.into()),
            ("port", 65536.into()),
            ("port", serde_json::json!(37778.5)),
            ("hostname", "../up".into()),
            ("hostname", long.as_str().into()),
            ("version", long.as_str().into()),
            ("version", "1\u{1b}[2J".into()),
            ("catalogue", long.as_str().into()),
            ("environments", vec!["a/b"].into()),
            ("environments", vec!["x"; MAX_ENVIRONMENTS + 1].into()),
            ("features", vec!["x"; MAX_FEATURES + 1].into()),
            ("features", vec![long.as_str()].into()),
            ("addresses", vec!["10.0.0.1"; MAX_ADDRESSES + 1].into()),
            ("addresses", vec!["nowhere"].into()),
            ("ip", Value::Null),
            ("kind", "shout".into()),
            ("instance", "12".into()),
            ("timestamp", (-1).into()),
            ("resources", serde_json::json!({"cpu_cores": 1})),
            ("peer_id", "00".into()),
        ] {
            let datagram = edited(&key, |value| value[field] = bad.clone());
            assert!(datagram.len() <= MAX_RECEIVED_BYTES);
            assert!(Beacon::parse(&datagram, 0).is_err(), "{field} = {bad}");
        }
    }

    #[test]
    fn bombs_are_defused() {
        let bomb = deflate(&vec![b' '; 1_000_000]);
        assert!(bomb.len() <= MAX_RECEIVED_BYTES);
        assert!(matches!(Beacon::parse(&bomb, 0), Err(BeaconError::TooLarge(MAX_INFLATED_BYTES))));
        assert!(matches!(Beacon::parse(&[0; 1401], 0), Err(BeaconError::TooLarge(1400))));
        assert!(matches!(Beacon::parse(&deflate(&[b'['; 60_000]), 0), Err(BeaconError::Json(_))));
    }

    proptest! {
        #[test]
        fn hostile_bytes_give_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
            prop_assert!(Beacon::parse(&bytes, 0).is_err());
            prop_assert!(Beacon::parse(&deflate(&bytes), 0).is_err());
        }

        #[test]
        fn a_changed_byte_is_noticed(position in any::<prop::sample::Index>(), change in 1..=255u8) {
            let key = Key::new(1);
            let sent = beacon(&key, 1, 1000);
            let mut datagram = sent.encode(&key).unwrap();
            let position = position.index(datagram.len());
            datagram[position] ^= change;
            // A few bits of the compressed form don't matter (its level): then the content is the same.
            if let Ok((received, _)) = Beacon::parse(&datagram, 1000) {
                prop_assert_eq!(received, sent);
            }
        }
    }
}
