//! Flame graphs as SVG, drawn by inferno: of one snapshot, with our colours, and of the difference of two, red where
//! there is more and blue where there is less.
//!
//! Stacks too small to be drawn are given to their callers before anything is written down, so that the picture stays
//! small whatever the capture holds, and looks the same. Inverted, what allocated comes first, and what is too small
//! goes to what it called.

use std::collections::BTreeMap;
use std::io::{Error, Result, Write};

use inferno::flamegraph::color::{BackgroundColor, Color, PaletteMap};
use inferno::flamegraph::{self, Direction, Options};

use super::origin::{self, Kind};
use super::table::thread_name;
use super::transform::{NO_STACK, folded, frame_text, one_frame};
use crate::analysis::diff::Change;
use crate::analysis::{BySite, Row, Snapshot};
use crate::model::{FrameId, Model, StackId, ThreadKey};

/// What the width of a frame stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Allocations,
}

pub struct SvgOptions<'a> {
    pub title: &'a str,
    pub unit: Unit,
    /// Begins with what allocated, and its callers hang below.
    pub is_inverted: bool,
    /// What has less than this share of everything is given to its neighbour.
    pub least_share: f64,
}

/// Stacks under a frame of their own, or under none.
pub struct Group {
    pub name: Option<String>,
    pub snapshot: Snapshot,
}

/// A group for each thread.
pub fn by_thread(model: &Model, answer: &BySite) -> Vec<Group> {
    let mut threads: BTreeMap<(u16, ThreadKey), Vec<Row>> = BTreeMap::new();
    for row in &answer.rows {
        let rows = threads.entry((row.site.process, row.site.thread)).or_default();
        rows.push(Row { stack: row.site.stack, bytes: row.bytes, count: row.count });
    }
    let group = |((process, key), rows)| {
        let name = one_frame(&thread_name(model, process, key));
        Group { name: Some(name), snapshot: Snapshot::summed(rows, None) }
    };
    threads.into_iter().map(group).collect()
}

/// What of the whole is drawn at least; inferno leaves out what is smaller.
const SMALLEST_PERCENT: f64 = 0.01;

/// Where the stacks below that go which nothing called.
const SMALL: &str = "<small stacks>";

/// A flame graph that hangs from the top.
pub fn write(model: &Model, groups: &[Group], options: &SvgOptions, out: &mut dyn Write) -> Result<()> {
    let mut palette = palette(model);
    for name in groups.iter().flat_map(|group| &group.name) {
        palette.insert(name.as_str(), colour(Kind::Root));
    }
    let lines = group_lines(model, groups, options);
    let mut look = look(options);
    look.palette_map = Some(&mut palette);
    draw(&mut look, &lines, out)
}

fn group_lines(model: &Model, groups: &[Group], options: &SvgOptions) -> Vec<String> {
    let amounts = |row: &Row| match options.unit {
        Unit::Bytes => [row.bytes],
        Unit::Allocations => [row.count],
    };
    let rows = |group: &Group| -> Vec<_> { group.snapshot.rows.iter().map(|row| (row.stack, amounts(row))).collect() };
    let whole = groups
        .iter()
        .flat_map(|group| &group.snapshot.rows)
        .map(amounts)
        .fold(0u64, |sum, [amount]| sum.saturating_add(amount));
    let smallest = [whole as f64 * options.least_share.max(SMALLEST_PERCENT / 100.0)];
    let of_group = |group: &Group| {
        let lines = match options.is_inverted {
            false => lines(model, rows(group), smallest),
            true => inverted_lines(model, rows(group), smallest),
        };
        let under = |line: String| match &group.name {
            Some(name) => format!("{name};{line}"),
            None => line,
        };
        lines.into_iter().map(under).collect::<Vec<String>>()
    };
    groups.iter().flat_map(of_group).collect()
}

/// The difference of two snapshots. Frames are as wide as in the new one.
pub fn write_diff(
    model: &Model,
    stacks: &[(StackId, Change)],
    options: &SvgOptions,
    out: &mut dyn Write,
) -> Result<()> {
    let rows = stacks.iter().map(|&(stack, change)| match options.unit {
        Unit::Bytes => (stack, [change.base_bytes, change.new_bytes]),
        Unit::Allocations => (stack, [change.base_count, change.new_count]),
    });
    let rows: Vec<_> = rows.collect();
    let mut whole = [0; 2];
    rows.iter().for_each(|&(_, amounts)| add(&mut whole, amounts));
    let lines = lines(model, rows, whole.map(|whole| whole as f64 * SMALLEST_PERCENT / 100.0));
    draw(&mut look(options), &lines, out)
}

