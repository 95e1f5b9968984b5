//! The system calls that nothing in a sandbox may make.

use std::collections::BTreeMap;

use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

/// Calls by which a program changes the machine, looks into its kernel, or reaches large parts of it that are seldom needed
/// and often wrong. Most need privileges that a sandbox hasn't got anyway. After Docker's and systemd's lists.
const DENIED: &[libc::c_long] = &[
    // Keys of the user's session.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    // Asynchronous calls that a filter doesn't see.
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    // Programs in the kernel, its events, faults and log.
    libc::SYS_bpf,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    libc::SYS_perf_event_open,
    libc::SYS_syslog,
    libc::SYS_userfaultfd,
    // Modules, another kernel, another time, swapping, accounting, quotas.
    libc::SYS_acct,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_vhangup,
    // Mounts, and namespaces in which one would have the right to them.
    libc::SYS_chroot,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_setns,
    libc::SYS_umount2,
    // Other processes' memory, beside what a debugger has.
    libc::SYS_kcmp,
    libc::SYS_process_vm_writev,
];

/// The namespace of users, alone or with others: in it one would have all privileges over the others.
const NEW_USER: u64 = libc::CLONE_NEWUSER as u64;

/// A seccomp program, as bubblewrap's `--seccomp` reads it from a descriptor.
///
/// What is denied fails with EPERM. `clone3` fails with ENOSYS, since its flags can't be seen: libraries then use `clone`, of
/// which only new namespaces of users are denied. `ioctl(TIOCSTI)` and `ioctl(TIOCLINUX)`, which put characters into a
/// terminal's input, are denied too: kernels since 6.2 may refuse the first by themselves (dev.tty.legacy_tiocsti), older ones
/// don't. Programs for another architecture than this machine's are ended.
pub fn filter() -> Vec<u8> {
    let program: Vec<sock_filter> = head().into_iter().chain(denied()).collect();
    let encode = |step: sock_filter| {
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&step.code.to_ne_bytes());
        (bytes[2], bytes[3]) = (step.jt, step.jf);
        bytes[4..].copy_from_slice(&step.k.to_ne_bytes());
        bytes
    };
    program.into_iter().flat_map(encode).collect()
}

/// What comes first: `clone3`, and on x86-64 the x32 way into the same kernel, aren't there.
fn head() -> Vec<sock_filter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const ABSENT: u32 = libc::SECCOMP_RET_ERRNO | Errno::NOSYS.raw_os_error() as u32;
    let step = |code, k, jt, jf| sock_filter { code, jt, jf, k };
    // Where struct seccomp_data holds the system call's number.
    let mut steps =
        vec![step(LOAD, 0, 0, 0), step(EQUAL, libc::SYS_clone3 as u32, 0, 1), step(RETURN, ABSENT, 0, 0)];
    if cfg!(target_arch = "x86_64") {
        const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
        steps.extend([step(AT_LEAST, 0x4000_0000, 0, 1), step(RETURN, ABSENT, 0, 0)]);
    }
    steps
}

fn denied() -> BpfProgram {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    let has_flag = |argument| {
        let condition = SeccompCondition::new(
            argument,
            SeccompCmpArgLen::Qword,
            SeccompCmpOp::MaskedEq(NEW_USER),
            NEW_USER,
        );
        SeccompRule::new(vec![condition.expect("there are six arguments")]).expect("it has a condition")
    };
    rules.insert(libc::SYS_clone, vec![has_flag(0)]);
    rules.insert(libc::SYS_unshare, vec![has_flag(0)]);
    // The kernel looks at no more of a request's number than its low half.
    let asks = |request: libc::Ioctl| {
        let condition =
            SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request & 0xffff_ffff);
        SeccompRule::new(vec![condition.expect("there are six arguments")]).expect("it has a condition")
    };
    rules.insert(libc::SYS_ioctl, vec![asks(libc::TIOCSTI), asks(libc::TIOCLINUX)]);
    let arch = if cfg!(target_arch = "aarch64") { TargetArch::aarch64 } else { TargetArch::x86_64 };
    let deny = SeccompAction::Errno(Errno::PERM.raw_os_error() as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, deny, arch);
    filter.and_then(BpfProgram::try_from).expect("the rules are constant, and tested")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_one_that_the_kernel_takes() {
        let filter = filter();
        assert_eq!(filter.len() % 8, 0);
        assert!(filter.len() / 8 < 4096);
    }
}
