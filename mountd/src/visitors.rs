//! Clients without a node, as browsers are, and their passwords.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use lru::LruCache;
use twinshare::peer::VisitRefusal;

/// Passwords that were right are known again for so long, since checking one takes a while …
const KNOWN: Duration = Duration::from_secs(600);

/// … and so many of them.
const MOST_KNOWN: usize = 256;

/// Addresses whose mistakes are remembered.
const ADDRESSES: usize = 1024;

/// So many wrong passwords are free …
const FREE: u32 = 5;

/// … and each further one doubles the time until the next try, from a second up to this.
const LONGEST: Duration = Duration::from_secs(60);

/// So many wrong passwords for one workspace, from wherever they come, are looked at …
const TOGETHER: u32 = 60;

/// … within this time: then none is until it's over, but those that are known.
const WINDOW: Duration = Duration::from_secs(60);

/// Checks passwords, but not as often as anybody likes.
pub(crate) struct Visitors {
    /// Keyed hashes of what was right, with the stored hash that it was right for, and until when that is believed.
    known: Mutex<LruCache<blake3::Hash, Instant>>,
    key: [u8; 32],
    mistakes: Mutex<LruCache<IpAddr, Mistakes>>,
    /// Since when so many wrong ones came for a workspace, by its stored hash.
    together: Mutex<LruCache<String, (Instant, u32)>>,
}

/// What went wrong from an address.
#[derive(Debug, Clone, Copy)]
struct Mistakes {
    count: u32,
    /// No password is looked at before.
    until: Instant,
}

impl Visitors {
    pub(crate) fn new() -> Self {
        let cache = |size| NonZeroUsize::new(size).unwrap_or(NonZeroUsize::MIN);
        Self {
            known: Mutex::new(LruCache::new(cache(MOST_KNOWN))),
            key: rand::random(),
            mistakes: Mutex::new(LruCache::new(cache(ADDRESSES))),
            together: Mutex::new(LruCache::new(cache(MOST_KNOWN))),
        }
    }

    /// Whether the password is the one that was hashed. Blocks for as long as that takes, and does it only while few wrong
    /// ones came from the same address.
    pub(crate) fn check(
        &self,
        stored: &str,
        password: Option<&str>,
        from: IpAddr,
        now: Instant,
    ) -> Result<(), VisitRefusal> {
        let password = password.ok_or(VisitRefusal::Password)?;
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(stored.as_bytes()).update(&[0]).update(password.as_bytes());
        let hash = hasher.finalize();
        if lock(&self.known).get(&hash).is_some_and(|until| now < *until) {
            return Ok(());
        }
        let from = network_of(from);
        self.count_try(stored, from, now).map_err(|left| VisitRefusal::Wait(left.as_secs() + 1))?;
        if !is_right(stored, password) {
            return Err(VisitRefusal::Password);
        }
        lock(&self.known).put(hash, now + KNOWN);
        lock(&self.mistakes).pop(&from);
        if let Some((_, count)) = lock(&self.together).get_mut(stored) {
            *count = count.saturating_sub(1);
        }
        Ok(())
    }

    /// Counts a try as a mistake until it turns out to be none, so that many at once are no way around. The error says how
    /// long none may be made.
    fn count_try(&self, stored: &str, from: IpAddr, now: Instant) -> Result<(), Duration> {
        let wait = |until: Instant| until.checked_duration_since(now).filter(|left| !left.is_zero());
        let mut all = lock(&self.mistakes);
        let mistakes = all.get_or_insert_mut(from, || Mistakes { count: 0, until: now });
        if let Some(left) = wait(mistakes.until) {
            return Err(left);
        }
        let mut together = lock(&self.together);
        let (since, count) = together.get_or_insert_mut(stored.to_owned(), || (now, 0));
        if wait(*since + WINDOW).is_none() {
            (*since, *count) = (now, 0);
        }
        if *count >= TOGETHER {
            return Err(wait(*since + WINDOW).unwrap_or_default());
        }
        *count += 1;
        mistakes.count = mistakes.count.saturating_add(1);
        if mistakes.count > FREE {
            let wait = Duration::from_secs(1 << (mistakes.count - FREE - 1).min(16));
            mistakes.until = now + wait.min(LONGEST);
        }
        Ok(())
    }
}