fn look<'a>(options: &SvgOptions) -> Options<'a> {
    let mut look = Options::default();
    look.title = options.title.to_string();
    look.count_name = match options.unit {
        Unit::Bytes => "bytes",
        Unit::Allocations => "allocations",
    }
    .to_string();
    look.direction = Direction::Inverted;
    look.min_width = SMALLEST_PERCENT;
    look.bgcolors = Some(BackgroundColor::Flat(Color { r: 255, g: 255, b: 255 }));
    // The same capture gives the same file.
    look.deterministic = true;
    look
}

fn draw(look: &mut Options, lines: &[String], out: &mut dyn Write) -> Result<()> {
    if lines.iter().all(|line| line.ends_with(" 0")) {
        // Inferno has nothing to say about nothing. In a difference, that is what the new one has.
        let picture = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"600\" height=\"60\" font-family=\"sans-serif\">\
                       <text x=\"20\" y=\"36\">Nothing was allocated</text></svg>";
        return writeln!(out, "{picture}");
    }
    flamegraph::from_lines(look, lines.iter().map(String::as_str), out).map_err(Error::other)
}

/// Folded stacks with one amount, or with two, of those that are large enough to be drawn.
fn lines<const N: usize>(model: &Model, rows: Vec<(StackId, [u64; N])>, smallest: [f64; N]) -> Vec<String> {
    let mut own = vec![[0u64; N]; model.n_stacks()];
    for (stack, amounts) in rows {
        add(&mut own[stack.index()], amounts);
    }
    let without_stack = own[0];
    let mut sums = own.clone();
    // Parents have smaller numbers, so from the back every sum is complete when it is asked for.
    for index in (1..own.len()).rev() {
        let parent = model.parent(StackId::from_index(index)).index();
        let sum = sums[index];
        add(&mut sums[parent], sum);
        if is_small(sum, smallest) {
            let given = std::mem::replace(&mut own[index], [0; N]);
            add(&mut own[parent], given);
        }
    }
    let mut small = own[0];
    small.iter_mut().zip(without_stack).for_each(|(small, without_stack)| *small -= without_stack);
    let stacks = own.iter().enumerate().skip(1);
    let stacks = stacks.filter(|(_, amounts)| **amounts != [0; N]);
    let stacks = stacks.map(|(index, amounts)| (folded::stack_text(model, StackId::from_index(index)), *amounts));
    let others = [(NO_STACK, without_stack), (SMALL, small)];
    let others = others.into_iter().filter(|(_, amounts)| *amounts != [0; N]);
    in_order(stacks.chain(others.map(|(name, amounts)| (name.to_string(), amounts))))
}

/// The same with each stack from its innermost frame. Their tree can be far larger than that of the stacks, so what is
/// small is left out before it is made.
fn inverted_lines<const N: usize>(model: &Model, rows: Vec<(StackId, [u64; N])>, smallest: [f64; N]) -> Vec<String> {
    /// A way inwards to the frame that allocated.
    struct Way {
        frame: FrameId,
        callee: Option<usize>,
    }
    let text = |ways: &[Way], end: usize| {
        let next = |way: &usize| ways[*way].callee;
        let frames = std::iter::successors(Some(end), next).map(|way| frame_text(model, model.frame(ways[way].frame)));
        let mut frames: Vec<String> = frames.collect();
        frames.reverse();
        frames.join(";")
    };
    let (mut ways, mut found): (Vec<Way>, Vec<(String, [u64; N])>) = (Vec::new(), Vec::new());
    // Each with the stacks that are left of those that go it.
    let mut waiting = vec![(None, rows)];
    while let Some((callee, stacks)) = waiting.pop() {
        let (mut ended, mut small) = ([0; N], [0; N]);
        let mut callers: BTreeMap<FrameId, Vec<(StackId, [u64; N])>> = BTreeMap::new();
        for (stack, amounts) in stacks {
            match model.leaf(stack) {
                Some(frame) => callers.entry(frame).or_default().push((model.parent(stack), amounts)),
                None => add(&mut ended, amounts),
            }
        }
        for (frame, stacks) in callers {
            let mut sum = [0; N];
            stacks.iter().for_each(|&(_, amounts)| add(&mut sum, amounts));
            if is_small(sum, smallest) {
                add(&mut small, sum);
                continue;
            }
            ways.push(Way { frame, callee });
            waiting.push((Some(ways.len() - 1), stacks));
        }
        match callee {
            Some(way) => {
                add(&mut ended, small);
                found.extend((ended != [0; N]).then(|| (text(&ways, way), ended)));
            }
            None => {
                let others = [(NO_STACK, ended), (SMALL, small)].map(|(name, amounts)| (name.to_string(), amounts));
                found.extend(others.into_iter().filter(|(_, amounts)| *amounts != [0; N]));
            }
        }
    }
    in_order(found.into_iter())
}

