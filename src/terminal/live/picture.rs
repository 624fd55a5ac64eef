//! What is known of a process at one moment: plain values, so that whoever reads the log and whoever draws need not
//! wait for each other.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Picture {
    pub pid: u32,
    pub command: String,
    /// Since the recording began.
    pub nanos: u64,
    pub heap_bytes: u64,
    pub peak_bytes: u64,
    /// Resident set; 0 when it is not known.
    pub rss_bytes: u64,
    pub n_events: u64,
    pub history: History,
    /// Whether what was written before is still being read.
    pub is_behind: bool,
    /// Whether allocations are left out at the moment.
    pub is_paused: bool,
    /// How the program ended, or why nothing more is read.
    pub end: Option<String>,
    /// What a reader should know, one sentence each.
    pub notices: Vec<String>,
    /// In the order of their first appearance.
    #[serde(with = "shared")]
    pub threads: Arc<Vec<Thread>>,
    #[serde(with = "shared")]
    pub rows: Arc<Vec<Row>>,
    pub since: Option<Since>,
}

/// What was allocated since a mark and is still there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Since {
    pub nanos: u64,
    pub bytes: u64,
    #[serde(with = "shared")]
    pub rows: Arc<Vec<Row>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// The kernel's id; 0 when it is not known.
    pub os_tid: u32,
    pub name: String,
}

/// What a function of a thread holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    #[serde(with = "shared")]
    pub function: Arc<str>,
    #[serde(with = "shared")]
    pub file: Arc<str>,
    /// Index among the threads.
    pub thread: usize,
    /// In it and in what it called.
    pub total_bytes: u64,
    pub own_bytes: u64,
    /// Allocations in it and in what it called.
    pub count: u64,
}

/// As the value itself: who reads it has a copy of its own.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<T: ?Sized + Serialize, S: Serializer>(value: &Arc<T>, serializer: S) -> Result<S::Ok, S::Error> {
        (**value).serialize(serializer)
    }

    pub fn deserialize<'de, T: ?Sized, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<T>, D::Error>
    where
        Box<T>: Deserialize<'de>,
    {
        Box::<T>::deserialize(deserializer).map(Arc::from)
    }
}

/// The heap over all of the time, in at most so many steps of the same length: the most in each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct History {
    step_nanos: u64,
    most: Vec<u64>,
}

const MAX_STEPS: usize = 512;

impl Default for History {
    fn default() -> History {
        History { step_nanos: 10_000_000, most: Vec::new() }
    }
}

impl History {
    pub fn add(&mut self, nanos: u64, bytes: u64) {
        let mut step = nanos / self.step_nanos;
        while step >= MAX_STEPS as u64 {
            self.step_nanos *= 2;
            self.most = self.most.chunks(2).map(|pair| pair.iter().copied().max().unwrap_or(0)).collect();
            step = nanos / self.step_nanos;
        }
        let step = step as usize;
        // Where nothing was heard, nothing has changed.
        let last = self.most.last().copied().unwrap_or(0);
        if step >= self.most.len() {
            self.most.resize(step + 1, last);
            self.most[step] = bytes;
        } else {
            self.most[step] = self.most[step].max(bytes);
        }
    }

    /// The most in each of `n` parts of the time.
    pub fn columns(&self, n: usize) -> Vec<u64> {
        let len = self.most.len();
        if len == 0 || n == 0 {
            return vec![0; n];
        }
        let part = |column: usize| {
            let from = column * len / n;
            let to = ((column + 1) * len / n).max(from + 1);
            self.most[from..to].iter().copied().max().unwrap_or(0)
        };
        (0..n).map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_is_told_in_as_many_steps_as_a_minute_and_keeps_its_peaks() {
        let mut history = History::default();
        for second in 0..604_800u64 {
            history.add(second * 1_000_000_000, if second == 400_000 { 1_000_000 } else { second });
        }
        assert!(history.most.len() <= MAX_STEPS);
        assert_eq!(history.columns(7).iter().max(), Some(&1_000_000));
        assert_eq!(history.columns(1), [1_000_000]);
    }

    #[test]
    fn between_two_samples_the_heap_is_what_it_was() {
        let mut history = History::default();
        history.add(0, 5);
        history.add(40_000_000, 9);
        assert_eq!(history.most, [5, 5, 5, 5, 9]);
        assert_eq!(history.columns(10), [5, 5, 5, 5, 5, 5, 5, 5, 9, 9]);
        assert_eq!(history.columns(2), [5, 9]);
    }
}
