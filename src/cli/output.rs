use serde::Serialize;
use twinshare::types::ByteSize;

use super::failure::Failure;

/// On which side of its column a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Writes rows as aligned columns under their headings.
pub(super) fn table<const N: usize>(columns: [(&str, Side); N], rows: &[[String; N]]) -> String {
    let head = columns.map(|(heading, _)| heading.to_owned());
    lines(columns.map(|(_, side)| side), std::iter::once(&head).chain(rows))
}

/// Writes rows as aligned columns.
pub(super) fn lines<'a, const N: usize>(
    sides: [Side; N],
    rows: impl Iterator<Item = &'a [String; N]> + Clone,
) -> String {
    let mut widths = [0; N];
    for row in rows.clone() {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for ((cell, width), side) in row.iter().zip(widths).zip(sides) {
            match side {
                Side::Left => line += &format!("{cell:<width$}  "),
                Side::Right => line += &format!("{cell:>width$}  "),
            }
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Writes fields, each on a line of its own.
pub(super) fn fields(rows: &[(&str, String)]) -> String {
    let rows: Vec<[String; 2]> =
        rows.iter().map(|(name, value)| [(*name).to_owned(), value.clone()]).collect();
    lines([Side::Left; 2], rows.iter())
}

/// Writes a value as JSON.
pub(super) fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|error| Failure::new(format!("can't write JSON: {error}")))
}

/// Text of others as it can be shown: what would move the cursor, colour the screen or turn the direction of writing is
/// escaped.
pub(super) fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// A number with its thousands apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of bytes, to two or three digits.
pub(super) fn size(bytes: u64) -> String {
    ByteSize(bytes).rounded()
}

/// A number of seconds as people say it.
pub(super) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// "did you mean …?", when some of the names are like what was typed.
pub(super) fn suggestion<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let typed = typed.to_lowercase();
    let enough = 1.max(typed.chars().count() / 3);
    let mut alike: Vec<(usize, &str)> = names
        .map(|name| (strsim::damerau_levenshtein(&typed, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= enough)
        .collect();
    alike.sort();
    alike.dedup();
    let names: Vec<String> = alike.iter().take(3).map(|(_, name)| format!("'{name}'")).collect();
    (!names.is_empty()).then(|| format!("did you mean {}?", names.join(" or ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["łódź".to_owned(), "7".to_owned()], ["b".to_owned(), "1,000".to_owned()]];
        let text = table([("NAME", Side::Left), ("FILES", Side::Right)], &rows);
        assert_eq!(text, "NAME  FILES\nłódź      7\nb     1,000\n");
    }

    #[test]
    fn numbers_are_readable() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (10 * 1024, "10 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (1_288_490_189, "1.2 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(
            [count(0), count(999), count(1000), count(12_345_678)],
            ["0", "999", "1,000", "12,345,678"]
        );
        assert_eq!([duration(59), duration(3660), duration(90_000)], ["59 s", "1 h 1 min", "1 d 1 h"]);
    }

    #[test]
    fn text_of_others_cannot_drive_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\n\u{9b}c\u{202e}d é"), "a\\u{1b}[2Jb\\n\\u{9b}c\\u{202e}d é");
    }

    #[test]
    fn misspelt_names_are_suggested() {
        let names = ["owner", "guest", "lab"];
        assert_eq!(suggestion("onwer", names.into_iter()).unwrap(), "did you mean 'owner'?");
        assert_eq!(suggestion("LAB", names.into_iter()).unwrap(), "did you mean 'lab'?");
        assert_eq!(suggestion("printer", names.into_iter()), None);
    }
}