fn is_small<const N: usize>(amounts: [u64; N], smallest: [f64; N]) -> bool {
    amounts.iter().zip(smallest).all(|(&amount, least)| (amount as f64) < least)
}

/// The lines of stacks. Frames with different origins may have the same text.
fn in_order<const N: usize>(stacks: impl Iterator<Item = (String, [u64; N])>) -> Vec<String> {
    let mut lines: BTreeMap<String, [u64; N]> = BTreeMap::new();
    for (text, amounts) in stacks {
        add(lines.entry(text).or_insert([0; N]), amounts);
    }
    lines
        .into_iter()
        .map(|(text, amounts)| amounts.iter().fold(text, |line, amount| format!("{line} {amount}")))
        .collect()
}

fn add<const N: usize>(to: &mut [u64; N], amounts: [u64; N]) {
    to.iter_mut().zip(amounts).for_each(|(to, amount)| *to = to.saturating_add(amount));
}

/// The colour of each frame: that of its kind, as in the page's light theme.
fn palette(model: &Model) -> PaletteMap {
    let mut palette = PaletteMap::default();
    for index in 0..model.n_frames() {
        let frame = model.frame(crate::model::FrameId::from_index(index));
        let (kind, _) = origin::of_frame(model, frame);
        palette.insert(frame_text(model, frame), colour(kind));
    }
    for (name, kind) in [("", Kind::Root), (NO_STACK, Kind::Unknown), (SMALL, Kind::Other)] {
        palette.insert(name, colour(kind));
    }
    palette
}

