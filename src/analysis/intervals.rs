//! When memory was there: by site, how much was allocated in which segment of time and given back in which. Peak,
//! leaks and churn of the whole capture and of any range of it can be read off the result.
//!
//! Time is cut into buckets of equal length, and each bucket into two segments: up to the moment of its highest heap,
//! and after it. Which of the two a moment is in is known only when the bucket ends. So the maxima of a bucket are
//! counted (its start is number 0), each block knows how many there were when it came, and what is counted for the
//! second segment moves to the first when it is touched after a further maximum.
//!
//! Memory is bounded by live blocks and distinct sites: when there are too many buckets, or too many rows for the
//! sites, each two buckets become one.

use std::ops::RangeInclusive;

use hashbrown::HashMap;
use memtrace_format::AllocatorKind;

use super::live::{Change, Live};
use super::mappings::{Class, MmapRule};
use super::sites::{BySite, Detail, Site, SiteId, SiteRow, Sites};
use crate::model::{Action, Event, Handles, Model};

/// The fold.
pub struct Intervals {
    live: Live<Tag>,
    sites: Sites,
    limits: Limits,
    /// When the capture began, on the time line of all captures of the report.
    offset_nanos: u64,
    /// What has ended; the open bucket comes behind its last.
    done: Temporal,
    /// By bucket that has ended: its maxima.
    n_maxima: Vec<u32>,
    open: Open,
    cohorts: Vec<Cohort>,
    /// By site: its cohort of the open bucket, if that is what stands there.
    latest: Vec<u32>,
    /// Where buckets end, when that is not every so many nanoseconds.
    samples: Option<Samples>,
}

/// Buckets end at samples of the resident set, the first and then every so many-th.
struct Samples {
    stride: usize,
    n_seen: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub buckets: usize,
    pub rows: usize,
}

/// About 100 MB.
pub(super) const LIMITS: Limits = Limits { buckets: 512, rows: 4 << 20 };
/// Rows that each site may have however many sites there are.
const ROWS_OF_A_SITE: usize = 4;
/// The launcher samples no more often, and so this is how well time is known.
const SHORTEST_BUCKET_NANOS: u64 = 10_000_000;

/// Segments have 16 bits, two to a bucket.
pub const MAX_SAMPLED_BUCKETS: usize = 32_000;

/// 146 years. A later time comes from a damaged capture.
const LONGEST_NANOS: u64 = 1 << 62;

/// What a live block knows of its beginning.
#[derive(Clone, Copy)]
struct Tag {
    cohort: u32,
    /// Maxima of its bucket before it came. It came after the bucket's peak if there was no further one.
    n_maxima: u32,
}

/// What a site allocated in one bucket.
#[derive(Clone, Copy)]
struct Cohort {
    site: SiteId,
    bucket: u16,
    chunk: Chunk,
    /// Its place in [`Open::deaths`], if it stands there.
    deaths: u32,
}

/// The bucket that has not ended.
#[derive(Default)]
struct Open {
    bucket: u16,
    /// The first turn that is not in it.
    until_turn: u64,
    n_maxima: u32,
    peak_bytes: u64,
    peak_turn: u64,
    rss_bytes: u64,
    bytes: u64,
    slack_bytes: u64,
    /// What objects take in pymalloc's arenas.
    object_bytes: u64,
    deaths: Vec<Deaths>,
    turn: u64,
    has_begun: bool,
}

/// What died of a cohort in the open bucket.
struct Deaths {
    cohort: u32,
    /// Of which maximum the second segment is the one after.
    n_maxima: u32,
    /// By segment of birth and segment of death.
    amounts: [[Amount; 2]; 2],
}

/// Signed: what comes back (a failed `realloc`, the rest of a mapping that was cut) is taken off what has gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    pub bytes: i64,
    pub count: i64,
}

/// What becomes of a block in memory beside its bytes, to estimate what allocators keep.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Glibc,
    Pymalloc,
    /// A mapping, which has no more than its pages.
    Pages,
}

/// The heap over time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Temporal {
    pub bucket_nanos: u64,
    pub buckets: Vec<Bucket>,
    pub sites: Vec<Site>,
    /// In the order of site, birth and death, each of these once.
    pub rows: Vec<IntervalRow>,
}

