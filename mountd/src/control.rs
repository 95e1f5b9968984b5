//! What the node does for its user: the control API's calls, in terms of the rooms.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use futures_util::StreamExt;
use jiff::Timestamp;
use twinshare::{
    access::{Grant, Group, Rights, Whom},
    api::{
        AccessReport, AccessRequest, AuditEntry, BulkTurn, CacheReport, Control, Decision, FileEntry,
        FileKind, FilePath, Finding, Following, GrantEntry, GrantRequest, Groups, Host, Invitation,
        JoinRequest, Launch, LaunchPlan, LaunchRequest, LayerChange, LeftOut, MergeReport, PairingEnd,
        PasswordRequest, Peer, PeerAddress, PeerSource, PeerState, Pin, Prefetch, Problem, Progress,
        PushReport, RawText, Share, ShareRequest, SnapshotInfo, StartAnswer, StartRequest, Status, Workspace,
    },
    discovery,
    fetch::{Holders, SourceError},
    peer::{PairingCode, Queued},
    publish::{self, Reason},
    tree::Snapshot,
    types::{NodeId, WorkspaceName},
    view::{self, Cookie, HostState, Ino, OUTSIDE, Place, View, ViewError},
};

use crate::{
    changes,
    consent::Subject,
    launch, neighbours,
    node::Node,
    sharing::{Options, SharingError},
    visitors,
};

/// How long a peer that was just added by address may take to answer.
const MEETING: Duration = Duration::from_secs(5);

/// Shorter passwords can be guessed.
const SHORTEST_PASSWORD: usize = 8;

/// So many of the newest lines of the audit log are shown.
const AUDITED: usize = 1000;

/// A folder of any size fits into one answer; beyond this something is wrong.
const MAX_ENTRIES: usize = 2_000_000;

impl Control for Node {
    async fn status(&self) -> Status {
        let mounted = {
            let mount = self.mount.clone();
            // `statfs` is answered by this very node; on another thread, so that it can be.
            tokio::task::spawn_blocking(move || is_mounted(&mount)).await.unwrap_or(false)
        };
        let online = self.neighbours.list().iter().filter(|(_, peer)| peer.client.is_some()).count();
        Status {
            node: self.identity.id(),
            hostname: self.host.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            mount: RawText::from(self.mount.as_os_str().to_owned()),
            mounted,
            share_port: self.share_port,
            control_port: self.control_port,
            workspaces_shared: self.sharing.list().len() as u64,
            peers_online: online as u64,
            cache: self.cache.size(),
            encryption: !self.plain,
            alerts: self.neighbours.alerts(),
            uptime_s: self.started.elapsed().as_secs(),
        }
    }

    fn shutdown(&self) {
        self.stop.send_replace(true);
    }

    async fn shares(&self) -> Vec<Share> {
        self.sharing.list().iter().map(described).collect()
    }

    async fn share(&self, request: ShareRequest) -> Result<Share, Problem> {
        let sharing = self.sharing.clone();
        let path = request.path.as_path().to_path_buf();
        let ShareRequest { name, access, keep, snapshots, wait, .. } = request;
        let options = Options { name, access, keep, snapshots };
        let share = tokio::task::spawn_blocking(move || sharing.share(&path, options))
            .await
            .map_err(Problem::failed)?
            .map_err(not_shared)?;
        if wait {
            share.settled().await.map_err(Problem::failed)?;
        }
        Ok(described(&share))
    }

    async fn unshare(&self, name: WorkspaceName) -> Result<(), Problem> {
        let sharing = self.sharing.clone();
        let unshared = {
            let name = name.clone();
            tokio::task::spawn_blocking(move || sharing.unshare(&name)).await.map_err(Problem::failed)?
        };
        unshared.map_err(|error| match error {
            SharingError::Publish(publish::PublishError::Unknown(_)) => {
                Problem::missing(format!("no workspace {name} is shared here"))
                    .with_remedy("`twinshare ls` shows what is shared")
            }
            error => not_shared(error),
        })
    }

