//! Keeps what runs in a sandbox from typing into the terminal that it shares with the user's shell.

use rustix::io::Errno;

#[cfg(target_arch = "x86_64")]
mod native {
    pub(super) const ARCHITECTURE: u32 = 0xc000_003e;
    pub(super) const COMPATIBLE: u32 = 0x4000_0003;
    /// The x32 way into the same kernel, for which ioctl has a number of its own.
    pub(super) const ALSO: u32 = 0x4000_0000 | 514;
}

#[cfg(target_arch = "aarch64")]
mod native {
    pub(super) const ARCHITECTURE: u32 = 0xc000_00b7;
    pub(super) const COMPATIBLE: u32 = 0x4000_0028;
    pub(super) const ALSO: u32 = super::NATIVE_IOCTL;
}

const NATIVE_IOCTL: u32 = libc::SYS_ioctl as u32;
/// ioctl's number on the 32-bit architectures that go with these.
const COMPATIBLE_IOCTL: u32 = 54;

/// A seccomp program, as bubblewrap's `--seccomp` reads it from a descriptor: `ioctl(TIOCSTI)` and `ioctl(TIOCLINUX)`,
/// which put characters into a terminal's input, fail with EPERM. Kernels since 6.2 may refuse the first by themselves
/// (dev.tty.legacy_tiocsti), older ones don't.
pub fn terminal_filter() -> Vec<u8> {
    use native::{ALSO, ARCHITECTURE, COMPATIBLE};
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // Where struct seccomp_data holds the system call's number, its architecture, and the low half of its second argument:
    // the kernel looks at no more of a request's number.
    const NUMBER: u32 = 0;
    const ABI: u32 = 4;
    const REQUEST: u32 = if cfg!(target_endian = "little") { 24 } else { 28 };
    const DENY: u32 = libc::SECCOMP_RET_ERRNO | Errno::PERM.raw_os_error() as u32;
    // (code, value, jump if equal, jump if not): jumps count the instructions that are skipped.
    let program: [(u16, u32, u8, u8); 13] = [
        (LOAD, ABI, 0, 0),
        (EQUAL, ARCHITECTURE, 2, 0),
        (EQUAL, COMPATIBLE, 4, 0),
        (RETURN, libc::SECCOMP_RET_KILL_PROCESS, 0, 0),
        (LOAD, NUMBER, 0, 0),
        (EQUAL, NATIVE_IOCTL, 3, 0),
        (EQUAL, ALSO, 2, 5),
        (LOAD, NUMBER, 0, 0),
        (EQUAL, COMPATIBLE_IOCTL, 0, 3),
        (LOAD, REQUEST, 0, 0),
        (EQUAL, libc::TIOCSTI as u32, 2, 0),
        (EQUAL, libc::TIOCLINUX as u32, 1, 0),
        (RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let deny = (RETURN, DENY, 0, 0);
    let encode = |(code, value, equal, other): (u16, u32, u8, u8)| {
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&code.to_ne_bytes());
        (bytes[2], bytes[3]) = (equal, other);
        bytes[4..].copy_from_slice(&value.to_ne_bytes());
        bytes
    };
    program.into_iter().chain([deny]).flat_map(encode).collect()
}
