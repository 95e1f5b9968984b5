use std::{collections::BTreeSet, future::Future};

use futures_util::stream::BoxStream;

use super::{
    AccessReport, AccessRequest, AuditEntry, BulkTurn, CacheReport, Decision, Event, FileEntry, FilePath,
    Finding, GrantRequest, Groups, Host, Invitation, JoinRequest, Launch, LaunchPlan, LaunchRequest,
    LayerChange, MergeReport, PairingEnd, PasswordRequest, Peer, PeerAddress, Pin, PrefetchStep, Problem,
    PushReport, RawText, Share, ShareRequest, SnapshotInfo, StartAnswer, StartRequest, Status,
};
use crate::{
    access::Group,
    peer::PairingCode,
    types::{NodeId, WorkspaceName},
};

/// A prefetch under way, which dropping ends.
pub type Prefetch = BoxStream<'static, PrefetchStep>;

/// What happens, as it happens; dropping it ends it.
pub type Following = BoxStream<'static, Event>;

/// What a node does for its user. The daemon implements it, the control API's server calls it.
///
/// Implementations write plain `async fn`s. Failures are said in words for the user: what failed, why, what to do.
pub trait Control: Send + Sync + 'static {
    /// How the node is.
    fn status(&self) -> impl Future<Output = Status> + Send;

    /// Asks the node to end; it may still be ending when this returns.
    fn shutdown(&self);

    /// The workspaces that this node shares.
    fn shares(&self) -> impl Future<Output = Vec<Share>> + Send;

    /// Shares a folder; with `wait`, returns when all of it is hashed.
    fn share(&self, request: ShareRequest) -> impl Future<Output = Result<Share, Problem>> + Send;

    /// Ends the sharing of a workspace; its folder stays as it is.
    fn unshare(&self, name: WorkspaceName) -> impl Future<Output = Result<(), Problem>> + Send;

    /// The hosts as the mount shows them, this one first, each with its workspaces.
    fn hosts(&self) -> impl Future<Output = Vec<Host>> + Send;

    /// The entries of a folder of a workspace, by name; of a file, itself.
    fn files(&self, path: FilePath) -> impl Future<Output = Result<Vec<FileEntry>, Problem>> + Send;

    /// The nodes that were found or added.
    fn peers(&self) -> impl Future<Output = Vec<Peer>> + Send;

    /// Adds a peer that multicast doesn't reach, and remembers its address.
    fn add_peer(&self, address: PeerAddress) -> impl Future<Output = Result<Peer, Problem>> + Send;

    /// Who asks for a workspace and has no answer yet.
    fn requests(&self) -> impl Future<Output = Vec<AccessRequest>> + Send;

    /// Allows or denies a peer a workspace, whether it asked or not.
    fn decide(
        &self,
        workspace: WorkspaceName,
        peer: NodeId,
        decision: Decision,
    ) -> impl Future<Output = Result<(), Problem>> + Send;

    /// Who may do what with a workspace of this node.
    fn access(&self, workspace: WorkspaceName) -> impl Future<Output = Result<AccessReport, Problem>> + Send;

    /// Decides what somebody may do with a workspace, or takes that back.
    fn grant(
        &self,
        workspace: WorkspaceName,
        request: GrantRequest,
    ) -> impl Future<Output = Result<(), Problem>> + Send;

    /// Sets a workspace's password, or removes it.
    fn set_password(
        &self,
        workspace: WorkspaceName,
        request: PasswordRequest,
    ) -> impl Future<Output = Result<(), Problem>> + Send;

    /// Invites a node to pair, by a code.
    fn invite(&self) -> impl Future<Output = Invitation> + Send;

    /// What becomes of an invitation; waits for it.
    fn invited(&self, code: PairingCode) -> impl Future<Output = PairingEnd> + Send;

    /// Pairs with a node that has invited.
    fn join(&self, request: JoinRequest) -> impl Future<Output = Result<(), Problem>> + Send;

    /// Ends a pairing.
    fn unpair(&self, peer: NodeId) -> impl Future<Output = Result<(), Problem>> + Send;

    /// The groups of peers.
    fn groups(&self) -> impl Future<Output = Groups> + Send;

    /// Makes a group of these peers; of none, removes it.
    fn set_group(
        &self,
        name: Group,
        members: BTreeSet<NodeId>,
    ) -> impl Future<Output = Result<(), Problem>> + Send;

    /// Who is being sent something in bulk, and who waits, in the order of their turns.
    fn transfers(&self) -> impl Future<Output = Vec<BulkTurn>> + Send;

    /// The newest lines of the audit log, the oldest of them first.
    fn audit(&self) -> impl Future<Output = Result<Vec<AuditEntry>, Problem>> + Send;

    /// Prepares a launch; the caller runs the plan's program in its own terminal.
    fn launch(&self, request: LaunchRequest) -> impl Future<Output = Result<LaunchPlan, Problem>> + Send;

    /// Starts an environment of a workspace, unless it runs already or must be agreed to first.
    fn start(&self, request: StartRequest) -> impl Future<Output = Result<StartAnswer, Problem>> + Send;

    /// The environments that were started, also those that have ended.
    fn environments(&self) -> impl Future<Output = Vec<Launch>> + Send;

    /// Ends one, and waits for that; `at_once` doesn't ask what runs in it to end.
    fn stop(&self, id: String, at_once: bool) -> impl Future<Output = Result<Launch, Problem>> + Send;

    /// Waits until one has ended.
    fn wait(&self, id: String) -> impl Future<Output = Result<Launch, Problem>> + Send;

    /// The names of the user's secrets, which environments are given that ask for them.
    fn secrets(&self) -> impl Future<Output = Result<Vec<String>, Problem>> + Send;

    /// Sets one, or without a value forgets it.
    fn set_secret(
        &self,
        name: String,
        value: Option<String>,
    ) -> impl Future<Output = Result<(), Problem>> + Send;

    /// What the cache holds.
    fn cache(&self) -> impl Future<Output = Result<CacheReport, Problem>> + Send;

    /// Forgets what came for one workspace alone, else all; never what is pinned. Tells what the cache takes then.
    fn clear_cache(
        &self,
        which: Option<FilePath>,
    ) -> impl Future<Output = Result<CacheReport, Problem>> + Send;

    /// Fetches a workspace, or what is at a path in it, once.
    fn prefetch(&self, path: FilePath) -> impl Future<Output = Result<Prefetch, Problem>> + Send;

    /// Keeps a workspace, or what is at a path in it, complete and offline from now on.
    fn pin(&self, path: FilePath) -> impl Future<Output = Result<Pin, Problem>> + Send;

    /// What was changed at a path of another host's workspace and below.
    fn changes(&self, path: FilePath) -> impl Future<Output = Result<Vec<LayerChange>, Problem>> + Send;

    /// The same as a unified diff.
    fn change_text(&self, path: FilePath) -> impl Future<Output = Result<String, Problem>> + Send;

    /// Takes back what was changed at a path and below; gives the paths.
    fn discard(&self, path: FilePath) -> impl Future<Output = Result<Vec<RawText>, Problem>> + Send;

    /// The snapshots that the owner of a workspace keeps, the newest first.
    fn history(&self, path: FilePath) -> impl Future<Output = Result<Vec<SnapshotInfo>, Problem>> + Send;

    /// Has the owner of a workspace make what was changed in it here.
    fn push(&self, path: FilePath) -> impl Future<Output = Result<PushReport, Problem>> + Send;

    /// Merges what was changed in a workspace with its owner's newest snapshot.
    fn pull(&self, path: FilePath) -> impl Future<Output = Result<MergeReport, Problem>> + Send;

    /// Keeps it no longer; what is here stays until its space is needed.
    fn unpin(&self, path: FilePath) -> impl Future<Output = Result<(), Problem>> + Send;

    /// What happened behind the event with the number `after` and what happens from now on; without it only the latter.
    fn events(&self, after: Option<u64>) -> Following;

    /// What the node finds when it examines itself.
    fn doctor(&self) -> impl Future<Output = Vec<Finding>> + Send;
}