/// Blocks of a site that came in one segment and went in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntervalRow {
    /// Index among the sites.
    pub site: u32,
    /// Segments `2b` and `2b + 1` are those of bucket `b`.
    pub born: u16,
    /// 0: never given back. Else 1 + the segment.
    pub died: u16,
    pub amount: Amount,
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// The highest heap, with that at the bucket's start.
    pub peak_bytes: u64,
    /// When, since the bucket's start; the last time of several.
    pub peak_nanos: u64,
    /// The heap at its end.
    pub end_bytes: u64,
    /// The highest sample of the resident set; 0 without one.
    pub rss_bytes: u64,
    pub at_end: Overhead,
}

/// What memory is for beside what was asked for. Slack and arenas are estimates from the sizes of live blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overhead {
    /// What allocators keep beside each block: glibc has chunks of a multiple of 16 bytes, at least 32, with a header
    /// of 8; pymalloc has classes of 16 bytes up to 512, and asks glibc for what is larger.
    pub slack_bytes: u64,
    /// Of pymalloc's arenas, what is in no live object. Known where Python objects are recorded.
    pub arena_bytes: u64,
    /// Mapped files.
    pub file_bytes: u64,
    /// Address space without memory behind it.
    pub reserved_bytes: u64,
}

impl Intervals {
    /// `offset_nanos` is when the capture began, counted from the beginning of the first of a report.
    pub fn new(rule: MmapRule, offset_nanos: u64) -> Intervals {
        Intervals::with_limits(rule, offset_nanos, LIMITS)
    }

    pub(super) fn with_limits(rule: MmapRule, offset_nanos: u64, limits: Limits) -> Intervals {
        Intervals {
            live: Live::new(rule),
            sites: Sites::new(Detail::Full),
            limits,
            offset_nanos,
            done: Temporal::default(),
            n_maxima: Vec::new(),
            open: Open::default(),
            cohorts: Vec::new(),
            latest: Vec::new(),
            samples: None,
        }
    }

    /// With buckets that end at samples of the resident set, the first and then every `stride`-th of them, however many
    /// there are: at most [`MAX_SAMPLED_BUCKETS`].
    pub fn between_samples(rule: MmapRule, stride: usize) -> Intervals {
        let limits = Limits { buckets: usize::MAX, rows: usize::MAX };
        let mut intervals = Intervals::with_limits(rule, 0, limits);
        intervals.samples = Some(Samples { stride: stride.max(1), n_seen: 0 });
        // Such a bucket has no length.
        intervals.done.bucket_nanos = 1;
        intervals.open.has_begun = true;
        intervals.open.until_turn = u64::MAX;
        intervals
    }

    /// Takes events that follow each other; faster than one by one.
    pub fn take_all(&mut self, model: &Model, events: &[Event]) {
        for (index, event) in events.iter().enumerate() {
            self.live.look_ahead(events, index);
            self.take(model, event);
        }
    }

    #[inline]
    pub fn take(&mut self, model: &Model, event: &Event) {
        if event.turn >= self.open.until_turn && self.samples.is_none() {
            self.advance(model, event.turn);
        }
        let tag = match event.action {
            Action::Alloc { .. } | Action::Mmap { .. } | Action::Mremap { .. } => self.tag(event),
            Action::Rss { bytes, .. } => {
                self.open.rss_bytes = self.open.rss_bytes.max(bytes);
                if self.samples.as_mut().is_some_and(Samples::ends_bucket)
                    && self.done.buckets.len() < MAX_SAMPLED_BUCKETS
                {
                    self.close(model);
                }
                return;
            }
            _ => Tag { cohort: 0, n_maxima: 0 },
        };
        let Intervals { live, open, cohorts, n_maxima, .. } = self;
        open.turn = event.turn;
        live.apply(model, event, tag, &mut |change| match change {
            Change::Allocated(holding, _) => {
                open.add(cohorts[holding.tag.cohort as usize].chunk, holding.bytes);
                open.look_for_peak();
            }
            Change::Restored(holding) | Change::Remains(holding) => {
                let cohort = &mut cohorts[holding.tag.cohort as usize];
                open.died(holding.tag, cohort, n_maxima, -(holding.bytes as i64), -1);
                open.add(cohort.chunk, holding.bytes);
                open.look_for_peak();
            }
            Change::Freed(holding) | Change::Vanished(holding) => {
                let cohort = &mut cohorts[holding.tag.cohort as usize];
                open.died(holding.tag, cohort, n_maxima, holding.bytes as i64, 1);
                open.subtract(cohort.chunk, holding.bytes);
                // As for `Heap`: an empty block has gone, and the heap is as high as before.
                if holding.bytes == 0 && matches!(change, Change::Freed(_)) {
                    open.look_for_peak();
                }
            }
        });
    }

