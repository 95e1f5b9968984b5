use std::{
    ffi::{OsStr, OsString},
    fmt,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A path or an argument, which on Linux is any bytes.
///
/// In JSON it's a string where it is UTF-8, as nearly always, and `{"base64": "…"}` where it isn't.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RawText(OsString);

impl RawText {
    /// As the operating system's string type.
    pub fn as_os_str(&self) -> &OsStr {
        &self.0
    }

    /// As a path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl<T: Into<OsString>> From<T> for RawText {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for RawText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_string_lossy())
    }
}

/// The two forms that a [`RawText`] has in JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form<'a> {
    Text(std::borrow::Cow<'a, str>),
    Bytes { base64: String },
}

impl Serialize for RawText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => Form::Text(text.into()),
            None => Form::Bytes { base64: STANDARD.encode(self.0.as_bytes()) },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Form::deserialize(deserializer)? {
            Form::Text(text) => Ok(Self(text.into_owned().into())),
            Form::Bytes { base64 } => STANDARD
                .decode(base64)
                .map(|bytes| Self(OsString::from_vec(bytes)))
                .map_err(|error| de::Error::custom(format!("not base64: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_a_string_and_other_bytes_are_base64() {
        let text = RawText::from("/home/łódź");
        assert_eq!(serde_json::to_string(&text).unwrap(), "\"/home/łódź\"");
        let bytes = RawText::from(OsString::from_vec(b"caf\xe9".to_vec()));
        assert_eq!(serde_json::to_string(&bytes).unwrap(), r#"{"base64":"Y2Fm6Q=="}"#);
        for value in [text, bytes] {
            let json = serde_json::to_string(&value).unwrap();
            assert_eq!(serde_json::from_str::<RawText>(&json).unwrap(), value);
        }
        assert!(serde_json::from_str::<RawText>(r#"{"base64":"?"}"#).is_err());
    }
}
