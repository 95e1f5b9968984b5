//! What this node's user has decided: who may do what with the workspaces that are shared here, and who waits for an answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use twinshare::{
    access::{Access, Grant, Group, Policy, Right, Rights, Standing, Whom},
    api::{Decision, Happening},
    types::{NodeId, WorkspaceId, WorkspaceName},
};

use crate::{
    audit::{Audit, Deed},
    events::Events,
    files::{self, FileError},
};

/// Peers that ask for access and are remembered: more can't be answered by a person anyway.
const MAX_REQUESTS: usize = 256;

/// For so long a peer is let in that is allowed once.
const ONCE: Duration = Duration::from_secs(12 * 3600);

/// What is kept on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Book {
    policies: BTreeMap<WorkspaceId, Policy>,
    groups: BTreeMap<Group, BTreeSet<NodeId>>,
    paired: BTreeSet<NodeId>,
    /// The hashes of workspaces' passwords.
    passwords: BTreeMap<WorkspaceId, String>,
}

impl Book {
    /// Calls `then` with what is known of a node.
    fn with_standing<T>(&self, node: NodeId, then: impl FnOnce(&Standing<'_>) -> T) -> T {
        let groups: Vec<_> =
            self.groups.iter().filter(|(_, members)| members.contains(&node)).map(|(name, _)| name).collect();
        then(&Standing { node, paired: self.paired.contains(&node), groups: &groups })
    }
}

/// Who asked for what, and when first.
pub(crate) type Requests = BTreeMap<(WorkspaceId, NodeId), Asked>;

/// What a node waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Since when.
    pub(crate) at: Timestamp,
    /// Whether it wants to change the workspace; it may read it already.
    pub(crate) write: bool,
}

/// A workspace as decisions about it are told.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) id: WorkspaceId,
    pub(crate) name: WorkspaceName,
}

/// All decisions, and who waits for one.
pub(crate) struct Consent {
    file: PathBuf,
    book: Mutex<Book>,
    requests: Mutex<Requests>,
    audit: Audit,
    events: Arc<Events>,
    /// Grows when somebody may do something else than before.
    changed: watch::Sender<u64>,
}

impl Consent {
    pub(crate) fn open(state: &Path, events: Arc<Events>) -> Result<Arc<Self>, FileError> {
        let file = state.join("access.json");
        let book = files::read_json(&file)?.unwrap_or_default();
        let consent = Arc::new(Self {
            file,
            book: Mutex::new(book),
            requests: Mutex::default(),
            audit: Audit::new(state),
            events,
            changed: watch::Sender::new(0),
        });
        tokio::spawn(watch_expiries(Arc::downgrade(&consent), consent.changed.subscribe()));
        Ok(consent)
    }

