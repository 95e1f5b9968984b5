//! How nodes find each other, and what happens when they can't.

use std::{fs, time::Duration};

use rustix::io::Errno;

use crate::{bed::Bed, node::Node, sample::write_random, wait::wait_for};

#[test]
fn a_peer_added_by_address_needs_no_multicast_and_is_remembered() {
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
