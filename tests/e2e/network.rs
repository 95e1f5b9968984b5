//! How nodes find each other, and what happens when they can't.

use std::{fs, io::BufRead, sync::Arc, time::Duration};

use rustix::io::Errno;

use twinshare::{
    discovery::{DISCOVERY_PORT, Discovery, DiscoveryConfig, Facts, InterfaceRules, Resources, Signer},
    peer::Identity,
    types::NodeId,
};

use crate::{bed::Bed, link::in_namespace, node::Node, sample::write_random, wait::wait_for};

#[test]
fn case_40_a_peer_added_by_address_needs_no_multicast_and_is_remembered() {
    let Some(bed) = Bed::new() else { return };
    let folder = bed.workspace("lab");
    fs::write(folder.join("f"), "content").unwrap();
    // Announcing on an interface that isn't there reaches nobody.
    bed.owner().up(&["--interface", "none0"]);
    bed.owner().share(&folder, "lab");
    bed.guest().up(&["--interface", "none0"]);
    let address = bed.owner().address().to_string();
    let printed = bed.guest().ask(&["peer", "add", &address]);
    assert!(printed.contains("owner"), "{printed}");
    let view = bed.guest().wait_for_workspace("owner", "lab");
    assert_eq!(fs::read(view.join("f")).unwrap(), b"content");

    bed.guest().down();
    bed.guest().up(&["--interface", "none0"]);
    bed.guest().wait_for_workspace("owner", "lab");
    wait_for("the peer is online again", Duration::from_secs(10), || {
        let peers = bed.guest().json(&["peer", "list", "--json"]);
        (peers[0]["state"] == "online" && peers[0]["source"] == "address").then_some(())
    });
}

#[test]
fn two_nodes_of_one_host_see_each_other() {
    let Some(bed) = Bed::new() else { return };
    let folder = bed.workspace("lab");
    fs::write(folder.join("f"), "content").unwrap();
    let second = Second(Node::new(
        "second",
        bed.owner().namespace(),
        bed.owner().address(),
        bed.folder().join("second"),
    ));
    bed.owner().up(&[]);
    bed.owner().share(&folder, "lab");
    second.0.up(&[]);
    let view = second.0.wait_for_workspace("owner", "lab");
    assert_eq!(fs::read(view.join("f")).unwrap(), b"content");
    let ports = [bed.owner(), &second.0].map(|node| node.json(&["status", "--json"])["share_port"].clone());
    assert_ne!(ports[0], ports[1]);
}

/// A node that goes down with the test.
struct Second(Node);

impl Drop for Second {
    fn drop(&mut self) {
        self.0.down_if_up();
    }
}

/// A machine that was cloned, its node's key and all.
#[test]
fn case_41_a_cloned_identity_is_told_to_all_and_shown_under_no_name_of_its_own() {
    let Some(bed) = Bed::new() else { return };
    let (owner, guest) = (bed.owner(), bed.guest());
    let folder = bed.workspace("lab");
    fs::write(folder.join("f"), "content").unwrap();
    let view = bed.share(&folder);
    let clone = Second(Node::new("second", owner.namespace(), owner.address(), bed.folder().join("second")));
    let identity = "state/identity";
    fs::create_dir_all(clone.0.home().join(identity)).unwrap();
    for entry in fs::read_dir(owner.home().join(identity)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), clone.0.home().join(identity).join(entry.file_name())).unwrap();
    }
    let mut events = guest.command(&["events", "--json"]);
    let mut events = events.stdout(std::process::Stdio::piped()).spawn().unwrap();
    clone.0.up(&[]);
    let said = "two running nodes have the identity of";
    wait_for("the guest is told", Duration::from_secs(30), || {
        let peers = guest.json(&["peer", "list", "--json"]);
        peers[0]["alerts"].to_string().contains(said).then_some(())
    });
    for node in [owner, &clone.0] {
        wait_for("so are both", Duration::from_secs(30), || {
            node.ask(&["status"]).contains("another running node has this node's own identity").then_some(())
        });
    }
    let lines = std::io::BufReader::new(events.stdout.take().unwrap()).lines();
    let told = lines.map(Result::unwrap).find(|line| line.contains(said));
    assert!(told.unwrap().contains(said));
    events.kill().unwrap();
    events.wait().unwrap();
    // Nothing new is shown in the mount, and what was there stays.
    let hosts: Vec<_> = fs::read_dir(guest.mount()).unwrap().map(|host| host.unwrap().file_name()).collect();
    assert!(
        hosts.iter().any(|host| host == "owner") && !hosts.iter().any(|host| host == "second"),
        "{hosts:?}"
    );
    assert_eq!(fs::read(view.join("f")).unwrap(), b"content");
}