/// Whose mistakes are counted together: one machine has as many addresses of its IPv6 network as it likes.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Ipv6Addr::from_bits(0xfe80 << 112).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete before anything can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The password as it's kept: Argon2id with a salt of its own (RFC 9106), in the form of PHC strings.
pub(crate) fn hashed(password: &str) -> Result<String, argon2::password_hash::Error> {
    Ok(Argon2::default().hash_password(password.as_bytes())?.to_string())
}

/// The comparison takes as long whatever differs.
fn is_right(stored: &str, password: &str) -> bool {
    PasswordHash::new(stored)
        .is_ok_and(|stored| Argon2::default().verify_password(password.as_bytes(), &stored).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_gets_slow_and_the_right_password_quick() {
        let visitors = Visitors::new();
        let (stored, other) = (hashed("secret").unwrap(), hashed("secret").unwrap());
        assert!(stored.starts_with("$argon2id$") && stored != other, "{stored}");
        let (here, there) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(visitors.check(&stored, None, here, start), Err(VisitRefusal::Password));
        for _ in 0..FREE {
            assert_eq!(visitors.check(&stored, Some("wrong"), here, start), Err(VisitRefusal::Password));
        }
        assert_eq!(visitors.check(&stored, Some("wrong"), here, start), Err(VisitRefusal::Password));
        // Now not even the right one is looked at, but from there it is.
        assert_eq!(visitors.check(&stored, Some("secret"), here, start), Err(VisitRefusal::Wait(2)));
        assert_eq!(visitors.check(&stored, Some("secret"), there, start), Ok(()));
        // What is known to be right needs no look.
        assert_eq!(visitors.check(&stored, Some("secret"), here, start), Ok(()));
        assert_eq!(visitors.check(&stored, Some("wrong"), here, at(2)), Err(VisitRefusal::Password));
        assert_eq!(visitors.check(&stored, Some("wrong"), here, at(2)), Err(VisitRefusal::Wait(3)));
        assert_eq!(
            visitors.check(&other, Some("wrong"), here, at(3)),
            Err(VisitRefusal::Wait(2)),
            "of all workspaces"
        );
        // A new password makes the old one wrong at once.
        let new = hashed("new").unwrap();
        assert_eq!(visitors.check(&new, Some("secret"), there, at(3)), Err(VisitRefusal::Password));
        assert_eq!(visitors.check("nonsense", Some("secret"), there, at(3)), Err(VisitRefusal::Password));
    }
    #[test]
    fn many_addresses_are_no_more_tries() {
        let (visitors, stored, now) = (Visitors::new(), hashed("secret").unwrap(), Instant::now());
        let guess = |from: &str, at| visitors.check(&stored, Some("wrong"), from.parse().unwrap(), at);
        for host in 1..=FREE + 1 {
            assert_eq!(guess(&format!("2001:db8::{host}"), now), Err(VisitRefusal::Password));
            assert_eq!(guess(&format!("fe80::{host}:1"), now), Err(VisitRefusal::Password));
        }
        assert_eq!(guess("2001:db8::ffff", now), Err(VisitRefusal::Wait(2)), "of one network");
        assert_eq!(guess("fe80:1::1", now), Err(VisitRefusal::Wait(2)));
        for network in 1..=TOGETHER - 2 * (FREE + 1) {
            assert_eq!(guess(&format!("2001:db8:{network}::1"), now), Err(VisitRefusal::Password));
        }
        assert_eq!(guess("10.0.0.1", now), Err(VisitRefusal::Wait(61)), "for one workspace");
        let other = hashed("other").unwrap();
        assert_eq!(visitors.check(&other, Some("other"), "10.0.0.1".parse().unwrap(), now), Ok(()));
        assert_eq!(guess("10.0.0.1", now + WINDOW), Err(VisitRefusal::Password));
    }

    #[test]
    fn tries_at_the_same_time_are_counted_each() {
        let (visitors, stored, now) = (Visitors::new(), hashed("secret").unwrap(), Instant::now());
        let from = "10.0.0.1".parse().unwrap();
        let looked_at = std::thread::scope(|scope| {
            let guess = || visitors.check(&stored, Some("wrong"), from, now) == Err(VisitRefusal::Password);
            let guesses: Vec<_> = (0..12).map(|_| scope.spawn(guess)).collect();
            guesses.into_iter().map(|guess| guess.join().unwrap()).filter(|looked| *looked).count()
        });
        assert_eq!(looked_at, FREE as usize + 1);
    }
}
