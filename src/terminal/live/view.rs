//! Draws a picture: a head with totals, the heap over time, the table, a foot with the keys.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Widget};

use super::picture::{Picture, Row, Thread};
use super::state::{Mode, State};
use super::table::Column;
use crate::report::cut::{end_cut, named};
use crate::report::printable::printable;
use crate::terminal::theme::Theme;
use crate::units;

/// Rows of the curve, on a screen of so many rows at least.
const CURVE_ROWS: [(u16, u16); 3] = [(30, 5), (20, 3), (14, 1)];
/// Columns of the table in front of the location.
const FIGURES_WIDTH: usize = 10 + 8 + 11 + 8 + 11 + 2;

pub fn draw(state: &mut State, frame: &mut Frame, theme: &Theme) {
    let area = frame.area();
    let out = frame.buffer_mut();
    let mut rows = Rows { left: area };
    let foot = rows.take_bottom(1);
    draw_titles(state, rows.take_top(1), out, theme);
    if let Some(picture) = state.pictures.get(state.process).cloned() {
        draw_totals(state, &picture, rows.take_top(1), out, theme);
        if state.shows_output {
            draw_output(state, rows.left, out, theme);
        } else {
            let curve = CURVE_ROWS.iter().find(|(least, _)| area.height >= *least).map_or(0, |(_, rows)| *rows);
            draw_curve(&picture, rows.take_top(curve), out, theme);
            draw_scope(state, &picture, rows.take_top(1), out, theme);
            draw_head(state, rows.take_top(1), out, theme);
            draw_table(state, &picture, rows.left, out, theme);
        }
    }
    draw_foot(state, foot, out, theme);
    if state.mode == Mode::Help {
        draw_help(state, area, out, theme);
    }
}

/// What is left of the screen.
struct Rows {
    left: Rect,
}

impl Rows {
    fn take_top(&mut self, n: u16) -> Rect {
        let taken = Rect { height: n.min(self.left.height), ..self.left };
        self.left.y += taken.height;
        self.left.height -= taken.height;
        taken
    }

    fn take_bottom(&mut self, n: u16) -> Rect {
        let height = n.min(self.left.height);
        self.left.height -= height;
        Rect { y: self.left.bottom(), height, ..self.left }
    }
}

/// The processes; with only one, its command.
fn draw_titles(state: &State, area: Rect, out: &mut Buffer, theme: &Theme) {
    let mut spans = Vec::new();
    for (index, picture) in state.pictures.iter().enumerate() {
        let style = if index == state.process { theme.chosen() } else { theme.plain() };
        spans.push(Span::styled(format!(" {} ", picture.pid), style));
        spans.push(Span::raw(" "));
    }
    let (text, style) = match state.picture() {
        None => ("waiting for the recording".to_owned(), theme.faint()),
        Some(picture) => (printable(&picture.command).into_owned(), theme.strong()),
    };
    let end = state.picture().map_or(String::new(), |picture| match &picture.end {
        Some(end) => format!(" {end} "),
        None if picture.is_behind => " reading… ".to_owned(),
        None if picture.is_paused => " recording paused ".to_owned(),
        None => String::new(),
    });
    let stands_still = if state.is_paused { " figures stand still (space) " } else { "" };
    let left = usize::from(area.width).saturating_sub(spans.iter().map(Span::width).sum::<usize>());
    let left = left.saturating_sub(end.len() + stands_still.len());
    spans.push(Span::styled(end_cut(&text, left), style));
    spans.push(Span::styled(end, theme.warning()));
    spans.push(Span::styled(stands_still, theme.warning()));
    Line::from(spans).render(area, out);
}

fn draw_totals(state: &State, picture: &Picture, area: Rect, out: &mut Buffer, theme: &Theme) {
    let mut figures = vec![
        ("Heap", units::bytes(picture.heap_bytes)),
        ("Peak", units::bytes(picture.peak_bytes)),
        ("Resident", if picture.rss_bytes == 0 { "–".into() } else { units::bytes(picture.rss_bytes) }),
        ("Events", units::count(picture.n_events)),
        ("Time", duration(picture.nanos)),
    ];
    if state.is_split || picture.threads.len() > 1 {
        figures.push(("Threads", units::count(picture.threads.len() as u64)));
    }
    let mut spans = Vec::new();
    for (name, value) in figures {
        spans.push(Span::styled(format!("{name} "), theme.faint()));
        spans.push(Span::styled(format!("{value}   "), theme.strong()));
    }
    Line::from(spans).render(area, out);
}

