//! The keeper's side: takes requests between its other work and never waits for anybody. What can't be had — a folder, a
//! socket, a descriptor — is done without: the recording goes on.
//!
//! Over a port, whoever has not shown the token is no more than a connection, and makes room for whoever has.

use std::env;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{Shutdown, getsockopt, setsockopt, shutdown, sockopt};
use nix::sys::time::TimeVal;
use nix::unistd::geteuid;

use super::message::{Answer, MAX_LINE_LEN, Request, Sent};
use super::place;

/// For ports that only this machine reaches.
pub const LOOPBACK: &str = "127.0.0.1";

/// Connections at a time; the next one takes the place of the oldest that is no viewer.
const MAX_PEERS: usize = 8;
/// A viewer that takes nothing for so long is gone.
const LONGEST_WRITE: TimeVal = TimeVal::new(60, 0);

/// Listens for one recorded process.
#[derive(Default)]
pub struct Server {
    local: Option<Local>,
    port: Option<Port>,
    peers: Vec<Peer>,
    /// The memtrace that sends pictures to viewers, if there is one, and those of it that do.
    sender: Option<PathBuf>,
    senders: Vec<Child>,
}

/// What the user's programs find by the process.
struct Local {
    listener: UnixListener,
    path: PathBuf,
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
    /// What came of the next lines.
    lines: Vec<u8>,
    /// Whether it was told as a viewer where the log is…
    is_watching: bool,
    /// …and has opened it.
    has_opened: bool,
    /// Whether pictures of the log can be had.
    can_have_pictures: bool,
    /// The log of which it wants them.
    wants_pictures: Option<PathBuf>,
}

trait Stream: Read + Write + AsFd + Send {}

impl Stream for UnixStream {}

impl Stream for TcpStream {}

impl Server {
    /// In a process that is memtrace. `None` when there is no safe place for it.
    pub fn start(pid: u32) -> Option<Server> {
        let path = place::create(&place::socket(pid))?;
        // Of a process that had this number before.
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).ok()?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).ok()?;
        listener.set_nonblocking(true).ok()?;
        let (local, sender) = (Some(Local { listener, path }), env::current_exe().ok());
        Some(Server { local, port: None, peers: Vec::new(), sender, senders: Vec::new() })
    }

    /// Listens on a port too, on any when it is 0; its number.
    pub fn open_port(&mut self, address: &str, port: u16) -> Result<u16> {
        let listener = TcpListener::bind((address, port)).with_context(|| format!("cannot use port {port}"))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let path = place::create(&place::token(port)).context("there is no safe folder for the port's token")?;
        let mut random = [0; 16];
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).context("cannot make a token")?;
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        // Whoever reads it reads all of it: with half a token one would be a stranger, and wait.
        let unfinished = path.with_extension(std::process::id().to_string());
        let _ = fs::remove_file(&unfinished);
        let written = File::options().write(true).create_new(true).mode(0o600).open(&unfinished);
        written
            .and_then(|mut file| file.write_all(token.as_bytes()))
            .and_then(|()| fs::rename(&unfinished, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
        self.port = Some(Port { listener, token, path });
        Ok(port)
    }

    /// What to wait for.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let local = self.local.iter().map(|local| local.listener.as_fd());
        let port = self.port.iter().map(|port| port.listener.as_fd());
        local.chain(port).chain(self.peers.iter().map(|peer| peer.stream.as_fd()))
    }

    /// Lets new peers in, and answers what has come.
    pub fn serve(&mut self, answer: &mut dyn FnMut(Request) -> Answer) {
        self.admit_all();
        self.senders.retain_mut(|sender| matches!(sender.try_wait(), Ok(None)));
        let gone: Vec<Peer> = self.peers.extract_if(.., |peer| !peer.serve(answer)).collect();
        for Peer { stream, wants_pictures, .. } in gone {
            if let (Some(log), Some(memtrace)) = (wants_pictures, &self.sender) {
                self.senders.extend(send_pictures(stream, memtrace, &log));
            }
        }
    }

    /// Lets new peers in while there is nothing to tell: whether a viewer is among them. They get their answers later.
    pub fn has_viewer(&mut self) -> bool {
        self.admit_all();
        self.peers.retain_mut(Peer::wait);
        self.peers.iter().any(Peer::asks_to_watch)
    }

    /// Whether somebody is still there who was told as a viewer where the log is.
    pub fn is_watched(&self) -> bool {
        self.peers.iter().any(|peer| peer.is_watching)
    }

    /// Whether somebody is still there who was told so and has not opened it yet.
    pub fn is_awaited(&self) -> bool {
        self.peers.iter().any(|peer| peer.is_watching && !peer.has_opened)
    }

    fn admit_all(&mut self) {
        while let Some(stream) = self.local.as_ref().and_then(Local::accept) {
            self.admit(stream, None);
        }
        while let Some((stream, token)) = self.port.as_ref().and_then(Port::accept) {
            self.admit(stream, Some(token));
        }
    }

    fn admit(&mut self, stream: Box<dyn Stream>, token: Option<String>) {
        if self.peers.len() == MAX_PEERS {
            let Some(oldest) = self.peers.iter().position(|peer| !peer.is_watching && !peer.asks_to_watch()) else {
                return;
            };
            self.peers.remove(oldest);
        }
        let can_have_pictures = self.sender.is_some() && self.senders.len() < MAX_PEERS;
        let (lines, is_watching, has_opened, wants_pictures) = (Vec::new(), false, false, None);
        self.peers.push(Peer { stream, token, lines, is_watching, has_opened, can_have_pictures, wants_pictures });
    }
}

