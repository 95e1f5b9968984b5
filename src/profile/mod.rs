//! Launch profiles: what a program reads when it starts, so that the next who starts it has that before it asks.
//!
//! A profile says which parts of which files are read, by path and in the order in which they were first read; so it outlives
//! a change of their content. It's only advice: a wrong one costs the bytes that it names, which are bounded.

use std::collections::HashMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    blob::{Groups, ranges},
    types::Name,
};

/// The most files that a profile may name.
pub const MAX_FILES: usize = 20_000;

/// The most groups of content that a profile may name (512 MiB): what is read one after the other beyond that is read ahead
/// anyway.
pub const MAX_GROUPS: u64 = 32_768;

/// The most ranges that a profile may name.
pub const MAX_RANGES: usize = 65_536;

/// The most bytes that all paths of a profile may take.
pub const MAX_PATHS: usize = 4 << 20;

/// What a launch reads, in the order in which it first reads of each file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<Touched>", into = "Vec<Touched>")]
pub struct Profile {
    files: Vec<Touched>,
}

/// What is read of one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Touched {
    /// The names from the workspace's root; in JSON one text with `/` between them, or `{"hex": …}` where it isn't UTF-8.
    #[serde(serialize_with = "write_path", deserialize_with = "read_path")]
    pub path: Vec<Name>,
    /// Which groups of its content (see [`crate::blob::GROUP`]); in JSON a list of pairs of the first and the one behind the
    /// last. A file may have fewer by now.
    #[serde(serialize_with = "write_groups", deserialize_with = "read_groups")]
    pub groups: Groups,
}

/// Why something isn't a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a profile names at most {MAX_FILES} files, each once, {MAX_GROUPS} groups in {MAX_RANGES} ranges, and {MAX_PATHS} bytes of paths"
)]
pub struct TooMuch;

impl TryFrom<Vec<Touched>> for Profile {
    type Error = TooMuch;

    fn try_from(files: Vec<Touched>) -> Result<Self, TooMuch> {
        let mut profile = Self::default();
        let mut size = Size::default();
        for touched in &files {
            size.add(&touched.path, &touched.groups);
            if !size.is_fitting() {
                return Err(TooMuch);
            }
        }
        profile.merge(files.iter().cloned());
        if profile.files.len() == files.len() { Ok(Self { files }) } else { Err(TooMuch) }
    }
}

impl From<Profile> for Vec<Touched> {
    fn from(profile: Profile) -> Self {
        profile.files
    }
}

impl Profile {
    /// What is read, in order.
    pub fn files(&self) -> &[Touched] {
        &self.files
    }

    /// Whether it names nothing.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Adds what another launch read, each file behind the one that came before it there; what a profile can't hold is left
    /// out. Gives whether that added anything.
    ///
    /// Nothing is taken away: a launch whose content is here already reads little.
    pub fn merge(&mut self, others: impl IntoIterator<Item = Touched>) -> bool {
        let mut size = Size::default();
        self.files.iter().for_each(|touched| size.add(&touched.path, &touched.groups));
        // Each file with a place behind which new ones come: sorted once at the end, so that long profiles merge fast.
        let mut known: HashMap<Vec<Name>, usize> = HashMap::new();
        let mut places: Vec<(usize, usize)> = Vec::new();
        for (position, touched) in self.files.iter().enumerate() {
            known.insert(touched.path.clone(), position);
            places.push((position + 1, 0));
        }
        let (mut added, mut behind) = (false, 0);
        for touched in others {
            match known.get(&touched.path) {
                Some(position) => {
                    let file = &mut self.files[*position];
                    let new = touched.groups.difference::<[u64; 2]>(&file.groups);
                    behind = places[*position].0;
                    if new.is_empty() || !size.takes(&[], &new) {
                        continue;
                    }
                    file.groups |= new;
                }
                None => {
                    if !size.takes(&touched.path, &touched.groups) {
                        continue;
                    }
                    known.insert(touched.path.clone(), self.files.len());
                    places.push((behind, self.files.len() + 1));
                    self.files.push(touched);
                }
            }
            added = true;
        }
        let mut placed: Vec<_> = std::mem::take(&mut self.files).into_iter().zip(places).collect();
        placed.sort_by_key(|(_, place)| *place);
        self.files = placed.into_iter().map(|(touched, _)| touched).collect();
        added
    }
}

#[derive(Clone, Copy, Default)]
struct Size {
    files: usize,
    paths: usize,
    ranges: usize,
    groups: u64,
}

impl Size {
    /// Without a path, of a file that is counted.
    fn add(&mut self, path: &[Name], groups: &Groups) {
        self.files += usize::from(!path.is_empty());
        self.paths += path.iter().map(|name| name.as_bytes().len() + 1).sum::<usize>();
        for range in ranges(groups) {
            self.ranges += 1;
            self.groups = self.groups.saturating_add(range.end - range.start);
        }
    }

    fn is_fitting(&self) -> bool {
        self.files <= MAX_FILES
            && self.paths <= MAX_PATHS
            && self.ranges <= MAX_RANGES
            && self.groups <= MAX_GROUPS
    }