    /// Allocations at an address that was alive already: frees that were missed.
    pub fn n_missed_frees(&self) -> u64 {
        self.live.n_replaced
    }

    /// What it comes to. Call it once, after the last event.
    pub fn finish(mut self, model: &Model) -> Temporal {
        if self.samples.is_none() {
            self.begin(model);
            self.close_until(model, on_time_line(self.offset_nanos, duration_nanos(model)));
        }
        self.close(model);
        let Intervals { live, sites, mut done, n_maxima, cohorts, .. } = self;
        let rows = &mut done.rows;
        live.for_each(&mut |holding| {
            let cohort = &cohorts[holding.tag.cohort as usize];
            let born = segment(cohort.bucket, holding.tag.n_maxima >= n_maxima[cohort.bucket as usize]);
            let amount = Amount { bytes: holding.bytes as i64, count: 1 };
            rows.push(IntervalRow { site: cohort.site.index() as u32, born, died: 0, amount });
        });
        done.sum_up();
        done.sites = sites.all().collect();
        done
    }

    #[inline]
    fn tag(&mut self, event: &Event) -> Tag {
        let site = self.sites.of(event);
        if site.index() >= self.latest.len() {
            self.latest.resize(site.index() + 1, u32::MAX);
        }
        let latest = self.latest[site.index()];
        let known = self.cohorts.get(latest as usize).filter(|cohort| cohort.bucket == self.open.bucket);
        let cohort = if known.is_some_and(|cohort| cohort.site == site) {
            latest
        } else {
            let cohort = u32::try_from(self.cohorts.len()).expect("rows are merged long before there are so many");
            let chunk = Chunk::of(self.sites.get(site).kind);
            self.cohorts.push(Cohort { site, bucket: self.open.bucket, chunk, deaths: u32::MAX });
            self.latest[site.index()] = cohort;
            cohort
        };
        Tag { cohort, n_maxima: self.open.n_maxima }
    }

    /// Chooses how long buckets are, before the first event.
    fn begin(&mut self, model: &Model) {
        if self.open.has_begun {
            return;
        }
        self.open.has_begun = true;
        let end_nanos = on_time_line(self.offset_nanos, duration_nanos(model));
        // All captures have buckets of such a length, so that those of one are easily made as long as another's.
        let mut bucket_nanos = SHORTEST_BUCKET_NANOS;
        while end_nanos / bucket_nanos + 1 >= self.limits.buckets as u64 {
            bucket_nanos *= 2;
        }
        self.done.bucket_nanos = bucket_nanos;
    }

    /// Goes on to the bucket of a turn.
    #[inline(never)]
    fn advance(&mut self, model: &Model, turn: u64) {
        self.begin(model);
        let now_nanos = on_time_line(self.offset_nanos, model.process().clock.nanos_since_start(turn));
        self.close_until(model, now_nanos);
        let end_nanos = self.end_nanos().saturating_sub(self.offset_nanos);
        self.open.until_turn = first_turn_at(model, turn, end_nanos);
    }

    fn close_until(&mut self, model: &Model, now_nanos: u64) {
        while now_nanos >= self.end_nanos() {
            self.close(model);
        }
    }

    /// Where the open bucket ends.
    fn end_nanos(&self) -> u64 {
        (self.open.bucket as u64 + 1).saturating_mul(self.done.bucket_nanos)
    }

    /// Ends the open bucket and begins the next.
    fn close(&mut self, model: &Model) {
        let open = &mut self.open;
        for deaths in &mut open.deaths {
            let cohort = &self.cohorts[deaths.cohort as usize];
            deaths.settle(open.n_maxima, cohort.bucket == open.bucket);
            for (born_after, by_death) in deaths.amounts.iter().enumerate() {
                for (died_after, &amount) in by_death.iter().enumerate() {
                    if amount != Amount::default() {
                        let born = segment(cohort.bucket, born_after == 1);
                        let died = 1 + segment(open.bucket, died_after == 1);
                        self.done.rows.push(IntervalRow { site: cohort.site.index() as u32, born, died, amount });
                    }
                }
            }
        }
        open.deaths.clear();
        let start_nanos = open.bucket as u64 * self.done.bucket_nanos;
        let peak_nanos = match open.n_maxima {
            0 => 0,
            _ => on_time_line(self.offset_nanos, model.process().clock.nanos_since_start(open.peak_turn)),
        };
        let mapped = |class| self.live.mapped_bytes(class);
        self.done.buckets.push(Bucket {
            peak_bytes: open.peak_bytes,
            peak_nanos: peak_nanos.saturating_sub(start_nanos).min(self.done.bucket_nanos - 1),
            end_bytes: open.bytes,
            rss_bytes: open.rss_bytes,
            at_end: Overhead {
                slack_bytes: open.slack_bytes,
                arena_bytes: mapped(Class::Arena).saturating_sub(open.object_bytes),
                file_bytes: mapped(Class::File),
                reserved_bytes: mapped(Class::Reserved),
            },
        });
        self.n_maxima.push(open.n_maxima);
        (open.n_maxima, open.rss_bytes, open.peak_bytes) = (0, 0, open.bytes);
        open.bucket += 1;
        while self.is_too_much() {
            self.halve();
        }
    }

