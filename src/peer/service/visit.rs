//! For clients without a node, as browsers and curl are: listings, files and ZIP archives, by HTTP Basic authentication.

use std::{
    io::{self, Write},
    net::IpAddr,
    sync::Arc,
};

use axum::{
    Extension, Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use serde_json::json;
use tokio::sync::mpsc;

use super::{Holder, ServeError, ServedWorkspace, Service, ServiceError, Socket};
use crate::{
    blob::{Blob, GROUP, VerifiedSlice},
    tree::{Content, Entry, Kind, Page, decode},
    types::{Digest, Name, WorkspaceName},
    workspace::archive::{Attributes, Writer, stays_inside_everywhere},
};

/// Bytes of a file that are read at once.
const PIECE: u64 = 1 << 20;

/// Archives of more files aren't made: their directory is kept in memory until the end.
const MOST_FILES: u64 = 200_000;

/// What stands for itself in an address, and in a header's parameter (RFC 8187), is left as it is.
const SPECIAL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A workspace that is open to a visitor: the digest of its root folder, and what is in it.
pub type Visited = (Digest, Arc<dyn ServedWorkspace>);

/// Why it isn't.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VisitRefusal {
    /// There's no such workspace, or it's none for visitors.
    Unknown,
    /// The password is missing, or wrong.
    Password,
    /// Too many wrong ones came from there: not before so many seconds.
    Wait(u64),
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct From {
    pub(super) address: IpAddr,
    /// Whether anybody between could read it.
    pub(super) is_plain: bool,
}

/// What is said with answers that aren't encrypted.
const PLAIN: (HeaderName, HeaderValue) =
    (HeaderName::from_static("twinshare-encryption"), HeaderValue::from_static("off"));

/// The names of what visitors may ask for.
pub(super) async fn names(
    State(service): State<Service>,
    Extension(from): Extension<From>,
    headers: HeaderMap,
) -> Response {
    let names = service.shares.visitable();
    if wants_json(&headers) {
        return Json(names).into_response();
    }
    let rows: String = names.iter().map(|name| row(name.as_str().as_bytes(), true, None)).collect();
    (PAGE, [page_head("Workspaces", "", from), rows, PAGE_END.to_owned()].concat()).into_response()
}

/// A folder's listing, a file, or with `?zip` a folder as an archive.
pub(super) async fn visit(
    State(service): State<Service>,
    Extension(from): Extension<From>,
    Extension(socket): Extension<Socket>,
    request: Request,
) -> Result<Response, ServiceError> {
    socket.step_back(1);
    let unknown = || ServiceError::new(StatusCode::NOT_FOUND, "unknown", "there's nothing at this address");
    let path = request.uri().path().strip_prefix("/w/").ok_or_else(unknown)?;
    let mut parts = path.split('/').map(|part| percent_decode_str(part).collect::<Vec<u8>>());
    let name = parts.next().and_then(|name| String::from_utf8(name).ok()).and_then(|name| name.parse().ok());
    let name: WorkspaceName = name.ok_or_else(unknown)?;
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    let names: Result<Vec<Name>, _> = parts.into_iter().map(Name::new).collect();
    let names = names.map_err(|_| unknown())?;
    if from.is_plain && request.headers().contains_key(header::AUTHORIZATION) {
        return Err(for_tls_only());
    }
    let password = password(request.headers());
    let (shares, asked, address) = (service.shares.clone(), name.clone(), from.address);
    let visited = service.guessing(move || shares.visit(&asked, password.as_deref(), address)).await?;
    let (root, workspace) = match visited {
        Ok(visited) => visited,
        Err(VisitRefusal::Password) if from.is_plain => return Err(for_tls_only()),
        Err(refusal) => return Ok(refused(refusal, &name)),
    };
    let place = names.clone();
    let found = {
        let workspace = workspace.clone();
        service.blocking(move || find(&*workspace, root, &place)).await?
    };
    let (headers, uri) = (request.headers(), request.uri());
    let title = names.last().map_or_else(|| name.to_string(), ToString::to_string);
    match found.ok_or_else(unknown)? {
        Found::Folder(tree) if uri.query() == Some("zip") => {
            archive(&service, from, workspace, tree, title).await
        }
        Found::Folder(_) if !wants_json(headers) && !uri.path().ends_with('/') => {
            // Else the names in it would be taken for those beside it.
            Ok((StatusCode::FOUND, [(header::LOCATION, format!("{}/", uri.path()))]).into_response())
        }
        Found::Folder(tree) => listing(&service, from, workspace, tree, &title, wants_json(headers)),
        Found::File(entry) => file(&service, from, workspace, names, entry, headers),
    }
}

fn for_tls_only() -> ServiceError {
    let why = "passwords are taken over an encrypted connection only: use https:// (a password that was sent without is known now)";
    ServiceError::new(StatusCode::FORBIDDEN, "plain", why)
}

/// What a visitor gives as a password, whatever the name before it.
fn password(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    text.split_once(':').map(|(_, password)| password.to_owned())
}

fn refused(refusal: VisitRefusal, name: &WorkspaceName) -> Response {
    match refusal {
        VisitRefusal::Unknown => {
            ServiceError::new(StatusCode::NOT_FOUND, "unknown", "there's nothing at this address")
                .into_response()
        }
        VisitRefusal::Password => {
            let error =
                ServiceError::new(StatusCode::UNAUTHORIZED, "denied", "the password is missing or wrong");
            let realm = format!("Basic realm=\"twinshare {name}\", charset=\"UTF-8\"");
            let realm =
                HeaderValue::try_from(realm).unwrap_or(HeaderValue::from_static("Basic realm=\"twinshare\""));
            ([(header::WWW_AUTHENTICATE, realm)], error).into_response()
        }
        VisitRefusal::Wait(seconds) => {
            let error = ServiceError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "busy",
                format!("too many wrong passwords: try again in {seconds} s"),
            );
            ([(header::RETRY_AFTER, seconds)], error).into_response()
        }
    }
}

