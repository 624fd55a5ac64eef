//! The keeper's side: takes requests between its other work and never waits for anybody. What can't be had — a folder, a
//! socket, a descriptor — is done without: the recording goes on.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;

use super::message::{Answer, MAX_LINE_LEN, Request};
use super::place;

/// Connections at a time; the next one takes the place of the oldest.
const MAX_PEERS: usize = 8;

/// Listens for one recorded process.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    peers: Vec<Peer>,
}

struct Peer {
    stream: UnixStream,
    /// What came of the next line.
    line: Vec<u8>,
}

impl Server {
    /// `None` when there is no safe place for it.
    pub fn start(pid: u32) -> Option<Server> {
        let path = place::create(pid)?;
        // Of a process that had this number before.
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).ok()?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).ok()?;
        listener.set_nonblocking(true).ok()?;
        Some(Server { listener, path, peers: Vec::new() })
    }

    /// What to wait for.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.listener.as_fd()).chain(self.peers.iter().map(|peer| peer.stream.as_fd()))
    }

    /// Lets new peers in, and answers what has come.
    pub fn serve(&mut self, answer: &mut dyn FnMut(Request) -> Answer) {
        while let Ok((stream, _)) = self.listener.accept() {
            if is_same_user(&stream) && stream.set_nonblocking(true).is_ok() {
                if self.peers.len() == MAX_PEERS {
                    self.peers.remove(0);
                }
                self.peers.push(Peer { stream, line: Vec::new() });
            }
        }
        self.peers.retain_mut(|peer| peer.serve(answer));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl Peer {
    /// `false` when it is to be let go.
    fn serve(&mut self, answer: &mut dyn FnMut(Request) -> Answer) -> bool {
        let mut buf = [0; 4096];
        // A few at a time: whoever asks without end must not keep us from our work.
        for _ in 0..4 {
            match self.stream.read(&mut buf) {
                Ok(0) => return false,
                Ok(n) => self.line.extend_from_slice(&buf[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
            while let Some(end) = self.line.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                let told = match serde_json::from_slice(&line) {
                    Ok(request) => answer(request),
                    Err(error) => Answer::Refused { reason: format!("this memtrace does not understand it: {error}") },
                };
                // Short, and so there is room for it unless the peer does not read.
                let Ok(mut told) = serde_json::to_vec(&told) else { return false };
                told.push(b'\n');
                if self.stream.write_all(&told).is_err() {
                    return false;
                }
            }
            if self.line.len() > MAX_LINE_LEN {
                return false;
            }
        }
        true
    }
}

fn is_same_user(stream: &UnixStream) -> bool {
    getsockopt(stream, sockopt::PeerCredentials).is_ok_and(|peer| peer.uid() == geteuid().as_raw())
}
