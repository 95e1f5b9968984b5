use std::{
    fs::File,
    io,
    ops::Range,
    path::PathBuf,
    sync::{Arc, mpsc},
};

use super::{
    item::{Item, ItemKind},
    model::FolderId,
    place::{means_changed, status_of},
    publisher::Message,
    share::Share,
    shares::Engine,
};
use crate::{
    blob::{
        Blob, ReadAt, SliceError, SparseView, VerifiedBlob, encode_outline, encode_slice, hash_source,
        windows,
    },
    tree::Extent,
    types::{Digest, Name},
};

/// At most so many bytes of a file that isn't hashed yet are given in one answer.
pub const PENDING_MAX: u32 = 4 << 20;

/// So many files with the same content are tried.
const FILES_TRIED: usize = 16;

/// Why a piece isn't served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The workspace has no such thing.
    #[error("the workspace has no such content")]
    Unknown,
    /// The file isn't any more what the digest or token stands for; it is being looked at again.
    #[error("the file has changed")]
    Changed,
    /// The file can't be read.
    #[error("the file can't be read")]
    Io(#[from] io::Error),
}

/// An opened file that is served as a blob. Everything that comes from it has been checked against the digest.
#[derive(Debug)]
pub struct LocalBlob {
    blob: Blob,
    file: File,
    /// Where in the file the blob's bytes are: in one piece unless it is sparse.
    extents: Box<[Extent]>,
    origin: Origin,
    engine: Arc<Engine>,
}

/// Where a blob is served from.
#[derive(Debug)]
enum Origin {
    /// A file of the workspace.
    Workspace { folder: FolderId, name: Name, token: u64, inbox: mpsc::Sender<Message> },
    /// A copy that was made when it was one.
    Copy(PathBuf),
}

impl Share {
    /// Opens a file that has the content `digest`, or the copy of one that had.
    pub fn blob(&self, digest: &Digest) -> Result<LocalBlob, ServeError> {
        struct Candidate {
            folder: FolderId,
            path: Vec<Name>,
            name: Name,
            token: u64,
            extents: Box<[Extent]>,
        }
        let candidates: Vec<Candidate> = {
            let model = self.model();
            let found = model.with_content(*digest, FILES_TRIED);
            let candidate = |(folder, item): (FolderId, &Item)| {
                let ItemKind::File { size, state } = &item.kind else { return None };
                let mut path = model.path(folder);
                path.push(item.name.clone());
                let whole = [Extent { offset: 0, length: *size }];
                let extents = state.extents().unwrap_or(&whole).into();
                Some(Candidate { folder, path, name: item.name.clone(), token: item.stat.token, extents })
            };
            found.into_iter().filter_map(candidate).collect()
        };
        let mut failure = ServeError::Unknown;
        for Candidate { folder, path, name, token, extents } in candidates {
            match self.root.file(&path) {
                Ok((file, status)) if status.token() == token => {
                    let size = extents.iter().map(|extent| extent.length).sum();
                    let blob = Blob { digest: *digest, size };
                    let origin = Origin::Workspace { folder, name, token, inbox: self.inbox.clone() };
                    let engine = Arc::clone(&self.engine);
                    return Ok(LocalBlob { blob, file, extents, origin, engine });
                }
                Err(error) if !means_changed(&error) => failure = error.into(),
                _ => {
                    self.tell(Message::Stale(folder));
                    failure = ServeError::Changed;
                }
            }
        }
        if let Some((blob, file, path)) = self.engine.kept.open(&self.id, digest) {
            let extents = [Extent { offset: 0, length: blob.size }].into();
            let (origin, engine) = (Origin::Copy(path), Arc::clone(&self.engine));
            return Ok(LocalBlob { blob, file, extents, origin, engine });
        }
        Err(failure)
    }

    /// Up to `length` bytes from `offset` of a file that isn't hashed yet, less at its end, at most [`PENDING_MAX`];
    /// only if the file's version token is `token`, before and after.
    pub fn pending(
        &self,
        path: &[Name],
        token: u64,
        offset: u64,
        length: u32,
    ) -> Result<Vec<u8>, ServeError> {
        let folder = {
            let model = self.model();
            let (folder, item) = model.find(path).ok_or(ServeError::Unknown)?;
            match &item.kind {
                ItemKind::File { state, .. } if state.is_shared() => {}
                _ => return Err(ServeError::Unknown),
            }
            if item.stat.token != token {
                return Err(ServeError::Changed);
            }
            folder
        };
        let changed = || {
            self.tell(Message::Stale(folder));
            ServeError::Changed
        };
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => changed(),
            _ if means_changed(&error) => changed(),
            _ => error.into(),
        };
        let (file, status) = self.root.file(path).map_err(failed)?;
        if status.token() != token {
            return Err(changed());
        }
        let length = u64::from(length.min(PENDING_MAX)).min(status.size.saturating_sub(offset));
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, offset).map_err(failed)?;
        if status_of(&file)?.token() == token { Ok(bytes) } else { Err(changed()) }
    }
}

