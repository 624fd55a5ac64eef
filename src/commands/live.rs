//! `memtrace live`: watches a recording that goes on, and may come and go as it likes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cli::LiveArgs;
use crate::commands::feed::Feed;
use crate::control::client::Client;
use crate::terminal;
use crate::terminal::live::{Picture, Source};

pub fn run(args: &LiveArgs) -> Result<ExitCode> {
    check_terminal()?;
    let by_port = u16::try_from(args.number).ok().map(Client::connect_port).transpose()?.flatten();
    let mut client = match by_port {
        Some(client) => client,
        None => Client::connect(args.number)?,
    };
    watch(&client.watch()?.log)?;
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
    /// The processes of those beside the first, readable or not.
    others: BTreeSet<u32>,
    next_look: Instant,
}

/// Between two looks for further logs.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

impl Logs {
    pub fn new(path: &Path) -> Result<Logs> {
        let feeds = vec![Feed::start(path)?];
        Ok(Logs { path: path.to_owned(), feeds, others: BTreeSet::new(), next_look: Instant::now() })
    }

    pub fn pictures(&mut self) -> Vec<Arc<Picture>> {
        if Instant::now() >= self.next_look {
            self.next_look = Instant::now() + BETWEEN_LOOKS;
            self.look_for_others();
        }
        self.feeds.iter().map(Feed::picture).collect()
    }

    pub fn mark(&mut self, process: usize, is_set: bool) {
        if let Some(feed) = self.feeds.get(process) {
            feed.mark(is_set);
        }
    }

    /// The log of a child lies beside its parent's, with its process id behind the name.
    fn look_for_others(&mut self) {
        let Some((folder, name)) = self.path.parent().zip(self.path.file_name()) else { return };
        let mut prefix = name.to_owned();
        prefix.push(".");
        for entry in folder.read_dir().into_iter().flatten().flatten() {
            let Some(pid) = pid_behind(&prefix, &entry.file_name()) else { continue };
            if self.others.insert(pid) {
                self.feeds.extend(Feed::start(&entry.path()));
            }
        }
    }
}

fn pid_behind(prefix: &OsString, name: &OsString) -> Option<u32> {
    name.to_str()?.strip_prefix(prefix.to_str()?)?.parse().ok()
}

impl Source for Logs {
    fn pictures(&mut self) -> Vec<Arc<Picture>> {
        Logs::pictures(self)
    }

    fn mark(&mut self, process: usize, is_set: bool) {
        Logs::mark(self, process, is_set);
    }

    fn output(&mut self, _: usize) -> Option<Vec<String>> {
        None
    }

    fn interrupt(&mut self) -> bool {
        false
    }
}
