//! What flame graph, summary and tree have in common: read the captures, answer the question that was asked, and tell
//! on stderr what the reports can't show.

use anyhow::Result;

use crate::analysis::{BySite, Detail, Heap, MmapRule, Snapshot, Temporary};
use crate::cli::Selection;
use crate::commands::read::{Captures, Part};
use crate::model::facts::{Facts, RecordingState, notice_sentence};
use crate::model::{Action, Event, Model, Process};
use crate::report::printable::printable;

/// Captures read to their ends, and the answer.
pub struct Loaded {
    pub model: Model,
    pub question: Question,
    pub snapshot: Snapshot,
    /// The largest heap, of each process at its own time; the snapshot's bytes are less when it shows something else.
    pub peak_bytes: u64,
    /// Allocations and mappings in the log.
    pub n_allocations: u64,
    pub n_frees: u64,
}

/// Which allocations are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// What was alive when the heap was largest.
    Peak,
    /// What was never given back.
    Leaks,
    /// What was given back after at most this many further allocations of its thread.
    Temporary(u64),
}

impl Selection {
    pub fn question(&self) -> Question {
        match self.temporary_allocation_threshold {
            Some(threshold) => Question::Temporary(threshold),
            None if self.temporary_allocations => Question::Temporary(1),
            None if self.leaks => Question::Leaks,
            None => Question::Peak,
        }
    }

    pub fn mmap_rule(&self) -> MmapRule {
        if self.all_mappings { MmapRule::All } else { MmapRule::Memory }
    }
}

/// Reads the captures, prints their warnings, and answers the question by stack.
pub fn load(captures: &Captures, selection: &Selection) -> Result<Loaded> {
    let question = selection.question();
    let Read { model, parts, peak_bytes, n_allocations, n_frees } =
        read(captures, selection, Detail::Stack, |folds| folds.snapshot(question))?;
    let snapshots = parts.into_iter().map(|part| part.answer.moved(&part.handles)).collect();
    Ok(Loaded { model, question, snapshot: Snapshot::sum(snapshots), peak_bytes, n_allocations, n_frees })
}

/// Captures read to their ends, and what a report took from each.
pub struct Read<A> {
    pub model: Model,
    pub parts: Vec<Part<A>>,
    pub peak_bytes: u64,
    pub n_allocations: u64,
    pub n_frees: u64,
}

/// Reads the captures and prints their warnings; `answer` takes what it needs when one has been read.
pub fn read<A: Send>(
    captures: &Captures,
    selection: &Selection,
    detail: Detail,
    answer: impl Fn(&Folds) -> A + Sync,
) -> Result<Read<A>> {
    let finish = |folds: Folds| (answer(&folds), folds.totals());
    let (model, parts) = captures.read(|_| Folds::new(selection, detail), Folds::take, |folds, _| finish(folds))?;
    warn(&model);
    let mut totals = Totals::default();
    let part = |Part { answer: (answer, of_part), handles }| {
        totals.add(&of_part);
        Part { answer, handles }
    };
    let parts = parts.into_iter().map(part).collect();
    warn_of_missed_frees(totals.n_missed_frees);
    let Totals { peak_bytes, n_allocations, n_frees, .. } = totals;
    Ok(Read { model, parts, peak_bytes, n_allocations, n_frees })
}

/// What is followed while one capture is read.
pub struct Folds {
    pub heap: Heap,
    /// When temporary allocations are asked for.
    pub temporary: Option<Temporary>,
    n_allocations: u64,
    n_frees: u64,
}

#[derive(Default)]
struct Totals {
    peak_bytes: u64,
    n_allocations: u64,
    n_frees: u64,
    n_missed_frees: u64,
}

impl Folds {
    fn new(selection: &Selection, detail: Detail) -> Folds {
        let rule = selection.mmap_rule();
        let temporary = match selection.question() {
            Question::Temporary(threshold) => Some(Temporary::new(threshold, rule, detail)),
            Question::Peak | Question::Leaks => None,
        };
        Folds { heap: Heap::new(rule, detail), temporary, n_allocations: 0, n_frees: 0 }
    }