    /// A number that grows when somebody may do something else than before.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What has been decided, granted and refused.
    pub(crate) fn audit(&self) -> &Audit {
        &self.audit
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Every change is complete before anything can panic.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the book on disk and then for all to see: what can't be kept isn't decided.
    fn change<T>(&self, change: impl FnOnce(&mut Book) -> T) -> Result<T, FileError> {
        let mut book = self.book();
        let kept = serde_json::to_value(&*book);
        let changed = change(&mut book);
        if let Err(error) = files::write_json(&self.file, &*book) {
            // What was written to memory a moment ago can be read from there.
            *book = kept.ok().and_then(|kept| serde_json::from_value(kept).ok()).unwrap_or_default();
            return Err(error);
        }
        // Whoever has got what it waits for, or was refused, by a group of its perhaps, waits no more.
        let waits = |(workspace, node): &(WorkspaceId, NodeId), asked: &mut Asked| {
            let decided = |policy: &Policy| book.with_standing(*node, |who| policy.decided(who, now()));
            let decided = book.policies.get(workspace).and_then(decided);
            decided.is_none_or(|rights| asked.write && rights.has(Right::Read) && !rights.has(Right::Write))
        };
        self.requests().retain(waits);
        drop(book);
        self.changed.send_modify(|count| *count += 1);
        Ok(changed)
    }

    /// What `reader` may do with a workspace; `None` stands for whoever hasn't said who they are.
    pub(crate) fn rights(&self, workspace: &WorkspaceId, access: Access, reader: Option<NodeId>) -> Rights {
        let book = self.book();
        let nothing = Policy::default();
        let policy = book.policies.get(workspace).unwrap_or(&nothing);
        match reader {
            Some(node) => book.with_standing(node, |who| policy.rights(access, Some(who), now())),
            None => policy.rights(access, None, now()),
        }
    }

    fn is_decided(&self, workspace: &WorkspaceId, node: NodeId) -> bool {
        let book = self.book();
        let decided = |policy: &Policy| book.with_standing(node, |who| policy.decided(who, now()).is_some());
        book.policies.get(workspace).is_some_and(decided)
    }

    /// What is decided about a workspace and holds.
    pub(crate) fn grants(&self, workspace: &WorkspaceId) -> Vec<(Whom, Grant)> {
        let book = self.book();
        let policy = book.policies.get(workspace).into_iter();
        policy.flat_map(|policy| policy.grants(now())).map(|(whom, grant)| (whom.clone(), *grant)).collect()
    }

    /// Decides about somebody.
    pub(crate) fn grant(&self, workspace: &Subject, whom: Whom, grant: Grant) -> Result<(), FileError> {
        self.change(|book| book.policies.entry(workspace.id).or_default().grant(whom.clone(), grant))?;
        if let Whom::Peer(peer) = whom {
            self.requests().remove(&(workspace.id, peer));
        }
        let deed = if grant.rights.is_empty() { Deed::Denied } else { Deed::Granted };
        self.audit.note(deed, Some(&workspace.name), &whom, Some(grant));
        Ok(())
    }

    /// Takes back what was decided about somebody; false when nothing was.
    pub(crate) fn revoke(&self, workspace: &Subject, whom: &Whom) -> Result<bool, FileError> {
        let forget =
            |book: &mut Book| book.policies.get_mut(&workspace.id).is_some_and(|policy| policy.forget(whom));
        let revoked = self.change(forget)?;
        if revoked {
            self.audit.note(Deed::Revoked, Some(&workspace.name), whom, None);
        }
        Ok(revoked)
    }

    /// Answers what a peer asked for.
    pub(crate) fn decide(
        &self,
        workspace: &Subject,
        peer: NodeId,
        decision: Decision,
    ) -> Result<(), FileError> {
        if decision == Decision::Deny && self.wants_to_write(&workspace.id, peer) {
            // Whoever may not change it may read it as before.
            self.requests().remove(&(workspace.id, peer));
            self.audit.note(Deed::Denied, Some(&workspace.name), &Whom::Peer(peer), None);
            return Ok(());
        }
        let once = now().saturating_add(ONCE.as_secs());
        let (rights, expires) = match decision {
            Decision::Once => (Rights::USUAL, Some(once)),
            Decision::Allow => (Rights::USUAL, None),
            Decision::Write => (Rights::ALL, None),
            Decision::Deny => (Rights::NONE, None),
        };
        self.grant(workspace, Whom::Peer(peer), Grant { rights, expires })
    }

    /// Whether a peer waits to be let change a workspace.
    pub(crate) fn wants_to_write(&self, workspace: &WorkspaceId, peer: NodeId) -> bool {
        self.requests().get(&(*workspace, peer)).is_some_and(|asked| asked.write)
    }

    /// Who waits for an answer.
    pub(crate) fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts what a peer wants before the user, unless it waits for an answer already or has had it.
    pub(crate) fn ask(&self, workspace: &Subject, peer: NodeId, write: bool) {
        if !write && self.is_decided(&workspace.id, peer) {
            return;
        }
        let asked = Asked { at: Timestamp::now(), write };
        if !note_request(&mut self.requests(), (workspace.id, peer), asked) {
            return;
        }
        tracing::info!(%peer, workspace = %workspace.name, write, "a peer asks for access");
        self.audit.note(Deed::Asked, Some(&workspace.name), &Whom::Peer(peer), None);
        self.events.note(Happening::AccessRequested { workspace: workspace.name.clone(), peer, write });
    }

    /// The groups and who is in them.
    pub(crate) fn groups(&self) -> BTreeMap<Group, BTreeSet<NodeId>> {
        self.book().groups.clone()
    }

    /// Makes a group of these; of nobody, removes it.
    pub(crate) fn set_group(&self, name: Group, members: BTreeSet<NodeId>) -> Result<(), FileError> {
        self.change(|book| match members.is_empty() {
            true => drop(book.groups.remove(&name)),
            false => drop(book.groups.insert(name, members)),
        })
    }

    /// The hash of a workspace's password.
    pub(crate) fn password(&self, workspace: &WorkspaceId) -> Option<String> {
        self.book().passwords.get(workspace).cloned()
    }

    /// Sets the hash of a workspace's password, or removes it.
    pub(crate) fn set_password(
        &self,
        workspace: &WorkspaceId,
        hash: Option<String>,
    ) -> Result<(), FileError> {
        self.change(|book| match hash {
            Some(hash) => drop(book.passwords.insert(*workspace, hash)),
            None => drop(book.passwords.remove(workspace)),
        })
    }

    /// Counts a node among those that are paired with, or no longer.
    pub(crate) fn pair(&self, peer: NodeId, paired: bool) -> Result<(), FileError> {
        let changed = self.change(|book| match paired {
            true => book.paired.insert(peer),
            false => book.paired.remove(&peer),
        })?;
        if changed {
            let deed = if paired { Deed::Paired } else { Deed::Unpaired };
            self.audit.note(deed, None, &Whom::Peer(peer), None);
        }
        Ok(())
    }

    /// Whether a node is paired with.
    pub(crate) fn is_paired(&self, peer: NodeId) -> bool {
        self.book().paired.contains(&peer)
    }

    /// Forgets all about a workspace that isn't shared any more.
    pub(crate) fn forget(&self, workspace: &WorkspaceId) -> Result<(), FileError> {
        self.requests().retain(|(asked, _), _| asked != workspace);
        self.change(|book| {
            book.policies.remove(workspace);
            book.passwords.remove(workspace);
        })
    }

    fn next_expiry(&self) -> Option<u64> {
        self.book().policies.values().filter_map(|policy| policy.next_expiry(now())).min()
    }
}

/// Tells everybody when a grant expires.
async fn watch_expiries(consent: std::sync::Weak<Consent>, mut changes: watch::Receiver<u64>) {
    loop {
        let Some(next) = consent.upgrade().map(|consent| consent.next_expiry()) else { return };
        let expiry = async {
            match next {
                Some(next) => tokio::time::sleep(Duration::from_secs(next.saturating_sub(now()))).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = expiry => {
                let Some(consent) = consent.upgrade() else { return };
                consent.changed.send_modify(|count| *count += 1);
            }
        }
    }
}

/// The time in seconds since 1970.
fn now() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or(0)
}

/// Notes who asks for access, unless that or more is noted. When there is no room the oldest request makes way: should a
/// crowd ask, whoever still wants access asks again.
fn note_request(requests: &mut Requests, request: (WorkspaceId, NodeId), asked: Asked) -> bool {
    if requests.get(&request).is_some_and(|before| before.write || !asked.write) {
        return false;
    }
    while requests.len() >= MAX_REQUESTS {
        let oldest = requests.iter().min_by_key(|(_, asked)| asked.at).map(|(request, _)| *request);
        let Some(oldest) = oldest else { break };
        requests.remove(&oldest);
    }
    requests.insert(request, asked);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: NodeId = NodeId::from_bytes([9; 32]);

    fn lab() -> Subject {
        Subject { id: WorkspaceId::from_bytes([1; 16]), name: "lab".parse().unwrap() }
    }

    #[test]
    fn the_oldest_request_makes_way_for_the_newest() {
        let workspace = WorkspaceId::from_bytes([1; 16]);
        let node = |number: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            NodeId::from_bytes(id)
        };
        let at = |second: usize| Timestamp::from_second(second as i64).unwrap();
        let asked = |second| Asked { at: at(second), write: false };
        let mut requests = Requests::new();
        for number in 0..=MAX_REQUESTS {
            assert!(note_request(&mut requests, (workspace, node(number)), asked(number)));
            assert!(!note_request(&mut requests, (workspace, node(number)), asked(number + 1)));
        }
        assert_eq!(requests.len(), MAX_REQUESTS);
        assert!(!requests.contains_key(&(workspace, node(0))));
        assert_eq!(requests[&(workspace, node(MAX_REQUESTS))], asked(MAX_REQUESTS));
    }

