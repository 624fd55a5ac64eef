//! The asking side. Every error is a sentence that says what to do.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::geteuid;

use super::message::{Answer, MAX_LINE_LEN, Request, Sent, Status};
use super::place;

/// A keeper that is stopped, or busy for this long, is not waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// More than the pictures of many processes take.
const MAX_PICTURES_LEN: u64 = 1 << 28;

/// While an answer may take as long as it likes, somebody is asked so often whether to go on.
const BETWEEN_ASKING: Duration = Duration::from_millis(50);

/// A connection to whoever keeps the log of a process.
pub struct Client {
    /// Whom it asks about, for messages.
    whom: String,
    token: Option<String>,
    stream: BufReader<Box<dyn Stream>>,
}

trait Stream: Read + Write + AsFd + Send {}

impl Stream for UnixStream {}

impl Stream for TcpStream {}

impl Client {
    pub fn connect(pid: u32) -> Result<Client> {
        match place::possible(&place::socket(pid)).find_map(|path| UnixStream::connect(path).ok()) {
            Some(stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                let stream: Box<dyn Stream> = Box::new(stream);
                Ok(Client { whom: format!("process {pid}"), token: None, stream: BufReader::new(stream) })
            }
            None => bail!("{}", why_not(pid)),
        }
    }

    /// By the port on which somebody waits for a viewer, with the token in a file, which may come from another machine;
    /// without a file, `None` when there is none of this user's.
    pub fn connect_port(port: u16, token: Option<&Path>) -> Result<Option<Client>> {
        let token = match token {
            Some(path) => {
                let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                Some(text.trim().to_owned())
            }
            None => place::possible(&place::token(port)).find_map(|path| fs::read_to_string(path).ok()),
        };
        let Some(token) = token else { return Ok(None) };
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        let stream = stream.with_context(|| format!("nobody waits on port {port} any more"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let stream: Box<dyn Stream> = Box::new(stream);
        Ok(Some(Client { whom: format!("port {port}"), token: Some(token), stream: BufReader::new(stream) }))
    }

    pub fn status(&mut self) -> Result<Status> {
        let answer = self.ask(&Request::Status)?;
        self.status_in(answer)
    }

    /// The same as a viewer, for whom a program may wait before it starts, and who may have to wait for that; `None` when
    /// that is not wanted any more.
    pub fn watch(&mut self, mut go_on: impl FnMut() -> bool) -> Result<Option<Status>> {
        self.send(&Request::Watch)?;
        while !self.has_more(BETWEEN_ASKING) {
            if !go_on() {
                return Ok(None);
            }
        }
        let answer = self.receive()?;
        self.status_in(answer).map(Some)
    }

    /// Says that the log is open, for which a recording that ends waits a moment.
    pub fn has_opened(&mut self) {
        // When nobody wants to know it any more, nobody waits.
        let _ = self.request(&Request::Opened);
    }

    /// Has the pictures that a viewer shows come, a line each; the first.
    pub fn ask_for_pictures(&mut self) -> Result<Vec<u8>> {
        self.send(&Request::Pictures)?;
        let line = self.line(MAX_PICTURES_LEN)?;
        if line.starts_with(b"[") {
            return Ok(line);
        }
        match self.answer_in(&line)? {
            Answer::Refused { reason } => bail!("{reason}"),
            other => bail!("the memtrace behind {} is another version: it answers {other:?}", self.whom),
        }
    }

    /// The next line, when there is something to read.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>> {
        if self.has_more(Duration::ZERO) { self.line(MAX_PICTURES_LEN).map(Some) } else { Ok(None) }
    }

    /// Says a line that is no request.
    pub fn send_line(&mut self, mut line: Vec<u8>) -> Result<()> {
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).with_context(|| self.silence())
    }

    /// Whether the other side is there. It says nothing unasked.
    pub fn is_connected(&self) -> bool {
        !self.has_more(Duration::ZERO)
    }

    /// Whether there is something to read, if only the end.
    fn has_more(&self, timeout: Duration) -> bool {
        let mut fds = [PollFd::new(self.stream.get_ref().as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
        !self.stream.buffer().is_empty() || poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
    }

    fn status_in(&self, answer: Answer) -> Result<Status> {
        match answer {
            Answer::Status(status) => Ok(status),
            other => bail!("the memtrace behind {} is another version: it answers {other:?}", self.whom),
        }
    }

    /// Whether that changed anything.
    pub fn request(&mut self, request: &Request) -> Result<bool> {
        Ok(matches!(self.ask(request)?, Answer::Done { changed: true }))
    }

    fn ask(&mut self, request: &Request) -> Result<Answer> {
        self.send(request)?;
        self.receive()
    }

    fn send(&mut self, request: &Request) -> Result<()> {
        let sent = Sent { token: self.token.clone(), request: request.clone() };
        self.send_line(serde_json::to_vec(&sent)?)
    }

    fn receive(&mut self) -> Result<Answer> {
        let told = self.line(MAX_LINE_LEN as u64)?;
        match self.answer_in(&told)? {
            Answer::Refused { reason } => bail!("{reason}"),
            answer => Ok(answer),
        }
    }

    fn answer_in(&self, line: &[u8]) -> Result<Answer> {
        serde_json::from_slice(line).with_context(|| self.silence())
    }

    fn line(&mut self, longest: u64) -> Result<Vec<u8>> {
        let mut told = Vec::new();
        let read = (&mut self.stream).take(longest).read_until(b'\n', &mut told);
        read.with_context(|| self.silence())?;
        if told.is_empty() {
            bail!("{}: it has ended", self.silence());
        }
        Ok(told)
    }

    fn silence(&self) -> String {
        format!("the memtrace behind {} does not answer", self.whom)
    }
}

fn why_not(pid: u32) -> String {
    let Ok(metadata) = fs::metadata(format!("/proc/{pid}")) else { return format!("there is no process {pid}") };
    let (theirs, ours) = (metadata.uid(), geteuid().as_raw());
    if theirs != ours {
        return format!(
            "process {pid} belongs to another user (uid {theirs}, yours is {ours}): only that user can ask about it"
        );
    }
    format!("process {pid} is not recorded: memtrace run or memtrace attach would record it")
}