    fn take(&mut self, model: &Model, events: &[Event]) {
        for event in events {
            match event.action {
                Action::Alloc { .. } | Action::Mmap { .. } | Action::Mremap { .. } => self.n_allocations += 1,
                Action::Free { .. } | Action::Munmap { .. } => self.n_frees += 1,
                _ => {}
            }
        }
        self.heap.take_all(model, events);
        if let Some(temporary) = &mut self.temporary {
            temporary.take_all(model, events);
        }
    }

    /// The answer by stack.
    pub fn snapshot(&self, question: Question) -> Snapshot {
        match (question, &self.temporary) {
            (Question::Leaks, _) => self.heap.at_end(),
            (Question::Temporary(_), Some(temporary)) => temporary.finish(),
            (Question::Peak | Question::Temporary(_), _) => self.heap.at_peak(),
        }
    }

    /// The answer by site.
    pub fn by_site(&self, question: Question) -> BySite {
        match (question, &self.temporary) {
            (Question::Leaks, _) => self.heap.end_by_site(),
            (Question::Temporary(_), Some(temporary)) => temporary.by_site(),
            (Question::Peak | Question::Temporary(_), _) => self.heap.peak_by_site(),
        }
    }

    fn totals(&self) -> Totals {
        Totals {
            peak_bytes: self.heap.peak_bytes(),
            n_allocations: self.n_allocations,
            n_frees: self.n_frees,
            n_missed_frees: self.heap.n_missed_frees(),
        }
    }
}

impl Totals {
    fn add(&mut self, part: &Totals) {
        self.peak_bytes = self.peak_bytes.saturating_add(part.peak_bytes);
        self.n_allocations += part.n_allocations;
        self.n_frees += part.n_frees;
        self.n_missed_frees += part.n_missed_frees;
    }
}

/// Says on stderr what is missing from every report of these captures.
pub fn warn(model: &Model) {
    for sentence in warnings(model) {
        eprintln!("memtrace: {}", printable(&sentence));
    }
}

/// Says on stderr when addresses were handed out twice: what was there before was counted for too long.
pub fn warn_of_missed_frees(n_missed: u64) {
    if n_missed > 0 {
        eprintln!(
            "memtrace: {n_missed} blocks were handed out again without a free: their frees are not in the capture"
        );
    }
}

/// One sentence for each thing that a reader of the report should know; of several processes it says which.
pub fn warnings(model: &Model) -> Vec<String> {
    if let [only] = model.processes() {
        return warnings_of_one(&only.facts);
    }
    let of_process = |process: &Process| {
        let name = name(&process.facts);
        warnings_of_one(&process.facts).into_iter().map(move |sentence| format!("{name}: {sentence}"))
    };
    model.processes().iter().flat_map(of_process).collect()
}

/// What a process is called among several: `app.py (4711)`.
fn name(facts: &Facts) -> String {
    let command = facts.command_line.first().map_or("", String::as_str);
    format!("{} ({})", command.rsplit('/').next().unwrap_or(command), facts.pid)
}

/// The sentences about one process.
pub fn warnings_of_one(facts: &Facts) -> Vec<String> {
    /// Damage that is told place by place; the rest is summed up.
    const MAX_SHOWN: usize = 5;
    let mut sentences: Vec<String> = facts.notices.iter().map(notice_sentence).collect();
    sentences.extend(facts.stop_reason.clone());
    if facts.lost_events > 0 {
        sentences.push(format!("{} events could not be recorded", facts.lost_events));
    }
    if facts.end.is_none() && facts.state != RecordingState::Ended {
        sentences.push("the capture has no end: the program still runs, or memtrace was killed with it".to_string());
    }
    sentences.extend(facts.damage.iter().take(MAX_SHOWN).map(|damage| format!("the capture is damaged: {damage}")));
    let n_more = facts.damage.len().saturating_sub(MAX_SHOWN) as u64 + facts.n_more_damage;
    if n_more > 0 {
        sentences.push(format!("the capture is damaged at {n_more} further places"));
    }
    sentences
}
