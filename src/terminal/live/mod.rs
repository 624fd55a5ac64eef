//! A program that runs, as it is now: totals, the heap over time, and what each function holds, by thread or all
//! together; since a mark, what was allocated and is still there. Called by `commands::live`, which knows where the
//! figures come from.

mod picture;
mod state;
mod table;
mod view;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use ratatui::Frame;
use ratatui::crossterm::event::KeyEvent;

pub use self::picture::{History, Picture, Row, Since, Thread};
use self::state::{Asked, State};
use super::theme::Theme;
use super::{Effect, View};

/// Where the figures come from.
pub trait Source {
    /// The latest of each process; a process keeps its place.
    fn pictures(&mut self) -> Vec<Arc<Picture>>;

    /// From now on tell also what was allocated since, or no longer.
    fn mark(&mut self, process: usize, is_set: bool);

    /// What the program has written last, line by line; `None` when that is not known.
    fn output(&mut self, n_lines: usize) -> Option<Vec<String>>;

    /// Interrupts the program as Ctrl-C does; `false` when that is not ours to do.
    fn interrupt(&mut self) -> bool;
}

/// How long an old figure may stand.
const PERIOD: Duration = Duration::from_millis(250);

/// Returns when the user has seen enough.
pub fn show(source: &mut dyn Source) -> Result<()> {
    let mut shown = Shown { source, state: State::default() };
    shown.renew();
    super::show(&mut shown)
}

struct Shown<'a> {
    source: &'a mut dyn Source,
    state: State,
}

impl View for Shown<'_> {
    fn key(&mut self, key: KeyEvent) -> Effect {
        match self.state.key(key) {
            Asked::Effect(effect) => effect,
            Asked::Mark(is_set) => {
                self.source.mark(self.state.process, is_set);
                Effect::Nothing
            }
            Asked::Interrupt if self.source.interrupt() => Effect::Nothing,
            Asked::Interrupt => Effect::Quit,
        }
    }

    fn draw(&mut self, frame: &mut Frame, theme: &Theme) {
        view::draw(&mut self.state, frame, theme);
    }

    fn period(&self) -> Option<Duration> {
        Some(PERIOD)
    }

    fn renew(&mut self) {
        let pictures = self.source.pictures();
        let output = self.source.output(MAX_OUTPUT_LINES);
        self.state.renew(pictures, output);
    }
}

/// More than any screen has.
const MAX_OUTPUT_LINES: usize = 500;
