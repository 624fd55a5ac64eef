//! The exec family, posix_spawn and pidfd_spawn. A program that replaces itself is followed: the new image finds our
//! request in its environment. Children, also those of vfork, are left alone, unless they are to be followed as well: then
//! what they become finds the request of its nearest recorded ancestor, and makes a log of its own.
//!
//! # Safety
//! Dangerous: variadic functions, which Rust can't define. Each of those is a few instructions that put the argument
//! registers into memory and pass their place and that of the stack arguments on (System V ABI: the first six words in
//! registers, the rest above the return address).

use core::arch::naked_asm;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;

use memtrace_format::record::notice;

use crate::abi;
use crate::environment::{self, WithRequest};
use crate::{lifecycle, meta, real, sys};

type Text = *const c_char;
type Texts = *const *const c_char;

macro_rules! variadic {
    ($name:ident, $work:ident) => {
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $name(path: Text, first: Text) -> c_int {
            naked_asm!(
                // Room for the five registers behind the path, then alignment.
                "sub rsp, 40",
                "mov [rsp], rsi", "mov [rsp + 8], rdx", "mov [rsp + 16], rcx", "mov [rsp + 24], r8",
                "mov [rsp + 32], r9",
                "mov rsi, rsp",
                "lea rdx, [rsp + 48]",
                "call {work}",
                "add rsp, 40",
                "ret",
                work = sym $work,
            )
        }
    };
}

variadic!(execl, execl_with);
variadic!(execlp, execlp_with);
variadic!(execle, execle_with);

/// The arguments of a variadic call, made one array.
struct Arguments {
    memory: ptr::NonNull<u8>,
    len: usize,
    /// Behind the final null: `execle`'s environment.
    environment: Texts,
}

/// Words that arrive in registers.
const N_REGISTERS: usize = 5;

impl Arguments {
    /// # Safety
    /// The words at `registers` and then at `rest` are C strings up to a null.
    unsafe fn collect(registers: Texts, rest: Texts) -> Option<Arguments> {
        let word = |index: usize| {
            // SAFETY: the call's arguments go on up to the null, and with `execle` one further.
            unsafe { if index < N_REGISTERS { *registers.add(index) } else { *rest.add(index - N_REGISTERS) } }
        };
        let mut n = 0;
        while !word(n).is_null() {
            n += 1;
        }
        let len = ((n + 1) * size_of::<Text>()).next_multiple_of(4096);
        let memory = sys::map_anonymous(len).ok()?;
        for index in 0..n {
            // SAFETY: there are `n + 1` places; the last stays null.
            unsafe { *memory.as_ptr().cast::<Text>().add(index) = word(index) };
        }
        // SAFETY: only `execle` uses it, which has one more argument.
        let environment = word(n + 1).cast();
        Some(Arguments { memory, len, environment })
    }

    fn as_ptr(&self) -> Texts {
        self.memory.as_ptr().cast_const().cast()
    }
}

impl Drop for Arguments {
    fn drop(&mut self) {
        // SAFETY: the exec failed and nobody else knows the memory.
        unsafe { sys::unmap(self.memory, self.len) };
    }
}

unsafe extern "C" fn execl_with(path: Text, registers: Texts, rest: Texts) -> c_int {
    // SAFETY: the program's own arguments, here and below.
    unsafe {
        match Arguments::collect(registers, rest) {
            Some(arguments) => execv(path, arguments.as_ptr()),
            None => out_of_memory(),
        }
    }
}

unsafe extern "C" fn execlp_with(file: Text, registers: Texts, rest: Texts) -> c_int {
    // SAFETY: as in `execl_with`.
    unsafe {
        match Arguments::collect(registers, rest) {
            Some(arguments) => execvp(file, arguments.as_ptr()),
            None => out_of_memory(),
        }
    }
}

unsafe extern "C" fn execle_with(path: Text, registers: Texts, rest: Texts) -> c_int {
    // SAFETY: as in `execl_with`.
    unsafe {
        match Arguments::collect(registers, rest) {
            Some(arguments) => execve(path, arguments.as_ptr(), arguments.environment),
            None => out_of_memory(),
        }
    }
}