    /// Adds it if it still fits.
    fn takes(&mut self, path: &[Name], groups: &Groups) -> bool {
        let mut with = *self;
        with.add(path, groups);
        if with.is_fitting() {
            *self = with;
        }
        with.is_fitting()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PathForm {
    Text(String),
    Hexadecimal { hex: String },
}

fn write_path<S: Serializer>(path: &[Name], serializer: S) -> Result<S::Ok, S::Error> {
    let joined = Name::join(path);
    let form = match String::from_utf8(joined) {
        Ok(text) => PathForm::Text(text),
        Err(error) => PathForm::Hexadecimal { hex: hex::encode(error.as_bytes()) },
    };
    form.serialize(serializer)
}

fn read_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Name>, D::Error> {
    let joined = match PathForm::deserialize(deserializer)? {
        PathForm::Text(text) => text.into_bytes(),
        PathForm::Hexadecimal { hex } => hex::decode(hex).map_err(D::Error::custom)?,
    };
    joined.split(|byte| *byte == b'/').map(|name| Name::new(name).map_err(D::Error::custom)).collect()
}

fn write_groups<S: Serializer>(groups: &Groups, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(ranges(groups).map(|range| [range.start, range.end]))
}

fn read_groups<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Groups, D::Error> {
    let mut groups = Groups::empty();
    let mut end = None;
    for [first, behind] in Vec::<[u64; 2]>::deserialize(deserializer)? {
        if first >= behind || end.is_some_and(|end| first <= end) {
            return Err(D::Error::custom("ranges must be in order, and apart from each other"));
        }
        end = Some(behind);
        groups |= Groups::from(first..behind);
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    fn touched(path: &str, groups: Range<u64>) -> Touched {
        let path = path.split('/').map(|name| Name::new(name.as_bytes()).unwrap()).collect();
        Touched { path, groups: Groups::from(groups) }
    }

    fn profile(files: &[(&str, Range<u64>)]) -> Profile {
        let mut profile = Profile::default();
        profile.merge(files.iter().map(|(path, groups)| touched(path, groups.clone())));
        profile
    }

    fn paths(profile: &Profile) -> Vec<String> {
        let path = |file: &Touched| file.path.iter().map(Name::to_string).collect::<Vec<_>>().join("/");
        profile.files().iter().map(path).collect()
    }

    #[test]
    fn what_is_new_comes_where_it_was_read() {
        let mut known = profile(&[("a", 0..1), ("b", 0..1), ("c", 0..1)]);
        let warm = profile(&[("b", 0..1), ("x/y", 0..2), ("z", 3..4), ("c", 5..6)]);
        assert!(known.merge(warm.files().to_vec()));
        assert_eq!(paths(&known), ["a", "b", "x/y", "z", "c"]);
        assert_eq!(known.files()[4].groups, Groups::from(0..1) | Groups::from(5..6));
        assert!(!known.merge(warm.files().to_vec()), "a second time adds nothing");
        assert!(!known.merge([]));
        assert!(known.merge(profile(&[("first", 0..1)]).files().to_vec()));
        assert_eq!(paths(&known)[0], "first");
    }

    #[test]
    fn a_profile_never_grows_beyond_its_limits() {
        let many = (0..2 * MAX_FILES).map(|number| touched(&number.to_string(), 0..1));
        let mut profile = Profile::default();
        assert!(profile.merge(many.clone()));
        assert_eq!(profile.files().len(), MAX_FILES);
        assert!(!profile.merge(many));
        let mut profile = Profile::default();
        profile.merge([touched("a", 0..MAX_GROUPS), touched("b", 0..1)]);
        assert_eq!(paths(&profile), ["a"]);
    }

    #[test]
    fn its_json_is_plain_and_checked() {
        let mut known = profile(&[("bin/x", 0..1), ("y", 2..4)]);
        known.merge([touched("y", 8..9)]);
        known.merge([Touched { path: vec![Name::new(&b"\xff"[..]).unwrap()], groups: Groups::from(0..1) }]);
        let json = serde_json::to_string(&known).unwrap();
        assert_eq!(
            json,
            r#"[{"path":{"hex":"ff"},"groups":[[0,1]]},{"path":"bin/x","groups":[[0,1]]},{"path":"y","groups":[[2,4],[8,9]]}]"#
        );
        assert_eq!(serde_json::from_str::<Profile>(&json).unwrap(), known);
        for bad in [
            r#"[{"path":"../x","groups":[]}]"#,
            r#"[{"path":"","groups":[]}]"#,
            r#"[{"path":"a//b","groups":[]}]"#,
            r#"[{"path":"a","groups":[[1,1]]}]"#,
            r#"[{"path":"a","groups":[[1,2],[2,3]]}]"#,
            r#"[{"path":"a","groups":[[0,18446744073709551615]]}]"#,
            r#"[{"path":"a","groups":[[0,1]]},{"path":"a","groups":[[0,1]]}]"#,
        ] {
            assert!(serde_json::from_str::<Profile>(bad).is_err(), "{bad}");
        }
    }
}
