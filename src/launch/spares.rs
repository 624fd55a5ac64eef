//! Logs that are made in advance, for children that can't make them beside ours because their files are others, as in a
//! container. They wait in a socket that `attach` hands to the program, and its children of fork inherit; each child takes
//! the next one (`preload/src/child.rs`). Called by `family`.
//! It must never wait for the program, nor take a log away that somebody has taken.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use memtrace_format::{FIRST_BLOCK, FileHeader, HEADER_LEN, state};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, recv, sendmsg, socketpair,
};
use nix::unistd::Pid;
use zerocopy::{FromBytes, IntoBytes};

use crate::launch::log::Log;
use crate::launch::member::pid_namespace;

/// So many wait: more children may not come between two looks.
const N_WAITING: usize = 32;
/// Process ids come again: so many children may have had the same.
const MAX_NAMES: u32 = 1000;

pub struct Spares {
    /// The log of the program that was attached to.
    root: PathBuf,
    /// The first page of each.
    page: Vec<u8>,
    /// What is written here…
    ours: OwnedFd,
    /// …is read here: by the children, and in the end by us.
    theirs: OwnedFd,
    /// Nobody has been seen to have begun them.
    waiting: Vec<Spare>,
    n_made: u32,
    /// The namespace of the program's process id.
    pid_namespace: u32,
}

struct Spare {
    number: u32,
    path: PathBuf,
    file: File,
}

impl Spares {
    /// For the children of a process that writes to `root`.
    pub fn new(root: &Log, pid: Pid) -> Result<Spares> {
        let named = || format!("cannot read {}", root.path().display());
        let mut page = vec![0; HEADER_LEN];
        File::open(root.path()).and_then(|file| file.read_exact_at(&mut page, 0)).with_context(named)?;
        let (header, _) = FileHeader::read_from_prefix(&page).ok().with_context(named)?;
        let header = FileHeader {
            header_len: header.header_len,
            clock: header.clock,
            info_len: header.info_len,
            info_crc: header.info_crc,
            ..FileHeader::begin(0, FIRST_BLOCK)
        };
        page[..size_of::<FileHeader>()].copy_from_slice(header.as_bytes());
        // What comes behind the description is the place of the end.
        page[size_of::<FileHeader>() + header.info_len as usize..].fill(0);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
        let (ours, theirs) = pair.context("cannot make a socket")?;
        let root = root.path().to_owned();
        let pid_namespace = pid_namespace(pid.as_raw()).context("cannot tell in which namespace the process is")?;
        let mut spares = Spares { root, page, ours, theirs, waiting: Vec::new(), n_made: 0, pid_namespace };
        spares.fill_up()?;
        Ok(spares)
    }

    /// What the program is to have.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.theirs.as_fd()
    }

    /// Where the program is, so its children are numbered there too.
    pub fn pid_namespace(&self) -> u32 {
        self.pid_namespace
    }

    fn fill_up(&mut self) -> Result<()> {
        while self.waiting.len() < N_WAITING {
            let spare = self.make()?;
            let descriptors = [spare.file.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&descriptors)];
            let number = spare.number.to_le_bytes();
            let flags = MsgFlags::MSG_NOSIGNAL;
            if let Err(errno) =
                sendmsg::<UnixAddr>(self.ours.as_raw_fd(), &[IoSlice::new(&number)], &rights, flags, None)
            {
                spare.remove();
                return Err(errno).context("cannot hand a log over");
            }
            self.waiting.push(spare);
        }
        Ok(())
    }

    fn make(&mut self) -> Result<Spare> {
        loop {
            self.n_made += 1;
            let (number, path) = (self.n_made, beside(&self.root, &format!("spare{}", self.n_made)));
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    let spare = Spare { number, path, file };
                    if let Err(error) = spare.file.write_all_at(&self.page, 0) {
                        spare.remove();
                        return Err(error).context("cannot write a log");
                    }
                    return Ok(spare);
                }
                // Of a memtrace that was killed.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
            }
        }
    }

    /// Gives those that have been begun the names of children's logs, and makes others; which these are.
    pub fn take_up(&mut self) -> Vec<(PathBuf, FileHeader)> {
        let begun = self.begun();
        // A full disk: then there are fewer.
        let _ = self.fill_up();
        begun
    }

    fn begun(&mut self) -> Vec<(PathBuf, FileHeader)> {
        let root = &self.root;
        let mut begun = Vec::new();
        self.waiting.retain(|spare| match spare.header() {
            // The state comes last.
            Some(header) if header.state != state::CREATED => {
                begun.push((spare.rename(root, header.pid), header));
                false
            }
            _ => true,
        });
        begun
    }

    /// Takes those back that nobody has taken, so that nobody can any more.
    pub fn take_back(&mut self) {
        let mut number = [0; 4];
        // Without room for them the descriptors are closed.
        while recv(self.theirs.as_raw_fd(), &mut number, MsgFlags::MSG_DONTWAIT) == Ok(number.len()) {
            let number = u32::from_le_bytes(number);
            self.waiting.extract_if(.., |spare| spare.number == number).for_each(Spare::remove);
        }
    }

    /// When they have been taken back: whether some were taken that have not been begun, and those that have been since.
    pub fn take_up_last(&mut self) -> (bool, Vec<(PathBuf, FileHeader)>) {
        let begun = self.begun();
        (!self.waiting.is_empty(), begun)
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.take_back();
        // Taken by a child that ended before it could begin.
        self.waiting.drain(..).for_each(Spare::remove);
    }
}

impl Spare {
    fn header(&self) -> Option<FileHeader> {
        let mut page = [0; HEADER_LEN];
        self.file.read_exact_at(&mut page, 0).ok()?;
        Some(FileHeader::read_from_prefix(&page).ok()?.0)
    }

    fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }

    /// As `child.rs` in the recorder names a log; where it is now.
    fn rename(&self, root: &Path, pid: u32) -> PathBuf {
        let mut names = (1..MAX_NAMES).map(|number| match number {
            1 => beside(root, &pid.to_string()),
            _ => beside(root, &format!("{pid}.{number}")),
        });
        let free = names.find(|path| fs::symlink_metadata(path).is_err());
        free.filter(|path| fs::rename(&self.path, path).is_ok()).unwrap_or_else(|| self.path.clone())
    }
}

fn beside(root: &Path, suffix: &str) -> PathBuf {
    let mut name = root.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}
