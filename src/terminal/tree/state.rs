//! What the tree shows and where its user is. Keys change it; it knows nothing of screens but how many rows fit.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::Tab;
use super::opened::{Memory, Opened};
use super::search::Search;
use crate::analysis::{Keep, Measure, Snapshot, Tree};
use crate::model::{FrameId, Model};
use crate::report::origin::{self, role};
use crate::report::stems::Stems;
use crate::report::tree::{self, TreeOptions};
use crate::terminal::Effect;

pub struct State<'a> {
    pub model: &'a Model,
    pub tabs: &'a [Tab],
    pub tab: usize,
    pub measure: Measure,
    /// What is allocated while modules are imported is left out.
    pub hides_imports: bool,
    /// The machinery of `import` and of `python -m` is lifted out: what it called stands below whoever needed it.
    pub hides_uninteresting: bool,
    /// Native frames are lifted out, beside Python ones.
    pub hides_native: bool,
    pub mode: Mode,
    pub search: Search,
    pub tree: Tree,
    pub stems: Stems,
    /// Stacks of the tab, those that are shown, and what the latter hold.
    pub n_stacks: usize,
    pub n_shown: usize,
    /// The nodes that are in view, from top to bottom.
    pub rows: Vec<usize>,
    /// The node that keys act on; always one of the rows.
    pub cursor: usize,
    /// The first row on the screen.
    pub top: usize,
    biggest_allocs: usize,
    opened: Opened,
    n_rows_on_screen: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    Walking,
    /// A word is typed; what was open and where the cursor was, to go back there.
    Typing {
        before: Memory,
        cursor: usize,
    },
    Help,
}

