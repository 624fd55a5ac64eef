//! What is known about one call: its source around the line, and facts in words.

use ratatui::text::{Line, Span};

use super::rows;
use super::state::State;
use crate::report::cut::{end_cut, start_cut};
use crate::report::origin::{self, Kind};
use crate::report::printable::printable;
use crate::report::sources::{Missing, Sources};
use crate::terminal::theme::Theme;
use crate::units;

/// Lines that [`facts`] has for every call.
pub const N_FACTS: u16 = 4;

/// The source around the line of the call that the cursor is on; a line that says why when there is none.
pub fn source(state: &State, sources: &mut Sources, width: usize, n_lines: u16, theme: &Theme) -> Vec<Line<'static>> {
    let model = state.model;
    let Some(frame) = state.tree.nodes[state.cursor].frame.map(|id| model.frame(id)) else { return Vec::new() };
    if frame.line == 0 || n_lines == 0 {
        return vec![Line::styled("no source: the line is not known", theme.faint())];
    }
    let n_lines = u32::from(n_lines);
    let first = frame.line.saturating_sub(n_lines / 2).max(1);
    let last = first.saturating_add(n_lines - 1);
    let lines = match sources.excerpt(model.text(frame.file), first..=last) {
        Ok(lines) => lines,
        Err(missing) => return vec![Line::styled(end_cut(reason(missing), width), theme.faint())],
    };
    let number_width = last.to_string().len();
    let drawn = lines.into_iter().map(|(number, text)| {
        let (mark, style) = match number == frame.line {
            true => ("▶", theme.strong()),
            false => (" ", theme.plain()),
        };
        let head = format!("{mark}{number:>number_width$} ");
        let text = text.replace('\t', "    ");
        let text = end_cut(&printable(&text), width.saturating_sub(number_width + 2));
        Line::from(vec![Span::styled(head, theme.faint()), Span::styled(text, style)])
    });
    drawn.collect()
}

fn reason(missing: Missing) -> &'static str {
    match missing {
        Missing::NoFile => "no source: this code is not from a file",
        Missing::NotThere => "no source: the file is not on this machine",
        Missing::Withheld => "no source: the file may be confidential",
        Missing::Changed => "no source: the file changed after the recording",
    }
}

/// Who the call is and what it holds.
pub fn facts(state: &State, width: usize, theme: &Theme) -> Vec<Line<'static>> {
    let (model, snapshot) = (state.model, state.snapshot());
    let node = &state.tree.nodes[state.cursor];
    let (who, place) = match node.frame.map(|id| model.frame(id)) {
        Some(frame) => {
            let file = model.text(frame.file);
            let whose = match origin::of_frame(model, frame).0 {
                Kind::Project => "your code",
                Kind::Library => "installed package",
                Kind::Standard => "standard library",
                Kind::Native => "native code",
                Kind::Unknown | Kind::Other | Kind::Root => "unknown code",
            };
            let function = printable(model.text(frame.function)).into_owned();
            (vec![Span::styled(function, theme.strong()), faint(format!("  {whose}"), theme)], {
                let place = frame.place(&printable(file));
                Line::styled(start_cut(&place, width), theme.place())
            })
        }
        None => {
            let (n_shown, n_stacks) = (units::count(state.n_shown as u64), units::count(state.n_stacks as u64));
            let shown = match state.n_shown == state.n_stacks {
                true => format!("all {n_stacks} stacks"),
                false => format!("the largest {n_shown} of {n_stacks} stacks (-b N shows more)"),
            };
            (vec![Span::styled("everything", theme.strong())], Line::raw(end_cut(&shown, width)))
        }
    };
    let bytes = rows::percent(rows::share(node.bytes, snapshot.bytes));
    let count = rows::percent(rows::share(node.count, snapshot.count));
    let held = format!("{}, {bytes} of {}", units::bytes(node.bytes), units::bytes(snapshot.bytes));
    let plural = if node.count == 1 { "" } else { "s" };
    let (n_blocks, n_own) = (units::count(node.count), units::count(node.own_count));
    let blocks = format!("{n_blocks} block{plural}, {count}; itself {} in {n_own}", units::bytes(node.own_bytes));
    vec![Line::from(who), place, Line::raw(end_cut(&held, width)), Line::raw(end_cut(&blocks, width))]
}

fn faint(text: String, theme: &Theme) -> Span<'static> {
    Span::styled(text, theme.faint())
}
