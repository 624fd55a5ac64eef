//! Keys in, state out; and what is on the screen then, compared with `fixtures/expected/terminal`.

use std::path::Path;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

use super::*;
use crate::analysis::Row;
use crate::model::facts::Python;
use crate::model::{Clock, Facts, StackId};
use crate::report::sources::Confidential;
use crate::terminal::theme::Theme;

/// Bytes and blocks at the peak and at the end, and the stack as `function file line`, from the root to the leaf; a file
/// in C has native frames.
type Stack<'a> = (u64, u64, u64, u64, &'a [(&'a str, &'a str, u32)]);

const SHOP: &[Stack] = &[
    (4_000_000, 4, 0, 0, &[MAIN, ("load", "/srv/shop/data.py", 12), LOADS]),
    (1_500_000, 3000, 2_000, 2, &[MAIN, ("load", "/srv/shop/data.py", 14), ("Row.__init__", "/srv/shop/row.py", 3)]),
    (900_000, 9, 900_000, 9, &[MAIN, IMPORT, ("<module>", NUMPY, 5), ("array", NUMPY, 7)]),
    (300_000, 30, 0, 0, &[MAIN, ("report", "/srv/shop/report.py", 40)]),
    (100_000, 500, 100_000, 500, &[("<module>", "<frozen site>", 1)]),
    (50, 2, 50, 2, &[]),
];
const MAIN: (&str, &str, u32) = ("<module>", "/srv/shop/app.py", 2);
const LOADS: (&str, &str, u32) = ("loads", "/usr/lib/python3.11/json/__init__.py", 303);
const IMPORT: (&str, &str, u32) = ("_find_and_load", "<frozen importlib._bootstrap>", 1000);
const NUMPY: &str = "/srv/venv/lib/python3.11/site-packages/numpy/__init__.py";

/// A view that is looked at without a terminal.
struct Looking<'a> {
    shown: Shown<'a>,
}

fn look(stacks: &[Stack], check: impl FnOnce(Looking)) {
    look_with(stacks, 200, check);
}

fn look_with(stacks: &[Stack], biggest_allocs: usize, check: impl FnOnce(Looking)) {
    let has_native_stacks = stacks.iter().any(|stack| stack.4.iter().any(|&(_, file, _)| file.ends_with(".c")));
    let mut facts = Facts { cwd: "/srv/shop".into(), has_native_stacks, ..Facts::default() };
    facts.image_mut(0).python = Some(Python { version: 0, allocator: String::new(), has_stacks: true });
    let mut model = Model::new(facts, Clock::default());
    let (mut peak, mut end) = (Vec::new(), Vec::new());
    for &(peak_bytes, peak_count, end_bytes, end_count, frames) in stacks {
        let stack = frames.iter().fold(StackId::EMPTY, |stack, &(function, file, line)| {
            let frame = match file.ends_with(".c") {
                true => model.intern_native_frame(function, file, line, "/lib/fast.so"),
                false => model.intern_frame(function, file, line),
            };
            model.extend_stack(stack, frame)
        });
        peak.push(Row { stack, bytes: peak_bytes, count: peak_count });
        end.push(Row { stack, bytes: end_bytes, count: end_count });
    }
    let tab = |name, rows| Tab { name, snapshot: Snapshot::summed(rows, None) };
    let tabs = [tab("Peak", peak), tab("Leaks", end)];
    let sources = Sources::new(Confidential::None, "/srv/shop", Duration::MAX);
    let state = State::new(&model, &tabs, 0, biggest_allocs);
    let notices = vec!["3 events could not be recorded".to_string()];
    check(Looking { shown: Shown { state, title: "app.py --port 80".into(), notices, sources } });
}

