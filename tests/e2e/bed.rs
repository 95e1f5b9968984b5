//! The test bed: two hosts joined by a LAN, with a node in each.
//!
//! Each bed has a slot of its own, held by a file lock: tests run in parallel, and what a killed test left in its slot
//! is known to be left over once the lock is free.

use std::{
    env,
    fs::{self, File, OpenOptions, Permissions},
    io::{Read, Seek, Write},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    link::{self, Link},
    node::{CLI, Node, within},
    wait::wait_for,
};

/// Where the slots' locks lie.
const SLOTS: &str = "/run/twinshare-bed";
/// Where the beds' folders lie: on the disk, also where /tmp is in memory, and open to other users.
const FOLDERS: &str = "/var/tmp";

/// Two hosts, `owner` and `guest`; everything of it is taken down when it is dropped.
pub(crate) struct Bed {
    owner: Node,
    guest: Node,
    // Dropped in this order: the link after the nodes, the slot after everything.
    link: Link,
    slot: Slot,
}

impl Bed {
    /// A fresh bed in which nothing runs yet; None, with the reason printed, where there can't be one.
    pub(crate) fn new() -> Option<Self> {
        if !usable() {
            return None;
        }
        let slot = Slot::take();
        let link = Link::lay(slot.number);
        let [owner, guest] = link.namespaces();
        let [owner_address, guest_address] = link.addresses();
        Some(Self {
            owner: Node::new("owner", owner, owner_address, slot.folder.join("owner")),
            guest: Node::new("guest", guest, guest_address, slot.folder.join("guest")),
            link,
            slot,
        })
    }

    pub(crate) fn owner(&self) -> &Node {
        &self.owner
    }

    pub(crate) fn guest(&self) -> &Node {
        &self.guest
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// A folder on the local disk for what belongs to neither host; also other users may enter it.
    pub(crate) fn folder(&self) -> &Path {
        &self.slot.folder
    }

    /// Bytes on the wire since the bed was made: from the owner to the guest, and back.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        self.link.bytes()
    }

    /// Bytes that the guest has received since the bed was made.
    pub(crate) fn received(&self) -> u64 {
        self.bytes().0
    }

    /// Waits until what goes on behind the last request has ended.
    pub(crate) fn wait_until_quiet(&self) {
        link::wait_until_quiet(&self.link);
    }

    /// Makes an empty folder to be shared by the owner under this name.
    pub(crate) fn workspace(&self, name: &str) -> PathBuf {
        let folder = self.owner.files().join(name);
        fs::create_dir(&folder).unwrap();
        folder
    }

    /// curl at the guest, about to ask the owner's share service for something.
    pub(crate) fn curl(&self, scheme: &str, path: &str) -> Command {
        let port = self.owner.json(&["status", "--json"])["share_port"].as_u64().unwrap();
        let mut curl = within(60, "nsenter");
        curl.arg(format!("--net=/run/netns/{}", self.guest.namespace()));
        curl.args(["--", "curl", "-sk"]).arg(format!("{scheme}://{}:{port}{path}", self.owner.address()));
        curl
    }

    /// Starts both nodes, shares the folder as `lab` and waits for it; gives its folder under the guest's mount.
    pub(crate) fn share(&self, folder: &Path) -> PathBuf {
        self.owner.up(&[]);
        self.owner.share(folder, "lab");
        self.guest.up(&[]);
        self.guest.wait_for_workspace("owner", "lab")
    }

    /// Does one edit of the owner's `lab`, and waits until the guest has the snapshot that the edit made.
    pub(crate) fn edit(&self, edit: impl FnOnce()) {
        let before = self.owner.snapshot("owner", "lab").expect("the owner has a snapshot before the edit");
        edit();
        let limit = Duration::from_secs(10);
        wait_for("the owner publishes the edit", limit, || {
            self.owner.snapshot("owner", "lab").filter(|now| *now != before)
        });
        // The owner may publish again meanwhile, so its snapshot is asked for each time.
        wait_for("the guest has the owner's snapshot", limit, || {
            (self.guest.snapshot("owner", "lab")? == self.owner.snapshot("owner", "lab")?).then_some(())
        });
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, node) in [("owner", &self.owner), ("guest", &self.guest)] {
                eprintln!("---- the end of {name}'s log ----\n{}", node.log_tail());
            }
        }
        self.guest.down_if_up();
        self.owner.down_if_up();
    }
}

