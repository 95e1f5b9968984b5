use std::{
    fs::File,
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

use super::{
    item::HashedContent,
    place::{Root, Status, means_changed, status_of},
};
use crate::{
    blob::{Hashed, SparseView, hash_source},
    tree::Extent,
    types::{Name, Timestamp},
};

/// A hole smaller than this is read and sent like data.
const HOLE_MIN: u64 = 64 << 10;

/// A file with less than this in holes isn't published as a sparse one.
const HOLES_MIN: u64 = 1 << 20;

/// A sparse file has at most so many extents: beyond that the smallest holes count as data.
const EXTENTS_MAX: usize = crate::tree::MAX_EXTENTS;

/// What came of hashing a file.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Its content.
    Hashed {
        status: Status,
        content: HashedContent,
        /// The content can't have changed within the same tick of the file system's clock.
        settled: bool,
    },
    /// It isn't the file any more that was to be hashed, or it changed meanwhile.
    Changed,
    /// It can't be read.
    Unreadable(io::Error),
}

/// Hashes the file at `path`, if its version token is still `token`. `keep` gets the hashes of a large one.
pub(super) fn hash_file(
    root: &Root,
    path: &[Name],
    token: u64,
    racy: Duration,
    keep: impl Fn(&Hashed),
) -> Outcome {
    let (file, status) = match root.file(path) {
        Ok(opened) => opened,
        Err(error) if means_changed(&error) => return Outcome::Changed,
        Err(error) => return Outcome::Unreadable(error),
    };
    if status.token() != token {
        return Outcome::Changed;
    }
    let began = SystemTime::now();
    let (hashed, extents) = match hash_open(&file, &status) {
        Ok(hashed) => hashed,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Outcome::Changed,
        Err(error) => return Outcome::Unreadable(error),
    };
    match status_of(&file) {
        Ok(after) if after.token() == token => {
            keep(&hashed);
            Outcome::Hashed {
                status,
                content: HashedContent { digest: hashed.digest, extents },
                settled: !is_racy(&status, began, SystemTime::now(), racy),
            }
        }
        Ok(_) => Outcome::Changed,
        Err(error) => Outcome::Unreadable(error),
    }
}

fn hash_open(file: &File, status: &Status) -> io::Result<(Hashed, Option<Box<[Extent]>>)> {
    match extents(file, status)? {
        None => Ok((hash_source(file, status.size)?, None)),
        Some(extents) => {
            let length = extents.iter().map(|extent| extent.length).sum();
            Ok((hash_source(&SparseView::new(file, &extents), length)?, Some(extents)))
        }
    }
}

/// Whether a file's times are so near to the time of its hashing that a later change might not move them (git calls
/// such an entry racily clean).
pub(super) fn is_racy(status: &Status, began: SystemTime, ended: SystemTime, window: Duration) -> bool {
    let nanoseconds = |time: SystemTime| match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    };
    let window_nanoseconds = window.as_nanos() as i128;
    // A time that lies farther in the future was set by hand: a change would move it.
    let range = nanoseconds(began) - window_nanoseconds..=nanoseconds(ended) + window_nanoseconds;
    !window.is_zero()
        && [status.modified, status.changed].iter().any(|time: &Timestamp| {
            range.contains(&(i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds)))
        })
}

/// How long it takes until a file that was written to within the last `window` has had that long a rest.
pub(super) fn young(modified: Timestamp, window: Duration) -> Option<Duration> {
    let age = SystemTime::now().duration_since(modified.into()).ok()?;
    window.checked_sub(age).filter(|wait| !wait.is_zero())
}