fn wants_json(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    !accepted.contains("text/html")
}

/// What is at a path.
enum Found {
    Folder(Digest),
    File(Box<Entry>),
}

fn find(workspace: &dyn ServedWorkspace, root: Digest, path: &[Name]) -> Option<Found> {
    let mut folder = root;
    let mut names = path.iter().peekable();
    while let Some(name) = names.next() {
        let mut found = None;
        each(workspace, folder, |entry| {
            if entry.name == *name {
                found = Some(entry);
            }
            Ok(())
        })
        .ok()?;
        let entry = found?;
        match entry.kind {
            Kind::Folder { tree, .. } => folder = tree,
            Kind::File { .. } if names.peek().is_none() => return Some(Found::File(Box::new(entry))),
            _ => return None,
        }
    }
    Some(Found::Folder(folder))
}

/// Gives all entries of a folder, a page of them at a time.
fn each(
    workspace: &dyn ServedWorkspace,
    tree: Digest,
    mut take: impl FnMut(Entry) -> Result<(), ServeError>,
) -> Result<(), ServeError> {
    let page = |digest: &Digest| {
        let object = workspace.tree(digest).ok_or(ServeError::Unknown)?;
        decode(&object).map_err(|error| ServeError::Io(io::Error::other(error)))
    };
    match page(&tree)? {
        Page::Leaf(entries) => entries.into_iter().try_for_each(take),
        Page::Index(pages) => pages.iter().try_for_each(|reference| match page(&reference.digest)? {
            Page::Leaf(entries) => entries.into_iter().try_for_each(&mut take),
            Page::Index(_) => Err(ServeError::Unknown),
        }),
    }
}