impl LocalBlob {
    /// The blob's length in bytes.
    pub fn size(&self) -> u64 {
        self.blob.size
    }

    /// All of a blob that is fetched whole. Larger ones are [`ServeError::Unknown`] here.
    pub fn read_whole(&self) -> Result<VerifiedBlob, ServeError> {
        if !self.blob.is_whole() {
            return Err(ServeError::Unknown);
        }
        let mut bytes = vec![0; self.blob.size as usize];
        self.content().read_exact_at(&mut bytes, 0).map_err(|error| self.unreadable(error))?;
        VerifiedBlob::verify(self.blob.digest, bytes.into()).map_err(|_| self.changed())
    }

    /// Some groups of a large blob, as [`encode_slice`] has them.
    pub fn slice(&self, groups: Range<u64>) -> Result<Vec<u8>, ServeError> {
        if groups.start >= groups.end || groups.end > self.blob.groups() || self.blob.is_whole() {
            return Err(ServeError::Unknown);
        }
        let outboard = self.outboard()?;
        encode_slice(self.blob, groups, &self.content(), &*outboard).map_err(|error| self.refusal(error))
    }

    /// The outline of a window of a large blob, as [`encode_outline`] has it.
    pub fn outline(&self, window: u64) -> Result<Vec<u8>, ServeError> {
        if window >= windows(self.blob.size) || self.blob.is_whole() {
            return Err(ServeError::Unknown);
        }
        let chunks = self.engine.chunks.of_window(self.blob, &self.content(), window);
        let chunks = chunks.map_err(|error| self.unreadable(error))?;
        let outboard = self.outboard()?;
        encode_outline(self.blob, window, &chunks, &*outboard).map_err(|error| self.refusal(error))
    }

    fn refusal(&self, error: SliceError) -> ServeError {
        match error {
            SliceError::Corrupt(_) => {
                // Whichever of content and outboard is at fault, hashing the file again puts it right.
                self.engine.cache.drop_outboard(&self.blob.digest);
                self.changed()
            }
            SliceError::Range(_) => ServeError::Unknown,
            SliceError::Read(_, error) => error.into(),
        }
    }

    fn unreadable(&self, error: io::Error) -> ServeError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.changed(),
            _ => error.into(),
        }
    }

    fn outboard(&self) -> Result<Box<dyn ReadAt>, ServeError> {
        Ok(match self.engine.cache.outboard(&self.blob.digest, self.blob.size) {
            Some(file) => Box::new(file),
            None => Box::new(self.new_outboard()?),
        })
    }

    /// Makes the outboard anew.
    fn new_outboard(&self) -> Result<Vec<u8>, ServeError> {
        let hashed = match self.engine.large.install(|| hash_source(&self.content(), self.blob.size)) {
            Ok(hashed) if hashed.digest == self.blob.digest => hashed,
            Ok(_) => return Err(self.changed()),
            Err(error) => return Err(self.unreadable(error)),
        };
        if let Err(error) = self.engine.cache.keep_outboard(&hashed) {
            tracing::warn!(%error, "can't keep the hashes of a large file");
        }
        Ok(hashed.outboard)
    }

    fn content(&self) -> SparseView<'_, File> {
        SparseView::new(&self.file, &self.extents)
    }

    fn changed(&self) -> ServeError {
        match &self.origin {
            Origin::Workspace { folder, name, token, inbox } => {
                let (folder, name, token) = (*folder, name.clone(), *token);
                // Nobody listens to a workspace that isn't shared any more.
                let _ = inbox.send(Message::Mismatch { folder, name, token });
            }
            Origin::Copy(path) => {
                tracing::warn!(path = %path.display(), "the copy of a file of an earlier snapshot is damaged: it goes");
                let _ = std::fs::remove_file(path);
            }
        }
        ServeError::Changed
    }
}
