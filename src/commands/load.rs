//! What flame graph, summary and tree have in common: read the captures, answer the question that was asked, and tell
//! on stderr what the reports can't show.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use crate::analysis::{BySite, Detail, Heap, MmapRule, OfStacks, Snapshot, Temporary};
use crate::cli::Selection;
use crate::commands::read::{Captures, Part};
use crate::model::facts::{Facts, RecordingState, notice_sentence, pause_sentence};
use crate::model::{Event, Model, Process};
use crate::report::printable::printable;
use crate::units::share;

/// Captures read to their ends, and the answer.
pub struct Loaded {
    pub model: Model,
    pub question: Question,
    pub snapshot: Snapshot,
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
        match self.temporary.threshold() {
            Some(threshold) => Question::Temporary(threshold),
            None if self.leaks => Question::Leaks,
            None => Question::Peak,
        }
    }

    pub fn mmap_rule(&self) -> MmapRule {
        mmap_rule(self.all_mappings)
    }
}

/// What `--all-mappings` asks for.
pub fn mmap_rule(all_mappings: bool) -> MmapRule {
    if all_mappings { MmapRule::All } else { MmapRule::Memory }
}

/// Reads the captures, prints their warnings, and answers the question by stack.
pub fn load(captures: &Captures, selection: &Selection) -> Result<Loaded> {
    let question = selection.question();
    let (model, [snapshot]) = by_stack(captures, selection.mmap_rule(), question, |folds| [folds.asked()])?;
    Ok(Loaded { model, question, snapshot })
}

/// Reads the captures, prints their warnings, and gives tables by stack, each the sum over the processes.
pub fn by_stack<const N: usize>(
    captures: &Captures,
    rule: MmapRule,
    question: Question,
    tables: impl Fn(&Folds) -> [Snapshot; N] + Sync,
) -> Result<(Model, [Snapshot; N])> {
    let (model, mut parts) = read(captures, rule, question, Detail::Stack, tables)?;
    let tables = std::array::from_fn(|table| {
        let tables = parts.iter_mut().map(|part| std::mem::take(&mut part.answer[table]).moved(&part.handles));
        Snapshot::sum(tables.collect())
    });
    Ok((model, tables))
}

/// The same by site.
pub fn by_site<const N: usize>(
    captures: &Captures,
    rule: MmapRule,
    question: Question,
    tables: impl Fn(&Folds) -> [BySite; N] + Sync,
) -> Result<(Model, [BySite; N])> {
    let (model, mut parts) = read(captures, rule, question, Detail::Full, tables)?;
    let tables = std::array::from_fn(|table| {
        BySite::of_processes(parts.iter_mut().map(|part| (std::mem::take(&mut part.answer[table]), &part.handles)))
    });
    Ok((model, tables))
}

fn read<A: OfStacks + Send>(
    captures: &Captures,
    rule: MmapRule,
    question: Question,
    detail: Detail,
    answer: impl Fn(&Folds) -> A + Sync,
) -> Result<(Model, Vec<Part<A>>)> {
    captures.can_answer(question, rule)?;
    let n_missed_frees = AtomicU64::new(0);
    let finish = |folds: Folds, _: &Model| {
        n_missed_frees.fetch_add(folds.heap.n_missed_frees(), Ordering::Relaxed);
        answer(&folds)
    };
    let read = captures.read(|_| Folds::new(rule, question, detail), Folds::take, finish)?;
    warn(&read.0);
    warn_of_missed_frees(n_missed_frees.into_inner());
    Ok(read)
}

/// What is followed while one capture is read.
pub struct Folds {
    pub heap: Heap,
    /// When temporary allocations are asked for.
    temporary: Option<Temporary>,
    question: Question,
}

impl Folds {
    fn new(rule: MmapRule, question: Question, detail: Detail) -> Folds {
        let temporary = match question {
            Question::Temporary(threshold) => Some(Temporary::new(threshold, rule, detail)),
            Question::Peak | Question::Leaks => None,
        };
        Folds { heap: Heap::new(rule, detail), temporary, question }
    }

    fn take(&mut self, model: &Model, events: &[Event]) {
        self.heap.take_all(model, events);
        if let Some(temporary) = &mut self.temporary {
            temporary.take_all(model, events);
        }
    }

    /// The answer by stack.
    pub fn asked(&self) -> Snapshot {
        match (&self.temporary, self.question) {
            (Some(temporary), _) => temporary.finish(),
            (None, Question::Leaks) => self.heap.at_end(),
            (None, _) => self.heap.at_peak(),
        }
    }

    /// The answer by site.
    pub fn asked_by_site(&self) -> BySite {
        match (&self.temporary, self.question) {
            (Some(temporary), _) => temporary.by_site(),
            (None, Question::Leaks) => self.heap.end_by_site(),
            (None, _) => self.heap.peak_by_site(),
        }
    }
}

/// Says on stderr what is missing from every report of these captures.
pub fn warn(model: &Model) {
    to_stderr(&warnings(model));
}

/// Says sentences, in which names of the program's may stand, on stderr.
pub fn to_stderr(sentences: &[String]) {
    for sentence in sentences {
        eprintln!("memtrace: {}", printable(sentence));
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
    sentences.extend(pause_sentence(facts));
    if facts.lost_events > 0 {
        sentences.push(format!("{} events could not be recorded", facts.lost_events));
    }
    if facts.n_cut_stacks > 0 {
        sentences.push(format!(
            "the native stacks of {} of the allocations begin in code that does not say how it was called (made at run \
             time, or built without unwind information): its callers are not shown",
            share(facts.n_cut_stacks, facts.n_stacks)
        ));
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
