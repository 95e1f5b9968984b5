use std::io::{self, Write};

use twinshare::{
    api::{JoinRequest, PairingEnd, PeerAddress},
    peer::{PairingCode, fingerprint_words},
    types::NodeId,
};

use super::{
    failure::Failure,
    output::duration,
    session::Session,
    share::{candidates, find_peer},
};

/// Invites another node, and waits until it has come.
pub(super) async fn invite(session: &Session) -> Result<String, Failure> {
    let client = session.client()?;
    let status = client.status().await?;
    let invitation = client.invite().await?;
    let said = format!(
        "on the other machine, within {}:\n\n  twinshare pair {} {}\n\n",
        duration(invitation.seconds),
        status.hostname,
        invitation.code
    );
    // It's needed before anything comes of it.
    io::stdout()
        .write_all(said.as_bytes())
        .and_then(|()| io::stdout().flush())
        .map_err(|error| Failure::new(format!("can't write to standard output: {error}")))?;
    let end = tokio::select! {
        end = client.invited(&invitation.code) => end?,
        _ = tokio::signal::ctrl_c() => {
            // Another invitation takes its place, and nobody knows its code.
            client.invite().await?;
            return Err(Failure::new("stopped: the code is void"));
        }
    };
    match end {
        PairingEnd::Paired { peer } => Ok(paired(&name(&client, peer).await, peer)),
        PairingEnd::Failed { peer } => Err(Failure::new(format!(
            "{} tried, and had a wrong code or stands between the two nodes: the code is void",
            name(&client, peer).await
        ))
        .with_remedy("'twinshare pair' gives a new one")),
        PairingEnd::Expired => {
            Err(Failure::new("nobody came: the code is void").with_remedy("'twinshare pair' gives a new one"))
        }
    }
}

/// Pairs with a node that has invited.
pub(super) async fn join(session: &Session, named: &str, code: PairingCode) -> Result<String, Failure> {
    let client = session.client()?;
    let cannot = |failure: Failure| failure.while_doing(format!("pair with {named}"));
    let (peer, host) = match find_peer(&candidates(&client).await?, named) {
        Ok(found) => found,
        // Not one that is known: perhaps an address.
        Err(unknown) => {
            let Ok(address) = named.parse::<PeerAddress>() else { return Err(unknown) };
            let added = client.add_peer(address).await.map_err(|error| cannot(error.into()))?;
            let Some(peer) = added.id else {
                return Err(cannot(Failure::new("there's no answer from that address")));
            };
            (peer, added.host.map_or_else(|| named.to_owned(), |host| host.to_string()))
        }
    };
    client.join(&JoinRequest { peer, code }).await.map_err(|error| cannot(error.into()))?;
    Ok(paired(&host, peer))
}

/// Ends a pairing.
pub(super) async fn unpair(session: &Session, named: &str) -> Result<String, Failure> {
    let client = session.client()?;
    let (peer, host) = find_peer(&candidates(&client).await?, named)?;
    client.unpair(peer).await?;
    Ok(format!("no longer paired with {host}; what was decided about it with 'twinshare access' stays\n"))
}

fn paired(host: &str, peer: NodeId) -> String {
    format!("paired with {host} ({})\n", fingerprint_words(peer))
}

async fn name(client: &twinshare::api::Client, peer: NodeId) -> String {
    let known = candidates(client).await.unwrap_or_default();
    known.into_iter().find(|(id, _)| *id == peer).map_or_else(|| peer.short(), |(_, host)| host)
}
