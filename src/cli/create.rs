use std::{
    ffi::OsString,
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::SystemTime,
};

use clap::builder::{OsStringValueParser, TypedValueParser};
use twinshare::{
    types::WorkspaceName,
    workspace::{
        Folder, Manifest,
        archive::{Archive, ArchiveError, Unpack, pack},
        plan,
        template::{BUILT_IN, BuiltIn, built_in},
    },
};

use super::{
    archive::{Source, room_beside, watched},
    arguments::{Where, place},
    failure::Failure,
    output::{Side, count, fields, lines, plain, suggestion},
    session::Session,
};

#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// The workspace's name, or the folder to make, which is named like it
    #[arg(value_name = "NAME|FOLDER", required_unless_present = "templates")]
    folder: Option<PathBuf>,

    /// What it's made like: one of '--templates', HOST/WORKSPACE, or a folder, which begins with / or .
    #[arg(
        short, long, value_name = "T", required_unless_present = "templates",
        value_parser = OsStringValueParser::new().try_map(Template::parse)
    )]
    template: Option<Template>,

    /// List the built-in templates
    #[arg(long, conflicts_with_all = ["folder", "template"])]
    templates: bool,
}

/// What a workspace is made like.
#[derive(Debug, Clone)]
enum Template {
    BuiltIn(String),
    Own(Where),
}

impl Template {
    fn parse(text: OsString) -> Result<Self, String> {
        match text.to_str() {
            Some(name) if !name.contains('/') && !name.starts_with('.') => Ok(Self::BuiltIn(name.to_owned())),
            _ => place(text).map(Self::Own),
        }
    }
}

/// Makes a new workspace.
pub(super) async fn create(session: &Session, options: Create) -> Result<String, Failure> {
    let (Some(folder), Some(template)) = (options.folder, options.template) else {
        let rows = BUILT_IN.map(|template| [template.name.to_owned(), template.about.to_owned()]);
        return Ok(lines([Side::Left; 2], rows.iter()));
    };
    let doing = format!("create {}", plain(&folder.to_string_lossy()));
    let cannot = |failure: Failure| failure.while_doing(&doing);
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name: WorkspaceName = name.parse().map_err(|why| {
        cannot(Failure::new(format!("{name:?} can't be a workspace's name: {why}")))
            .with_remedy("choose another")
    })?;
    let source = match &template {
        Template::BuiltIn(name) => built_in(name).map(From::BuiltIn).ok_or_else(|| {
            let failure = Failure::new(format!("there's no template '{name}'"));
            let failure = match suggestion(name, BUILT_IN.iter().map(|template| template.name)) {
                Some(suggestion) => failure.with_remedy(suggestion),
                None => failure.with_remedy("'twinshare create --templates' lists those that are built in"),
            };
            cannot(failure).with_remedy("a folder as template begins with / or .")
        })?,
        Template::Own(place) => From::Source(Source::find(session, place).await.map_err(cannot)?),
    };
    let paths = session.paths.clone();
    watched(move |total, progress| source.make(&Session { paths }, &folder, &name, total, progress))
        .await
        .map_err(cannot)
}

/// Where a template's files come from.
enum From {
    BuiltIn(&'static BuiltIn),
    Source(Source),
}

impl From {
    fn make(
        self,
        session: &Session,
        folder: &Path,
        name: &WorkspaceName,
        total: &Arc<AtomicU64>,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<String, Failure> {
        let own;
        let entries = match self {
            Self::BuiltIn(template) => {
                let archive = template.archive(SystemTime::now().into());
                own = false;
                unpack(archive.map_err(|error| Failure::new(error.to_string()))?, folder, name, own, progress)
            }
            Self::Source(source) => {
                let failed = |error: std::io::Error| Failure::new(error.to_string());
                let listing = source.listing(session).map_err(failed)?;
                total.store(2 * listing.bytes, Ordering::Relaxed);
                // What isn't another's may have links to anywhere.
                own = source.outside.is_none();
                room_beside(folder)?;
                let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
                let file = tempfile::tempfile_in(parent.unwrap_or(Path::new("."))).map_err(failed)?;
                let (_, mut file): (_, File) =
                    pack(&source.folder, source.outside.as_deref(), &listing.paths, file, progress)?;
                file.seek(SeekFrom::Start(0)).map_err(failed)?;
                unpack(file, folder, name, own, progress)
            }
        }?;
        let plan = plan(&Folder(folder.to_path_buf())).map_err(|error| {
            Failure::new(format!("it's made, but its environments aren't right: {error}"))
                .with_remedy("correct them there, and in the template")
        })?;
        let names: Vec<_> =
            plan.environments.iter().map(|planned| plain(&planned.environment.name)).collect();
        let mut rows = vec![
            ("created", plain(&folder.to_string_lossy())),
            ("content", format!("{} entries", count(entries))),
        ];
        if !names.is_empty() {
            rows.push(("environments", names.join(", ")));
        }
        Ok(fields(&rows))
    }
}

fn unpack(
    archive: impl Read + Seek,
    folder: &Path,
    name: &WorkspaceName,
    links_outside: bool,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<u64, Failure> {
    let unpacked = Archive::open(archive)?.unpack(Unpack {
        destination: folder,
        links_outside,
        replaced: None,
        room: room_beside(folder)?,
        prepare: &mut |folder| Ok(Manifest::become_new(folder, name)?),
        progress,
    });
    Ok(unpacked
        .map_err(|error| match error {
            ArchiveError::Exists { path } => {
                Failure::new(format!("{} exists, and isn't an empty folder", plain(&path.to_string_lossy())))
                    .with_remedy("choose another name")
            }
            error => error.into(),
        })?
        .entries)
}