/// What exec does when the kernel has no memory for the arguments, or has no such call: a real one fails and sets errno.
unsafe fn out_of_memory() -> c_int {
    // SAFETY: no file is called "", so this fails.
    unsafe { real::execve(c"".as_ptr(), ptr::null(), ptr::null()) }
}

#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn execv(path: Text, arguments: Texts) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe { execve(path, arguments, environment::current().cast_const().cast()) }
}

#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn execvp(file: Text, arguments: Texts) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe { execvpe(file, arguments, environment::current().cast_const().cast()) }
}

#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn execve(path: Text, arguments: Texts, environment: Texts) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe {
        let request = request_for(environment, || sys::open_read_unchecked(path), path);
        real::execve(path, arguments, request.as_ref().map_or(environment, WithRequest::as_ptr))
    }
}

#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn execvpe(file: Text, arguments: Texts, environment: Texts) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe {
        let request = request_for(environment, || open_on_path(CStr::from_ptr(file)), file);
        real::execvpe(file, arguments, request.as_ref().map_or(environment, WithRequest::as_ptr))
    }
}

#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn fexecve(fd: c_int, arguments: Texts, environment: Texts) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe {
        let request = request_for(environment, || sys::duplicate_above(fd, 3), c"(descriptor)".as_ptr());
        real::fexecve(fd, arguments, request.as_ref().map_or(environment, WithRequest::as_ptr))
    }
}

/// In glibc since 2.34.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn execveat(
    folder: c_int,
    path: Text,
    arguments: Texts,
    environment: Texts,
    flags: c_int,
) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe {
        if real::EXECVEAT.address() == 0 {
            return out_of_memory();
        }
        let request = request_for(environment, || sys::open_read_in(folder, path, flags), path);
        let environment = request.as_ref().map_or(environment, WithRequest::as_ptr);
        real::execveat(folder, path, arguments, environment, flags)
    }
}

#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn posix_spawn(
    pid: *mut c_int,
    path: Text,
    actions: *mut c_void,
    attributes: *mut c_void,
    arguments: Texts,
    environment: Texts,
) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe {
        let start = |environment| real::posix_spawn(pid, path, actions, attributes, arguments, environment);
        spawn(environment, || sys::open_read_unchecked(path), start)
    }
}

#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn posix_spawnp(
    pid: *mut c_int,
    file: Text,
    actions: *mut c_void,
    attributes: *mut c_void,
    arguments: Texts,
    environment: Texts,
) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe {
        let start = |environment| real::posix_spawnp(pid, file, actions, attributes, arguments, environment);
        spawn(environment, || open_on_path(CStr::from_ptr(file)), start)
    }
}

/// In glibc since 2.39.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn pidfd_spawn(
    child: *mut c_int,
    path: Text,
    actions: *mut c_void,
    attributes: *mut c_void,
    arguments: Texts,
    environment: Texts,
) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe {
        if real::PIDFD_SPAWN.address() == 0 {
            return abi::ENOSYS;
        }
        let start = |environment| real::pidfd_spawn(child, path, actions, attributes, arguments, environment);
        spawn(environment, || sys::open_read_unchecked(path), start)
    }
}

#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn pidfd_spawnp(
    child: *mut c_int,
    file: Text,
    actions: *mut c_void,
    attributes: *mut c_void,
    arguments: Texts,
    environment: Texts,
) -> c_int {
    // SAFETY: the program's own arguments.
    unsafe {
        if real::PIDFD_SPAWNP.address() == 0 {
            return abi::ENOSYS;
        }
        let start = |environment| real::pidfd_spawnp(child, file, actions, attributes, arguments, environment);
        spawn(environment, || open_on_path(CStr::from_ptr(file)), start)
    }
}

/// Starts a child with our request in its environment, if it is to be followed and can be.
unsafe fn spawn(
    environment: Texts,
    open: impl FnOnce() -> Result<i32, sys::Errno>,
    start: impl FnOnce(Texts) -> c_int,
) -> c_int {
    // SAFETY: as the caller says.
    let request = unsafe { request_for_child(environment, open) };
    start(request.as_ref().map_or(environment, WithRequest::as_ptr))
}

