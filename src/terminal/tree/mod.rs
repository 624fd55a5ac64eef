//! The call tree of the largest allocating stacks, to walk through: what memory was for at its peak, what was never
//! given back, what was allocated at all. Called by `commands::tree`.

mod state;

mod opened;
mod search;

mod view;

mod details;
mod rows;

#[cfg(test)]
mod tests;

use anyhow::Result;
use ratatui::Frame;
use ratatui::crossterm::event::KeyEvent;

use self::state::State;
use super::theme::Theme;
use super::{Effect, View};
use crate::analysis::Snapshot;
use crate::model::Model;
use crate::report::sources::Sources;

/// One answer of a capture.
pub struct Tab {
    pub name: &'static str,
    pub snapshot: Snapshot,
}

pub struct TreeView<'a> {
    pub model: &'a Model,
    /// At least one.
    pub tabs: Vec<Tab>,
    /// Which is shown first.
    pub first_tab: usize,
    /// Stacks that are shown, the largest ones.
    pub biggest_allocs: usize,
    /// The recorded command.
    pub title: String,
    /// What a reader should know, one sentence each.
    pub notices: Vec<String>,
    pub sources: Sources,
}

/// Returns when the user has seen enough.
pub fn show(view: TreeView) -> Result<()> {
    let TreeView { model, tabs, first_tab, biggest_allocs, title, notices, sources } = view;
    let state = State::new(model, &tabs, first_tab, biggest_allocs);
    super::show(&mut Shown { state, title, notices, sources })
}

struct Shown<'a> {
    state: State<'a>,
    title: String,
    notices: Vec<String>,
    sources: Sources,
}

impl View for Shown<'_> {
    fn key(&mut self, key: KeyEvent) -> Effect {
        self.state.key(key)
    }

    fn draw(&mut self, frame: &mut Frame, theme: &Theme) {
        view::draw(self, frame, theme);
    }
}
