//! The table: every replaced symbol once, and the bodies. A body is three steps: the real call, one word to the
//! recorder, the result; when memory is given back the word comes first. No feature has an `if` here.
//!
//! # Safety
//! Dangerous: these functions *are* the program's allocator; their types are C's. Each passes its arguments on
//! unchanged and returns what the real function returned, errno included (nothing of ours touches errno).

use core::ffi::{CStr, c_char, c_int, c_long, c_void};

use memtrace_format::AllocatorKind as Kind;

use crate::abi;
use crate::guard::{Guard, MappingGuard};
use crate::lifecycle::{self, enter};
use crate::real::{self, Real};
use crate::{install, note_caller, recorder};

type Pointer = *mut c_void;

/// One replaced symbol.
pub struct Hook {
    pub name: &'static CStr,
    /// Where `dlsym` sends those who ask for the real function.
    pub replacement: unsafe extern "C" fn(),
    pub real: &'static Real,
}

macro_rules! table {
    ($($name:literal $function:path, $real:ident;)*) => {
        /// Every replaced symbol that `dlsym` answers with its hook. The exports of the library are exactly these.
        #[used]
        pub static TABLE: &[Hook] = &[
            $(Hook {
                name: $name,
                // SAFETY: only the address is used, by callers that know the real type.
                replacement: unsafe {
                    core::mem::transmute::<*const (), unsafe extern "C" fn()>($function as *const ())
                },
                real: &real::$real,
            }),*
        ];
    };
}

table! {
    c"malloc" malloc, MALLOC;
    c"calloc" calloc, CALLOC;
    c"realloc" realloc, REALLOC;
    c"reallocarray" reallocarray, REALLOCARRAY;
    c"free" free, FREE;
    c"cfree" cfree, FREE;
    c"free_sized" free_sized, FREE;
    c"free_aligned_sized" free_aligned_sized, FREE;
    c"posix_memalign" posix_memalign, POSIX_MEMALIGN;
    c"aligned_alloc" aligned_alloc, ALIGNED_ALLOC;
    c"memalign" memalign, MEMALIGN;
    c"valloc" valloc, VALLOC;
    c"pvalloc" pvalloc, PVALLOC;
    c"mmap" mmap, MMAP;
    c"mmap64" mmap64, MMAP;
    c"mremap" mremap, MREMAP;
    c"munmap" munmap, MUNMAP;
    c"dlopen" install::loader::dlopen, DLOPEN;
    c"dlmopen" install::loader::dlmopen, DLMOPEN;
    c"dlclose" install::loader::dlclose, DLCLOSE;
    c"dlsym" install::loader::dlsym, DLSYM;
    c"dlvsym" install::loader::dlvsym, DLVSYM;
    c"longjmp" install::jumps::longjmp, LONGJMP;
    c"_longjmp" install::jumps::_longjmp, UNDERSCORE_LONGJMP;
    c"siglongjmp" install::jumps::siglongjmp, SIGLONGJMP;
    c"__longjmp_chk" install::jumps::__longjmp_chk, LONGJMP_CHK;
    c"execl" install::exec::execl, EXECVE;
    c"execlp" install::exec::execlp, EXECVPE;
    c"execle" install::exec::execle, EXECVE;
    c"execv" install::exec::execv, EXECVE;
    c"execvp" install::exec::execvp, EXECVPE;
    c"execve" install::exec::execve, EXECVE;
    c"execvpe" install::exec::execvpe, EXECVPE;
    c"fexecve" install::exec::fexecve, FEXECVE;
    c"execveat" install::exec::execveat, EXECVEAT;
    c"posix_spawn" install::exec::posix_spawn, POSIX_SPAWN;
    c"posix_spawnp" install::exec::posix_spawnp, POSIX_SPAWNP;
    c"pidfd_spawn" install::exec::pidfd_spawn, PIDFD_SPAWN;
    c"pidfd_spawnp" install::exec::pidfd_spawnp, PIDFD_SPAWNP;
    c"system" install::shell::system, SYSTEM;
    c"popen" install::shell::popen, POPEN;
    c"fork" fork, FORK;
    c"_Fork" _Fork, UNDERSCORE_FORK;
    c"prctl" prctl, PRCTL;
    c"syscall" install::seccomp::syscall, SYSCALL;
    c"pthread_setname_np" pthread_setname_np, PTHREAD_SETNAME_NP;
}

#[inline(always)]
fn allocate(kind: Kind, size: usize, real: impl FnOnce() -> Pointer) -> Pointer {
    allocate_under(enter(), kind, size, real)
}

/// The real allocation under the guard, then the record.
#[inline(always)]
pub fn allocate_under(guard: Option<Guard>, kind: Kind, size: usize, real: impl FnOnce() -> Pointer) -> Pointer {
    let Some(guard) = guard else {
        return real();
    };
    let block = guard.in_allocator(real);
    recorder::allocated(&guard, kind, block, size);
    block
}

