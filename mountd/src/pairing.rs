//! Pairing as its users see it: an invitation with a code here, or a code from elsewhere.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use twinshare::{
    api::{Invitation, PairingEnd, Problem},
    peer::{Identity, Invited, PairError, PairingCode, PeerClient, PeerError, Refusal, Reply, invite},
    types::NodeId,
};

use crate::consent::Consent;

/// For so long a code is good.
const LASTS: Duration = Duration::from_secs(300);

/// Whoever has had an answer proves within this that they know the code: their node does it at once.
const PROVES: Duration = Duration::from_secs(15);

/// The pairing under way, of which there is one at a time.
pub(crate) struct Pairing {
    identity: Arc<Identity>,
    consent: Arc<Consent>,
    open: Mutex<Option<Open>>,
    /// Grows with whatever becomes of an invitation.
    changed: watch::Sender<u64>,
}

/// An invitation that somebody may still take.
struct Open {
    code: PairingCode,
    until: Instant,
    stage: Stage,
}

enum Stage {
    Waiting,
    /// Somebody has had an answer, and is to prove that they know the code.
    Answered(NodeId, Invited),
    Ended(PairingEnd),
}

impl Pairing {
    pub(crate) fn new(identity: Arc<Identity>, consent: Arc<Consent>) -> Arc<Self> {
        Arc::new(Self { identity, consent, open: Mutex::default(), changed: watch::Sender::new(0) })
    }

    fn open(&self) -> MutexGuard<'_, Option<Open>> {
        // Every change is complete before anything can panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a code with which one node can pair, within five minutes. An invitation before it is void.
    pub(crate) fn invite(&self) -> Invitation {
        let code = PairingCode::random();
        *self.open() =
            Some(Open { code: code.clone(), until: Instant::now() + LASTS, stage: Stage::Waiting });
        self.tell();
        Invitation { code, seconds: LASTS.as_secs() }
    }

