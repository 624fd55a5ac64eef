//! Descriptors of ours in another process, whatever its root folder, its user and its namespaces: on a borrowed thread it
//! makes a pair of sockets, we take a copy of one of them, and send through it.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use anyhow::{Context, bail, ensure};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Pid, Uid, fchown};

use super::inject::Borrowed;
use super::process::Process;
use super::{Start, sys};
use crate::launch::running::Running;

/// Bytes in front of the descriptors in a control message, `CMSG_LEN(0)`.
const CONTROL_HEADER: usize = 16;

/// The recorder's library and the log, as a process can use them that can't open ours.
pub fn files(process: &Process, start: &Start<'_>) -> anyhow::Result<[File; 2]> {
    let library = fs::read(start.shim).with_context(|| format!("cannot read {}", start.shim.display()))?;
    let fd = memfd_create(c"memtrace", MFdFlags::MFD_CLOEXEC).context("cannot hold the recorder in memory")?;
    let mut shim = File::from(fd);
    shim.write_all(&library)?;
    fchmod(&shim, Mode::from_bits_truncate(0o555))?;
    let log = File::options()
        .read(true)
        .write(true)
        .open(start.log)
        .with_context(|| format!("cannot open {}", start.log.display()))?;
    give(&log, process);
    Ok([shim, log])
}

/// Whoever writes a log must be allowed to; for ourselves that changes nothing.
pub fn give(log: &File, process: &Process) {
    let _ = fchown(log, Some(Uid::from_raw(process.user)), Some(Gid::from_raw(process.group)));
}

/// The numbers of copies of descriptors in the process. They are closed on exec.
pub fn send(thread: &mut Borrowed<'_, '_>, pid: Pid, descriptors: &[BorrowedFd<'_>]) -> anyhow::Result<Vec<i32>> {
    let function = |name: &str| thread.function(name).with_context(|| format!("the process has no {name}"));
    let (socketpair, recvmsg, close) = (function("socketpair")?, function("recvmsg")?, function("close")?);
    let pair = thread.put(&[0; 8])?;
    let kind = (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as u64;
    if thread.call(socketpair, &[libc::AF_UNIX as u64, kind, 0, pair])? as i32 != 0 {
        bail!("the process can't make a socket");
    }
    let pair: [u8; 8] = thread.memory().read(pair)?;
    let pair = [&pair[..4], &pair[4..]].map(|bytes| i32::from_le_bytes(bytes.try_into().expect("four bytes")));
    let received = receive(thread, pid, descriptors, pair, recvmsg);
    for fd in pair {
        thread.call(close, &[fd as u64])?;
    }
    received
}

fn receive(
    thread: &mut Borrowed<'_, '_>,
    pid: Pid,
    descriptors: &[BorrowedFd<'_>],
    pair: [i32; 2],
    recvmsg: u64,
) -> anyhow::Result<Vec<i32>> {
    let process = Running::open(pid).context("cannot open the process")?;
    let socket = sys::copy_descriptor(process.fd().as_fd(), pair[0])
        .context("cannot hand files over to the process, which takes Linux 5.6")?;
    let ours: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    sys::send_descriptors(socket.as_fd(), b"x", &ours)?;
    let control_len = (CONTROL_HEADER + size_of::<i32>() * ours.len()).next_multiple_of(8);
    let control = thread.put(&vec![0; control_len])?;
    let payload = thread.put(&[0; 8])?;
    let vector = thread.put(&words([payload, 1]))?;
    // `struct msghdr`: name and its length, the vector and its length, control and its length, flags.
    let message = thread.put(&words([0, 0, vector, 1, control, control_len as u64, 0]))?;
    let flags = (libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) as u64;
    let len = thread.call(recvmsg, &[pair[1] as u64, message, flags])?;
    ensure!(len == 1, "the process could not take the files that it was handed");
    let number = |index: usize| {
        let place = control + (CONTROL_HEADER + size_of::<i32>() * index) as u64;
        anyhow::Ok(i32::from_le_bytes(thread.memory().read(place)?))
    };
    (0..ours.len()).map(number).collect()
}

fn words<const N: usize>(words: [u64; N]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
