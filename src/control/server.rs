//! The keeper's side: takes requests between its other work and never waits for anybody. What can't be had — a folder, a
//! socket, a descriptor — is done without: the recording goes on.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;

use super::message::{Answer, MAX_LINE_LEN, Request, Sent};
use super::place;

/// Connections at a time; the next one takes the place of the oldest.
const MAX_PEERS: usize = 8;

/// Listens for one recorded process.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    port: Option<Port>,
    peers: Vec<Peer>,
}

/// Of the loopback device, for any user; so a token is asked for.
struct Port {
    listener: TcpListener,
    token: String,
    /// Where the user's programs find it.
    path: PathBuf,
}

struct Peer {
    stream: Box<dyn Stream>,
    /// What each request must bring.
    token: Option<String>,
    /// What came of the next line.
    line: Vec<u8>,
}

trait Stream: Read + Write + AsFd {}

impl Stream for UnixStream {}

impl Stream for TcpStream {}

impl Server {
    /// `None` when there is no safe place for it.
    pub fn start(pid: u32) -> Option<Server> {
        let path = place::create(&place::socket(pid))?;
        // Of a process that had this number before.
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).ok()?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).ok()?;
        listener.set_nonblocking(true).ok()?;
        Some(Server { listener, path, port: None, peers: Vec::new() })
    }

    /// Listens on a port of the loopback device too, on any when it is 0; its number.
    pub fn open_port(&mut self, port: u16) -> Result<u16> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("cannot use port {port}"))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let path = place::create(&place::token(port)).context("there is no safe folder for the port's token")?;
        let mut random = [0; 16];
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).context("cannot make a token")?;
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = fs::remove_file(&path);
        let written = File::options().write(true).create_new(true).mode(0o600).open(&path);
        written
            .and_then(|mut file| file.write_all(token.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        self.port = Some(Port { listener, token, path });
        Ok(port)
    }

    /// What to wait for.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let port = self.port.iter().map(|port| port.listener.as_fd());
        std::iter::once(self.listener.as_fd()).chain(port).chain(self.peers.iter().map(|peer| peer.stream.as_fd()))
    }

    /// Lets new peers in, and answers what has come.
    pub fn serve(&mut self, answer: &mut dyn FnMut(Request) -> Answer) {
        while let Ok((stream, _)) = self.listener.accept() {
            if is_same_user(&stream) && stream.set_nonblocking(true).is_ok() {
                self.admit(Box::new(stream), None);
            }
        }
        while let Some((stream, token)) = self.port.as_ref().and_then(Port::accept) {
            self.admit(stream, Some(token));
        }
        self.peers.retain_mut(|peer| peer.serve(answer));
    }

    fn admit(&mut self, stream: Box<dyn Stream>, token: Option<String>) {
        if self.peers.len() == MAX_PEERS {
            self.peers.remove(0);
        }
        self.peers.push(Peer { stream, token, line: Vec::new() });
    }
}

impl Port {
    fn accept(&self) -> Option<(Box<dyn Stream>, String)> {
        let (stream, _) = self.listener.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some((Box::new(stream), self.token.clone()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        if let Some(port) = &self.port {
            let _ = fs::remove_file(&port.path);
        }
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
                let sent = serde_json::from_slice::<Sent>(&line);
                if self.token.is_some()
                    && sent.as_ref().ok().and_then(|sent| sent.token.as_ref()) != self.token.as_ref()
                {
                    return false;
                }
                let told = match sent {
                    Ok(Sent { request, .. }) => answer(request),
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