    fn is_too_much(&self) -> bool {
        let n_rows = self.done.rows.len() + self.cohorts.len();
        let n_buckets = self.open.bucket as usize;
        let max_rows = self.limits.rows.max(ROWS_OF_A_SITE * self.sites.count());
        // Pairs only: the open bucket has not begun.
        n_buckets.is_multiple_of(2) && n_buckets > 0 && (n_buckets >= self.limits.buckets || n_rows > max_rows)
    }

    /// Makes each two buckets one, and forgets cohorts that nothing is left of.
    fn halve(&mut self) {
        let segments = self.done.halve();
        self.open.bucket /= 2;
        let Intervals { live, n_maxima, cohorts, .. } = self;
        let mut merged: Vec<Cohort> = Vec::new();
        let mut numbers: HashMap<(SiteId, u16), u32> = HashMap::new();
        live.retag(&mut |tag: Tag| {
            let old = cohorts[tag.cohort as usize];
            let is_after = tag.n_maxima >= n_maxima[old.bucket as usize];
            let segment = segments[segment(old.bucket, is_after) as usize];
            let cohort = *numbers.entry((old.site, segment / 2)).or_insert_with(|| {
                merged.push(Cohort { bucket: segment / 2, deaths: u32::MAX, ..old });
                merged.len() as u32 - 1
            });
            Tag { cohort, n_maxima: u32::from(segment % 2) }
        });
        self.cohorts = merged;
        // What came before the peak has the number 0 now, and what came after it 1.
        self.n_maxima = vec![1; self.open.bucket as usize];
        self.latest.clear();
    }
}

impl Samples {
    /// Whether the sample that comes now ends a bucket.
    fn ends_bucket(&mut self) -> bool {
        let ends = self.n_seen.is_multiple_of(self.stride);
        self.n_seen += 1;
        ends
    }
}

/// When something happened, counted from the beginning of the report's first capture.
fn on_time_line(offset_nanos: u64, nanos_since_start: u64) -> u64 {
    offset_nanos.saturating_add(nanos_since_start).min(LONGEST_NANOS)
}

/// When the capture ended, as far as is known before it is read.
fn duration_nanos(model: &Model) -> u64 {
    let end = model.process().facts.end.map_or(0, |end| model.process().clock.since_start(end.mono_nanos));
    end.max(model.process().clock.last_nanos())
}

/// The first turn behind `turn` at which the clock has come to `nanos`.
fn first_turn_at(model: &Model, turn: u64, nanos: u64) -> u64 {
    let (mut before, mut step) = (turn, 1u64);
    // Turns are as many as there are, so the search begins nearby.
    while model.process().clock.nanos_since_start(before.saturating_add(step)) < nanos {
        before = before.saturating_add(step);
        step = step.saturating_mul(2);
        if before == u64::MAX {
            return u64::MAX;
        }
    }
    let mut from = before.saturating_add(step);
    while from - before > 1 {
        let middle = before + (from - before) / 2;
        if model.process().clock.nanos_since_start(middle) < nanos { before = middle } else { from = middle }
    }
    from
}

fn segment(bucket: u16, is_after_peak: bool) -> u16 {
    2 * bucket + u16::from(is_after_peak)
}

impl Open {
    #[inline]
    fn add(&mut self, chunk: Chunk, bytes: u64) {
        self.bytes += bytes;
        self.slack_bytes += chunk.len(bytes) - bytes;
        self.object_bytes += chunk.len_in_arena(bytes);
    }

    #[inline]
    fn subtract(&mut self, chunk: Chunk, bytes: u64) {
        self.bytes -= bytes;
        self.slack_bytes -= chunk.len(bytes) - bytes;
        self.object_bytes -= chunk.len_in_arena(bytes);
    }

