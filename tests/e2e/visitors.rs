//! Clients without a node: curl, by HTTP Basic authentication.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{FileExt, PermissionsExt, symlink},
    path::Path,
    process::Output,
    time::Duration,
};

use serde_json::Value;

use crate::{
    bed::Bed,
    node::{stdout, within},
    sample::{find, python, random, sha256, write_random},
    wait::{poll, wait_for},
};

/// Asks the owner for something, from the guest's machine; the last line is the status.
fn curl(bed: &Bed, path: &str, more: &[&str]) -> Output {
    bed.curl("https", path).args(["-w", "%{stderr}%{http_code}"]).args(more).output().unwrap()
}

fn status(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_password_opens_listings_files_and_archives_to_curl() {
    let Some(bed) = Bed::new() else { return };
    let (owner, workspace) = (bed.owner(), bed.workspace("lab"));
    fs::create_dir_all(workspace.join("d/<b> ä")).unwrap();
    fs::write(workspace.join("d/<b> ä/100% & more"), "named oddly").unwrap();
    fs::write(workspace.join("script"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(workspace.join("script"), Permissions::from_mode(0o750)).unwrap();
    symlink("script", workspace.join("link")).unwrap();
    fs::write(workspace.join("empty"), "").unwrap();
    write_random(&workspace.join("large"), "large", 5_000_000);
    let sparse = fs::File::create(workspace.join("sparse")).unwrap();
    sparse.set_len(20 << 20).unwrap();
    sparse.write_all_at(&random("sparse", 0, 3_000_000), 7_000_001).unwrap();
    owner.up(&[]);
    let path = workspace.to_str().unwrap();
    owner.ask(&["share", path, "--name", "lab", "--access", "password", "--wait"]);
    assert_eq!(status(&curl(&bed, "/w/lab", &[])), "404", "without a password it's none for visitors");
    assert!(!owner.set_password("lab", "short"));
    assert!(owner.set_password("lab", "correct horse"));
    assert!(!fs::read_to_string(owner.home().join("state/access.json")).unwrap().contains("correct horse"));

    let refused = curl(&bed, "/w/lab/script", &["-D", "-"]);
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(status(&refused) == "401" && said.contains("Basic realm=\"twinshare lab\""), "{said}");
    let get = |path: &str, more: &[&str]| curl(&bed, path, &[&["-u", "me:correct horse"], more].concat());
    let listed: Value = serde_json::from_slice(&get("/w/lab", &[]).stdout).unwrap();
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["d", "empty", "large", "link", "script", "sparse", "workspace.yaml"]);
    let names = curl(&bed, "/w", &[]).stdout;
    assert_eq!(serde_json::from_slice::<Value>(&names).unwrap(), serde_json::json!(["lab"]));
    let html = get("/w/lab/d/", &["-H", "Accept: text/html"]).stdout;
    let html = String::from_utf8(html).unwrap();
    assert!(html.contains("href=\"./%3Cb%3E%20%C3%A4/\">&lt;b&gt; ä/</a>"), "{html}");
    assert_eq!(get("/w/lab/d/%3Cb%3E%20%C3%A4/100%25%20&%20more", &[]).stdout, b"named oddly");
    for file in ["large", "sparse", "empty"] {
        let content = get(&format!("/w/lab/{file}"), &[]);
        assert!(content.stdout == fs::read(workspace.join(file)).unwrap(), "{file}: {}", status(&content));
    }
    let range = get("/w/lab/large", &["-r", "1999999-3000000"]);
    assert_eq!(status(&range), "206");
    assert!(range.stdout == random("large", 1_999_999, 1_000_002));
    assert_eq!(status(&get("/w/lab/large", &["-r", "5000000-"])), "416");
    for missing in
        ["/w/lab/none", "/w/lab/link", "/w/lab/../lab/script", "/w/lab/script/x", "/w/none", "/w/lab/%00"]
    {
        assert_eq!(status(&get(missing, &["--path-as-is"])), "404", "{missing}");
    }

    // All of it as an archive, with what archives can hold.
    let archive = bed.folder().join("lab.zip");
    let answer = get("/w/lab?zip", &["-o", archive.to_str().unwrap()]);
    assert_eq!(status(&answer), "200");
    let unpacked = bed.folder().join("unpacked");
    unpack(&archive, &unpacked);
    let comparable = |folder: &Path| {
        let mut found = find(folder);
        found.retain(|path, _| !path.is_empty());
        found.into_iter().map(|(path, entry)| (path, entry.kind, entry.target)).collect::<Vec<_>>()
    };
    assert_eq!(comparable(&unpacked), comparable(&workspace));
    for file in ["large", "sparse", "script", "d/<b> ä/100% & more"] {
        assert_eq!(sha256(&unpacked.join(file)), sha256(&workspace.join(file)), "{file}");
    }
    assert_eq!(fs::metadata(unpacked.join("script")).unwrap().permissions().mode() & 0o777, 0o750);

    // A new password ends what the old one opened.
    assert!(owner.set_password("lab", "battery staple"));
    assert_eq!(status(&get("/w/lab/script", &[])), "401");
    // Whoever guesses has to wait.
    for _ in 0..5 {
        let guess = status(&curl(&bed, "/w/lab/script", &["-u", "me:wrong"]));
        assert!(guess == "401" || guess == "429", "{guess}");
    }
    let waiting = curl(&bed, "/w/lab/script", &["-u", "me:battery staple", "-D", "-"]);
    assert_eq!(status(&waiting), "429", "not even the right one");
    assert!(String::from_utf8_lossy(&waiting.stdout).to_lowercase().contains("retry-after: "));
    wait_for("and then it's let in", Duration::from_secs(10), || {
        (status(&curl(&bed, "/w/lab/script", &["-u", "me:battery staple"])) == "200").then_some(())
    });
    // What isn't for visitors isn't there for them.
    owner.ask(&["share", path, "--access", "ask"]);
    assert_eq!(status(&curl(&bed, "/w/lab/script", &["-u", "me:battery staple"])), "404");
}

/// Unpacks as the usual programs do, links and permissions too.
fn unpack(archive: &Path, folder: &Path) {
    const UNPACK: &str = r#"
import os, stat, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as archive:
    assert archive.testzip() is None
    for info in archive.infolist():
        path, mode = os.path.join(sys.argv[2], info.filename), info.external_attr >> 16
        if stat.S_ISLNK(mode):
            os.symlink(archive.read(info), path)
        else:
            archive.extract(info, sys.argv[2])
            if mode: os.chmod(path, stat.S_IMODE(mode))
"#;
    fs::create_dir(folder).unwrap();
    stdout(within(60, python()).args(["-c", UNPACK]).args([archive, folder]));
}

#[test]
fn a_download_under_way_ends_with_the_password() {
    let Some(bed) = Bed::new() else { return };
    let (owner, workspace) = (bed.owner(), bed.workspace("lab"));
    write_random(&workspace.join("large"), "large", 512 << 20);
    owner.up(&[]);
    owner.ask(&["share", workspace.to_str().unwrap(), "--name", "lab", "--access", "password", "--wait"]);
    assert!(owner.set_password("lab", "correct horse"));
    let mut curl = bed.curl("https", "/w/lab/large");
    let before = bed.received();
    let mut download = curl.args(["-o", "/dev/null", "-u", "me:correct horse"]).spawn().unwrap();
    wait_for("it's under way", Duration::from_secs(10), || (bed.received() - before > 8 << 20).then_some(()));
    assert!(owner.set_password("lab", "battery staple"));
    let ended = poll(Duration::from_secs(3), || download.try_wait().unwrap()).expect("it ends");
    assert!(!ended.success(), "curl knows that it hasn't got all");
    assert!(bed.received() - before < 400 << 20);
}