    async fn hosts(&self) -> Vec<Host> {
        let own = Host {
            name: self.host.clone(),
            id: self.identity.id(),
            local: true,
            state: PeerState::Online,
            address: None,
            version: env!("CARGO_PKG_VERSION").into(),
            last_seen: None,
            workspaces: self.sharing.list().iter().map(own_workspace).collect(),
        };
        let listing = self.view.listing();
        let mut others: Vec<Host> = Vec::new();
        for (id, neighbour) in self.neighbours.list() {
            let shown = listing.hosts.get(&neighbour.folder);
            let state = match shown.map(|host| host.state) {
                Some(HostState::Online | HostState::Local) => PeerState::Online,
                Some(HostState::Away) => PeerState::Offline,
                None if neighbour.client.is_some() => PeerState::Online,
                None => continue,
            };
            let workspaces =
                neighbours::places(&neighbour.workspaces).into_iter().filter_map(|(name, info)| {
                    // What the mount shows now, which may be a snapshot behind what the owner announces.
                    let Place::Remote(mounted) = shown?.places.get(&name)? else { return None };
                    let current = mounted.root == Some(info.head.head.root) && self.view.is_settled(mounted);
                    Some(Workspace {
                        id: info.id,
                        name,
                        description: info.description.clone(),
                        tags: info.tags.clone(),
                        snapshot: mounted.root,
                        provisional: info.head.head.provisional || !current,
                        sequence: info.head.head.sequence,
                        files: mounted.totals.files,
                        bytes: mounted.totals.bytes,
                        access: info.access,
                        rights: info.rights,
                        path: RawText::from(info.path.to_path_buf().into_os_string()),
                        environments: info.environments.clone(),
                    })
                });
            others.push(Host {
                name: neighbour.folder.clone(),
                id,
                local: false,
                state,
                address: neighbour.address,
                version: neighbour.version.clone(),
                last_seen: Some(neighbour.last_seen),
                workspaces: workspaces.collect(),
            });
        }
        others.sort_by(|a, b| a.name.cmp(&b.name));
        std::iter::once(own).chain(others).collect()
    }

    async fn files(&self, path: FilePath) -> Result<Vec<FileEntry>, Problem> {
        // What this machine shares itself is a folder like any other.
        if path.host == self.host
            && let Some(share) = self.sharing.find(&path.workspace)
        {
            let mut folder = share.root_path().to_path_buf();
            folder.extend(path.path.iter().map(|name| name.as_os_str()));
            return tokio::task::spawn_blocking(move || local_files(&folder))
                .await
                .map_err(Problem::failed)?;
        }
        let names = names(&path);
        let mut walk = Walk { view: &self.view, looked_up: Vec::new() };
        walk.files(&names).await.map_err(|error| not_listed(&path, &error))
    }

    async fn peers(&self) -> Vec<Peer> {
        let found = self.discovery.peers();
        let known = self.neighbours.list().into_iter().map(|(id, neighbour)| {
            let heard = found.iter().find(|peer| peer.id == id);
            let mut alerts = neighbour.alerts.clone();
            if heard.is_some_and(|peer| peer.clock_skew) {
                alerts.push("its clock is more than five minutes from this machine's".into());
            }
            let state = match (&neighbour.client, heard.map(|peer| peer.status)) {
                (Some(_), _) => PeerState::Online,
                (None, Some(discovery::Status::Online | discovery::Status::Away)) => PeerState::Away,
                (None, _) => PeerState::Offline,
            };
            Peer {
                id: Some(id),
                host: Some(neighbour.folder.clone()),
                address: neighbour.address.map(|address| address.to_string()).unwrap_or_default(),
                state,
                source: if neighbour.by_address { PeerSource::Address } else { PeerSource::Multicast },
                version: neighbour.version.clone(),
                last_seen: Some(neighbour.last_seen),
                alerts,
            }
        });
        let silent = self.neighbours.silent_addresses().into_iter().map(|address| Peer {
            id: None,
            host: None,
            address,
            state: PeerState::Offline,
            source: PeerSource::Address,
            version: String::new(),
            last_seen: None,
            alerts: vec!["nobody has answered there yet".into()],
        });
        known.chain(silent).collect()
    }

