use std::{ffi::OsStr, fs};

use twinshare::{
    access::Access,
    api::{AccessRequest, BulkTurn, Client, Decision, Share, ShareRequest},
    types::NodeId,
};

use super::{
    arguments,
    arguments::Whom,
    failure::Failure,
    output::{Side, count, fields, json, plain, size, suggestion, table},
    session::Session,
};

pub(super) async fn share(session: &Session, options: arguments::Share) -> Result<String, Failure> {
    let path = options.path.display();
    let cannot = |failure: Failure| failure.while_doing(format!("share '{path}'"));
    let folder = fs::canonicalize(&options.path).map_err(|error| cannot(Failure::new(error.to_string())))?;
    if !folder.is_dir() {
        return Err(cannot(
            Failure::new("it isn't a folder").with_remedy("share the folder that it lies in"),
        ));
    }
    let request = ShareRequest {
        path: folder.into(),
        name: options.name,
        access: options.access,
        keep: options.keep,
        snapshots: options.snapshots,
        wait: options.wait,
    };
    let share = session.client()?.share(&request).await.map_err(|error| cannot(error.into()))?;
    if options.format.json { json(&share) } else { Ok(describe(&share)) }
}

fn describe(share: &Share) -> String {
    let snapshot = match share.snapshot {
        Some(snapshot) if !share.provisional => snapshot.to_string(),
        _ => format!(
            "not yet: {} of {} hashed; peers can use it already ('--wait' waits)",
            size(share.progress.hashed_bytes),
            size(share.progress.bytes)
        ),
    };
    let mut rows = vec![
        ("shared", share.name.to_string()),
        ("folder", plain(&share.path.to_string())),
        ("snapshot", snapshot),
        ("files", format!("{} ({})", count(share.files), size(share.bytes))),
        ("access", access(share.access).to_owned()),
        ("kept", kept(share)),
    ];
    if share.left_out.count > 0 {
        let mut examples: Vec<String> =
            share.left_out.examples.iter().take(5).map(|path| plain(&path.to_string())).collect();
        if share.left_out.count > examples.len() as u64 {
            examples.push("…".to_owned());
        }
        rows.push(("left out", format!("{}: {}", count(share.left_out.count), examples.join(", "))));
    }
    if share.left_out.secrets > 0 {
        let how = "a line '!/PATH' in .twinshareignore shares one all the same";
        rows.push((
            "secrets",
            format!("{} of these look like secrets; {how}", count(share.left_out.secrets)),
        ));
    }
    fields(&rows)
}

/// What is kept of its snapshots, in words.
fn kept(share: &Share) -> String {
    let content = if share.keep { "with their content" } else { "without content ('--keep' copies it)" };
    format!("the last {} snapshots, {content}", share.snapshots)
}

/// Who may read, in words.
pub(super) fn access(access: Access) -> &'static str {
    match access {
        Access::Ask => "whom you allow ('twinshare requests')",
        Access::Peers => "the peers that you paired with",
        Access::Password => {
            "whom you allow, and by a browser who knows the password ('twinshare access --password')"
        }
        Access::Public => "every node of the network",
    }
}

pub(super) async fn unshare(session: &Session, which: &OsStr) -> Result<String, Failure> {
    let client = session.client()?;
    let shares = client.shares().await?;
    let folder = fs::canonicalize(which).ok();
    let share = shares
        .iter()
        .find(|share| share.name.as_str() == which)
        .or_else(|| shares.iter().find(|share| folder.as_deref() == Some(share.path.as_path())))
        .ok_or_else(|| unknown(&which.to_string_lossy(), &shares))?;
    client
        .unshare(&share.name)
        .await
        .map_err(|error| Failure::from(error).while_doing(format!("unshare '{}'", share.name)))?;
    Ok(format!("{} is no longer shared; its folder {} stays\n", share.name, plain(&share.path.to_string())))
}

fn unknown(name: &str, shares: &[Share]) -> Failure {
    let failure = Failure::new(format!("this node shares no workspace '{name}'"));
    match suggestion(name, shares.iter().map(|share| share.name.as_str())) {
        Some(suggestion) => failure.with_remedy(suggestion),
        None if shares.is_empty() => {
            failure.with_remedy("it shares nothing at all; 'twinshare share PATH' does")
        }
        None => {
            let names: Vec<&str> = shares.iter().map(|share| share.name.as_str()).collect();
            failure.with_remedy(format!("it shares {}", names.join(", ")))
        }
    }
}

