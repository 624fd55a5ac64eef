//! Columns of numbers as the page unpacks them: LEB128, 7 bits a byte from the lowest, the high bit where more follow.

use serde::Serialize;

/// How the numbers of a column stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Plain,
    /// Zigzag differences to the number before, the first one's to 0.
    Delta,
    /// Zigzag.
    Signed,
}

/// Name, numbers, bytes, kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry(pub &'static str, pub usize, pub usize, pub Kind);

/// Columns one behind the other, and what stands where.
#[derive(Default)]
pub struct Columns {
    pub entries: Vec<Entry>,
    pub bytes: Vec<u8>,
}

/// The largest number that JavaScript knows exactly. What is larger comes from a damaged log.
const LARGEST: u64 = 1 << 53;

impl Columns {
    pub fn plain(&mut self, name: &'static str, numbers: impl Iterator<Item = u64>) {
        self.add(name, Kind::Plain, numbers.map(|number| number.min(LARGEST)));
    }

    pub fn delta(&mut self, name: &'static str, numbers: impl Iterator<Item = u64>) {
        let mut before = 0;
        let differences = numbers.map(|number| {
            let number = number.min(LARGEST) as i64;
            zigzag(number - std::mem::replace(&mut before, number))
        });
        self.add(name, Kind::Delta, differences);
    }

    pub fn signed(&mut self, name: &'static str, numbers: impl Iterator<Item = i64>) {
        let half = LARGEST as i64 / 2;
        self.add(name, Kind::Signed, numbers.map(|number| zigzag(number.clamp(-half, half))));
    }

    fn add(&mut self, name: &'static str, kind: Kind, numbers: impl Iterator<Item = u64>) {
        let (start, mut n_numbers) = (self.bytes.len(), 0);
        for mut number in numbers {
            n_numbers += 1;
            while number > 127 {
                self.bytes.push(number as u8 | 128);
                number >>= 7;
            }
            self.bytes.push(number as u8);
        }
        self.entries.push(Entry(name, n_numbers, self.bytes.len() - start, kind));
    }
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

/// What the page reads, for tests.
#[cfg(test)]
pub fn decode(bytes: &[u8], n_numbers: usize, kind: &str) -> Vec<i64> {
    let mut bytes = bytes.iter();
    let mut before = 0;
    let numbers = (0..n_numbers).map(|_| {
        let (mut number, mut shift) = (0u64, 0);
        loop {
            let byte = *bytes.next().unwrap();
            number |= u64::from(byte & 127) << shift;
            shift += 7;
            if byte < 128 {
                break;
            }
        }
        let signed = (number >> 1) as i64 ^ -((number & 1) as i64);
        match kind {
            "plain" => number as i64,
            "signed" => signed,
            _ => {
                before += signed;
                before
            }
        }
    });
    let numbers = numbers.collect();
    assert_eq!(bytes.next(), None, "nothing is left over");
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_from_each_kind_of_column() {
        let numbers = [0, 1, 127, 128, 300, 5, u64::from(u32::MAX), LARGEST, 0];
        let signed = numbers.map(|number| -(number as i64 / 2));
        let mut columns = Columns::default();
        columns.plain("a", numbers.into_iter());
        columns.delta("b", numbers.into_iter());
        columns.signed("c", signed.into_iter());
        let mut rest = columns.bytes.as_slice();
        let mut next = |entry: &Entry, kind| {
            let (these, behind) = rest.split_at(entry.2);
            rest = behind;
            decode(these, entry.1, kind)
        };
        let numbers = numbers.map(|number| number as i64);
        assert_eq!(next(&columns.entries[0], "plain"), numbers);
        assert_eq!(next(&columns.entries[1], "delta"), numbers);
        assert_eq!(next(&columns.entries[2], "signed"), signed);
    }

    #[test]
    fn what_javascript_has_no_number_for_is_cut() {
        let mut columns = Columns::default();
        columns.plain("a", [u64::MAX].into_iter());
        columns.signed("b", [i64::MIN].into_iter());
        let (first, second) = columns.bytes.split_at(columns.entries[0].2);
        assert_eq!(decode(first, 1, "plain"), [LARGEST as i64]);
        assert_eq!(decode(second, 1, "signed"), [-(LARGEST as i64) / 2]);
    }
}
