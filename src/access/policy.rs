use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::Rights;
use crate::types::NodeId;

/// Who may read a workspace of whom nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Whoever the owner allows when asked.
    #[default]
    Ask,
    /// The peers that the owner has paired with.
    Peers,
    /// Whoever knows the workspace's password, by a browser; nodes as with `ask`.
    Password,
    /// Everyone on the network.
    Public,
}

/// The name of a group of peers: 1 to 64 letters, digits, `-`, `_` and `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Group(String);

/// Why a text isn't the name of a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a group's name has 1 to 64 letters, digits, '-', '_' and '.', unlike '{0}'")]
pub struct GroupError(String);

impl FromStr for Group {
    type Err = GroupError;

    fn from_str(text: &str) -> Result<Self, GroupError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        match (1..=64).contains(&text.len()) && text.bytes().all(plain) {
            true => Ok(Self(text.to_owned())),
            false => Err(GroupError(text.chars().take(80).collect())),
        }
    }
}

impl TryFrom<String> for Group {
    type Error = GroupError;

    fn try_from(text: String) -> Result<Self, GroupError> {
        text.parse()
    }
}

impl From<Group> for String {
    fn from(group: Group) -> Self {
        group.0
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whom a grant is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Whom {
    /// A node, written as its id.
    Peer(NodeId),
    /// All nodes of a group, written as `group:NAME`.
    Group(Group),
}

/// Why a text is neither a node's id nor `group:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhomError {
    /// Not a node's id.
    #[error("'{0}' is neither a node's id nor group:NAME")]
    Neither(String),
    /// Not a group's name.
    #[error(transparent)]
    Group(#[from] GroupError),
}

impl FromStr for Whom {
    type Err = WhomError;

    fn from_str(text: &str) -> Result<Self, WhomError> {
        match text.strip_prefix("group:") {
            Some(name) => Ok(Self::Group(name.parse()?)),
            None => {
                text.parse().map(Self::Peer).map_err(|_| WhomError::Neither(text.chars().take(80).collect()))
            }
        }
    }
}

impl TryFrom<String> for Whom {
    type Error = WhomError;

    fn try_from(text: String) -> Result<Self, WhomError> {
        text.parse()
    }
}

impl From<Whom> for String {
    fn from(whom: Whom) -> Self {
        whom.to_string()
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(node) => write!(f, "{node}"),
            Self::Group(group) => write!(f, "group:{group}"),
        }
    }
}

/// What the owner has decided about somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What they may do; nothing if they are denied.
    pub rights: Rights,
    /// From when on it's void, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

impl Grant {
    fn holds(&self, now: u64) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

/// Who asks, as far as the owner knows them.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// The node.
    pub node: NodeId,
    /// Whether the owner has paired with it.
    pub paired: bool,
    /// The groups that it's in.
    pub groups: &'a [&'a Group],
}

/// What an owner has decided about a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Policy(BTreeMap<Whom, Grant>);

impl Policy {
    /// What is decided about somebody at the time `now`: about the node itself if anything is, else about its groups, of which it
    /// has all that any gives.
    pub fn decided(&self, who: &Standing<'_>, now: u64) -> Option<Rights> {
        let grant = |whom: &Whom| self.0.get(whom).filter(|grant| grant.holds(now)).map(|grant| grant.rights);
        grant(&Whom::Peer(who.node)).or_else(|| {
            let of_groups = who.groups.iter().filter_map(|group| grant(&Whom::Group((*group).clone())));
            of_groups.reduce(Rights::and)
        })
    }

    /// What somebody may do at the time `now`; `None` stands for whoever hasn't said who they are.
    pub fn rights(&self, access: Access, who: Option<&Standing<'_>>, now: u64) -> Rights {
        let decided = who.and_then(|who| self.decided(who, now));
        decided.unwrap_or_else(|| match access {
            Access::Public => Rights::USUAL,
            Access::Peers if who.is_some_and(|who| who.paired) => Rights::USUAL,
            Access::Peers | Access::Ask | Access::Password => Rights::NONE,
        })
    }

    /// Decides about somebody.
    pub fn grant(&mut self, whom: Whom, grant: Grant) {
        self.0.insert(whom, grant);
    }

