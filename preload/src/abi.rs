//! Numbers and structures of the kernel's and the loader's interfaces on Linux x86-64, under their usual names.
//! The `libc` crate has them too, but with it comes a link to libc, and the shim needs none.
//!
//! Sources: `asm/unistd_64.h`, `asm-generic/{errno,errno-base,fcntl,mman,mman-common,resource,signal,stat}.h`,
//! `linux/{fcntl,membarrier,mman,prctl,seccomp,socket,time}.h`, `asm/{stat,statfs}.h`, `elf.h`, `dlfcn.h`, `link.h`.

use core::ffi::{c_char, c_void};

pub const SYS_WRITE: i64 = 1;
pub const SYS_CLOSE: i64 = 3;
pub const SYS_FSTAT: i64 = 5;
pub const SYS_MMAP: i64 = 9;
pub const SYS_MPROTECT: i64 = 10;
pub const SYS_MUNMAP: i64 = 11;
pub const SYS_PREAD64: i64 = 17;
pub const SYS_PWRITE64: i64 = 18;
pub const SYS_SCHED_YIELD: i64 = 24;
pub const SYS_MREMAP: i64 = 25;
pub const SYS_MADVISE: i64 = 28;
pub const SYS_NANOSLEEP: i64 = 35;
pub const SYS_CLOCK_GETTIME: i64 = 228;
pub const SYS_GETPID: i64 = 39;
pub const SYS_RECVMSG: i64 = 47;
pub const SYS_FCNTL: i64 = 72;
pub const SYS_READLINK: i64 = 89;
pub const SYS_SIGALTSTACK: i64 = 131;
pub const SYS_FSTATFS: i64 = 138;
pub const SYS_GETTID: i64 = 186;
pub const SYS_TGKILL: i64 = 234;
pub const SYS_OPENAT: i64 = 257;
pub const SYS_FALLOCATE: i64 = 285;
pub const SYS_PRLIMIT64: i64 = 302;
pub const SYS_FGETXATTR: i64 = 193;
pub const SYS_PROCESS_VM_READV: i64 = 310;
pub const SYS_SECCOMP: i64 = 317;
pub const SYS_MEMBARRIER: i64 = 324;

pub const ENOENT: i32 = 2;
pub const ESRCH: i32 = 3;
pub const EINTR: i32 = 4;
pub const EIO: i32 = 5;
pub const ENOMEM: i32 = 12;
pub const EACCES: i32 = 13;
pub const EFBIG: i32 = 27;
pub const ENOSPC: i32 = 28;
pub const ENOSYS: i32 = 38;
pub const EDQUOT: i32 = 122;

pub const AT_FDCWD: i32 = -100;
pub const AT_SYMLINK_NOFOLLOW: i32 = 0x100;
pub const AT_EMPTY_PATH: i32 = 0x1000;
pub const O_RDONLY: i32 = 0;
pub const O_RDWR: i32 = 2;
pub const O_CREAT: i32 = 0o100;
pub const O_EXCL: i32 = 0o200;
pub const O_NOCTTY: i32 = 0o400;
pub const O_NONBLOCK: i32 = 0o4000;
pub const O_NOFOLLOW: i32 = 0o400000;
pub const O_CLOEXEC: i32 = 0o2000000;
pub const F_DUPFD_CLOEXEC: i32 = 1030;
pub const S_IFMT: u32 = 0o170000;
pub const S_IFREG: u32 = 0o100000;
pub const S_IFSOCK: u32 = 0o140000;
/// The three permissions to execute.
pub const S_IXALL: u32 = 0o111;
pub const S_ISUID: u32 = 0o4000;
pub const S_ISGID: u32 = 0o2000;

pub const SOL_SOCKET: i32 = 1;
pub const SCM_RIGHTS: i32 = 1;
pub const MSG_DONTWAIT: i32 = 0x40;
pub const MSG_CMSG_CLOEXEC: i32 = 0x4000_0000;