/// The record, then the real free under the guard.
#[inline(always)]
fn give_back(block: Pointer) {
    match enter() {
        None => {
            // SAFETY: the caller's own argument.
            unsafe { real::free(block) }
        }
        Some(guard) => {
            recorder::freeing(&guard, Kind::Free, block);
            // SAFETY: the caller's own argument.
            guard.in_allocator(|| unsafe { real::free(block) });
        }
    }
}

/// A resize: the free half, the real call, the allocation half, or the free half taken back.
#[inline(always)]
fn resize(block: Pointer, size: Option<usize>, real: impl FnOnce() -> Pointer) -> Pointer {
    let Some(guard) = enter() else {
        return real();
    };
    recorder::freeing(&guard, Kind::Free, block);
    let new = guard.in_allocator(real);
    // glibc frees the block on size 0 and returns null; any other null is a failure.
    if new.is_null() && !block.is_null() && size != Some(0) {
        recorder::restored(&guard);
    } else {
        recorder::allocated(&guard, Kind::Realloc, new, size.unwrap_or(0));
    }
    new
}

#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn malloc(size: usize) -> Pointer {
    note_caller!(malloc_body)
}

unsafe extern "C" fn malloc_body(size: usize) -> Pointer {
    // SAFETY: the caller's own arguments, here and in all hooks below.
    allocate(Kind::Malloc, size, || unsafe { real::malloc(size) })
}

#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn calloc(count: usize, size: usize) -> Pointer {
    note_caller!(calloc_body)
}

unsafe extern "C" fn calloc_body(count: usize, size: usize) -> Pointer {
    // SAFETY: as in `malloc`. A product that overflows makes the real call fail.
    allocate(Kind::Calloc, count.wrapping_mul(size), || unsafe { real::calloc(count, size) })
}

#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn realloc(block: Pointer, size: usize) -> Pointer {
    note_caller!(realloc_body)
}

unsafe extern "C" fn realloc_body(block: Pointer, size: usize) -> Pointer {
    // SAFETY: as in `malloc`.
    resize(block, Some(size), || unsafe { real::realloc(block, size) })
}

#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn reallocarray(block: Pointer, count: usize, size: usize) -> Pointer {
    note_caller!(reallocarray_body)
}

unsafe extern "C" fn reallocarray_body(block: Pointer, count: usize, size: usize) -> Pointer {
    // SAFETY: as in `malloc`. A product that overflows is a failure.
    resize(block, count.checked_mul(size), || unsafe { real::reallocarray(block, count, size) })
}

#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn free(block: Pointer) {
    give_back(block);
}

#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn cfree(block: Pointer) {
    give_back(block);
}

/// C23. Libcs before it have no such function; `free` does all that it may do.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn free_sized(block: Pointer, _size: usize) {
    give_back(block);
}

/// C23, as `free_sized`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn free_aligned_sized(block: Pointer, _align: usize, _size: usize) {
    give_back(block);
}

#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn posix_memalign(out: *mut Pointer, align: usize, size: usize) -> c_int {
    note_caller!(posix_memalign_body)
}

unsafe extern "C" fn posix_memalign_body(out: *mut Pointer, align: usize, size: usize) -> c_int {
    let Some(guard) = enter() else {
        // SAFETY: as in `malloc`.
        return unsafe { real::posix_memalign(out, align, size) };
    };
    // SAFETY: as in `malloc`.
    let result = guard.in_allocator(|| unsafe { real::posix_memalign(out, align, size) });
    if result == 0 {
        // SAFETY: on success the real function has stored the block there.
        recorder::allocated(&guard, Kind::PosixMemalign, unsafe { *out }, size);
    }
    result
}

#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn aligned_alloc(align: usize, size: usize) -> Pointer {
    note_caller!(aligned_alloc_body)
}

unsafe extern "C" fn aligned_alloc_body(align: usize, size: usize) -> Pointer {
    // SAFETY: as in `malloc`.
    allocate(Kind::AlignedAlloc, size, || unsafe { real::aligned_alloc(align, size) })
}

#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn memalign(align: usize, size: usize) -> Pointer {
    note_caller!(memalign_body)
}

unsafe extern "C" fn memalign_body(align: usize, size: usize) -> Pointer {
    // SAFETY: as in `malloc`.
    allocate(Kind::Memalign, size, || unsafe { real::memalign(align, size) })
}

#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn valloc(size: usize) -> Pointer {
    note_caller!(valloc_body)
}

unsafe extern "C" fn valloc_body(size: usize) -> Pointer {
    // SAFETY: as in `malloc`.
    allocate(Kind::Valloc, size, || unsafe { real::valloc(size) })
}

#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn pvalloc(size: usize) -> Pointer {
    note_caller!(pvalloc_body)
}

