//! Pieces made ready before anybody asks: what launches are known to read is compressed while the node is idle, and better
//! than there'd be time for while somebody waits.

use std::time::Duration;

use tokio::time::sleep;

use super::{ANSWERS, PACKED, Service};
use crate::peer::answer::make_ready;

/// Bytes that may be ready. The rest of the memory stays with what is being asked for.
const READY: usize = PACKED / 2;

/// zstd's level for them: a tenth smaller than what is made while somebody waits.
const READY_LEVEL: i32 = 9;

/// Pieces that are made ready between two looks at whether the node is still idle.
const AT_A_TIME: usize = 8;

/// Changes come in groups.
const SETTLED: Duration = Duration::from_secs(2);

/// How often a busy node looks whether it's idle.
const BUSY: Duration = Duration::from_millis(200);

/// Keeps what will probably be asked for ready, for as long as it's polled.
pub(super) async fn keep_ready(service: Service) {
    let mut changes = service.shares.changes();
    loop {
        make_expected_ready(&service).await;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = service.told.notified() => {}
        }
        sleep(SETTLED).await;
        changes.mark_unchanged();
    }
}

async fn make_expected_ready(service: &Service) {
    let shares = service.shares.clone();
    let Ok(expected) = service.blocking(move || shares.expected()).await else { return };
    let mut bytes = 0;
    for (workspace, pieces) in expected {
        for pieces in pieces.chunks(AT_A_TIME) {
            while service.answers.available_permits() < ANSWERS {
                sleep(BUSY).await;
            }
            let (workspace, packed, pieces) = (workspace.clone(), service.packed.clone(), pieces.to_vec());
            let make = move || -> usize {
                let make = |piece| make_ready(&*workspace, &packed, piece, READY_LEVEL);
                pieces.into_iter().map(make).sum()
            };
            bytes += service.blocking(make).await.unwrap_or(0);
            if bytes > READY {
                return;
            }
        }
    }
}
