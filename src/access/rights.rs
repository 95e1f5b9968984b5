use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Something that a node may do with a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Right {
    /// To see the names, sizes and times of what is in it.
    Browse = 1,
    /// To read the files; to browse with it.
    Read = 2,
    /// To fetch it whole, ahead of need; to read with it. An honest node keeps this: who may read can read everything.
    Clone = 4,
    /// To start its environments; to read with it. An honest node keeps this, too.
    Run = 8,
    /// To have its owner change it; to read with it.
    Write = 16,
}

impl Right {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Browse, "browse"),
        (Self::Read, "read"),
        (Self::Clone, "clone"),
        (Self::Run, "run"),
        (Self::Write, "write"),
    ];

    /// What the right brings with it, itself included.
    const fn with_implied(self) -> u8 {
        match self {
            Self::Browse => Self::Browse as u8,
            Self::Read => Self::Read as u8 | Self::Browse as u8,
            other => other as u8 | Self::Read as u8 | Self::Browse as u8,
        }
    }
}

/// A set of rights; with each one also those that it implies.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights(u8);

/// Why a text isn't a list of rights.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no right: there are browse, read, clone, run and write")]
pub struct RightsError(String);

impl Rights {
    /// None at all.
    pub const NONE: Self = Self(0);

    /// What whoever is let in may do, unless the owner says otherwise: everything but to change it.
    pub const USUAL: Self = Self::of(&[Right::Clone, Right::Run]);

    /// Everything.
    pub const ALL: Self = Self::of(&[Right::Clone, Right::Run, Right::Write]);

    /// These, and those that they imply.
    pub const fn of(rights: &[Right]) -> Self {
        let (mut bits, mut next) = (0, 0);
        while next < rights.len() {
            bits |= rights[next].with_implied();
            next += 1;
        }
        Self(bits)
    }

    /// Whether the right is among them.
    pub const fn has(self, right: Right) -> bool {
        self.0 & right as u8 != 0
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        Right::ALL.into_iter().filter(move |(right, _)| self.has(*right)).map(|(_, name)| name)
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        f.write_str(&self.names().collect::<Vec<_>>().join(","))
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rights({self})")
    }
}

impl FromStr for Rights {
    type Err = RightsError;

    /// Reads names with commas between them, or `none`.
    fn from_str(text: &str) -> Result<Self, RightsError> {
        if text == "none" {
            return Ok(Self::NONE);
        }
        text.split(',').try_fold(Self::NONE, |rights, name| Ok(rights.and(one(name.trim())?)))
    }
}

fn one(name: &str) -> Result<Rights, RightsError> {
    let found = Right::ALL.into_iter().find(|(_, known)| *known == name);
    found.map(|(right, _)| Rights::of(&[right])).ok_or_else(|| RightsError(name.to_owned()))
}

impl Serialize for Rights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl<'de> Deserialize<'de> for Rights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        names.iter().try_fold(Self::NONE, |rights, name| Ok(rights.and(one(name).map_err(D::Error::custom)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_bring_what_they_need() {
        let rights: Rights = "run, write".parse().unwrap();
        assert_eq!(rights.to_string(), "browse,read,run,write");
        assert!(rights.has(Right::Browse) && !rights.has(Right::Clone));
        assert_eq!("browse".parse::<Rights>().unwrap().to_string(), "browse");
        assert_eq!(Rights::USUAL.to_string(), "browse,read,clone,run");
        assert_eq!("none".parse::<Rights>().unwrap(), Rights::NONE);
        assert_eq!(Rights::NONE.to_string(), "none");
        for bad in ["", "reed", "read,", "all"] {
            assert!(bad.parse::<Rights>().is_err(), "{bad:?}");
        }
        let json = serde_json::to_string(&rights).unwrap();
        assert_eq!(json, r#"["browse","read","run","write"]"#);
        assert_eq!(serde_json::from_str::<Rights>(&json).unwrap(), rights);
        assert!(serde_json::from_str::<Rights>(r#"["everything"]"#).is_err());
    }
}
