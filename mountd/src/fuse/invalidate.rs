use std::{io, sync::Arc, thread};

use fuser::{INodeNo, Notifier};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use twinshare::view::{Invalidation, LANES, Notice, View};

/// Tells the kernel what to forget, on threads of their own, one a lane: a notification waits for the folder's lock, which
/// a request that waits for us, or for a peer, may hold. They end with the view.
pub(super) fn spawn(
    notifier: &Notifier,
    view: &Arc<View>,
    mut invalidations: UnboundedReceiver<Invalidation>,
) -> io::Result<()> {
    let mut lanes = Vec::with_capacity(LANES);
    for lane in 0..LANES {
        let (sender, mut notices) = mpsc::unbounded_channel::<Notice>();
        let (notifier, view) = (notifier.clone(), Arc::downgrade(view));
        thread::Builder::new().name(format!("invalidate-{lane}")).spawn(move || {
            while let Some(notice) = notices.blocking_recv() {
                let Some(view) = view.upgrade() else { return };
                tell(&notifier, &view, notice);
            }
        })?;
        lanes.push(sender);
    }
    thread::Builder::new().name("invalidate".into()).spawn(move || {
        while let Some(Invalidation { lane, what }) = invalidations.blocking_recv() {
            // A lane that has ended has no view left to be right for.
            let _ = lanes[lane % LANES].send(what);
        }
    })?;
    Ok(())
}

fn tell(notifier: &Notifier, view: &View, notice: Notice) {
    // The kernel answers ENOENT for what it doesn't know, or no longer: that's as good as forgotten.
    match notice {
        Notice::Entry { parent, name } => {
            let _ = notifier.inval_entry(INodeNo(parent.0), name.as_os_str());
        }
        Notice::Content(ino) => {
            let _ = notifier.inval_inode(INodeNo(ino.0), 0, 0);
        }
        Notice::Told(workspace, root) => view.told(workspace, root),
    }
}
