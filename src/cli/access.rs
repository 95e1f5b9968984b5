use std::{
    collections::BTreeSet,
    io::{self, IsTerminal},
};

use jiff::{Span, Timestamp, tz::TimeZone};
use twinshare::{
    access::{Access, Grant, Group, Rights, Whom},
    api::{AuditEntry, Client, Deed, GrantEntry, GrantRequest, PasswordRequest},
    types::NodeId,
};

use super::{
    arguments,
    failure::Failure,
    list::moment,
    output::{Side, json, table},
    session::Session,
    share::{access as in_words, candidates, find_peer},
};

/// Changes who may do what with a workspace, as far as that is asked for, and shows it.
pub(super) async fn access(session: &Session, options: arguments::Access) -> Result<String, Failure> {
    let client = session.client()?;
    let workspace = &options.workspace;
    let cannot = |error| Failure::from(error).while_doing(format!("change the access of {workspace}"));
    let known = candidates(&client).await?;
    let expires = options.duration.map(from_now).transpose()?;
    let whom = |named: &String| match named.strip_prefix("group:") {
        Some(_) => {
            named.parse().map_err(|error: twinshare::access::WhomError| Failure::new(error.to_string()))
        }
        None => find_peer(&known, named).map(|(node, _)| Whom::Peer(node)),
    };
    let allowed = options.allow.iter().map(|named| (named, Some(options.rights), expires));
    let denied = options.deny.iter().map(|named| (named, Some(Rights::NONE), expires));
    let revoked = options.revoke.iter().map(|named| (named, None, None));
    for (named, rights, expires) in allowed.chain(denied).chain(revoked) {
        let request = GrantRequest { whom: whom(named)?, rights, expires };
        client.grant(workspace, &request).await.map_err(cannot)?;
    }
    if options.password {
        let request = PasswordRequest { password: Some(ask_password()?) };
        client.set_password(workspace, &request).await.map_err(cannot)?;
    }
    let report = client
        .access(workspace)
        .await
        .map_err(|error| Failure::from(error).while_doing(format!("look at the access of {workspace}")))?;
    if options.format.json {
        return json(&report);
    }
    let zone = TimeZone::system();
    let row = |entry: &GrantEntry| {
        let name = match (&entry.host, &entry.whom) {
            (Some(host), Whom::Peer(node)) => format!("{host} ({})", node.short()),
            (None, Whom::Peer(node)) => node.short(),
            (_, group) => group.to_string(),
        };
        [
            name,
            said(entry.grant),
            entry.grant.expires.map_or_else(String::new, |expires| until(expires, &zone)),
        ]
    };
    let others = match report.access {
        Access::Public => said(Grant { rights: Rights::USUAL, expires: None }),
        Access::Ask | Access::Peers | Access::Password => in_words(report.access).to_owned(),
    };
    let mut rows: Vec<_> = report.grants.iter().map(row).collect();
    rows.push(["everyone else".to_owned(), others, String::new()]);
    Ok(table(["WHO", "MAY", "UNTIL"].map(|heading| (heading, Side::Left)), &rows))
}

/// Asks for a password, twice at a terminal.
fn ask_password() -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::new(format!("can't read the password: {error}"));
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map_err(failed)?;
        return Ok(line.trim_end_matches(['\n', '\r']).to_owned());
    }
    let password = rpassword::prompt_password("the new password: ").map_err(failed)?;
    match rpassword::prompt_password("once more: ").map_err(failed)? == password {
        true => Ok(password),
        false => Err(Failure::new("the two aren't the same")),
    }
}

fn said(grant: Grant) -> String {
    if grant.rights.is_empty() { "nothing".to_owned() } else { grant.rights.to_string().replace(',', ", ") }
}

fn until(seconds: u64, zone: &TimeZone) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "for ever".to_owned(), |time| moment(time, zone))
}

/// The time that lies so far ahead, in seconds since 1970.
fn from_now(span: Span) -> Result<u64, Failure> {
    let end = Timestamp::now().to_zoned(TimeZone::UTC).checked_add(span);
    let end = end.map_err(|error| Failure::new(format!("--for: {error}")))?.timestamp();
    match u64::try_from(end.as_second()) {
        Ok(seconds) if end > Timestamp::now() => Ok(seconds),
        _ => Err(Failure::new("--for must lead into the future")),
    }
}

