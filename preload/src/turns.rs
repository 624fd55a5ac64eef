//! A lane's side of the order of events: has it got the turn, and if not, taking it. Called by the writer before each
//! event; the common case must stay one load and one comparison. Why this orders what happens to each address, and what
//! a shared turn is, stands in [`memtrace_format::turn`].

use core::sync::atomic::{AtomicU64, Ordering};

use memtrace_format::turn::{Turn, TurnWord};

/// The word that says whose turn it is; another kind of word in the model that the test checks.
pub trait Word {
    /// Ordered after what came before, as a load on x86-64 is.
    fn look(&self) -> TurnWord;
    fn exchange(&self, from: TurnWord, to: TurnWord) -> Result<(), TurnWord>;
}

impl Word for AtomicU64 {
    #[inline(always)]
    fn look(&self) -> TurnWord {
        TurnWord(self.load(Ordering::Acquire))
    }

    fn exchange(&self, from: TurnWord, to: TurnWord) -> Result<(), TurnWord> {
        self.compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire).map(drop).map_err(TurnWord)
    }
}

/// A lane that takes this many turns…
const MAX_QUICK_TURNS: u32 = if cfg!(test) { 1 } else { 16 };
/// …each less than this many ticks of the time stamp counter after its last one (some 0.1 ms), makes the turn shared.
const QUICK_TICKS: u64 = 200_000;

/// The turn that a lane has.
pub struct Turns {
    word: TurnWord,
    /// The same, or [`TurnWord::NONE`] when the turn is shared or the recording paused: then there is more to ask.
    alone: TurnWord,
    /// Whether allocations are left out in this turn.
    is_paused: bool,
    /// When the lane took its last turn, and how many it took in quick succession.
    last_taken: u64,
    n_quick: u32,
}

impl Turns {
    pub const fn new() -> Turns {
        Turns { word: TurnWord::NONE, alone: TurnWord::NONE, is_paused: false, last_taken: 0, n_quick: 0 }
    }

    /// The turn that the lane has; turn 0 before it takes its first.
    pub fn turn(&self) -> Turn {
        if self.word == TurnWord::NONE { Turn::default() } else { self.word.turn() }
    }

    /// Whether the lane may write under the turn it has. To be asked after memory was handed out, and before it is given
    /// back.
    #[inline(always)]
    pub fn is_ours(&self, word: &impl Word) -> bool {
        word.look() == self.word
    }

    /// Whether the lane may write whatever it has, and nobody else may.
    #[inline(always)]
    pub fn is_ours_alone(&self, word: &impl Word) -> bool {
        word.look() == self.alone
    }

    fn have(&mut self, word: TurnWord) {
        self.word = word;
        self.alone = if word.is_shared() || self.is_paused { TurnWord::NONE } else { word };
    }

    /// Whether allocations are left out in the turn that the lane has.
    #[inline(always)]
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// To be told after a turn was taken. Who pauses or resumes says so first and then takes a turn, so a turn is as the
    /// recording is said to be after it was taken, or has been taken away again.
    pub fn pause(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
        self.have(self.word);
    }

    /// Takes the next turn for `lane`, or takes part in the shared one. `now` is the time stamp counter. `false` when the
    /// log has ended.
    pub fn take(&mut self, word: &impl Word, lane: u32, now: u64) -> bool {
        let mut seen = word.look();
        loop {
            if seen == TurnWord::ENDED {
                return false;
            }
            if seen.is_shared() {
                self.have(seen);
                return true;
            }
            let is_quick = now.wrapping_sub(self.last_taken) < QUICK_TICKS;
            let is_contended = is_quick && self.n_quick >= MAX_QUICK_TURNS;
            let next = if is_contended { seen.next_shared() } else { seen.next_of(lane) };
            match word.exchange(seen, next) {
                Ok(()) => {
                    self.n_quick = if is_quick && !is_contended { self.n_quick + 1 } else { 0 };
                    self.last_taken = now;
                    self.have(next);
                    return true;
                }
                Err(newer) => seen = newer,
            }
        }
    }

    /// Tries whether the lane can have the turn alone again, when it is shared; the new turn.
    pub fn end_sharing(&mut self, word: &impl Word, lane: u32) -> Option<Turn> {
        if !self.word.is_shared() {
            return None;
        }
        let next = self.word.next_of(lane);
        word.exchange(self.word, next).ok()?;
        self.have(next);
        Some(next.turn())
    }
}

