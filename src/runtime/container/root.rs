use std::{
    ffi::CString,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use bollard::{Docker, body_full, query_parameters::CreateImageOptionsBuilder};
use futures_util::TryStreamExt;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde::{Deserialize, Serialize};

use super::failed;
use crate::runtime::room::RoomError;

/// What a container's root is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerRoot {
    /// An image of this name; it's pulled if it isn't there.
    Image(String),
    /// A folder of the workspace, with a layer over it that takes what is changed.
    Folder {
        /// The folder.
        lower: PathBuf,
        /// Where the layer is.
        layer: PathBuf,
    },
}

/// Folders that an engine makes itself.
const ENGINES: [&str; 3] = ["proc", "dev", "sys"];

impl ContainerRoot {
    /// The image to make the container of, and what is bound into it.
    pub(super) async fn prepare(&self, docker: &Docker) -> Result<(String, Vec<String>), RoomError> {
        match self {
            Self::Image(name) => {
                if docker.inspect_image(name).await.is_err() {
                    let options = CreateImageOptionsBuilder::new().from_image(name).build();
                    let pulled = docker.create_image(Some(options), None, None).try_collect::<Vec<_>>().await;
                    pulled.map_err(|error| {
                        RoomError::Ended(format!(
                            "there's no image '{name}' here, and it can't be pulled: {error}"
                        ))
                    })?;
                }
                Ok((name.clone(), Vec::new()))
            }
            Self::Folder { lower, layer } => {
                let wrong = |error: io::Error| failed("has no root", format!("{}: {error}", lower.display()));
                let merged = overlay(lower, layer).map_err(wrong)?;
                let (skeleton, binds) = skeleton(&merged).map_err(wrong)?;
                let options = CreateImageOptionsBuilder::new().from_src("-").build();
                let body = body_full(skeleton.into());
                let made = docker.create_image(Some(options), Some(body), None).try_collect::<Vec<_>>().await;
                let made = made.map_err(|error| failed("has no image", error))?;
                // Docker and Podman say it in different fields.
                let named = made.into_iter().rev().find_map(|one| one.id.or(one.status));
                let image = named.ok_or_else(|| failed("has no image", "the engine names none"))?;
                Ok((image, binds))
            }
        }
    }

    /// Takes back what was mounted.
    pub(super) fn release(&self) {
        if let Self::Folder { layer, .. } = self {
            // Mostly there is nothing any more.
            let _ = unmount(layer.join("root"), UnmountFlags::DETACH);
        }
    }
}

/// Mounts a folder with a layer over it; gives where. What others do to it is done by the kernel as this process's user: that
/// way also those get into the mount who may not.
fn overlay(lower: &Path, layer: &Path) -> io::Result<PathBuf> {
    let [upper, work, merged] = ["upper", "work", "root"].map(|name| layer.join(name));
    for folder in [&upper, &work, &merged] {
        fs::create_dir_all(folder)?;
    }
    let mut options = Vec::new();
    for (name, folder) in [("lowerdir=", lower), (",upperdir=", &upper), (",workdir=", &work)] {
        options.extend(name.as_bytes());
        for byte in folder.as_os_str().as_bytes() {
            // Those that mean something in there.
            if matches!(byte, b'\\' | b',' | b':') {
                options.push(b'\\');
            }
            options.push(*byte);
        }
    }
    let options = CString::new(options)?;
    mount("twinshare", &merged, "overlay", MountFlags::empty(), options.as_c_str())?;
    Ok(merged)
}

/// A tiny image with the links of a root's first level and places for the rest, as a tar archive; and what is bound to those
/// places. So nothing is copied, and content comes when it's read.
fn skeleton(root: &Path) -> io::Result<(Vec<u8>, Vec<String>)> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut binds = Vec::new();
    let header = |kind, mode| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(0);
        header
    };
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        if kind.is_symlink() {
            let target = fs::read_link(entry.path())?;
            archive.append_link(&mut header(tar::EntryType::Symlink, 0o777), &name, target)?;
            continue;
        }
        let is_engines = ENGINES.iter().any(|other| name == *other);
        match kind.is_dir() {
            true => archive.append_data(&mut header(tar::EntryType::Directory, 0o755), &name, io::empty())?,
            false => archive.append_data(&mut header(tar::EntryType::Regular, 0o644), &name, io::empty())?,
        }
        if !is_engines {
            binds.push(format!("{}:/{}:rw", entry.path().display(), name.display()));
        }
    }
    for name in ENGINES.into_iter().chain(["tmp"]).filter(|name| !root.join(name).exists()) {
        let mode = if name == "tmp" { 0o1777 } else { 0o755 };
        archive.append_data(&mut header(tar::EntryType::Directory, mode), name, io::empty())?;
    }
    Ok((archive.into_inner()?, binds))
}