    #[tokio::test]
    async fn decisions_are_kept_and_noted() {
        let state = tempfile::tempdir().unwrap();
        let open = || Consent::open(state.path(), Events::new()).unwrap();
        let (consent, lab) = (open(), lab());
        let rights = |consent: &Consent| consent.rights(&lab.id, Access::Ask, Some(GUEST));
        consent.ask(&lab, GUEST, false);
        assert_eq!(consent.requests().len(), 1);
        consent.decide(&lab, GUEST, Decision::Once).unwrap();
        assert!(consent.requests().is_empty());
        assert_eq!(rights(&consent), Rights::USUAL);
        let expires = consent.grants(&lab.id)[0].1.expires.unwrap();
        assert!((11 * 3600..=12 * 3600).contains(&(expires - now())));
        // Who may read and is refused to write reads on.
        consent.ask(&lab, GUEST, true);
        consent.decide(&lab, GUEST, Decision::Deny).unwrap();
        assert_eq!(rights(&consent), Rights::USUAL);
        consent.decide(&lab, GUEST, Decision::Write).unwrap();
        assert_eq!(rights(&open()), Rights::ALL, "also after a restart");
        consent.decide(&lab, GUEST, Decision::Deny).unwrap();
        consent.ask(&lab, GUEST, false);
        assert!(consent.requests().is_empty(), "who was denied needn't ask again");
        assert!(consent.revoke(&lab, &Whom::Peer(GUEST)).unwrap());
        consent.ask(&lab, GUEST, false);
        assert_eq!(consent.requests().len(), 1);
        let deeds: Vec<_> = consent.audit().read(100).unwrap().iter().map(|entry| entry.deed).collect();
        use Deed::{Asked, Denied, Granted, Revoked};
        assert_eq!(deeds, [Asked, Granted, Asked, Denied, Granted, Denied, Revoked, Asked]);
    }

