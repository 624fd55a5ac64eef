//! Pages are taken apart as a browser does it, and what they say is compared with the heap.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::Value;

use super::*;
use crate::analysis::{BySite, Detail, Heap, Intervals, MmapRule, Site};
use crate::model::{Action, Clock, Event, Facts, FrameId, StackId};

/// A page as the browser has it.
struct Shown {
    header: Value,
    columns: BTreeMap<String, Vec<i64>>,
}

/// Bytes and count.
type Amounts = BTreeMap<String, (i64, i64)>;

impl Shown {
    fn new(page: &Page) -> Shown {
        let mut bytes = Vec::new();
        flate2::read::DeflateDecoder::new(page.deflated.as_slice()).read_to_end(&mut bytes).unwrap();
        let (len, rest) = bytes.split_at(4);
        let (json, mut rest) = rest.split_at(u32::from_le_bytes(len.try_into().unwrap()) as usize);
        let header: Value = serde_json::from_slice(json).unwrap();
        let mut columns = BTreeMap::new();
        for entry in header["columns"].as_array().unwrap() {
            let number = |index: usize| entry[index].as_u64().unwrap() as usize;
            let (column, behind) = rest.split_at(number(2));
            rest = behind;
            let numbers = columns::decode(column, number(1), entry[3].as_str().unwrap());
            columns.insert(entry[0].as_str().unwrap().to_owned(), numbers);
        }
        assert!(rest.is_empty());
        Shown { header, columns }
    }

    fn column(&self, name: &str) -> &[i64] {
        &self.columns[name]
    }

    /// `all;main;work` of each node.
    fn paths(&self) -> Vec<String> {
        let mut way: Vec<String> = Vec::new();
        let mut paths = Vec::new();
        for (&depth, &frame) in self.column("nodes.depth").iter().zip(self.column("nodes.frame")) {
            assert!(depth as usize <= way.len(), "a node stands behind its parent");
            way.truncate(depth as usize);
            let function = self.column("frames.function")[frame as usize];
            way.push(self.header["strings"][function as usize].as_str().unwrap().to_owned());
            paths.push(way.join(";"));
        }
        paths
    }

    fn process_of_thread(&self) -> Vec<usize> {
        let processes = self.header["processes"].as_array().unwrap().iter().enumerate();
        processes.flat_map(|(index, it)| vec![index; it["threads"].as_array().unwrap().len()]).collect()
    }

    /// The sums of the rows that count, by what `name` says of a cell.
    fn sums(&self, name: impl Fn(usize) -> String, counts: impl Fn(usize, i64, i64) -> bool) -> Amounts {
        let process_of = self.process_of_thread();
        let mut sums = Amounts::new();
        for row in 0..self.column("intervals.cell").len() {
            let at = |column: &str| self.column(column)[row];
            let cell = at("intervals.cell") as usize;
            let process = process_of[self.column("cells.thread")[cell] as usize];
            if counts(process, at("intervals.born"), at("intervals.died")) {
                let sum = sums.entry(name(cell)).or_default();
                *sum = (sum.0 + at("intervals.bytes"), sum.1 + at("intervals.count"));
            }
        }
        sums.retain(|_, sum| *sum != (0, 0));
        sums
    }

    /// Peak, leaks and churn of the whole range, as the page computes them.
    fn tabs(&self, name: impl Fn(usize) -> String + Copy) -> [Amounts; 3] {
        let n_buckets = self.header["n_buckets"].as_u64().unwrap() as usize;
        let highest = |process: usize| {
            let peaks = &self.column("buckets.peak_bytes")[process * n_buckets..][..n_buckets];
            2 * (0..n_buckets).max_by_key(|&bucket| peaks[bucket]).unwrap() as i64
        };
        let highest: Vec<i64> = (0..self.header["processes"].as_array().unwrap().len()).map(highest).collect();
        [
            self.sums(name, |process, born, died| {
                born <= highest[process] && (died == 0 || died - 1 > highest[process])
            }),
            self.sums(name, |_, _, died| died == 0),
            self.sums(name, |_, _, _| true),
        ]
    }