pub(super) async fn groups(session: &Session, as_json: bool) -> Result<String, Failure> {
    let client = session.client()?;
    let groups = client.groups().await?;
    if as_json {
        return json(&groups);
    }
    if groups.is_empty() {
        return Ok("there are no groups; 'twinshare group add NAME PEER' makes one\n".to_owned());
    }
    let known = candidates(&client).await?;
    let name = |node: &NodeId| {
        known.iter().find(|(id, _)| id == node).map_or_else(|| node.short(), |(_, host)| host.clone())
    };
    let row = |(group, members): (&Group, &BTreeSet<NodeId>)| {
        [group.to_string(), members.iter().map(name).collect::<Vec<_>>().join(", ")]
    };
    let rows: Vec<_> = groups.iter().map(row).collect();
    Ok(table(["GROUP", "PEERS"].map(|heading| (heading, Side::Left)), &rows))
}

/// Adds peers to a group, or takes them out of it.
pub(super) async fn change_group(
    session: &Session,
    group: &Group,
    peers: &[String],
    add: bool,
) -> Result<String, Failure> {
    let client = session.client()?;
    let known = candidates(&client).await?;
    let mut members = client.groups().await?.remove(group).unwrap_or_default();
    for named in peers {
        let (node, _) = find_peer(&known, named)?;
        let changed = if add { members.insert(node) } else { members.remove(&node) };
        if !changed && !add {
            return Err(Failure::new(format!("'{named}' isn't in the group {group}")));
        }
    }
    client.set_group(group, &members).await?;
    Ok(match members.len() {
        0 => format!("the group {group} is gone\n"),
        1 => format!("the group {group} has 1 peer\n"),
        several => format!("the group {group} has {several} peers\n"),
    })
}

pub(super) async fn audit(session: &Session, as_json: bool) -> Result<String, Failure> {
    let client: Client = session.client()?;
    let entries = client.audit().await?;
    if as_json {
        // A line each, as the log has them.
        let lines: Result<Vec<_>, _> = entries.iter().map(serde_json::to_string).collect();
        let lines = lines.map_err(|error| Failure::new(error.to_string()))?;
        return Ok(lines.into_iter().map(|line| line + "\n").collect());
    }
    if entries.is_empty() {
        return Ok("nothing has been granted, refused or revoked\n".to_owned());
    }
    let known = candidates(&client).await?;
    let zone = TimeZone::system();
    let row = |entry: &AuditEntry| {
        let whom = match &entry.whom {
            Whom::Peer(node) => match known.iter().find(|(id, _)| id == node) {
                Some((_, host)) => format!("{host} ({})", node.short()),
                None => node.short(),
            },
            group => group.to_string(),
        };
        let deed = match entry.deed {
            Deed::Asked => "asked",
            Deed::Granted => "granted",
            Deed::Denied => "denied",
            Deed::Revoked => "revoked",
            Deed::Paired => "paired",
            Deed::Unpaired => "unpaired",
        };
        let rights = entry.rights.map_or_else(String::new, |rights| rights.to_string().replace(',', ", "));
        let until = entry.expires.map_or_else(String::new, |expires| until(expires, &zone));
        let workspace = entry.workspace.as_ref().map_or_else(String::new, ToString::to_string);
        [moment(entry.at, &zone), deed.to_owned(), workspace, whom, rights, until]
    };
    let columns = ["WHEN", "WHAT", "WORKSPACE", "WHOM", "RIGHTS", "UNTIL"];
    Ok(table(columns.map(|heading| (heading, Side::Left)), &entries.iter().map(row).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_lead_into_the_future() {
        let now = u64::try_from(Timestamp::now().as_second()).unwrap();
        let in_two_days = from_now("2d".parse().unwrap()).unwrap();
        assert!((now + 172_799..=now + 172_801).contains(&in_two_days));
        assert!(from_now("-1h".parse().unwrap()).is_err());
        assert!(from_now("0s".parse().unwrap()).is_err());
    }
}
