//! Reads a growing log on a thread of its own and keeps a picture of it for whoever shows it. Called by `live`. It costs
//! the recorded program nothing but the processor that it runs on, and takes no more than a tenth of that when little
//! happens.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use hashbrown::HashMap;

use crate::analysis::summary::{self, Function};
use crate::analysis::{BySite, Detail, Heap, MmapRule};
use crate::capture::follow::{Follower, Progress};
use crate::commands::load::warnings_of_one;
use crate::commands::native::Names;
use crate::model::native::NativeStacks;
use crate::model::{Action, Event, Joiner, Model, ThreadKey};
use crate::report::origin;
use crate::terminal::live::{History, Picture, Row, Since, Thread};

/// A log that is read.
pub struct Feed {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    picture: Mutex<Arc<Picture>>,
    /// How often a mark was set or cleared; odd while one is set.
    marks: AtomicU64,
    is_over: AtomicBool,
}

/// Between two looks at the log, at least and at most; in between, ten times as long as the look takes.
const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(5);
/// A step that has much to read ends after this time, and lets the launcher move blocks for this long.
const LONGEST_STEP: Duration = Duration::from_millis(60);
const BETWEEN_STEPS: Duration = Duration::from_millis(15);
/// Until everything is read, it is shown so often how far it is.
const BETWEEN_PICTURES: Duration = Duration::from_millis(300);
/// After so many of these in a row it is told that there is more to read.
const WORTH_TELLING: u32 = 30;
/// Rows that are told, the largest ones of each thread.
const MAX_ROWS: usize = 2000;

impl Feed {
    /// An error says why the log can't be read.
    pub fn start(path: &Path) -> Result<Feed> {
        let mut names = Names::of_this_machine();
        let joiner = move || Joiner::new(Box::new(move |module, address| names.of(module, address)));
        // An error is told at once.
        Follower::open(path, NativeStacks::LeftOut)?;
        let shared = Arc::new(Shared::default());
        let reading = shared.clone();
        let path = path.to_owned();
        // What names native code stays on its thread.
        let reader = thread::spawn(move || match Follower::open(&path, NativeStacks::Named(joiner())) {
            Ok(follower) => Reading::new(follower).run(&reading),
            Err(error) => reading.end(&error),
        });
        Ok(Feed { shared, reader: Some(reader) })
    }

    pub fn picture(&self) -> Arc<Picture> {
        self.shared.picture.lock().expect("no reader panics").clone()
    }

    pub fn mark(&self, is_set: bool) {
        let next = |marks: u64| Some(if is_set { (marks + 1) | 1 } else { (marks + 1) & !1 });
        let _ = self.shared.marks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        self.wake();
    }

