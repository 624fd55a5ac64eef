//! Reading the captures that a command names: each by itself with a fold of its own, so that every process is seen at
//! its own peak, and their tables put together afterwards. A merged report is the sum of its parts.

use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::analysis::{MmapRule, OfStacks};
use crate::capture::Capture;
use crate::cli::{NativeArgs, RangeArgs};
use crate::commands::load::Question;
use crate::commands::names;
use crate::commands::native::Names;
use crate::commands::output;
use crate::commands::progress::Progress;
use crate::commands::range;
use crate::model::{Event, Facts, Handles, Model};

/// Captures that were opened, so that a wrong one is the first thing to be told.
pub struct Captures {
    captures: Vec<Capture>,
    /// Whether native frames are wanted, and where their names come from.
    native: NativeArgs,
    /// When the command began.
    begun: Instant,
}

/// memray's words for what an aggregated capture can't tell.
pub const NO_HISTORY: &str = "Can't get allocation history using a pre-aggregated capture file";
pub const NO_EVENTS: &str = "Can't get all allocations from a pre-aggregated capture file";
pub const NO_STATISTICS: &str = "Can't compute statistics using a pre-aggregated capture file";
const NO_TEMPORARY: &str = "Can't find temporary allocations using a pre-aggregated capture file";

/// What one capture came to.
pub struct Part<A> {
    pub answer: A,
    /// What became of the handles in the answer.
    pub handles: Handles,
}

impl Captures {
    pub fn open(paths: &[PathBuf], native: &NativeArgs) -> Result<Captures> {
        let begun = Instant::now();
        let captures: Result<Vec<Capture>> = paths.iter().map(|path| Capture::open(path)).collect();
        Ok(Captures { captures: captures?, native: native.clone(), begun })
    }

    /// Refuses captures that have no single events any more, with memray's words for what can't be had.
    pub fn need_all_events(&self, refusal: &str) -> Result<()> {
        match self.captures.iter().find(|capture| capture.facts().aggregated.is_some()) {
            Some(capture) => bail!("{refusal}: {} was recorded with --aggregate", capture.path().display()),
            None => Ok(()),
        }
    }

    /// The same for what is asked: the peak and the leaks are always there.
    pub fn can_answer(&self, question: Question, rule: MmapRule) -> Result<()> {
        match (question, rule) {
            (Question::Temporary(_), _) => self.need_all_events(NO_TEMPORARY),
            (_, MmapRule::All) => self.need_all_events(NO_EVENTS),
            (Question::Peak | Question::Leaks, MmapRule::Memory) => Ok(()),
        }
    }

    /// Whether one of them has no single events any more.
    pub fn are_aggregated(&self) -> bool {
        self.captures.iter().any(|capture| capture.facts().aggregated.is_some())
    }

    /// Of reading them.
    pub fn progress(&self) -> Progress {
        Progress::since(self.begun)
    }

    /// Where a report goes that got no name.
    pub fn output_name(&self, report: &str, suffix: &str) -> PathBuf {
        output::beside(self.captures[0].path(), self.captures.len() - 1, report, suffix)
    }

    /// What names the native code of these captures.
    fn names(&self) -> Names {
        Names::new(names::known(&self.native.symbols, &self.captures))
    }

    /// The capture, when there is only one.
    pub fn only(&self) -> Option<&Capture> {
        if let [only] = self.captures.as_slice() { Some(only) } else { None }
    }

    /// A part of the time, in nanoseconds since the first of them began; `None` for all of it.
    pub fn range(&self, args: &RangeArgs) -> Result<Option<Range<u64>>> {
        if args.is_everything() {
            return Ok(None);
        }
        self.need_all_events(NO_HISTORY)?;
        let described = self.captures.iter().map(Capture::described).collect::<Result<Vec<_>>>()?;
        Ok(Some(range::nanos(args, &described.iter().collect::<Vec<_>>())?))
    }

    /// When the first of them began; 0 when none says.
    pub fn start_unix_nanos(&self) -> u64 {
        let starts = self.captures.iter().map(|capture| capture.facts().start_unix_nanos);
        starts.filter(|&start| start > 0).min().unwrap_or(0)
    }

    /// Reads each of them: `take` gets all events, many at a time, and the fold that `begin` made for the capture, of
    /// which `finish` makes an answer. As many are read at a time as there are processors.
    pub fn read<F, A: OfStacks + Send>(
        &self,
        begin: impl Fn(&Facts) -> F + Sync,
        take: impl Fn(&mut F, &Model, &[Event]) + Sync,
        finish: impl Fn(F, &Model) -> A + Sync,
    ) -> Result<(Model, Vec<Part<A>>)> {
        let progress = self.progress();
        let bytes = || {
            let all = self.captures.iter().map(Capture::progress);
            all.fold((0, 0), |sum, (done, total)| (sum.0 + done, sum.1 + total))
        };
        let read_one = |capture: &Capture| -> Result<(Model, A)> {
            let mut fold = begin(capture.facts());
            let take = |model: &Model, events: &[Event]| {
                take(&mut fold, model, events);
                progress.show(bytes);
                ControlFlow::Continue(())
            };
            let model = match self.native.no_native {
                true => capture.read_batches(|_| {}, take)?,
                false => capture.read_recorded(take)?,
            };
            let answer = finish(fold, &model);
            Ok((model, answer))
        };
        merge(in_parallel(&self.captures, read_one), || self.names())
    }
}

/// The tables of all as one, in the order of the captures; the first that could not be read is the error.
fn merge<A: OfStacks>(read: Vec<Result<(Model, A)>>, names: impl Fn() -> Names) -> Result<(Model, Vec<Part<A>>)> {
    let mut asked: Option<Names> = None;
    let mut merged: Option<Model> = None;
    let mut parts = Vec::new();
    for one in read {
        let (model, answer) = one?;
        let (model, resolved) = match model.has_recorded_stacks() {
            true => asked.get_or_insert_with(&names).resolved(model, answer.stacks()),
            false => (model, Handles::Same),
        };
        let handles = match &mut merged {
            Some(merged) => resolved.then(&merged.absorb(model)),
            None => {
                merged = Some(model);
                resolved
            }
        };
        parts.push(Part { answer, handles });
    }
    asked.iter().for_each(Names::warn);
    Ok((merged.unwrap_or_default(), parts))
}

/// The results in the order of the items, which are worked on by as many threads as there are processors.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let n_threads = thread::available_parallelism().map_or(1, usize::from).min(items.len());
    if n_threads <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                while let Some((index, item)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|index| Some((index, items.get(index)?)))
                {
                    let result = work(item);
                    done.lock().expect("nobody panics while it has the lock").push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("nobody panics while it has the lock");
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_in_the_order_of_the_items() {
        let items: Vec<u64> = (0..100).collect();
        assert_eq!(in_parallel(&items, |item| item * 2), items.iter().map(|item| item * 2).collect::<Vec<_>>());
        assert!(in_parallel(&[0u8; 0], |_| ()).is_empty());
    }
}
