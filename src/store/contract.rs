//! What every store and every decorator does alike.

use std::{sync::Arc, thread};

use bytes::Bytes;
use proptest::prelude::*;

use super::{DiskLimits, DiskStore, FaultStore, MemoryStore, StoreError, WriteStore};
use crate::{
    blob::{Blob, GROUP, Groups, VerifiedBlob, VerifiedSlice, WHOLE_MAX, encode_slice, hash_bytes},
    types::{Digest, Name, PathKey, WorkspaceId},
};

/// A large blob to take slices from.
pub(super) struct Sample {
    pub(super) bytes: Vec<u8>,
    pub(super) blob: Blob,
    outboard: Vec<u8>,
}

impl Sample {
    pub(super) fn new(size: usize, seed: u32) -> Self {
        let bytes: Vec<u8> =
            (0..size as u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let hashed = hash_bytes(&bytes);
        Self { blob: Blob { digest: hashed.digest, size: size as u64 }, outboard: hashed.outboard, bytes }
    }

    pub(super) fn slice(&self, groups: std::ops::Range<u64>) -> VerifiedSlice {
        let encoded = encode_slice(self.blob, groups.clone(), &self.bytes, &self.outboard).unwrap();
        VerifiedSlice::verify(self.blob, groups, &encoded).unwrap()
    }

    pub(super) fn all(&self) -> VerifiedSlice {
        self.slice(0..self.blob.groups())
    }
}

/// A blob that is fetched whole.
pub(super) fn small(bytes: &[u8]) -> (Blob, VerifiedBlob) {
    let digest = Digest::of(bytes);
    let verified = VerifiedBlob::verify(digest, Bytes::copy_from_slice(bytes)).unwrap();
    (Blob { digest, size: bytes.len() as u64 }, verified)
}

/// The bytes, or none when not all are held.
pub(super) fn read(store: &dyn WriteStore, blob: &Blob, start: u64, end: u64) -> Option<Vec<u8>> {
    let mut buffer = vec![0; (end - start) as usize];
    store.read_at(blob, start, &mut buffer).unwrap().then_some(buffer)
}

pub(super) fn read_all(store: &dyn WriteStore, blob: &Blob) -> Option<Vec<u8>> {
    read(store, blob, 0, blob.size)
}

/// Runs a check over every store there is.
fn over_all(check: impl Fn(&dyn WriteStore)) {
    check(&MemoryStore::new());
    check(&FaultStore::new(MemoryStore::new()));
    let folder = tempfile::tempdir().unwrap();
    check(&DiskStore::open(folder.path(), DiskLimits { bytes: 1 << 30, descriptors: 3 }).unwrap());
}

#[test]
fn trees_come_back() {
    over_all(|store| {
        let digest = Digest::of(b"a tree");
        assert_eq!(store.tree(&digest).unwrap(), None);
        store.put_tree(digest, b"a tree").unwrap();
        store.put_tree(digest, b"a tree").unwrap();
        assert_eq!(store.tree(&digest).unwrap().unwrap(), "a tree");
        store.flush().unwrap();
        assert_eq!(store.tree(&digest).unwrap().unwrap(), "a tree");
        // The same bytes as a blob are something else.
        assert_eq!(read_all(store, &Blob { digest, size: 6 }), None);
        assert!(matches!(store.put_tree(digest, b"another"), Err(StoreError::Corrupt(d)) if d == digest));
    });
}

#[test]
fn small_blobs_come_back() {
    over_all(|store| {
        for size in [1, 5000, GROUP as usize, 3 * GROUP as usize + 7, WHOLE_MAX as usize] {
            let sample = Sample::new(size, 1);
            let (blob, verified) = small(&sample.bytes);
            assert!(store.held(&blob).unwrap().is_empty());
            assert_eq!(read_all(store, &blob), None);
            store.put_blob(&verified).unwrap();
            store.put_blob(&verified).unwrap();
            for _ in 0..2 {
                assert_eq!(store.held(&blob).unwrap(), Groups::from(0..blob.groups()));
                assert_eq!(read_all(store, &blob).unwrap(), sample.bytes);
                let middle = blob.size / 2;
                assert_eq!(read(store, &blob, middle, blob.size).unwrap(), sample.bytes[middle as usize..]);
                store.flush().unwrap();
            }
            let wrong = Blob { size: blob.size - 1, ..blob };
            assert_eq!(read(store, &wrong, 0, wrong.size.min(1)).filter(|bytes| !bytes.is_empty()), None);
            assert!(store.held(&wrong).unwrap().is_empty());
        }
    });
}

#[test]
fn an_empty_blob_is_always_held() {
    over_all(|store| {
        let (blob, verified) = small(b"");
        assert!(read_all(store, &blob).unwrap().is_empty());
        store.put_blob(&verified).unwrap();
        assert!(store.held(&blob).unwrap().is_empty());
        assert!(read_all(store, &blob).unwrap().is_empty());
    });
}

#[test]
fn a_large_blob_put_in_one_piece_is_held() {
    over_all(|store| {
        let sample = Sample::new(WHOLE_MAX as usize + 1, 2);
        store.put_blob(&small(&sample.bytes).1).unwrap();
        assert_eq!(read_all(store, &sample.blob).unwrap(), sample.bytes);
    });
}

#[test]
fn slices_fill_a_blob_in_any_order() {
    let sample = Sample::new(1_000_003, 3);
    over_all(|store| {
        let mut held = Groups::empty();
        assert_eq!(store.held(&sample.blob).unwrap(), held);
        for groups in [61..62, 5..9, 7..20, 0..1, 5..9] {
            store.put_slice(&sample.slice(groups.clone())).unwrap();
            held |= Groups::from(groups);
            assert_eq!(store.held(&sample.blob).unwrap(), held);
        }
        // Across groups, up to the last byte held and not one further; the blob's short last group.
        let (start, end) = (5 * GROUP, 20 * GROUP);
        assert_eq!(
            read(store, &sample.blob, start + 9, end).unwrap(),
            sample.bytes[start as usize + 9..end as usize]
        );
        assert_eq!(read(store, &sample.blob, start, end + 1), None);
        assert_eq!(read(store, &sample.blob, start - 1, end), None);
        assert_eq!(
            read(store, &sample.blob, 61 * GROUP, 1_000_003).unwrap(),
            sample.bytes[61 * GROUP as usize..]
        );
        let mut beyond = [0; 2];
        assert!(!store.read_at(&sample.blob, 1_000_002, &mut beyond).unwrap());
        // One that claims another size for the digest is another blob.
        let wrong = Blob { size: 1_000_002, ..sample.blob };
        assert!(store.held(&wrong).unwrap().is_empty());
        assert_eq!(read(store, &wrong, 0, 10), None);
        store.put_slice(&sample.all()).unwrap();
        assert_eq!(read_all(store, &sample.blob).unwrap(), sample.bytes);
    });
}

#[test]
fn what_came_for_whom_is_known() {
    let [lab, home] = [WorkspaceId::random(), WorkspaceId::random()];
    let [first, second] = [b"first", b"later"].map(|name| PathKey::of(&[Name::new(&name[..]).unwrap()]));
    let (sample, newer) = (Sample::new(500_000, 1), Sample::new(500_000, 2));
    over_all(|store| {
        let tree = Digest::of(b"tree");
        assert!(!store.belongs(&lab, &tree).unwrap());
        assert_eq!(store.at(&lab, first).unwrap(), None);
        store.put_tree(tree, b"tree").unwrap();
        store.note(&lab, &tree).unwrap();
        for blob in [&sample, &newer] {
            store.put_slice(&blob.slice(0..2)).unwrap();
            store.note_at(&lab, first, &blob.blob).unwrap();
            store.note_at(&lab, second, &sample.blob).unwrap();
            for _ in 0..2 {
                assert_eq!(store.at(&lab, first).unwrap(), Some(blob.blob));
                assert_eq!(store.at(&lab, second).unwrap(), Some(sample.blob));
                assert_eq!(store.at(&home, first).unwrap(), None);
                for digest in [tree, sample.blob.digest, blob.blob.digest] {
                    assert!(store.belongs(&lab, &digest).unwrap());
                    assert!(!store.belongs(&home, &digest).unwrap());
                }
                store.flush().unwrap();
                // A path that is noted before stays noted.
                store.note(&lab, &sample.blob.digest).unwrap();
            }
        }
        store.note(&home, &tree).unwrap();
        assert!(store.belongs(&home, &tree).unwrap() && store.belongs(&lab, &tree).unwrap());
    });
}

#[test]
fn many_threads_read_and_write() {
    over_all(|store| {
        let samples: Vec<_> = (0..3).map(|seed| Arc::new(Sample::new(600_000, seed))).collect();
        thread::scope(|scope| {
            for worker in 0..8u64 {
                let samples = &samples;
                scope.spawn(move || {
                    for step in 0..37u64 {
                        let sample = &samples[((worker + step) % 3) as usize];
                        let group = (worker * 7 + step * 11) % sample.blob.groups();
                        store.put_slice(&sample.slice(group..group + 1)).unwrap();
                        let end = sample.blob.size.min((group + 1) * GROUP);
                        let bytes = read(store, &sample.blob, group * GROUP, end).unwrap();
                        assert_eq!(bytes, sample.bytes[(group * GROUP) as usize..end as usize]);
                        let (blob, verified) = small(&step.to_le_bytes());
                        store.put_blob(&verified).unwrap();
                        assert_eq!(read_all(store, &blob).unwrap(), step.to_le_bytes());
                        if step % 10 == worker {
                            store.flush().unwrap();
                        }
                    }
                });
            }
        });
        for sample in &samples {
            store.put_slice(&sample.all()).unwrap();
            assert_eq!(read_all(store, &sample.blob).unwrap(), sample.bytes);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn what_is_held_is_what_was_put(
        slices in prop::collection::vec((0u64..40, 1u64..12), 1..8),
        start in 0u64..600_000,
        length in 1u64..200_000,
    ) {
        let sample = Sample::new(600_000, 9);
        let end = (start + length).min(600_000);
        over_all(|store| {
            let mut held = Groups::empty();
            for (first, count) in &slices {
                let groups = *first.min(&36)..(first + count).clamp(37.min(first + 1), 37);
                if groups.is_empty() {
                    continue;
                }
                store.put_slice(&sample.slice(groups.clone())).unwrap();
                held |= Groups::from(groups);
            }
            assert_eq!(store.held(&sample.blob).unwrap(), held);
            let all = held.is_superset(&Groups::from(sample.blob.touched(start, end)));
            let expected = all.then(|| sample.bytes[start as usize..end as usize].to_vec());
            assert_eq!(read(store, &sample.blob, start, end), expected);
            // What is held can be passed on: with the hashes that show it right.
            let touched = sample.blob.touched(start, end);
            let encoded = store.slice(&sample.blob, touched.clone()).unwrap();
            assert_eq!(encoded.is_some(), all);
            if let Some(encoded) = encoded {
                VerifiedSlice::verify(sample.blob, touched.clone(), &encoded).unwrap();
            }
        });
    }
}

#[test]
fn that_something_will_be_read_changes_nothing() {
    over_all(|store| {
        let (large, (whole, bytes)) = (Sample::new(400_000, 3), small(b"small"));
        let all = Groups::from(0..large.blob.groups());
        store.will_read(&large.blob, &all);
        store.will_read(&whole, &Groups::from(0..1));
        assert!(store.held(&large.blob).unwrap().is_empty() && store.held(&whole).unwrap().is_empty());
        store.put_slice(&large.slice(0..4)).unwrap();
        store.put_blob(&bytes).unwrap();
        store.will_read(&large.blob, &all);
        store.will_read(&whole, &Groups::from(0..1));
        assert_eq!(store.held(&large.blob).unwrap(), Groups::from(0..4));
        assert_eq!(read_all(store, &whole).unwrap(), b"small");
    });
}
