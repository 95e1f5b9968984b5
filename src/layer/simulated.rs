//! A disk in memory that can lose power: what wasn't synced is then there in part, page by page and name by name.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::{DataFile, Disk, FileName};

/// What is written at once, or isn't. Smaller than a real one, so that small tests tear files.
const PAGE: usize = 16;

#[derive(Default)]
struct Inode {
    now: Vec<u8>,
    safe: Vec<u8>,
}

#[derive(Default)]
struct Inner {
    boot: u8,
    inodes: Vec<Inode>,
    now: HashMap<FileName, usize>,
    safe: HashMap<FileName, usize>,
    /// So many more operations succeed; then the power is gone.
    left: Option<u32>,
}

#[derive(Default)]
pub(super) struct SimulatedDisk(Mutex<Inner>);

impl Inner {
    /// Counts an operation. The one at which the power goes may still reach the disk in part.
    fn step(&mut self) -> io::Result<()> {
        match &mut self.left {
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn inode(&mut self, file: FileName) -> &mut Inode {
        let next = self.inodes.len();
        let number = *self.now.entry(file).or_insert(next);
        if number == next {
            self.inodes.push(Inode::default());
        }
        &mut self.inodes[number]
    }

    fn bytes(&self, file: FileName) -> &[u8] {
        self.now.get(&file).map_or(&[], |number| &self.inodes[*number].now)
    }
}

impl SimulatedDisk {
    pub(super) fn fail_after(&self, operations: u32) {
        self.0.lock().unwrap().left = Some(operations);
    }

    /// What another start of the process finds.
    pub(super) fn after_kill(&self) -> Arc<Self> {
        let inner = self.0.lock().unwrap();
        let copy = |inode: &Inode| Inode { now: inode.now.clone(), safe: inode.safe.clone() };
        Arc::new(Self(Mutex::new(Inner {
            boot: inner.boot,
            inodes: inner.inodes.iter().map(copy).collect(),
            now: inner.now.clone(),
            safe: inner.safe.clone(),
            left: None,
        })))
    }

    /// What another start of the machine finds.
    pub(super) fn after_power_loss(&self, seed: u64) -> Arc<Self> {
        let inner = self.0.lock().unwrap();
        let mut random = SmallRng::seed_from_u64(seed);
        let inodes = inner.inodes.iter().map(|inode| {
            let length = if random.random() { inode.now.len() } else { inode.safe.len() };
            let mut bytes = vec![0; length];
            for (index, page) in bytes.chunks_mut(PAGE).enumerate() {
                let from = if random.random() { &inode.now } else { &inode.safe };
                let from = from.get(index * PAGE..).unwrap_or_default();
                let length = from.len().min(page.len());
                page[..length].copy_from_slice(&from[..length]);
            }
            Inode { now: bytes.clone(), safe: bytes }
        });
        let inodes = inodes.collect();
        // The switch of journals is one step.
        let switched = random.random::<bool>();
        let mut names = HashMap::new();
        for file in inner.now.keys().chain(inner.safe.keys()) {
            let newer = if matches!(file, FileName::Data(_)) { random.random() } else { switched };
            let chosen = if newer { inner.now.get(file) } else { inner.safe.get(file) };
            names.extend(chosen.map(|number| (*file, *number)));
        }
        Arc::new(Self(Mutex::new(Inner {
            boot: inner.boot + 1,
            inodes,
            now: names.clone(),
            safe: names,
            left: None,
        })))
    }
}

impl Disk for SimulatedDisk {
    fn boot(&self) -> [u8; 16] {
        [self.0.lock().unwrap().boot; 16]
    }

    fn read(&self, file: FileName, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let inner = self.0.lock().unwrap();
        let from = inner.bytes(file).get(offset as usize..).unwrap_or_default();
        let length = from.len().min(buffer.len());
        buffer[..length].copy_from_slice(&from[..length]);
        Ok(length)
    }

    fn write(&self, file: FileName, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let inner = &mut *self.0.lock().unwrap();
        let whole = inner.step();
        let bytes = if whole.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        let content = &mut inner.inode(file).now;
        let end = offset as usize + bytes.len();
        content.resize(content.len().max(end), 0);
        content[offset as usize..end].copy_from_slice(bytes);
        whole
    }

    fn length(&self, file: FileName) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().bytes(file).len() as u64)
    }

    fn resize(&self, file: FileName, size: u64) -> io::Result<()> {
        let inner = &mut *self.0.lock().unwrap();
        inner.step()?;
        inner.inode(file).now.resize(size as usize, 0);
        Ok(())
    }

    fn reserve(&self, _: FileName, _: u64, _: u64) -> io::Result<()> {
        self.0.lock().unwrap().step()
    }

    fn punch(&self, file: FileName, offset: u64, length: u64) -> io::Result<()> {
        let inner = &mut *self.0.lock().unwrap();
        inner.step()?;
        let content = &mut inner.inode(file).now;
        let end = content.len().min((offset + length) as usize);
        content[end.min(offset as usize)..end].fill(0);
        Ok(())
    }

    fn next_data(&self, file: FileName, offset: u64) -> io::Result<Option<u64>> {
        let length = self.length(file)?;
        Ok((offset < length).then_some(offset))
    }

    fn next_hole(&self, file: FileName, _: u64) -> io::Result<u64> {
        self.length(file)
    }

    fn allocated(&self, file: FileName) -> io::Result<u64> {
        self.length(file)
    }

    fn label(&self, _: FileName, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self, file: FileName) -> io::Result<()> {
        let inner = &mut *self.0.lock().unwrap();
        inner.step()?;
        if let Some(number) = inner.now.get(&file) {
            let inode = &mut inner.inodes[*number];
            inode.safe = inode.now.clone();
        }
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let inner = &mut *self.0.lock().unwrap();
        inner.step()?;
        inner.inodes.iter_mut().for_each(|inode| inode.safe = inode.now.clone());
        inner.safe = inner.now.clone();
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let inner = &mut *self.0.lock().unwrap();
        inner.step()?;
        inner.safe = inner.now.clone();
        Ok(())
    }

    fn remove(&self, file: FileName) -> io::Result<()> {
        let inner = &mut *self.0.lock().unwrap();
        inner.step()?;
        inner.now.remove(&file);
        Ok(())
    }

    fn switch(&self) -> io::Result<()> {
        let inner = &mut *self.0.lock().unwrap();
        inner.step()?;
        if let Some(next) = inner.now.remove(&FileName::NextJournal) {
            inner.now.insert(FileName::Journal, next);
        }
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<DataFile>> {
        let inner = self.0.lock().unwrap();
        let data = inner.now.keys().filter_map(|file| match file {
            FileName::Data(data) => Some(*data),
            FileName::Journal | FileName::NextJournal => None,
        });
        Ok(data.collect())
    }
}
