//! A log that grows, read in steps: each takes what was written since the last one. Called by the live view, which may
//! come and go: blocks must stay where they are during a step, and never longer (but for those that are sealed, `search`).
//!
//! # Up to where
//! A lane may write at any moment, also behind the place where a step has looked. So a step notes first whose turn it is,
//! and hands over what belongs to the turns before. A lane that writes under a later turn has seen the word say so, after
//! the step looked; whatever an address went through in the turns before was written when it changed hands, and is found.
//! What a lane still writes under an old turn is about addresses that nobody else has had since, and comes next time.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use memtrace_format::turn::TurnWord;
use memtrace_format::{FileHeader, state};
use zerocopy::{FromZeros, IntoBytes};

use super::batch::Batch;
use super::blocks::{Block, LaneKey};
use super::events::{self, Events};
use super::file::{self, Capture, read_at};
use super::lane::{Lane, Left, Moment};
use super::merge;
use super::metadata::{self, Described};
use super::search::Search;
use crate::model::native::NativeStacks;
use crate::model::{Event, Model};

/// Reads a log step by step.
pub struct Follower {
    capture: Capture,
    search: Search,
    model: Model,
    /// Where the reading of each lane stands; its place here is the lane's number.
    lanes: Vec<Left>,
    numbers: HashMap<LaneKey, usize>,
    described: Described,
    standing: events::Standing,
    native: NativeStacks<'static>,
    /// What they become, until there are some.
    wanted: Option<NativeStacks<'static>>,
    /// Whose turn it was at the last step.
    last_word: Option<u64>,
    has_ended: bool,
}

/// How far a step has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more to read at once.
    Behind,
    /// There will be more.
    CaughtUp,
    /// That was all.
    Ended,
}

/// How often a launcher is waited for that moves blocks, for a millisecond each time: it does so for four.
const N_TRIES: u32 = 20;

impl Follower {
    /// Begins before the first event. `native` is what becomes of native stacks.
    pub fn open(path: &Path, native: NativeStacks<'static>) -> Result<Follower> {
        let capture = Capture::open_moving(path)?;
        let model = Model::new(capture.facts().clone(), capture.clock());
        Ok(Follower {
            capture,
            search: Search::default(),
            model,
            lanes: Vec::new(),
            numbers: HashMap::new(),
            described: Described::default(),
            standing: events::Standing::default(),
            native: NativeStacks::LeftOut,
            wanted: Some(native),
            last_word: None,
            has_ended: false,
        })
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    /// For what grows when it is asked: stacks that are joined.
    pub fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }

    /// Hands over what was written since the last step, until `is_enough`.
    pub fn step(&mut self, take: impl FnMut(&Model, &[Event]), is_enough: impl FnMut() -> bool) -> Result<Progress> {
        if self.has_ended {
            return Ok(Progress::Ended);
        }
        if !is_still(self.capture.file()) {
            return Ok(Progress::CaughtUp);
        }
        let stepped = self.step_in_stillness(take, is_enough);
        self.capture.file().unlock()?;
        stepped.with_context(|| format!("cannot read {}", self.capture.path().display()))
    }

    fn step_in_stillness(
        &mut self,
        mut take: impl FnMut(&Model, &[Event]),
        mut is_enough: impl FnMut() -> bool,
    ) -> Result<Progress> {
        let file = self.capture.file();
        let mut header = FileHeader::new_zeroed();
        read_at(file, header.as_mut_bytes(), 0)?;
        let has_ended = header.state == state::ENDED;
        file::take_over(&mut self.model.process_mut().facts, &header);
        if has_ended {
            // For the last time blocks may have moved, and the end is where nothing was before.
            self.search = Search::default();
        }
        // First how far the lanes have come, then the metadata: what the lanes refer to is written before they do.
        let found = self.search.blocks(file)?;
        let describing = self.search.blocks(file)?;
        self.described.read_on(file, &describing, &mut self.model)?;
        if has_ended {
            let end = describing.iter().rev().find_map(|block| metadata::read_end(file, block));
            self.model.process_mut().facts.end = end;
        }
        if self.model.process().facts.has_native_stacks
            && let Some(wanted) = self.wanted.take()
        {
            self.native = wanted;
        }
        let horizon = self.horizon(&header, has_ended);
        let mut lanes = self.go_on(&found);
        let standing = std::mem::take(&mut self.standing);
        let native = std::mem::replace(&mut self.native, NativeStacks::LeftOut);
        let mut flow = ControlFlow::Continue(());
        let mut all = |model: &Model, events: &[Event]| {
            take(model, events);
            ControlFlow::Continue(())
        };
        let mut events = Events::resumed(&mut self.model, 0..u64::MAX, native, standing, &mut all);
        merge::follow(self.capture.file(), &mut lanes, horizon, &mut |mut batch: Batch| {
            let _ = events.tell(&batch);
            batch.clear();
            flow = if is_enough() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            flow.map_continue(|()| batch)
        })?;
        (self.standing, self.native) = events.suspended();
        for (lane, left) in lanes.into_iter().zip(&mut self.lanes) {
            *left = lane.left();
        }
        self.search.forget(|block| {
            let left = self.numbers.get(&block.lane()).map(|number| &self.lanes[*number]);
            self.described.is_past(block) && (!block.has_events() || left.is_some_and(|left| left.is_past(block)))
        });
        self.has_ended = has_ended && flow.is_continue();
        Ok(match (flow, has_ended) {
            (ControlFlow::Break(()), _) => Progress::Behind,
            (_, true) => Progress::Ended,
            (_, false) => Progress::CaughtUp,
        })
    }

    /// The last moment that is handed over.
    fn horizon(&mut self, header: &FileHeader, has_ended: bool) -> Moment {
        let word = TurnWord(header.turn);
        // When nobody has taken the turn since the last step, whoever looked before that has written by now.
        let is_settled = self.last_word == Some(header.turn) && !word.is_shared();
        self.last_word = Some(header.turn);
        match (has_ended, is_settled, word.number().checked_sub(1)) {
            (true, ..) => (u64::MAX, u64::MAX, true),
            (_, true, _) => (word.number(), u64::MAX, true),
            (_, _, Some(before)) => (before, u64::MAX, true),
            (_, _, None) => (0, 0, false),
        }
    }

    /// All lanes so far, each with what it has to tell now.
    fn go_on(&mut self, found: &[Block]) -> Vec<Lane> {
        let mut blocks_by_number: HashMap<usize, &[Block]> = HashMap::new();
        for blocks in found.chunk_by(Block::is_of_same_lane).filter(|blocks| blocks[0].has_events()) {
            let number = *self.numbers.entry(blocks[0].lane()).or_insert(self.lanes.len());
            if number == self.lanes.len() {
                self.lanes.push(Left::default());
            }
            blocks_by_number.insert(number, blocks);
        }
        let lefts = self.lanes.iter_mut().enumerate();
        let lane = |(number, left): (usize, &mut Left)| {
            let blocks = blocks_by_number.get(&number).copied().unwrap_or(&[]);
            Lane::resumed(number as u32, std::mem::take(left), blocks)
        };
        lefts.map(lane).collect()
    }
}

/// Has no block move from here on; `false` when that is not to be had now.
fn is_still(file: &File) -> bool {
    for _ in 0..N_TRIES {
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
            // Where there are no locks, nothing moves either.
            Ok(()) | Err(TryLockError::Error(_)) => return true,
        }
    }
    false
}
