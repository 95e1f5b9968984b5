//! Shares over time: edits, other ways of sharing, folders that go and come back.

use super::*;

#[test]
fn edits_become_heads_that_a_fresh_look_would_give() {
    let lab = Lab::new();
    for folder in ["a", "b/c", "b/d/e"] {
        for file in 0..5 {
            lab.write(&format!("{folder}/{file}"), format!("{folder}{file}"));
        }
    }
    let (_shares, share) = lab.share(live());
    settle(&share);
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        // Few edits at a time, so that later ones don't make up for what was overheard.
        for _ in 0..[1, 3, 40][seed as usize % 3] {
            edit(lab.root.path(), &mut random);
        }
        let head = lab.converge(&share, quiet());
        // Every file of the head is found by its content.
        for entry in entries(&share, head.root).values() {
            if let Some(digest) = digest(entry) {
                share.blob(&digest).unwrap().read_whole().unwrap();
            }
        }
    }
}

/// One random change below `root`.
fn edit(root: &Path, random: &mut StdRng) {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    let mut next = 0;
    while next < folders.len() {
        let mut found: Vec<_> = fs::read_dir(&folders[next]).unwrap().map(|entry| entry.unwrap()).collect();
        found.sort_by_key(|entry| entry.file_name());
        for entry in found {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false if entry.file_name() != "workspace.yaml" => files.push(entry.path()),
                false => {}
            }
        }
        next += 1;
    }
    let mut any = |paths: &[PathBuf]| paths[random.random_range(0..paths.len())].clone();
    let folder = any(&folders);
    let file = if files.is_empty() { root.join("f") } else { any(&files) };
    let other = any(&folders);
    let name = format!("n{}", random.random_range(0..30));
    // What can't be done (a folder into itself, a name that is taken) isn't.
    let _ = match random.random_range(0..13) {
        0 | 1 => fs::write(folder.join(name), random.random::<u64>().to_string()),
        2 => fs::write(file, random.random::<u64>().to_string()),
        3 => fs::remove_file(file),
        4 => fs::create_dir_all(folder.join(&name).join("x"))
            .and_then(|()| fs::write(folder.join(name).join("x/y"), "y")),
        5 if folder != root => fs::rename(&folder, other.join(name)),
        6 if folder != root && random.random_bool(0.3) => fs::remove_dir_all(&folder),
        7 => fs::hard_link(file, folder.join(name)),
        8 => symlink("../x", folder.join(name)),
        9 => fs::set_permissions(file, fs::Permissions::from_mode(0o600 + random.random_range(0..0o100))),
        // These leave the listing as it was, and the folder's time not.
        10 => fs::write(folder.join(&name), "").and_then(|()| fs::remove_file(folder.join(name))),
        11 if file.starts_with(&folder) => {
            fs::write(folder.join(&name), &name).and_then(|()| fs::rename(folder.join(name), file))
        }
        12 if folder != root => {
            // There and back again.
            let away = other.join(name);
            fs::rename(&folder, &away).and_then(|()| fs::rename(away, &folder))
        }
        _ => fs::rename(file, folder.join(name)),
    };
}

#[test]
fn case_60_without_watches_changes_are_found_and_the_lack_is_told() {
    let lab = Lab::new();
    lab.write("a/b/c/f", "old");
    lab.write(".twinshareignore", "ignored\n");
    lab.write("ignored/x/y/z", "");
    let watched = SharesOptions { watches: 4, ..live() };
    let (shares, share) = lab.share(watched);
    settle(&share);
    assert!(share.is_watched(), "the root and three folders: what is ignored isn't watched");
    drop((shares, share));
    let limited = SharesOptions { watches: 3, rescan: Duration::from_millis(20), ..live() };
    let (_shares, share) = lab.share(limited);
    settle(&share);
    assert!(!share.is_watched());
    lab.write("a/b/c/f", "new");
    wait(&share, |head| digest(&entries(&share, head.root)[&b"a/b/c/f"[..]]) == Some(Digest::of(b"new")));
}

#[test]
fn old_trees_stay_for_some_heads_and_then_go() {
    let lab = Lab::new();
    // Enough names for an index over several pages.
    for file in 0..2000 {
        lab.write(&format!("d/{file}"), "");
    }
    let (_shares, share) = lab.share(live());
    let first = settle(&share);
    let objects = || share.objects.lock().unwrap().len();
    let size = objects();
    let mut last = first;
    for round in 0..20 {
        lab.write("d/7", format!("{round}"));
        let content = Digest::of(format!("{round}").as_bytes());
        last = wait(&share, |head| digest(&entries(&share, head.root)[&b"d/7"[..]]) == Some(content));
        if round == 4 {
            assert_eq!(entries(&share, first.root).len(), entries(&share, last.root).len());
        }
    }
    assert!(share.tree(&first.root).is_none());
    assert!(objects() < size + 60, "{} of {size}", objects());
    fs::remove_dir_all(lab.path("d")).unwrap();
    last =
        wait(&share, |head| head.sequence > last.sequence && paths(&share, head.root) == ["workspace.yaml"]);
    for round in 0..12 {
        lab.write("f", format!("{round}"));
        last = wait(&share, |head| head.sequence > last.sequence && !head.provisional);
    }
    assert!(objects() < 30, "{}", objects());
}

