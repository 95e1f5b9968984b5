//! Edits on their way to the owner.

use super::*;
use crate::tree::{NewFile, Step};

#[tokio::test]
async fn an_edit_under_way_is_not_made_once_the_right_is_taken_back() {
    let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let shares = publish::Shares::open(state.path(), publish::SharesOptions::default()).unwrap();
    let share = shares.add(folder.path(), publish::ShareOptions::default()).unwrap();
    let server = Server::new(Shares::new(identity(1))).await;
    *server.shares.writable.lock().unwrap() = Some(share);
    let client = connect(&identity(2), server.address, Expected::Any).await.unwrap();
    let arriving = || {
        let names = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.as_encoded_bytes().starts_with(b".twinshare-incoming-")).count()
    };
    let new = NewFile { mode: 0o644, modified: Timestamp::default(), size: 2 };
    let path = vec![Name::new(&b"new"[..]).unwrap()];
    let edit = Edit { bases: Vec::new(), steps: vec![Step::File(path, new)] };
    for taken_back in [true, false] {
        let (bytes, content) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(1);
        let content = futures_util::stream::unfold(content, async |mut content| {
            content.recv().await.map(|bytes| (bytes, content))
        });
        let (client, sent) = (client.clone(), edit.clone());
        let answer = tokio::spawn(async move { client.edit(&WORKSPACE, &sent, Box::pin(content)).await });
        bytes.send(Ok(Bytes::from_static(b"a"))).await.unwrap();
        while arriving() == 0 {
            tokio::task::yield_now().await;
        }
        if taken_back {
            server.shares.writable.lock().unwrap().take();
        }
        // The owner may have ended it already.
        let _ = bytes.send(Ok(Bytes::from_static(b"b"))).await;
        drop(bytes);
        let answer = answer.await.unwrap();
        assert_eq!(answer.is_err(), taken_back, "{answer:?}");
        assert_eq!(folder.path().join("new").exists(), !taken_back);
        assert_eq!(arriving(), 0);
        *server.shares.writable.lock().unwrap() = shares.list().pop();
    }
}
