//! From instruction to line: CPython's location table, the same in 3.11, 3.12 and 3.13.
//!
//! The table is a sequence of entries, each for a run of instructions:
//!
//! ```text
//! first byte   1 kkkk lll     k: form, l + 1: code units (of two bytes) covered
//! k  0…9       same line, 1 byte of columns
//!    10…12     k - 10 lines further, 2 bytes of columns
//!    13        line difference: signed varint
//!    14        line difference: signed varint; end line, column, end column: varints
//!    15        no line
//! ```
//!
//! Varints hold six bits a byte, the least first, with bit 6 for "more"; signed ones keep the sign in bit 0.
//! Line differences accumulate from the code object's first line, over entries without a line as well.

/// The lines of one code object. Decoded at the first question: most code objects are never asked about.
pub struct Lines {
    first_line: u32,
    state: State,
}

enum State {
    Raw(Box<[u8]>),
    Decoded(Box<[Run]>),
}

/// The instructions before byte offset `end`, from the end of the run before.
struct Run {
    end: u32,
    /// 0 when there is no line.
    line: u32,
}

impl Lines {
    pub fn new(first_line: u32, table: &[u8]) -> Lines {
        Lines { first_line, state: State::Raw(table.into()) }
    }

    /// The line of the instruction at a byte offset; 0 when it has none. An offset that the table does not reach is
    /// a frame that has not started yet: the first line.
    pub fn at(&mut self, offset: u32) -> u32 {
        if let State::Raw(table) = &self.state {
            self.state = State::Decoded(decode(self.first_line, table).into());
        }
        let State::Decoded(runs) = &self.state else { return self.first_line };
        let index = runs.partition_point(|run| run.end <= offset);
        runs.get(index).map_or(self.first_line, |run| run.line)
    }
}

fn decode(first_line: u32, table: &[u8]) -> Vec<Run> {
    let mut bytes = table.iter().copied().peekable();
    let mut runs: Vec<Run> = Vec::new();
    let mut line = first_line as i64;
    let mut end = 0u32;
    while let Some(head) = bytes.next() {
        let form = head >> 3 & 15;
        let has_line = form != 15;
        match form {
            10..=12 => line += form as i64 - 10,
            13 | 14 => {
                let number = varint(&mut bytes);
                let difference = (number >> 1) as i64;
                line = line.wrapping_add(if number & 1 == 0 { difference } else { -difference });
            }
            _ => {}
        }
        // Whatever columns follow: entries start with the top bit set and nothing else has it.
        while bytes.next_if(|byte| byte & 0x80 == 0).is_some() {}
        end = end.saturating_add((head as u32 & 7) * 2 + 2);
        let shown = if has_line { u32::try_from(line).unwrap_or(0) } else { 0 };
        match runs.last_mut() {
            Some(last) if last.line == shown => last.end = end,
            _ => runs.push(Run { end, line: shown }),
        }
    }
    runs
}

fn varint(bytes: &mut impl Iterator<Item = u8>) -> u64 {
    let mut value = 0;
    let mut shift = 0;
    for byte in bytes {
        value |= ((byte & 63) as u64).checked_shl(shift).unwrap_or(0);
        shift += 6;
        if byte & 64 == 0 {
            break;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `co_linetable` of a generator of 15 lines, compiled by CPython 3.12: forms 0, 1, 12, 13, 14, 15.
    const TABLE: [u8; 93] = [
        232, 0, 248, 128, 0, 224, 8, 9, 225, 16, 17, 244, 3, 0, 9, 10, 136, 33, 216, 10, 11, 244, 3, 1, 9, 13, 216, 23,
        24, 240, 7, 3, 9, 26, 128, 65, 240, 8, 0, 14, 15, 242, 0, 5, 5, 18, 136, 1, 240, 2, 4, 9, 18, 216, 19, 20, 216,
        17, 18, 241, 3, 1, 20, 19, 242, 0, 1, 13, 20, 241, 6, 0, 17, 18, 240, 11, 5, 5, 18, 240, 18, 0, 12, 13, 128,
        72, 248, 241, 9, 0, 17, 18, 252,
    ];

    #[test]
    fn lines_are_those_that_cpython_gives() {
        // `co_lines()` of the same function; 0 stands for None.
        let expected = [
            (0, 2, 1),
            (2, 4, 0),
            (4, 6, 1),
            (6, 8, 3),
            (8, 12, 5),
            (12, 24, 4),
            (24, 26, 5),
            (26, 36, 4),
            (36, 38, 5),
            (38, 42, 2),
            (42, 52, 6),
            (52, 54, 7),
            (54, 56, 8),
            (56, 58, 9),
            (58, 68, 8),
            (68, 72, 11),
            (72, 74, 6),
            (74, 78, 15),
            (78, 80, 0),
            (80, 84, 11),
            (84, 94, 0),
        ];
        let mut lines = Lines::new(1, &TABLE);
        for (start, end, line) in expected {
            for offset in (start..end).step_by(2) {
                assert_eq!(lines.at(offset), line, "at byte {offset}");
            }
        }
    }

    #[test]
    fn a_place_without_a_line_has_line_0() {
        let mut lines = Lines::new(10, &[0x80 | 15 << 3 | 1, 0x80 | 11 << 3, 0, 0]);
        assert_eq!([lines.at(0), lines.at(2), lines.at(4), lines.at(6)], [0, 0, 11, 10]);
    }

    #[test]
    fn an_offset_beyond_the_table_is_the_first_line() {
        assert_eq!(Lines::new(42, &[]).at(0), 42);
        assert_eq!(Lines::new(42, &[0x80, 0]).at(u32::MAX), 42);
    }

    proptest! {
        #[test]
        fn arbitrary_tables_give_some_line(first: u32, table: Vec<u8>, offset: u32) {
            Lines::new(first, &table).at(offset);
        }
    }
}
