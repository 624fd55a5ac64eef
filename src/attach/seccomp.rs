//! Filters of system calls (seccomp): whether they would end a process for what the recorder has to ask of the kernel.
//! The filters are read from the process and tried out here, before anything is done there. When they can't be read,
//! ours are taken for the same if there are as many: then both are in the same container.

use std::fs;

use anyhow::bail;
use nix::unistd::Pid;

use super::process::Process;
use super::sys::{self, Instruction};
use super::tracer;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const MAX_STEPS: usize = 100_000;
const AT_FDCWD: u64 = libc::AT_FDCWD as u64;
const READ_WRITE: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
const PRIVATE: u64 = libc::MAP_PRIVATE as u64;

/// What the loader asks for to load the recorder, and the recorder to record, with arguments as they have them.
const CALLS: [(i64, [u64; 4]); 33] = [
    (libc::SYS_openat, [AT_FDCWD, 1 << 20, (libc::O_RDONLY | libc::O_CLOEXEC) as u64, 0]),
    (libc::SYS_openat, [AT_FDCWD, 1 << 20, (libc::O_RDWR | libc::O_CLOEXEC) as u64, 0]),
    (libc::SYS_read, [3, 1 << 20, 832, 0]),
    (libc::SYS_pread64, [3, 1 << 20, 832, 64]),
    (libc::SYS_pwrite64, [3, 1 << 20, 832, 64]),
    (libc::SYS_fstat, [3, 1 << 20, 0, 0]),
    (libc::SYS_newfstatat, [3, 1 << 20, 1 << 20, libc::AT_EMPTY_PATH as u64]),
    (libc::SYS_fstatfs, [3, 1 << 20, 0, 0]),
    (libc::SYS_close, [3, 0, 0, 0]),
    (libc::SYS_fcntl, [3, libc::F_DUPFD_CLOEXEC as u64, 900, 0]),
    (libc::SYS_readlink, [1 << 20, 1 << 20, 4096, 0]),
    (libc::SYS_mmap, [0, 1 << 16, libc::PROT_READ as u64, PRIVATE]),
    (libc::SYS_mmap, [1 << 20, 1 << 16, (libc::PROT_READ | libc::PROT_EXEC) as u64, PRIVATE | libc::MAP_FIXED as u64]),
    (libc::SYS_mmap, [0, 1 << 16, READ_WRITE, PRIVATE | (libc::MAP_ANONYMOUS | libc::MAP_NORESERVE) as u64]),
    (libc::SYS_mmap, [0, 1 << 16, READ_WRITE, libc::MAP_SHARED as u64]),
    (libc::SYS_mmap, [1 << 20, 1 << 12, READ_WRITE, (libc::MAP_SHARED | libc::MAP_FIXED) as u64]),
    (libc::SYS_munmap, [1 << 20, 1 << 16, 0, 0]),
    (libc::SYS_mremap, [1 << 20, 1 << 16, 1 << 17, 1]),
    (libc::SYS_mprotect, [1 << 20, 1 << 12, libc::PROT_READ as u64, 0]),
    (libc::SYS_mprotect, [1 << 20, 1 << 12, READ_WRITE, 0]),
    (libc::SYS_madvise, [1 << 20, 1 << 12, libc::MADV_WIPEONFORK as u64, 0]),
    (libc::SYS_brk, [0, 0, 0, 0]),
    (libc::SYS_fallocate, [3, 0, 1 << 16, 1 << 16]),
    (libc::SYS_prlimit64, [0, libc::RLIMIT_FSIZE as u64, 0, 1 << 20]),
    (libc::SYS_getpid, [0; 4]),
    (libc::SYS_gettid, [0; 4]),
    (libc::SYS_tgkill, [1, 1, 0, 0]),
    (libc::SYS_sched_yield, [0; 4]),
    (libc::SYS_nanosleep, [1 << 20, 0, 0, 0]),
    (libc::SYS_sigaltstack, [0, 1 << 20, 0, 0]),
    (libc::SYS_process_vm_readv, [1, 1 << 20, 1, 1 << 20]),
    (libc::SYS_membarrier, [1 << 4, 0, 0, 0]),
    (libc::SYS_futex, [1 << 20, (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as u64, 2, 0]),
];

/// And to be handed what it can't open by a path.
const CALLS_OF_HANDOVER: [(i64, [u64; 4]); 2] = [
    (libc::SYS_socketpair, [libc::AF_UNIX as u64, (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as u64, 0, 1 << 20]),
    (libc::SYS_recvmsg, [3, 1 << 20, (libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) as u64, 0]),
];

/// An error says that the process would not survive. `tid` is a stopped thread of it.
pub fn check(process: &Process, tid: Pid, is_by_path: bool) -> anyhow::Result<()> {
    let theirs = filters_of(tid);
    if theirs.is_empty() {
        return Ok(());
    }
    let (pid, name) = (process.pid, &process.name);
    if !tracer::threads_of(process.pid).into_iter().all(|thread| filters_of(thread) == theirs) {
        bail!("process {pid} ({name}) can't be recorded: its threads filter their system calls (seccomp) differently");
    }
    for index in 0.. {
        match sys::seccomp_filter(tid, index) {
            Ok(None) => return Ok(()),
            Ok(Some(filter)) => {
                let further: &[_] = if is_by_path { &[] } else { &CALLS_OF_HANDOVER };
                let mut calls = CALLS.iter().chain(further);
                if let Some((number, _)) =
                    calls.find(|(number, arguments)| !is_let_through(&filter, *number, arguments))
                {
                    bail!(
                        "process {pid} ({name}) can't be recorded: its filter of system calls (seccomp) would end it for \
                         call number {number}, which the recorder needs"
                    );
                }
            }
            Err(_) if filters_of(nix::unistd::gettid()) == theirs => return Ok(()),
            Err(_) => bail!(
                "process {pid} ({name}) filters its system calls (seccomp), and what it allows only root can see: use sudo, or \
                 attach from inside its container"
            ),
        }
    }
    Ok(())
}

/// Mode and number of filters, as the kernel tells them; empty without any.
fn filters_of(tid: Pid) -> String {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let lines = status.lines().filter(|line| line.starts_with("Seccomp"));
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    if text.starts_with("Seccomp:\t0") { String::new() } else { text }
}

/// Whether a filter lets a call through, or has it fail.
fn is_let_through(filter: &[Instruction], number: i64, arguments: &[u64; 4]) -> bool {
    const ALLOW: u32 = 0x7fff_0000;
    const LOG: u32 = 0x7ffc_0000;
    const ERRNO: u32 = 0x0005_0000;
    // `struct seccomp_data`: number, architecture, instruction pointer, six arguments.
    let mut data = Vec::new();
    data.extend_from_slice(&(number as u32).to_le_bytes());
    data.extend_from_slice(&AUDIT_ARCH_X86_64.to_le_bytes());
    data.extend_from_slice(&(1u64 << 20).to_le_bytes());
    arguments.iter().chain(&[0, 0]).for_each(|argument| data.extend_from_slice(&argument.to_le_bytes()));
    evaluate(filter, &data).is_some_and(|action| matches!(action & 0xffff_0000, ALLOW | LOG | ERRNO))
}

/// What a filter answers (classic BPF, as far as seccomp takes it); `None` when it is none.
fn evaluate(filter: &[Instruction], data: &[u8]) -> Option<u32> {
    let (mut a, mut x, mut at) = (0u32, 0u32, 0usize);
    let mut scratch = [0u32; 16];
    for _ in 0..MAX_STEPS {
        let &(code, jt, jf, k) = filter.get(at)?;
        at += 1;
        let operand = if code & 0x08 != 0 { x } else { k };
        match code & 0x07 {
            // BPF_LD and BPF_LDX: of a word of the data, a constant, the scratch memory, the length.
            class @ (0 | 1) => {
                let value = match code & 0xe0 {
                    0x00 => k,
                    0x20 => u32::from_le_bytes(data.get(k as usize..k as usize + 4)?.try_into().ok()?),
                    0x60 => *scratch.get(k as usize)?,
                    0x80 => data.len() as u32,
                    _ => return None,
                };
                if class == 0 { a = value } else { x = value }
            }
            2 => *scratch.get_mut(k as usize)? = a,
            3 => *scratch.get_mut(k as usize)? = x,
            4 => {
                a = match code & 0xf0 {
                    0x00 => a.wrapping_add(operand),
                    0x10 => a.wrapping_sub(operand),
                    0x20 => a.wrapping_mul(operand),
                    0x30 => a.checked_div(operand)?,
                    0x40 => a | operand,
                    0x50 => a & operand,
                    0x60 => a.checked_shl(operand).unwrap_or(0),
                    0x70 => a.checked_shr(operand).unwrap_or(0),
                    0x80 => a.wrapping_neg(),
                    0xa0 => a ^ operand,
                    _ => return None,
                }
            }
            5 => {
                let is_true = match code & 0xf0 {
                    0x00 => {
                        at += k as usize;
                        continue;
                    }
                    0x10 => a == operand,
                    0x20 => a > operand,
                    0x30 => a >= operand,
                    0x40 => a & operand != 0,
                    _ => return None,
                };
                at += usize::from(if is_true { jt } else { jf });
            }
            6 => return Some(if code & 0x18 == 0x10 { a } else { k }),
            // BPF_MISC: between the registers.
            _ => {
                if code & 0xf8 == 0x80 {
                    a = x;
                } else {
                    x = a;
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `fixtures/native/seccomp_filter.c` has it, and libseccomp in its simplest form.
    fn allowing_only(number: i64) -> Vec<Instruction> {
        vec![(0x20, 0, 0, 0), (0x15, 0, 1, number as u32), (0x06, 0, 0, 0x7fff_0000), (0x06, 0, 0, 0x8000_0000)]
    }

    #[test]
    fn a_filter_is_tried_out_as_the_kernel_does() {
        let filter = allowing_only(libc::SYS_read);
        assert!(is_let_through(&filter, libc::SYS_read, &[0; 4]));
        assert!(!is_let_through(&filter, libc::SYS_openat, &[0; 4]));
        assert!(!is_let_through(&[], libc::SYS_read, &[0; 4]));
        // Executable mappings are refused with an error: the third argument has the bit 4.
        let failing = [(0x20, 0, 0, 32), (0x45, 0, 1, 4), (0x06, 0, 0, 0x0005_0001), (0x06, 0, 0, 0x0003_0000)];
        assert!(is_let_through(&failing, libc::SYS_mmap, &[0, 0, 4, 0]));
        assert!(!is_let_through(&failing, libc::SYS_mmap, &[0, 0, 1, 0]));
    }
}
