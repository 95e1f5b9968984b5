//! What goes wrong: a daemon that is killed.

use std::{fs, time::Duration};

use crate::{bed::Bed, wait::wait_for};

#[test]
fn case_27_a_killed_daemon_leaves_nothing_that_up_does_not_clear() {
    let Some(bed) = Bed::new() else { return };
    let folder = bed.workspace("lab");
    fs::write(folder.join("f"), "content").unwrap();
    let view = bed.share(&folder);
    let guest = bed.guest();
    assert_eq!(fs::read(view.join("f")).unwrap(), b"content");
    for _ in 0..10 {
        guest.kill();
        guest.up(&[]);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let own = mounts.lines().filter(|line| line.split(' ').nth(1) == guest.mount().to_str());
        assert_eq!(own.count(), 1, "{mounts}");
        fs::read_dir(guest.mount()).unwrap();
        // What was fetched before is there at once, whoever is online.
        let content = || fs::read(view.join("f")).ok();
        assert_eq!(wait_for("the file is there", Duration::from_secs(10), content), b"content");
    }
}
