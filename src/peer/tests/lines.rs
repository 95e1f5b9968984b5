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
        let mut stream = spoken(&credentials, server.address, 1 << 20).await;
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

/// A connection over which a test says what it likes; the kernel keeps `buffer` bytes of what comes for it.
async fn spoken(
    credentials: &Credentials,
    address: SocketAddr,
    buffer: u32,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let verifier = tls::ServerVerifier::new(credentials, Expected::Any);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(credentials.client_config(verifier).unwrap()));
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(buffer).unwrap();
    let stream = socket.connect(address).await.unwrap();
    connector.connect(rustls::pki_types::ServerName::from(address.ip()), stream).await.unwrap()
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_off_and_little_waits_for_it() {
    const SIZE: usize = 64 << 20;
    let mut shares = Shares::new(identity(1));
    // Bytes that don't get smaller when they are compressed.
    let mut bytes = vec![0; SIZE];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let large = shares.add_blob(bytes);
    let server = Server::new(shares).await;
    let mut stream = spoken(&Credentials::new(&identity(2)).unwrap(), server.address, 64 << 10).await;
    let slice = |n: u64| PieceRequest::Slice {
        slice: large.digest,
        size: large.size,
        groups: [256 * n, 256 * (n + 1)],
    };
    let request = BatchRequest {
        workspace: WORKSPACE,
        pieces: (0..16).map(slice).collect(),
        capability: None,
        bulk: false,
    };
    let body = serde_json::to_vec(&request).unwrap();
    let head = format!("POST /v1/batch HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
    // The second slice is made when the first has been handed over; the kernel and the channel don't hold both.
    while server.shares.reads.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    for _ in 0..50 {
        tokio::time::advance(Duration::from_secs(31)).await;
        tokio::task::spawn_blocking(|| ()).await.unwrap();
    }
    tokio::time::resume();
    let mut came = Vec::new();
    // In what form it ends doesn't matter.
    let _ = stream.read_to_end(&mut came).await;
    assert!(came.len() < SIZE / 2, "{} bytes came", came.len());
    assert!(server.shares.reads.load(Ordering::SeqCst) <= 5, "what nobody takes isn't made");
}
