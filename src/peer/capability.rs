use minicbor::Encoder;
use serde::{Deserialize, Serialize};

use super::identity::{Identity, NotSigned, Signature, verify};
use crate::types::{NodeId, WorkspaceId};

/// What an owner's signature over a capability begins with.
const DOMAIN: &[u8] = b"twinshare capability v1\0";

/// The owner's word that a node may read a workspace, to be shown to others who hold parts of it.
///
/// Its times are the owner's: clocks differ on a LAN, so whoever judges it compares them with what it has heard from the
/// owner, never with its own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capability {
    /// Whose workspace it is.
    pub owner: NodeId,
    /// The workspace.
    pub workspace: WorkspaceId,
    /// Who may read it.
    pub reader: NodeId,
    /// When it was given, in seconds since 1970 by the owner's clock.
    pub issued: u64,
    /// From when on it's void, by the same clock.
    pub expires: u64,
    /// The owner's signature over the rest.
    pub signature: Signature,
}

impl Capability {
    /// Gives `reader` the right to read the owner's `workspace` from `issued` until `expires`.
    pub fn sign(owner: &Identity, workspace: WorkspaceId, reader: NodeId, issued: u64, expires: u64) -> Self {
        let signature = Signature::from_bytes([0; 64]);
        let mut capability = Self { owner: owner.id(), workspace, reader, issued, expires, signature };
        capability.signature = owner.sign(&capability.signed_bytes());
        capability
    }

    /// Checks that its owner signed it. Whose word that is, and whether it still holds, is for the caller to judge.
    pub fn verify(&self) -> Result<(), NotSigned> {
        verify(self.owner, &self.signed_bytes(), &self.signature)
    }

    /// What the owner signs: a text that says what it is, then the fields as deterministic CBOR.
    fn signed_bytes(&self) -> Vec<u8> {
        let mut message = DOMAIN.to_vec();
        let mut cbor = Encoder::new(&mut message);
        let result = cbor
            .array(5)
            .and_then(|cbor| cbor.bytes(self.owner.as_bytes()))
            .and_then(|cbor| cbor.bytes(self.workspace.as_bytes()))
            .and_then(|cbor| cbor.bytes(self.reader.as_bytes()))
            .and_then(|cbor| cbor.u64(self.issued))
            .and_then(|cbor| cbor.u64(self.expires));
        match result {
            Ok(_) => message,
            Err(_) => unreachable!("a vector takes every byte and every value here has an encoding"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capability() -> Capability {
        let (owner, reader) = (Identity::from_secret([7; 32]), Identity::from_secret([8; 32]).id());
        Capability::sign(&owner, WorkspaceId::from_bytes([0x11; 16]), reader, 1_700_000_000, 1_700_000_240)
    }

    #[test]
    fn test_vector_of_a_capability() {
        let capability = capability();
        let message = concat!(
            "7477696e7368617265206361706162696c697479207631008558",
            "20ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c",
            "5011111111111111111111111111111111",
            "58201398f62c6d1a457c51ba6a4b5f3dbd2f69fca93216218dc8997e416bd17d93ca",
            "1a6553f1001a6553f1f0"
        );
        assert_eq!(hex::encode(capability.signed_bytes()), message);
        let signature = concat!(
            "f12fb06ade2aa011b2114c94341a38c41889854be0ceeac06da014ce09b6ea17",
            "17f72a23751a3214fb923d3c21a655fe21f1c8c45606e75ff2512cdce60e0c03"
        );
        assert_eq!(capability.signature.to_string(), signature);
        capability.verify().unwrap();
    }

    #[test]
    fn every_field_is_signed() {
        let good = capability();
        let other = NodeId::from_bytes([3; 32]);
        for bad in [
            Capability { owner: other, ..good },
            Capability { workspace: WorkspaceId::from_bytes([0x12; 16]), ..good },
            Capability { reader: other, ..good },
            Capability { issued: good.issued + 1, ..good },
            Capability { expires: good.expires + 1, ..good },
        ] {
            assert!(bad.verify().is_err(), "{bad:?}");
        }
    }
}
