//! Pairing: two people make sure that their nodes really talk to each other, by a short code that one of them reads to the other.
//!
//! SPAKE2 (Abdalla and Pointcheval, 2005; RFC 9382) turns the code into a key that both sides have only if the code was the
//! same, and if each side's idea of who is who was: the identities that the TLS connection has shown go into it. Whoever
//! stands between two nodes shows each of them another identity, so that what they relay fails on both sides; and a
//! guess at the code takes a try of its own, of which there is one.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use spake2::{Ed25519Group, Identity, Password, Spake2};

use crate::types::NodeId;

/// The digits of a code.
const DIGITS: usize = 6;

/// A code for one pairing: six digits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PairingCode(String);

/// The text isn't a pairing code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pairing code has six digits, as in 123-456")]
pub struct NoCode;

impl PairingCode {
    /// A new one, by chance.
    pub fn random() -> Self {
        let number: u32 = rand::random_range(0..10_u32.pow(DIGITS as u32));
        Self(format!("{number:0width$}", width = DIGITS))
    }
}

impl FromStr for PairingCode {
    type Err = NoCode;

    /// Reads the digits, with `-` or a space between them or not.
    fn from_str(text: &str) -> Result<Self, NoCode> {
        let digits: String = text.chars().filter(|char| !matches!(char, '-' | ' ')).collect();
        let good = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
        if good { Ok(Self(digits)) } else { Err(NoCode) }
    }
}

impl TryFrom<String> for PairingCode {
    type Error = NoCode;

    fn try_from(text: String) -> Result<Self, NoCode> {
        text.parse()
    }
}

impl From<PairingCode> for String {
    fn from(code: PairingCode) -> Self {
        code.to_string()
    }
}

impl fmt::Display for PairingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", &self.0[..DIGITS / 2], &self.0[DIGITS / 2..])
    }
}

impl fmt::Debug for PairingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairingCode(…)")
    }
}

/// Another code, or another node between: nobody can tell which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the code is wrong, or somebody stands between the two nodes")]
pub struct NotPaired;

/// What the inviting node answers the first message with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// Its own message.
    #[serde(with = "hex")]
    pub message: Vec<u8>,
    /// What shows that it has the key.
    #[serde(with = "hex")]
    pub confirmation: [u8; 32],
}

/// What both sides have when all went well: each proves it to the other with its half.
struct Key([u8; 32]);

impl Key {
    fn new(shared: Vec<u8>) -> Self {
        Self(
            *blake3::Hasher::new_derive_key("twinshare pairing v1 key").update(&shared).finalize().as_bytes(),
        )
    }

    fn proof(&self, side: &'static str) -> blake3::Hash {
        blake3::Hasher::new_keyed(&self.0).update(side.as_bytes()).finalize()
    }
}

/// The inviting side, when it has answered and waits for the other's proof.
#[derive(Debug)]
pub struct Invited {
    /// Compared in constant time.
    expected: blake3::Hash,
}

/// Answers the first message of a joining node.
pub fn invite(
    code: &PairingCode,
    own: NodeId,
    joiner: NodeId,
    message: &[u8],
) -> Result<(Reply, Invited), NotPaired> {
    let (state, own_message) = Spake2::<Ed25519Group>::start_a(
        &Password::new(&code.0),
        &Identity::new(own.as_bytes()),
        &Identity::new(joiner.as_bytes()),
    );
    let key = Key::new(state.finish(message).map_err(|_| NotPaired)?);
    let reply = Reply { message: own_message, confirmation: *key.proof("inviter").as_bytes() };
    Ok((reply, Invited { expected: key.proof("joiner") }))
}

impl Invited {
    /// Whether the joining node has proved to have the key.
    pub fn check(&self, proof: &[u8; 32]) -> Result<(), NotPaired> {
        if self.expected == *proof { Ok(()) } else { Err(NotPaired) }
    }
}

/// The joining side, from its first message to the answer.
pub struct Joining {
    state: Spake2<Ed25519Group>,
}