/// The environment for the next image, when this process is recorded, or is a child that is to be, and the next image
/// can be.
unsafe fn request_for(
    environment: Texts,
    open: impl FnOnce() -> Result<i32, sys::Errno>,
    name: Text,
) -> Option<WithRequest> {
    // In a child of vfork memory says "recording", but the process is another.
    if !lifecycle::is_recording() || sys::pid() != lifecycle::pid() {
        // SAFETY: as the caller says.
        return unsafe { request_for_child(environment, open) };
    }
    if !is_there(environment) {
        return None;
    }
    let can_follow = can_follow(open)?;
    if !can_follow && let Some(guard) = lifecycle::enter() {
        // SAFETY: the program passed a C string.
        meta::notice(&guard, notice::EXEC_NOT_FOLLOWED, unsafe { CStr::from_ptr(name) }.to_bytes());
    }
    lifecycle::flush();
    // SAFETY: the program passed an environment.
    if can_follow { unsafe { WithRequest::new(environment) } } else { None }
}

/// The environment for a program that a child becomes.
///
/// # Safety
/// `environment` is what the program passes on.
pub unsafe fn request_for_child(
    environment: Texts,
    open: impl FnOnce() -> Result<i32, sys::Errno>,
) -> Option<WithRequest> {
    if !lifecycle::follows_children() || !is_there(environment) || !can_follow(open)? {
        return None;
    }
    // SAFETY: the program passed an environment.
    unsafe { WithRequest::new(environment) }
}

/// Whether an environment can be read. The kernel answers EFAULT for one that leads nowhere, and so it may.
fn is_there(environment: Texts) -> bool {
    environment.is_null() || sys::read_word(environment as usize).is_some()
}

/// Whether what is executed will find us; `None` when the exec fails.
fn can_follow(open: impl FnOnce() -> Result<i32, sys::Errno>) -> Option<bool> {
    match open() {
        Ok(fd) => {
            let can_follow = can_be_followed(fd, 0) && environment::is_reachable();
            sys::close(fd);
            Some(can_follow)
        }
        // A program that may be executed and not read can't be looked at.
        Err(sys::Errno(abi::EACCES)) => Some(false),
        // The exec fails for the same reason.
        Err(_) => None,
    }
}

/// The file that `execvp` would run, opened: along PATH when the name has no slash.
fn open_on_path(file: &CStr) -> Result<i32, sys::Errno> {
    let name = file.to_bytes();
    if name.contains(&b'/') {
        return sys::open_read(file);
    }
    let path = environment::path_variable();
    let mut scratch = Scratch::new()?;
    for folder in path.split(|byte| *byte == b':') {
        let parts = [folder, if folder.is_empty() { b"" } else { b"/" }, name];
        if let Some(candidate) = join(scratch.bytes(), &parts)
            && let Ok(fd) = sys::open_read(candidate)
        {
            return Ok(fd);
        }
    }
    Err(sys::Errno(abi::ENOENT))
}

/// A page to work in: an exec may come from a signal handler on a small stack.
struct Scratch(ptr::NonNull<u8>);

const SCRATCH_LEN: usize = 4096;

impl Scratch {
    fn new() -> Result<Scratch, sys::Errno> {
        sys::map_anonymous(SCRATCH_LEN).map(Scratch)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is as long, and this value's own.
        unsafe { core::slice::from_raw_parts_mut(self.0.as_ptr(), SCRATCH_LEN) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: nobody else knows the memory.
        unsafe { sys::unmap(self.0, SCRATCH_LEN) };
    }
}

fn join<'a>(buf: &'a mut [u8], parts: &[&[u8]]) -> Option<&'a CStr> {
    let mut len = 0;
    for part in parts {
        buf.get_mut(len..)?.get_mut(..part.len())?.copy_from_slice(part);
        len += part.len();
    }
    *buf.get_mut(len)? = 0;
    CStr::from_bytes_until_nul(buf).ok()
}

/// Interpreters of interpreters that the kernel follows.
const MAX_INTERPRETERS: u32 = 4;
const ELF_MAGIC: &[u8] = b"\x7fELF";
const ELF_CLASS_64: u8 = 2;
const EM_X86_64: u16 = 62;

