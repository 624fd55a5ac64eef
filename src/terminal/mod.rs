//! Interactive views on a terminal. Each is three things: a state that keys change and that knows no terminal, a view
//! that draws the state, and the loop of [`screen`], which all views share.

mod screen;
mod theme;

pub mod live;
pub mod tree;

use std::io::{IsTerminal, stdin, stdout};
use std::time::Duration;

use crossterm::event::KeyEvent;
use ratatui::{Frame, crossterm};

use screen::{Input, Screen};
use theme::Theme;

/// What a key asks of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Nothing,
    Quit,
    Suspend,
}

/// Something to look at until its user has seen enough.
trait View {
    fn key(&mut self, key: KeyEvent) -> Effect;
    fn draw(&mut self, frame: &mut Frame, theme: &Theme);

    /// After which time there is something new to show; never, when it is not said.
    fn period(&self) -> Option<Duration> {
        None
    }

    /// Takes over what is new.
    fn renew(&mut self) {}
}

/// Whether a view can be shown at all.
pub fn is_possible() -> bool {
    stdin().is_terminal() && stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Columns and rows of the terminal that the standard output goes to, if it does.
pub fn size() -> Option<(usize, usize)> {
    let size = stdout().is_terminal().then(crossterm::terminal::size)?.ok();
    // Some say that they have none.
    size.filter(|&(columns, rows)| columns > 0 && rows > 0).map(|(columns, rows)| (columns.into(), rows.into()))
}

/// The terminal as it is for whoever reads every key, until it is dropped.
pub struct Raw;

impl Raw {
    pub fn enter() -> Raw {
        let _ = crossterm::terminal::enable_raw_mode();
        Raw
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = crossterm::terminal::disable_raw_mode();
    }
}

fn show(view: &mut dyn View) -> anyhow::Result<()> {
    let theme = Theme::of_environment();
    let mut screen = Screen::open()?;
    loop {
        screen.draw(|frame| view.draw(frame, &theme))?;
        let effect = match screen.next(view.period())? {
            Input::Key(key) => view.key(key),
            Input::Redraw => Effect::Nothing,
            Input::Nothing => {
                view.renew();
                Effect::Nothing
            }
        };
        match effect {
            Effect::Nothing => {}
            Effect::Suspend => screen.suspend()?,
            Effect::Quit => return Ok(()),
        }
    }
}
