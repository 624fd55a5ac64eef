//! From instruction to line: CPython's line tables, in the three encodings that they have had.
//!
//! From 3.11 on a table is a sequence of entries, each for a run of instructions:
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
//! Line differences accumulate from the code object's first line, over entries without a line as well. The recorder
//! leaves the columns out ([`locations`](memtrace_format::locations)); whether they are there makes no difference here.
//!
//! In 3.9 and 3.10 it is a sequence of pairs, bytes of instructions and a signed difference of lines. In 3.10 a pair is
//! a run whose line is that difference away from the last one, or -128 for none. In 3.9 it is a step: so many bytes
//! further, the line becomes another one.

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `co_lnotab`, 3.9
    Steps,
    /// `co_linetable` of 3.10 (PEP 626)
    Runs,
    /// `co_linetable` from 3.11 on
    Locations,
}

impl Encoding {
    /// That of the tables of a CPython; `version` as `PY_VERSION_HEX`.
    pub fn of(version: u32) -> Encoding {
        match version >> 16 {
            0x030a => Encoding::Runs,
            minor if minor < 0x030a => Encoding::Steps,
            _ => Encoding::Locations,
        }
    }
}

/// The lines of one code object. Decoded at the first question: most code objects are never asked about.
pub struct Lines {
    encoding: Encoding,
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
    pub fn new(encoding: Encoding, first_line: u32, table: &[u8]) -> Lines {
        Lines { encoding, first_line, state: State::Raw(table.into()) }
    }

    /// The line of the instruction at a byte offset; 0 when it has none. An offset that the table does not reach is
    /// a frame that has not started yet: the first line.
    pub fn at(&mut self, offset: u32) -> u32 {
        if let State::Raw(table) = &self.state {
            let decode = match self.encoding {
                Encoding::Steps => steps,
                Encoding::Runs => runs,
                Encoding::Locations => locations,
            };
            self.state = State::Decoded(decode(self.first_line, table).0.into());
        }
        let State::Decoded(runs) = &self.state else { return self.first_line };
        let index = runs.partition_point(|run| run.end <= offset);
        runs.get(index).map_or(self.first_line, |run| run.line)
    }
}

/// Runs in the order of instructions; of neighbours with the same line, one.
#[derive(Default)]
struct Table(Vec<Run>);

impl Table {
    /// Adds the instructions up to `end`; a line that is no number of a line is none.
    fn push(&mut self, end: u32, line: i64) {
        let line = u32::try_from(line).unwrap_or(0);
        match self.0.last_mut() {
            Some(last) if last.end >= end => {}
            Some(last) if last.line == line => last.end = end,
            _ if end == 0 => {}
            _ => self.0.push(Run { end, line }),
        }
    }
}

fn steps(first_line: u32, bytes: &[u8]) -> Table {
    let mut table = Table::default();
    let mut line = first_line as i64;
    let mut end = 0u32;
    for &[n_bytes, difference] in bytes.as_chunks().0 {
        end = end.saturating_add(n_bytes as u32);
        table.push(end, line);
        line += difference as i8 as i64;
    }
    // The last line lasts: the table does not tell how long the code is. What stands before the code is not in it.
    table.push(u32::MAX, line);
    table
}

fn runs(first_line: u32, bytes: &[u8]) -> Table {
    const NO_LINE: i8 = -128;
    let mut table = Table::default();
    let mut line = first_line as i64;
    let mut end = 0u32;
    for &[n_bytes, difference] in bytes.as_chunks().0 {
        end = end.saturating_add(n_bytes as u32);
        match difference as i8 {
            NO_LINE => table.push(end, 0),
            difference => {
                line += difference as i64;
                table.push(end, line);
            }
        }
    }
    table
}

