use jiff::{Timestamp, tz::TimeZone};
use twinshare::{
    access::Right,
    api::{FileEntry, FileKind, Host, Peer, PeerAddress, PeerState},
};

use super::{
    arguments::{Listed, Ls},
    failure::Failure,
    output::{Side, count, json, lines, plain, size, table},
    session::{Session, find_host, find_workspace},
};

pub(super) async fn ls(session: &Session, options: Ls) -> Result<String, Failure> {
    let client = session.client()?;
    let mut hosts = client.hosts().await?;
    match options.what {
        None => {}
        Some(Listed::Host(name)) => {
            let host = find_host(&hosts, &name)?.clone();
            hosts = vec![host];
        }
        Some(Listed::Files(path)) => {
            find_workspace(find_host(&hosts, &path.host)?, &path.workspace)?;
            let entries = client
                .files(&path)
                .await
                .map_err(|error| Failure::from(error).while_doing(format!("list '{path}'")))?;
            return match (options.format.json, options.long) {
                (true, _) => json(&entries),
                (false, true) => Ok(long(&entries)),
                (false, false) => Ok(entries.iter().map(|entry| name(entry) + "\n").collect()),
            };
        }
    }
    if options.format.json { json(&hosts) } else { Ok(overview(&hosts)) }
}

/// Hosts and workspaces, a line each.
fn overview(hosts: &[Host]) -> String {
    let mut rows = Vec::new();
    for host in hosts {
        let state = if host.local { "this host" } else { state(host.state) };
        let row = |cells: [String; 5]| {
            let [workspace, files, bytes, access, description] = cells;
            [host.name.to_string(), state.to_owned(), workspace, files, bytes, access, description]
        };
        if host.workspaces.is_empty() {
            rows.push(row(["-".to_owned(), String::new(), String::new(), String::new(), String::new()]));
        }
        for workspace in &host.workspaces {
            let access = match (workspace.rights.has(Right::Read), workspace.provisional) {
                (false, _) if workspace.rights.has(Right::Browse) => "to browse",
                (false, _) => "ask its owner",
                (true, true) => "yes, being hashed",
                (true, false) => "yes",
            };
            rows.push(row([
                workspace.name.to_string(),
                count(workspace.files),
                size(workspace.bytes),
                access.to_owned(),
                plain(&workspace.description),
            ]));
        }
    }
    table(
        [
            ("HOST", Side::Left),
            ("STATE", Side::Left),
            ("WORKSPACE", Side::Left),
            ("FILES", Side::Right),
            ("SIZE", Side::Right),
            ("READABLE", Side::Left),
            ("DESCRIPTION", Side::Left),
        ],
        &rows,
    )
}

fn state(state: PeerState) -> &'static str {
    match state {
        PeerState::Online => "online",
        PeerState::Away => "away",
        PeerState::Offline => "offline",
    }
}

/// A name as it's shown; folders end in `/`.
fn name(entry: &FileEntry) -> String {
    plain(&entry.name) + if entry.kind == FileKind::Folder { "/" } else { "" }
}

/// Entries with their modes, sizes and times.
fn long(entries: &[FileEntry]) -> String {
    let zone = TimeZone::system();
    let row = |entry: &FileEntry| {
        let target = entry.target.as_ref().map(|target| format!(" -> {}", plain(&target.to_string())));
        [
            mode(entry),
            size(entry.size),
            moment(entry.modified, &zone),
            name(entry) + &target.unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = entries.iter().map(row).collect();
    lines([Side::Left, Side::Right, Side::Left, Side::Left], rows.iter())
}

/// The mode as `ls` writes it.
fn mode(entry: &FileEntry) -> String {
    let kind = match entry.kind {
        FileKind::File => '-',
        FileKind::Folder => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::Device => 'c',
    };
    let mut text: Vec<char> = vec![kind];
    for (class, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = entry.mode >> class;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, entry.mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text.into_iter().collect()
}

/// A time of day of a zone.
pub(super) fn moment(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string()
}

pub(super) async fn peers(session: &Session, as_json: bool) -> Result<String, Failure> {
    let peers = session.client()?.peers().await?;
    if as_json {
        return json(&peers);
    }
    if peers.is_empty() {
        return Ok(
            "no peer was found yet; 'twinshare peer add ADDR' adds one that multicast doesn't reach\n"
                .to_owned(),
        );
    }
    let zone = TimeZone::system();
    let rows: Vec<_> = peers.iter().map(|peer| peer_row(peer, &zone)).collect();
    let columns = ["HOST", "STATE", "ADDRESS", "VERSION", "LAST SEEN", "ID", "ALERTS"];
    Ok(table(columns.map(|heading| (heading, Side::Left)), &rows))
}

fn peer_row(peer: &Peer, zone: &TimeZone) -> [String; 7] {
    let unknown = || "-".to_owned();
    [
        peer.host.as_ref().map_or_else(unknown, ToString::to_string),
        state(peer.state).to_owned(),
        plain(&peer.address),
        plain(&peer.version),
        peer.last_seen.map_or_else(unknown, |time| moment(time, zone)),
        peer.id.map_or_else(unknown, |id| id.short()),
        plain(&peer.alerts.join("; ")),
    ]
}

pub(super) async fn add_peer(session: &Session, address: PeerAddress) -> Result<String, Failure> {
    let peer = session
        .client()?
        .add_peer(address.clone())
        .await
        .map_err(|error| Failure::from(error).while_doing(format!("add the peer {address}")))?;
    Ok(match peer.host {
        Some(host) => format!("added {host} at {}\n", plain(&peer.address)),
        None => format!("added {address}; it hasn't answered yet\n"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_shown_as_ls_shows_them() {
        let entry = |kind, mode| FileEntry {
            name: "a\x1bb".to_owned(),
            name_base64: None,
            kind,
            size: 2048,
            mode,
            modified: Timestamp::UNIX_EPOCH,
            target: None,
        };
        assert_eq!(mode(&entry(FileKind::Folder, 0o1755)), "drwxr-xr-t");
        assert_eq!(mode(&entry(FileKind::File, 0o4640)), "-rwSr-----");
        assert_eq!(name(&entry(FileKind::Folder, 0)), "a\\u{1b}b/");
        let link = FileEntry { target: Some("../x".into()), ..entry(FileKind::Symlink, 0o777) };
        let text = long(&[link]);
        assert!(
            text.starts_with("lrwxrwxrwx  2.0 KiB  19") && text.ends_with("a\\u{1b}b -> ../x\n"),
            "{text}"
        );
    }
}