/// Where the data of a file is, if enough of it is holes.
fn extents(file: &File, status: &Status) -> io::Result<Option<Box<[Extent]>>> {
    if status.size.saturating_sub(status.allocated) < HOLES_MIN {
        return Ok(None);
    }
    let mut extents: Vec<Extent> = Vec::new();
    let mut position = 0;
    while position < status.size {
        let start = match seek(file, SeekFrom::Data(position)) {
            Ok(start) => start.min(status.size),
            Err(Errno::NXIO) => break,
            // The file system can't tell.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(status.size);
        if end <= start {
            break;
        }
        match extents.last_mut() {
            Some(last) if start - (last.offset + last.length) < HOLE_MIN => last.length = end - last.offset,
            _ if start < HOLE_MIN => extents.push(Extent { offset: 0, length: end }),
            _ => extents.push(Extent { offset: start, length: end - start }),
        }
        position = end;
    }
    if let Some(last) = extents.last_mut()
        && status.size - (last.offset + last.length) < HOLE_MIN
    {
        last.length = status.size - last.offset;
    }
    let extents = merge(extents, EXTENTS_MAX);
    let data: u64 = extents.iter().map(|extent| extent.length).sum();
    Ok((status.size - data >= HOLES_MIN).then(|| extents.into()))
}

/// Joins extents over the smallest holes until at most `limit` are left.
fn merge(extents: Vec<Extent>, limit: usize) -> Vec<Extent> {
    if extents.len() <= limit {
        return extents;
    }
    let hole = |pair: &[Extent]| pair[1].offset - (pair[0].offset + pair[0].length);
    let mut holes: Vec<(u64, usize)> =
        extents.windows(2).enumerate().map(|(place, pair)| (hole(pair), place + 1)).collect();
    let surplus = extents.len() - limit;
    holes.select_nth_unstable(surplus - 1);
    let joined: std::collections::HashSet<usize> = holes[..surplus].iter().map(|&(_, place)| place).collect();
    let mut merged: Vec<Extent> = Vec::with_capacity(limit);
    for (place, extent) in extents.into_iter().enumerate() {
        match merged.last_mut() {
            Some(last) if joined.contains(&place) => {
                last.length = extent.offset + extent.length - last.offset
            }
            _ => merged.push(extent),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn extent(offset: u64, length: u64) -> Extent {
        Extent { offset, length }
    }

    #[test]
    fn the_smallest_holes_go_first() {
        let extents = vec![extent(0, 1), extent(5, 1), extent(8, 1), extent(100, 1), extent(102, 3)];
        assert_eq!(merge(extents.clone(), 5), extents);
        assert_eq!(merge(extents.clone(), 3), [extent(0, 1), extent(5, 4), extent(100, 5)]);
        assert_eq!(merge(extents, 1), [extent(0, 105)]);
    }

    #[test]
    fn extents_cover_all_data() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10 << 30).unwrap();
        for offset in [0, 100 << 10, 5 << 30, (10 << 30) - 3] {
            file.write_all_at(b"abc", offset).unwrap();
        }
        let status = status_of(&file).unwrap();
        let Some(extents) = extents(&file, &status).unwrap() else {
            panic!("the file system of the temporary folder has no holes")
        };
        let data: u64 = extents.iter().map(|extent| extent.length).sum();
        assert!(data < 1 << 20, "{extents:?}");
        for offset in [0, 100 << 10, 5 << 30, (10 << 30) - 3] {
            assert!(extents.iter().any(|e| e.offset <= offset && offset + 3 <= e.offset + e.length));
        }
        assert_eq!(extents.last().map(|e| e.offset + e.length), Some(10 << 30));
        let (hashed, _) = hash_open(&file, &status).unwrap();
        let mut bytes = vec![0; data as usize];
        crate::blob::ReadAt::read_exact_at(&SparseView::new(&file, &extents), &mut bytes, 0).unwrap();
        assert_eq!(hashed.digest, crate::types::Digest::of(&bytes));
    }

    #[test]
    fn young_times_are_racy_and_set_ones_are_not() {
        let status = status_of(tempfile::tempfile().unwrap()).unwrap();
        let (now, window) = (SystemTime::now(), Duration::from_secs(2));
        assert!(is_racy(&status, now, now, window));
        assert!(!is_racy(&status, now, now, Duration::ZERO));
        let later = now + Duration::from_secs(60);
        assert!(!is_racy(&status, later, later, window));
        let far = Timestamp { seconds: i64::MAX, nanoseconds: 0 };
        let old = Timestamp::default();
        assert!(!is_racy(&Status { modified: far, changed: old, ..status }, now, now, window));
        assert!(is_racy(&Status { modified: old, ..status }, now, now, window));
    }
}
