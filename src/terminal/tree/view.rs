//! Draws the tree: a head with the questions, the rows, the source and the facts of the chosen one, a foot with the keys.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Widget};

use super::Shown;
use super::details::{self, N_FACTS};
use super::rows::{self, percent};
use super::state::{Mode, State};
use crate::analysis::Measure;
use crate::report::cut::end_cut;
use crate::report::printable::printable;
use crate::terminal::theme::Theme;
use crate::units;

/// From so many columns on, source and facts stand beside the tree and not below it.
const MIN_WIDTH_FOR_TWO_COLUMNS: u16 = 100;
/// From so many rows on there is room below the tree.
const MIN_HEIGHT_FOR_DETAILS: u16 = 18;

pub fn draw(shown: &mut Shown, frame: &mut Frame, theme: &Theme) {
    let area = frame.area();
    let [mut head, mut body, mut foot] = [area; 3];
    head.height = area.height.min(1);
    foot.height = area.height.saturating_sub(1).min(1);
    foot.y = area.bottom() - foot.height;
    body.y = head.bottom();
    body.height = foot.y.saturating_sub(head.bottom());
    let out = frame.buffer_mut();
    draw_head(shown, head, out, theme);
    draw_body(shown, body, out, theme);
    draw_foot(&shown.state, foot, out, theme);
    if shown.state.mode == Mode::Help {
        draw_help(shown, area, out, theme);
    }
}

fn draw_head(shown: &Shown, area: Rect, out: &mut Buffer, theme: &Theme) {
    let state = &shown.state;
    let mut spans = Vec::new();
    for (index, tab) in state.tabs.iter().enumerate() {
        let amount = match state.measure {
            Measure::Bytes => units::bytes(tab.snapshot.bytes),
            Measure::Count => format!("{} blocks", units::count(tab.snapshot.count)),
        };
        let style = if index == state.tab { theme.chosen() } else { theme.plain() };
        spans.push(Span::styled(format!(" {} {amount} ", tab.name), style));
        spans.push(Span::raw(" "));
    }
    let left = usize::from(area.width).saturating_sub(spans.iter().map(Span::width).sum());
    let notice = match shown.notices.len() {
        0 => None,
        1 => Some("1 warning (?) ".to_string()),
        n => Some(format!("{n} warnings (?) ")),
    };
    let notice = notice.filter(|notice| notice.len() < left).unwrap_or_default();
    let title = end_cut(&printable(&shown.title), left.saturating_sub(notice.len()));
    spans.push(Span::styled(notice, theme.warning()));
    spans.push(Span::styled(title, theme.faint()));
    Line::from(spans).render(area, out);
}

fn draw_body(shown: &mut Shown, area: Rect, out: &mut Buffer, theme: &Theme) {
    if area.width >= MIN_WIDTH_FOR_TWO_COLUMNS {
        let mut tree = area;
        tree.width = area.width * 3 / 5;
        let rule = Rect { x: tree.right(), width: 1, ..area };
        for y in rule.top()..rule.bottom() {
            out[(rule.x, y)].set_symbol("│").set_style(theme.faint());
        }
        let details = Rect { x: rule.right() + 1, width: area.width - tree.width - 2, ..area };
        tree.width -= 1;
        draw_tree(&mut shown.state, tree, out, theme);
        draw_details(shown, details, out, theme);
    } else if area.height >= MIN_HEIGHT_FOR_DETAILS {
        let mut tree = area;
        tree.height = area.height * 3 / 5;
        let rule = Rect { y: tree.bottom(), height: 1, ..area };
        Line::styled("─".repeat(rule.width.into()), theme.faint()).render(rule, out);
        let details = Rect { y: rule.bottom(), height: area.height - tree.height - 1, ..area };
        draw_tree(&mut shown.state, tree, out, theme);
        draw_details(shown, details, out, theme);
    } else {
        draw_tree(&mut shown.state, area, out, theme);
    }
}

fn draw_tree(state: &mut State, area: Rect, out: &mut Buffer, theme: &Theme) {
    let nodes = state.rows_on_screen(area.height.into()).to_vec();
    for (row, node) in area.rows().zip(nodes) {
        rows::row(state, node, area.width.into(), theme).render(row, out);
        if node == state.cursor {
            out.set_style(row, theme.chosen());
        }
    }
}

fn draw_details(shown: &mut Shown, area: Rect, out: &mut Buffer, theme: &Theme) {
    let facts = Rect { height: N_FACTS.min(area.height), ..area };
    let source = Rect { y: facts.bottom() + 1, height: area.height.saturating_sub(N_FACTS + 1), ..area };
    let width = usize::from(area.width);
    for (row, line) in facts.rows().zip(details::facts(&shown.state, width, theme)) {
        line.render(row, out);
    }
    let lines = details::source(&shown.state, &mut shown.sources, width, source.height, theme);
    for (row, line) in source.rows().zip(lines) {
        line.render(row, out);
    }
}

