use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use bytes::Bytes;

use super::{ReadStore, StoreError, WriteStore, lock};
use crate::{
    blob::{Blob, Groups, VerifiedBlob, VerifiedSlice},
    types::{Digest, PathKey, WorkspaceId},
};

/// The calls of a store that can be made to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`ReadStore::tree`]
    Tree,
    /// [`ReadStore::held`]
    Held,
    /// [`ReadStore::read_at`]
    ReadAt,
    /// [`ReadStore::slice`]
    Slice,
    /// [`WriteStore::put_tree`]
    PutTree,
    /// [`WriteStore::put_blob`]
    PutBlob,
    /// [`WriteStore::put_slice`]
    PutSlice,
    /// [`ReadStore::belongs`]
    Belongs,
    /// [`ReadStore::at`]
    At,
    /// [`WriteStore::note`]
    Note,
    /// [`WriteStore::note_at`]
    NoteAt,
    /// [`WriteStore::flush`]
    Flush,
}

/// A store that does what a test scripted, and otherwise what the store within does.
#[derive(Debug)]
pub struct FaultStore<S> {
    inner: S,
    script: Mutex<Script>,
}

#[derive(Debug, Default)]
struct Script {
    made: HashMap<Call, u64>,
    faults: HashMap<(Call, u64), Fault>,
}

#[derive(Debug)]
enum Fault {
    Fail(StoreError),
    WrongBytes,
    Block(Arc<Gate>),
}

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    reached: bool,
    open: bool,
}

/// Holds a call back until it is dropped.
#[derive(Debug)]
pub struct Hold(Arc<Gate>);

impl Hold {
    /// Waits until the call has been made and stands still.
    pub fn wait_until_reached(&self) {
        let mut state = lock(&self.0.state);
        while !state.reached {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        lock(&self.0.state).open = true;
        self.0.changed.notify_all();
    }
}

impl<S> FaultStore<S> {
    /// Wraps a store; nothing goes wrong yet.
    pub fn new(inner: S) -> Self {
        Self { inner, script: Mutex::default() }
    }

    /// The store within.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// How often `call` was made.
    pub fn made(&self, call: Call) -> u64 {
        lock(&self.script).made.get(&call).copied().unwrap_or(0)
    }

    /// Lets the `nth` `call` from now (1 is the next one) fail with `error`, without reaching the store within.
    pub fn fail(&self, call: Call, nth: u64, error: StoreError) {
        self.plan(call, nth, Fault::Fail(error));
    }

    /// Lets the `nth` `call` from now, one that reads content, return bytes of which the first is wrong.
    pub fn corrupt(&self, call: Call, nth: u64) {
        self.plan(call, nth, Fault::WrongBytes);
    }

    /// Lets the `nth` `call` from now stand still until the returned hold is dropped.
    pub fn block(&self, call: Call, nth: u64) -> Hold {
        let gate = Arc::new(Gate::default());
        self.plan(call, nth, Fault::Block(gate.clone()));
        Hold(gate)
    }

    fn plan(&self, call: Call, nth: u64, fault: Fault) {
        let mut script = lock(&self.script);
        let made = script.made.get(&call).copied().unwrap_or(0);
        script.faults.insert((call, made + nth), fault);
    }

    /// Counts a call and does what is scripted for it; true when its bytes are to be wrong.
    fn enter(&self, call: Call) -> Result<bool, StoreError> {
        let fault = {
            let mut script = lock(&self.script);
            let made = script.made.entry(call).or_default();
            *made += 1;
            let number = *made;
            script.faults.remove(&(call, number))
        };
        match fault {
            None => Ok(false),
            Some(Fault::Fail(error)) => Err(error),
            Some(Fault::WrongBytes) => Ok(true),
            Some(Fault::Block(gate)) => {
                let mut state = lock(&gate.state);
                state.reached = true;
                gate.changed.notify_all();
                while !state.open {
                    state = gate.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Ok(false)
            }
        }
    }
}

impl<S: ReadStore> ReadStore for FaultStore<S> {
    fn tree(&self, digest: &Digest) -> Result<Option<Bytes>, StoreError> {
        let wrong = self.enter(Call::Tree)?;
        let object = self.inner.tree(digest)?;
        Ok(object.map(|object| {
            let mut bytes = object.to_vec();
            if wrong {
                spoil(&mut bytes);
            }
            Bytes::from(bytes)
        }))
    }

