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
        if !is_ours {
            return Some("it does not use the GNU C library");
        }
        let needs_to_be_first = needed_libraries(file, &header)
            .is_some_and(|names| names.split(|byte| *byte == 0).any(|name| name.starts_with(b"libasan.so")));
        return needs_to_be_first.then_some("its AddressSanitizer allows no library before its own");
    }
    // The loader itself, as a program, has no loader.
    if path.canonicalize().is_ok_and(|path| is_our_loader(&path)) { None } else { Some("it is statically linked") }
}

/// The names of the libraries that a program was linked with, each ended by a zero byte.
fn needed_libraries(file: &File, header: &[u8; 64]) -> Option<Vec<u8>> {
    const LOAD: u32 = 1;
    const DYNAMIC: u32 = 2;
    const NEEDED: u64 = 1;
    const STRING_TABLE: u64 = 5;
    const MAX_NEEDED: usize = 1000;
    const MAX_NAME: usize = 256;
    let (start, entry_len, n_entries) = (u64_at(header, 32), u16_at(header, 54), u16_at(header, 56));
    let segments: Vec<[u8; 56]> = (0..u64::from(n_entries))
        .map_while(|index| read(file, start.checked_add(index * u64::from(entry_len))?).ok())
        .collect();
    let dynamic = segments.iter().find(|segment| u32_at(*segment, 0) == DYNAMIC)?;
    let n_tags = u64_at(dynamic, 32) / 16;
    let tags: Vec<(u64, u64)> = (0..n_tags)
        .map_while(|index| read::<16>(file, u64_at(dynamic, 8).checked_add(index * 16)?).ok())
        .map(|tag| (u64_at(&tag, 0), u64_at(&tag, 8)))
        .take_while(|(tag, _)| *tag != 0)
        .take(MAX_NEEDED)
        .collect();
    // Its place is given as it will be in memory.
    let address = tags.iter().find(|(tag, _)| *tag == STRING_TABLE)?.1;
    let strings = segments.iter().filter(|segment| u32_at(*segment, 0) == LOAD).find_map(|segment| {
        let (offset, base, len) = (u64_at(segment, 8), u64_at(segment, 16), u64_at(segment, 32));
        let distance = address.checked_sub(base).filter(|distance| *distance < len)?;
        offset.checked_add(distance)
    })?;
    let mut names = Vec::new();
    for (_, name) in tags.iter().filter(|(tag, _)| *tag == NEEDED) {
        let mut bytes = [0; MAX_NAME];
        let len = file.read_at(&mut bytes, strings.checked_add(*name)?).ok()?;
        names.extend(bytes[..len].iter().take_while(|byte| **byte != 0));
        names.push(0);
    }
    Some(names)
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
