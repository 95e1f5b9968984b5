use super::*;
use crate::peer::answer::make_ready;

/// Text as it comes in workspaces.
const TEXT: &[u8] = include_bytes!("../../../Cargo.lock");

#[test]
fn a_piece_is_made_ready_once_and_better_than_while_somebody_waits() {
    let mut shares = Shares::new(identity(1));
    let (small, large) = (shares.add_blob(TEXT), shares.add_blob(TEXT.repeat(9)));
    let owned = Owned(Arc::new(shares));
    let memory = PackedPieces::new(1 << 20);
    for (blob, groups, key) in [(small, 0..4, (small, 0..0)), (large, 16..32, (large, 16..32))] {
        let bytes = make_ready(&owned, &memory, (blob, groups.clone()), 9);
        let read = match blob.is_whole() {
            true => ServedWorkspace::blob(&owned, &blob.digest).unwrap(),
            false => ServedWorkspace::slice(&owned, &blob, groups.clone()).unwrap().into(),
        };
        let quick = packed::Packed::new(read, 1);
        assert_eq!(memory.ready(&key), Some(bytes));
        assert!(bytes < packed::cost(&quick), "{bytes}");
        let before = owned.0.reads.load(Ordering::SeqCst);
        assert_eq!(make_ready(&owned, &memory, (blob, groups), 9), bytes);
        assert_eq!(owned.0.reads.load(Ordering::SeqCst), before);
    }
    let unknown = Blob { digest: Digest::of(b"unknown"), size: 5 };
    assert_eq!(make_ready(&owned, &memory, (unknown, 0..1), 9), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_expected_is_ready_when_it_is_asked_for() {
    let mut shares = Shares::new(identity(1));
    // Behind each stands another: once that is being read, the one before it is ready.
    let [first, behind_first, second, behind_second] =
        [0, 1, 2, 3].map(|from| shares.add_blob(&TEXT[from..]));
    shares.expected.lock().unwrap().extend([(first, 0..1), (behind_first, 0..1)]);
    let server = Server::new(shares).await;
    let reads = async |count: usize| {
        while server.shares.reads.load(Ordering::SeqCst) < count {
            tokio::time::advance(Duration::from_millis(100)).await;
        }
    };
    reads(2).await;
    let client = connect(&identity(2), server.address, Expected::Any).await.unwrap();
    // Whatever a launch has told is made ready as well.
    server.shares.expected.lock().unwrap().extend([(second, 0..1), (behind_second, 0..1)]);
    client.offer(&WORKSPACE, &PathKey::from_bytes([1; 16]), &Profile::default()).await.unwrap();
    reads(4).await;
    let wanted = [first, second].map(|blob| PieceRequest::Blob { blob: blob.digest, size: blob.size });
    let pieces = collect(client.batch(WORKSPACE, wanted.to_vec()).await.unwrap()).await.unwrap();
    assert_eq!(pieces.len(), 2);
    assert_eq!(server.shares.reads.load(Ordering::SeqCst), 4, "nothing was read again");
}
