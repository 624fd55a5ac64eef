//! What the user looks at, and how keys change it. Knows no terminal and no log.

use std::sync::Arc;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::picture::{Picture, Row};
use super::table::{self, Column};
use crate::terminal::Effect;

#[derive(Default)]
pub struct State {
    /// One for each process; those that are shown, which in a pause are old.
    pub pictures: Vec<Arc<Picture>>,
    /// What the program wrote last, if that is known.
    pub output: Option<Vec<String>>,
    pub process: usize,
    /// Whether threads are shown one at a time, and which of them.
    pub is_split: bool,
    pub thread: usize,
    pub column: Column,
    /// Whether the figures stand still.
    pub is_paused: bool,
    pub shows_output: bool,
    pub word: String,
    pub mode: Mode,
    /// The first row on the screen.
    pub top: usize,
    n_rows_on_screen: usize,
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Watching,
    /// A word is typed.
    Typing,
    Help,
}

/// What a key asks of whoever shows this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Effect(Effect),
    /// Set a mark in the process, or forget it.
    Mark(bool),
    Interrupt,
}

const NOTHING: Asked = Asked::Effect(Effect::Nothing);

impl State {
    /// Takes over newer figures, unless they are to stand still.
    pub fn renew(&mut self, pictures: Vec<Arc<Picture>>, output: Option<Vec<String>>) {
        self.output = output;
        if !self.is_paused || self.pictures.is_empty() {
            self.pictures = pictures;
            self.arrange();
        }
    }

    pub fn picture(&self) -> Option<&Picture> {
        self.pictures.get(self.process).map(|picture| &**picture)
    }

    /// The rows that are on the screen, of which so many fit.
    pub fn rows_on_screen(&mut self, n_rows: usize) -> &[Row] {
        self.n_rows_on_screen = n_rows.max(1);
        self.scroll(0);
        &self.rows[self.top..self.rows.len().min(self.top + self.n_rows_on_screen)]
    }

    pub fn n_rows(&self) -> usize {
        self.rows.len()
    }

    pub fn key(&mut self, key: KeyEvent) -> Asked {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match (key.code, is_control) {
            (KeyCode::Char('c'), true) => return Asked::Interrupt,
            (KeyCode::Char('z'), true) => return Asked::Effect(Effect::Suspend),
            _ => {}
        }
        match self.mode {
            Mode::Watching => return self.watch(key.code),
            Mode::Typing => self.type_word(key.code, is_control),
            Mode::Help => self.mode = Mode::Watching,
        }
        self.arrange();
        NOTHING
    }

    fn watch(&mut self, code: KeyCode) -> Asked {
        let page = self.n_rows_on_screen.saturating_sub(1).max(1) as isize;
        match code {
            KeyCode::Char('q') => return Asked::Effect(Effect::Quit),
            KeyCode::Esc if !self.word.is_empty() => self.word.clear(),
            KeyCode::Esc => return Asked::Effect(Effect::Quit),
            KeyCode::Char('m') => self.is_split ^= true,
            KeyCode::Left | KeyCode::Char('<' | ',' | 'h') => self.go_to_thread(-1),
            KeyCode::Right | KeyCode::Char('>' | '.' | 'l') => self.go_to_thread(1),
            KeyCode::Char('t') => self.column = Column::Total,
            KeyCode::Char('o') => self.column = Column::Own,
            KeyCode::Char('a') => self.column = Column::Count,
            KeyCode::Char(' ') => self.is_paused ^= true,
            KeyCode::Char('/') => {
                self.mode = Mode::Typing;
                self.word.clear();
            }
            KeyCode::Char('M') => return Asked::Mark(true),
            KeyCode::Char('c') => return Asked::Mark(false),
            KeyCode::Char('p') if self.output.is_some() => self.shows_output ^= true,
            KeyCode::Tab => self.go_to_process(1),
            KeyCode::BackTab => self.go_to_process(-1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(-1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(1),
            KeyCode::PageUp => self.scroll(-page),
            KeyCode::PageDown => self.scroll(page),
            KeyCode::Home | KeyCode::Char('g') => self.scroll(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.scroll(isize::MAX),
            KeyCode::Char('?') | KeyCode::F(1) => self.mode = Mode::Help,
            _ => {}
        }
        self.arrange();
        NOTHING
    }

    fn type_word(&mut self, code: KeyCode, is_control: bool) {
        match (code, is_control) {
            (KeyCode::Enter, _) => self.mode = Mode::Watching,
            (KeyCode::Esc, _) => {
                self.word.clear();
                self.mode = Mode::Watching;
            }
            (KeyCode::Backspace, _) | (KeyCode::Char('h'), true) => {
                self.word.pop();
            }
            (KeyCode::Char('u' | 'w'), true) => self.word.clear(),
            (KeyCode::Char(character), false) => self.word.push(character),
            _ => {}
        }
        self.top = 0;
    }

    fn go_to_thread(&mut self, step: isize) {
        let n_threads = self.picture().map_or(0, |picture| picture.threads.len());
        if n_threads > 0 && self.is_split {
            self.thread = (self.thread as isize + step).rem_euclid(n_threads as isize) as usize;
            self.top = 0;
        }
    }

    fn go_to_process(&mut self, step: isize) {
        if !self.pictures.is_empty() {
            self.process = (self.process as isize + step).rem_euclid(self.pictures.len() as isize) as usize;
            (self.thread, self.top) = (0, 0);
        }
    }

    fn scroll(&mut self, n_rows: isize) {
        let lowest = self.rows.len().saturating_sub(self.n_rows_on_screen);
        self.top = self.top.saturating_add_signed(n_rows).min(lowest);
    }

    fn arrange(&mut self) {
        let Some(picture) = self.pictures.get(self.process) else { return };
        let rows = picture.since.as_ref().map_or(&picture.rows, |since| &since.rows);
        let thread = self.is_split.then_some(self.thread);
        self.rows = table::arranged(rows, thread, self.column, &self.word);
    }
}