fn locations(first_line: u32, bytes: &[u8]) -> Table {
    let mut bytes = bytes.iter().copied().peekable();
    let mut table = Table::default();
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
        table.push(end, if has_line { line } else { 0 });
    }
    table
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
    use memtrace_format::locations;
    use memtrace_format::record::Node;
    use proptest::prelude::*;

    /// `co_linetable` of a generator of 15 lines, compiled by CPython 3.12: forms 0, 1, 12, 13, 14, 15.
    const TABLE: [u8; 93] = [
        232, 0, 248, 128, 0, 224, 8, 9, 225, 16, 17, 244, 3, 0, 9, 10, 136, 33, 216, 10, 11, 244, 3, 1, 9, 13, 216, 23,
        24, 240, 7, 3, 9, 26, 128, 65, 240, 8, 0, 14, 15, 242, 0, 5, 5, 18, 136, 1, 240, 2, 4, 9, 18, 216, 19, 20, 216,
        17, 18, 241, 3, 1, 20, 19, 242, 0, 1, 13, 20, 241, 6, 0, 17, 18, 240, 11, 5, 5, 18, 240, 18, 0, 12, 13, 128,
        72, 248, 241, 9, 0, 17, 18, 252,
    ];

    /// `co_lnotab` of a generator of 174 lines, compiled by CPython 3.9: steps back, a step of more than 127 lines, and one
    /// before the first instruction.
    const STEPS: [u8; 40] = [
        0, 3, 4, 2, 2, 255, 6, 3, 2, 1, 4, 1, 2, 1, 2, 255, 8, 3, 22, 2, 2, 1, 2, 254, 4, 127, 0, 27, 4, 1, 2, 1, 2, 1,
        6, 254, 6, 4, 6, 1,
    ];

    /// `co_linetable` of the same generator, compiled by CPython 3.10: also instructions without a line.
    const RUNS: [u8; 46] = [
        2, 128, 4, 3, 2, 2, 6, 255, 2, 3, 4, 1, 2, 1, 2, 1, 6, 255, 2, 128, 20, 3, 2, 2, 2, 1, 4, 254, 0, 127, 4, 27,
        2, 1, 2, 1, 6, 1, 6, 254, 6, 4, 2, 1, 28, 255,
    ];

    fn check(encoding: Encoding, table: &[u8], expected: &[(u32, u32, u32)]) {
        let mut lines = Lines::new(encoding, 1, table);
        for &(start, end, line) in expected {
            for offset in (start..end).step_by(2) {
                assert_eq!(lines.at(offset), line, "at byte {offset}");
            }
        }
    }

    #[test]
    fn lines_are_those_that_cpython_gives() {
        // `co_lines()` of the same function; 0 stands for None.
        #[rustfmt::skip]
        check(Encoding::Locations, &TABLE, &[
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
        ]);
    }

    #[test]
    fn lines_are_those_that_cpython_3_9_gives() {
        // `dis.findlinestarts()`, each up to the next one, the last up to the end of the code.
        #[rustfmt::skip]
        check(Encoding::Steps, &STEPS, &[
            (0, 4, 4), (4, 6, 6), (6, 12, 5), (12, 14, 8), (14, 18, 9), (18, 20, 10), (20, 22, 11), (22, 30, 10),
            (30, 52, 13), (52, 54, 15), (54, 56, 16), (56, 60, 14), (60, 64, 168), (64, 66, 169), (66, 68, 170),
            (68, 74, 171), (74, 80, 169), (80, 86, 173), (86, 122, 174),
        ]);
    }

    #[test]
    fn lines_are_those_that_cpython_3_10_gives() {
        // `co_lines()`; 0 stands for None.
        #[rustfmt::skip]
        check(Encoding::Runs, &RUNS, &[
            (0, 2, 0), (2, 6, 4), (6, 8, 6), (8, 14, 5), (14, 16, 8), (16, 20, 9), (20, 22, 10), (22, 24, 11),
            (24, 30, 10), (30, 32, 0), (32, 52, 13), (52, 54, 15), (54, 56, 16), (56, 60, 14), (60, 64, 168),
            (64, 66, 169), (66, 68, 170), (68, 74, 171), (74, 80, 169), (80, 86, 173), (86, 88, 174), (88, 116, 173),
        ]);
    }

    #[test]
    fn a_frame_that_has_not_begun_is_in_the_first_line() {
        for (encoding, table) in [(Encoding::Steps, &STEPS[..]), (Encoding::Runs, &RUNS), (Encoding::Locations, &TABLE)]
        {
            assert_eq!(Lines::new(encoding, 1, table).at(Node::NOT_BEGUN), 1);
        }
    }

    #[test]
    fn the_encoding_follows_from_the_version() {
        let of = |version| Encoding::of(version);
        assert_eq!(
            [0x0309_12f0, 0x030a_0df0, 0x030b_07f0, 0x030f_00a2].map(of),
            [Encoding::Steps, Encoding::Runs, Encoding::Locations, Encoding::Locations]
        );
    }

    /// One entry of a location table as CPython writes it.
    fn entries() -> impl Strategy<Value = Vec<u8>> {
        let column = || 0..0x80u8;
        let fields = prop_oneof![
            3 => (0..10u8, column()).prop_map(|(form, column)| (form, vec![column])),
            3 => (10..13u8, column(), column()).prop_map(|(form, start, end)| (form, vec![start, end])),
            1 => varints().prop_map(|difference| (13, difference)),
            1 => proptest::collection::vec(varints(), 4).prop_map(|fields| (14, fields.concat())),
            1 => Just((15, vec![])),
        ];
        (fields, 0..8u8).prop_map(|((form, fields), units)| [vec![0x80 | form << 3 | units], fields].concat())
    }

    fn varints() -> impl Strategy<Value = Vec<u8>> {
        let one = prop_oneof![Just(vec![]), proptest::collection::vec(0x40..0x80u8, 0..3)];
        (one, 0..0x40u8).prop_map(|(more, last)| [more, vec![last]].concat())
    }

    #[test]
    fn a_place_without_a_line_has_line_0() {
        let mut lines = Lines::new(Encoding::Locations, 10, &[0x80 | 15 << 3 | 1, 0x80 | 11 << 3, 0, 0]);
        assert_eq!([lines.at(0), lines.at(2), lines.at(4), lines.at(6)], [0, 0, 11, 10]);
    }

    #[test]
    fn an_offset_beyond_the_table_is_the_first_line() {
        assert_eq!(Lines::new(Encoding::Locations, 42, &[]).at(0), 42);
        assert_eq!(Lines::new(Encoding::Locations, 42, &[0x80, 0]).at(u32::MAX), 42);
        assert_eq!(Lines::new(Encoding::Runs, 42, &[]).at(0), 42);
        assert_eq!(Lines::new(Encoding::Steps, 42, &[]).at(0), 42);
    }

    proptest! {
        #[test]
        fn a_table_without_columns_tells_the_same_lines(table in proptest::collection::vec(entries(), 0..40)) {
            let table = table.concat();
            let mut out = vec![0; table.len()];
            let short = locations::without_columns(&table, &mut out).unwrap();
            let [mut expected, mut actual] = [&table[..], short].map(|it| Lines::new(Encoding::Locations, 100, it));
            for offset in (0..40 * 16).step_by(2) {
                prop_assert_eq!(actual.at(offset), expected.at(offset), "at byte {}", offset);
            }
        }

        #[test]
        fn arbitrary_tables_give_some_line(first: u32, table: Vec<u8>, offset: u32) {
            for encoding in [Encoding::Steps, Encoding::Runs, Encoding::Locations] {
                Lines::new(encoding, first, &table).at(offset);
            }
        }
    }
}