    /// Takes back what was decided about somebody, so that they are as everybody; false when nothing was.
    pub fn forget(&mut self, whom: &Whom) -> bool {
        self.0.remove(whom).is_some()
    }

    /// All that is decided and holds at the time `now`.
    pub fn grants(&self, now: u64) -> impl Iterator<Item = (&Whom, &Grant)> {
        self.0.iter().filter(move |(_, grant)| grant.holds(now))
    }

    /// When something expires next, after `now`.
    pub fn next_expiry(&self, now: u64) -> Option<u64> {
        self.0.values().filter_map(|grant| grant.expires).filter(|expires| *expires > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: NodeId = NodeId::from_bytes([1; 32]);
    const BOB: NodeId = NodeId::from_bytes([2; 32]);

    fn rights(text: &str) -> Rights {
        text.parse().unwrap()
    }

    fn always(text: &str) -> Grant {
        Grant { rights: rights(text), expires: None }
    }

    #[test]
    fn whom_nothing_is_said_of_is_treated_as_everybody() {
        let policy = Policy::default();
        let ann = Standing { node: ANN, paired: false, groups: &[] };
        let paired = Standing { paired: true, ..ann };
        for (access, somebody, unknown, friend) in [
            (Access::Public, Rights::USUAL, Rights::USUAL, Rights::USUAL),
            (Access::Ask, Rights::NONE, Rights::NONE, Rights::NONE),
            (Access::Password, Rights::NONE, Rights::NONE, Rights::NONE),
            (Access::Peers, Rights::NONE, Rights::NONE, Rights::USUAL),
        ] {
            assert_eq!(policy.rights(access, Some(&ann), 0), somebody, "{access:?}");
            assert_eq!(policy.rights(access, None, 0), unknown, "{access:?}");
            assert_eq!(policy.rights(access, Some(&paired), 0), friend, "{access:?}");
        }
    }

    #[test]
    fn what_is_said_of_a_node_counts_more_than_of_its_groups() {
        let (lab, guests): (Group, Group) = ("lab".parse().unwrap(), "guests".parse().unwrap());
        let mut policy = Policy::default();
        policy.grant(Whom::Group(lab.clone()), always("write"));
        policy.grant(Whom::Group(guests.clone()), Grant { rights: rights("run"), expires: Some(100) });
        policy.grant(Whom::Peer(BOB), always("none"));
        let groups = [&lab, &guests];
        let ann = Standing { node: ANN, paired: false, groups: &groups };
        assert_eq!(policy.rights(Access::Ask, Some(&ann), 99), rights("write,run"));
        assert_eq!(policy.rights(Access::Ask, Some(&ann), 100), rights("write"));
        assert_eq!(
            policy.rights(Access::Ask, Some(&Standing { groups: &groups[1..], ..ann }), 100),
            Rights::NONE
        );
        let bob = Standing { node: BOB, ..ann };
        assert_eq!(
            policy.rights(Access::Public, Some(&bob), 0),
            Rights::NONE,
            "denied, whatever else is said"
        );
        assert_eq!((policy.next_expiry(0), policy.next_expiry(100)), (Some(100), None));
        assert_eq!(policy.grants(100).count(), 2);
        assert!(policy.forget(&Whom::Peer(BOB)) && !policy.forget(&Whom::Peer(BOB)));
        assert_eq!(policy.rights(Access::Public, Some(&bob), 0), rights("write,run"));
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy);
        assert!(
            json.contains(r#""group:guests":{"rights":["browse","read","run"],"expires":100}"#),
            "{json}"
        );
    }

    #[test]
    fn names_are_checked() {
        for bad in ["group:", "group:a/b", "group:a b", "nobody", &format!("group:{}", "x".repeat(65))] {
            assert!(bad.parse::<Whom>().is_err(), "{bad:?}");
        }
        assert_eq!("group:gpu-lab_2.x".parse::<Whom>().unwrap().to_string(), "group:gpu-lab_2.x");
        assert_eq!(ANN.to_string().parse::<Whom>().unwrap(), Whom::Peer(ANN));
    }
}
