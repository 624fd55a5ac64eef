//! The next implementation of each hooked symbol: what the program would have called without us. Found at the first
//! call by reading the loaded objects' tables, which needs no memory, so there is no bootstrap allocator.
//!
//! # Safety
//! Dangerous: addresses become functions. Each name below stands beside the C type of the function that libc documents
//! for it.

use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::elf;

/// Where one symbol goes on.
pub struct Real {
    pub name: &'static CStr,
    address: AtomicUsize,
}

impl Real {
    const fn new(name: &'static CStr) -> Real {
        Real { name, address: AtomicUsize::new(0) }
    }

    /// The address of the next implementation, or 0 when no loaded object has one.
    #[inline(always)]
    pub fn address(&self) -> usize {
        match self.address.load(Ordering::Relaxed) {
            0 => self.resolve(),
            address => address,
        }
    }

    #[cold]
    #[inline(never)]
    fn resolve(&self) -> usize {
        let address = elf::next(self.name).unwrap_or(0);
        self.address.store(address, Ordering::Relaxed);
        address
    }
}

macro_rules! reals {
    ($($static_name:ident $name:literal => fn $function:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        $(
            pub static $static_name: Real = Real::new($name);

            #[doc = concat!("The real `", stringify!($function), "`.")]
            ///
            /// # Safety
            /// As for the C function.
            #[inline(always)]
            pub unsafe fn $function($($argument: $type),*) $(-> $result)? {
                // SAFETY: the address is that of the function of this name, whose type this is.
                unsafe {
                    let function: unsafe extern "C" fn($($type),*) $(-> $result)? =
                        core::mem::transmute($static_name.address());
                    function($($argument),*)
                }
            }
        )*
    };
}

type Pointer = *mut c_void;
type Text = *const c_char;
type Texts = *const *const c_char;

reals! {
    MALLOC c"malloc" => fn malloc(size: usize) -> Pointer;
    CALLOC c"calloc" => fn calloc(count: usize, size: usize) -> Pointer;
    REALLOC c"realloc" => fn realloc(block: Pointer, size: usize) -> Pointer;
    REALLOCARRAY c"reallocarray" => fn reallocarray(block: Pointer, count: usize, size: usize) -> Pointer;
    FREE c"free" => fn free(block: Pointer);
    POSIX_MEMALIGN c"posix_memalign" => fn posix_memalign(out: *mut Pointer, align: usize, size: usize) -> c_int;
    ALIGNED_ALLOC c"aligned_alloc" => fn aligned_alloc(align: usize, size: usize) -> Pointer;
    MEMALIGN c"memalign" => fn memalign(align: usize, size: usize) -> Pointer;
    VALLOC c"valloc" => fn valloc(size: usize) -> Pointer;
    PVALLOC c"pvalloc" => fn pvalloc(size: usize) -> Pointer;
    MMAP c"mmap" => fn mmap(address: Pointer, len: usize, prot: c_int, flags: c_int, fd: c_int, offset: c_long) -> Pointer;
    MREMAP c"mremap" => fn mremap(address: Pointer, old_len: usize, len: usize, flags: c_int, new: Pointer) -> Pointer;
    MUNMAP c"munmap" => fn munmap(address: Pointer, len: usize) -> c_int;
    DLCLOSE c"dlclose" => fn dlclose(handle: Pointer) -> c_int;
    DLSYM c"dlsym" => fn dlsym(handle: Pointer, name: Text) -> Pointer;
    DLVSYM c"dlvsym" => fn dlvsym(handle: Pointer, name: Text, version: Text) -> Pointer;
    EXECVE c"execve" => fn execve(path: Text, arguments: Texts, environment: Texts) -> c_int;
    EXECVPE c"execvpe" => fn execvpe(file: Text, arguments: Texts, environment: Texts) -> c_int;
    FEXECVE c"fexecve" => fn fexecve(fd: c_int, arguments: Texts, environment: Texts) -> c_int;
    EXECVEAT c"execveat" => fn execveat(folder: c_int, path: Text, arguments: Texts, environment: Texts, flags: c_int) -> c_int;
    POSIX_SPAWN c"posix_spawn" => fn posix_spawn(pid: *mut c_int, path: Text, actions: Pointer, attributes: Pointer, arguments: Texts, environment: Texts) -> c_int;
    POSIX_SPAWNP c"posix_spawnp" => fn posix_spawnp(pid: *mut c_int, file: Text, actions: Pointer, attributes: Pointer, arguments: Texts, environment: Texts) -> c_int;
    PIDFD_SPAWN c"pidfd_spawn" => fn pidfd_spawn(fd: *mut c_int, path: Text, actions: Pointer, attributes: Pointer, arguments: Texts, environment: Texts) -> c_int;
    PIDFD_SPAWNP c"pidfd_spawnp" => fn pidfd_spawnp(fd: *mut c_int, file: Text, actions: Pointer, attributes: Pointer, arguments: Texts, environment: Texts) -> c_int;
    SYSTEM c"system" => fn system(command: Text) -> c_int;
    POPEN c"popen" => fn popen(command: Text, mode: Text) -> Pointer;
    FORK c"fork" => fn fork() -> c_int;
    UNDERSCORE_FORK c"_Fork" => fn _fork() -> c_int;
    PRCTL c"prctl" => fn prctl(option: c_int, a: usize, b: usize, c: usize, d: usize) -> c_int;
    PTHREAD_SETNAME_NP c"pthread_setname_np" => fn pthread_setname_np(thread: usize, name: Text) -> c_int;
}

/// Jumped to, never called: see `install/loader.rs`.
pub static DLOPEN: Real = Real::new(c"dlopen");
pub static DLMOPEN: Real = Real::new(c"dlmopen");
/// Jumped to, never called: see `install/seccomp.rs`.
pub static SYSCALL: Real = Real::new(c"syscall");
/// Jumped to, never called: see `install/jumps.rs`.
pub static LONGJMP: Real = Real::new(c"longjmp");
pub static UNDERSCORE_LONGJMP: Real = Real::new(c"_longjmp");
pub static SIGLONGJMP: Real = Real::new(c"siglongjmp");
pub static LONGJMP_CHK: Real = Real::new(c"__longjmp_chk");
