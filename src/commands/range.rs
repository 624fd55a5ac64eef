//! A part of the time, as the command line bounds it: by seconds, or by marks of the captures. Used by `parse` and
//! `flamegraph`.

use std::ops::Range;

use anyhow::{Result, bail};

use crate::cli::{Moment, RangeArgs};
use crate::model::Facts;
use crate::report::printable::printable;

/// In nanoseconds since the first capture began. Of marks with the same name the first one counts, and for the end the
/// first one behind the beginning.
pub fn nanos(args: &RangeArgs, captures: &[&Facts]) -> Result<Range<u64>> {
    let start = args.from.as_ref().map_or(Ok(0), |from| at(from, captures, 0))?;
    let end = args.to.as_ref().map_or(Ok(u64::MAX), |to| at(to, captures, start))?;
    Ok(start..end)
}

fn at(moment: &Moment, captures: &[&Facts], least: u64) -> Result<u64> {
    let wanted = match moment {
        // What is no number of nanoseconds becomes the nearest one.
        Moment::Seconds(seconds) => return Ok((seconds * 1e9) as u64),
        Moment::Mark(name) => name,
    };
    let begun = captures.iter().map(|facts| facts.start_unix_nanos).min().unwrap_or(0);
    let marks = || captures.iter().flat_map(|facts| facts.named_marks().map(move |mark| (facts, mark)));
    let named = marks().filter(|(_, mark)| mark.name == *wanted);
    let times = named.map(|(facts, mark)| mark.nanos.saturating_add(facts.start_unix_nanos.saturating_sub(begun)));
    if let Some(nanos) = times.filter(|&nanos| nanos >= least).min() {
        return Ok(nanos);
    }
    let names: Vec<&str> = marks().map(|(_, mark)| mark.name.as_str()).collect();
    let there = match names.is_empty() {
        true => "there are none in the capture; `memtrace ctl PID mark NAME` makes one".to_owned(),
        false => format!("there are: {}", names.join(", ")),
    };
    bail!("{wanted:?} is neither a number of seconds nor a mark at or behind the beginning ({})", printable(&there))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MarkKind;
    use crate::model::facts::Mark;

    fn facts(start_unix_nanos: u64, marks: &[(&str, u64)]) -> Facts {
        let mark = |&(name, nanos): &(&str, u64)| Mark { turn: 0, nanos, kind: MarkKind::Named, name: name.into() };
        Facts { start_unix_nanos, marks: marks.iter().map(mark).collect(), ..Facts::default() }
    }

    fn check(from: &str, to: &str, expected: Result<Range<u64>, &str>) {
        let first = facts(1_000, &[("loaded", 10), ("served", 20), ("loaded", 30)]);
        let second = facts(1_005, &[("forked", 1)]);
        let moment = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
        let args = RangeArgs { from: moment(from), to: moment(to) };
        match (nanos(&args, &[&first, &second]), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(expected)) => assert!(found.to_string().contains(expected), "{found}"),
            (found, expected) => panic!("{found:?} and not {expected:?}"),
        }
    }

    #[test]
    fn a_bound_is_a_number_of_seconds_or_the_name_of_a_mark() {
        check("", "", Ok(0..u64::MAX));
        check("1e-6", "2", Ok(1_000..2_000_000_000));
        check("loaded", "served", Ok(10..20));
        check("served", "loaded", Ok(20..30));
        check("forked", "", Ok(6..u64::MAX));
        check("lodaed", "", Err("there are: loaded, served, loaded, forked"));
    }
}
