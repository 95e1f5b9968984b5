//! A peer that answers what it shouldn't.

use super::{packed::Packed, *};

/// What a hostile node does after it has sent its answer.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// It ends the connection in good form.
    Close,
    /// It sends the same again, and again.
    Repeat,
    /// It says nothing more.
    Silence,
}

/// A client of a node that answers every batch with `body` and keeps to no other rule.
async fn hostile(body: Vec<u8>, then: Then, idle: Duration) -> PeerClient {
    let owner = identity(1);
    let credentials = Credentials::new(&owner).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(credentials.server_config().unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let info = serde_json::to_string(&Owned(Arc::new(Shares::new(owner))).node()).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = acceptor.accept(stream).await.unwrap();
            tokio::spawn(answer_all(stream, info.clone(), body.clone(), then));
        }
    });
    PeerClient::connect(
        &Credentials::new(&identity(2)).unwrap(),
        &Bandwidth::default(),
        &[address],
        Expected::Any,
        idle,
    )
    .await
    .unwrap()
}

async fn answer_all(
    mut stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    info: String,
    body: Vec<u8>,
    then: Then,
) {
    let mut request = vec![0; 1 << 20];
    while let Ok(length) = stream.read(&mut request).await
        && length > 0
    {
        if request.starts_with(b"GET /v1/node") {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{info}", info.len());
            stream.write_all(head.as_bytes()).await.unwrap();
            continue;
        }
        let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut sent = stream.write_all(&body).await;
        while sent.is_ok() && then == Then::Repeat {
            sent = stream.write_all(&body).await;
        }
        let _ = stream.flush().await;
        if then == Then::Silence {
            std::future::pending::<()>().await;
        }
        let _ = stream.shutdown().await;
        break;
    }
}

fn framed(kind: Kind, index: u32, payload: &[u8]) -> Vec<u8> {
    let mut output = Vec::new();
    frame::put(&mut output, kind, index, &Packed::new(Bytes::copy_from_slice(payload), 1));
    output
}

fn bundle(objects: &[&[u8]]) -> Vec<u8> {
    let mut bundle = Vec::new();
    for object in objects {
        frame::put_object(&mut bundle, object);
    }
    bundle
}