fn colour(kind: Kind) -> Color {
    let (r, g, b) = match kind {
        Kind::Project => (249, 192, 118),
        Kind::Library => (170, 203, 238),
        Kind::Standard => (219, 223, 230),
        Kind::Unknown => (189, 189, 189),
        Kind::Other => (232, 232, 232),
        Kind::Root => (235, 236, 240),
        Kind::Native => (166, 211, 202),
    };
    Color { r, g, b }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stacks as `main>work`, each with its bytes in two allocations.
    fn snapshot(stacks: &[(&str, u64)]) -> (Model, Snapshot) {
        let mut model = Model::default();
        let rows = stacks.iter().map(|&(path, bytes)| {
            let stack = model.stack_written("/srv/app.py", path);
            Row { stack, bytes, count: 2 }
        });
        let rows = rows.collect();
        (model, Snapshot::summed(rows, None))
    }

    const PEAK: SvgOptions = SvgOptions { title: "peak", unit: Unit::Bytes, is_inverted: false, least_share: 0.0 };

    fn drawn_with(stacks: &[(&str, u64)], options: &SvgOptions) -> Vec<String> {
        let (model, snapshot) = snapshot(stacks);
        group_lines(&model, &[Group { name: None, snapshot }], options)
    }

    fn drawn(stacks: &[(&str, u64)]) -> Vec<String> {
        drawn_with(stacks, &PEAK)
    }

    #[test]
    fn what_is_too_small_to_be_drawn_is_given_to_its_callers() {
        let stacks = [("", 7), ("main", 50_000), ("main>work", 49_000), ("main>work>tiny>er", 3), ("tiny", 5)];
        let expected = [
            "<no stack> 7",
            "<small stacks> 5",
            "main (/srv/app.py:1) 50000",
            "main (/srv/app.py:1);work (/srv/app.py:1) 49003",
        ];
        assert_eq!(drawn(&stacks), expected);
    }

    #[test]
    fn many_small_ones_below_a_large_one_keep_their_sum() {
        let names: Vec<String> = (0..20_000).map(|n| format!("main>f{n}")).collect();
        let stacks: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        assert_eq!(drawn(&stacks), ["main (/srv/app.py:1) 20000"]);
    }

    #[test]
    fn what_has_less_than_was_asked_for_is_given_to_its_callers() {
        let stacks = [("main", 10), ("main>work", 80), ("main>rest", 10)];
        let expected = ["main (/srv/app.py:1) 20", "main (/srv/app.py:1);work (/srv/app.py:1) 80"];
        assert_eq!(drawn_with(&stacks, &SvgOptions { least_share: 0.2, ..PEAK }), expected);
    }

    #[test]
    fn inverted_what_allocated_comes_first_and_its_callers_hang_below() {
        let stacks =
            [("", 7), ("main>get", 50_000), ("main>work>get", 49_000), ("main", 300), ("get", 20), ("tiny", 5)];
        let expected = [
            "<no stack> 7",
            "<small stacks> 5",
            "get (/srv/app.py:1) 20",
            "get (/srv/app.py:1);main (/srv/app.py:1) 50000",
            "get (/srv/app.py:1);work (/srv/app.py:1);main (/srv/app.py:1) 49000",
            "main (/srv/app.py:1) 300",
        ];
        let inverted = SvgOptions { is_inverted: true, ..PEAK };
        assert_eq!(drawn_with(&stacks, &inverted), expected);
        let expected = ["<small stacks> 332", "get (/srv/app.py:1) 99000"];
        let stacks = [("main>get", 50_000), ("main>work>get", 49_000), ("main", 332)];
        assert_eq!(drawn_with(&stacks, &SvgOptions { least_share: 0.9, ..inverted }), expected);
    }

    #[test]
    fn groups_stand_under_their_names_and_share_one_whole() {
        let (model, snapshot) = snapshot(&[("main", 40), ("main>work", 60)]);
        let name = |name: &str| Some(name.to_string());
        let small = Snapshot::summed(vec![Row { stack: snapshot.rows[0].stack, bytes: 1, count: 1 }], None);
        let groups = [Group { name: name("one (1)"), snapshot }, Group { name: name("two (2)"), snapshot: small }];
        let expected = [
            "one (1);main (/srv/app.py:1) 40",
            "one (1);main (/srv/app.py:1);work (/srv/app.py:1) 60",
            "two (2);<small stacks> 1",
        ];
        assert_eq!(group_lines(&model, &groups, &SvgOptions { least_share: 0.1, ..PEAK }), expected);
    }

    #[test]
    fn frames_have_the_colours_of_the_page_and_their_numbers() {
        let (model, snapshot) = snapshot(&[("main", 40), ("main>work", 60)]);
        let groups = [Group { name: None, snapshot }];
        let mut out = Vec::new();
        write(&model, &groups, &PEAK, &mut out).unwrap();
        let svg = String::from_utf8(out).unwrap();
        assert!(svg.contains("work (/srv/app.py:1) (60 bytes, 60.00%)"), "{svg}");
        assert!(svg.contains("all (100 bytes, 100%)"), "{svg}");
        assert!(svg.contains("rgb(249,192,118)"), "{svg}");
        let mut again = Vec::new();
        write(&model, &groups, &PEAK, &mut again).unwrap();
        assert_eq!(svg.as_bytes(), again);
    }

    #[test]
    fn nothing_is_a_picture_too() {
        let (model, snapshot) = snapshot(&[]);
        let groups = [Group { name: None, snapshot }];
        let mut out = Vec::new();
        write(&model, &groups, &PEAK, &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("Nothing was allocated"));
    }

    #[test]
    fn a_difference_to_nothing_is_a_picture_too() {
        let (model, snapshot) = snapshot(&[("gone", 60)]);
        let change = Change { base_bytes: 60, ..Change::default() };
        let mut out = Vec::new();
        let options = SvgOptions { title: "diff", ..PEAK };
        write_diff(&model, &[(snapshot.rows[0].stack, change)], &options, &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("Nothing was allocated"));
    }

    #[test]
    fn more_is_red_and_less_is_blue() {
        let (model, snapshot) = snapshot(&[("more", 60), ("less", 40)]);
        let changes =
            [(20, 60), (80, 40)].map(|(base_bytes, new_bytes)| Change { base_bytes, new_bytes, ..Change::default() });
        let stacks: Vec<_> = snapshot.rows.iter().map(|row| row.stack).zip(changes).collect();
        let mut out = Vec::new();
        write_diff(&model, &stacks, &SvgOptions { title: "diff", ..PEAK }, &mut out).unwrap();
        let svg = String::from_utf8(out).unwrap();
        let fill = |name: &str| {
            let rest = svg.split_once(name).unwrap_or_else(|| panic!("no {name} in {svg}")).1;
            rest.split_once("rgb(").unwrap().1.split_once(')').unwrap().0.to_string()
        };
        assert!(fill("more (/srv/app.py:1) (60 bytes, 60.00%; +40.00%)").starts_with("255,"));
        assert!(fill("less (/srv/app.py:1) (40 bytes, 40.00%; -40.00%)").ends_with(",255"));
    }
}
