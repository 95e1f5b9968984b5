use std::{fmt, path::PathBuf};

use minicbor::Encoder;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::IntoDeserializer};

use super::{
    capability::Capability,
    identity::{Identity, NotSigned, Signature, verify},
};
use crate::{
    access::{Access, Right, Rights},
    blob::{Blob, GROUP, WHOLE_MAX, windows},
    types::{Digest, HostName, Name, NodeId, WorkspaceId, WorkspaceName},
};

/// The most pieces that one request may name.
pub const MAX_PIECES: usize = 4096;

/// The longest body of a request, in bytes.
pub const MAX_BATCH: usize = 1 << 20;

/// The longest launch profile, as JSON, in bytes.
pub(super) const MAX_PROFILE: usize = 8 << 20;

/// The longest edit, apart from its files' bytes.
pub(super) const MAX_EDIT: usize = 64 << 20;

/// The most content that one slice or one pending range may hold, in bytes.
pub const MAX_RANGE: u64 = 4 << 20;

/// The longest that a catalogue request may wait, in seconds.
pub const MAX_WAIT: u64 = 30;

/// The most bytes of tree objects that answer one subtree piece, apart from its first object.
pub const SUBTREE_BUDGET: usize = 8 << 20;

/// The most bytes of tree objects in one answer, apart from those that were asked for by name.
pub(super) const ANSWER_BUDGET: usize = 32 << 20;

/// The longest catalogue or node info that is accepted, in bytes.
pub(super) const MAX_JSON: usize = 8 << 20;

/// The most workspaces that one node may share: their signatures are all checked.
pub const MAX_WORKSPACES: usize = 1024;

/// The longest catalogue tag, in bytes.
pub(super) const MAX_TAG: usize = 128;

/// The most nodes that are named as holders of something: more would hardly be asked.
pub const MAX_HOLDERS: usize = 16;

/// Readers that were shut out of a workspace and are named.
pub const MAX_REVOKED: usize = 256;

/// The header of a batch answer that names others who lately asked for the same large blob, by commas.
pub(super) const HOLDERS_HEADER: &str = "twinshare-holders";

/// The longest path, in bytes: Linux's own limit.
const MAX_PATH: usize = 4095;

/// What an owner's signature over a head begins with.
const HEAD_DOMAIN: &[u8] = b"twinshare head v1\0";

/// Who a node is and what it can do: `GET /v1/node`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The node's identity, which the connection has proved too.
    pub peer_id: NodeId,
    /// The name that it goes by.
    pub hostname: HostName,
    /// The version of its software.
    pub version: String,
    /// What it can do beyond the first version of the protocol.
    #[serde(default)]
    pub features: Vec<String>,
    /// The port of its share service.
    pub port: u16,
}

/// What a node shares with the asker: `GET /v1/catalogue`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    /// Another text whenever the rest differs; 1 to 128 bytes.
    pub tag: String,
    /// The workspaces that the asker may know of.
    pub workspaces: Vec<WorkspaceInfo>,
    /// For those that the asker may read, what it needs to have parts of them from others.
    #[serde(default)]
    pub grants: Vec<Grant>,
}

/// A step of pairing, from the joining node: `POST /v1/pair`. It is answered with a [`super::Reply`], and then with `null`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum PairRequest {
    /// The first.
    #[serde(with = "hex")]
    Message(Vec<u8>),
    /// The second: what shows that it has the key. Zeros say that the reply was wrong.
    #[serde(with = "hex")]
    Proof([u8; 32]),
}

/// What became of an edit: `POST /v1/edits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditOutcome {
    /// The owner has to allow it first, and has been asked.
    pub asked: bool,
    /// What the owner has changed meanwhile, so that nothing was done; the edit was made if there's nothing.
    pub conflicts: Vec<String>,
}

/// What a node needs to have parts of a workspace from others than the owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What it shows to them.
    pub capability: Capability,
    /// Who was sent parts of the workspace, the latest first; at most [`MAX_HOLDERS`].
    pub holders: Vec<NodeId>,
    /// Who was sent some, and may not read it any more: their capabilities are void before their time. At most
    /// [`MAX_REVOKED`].
    #[serde(default)]
    pub revoked: Vec<NodeId>,
}

