//! A peer's workspace as an archive.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
};

use crate::{
    bed::Bed,
    node::{stdout, within},
    sample::{sha256, write_random},
};

#[test]
fn a_peers_workspace_is_exported_through_the_mount_and_imported() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::create_dir_all(workspace.join("bin/empty")).unwrap();
    write_random(&workspace.join("large"), "large", 5_000_000);
    fs::write(workspace.join("bin/run"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(workspace.join("bin/run"), Permissions::from_mode(0o755)).unwrap();
    symlink("run", workspace.join("bin/inside")).unwrap();
    symlink("/usr/bin/env", workspace.join("bin/python")).unwrap();
    fs::write(workspace.join(".env"), "SECRET=1").unwrap();
    let seen = bed.share(&workspace);
    let guest = bed.guest();
    fs::write(seen.join("of the guest"), "a change").unwrap();

    let archive = bed.folder().join("lab.zip");
    guest.ask(&["export", "owner/lab", "-o", archive.to_str().unwrap()]);
    stdout(within(20, "unzip").arg("-t").arg(&archive));
    let made = bed.folder().join("made");
    guest.ask(&["import", archive.to_str().unwrap(), made.to_str().unwrap()]);
    assert_eq!(sha256(&made.join("large")), sha256(&workspace.join("large")));
    assert_eq!(stdout(&mut within(10, made.join("bin/inside"))), "ran\n");
    assert!(made.join("bin/empty").is_dir() && !made.join(".env").exists());
    assert_eq!(fs::read_to_string(made.join("of the guest")).unwrap(), "a change");
    // The mount shows it as leading into a folder of its own; here it's the owner's again.
    assert!(fs::read_link(seen.join("bin/python")).unwrap().starts_with(guest.mount()));
    assert_eq!(fs::read_link(made.join("bin/python")).unwrap(), std::path::Path::new("/usr/bin/env"));

    // Both can be shared on one network.
    let id = |folder: &std::path::Path| {
        let text = fs::read_to_string(folder.join("workspace.yaml")).unwrap();
        text.lines().find(|line| line.starts_with("id: ")).unwrap().to_owned()
    };
    assert_ne!(id(&made), id(&workspace));
    guest.share(&made, "copy");
    let copy = bed.owner().wait_for_workspace("guest", "copy");
    assert_eq!(sha256(&copy.join("large")), sha256(&workspace.join("large")));

    // A workspace is a template too, and one's own is exported by its name as well: from its folder, without its secrets.
    let new = bed.folder().join("new");
    guest.ask(&["create", new.to_str().unwrap(), "--template", "owner/lab"]);
    assert!(fs::read_to_string(new.join("workspace.yaml")).unwrap().contains("name: new\n"));
    let own = bed.folder().join("own.zip");
    bed.owner().ask(&["export", "owner/lab", "-o", own.to_str().unwrap()]);
    let listed = stdout(within(20, "unzip").arg("-l").arg(&own));
    assert!(listed.contains("bin/run") && !listed.contains(".env"), "{listed}");
}