    /// Waits until something has become of the invitation with this code.
    pub(crate) async fn outcome(&self, code: &PairingCode) -> PairingEnd {
        let mut changes = self.changed.subscribe();
        loop {
            changes.borrow_and_update();
            let (until, then) = match &*self.open() {
                Some(open) if open.code == *code => match &open.stage {
                    Stage::Ended(end) => return end.clone(),
                    Stage::Answered(peer, _) => (open.until, PairingEnd::Failed { peer: *peer }),
                    Stage::Waiting => (open.until, PairingEnd::Expired),
                },
                _ => return PairingEnd::Expired,
            };
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(until) => return then,
            }
        }
    }

    /// Answers the first message of a node that wants to pair. A code takes one try: after it, it's void.
    pub(crate) fn answer(&self, joiner: NodeId, message: &[u8]) -> Result<Reply, Refusal> {
        let mut guard = self.open();
        let open = guard.as_mut().filter(|open| Instant::now() < open.until).ok_or(Refusal::Denied)?;
        let Stage::Waiting = open.stage else { return Err(Refusal::Denied) };
        let answered = invite(&open.code, self.identity.id(), joiner, message);
        let (stage, reply) = match answered {
            Ok((reply, invited)) => {
                open.until = open.until.min(Instant::now() + PROVES);
                (Stage::Answered(joiner, invited), Ok(reply))
            }
            Err(_) => (Stage::Ended(PairingEnd::Failed { peer: joiner }), Err(Refusal::Denied)),
        };
        open.stage = stage;
        drop(guard);
        self.tell();
        reply
    }

    /// Takes what shows that the node knows the code.
    pub(crate) fn prove(&self, joiner: NodeId, proof: [u8; 32]) -> Result<(), Refusal> {
        let mut guard = self.open();
        let open = guard.as_mut().filter(|open| Instant::now() < open.until).ok_or(Refusal::Denied)?;
        let is_right = match &open.stage {
            Stage::Answered(answered, invited) if *answered == joiner => invited.check(&proof).is_ok(),
            _ => return Err(Refusal::Denied),
        };
        // Kept before the other is told so.
        let is_kept = is_right && self.keep(joiner);
        open.stage = Stage::Ended(match is_kept {
            true => PairingEnd::Paired { peer: joiner },
            false => PairingEnd::Failed { peer: joiner },
        });
        drop(guard);
        self.tell();
        if is_kept { Ok(()) } else { Err(Refusal::Denied) }
    }

    /// Pairs with a node whose user has told a code.
    pub(crate) async fn join(&self, peer: &PeerClient, code: &PairingCode) -> Result<(), Problem> {
        peer.pair(code, self.identity.id()).await.map_err(|error| match error {
            PairError::NotPaired(error) => Problem::denied(error).with_remedy(
                "ask for a new code: 'twinshare pair' there gives one; each is good for one try",
            ),
            PairError::Peer(PeerError::Denied { .. }) => {
                Problem::denied("the other node waits for nobody, or has refused the code")
                    .with_remedy("'twinshare pair' there gives a new code; each is good for one try")
            }
            PairError::Peer(error) => Problem::unreachable(error.to_string()),
        })?;
        if self.keep(peer.id()) {
            Ok(())
        } else {
            Err(Problem::failed("the pairing can't be kept on the disk"))
        }
    }

    fn keep(&self, peer: NodeId) -> bool {
        let kept = self.consent.pair(peer, true);
        if let Err(error) = &kept {
            tracing::error!(%error, "a pairing can't be kept");
        }
        kept.is_ok()
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use twinshare::{
        access::{Access, Rights},
        peer::Joining,
        types::WorkspaceId,
    };

    use super::*;
    use crate::events::Events;

    const BOB: NodeId = NodeId::from_bytes([2; 32]);
    const EVE: NodeId = NodeId::from_bytes([3; 32]);

    fn ann(state: &std::path::Path) -> Arc<Pairing> {
        let identity = Arc::new(Identity::load_or_create(&state.join("identity")).unwrap());
        Pairing::new(identity, Consent::open(state, Events::new()).unwrap())
    }

    fn is_friend(pairing: &Pairing, node: NodeId) -> bool {
        let lab = WorkspaceId::from_bytes([1; 16]);
        pairing.consent.rights(&lab, Access::Peers, Some(node)) == Rights::USUAL
    }

    #[tokio::test]
    async fn a_code_pairs_one_node_once() {
        let state = tempfile::tempdir().unwrap();
        let ann = ann(state.path());
        let own = ann.identity.id();
        assert_eq!(ann.answer(BOB, &[0; 33]), Err(Refusal::Denied), "nobody is invited");
        let code = ann.invite().code;
        let (joining, message) = Joining::begin(&code, BOB, own);
        let reply = ann.answer(BOB, &message).unwrap();
        assert_eq!(ann.answer(EVE, &message), Err(Refusal::Denied), "one at a time");
        let proof = joining.finish(&reply).unwrap();
        assert_eq!(ann.prove(EVE, proof), Err(Refusal::Denied), "and the same one");
        assert!(!is_friend(&ann, BOB));
        ann.prove(BOB, proof).unwrap();
        assert_eq!(ann.outcome(&code).await, PairingEnd::Paired { peer: BOB });
        assert!(is_friend(&ann, BOB) && !is_friend(&ann, EVE));
        assert_eq!(ann.prove(BOB, proof), Err(Refusal::Denied));
        assert_eq!(ann.answer(BOB, &message), Err(Refusal::Denied), "the code is used up");
        ann.consent.pair(BOB, false).unwrap();
        assert!(!is_friend(&ann, BOB));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_guess_ends_the_invitation_and_so_does_time() {
        let state = tempfile::tempdir().unwrap();
        let ann = ann(state.path());
        let code = ann.invite().code;
        let wrong = if code.to_string() == "000-000" { "000-001" } else { "000-000" }.parse().unwrap();
        let (joining, message) = Joining::begin(&wrong, EVE, ann.identity.id());
        let reply = ann.answer(EVE, &message).unwrap();
        assert!(joining.finish(&reply).is_err());
        assert_eq!(ann.prove(EVE, [0; 32]), Err(Refusal::Denied));
        assert_eq!(ann.outcome(&code).await, PairingEnd::Failed { peer: EVE });

        let code = ann.invite().code;
        ann.answer(EVE, &message).unwrap();
        let end = tokio::time::timeout(2 * PROVES, ann.outcome(&code)).await.unwrap();
        assert_eq!(end, PairingEnd::Failed { peer: EVE }, "who proves nothing has used the code up");

        let code = ann.invite().code;
        assert_eq!(ann.outcome(&code).await, PairingEnd::Expired, "after five minutes");
        assert_eq!(ann.answer(BOB, &message), Err(Refusal::Denied));
        assert_eq!(ann.outcome(&PairingCode::random()).await, PairingEnd::Expired);
    }
}
