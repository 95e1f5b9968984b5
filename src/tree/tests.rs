use std::{cell::RefCell, collections::BTreeMap, convert::Infallible};

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::types::{Name, Timestamp};

#[derive(Default)]
struct Objects(RefCell<BTreeMap<Digest, Vec<u8>>>);

impl TreeSink for Objects {
    type Error = Infallible;

    fn put_tree(&self, digest: Digest, object: &[u8]) -> Result<(), Infallible> {
        self.0.borrow_mut().insert(digest, object.to_vec());
        Ok(())
    }
}

impl Objects {
    fn folder(&self, digest: &Digest) -> Vec<Entry> {
        match decode(&self.0.borrow()[digest]).unwrap() {
            Page::Leaf(entries) => entries,
            Page::Index(pages) => pages
                .iter()
                .flat_map(|page| {
                    let entries = self.folder(&page.digest);
                    assert_eq!(
                        (entries[0].name.clone(), entries.len() as u64),
                        (page.first.clone(), page.entries)
                    );
                    entries
                })
                .collect(),
        }
    }
}

fn file(name: &[u8], size: u64, content: Content) -> Entry {
    Entry {
        name: Name::new(name).unwrap(),
        attributes: Attributes {
            mode: 0o644,
            owner: Owner::Sharer,
            modified: Timestamp { seconds: 1_700_000_000, nanoseconds: 123_456_789 },
            token: 0x0123_4567_89ab_cdef,
            link: None,
        },
        kind: Kind::File { size, content },
    }
}

/// The vectors of docs/FORMAT.md.
#[test]
fn encoding_matches_the_test_vectors() {
    let empty = encode(&Page::Leaf(Vec::new()));
    assert_eq!(hex::encode(&empty), "820080");
    assert_eq!(
        Digest::of(&empty).to_string(),
        "1fcc7ba9de8c8d03d06e96c12842ff14a91e40d8529a4d2722e8d4189df11beb"
    );
    let attributes = Attributes {
        mode: 0o755,
        owner: Owner::Root,
        modified: Timestamp { seconds: -1, nanoseconds: 0 },
        token: 0,
        link: None,
    };
    let folder = Kind::Folder { tree: Digest::of(b""), totals: Totals { files: 2, bytes: 10 } };
    let link =
        Attributes { mode: 0o777, owner: Owner::Other, modified: Timestamp::default(), token: 1, link: None };
    let name = |text: &str| Name::new(text.as_bytes()).unwrap();
    let plain = file(b"a", 3, Content::Blob(Digest::of(b"abc")));
    let page = encode(&Page::Leaf(vec![
        Entry {
            attributes: Attributes {
                link: Some(HardLink { group: 7, count: 2 }),
                ..plain.attributes.clone()
            },
            ..plain
        },
        file(b"p", 7, Content::Pending),
        file(
            b"s",
            1 << 40,
            Content::Sparse { blob: Digest::of(b"x"), extents: [Extent { offset: 4096, length: 1 }].into() },
        ),
        Entry { name: name("z"), attributes, kind: folder },
        Entry { name: name("zz"), attributes: link, kind: Kind::Link(b"a/b".as_slice().into()) },
    ]));
    // Made with another implementation of CBOR (Python's cbor2, canonical).
    assert_eq!(
        hex::encode(&page),
        "820085884161011901a400821a6553f1001a075bcd151b0123456789abcdef820358206437b3ac38465133ffb63b75273a8db548c5\
         58465d79db03fd359c6cd5bd9d85820702874170011901a400821a6553f1001a075bcd151b0123456789abcdef8207f68741730119\
         01a400821a6553f1001a075bcd151b0123456789abcdef821b00000100000000008258203ae7d805f6789a6402acb70ad4096a85a5\
         6bf6804eaf25c0493ac697548d30b581821910000187417a001901ed0182200000835820af1349b9f5f9a1a6a0404dea36dcc9499b\
         cb25c9adc112b7cc9a93cae41f3262020a87427a7a021901ff028200000143612f62"
    );
    assert_eq!(
        Digest::of(&page).to_string(),
        "be7061d8ccd126f335ada69d9c5d231307f6b9e44d28b951c59c54e389ee3067"
    );
}

#[test]
fn a_big_folder_is_paged_and_an_insertion_moves_few_pages() {
    let objects = Objects::default();
    let mut entries: Vec<_> =
        (0..20_000).map(|i| file(format!("file{i:06}").as_bytes(), i, Content::Pending)).collect();
    let digest = write_folder(&entries, &objects).unwrap();
    assert_eq!(objects.folder(&digest), entries);
    let before = objects.0.borrow().len();
    assert!((20..=160).contains(&before), "{before} objects");

    entries.insert(7, file(b"file000006a", 1, Content::Pending));
    let digest = write_folder(&entries, &objects).unwrap();
    assert_eq!(objects.folder(&digest), entries);
    let added = objects.0.borrow().len() - before;
    assert!(added <= 4, "{added} new objects");
}

