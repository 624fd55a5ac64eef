//! The number encoding: prefix varints, and zigzag for signed differences.
//!
//! ```text
//! xxxxxxx1                      7 bits
//! xxxxxx10 xxxxxxxx            14 bits
//! xxxxx100 xxxxxxxx xxxxxxxx   21 bits      … up to 56 bits in eight bytes
//! 00000000 and eight bytes     64 bits
//! ```
//!
//! The first byte's trailing zeros say how many bytes follow, so that neither side has a loop.

use crate::encode::HOT_ROOM;

/// The most bytes that a varint takes.
pub const MAX_LEN: usize = 9;

/// Maps small negative and positive numbers to small unsigned ones: 0, -1, 1, -2 become 0, 1, 2, 3.
#[inline(always)]
pub const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
#[inline(always)]
pub const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The bytes that a number takes.
#[inline(always)]
pub const fn len(value: u64) -> usize {
    if is_short(value) { n_more(value) as usize + 1 } else { MAX_LEN }
}

/// A number of at most 56 bits as the bytes of a little-endian word, of which the first [`len`] count.
#[inline(always)]
pub const fn short(value: u64) -> u64 {
    (value << 1 | 1) << n_more(value)
}

const fn is_short(value: u64) -> bool {
    value >> 56 == 0
}

/// How many bytes follow the first one of a short number: the place of the highest bit, divided by seven.
#[inline(always)]
const fn n_more(value: u64) -> u32 {
    // 37/256 instead of 1/7: the same for whole numbers up to 55.
    ((value | 1).ilog2() * 37) >> 8
}

/// Writes a number at `place` of `out`; where it ends. What does not fit is left out.
///
/// Up to eight bytes behind the number are overwritten, as far as `out` has them: whoever writes one number after the
/// other does not care, and is spared a loop.
#[inline(always)]
pub fn write(out: &mut [u8], place: usize, value: u64) -> usize {
    if is_short(value) {
        write_word(out, place, short(value));
        place + n_more(value) as usize + 1
    } else {
        write_word(out, place, 0);
        write_word(out, place + 1, value);
        place + MAX_LEN
    }
}

/// [`write`] at one of the first places of a large buffer, without a question about room.
#[inline(always)]
pub fn write_early(out: &mut [u8; HOT_ROOM], place: usize, value: u64) -> usize {
    if is_short(value) {
        write_early_short(out, place, value)
    } else {
        write_word(out, place % N_EARLY, 0);
        write_word(out, place % N_EARLY + 1, value);
        place + MAX_LEN
    }
}

const N_EARLY: usize = 32;
const _: () = assert!(N_EARLY + MAX_LEN <= HOT_ROOM);

/// The same for a number that is known to have at most 56 bits.
#[inline(always)]
pub fn write_early_short(out: &mut [u8; HOT_ROOM], place: usize, value: u64) -> usize {
    write_word(out, place % N_EARLY, short(value));
    place + n_more(value) as usize + 1
}

#[inline(always)]
fn write_word(out: &mut [u8], place: usize, word: u64) {
    if let Some(room) = out.get_mut(place..).and_then(|rest| rest.first_chunk_mut::<8>()) {
        *room = word.to_le_bytes();
    }
}

/// Reads one varint at the start of `bytes`: its value and its length, or `None` when it is cut off.
#[inline(always)]
pub fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    match bytes.first_chunk::<8>() {
        Some(word) if word[0] != 0 => {
            let word = u64::from_le_bytes(*word);
            let len = word.trailing_zeros() as usize + 1;
            let value = if len == 8 { word >> 8 } else { word << (64 - 8 * len) >> (64 - 7 * len) };
            Some((value, len))
        }
        _ => read_slowly(bytes),
    }
}

/// [`read`] at one of the first places of a large buffer, without a question about room.
#[inline(always)]
pub fn read_early(bytes: &[u8; HOT_ROOM], place: usize) -> (u64, usize) {
    let place = place % N_EARLY;
    let word = read_word(bytes, place);
    if word & 0xff == 0 {
        return (read_word(bytes, place + 1), MAX_LEN);
    }
    let len = word.trailing_zeros() as usize + 1;
    (word << (64 - 8 * len) >> (64 - 7 * len), len)
}

#[inline(always)]
fn read_word(bytes: &[u8; HOT_ROOM], place: usize) -> u64 {
    bytes.get(place..).and_then(|rest| rest.first_chunk::<8>()).map_or(0, |word| u64::from_le_bytes(*word))
}

/// A long number, or one near the end of the bytes.
#[cold]
fn read_slowly(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    if first == 0 {
        let word = bytes.get(1..)?.first_chunk::<8>()?;
        return Some((u64::from_le_bytes(*word), MAX_LEN));
    }
    let len = first.trailing_zeros() as usize + 1;
    let mut word = [0; 8];
    word.get_mut(..len)?.copy_from_slice(bytes.get(..len)?);
    Some((u64::from_le_bytes(word) >> len, len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(value: u64) {
        let mut buf = [0xaau8; 24];
        let end = write(&mut buf, 3, value);
        assert_eq!(end, 3 + len(value));
        assert_eq!(read(&buf[3..]), Some((value, len(value))));
        assert_eq!(read(&buf[3..end]), Some((value, len(value))), "{value} at the end of the bytes");
        assert_eq!(read(&buf[3..end - 1]), None, "{value} cut off");
        assert_eq!(buf[..3], [0xaa; 3]);
        let mut early = [0xaau8; HOT_ROOM];
        write(&mut early, N_EARLY - 1, value);
        assert_eq!(read_early(&early, N_EARLY - 1), (value, len(value)));
    }

    #[test]
    fn every_number_of_bits_comes_back() {
        for bits in 0..64 {
            let power = 1u64 << bits;
            [power - 1, power, power | 1, power | (power - 1)].into_iter().for_each(check);
        }
        assert_eq!([len(0), len(127), len(128), len((1 << 56) - 1), len(1 << 56)], [1, 1, 2, 8, 9]);
    }

    proptest! {
        #[test]
        fn every_number_comes_back(value: u64, signed: i64) {
            check(value);
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            if let Some((_, len)) = read(&bytes) {
                prop_assert!(len <= bytes.len());
            }
        }
    }
}