    fn path_of_cell(&self) -> Vec<String> {
        let paths = self.paths();
        self.column("cells.node").iter().map(|&node| paths[node as usize].clone()).collect()
    }
}

const N_STACKS: usize = 60;

/// A model of one process with stacks that branch.
fn model(pid: u32) -> Model {
    let mut clock = Clock::new(0, 0);
    clock.add(1000, 1_000_000_000);
    let facts = Facts { pid, start_unix_nanos: 1, ..Facts::default() };
    let mut model = Model::new(facts, clock);
    for number in 1..=N_STACKS {
        let frame = model.intern_frame(&format!("f{}", number % 20), "/srv/app.py", number as u32 % 20);
        model.extend_stack(StackId::from_index((number - 1) / 3), frame);
    }
    let name = model.intern("worker");
    model.process_mut().threads.appear(ThreadKey { image: 0, number: 2 }, 77, 0xa);
    model.process_mut().threads.name(ThreadKey { image: 0, number: 1 }, 0xa, name);
    model
}

/// Blocks that come and go over a second, differently for each seed.
fn events(seed: u64) -> Vec<Event> {
    let mut random = seed;
    let mut draw = move |below: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) % below
    };
    let event = |turn| {
        let address = draw(300);
        let action = if draw(3) == 0 {
            Action::Free { kind: AllocatorKind::Free, address }
        } else {
            let kind = [AllocatorKind::Malloc, AllocatorKind::PymallocMalloc][draw(2) as usize];
            let stack = StackId::from_index(draw(N_STACKS as u64 + 1) as usize);
            let largest = 1 << draw(12);
            Action::Alloc { kind, address, size: 1 + draw(largest), stack }
        };
        Event { turn, image: 0, lane: 0, thread: 1 + draw(4) as u32, action }
    };
    (0..1000).map(event).collect()
}

/// What a process has: its part, and peak, leaks and churn by the heap.
fn fold(model: &Model, events: &[Event]) -> (Part, [BySite; 3]) {
    let mut heap = Heap::new(MmapRule::Memory, Detail::Full);
    let mut intervals = Intervals::new(MmapRule::Memory, 0);
    for event in events {
        heap.take(model, event);
        intervals.take(model, event);
    }
    let part = Part { temporal: intervals.finish(model), n_events: events.len() as u64, notices: Vec::new() };
    (part, [heap.peak_by_site(), heap.end_by_site(), heap.ever_by_site()])
}

fn amounts(table: &BySite, name: impl Fn(&Site) -> String) -> Amounts {
    let mut sums = Amounts::new();
    for row in &table.rows {
        let sum = sums.entry(name(&row.site)).or_default();
        *sum = (sum.0 + row.bytes as i64, sum.1 + row.count as i64);
    }
    sums
}

fn path(model: &Model, stack: StackId) -> String {
    let mut names: Vec<&str> = model.frames_from_leaf(stack).map(|frame| model.text(frame.function)).collect();
    if names.is_empty() {
        names.push("no Python stack");
    }
    names.push("all");
    names.reverse();
    names.join(";")
}

#[test]
fn every_stack_has_what_the_heap_has() {
    let model = model(1);
    let (part, tables) = fold(&model, &events(1));
    let shown = Shown::new(&Page::new(&model, vec![part], &PageOptions::default()));
    let paths = shown.path_of_cell();
    let tabs = shown.tabs(|cell| paths[cell].clone());
    for (tab, table) in tabs.iter().zip(&tables) {
        assert_eq!(*tab, amounts(table, |site| path(&model, site.stack)));
    }
    assert_eq!(shown.header["folded"], Value::Null);
    let facts = &shown.header["processes"][0]["facts"];
    assert_eq!((facts["peak_bytes"].as_u64(), facts["events"].as_u64()), (Some(tables[0].bytes), Some(1000)));
}