/// What a folder holds, made while it's sent: there may be a million entries.
fn listing(
    service: &Service,
    from: From,
    workspace: Arc<dyn ServedWorkspace>,
    tree: Digest,
    title: &str,
    json: bool,
) -> Result<Response, ServiceError> {
    const MORE: &str = "<p><a href=\"?zip\">all of it as a ZIP archive</a> · <a href=\"..\">up</a></p>";
    let head = if json { "[".to_owned() } else { page_head(title, MORE, from) };
    let mut response = stream(service, from, move |output| {
        output.write_all(head.as_bytes())?;
        let mut separator = "";
        each(&*workspace, tree, |entry| {
            if json {
                write!(output, "{separator}{}", described(&entry))?;
                separator = ",\n";
                return Ok(());
            }
            let (is_folder, size) = match &entry.kind {
                Kind::Folder { totals, .. } => (true, Some(totals.bytes)),
                Kind::File { size, .. } => (false, Some(*size)),
                Kind::Link(_) => (false, None),
            };
            Ok(output.write_all(row(entry.name.as_bytes(), is_folder, size).as_bytes())?)
        })?;
        output.write_all(if json { "]\n" } else { PAGE_END }.as_bytes())?;
        Ok(output.flush()?)
    })?;
    if json {
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    } else {
        response.headers_mut().extend(PAGE.map(|(name, value)| (name, HeaderValue::from_static(value))));
    }
    Ok(response)
}

fn described(entry: &Entry) -> serde_json::Value {
    let name = entry.name.to_string();
    match &entry.kind {
        Kind::Folder { totals, .. } => json!({ "name": name, "kind": "folder", "size": totals.bytes }),
        Kind::File { size, .. } => json!({ "name": name, "kind": "file", "size": size }),
        Kind::Link(target) => {
            json!({ "name": name, "kind": "symlink", "target": String::from_utf8_lossy(target) })
        }
    }
}

/// A line of a listing.
fn row(name: &[u8], folder: bool, size: Option<u64>) -> String {
    let slash = if folder { "/" } else { "" };
    let size = size.map_or_else(String::new, |size| size.to_string());
    let shown = escape(&String::from_utf8_lossy(name));
    format!(
        "<tr><td><a href=\"./{}{slash}\">{shown}{slash}</a></td><td>{size}</td></tr>\n",
        percent_encode(name, SPECIAL)
    )
}

fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, char| {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(char),
        }
        escaped
    })
}

/// The headers of a page.
const PAGE: [(HeaderName, &str); 3] = [
    (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'"),
    (header::CACHE_CONTROL, "no-store"),
];

/// What stands before the rows of a page, `more` between its title and them …
fn page_head(title: &str, more: &str, from: From) -> String {
    let title = escape(title);
    let plain = if from.is_plain { "<p>This connection isn't encrypted.</p>" } else { "" };
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>body {{ font: 16px sans-serif; margin: 2em }} td {{ padding: 0.1em 1em 0.1em 0 }} \
         td + td {{ text-align: right; font-variant-numeric: tabular-nums }}</style></head>\
         <body><h1>{title}</h1>{plain}{more}<table>\n"
    )
}

/// … and behind them.
const PAGE_END: &str = "</table></body></html>\n";