impl Looking<'_> {
    /// Keys by their names, and characters of what is typed.
    fn press(&mut self, keys: &str) -> Effect {
        let mut effect = Effect::Nothing;
        for key in keys.split(' ') {
            let code = match key {
                "up" => KeyCode::Up,
                "down" => KeyCode::Down,
                "left" => KeyCode::Left,
                "right" => KeyCode::Right,
                "pageup" => KeyCode::PageUp,
                "pagedown" => KeyCode::PageDown,
                "home" => KeyCode::Home,
                "end" => KeyCode::End,
                "enter" => KeyCode::Enter,
                "esc" => KeyCode::Esc,
                "tab" => KeyCode::Tab,
                "backtab" => KeyCode::BackTab,
                "back" => KeyCode::Backspace,
                "^c" | "^z" => {
                    let character = key.chars().last().unwrap();
                    effect = self.shown.key(KeyEvent::new(KeyCode::Char(character), KeyModifiers::CONTROL));
                    continue;
                }
                typed => {
                    for character in typed.chars() {
                        effect = self.shown.key(KeyCode::Char(character).into());
                    }
                    continue;
                }
            };
            effect = self.shown.key(code.into());
        }
        effect
    }

    fn buffer(&mut self, width: u16, height: u16, theme: &Theme) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| self.shown.draw(frame, theme)).unwrap();
        terminal.backend().buffer().clone()
    }

    fn screen(&mut self, width: u16, height: u16) -> String {
        let buffer = self.buffer(width, height, &Theme::PLAIN);
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_string() + "\n";
        (0..height).map(line).collect()
    }

    /// The functions in view, indented by their depth; the one that the cursor is on has a mark.
    fn tree(&self) -> Vec<String> {
        let state = &self.shown.state;
        let line = |&node: &usize| {
            let shown = &state.tree.nodes[node];
            let name = shown.frame.map_or("everything", |id| state.model.text(state.model.frame(id).function));
            let mark = if node == state.cursor { "*" } else { "" };
            format!("{}{name}{mark}", " ".repeat(shown.depth))
        };
        state.rows.iter().map(line).collect()
    }

    fn chosen(&self) -> String {
        self.tree().into_iter().find_map(|line| line.strip_suffix('*').map(|name| name.trim().to_string())).unwrap()
    }
}