    #[inline]
    fn look_for_peak(&mut self) {
        // A block knows its number with 32 bits; a bucket with as many maxima has its peak there.
        if self.bytes >= self.peak_bytes && self.n_maxima < u32::MAX {
            self.peak_bytes = self.bytes;
            self.peak_turn = self.turn;
            self.n_maxima += 1;
        }
    }

    #[inline]
    fn died(&mut self, tag: Tag, cohort: &mut Cohort, n_maxima: &[u32], bytes: i64, count: i64) {
        let is_own = cohort.bucket == self.bucket;
        let n_maxima_of_birth = if is_own { self.n_maxima } else { n_maxima[cohort.bucket as usize] };
        let is_known = self.deaths.get(cohort.deaths as usize).is_some_and(|deaths| deaths.cohort == tag.cohort);
        if !is_known {
            cohort.deaths = self.deaths.len() as u32;
            let amounts = Default::default();
            self.deaths.push(Deaths { cohort: tag.cohort, n_maxima: self.n_maxima, amounts });
        }
        let deaths = &mut self.deaths[cohort.deaths as usize];
        deaths.settle(self.n_maxima, is_own);
        let amount = &mut deaths.amounts[usize::from(tag.n_maxima >= n_maxima_of_birth)][1];
        amount.bytes += bytes;
        amount.count += count;
    }
}

impl Deaths {
    /// After a further maximum, what died before it has died in the first segment; and what was born in the same
    /// bucket was born in the first.
    #[inline]
    fn settle(&mut self, n_maxima: u32, is_own: bool) {
        if self.n_maxima == n_maxima {
            return;
        }
        self.n_maxima = n_maxima;
        for born_after in 0..2 {
            let amount = std::mem::take(&mut self.amounts[born_after][1]);
            self.amounts[if is_own { 0 } else { born_after }][0] += amount;
        }
    }
}

impl std::ops::AddAssign for Amount {
    fn add_assign(&mut self, other: Amount) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.count += other.count;
    }
}

impl Chunk {
    fn of(kind: AllocatorKind) -> Chunk {
        use AllocatorKind::*;
        match kind {
            PymallocMalloc | PymallocCalloc | PymallocRealloc => Chunk::Pymalloc,
            Mmap => Chunk::Pages,
            _ => Chunk::Glibc,
        }
    }

    /// About what a block takes.
    #[inline]
    fn len(self, bytes: u64) -> u64 {
        match self {
            Chunk::Pages => bytes,
            Chunk::Pymalloc if bytes <= LARGEST_OBJECT => bytes.max(1).next_multiple_of(16),
            Chunk::Pymalloc | Chunk::Glibc => (bytes + 8).next_multiple_of(16).max(32),
        }
    }

    #[inline]
    fn len_in_arena(self, bytes: u64) -> u64 {
        if self == Chunk::Pymalloc && bytes <= LARGEST_OBJECT { self.len(bytes) } else { 0 }
    }
}

/// `SMALL_REQUEST_THRESHOLD` of CPython's `Objects/obmalloc.c`.
const LARGEST_OBJECT: u64 = 512;

impl Temporal {
    /// The sites that held memory at the highest moment of a range of buckets; the last of several.
    pub fn peak(&self, range: RangeInclusive<usize>) -> BySite {
        self.highest(range).map_or_else(BySite::default, |bucket| self.alive(2 * bucket))
    }

    /// What was allocated in a range of buckets and was still there at its end.
    pub fn leaks(&self, range: RangeInclusive<usize>) -> BySite {
        let (first, last) = (2 * range.start(), 2 * range.end() + 1);
        self.sum(|row| (first..=last).contains(&(row.born as usize)) && row.is_alive_after(last))
    }

    /// Everything that was allocated in a range of buckets.
    pub fn churn(&self, range: RangeInclusive<usize>) -> BySite {
        let (first, last) = (2 * range.start(), 2 * range.end() + 1);
        self.sum(|row| (first..=last).contains(&(row.born as usize)))
    }

    /// All buckets.
    pub fn whole(&self) -> RangeInclusive<usize> {
        0..=self.buckets.len().saturating_sub(1)
    }

    /// What is there when a segment ends.
    pub fn alive(&self, segment: usize) -> BySite {
        self.sum(|row| row.born as usize <= segment && row.is_alive_after(segment))
    }

