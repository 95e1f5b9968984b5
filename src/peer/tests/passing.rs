//! What one guest has from another.

use super::*;

/// A grant by `owner` for `reader`, valid for long.
fn grant(owner: &Identity, workspace: WorkspaceId, reader: NodeId) -> Grant {
    Grant {
        capability: Capability::sign(owner, workspace, reader, 1000, 1240),
        holders: vec![],
        revoked: vec![],
    }
}

async fn refused(client: &PeerClient, capability: Capability) -> bool {
    matches!(client.batch_of(capability, vec![]).await, Err(PeerError::Denied { .. }))
}

#[tokio::test]
async fn what_is_held_is_passed_on_to_whom_the_owner_lets_read() {
    let mut shares = Shares::new(identity(2));
    let small = shares.add_blob(&b"hello"[..]);
    let large = shares.add_blob(vec![7; 300_000]);
    let folder = Bytes::from_static(&[0x82, 0x00, 0x80]);
    shares.trees.lock().unwrap().insert(Digest::of(&folder), folder.clone());
    let server = Server::new(shares).await;
    let (owner, guest) = (identity(1), identity(3));
    let client = connect(&guest, server.address, Expected::Any).await.unwrap();
    let capability = Capability::sign(&owner, WORKSPACE, guest.id(), 1000, 1240);

    let pending = PendingRange { path: vec![Name::new(&b"f"[..]).unwrap()], token: 1, offset: 0, length: 1 };
    let pieces = vec![
        PieceRequest::Tree { tree: Digest::of(&folder), subtree: true },
        PieceRequest::Blob { blob: small.digest, size: small.size },
        PieceRequest::Slice { slice: large.digest, size: large.size, groups: [2, 5] },
        PieceRequest::Blob { blob: Digest::of(b"something else"), size: 14 },
        PieceRequest::Pending { pending },
    ];
    let answer = collect(client.batch_of(capability, pieces).await.unwrap()).await.unwrap();
    let [(0, Piece::Tree(..)), (1, Piece::Blob(blob)), (2, Piece::Slice(slice)), rest @ ..] = &answer[..]
    else {
        panic!("{answer:?}")
    };
    assert_eq!((&blob.bytes()[..], slice.groups()), (&b"hello"[..], 2..5));
    // A file without a digest is its owner's alone.
    let refusals = [3, 4].map(|position| (position, Piece::Refused(RefusedPiece::Unknown)));
    assert_eq!(format!("{rest:?}"), format!("{refusals:?}"));
}

#[tokio::test]
async fn only_the_readers_own_capability_counts() {
    let server = Server::new(Shares::new(identity(2))).await;
    let (owner, guest) = (identity(1), identity(3));
    let client = connect(&guest, server.address, Expected::Any).await.unwrap();
    let good = Capability::sign(&owner, WORKSPACE, guest.id(), 1000, 1240);
    assert!(!refused(&client, good).await);

    let anothers = Capability::sign(&owner, WORKSPACE, identity(4).id(), 1000, 1240);
    assert!(refused(&client, anothers).await, "another's");
    let stolen = Capability { reader: guest.id(), ..anothers };
    assert!(refused(&client, stolen).await, "another's, with the name changed");
    assert!(refused(&client, Capability { workspace: PRIVATE, ..good }).await, "for another workspace");
    assert!(refused(&client, Capability { expires: 9999, ..good }).await, "made to last");
    let forged =
        Capability { owner: owner.id(), ..Capability::sign(&guest, WORKSPACE, guest.id(), 1000, 1240) };
    assert!(refused(&client, forged).await, "signed by the guest itself");
}

#[tokio::test]
async fn a_catalogue_with_a_grant_that_is_not_the_owners_is_refused() {
    let (owner, guest) = (identity(1), identity(3));
    let own = grant(&owner, WORKSPACE, guest.id());
    let unknown = grant(&owner, PRIVATE, guest.id());
    let anothers = grant(&identity(5), WORKSPACE, guest.id());
    let crowd = Grant { revoked: vec![guest.id(); MAX_REVOKED + 1], ..own.clone() };
    let crowded = Grant { holders: vec![guest.id(); MAX_HOLDERS + 1], ..own.clone() };
    for (grants, good) in [
        (vec![own.clone()], true),
        (vec![unknown], false),
        (vec![anothers], false),
        (vec![crowded], false),
        (vec![crowd], false),
        (vec![own.clone(), own.clone()], false),
    ] {
        let shares = Shares::new(identity(1));
        *shares.grants.lock().unwrap() = grants.clone();
        let server = Server::new(shares).await;
        let client = connect(&guest, server.address, Expected::Any).await.unwrap();
        match client.catalogue(None, Duration::ZERO).await {
            Ok(Some(catalogue)) => assert!(good && catalogue.grants == grants, "{grants:?}"),
            Err(PeerError::Misbehaved { .. }) => assert!(!good, "{grants:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn who_else_reads_a_blob_is_told() {
    let mut shares = Shares::new(identity(1));
    let large = shares.add_blob(vec![7; 300_000]);
    let others: Vec<NodeId> = (5..9).map(|n| identity(n).id()).collect();
    shares.co_readers = others.clone();
    let server = Server::new(shares).await;
    let client = connect(&identity(3), server.address, Expected::Any).await.unwrap();
    let piece = PieceRequest::Slice { slice: large.digest, size: large.size, groups: [2, 5] };
    let answer = client.batch(WORKSPACE, vec![piece]).await.unwrap();
    assert_eq!(answer.co_readers(), others);
}
