//! The view on screens of different sizes, and what keys change.

use std::sync::Arc;

use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::{Frame, Terminal};

use super::picture::{History, Picture, Row, Since, Thread};
use super::state::{Asked, Mode, State};
use super::view;
use crate::terminal::Effect;
use crate::terminal::theme::Theme;

fn row(function: &str, file: &str, thread: usize, total_bytes: u64, own_bytes: u64, count: u64) -> Row {
    Row { function: function.into(), file: file.into(), thread, total_bytes, own_bytes, count }
}

/// A shop with two threads.
fn picture() -> Picture {
    let mut history = History::default();
    for (step, bytes) in [1, 2, 3, 4, 8, 2, 2, 1].into_iter().enumerate() {
        history.add(step as u64 * 10_000_000, bytes * 1_000_000);
    }
    let thread = |os_tid, name: &str| Thread { os_tid, name: name.into() };
    Picture {
        pid: 4711,
        command: "shop.py --port 80".into(),
        nanos: 95_000_000_000,
        heap_bytes: 10_000_000,
        peak_bytes: 80_000_000,
        rss_bytes: 90_000_000,
        n_events: 1_234_567,
        history,
        threads: Arc::new(vec![thread(4711, ""), thread(4712, "worker")]),
        rows: Arc::new(vec![
            row("main", "shop.py", 0, 7_000_000, 0, 9),
            row("load", "shop.py", 0, 6_000_000, 6_000_000, 2),
            row("parse", "json/decoder.py", 0, 1_000_000, 1_000_000, 7),
            row("serve", "shop.py", 1, 3_000_000, 1_000_000, 40),
            row("load", "shop.py", 1, 2_000_000, 2_000_000, 1),
        ]),
        ..Picture::default()
    }
}

fn state(pictures: &[Picture]) -> State {
    let mut state = State::default();
    state.renew(pictures.iter().cloned().map(Arc::new).collect(), None);
    state
}

fn press(state: &mut State, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\r' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\t' => KeyCode::Tab,
            '→' => KeyCode::Right,
            '←' => KeyCode::Left,
            '↓' => KeyCode::Down,
            other => KeyCode::Char(other),
        };
        assert_eq!(state.key(KeyEvent::new(code, KeyModifiers::NONE)), Asked::Effect(Effect::Nothing));
    }
}

/// The lines of the screen, without what is blank at their ends.
fn lines(state: &mut State, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame: &mut Frame| view::draw(state, frame, &Theme::PLAIN)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

fn functions(state: &mut State) -> Vec<String> {
    state.rows_on_screen(100).iter().map(|row| row.function.to_string()).collect()
}

#[test]
fn threads_are_summed_until_they_are_split() {
    let mut state = state(&[picture()]);
    let shown = lines(&mut state, 80, 24);
    let head = " 4711  shop.py --port 80";
    let totals = "Heap 10.000MB   Peak 80.000MB   Resident 90.000MB   Events 1,234,567   Time 1:35";
    assert_eq!(shown[..2], [head, totals]);
    let expected = [
        "2 threads together",
        "    ▼Total       %        Own       %     Blocks  Function",
        "   8.000MB  80.00%    8.000MB  80.00%          3  load at shop.py",
        "   7.000MB  70.00%     0.000B   0.00%          9  main at shop.py",
        "   3.000MB  30.00%    1.000MB  10.00%         40  serve at shop.py",
        "   1.000MB  10.00%    1.000MB  10.00%          7  parse at json/decoder.py",
    ];
    assert_eq!(shown[5..11], expected);
    assert!(shown[23].starts_with("t o a sort  m split threads  M mark  / search"), "{}", shown[23]);
    press(&mut state, "m");
    let shown = lines(&mut state, 80, 24);
    assert_eq!(shown[5], "Thread 1 of 2: kernel thread 4711");
    assert_eq!(functions(&mut state), ["main", "load", "parse"]);
    press(&mut state, "→");
    assert_eq!(lines(&mut state, 80, 24)[5], "Thread 2 of 2: worker (kernel thread 4712)");
    assert_eq!(functions(&mut state), ["serve", "load"]);
    press(&mut state, "→m");
    assert_eq!(functions(&mut state).len(), 4);
}

#[test]
fn the_curve_is_as_high_as_the_heap_was() {
    let mut state = state(&[picture()]);
    let shown = lines(&mut state, 80, 24);
    let height = |column: usize| {
        let eighths = |line: &String| match line.chars().nth(column) {
            None | Some(' ') => 0,
            Some(block) => block as u32 - '▁' as u32 + 1,
        };
        shown[2..5].iter().map(eighths).sum::<u32>()
    };
    // Three rows are 24 eighths for the largest of eight steps; each has ten columns.
    assert_eq!([0, 10, 20, 30, 40, 50, 60, 70].map(height), [3, 6, 9, 12, 24, 6, 6, 3]);
}

#[test]
fn a_small_screen_has_a_table_and_a_large_one_a_higher_curve() {
    let mut state = state(&[picture()]);
    let head = |lines: &[String]| lines.iter().position(|line| line.contains("▼Total")).unwrap();
    assert_eq!(head(&lines(&mut state, 80, 10)), 3);
    assert_eq!(head(&lines(&mut state, 120, 40)), 8);
    for (width, height) in [(1, 1), (20, 2), (3, 60), (200, 3)] {
        lines(&mut state, width, height);
    }
}

#[test]
fn columns_sort_and_words_choose() {
    let mut state = state(&[picture()]);
    press(&mut state, "a");
    assert_eq!(functions(&mut state), ["serve", "main", "parse", "load"]);
    press(&mut state, "o");
    assert_eq!(functions(&mut state), ["load", "serve", "parse", "main"]);
    press(&mut state, "/SHOP");
    assert_eq!(lines(&mut state, 80, 24)[23], "/SHOP");
    assert_eq!(functions(&mut state), ["load", "serve", "main"]);
    press(&mut state, "\r");
    assert!(lines(&mut state, 80, 24)[5].ends_with("with “SHOP”: 3"));
    // Esc takes the word away, and then it leaves.
    press(&mut state, "\x1b");
    assert_eq!(functions(&mut state).len(), 4);
    let esc = state.key(KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE));
    assert_eq!(esc, Asked::Effect(Effect::Quit));
}

