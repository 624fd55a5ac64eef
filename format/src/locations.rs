//! CPython's location tables, `co_linetable` from 3.11 on, without what nobody asks for: columns, and entries that only
//! had columns of their own. Called by the recorder when it describes a code object; it must never change the line of an
//! instruction. What comes out is a location table again: the reader's `model::lines` has the encoding.

/// The first byte of an entry has this bit and no other byte has it.
const FIRST: u8 = 0x80;
/// In a varint: there are more bytes.
const MORE: u8 = 0x40;
/// Code units in one entry, at most.
const MAX_UNITS: usize = 8;

/// The forms of entries that remain.
const SAME_LINE: u8 = 0;
const ONE_FURTHER: u8 = 11;
const TWO_FURTHER: u8 = 12;
const DIFFERENCE: u8 = 13;
const NO_LINE: u8 = 15;

/// Instructions of one line.
struct Run<'a> {
    form: u8,
    /// The varint of [`DIFFERENCE`].
    difference: &'a [u8],
    n_units: usize,
}

/// Writes the table without columns. `None` when it does not fit, or is not as CPython writes them.
pub fn without_columns<'a>(table: &[u8], out: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut len = 0;
    let mut rest = table;
    let mut run = Run { form: NO_LINE, difference: &[], n_units: 0 };
    while let Some((&head, tail)) = rest.split_first() {
        let n_fields = tail.iter().position(|byte| byte & FIRST != 0).unwrap_or(tail.len());
        let (fields, next) = tail.split_at_checked(n_fields)?;
        let next_run = entry(head, fields)?;
        if next_run.form == if run.form == NO_LINE { NO_LINE } else { SAME_LINE } {
            run.n_units += next_run.n_units;
        } else {
            len = run.write(out, len)?;
            run = next_run;
        }
        rest = next;
    }
    len = run.write(out, len)?;
    out.get(..len)
}

fn entry(head: u8, fields: &[u8]) -> Option<Run<'_>> {
    let (form, difference) = match head >> 3 & 15 {
        _ if head & FIRST == 0 => return None,
        0..=10 => (SAME_LINE, &[][..]),
        11 => (ONE_FURTHER, &[][..]),
        12 => (TWO_FURTHER, &[][..]),
        15 => (NO_LINE, &[][..]),
        _ => match fields.get(..fields.iter().position(|byte| byte & MORE == 0)? + 1)? {
            [0] => (SAME_LINE, &[][..]),
            difference => (DIFFERENCE, difference),
        },
    };
    Some(Run { form, difference, n_units: (head & 7) as usize + 1 })
}

impl Run<'_> {
    /// Writes it at `place` of `out`; where it ends. `None` when it does not fit.
    fn write(&self, out: &mut [u8], place: usize) -> Option<usize> {
        let mut place = place;
        let mut n_units = self.n_units;
        let (mut form, mut difference) = (self.form, self.difference);
        while n_units > 0 {
            let n = n_units.min(MAX_UNITS);
            *out.get_mut(place)? = FIRST | form << 3 | (n - 1) as u8;
            out.get_mut(place + 1..)?.get_mut(..difference.len())?.copy_from_slice(difference);
            place += 1 + difference.len();
            n_units -= n;
            // What did not fit into one entry goes on.
            (form, difference) = (if form == NO_LINE { NO_LINE } else { SAME_LINE }, &[]);
        }
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn head(form: u8, n_units: u8) -> u8 {
        FIRST | form << 3 | (n_units - 1)
    }

    fn check(table: &[u8], expected: &[u8]) {
        let mut out = [0; 64];
        assert_eq!(without_columns(table, &mut out), Some(expected));
        if let Some(too_short) = expected.len().checked_sub(1) {
            assert_eq!(without_columns(table, &mut out[..too_short]), None);
        }
    }

    #[test]
    fn columns_are_left_out() {
        check(
            &[head(11, 1), 4, 9, head(13, 2), 0x45, 0x01, 4, 9, head(14, 3), 0x03, 2, 0x41, 1, 9, head(15, 1)],
            &[head(ONE_FURTHER, 1), head(DIFFERENCE, 2), 0x45, 0x01, head(DIFFERENCE, 3), 0x03, head(NO_LINE, 1)],
        );
    }

    #[test]
    fn what_has_the_same_line_is_one() {
        check(
            &[head(12, 3), 4, 9, head(3, 4), 1, head(10, 2), 4, 9, head(14, 8), 0, 2, 1, 9, head(0, 1), 0],
            &[head(TWO_FURTHER, 8), head(SAME_LINE, 8), head(SAME_LINE, 2)],
        );
        check(&[head(15, 8), head(15, 2), head(0, 1), 7], &[head(NO_LINE, 8), head(NO_LINE, 2), head(SAME_LINE, 1)]);
        check(&[head(0, 1), 7], &[head(SAME_LINE, 1)]);
        check(&[], &[]);
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let mut out = [0; 64];
        assert_eq!(without_columns(&[1, 2, 3], &mut out), None);
        assert_eq!(without_columns(&[head(13, 1), 0x41], &mut out), None);
    }
}
