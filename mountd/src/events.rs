//! What happens in the node, for those who follow it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{Stream, stream};
use jiff::Timestamp;
use tokio::sync::watch;
use twinshare::{
    api::{Event, Happening},
    types::HostName,
    view::{HostListing, HostState, Listing, Place},
};

/// So many events are kept for those who follow again.
const KEPT: usize = 1000;

/// The events of late.
pub(crate) struct Events {
    kept: Mutex<VecDeque<Event>>,
    /// The number of the newest.
    newest: watch::Sender<u64>,
}

impl Events {
    pub(crate) fn new() -> Arc<Self> {
        // Numbers grow across restarts, as long as the clock goes forward and there are fewer than 1000 events a millisecond.
        let first = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0) * 1000;
        Arc::new(Self { kept: Mutex::default(), newest: watch::Sender::new(first) })
    }

    /// Tells everybody.
    pub(crate) fn note(&self, what: Happening) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let id = *self.newest.borrow() + 1;
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Event { id, at: Timestamp::now(), what });
        self.newest.send_replace(id);
    }

    /// All events behind the one with the number `after`, and then those that happen; without it, only these.
    pub(crate) fn follow(self: &Arc<Self>, after: Option<u64>) -> impl Stream<Item = Event> + use<> {
        let newest = self.newest.subscribe();
        let after = after.unwrap_or(*newest.borrow());
        stream::unfold((self.clone(), newest, after), |(events, mut newest, after)| async move {
            loop {
                newest.borrow_and_update();
                if let Some(event) = events.next(after) {
                    let after = event.id;
                    return Some((event, (events, newest, after)));
                }
                newest.changed().await.ok()?;
            }
        })
    }

    fn next(&self, after: u64) -> Option<Event> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = *self.newest.borrow();
        if after > newest {
            // A number of before a restart, and the clock has been set back since.
            return Some(Event { id: newest, at: Timestamp::now(), what: Happening::Missed });
        }
        let position = kept.partition_point(|event| event.id <= after);
        let next = kept.get(position)?;
        // The one before it isn't known to be the one that was asked for.
        let is_gap = position == 0 && next.id != after + 1;
        Some(if is_gap {
            Event { id: next.id - 1, at: next.at, what: Happening::Missed }
        } else {
            next.clone()
        })
    }

    /// Tells how one listing differs from the one before.
    pub(crate) fn note_listing(&self, before: &Listing, now: &Listing) {
        let nothing = HostListing { state: HostState::Away, places: Default::default() };
        for (host, old) in &before.hosts {
            let new = now.hosts.get(host).unwrap_or(&nothing);
            for workspace in old.places.keys().filter(|name| !new.places.contains_key(*name)) {
                self.note(Happening::WorkspaceLeft { host: host.clone(), workspace: workspace.clone() });
            }
        }
        for (host, new) in &now.hosts {
            self.note_host(host, before.hosts.get(host), new);
        }
    }

    fn note_host(&self, host: &HostName, before: Option<&HostListing>, now: &HostListing) {
        match (before.map(|before| before.state), now.state) {
            (Some(HostState::Online), HostState::Away) => {
                self.note(Happening::HostAway { host: host.clone() })
            }
            (None | Some(HostState::Away), HostState::Online) => {
                self.note(Happening::HostOnline { host: host.clone() });
            }
            _ => {}
        }
        let root = |place: &Place| match place {
            Place::Remote(mounted) => mounted.root,
            Place::Local(_) => None,
        };
        for (name, place) in &now.places {
            let (host, workspace, snapshot) = (host.clone(), name.clone(), root(place));
            match before.and_then(|before| before.places.get(name)) {
                None => self.note(Happening::WorkspaceAppeared { host, workspace, snapshot }),
                Some(old) if root(old) != snapshot => {
                    self.note(Happening::WorkspaceChanged { host, workspace, snapshot });
                }
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, pin::pin};

    use futures_util::{FutureExt, StreamExt};
    use twinshare::types::{Digest, WorkspaceName};

    use super::*;

    fn host(name: &str) -> HostName {
        name.parse().unwrap()
    }

    fn away(name: &str) -> Happening {
        Happening::HostAway { host: host(name) }
    }

    fn waiting(events: &Arc<Events>, after: Option<u64>) -> Vec<Happening> {
        let mut stream = pin!(events.follow(after));
        std::iter::from_fn(|| stream.next().now_or_never().flatten()).map(|event| event.what).collect()
    }

    #[tokio::test]
    async fn whoever_follows_again_gets_what_came_meanwhile() {
        let events = Events::new();
        let mut first = pin!(events.follow(None));
        assert!(first.next().now_or_never().is_none());
        events.note(away("a"));
        events.note(away("b"));
        let seen = first.next().await.unwrap();
        assert_eq!(seen.what, away("a"));
        assert_eq!(waiting(&events, Some(seen.id)), [away("b")]);
        assert_eq!(waiting(&events, None), [], "only what comes");
        // One of before a restart.
        assert_eq!(waiting(&events, Some(5)), [Happening::Missed, away("a"), away("b")]);
        assert_eq!(waiting(&events, Some(u64::MAX)), [Happening::Missed]);
        for _ in 0..KEPT {
            events.note(away("c"));
        }
        let later = waiting(&events, Some(seen.id));
        assert_eq!((&later[0], later.len()), (&Happening::Missed, KEPT + 1));
        assert_eq!(first.next().await.unwrap().what, Happening::Missed, "also whoever is slow");
    }

    #[test]
    fn what_the_mount_shows_is_told() {
        let remote = |root: &str| {
            Place::Remote(twinshare::view::Mounted {
                id: twinshare::types::WorkspaceId::from_bytes([1; 16]),
                host: host("ann"),
                root: Some(Digest::of(root.as_bytes())),
                totals: Default::default(),
                mode: 0o755,
                modified: Default::default(),
                original: b"/w".to_vec(),
                fixed: false,
                rights: twinshare::access::Rights::USUAL,
            })
        };
        let listing = |state, places: Vec<(&str, Place)>| {
            let places = places.into_iter().map(|(name, place)| (name.parse().unwrap(), place)).collect();
            Listing { hosts: BTreeMap::from([(host("ann"), HostListing { state, places })]) }
        };
        let told = |before: &Listing, now: &Listing| {
            let events = Events::new();
            events.note_listing(before, now);
            waiting(&events, Some(0)).into_iter().skip(1).collect::<Vec<_>>()
        };
        let (ann, workspace): (_, WorkspaceName) = (host("ann"), "lab".parse().unwrap());
        let snapshot = |root: &str| Some(Digest::of(root.as_bytes()));
        let first = listing(HostState::Online, vec![("lab", remote("1"))]);
        let appeared = Happening::WorkspaceAppeared {
            host: ann.clone(),
            workspace: workspace.clone(),
            snapshot: snapshot("1"),
        };
        assert_eq!(
            told(&Listing::default(), &first),
            [Happening::HostOnline { host: ann.clone() }, appeared]
        );
        assert_eq!(told(&first, &first), []);
        let second = listing(HostState::Away, vec![("lab", remote("2"))]);
        let changed = Happening::WorkspaceChanged {
            host: ann.clone(),
            workspace: workspace.clone(),
            snapshot: snapshot("2"),
        };
        assert_eq!(told(&first, &second), [away("ann"), changed]);
        let left = Happening::WorkspaceLeft { host: ann, workspace };
        assert_eq!(told(&second, &Listing::default()), [left]);
    }
}