/// Whether our library can be loaded into the program: 64-bit, dynamic, of this machine and this libc's loader, and
/// not set-user-id, whose loader ignores LD_PRELOAD. The loader would complain about the others on standard error.
fn can_be_followed(fd: i32, level: u32) -> bool {
    const SETS_ID: u32 = abi::S_ISUID | abi::S_ISGID;
    let mode = sys::status(fd).map_or(0, |status| status.mode);
    if mode & SETS_ID != 0 || sys::has_capabilities(fd) {
        return false;
    }
    let (Ok(mut head), Ok(mut path)) = (Scratch::new(), Scratch::new()) else {
        return false;
    };
    let len = sys::read_at(fd, head.bytes(), 0).unwrap_or(0);
    let head = head.bytes().get(..len).unwrap_or(&[]);
    // A folder or a text without an interpreter's line: the exec fails, unless it is an `execvp`, which has a shell run
    // the text. Nobody needs to be told, and the shell can be followed.
    if mode & abi::S_IFMT != abi::S_IFREG || mode & abi::S_IXALL == 0 || !head.contains(&0) && !head.starts_with(b"#!")
    {
        return true;
    }
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or(&[]);
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
        let interpreter = words.next().and_then(|word| join(path.bytes(), &[word]));
        let Some(Ok(fd)) = interpreter.map(sys::open_read) else {
            return false;
        };
        let result = level < MAX_INTERPRETERS && can_be_followed(fd, level + 1);
        sys::close(fd);
        return result;
    }
    is_dynamic_of_this_machine(head)
}

fn is_dynamic_of_this_machine(head: &[u8]) -> bool {
    let number = |offset: usize, len: usize| -> Option<usize> {
        let bytes = head.get(offset..)?.get(..len)?;
        Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | *byte as usize))
    };
    let loader = || {
        // Elf64_Ehdr: e_machine at 18, e_phoff at 32, e_phentsize at 54, e_phnum at 56.
        if number(4, 1)? != ELF_CLASS_64 as usize || number(18, 2)? != EM_X86_64 as usize {
            return None;
        }
        let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        for index in 0..count {
            let segment = start.checked_add(index.checked_mul(size)?)?;
            // Elf64_Phdr: p_type at 0, p_offset at 8, p_filesz at 32.
            if number(segment, 4)? == abi::PT_INTERP as usize {
                return head.get(number(segment + 8, 8)?..)?.get(..number(segment + 32, 8)?);
            }
        }
        None
    };
    head.starts_with(ELF_MAGIC) && loader().is_some_and(|path| path.ends_with(b"/ld-linux-x86-64.so.2\0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;

    fn can_follow(path: &str) -> bool {
        let path = CString::new(path).unwrap();
        let fd = sys::open_read(&path).unwrap();
        let result = can_be_followed(fd, 0);
        sys::close(fd);
        result
    }

    #[test]
    fn dynamic_programs_of_this_machine_are_followed_and_so_are_their_scripts() {
        assert!(can_follow("/bin/sh"));
        let script = std::env::temp_dir().join(std::format!("memtrace-exec-test-{}", std::process::id()));
        // The last three are refused by the kernel: `execvp` runs them by the shell, or fails.
        let cases = [("#! /bin/sh -e\n", true), ("#!\n", false), ("\x7fELF\0", false)];
        let refused = [("#!/dev/null\n", true), ("echo\n", true), ("", true)];
        for (text, expected) in cases.into_iter().chain(refused) {
            std::fs::write(&script, text).unwrap();
            std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
            assert_eq!(can_follow(script.to_str().unwrap()), expected, "{text:?}");
        }
        std::fs::remove_file(&script).unwrap();
    }

    #[test]
    fn a_set_user_id_program_is_not_followed() {
        let program = std::env::temp_dir().join(std::format!("memtrace-suid-test-{}", std::process::id()));
        std::fs::copy("/bin/true", &program).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755)).unwrap();
        let file = std::fs::File::open(&program).unwrap();
        assert!(!can_be_followed(file.as_raw_fd(), 0));
        std::fs::remove_file(&program).unwrap();
    }

    #[test]
    fn a_damaged_program_header_is_not_believed() {
        let mut head = std::fs::read("/bin/true").unwrap();
        head.truncate(4096);
        assert!(is_dynamic_of_this_machine(&head));
        for cut in [0, 4, 20, 57, 64, 100] {
            assert!(!is_dynamic_of_this_machine(&head[..cut]));
        }
        head[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(!is_dynamic_of_this_machine(&head));
    }
}
