//! From turns to time.

/// Points of the map from turns to nanoseconds of the monotonic clock, in order; between two points time is linear.
///
/// A sample every ten milliseconds over weeks would be gigabytes, so from [`MAX_POINTS`] on every second one goes.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    points: Vec<Point>,
    start_mono_nanos: u64,
    start_unix_nanos: u64,
    /// Only every so many-th point is kept.
    stride: usize,
    n_skipped: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    turn: u64,
    mono_nanos: u64,
}

const MAX_POINTS: usize = 64 * 1024;

impl Clock {
    /// Starts with the one point that is known: turn 0.
    pub fn new(start_mono_nanos: u64, start_unix_nanos: u64) -> Clock {
        let points = vec![Point { turn: 0, mono_nanos: start_mono_nanos }];
        Clock { points, start_mono_nanos, start_unix_nanos, stride: 1, n_skipped: 0 }
    }

    /// Adds a later point; one that goes back in either clock is left out.
    pub fn add(&mut self, turn: u64, mono_nanos: u64) {
        self.n_skipped += 1;
        if self.n_skipped < self.stride {
            return;
        }
        let is_later = |last: &Point| turn > last.turn && mono_nanos >= last.mono_nanos;
        if !self.points.last().is_none_or(is_later) {
            return;
        }
        self.n_skipped = 0;
        self.points.push(Point { turn, mono_nanos });
        if self.points.len() > MAX_POINTS {
            let mut is_kept = false;
            self.points.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
            self.stride *= 2;
        }
    }

    /// The monotonic clock when the capture began.
    pub fn start_mono_nanos(&self) -> u64 {
        self.start_mono_nanos
    }

    /// Nanoseconds since the capture began. Without a second point nothing is known but the beginning.
    pub fn nanos_since_start(&self, turn: u64) -> u64 {
        let after = self.points.partition_point(|point| point.turn <= turn);
        // The pair around the moment, or the nearest pair, extrapolated.
        let second = after.clamp(1, self.points.len().saturating_sub(1).max(1));
        let (Some(from), Some(to)) = (self.points.get(second - 1), self.points.get(second)) else {
            return 0;
        };
        let nanos = (to.mono_nanos - from.mono_nanos) as i128;
        let since_point = (turn as i128 - from.turn as i128).saturating_mul(nanos) / (to.turn - from.turn) as i128;
        let since_start = (from.mono_nanos as i128 - self.start_mono_nanos as i128).saturating_add(since_point);
        since_start.clamp(0, u64::MAX as i128) as u64
    }

    /// The last sample, in nanoseconds since the capture began.
    pub fn last_nanos(&self) -> u64 {
        self.points.last().map_or(0, |point| self.since_start(point.mono_nanos))
    }

    /// The first turn that is not before a moment, in nanoseconds since the capture began.
    pub fn turn_at(&self, nanos: u64) -> u64 {
        let (mut first, mut end) = (0, u64::MAX);
        while first < end {
            let middle = first + (end - first) / 2;
            if self.nanos_since_start(middle) < nanos {
                first = middle + 1;
            } else {
                end = middle;
            }
        }
        first
    }

    /// Nanoseconds since the capture began, of a moment of the monotonic clock.
    pub fn since_start(&self, mono_nanos: u64) -> u64 {
        mono_nanos.saturating_sub(self.start_mono_nanos)
    }

    /// The wall clock then, in nanoseconds since 1970.
    pub fn unix_nanos(&self, turn: u64) -> u64 {
        self.start_unix_nanos.saturating_add(self.nanos_since_start(turn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_linear_between_the_samples_and_beyond_them() {
        let mut clock = Clock::new(5_000, 1_000_000);
        clock.add(200, 6_000);
        clock.add(300, 6_100);
        let at = |turn| clock.nanos_since_start(turn);
        assert_eq!(
            [at(0), at(100), at(150), at(200), at(250), at(300), at(400)],
            [0, 500, 750, 1000, 1050, 1100, 1200]
        );
        assert_eq!(clock.unix_nanos(150), 1_000_750);
        assert_eq!([0, 1, 750, 751, 1000, 1200].map(|nanos| clock.turn_at(nanos)), [0, 1, 150, 151, 200, 400]);
    }

    #[test]
    fn without_samples_everything_happens_at_the_start() {
        assert_eq!(Clock::new(5_000, 0).nanos_since_start(1 << 60), 0);
        assert_eq!(Clock::default().nanos_since_start(7), 0);
        assert_eq!([0, 1].map(|nanos| Clock::new(5_000, 0).turn_at(nanos)), [0, u64::MAX]);
    }

    #[test]
    fn samples_that_go_back_are_left_out() {
        let mut clock = Clock::new(5_000, 0);
        for (turn, nanos) in [(200, 6_000), (150, 7_000), (200, 7_000), (250, 5_500), (300, 7_000)] {
            clock.add(turn, nanos);
        }
        assert_eq!(clock.nanos_since_start(250), 1_500);
        assert_eq!(clock.nanos_since_start(u64::MAX), u64::MAX);
    }

    #[test]
    fn a_week_of_samples_takes_little_memory() {
        let mut clock = Clock::new(0, 0);
        for sample in 1..1_000_000u64 {
            clock.add(sample * 10, sample * 1_000);
        }
        assert!(clock.points.len() <= MAX_POINTS);
        assert_eq!(clock.nanos_since_start(5_000_005), 500_000_500);
    }
}
