use std::thread;

use fuser::{INodeNo, Notifier};
use tokio::sync::mpsc::UnboundedReceiver;
use twinshare::view::Invalidation;

/// Tells the kernel what to forget, on a thread of its own: a notification waits for the folder's lock, which a request
/// that waits for us may hold. Ends with the view.
pub(super) fn spawn(
    notifier: Notifier,
    mut invalidations: UnboundedReceiver<Invalidation>,
) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("invalidate".into()).spawn(move || {
        while let Some(invalidation) = invalidations.blocking_recv() {
            // The kernel answers ENOENT for what it doesn't know, or no longer: that's as good as forgotten.
            match invalidation {
                Invalidation::Entry { parent, name } => {
                    let _ = notifier.inval_entry(INodeNo(parent.0), name.as_os_str());
                }
                Invalidation::Content(ino) => {
                    let _ = notifier.inval_inode(INodeNo(ino.0), 0, 0);
                }
                Invalidation::Barrier(done) => {
                    let _ = done.send(());
                }
            }
        }
    })
}