/// The one that was met first keeps the name; the other has one of its own, also after a restart.
#[test]
fn case_41_two_hosts_of_one_name_have_a_folder_each() {
    let Some(bed) = Bed::new() else { return };
    let (owner, guest) = (bed.owner(), bed.guest());
    let second = Second(Node::new("second", owner.namespace(), owner.address(), bed.folder().join("second")));
    let share = |node: &Node, files: &std::path::Path| {
        let folder = files.join("lab");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("whose"), node.namespace().len().to_string() + &files.to_string_lossy())
            .unwrap();
        node.ask(&["up", "--name", "dev"]);
        node.share(&folder, "lab");
        fs::read_to_string(folder.join("whose")).unwrap()
    };
    guest.up(&[]);
    let first_says = share(owner, &owner.files());
    guest.wait_for_workspace("dev", "lab");
    let second_says = share(&second.0, &second.0.files());
    let places = || {
        let mut places: Vec<_> = fs::read_dir(guest.mount())
            .unwrap()
            .map(|host| host.unwrap().path())
            .filter(|host| host.join("lab/whose").exists())
            .collect();
        places.sort();
        (places.len() == 2).then_some(places)
    };
    let both = wait_for("both are shown", Duration::from_secs(20), places);
    let said = |places: &[std::path::PathBuf]| {
        places.iter().map(|place| fs::read_to_string(place.join("lab/whose")).unwrap()).collect::<Vec<_>>()
    };
    assert!(both[0].ends_with("dev"), "{both:?}");
    assert_eq!(said(&both), [first_says, second_says]);
    let before = said(&both);
    guest.down();
    guest.up(&[]);
    let again = wait_for("both are shown again", Duration::from_secs(20), places);
    assert_eq!((&again, said(&again)), (&both, before));
}

/// Announces itself with a name and an identity that are another's, and a key of its own.
struct Liar {
    claimed: NodeId,
    key: Identity,
}

impl Signer for Liar {
    fn id(&self) -> NodeId {
        self.claimed
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        *self.key.sign(message).as_bytes()
    }
}

#[test]
fn case_42_who_announces_anothers_identity_is_told_and_never_shown() {
    let Some(bed) = Bed::new() else { return };
    let (owner, guest) = (bed.owner(), bed.guest());
    let folder = bed.workspace("lab");
    fs::write(folder.join("f"), "content").unwrap();
    let view = bed.share(&folder);
    let claimed = owner.json(&["id", "--json"])["node"].as_str().unwrap().parse().unwrap();
    let key = Identity::load_or_create(&bed.folder().join("liar")).unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    std::thread::scope(|scope| {
        // From the owner's machine: then its address tells nothing.
        scope.spawn(|| {
            in_namespace(owner.namespace(), || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let facts = || Facts {
                        hostname: "owner".parse().unwrap(),
                        port: 9,
                        version: "1".to_owned(),
                        environments: vec!["lab".parse().unwrap(), "false".parse().unwrap()],
                        features: Vec::new(),
                        resources: Resources { cpu_cores: 1, memory_gb: 1, disk_gb: 1 },
                        catalogue: "false".to_owned(),
                    };
                    let config = DiscoveryConfig {
                        signer: Arc::new(Liar { claimed, key }),
                        interfaces: InterfaceRules::default(),
                        interval: Duration::from_secs(1),
                        port: DISCOVERY_PORT,
                        facts: Box::new(facts),
                    };
                    let discovery = Discovery::start(config, async { drop(ended.await) });
                    discovery.finished().await;
                });
            });
        });
        wait_for("the guest is told", Duration::from_secs(30), || {
            let peers = guest.json(&["peer", "list", "--json"]);
            peers[0]["alerts"].to_string().contains("announced itself in this node's name").then_some(())
        });
        // The owner is reached where it was, and what is shown is its own.
        let later = folder.join("later");
        fs::write(later, "later").unwrap();
        wait_for("the owner is followed as before", Duration::from_secs(20), || {
            (fs::read(view.join("later")).ok()? == b"later").then_some(())
        });
        assert_eq!(fs::read(view.join("f")).unwrap(), b"content");
        let shown: Vec<_> =
            fs::read_dir(guest.mount().join("owner")).unwrap().map(|one| one.unwrap().file_name()).collect();
        assert_eq!(shown, ["lab"]);
        drop(end);
    });
}

/// The bounds of field case 25, as far as they concern this version.
#[test]
fn case_25_a_vanished_peer_ends_reads_in_time_and_heals() {
    let Some(bed) = Bed::new() else { return };
    let folder = bed.workspace("lab");
    fs::write(folder.join("cached"), "seen before").unwrap();
    write_random(&folder.join("uncached"), "case 25", 1 << 20);
    let view = bed.share(&folder);
    assert_eq!(fs::read(view.join("cached")).unwrap(), b"seen before");

    bed.link().set(false);
    let started = std::time::Instant::now();
    let error = fs::read(view.join("uncached")).unwrap_err();
    let took = started.elapsed();
    let errno = Errno::from_io_error(&error);
    assert!(matches!(errno, Some(Errno::TIMEDOUT | Errno::IO)), "{error}");
    // Ten seconds are the deadline of one request; the kernel may ask for another part.
    assert!(took < Duration::from_secs(15), "{took:?}");
    // What is here, and what needs no content, doesn't wait.
    assert_eq!(fs::read(view.join("cached")).unwrap(), b"seen before");
    assert_eq!(fs::read_dir(&view).unwrap().count(), 3);
    rustix::fs::statfs(&view).unwrap();

    bed.link().set(true);
    let whole = || fs::read(view.join("uncached")).ok().filter(|bytes| bytes.len() == 1 << 20);
    wait_for("the file can be read when the link is back", Duration::from_secs(15), whole);
}
