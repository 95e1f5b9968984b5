//! The content of earlier snapshots.

use std::collections::HashSet;

use super::*;

fn kept(snapshots: u32) -> ShareOptions {
    ShareOptions { retention: Retention { snapshots, content: true }, ..ShareOptions::default() }
}

/// A file of many groups.
fn large(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; 400_000];
    rand::RngExt::fill(&mut StdRng::seed_from_u64(seed), &mut bytes[..]);
    bytes
}

#[test]
fn content_that_was_copied_outlives_the_file() {
    let lab = Lab::new();
    let first = large(1);
    lab.write("small", "first");
    lab.write("twin", "first");
    lab.write("d/large", &first);
    let sparse = fs::File::create(lab.path("sparse")).unwrap();
    sparse.write_all_at(&first, 8 << 20).unwrap();
    sparse.write_all_at(b"end", 64 << 20).unwrap();
    drop(sparse);
    let shares = lab.open(live());
    let share = shares.add(lab.root.path(), kept(64)).unwrap();
    let head = settle(&share);
    let there = entries(&share, head.root);
    let Kind::File { content: Content::Sparse { blob: sparse, .. }, .. } = &there[&b"sparse"[..]].kind else {
        panic!("not sparse: {there:?}")
    };
    // The two equal files are one, and the manifest is the fourth.
    assert_eq!(share.keep_content().unwrap(), Keeping { copied: 4, missed: 0 });
    assert_eq!(share.keep_content().unwrap(), Keeping::default());

    for name in ["small", "twin", "d/large", "sparse"] {
        fs::remove_file(lab.path(name)).unwrap();
    }
    wait(&share, |now| now.totals.files == 1 && !now.provisional);
    let blob = Blob { digest: Digest::of(&first), size: first.len() as u64 };
    assert_eq!(read(&share, b"first").unwrap(), b"first");
    let slice = |blob: Blob| {
        let encoded = share.blob(&blob.digest)?.slice(3..5)?;
        Ok::<_, ServeError>(VerifiedSlice::verify(blob, 3..5, &encoded).unwrap())
    };
    slice(blob).unwrap();
    let local = share.blob(sparse).unwrap();
    assert_eq!(local.size(), share.blob(sparse).unwrap().size());
    assert!(local.size() < 1 << 20, "holes aren't kept: {}", local.size());
    slice(Blob { digest: *sparse, size: local.size() }).unwrap();

    // After a restart too.
    drop(local);
    drop(share);
    drop(shares);
    let shares = lab.open(live());
    let share = shares.add(lab.root.path(), kept(64)).unwrap();
    assert_eq!(read(&share, b"first").unwrap(), b"first");

    // A damaged copy isn't served, and goes.
    let name = Digest::of(b"first").to_string();
    let copy = lab.state.path().join("kept").join(share.id().to_string()).join(&name[..2]).join(&name);
    fs::write(&copy, "wrong").unwrap();
    assert!(matches!(read(&share, b"first"), Err(ServeError::Changed)));
    assert!(matches!(read(&share, b"first"), Err(ServeError::Unknown)));

    share.drop_content(&HashSet::from([blob.digest]));
    share.blob(&blob.digest).unwrap();
    share.drop_content(&HashSet::new());
    assert!(matches!(share.blob(&blob.digest), Err(ServeError::Unknown)));
}

#[test]
fn what_changed_before_it_was_copied_is_missed() {
    let lab = Lab::new();
    lab.write("f", "first");
    lab.write("g", "same");
    let shares = lab.open(quiet());
    let share = shares.add(lab.root.path(), kept(64)).unwrap();
    settle(&share);
    lab.write("f", "other, longer");
    assert_eq!(share.keep_content().unwrap(), Keeping { copied: 2, missed: 1 });
    assert!(read(&share, b"other, longer").is_err(), "never under the wrong name");
}

#[test]
fn copies_of_snapshots_that_left_go_with_them() {
    let lab = Lab::new();
    let history = History::open(lab.state.path()).unwrap();
    let shares = lab.open(live());
    lab.write("f", "version 0");
    let share = shares.add(lab.root.path(), kept(2)).unwrap();
    let mut head = settle(&share);
    for version in 1..40 {
        let swept = history.note(&share).unwrap();
        share.keep_content().unwrap();
        if swept {
            share.drop_content(&history.blobs(&share.id()).unwrap());
        }
        lab.write("f", format!("version {version}"));
        head = wait(&share, |now| now.root != head.root && !now.provisional);
    }
    assert_eq!(history.list(&share.id()).unwrap().len(), 2);
    let readable = |version: u64| read(&share, format!("version {version}").as_bytes()).is_ok();
    assert!((37..40).all(readable), "the newest two before this one, and this one");
    assert!(!(0..15).any(readable), "those of long ago");
}