#[test]
fn threads_allocators_and_sizes_can_be_told_apart() {
    let model = model(1);
    let (part, tables) = fold(&model, &events(2));
    let shown = Shown::new(&Page::new(&model, vec![part], &PageOptions::default()));
    let threads = &shown.header["processes"][0]["threads"];
    assert_eq!(threads[1], serde_json::json!({ "number": 2, "os_tid": 77, "name": "worker" }));
    let name = |cell: usize| {
        let at = |column: &str| shown.column(column)[cell] as usize;
        let allocator = shown.header["allocators"][at("cells.allocator")].as_str().unwrap();
        let bound = &shown.header["size_classes"][at("cells.size_class")];
        format!("{} {allocator} {bound}", threads[at("cells.thread")]["number"])
    };
    let tabs = shown.tabs(name);
    for (tab, table) in tabs.iter().zip(&tables) {
        let name = |site: &Site| {
            let bound = SIZE_BOUNDS[site.size_class.index()];
            format!("{} {} {bound}", site.thread.number, site.kind.name())
        };
        assert_eq!(*tab, amounts(table, name));
    }
}

#[test]
fn what_does_not_fit_is_folded_and_every_sum_stays() {
    let model = model(1);
    let mut lengths = Vec::new();
    for budget_bytes in [0, 1000, 2000, 4000, 8000, 16_000, 1_000_000] {
        let (part, tables) = fold(&model, &events(3));
        let options = PageOptions { budget_bytes, ..PageOptions::default() };
        let page = Page::new(&model, vec![part], &options);
        let shown = Shown::new(&page);
        for (tab, table) in shown.tabs(|_| "all".to_owned()).iter().zip(&tables) {
            assert_eq!(tab["all"], (table.bytes as i64, table.count as i64), "budget {budget_bytes}");
        }
        let paths = shown.paths();
        let n_named =
            paths.iter().filter(|path| !path.ends_with(";other") && !path.ends_with("no Python stack")).count();
        let folded = &shown.header["folded"];
        if folded.is_null() {
            assert_eq!(n_named, N_STACKS + 1);
        } else {
            assert_eq!(n_named + folded["nodes"].as_u64().unwrap() as usize, N_STACKS + 1, "budget {budget_bytes}");
            let of_cells = shown.path_of_cell();
            let other = shown.sums(|cell| of_cells[cell].ends_with(";other").to_string(), |_, _, _| true);
            assert_eq!(other["true"].0 as u64, folded["bytes"].as_u64().unwrap());
            assert!(folded["share"].as_f64().unwrap() > 0.0);
        }
        lengths.push((page.base64().len(), n_named, shown.header["n_buckets"].as_u64().unwrap()));
        if budget_bytes >= 4000 {
            assert!(page.base64().len() <= budget_bytes, "{lengths:?} of {budget_bytes}");
        }
    }
    assert!(lengths.is_sorted_by_key(|(_, n_named, _)| *n_named), "{lengths:?}");
    assert!(lengths[1].2 < lengths[6].2, "{lengths:?}");
}

#[test]
fn a_report_over_several_processes_is_the_sum_of_their_heaps() {
    let mut merged = model(1);
    let (first, mut tables) = fold(&merged, &events(4));
    let other = model(2);
    let (second, other_tables) = fold(&other, &events(5));
    let mut second = second;
    // The second one starts later, in longer buckets, and ends later.
    second.temporal.halve();
    second.temporal.extend(90);
    let n_stacks = other.n_stacks();
    let frame = merged.intern_frame("only in the first", "x.py", 1);
    merged.extend_stack(StackId::EMPTY, frame);
    let handles = merged.absorb(other);
    second.temporal = second.temporal.moved(&handles, 1);
    assert_eq!(n_stacks + 1, merged.n_stacks());
    for (table, other) in tables.iter_mut().zip(other_tables) {
        let moved = other.rows.into_iter().map(|mut row| {
            row.site.stack = handles.stack(row.site.stack);
            row.site.process = 1;
            row
        });
        table.rows.extend(moved);
    }
    let shown = Shown::new(&Page::new(&merged, vec![first, second], &PageOptions::default()));
    let paths = shown.path_of_cell();
    let process_of = shown.process_of_thread();
    let name = |cell: usize| format!("{} {}", process_of[shown.column("cells.thread")[cell] as usize], paths[cell]);
    for (tab, table) in shown.tabs(name).iter().zip(&tables) {
        assert_eq!(*tab, amounts(table, |site| format!("{} {}", site.process, path(&merged, site.stack))));
    }
    assert_eq!(shown.column("buckets.rss").len() as u64, 2 * shown.header["n_buckets"].as_u64().unwrap());
}