    async fn add_peer(&self, address: PeerAddress) -> Result<Peer, Problem> {
        let mut changes = self.neighbours.changes();
        self.neighbours.add(&address, &self.discovery).await.map_err(Problem::failed)?;
        let met = async {
            loop {
                let peers = self.peers().await;
                let wanted = self.neighbours.met(&address);
                if let Some(peer) = peers.into_iter().find(|peer| peer.id.is_some() && peer.id == wanted) {
                    return peer;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(MEETING, met).await.map_err(|_| {
            Problem::unreachable(format!("nobody has answered at {address} yet"))
                .with_remedy("the address is kept and tried again; is a node up there, and its port open?")
        })
    }

    async fn requests(&self) -> Vec<AccessRequest> {
        let known = self.neighbours.list();
        let shares = self.sharing.list();
        let requests = self.sharing.consent().requests().clone();
        let described = requests.into_iter().filter_map(|((workspace, peer), asked)| {
            let share = shares.iter().find(|share| share.id() == workspace)?;
            let neighbour = known.iter().find(|(id, _)| *id == peer).map(|(_, neighbour)| neighbour);
            let unknown = || format!("node-{}", peer.short()).parse().ok();
            Some(AccessRequest {
                workspace: share.manifest().name.clone(),
                peer,
                host: neighbour.map(|known| known.folder.clone()).or_else(unknown)?,
                address: neighbour.and_then(|known| known.address),
                fingerprint: twinshare::peer::fingerprint(peer),
                asked: asked.at,
                write: asked.write,
            })
        });
        described.collect()
    }

    async fn decide(
        &self,
        workspace: WorkspaceName,
        peer: NodeId,
        decision: Decision,
    ) -> Result<(), Problem> {
        let subject = self.subject(&workspace)?;
        let consent = self.sharing.consent();
        if decision == Decision::Once && consent.wants_to_write(&subject.id, peer) {
            let why = "it may read the workspace already, and asks to change it";
            return Err(Problem::conflict(why).with_remedy(format!(
                "allow it with --write, or for a time with 'twinshare access {workspace} --allow PEER --rights all --for 12h'"
            )));
        }
        consent.decide(&subject, peer, decision).map_err(Problem::failed)
    }

    async fn access(&self, workspace: WorkspaceName) -> Result<AccessReport, Problem> {
        let share = self.shared(&workspace)?;
        let known = self.neighbours.list();
        let host = |whom: &Whom| {
            let Whom::Peer(peer) = whom else { return None };
            known.iter().find(|(id, _)| id == peer).map(|(_, neighbour)| neighbour.folder.clone())
        };
        let grants = self.sharing.consent().grants(&share.id()).into_iter();
        let grants = grants.map(|(whom, grant)| GrantEntry { host: host(&whom), whom, grant }).collect();
        Ok(AccessReport { workspace, access: share.access(), grants })
    }

    async fn grant(&self, workspace: WorkspaceName, request: GrantRequest) -> Result<(), Problem> {
        let subject = self.subject(&workspace)?;
        let GrantRequest { whom, rights, expires } = request;
        let consent = self.sharing.consent();
        match rights {
            Some(rights) => consent.grant(&subject, whom, Grant { rights, expires }).map_err(Problem::failed),
            None => match consent.revoke(&subject, &whom).map_err(Problem::failed)? {
                true => Ok(()),
                false => Err(Problem::missing(format!("nothing is decided about {whom} and {workspace}"))),
            },
        }
    }

    async fn set_password(&self, workspace: WorkspaceName, request: PasswordRequest) -> Result<(), Problem> {
        let share = self.shared(&workspace)?;
        let hash = match request.password {
            Some(password) if password.chars().count() < SHORTEST_PASSWORD => {
                return Err(Problem::invalid(format!(
                    "a password has at least {SHORTEST_PASSWORD} characters"
                )));
            }
            Some(password) => {
                let hashed = tokio::task::spawn_blocking(move || visitors::hashed(&password));
                Some(hashed.await.map_err(Problem::failed)?.map_err(Problem::failed)?)
            }
            None => None,
        };
        self.sharing.consent().set_password(&share.id(), hash).map_err(Problem::failed)
    }

    async fn invite(&self) -> Invitation {
        self.pairing.invite()
    }

    async fn invited(&self, code: PairingCode) -> PairingEnd {
        self.pairing.outcome(&code).await
    }

    async fn join(&self, request: JoinRequest) -> Result<(), Problem> {
        let known = self.neighbours.list();
        let client = known.into_iter().find(|(id, _)| *id == request.peer).and_then(|(_, peer)| peer.client);
        let away = || Problem::unreachable("that peer can't be reached".to_owned());
        self.pairing.join(&client.ok_or_else(away)?, &request.code).await
    }

    async fn unpair(&self, peer: NodeId) -> Result<(), Problem> {
        let consent = self.sharing.consent();
        if !consent.is_paired(peer) {
            return Err(Problem::missing("this node isn't paired with that peer"));
        }
        consent.pair(peer, false).map_err(Problem::failed)
    }

    async fn groups(&self) -> Groups {
        self.sharing.consent().groups()
    }

    async fn set_group(&self, name: Group, members: BTreeSet<NodeId>) -> Result<(), Problem> {
        self.sharing.consent().set_group(name, members).map_err(Problem::failed)
    }

    async fn transfers(&self) -> Vec<BulkTurn> {
        let known = self.neighbours.list();
        let host = |node: NodeId| {
            let known = known.iter().find(|(id, _)| *id == node);
            known.map_or_else(|| node.short(), |(_, neighbour)| neighbour.folder.to_string())
        };
        let turn = |queued: Queued| BulkTurn {
            peer: queued.node,
            host: queued
                .node
                .map(host)
                .or(queued.address.map(|address| address.to_string()))
                .unwrap_or_default(),
            position: queued.position,
        };
        self.bulk.list().into_iter().map(turn).collect()
    }

    async fn audit(&self) -> Result<Vec<AuditEntry>, Problem> {
        let sharing = self.sharing.clone();
        let read = tokio::task::spawn_blocking(move || sharing.consent().audit().read(AUDITED));
        read.await.map_err(Problem::failed)?.map_err(Problem::failed)
    }

    async fn launch(&self, request: LaunchRequest) -> Result<LaunchPlan, Problem> {
        launch::plan(self, request).await
    }

    async fn start(&self, request: StartRequest) -> Result<StartAnswer, Problem> {
        self.environments.start(self, request).await
    }

    async fn environments(&self) -> Vec<Launch> {
        self.environments.list()
    }

    async fn stop(&self, id: String, at_once: bool) -> Result<Launch, Problem> {
        self.environments.stop(&id, at_once).await
    }

    async fn wait(&self, id: String) -> Result<Launch, Problem> {
        self.environments.wait(&id).await
    }

    async fn secrets(&self) -> Result<Vec<String>, Problem> {
        self.environments.secrets().await
    }

    async fn set_secret(&self, name: String, value: Option<String>) -> Result<(), Problem> {
        self.environments.set_secret(name, value).await
    }

    async fn cache(&self) -> Result<CacheReport, Problem> {
        self.cache.report().await
    }

    async fn clear_cache(&self, which: Option<FilePath>) -> Result<CacheReport, Problem> {
        self.cache.clear(which.as_ref()).await?;
        self.cache.report().await
    }

    async fn prefetch(&self, path: FilePath) -> Result<Prefetch, Problem> {
        self.cache.prefetch(path)
    }

    async fn pin(&self, path: FilePath) -> Result<Pin, Problem> {
        // Said better than by a walk.
        self.cache.mounted(&path)?;
        let mut walk = Walk { view: &self.view, looked_up: Vec::new() };
        walk.find(&names(&path)).await.map_err(|error| not_listed(&path, &error))?;
        self.cache.pin(&path).await
    }

    async fn unpin(&self, path: FilePath) -> Result<(), Problem> {
        self.cache.unpin(&path).await
    }

    async fn changes(&self, path: FilePath) -> Result<Vec<LayerChange>, Problem> {
        changes::list(&self.view, &self.cache.mounted(&path)?.id, &path)
    }

    async fn change_text(&self, path: FilePath) -> Result<String, Problem> {
        changes::text(&self.view, &self.cache.mounted(&path)?.id, &path).await
    }

    async fn discard(&self, path: FilePath) -> Result<Vec<RawText>, Problem> {
        changes::discard(&self.view, &self.cache.mounted(&path)?.id, &path)
    }

    async fn pull(&self, path: FilePath) -> Result<MergeReport, Problem> {
        changes::pull(&self.view, &self.cache.mounted(&path)?.id).await
    }

    async fn history(&self, path: FilePath) -> Result<Vec<SnapshotInfo>, Problem> {
        let mounted = self.cache.mounted(&path)?;
        let snapshots = self.neighbours.snapshots(&mounted.id).await.map_err(|error| {
            Problem::unreachable(format!("the owner of {path} {error}")).with_remedy("is it up?")
        })?;
        let created = |snapshot: &Snapshot| {
            Timestamp::from_millisecond(i64::try_from(snapshot.created).unwrap_or(i64::MAX))
                .unwrap_or_default()
        };
        let info = |snapshot: Snapshot| SnapshotInfo {
            snapshot: snapshot.root,
            created: created(&snapshot),
            files: snapshot.files,
            bytes: snapshot.bytes,
        };
        Ok(snapshots.into_iter().rev().map(info).collect())
    }

    async fn push(&self, path: FilePath) -> Result<PushReport, Problem> {
        let mounted = self.cache.mounted(&path)?;
        changes::push(self, &mounted).await
    }

    fn events(&self, after: Option<u64>) -> Following {
        self.events.follow(after).boxed()
    }

    async fn doctor(&self) -> Vec<Finding> {
        let peers = self.discovery.peers().len();
        let status = self.status().await;
        let mount = if status.mounted {
            Finding::fine("mount", format!("{} answers", self.mount.display()))
        } else {
            Finding::missing("mount", "the mount doesn't answer", "`twinshare down`, then `twinshare up`")
        };
        let network = match peers {
            0 => Finding::warning(
                "network",
                "no other node was heard",
                "is one up, and does a firewall keep UDP 37777 out? `twinshare peer add ADDRESS` goes without multicast",
            ),
            count => Finding::fine("network", format!("{count} other nodes were heard")),
        };
        vec![mount, network]
    }
}

/// A walk through the view that gives back its look-ups.
struct Walk<'a> {
    view: &'a View,
    looked_up: Vec<Ino>,
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        for ino in &self.looked_up {
            self.view.forget(*ino, 1);
        }
    }
}

impl Walk<'_> {
    async fn find(&mut self, names: &[&[u8]]) -> Result<view::Attr, ViewError> {
        let mut attr = self.view.getattr(Ino::ROOT)?;
        for name in names {
            attr = self.view.lookup(attr.ino, name).await?;
            self.looked_up.push(attr.ino);
        }
        Ok(attr)
    }