/// One shared workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceInfo {
    /// Its identity.
    pub id: WorkspaceId,
    /// The name that it goes by.
    pub name: WorkspaceName,
    /// What its owner says about it.
    #[serde(default)]
    pub description: String,
    /// Words to find it by.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Where it lies at its owner.
    pub path: OwnerPath,
    /// Its current version.
    pub head: SignedHead,
    /// The names of its environments.
    #[serde(default)]
    pub environments: Vec<String>,
    /// Who may read it.
    #[serde(deserialize_with = "known_access")]
    pub access: Access,
    /// What the asker may do.
    #[serde(deserialize_with = "known_rights")]
    pub rights: Rights,
}

/// A rule of a newer version is taken for the strictest that this one knows: what counts is what the asker may do.
fn known_access<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Access, D::Error> {
    let text = String::deserialize(deserializer)?;
    let known: Result<_, serde::de::value::Error> = Access::deserialize(text.into_deserializer());
    Ok(known.unwrap_or(Access::Peers))
}

/// Rights of a newer version are none that this one could use.
fn known_rights<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Rights, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).fold(Rights::NONE, Rights::and))
}

impl WorkspaceInfo {
    /// Whether the asker may see what is in it.
    pub fn is_open(&self) -> bool {
        self.rights.has(Right::Browse)
    }
}

/// Why some bytes aren't an absolute path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an absolute path of at most {MAX_PATH} bytes without '.', '..', empty parts or NUL")]
pub struct PathError;

/// An absolute path at the owner, as raw bytes: `/` and then names, none of them `.` or `..`.
///
/// In JSON a string, or `{"hex": …}` where the bytes aren't UTF-8.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct OwnerPath(Box<[u8]>);

impl OwnerPath {
    /// Checks `bytes` and takes them as a path.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        let names = bytes.strip_prefix(b"/").ok_or(PathError)?;
        let good =
            bytes.len() <= MAX_PATH && names.split(|byte| *byte == b'/').all(|name| Name::new(name).is_ok());
        if good { Ok(Self(bytes)) } else { Err(PathError) }
    }

    /// The bytes of the path.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path as the operating system's type.
    pub fn to_path_buf(&self) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        PathBuf::from(std::ffi::OsStr::from_bytes(&self.0))
    }
}

impl fmt::Debug for OwnerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

/// Bytes in JSON: text where they are UTF-8.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum TextOrHex {
    Text(String),
    Hex { hex: String },
}

impl From<&[u8]> for TextOrHex {
    fn from(bytes: &[u8]) -> Self {
        match str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.into()),
            Err(_) => Self::Hex { hex: hex::encode(bytes) },
        }
    }
}

impl TextOrHex {
    fn into_bytes<E: serde::de::Error>(self) -> Result<Vec<u8>, E> {
        match self {
            Self::Text(text) => Ok(text.into()),
            Self::Hex { hex } => hex::decode(hex).map_err(E::custom),
        }
    }
}

impl Serialize for OwnerPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        TextOrHex::from(&*self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for OwnerPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = TextOrHex::deserialize(deserializer)?.into_bytes()?;
        Self::new(bytes).map_err(serde::de::Error::custom)
    }
}

/// A workspace's current version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The digest of its top folder.
    pub root: Digest,
    /// Whether some of its files aren't hashed yet: then it is no snapshot, and only the owner serves it.
    pub provisional: bool,
    /// Greater than that of every head before it.
    pub sequence: u64,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// The permission bits of the top folder.
    pub mode: u16,
    /// When the top folder last changed, as seconds and nanoseconds.
    pub modified: (i64, u32),
    /// Files and symbolic links in it.
    pub files: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

impl Head {
    /// What the owner signs: a text that says what it is, then the fields as deterministic CBOR.
    fn signed_bytes(&self) -> Vec<u8> {
        let mut message = HEAD_DOMAIN.to_vec();
        let mut cbor = Encoder::new(&mut message);
        let result = cbor
            .array(9)
            .and_then(|cbor| cbor.bytes(self.workspace.as_bytes()))
            .and_then(|cbor| cbor.bytes(self.root.as_bytes()))
            .and_then(|cbor| cbor.bool(self.provisional))
            .and_then(|cbor| cbor.u64(self.sequence))
            .and_then(|cbor| cbor.i64(self.created))
            .and_then(|cbor| cbor.u16(self.mode))
            .and_then(|cbor| cbor.array(2))
            .and_then(|cbor| cbor.i64(self.modified.0))
            .and_then(|cbor| cbor.u32(self.modified.1))
            .and_then(|cbor| cbor.u64(self.files))
            .and_then(|cbor| cbor.u64(self.bytes));
        match result {
            Ok(_) => message,
            Err(_) => unreachable!("a vector takes every byte and every value here has an encoding"),
        }
    }
}