#[test]
fn points_on_the_time_line_and_the_least_share_are_what_was_asked_for() {
    let model = model(1);
    let (part, tables) = fold(&model, &events(6));
    assert_eq!(part.temporal.buckets.len(), 101);
    let options = PageOptions { max_buckets: 30, least_share: 0.05, ..PageOptions::default() };
    let shown = Shown::new(&Page::new(&model, vec![part], &options));
    assert_eq!(shown.header["n_buckets"], 26);
    assert_eq!(shown.header["bucket_nanos"], 40_000_000);
    let folded = &shown.header["folded"];
    assert!(folded["share"].as_f64().unwrap() < 0.05, "{folded}");
    assert_eq!(shown.header["limits"]["threshold"], 0.05);
    for (tab, table) in shown.tabs(|_| String::new()).iter().zip(&tables) {
        assert_eq!(tab[""], (table.bytes as i64, table.count as i64));
    }
}

#[test]
fn temporary_allocations_are_a_page_of_their_own_with_the_time_line_of_the_heap() {
    let model = model(1);
    let (mut part, [peak, _, ever]) = fold(&model, &events(7));
    part.temporal = part.temporal.with_table(&ever);
    let options = PageOptions {
        open: Open { tab: Tab::Temporary, ..Open::default() },
        temporary_threshold: Some(3),
        max_buckets: 10,
        ..PageOptions::default()
    };
    let shown = Shown::new(&Page::new(&model, vec![part], &options));
    assert_eq!(shown.header["tabs"], serde_json::json!(["temporary"]));
    assert_eq!((&shown.header["temporary_threshold"], &shown.header["open"]["tab"]), (&3.into(), &"temporary".into()));
    let paths = shown.path_of_cell();
    let sums = shown.sums(|cell| paths[cell].clone(), |_, born, died| (born, died) == (0, 1));
    assert_eq!(sums, amounts(&ever, |site| path(&model, site.stack)));
    assert_eq!(shown.column("buckets.peak_bytes").iter().max(), Some(&(peak.bytes as i64)));
}

#[test]
fn nothing_allocated_is_a_lone_root() {
    let model = Model::default();
    let (part, _) = fold(&model, &[]);
    let shown = Shown::new(&Page::new(&model, vec![part], &PageOptions::default()));
    assert_eq!(shown.paths(), ["all"]);
    assert_eq!(shown.column("intervals.cell").len(), 0);
}

/// Many stacks with distinct long names, each with an allocation of its own.
#[test]
fn many_stacks_with_long_names_stay_within_the_budget() {
    let mut model = Model::default();
    let mut stacks = vec![StackId::EMPTY];
    for n in 0..30_000usize {
        let name: String = (0..300).map(|at| char::from(b'a' + (n * (at + 7) / 3 % 26) as u8)).collect();
        let frame: FrameId = model.intern_frame(&name, &format!("/srv/{}/{}.py", "folder".repeat(20), n % 1000), 1);
        stacks.push(model.extend_stack(stacks[n / 3], frame));
    }
    let events: Vec<Event> = stacks
        .iter()
        .zip(0..)
        .map(|(&stack, n)| {
            let action = Action::Alloc { kind: AllocatorKind::Malloc, address: n, size: 1 + n % 977, stack };
            Event { turn: n, image: 0, lane: 0, thread: 1 + (n % 3000) as u32, action }
        })
        .collect();
    let (part, [peak, ..]) = fold(&model, &events);
    let options = PageOptions { budget_bytes: 300_000, ..PageOptions::default() };
    let page = Page::new(&model, vec![part], &options);
    let len = page.base64().len();
    assert!((150_000..300_000).contains(&len), "{len} characters");
    let shown = Shown::new(&page);
    assert_eq!(shown.tabs(|_| String::new())[0][""], (peak.bytes as i64, peak.count as i64));
    let threads = shown.header["processes"][0]["threads"].as_array().unwrap();
    assert!(threads.len() <= 1001 && threads[threads.len() - 1]["name"] == "other threads");
}
