//! The live view of a recording whose log can't be opened here, as behind a forwarded port or in another container: a
//! memtrace over there reads it and sends pictures, one line of JSON each, and is told of marks. Called by `live`.
//! It must never disturb the recording: whoever sends waits for us, and nobody waits for them.

use std::fs::File;
use std::io::{ErrorKind, Read, Write, stdin, stdout};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::commands::live::Logs;
use crate::control::client::Client;
use crate::terminal::live::{Picture, Source};

/// What a viewer says.
#[derive(Serialize, Deserialize)]
struct Mark {
    process: usize,
    is_set: bool,
}

/// Between two looks whether there are new pictures.
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

/// Sends pictures of a log and of those beside it to standard output, a connection, until a viewer hangs up.
pub fn send(log: &Path) -> Result<ExitCode> {
    let mut logs = Logs::new(log)?;
    let mut sent: Vec<Arc<Picture>> = Vec::new();
    // Past what the standard library would read ahead.
    let mut input = File::from(stdin().as_fd().try_clone_to_owned()?);
    let mut output = stdout().lock();
    let mut lines = Vec::new();
    loop {
        let pictures = logs.pictures();
        let is_same = |(one, other): (&Arc<Picture>, &Arc<Picture>)| Arc::ptr_eq(one, other);
        if pictures.len() != sent.len() || !pictures.iter().zip(&sent).all(is_same) {
            let shown: Vec<&Picture> = pictures.iter().map(Arc::as_ref).collect();
            let mut line = serde_json::to_vec(&shown)?;
            line.push(b'\n');
            output.write_all(&line).and_then(|()| output.flush()).context("the viewer is gone")?;
            sent = pictures;
        }
        let mut ready = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(BETWEEN_LOOKS).unwrap_or(PollTimeout::ZERO);
        if !poll(&mut ready, timeout).is_ok_and(|n| n > 0) {
            continue;
        }
        let mut buf = [0; 4096];
        match input.read(&mut buf) {
            Ok(0) => return Ok(ExitCode::SUCCESS),
            Ok(n) => lines.extend_from_slice(&buf[..n]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        while let Some(end) = lines.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = lines.drain(..=end).collect();
            let mark: Mark = serde_json::from_slice(&line).context("the viewer says what we don't understand")?;
            logs.mark(mark.process, mark.is_set);
        }
        if lines.len() > buf.len() {
            bail!("the viewer says what we don't understand");
        }
    }
}

/// Pictures that come through a connection.
pub struct Remote {
    client: Client,
    pictures: Vec<Arc<Picture>>,
    has_ended: bool,
}

impl Remote {
    /// Asks whoever keeps a log to have pictures of it sent.
    pub fn ask(mut client: Client) -> Result<Remote> {
        let first = client.ask_for_pictures()?;
        let mut remote = Remote { client, pictures: Vec::new(), has_ended: false };
        remote.take(&first)?;
        Ok(remote)
    }

    fn take(&mut self, line: &[u8]) -> Result<()> {
        let pictures: Vec<Picture> =
            serde_json::from_slice(line).context("what the memtrace over there sends is unknown")?;
        self.pictures = pictures.into_iter().map(Arc::new).collect();
        Ok(())
    }

    /// Takes what has come, and waits for nothing but the rest of a line.
    fn receive(&mut self) -> Result<()> {
        while let Some(line) = self.client.next_line()? {
            self.take(&line)?;
        }
        Ok(())
    }

    fn end(&mut self, error: &anyhow::Error) {
        self.has_ended = true;
        for picture in &mut self.pictures {
            // Of a program that has ended there is nothing more to come.
            if picture.end.is_none() {
                let notices = vec![format!("{error:#}")];
                *picture =
                    Arc::new(Picture { end: Some("not told any more (?)".into()), notices, ..(**picture).clone() });
            }
        }
    }
}

impl Source for Remote {
    fn pictures(&mut self) -> Vec<Arc<Picture>> {
        if !self.has_ended
            && let Err(error) = self.receive()
        {
            self.end(&error);
        }
        self.pictures.clone()
    }

    fn mark(&mut self, process: usize, is_set: bool) {
        let line = serde_json::to_vec(&Mark { process, is_set }).unwrap_or_default();
        // When nobody is there, the next look tells.
        let _ = self.client.send_line(line);
    }

    fn output(&mut self, _: usize) -> Option<Vec<String>> {
        None
    }

    fn interrupt(&mut self) -> bool {
        false
    }
}
