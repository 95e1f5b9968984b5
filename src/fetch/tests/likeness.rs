use super::{bulk::*, *};
use tokio::time::Instant;

use crate::{blob::WINDOW, tree::Totals};

const MIB: usize = 1 << 20;

/// A file at a path.
struct At(Vec<Name>);

impl Surroundings for At {
    fn path(&self) -> Option<Vec<Name>> {
        Some(self.0.clone())
    }

    fn nearby(&self) -> Vec<Blob> {
        Vec::new()
    }

    fn is_program(&self) -> bool {
        false
    }
}

fn at(path: &str) -> At {
    At(path.split('/').map(name).collect())
}

fn noise(length: usize, seed: &str) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// The bytes with others inserted.
fn inserted(old: &[u8], place: usize, length: usize) -> Vec<u8> {
    let mut new = old.to_vec();
    new.splice(place..place, noise(length, "inserted"));
    new
}

fn blob_of(bytes: &[u8]) -> Blob {
    Blob { digest: Digest::of(bytes), size: bytes.len() as u64 }
}

/// Reads a file from its start to its end, as the kernel does.
async fn read_through(fetcher: &Fetcher, bytes: &[u8], at: &At) {
    let content = blob(bytes);
    for (number, expected) in bytes.chunks(128 << 10).enumerate() {
        let (offset, length) = ((number * (128 << 10)) as u64, expected.len() as u32);
        let got = fetcher.read(&ID, &content, offset, length, at).await.unwrap();
        assert!(got == expected, "at {offset}");
    }
    put(fetcher).await;
}

/// What was asked of the owner since the last time: bytes of content, and outlines.
fn asked(owner: &Owner) -> (u64, u64) {
    let (mut bytes, mut outlines) = (0, 0);
    for want in owner.asked.lock().unwrap().drain(..) {
        match want {
            Want::Outline { .. } => outlines += 1,
            want => bytes += want.cost(),
        }
    }
    (bytes, outlines)
}

/// The same as bytes: an outline takes less than half a hundredth of its window.
fn moved(owner: &Owner) -> u64 {
    let (bytes, outlines) = asked(owner);
    bytes + outlines * WINDOW / 200
}

