//! Waiting for conditions: the only place in the tests that sleeps.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Asks until there is an answer; None when there is none by the deadline.
pub(crate) fn poll<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        // The condition is asked once more after the limit, so that a machine that was busy isn't a failure.
        let last = start.elapsed() >= limit;
        let answer = ask();
        if answer.is_some() || last {
            return answer;
        }
        thread::sleep(INTERVAL);
    }
}

/// Asks until there is an answer; panics with `what` when there is none by the deadline.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, ask: impl FnMut() -> Option<T>) -> T {
    poll(limit, ask).unwrap_or_else(|| panic!("waited {limit:?} in vain for this: {what}"))
}

/// Does something over and over for a time, with a pause between.
pub(crate) fn repeat(total: Duration, pause: Duration, mut act: impl FnMut()) {
    let start = Instant::now();
    while start.elapsed() < total {
        act();
        thread::sleep(pause);
    }
}