impl<'a> State<'a> {
    pub fn new(model: &'a Model, tabs: &'a [Tab], tab: usize, biggest_allocs: usize) -> State<'a> {
        let mut state = State {
            model,
            tabs,
            tab,
            measure: Measure::Bytes,
            hides_imports: false,
            hides_uninteresting: true,
            hides_native: false,
            mode: Mode::Walking,
            search: Search::default(),
            tree: Tree::default(),
            stems: Stems::new(&Tree::default()),
            n_stacks: 0,
            n_shown: 0,
            rows: Vec::new(),
            cursor: 0,
            top: 0,
            biggest_allocs,
            opened: Opened::default(),
            n_rows_on_screen: 1,
        };
        state.arrange();
        state.open_largest();
        state
    }

    pub fn snapshot(&self) -> &'a Snapshot {
        &self.tabs[self.tab].snapshot
    }

    /// Whether there are native frames beside Python ones.
    pub fn has_native_frames(&self) -> bool {
        self.model.runs_python() && self.model.processes().iter().any(|process| process.facts.has_native_stacks)
    }

    pub fn is_open(&self, node: usize) -> bool {
        self.opened.is_open(node)
    }

    pub fn has_children(&self, node: usize) -> bool {
        self.tree.nodes[node].end > node + 1
    }

    /// The rows that are on the screen, of which so many fit.
    pub fn rows_on_screen(&mut self, n_rows: usize) -> &[usize] {
        self.n_rows_on_screen = n_rows.max(1);
        self.scroll();
        &self.rows[self.top..self.rows.len().min(self.top + self.n_rows_on_screen)]
    }

    pub fn key(&mut self, key: KeyEvent) -> Effect {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match (key.code, is_control) {
            (KeyCode::Char('c'), true) => return Effect::Quit,
            (KeyCode::Char('z'), true) => return Effect::Suspend,
            _ => {}
        }
        match self.mode {
            Mode::Walking => return self.walk(key, is_control),
            Mode::Typing { .. } => self.type_word(key, is_control),
            Mode::Help => self.mode = Mode::Walking,
        }
        Effect::Nothing
    }

    fn walk(&mut self, key: KeyEvent, is_control: bool) -> Effect {
        let page = self.n_rows_on_screen.saturating_sub(1).max(1) as isize;
        match (key.code, is_control) {
            (KeyCode::Char('q'), false) => return Effect::Quit,
            (KeyCode::Up, _) | (KeyCode::Char('k'), false) | (KeyCode::Char('p'), true) => self.step(-1),
            (KeyCode::Down, _) | (KeyCode::Char('j'), false) | (KeyCode::Char('n'), true) => self.step(1),
            (KeyCode::PageUp, _) | (KeyCode::Char('b'), true) => self.step(-page),
            (KeyCode::PageDown, _) | (KeyCode::Char('f'), true) => self.step(page),
            (KeyCode::Home, _) | (KeyCode::Char('g'), false) => self.step(isize::MIN),
            (KeyCode::End, _) | (KeyCode::Char('G'), false) => self.step(isize::MAX),
            (KeyCode::Left, _) | (KeyCode::Char('h'), false) => self.close_or_leave(),
            (KeyCode::Right, _) | (KeyCode::Char('l'), false) => self.open_or_enter(),
            (KeyCode::Enter | KeyCode::Char(' '), false) => self.toggle(),
            (KeyCode::Char('e'), false) => self.open_chain(),
            (KeyCode::Char('i'), false) => self.change(|state| state.hides_imports ^= true),
            (KeyCode::Char('u'), false) => self.change(|state| state.hides_uninteresting ^= true),
            (KeyCode::Char('x'), false) if self.has_native_frames() => self.change(|state| state.hides_native ^= true),
            (KeyCode::Char('c'), false) => self.change(|state| {
                state.measure = match state.measure {
                    Measure::Bytes => Measure::Count,
                    Measure::Count => Measure::Bytes,
                };
            }),
            (KeyCode::Tab, _) => self.change(|state| state.tab = (state.tab + 1) % state.tabs.len()),
            (KeyCode::BackTab, _) => {
                self.change(|state| state.tab = (state.tab + state.tabs.len() - 1) % state.tabs.len())
            }
            (KeyCode::Char('/'), false) => {
                self.mode = Mode::Typing { before: self.opened.memory(), cursor: self.cursor };
                self.search = Search::default();
            }
            (KeyCode::Char('n'), false) => self.go_to_match(Direction::Forward, false),
            (KeyCode::Char('N'), false) => self.go_to_match(Direction::Back, false),
            (KeyCode::Esc, _) => self.search = Search::default(),
            (KeyCode::Char('?') | KeyCode::F(1), false) => self.mode = Mode::Help,
            _ => {}
        }
        Effect::Nothing
    }

    fn type_word(&mut self, key: KeyEvent, is_control: bool) {
        let mut word = self.search.word().to_owned();
        match (key.code, is_control) {
            (KeyCode::Enter, _) => {
                self.mode = Mode::Walking;
                return;
            }
            (KeyCode::Esc, _) => word.clear(),
            (KeyCode::Backspace, _) if word.is_empty() => {}
            (KeyCode::Backspace, _) | (KeyCode::Char('h'), true) => {
                word.pop();
            }
            (KeyCode::Char('u' | 'w'), true) => word.clear(),
            (KeyCode::Char(character), false) => word.push(character),
            _ => return,
        }
        // Each word is looked for from where the search began, so that a corrected one finds what it would have found.
        if let Mode::Typing { before, cursor } = &self.mode {
            self.opened.restore(before);
            self.cursor = *cursor;
        }
        if key.code == KeyCode::Esc || (key.code == KeyCode::Backspace && self.search.word().is_empty()) {
            self.mode = Mode::Walking;
        }
        self.search = Search::new(&word, self.model, &self.tree);
        self.lay_out();
        self.go_to_match(Direction::Forward, true);
    }

    fn step(&mut self, n_rows: isize) {
        let last = self.rows.len() - 1;
        self.cursor = self.rows[self.row_of_cursor().saturating_add_signed(n_rows).min(last)];
    }

    fn close_or_leave(&mut self) {
        if self.is_open(self.cursor) && self.has_children(self.cursor) {
            self.opened.set(self.cursor, false);
            self.lay_out();
        } else {
            self.cursor = self.tree.nodes[self.cursor].parent;
        }
    }

    fn open_or_enter(&mut self) {
        if !self.has_children(self.cursor) {
            return;
        }
        if self.is_open(self.cursor) {
            self.cursor += 1;
        } else {
            self.opened.set(self.cursor, true);
            self.lay_out();
        }
    }

    fn toggle(&mut self) {
        self.opened.set(self.cursor, !self.is_open(self.cursor));
        self.lay_out();
    }

    /// Opens what calls only one other, down to where a path branches or ends; closes all of it when it was open.
    fn open_chain(&mut self) {
        let is_open = !self.is_open(self.cursor);
        let mut node = self.cursor;
        while self.has_children(node) {
            self.opened.set(node, is_open);
            if self.tree.children(node).nth(1).is_some() {
                break;
            }
            node += 1;
        }
        self.lay_out();
    }

    fn go_to_match(&mut self, direction: Direction, may_stay: bool) {
        let found = match direction {
            Direction::Forward => self.search.next(self.cursor, may_stay),
            Direction::Back => self.search.previous(self.cursor),
        };
        let Some(found) = found else { return };
        self.cursor = found;
        self.open_callers();
        self.lay_out();
    }

    /// Changes what the tree is made of. Calls stay as open as they were, and the cursor stays on its call or goes to
    /// the nearest of its callers that are still there.
    fn change(&mut self, change: impl FnOnce(&mut State<'a>)) {
        change(self);
        self.arrange();
        self.search = Search::new(self.search.word(), self.model, &self.tree);
        if !self.tree.children(0).any(|(node, _)| self.is_open(node)) {
            self.open_largest();
        }
        self.open_callers();
        self.lay_out();
    }

    fn arrange(&mut self) {
        let snapshot = self.snapshot();
        let options = TreeOptions { biggest_allocs: self.biggest_allocs, measure: self.measure };
        let shown = tree::biggest(snapshot, &options);
        (self.n_stacks, self.n_shown) = (snapshot.rows.len(), shown.rows.len());
        let tree = Tree::new(self.model, &shown).arranged(|frame| self.keep(frame), self.measure);
        let before = std::mem::replace(&mut self.tree, tree);
        let is_machinery = |frame| role_of(self.model, frame) != role::NONE;
        self.cursor = self.opened.show(&self.tree, is_machinery, &before, self.cursor);
        self.stems = Stems::new(&self.tree);
    }

    fn keep(&self, frame: FrameId) -> Keep {
        let (kind, role) = origin::of_frame(self.model, self.model.frame(frame));
        let is_importing = role & role::IMPORTING != 0;
        let is_lifted =
            self.hides_uninteresting && role != role::NONE || self.hides_native && kind == origin::Kind::Native;
        match (self.hides_imports && is_importing, is_lifted) {
            (true, _) => Keep::Dropped,
            (_, true) => Keep::Lifted,
            _ => Keep::Shown,
        }
    }

    /// Opens the largest path, from the root to its end.
    fn open_largest(&mut self) {
        let mut node = 0;
        while self.has_children(node) {
            self.opened.set(node, true);
            node += 1;
        }
        self.lay_out();
    }

    /// Brings the cursor into view.
    fn open_callers(&mut self) {
        let mut node = self.cursor;
        while node != 0 {
            node = self.tree.nodes[node].parent;
            self.opened.set(node, true);
        }
    }

    /// Finds out which nodes are in view, and puts the cursor on one of them.
    fn lay_out(&mut self) {
        self.rows.clear();
        let mut node = 0;
        while node < self.tree.nodes.len() {
            self.rows.push(node);
            node = if self.is_open(node) { node + 1 } else { self.tree.nodes[node].end };
        }
        self.cursor = self.rows[self.row_of_cursor()];
    }

    /// The row of the cursor, or of the call that it is hidden in.
    fn row_of_cursor(&self) -> usize {
        self.rows.partition_point(|&node| node <= self.cursor).saturating_sub(1)
    }

    fn scroll(&mut self) {
        let row = self.row_of_cursor();
        let lowest = self.rows.len().saturating_sub(self.n_rows_on_screen);
        self.top = self.top.min(row).max((row + 1).saturating_sub(self.n_rows_on_screen)).min(lowest);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Back,
}

fn role_of(model: &Model, frame: FrameId) -> u8 {
    origin::of_frame(model, model.frame(frame)).1
}