impl Local {
    fn accept(&self) -> Option<Box<dyn Stream>> {
        while let Ok((stream, _)) = self.listener.accept() {
            if is_same_user(&stream) && stream.set_nonblocking(true).is_ok() {
                return Some(Box::new(stream));
            }
        }
        None
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
        if let Some(local) = &self.local {
            let _ = fs::remove_file(&local.path);
        }
        if let Some(port) = &self.port {
            let _ = fs::remove_file(&port.path);
            end(port.listener.as_fd());
        }
        self.peers.iter().for_each(|peer| end(peer.stream.as_fd()));
    }
}

/// Ends a connection, or the listening, whoever else has it: children that the program has forked, when we are in it.
fn end(socket: BorrowedFd<'_>) {
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
}

impl Peer {
    /// `false` when it is to be let go.
    fn serve(&mut self, answer: &mut dyn FnMut(Request) -> Answer) -> bool {
        if !self.answer_all(answer) {
            return false;
        }
        // A few at a time: whoever asks without end must not keep us from our work.
        for _ in 0..4 {
            if let ControlFlow::Break(is_there) = self.receive() {
                return is_there;
            }
            if !self.answer_all(answer) {
                return false;
            }
        }
        true
    }

    /// The same while nothing is answered.
    fn wait(&mut self) -> bool {
        match self.receive() {
            ControlFlow::Break(is_there) => is_there,
            ControlFlow::Continue(()) => self.lines.len() <= MAX_LINE_LEN,
        }
    }

    /// Whether there is a request of a viewer, with the token, that waits for its answer.
    fn asks_to_watch(&self) -> bool {
        let mut lines = self.lines.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
        lines.any(|line| {
            let sent = serde_json::from_slice::<Sent>(line);
            sent.is_ok_and(|sent| self.is_known(&sent) && sent.request == Request::Watch)
        })
    }

    fn is_known(&self, sent: &Sent) -> bool {
        self.token.is_none() || self.token == sent.token
    }

    /// Takes what has come; breaks off when that is nothing, with whether the peer is still there.
    fn receive(&mut self) -> ControlFlow<bool> {
        let mut buf = [0; 4096];
        match self.stream.read(&mut buf) {
            Ok(0) => return ControlFlow::Break(false),
            Ok(n) => self.lines.extend_from_slice(&buf[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return ControlFlow::Break(true),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return ControlFlow::Break(false),
        }
        ControlFlow::Continue(())
    }

    /// `false` when it is to be let go.
    fn answer_all(&mut self, answer: &mut dyn FnMut(Request) -> Answer) -> bool {
        while let Some(end) = self.lines.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.lines.drain(..=end).collect();
            let told = match serde_json::from_slice::<Sent>(&line) {
                Ok(sent) if self.is_known(&sent) => {
                    self.is_watching |= sent.request == Request::Watch;
                    self.has_opened |= sent.request == Request::Opened;
                    match (sent.request, self.can_have_pictures) {
                        (Request::Pictures, true) => match answer(Request::Pictures) {
                            Answer::Status(status) => {
                                self.wants_pictures = Some(status.log);
                                return false;
                            }
                            other => other,
                        },
                        (Request::Pictures, false) => {
                            Answer::Refused { reason: "it can be watched only where its capture can be read".into() }
                        }
                        (request, _) => answer(request),
                    }
                }
                Err(error) if self.token.is_none() => {
                    Answer::Refused { reason: format!("this memtrace does not understand it: {error}") }
                }
                _ => return false,
            };
            // Short, and so there is room for it unless the peer does not read.
            let Ok(mut told) = serde_json::to_vec(&told) else { return false };
            told.push(b'\n');
            if self.stream.write_all(&told).is_err() {
                return false;
            }
        }
        self.lines.len() <= MAX_LINE_LEN
    }
}

/// In a process of its own: it may wait for the peer, and reads the log like any viewer.
fn send_pictures(stream: Box<dyn Stream>, memtrace: &Path, log: &Path) -> Option<Child> {
    let input = stream.as_fd().try_clone_to_owned().ok()?;
    fcntl(&input, FcntlArg::F_SETFL(OFlag::empty())).ok()?;
    setsockopt(&input, sockopt::SendTimeout, &LONGEST_WRITE).ok()?;
    let output = input.try_clone().ok()?;
    let mut command = Command::new(memtrace);
    // A key of the terminal is not for it.
    command.args(["live", "--send"]).arg(log).process_group(0);
    command.stdin(input).stdout(output).stderr(Stdio::null()).spawn().ok()
}

fn is_same_user(stream: &UnixStream) -> bool {
    getsockopt(stream, sockopt::PeerCredentials).is_ok_and(|peer| peer.uid() == geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn a_token_is_there_as_a_whole_or_not_at_all() {
        // A port that is free, as far as anybody knows, so that its token has always the same path.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let has_ended = AtomicBool::new(false);
        thread::scope(|scope| {
            let lens = scope.spawn(|| {
                let mut lens = std::collections::BTreeSet::new();
                while !has_ended.load(Ordering::Relaxed) {
                    lens.extend(
                        place::possible(&place::token(port)).find_map(|path| fs::read(path).ok()).map(|it| it.len()),
                    );
                }
                lens
            });
            for _ in 0..500 {
                let mut server =
                    Server { local: None, port: None, peers: Vec::new(), sender: None, senders: Vec::new() };
                server.open_port("127.0.0.1", port).unwrap();
            }
            has_ended.store(true, Ordering::Relaxed);
            assert_eq!(Vec::from_iter(lens.join().unwrap()), [32]);
        });
    }
}