    #[tokio::test]
    async fn whoever_has_got_it_waits_no_more() {
        let state = tempfile::tempdir().unwrap();
        let (consent, lab) = (Consent::open(state.path(), Events::new()).unwrap(), lab());
        let team: Group = "team".parse().unwrap();
        consent
            .grant(&lab, Whom::Group(team.clone()), Grant { rights: Rights::USUAL, expires: None })
            .unwrap();
        consent.ask(&lab, GUEST, false);
        consent.set_group(team.clone(), [GUEST].into()).unwrap();
        assert!(consent.requests().is_empty(), "its group may read");
        consent.ask(&lab, GUEST, true);
        assert!(consent.wants_to_write(&lab.id, GUEST));
        consent.pair(NodeId::from_bytes([7; 32]), true).unwrap();
        assert_eq!(consent.requests().len(), 1, "that changes nothing for it");
        consent.grant(&lab, Whom::Group(team), Grant { rights: Rights::ALL, expires: None }).unwrap();
        assert!(consent.requests().is_empty());
        // Who asked to read and then to write asks to write.
        let other = NodeId::from_bytes([8; 32]);
        consent.ask(&lab, other, false);
        consent.ask(&lab, other, true);
        assert!(consent.wants_to_write(&lab.id, other));
    }

    #[tokio::test]
    async fn groups_count_and_expiries_are_told() {
        let state = tempfile::tempdir().unwrap();
        let (consent, lab) = (Consent::open(state.path(), Events::new()).unwrap(), lab());
        let team: Group = "team".parse().unwrap();
        let soon = Grant { rights: Rights::ALL, expires: Some(now() + 1) };
        let mut changes = consent.changes();
        consent.grant(&lab, Whom::Group(team.clone()), soon).unwrap();
        assert_eq!(consent.rights(&lab.id, Access::Peers, Some(GUEST)), Rights::NONE);
        consent.set_group(team.clone(), [GUEST].into()).unwrap();
        assert_eq!(consent.rights(&lab.id, Access::Peers, Some(GUEST)), Rights::ALL);
        while consent.rights(&lab.id, Access::Peers, Some(GUEST)) == Rights::ALL {
            changes.changed().await.unwrap();
        }
        consent.set_group(team, BTreeSet::new()).unwrap();
        assert!(consent.groups().is_empty());
    }

    #[tokio::test]
    async fn what_cant_be_kept_isnt_decided() {
        let state = tempfile::tempdir().unwrap();
        let (consent, lab) = (Consent::open(state.path(), Events::new()).unwrap(), lab());
        consent.decide(&lab, GUEST, Decision::Allow).unwrap();
        drop(state);
        assert!(consent.decide(&lab, GUEST, Decision::Deny).is_err());
        assert_eq!(consent.rights(&lab.id, Access::Ask, Some(GUEST)), Rights::USUAL);
    }
}