unsafe extern "C" fn pvalloc_body(size: usize) -> Pointer {
    // SAFETY: as in `malloc`.
    allocate(Kind::Pvalloc, size, || unsafe { real::pvalloc(size) })
}

/// The way into hooks of mappings: allocators map memory too, and that is recorded as theirs.
fn enter_for_mapping() -> Option<MappingGuard> {
    if lifecycle::is_recording_or_starts() { MappingGuard::enter() } else { None }
}

#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn mmap(
    address: Pointer,
    len: usize,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: c_long,
) -> Pointer {
    note_caller!(mmap_body)
}

unsafe extern "C" fn mmap_body(
    address: Pointer,
    len: usize,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: c_long,
) -> Pointer {
    // SAFETY: as in `malloc`.
    let result = unsafe { real::mmap(address, len, prot, flags, fd, offset) };
    if result != abi::MAP_FAILED
        && let Some(guard) = enter_for_mapping()
    {
        recorder::mapped(&guard, result, len, prot, flags, guard.is_arena());
    }
    result
}

#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn mmap64(
    address: Pointer,
    len: usize,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: c_long,
) -> Pointer {
    // On x86-64 the two are one function.
    note_caller!(mmap_body)
}

#[unsafe(naked)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn mremap(old: Pointer, old_len: usize, len: usize, flags: c_int, new: Pointer) -> Pointer {
    note_caller!(mremap_body)
}

unsafe extern "C" fn mremap_body(old: Pointer, old_len: usize, len: usize, flags: c_int, new: Pointer) -> Pointer {
    let Some(guard) = enter_for_mapping() else {
        // SAFETY: as in `malloc`. The fifth argument is only read when the flags say that it is there.
        return unsafe { real::mremap(old, old_len, len, flags, new) };
    };
    // With an old length of 0, or MREMAP_DONTUNMAP, the old range stays.
    let is_given_up = old_len != 0 && flags & abi::MREMAP_DONTUNMAP == 0;
    if is_given_up {
        recorder::unmapping(&guard, old, old_len, true);
    }
    // SAFETY: as above.
    let result = guard.in_allocator(|| unsafe { real::mremap(old, old_len, len, flags, new) });
    if result != abi::MAP_FAILED {
        recorder::remapped(&guard, old, result, len, flags, guard.is_arena());
    } else if is_given_up {
        recorder::restored(&guard);
    }
    result
}

#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn munmap(address: Pointer, len: usize) -> c_int {
    let Some(guard) = enter_for_mapping() else {
        // SAFETY: as in `malloc`.
        return unsafe { real::munmap(address, len) };
    };
    recorder::unmapping(&guard, address, len, false);
    // SAFETY: as in `malloc`.
    let result = guard.in_allocator(|| unsafe { real::munmap(address, len) });
    if result != 0 {
        recorder::restored(&guard);
    }
    result
}

/// A child finds recording off by itself (`lifecycle`), unless a signal handler forks out of the middle of a hook.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn fork() -> c_int {
    // SAFETY: as in `malloc`.
    lifecycle::in_child_of_hook(unsafe { real::fork() })
}

#[allow(non_snake_case)]
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn _Fork() -> c_int {
    // SAFETY: as in `malloc`. Before glibc 2.34 nobody can call it.
    lifecycle::in_child_of_hook(unsafe { real::_fork() })
}

/// Variadic in C; its arguments are machine words in registers all the same.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn prctl(option: c_int, a: usize, b: usize, c: usize, d: usize) -> c_int {
    if option == abi::PR_SET_SECCOMP {
        lifecycle::stop_for_seccomp();
    }
    // SAFETY: as in `malloc`.
    let result = unsafe { real::prctl(option, a, b, c, d) };
    if option == abi::PR_SET_NAME
        && result == 0
        && let Some(guard) = enter()
    {
        // SAFETY: the kernel has just read a name there; it reads no more than 16 bytes.
        let name = unsafe { thread_name(a as *const c_char) };
        recorder::named(&guard, crate::lane::thread_pointer(), name);
    }
    result
}

#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn pthread_setname_np(thread: usize, name: *const c_char) -> c_int {
    // SAFETY: as in `malloc`.
    let result = unsafe { real::pthread_setname_np(thread, name) };
    if result == 0
        && let Some(guard) = enter()
    {
        // SAFETY: the real function has accepted the name.
        recorder::named(&guard, thread, unsafe { thread_name(name) });
    }
    result
}

/// The name at `start`, as far as the kernel takes it.
///
/// # Safety
/// A C string starts there.
unsafe fn thread_name<'a>(start: *const c_char) -> &'a [u8] {
    const MAX_LEN: usize = 15;
    let mut len = 0;
    // SAFETY: we stop at the string's end.
    while len < MAX_LEN && unsafe { *start.add(len) } != 0 {
        len += 1;
    }
    // SAFETY: `len` bytes were just read.
    unsafe { core::slice::from_raw_parts(start.cast(), len) }
}