#[test]
fn in_a_pause_the_figures_stand_still_and_then_are_those_of_now() {
    let mut state = state(&[picture()]);
    press(&mut state, " ");
    let later = Picture { heap_bytes: 20_000_000, rows: Arc::new(Vec::new()), ..picture() };
    state.renew(vec![Arc::new(later.clone())], None);
    assert!(lines(&mut state, 100, 24)[0].contains("figures stand still"));
    assert_eq!(functions(&mut state).len(), 4);
    press(&mut state, " ");
    state.renew(vec![Arc::new(later)], None);
    assert!(lines(&mut state, 80, 24)[1].starts_with("Heap 20.000MB"));
    assert_eq!(functions(&mut state).len(), 0);
}

#[test]
fn since_a_mark_the_table_has_what_was_allocated_since() {
    let mut state = state(&[picture()]);
    let key = |state: &mut State, key| state.key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
    assert_eq!(key(&mut state, 'M'), Asked::Mark(true));
    let rows = Arc::new(vec![row("leak", "shop.py", 0, 500_000, 500_000, 3)]);
    let since = Some(Since { nanos: 90_000_000_000, bytes: 1_000_000, rows });
    state.renew(vec![Arc::new(Picture { since, ..picture() })], None);
    let shown = lines(&mut state, 80, 24);
    assert!(shown[5].starts_with("Allocated since 1:30 and still there: 1.000MB"), "{}", shown[5]);
    assert_eq!(shown[7], " 500.000kB  50.00%  500.000kB  50.00%          3  leak at shop.py");
    assert_eq!(key(&mut state, 'c'), Asked::Mark(false));
}

#[test]
fn each_process_has_a_tab() {
    let end = Some("ended by signal 9".to_owned());
    let child = Picture { pid: 4800, command: "worker.py".into(), end, rows: Arc::default(), ..picture() };
    let mut state = state(&[picture(), child]);
    assert_eq!(lines(&mut state, 80, 24)[0], " 4711   4800  shop.py --port 80");
    press(&mut state, "\t");
    let title = lines(&mut state, 80, 24)[0].clone();
    assert!(title.starts_with(" 4711   4800  worker.py") && title.ends_with("ended by signal 9"), "{title}");
    press(&mut state, "\t");
    assert_eq!(functions(&mut state).len(), 4);
}

#[test]
fn the_output_of_the_program_is_there_when_it_is_known() {
    let mut state = state(&[picture()]);
    press(&mut state, "p");
    assert!(!state.shows_output);
    let output = (1..=50).map(|number| format!("line {number} \u{1b}[31m")).collect();
    state.renew(vec![Arc::new(picture())], Some(output));
    press(&mut state, "p");
    let shown = lines(&mut state, 80, 24);
    assert_eq!(shown[22], "line 50 \\x1b[31m");
    assert_eq!(shown[3], "line 31 \\x1b[31m");
}

#[test]
fn help_names_the_keys_and_the_warnings() {
    let notices = vec!["3 events could not be recorded".to_owned()];
    let mut state = state(&[Picture { notices, ..picture() }]);
    assert!(lines(&mut state, 80, 24)[23].starts_with("1 warning (?)"));
    press(&mut state, "?");
    let shown = lines(&mut state, 80, 24).join("\n");
    assert!(shown.contains("threads one by one, or all together"), "{shown}");
    assert!(shown.contains("3 events could not be recorded"), "{shown}");
    press(&mut state, "x");
    assert_eq!(state.mode, Mode::Watching);
}
