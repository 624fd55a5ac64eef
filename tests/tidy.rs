//! What a reviewer should not have to look for: who imports whom, whether the documents name files that exist, whether
//! dependencies say what they are for.
//!
//! Reads the checkout as text. It must never judge taste: a rule stands here when breaking it has misled somebody.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Who may import whom inside `src/`, as in `CONTRIBUTING.md`. A new module gets its row here first.
const SRC_ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli", "commands"]),
    ("lib", &[]),
    ("cli", &["launch", "capture", "units"]),
    ("attach", &["launch"]),
    ("aggregate", &["analysis", "capture", "model"]),
    (
        "commands",
        &[
            "cli",
            "attach",
            "aggregate",
            "control",
            "launch",
            "terminal",
            "report",
            "analysis",
            "symbols",
            "capture",
            "model",
            "units",
        ],
    ),
    ("launch", &["capture", "control"]),
    ("control", &[]),
    ("terminal", &["report", "analysis", "model", "units"]),
    ("report", &["analysis", "model", "units"]),
    ("analysis", &["model"]),
    ("capture", &["model"]),
    ("model", &[]),
    ("symbols", &[]),
    ("units", &[]),
];

#[test]
fn modules_of_src_import_along_the_arrows() {
    check_arrows("src", SRC_ARROWS);
}

/// What the Python extension, a front of its own, takes from `src`.
const PYTHON_MAY_IMPORT: &[&str] =
    &["analysis", "capture", "cli", "commands", "control", "launch", "model", "report", "units"];

#[test]
fn the_python_extension_imports_along_the_arrows() {
    let mut found = Vec::new();
    for file in rust_files("python/src") {
        for (number, line) in code_lines(&file) {
            // Its own modules are behind `crate::`.
            for import in imports(&line.replace("crate::", "")) {
                if SRC_ARROWS.iter().any(|(name, _)| *name == import) && !PYTHON_MAY_IMPORT.contains(&import.as_str()) {
                    found.push(format!("{}:{number}: python → {import}", show(&file)));
                }
            }
        }
    }
    assert_none(&found, "an import goes against the arrows of CONTRIBUTING.md");
}

#[test]
fn analysis_touches_no_files_and_no_clock() {
    let mut found = Vec::new();
    for file in rust_files("src/analysis") {
        for (number, line) in code_lines(&file) {
            if ["std::fs", "std::time", "std::net", "println!", "std::env"].iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{number}: {}", show(&file), line.trim()));
            }
        }
    }
    assert_none(&found, "an analysis is a function from records to a value");
}

#[test]
fn every_rust_file_says_first_what_it_is() {
    let found: Vec<String> = ["src", "preload", "format", "python", "tests", "benches"]
        .iter()
        .flat_map(|folder| rust_files(folder))
        .filter(|file| !read(file).starts_with("//!"))
        .map(|file| show(&file))
        .collect();
    assert_none(&found, "a file opens with `//!`: what it is, who calls it, what it must never do");
}

#[test]
fn every_path_named_in_a_document_exists() {
    let mut found = Vec::new();
    for document in documents() {
        for (number, line) in read(&document).lines().enumerate() {
            for path in named_paths(line) {
                if !root().join(path).exists() && !document.parent().is_some_and(|folder| folder.join(path).exists()) {
                    found.push(format!("{}:{}: {path}", show(&document), number + 1));
                }
            }
        }
    }
    assert_none(&found, "a document names a file that is not there");
}

#[test]
fn every_dependency_says_what_it_saves_us() {
    let mut found = Vec::new();
    for manifest in ["Cargo.toml", "format/Cargo.toml", "preload/Cargo.toml", "python/Cargo.toml"] {
        let text = read(&root().join(manifest));
        let mut is_dependencies = false;
        let mut before = "";
        for line in text.lines() {
            if line.starts_with('[') {
                is_dependencies = line.ends_with("dependencies]");
            } else if is_dependencies && starts_an_entry(line) && !before.starts_with('#') {
                found.push(format!("{manifest}: {line}"));
            }
            before = line;
        }
    }
    assert_none(&found, "a dependency has a comment above it saying what it saves us");
}

#[test]
fn nothing_is_left_for_later_in_a_comment() {
    // Put together here, so that this file does not contain them.
    let words = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X:"].concat(), ["todo", "!("].concat()];
    let mut found = Vec::new();
    for file in all_files() {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word.as_str())) {
                found.push(format!("{}:{}: {}", show(&file), number + 1, line.trim()));
            }
        }
    }
    assert_none(&found, "work that is left goes into an issue");
}

#[test]
fn unsafe_has_an_address() {
    let found: Vec<String> = ["src", "preload", "format", "python"]
        .iter()
        .flat_map(|folder| rust_files(folder))
        .filter(|file| code_lines(file).any(|(_, line)| line.contains("unsafe {")))
        .filter(|file| {
            !read(file).lines().take_while(|line| line.starts_with("//!")).any(|line| line == "//! # Safety")
        })
        .map(|file| show(&file))
        .collect();
    assert_none(
        &found,
        "a file with unsafe blocks says at the top, under `# Safety`, what is dangerous and what it promises",
    );
}

