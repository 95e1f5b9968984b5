//! Two nodes pair by a code, with and without somebody between them.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{oneshot, watch};
use twinshare::{
    peer::{
        Bandwidth, Capability, Catalogue, Credentials, Expected, ExpectedPieces, Held, IDLE, Identity,
        NodeInfo, PeerClient, Refusal, Reply, ServeOptions, Served, ServedWorkspace,
    },
    types::{NodeId, WorkspaceId},
};

use crate::{bed::Bed, link::in_namespace, node::Node, wait::wait_for};

/// Starts `twinshare pair` at a node; gives it and the code that it shows.
fn invite(node: &Node) -> (Child, String) {
    let mut child = node.command(&["pair"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line =
        lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("twinshare pair"))).unwrap().unwrap();
    // What it says in the end comes the same way.
    std::thread::spawn(move || lines.for_each(drop));
    (child, line.split(' ').next_back().unwrap().to_owned())
}

fn said(child: Child) -> (bool, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_code_lets_each_other_in_and_a_wrong_one_ends_it() {
    let Some(bed) = Bed::new() else { return };
    let workspace = bed.workspace("lab");
    fs::write(workspace.join("f"), "for friends").unwrap();
    let (owner, guest) = (bed.owner(), bed.guest());
    owner.up(&[]);
    owner.ask(&["share", workspace.to_str().unwrap(), "--name", "lab", "--access", "peers", "--wait"]);
    guest.up(&[]);
    wait_for("the guest knows the owner", Duration::from_secs(10), || {
        let peers = guest.json(&["peer", "list", "--json"]);
        peers.as_array()?.iter().any(|peer| peer["host"] == "owner").then_some(())
    });
    assert!(guest.workspace("owner", "lab").is_none());

    let (inviting, code) = invite(owner);
    let wrong = if code == "000-000" { "000-001" } else { "000-000" };
    let output = guest.cli(&["pair", "owner", wrong]);
    let refused = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && refused.contains("the code is wrong, or somebody stands between"),
        "{refused}"
    );
    let (ok, text) = said(inviting);
    assert!(!ok && text.contains("guest tried, and had a wrong code"), "{text}");
    let late = guest.cli(&["pair", "owner", &code]);
    assert!(String::from_utf8_lossy(&late.stderr).contains("waits for nobody"), "one try: {late:?}");

    let (inviting, code) = invite(owner);
    let paired = guest.ask(&["pair", "owner", &code]);
    assert!(paired.starts_with("paired with owner ("), "{paired}");
    assert!(said(inviting).0);
    let seen = guest.mount().join("owner/lab/f");
    wait_for("the guest is let in", Duration::from_secs(5), || {
        (fs::read_to_string(&seen).ok()? == "for friends").then_some(())
    });
    owner.ask(&["unpair", "guest"]);
    wait_for("and out again", Duration::from_secs(5), || {
        guest.workspace("owner", "lab").is_none().then_some(())
    });
    let deeds = owner.ask(&["audit"]);
    assert!(deeds.contains(" paired ") && deeds.contains(" unpaired "), "{deeds}");
}

/// Who stands between: a node of its own that passes on what two others say to each other.
struct Between {
    identity: NodeId,
    /// To the one who has invited.
    inviter: Arc<PeerClient>,
}

impl Between {
    /// Asks the other one; these calls may not wait, so it's done elsewhere.
    fn pass<T: Send + 'static>(
        &self,
        step: impl AsyncFnOnce(&PeerClient) -> Result<T, twinshare::peer::PeerError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let inviter = self.inviter.clone();
        let asked = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(step(&inviter))
        });
        asked.join().unwrap().map_err(|_| Refusal::Denied)
    }
}

impl Served for Between {
    fn node(&self) -> NodeInfo {
        NodeInfo {
            peer_id: self.identity,
            hostname: "owner".parse().unwrap(),
            version: "1".to_owned(),
            features: Vec::new(),
            port: 1,
        }
    }

    fn catalogue(&self, _: Option<NodeId>) -> Catalogue {
        Catalogue { tag: "t".to_owned(), workspaces: Vec::new(), grants: Vec::new() }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    fn workspace(&self, _: &WorkspaceId, _: Option<NodeId>) -> Result<Arc<dyn ServedWorkspace>, Refusal> {
        Err(Refusal::Unknown)
    }

    fn held(&self, _: NodeId, _: &Capability) -> Result<Arc<dyn Held>, Refusal> {
        Err(Refusal::Unknown)
    }

    fn expected(&self) -> Vec<ExpectedPieces> {
        Vec::new()
    }

    fn pair(&self, _: NodeId, message: &[u8]) -> Result<Reply, Refusal> {
        let message = message.to_vec();
        self.pass(async move |inviter| inviter.pair_message(message).await)
    }

    fn paired(&self, _: NodeId, proof: [u8; 32]) -> Result<(), Refusal> {
        self.pass(async move |inviter| inviter.pair_proof(proof).await)
    }
}

#[test]
fn whoever_stands_between_two_pairing_nodes_fails_and_both_say_so() {
    let Some(bed) = Bed::new() else { return };
    let (owner, guest) = (bed.owner(), bed.guest());
    owner.up(&[]);
    guest.up(&[]);
    let port = owner.json(&["status", "--json"])["share_port"].as_u64().unwrap() as u16;
    let real = SocketAddr::from((owner.address(), port));
    let folder = bed.folder().join("eve");
    let (listening, address) = std::sync::mpsc::channel();
    let (end, ended) = oneshot::channel::<()>();
    std::thread::scope(|scope| {
        let eve = || {
            in_namespace(owner.namespace(), || {
                let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let identity = Identity::load_or_create(&folder).unwrap();
                    let credentials = Credentials::new(&identity).unwrap();
                    let inviter = PeerClient::connect(
                        &credentials,
                        &Bandwidth::default(),
                        &[real],
                        Expected::Any,
                        IDLE,
                    )
                    .await
                    .unwrap();
                    let listener = tokio::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
                    listening.send(listener.local_addr().unwrap().port()).unwrap();
                    let between = Between { identity: identity.id(), inviter: Arc::new(inviter) };
                    let over = async { drop(ended.await) };
                    twinshare::peer::serve(
                        listener,
                        &credentials,
                        Arc::new(between),
                        |_, _| true,
                        ServeOptions::default(),
                        over,
                    )
                    .await
                    .unwrap();
                });
            });
        };
        scope.spawn(eve);
        let port = address.recv().unwrap();
        let (inviting, code) = invite(owner);
        let output = guest.cli(&["pair", &format!("{}:{port}", owner.address()), &code]);
        let refused = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && refused.contains("somebody stands between"), "{refused}");
        let (ok, text) = said(inviting);
        assert!(!ok && text.contains("stands between the two nodes"), "{text}");
        for node in [owner, guest] {
            assert!(!node.ask(&["audit"]).contains("paired"));
        }
        drop(end);
    });
}
