//! Whether the dynamic loader of a program will load the recorder: a look at the file before it is executed.
//! Called by `commands::run`. A program that can't be recorded must start exactly as without us, so it is not even
//! given an LD_PRELOAD that its loader would complain about. When in doubt the answer is yes.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{getgid, getuid};

use crate::launch::sys;

/// Scripts whose interpreter is a script, as many times as the kernel follows them.
const MAX_SCRIPTS: usize = 4;
/// The kernel reads the first line of a script up to here.
const MAX_LINE: usize = 256;

/// Why a program can't be recorded, or `None`.
pub fn obstacle(program: &Path) -> Option<&'static str> {
    let mut path = PathBuf::from(program);
    for _ in 0..=MAX_SCRIPTS {
        let mut start = [0; MAX_LINE];
        let file = File::open(&path).ok()?;
        let len = file.read_at(&mut start, 0).ok()?;
        if let Some(interpreter) = script_interpreter(&start[..len]) {
            path = interpreter;
            continue;
        }
        return elf_obstacle(&file, &path).or_else(|| privilege_obstacle(&file, &path));
    }
    None
}

/// The interpreter that the first line of a script names.
fn script_interpreter(start: &[u8]) -> Option<PathBuf> {
    let line = start.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let mut words = line.split(|&byte| byte == b' ' || byte == b'\t').filter(|word| !word.is_empty());
    words.next().map(|word| PathBuf::from(OsStr::from_bytes(word)))
}

fn elf_obstacle(file: &File, path: &Path) -> Option<&'static str> {
    const ELF64_LITTLE_ENDIAN: &[u8] = b"\x7fELF\x02\x01";
    const X86_64: u16 = 62;
    let header = read::<64>(file, 0).ok()?;
    if !header.starts_with(b"\x7fELF") {
        return None;
    }
    if !header.starts_with(ELF64_LITTLE_ENDIAN) {
        return Some("it is a 32-bit program");
    }
    if u16_at(&header, 18) != X86_64 {
        return Some("it is a program for another processor");
    }
    let (offset, entry_len, n_entries) = (u64_at(&header, 32), u16_at(&header, 54), u16_at(&header, 56));
    for index in 0..u64::from(n_entries) {
        const INTERP: u32 = 3;
        let entry = read::<56>(file, offset.checked_add(index * u64::from(entry_len))?).ok()?;
        if u32_at(&entry, 0) != INTERP {
            continue;
        }
        let (start, len) = (u64_at(&entry, 8), u64_at(&entry, 32).min(4096));
        let mut loader = vec![0; len as usize];
        file.read_exact_at(&mut loader, start).ok()?;
        while loader.pop_if(|byte| *byte == 0).is_some() {}
        let is_ours = is_our_loader(Path::new(OsStr::from_bytes(&loader)));
        return if is_ours { None } else { Some("it does not use the GNU C library") };
    }
    // The loader itself, as a program, has no loader.
    if path.canonicalize().is_ok_and(|path| is_our_loader(&path)) { None } else { Some("it is statically linked") }
}

fn is_our_loader(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    name.starts_with(b"ld-linux-x86-64.so") || name.starts_with(b"ld-2.")
}

/// Programs that gain privileges are started by the loader in secure mode, which ignores LD_PRELOAD.
fn privilege_obstacle(file: &File, path: &Path) -> Option<&'static str> {
    const SET_USER: u32 = 0o4000;
    const SET_GROUP: u32 = 0o2010;
    let metadata = file.metadata().ok()?;
    let (user, group) = (getuid().as_raw(), getgid().as_raw());
    let mode = metadata.mode();
    let changes_user = mode & SET_USER != 0 && metadata.uid() != user;
    let changes_group = mode & SET_GROUP == SET_GROUP && metadata.gid() != group;
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let gains_capabilities = user != 0 && sys::has_capabilities(&path);
    (changes_user || changes_group || gains_capabilities).then_some("it runs with another user's privileges")
}

fn read<const LEN: usize>(file: &File, offset: u64) -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from(u16_at(bytes, offset)) | u32::from(u16_at(bytes, offset + 2)) << 16
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from(u32_at(bytes, offset)) | u64::from(u32_at(bytes, offset + 4)) << 32
}