fn draw_foot(state: &State, area: Rect, out: &mut Buffer, theme: &Theme) {
    let line = match (&state.mode, state.search.word().is_empty()) {
        (Mode::Typing { .. }, _) => found(state, "▏", theme),
        (_, false) => found(state, "", theme),
        (_, true) => hints(state, area.width.into(), theme),
    };
    line.render(area, out);
}

/// The word that is looked for, and what was found.
fn found(state: &State, caret: &str, theme: &Theme) -> Line<'static> {
    let search = &state.search;
    let snapshot = state.snapshot();
    let share = match state.measure {
        Measure::Bytes => rows::share(search.bytes, snapshot.bytes),
        Measure::Count => rows::share(search.count, snapshot.count),
    };
    let result = match (search.n_matches(), search.number_of(state.cursor)) {
        (0, _) if search.word().is_empty() => "  a part of a function's or a file's name".to_string(),
        (0, _) => "  nothing".to_string(),
        (n, Some(at)) => format!("  {} of {}, {}", units::count(at as u64), units::count(n as u64), percent(share)),
        (n, None) => format!("  {} found, {}", units::count(n as u64), percent(share)),
    };
    let word = format!("/{}{caret}", printable(search.word()));
    let keys = if caret.is_empty() { "   n N next, Esc ends" } else { "   Enter keeps, Esc ends" };
    Line::from(vec![Span::styled(word, theme.strong()), Span::raw(result), Span::styled(keys, theme.faint())])
}

/// As many keys as fit, the most wanted first.
fn hints(state: &State, width: usize, theme: &Theme) -> Line<'static> {
    let next = &state.tabs[(state.tab + 1) % state.tabs.len()].name;
    let tab = if state.tabs.len() > 1 { Some(("Tab", next.to_lowercase())) } else { None };
    let text = |is_hidden: bool, what: &str| format!("{} {what}", if is_hidden { "show" } else { "hide" });
    let measure = match state.measure {
        Measure::Bytes => "count blocks",
        Measure::Count => "count bytes",
    };
    let keys = [("q", "quit".to_string()), ("?", "help".to_string()), ("/", "search".to_string())].into_iter();
    let keys = keys.chain(tab).chain([
        ("e", "expand chain".to_string()),
        ("i", text(state.hides_imports, "imports")),
        ("u", text(state.hides_uninteresting, "uninteresting")),
        ("c", measure.to_string()),
    ]);
    let native = state.has_native_frames().then(|| ("x", text(state.hides_native, "native")));
    let keys = keys.chain(native);
    let mut spans = Vec::new();
    let mut left = width;
    for (key, does) in keys {
        let hint = [Span::styled(format!(" {key} "), theme.strong()), Span::styled(format!("{does} "), theme.faint())];
        let Some(rest) = left.checked_sub(hint.iter().map(Span::width).sum()) else { break };
        left = rest;
        spans.extend(hint);
    }
    Line::from(spans)
}

const HELP: &[&str] = &[
    "↑ ↓  k j           up, down",
    "PgUp PgDn  Home End",
    "← →  h l           close, open; go to the caller, into the call",
    "Enter  Space       open or close",
    "e                  open a chain of single calls",
    "/  n N  Esc        search, next, previous, end",
    "Tab  Shift+Tab     peak, leaks, churn",
    "c                  bytes or number of blocks",
    "i                  without what imports allocated",
    "u                  without frames of import and runpy",
    "x                  without native frames",
    "q  Ctrl+C          quit",
    "Ctrl+Z             suspend",
];

fn draw_help(shown: &Shown, area: Rect, out: &mut Buffer, theme: &Theme) {
    let mut lines: Vec<Line> = HELP.iter().map(|line| Line::raw(format!(" {line}"))).collect();
    if !shown.notices.is_empty() {
        lines.push(Line::raw(""));
    }
    let width = area.width.min(66);
    for notice in &shown.notices {
        let notice = printable(notice);
        lines.extend(
            wrapped(&notice, width.saturating_sub(4).into())
                .into_iter()
                .map(|line| Line::styled(format!(" {line}"), theme.warning())),
        );
    }
    let height = (lines.len() as u16 + 2).min(area.height);
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    Clear.render(place, out);
    Paragraph::new(lines).block(Block::bordered().title(" Keys ")).render(place, out);
}

/// The words of a sentence in lines.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