    async fn files(&mut self, names: &[&[u8]]) -> Result<Vec<FileEntry>, ViewError> {
        let attr = self.find(names).await?;
        let mut found = Vec::new();
        if attr.kind == view::FileKind::Folder {
            let add = |_: Cookie, name: &[u8], attr: view::Attr| {
                if !matches!(name, b"." | b"..") && found.len() < MAX_ENTRIES {
                    found.push((name.to_vec(), attr));
                }
                false
            };
            self.view.readdir(attr.ino, Cookie::START, true, add).await?;
            // Each entry but the dots was looked up.
            self.looked_up.extend(found.iter().map(|(_, attr)| attr.ino));
        } else if let Some(name) = names.last() {
            found.push((name.to_vec(), attr));
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found.iter().filter_map(|(name, attr)| self.entry(name, attr)).collect())
    }

    fn entry(&self, name: &[u8], attr: &view::Attr) -> Option<FileEntry> {
        let (kind, target) = match attr.kind {
            view::FileKind::Folder => (FileKind::Folder, None),
            view::FileKind::File => (FileKind::File, None),
            view::FileKind::Fifo => (FileKind::Fifo, None),
            view::FileKind::Socket => (FileKind::Socket, None),
            view::FileKind::Character(_) | view::FileKind::Block(_) => (FileKind::Device, None),
            view::FileKind::Link => (FileKind::Symlink, Some(raw(self.view.readlink(attr.ino).ok()?))),
        };
        let name = twinshare::types::Name::new(name).ok()?;
        Some(FileEntry::new(&name, kind, attr.size, attr.mode.into(), attr.modified, target))
    }
}

