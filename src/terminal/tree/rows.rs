//! One line of the tree: what the call holds, lines that show whom it belongs to, its name and its place. The numbers
//! come first, so that they stay in sight however narrow the screen is.

use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr;

use super::state::State;
use crate::analysis::Measure;
use crate::report::cut::{end_cut, start_cut};
use crate::report::origin;
use crate::report::printable::printable;
use crate::report::stems::Guide;
use crate::terminal::theme::Theme;
use crate::units;

/// The line of a node, `width` columns wide at most.
pub fn row(state: &State, node: usize, width: usize, theme: &Theme) -> Line<'static> {
    let amount_width = amount(state, 0).0.width().max("999.999kB".len());
    let (amount, share) = amount(state, node);
    let numbers = format!("{amount:>amount_width$} {:>6} ", percent(share));
    let mut spans = vec![Span::styled(numbers, theme.share(share))];
    // Lines take a third of the rest at most; what is cut off of them is far to the left.
    let rest = width.saturating_sub(spans[0].width());
    spans.push(Span::styled(lines(&state.stems.guides(node), rest / 3), theme.faint()));
    let marker = match (state.has_children(node), state.is_open(node)) {
        (false, _) => "  ",
        (true, true) => "▾ ",
        (true, false) => "▸ ",
    };
    spans.push(Span::raw(marker));
    let used: usize = spans.iter().map(Span::width).sum();
    spans.extend(name(state, node, width.saturating_sub(used), theme));
    Line::from(spans)
}

fn amount(state: &State, node: usize) -> (String, f64) {
    let (node, snapshot) = (&state.tree.nodes[node], state.snapshot());
    match state.measure {
        Measure::Bytes => (units::bytes(node.bytes), share(node.bytes, snapshot.bytes)),
        Measure::Count => (units::count(node.count), share(node.count, snapshot.count)),
    }
}

/// From 0 to 1; of nothing it is nothing.
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

pub fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

fn lines(guides: &[Guide], max_width: usize) -> String {
    let n_fitting = (max_width / 2).max(1);
    let n_cut = guides.len().saturating_sub(n_fitting);
    let cut = if n_cut > 0 { "‹" } else { "" };
    let drawn = guides[n_cut..].iter().map(|guide| match guide {
        Guide::Branch => "├─",
        Guide::LastBranch => "└─",
        Guide::Beside => "│ ",
        Guide::Below => "  ",
    });
    std::iter::once(cut).chain(drawn).collect()
}

fn name(state: &State, node: usize, width: usize, theme: &Theme) -> Vec<Span<'static>> {
    let model = state.model;
    let Some(frame) = state.tree.nodes[node].frame.map(|id| model.frame(id)) else {
        return vec![Span::styled(end_cut("everything", width), theme.strong())];
    };
    let file = model.text(frame.file);
    let style = match state.search.is_match(node) {
        true => theme.found(),
        false => theme.function(origin::of_frame(model, frame).0),
    };
    let function = end_cut(&printable(model.text(frame.function)), width);
    // Less of a place than this says nothing.
    const MIN_PLACE: usize = 8;
    let left = width.saturating_sub(function.width() + 2);
    let place = frame.place(origin::short(file, &model.process().facts.cwd));
    let place = if left < MIN_PLACE { String::new() } else { format!("  {}", start_cut(&printable(&place), left)) };
    vec![Span::styled(function, style), Span::styled(place, theme.place())]
}