/// A file, or a range of it. It's to be saved and never shown: a page in a workspace must not act as this server.
fn file(
    service: &Service,
    from: From,
    workspace: Arc<dyn ServedWorkspace>,
    path: Vec<Name>,
    entry: Box<Entry>,
    headers: &HeaderMap,
) -> Result<Response, ServiceError> {
    let Kind::File { size, .. } = entry.kind else { return Err(ServiceError::failed("not a file")) };
    let asked = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let range = match asked.map(http_range_header::parse_range_header) {
        // What isn't a range of bytes is ignored, as RFC 9110 has it.
        None | Some(Err(_)) => None,
        Some(Ok(ranges)) => match ranges.validate(size) {
            Ok(ranges) => ranges.into_iter().next(),
            Err(_) => {
                let all = format!("bytes */{size}");
                return Ok(
                    (StatusCode::RANGE_NOT_SATISFIABLE, [(header::CONTENT_RANGE, all)]).into_response()
                );
            }
        },
    };
    let (start, end) = range.as_ref().map_or((0, size), |range| (*range.start(), range.end() + 1));
    let name = percent_encode(entry.name.as_bytes(), SPECIAL).to_string();
    let mut response = stream(service, from, move |output| {
        let mut offset = start;
        while offset < end {
            let mut bytes = read_some(&*workspace, &path, &entry, offset)?;
            bytes.truncate(usize::try_from(end - offset).unwrap_or(usize::MAX));
            offset += bytes.len() as u64;
            output.put(bytes)?;
        }
        Ok(())
    })?;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(end - start));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let disposition = HeaderValue::try_from(format!("attachment; filename*=UTF-8''{name}"));
    headers
        .insert(header::CONTENT_DISPOSITION, disposition.unwrap_or(HeaderValue::from_static("attachment")));
    if range.is_some() {
        let shown = format!("bytes {start}-{}/{size}", end.saturating_sub(1));
        if let Ok(shown) = HeaderValue::try_from(shown) {
            headers.insert(header::CONTENT_RANGE, shown);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// Some bytes of a file from `offset` on, at least one; checked against its digest, if it has one yet.
fn read_some(
    workspace: &dyn ServedWorkspace,
    path: &[Name],
    entry: &Entry,
    offset: u64,
) -> Result<Bytes, ServeError> {
    let Kind::File { size, content } = &entry.kind else { return Err(ServeError::Unknown) };
    match content {
        Content::Pending => {
            let length = (size - offset).min(PIECE) as u32;
            let bytes = workspace.pending(path, entry.attributes.token, offset, length)?;
            if bytes.is_empty() { Err(ServeError::Changed) } else { Ok(bytes.into()) }
        }
        Content::Blob(digest) => of_blob(workspace, Blob { digest: *digest, size: *size }, offset),
        Content::Sparse { blob, extents } => {
            let total = extents.iter().map(|extent| extent.length).sum();
            let mut before = 0;
            for extent in extents {
                if offset < extent.offset {
                    return Ok(hole(extent.offset - offset));
                }
                if offset < extent.offset + extent.length {
                    let within = offset - extent.offset;
                    let mut bytes = of_blob(workspace, Blob { digest: *blob, size: total }, before + within)?;
                    bytes.truncate((extent.length - within).min(PIECE) as usize);
                    return Ok(bytes);
                }
                before += extent.length;
            }
            Ok(hole(size - offset))
        }
    }
}

fn hole(length: u64) -> Bytes {
    vec![0; length.min(PIECE) as usize].into()
}

fn of_blob(workspace: &dyn ServedWorkspace, blob: Blob, offset: u64) -> Result<Bytes, ServeError> {
    let skipped = |bytes: Bytes, skip: u64| {
        let rest = bytes.slice((skip as usize).min(bytes.len())..);
        if rest.is_empty() { Err(ServeError::Changed) } else { Ok(rest) }
    };
    if blob.is_whole() {
        return skipped(workspace.blob(&blob.digest)?, offset);
    }
    let first = offset / GROUP;
    let groups = first..(first + PIECE / GROUP).min(blob.groups());
    let encoded = workspace.slice(&blob, groups.clone())?;
    let slice = VerifiedSlice::verify(blob, groups, &encoded).map_err(|_| ServeError::Changed)?;
    skipped(slice.leaves().concat().into(), offset - first * GROUP)
}

/// A folder as an archive, made while it's sent.
async fn archive(
    service: &Service,
    from: From,
    workspace: Arc<dyn ServedWorkspace>,
    tree: Digest,
    title: String,
) -> Result<Response, ServiceError> {
    let counted = {
        let workspace = workspace.clone();
        service.blocking(move || count_files(&*workspace, tree)).await?
    };
    let files = counted.map_err(|error| ServiceError::failed(error.to_string()))?;
    if files > MOST_FILES {
        let why = format!(
            "{files} files are too many for an archive, which has {MOST_FILES} at most: take parts of it"
        );
        return Err(ServiceError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", why));
    }
    let mut response = stream(service, from, move |output| {
        let mut archive = Writer::new(output);
        let mut left_out = 0;
        pack(&mut archive, &*workspace, tree, &mut Vec::new(), &mut left_out)?;
        let comment = match left_out {
            0 => String::new(),
            links => format!("{links} links that lead out of the archive aren't in it"),
        };
        archive.finish(&comment)?;
        Ok(())
    })?;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zip"));
    let name = percent_encode(title.as_bytes(), SPECIAL).to_string();
    let disposition = HeaderValue::try_from(format!("attachment; filename*=UTF-8''{name}.zip"));
    headers
        .insert(header::CONTENT_DISPOSITION, disposition.unwrap_or(HeaderValue::from_static("attachment")));
    Ok(response)
}

/// Files and links in a folder, at any depth.
fn count_files(workspace: &dyn ServedWorkspace, tree: Digest) -> Result<u64, ServeError> {
    let mut files = 0_u64;
    each(workspace, tree, |entry| {
        files = files.saturating_add(match entry.kind {
            Kind::Folder { totals, .. } => totals.files,
            Kind::File { .. } | Kind::Link(_) => 1,
        });
        Ok(())
    })?;
    Ok(files)
}

fn pack<W: Write>(
    archive: &mut Writer<W>,
    workspace: &dyn ServedWorkspace,
    tree: Digest,
    path: &mut Vec<Name>,
    left_out: &mut u64,
) -> Result<(), ServeError> {
    each(workspace, tree, |entry| {
        path.push(entry.name.clone());
        let joined = Name::join(path);
        let attributes = Attributes { mode: entry.attributes.mode, modified: entry.attributes.modified };
        match &entry.kind {
            Kind::Folder { tree, .. } => {
                archive.folder(&joined, attributes)?;
                pack(archive, workspace, *tree, path, left_out)?;
            }
            Kind::Link(target) if stays_inside_everywhere(path.len() - 1, target) => {
                archive.link(&joined, target, attributes)?;
            }
            Kind::Link(_) => *left_out += 1,
            Kind::File { size, .. } => {
                archive.file(&joined, *size, attributes)?;
                let mut offset = 0;
                while offset < *size {
                    let bytes = read_some(workspace, path, &entry, offset)?;
                    let bytes =
                        bytes.slice(..bytes.len().min(usize::try_from(size - offset).unwrap_or(usize::MAX)));
                    archive.write_all(&bytes)?;
                    offset += bytes.len() as u64;
                }
            }
        }
        path.pop();
        Ok(())
    })
}

/// An answer whose bytes a thread makes while they are sent. If it can't go on, the connection ends before the answer does, so that
/// nobody takes half of it for the whole.
fn stream(
    service: &Service,
    from: From,
    make: impl FnOnce(&mut Output) -> Result<(), ServeError> + Send + 'static,
) -> Result<Response, ServiceError> {
    // They may be slow, and must not take the turns of nodes.
    let turn = service.visits.take(Holder::Anonymous(from.address)).ok_or_else(ServiceError::busy)?;
    let (sender, parts) = mpsc::channel::<Bytes>(4);
    let work = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        make(&mut Output { sender, waiting: Vec::new() })
    });
    let body = futures_util::stream::unfold((parts, Some(work)), async |(mut parts, work)| {
        if let Some(part) = parts.recv().await {
            return Some((Ok(part), (parts, work)));
        }
        match work?.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some((Err(error.to_string()), (parts, None))),
            Err(error) => Some((Err(error.to_string()), (parts, None))),
        }
    });
    let mut response = Body::from_stream(body).into_response();
    if from.is_plain {
        response.headers_mut().extend([PLAIN]);
    }
    Ok(response)
}

/// Where the thread puts what it makes.
struct Output {
    sender: mpsc::Sender<Bytes>,
    waiting: Vec<u8>,
}

impl Output {
    fn put(&mut self, bytes: Bytes) -> io::Result<()> {
        self.sender.blocking_send(bytes).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= 64 << 10 {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.put(waiting.into())
    }
}
