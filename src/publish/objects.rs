use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    convert::Infallible,
};

use bytes::Bytes;

use crate::{
    tree::{Page, TreeSink, decode},
    types::Digest,
};

/// For so many heads an object that the newest head doesn't need any more is kept.
const HEADS_KEPT: u64 = 8;

/// The tree objects of a workspace's current head and of some before it.
#[derive(Debug, Default)]
pub(super) struct Objects {
    objects: HashMap<Digest, Object>,
    /// What no folder has any more, in the order in which that came about.
    released: VecDeque<(u64, Digest)>,
}

#[derive(Debug)]
struct Object {
    bytes: Bytes,
    /// How many folders (or indexes of big folders) have it.
    holders: u32,
    /// At which head the last of them let it go.
    released: u64,
}

/// Objects on their way from a model to [`Objects`].
#[derive(Debug, Default)]
pub(super) struct Written(RefCell<Vec<(Digest, Bytes)>>);

impl TreeSink for Written {
    type Error = Infallible;

    fn put_tree(&self, digest: Digest, object: &[u8]) -> Result<(), Infallible> {
        self.0.borrow_mut().push((digest, Bytes::copy_from_slice(object)));
        Ok(())
    }
}

impl Objects {
    pub(super) fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.objects.get(digest).map(|object| object.bytes.clone())
    }

    /// Takes over what was written for the head `sequence`, and lets go what folders had before.
    pub(super) fn update(&mut self, sequence: u64, written: Written, released: Vec<Digest>) {
        for (digest, bytes) in written.0.into_inner() {
            let object = self.objects.entry(digest).or_insert(Object { bytes, holders: 0, released: 0 });
            object.holders += 1;
        }
        for digest in released {
            self.release(sequence, digest);
        }
        while let Some(&(at, digest)) = self.released.front()
            && at + HEADS_KEPT <= sequence
        {
            self.released.pop_front();
            // It may have been needed again since then.
            if self.objects.get(&digest).is_some_and(|object| object.holders == 0 && object.released == at) {
                self.objects.remove(&digest);
            }
        }
    }

    fn release(&mut self, sequence: u64, digest: Digest) {
        let Some(object) = self.objects.get_mut(&digest) else { return };
        object.holders = object.holders.saturating_sub(1);
        if object.holders == 0 {
            object.released = sequence;
            self.released.push_back((sequence, digest));
        }
        // Each time an index is written its pages are written too.
        if let Ok(Page::Index(pages)) = decode(&object.bytes) {
            for page in pages {
                self.release(sequence, page.digest);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }
}
