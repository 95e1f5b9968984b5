use std::{
    fs,
    io::{self, Write},
    ops::ControlFlow,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::builder::{OsStringValueParser, TypedValueParser};
use jiff::Zoned;
use tokio::signal::unix::{SignalKind, signal};
use twinshare::{
    publish::{Listing, Reason, listing},
    view::OUTSIDE,
    workspace::{
        Manifest, ManifestError,
        archive::{Archive, ArchiveError, Packed, Unpack, pack, room},
    },
};

use super::{
    arguments::{Where, place},
    cache::Line,
    failure::Failure,
    output::{count, fields, plain, size},
    session::{Session, canonical},
};

/// How a moment is written in a file's name.
const STAMP: &str = "%Y%m%d-%H%M%S";

#[derive(Debug, clap::Args)]
pub(super) struct Export {
    /// Which: HOST/WORKSPACE[/PATH], or a folder, which begins with / or .
    #[arg(value_name = "WORKSPACE|FOLDER", value_parser = OsStringValueParser::new().try_map(place))]
    what: Where,

    /// The file to write, which mustn't exist yet; - for standard output (default: NAME-YYYYmmdd-HHMMSS.zip, here)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// The archive
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The folder to make, which mustn't exist yet, or must be empty (default: the workspace's name, here)
    #[arg(value_name = "DEST")]
    destination: Option<PathBuf>,

    /// If something is there, put it aside as DEST.replaced-YYYYmmdd-HHMMSS
    #[arg(long)]
    force: bool,

    /// Make links that lead out of the workspace, wherever they lead
    #[arg(long)]
    links_outside: bool,
}

/// A folder to be read whole.
pub(super) struct Source {
    pub(super) folder: PathBuf,
    /// What it's called.
    pub(super) name: String,
    /// Where the mount shows the rest of its owner's machine, if it's another's.
    pub(super) outside: Option<PathBuf>,
}

impl Source {
    pub(super) async fn find(session: &Session, what: &Where) -> Result<Self, Failure> {
        let (path, said) = match what {
            Where::Path(path) => (path.clone(), plain(&path.to_string_lossy())),
            Where::Named(path) => (session.in_mount(path).await?, plain(&path.to_string())),
        };
        // Of a workspace of this host the mount has a link to its folder.
        let folder = path.canonicalize().ok().filter(|folder| folder.is_dir()).ok_or_else(|| {
            Failure::new(format!("{said} is no folder"))
                .with_remedy("'twinshare ls' lists what other hosts share")
        })?;
        let outside = match session.client() {
            Ok(client) => {
                let mount = client.status().await?.mount.as_path().to_path_buf();
                let host = folder.strip_prefix(canonical(&mount)).ok().and_then(|below| below.iter().next());
                host.map(|host| mount.join(OUTSIDE).join(host))
            }
            // Then nothing is mounted.
            Err(_) => None,
        };
        let name = match what {
            Where::Named(path) if path.path.is_empty() => path.workspace.to_string(),
            _ => {
                let named = Manifest::load(&folder).ok().flatten().map(|manifest| manifest.name.to_string());
                let last = || folder.file_name().map(|name| name.to_string_lossy().into_owned());
                named.or_else(last).unwrap_or_else(|| "workspace".to_owned())
            }
        };
        Ok(Self { folder, name, outside })
    }

    /// What would be shared of it: that and no more leaves it.
    pub(super) fn listing(&self, session: &Session) -> io::Result<Listing> {
        let paths = &session.paths;
        let own = [&paths.mount, &paths.config, &paths.state, &paths.cache, &paths.runtime]
            .map(|own| canonical(own));
        listing(&self.folder, &own.each_ref().map(PathBuf::as_path))
    }
}

/// What was left out of a listing, in words.
fn left_out(listing: &Listing, packed: &Packed) -> Option<String> {
    let unreadable = listing.left_out.get(&Reason::Unreadable).copied().unwrap_or(0) + packed.unreadable;
    let all = listing.left_out.values().sum::<u64>() + packed.unreadable;
    let secrets = listing.left_out.get(&Reason::Secret).copied().unwrap_or(0);
    let mut parts = Vec::new();
    if secrets > 0 {
        parts.push(format!("{} that look like secrets", count(secrets)));
    }
    if unreadable > 0 {
        parts.push(format!("{} that you can't read", count(unreadable)));
    }
    let which = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    (all > 0).then(|| format!("{}{which}", count(all)))
}

