//! A network cable in user space that takes time, for kernels without netem.
//!
//! Two tap devices, one in each namespace, and a thread for each direction that holds every frame for the delay.
//! Offloads stay on, so a stream crosses as frames of up to 64 KiB and the carrier costs little. It neither drops nor
//! limits: the rate is made by the queueing discipline of each device. The devices go with the cable, or with the process.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::link::in_namespace;

/// Frames under way in one direction; more wait in the device's own queue.
const UNDER_WAY: usize = 16384;
/// The largest frame: a 64 KiB segment and its headers.
const FRAME: usize = 65536 + 512;
/// How often a silent carrier looks whether it shall end.
const LOOK: Duration = Duration::from_millis(100);

/// The cable; unplugged when dropped.
pub(crate) struct Cable {
    delay: Arc<AtomicU64>,
    cut: Arc<AtomicBool>,
    carriers: Vec<JoinHandle<()>>,
}

impl Cable {
    /// Makes the device of this name in both namespaces and joins them, for now without a delay.
    pub(crate) fn plug(namespaces: [&str; 2], device: &str) -> Self {
        let [left, right] = namespaces.map(|namespace| Arc::new(in_namespace(namespace, || tap(device))));
        let delay = Arc::new(AtomicU64::new(0));
        let cut = Arc::new(AtomicBool::new(false));
        let carriers = [(left.clone(), right.clone()), (right, left)]
            .map(|(from, to)| {
                let (delay, cut) = (delay.clone(), cut.clone());
                thread::spawn(move || carry(&from, &to, &delay, &cut))
            })
            .into();
        Self { delay, cut, carriers }
    }

    /// Sets how long a frame takes in one direction.
    pub(crate) fn set_delay(&self, one_way: Duration) {
        self.delay.store(u64::try_from(one_way.as_nanos()).unwrap(), Ordering::Relaxed);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.cut.store(true, Ordering::Relaxed);
        for carrier in self.carriers.drain(..) {
            // A carrier that panicked has nothing left to end.
            let _ = carrier.join();
        }
    }
}

/// Opens a tap device in the calling thread's namespace.
fn tap(device: &str) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .expect("/dev/net/tun opens");
    // SAFETY: ifreq is plain data, for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    assert!(device.len() < libc::IFNAMSIZ);
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags =
        i16::try_from(libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR).unwrap();
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) };
    assert_eq!(made, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
    let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    // SAFETY: TUNSETOFFLOAD takes its flags by value.
    let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) };
    assert_eq!(set, 0, "TUNSETOFFLOAD: {}", std::io::Error::last_os_error());
    file
}

/// Carries frames in one direction until the cable is cut.
fn carry(mut from: &File, mut to: &File, delay: &AtomicU64, cut: &AtomicBool) {
    // SAFETY: takes two integers; the slack is this thread's own.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
    let mut under_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut buffer = vec![0; FRAME];
    while !cut.load(Ordering::Relaxed) {
        while under_way.len() < UNDER_WAY
            && let Ok(length) = from.read(&mut buffer)
        {
            let due = Instant::now() + Duration::from_nanos(delay.load(Ordering::Relaxed));
            under_way.push_back((due, buffer[..length].to_vec()));
        }
        while under_way.front().is_some_and(|(due, _)| *due <= Instant::now()) {
            let (_, frame) = under_way.pop_front().unwrap();
            // A device that is down takes nothing: the frame is lost, as on a real wire.
            let _ = to.write(&frame);
        }
        let pause = under_way.front().map_or(LOOK, |(due, _)| due.saturating_duration_since(Instant::now()));
        let events = if under_way.len() < UNDER_WAY { libc::POLLIN } else { 0 };
        let mut poll = libc::pollfd { fd: from.as_raw_fd(), events, revents: 0 };
        let timeout = libc::timespec {
            tv_sec: i64::try_from(pause.as_secs()).unwrap(),
            tv_nsec: i64::from(pause.subsec_nanos()),
        };
        // SAFETY: one pollfd and one timespec, both of which outlive the call.
        unsafe { libc::ppoll(&mut poll, 1, &timeout, ptr::null()) };
        if poll.revents & (libc::POLLERR | libc::POLLHUP) != 0 {
            thread::park_timeout(Duration::from_millis(1));
        }
    }
}
