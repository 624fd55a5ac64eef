//! Whose code a file is, told by its path alone: the flame graph and the tree on the terminal colour and hide
//! frames by it.

use crate::model::{Frame, Model};

/// Whose code a frame runs. The numbers are those of the page's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The user's script and whatever is neither of the two below.
    Project = 0,
    /// Installed packages.
    Library = 1,
    /// What comes with Python.
    Standard = 2,
    /// No Python code was running, or nothing is known about it.
    Unknown = 3,
    /// Stands for many small nodes.
    Other = 4,
    Root = 5,
    /// C, C++, Rust and Cython in a program that runs Python.
    Native = 6,
}

/// What a frame is there for, as bits; the page hides frames by them.
pub mod role {
    pub const NONE: u8 = 0;
    /// The machinery of `import`, between a module and the one that imports it.
    pub const IMPORTING: u8 = 1;
    /// Starts a program and does nothing else.
    pub const RUNNER: u8 = 2;
}

/// Kind and role of a frame.
pub fn of_frame(model: &Model, frame: Frame) -> (Kind, u8) {
    // Where no Python runs, native code is told apart like Python's.
    match frame.is_native && model.runs_python() {
        true => (Kind::Native, role::NONE),
        false => of_file(model.text(frame.file)),
    }
}

/// Kind and role of the code in a file.
pub fn of_file(path: &str) -> (Kind, u8) {
    let kind = kind_of(path);
    let role = if is_import_machinery(path, kind) {
        role::IMPORTING
    } else if path == "<frozen runpy>" || (kind == Kind::Standard && path.ends_with("/runpy.py")) {
        role::RUNNER
    } else {
        role::NONE
    };
    (kind, role)
}

/// The path without what readers know already: the folder the program was started in, where packages are installed, and
/// where Python is.
pub fn short<'a>(path: &'a str, cwd: &str) -> &'a str {
    for folder in ["/site-packages/", "/dist-packages/"] {
        if let Some((_, inside)) = path.rsplit_once(folder) {
            return inside;
        }
    }
    if let Some(inside) = inside_standard_library(path) {
        return inside;
    }
    let inside = path.strip_prefix(cwd).and_then(|rest| rest.strip_prefix('/'));
    inside.filter(|inside| !cwd.is_empty() && !inside.is_empty()).unwrap_or(path)
}

fn kind_of(path: &str) -> Kind {
    if path.starts_with("<frozen ") {
        return Kind::Standard;
    }
    if path.starts_with('<') {
        return match path {
            "<unknown>" | "<lost>" => Kind::Unknown,
            "<string>" | "<stdin>" => Kind::Project,
            _ if path.starts_with("<ipython-input-") => Kind::Project,
            // Code that a library generated: `<attrs generated init …>`, `<__array_function__ internals>`.
            _ => Kind::Library,
        };
    }
    if path.contains("/site-packages/") || path.contains("/dist-packages/") {
        return Kind::Library;
    }
    if is_in_standard_library(path) || is_interpreter(path) {
        Kind::Standard
    } else if is_system_library(path) {
        Kind::Library
    } else {
        Kind::Project
    }
}

/// CPython itself, as debug information names its sources (in a folder as it is released, or beside one that was built
/// in), or as a file without any.
fn is_interpreter(path: &str) -> bool {
    const FOLDERS: [&str; 6] = ["Include", "Modules", "Objects", "Parser", "Programs", "Python"];
    let folders = path.split('/');
    let is_beside_build =
        folders.clone().zip(folders.skip(1)).any(|(up, folder)| up == ".." && FOLDERS.contains(&folder));
    let is_source = is_beside_build && [".c", ".h"].iter().any(|end| path.ends_with(end));
    let is_released = path.match_indices("/Python-3.").any(|(at, _)| path[at + 1..].contains('/'));
    let is_file = ["/bin/python3.", "/libpython3."].iter().any(|start| {
        let version = path.rsplit_once(start).map_or("", |(_, version)| version);
        version.starts_with(|digit: char| digit.is_ascii_digit()) && !version.contains('/')
    });
    is_source || is_released || is_file
}

/// A library without debug information, or the sources of libc, which are named from where they were built.
fn is_system_library(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_library = name.ends_with(".so") || name.contains(".so.") || name == "[vdso]";
    let is_of_libc = path.starts_with("./csu/") || path.starts_with("../sysdeps/") || path.contains("/../sysdeps/");
    is_library || is_of_libc || path.starts_with("/usr/include/") || path.starts_with("/rustc/")
}

fn is_in_standard_library(path: &str) -> bool {
    inside_standard_library(path).is_some()
}