/// Does work that takes a while on a thread of its own, shows how far it is, and has it stop on Ctrl-C.
pub(super) async fn watched<T: Send + 'static>(
    work: impl FnOnce(&Arc<AtomicU64>, &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<T, Failure>
    + Send
    + 'static,
) -> Result<T, Failure> {
    let (done, total) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let working = {
        let (done, total, stop) = (done.clone(), total.clone(), stop.clone());
        tokio::task::spawn_blocking(move || {
            let mut progress = |bytes| {
                done.fetch_add(bytes, Ordering::Relaxed);
                if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            work(&total, &mut progress)
        })
    };
    let failed = |error: io::Error| Failure::new(format!("can't wait for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    let mut line = Line::new();
    tokio::pin!(working);
    let ended = loop {
        tokio::select! {
            ended = &mut working => break ended,
            _ = interrupt.recv() => stop.store(true, Ordering::Relaxed),
            _ = terminate.recv() => stop.store(true, Ordering::Relaxed),
            _ = hangup.recv() => stop.store(true, Ordering::Relaxed),
            _ = tick.tick() => {
                let (done, total) = (done.load(Ordering::Relaxed), total.load(Ordering::Relaxed));
                if total > 0 {
                    line.show(&format!("{} of {}", size(done.min(total)), size(total)));
                }
            }
        }
    };
    line.clear();
    ended.map_err(|error| Failure::new(error.to_string()))?
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        let failure = Failure::new(match &error {
            ArchiveError::NoSpace { room } => {
                format!("there's not enough space: {} may be written, and it has more", size(*room))
            }
            error => error.to_string(),
        });
        match error {
            ArchiveError::Damaged(_) => {
                failure.with_remedy("get it again: it may have broken off on its way")
            }
            ArchiveError::Refused { .. } => failure.with_remedy(
                "nothing was made of it; an archive that 'twinshare export' made has no such thing",
            ),
            ArchiveError::LeadsOut { .. } => failure
                .with_remedy("'--links-outside' makes such links, if you trust whoever made the archive"),
            ArchiveError::NoSpace { .. } => failure.with_remedy("make space, or choose another disk"),
            ArchiveError::Exists { .. } => {
                failure.with_remedy("choose another folder; '--force' puts what is there aside")
            }
            ArchiveError::Write(_) => {
                failure.with_remedy("nothing that could be taken for the archive is left")
            }
            ArchiveError::Destination { .. } => {
                failure.with_remedy("nothing was made; choose another folder")
            }
            ArchiveError::File { .. } => {
                failure.with_remedy("nothing is left of it; when that is put right, the same command does it")
            }
            ArchiveError::Stopped => failure.with_remedy("nothing is left of it"),
            ArchiveError::Manifest(_) => failure,
        }
    }
}

/// Writes a workspace as an archive.
pub(super) async fn export(session: &Session, options: Export) -> Result<String, Failure> {
    let source = Source::find(session, &options.what).await?;
    let doing = format!("export {}", plain(&source.folder.to_string_lossy()));
    let cannot = |failure: Failure| failure.while_doing(&doing);
    let to_output = options.output.as_deref() == Some(Path::new("-"));
    if to_output && io::IsTerminal::is_terminal(&io::stdout()) {
        return Err(cannot(Failure::new("an archive can't be shown on a terminal"))
            .with_remedy("name a file with '-o FILE', or pass it on to another program"));
    }
    // What would hide the file, or lead elsewhere, isn't part of its name.
    let safe = source.name.trim_start_matches(['.', '-']).replace(['/', '\\'], "-");
    let file = options
        .output
        .unwrap_or_else(|| PathBuf::from(format!("{safe}-{}.zip", Zoned::now().strftime(STAMP))));
    if !to_output && file.symlink_metadata().is_ok() {
        return Err(cannot(Failure::new(format!("{} exists", plain(&file.to_string_lossy()))))
            .with_remedy("choose another name with '-o', or remove it"));
    }
    let paths = session.paths.clone();
    let target = file.clone();
    let work = move |total: &Arc<AtomicU64>, progress: &mut dyn FnMut(u64) -> ControlFlow<()>| {
        let listing = source.listing(&Session { paths }).map_err(|error| Failure::new(error.to_string()))?;
        total.store(listing.bytes, Ordering::Relaxed);
        let outside = source.outside.as_deref();
        if to_output {
            let output = io::stdout().as_fd().try_clone_to_owned();
            let output = fs::File::from(output.map_err(|error| Failure::new(error.to_string()))?);
            let (packed, _) =
                pack(&source.folder, outside, &listing.paths, io::BufWriter::new(output), progress)?;
            return Ok((listing, packed, 0));
        }
        let failed =
            |error: io::Error| Failure::new(format!("{}: {error}", plain(&target.to_string_lossy())));
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // It has its name only when it's whole, and nobody else reads it who couldn't read what is in it.
        let part = tempfile::Builder::new()
            .prefix(".export.")
            .suffix(".part")
            .tempfile_in(folder)
            .map_err(failed)?;
        let output = io::BufWriter::new(part.as_file());
        let (packed, _) = pack(&source.folder, outside, &listing.paths, output, progress)?;
        part.as_file().sync_all().map_err(failed)?;
        let length = part.as_file().metadata().map_err(failed)?.len();
        part.persist_noclobber(&target).map_err(|error| failed(error.error))?;
        let _ = fs::File::open(folder).and_then(|folder| folder.sync_all());
        Ok((listing, packed, length))
    };
    let (listing, packed, length) = watched(work).await.map_err(cannot)?;
    let mut rows = vec![
        ("exported", plain(&file.to_string_lossy())),
        ("content", format!("{} entries, {}", count(packed.entries), size(packed.bytes))),
    ];
    if to_output {
        "standard output".clone_into(&mut rows[0].1);
    } else {
        rows.push(("archive", size(length)));
    }
    rows.extend(left_out(&listing, &packed).map(|text| ("left out", text)));
    let text = fields(&rows);
    if to_output {
        // The archive has standard output; who closed standard error doesn't want to know.
        let _ = io::stderr().write_all(text.as_bytes());
        return Ok(String::new());
    }
    Ok(text)
}

/// Makes a folder of an archive.
pub(super) async fn import(options: Import) -> Result<String, Failure> {
    let Import { file, destination, force, links_outside } = options;
    let shown = plain(&file.to_string_lossy());
    let cannot = |failure: Failure| failure.while_doing(format!("import {shown}"));
    let work = move |total: &Arc<AtomicU64>, progress: &mut dyn FnMut(u64) -> ControlFlow<()>| {
        let opened = fs::File::open(&file).map_err(|error| Failure::new(error.to_string()))?;
        let mut archive = Archive::open(io::BufReader::new(opened))?;
        total.store(archive.bytes(), Ordering::Relaxed);
        let destination = match destination {
            Some(destination) => destination,
            None => {
                let stem = file.file_stem().map(PathBuf::from).unwrap_or_default();
                archive.workspace_name().map_or(stem, |name| PathBuf::from(name.as_str()))
            }
        };
        let was_there = fs::symlink_metadata(&destination).is_ok();
        let aside = format!(".replaced-{}", Zoned::now().strftime(STAMP));
        let aside = destination.file_name().map(|name| {
            let mut name = name.to_os_string();
            name.push(aside);
            destination.with_file_name(name)
        });
        let from = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
        let (mut described, mut unclear) = (false, None);
        let mut prepare = |folder: &Path| match Manifest::become_copy(folder, &from) {
            Ok(there) => {
                described = there;
                Ok(())
            }
            // The files are wanted all the same; nothing is ever written over a manifest that can't be read.
            Err(error @ (ManifestError::Damaged { .. } | ManifestError::TooLarge { .. })) => {
                let ManifestError::Damaged { source, .. } = error else {
                    unclear = Some("it's too large".to_owned());
                    return Ok(());
                };
                unclear = Some(source.to_string());
                Ok(())
            }
            Err(error) => Err(ArchiveError::Manifest(error)),
        };
        let unpacked = archive.unpack(Unpack {
            destination: &destination,
            links_outside,
            replaced: aside.clone().filter(|_| force),
            room: room_beside(&destination)?,
            prepare: &mut prepare,
            progress,
        })?;
        let mut rows = vec![
            ("imported", plain(&destination.to_string_lossy())),
            ("content", format!("{} entries, {}", count(unpacked.entries), size(unpacked.bytes))),
        ];
        if let Some(aside) = aside.filter(|aside| was_there && aside.exists()) {
            rows.push(("before", format!("is now {}", plain(&aside.to_string_lossy()))));
        }
        if described {
            rows.push(("workspace", "has a new id of its own".to_owned()));
        }
        if let Some(why) = unclear {
            rows.push((
                "workspace",
                format!("its workspace.yaml is damaged and was left as it is: {}", plain(&why)),
            ));
        }
        Ok(fields(&rows))
    };
    watched(work).await.map_err(cannot)
}

/// How many bytes may be written where a folder is to be made.
pub(super) fn room_beside(destination: &Path) -> Result<u64, Failure> {
    let folder = match destination.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    room(folder).map_err(|error| {
        Failure::new(format!("{}: {error}", plain(&folder.to_string_lossy())))
            .with_remedy("make that folder first, or choose another")
    })
}
