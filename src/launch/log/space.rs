//! Ranges of the log that hold nothing, where finished blocks move to. Kept by the compactor; it must never hand out
//! a byte twice.

use std::collections::BTreeMap;

/// Free ranges of a file, none touching another.
#[derive(Debug, Default)]
pub struct FreeSpace {
    end_by_start: BTreeMap<u64, u64>,
}

impl FreeSpace {
    /// Adds a range, which was not free.
    pub fn give(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let (mut start, mut end) = (start, end);
        if let Some((&before, &its_end)) = self.end_by_start.range(..start).next_back()
            && its_end == start
        {
            start = before;
        }
        if let Some(its_end) = self.end_by_start.remove(&end) {
            end = its_end;
        }
        self.end_by_start.insert(start, end);
    }

    /// Takes the lowest `len` bytes that lie together; where they start.
    pub fn take(&mut self, len: u64) -> Option<u64> {
        let (start, end) =
            self.end_by_start.iter().map(|(&start, &end)| (start, end)).find(|(start, end)| end - start >= len)?;
        self.end_by_start.remove(&start);
        self.give(start + len, end);
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::FreeSpace;

    #[test]
    fn the_lowest_range_that_fits_is_taken_and_neighbours_become_one() {
        let mut space = FreeSpace::default();
        space.give(0, 10);
        space.give(20, 40);
        assert_eq!(space.take(15), Some(20));
        assert_eq!(space.take(5), Some(0));
        assert_eq!(space.take(6), None);
        space.give(10, 20);
        assert_eq!(space.take(15), Some(5));
        space.give(20, 35);
        assert_eq!(space.take(20), Some(20));
        assert_eq!(space.take(1), None);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_map_of_every_byte(steps in proptest::collection::vec((any::<bool>(), 0u64..64, 1u64..20), 1..100)) {
            let mut space = FreeSpace::default();
            let mut is_free = [false; 84];
            for (gives, at, len) in steps {
                let whole = at as usize..(at + len) as usize;
                if gives {
                    if is_free[whole.clone()].iter().all(|free| !free) {
                        space.give(at, at + len);
                        is_free[whole].fill(true);
                    }
                    continue;
                }
                let fits = |&start: &usize| {
                    is_free.get(start..start + len as usize).is_some_and(|range| range.iter().all(|&free| free))
                };
                let expected = (0..is_free.len()).find(fits);
                prop_assert_eq!(space.take(len), expected.map(|start| start as u64));
                if let Some(start) = expected {
                    is_free[start..start + len as usize].fill(false);
                }
            }
        }
    }
}
