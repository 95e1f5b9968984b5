use std::{collections::HashSet, ops::Range};

use super::{bulk::Objects, *};
use crate::{
    fetch::{Launch, Recorder},
    profile::{Profile, Touched},
    tree::Kind,
    types::PathKey,
};

/// A file at a path, which may be a program.
struct At(&'static str, bool);

impl Surroundings for At {
    fn path(&self) -> Option<Vec<Name>> {
        Some(path(self.0))
    }

    fn is_program(&self) -> bool {
        self.1
    }

    fn nearby(&self) -> Vec<Blob> {
        Vec::new()
    }
}

fn path(text: &str) -> Vec<Name> {
    text.split('/').map(|name| Name::new(name.as_bytes()).unwrap()).collect()
}

fn launch(program: &str) -> Launch {
    Launch { workspace: ID, program: PathKey::of(&path(program)) }
}

fn profile(files: &[(&str, Range<u64>)]) -> Profile {
    let mut profile = Profile::default();
    let touched =
        |(at, groups): &(&str, Range<u64>)| Touched { path: path(at), groups: Groups::from(groups.clone()) };
    profile.merge(files.iter().map(touched));
    profile
}

fn note(recorder: &Recorder, file: u8, groups: Range<u64>, around: &At) {
    let blob = Blob { digest: Digest::from_bytes([file; 32]), size: 100 * GROUP };
    recorder.note(&ID, &blob, Groups::from(groups), around);
}

#[tokio::test(start_paused = true)]
async fn what_a_launch_reads_is_recorded_from_its_program_on() {
    let (recorder, mut begun) = Recorder::new();
    note(&recorder, 9, 0..1, &At("before", false));
    note(&recorder, 1, 3..4, &At("bin/tool", true));
    assert!(begun.try_recv().is_err(), "a program begins with its beginning");
    note(&recorder, 1, 0..2, &At("bin/tool", true));
    assert_eq!(begun.try_recv().unwrap(), launch("bin/tool"));
    note(&recorder, 2, 7..9, &At("lib/one", false));
    note(&recorder, 3, 0..1, &At("two", false));
    note(&recorder, 2, 1..2, &At("lib/one", false));
    // What it starts is a part of it, and a launch of its own.
    note(&recorder, 4, 0..1, &At("bin/other", true));
    note(&recorder, 1, 0..2, &At("bin/tool", true));
    assert_eq!(begun.try_recv().unwrap(), launch("bin/other"));
    assert!(begun.try_recv().is_err(), "one that is going on doesn't begin again");

    let mut wanted = profile(&[("bin/tool", 0..2), ("lib/one", 7..9), ("two", 0..1), ("bin/other", 0..1)]);
    wanted.merge([Touched { path: path("lib/one"), groups: Groups::from(1..2) }]);
    assert_eq!(recorder.finished(&launch("bin/tool")).await, wanted);
    note(&recorder, 5, 0..1, &At("after", false));
    let other = recorder.finished(&launch("bin/other")).await;
    assert_eq!(other, profile(&[("bin/other", 0..1), ("bin/tool", 0..2), ("after", 0..1)]));
    assert!(recorder.finished(&launch("bin/tool")).await.is_empty(), "taken once");
}

#[tokio::test(start_paused = true)]
async fn a_launch_that_goes_on_reading_is_over_after_a_minute() {
    let (recorder, mut begun) = Recorder::new();
    recorder.begin(&ID, &path("train"));
    assert_eq!(begun.try_recv().unwrap(), launch("train"));
    let launch = launch("train");
    let mut finished = std::pin::pin!(recorder.finished(&launch));
    let mut step = 0;
    let read = loop {
        tokio::time::advance(Duration::from_secs(1)).await;
        note(&recorder, 1, step..step + 1, &At("data", false));
        step += 1;
        if let Some(read) = finished.as_mut().now_or_never() {
            break read;
        }
        assert!(step < 100, "it should have ended before");
    };
    let groups = &read.files()[0].groups;
    assert!(groups.contains(&50) && !groups.contains(&70), "{groups:?}");
}

#[tokio::test]
async fn launches_that_are_recorded_are_bounded_and_nobody_has_to_attend_to_them() {
    let (recorder, mut begun) = Recorder::new();
    for number in 0..10 {
        recorder.begin(&ID, &path(&number.to_string()));
    }
    let mut count = 0;
    while begun.try_recv().is_ok() {
        count += 1;
    }
    assert_eq!(count, 4);
    drop(begun);
    let other = WorkspaceId::from_bytes([8; 16]);
    recorder.begin(&other, &path("x"));
    assert!(
        recorder.finished(&Launch { workspace: other, program: PathKey::of(&path("x")) }).await.is_empty()
    );
}

#[tokio::test]
async fn what_a_profile_names_is_fetched_where_it_is_now() {
    let objects = Objects::default();
    let (first, second, large) = (sample(1000, 0), sample(2000, 1), sample(40 * GROUP as usize, 2));
    let root = objects.folder(vec![
        bulk::entry("first", objects.file(&first)),
        bulk::entry(
            "lib",
            objects.folder(vec![
                bulk::entry("large", objects.file(&large)),
                bulk::entry("second", objects.file(&second)),
            ]),
        ),
        bulk::entry("folder", objects.folder(vec![])),
    ]);
    let Kind::Folder { tree, .. } = root else { panic!() };
    let owner = Owner::new(&objects.into_contents());
    let (fetcher, store) = fetcher(&[&owner]);
    let names = [
        ("lib/large", 38..99),
        ("gone", 0..1),
        ("lib/gone/too", 0..1),
        ("folder", 0..1),
        ("lib/second", 0..1),
        ("first", 0..1),
        ("first/below", 0..1),
    ];
    fetcher.stream(&ID, &tree, &profile(&names)).await.unwrap();
    put(&fetcher).await;
    let blob = Blob { digest: Digest::of(&large), size: large.len() as u64 };
    assert_eq!(store.held(&blob).unwrap(), Groups::from(38..40));
    let asked = owner.asked.lock().unwrap().clone();
    let content: HashSet<_> = asked.into_iter().filter(|want| !matches!(want, Want::Tree(_))).collect();
    let small = |bytes: &[u8]| Want::Blob(Blob { digest: Digest::of(bytes), size: bytes.len() as u64 });
    let slice = Want::Slice { blob, groups: 38..40 };
    assert_eq!(content, HashSet::from([slice, small(&second), small(&first)]));

    // What is here isn't fetched again.
    let before = owner.requests();
    fetcher.stream(&ID, &tree, &profile(&names)).await.unwrap();
    assert_eq!(owner.requests(), before);
}

#[tokio::test]
async fn a_read_waits_for_no_more_of_a_profile_than_it_touches() {
    let small: Vec<_> = (0..50).map(|seed| sample(20_000, seed)).collect();
    let objects = Objects::default();
    let entries = (0..50).map(|i| bulk::entry(&format!("{i:03}"), objects.file(&small[i]))).collect();
    let Kind::Folder { tree, .. } = objects.folder(entries) else { panic!() };
    let owner = Owner::new(&objects.into_contents());
    let (fetcher, _) = fetcher(&[&owner]);
    fetcher.tree(&ID, &tree).await.unwrap();
    put(&fetcher).await;
    let gate = &owner.gate;
    gate.forget_permits(gate.available_permits());
    let names: Vec<String> = (0..50).map(|i| format!("{i:03}")).collect();
    let all: Vec<_> = names.iter().map(|name| (name.as_str(), 0..2)).collect();
    let profile = profile(&all);
    let streaming = fetcher.stream(&ID, &tree, &profile);
    let mut streaming = std::pin::pin!(streaming);
    assert!(streaming.as_mut().now_or_never().is_none());
    owner.asked.lock().unwrap().clear();
    let before = owner.requests();
    // The last one is queued behind all the others, and yet travels at once, and alone.
    let nearby = Nearby(vec![Blob { digest: Digest::from_bytes([3; 32]), size: 5 }]);
    let last = blob(&small[49]);
    let read = fetcher.read(&ID, &last, 0, 10, &nearby);
    let mut read = std::pin::pin!(read);
    assert!(read.as_mut().now_or_never().is_none());
    owner.until_asked(before + 4).await;
    let asked = owner.asked.lock().unwrap().clone();
    let wanted = Want::Blob(Blob { digest: Digest::of(&small[49]), size: 20_000 });
    assert_eq!((asked.len(), asked.last()), (4, Some(&wanted)));

    gate.add_permits(1000);
    assert_eq!(read.await.unwrap(), small[49][..10]);
    streaming.await.unwrap();
    put(&fetcher).await;
    // Three were on their way; the rest came in its order.
    let rest = owner.asked.lock().unwrap()[4..].to_vec();
    let in_order: Vec<_> = small[3..49]
        .iter()
        .map(|bytes| Want::Blob(Blob { digest: Digest::of(bytes), size: 20_000 }))
        .collect();
    assert_eq!(rest, in_order);
    assert!(!owner.was_asked(&Digest::from_bytes([3; 32])), "what lies around was foreseen as well");
}