/// A head with its owner's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHead {
    /// What is signed.
    #[serde(flatten)]
    pub head: Head,
    /// The owner's signature.
    pub signature: Signature,
}

impl SignedHead {
    /// Signs `head` as its owner.
    pub fn sign(head: Head, owner: &Identity) -> Self {
        Self { head, signature: owner.sign(&head.signed_bytes()) }
    }

    /// Checks that `owner` signed it.
    pub fn verify(&self, owner: NodeId) -> Result<(), NotSigned> {
        verify(owner, &self.head.signed_bytes(), &self.signature)
    }
}

/// Many pieces of one workspace: the body of `POST /v1/batch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchRequest {
    /// The workspace that all the pieces are of.
    pub workspace: WorkspaceId,
    /// What is asked for, in the order in which it is answered.
    pub pieces: Vec<PieceRequest>,
    /// The owner's word that the asker may read it, for whoever isn't the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<Capability>,
    /// Whether it's fetched ahead of need: then it waits for a turn, and what others wait for goes before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bulk: bool,
}

/// One piece that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum PieceRequest {
    /// A tree object, and with `subtree` also the objects below it, breadth first, as far as the budget goes.
    Tree {
        /// The object's digest.
        tree: Digest,
        /// Whether the objects below it are wanted too.
        #[serde(default)]
        subtree: bool,
    },
    /// A blob that is fetched whole.
    Blob {
        /// The blob's digest.
        blob: Digest,
        /// Its length in bytes, at most [`WHOLE_MAX`].
        size: u64,
    },
    /// Some groups of a large blob, with the hashes that show them right.
    Slice {
        /// The blob's digest.
        slice: Digest,
        /// The blob's length in bytes, more than [`WHOLE_MAX`].
        size: u64,
        /// The first group, and the one after the last.
        groups: [u64; 2],
    },
    /// What is needed to make a window of a large blob out of another version of it (docs/FORMAT.md).
    Outline {
        /// The blob's digest.
        outline: Digest,
        /// The blob's length in bytes, more than [`WHOLE_MAX`].
        size: u64,
        /// Which window.
        window: u64,
    },
    /// A part of a file that isn't hashed yet.
    Pending {
        /// Which part of which file.
        pending: PendingRange,
    },
}

/// A part of a file that has no digest yet; only its owner serves it, and only TLS shows it right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PendingRange {
    /// The names from the workspace's top folder down to the file, each in hexadecimal.
    #[serde(with = "names")]
    pub path: Vec<Name>,
    /// The version token that the listing gave for the file; the answer is `changed` if it has another now.
    #[serde(with = "decimal")]
    pub token: u64,
    /// Where the part begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes: 1 to [`MAX_RANGE`], and within the file.
    pub length: u32,
}

/// Names as a list of hexadecimal texts: JSON has no bytes, and one form is enough for machines.
mod names {
    use super::*;