/// The heap over time, in eighths of a row.
fn draw_curve(picture: &Picture, area: Rect, out: &mut Buffer, theme: &Theme) {
    const EIGHTHS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
    let columns = picture.history.columns(area.width.into());
    let most = columns.iter().copied().max().unwrap_or(0).max(1);
    let rows = u64::from(area.height);
    for (x, bytes) in area.columns().zip(columns) {
        // At least a line where there is anything.
        let height = (u128::from(bytes) * u128::from(rows * 8)).div_ceil(u128::from(most)) as u64;
        for (index, y) in (area.top()..area.bottom()).rev().enumerate() {
            let eighths = height.saturating_sub(index as u64 * 8).min(8) as usize;
            out[(x.x, y)].set_symbol(EIGHTHS[eighths]).set_style(theme.place());
        }
    }
}

/// What the table is about.
fn draw_scope(state: &State, picture: &Picture, area: Rect, out: &mut Buffer, theme: &Theme) {
    let mut spans = Vec::new();
    if let Some(since) = &picture.since {
        let (bytes, at) = (units::bytes(since.bytes), duration(since.nanos));
        spans.push(Span::styled(format!("Allocated since {at} and still there: {bytes}  "), theme.warning()));
    }
    let threads = match picture.threads.get(state.thread).filter(|_| state.is_split) {
        Some(thread) => format!("Thread {} of {}: {}", state.thread + 1, picture.threads.len(), thread_name(thread)),
        None => match picture.threads.len() {
            0 | 1 => String::new(),
            n => format!("{n} threads together"),
        },
    };
    if !threads.is_empty() {
        spans.push(Span::styled(format!("{threads}  "), theme.strong()));
    }
    if !state.word.is_empty() && state.mode != Mode::Typing {
        spans.push(Span::styled(format!("with “{}”: {}", state.word, state.n_rows()), theme.found()));
    }
    Line::from(spans).render(area, out);
}

fn thread_name(thread: &Thread) -> String {
    match (thread.name.is_empty(), thread.os_tid) {
        (true, 0) => "unknown".to_owned(),
        (true, tid) => format!("kernel thread {tid}"),
        (false, 0) => printable(&thread.name).into_owned(),
        (false, tid) => format!("{} (kernel thread {tid})", printable(&thread.name)),
    }
}

fn draw_head(state: &State, area: Rect, out: &mut Buffer, theme: &Theme) {
    let style = |column| if state.column == column { theme.strong() } else { theme.faint() };
    let mark = |column| if state.column == column { "▼" } else { "" };
    let head = |name: &str, column, width: usize| format!("{:>width$}", format!("{}{name}", mark(column)));
    let spans = vec![
        Span::styled(head("Total", Column::Total, 10), style(Column::Total)),
        Span::styled(format!("{:>8}", "%"), theme.faint()),
        Span::styled(head("Own", Column::Own, 11), style(Column::Own)),
        Span::styled(format!("{:>8}", "%"), theme.faint()),
        Span::styled(head("Blocks", Column::Count, 11), style(Column::Count)),
        Span::styled("  Function", theme.faint()),
    ];
    Line::from(spans).render(area, out);
}

fn draw_table(state: &mut State, picture: &Picture, area: Rect, out: &mut Buffer, theme: &Theme) {
    let whole = picture.since.as_ref().map_or(picture.heap_bytes, |since| since.bytes);
    let width = usize::from(area.width);
    for (place, row) in area.rows().zip(state.rows_on_screen(area.height.into())) {
        line(row, whole, width, theme).render(place, out);
    }
}

