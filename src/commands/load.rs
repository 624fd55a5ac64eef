//! What flame graph, summary and tree have in common: read a capture, answer the question that was asked, and tell
//! on stderr what the reports can't show.

use std::path::Path;

use anyhow::Result;

use crate::analysis::{Detail, Heap, MmapRule, Snapshot, Temporary};
use crate::capture::Capture;
use crate::cli::Selection;
use crate::model::facts::{Facts, RecordingState, notice_sentence};
use crate::model::{Action, Event, Model};

/// A capture read to its end, and the answer.
pub struct Loaded {
    pub model: Model,
    pub question: Question,
    pub snapshot: Snapshot,
    /// The largest heap; the snapshot's bytes are less when it shows something else.
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

/// Reads the capture and prints its warnings.
pub fn load(capture: &Path, selection: &Selection) -> Result<Loaded> {
    let capture = Capture::open(capture)?;
    let question = selection.question();
    let mut heap = Heap::new(selection.mmap_rule(), Detail::Stack);
    let mut temporary = match question {
        Question::Temporary(threshold) => Some(Temporary::new(threshold, selection.mmap_rule(), Detail::Stack)),
        _ => None,
    };
    let (mut n_allocations, mut n_frees) = (0, 0);
    let mut take = |model: &Model, event: &Event| {
        match event.action {
            Action::Alloc { .. } | Action::Mmap { .. } | Action::Mremap { .. } => n_allocations += 1,
            Action::Free { .. } | Action::Munmap { .. } => n_frees += 1,
            _ => {}
        }
        heap.take(model, event);
        if let Some(temporary) = &mut temporary {
            temporary.take(model, event);
        }
    };
    let model = capture.read(&mut take)?;
    warn(&model.facts);
    warn_of_missed_frees(heap.n_missed_frees());
    let snapshot = match (&temporary, question) {
        (Some(temporary), _) => temporary.finish(),
        (None, Question::Leaks) => heap.at_end(),
        (None, _) => heap.at_peak(),
    };
    Ok(Loaded { model, question, snapshot, peak_bytes: heap.peak_bytes(), n_allocations, n_frees })
}

/// Says on stderr what is missing from every report of this capture.
pub fn warn(facts: &Facts) {
    for sentence in warnings(facts) {
        eprintln!("memtrace: {sentence}");
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

/// One sentence for each thing that a reader of the report should know.
pub fn warnings(facts: &Facts) -> Vec<String> {
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