/// Whether there can be a bed on this machine; says why not.
pub(crate) fn usable() -> bool {
    if let Err(reason) = found() {
        assert!(env::var_os("TWINSHARE_TEST_REQUIRE").is_none(), "the test bed can't be made: {reason}");
        eprintln!("skipped, since the test bed can't be made: {reason}");
        return false;
    }
    let daemon = Path::new(CLI).with_file_name("twinshare-mountd");
    assert!(daemon.exists(), "{} is missing: cargo build --workspace makes it", daemon.display());
    true
}

/// Whether all that a bed needs is there, or what isn't.
fn found() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("network namespaces need root".to_owned());
    }
    for device in ["/dev/fuse", "/dev/net/tun"] {
        if !Path::new(device).exists() {
            return Err(format!("there is no {device}"));
        }
    }
    for program in ["ip", "tc", "nsenter"] {
        if Command::new(program).arg("-V").output().is_err() {
            return Err(format!("there is no {program} (Debian: apt-get install iproute2 util-linux)"));
        }
    }
    Ok(())
}

/// A bed's number and folder, and the lock that keeps them its own.
pub(crate) struct Slot {
    pub(crate) number: u8,
    pub(crate) folder: PathBuf,
    _lock: File,
}

impl Slot {
    /// Takes the first free slot, and clears away what an earlier, killed test left in any.
    pub(crate) fn take() -> Self {
        fs::create_dir_all(SLOTS).unwrap();
        let mut taken: Option<Self> = None;
        for number in 0..=u8::MAX {
            let path = Path::new(SLOTS).join(number.to_string());
            if taken.is_some() && !path.exists() {
                break;
            }
            let mut lock =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap();
            if lock.try_lock().is_err() {
                continue;
            }
            clear(number, &mut lock);
            if taken.is_none() {
                let folder = Path::new(FOLDERS).join(format!("twinshare-bed-{number}"));
                fs::create_dir(&folder).unwrap();
                fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
                lock.write_all(folder.as_os_str().as_bytes()).unwrap();
                taken = Some(Self { number, folder, _lock: lock });
            }
        }
        taken.expect("one of 256 slots is free")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        remove_folder(&self.folder);
    }
}

/// Clears away what is left in a slot whose lock is held; the lock's file says where its folder is.
fn clear(number: u8, lock: &mut File) {
    link::remove(number);
    let mut folder = Vec::new();
    lock.read_to_end(&mut folder).unwrap();
    if !folder.is_empty() {
        remove_folder(Path::new(std::ffi::OsStr::from_bytes(&folder)));
    }
    lock.set_len(0).unwrap();
    lock.rewind().unwrap();
}

/// Unmounts all under the folder and removes it. Nothing is removed through a mount that can't be undone.
fn remove_folder(folder: &Path) {
    let mounts = || -> Vec<PathBuf> {
        let table = fs::read("/proc/self/mounts").unwrap();
        table
            .split(|byte| *byte == b'\n')
            .filter_map(|line| line.split(|byte| *byte == b' ').nth(1))
            .map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path)))
            .filter(|path| path.starts_with(folder))
            .collect()
    };
    for mount in mounts().iter().rev() {
        let _ = Command::new("umount").arg("--lazy").arg(mount).status();
    }
    let left = mounts();
    if !left.is_empty() {
        eprintln!("the test bed leaves {} behind, since {left:?} can't be unmounted", folder.display());
        return;
    }
    if folder.exists()
        && let Err(error) = fs::remove_dir_all(folder)
    {
        eprintln!("the test bed leaves {} behind: {error}", folder.display());
    }
}
