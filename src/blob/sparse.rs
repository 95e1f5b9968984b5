use std::io;

use super::ReadAt;
use crate::tree::Extent;

/// A sparse file's data extents, one after the other: what its blob consists of.
#[derive(Debug)]
pub struct SparseView<'a, R: ?Sized> {
    file: &'a R,
    extents: &'a [Extent],
}

impl<'a, R: ReadAt + ?Sized> SparseView<'a, R> {
    /// The data of `file` in `extents`, which are ascending and disjoint.
    pub fn new(file: &'a R, extents: &'a [Extent]) -> Self {
        Self { file, extents }
    }
}

impl<R: ReadAt + ?Sized> ReadAt for SparseView<'_, R> {
    fn read_exact_at(&self, mut buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut packed = 0;
        let mut position = offset;
        for extent in self.extents {
            if buffer.is_empty() {
                return Ok(());
            }
            let end = packed + extent.length;
            if position < end {
                let length = (end - position).min(buffer.len() as u64) as usize;
                let (now, later) = buffer.split_at_mut(length);
                self.file.read_exact_at(now, extent.offset + (position - packed))?;
                buffer = later;
                position += length as u64;
            }
            packed = end;
        }
        if buffer.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cross_extents() {
        let file = b"..abc....de.f".to_vec();
        let extents = [(2, 3), (9, 2), (12, 1)].map(|(offset, length)| Extent { offset, length });
        let view = SparseView::new(&file, &extents);
        let mut all = [0; 6];
        view.read_exact_at(&mut all, 0).unwrap();
        assert_eq!(&all, b"abcdef");
        let mut middle = [0; 3];
        view.read_exact_at(&mut middle, 2).unwrap();
        assert_eq!(&middle, b"cde");
        assert!(view.read_exact_at(&mut middle, 4).is_err());
    }
}