    pub(super) fn serialize<S: Serializer>(names: &[Name], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(names.iter().map(|name| hex::encode(name.as_bytes())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Name>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let name = |text| {
            let bytes = hex::decode(text).map_err(serde::de::Error::custom)?;
            Name::new(bytes).map_err(serde::de::Error::custom)
        };
        texts.iter().map(name).collect()
    }
}

/// A number as decimal text: it may be greater than what JSON readers keep exactly.
mod decimal {
    use super::*;

    pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl BatchRequest {
    /// Checks the limits that both sides keep; the error says which piece breaks which.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.pieces.len() > MAX_PIECES {
            return Err(format!("{} pieces are more than the {MAX_PIECES} allowed", self.pieces.len()));
        }
        for (index, piece) in self.pieces.iter().enumerate() {
            piece.check().map_err(|why| format!("piece {index}: {why}"))?;
        }
        Ok(())
    }
}

impl PieceRequest {
    fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Tree { .. } => Ok(()),
            Self::Blob { size, .. } if *size > WHOLE_MAX => Err("this blob is fetched in slices"),
            Self::Blob { .. } => Ok(()),
            Self::Slice { slice, size, groups: [start, end] } => {
                let blob = Blob { digest: *slice, size: *size };
                if blob.is_whole() || blob.size > i64::MAX as u64 {
                    Err("this blob isn't fetched in slices")
                } else if start >= end || *end > blob.groups() {
                    Err("the groups are not in the blob")
                } else if end - start > MAX_RANGE / GROUP {
                    Err("the slice is too long")
                } else {
                    Ok(())
                }
            }
            Self::Outline { outline, size, window } => {
                let blob = Blob { digest: *outline, size: *size };
                if blob.is_whole() || blob.size > i64::MAX as u64 {
                    Err("this blob has no outline")
                } else if *window >= windows(blob.size) {
                    Err("the window is not in the blob")
                } else {
                    Ok(())
                }
            }
            Self::Pending { pending } => {
                if pending.path.is_empty()
                    || pending.path.iter().map(|name| name.as_bytes().len() + 1).sum::<usize>() > MAX_PATH
                {
                    Err("the path is empty or too long")
                } else if pending.length == 0 || u64::from(pending.length) > MAX_RANGE {
                    Err("the range is empty or too long")
                } else if pending
                    .offset
                    .checked_add(pending.length.into())
                    .is_none_or(|end| end > i64::MAX as u64)
                {
                    Err("the range lies beyond the end of any file")
                } else {
                    Ok(())
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> Head {
        Head {
            workspace: WorkspaceId::from_bytes([0x11; 16]),
            root: Digest::of(b"root"),
            provisional: true,
            sequence: 300,
            created: 1_700_000_000,
            mode: 0o755,
            modified: (1_600_000_000, 5),
            files: 13_000,
            bytes: 5_000_000_000,
        }
    }

    #[test]
    fn test_vector_of_a_signed_head() {
        let owner = Identity::from_secret([7; 32]);
        let signed = SignedHead::sign(head(), &owner);
        let message = concat!(
            "7477696e73686172652068656164207631008950",
            "11111111111111111111111111111111",
            "582092a2b787a06d7272df43eaf87acc3b9c1d315d79d599d61c285983483e431998",
            "f519012c1a6553f1001901ed821a5f5e1000051932c81b000000012a05f200"
        );
        let root = "92a2b787a06d7272df43eaf87acc3b9c1d315d79d599d61c285983483e431998";
        let signature = concat!(
            "f1837ca1f2959cae320fc3550213ffd450de1bf342d6d80ae55a605d61400e8c",
            "a5e002e59df3a4ac3791c73e9babe4deeaec29c7caf13a67e7c2814386d7460f"
        );
        assert_eq!(hex::encode(head().signed_bytes()), message);
        let json = serde_json::to_string(&signed).unwrap();
        assert_eq!(
            json,
            format!(
                concat!(
                    r#"{{"workspace":"11111111111111111111111111111111","root":"{}","provisional":true,"#,
                    r#""sequence":300,"created":1700000000,"mode":493,"modified":[1600000000,5],"files":13000,"bytes":5000000000,"signature":"{}"}}"#
                ),
                root, signature
            )
        );
        assert_eq!(serde_json::from_str::<SignedHead>(&json).unwrap(), signed);
    }

    #[test]
    fn a_head_is_its_owners_in_every_field() {
        let owner = Identity::from_secret([7; 32]);
        let signed = SignedHead::sign(head(), &owner);
        assert_eq!(signed.verify(owner.id()), Ok(()));
        assert!(signed.verify(Identity::from_secret([8; 32]).id()).is_err());
        let changes: [fn(&mut Head); 10] = [
            |head| head.workspace = WorkspaceId::from_bytes([0x12; 16]),
            |head| head.root = Digest::of(b"other"),
            |head| head.provisional = false,
            |head| head.sequence += 1,
            |head| head.created -= 1,
            |head| head.mode = 0o700,
            |head| head.modified.0 += 1,
            |head| head.modified.1 += 1,
            |head| head.files += 1,
            |head| head.bytes += 1,
        ];
        for change in changes {
            let mut other = signed;
            change(&mut other.head);
            assert!(other.verify(owner.id()).is_err(), "{other:?}");
        }
    }

    #[test]
    fn paths_are_absolute_and_plain() {
        for good in [&b"/home/ada/lab"[..], b"/x", b"/caf\xe9/\xff"] {
            let path = OwnerPath::new(good).unwrap();
            let json = serde_json::to_string(&path).unwrap();
            assert_eq!(serde_json::from_str::<OwnerPath>(&json).unwrap(), path);
        }
        assert_eq!(
            serde_json::to_string(&OwnerPath::new(&b"/caf\xe9"[..]).unwrap()).unwrap(),
            r#"{"hex":"2f636166e9"}"#
        );
        for bad in [&b""[..], b"/", b"home", b"/a/../b", b"/a//b", b"/a/", b"/a\0", &[b'/'; 5000]] {
            assert_eq!(OwnerPath::new(bad), Err(PathError));
        }
        assert!(serde_json::from_str::<OwnerPath>(r#""/a/./b""#).is_err());
    }

    #[test]
    fn test_vector_of_a_request() {
        let digest = Digest::of(b"x");
        let name = |bytes: &[u8]| Name::new(bytes).unwrap();
        let request = BatchRequest {
            bulk: false,
            capability: None,
            workspace: WorkspaceId::from_bytes([0x11; 16]),
            pieces: vec![
                PieceRequest::Tree { tree: digest, subtree: true },
                PieceRequest::Blob { blob: digest, size: 1 },
                PieceRequest::Slice { slice: digest, size: 1 << 30, groups: [3, 5] },
                PieceRequest::Outline { outline: digest, size: 1 << 30, window: 7 },
                PieceRequest::Pending {
                    pending: PendingRange {
                        path: vec![name(b"d"), name(b"caf\xe9")],
                        token: u64::MAX,
                        offset: 0,
                        length: 4096,
                    },
                },
            ],
        };
        let json = serde_json::to_string(&request).unwrap();
        let d = digest.to_string();
        assert_eq!(
            json,
            r#"{"workspace":"11111111111111111111111111111111","pieces":[{"tree":"D","subtree":true},{"blob":"D","size":1},{"slice":"D","size":1073741824,"groups":[3,5]},{"outline":"D","size":1073741824,"window":7},{"pending":{"path":["64","636166e9"],"token":"18446744073709551615","offset":0,"length":4096}}]}"#
                .replace("\"D\"", &format!("\"{d}\""))
        );
        assert_eq!(serde_json::from_str::<BatchRequest>(&json).unwrap(), request);
        request.check().unwrap();
        let unknown = json.replace("\"subtree\":true", "\"depth\":1");
        assert!(serde_json::from_str::<BatchRequest>(&unknown).is_err());
    }

    #[test]
    fn requests_beyond_the_limits_are_refused() {
        let digest = Digest::of(b"x");
        let pending = |names: usize, offset, length| PieceRequest::Pending {
            pending: PendingRange {
                path: vec![Name::new(&[b'n'; 255][..]).unwrap(); names],
                token: 0,
                offset,
                length,
            },
        };
        let slice = |size, start, end| PieceRequest::Slice { slice: digest, size, groups: [start, end] };
        let outline = |size, window| PieceRequest::Outline { outline: digest, size, window };
        let groups = MAX_RANGE / GROUP;
        for bad in [
            outline(WHOLE_MAX, 0),
            outline(1 << 30, 128),
            outline(u64::MAX, 0),
            outline(1 << 30, u64::MAX),
            PieceRequest::Blob { blob: digest, size: WHOLE_MAX + 1 },
            slice(WHOLE_MAX, 0, 1),
            slice(1 << 30, 1, 1),
            slice(1 << 30, 2, 1),
            slice(1 << 30, 0, groups + 1),
            slice(1 << 20, 0, 65),
            slice(u64::MAX, u64::MAX - 1, u64::MAX),
            pending(0, 0, 1),
            pending(17, 0, 1),
            pending(1, 0, 0),
            pending(1, 0, MAX_RANGE as u32 + 1),
            pending(1, u64::MAX, 1),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        for good in [outline(1 << 30, 127), slice(1 << 30, 7, 7 + groups), pending(1, 5, MAX_RANGE as u32)] {
            good.check().unwrap();
        }
        let piece = PieceRequest::Tree { tree: digest, subtree: false };
        let pieces = vec![piece; MAX_PIECES + 1];
        let workspace = WorkspaceId::from_bytes([0; 16]);
        assert!(BatchRequest { workspace, pieces, capability: None, bulk: false }.check().is_err());
    }

    proptest! {
        #[test]
        fn hostile_json_never_panics(text in "\\PC*") {
            let _ = serde_json::from_str::<BatchRequest>(&text);
            let _ = serde_json::from_str::<Catalogue>(&text);
        }
    }
}