/// A guest that has read the first of the contents.
async fn guest(
    contents: &[Vec<u8>],
    path: &str,
    change: impl FnOnce(&mut Owner),
) -> (Arc<Owner>, Arc<Fetcher>) {
    let owner = Owner::new(contents).but(change);
    let (fetcher, _) = fetcher(&[&owner]);
    read_through(&fetcher, &contents[0], &at(path)).await;
    let (bytes, outlines) = asked(&owner);
    assert!(bytes >= contents[0].len() as u64 && outlines == 0, "there was nothing to be like");
    (owner, fetcher)
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_is_made_of_its_old_content() {
    let old = noise(64 * MIB, "old");
    let new = inserted(&old, 30 * MIB + 7, 1024);
    let mut shorter = new.clone();
    shorter.drain(20 * MIB + 3..21 * MIB);
    let (owner, fetcher) = guest(&[old, new.clone(), shorter.clone()], "data/model", |_| {}).await;
    read_through(&fetcher, &new, &at("data/model")).await;
    let bytes = moved(&owner);
    assert!(bytes <= new.len() as u64 * 3 / 100, "{bytes} bytes for a KiB that was inserted");

    // What was made is in its turn what the next version is made of.
    read_through(&fetcher, &shorter, &at("data/model")).await;
    let bytes = moved(&owner);
    assert!(bytes <= shorter.len() as u64 * 3 / 100, "{bytes} bytes for what was taken away");
}

#[tokio::test(start_paused = true)]
async fn content_that_moved_far_is_found() {
    let old = noise(48 * MIB, "old");
    // What stands between two changes has moved by a part of the whole …
    let twice = inserted(&inserted(&old, 32 * MIB, 9 * MIB), 16 * MIB, 9 * MIB);
    // … and what stands behind a great one by all of it.
    let far = inserted(&old, 24 * MIB, 36 * MIB);
    for (new, more) in [(twice, 18 * MIB), (far, 36 * MIB)] {
        let (owner, fetcher) = guest(&[old.clone(), new.clone()], "f", |_| {}).await;
        read_through(&fetcher, &new, &at("f")).await;
        let bytes = moved(&owner);
        let most = more as u64 + new.len() as u64 * 3 / 100;
        assert!(bytes <= most, "{bytes} bytes where {more} are new");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tree_of_which_little_changed_takes_little() {
    let objects = Objects::default();
    let old = noise(32 * MIB, "old");
    let new = inserted(&old, 16 * MIB, 1024);
    let root = |large: &[u8], changed: usize| {
        let small = |number: usize| {
            let seed = format!("{number} {}", if number < changed { "new" } else { "old" });
            entry(&format!("{number:03}"), objects.file(&noise(30_000, &seed)))
        };
        let folder = objects.folder((0..300).map(small).collect());
        match objects.folder(vec![entry("large", objects.file(large)), entry("small", folder)]) {
            crate::tree::Kind::Folder { tree, totals } => (tree, totals),
            _ => panic!("it is a folder"),
        }
    };
    let (first, second) = (root(&old, 0), root(&new, 3));
    let owner = Owner::new(&objects.into_contents());
    let (fetcher, _) = fetcher(&[&owner]);
    fetcher.complete(&ID, first, &[], &Notes::default()).await.unwrap();
    put(&fetcher).await;
    assert_eq!(asked(&owner).1, 0);
    let progress = fetcher.complete(&ID, second, &[], &Notes::default()).await.unwrap();
    assert_eq!((progress.failed, progress.here), (0, Totals { ..second.1 }));
    let bytes = moved(&owner);
    assert!(bytes <= second.1.bytes * 3 / 100, "{bytes} of {} bytes", second.1.bytes);
}

/// What it says, and how.
type Lie = (&'static str, fn(&mut Vec<u8>));

#[tokio::test(start_paused = true)]
async fn outlines_that_lie_cost_nothing_but_a_fetch() {
    // Each chunk's length and mark, from the twelfth byte on.
    fn chunks(encoded: &mut [u8]) -> impl Iterator<Item = &mut [u8; 12]> {
        let count = u32::from_be_bytes(*encoded[8..].first_chunk().unwrap()) as usize;
        encoded[12..].as_chunks_mut().0.iter_mut().take(count)
    }
    let lies: [Lie; 5] = [
        ("marks in another order", |encoded| {
            let marks: Vec<_> = chunks(encoded).map(|chunk| *chunk).collect();
            chunks(encoded).zip(marks.iter().rev()).for_each(|(chunk, other)| *chunk = *other);
        }),
        ("one mark for all", |encoded| {
            let first = *chunks(encoded).nth(3).unwrap();
            chunks(encoded).for_each(|chunk| *chunk = first);
        }),
        ("chunks beyond the end", |encoded| {
            chunks(encoded).for_each(|chunk| chunk[..4].copy_from_slice(&(128u32 << 10).to_be_bytes()));
        }),
        ("more chunks than there can be", |encoded| encoded[8..12].copy_from_slice(&[0, 1, 0, 0])),
        ("hashes of something else", |encoded| *encoded.last_mut().unwrap() ^= 1),
    ];
    let old = noise(20 * MIB, "old");
    let new = inserted(&old, 3 * MIB, 1000);
    for (lie, distort) in lies {
        let (owner, fetcher) = guest(&[old.clone(), new.clone()], "f", |owner| owner.distort = distort).await;
        read_through(&fetcher, &new, &at("f")).await;
        let (bytes, outlines) = asked(&owner);
        assert!((1..=3).contains(&outlines), "{lie}: {outlines} outlines");
        assert!(bytes <= (new.len() as u64).next_multiple_of(GROUP), "{lie}: {bytes} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_was_tried_in_vain_is_given_up() {
    let (old, new) = (noise(4 * MIB, "old"), noise(112 * MIB, "something else"));
    let (owner, fetcher) = guest(&[old, new.clone()], "f", |_| {}).await;
    read_through(&fetcher, &new, &at("f")).await;
    let (bytes, outlines) = asked(&owner);
    assert!(outlines < 14 && bytes == new.len() as u64, "{outlines} outlines, {bytes} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_reader_waits_for_no_outline_that_does_not_come() {
    let old = noise(20 * MIB, "old");
    let new = inserted(&old, 3 * MIB, 1000);
    let (owner, fetcher) = guest(&[old, new.clone()], "f", |_| {}).await;
    *owner.silent_about_outlines.lock().unwrap() = true;
    let (content, begun) = (blob(&new), Instant::now());
    for (number, expected) in new.chunks(128 << 10).enumerate() {
        let (offset, asked) = ((number * (128 << 10)) as u64, Instant::now());
        let got = fetcher.read(&ID, &content, offset, expected.len() as u32, &at("f")).await.unwrap();
        assert!(got == expected, "at {offset}");
        assert!(asked.elapsed() < Duration::from_millis(600), "{:?} at {offset}", asked.elapsed());
    }
    assert!(asked(&owner).1 > 0);
    assert!(begun.elapsed() < Duration::from_secs(10), "the outlines are given up in their turn");
}

#[tokio::test(start_paused = true)]
async fn only_what_was_there_before_and_is_held_is_compared() {
    let old = noise(8 * MIB, "old");
    let new = inserted(&old, 3 * MIB, 1000);
    let contents = [old.clone(), new.clone()];
    let (owner, fetcher) = guest(&contents, "here", |_| {}).await;
    read_through(&fetcher, &new, &at("elsewhere")).await;
    assert_eq!(asked(&owner).1, 0, "it's another file");

    let owner = Owner::new(&contents);
    let (fetcher, _) = super::fetcher(&[&owner]);
    read_through(&fetcher, &old[..0], &at("here")).await;
    fetcher.read(&ID, &blob(&old), 0, 4096, &at("here")).await.unwrap();
    put(&fetcher).await;
    read_through(&fetcher, &new, &at("here")).await;
    assert_eq!(asked(&owner).1, 0, "too little of it is held");
}

/// What is at a path when it's read, and when most of it is there.
#[tokio::test(start_paused = true)]
async fn the_older_content_stays_the_one_to_compare_with_until_the_newer_can_take_its_place() {
    let old = noise(16 * MIB, "old");
    let [new, newer] = [1, 2].map(|number| inserted(&old, 3 * MIB, 1000 * number));
    let owner = Owner::new(&[old.clone(), new.clone(), newer.clone()]);
    let (fetcher, store) = fetcher(&[&owner]);
    let key = PathKey::of(&at("f").0);
    let noted = || store.at(&ID, key).unwrap();
    read_through(&fetcher, &old, &at("f")).await;
    assert_eq!(noted(), Some(blob_of(&old)));
    fetcher.read(&ID, &blob(&new), 0, 4096, &at("f")).await.unwrap();
    put(&fetcher).await;
    assert_eq!(noted(), Some(blob_of(&old)), "a look at the start isn't enough");
    asked(&owner);
    read_through(&fetcher, &newer, &at("f")).await;
    assert!(asked(&owner).1 > 0);
    assert_eq!(noted(), Some(blob_of(&newer)));
}