    fn held(&self, blob: &Blob) -> Result<Groups, StoreError> {
        self.enter(Call::Held)?;
        self.inner.held(blob)
    }

    fn read_at(&self, blob: &Blob, offset: u64, buffer: &mut [u8]) -> Result<bool, StoreError> {
        let wrong = self.enter(Call::ReadAt)?;
        let held = self.inner.read_at(blob, offset, buffer)?;
        if wrong {
            spoil(buffer);
        }
        Ok(held)
    }

    fn slice(&self, blob: &Blob, groups: Range<u64>) -> Result<Option<Vec<u8>>, StoreError> {
        let wrong = self.enter(Call::Slice)?;
        let mut encoded = self.inner.slice(blob, groups)?;
        if let (true, Some(bytes)) = (wrong, &mut encoded) {
            spoil(bytes);
        }
        Ok(encoded)
    }

    fn belongs(&self, workspace: &WorkspaceId, digest: &Digest) -> Result<bool, StoreError> {
        self.enter(Call::Belongs)?;
        self.inner.belongs(workspace, digest)
    }

    fn at(&self, workspace: &WorkspaceId, path: PathKey) -> Result<Option<Blob>, StoreError> {
        self.enter(Call::At)?;
        self.inner.at(workspace, path)
    }
}

impl<S: WriteStore> WriteStore for FaultStore<S> {
    fn put_tree(&self, digest: Digest, object: &[u8]) -> Result<(), StoreError> {
        self.enter(Call::PutTree)?;
        self.inner.put_tree(digest, object)
    }

    fn put_blob(&self, blob: &VerifiedBlob) -> Result<(), StoreError> {
        self.enter(Call::PutBlob)?;
        self.inner.put_blob(blob)
    }

    fn put_slice(&self, slice: &VerifiedSlice) -> Result<(), StoreError> {
        self.enter(Call::PutSlice)?;
        self.inner.put_slice(slice)
    }

    fn note(&self, workspace: &WorkspaceId, digest: &Digest) -> Result<(), StoreError> {
        self.enter(Call::Note)?;
        self.inner.note(workspace, digest)
    }

    fn note_at(&self, workspace: &WorkspaceId, path: PathKey, blob: &Blob) -> Result<(), StoreError> {
        self.enter(Call::NoteAt)?;
        self.inner.note_at(workspace, path, blob)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.enter(Call::Flush)?;
        self.inner.flush()
    }
}

fn spoil(bytes: &mut [u8]) {
    if let Some(first) = bytes.first_mut() {
        *first ^= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    fn store() -> (FaultStore<MemoryStore>, Digest) {
        let store = FaultStore::new(MemoryStore::new());
        let digest = Digest::of(b"tree");
        store.put_tree(digest, b"tree").unwrap();
        (store, digest)
    }

    #[test]
    fn only_the_scripted_call_goes_wrong() {
        let (store, digest) = store();
        store.fail(Call::Tree, 2, StoreError::Full);
        store.corrupt(Call::Tree, 3);
        assert_eq!(store.tree(&digest).unwrap().unwrap(), "tree");
        assert!(matches!(store.tree(&digest), Err(StoreError::Full)));
        assert_eq!(store.tree(&digest).unwrap().unwrap(), "uree");
        assert_eq!(store.tree(&digest).unwrap().unwrap(), "tree");
        assert_eq!(store.made(Call::Tree), 4);
    }

    #[test]
    fn a_held_call_stands_still_until_released() {
        let (store, digest) = store();
        let hold = store.block(Call::Tree, 1);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| store.tree(&digest).unwrap());
            hold.wait_until_reached();
            assert!(!reader.is_finished());
            drop(hold);
            assert_eq!(reader.join().unwrap().unwrap(), "tree");
        });
    }
}
