//! `memtrace live`: watches a recording that goes on, and may come and go as it likes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cli::LiveArgs;
use crate::commands::feed::Feed;
use crate::commands::remote::{self, Remote};
use crate::control::client::Client;
use crate::launch::family;
use crate::launch::log::read_header;
use crate::terminal;
use crate::terminal::live::{Picture, Source};

pub fn run(args: &LiveArgs) -> Result<ExitCode> {
    if let Some(log) = &args.send {
        return remote::send(log);
    }
    check_terminal()?;
    let number = args.number.context("a process or a port is to be named")?;
    let token = args.token_file.as_deref();
    let by_port = u16::try_from(number).ok().map(|port| Client::connect_port(port, token)).transpose()?.flatten();
    let mut client = match by_port {
        Some(client) => client,
        None => Client::connect(number)?,
    };
    if let Some(status) = client.watch(|| true)? {
        // At the same path there may be another one, or none, in a container or on another machine.
        let is_here = read_header(&status.log).is_some_and(|log| log.start_unix_nanos == status.start_unix_nanos);
        match is_here {
            true => {
                let mut logs = Logs::new(&status.log)?;
                client.has_opened();
                terminal::live::show(&mut logs)?;
            }
            false => terminal::live::show(&mut Remote::ask(client)?)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows a log as it grows, and those of the processes that its program started, until the user has seen enough.
pub fn watch(log: &Path) -> Result<()> {
    check_terminal()?;
    terminal::live::show(&mut Logs::new(log)?)
}

fn check_terminal() -> Result<()> {
    if !terminal::is_possible() {
        bail!("the live view needs a terminal; `memtrace ctl PID status --json` tells programs");
    }
    Ok(())
}

/// The logs of a tree of processes.
pub struct Logs {
    path: PathBuf,
    feeds: Vec<Feed>,
    /// Those beside the first, readable or not.
    others: BTreeSet<PathBuf>,
    next_look: Instant,
}

/// Between two looks for further logs.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

impl Logs {
    pub fn new(path: &Path) -> Result<Logs> {
        let feeds = vec![Feed::start(path)?];
        Ok(Logs { path: path.to_owned(), feeds, others: BTreeSet::new(), next_look: Instant::now() })
    }

    fn look_for_others(&mut self) {
        for path in family::logs_beside(&self.path) {
            if self.others.insert(path.clone()) {
                self.feeds.extend(Feed::start(&path));
            }
        }
    }
}

impl Source for Logs {
    fn pictures(&mut self) -> Vec<Arc<Picture>> {
        if Instant::now() >= self.next_look {
            self.next_look = Instant::now() + BETWEEN_LOOKS;
            self.look_for_others();
        }
        self.feeds.iter().map(Feed::picture).collect()
    }

    fn mark(&mut self, process: usize, is_set: bool) {
        if let Some(feed) = self.feeds.get(process) {
            feed.mark(is_set);
        }
    }

    fn output(&mut self, _: usize) -> Option<Vec<String>> {
        None
    }

    fn interrupt(&mut self) -> bool {
        false
    }
}