    /// Its time line with another table in the place of the rows: each of its sites at once, in the first segment, as
    /// what was given back as soon as it was allocated.
    pub fn with_table(mut self, table: &BySite) -> Temporal {
        self.sites = table.rows.iter().map(|row| row.site).collect();
        let amount = |row: &SiteRow| Amount { bytes: row.bytes as i64, count: row.count as i64 };
        let rows = table.rows.iter().zip(0..);
        self.rows = rows.map(|(row, site)| IntervalRow { site, born: 0, died: 1, amount: amount(row) }).collect();
        self
    }

    /// Its buckets alone.
    pub fn without_rows(&self) -> Temporal {
        Temporal { bucket_nanos: self.bucket_nanos, buckets: self.buckets.clone(), ..Temporal::default() }
    }

    /// The same of a model that has absorbed the one it was made with, as the process with that number.
    pub fn moved(mut self, handles: &Handles, process: u16) -> Temporal {
        for site in &mut self.sites {
            site.stack = handles.stack(site.stack);
            site.process = process;
        }
        self
    }

    /// The bucket with the highest heap of a range, the last of several; `None` of nothing.
    pub fn highest(&self, range: RangeInclusive<usize>) -> Option<usize> {
        let buckets = range.filter(|&bucket| bucket < self.buckets.len());
        buckets.max_by_key(|&bucket| self.buckets[bucket].peak_bytes)
    }

    /// Adds buckets in which nothing happens, up to so many.
    pub fn extend(&mut self, n_buckets: usize) {
        let last = self.buckets.last().copied().unwrap_or_default();
        let quiet = Bucket { peak_bytes: last.end_bytes, peak_nanos: 0, rss_bytes: 0, ..last };
        self.buckets.resize(n_buckets.max(self.buckets.len()), quiet);
    }

    /// Makes each two buckets one; a last one without a partner gets an empty one. Returns what became of the
    /// segments.
    pub fn halve(&mut self) -> Vec<u16> {
        if !self.buckets.len().is_multiple_of(2) {
            self.extend(self.buckets.len() + 1);
        }
        let mut segments = Vec::with_capacity(2 * self.buckets.len());
        let mut merged = Vec::with_capacity(self.buckets.len() / 2);
        for (number, [first, second]) in self.buckets.as_chunks::<2>().0.iter().enumerate() {
            let number = number as u16;
            let is_second = second.peak_bytes >= first.peak_bytes;
            let until_second = segment(number, !is_second);
            segments.extend([segment(number, false), until_second, until_second, segment(number, true)]);
            let peak = if is_second { second } else { first };
            let second_nanos = if is_second { self.bucket_nanos } else { 0 };
            merged.push(Bucket {
                peak_bytes: peak.peak_bytes,
                peak_nanos: peak.peak_nanos + second_nanos,
                rss_bytes: first.rss_bytes.max(second.rss_bytes),
                ..*second
            });
        }
        self.buckets = merged;
        self.bucket_nanos = self.bucket_nanos.saturating_mul(2);
        for row in &mut self.rows {
            row.born = segments[row.born as usize];
            row.died = if row.died == 0 { 0 } else { 1 + segments[row.died as usize - 1] };
        }
        self.sum_up();
        segments
    }

    /// Sorts rows, makes those that agree one, and drops what has come to nothing.
    fn sum_up(&mut self) {
        self.rows.sort_unstable_by_key(|row| (row.site, row.born, row.died));
        self.rows.dedup_by(|row, sum| {
            let is_same = (row.site, row.born, row.died) == (sum.site, sum.born, sum.died);
            if is_same {
                sum.amount += row.amount;
            }
            is_same
        });
        self.rows.retain(|row| row.amount != Amount::default());
    }

    fn sum(&self, counts: impl Fn(&IntervalRow) -> bool) -> BySite {
        let mut sums = vec![Amount::default(); self.sites.len()];
        for row in self.rows.iter().filter(|row| counts(row)) {
            sums[row.site as usize] += row.amount;
        }
        let rows = self.sites.iter().zip(sums).filter(|(_, sum)| sum.count > 0);
        let mut rows: Vec<SiteRow> = rows
            .map(|(&site, sum)| SiteRow { site, bytes: sum.bytes.max(0) as u64, count: sum.count as u64 })
            .collect();
        rows.sort_unstable_by_key(|row| row.site);
        BySite::new(rows, None)
    }
}

impl IntervalRow {
    /// Whether it is still there when a segment ends, if it was there.
    pub fn is_alive_after(&self, segment: usize) -> bool {
        self.died == 0 || self.died as usize - 1 > segment
    }
}
