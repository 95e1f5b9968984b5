use super::*;

#[tokio::test]
async fn one_connection_after_the_other_carries_batches() {
    let mut shares = Shares::new(identity(1));
    let blob = shares.add_blob(&b"some bytes"[..]);
    let server = Server::new(shares).await;
    let client = connect(&identity(2), server.address, Expected::Any).await.unwrap();
    let wanted = || vec![PieceRequest::Blob { blob: blob.digest, size: blob.size }];
    let ask = async || collect(client.batch(WORKSPACE, wanted()).await?).await.map(|pieces| pieces.len());
    for _ in 0..3 {
        assert_eq!(ask().await.unwrap(), 1);
        assert_eq!(client.idle_lines(), 1, "used again");
    }
    // Those that are dropped early are closed.
    let answer = client.batch(WORKSPACE, wanted()).await.unwrap();
    assert_eq!(client.idle_lines(), 0);
    drop(answer);
    assert_eq!(client.idle_lines(), 0);
    assert_eq!(ask().await.unwrap(), 1);

    // The owner starts anew, and nobody has told the connection that is still kept.
    let Server { address, shares, stop, task } = server;
    drop(stop);
    task.await.unwrap().unwrap();
    assert!(matches!(ask().await, Err(PeerError::Unreachable { .. })));
    let listener = TcpListener::bind(address).await.unwrap();
    let credentials = Credentials::new(&identity(1)).unwrap();
    let again = Arc::new(Owned(shares));
    tokio::spawn(
        async move { serve(listener, &credentials, again, |_, _| true, std::future::pending()).await },
    );
    assert_eq!(ask().await.unwrap(), 1);
}