fn line(row: &Row, whole: u64, width: usize, theme: &Theme) -> Line<'static> {
    let share = |bytes: u64| if whole == 0 { 0.0 } else { bytes as f64 / whole as f64 };
    let percent = |bytes: u64| Span::styled(format!("{:>7.2}%", 100.0 * share(bytes)), theme.share(share(bytes)));
    let (function, file) = (printable(&row.function), printable(&row.file));
    let location = match file.is_empty() {
        true => end_cut(&function, width.saturating_sub(FIGURES_WIDTH)),
        false => named(&function, " at ", &file, width.saturating_sub(FIGURES_WIDTH)),
    };
    Line::from(vec![
        Span::raw(format!("{:>10}", units::bytes(row.total_bytes))),
        percent(row.total_bytes),
        Span::raw(format!("{:>11}", units::bytes(row.own_bytes))),
        percent(row.own_bytes),
        Span::raw(format!("{:>11}", units::count(row.count))),
        Span::raw(format!("  {location}")),
    ])
}

fn draw_output(state: &State, area: Rect, out: &mut Buffer, theme: &Theme) {
    let mut rows = Rows { left: area };
    let head = Line::styled("What the program writes; p goes back to the table", theme.faint());
    head.render(rows.take_top(1), out);
    let lines = state.output.as_deref().unwrap_or_default();
    let first = lines.len().saturating_sub(rows.left.height.into());
    for (row, text) in rows.left.rows().zip(&lines[first..]) {
        Line::raw(end_cut(&printable(text), row.width.into())).render(row, out);
    }
}

fn draw_foot(state: &State, area: Rect, out: &mut Buffer, theme: &Theme) {
    if state.mode == Mode::Typing {
        let line = vec![Span::raw(format!("/{}", state.word)), Span::styled(" ", theme.chosen())];
        return Line::from(line).render(area, out);
    }
    let notices = state.picture().map_or(0, |picture| picture.notices.len());
    let warning = match notices {
        0 => String::new(),
        1 => "1 warning (?)  ".to_owned(),
        n => format!("{n} warnings (?)  "),
    };
    let split = if state.is_split { "m merge  ←→ thread" } else { "m split threads" };
    let since = if state.picture().is_some_and(|it| it.since.is_some()) { "M mark anew  c clear" } else { "M mark" };
    let output = if state.output.is_some() { "  p output" } else { "" };
    let processes = if state.pictures.len() > 1 { "  ⇥ process" } else { "" };
    let keys = format!("t o a sort  {split}  {since}  / search  space pause{output}{processes}  ? help  q quit");
    let keys = end_cut(&keys, usize::from(area.width).saturating_sub(warning.len()));
    Line::from(vec![Span::styled(warning, theme.warning()), Span::styled(keys, theme.faint())]).render(area, out);
}

const KEYS: [(&str, &str); 14] = [
    ("t o a", "sort by total, own, number of blocks"),
    ("m", "threads one by one, or all together"),
    ("← → < >", "the thread before, the next one"),
    ("Tab", "the next process"),
    ("M", "mark: what is allocated from now on and still there"),
    ("c", "clear the mark: everything that is there"),
    ("/", "only functions and files with a word; Esc: all"),
    ("space", "have the figures stand still, or go on"),
    ("↑ ↓ PgUp PgDn", "scroll; also j k g G"),
    ("p", "what the program writes (with run --live)"),
    ("q Esc", "leave; the recording goes on"),
    ("Ctrl-C", "interrupt the program (with run --live), or leave"),
    ("Ctrl-Z", "to the shell and back"),
    ("?", "this"),
];

fn draw_help(state: &State, area: Rect, out: &mut Buffer, theme: &Theme) {
    let mut lines: Vec<Line> = KEYS
        .iter()
        .map(|(keys, what)| Line::from(vec![Span::styled(format!("{keys:<15}"), theme.strong()), Span::raw(*what)]))
        .collect();
    for notice in state.picture().iter().flat_map(|picture| &picture.notices) {
        lines.push(Line::styled(printable(notice).into_owned(), theme.warning()));
    }
    let width = area.width.min(76);
    let height = area.height.min(lines.len() as u16 + 2);
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    Clear.render(place, out);
    Paragraph::new(lines).block(Block::bordered().title(" Keys ")).render(place, out);
}

/// `12.3 s`, `4:05`, `3:04:05`
fn duration(nanos: u64) -> String {
    let seconds = nanos / 1_000_000_000;
    match seconds {
        0..60 => format!("{:.1} s", nanos as f64 / 1e9),
        60..3600 => format!("{}:{:02}", seconds / 60, seconds % 60),
        _ => format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}