/// What follows `lib/python3.N/` or `lib/python3N.zip/` in a path, wherever Python is installed.
fn inside_standard_library(path: &str) -> Option<&str> {
    path.match_indices("/python3").find_map(|(at, found)| {
        let is_in_lib = path[..at].ends_with("/lib") || path[..at].ends_with("/lib64");
        let (folder, inside) = path[at + found.len()..].split_once('/')?;
        let minor = folder.strip_prefix('.').map_or_else(
            || folder.strip_suffix(".zip"),
            // `python3.13t` is the free-threaded build.
            |minor| Some(minor.trim_end_matches('t')),
        );
        (is_in_lib && minor.is_some_and(|minor| minor.parse::<u8>().is_ok())).then_some(inside)
    })
}

fn is_import_machinery(path: &str, kind: Kind) -> bool {
    if path.starts_with("<frozen importlib") || path == "<frozen zipimport>" {
        return true;
    }
    // `importlib/metadata` and `importlib/resources` are ordinary modules that happen to live there.
    let in_folder = path.rsplit_once("/importlib/").map(|(_, rest)| rest);
    kind == Kind::Standard && in_folder.is_some_and(|rest| !rest.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, kind: Kind, role: u8) {
        assert_eq!(of_file(path), (kind, role), "{path}");
    }

    #[test]
    fn the_place_of_a_file_tells_whose_code_it_is() {
        check("/home/ada/shop/report.py", Kind::Project, role::NONE);
        check("report.py", Kind::Project, role::NONE);
        check("<string>", Kind::Project, role::NONE);
        check("/home/ada/.venv/lib/python3.12/site-packages/pandas/io/common.py", Kind::Library, role::NONE);
        check("/usr/lib/python3/dist-packages/apt/cache.py", Kind::Library, role::NONE);
        check("<attrs generated init shop.Order>", Kind::Library, role::NONE);
        check("/usr/lib/python3.12/json/decoder.py", Kind::Standard, role::NONE);
        check("/opt/py/lib64/python3.13t/json/decoder.py", Kind::Standard, role::NONE);
        check("/usr/lib/python312.zip/json/decoder.py", Kind::Standard, role::NONE);
        check("<frozen os>", Kind::Standard, role::NONE);
        check("/home/ada/lib/python3-tools/report.py", Kind::Project, role::NONE);
        check("/home/ada/python3.12/report.py", Kind::Project, role::NONE);
        check("/srv/lib/python3.12", Kind::Project, role::NONE);
        check("", Kind::Project, role::NONE);
    }

    #[test]
    fn native_code_of_the_interpreter_and_of_libraries_is_not_the_users() {
        check("/tmp/python-build.2026/Python-3.13.0/Python/ceval.c", Kind::Standard, role::NONE);
        check("/build/python3.14/build-static/../Objects/call.c", Kind::Standard, role::NONE);
        check("/opt/py/bin/python3.13", Kind::Standard, role::NONE);
        check("/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", Kind::Standard, role::NONE);
        check("/usr/lib/x86_64-linux-gnu/libc.so.6", Kind::Library, role::NONE);
        check("./csu/../csu/libc-start.c", Kind::Library, role::NONE);
        check("./csu/../sysdeps/nptl/libc_start_call_main.h", Kind::Library, role::NONE);
        check("/home/ada/shop/hot.c", Kind::Project, role::NONE);
        check("/home/ada/shop/python3.py", Kind::Project, role::NONE);
        check("/home/ada/Objects/call.c", Kind::Project, role::NONE);
    }

    #[test]
    fn import_machinery_and_runners_are_known() {
        check("<frozen importlib._bootstrap>", Kind::Standard, role::IMPORTING);
        check("<frozen importlib._bootstrap_external>", Kind::Standard, role::IMPORTING);
        check("<frozen zipimport>", Kind::Standard, role::IMPORTING);
        check("/usr/lib/python3.12/importlib/__init__.py", Kind::Standard, role::IMPORTING);
        check("/usr/lib/python3.12/importlib/metadata/__init__.py", Kind::Standard, role::NONE);
        check("/home/ada/shop/importlib/load.py", Kind::Project, role::NONE);
        check("<frozen runpy>", Kind::Standard, role::RUNNER);
        check("/usr/lib/python3.10/runpy.py", Kind::Standard, role::RUNNER);
        check("/home/ada/shop/runpy.py", Kind::Project, role::NONE);
    }

    #[test]
    fn short_paths_leave_out_where_things_are_installed() {
        let check = |path: &str, expected: &str| assert_eq!(short(path, "/home/ada/shop"), expected, "{path}");
        check("/home/ada/shop/report.py", "report.py");
        check("/home/ada/shop", "/home/ada/shop");
        check("/home/ada/shopping/report.py", "/home/ada/shopping/report.py");
        check("/home/ada/shop/.venv/lib/python3.12/site-packages/pandas/io/common.py", "pandas/io/common.py");
        check("/usr/lib/python3.12/json/decoder.py", "json/decoder.py");
        check("<frozen os>", "<frozen os>");
        assert_eq!(short("/srv/app.py", ""), "/srv/app.py");
    }
}