impl Joining {
    /// Begins; gives the message for the inviting node.
    pub fn begin(code: &PairingCode, own: NodeId, inviter: NodeId) -> (Self, Vec<u8>) {
        let (state, message) = Spake2::<Ed25519Group>::start_b(
            &Password::new(&code.0),
            &Identity::new(inviter.as_bytes()),
            &Identity::new(own.as_bytes()),
        );
        (Self { state }, message)
    }

    /// Checks the answer; gives the proof for the inviting node.
    pub fn finish(self, reply: &Reply) -> Result<[u8; 32], NotPaired> {
        let key = Key::new(self.state.finish(&reply.message).map_err(|_| NotPaired)?);
        if key.proof("inviter") != reply.confirmation {
            return Err(NotPaired);
        }
        Ok(*key.proof("joiner").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: NodeId = NodeId::from_bytes([1; 32]);
    const BOB: NodeId = NodeId::from_bytes([2; 32]);
    const EVE: NodeId = NodeId::from_bytes([3; 32]);

    fn code(text: &str) -> PairingCode {
        text.parse().unwrap()
    }

    #[test]
    fn the_same_code_pairs() {
        let (joining, message) = Joining::begin(&code("123-456"), BOB, ANN);
        let (reply, invited) = invite(&code("123456"), ANN, BOB, &message).unwrap();
        invited.check(&joining.finish(&reply).unwrap()).unwrap();
    }

    #[test]
    fn a_wrong_code_shows_on_both_sides() {
        let (joining, message) = Joining::begin(&code("123-457"), BOB, ANN);
        let (reply, invited) = invite(&code("123-456"), ANN, BOB, &message).unwrap();
        assert_eq!(joining.finish(&reply), Err(NotPaired));
        assert_eq!(invited.check(&[0; 32]), Err(NotPaired));
        // What the inviter sent proves nothing for the joiner.
        assert_eq!(invited.check(&reply.confirmation), Err(NotPaired));
    }

    #[test]
    fn whoever_stands_between_fails_on_both_sides() {
        // Bob takes Eve for Ann, and Ann takes Eve for Bob: she passes on what they say.
        let (joining, message) = Joining::begin(&code("123-456"), BOB, EVE);
        let (reply, invited) = invite(&code("123-456"), ANN, EVE, &message).unwrap();
        assert_eq!(joining.finish(&reply), Err(NotPaired));
        assert_eq!(invited.check(&[0; 32]), Err(NotPaired));
        // With a guess of her own she gets no farther.
        let (own, message) = Joining::begin(&code("000-000"), EVE, ANN);
        let (reply, _) = invite(&code("123-456"), ANN, EVE, &message).unwrap();
        assert_eq!(own.finish(&reply), Err(NotPaired));
    }

    #[test]
    fn nonsense_pairs_nobody() {
        for message in [&[][..], &[0x42; 33], &[0x41; 33], &[0x42; 32], &[0xff; 100]] {
            let joined = invite(&code("123-456"), ANN, BOB, message);
            if let Ok((reply, invited)) = joined {
                // A point may decode; what follows from it is known to nobody.
                assert!(invited.check(&reply.confirmation).is_err());
            }
        }
        // A message sent back to its sender.
        let (joining, message) = Joining::begin(&code("123-456"), BOB, ANN);
        let back = Reply { message, confirmation: [0; 32] };
        assert_eq!(joining.finish(&back), Err(NotPaired));
    }

    #[test]
    fn codes_are_six_digits() {
        assert_eq!(code("012 345").to_string(), "012-345");
        for bad in ["", "12345", "1234567", "12345a", "１２３４５６"] {
            assert_eq!(bad.parse::<PairingCode>(), Err(NoCode), "{bad}");
        }
        let random = PairingCode::random();
        assert_eq!(random.to_string().parse(), Ok(random.clone()));
        assert!(!format!("{random:?}").contains(&random.to_string()[..3]));
    }
}