/// A path's names from the mount's root.
fn names(path: &FilePath) -> Vec<&[u8]> {
    let place = [path.host.as_str().as_bytes(), path.workspace.as_str().as_bytes()];
    place.into_iter().chain(path.path.iter().map(|name| name.as_bytes())).collect()
}

pub(crate) fn raw(bytes: Vec<u8>) -> RawText {
    use std::os::unix::ffi::OsStringExt;
    RawText::from(std::ffi::OsString::from_vec(bytes))
}

fn local_files(folder: &Path) -> Result<Vec<FileEntry>, Problem> {
    use std::os::unix::{ffi::OsStrExt, fs::MetadataExt};
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Problem::missing(format!("there is no {}", folder.display())),
        _ => Problem::failed(format!("can't list {}: {error}", folder.display())),
    };
    let entry = |name: &std::ffi::OsStr, path: &Path| -> std::io::Result<Option<FileEntry>> {
        let meta = path.symlink_metadata()?;
        let (kind, target) = if meta.is_dir() {
            (FileKind::Folder, None)
        } else if meta.is_symlink() {
            (FileKind::Symlink, Some(RawText::from(path.read_link()?.into_os_string())))
        } else {
            (FileKind::File, None)
        };
        let modified = twinshare::types::Timestamp {
            seconds: meta.mtime(),
            nanoseconds: u32::try_from(meta.mtime_nsec()).unwrap_or(0),
        };
        let name = twinshare::types::Name::new(name.as_bytes()).ok();
        Ok(name.map(|name| FileEntry::new(&name, kind, meta.len(), meta.mode() & 0o7777, modified, target)))
    };
    let meta = folder.symlink_metadata().map_err(failed)?;
    if !meta.is_dir() {
        let name = folder.file_name().unwrap_or_default();
        return Ok(entry(name, folder).map_err(failed)?.into_iter().collect());
    }
    let mut entries = Vec::new();
    for found in std::fs::read_dir(folder).map_err(failed)? {
        let found = found.map_err(failed)?;
        // Gone in the meantime is gone.
        entries.extend(entry(&found.file_name(), &found.path()).ok().flatten());
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn not_listed(path: &FilePath, error: &ViewError) -> Problem {
    let place = format!("{}/{}", path.host, path.workspace);
    match error {
        ViewError::NotFound => Problem::missing(format!("there is no such file in {place}, or no such workspace"))
            .with_remedy("`twinshare ls` shows what is there"),
        ViewError::Source(SourceError::Denied) => {
            Problem::denied(format!("the owner of {place} hasn't allowed this node to read it"))
                .with_remedy(format!("the owner has been asked, and answers with `twinshare requests`; folders of {OUTSIDE} are never shared"))
        }
        ViewError::Source(SourceError::TimedOut) => {
            Problem::unreachable(format!("nobody who holds {place} answers"))
        }
        error => Problem::failed(format!("can't list {place}: {error}")),
    }
}

impl Node {
    fn shared(&self, name: &WorkspaceName) -> Result<Arc<publish::Share>, Problem> {
        let missing = || Problem::missing(format!("no workspace {name} is shared here"));
        self.sharing.find(name).ok_or_else(missing)
    }

    fn subject(&self, name: &WorkspaceName) -> Result<Subject, Problem> {
        self.shared(name).map(|share| Subject { id: share.id(), name: name.clone() })
    }
}

fn not_shared(error: SharingError) -> Problem {
    Problem::invalid(error)
}

fn described(share: &Arc<publish::Share>) -> Share {
    let head = share.head();
    let left_out = share.left_out();
    let progress = share.progress();
    Share {
        id: share.id(),
        name: share.manifest().name.clone(),
        path: RawText::from(share.root_path().as_os_str().to_owned()),
        access: share.access(),
        keep: share.retention().content,
        snapshots: share.retention().snapshots,
        snapshot: Some(head.root),
        provisional: head.provisional,
        sequence: head.sequence,
        files: head.totals.files,
        bytes: head.totals.bytes,
        left_out: LeftOut {
            count: left_out.counts.values().sum(),
            secrets: left_out.counts.get(&Reason::Secret).copied().unwrap_or(0),
            examples: left_out.first.into_iter().map(|(path, _)| RawText::from(path)).collect(),
        },
        progress: Progress {
            files: progress.files,
            bytes: progress.bytes,
            hashed_files: progress.hashed_files,
            hashed_bytes: progress.hashed_bytes,
        },
    }
}

fn own_workspace(share: &Arc<publish::Share>) -> Workspace {
    let head = share.head();
    let manifest = share.manifest();
    Workspace {
        id: share.id(),
        name: manifest.name.clone(),
        description: manifest.description.clone().unwrap_or_default(),
        tags: manifest.tags.clone(),
        snapshot: Some(head.root),
        provisional: head.provisional,
        sequence: head.sequence,
        files: head.totals.files,
        bytes: head.totals.bytes,
        access: share.access(),
        rights: Rights::ALL,
        path: RawText::from(share.root_path().as_os_str().to_owned()),
        environments: manifest.environment_names().map(str::to_owned).collect(),
    }
}

/// Whether the mount is there and this node serves it.
fn is_mounted(mount: &Path) -> bool {
    let inode = |path: &Path| std::fs::metadata(path).map(|meta| std::os::unix::fs::MetadataExt::ino(&meta));
    inode(mount).is_ok_and(|ino| ino == Ino::ROOT.0)
}
