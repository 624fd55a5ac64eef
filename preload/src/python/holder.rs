//! Whose thread state is running in CPython 3.9, where nothing in a state tells on which stack it runs. Asked when there
//! are subinterpreters. The GIL's last holder is the state with which a thread took it; a thread that then enters a
//! subinterpreter runs that one's state, and after a switch of threads takes the GIL with it. So whoever has the GIL is
//! in the current state, and who that is follows from the holder: a thread by its own state, or the one that was seen in
//! it last. Only numbers are compared here; nothing is read through them.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Thread states and the threads that were seen in them. When there are more states, the oldest one counts as unseen.
static SEEN: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

/// How many states have got a place.
static N_PLACED: AtomicUsize = AtomicUsize::new(0);

/// Bits of a thread's number that are remembered; the rest is for the state.
const TID_BITS: u32 = 20;

/// Whether the current state is run by the thread `tid`, which has a state of its `own`. `is_maker` is asked for a state
/// in which no thread was seen: whether this one has made it.
pub fn is_ours(holder: usize, own: usize, current: usize, tid: u32, is_maker: impl Fn() -> bool) -> bool {
    let has_gil = own != 0 && holder == own || was_seen(holder, tid).unwrap_or_else(|| holder == current && is_maker());
    if has_gil {
        let next = || SEEN.get(N_PLACED.fetch_add(1, Ordering::Relaxed) % SEEN.len());
        place_of(current).or_else(next).inspect(|place| place.store(pair(current, tid), Ordering::Relaxed));
    }
    has_gil
}

/// Whether the thread was the last one in the state; `None` when nobody was seen there.
fn was_seen(state: usize, tid: u32) -> Option<bool> {
    Some(place_of(state)?.load(Ordering::Relaxed) == pair(state, tid))
}

/// States come from malloc: multiples of 16.
fn pair(state: usize, tid: u32) -> u64 {
    (state as u64 >> 4) << TID_BITS | tid as u64 & ((1 << TID_BITS) - 1)
}

fn place_of(state: usize) -> Option<&'static AtomicU64> {
    SEEN.iter().find(|place| place.load(Ordering::Relaxed) >> TID_BITS == pair(state, 0) >> TID_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAKERS: usize = 0x1000;
    const OTHERS: usize = 0x2000;
    const INNER: usize = 0x7f00_1230;
    const MAKER: u32 = 17;
    const OTHER: u32 = 18;

    #[test]
    fn a_state_belongs_to_the_thread_that_entered_it_last() {
        let by_maker = |holder| is_ours(holder, MAKERS, INNER, MAKER, || true);
        let by_other = |holder| is_ours(holder, OTHERS, INNER, OTHER, || false);
        // Before anybody was seen in it, its maker's.
        assert_eq!((by_other(INNER), by_maker(INNER)), (false, true));
        // The other thread takes the GIL and enters it, and so does the maker later.
        assert_eq!((by_maker(OTHERS), by_other(OTHERS)), (false, true));
        assert_eq!((by_maker(INNER), by_other(INNER)), (false, true));
        assert_eq!((by_maker(MAKERS), by_other(MAKERS)), (true, false));
        assert_eq!((by_maker(INNER), by_other(INNER)), (true, false));
        // Still with the GIL that it took there, it enters another one.
        assert!(is_ours(INNER, MAKERS, 0x7f00_4560, MAKER, || false));
        assert!(!is_ours(INNER, OTHERS, 0x7f00_4560, OTHER, || false));
        // A thread without a state of its own has entered nothing.
        assert!(!is_ours(0, 0, INNER, 19, || false));
        // So it is with as many as there is room for, wherever they lie.
        let states: Vec<(usize, u32)> = (0..48).map(|n| (0x5500_0000 + n * n * 0x130, 100 + n as u32)).collect();
        for &(state, tid) in &states {
            assert!(is_ours(0x3000, 0x3000, state, tid, || false));
        }
        for &(state, tid) in &states {
            assert!(is_ours(state, 0x3000, state, tid, || false), "{state:x}");
            assert!(!is_ours(state, 0x4000, state, tid + 1, || true), "{state:x}");
        }
        // One more than there is room for takes a place.
        for n in 0..100 {
            assert!(is_ours(0x3000, 0x3000, 0x6600_0000 + n * 0x130, 7, || false));
            assert!(is_ours(0x6600_0000 + n * 0x130, 0x3000, 0x6600_0000 + n * 0x130, 7, || false));
        }
    }
}