pub(super) async fn requests(session: &Session, as_json: bool) -> Result<String, Failure> {
    let requests = session.client()?.requests().await?;
    if as_json {
        return json(&requests);
    }
    if requests.is_empty() {
        return Ok("nobody asks for anything\n".to_owned());
    }
    let row = |request: &AccessRequest| {
        [
            request.workspace.to_string(),
            request.host.to_string(),
            request.address.map_or_else(|| "-".to_owned(), |address| address.to_string()),
            plain(&request.fingerprint),
            request.peer.short(),
            if request.write { "write" } else { "read" }.to_owned(),
        ]
    };
    let columns = ["WORKSPACE", "HOST", "ADDRESS", "FINGERPRINT", "PEER", "WANTS TO"]
        .map(|heading| (heading, Side::Left));
    Ok(table(columns, &requests.iter().map(row).collect::<Vec<_>>()))
}

pub(super) async fn transfers(session: &Session, as_json: bool) -> Result<String, Failure> {
    let turns = session.client()?.transfers().await?;
    if as_json {
        return json(&turns);
    }
    if turns.is_empty() {
        return Ok("nobody fetches ahead of need from here at present\n".to_owned());
    }
    let row = |turn: &BulkTurn| {
        let position = turn.position.map_or_else(
            || "under way".to_owned(),
            |before| match before {
                0 => "next".to_owned(),
                before => format!("after {before} others"),
            },
        );
        [turn.host.clone(), position]
    };
    let columns = ["PEER", "TURN"].map(|heading| (heading, Side::Left));
    Ok(table(columns, &turns.iter().map(row).collect::<Vec<_>>()))
}

pub(super) async fn decide(session: &Session, whom: Whom, decision: Decision) -> Result<String, Failure> {
    let client = session.client()?;
    let shares = client.shares().await?;
    if !shares.iter().any(|share| share.name == whom.workspace) {
        return Err(unknown(whom.workspace.as_str(), &shares));
    }
    let (peer, host) = find_peer(&candidates(&client).await?, &whom.peer)?;
    client.decide(&whom.workspace, peer, decision).await?;
    Ok(match decision {
        Decision::Allow => format!("{host} may read {}\n", whom.workspace),
        Decision::Once => format!("{host} may read {} for twelve hours\n", whom.workspace),
        Decision::Write => format!("{host} may read and change {}\n", whom.workspace),
        Decision::Deny => format!("{host} may not read {}\n", whom.workspace),
    })
}

/// Who can be allowed or denied: who asks, and who is known.
pub(super) async fn candidates(client: &Client) -> Result<Vec<(NodeId, String)>, Failure> {
    let mut candidates: Vec<(NodeId, String)> = client
        .requests()
        .await?
        .into_iter()
        .map(|request| (request.peer, request.host.to_string()))
        .collect();
    let peers = client.peers().await?.into_iter();
    candidates.extend(peers.filter_map(|peer| Some((peer.id?, peer.host?.to_string()))));
    candidates.sort();
    candidates.dedup_by_key(|(id, _)| *id);
    Ok(candidates)
}

/// The one peer of this host name or id. Of two that a name or the beginning of an id fits, neither is meant.
pub(super) fn find_peer(candidates: &[(NodeId, String)], named: &str) -> Result<(NodeId, String), Failure> {
    let fitting: Vec<&(NodeId, String)> = candidates
        .iter()
        .filter(|(id, host)| {
            host == named || named.len() >= 4 && id.to_string().starts_with(&named.to_lowercase())
        })
        .collect();
    match fitting.as_slice() {
        [only] => Ok((*only).clone()),
        [] => match named.parse() {
            // A peer can be allowed before it was ever seen.
            Ok(id) => Ok((id, named.to_owned())),
            Err(_) => {
                let failure = Failure::new(format!("there's no peer '{named}'"));
                let remedy = suggestion(named, candidates.iter().map(|(_, host)| host.as_str()));
                Err(failure.with_remedy(
                    remedy.unwrap_or_else(|| "'twinshare peer list' lists the peers".to_owned()),
                ))
            }
        },
        several => {
            let ids: Vec<String> = several.iter().map(|(id, _)| id.to_string()).collect();
            Err(Failure::new(format!("'{named}' fits several peers"))
                .with_remedy(format!("give one's id: {}", ids.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_by_host_or_id_but_never_ambiguously() {
        let id = |byte| NodeId::from_bytes([byte; 32]);
        let candidates =
            [(id(0xaa), "lab".to_owned()), (id(0xab), "lab".to_owned()), (id(0xbb), "desk".to_owned())];
        assert_eq!(find_peer(&candidates, "desk").unwrap().0, id(0xbb));
        assert_eq!(find_peer(&candidates, "ABAB").unwrap().0, id(0xab));
        assert_eq!(find_peer(&candidates, &id(0xcc).to_string()).unwrap().0, id(0xcc));
        for bad in ["lab", "aba", "dsek", ""] {
            assert!(find_peer(&candidates, bad).is_err(), "{bad:?}");
        }
    }
}