#[tokio::test]
async fn hostile_answers_are_errors() {
    let shares = Shares::new(identity(1));
    let leaf = write_folder(&[file("deep", 1)], &shares).unwrap();
    let root = write_folder(&[folder("leaf", leaf)], &shares).unwrap();
    let stranger = write_folder(&[file("other", 1)], &shares).unwrap();
    let objects = shares.trees.lock().unwrap().clone();
    let object = |digest: Digest| objects[&digest].to_vec();
    let content = noise(1_000_000);
    let hashed = hash_bytes(&content);
    let blob = Blob { digest: hashed.digest, size: content.len() as u64 };
    let slice = encode_slice(blob, 0..2, &content, &hashed.outboard).unwrap();
    let other_slice = encode_slice(blob, 2..4, &content, &hashed.outboard).unwrap();

    let hello = PieceRequest::Blob { blob: Digest::of(b"hello"), size: 5 };
    let tree = |subtree| PieceRequest::Tree { tree: root, subtree };
    let range = PieceRequest::Slice { slice: blob.digest, size: blob.size, groups: [0, 2] };
    let pending = PieceRequest::Pending {
        pending: PendingRange { path: vec![Name::new(&b"n"[..]).unwrap()], token: 1, offset: 0, length: 5 },
    };
    let chunks = ChunkList::of_window(&content, 0..blob.size, 0).unwrap();
    let mut flipped_outline = encode_outline(blob, 0, &chunks, &hashed.outboard).unwrap();
    *flipped_outline.last_mut().unwrap() ^= 1;
    let outline = PieceRequest::Outline { outline: blob.digest, size: blob.size, window: 0 };
    let raw = |kind, compressed, payload: &[u8], length| {
        let header = Header { kind, compressed, index: 0, payload: payload.len() as u32, length };
        [&header.encode()[..], payload].concat()
    };
    let end = |count| {
        let mut output = Vec::new();
        frame::put_empty(&mut output, Kind::End, count);
        output
    };
    let refused = |index| {
        let mut output = Vec::new();
        frame::put_empty(&mut output, Kind::Unknown, index);
        output
    };
    let good = framed(Kind::Blob, 0, b"hello");
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
    let mut flipped = slice.clone();
    flipped[100] ^= 1;

    let (wide_shares, wide_root) = wide();
    let wide_objects = wide_shares.trees.into_inner().unwrap();
    let mut wide_answer = Vec::new();
    let mut queue = VecDeque::from([wide_root]);
    while let Some(digest) = queue.pop_front() {
        queue.extend(crate::tree::children(&wide_objects[&digest]).unwrap());
        wide_answer.extend(framed(Kind::Trees, 0, &bundle(&[&wide_objects[&digest]])));
    }

    // What is asked, what is answered, what the error says, and how many pieces come before it.
    let cases: Vec<(Vec<PieceRequest>, Vec<u8>, &str, usize)> = vec![
        (vec![hello.clone()], b"<html>no frames at all</html>".to_vec(), "unknown kind", 0),
        (vec![hello.clone()], framed(Kind::Blob, 0, b"hellO"), "doesn't match its digest", 0),
        (vec![hello.clone()], framed(Kind::Blob, 0, b"hello!"), "another length", 0),
        (vec![hello.clone()], framed(Kind::Blob, 1, b"hello"), "wasn't asked for", 0),
        (vec![hello.clone()], framed(Kind::Pending, 0, b"hello"), "of another kind", 0),
        (vec![hello.clone()], [good.clone(), good.clone()].concat(), "out of turn", 1),
        (vec![hello.clone()], [refused(0), good.clone()].concat(), "out of turn", 1),
        (vec![hello.clone()], end(1), "before piece 0 was answered", 0),
        (vec![hello.clone()], [good.clone(), end(2)].concat(), "wasn't asked for", 1),
        (vec![hello.clone()], [good.clone(), end(1), b"x".to_vec()].concat(), "after the end", 1),
        (vec![hello.clone(), hello.clone()], framed(Kind::Blob, 1, b"hello"), "before piece 0", 0),
        (vec![hello.clone(), hello.clone()], [refused(0), refused(1), refused(0)].concat(), "out of turn", 2),
        (vec![hello.clone()], raw(Kind::Blob, false, b"", u32::MAX), "too long", 0),
        (vec![hello.clone()], raw(Kind::Blob, false, b"hello", 6), "contradict", 0),
        (vec![hello.clone()], raw(Kind::Blob, true, b"hell", 5), "decompress", 0),
        (vec![hello.clone()], raw(Kind::Blob, true, &bomb, 5), "contradict", 0),
        (vec![range.clone()], raw(Kind::Slice, true, &bomb, 32 << 10), "decompress", 0),
        (vec![range.clone()], raw(Kind::Slice, true, &bomb, 64 << 10), "another length", 0),
        (vec![range.clone()], framed(Kind::Slice, 0, &flipped), "doesn't match its digest", 0),
        (vec![range.clone()], framed(Kind::Slice, 0, &other_slice), "doesn't match its digest", 0),
        (
            vec![range.clone()],
            framed(Kind::Slice, 0, &slice[..slice.len() - 1]),
            "doesn't match its digest",
            0,
        ),
        (vec![pending.clone()], framed(Kind::Pending, 0, b"four"), "another length", 0),
        (vec![outline.clone()], framed(Kind::Outline, 0, &flipped_outline), "doesn't match its digest", 0),
        (vec![outline.clone()], framed(Kind::Outline, 0, b""), "doesn't match its digest", 0),
        (vec![outline.clone()], raw(Kind::Outline, true, &bomb, 64 << 10), "too long", 0),
        (vec![outline.clone()], framed(Kind::Slice, 0, &slice), "of another kind", 0),
        (vec![tree(false)], framed(Kind::Trees, 0, &bundle(&[&object(stranger)])), "wasn't asked for", 0),
        (
            vec![tree(false)],
            framed(Kind::Trees, 0, &bundle(&[&object(root), &object(leaf)])),
            "wasn't asked for",
            0,
        ),
        (
            vec![tree(true)],
            framed(Kind::Trees, 0, &bundle(&[&object(leaf), &object(root)])),
            "wasn't asked for",
            0,
        ),
        (
            vec![tree(true)],
            framed(Kind::Trees, 0, &bundle(&[&object(root), &object(root)])),
            "wasn't asked for",
            0,
        ),
        (
            vec![tree(true)],
            [
                framed(Kind::Trees, 0, &bundle(&[&object(root), &object(leaf)])),
                framed(Kind::Trees, 0, &bundle(&[&object(leaf)])),
            ]
            .concat(),
            "wasn't asked for",
            2,
        ),
        (
            vec![tree(true)],
            [
                framed(Kind::Trees, 0, &bundle(&[&object(root)])),
                framed(Kind::Trees, 0, &bundle(&[&object(stranger)])),
            ]
            .concat(),
            "wasn't asked for",
            1,
        ),
        (
            vec![tree(true)],
            [refused(0), framed(Kind::Trees, 0, &bundle(&[&object(root)]))].concat(),
            "out of turn",
            1,
        ),
        (vec![tree(true)], framed(Kind::Trees, 0, &bundle(&[&object(root)])[..20]), "cut off", 0),
        (vec![tree(true)], framed(Kind::Trees, 0, &[]), "cut off", 0),
        (
            vec![hello.clone(), tree(true)],
            [
                good.clone(),
                framed(Kind::Trees, 1, &bundle(&[&object(root)])),
                framed(Kind::Trees, 0, &bundle(&[&object(leaf)])),
            ]
            .concat(),
            "out of turn",
            2,
        ),
        (
            // The object is named below the first piece, but not below the second.
            vec![tree(true), PieceRequest::Tree { tree: stranger, subtree: true }],
            [
                framed(Kind::Trees, 0, &bundle(&[&object(root)])),
                framed(Kind::Trees, 1, &bundle(&[&object(stranger), &object(leaf)])),
            ]
            .concat(),
            "wasn't asked for",
            3,
        ),
        (
            vec![PieceRequest::Tree { tree: wide_root, subtree: true }],
            wide_answer,
            "more tree objects",
            usize::MAX,
        ),
        (
            vec![PieceRequest::Tree { tree: Digest::of(b"no tree"), subtree: false }],
            framed(Kind::Trees, 0, &bundle(&[b"no tree"])),
            "isn't one",
            0,
        ),
    ];
    for (pieces, body, says, before) in cases {
        let client = hostile(body, Then::Close, IDLE).await;
        let mut answer = client.batch(WORKSPACE, pieces.clone()).await.unwrap();
        let mut came = 0;
        let error = loop {
            match answer.next().await {
                Ok(Some(_)) => came += 1,
                Ok(None) => panic!("accepted: {says}"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, PeerError::Misbehaved { peer, .. } if peer == identity(1).id()), "{error}");
        assert!(error.to_string().contains(says), "{error} for {says}");
        assert!(came <= before, "{came} pieces before {error}");
    }
}

#[tokio::test]
async fn hostile_catalogues_are_errors() {
    let owner = Owned(Arc::new(Shares::new(identity(1))));
    let good = owner.catalogue(None);
    let changed = |change: &dyn Fn(&mut Catalogue)| {
        let mut catalogue = good.clone();
        change(&mut catalogue);
        serde_json::to_vec(&catalogue).unwrap()
    };
    let ask = async |body: Vec<u8>| {
        let client = hostile(body, Then::Close, IDLE).await;
        client.catalogue(None, Duration::ZERO).await
    };
    assert_eq!(ask(changed(&|_| ())).await.unwrap().as_ref(), Some(&good));
    let other_head = |catalogue: &mut Catalogue| {
        let head = catalogue.workspaces[0].head.head;
        catalogue.workspaces[0].head = SignedHead::sign(head, &identity(2));
    };
    for (body, says) in [
        (changed(&other_head), "isn't signed"),
        (changed(&|catalogue| catalogue.workspaces[0].head.head.sequence += 1), "isn't signed"),
        (changed(&|catalogue| catalogue.workspaces[0].id = PRIVATE), "isn't signed"),
        (changed(&|catalogue| catalogue.workspaces.extend_from_within(..)), "twice"),
        (
            changed(&|catalogue| catalogue.workspaces = vec![catalogue.workspaces[0].clone(); 1025]),
            "more workspaces",
        ),
        (changed(&|catalogue| catalogue.tag.clear()), "tag"),
        (vec![b' '; 9 << 20], "too long"),
        (b"{\"tag\":\"\x1b[2J\"".to_vec(), "can't be read"),
    ] {
        let error = ask(body).await.unwrap_err();
        assert!(matches!(error, PeerError::Misbehaved { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error} for {says}");
    }
}

#[tokio::test]
async fn an_answer_that_ends_early_is_noticed() {
    let hello = PieceRequest::Blob { blob: Digest::of(b"hello"), size: 5 };
    let whole = [framed(Kind::Blob, 0, b"hello"), framed(Kind::End, 1, b"")].concat();
    for length in 0..whole.len() {
        let client = hostile(whole[..length].to_vec(), Then::Close, IDLE).await;
        let error = collect(client.batch(WORKSPACE, vec![hello.clone()]).await.unwrap()).await.unwrap_err();
        assert!(matches!(error, PeerError::Interrupted { .. }), "{length}: {error}");
    }
    let client = hostile(whole, Then::Close, IDLE).await;
    assert_eq!(collect(client.batch(WORKSPACE, vec![hello]).await.unwrap()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_endless_answer_is_left() {
    let hello = PieceRequest::Blob { blob: Digest::of(b"hello"), size: 5 };
    for body in [framed(Kind::Blob, 0, b"hello"), vec![0; 4096], framed(Kind::End, 1, b"")] {
        let client = hostile(body, Then::Repeat, IDLE).await;
        let error = collect(client.batch(WORKSPACE, vec![hello.clone()]).await.unwrap()).await.unwrap_err();
        assert!(matches!(error, PeerError::Misbehaved { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_silent_peer_times_out() {
    // The idle time is short since the test has to wait for it.
    let part = framed(Kind::Blob, 0, b"hello")[..16].to_vec();
    let client = hostile(part, Then::Silence, Duration::from_secs(1)).await;
    let hello = PieceRequest::Blob { blob: Digest::of(b"hello"), size: 5 };
    let answer = client.batch(WORKSPACE, vec![hello]).await.unwrap();
    assert!(matches!(collect(answer).await, Err(PeerError::Timeout { .. })));
}