pub const PROT_READ: i32 = 1;
pub const PROT_WRITE: i32 = 2;
pub const MAP_SHARED: i32 = 0x01;
pub const MAP_PRIVATE: i32 = 0x02;
pub const MAP_FIXED: i32 = 0x10;
pub const MAP_ANONYMOUS: i32 = 0x20;
pub const MAP_POPULATE: i32 = 0x8000;
pub const MAP_NORESERVE: i32 = 0x4000;
pub const MAP_FAILED: *mut c_void = usize::MAX as *mut c_void;
pub const MREMAP_MAYMOVE: i32 = 1;
pub const MREMAP_DONTUNMAP: i32 = 4;
pub const MADV_WIPEONFORK: i32 = 18;

pub const MEMBARRIER_CMD_PRIVATE_EXPEDITED: usize = 1 << 3;
pub const MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED: usize = 1 << 4;
pub const PR_SET_NAME: i32 = 15;
pub const PR_SET_SECCOMP: i32 = 22;
pub const RLIMIT_FSIZE: i32 = 1;
pub const SIGABRT: i32 = 6;
pub const SS_ONSTACK: i32 = 1;

pub const PT_LOAD: u32 = 1;
pub const PT_DYNAMIC: u32 = 2;
pub const PT_INTERP: u32 = 3;
pub const PT_NOTE: u32 = 4;
pub const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
pub const PT_GNU_RELRO: u32 = 0x6474_e552;
pub const RTLD_LAZY: i32 = 1;
pub const RTLD_NOLOAD: i32 = 4;
pub const RTLD_DEEPBIND: i32 = 8;
pub const RTLD_NODELETE: i32 = 0x1000;
pub const RTLD_NEXT: *mut c_void = usize::MAX as *mut c_void;

#[repr(C)]
pub struct IoVec {
    pub start: *mut c_void,
    pub len: usize,
}

/// `struct user_msghdr`
#[repr(C)]
pub struct MsgHdr {
    pub name: *mut c_void,
    pub name_len: i32,
    pub vector: *mut IoVec,
    pub vector_len: usize,
    pub control: *mut c_void,
    pub control_len: usize,
    pub flags: u32,
}

/// `struct cmsghdr` with one descriptor behind it.
#[repr(C)]
pub struct Rights {
    pub len: usize,
    pub level: i32,
    pub kind: i32,
    pub descriptor: i32,
}

#[repr(C)]
pub struct TimeSpec {
    pub seconds: i64,
    pub nanos: i64,
}

#[repr(C)]
pub struct RLimit64 {
    pub current: u64,
    pub max: u64,
}

#[repr(C)]
pub struct SigStack {
    pub start: *mut c_void,
    pub flags: i32,
    pub size: usize,
}

/// `struct stat`, as far as we read it.
#[repr(C)]
pub struct Stat {
    pub device: u64,
    pub inode: u64,
    pub n_links: u64,
    pub mode: u32,
    rest: [u8; 116],
}

const _: () = assert!(size_of::<Stat>() == 144);

/// `struct statfs`, as far as we read it.
#[repr(C)]
pub struct StatFs {
    pub kind: i64,
    rest: [u8; 112],
}

const _: () = assert!(size_of::<StatFs>() == 120);

/// `struct dl_phdr_info`, as far as we read it.
#[repr(C)]
pub struct PhdrInfo {
    pub base: usize,
    pub name: *const c_char,
    pub segments: *const ProgramHeader,
    pub n_segments: u16,
    /// Objects that were ever loaded.
    pub n_loads: u64,
}

/// `Elf64_Phdr`
#[repr(C)]
pub struct ProgramHeader {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub address: u64,
    pub physical_address: u64,
    pub file_len: u64,
    pub memory_len: u64,
    pub align: u64,
}

const _: () = assert!(size_of::<ProgramHeader>() == 56);

pub const CLOCK_REALTIME: i32 = 0;
pub const CLOCK_MONOTONIC: i32 = 1;
pub const EEXIST: i32 = 17;