#[test]
fn workspaces_have_one_name_and_one_identity() {
    let (first, second) = (Lab::new(), Lab::new());
    let shares = first.open(quiet());
    let mut changes = shares.changes();
    let name = |text: &str| Some(text.parse().unwrap());
    let options = |name| ShareOptions { name, access: Access::Public, ..ShareOptions::default() };
    let share = shares.add(first.root.path(), options(name("one"))).unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    assert_eq!((share.access(), share.manifest().name.as_str()), (Access::Public, "one"));
    assert!(matches!(
        shares.add(second.root.path(), options(name("one"))),
        Err(PublishError::NameTaken { .. })
    ));
    fs::copy(first.path("workspace.yaml"), second.path("workspace.yaml")).unwrap();
    let error = shares.add(second.root.path(), options(name("two"))).unwrap_err();
    assert!(matches!(&error, PublishError::SameId { .. }), "{error}");
    assert!(matches!(shares.add(&first.path("none"), options(None)), Err(PublishError::Folder { .. })));
    assert!(matches!(
        shares.add(&first.path("workspace.yaml"), options(None)),
        Err(PublishError::NotAFolder(_))
    ));
    assert!(matches!(shares.add(first.state.path(), options(None)), Err(PublishError::Own(_))));
    assert!(shares.get(&share.id()).is_some());
    let held = shares.engine().hold.write().unwrap();
    second.write("workspace.yaml", "name: two\n");
    let other = shares.add(second.root.path(), options(None)).unwrap();
    assert_eq!(shares.list().len(), 2);
    changes.mark_unchanged();
    shares.remove(&"two".parse().unwrap()).unwrap();
    assert!(changes.has_changed().unwrap());
    assert!(matches!(block_on(other.settled()), Err(PublishError::Unshared(_))));
    drop(held);
    assert!(matches!(shares.remove(&"two".parse().unwrap()), Err(PublishError::Unknown(_))));
    assert_eq!(shares.list().len(), 1);
}

#[test]
fn sharing_a_shared_folder_again_changes_how_it_is_shared() {
    let (first, second) = (Lab::new(), Lab::new());
    let shares = first.open(quiet());
    let options =
        |name: &str, access| ShareOptions { name: name.parse().ok(), access, ..ShareOptions::default() };
    let share = shares.add(first.root.path(), options("one", Access::Ask)).unwrap();
    shares.add(second.root.path(), options("two", Access::Ask)).unwrap();
    let again = |name, access| {
        let mut changes = shares.changes();
        changes.mark_unchanged();
        let again = shares.add(first.root.path(), options(name, access))?;
        assert!(Arc::ptr_eq(&again, &share));
        Ok::<_, PublishError>(changes.has_changed().unwrap())
    };
    assert!(!again("", Access::Ask).unwrap(), "nothing is different");
    assert!(!again("one", Access::Ask).unwrap());
    assert!(again("", Access::Public).unwrap());
    assert_eq!((share.access(), share.manifest().name.as_str()), (Access::Public, "one"));
    assert!(again("three", Access::Public).unwrap());
    assert_eq!(share.manifest().name.as_str(), "three");
    assert!(fs::read_to_string(first.path("workspace.yaml")).unwrap().contains("three"));
    assert!(matches!(again("two", Access::Peers), Err(PublishError::NameTaken { .. })));
    assert_eq!((share.access(), share.manifest().name.as_str()), (Access::Public, "three"));
    first.write("workspace.yaml", "name: three\n");
    assert!(matches!(again("four", Access::Public), Err(PublishError::OtherId(_))));
    assert_eq!(shares.list().len(), 2);
}

#[test]
fn the_system_is_not_shared() {
    let lab = Lab::new();
    let shares = lab.open(quiet());
    let add = |path: &str| shares.add(Path::new(path), ShareOptions::default()).unwrap_err();
    let error = add("/");
    assert!(matches!(error, PublishError::Everything(_)));
    assert!(!error.to_string().contains("--name"), "{error}");
    for path in ["/dev", "/proc", "/proc/self/task", "/sys"] {
        assert!(matches!(add(path), PublishError::System(_)), "{path}");
    }
}

