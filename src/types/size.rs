use std::{fmt, str::FromStr};

/// A number of bytes as people write it: `50GiB`, `1.5 TB`, `1000000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Why a text is no number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no size: write it like 50GiB, 800MB or 1.5TiB")]
pub struct ByteSizeError(String);

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let wrong = || ByteSizeError(text.chars().take(40).collect());
        let trimmed = text.trim();
        let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(end);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            _ => return Err(wrong()),
        };
        let bytes = match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(factor),
            Err(_) => {
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "a fraction of a unit is no exact number anyway"
                )]
                let bytes = number.parse::<f64>().map_err(|_| wrong())? * factor as f64;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to fit")]
                (bytes < 9e18).then_some(bytes as u64)
            }
        };
        bytes.map(Self).ok_or_else(wrong)
    }
}

/// Exactly, so that it can be read again.
impl ByteSize {
    /// To two or three digits, for people.
    pub fn rounded(self) -> String {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return format!("{} B", self.0);
        }
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        let mut value = self.0 as f64;
        let mut unit = "";
        for next in UNITS {
            value /= 1024.0;
            unit = next;
            // What would be shown as 1024 is 1.0 of the next unit.
            if value < 1023.5 {
                break;
            }
        }
        if value < 9.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("50GiB", 50 << 30),
            ("50 g", 50 << 30),
            ("800MB", 800_000_000),
            ("1.5KiB", 1536),
            ("17", 17),
            ("0b", 0),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for bad in ["", "GiB", "-1", "1.2.3GiB", "5 apples", "99999999TiB", "1e5", "99999999.5TiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }
}