#[track_caller]
fn check_screen(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/expected/terminal").join(name);
    if std::env::var_os("MEMTRACE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let path = path.display();
    assert!(
        actual == expected,
        "{path} differs (MEMTRACE_BLESS=1 rewrites it)\n--- expected\n{expected}\n--- actual\n{actual}"
    );
}

#[test]
fn the_largest_path_is_open_at_first() {
    look(SHOP, |view| {
        assert_eq!(
            view.tree(),
            ["everything*", " <module>", "  load", "   loads", "  load", "  <module>", "  report", " <module>"]
        );
    });
}

#[test]
fn arrows_open_and_close_and_go_to_callers_and_calls() {
    look(SHOP, |mut view| {
        let mut check = |keys: &str, expected: &str| {
            view.press(keys);
            assert_eq!(view.chosen(), expected, "after {keys}");
        };
        check("up", "everything");
        check("right", "<module>");
        check("down down down", "load");
        check("right", "load");
        check("right", "Row.__init__");
        check("right", "Row.__init__");
        check("left", "load");
        check("left left", "<module>");
        check("left left", "everything");
        check("left", "everything");
        assert_eq!(view.tree(), ["everything*"]);
        view.press("enter");
        assert_eq!(view.tree(), ["everything*", " <module>", " <module>"]);
    });
}

#[test]
fn native_frames_are_lifted_out_and_come_back() {
    let call = ("call", "fast.c", 0);
    let native: &[Stack] = &[(7, 1, 0, 0, &[MAIN, call, LOADS, ("grow", "fast.c", 9)]), (2, 1, 0, 0, &[MAIN])];
    look(native, |mut view| {
        let with_native = ["everything*", " <module>", "  call", "   loads", "    grow"];
        assert_eq!(view.tree(), with_native);
        assert!(view.screen(130, 12).contains(" x hide native"));
        assert!(view.screen(80, 12).contains("fast.c:9") && !view.screen(80, 12).contains("fast.c:0"));
        view.press("x right right e");
        assert_eq!(view.tree(), ["everything", " <module>", "  loads*"]);
        assert!(view.screen(130, 12).contains(" x show native"));
        view.press("home x");
        assert_eq!(view.tree(), with_native);
    });
    look(SHOP, |mut view| {
        view.press("x");
        assert!(!view.screen(120, 12).contains("native"));
    });
}

#[test]
fn a_chain_of_single_calls_opens_at_once_and_closes_again() {
    let frames: Vec<(&str, &str, u32)> = ["a", "b", "c", "d"].map(|name| (name, "app.py", 1)).to_vec();
    let (x, y) = ([&frames[..], &[("x", "app.py", 1)]].concat(), [&frames[..], &[("y", "app.py", 1)]].concat());
    look(&[(5, 1, 0, 0, &x), (3, 1, 0, 0, &y)], |mut view| {
        view.press("left");
        assert_eq!(view.tree(), ["everything*"]);
        view.press("e");
        assert_eq!(view.tree(), ["everything*", " a", "  b", "   c", "    d", "     x", "     y"]);
        view.press("down down e");
        assert_eq!(view.tree(), ["everything", " a", "  b*"]);
        view.press("e");
        assert_eq!(view.tree(), ["everything", " a", "  b*", "   c", "    d", "     x", "     y"]);
    });
}

#[test]
fn machinery_comes_and_goes_and_takes_nothing_along() {
    look(SHOP, |mut view| {
        view.press("down down down down down right down");
        assert_eq!(view.chosen(), "array");
        view.press("u");
        let expected = [
            "everything",
            " <module>",
            "  load",
            "   loads",
            "  load",
            "  _find_and_load",
            "   <module>",
            "    array*",
            "  report",
            " <module>",
        ];
        assert_eq!(view.tree(), expected);
        view.press("u");
        assert_eq!(view.chosen(), "array");
        assert_eq!(view.shown.state.tree.nodes[0].bytes, 6_800_050);
    });
}

#[test]
fn imports_go_with_what_they_allocated() {
    look(SHOP, |mut view| {
        view.press("down down down down down right down i");
        assert_eq!(view.chosen(), "<module>");
        assert_eq!(view.tree(), ["everything", " <module>*", "  load", "   loads", "  load", "  report", " <module>"]);
        assert_eq!(view.shown.state.tree.nodes[0].bytes, 5_900_050);
        view.press("i");
        assert_eq!(view.shown.state.tree.nodes[0].bytes, 6_800_050);
    });
}

#[test]
fn the_questions_and_measures_change_below_a_cursor_that_stays() {
    look(SHOP, |mut view| {
        view.press("down down down down right right");
        assert_eq!(view.chosen(), "Row.__init__");
        view.press("c");
        assert_eq!(view.chosen(), "Row.__init__");
        assert_eq!(view.tree()[..4], ["everything", " <module>", "  load", "   Row.__init__*"]);
        view.press("tab");
        assert_eq!(view.chosen(), "Row.__init__");
        assert_eq!(view.shown.state.tree.nodes[0].count, 513);
        view.press("backtab c");
        assert_eq!((view.chosen().as_str(), view.shown.state.tab), ("Row.__init__", 0));
        // What the cursor was on is nowhere among the leaks: its caller is the next best.
        view.press("home down down down");
        assert_eq!(view.chosen(), "loads");
        view.press("tab");
        assert_eq!(view.chosen(), "<module>");
    });
}

#[test]
fn only_the_largest_stacks_are_shown_and_the_rest_is_told() {
    look_with(SHOP, 2, |mut view| {
        assert_eq!(view.tree(), ["everything*", " <module>", "  load", "   loads", "  load"]);
        assert!(view.screen(80, 24).contains("the largest 2 of 6 stacks (-b N shows more)"));
        view.press("c");
        assert_eq!(view.tree(), ["everything*", " <module>", "  load", " <module>"]);
    });
}

#[test]
fn a_word_is_found_in_functions_and_files_and_opened() {
    look(SHOP, |mut view| {
        view.press("/ROW");
        assert_eq!(view.chosen(), "Row.__init__");
        assert!(view.screen(80, 24).contains("/ROW▏  1 of 1, 22.1%"));
        view.press("back back back numpy");
        assert_eq!(view.chosen(), "<module>");
        // What was opened for the other word is closed again.
        assert!(!view.tree().contains(&"   Row.__init__".to_string()));
        view.press("enter n");
        assert_eq!(view.chosen(), "array");
        assert!(view.screen(80, 24).contains("/numpy  2 of 2, 13.2%"));
        view.press("n N N");
        assert_eq!(view.chosen(), "<module>");
        view.press("esc");
        assert!(!view.screen(80, 24).contains(" of 2,"));
        assert_eq!(view.press("/q"), Effect::Nothing);
        assert!(view.screen(80, 24).contains("/q▏  nothing"));
        view.press("esc");
        assert_eq!(view.press("q"), Effect::Quit);
    });
}

#[test]
fn a_search_that_is_given_up_leaves_everything_as_it_was() {
    look(SHOP, |mut view| {
        let before = view.tree();
        view.press("/array esc");
        assert_eq!(view.tree(), before);
        view.press("/a back back");
        assert_eq!((view.tree(), &view.shown.state.mode), (before, &state::Mode::Walking));
    });
}

#[test]
fn the_cursor_is_always_on_the_screen() {
    let names: Vec<String> = (0..100).map(|n| format!("f{n:02}")).collect();
    let frames: Vec<[(&str, &str, u32); 1]> = names.iter().map(|name| [(name.as_str(), "app.py", 1)]).collect();
    let stacks: Vec<Stack> = frames.iter().map(|frames| (10, 1, 0, 0, &frames[..])).collect();
    look(&stacks, |mut view| {
        for keys in ["end", "up up", "home", "pagedown pagedown", "pageup", "end pageup pageup", "/f07 enter", "G", "g"]
        {
            view.press(keys);
            let chosen = view.chosen();
            for (width, height) in [(60, 24), (120, 30), (80, 5), (80, 3)] {
                let screen = view.screen(width, height);
                assert!(screen.contains(&format!(" {chosen}")), "{chosen} after {keys}:\n{screen}");
            }
        }
    });
}

#[test]
fn keys_that_leave_leave() {
    look(SHOP, |mut view| {
        assert_eq!(view.press("q"), Effect::Quit);
        assert_eq!(view.press("^c"), Effect::Quit);
        assert_eq!(view.press("^z"), Effect::Suspend);
        // In the help every key goes back, but for these.
        assert_eq!(view.press("? q"), Effect::Nothing);
        assert_eq!(view.press("? ^c"), Effect::Quit);
    });
}

#[test]
fn screens_of_all_sizes_show_what_they_can() {
    look(SHOP, |mut view| {
        view.press("down down down down right");
        check_screen("tree-120x20.txt", &view.screen(120, 20));
        check_screen("tree-80x24.txt", &view.screen(80, 24));
        check_screen("tree-60x16.txt", &view.screen(60, 16));
        view.press("?");
        check_screen("tree-help-80x24.txt", &view.screen(80, 24));
        for (width, height) in [(0, 0), (1, 1), (2, 2), (5, 3), (19, 40), (300, 1)] {
            view.screen(width, height);
        }
    });
}

#[test]
fn an_empty_answer_is_one_line() {
    look(&[], |mut view| {
        view.press("right down e c u i c tab / x enter n N left");
        assert_eq!(view.tree(), ["everything*"]);
        assert!(view.screen(80, 24).contains("0.000B   0.0%"));
    });
}

#[test]
fn hostile_names_do_not_reach_the_terminal() {
    let frames = [("\x1b[31mred\u{202e}", "/srv/\x07bell\n.py", 1), ("\u{9b}2J", "\0", 2)];
    look(&[(5, 1, 0, 0, &frames)], |mut view| {
        view.shown.title = "app.py \x1b]0;gone\x07".into();
        view.shown.notices = vec!["lost \x1b[2J".into()];
        for keys in ["down", "down", "/\x1b", "enter ?"] {
            view.press(keys);
            for (width, height) in [(60, 24), (120, 30)] {
                let screen = view.screen(width, height);
                let is_bare =
                    |character: char| character != '\n' && (character.is_control() || character == '\u{202e}');
                assert!(!screen.contains(is_bare), "{screen:?}");
            }
        }
        view.press("x esc");
        assert!(view.screen(120, 30).contains("\\x1b[31mred\\u202e"));
    });
}

#[test]
fn the_source_around_the_line_is_shown() {
    let folder = std::env::temp_dir().join(format!("memtrace-terminal-tree-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("app.py");
    std::fs::write(&file, "first\n\tsecond \x1b[2J\nthird\n").unwrap();
    let frames = [("main", file.to_str().unwrap(), 2)];
    look(&[(5, 1, 0, 0, &frames)], |mut view| {
        view.press("down");
        for (width, height) in [(60, 24), (120, 30)] {
            let screen = view.screen(width, height);
            assert!(screen.contains(" 1 first") || screen.contains("  1 first"), "{screen}");
            assert!(screen.contains("2     second \\x1b[2J"), "{screen}");
        }
    });
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn without_colours_there_are_none_and_the_cursor_is_still_seen() {
    look(SHOP, |mut view| {
        view.press("/load enter");
        let colours = |buffer: &Buffer| buffer.content.iter().filter(|cell| cell.fg != Color::Reset).count();
        let plain = view.buffer(80, 24, &Theme::PLAIN);
        assert_eq!(colours(&plain), 0);
        let is_chosen = |y: u16| plain[(0, y)].modifier.contains(Modifier::REVERSED);
        assert_eq!((1..23).filter(|&y| is_chosen(y)).count(), 1);
        assert!(colours(&view.buffer(80, 24, &Theme::COLOURED)) > 50);
    });
}