#[test]
fn changes_of_the_own_folder_are_published() {
    let lab = Lab::new();
    let (_shares, share) = lab.share(live());
    let first = settle(&share);
    fs::set_permissions(lab.root.path(), fs::Permissions::from_mode(0o750)).unwrap();
    let second = wait(&share, |head| head.mode == 0o750);
    assert!(second.sequence > first.sequence);
    lab.write("f", "");
    fs::remove_file(lab.path("f")).unwrap();
    let modified = fs::metadata(lab.root.path()).unwrap().modified().unwrap();
    let modified = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
    wait(&share, |head| {
        (head.modified.seconds, head.modified.nanoseconds)
            == (modified.as_secs() as i64, modified.subsec_nanos())
    });
}

#[test]
fn changes_through_one_name_show_at_the_others() {
    let lab = Lab::new();
    lab.write("a/f", "one");
    fs::create_dir(lab.path("b")).unwrap();
    let (_shares, share) = lab.share(SharesOptions { racy: Duration::from_secs(2), ..live() });
    settle(&share);
    fs::hard_link(lab.path("a/f"), lab.path("b/g")).unwrap();
    let both = |head: Head, condition: &dyn Fn(&Entry) -> bool| {
        let found = entries(&share, head.root);
        ["a/f", "b/g"].iter().all(|path| found.get(path.as_bytes()).is_some_and(condition))
    };
    wait(&share, |head| both(head, &|entry| entry.attributes.link.is_some_and(|link| link.count == 2)));
    fs::write(lab.path("a/f"), "two").unwrap();
    wait(&share, |head| both(head, &|entry| digest(entry) == Some(Digest::of(b"two"))));
    fs::set_permissions(lab.path("b/g"), fs::Permissions::from_mode(0o600)).unwrap();
    wait(&share, |head| both(head, &|entry| entry.attributes.mode == 0o600));
}

/// Counts warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<std::sync::atomic::AtomicU64>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_folder_that_is_gone_is_told_once_and_may_come_back() {
    let lab = Lab::new();
    let root = lab.path("root");
    lab.write("root/d/f", "one");
    let shares = lab.open(SharesOptions { rescan: Duration::from_millis(20), ..live() });
    let manifest = crate::workspace::Manifest::load_or_create(&root, None).unwrap();
    let kept = fs::read(root.join("workspace.yaml")).unwrap();
    let held = shares.engine().hold.write().unwrap();
    let (share, publisher) =
        publisher::Publisher::start(shares.engine(), root.clone(), manifest, &ShareOptions::default())
            .unwrap();
    let warnings = Warnings::default();
    let told = || warnings.0.load(Ordering::Relaxed);
    let subscriber = warnings.clone();
    let thread =
        std::thread::spawn(move || tracing::subscriber::with_default(subscriber, || publisher.run()));
    // Hashing fails while the folder is gone, and asks for looks.
    fs::rename(&root, lab.path("away")).unwrap();
    drop(held);
    poll(|| told() > 0);
    let looks = share.engine.looks.load(Ordering::Relaxed);
    poll(|| share.engine.looks.load(Ordering::Relaxed) > looks + 10);
    assert_eq!(told(), 1);
    assert!(!paths(&share, share.head().root).is_empty(), "the last state stays");
    lab.write("root/d/g", "two");
    fs::write(root.join("workspace.yaml"), kept).unwrap();
    wait(&share, |head| !head.provisional && paths(&share, head.root) == ["d", "d/g", "workspace.yaml"]);
    fs::remove_dir_all(&root).unwrap();
    poll(|| told() > 1);
    share.tell(publisher::Message::Stop);
    thread.join().unwrap();
}

#[test]
fn the_description_follows_its_file() {
    let lab = Lab::new();
    let (shares, share) = lab.share(live());
    let manifest = share.manifest();
    let mut changes = shares.changes();
    let text = fs::read_to_string(lab.path("workspace.yaml")).unwrap();
    lab.write("workspace.yaml", format!("{text}description: ours\n"));
    let mut told = async |share: &Share, text: &str| {
        while share.manifest().description.as_deref() != Some(text) {
            changes.changed().await.unwrap();
        }
    };
    block_on(told(&share, "ours"));
    let before = wait(&share, |head| !head.provisional);
    lab.write("workspace.yaml", "name: [\n");
    wait(&share, |head| head.sequence > before.sequence && !head.provisional);
    assert_eq!(share.manifest().description.as_deref(), Some("ours"), "a damaged one changes nothing");
    assert_eq!(share.manifest().id, manifest.id);
}
