//! Three hosts: what one guest passes on to another, and what not.

use std::{fs, net::SocketAddr, time::Duration};

use jiff::Timestamp;
use twinshare::{
    peer::{
        Answer, Bandwidth, Capability, Credentials, Expected, IDLE, Identity, PeerClient, PeerError, Piece,
        PieceRequest, RefusedPiece,
    },
    types::{Digest, WorkspaceId},
};

use crate::{lan::Lan, link::in_namespace, node::Node, sample::random, wait::wait_for};

const LIMIT: Duration = Duration::from_secs(10);

/// A node that speaks to others by the library, so that it can ask for what no node would.
struct Stranger {
    identity: Identity,
    credentials: Credentials,
}

impl Stranger {
    async fn client(&self, node: &Node) -> PeerClient {
        let port = node.json(&["status", "--json"])["share_port"].as_u64().unwrap() as u16;
        let address = SocketAddr::from((node.address(), port));
        PeerClient::connect(&self.credentials, &Bandwidth::default(), &[address], Expected::Any, IDLE)
            .await
            .unwrap()
    }

    /// A capability in its own name, for itself.
    fn forged(&self, workspace: WorkspaceId) -> Capability {
        let now = Timestamp::now().as_second() as u64;
        Capability::sign(&self.identity, workspace, self.identity.id(), now - 10, now + 200)
    }
}

/// The one piece of an answer.
async fn only(answer: Result<Answer, PeerError>) -> Result<Piece, PeerError> {
    Ok(answer?.next().await?.expect("one piece").1)
}

fn is_refused(answer: &Result<Piece, PeerError>) -> bool {
    matches!(answer, Err(PeerError::Denied { .. } | PeerError::Unknown { .. }))
}

#[test]
fn who_caches_a_workspace_refuses_it_to_whoever_the_owner_has_not_let_in() {
    let Some(lan) = Lan::new() else { return };
    let (owner, ada, ben) = (&lan.owner, &lan.guests[0], &lan.guests[1]);
    let content = |name: &str| random(name, 0, 5000);
    owner.up(&[]);
    for name in ["lab", "other"] {
        let folder = owner.files().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("f"), content(name)).unwrap();
        owner.ask(&["share", folder.to_str().unwrap(), "--name", name, "--access", "ask", "--wait"]);
    }
    ada.up(&[]);
    for name in ["lab", "other"] {
        wait_for("the name is seen", LIMIT, || ada.workspace("owner", name));
        owner.ask(&["access", name, "--allow", "ada"]);
        let seen = ada.mount().join("owner").join(name).join("f");
        wait_for("ada has read it", LIMIT, || (fs::read(&seen).ok()? == content(name)).then_some(()));
    }
    let identity = Identity::load_or_create(&ben.files().join("identity")).unwrap();
    let stranger = Stranger { credentials: Credentials::new(&identity).unwrap(), identity };
    // The digests are no secret: whoever has the files somewhere else has them.
    let want = |name: &str| vec![PieceRequest::Blob { blob: Digest::of(&content(name)), size: 5000 }];
    let me = stranger.identity.id().to_string();
    in_namespace(ben.namespace(), || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let (at_owner, at_ada) = (stranger.client(owner).await, stranger.client(ada).await);
            let catalogue = at_owner.catalogue(None, Duration::ZERO).await.unwrap().unwrap();
            let lab =
                catalogue.workspaces.iter().find(|workspace| workspace.name.as_str() == "lab").unwrap().id;
            assert!(catalogue.grants.is_empty());
            assert!(is_refused(&only(at_owner.batch(lab, want("lab")).await).await));
            assert!(is_refused(&only(at_ada.batch(lab, want("lab")).await).await));
            assert!(is_refused(&only(at_ada.batch_of(stranger.forged(lab), want("lab")).await).await));

            // The owner lets it in: then ada gives it what is of this workspace, and nothing else.
            owner.ask(&["requests", "allow", "lab", &me]);
            let catalogue = at_owner.catalogue(Some(&catalogue.tag), LIMIT).await.unwrap().unwrap();
            let capability = catalogue.grants[0].capability;
            let given = only(at_ada.batch_of(capability, want("lab")).await).await.unwrap();
            assert!(matches!(&given, Piece::Blob(blob) if blob.bytes()[..] == content("lab")), "{given:?}");
            let other = only(at_ada.batch_of(capability, want("other")).await).await.unwrap();
            assert!(matches!(other, Piece::Refused(RefusedPiece::Unknown)), "{other:?}");
            // Another's capability serves nobody else, and a changed one nobody at all.
            let stretched = Capability { expires: capability.expires + 1, ..capability };
            assert!(is_refused(&only(at_ada.batch_of(stretched, want("lab")).await).await));

            // Ada hears at once that it was shut out again.
            owner.ask(&["access", "lab", "--revoke", &me]);
            let started = std::time::Instant::now();
            while !is_refused(&only(at_ada.batch_of(capability, want("lab")).await).await) {
                assert!(started.elapsed() < LIMIT, "still given");
                tokio::task::yield_now().await;
            }
        });
    });
}
