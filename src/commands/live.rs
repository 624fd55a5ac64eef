//! `memtrace live`: watches a recording that goes on, and may come and go as it likes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cli::LiveArgs;
use crate::commands::feed::Feed;
use crate::control::client::Client;
use crate::launch::family;
use crate::terminal;
use crate::terminal::live::{Picture, Source};

pub fn run(args: &LiveArgs) -> Result<ExitCode> {
    check_terminal()?;
    let by_port = u16::try_from(args.number).ok().map(Client::connect_port).transpose()?.flatten();
    let mut client = match by_port {
        Some(client) => client,
        None => Client::connect(args.number)?,
    };
    if let Some(status) = client.watch(|| true)? {
        let mut logs = Logs::new(&status.log)?;
        client.has_opened();
        terminal::live::show(&mut logs)?;
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
