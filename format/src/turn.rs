//! Turns: the order of events across lanes, without a time stamp for each.
//!
//! One word of the file's first page says whose turn it is. Before a lane writes an event it looks at the word; as long
//! as that names the lane and the turn it has, there is nothing to do. Otherwise it takes the next turn: it raises the
//! word's number by one, puts its own name there, and writes a [`Turn`](crate::record::Turn) into its lane. All that
//! happened in a turn comes after all that happened in lower ones.
//!
//! # Why this is the order of what happened to each address
//! A lane looks at the word *before* memory is given back and *after* it was handed out. When an address goes from lane
//! A to lane B, through the allocator or the kernel, A's look happens before B's. The word only grows, so B sees a turn
//! that is not lower than A's; and as the turn that A saw is not B's, B writes under a higher one. What A writes later
//! under its old turn, while B has the next, can't be about an address that B has given A meanwhile: to get it, A would
//! have looked again.
//!
//! # When many lanes write at once
//! The word would go round between the processors, once per event. So a lane that had to take too many turns in a short
//! time makes the turn *shared*: everybody writes under it, with a tick of the clock for each event, and events of a
//! shared turn are in the order of ticks. The word still says when that ends.
//!
//! # Time
//! The launcher takes a turn for each of its samples, so that turns are also the hands of a clock.

/// A place in the order of all lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Turn {
    pub number: u64,
    /// Any lane may write under it, and events carry ticks.
    pub is_shared: bool,
}

impl Turn {
    /// The encoding in block headers.
    pub const fn to_bits(self) -> u64 {
        self.number << 1 | self.is_shared as u64
    }

    pub const fn from_bits(bits: u64) -> Turn {
        Turn { number: bits >> 1, is_shared: bits & 1 != 0 }
    }
}

/// The word that says whose turn it is: the number of the turn, and in the lowest [`HOLDER_BITS`] who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnWord(pub u64);

/// Lanes have numbers below [`MAX_LANES`].
const HOLDER_BITS: u32 = 20;
const HOLDER_MASK: u64 = (1 << HOLDER_BITS) - 1;
const EVERYBODY: u64 = HOLDER_MASK;
const LAUNCHER: u64 = HOLDER_MASK - 1;
/// How many lanes there can be: more than Linux has threads in a process by default.
pub const MAX_LANES: u32 = LAUNCHER as u32;

impl TurnWord {
    /// The word of a new log.
    pub const START: TurnWord = TurnWord::new(0, LAUNCHER);
    /// The word of a lane that never had a turn; no log has it, because numbers start at 0 with the launcher's.
    pub const NONE: TurnWord = TurnWord::new(0, EVERYBODY);

    /// Where nobody has a turn any more, and nobody gets one.
    pub const ENDED: TurnWord = TurnWord(u64::MAX << HOLDER_BITS | LAUNCHER);

    const fn new(number: u64, holder: u64) -> TurnWord {
        TurnWord(number << HOLDER_BITS | holder)
    }

    #[inline(always)]
    pub const fn number(self) -> u64 {
        self.0 >> HOLDER_BITS
    }

    #[inline(always)]
    pub const fn is_shared(self) -> bool {
        self.0 & HOLDER_MASK == EVERYBODY
    }

    #[inline(always)]
    pub const fn turn(self) -> Turn {
        Turn { number: self.number(), is_shared: self.is_shared() }
    }

    /// The next turn, for one lane.
    pub const fn next_of(self, lane: u32) -> TurnWord {
        TurnWord::new(self.number() + 1, lane as u64)
    }

    /// The next turn, for everybody.
    pub const fn next_shared(self) -> TurnWord {
        TurnWord::new(self.number() + 1, EVERYBODY)
    }

    /// The turn of a sample that the launcher takes now, and the word behind it. A shared turn goes on as another
    /// shared one.
    pub const fn sample(self) -> (Turn, TurnWord) {
        let sample = TurnWord::new(self.number() + 1, LAUNCHER);
        (sample.turn(), if self.is_shared() { sample.next_shared() } else { sample })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_only_grow_and_say_whose_they_are() {
        let start = TurnWord::START;
        let mine = start.next_of(7);
        assert_eq!((mine.number(), mine.is_shared()), (1, false));
        assert_ne!(mine, start.next_of(8));
        let shared = mine.next_shared();
        assert_eq!(shared.turn(), Turn { number: 2, is_shared: true });
        assert_eq!(shared.sample(), (Turn { number: 3, is_shared: false }, shared.next_of(0).next_shared()));
        assert_eq!(mine.sample().1.turn(), Turn { number: 2, is_shared: false });
        assert_ne!(mine.sample().1, mine.next_of(MAX_LANES - 1));
        assert_eq!(Turn::from_bits(shared.turn().to_bits()), shared.turn());
    }
}
