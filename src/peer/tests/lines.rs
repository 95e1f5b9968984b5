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
    tokio::spawn(async move {
        serve(listener, &credentials, again, |_, _| true, ServeOptions::default(), std::future::pending())
            .await
    });
    assert_eq!(ask().await.unwrap(), 1);
}

#[tokio::test]
async fn no_more_profiles_are_heard_at_a_time_than_fit_into_memory() {
    let server = Server::new(Shares::new(identity(1))).await;
    let (program, profile) = (PathKey::from_bytes([4; 16]), Profile::default());
    let credentials = Credentials::new(&identity(2)).unwrap();
    let begin = async || {
        let verifier = tls::ServerVerifier::new(&credentials, Expected::Any);
        let connector =
            tokio_rustls::TlsConnector::from(Arc::new(credentials.client_config(verifier).unwrap()));
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let name = rustls::pki_types::ServerName::from(server.address.ip());
        let mut stream = connector.connect(name, stream).await.unwrap();
        let url = format!("/v1/profile?workspace={WORKSPACE}&program={program}");
        let head = format!("POST {url} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    let mut silent = Vec::new();
    let client = connect(&identity(3), server.address, Expected::Any).await.unwrap();
    let offer = async || client.offer(&WORKSPACE, &program, &profile).await;
    // One that comes while an offer is heard may be turned away itself: so as many come as are needed.
    while offer().await.is_ok() {
        silent.push(begin().await);
    }
    assert!(matches!(offer().await, Err(PeerError::Busy(_))));
    drop(silent);
    while offer().await.is_err() {}
}
