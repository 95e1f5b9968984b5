//! Looks after the layers: what is written reaches the disk for good within seconds, also when nobody asks for it.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use twinshare::layer::Layers;

/// As often as the kernel does it for its own.
const INTERVAL: Duration = Duration::from_secs(5);

/// Syncs what has changed, until the node stops; then once more.
pub(crate) async fn keep(layers: Arc<Layers>, mut stopping: watch::Receiver<bool>) {
    loop {
        let stopped = tokio::select! {
            () = tokio::time::sleep(INTERVAL) => false,
            _ = stopping.wait_for(|stop| *stop) => true,
        };
        for (workspace, layer) in layers.all() {
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || layer.sync()).await {
                tracing::error!(%error, %workspace, "what was changed can't be brought to the disk");
            }
        }
        if stopped {
            return;
        }
    }
}