    fn wake(&self) {
        if let Some(reader) = &self.reader {
            reader.thread().unpark();
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.wake();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Shared {
    fn show(&self, picture: Picture) {
        *self.picture.lock().expect("nobody who looks panics") = Arc::new(picture);
    }

    fn end(&self, error: &anyhow::Error) {
        let last = self.picture.lock().expect("nobody who looks panics").clone();
        let notices = vec![format!("{error:#}")];
        self.show(Picture { end: Some("not read any more (?)".into()), notices, ..(*last).clone() });
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

struct Reading {
    follower: Follower,
    folds: Folds,
    names: HashMap<(usize, usize), (Arc<str>, Arc<str>)>,
    n_marks: u64,
}

/// What is followed.
struct Folds {
    heap: Heap,
    /// Since when, and what was allocated since: frees of anything older are of blocks that it does not know.
    since: Option<(u64, Heap)>,
    history: History,
    rss_bytes: u64,
    nanos: u64,
    n_events: u64,
    threads: Vec<ThreadKey>,
}

impl Folds {
    fn take(&mut self, model: &Model, events: &[Event]) {
        self.heap.take_all(model, events);
        if let Some((_, since)) = &mut self.since {
            since.take_all(model, events);
        }
        for event in events {
            match event.action {
                Action::Rss { mono_nanos, bytes } => {
                    // A process that has ended has none, and is seen so before it is gone.
                    self.rss_bytes = if bytes > 0 { bytes } else { self.rss_bytes };
                    self.tick(model.process().clock.since_start(mono_nanos));
                }
                Action::Clock { mono_nanos } => self.tick(model.process().clock.since_start(mono_nanos)),
                action => self.n_events += u64::from(action.is_of_memory()),
            }
        }
    }

    fn tick(&mut self, nanos: u64) {
        self.nanos = nanos;
        self.history.add(nanos, self.heap.bytes());
    }
}

impl Reading {
    fn new(follower: Follower) -> Reading {
        let folds = Folds {
            heap: new_heap(),
            since: None,
            history: History::default(),
            rss_bytes: 0,
            nanos: 0,
            n_events: 0,
            threads: Vec::new(),
        };
        Reading { follower, folds, names: HashMap::new(), n_marks: 0 }
    }

    /// Until the log or whoever watches it has ended.
    fn run(mut self, shared: &Shared) {
        let mut n_behind = 0;
        let mut next_picture = Instant::now();
        while !shared.is_over() {
            let begun = Instant::now();
            self.look_at_marks(shared);
            let Reading { follower, folds, .. } = &mut self;
            let is_enough = || shared.is_over() || begun.elapsed() > LONGEST_STEP;
            let progress = match follower.step(|model, events| folds.take(model, events), is_enough) {
                Ok(progress) => progress,
                Err(error) => return shared.end(&error),
            };
            n_behind = if progress == Progress::Behind { n_behind + 1 } else { 0 };
            if progress != Progress::Behind || Instant::now() >= next_picture {
                shared.show(self.picture(progress, n_behind >= WORTH_TELLING));
                next_picture = Instant::now() + BETWEEN_PICTURES;
            }
            match progress {
                Progress::Behind => thread::sleep(BETWEEN_STEPS),
                Progress::CaughtUp => thread::park_timeout((begun.elapsed() * 10).clamp(SHORTEST, LONGEST)),
                // A mark can still be cleared.
                Progress::Ended => thread::park_timeout(LONGEST),
            }
        }
    }

    fn look_at_marks(&mut self, shared: &Shared) {
        let n_marks = shared.marks.load(Ordering::Relaxed);
        if n_marks != self.n_marks {
            self.n_marks = n_marks;
            self.folds.since = (n_marks % 2 == 1).then(|| (self.folds.nanos, new_heap()));
        }
    }

    fn picture(&mut self, progress: Progress, is_behind: bool) -> Picture {
        let by_site = self.folds.heap.end_by_site();
        let rows = self.rows(&by_site);
        let since = self.folds.since.as_ref().map(|(nanos, heap)| (*nanos, heap.bytes(), heap.end_by_site()));
        let since = since.map(|(nanos, bytes, by_site)| Since { nanos, bytes, rows: Arc::new(self.rows(&by_site)) });
        let Reading { follower, folds, .. } = self;
        let model = follower.model();
        let facts = &model.process().facts;
        let thread = |&key: &ThreadKey| {
            let thread = model.process().threads.get(key);
            let name = thread.name.map_or(String::new(), |name| model.text(name).to_owned());
            Thread { os_tid: thread.os_tid, name }
        };
        let mut notices = warnings_of_one(facts);
        if facts.end.is_none() {
            // That it has no end yet is no news here.
            notices.retain(|notice| !notice.starts_with("the capture has no end"));
        }
        Picture {
            pid: facts.pid,
            command: facts.command_line.join(" "),
            nanos: folds.nanos,
            heap_bytes: folds.heap.bytes(),
            peak_bytes: folds.heap.peak_bytes(),
            rss_bytes: folds.rss_bytes,
            n_events: folds.n_events,
            history: folds.history.clone(),
            is_behind,
            is_paused: facts.pauses().last().is_some_and(|(_, end)| end.is_none()),
            end: (progress == Progress::Ended).then(|| match facts.end.map(|end| (end.exit_code, end.signal)) {
                Some((Some(code), _)) => format!("ended with code {code}"),
                Some((None, Some(signal))) => format!("ended by signal {signal}"),
                _ => "ended".into(),
            }),
            notices,
            threads: Arc::new(folds.threads.iter().map(thread).collect()),
            rows: Arc::new(rows),
            since,
        }
    }

    /// By thread and function.
    fn rows(&mut self, by_site: &BySite) -> Vec<Row> {
        let mut rows = Vec::new();
        for (key, functions) in summary::by_thread(self.follower.model(), by_site) {
            let thread = self.folds.threads.iter().position(|thread| *thread == key).unwrap_or_else(|| {
                self.folds.threads.push(key);
                self.folds.threads.len() - 1
            });
            for Function { name, total_bytes, own_bytes, count } in functions.into_iter().take(MAX_ROWS) {
                let model = self.follower.model();
                let (function, file) = match name {
                    None => ("<stack trace unavailable>".into(), "".into()),
                    Some((function, file)) => {
                        let entry = self.names.entry((function.index(), file.index()));
                        let cwd = &model.process().facts.cwd;
                        let texts = || (model.text(function).into(), origin::short(model.text(file), cwd).into());
                        entry.or_insert_with(texts).clone()
                    }
                };
                rows.push(Row { function, file, thread, total_bytes, own_bytes, count });
            }
        }
        rows
    }
}

fn new_heap() -> Heap {
    Heap::new(MmapRule::Memory, Detail::Full)
}