#[test]
fn hostile_objects_are_refused() {
    let good = encode(&Page::Leaf(vec![file(b"a", 3, Content::Pending)]));
    assert!(decode(&good).is_ok());
    // A list that claims 2^60 entries, nesting, an indefinite array, a non-shortest integer, trailing bytes.
    for bad in ["82009b1000000000000000", "82008181818181", "82009fff", "82180080", "82008000", "8200", ""] {
        assert!(decode(&hex::decode(bad).unwrap()).is_err(), "{bad}");
    }
    assert_eq!(decode(&vec![0; MAX_OBJECT + 1]), Err(FormatError::TooLarge(MAX_OBJECT + 1)));
    // Names that would lead out of the folder can't be built, so their bytes are patched in.
    for (name, patch) in [(&b"xx"[..], &b".."[..]), (b"x", b"/"), (b"x", b"\0")] {
        let mut bytes = encode(&Page::Leaf(vec![file(name, 3, Content::Pending)]));
        let at = bytes.windows(name.len()).position(|window| window == name).unwrap();
        bytes[at..at + name.len()].copy_from_slice(patch);
        assert_eq!(decode(&bytes), Err(FormatError::Invalid("impossible name")));
    }
    let mut linked = file(b"l", 0, Content::Pending);
    linked.kind = Kind::Link(b"x".as_slice().into());
    linked.attributes.link = Some(HardLink { group: 1, count: 2 });
    assert!(decode(&encode(&Page::Leaf(vec![linked]))).is_err());
    let twice = vec![file(b"a", 3, Content::Pending); 2];
    assert_eq!(decode(&encode(&Page::Leaf(twice))), Err(FormatError::Invalid("names out of order")));
    for extents in [
        vec![Extent { offset: 5, length: 6 }],
        vec![Extent { offset: 0, length: 0 }],
        vec![Extent { offset: 0, length: 2 }, Extent { offset: 2, length: 2 }],
        vec![Extent { offset: u64::MAX, length: 2 }],
    ] {
        let sparse = Content::Sparse { blob: Digest::of(b""), extents: extents.into() };
        assert!(decode(&encode(&Page::Leaf(vec![file(b"a", 10, sparse)]))).is_err());
    }
}

fn any_digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

fn any_extents() -> impl Strategy<Value = (u64, Box<[Extent]>)> {
    vec((1..1u64 << 40, 1..1u64 << 40), 0..5).prop_map(|steps| {
        let mut end = 0;
        let extents = steps
            .into_iter()
            .map(|(gap, length)| {
                let offset = end + gap;
                end = offset + length;
                Extent { offset, length }
            })
            .collect();
        (end, extents)
    })
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (any_digest(), any::<u64>(), any::<u64>())
            .prop_map(|(tree, files, bytes)| Kind::Folder { tree, totals: Totals { files, bytes } }),
        (0..=i64::MAX as u64, option::of(any_digest())).prop_map(|(size, digest)| Kind::File {
            size,
            content: digest.map_or(Content::Pending, Content::Blob)
        }),
        (any_extents(), any_digest()).prop_map(|((size, extents), blob)| Kind::File {
            size,
            content: Content::Sparse { blob, extents }
        }),
        vec(1..=255u8, 1..100).prop_map(|target| Kind::Link(target.into())),
    ]
}

prop_compose! {
    fn any_entry()(
        name in vec(any::<u8>(), 1..20).prop_filter_map("a name", |bytes| Name::new(bytes).ok()),
        mode in 0..=0o7777u16,
        owner in prop_oneof![Just(Owner::Sharer), Just(Owner::Root), Just(Owner::Other)],
        seconds in any::<i64>(),
        nanoseconds in 0..1_000_000_000u32,
        token in any::<u64>(),
        link in option::of((any::<u64>(), 2..=u32::MAX)),
        kind in any_kind(),
    ) -> Entry {
        let link = link.filter(|_| matches!(kind, Kind::File { .. })).map(|(group, count)| HardLink { group, count });
        Entry { name, attributes: Attributes { mode, owner, modified: Timestamp { seconds, nanoseconds }, token, link }, kind }
    }
}

fn any_folder() -> impl Strategy<Value = Vec<Entry>> {
    vec(any_entry(), 0..40).prop_map(|entries| {
        let sorted: BTreeMap<_, _> = entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        sorted.into_values().collect()
    })
}

proptest! {
    #[test]
    fn folders_round_trip_and_equal_folders_have_equal_bytes(entries in any_folder()) {
        let objects = Objects::default();
        let digest = write_folder(&entries, &objects).unwrap();
        prop_assert_eq!(objects.folder(&digest), entries.clone());
        prop_assert_eq!(write_folder(&entries, &objects).unwrap(), digest);
    }

    #[test]
    fn any_bytes_decode_to_themselves_or_an_error(bytes in vec(any::<u8>(), 0..300)) {
        if let Ok(page) = decode(&bytes) {
            prop_assert_eq!(encode(&page), bytes);
        }
    }

    /// Most damage to a valid object must be noticed; what isn't is another valid object, byte for byte.
    #[test]
    fn damaged_objects_decode_to_themselves_or_an_error(entries in any_folder(), at in any::<prop::sample::Index>(), xor in 1..=255u8) {
        let mut bytes = encode(&Page::Leaf(entries));
        let at = at.index(bytes.len());
        bytes[at] ^= xor;
        if let Ok(page) = decode(&bytes) {
            prop_assert_eq!(encode(&page), bytes);
        }
    }
}
