//! `system` and `popen`: libc starts the shell by an inner spawn that nobody can replace, with the environment of the whole
//! process, which other threads may be reading. So the request for the children goes into the command: a shell that exports
//! it and becomes, in the same process, the shell that was asked for, which then finds it and puts its environment right.
//! All else that these functions do (signals, cancellation, descriptors, the status) stays libc's own.
//!
//! ```text
//! echo it's $0      export LD_PRELOAD='…' MEMTRACE_CAPTURE='…' MEMTRACE_OPTIONS='…';exec /bin/sh -c 'echo it'\''s $0' sh
//! ```
//!
//! # Safety
//! Dangerous: the command is a pointer of the program's. A command that can't be followed must reach libc as it is.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::NonNull;

use super::exec::request_for_child;
use crate::{environment, lifecycle, real, sys};

/// The one that libc starts.
const SHELL: &CStr = c"/bin/sh";
/// An argument of a program is shorter (`MAX_ARG_STRLEN`).
const MAX_COMMAND: usize = 128 * 1024;

#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn system(command: *const c_char) -> c_int {
    // SAFETY: the program's own argument, or one that says the same; here and below.
    unsafe {
        if !lifecycle::follows_children() {
            return real::system(command);
        }
        let followed = Followed::new(command);
        real::system(followed.as_ref().map_or(command, Followed::as_ptr))
    }
}

#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn popen(command: *const c_char, mode: *const c_char) -> *mut c_void {
    // SAFETY: as in `system`.
    unsafe {
        if !lifecycle::follows_children() {
            return real::popen(command, mode);
        }
        let followed = Followed::new(command);
        real::popen(followed.as_ref().map_or(command, Followed::as_ptr), mode)
    }
}

/// A command with the request in front.
struct Followed {
    memory: NonNull<u8>,
    len: usize,
}

impl Followed {
    /// `None` for a question whether there is a shell, and when the command can't be followed.
    ///
    /// # Safety
    /// `command` is null or a C string.
    unsafe fn new(command: *const c_char) -> Option<Followed> {
        if command.is_null() {
            return None;
        }
        // SAFETY: as the caller says.
        let command = unsafe { CStr::from_ptr(command) }.to_bytes();
        // Of these some shells take the first ones for options.
        if command.starts_with(b"-") || command.starts_with(b"+") || command.len() > MAX_COMMAND {
            return None;
        }
        let environment = environment::current().cast_const().cast();
        // SAFETY: the program's environment, which libc passes on.
        let request = unsafe { request_for_child(environment, || sys::open_read(SHELL)) }?;
        let mut followed = Followed { memory: sys::map_anonymous(MAX_COMMAND).ok()?, len: 0 };
        followed.add(b"export")?;
        for variable in request.ours() {
            let variable = variable.to_bytes();
            let name_len = variable.iter().position(|byte| *byte == b'=')? + 1;
            followed.add(b" ")?;
            followed.add(variable.get(..name_len)?)?;
            followed.add_quoted(variable.get(name_len..)?)?;
        }
        followed.add(b";exec ")?;
        followed.add(SHELL.to_bytes())?;
        followed.add(b" -c ")?;
        followed.add_quoted(command)?;
        // The name that the shell has for itself.
        followed.add(b" sh")?;
        Some(followed)
    }

    fn as_ptr(&self) -> *const c_char {
        self.memory.as_ptr().cast_const().cast()
    }

    /// `None` when there is no room, with a zero behind.
    fn add(&mut self, text: &[u8]) -> Option<()> {
        // SAFETY: the mapping is as long, zeroed, and this value's own.
        let all = unsafe { core::slice::from_raw_parts_mut(self.memory.as_ptr(), MAX_COMMAND - 1) };
        all.get_mut(self.len..)?.get_mut(..text.len())?.copy_from_slice(text);
        self.len += text.len();
        Some(())
    }

    /// As one word, whatever is in it.
    fn add_quoted(&mut self, text: &[u8]) -> Option<()> {
        self.add(b"'")?;
        for (number, part) in text.split(|byte| *byte == b'\'').enumerate() {
            if number > 0 {
                self.add(b"'\\''")?;
            }
            self.add(part)?;
        }
        self.add(b"'")
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        // SAFETY: the shell has been started, or can't be, and nobody else knows the memory.
        unsafe { sys::unmap(self.memory, MAX_COMMAND) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_word_comes_out_of_the_shell_as_it_was() {
        for word in ["", "a b", "it's", "''", "$HOME `id` \\ \" \n;", "\u{e4}"] {
            let mut command = Followed { memory: sys::map_anonymous(MAX_COMMAND).unwrap(), len: 0 };
            command.add(b"printf %s ").unwrap();
            command.add_quoted(word.as_bytes()).unwrap();
            // SAFETY: the text ends with a zero.
            let text = unsafe { CStr::from_ptr(command.as_ptr()) }.to_str().unwrap();
            let output = Command::new("/bin/sh").args(["-c", text]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
        let mut full = Followed { memory: sys::map_anonymous(MAX_COMMAND).unwrap(), len: 0 };
        assert!(full.add_quoted(&std::vec![b'\''; MAX_COMMAND / 4]).is_none());
    }
}