#[cfg(test)]
mod tests {
    //! The protocol in all interleavings of a small model: lanes that allocate, free, and hand blocks over through an
    //! allocator, and a launcher that takes samples. The merged log must tell of each address what happened to it.

    use loom::sync::atomic::AtomicU64 as Modelled;
    use loom::sync::{Arc, Mutex};

    use super::*;

    impl Word for Modelled {
        fn look(&self) -> TurnWord {
            TurnWord(self.load(Ordering::Acquire))
        }

        fn exchange(&self, from: TurnWord, to: TurnWord) -> Result<(), TurnWord> {
            self.compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire).map(drop).map_err(TurnWord)
        }
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Action {
        Free,
        Alloc,
    }

    /// When, by whom, and the position in the lane, which decides within an unshared turn.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Entry {
        turn: u64,
        ticks: u64,
        action: Action,
        address: usize,
        lane: u32,
    }

    /// What the lanes share: the word, a clock that never goes back, and an allocator with a lock.
    struct Process {
        word: Modelled,
        clock: Modelled,
        free_blocks: Mutex<Vec<usize>>,
        /// Blocks that one lane leaves for another to free.
        left: Mutex<Vec<usize>>,
    }

    struct Lane {
        number: u32,
        turns: Turns,
        log: Vec<Entry>,
        process: Arc<Process>,
    }

    impl Lane {
        fn new(number: u32, process: &Arc<Process>) -> Lane {
            Lane { number, turns: Turns::new(), log: Vec::new(), process: process.clone() }
        }

        fn record(&mut self, action: Action, address: usize) {
            if !self.turns.is_ours(&self.process.word) {
                self.turns.take(&self.process.word, self.number, 0);
            }
            let turn = self.turns.turn();
            let ticks = if turn.is_shared { self.process.clock.fetch_add(1, Ordering::SeqCst) } else { 0 };
            self.log.push(Entry { turn: turn.number, ticks, action, address, lane: self.number });
        }

        fn allocate(&mut self) -> Option<usize> {
            let address = self.process.free_blocks.lock().unwrap().pop()?;
            self.record(Action::Alloc, address);
            Some(address)
        }

        fn free(&mut self, address: usize) {
            self.record(Action::Free, address);
            self.process.free_blocks.lock().unwrap().push(address);
        }

        fn leave(&mut self, address: usize) {
            self.process.left.lock().unwrap().push(address);
        }

        fn free_what_was_left(&mut self) {
            let address = self.process.left.lock().unwrap().pop();
            if let Some(address) = address {
                self.free(address);
            }
        }

        fn end_block(&mut self) {
            self.turns.end_sharing(&self.process.word, self.number);
        }
    }

    /// The lanes' logs in the reader's order; every allocation must be of a free block, every free of a live one.
    fn check(logs: &[Vec<Entry>]) {
        let turns: Vec<_> = logs.iter().map(|log| log.iter().map(|entry| entry.turn).collect::<Vec<_>>()).collect();
        assert!(turns.iter().all(|turns| turns.is_sorted()), "turns go back along a lane: {logs:?}");
        let mut merged = logs.concat();
        merged.sort_by_key(|entry| (entry.turn, entry.ticks));
        let mut live = Vec::new();
        for entry in &merged {
            match entry.action {
                Action::Alloc => {
                    assert!(!live.contains(&entry.address), "handed out twice: {merged:?}");
                    live.push(entry.address);
                }
                Action::Free => {
                    let place = live.iter().position(|address| *address == entry.address);
                    live.swap_remove(place.unwrap_or_else(|| panic!("freed and not live: {merged:?}")));
                }
            }
        }
    }

    type Script = fn(&mut Lane);

    /// Runs two scripts, and a launcher that takes `n_samples`, in all interleavings; whether a shared turn came up.
    fn explore(start: TurnWord, scripts: [Script; 2], n_samples: usize) -> bool {
        let was_shared = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = was_shared.clone();
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(4);
        model.check(move || {
            let process = Arc::new(Process {
                word: Modelled::new(start.0),
                clock: Modelled::new(1),
                free_blocks: Mutex::new(vec![1]),
                left: Mutex::new(Vec::new()),
            });
            let threads: Vec<_> = (0..2)
                .map(|number| {
                    let (process, script) = (process.clone(), scripts[number as usize]);
                    loom::thread::spawn(move || {
                        let mut lane = Lane::new(number, &process);
                        script(&mut lane);
                        lane.log
                    })
                })
                .collect();
            for _ in 0..n_samples {
                let mut word = process.word.look();
                while let Err(newer) = process.word.exchange(word, word.sample().1) {
                    word = newer;
                }
            }
            let logs: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            if logs.iter().flatten().any(|entry| entry.ticks > 0) {
                seen.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            check(&logs);
        });
        was_shared.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn allocate_and_free(lane: &mut Lane) {
        if let Some(block) = lane.allocate() {
            lane.free(block);
        }
    }

    fn twice(lane: &mut Lane) {
        allocate_and_free(lane);
        allocate_and_free(lane);
    }

    #[test]
    fn two_lanes_that_use_one_block_in_turn_are_told_apart() {
        assert!(explore(TurnWord::START, [twice, twice], 0), "the switch to a shared turn was never reached");
    }

    #[test]
    fn a_block_that_is_freed_by_another_lane_is_freed_after_its_allocation() {
        let leave: Script = |lane| {
            if let Some(block) = lane.allocate() {
                lane.leave(block);
            }
            allocate_and_free(lane);
        };
        let take: Script = |lane| {
            lane.free_what_was_left();
            allocate_and_free(lane);
        };
        explore(TurnWord::START, [leave, take], 0);
        assert!(explore(TurnWord::START.next_shared(), [leave, take], 0));
    }

    #[test]
    fn a_shared_turn_that_ends_in_the_middle_keeps_the_order() {
        let ending: Script = |lane| {
            allocate_and_free(lane);
            lane.end_block();
            allocate_and_free(lane);
        };
        assert!(explore(TurnWord::START.next_shared(), [ending, twice], 0));
    }

    #[test]
    fn samples_in_between_keep_the_order() {
        explore(TurnWord::START, [allocate_and_free, allocate_and_free], 1);
        explore(TurnWord::START.next_shared(), [allocate_and_free, allocate_and_free], 1);
    }

    #[test]
    fn a_lane_alone_takes_one_turn() {
        let word = AtomicU64::new(TurnWord::START.0);
        let mut turns = Turns::new();
        assert!(!turns.is_ours(&word));
        turns.take(&word, 3, 10);
        assert_eq!(turns.turn(), Turn { number: 1, is_shared: false });
        assert!(turns.is_ours(&word));
    }

    #[test]
    fn a_lane_has_no_turn_for_itself_alone_while_the_recording_is_paused() {
        let word = AtomicU64::new(TurnWord::START.0);
        let mut turns = Turns::new();
        for (step, is_paused) in [(1, false), (2, true), (3, false)] {
            turns.take(&word, 3, step * QUICK_TICKS);
            turns.pause(is_paused);
            assert!(turns.is_ours(&word));
            assert_eq!((turns.is_ours_alone(&word), turns.is_paused()), (!is_paused, is_paused));
            // The launcher takes the turn, whenever it has said something.
            word.store(TurnWord(word.load(Ordering::Relaxed)).sample().1.0, Ordering::Relaxed);
            assert!(!turns.is_ours(&word) && !turns.is_ours_alone(&word));
        }
    }

    #[test]
    fn a_log_that_has_ended_gives_no_turns() {
        let word = AtomicU64::new(TurnWord::START.0);
        let mut turns = Turns::new();
        assert!(turns.take(&word, 3, 10));
        word.store(TurnWord::ENDED.0, Ordering::Release);
        assert!(!turns.is_ours(&word) && !turns.take(&word, 3, 20) && !turns.is_ours(&word));
        assert!(!Turns::new().take(&word, 4, 30));
    }

    #[test]
    fn turns_are_shared_only_when_they_are_taken_quickly() {
        let word = AtomicU64::new(TurnWord::START.0);
        let (mut mine, mut other) = (Turns::new(), Turns::new());
        let mut both = |now| {
            mine.take(&word, 0, now);
            other.take(&word, 1, now);
            (mine.turn(), other.turn())
        };
        for step in 1..100 {
            let (mine, other) = both(step * QUICK_TICKS);
            assert!(!mine.is_shared && !other.is_shared && mine.number < other.number);
        }
        let (mine, other) = (0..10).map(|step| both(100 * QUICK_TICKS + step)).last().unwrap();
        assert!(mine.is_shared && mine == other);
    }
}