#[test]
fn path_names_are_told_from_other_words() {
    let check = |line: &str, expected: &[&str]| assert_eq!(named_paths(line), expected, "in {line:?}");
    check("see `src/units.rs` and [the picture](docs/flamegraph.png)", &["src/units.rs", "docs/flamegraph.png"]);
    check("`src/report/{mod,html}.rs`, `tests/run --long`", &["tests/run"]);
    check("`and/or`, `a.bin`, [site](https://example.org/docs/x)", &[]);
}

/// Every module named by an import of a file in `folder` is one that the table lets it import.
fn check_arrows(folder: &str, arrows: &[(&str, &[&str])]) {
    let mut found = Vec::new();
    for file in rust_files(folder) {
        let module = module_of(folder, &file);
        let Some((_, allowed)) = arrows.iter().find(|(name, _)| *name == module) else {
            found.push(format!("{}: module `{module}` has no row", show(&file)));
            continue;
        };
        for (number, line) in code_lines(&file) {
            for import in imports(&line) {
                let is_module = arrows.iter().any(|(name, _)| *name == import);
                if is_module && import != module && !allowed.contains(&import.as_str()) {
                    found.push(format!("{}:{number}: {module} → {import}", show(&file)));
                }
            }
        }
    }
    assert_none(&found, "an import goes against the arrows of CONTRIBUTING.md");
}

/// The first names behind `crate::` or `memtrace::` on a line: `{a, b::c}` gives two.
fn imports(line: &str) -> Vec<String> {
    let mut names = Vec::new();
    for prefix in ["crate::", "memtrace::"] {
        for (at, _) in line.match_indices(prefix) {
            let rest = &line[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(list) => {
                    let mut depth = 0;
                    let mut is_start = true;
                    for (place, character) in list.char_indices() {
                        match character {
                            '{' => depth += 1,
                            '}' => depth -= 1,
                            ',' if depth == 0 => is_start = true,
                            _ if is_start && !character.is_whitespace() => {
                                names.push(first_name(&list[place..]));
                                is_start = false;
                            }
                            _ => {}
                        }
                        if depth < 0 {
                            break;
                        }
                    }
                }
                None => names.push(first_name(rest)),
            }
        }
    }
    names
}

fn first_name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Paths of this repository in backticks or behind a link.
fn named_paths(line: &str) -> Vec<&str> {
    let in_backticks = line.split('`').skip(1).step_by(2).filter_map(|text| text.split_whitespace().next());
    let in_links = line.split("](").skip(1).filter_map(|text| text.split([')', '#']).next());
    let is_ours = |path: &&str| {
        let first = path.split('/').next().unwrap_or_default();
        let is_top = path.contains('/') && TOP_FOLDERS.contains(&first);
        let is_top_file = !path.contains('/') && [".md", ".toml"].iter().any(|end| path.ends_with(end));
        (is_top || is_top_file) && !path.contains(['{', '*', '<', '…', '$'])
    };
    in_backticks.chain(in_links).filter(is_ours).collect()
}

const TOP_FOLDERS: &[&str] =
    &["src", "preload", "format", "python", "tests", "fixtures", "benches", "docs", ".ci", ".config"];

fn starts_an_entry(line: &str) -> bool {
    line.chars().next().is_some_and(|c| c.is_ascii_alphanumeric()) && line.contains('=')
}

/// The module directly under `folder` that this file belongs to.
fn module_of(folder: &str, file: &Path) -> String {
    let inside = file.strip_prefix(root().join(folder)).expect("the file is in the folder");
    let first = inside.components().next().expect("a file has a name").as_os_str().to_string_lossy().into_owned();
    first.strip_suffix(".rs").unwrap_or(&first).to_string()
}

/// Numbered lines without comments, up to the tests at the foot of the file.
fn code_lines(file: &Path) -> impl Iterator<Item = (usize, String)> {
    let text = read(file);
    let lines: Vec<String> = text.lines().take_while(|line| *line != "mod tests {").map(str::to_string).collect();
    lines
        .into_iter()
        .enumerate()
        .map(|(n, line)| (n + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn documents() -> Vec<PathBuf> {
    let mut documents: Vec<PathBuf> =
        all_files().into_iter().filter(|f| f.extension().is_some_and(|e| e == "md")).collect();
    documents.push(root().join("src/lib.rs"));
    documents.push(root().join("preload/src/lib.rs"));
    documents
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    walk(&root().join(folder), &mut files);
    files.retain(|file| file.extension().is_some_and(|extension| extension == "rs"));
    files
}

fn all_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    walk(root(), &mut files);
    files
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let entries: BTreeSet<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_symlink() || ["target", ".git", "__pycache__"].contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn show(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn assert_none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}
