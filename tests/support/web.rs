//! What tests that open pages need: programs that npm installs into the target folder, and Chromium. Where they can't be
//! had it is said on stderr, and the test passes.

// Each test program compiles its own copy of this file and uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support;

/// The folder with what npm installed for these tests; `None`, with the reason on stderr, where that is impossible.
pub fn modules() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page-modules");
    let wanted = fs::read(support::root().join("tests/page/package.json")).unwrap();
    fs::create_dir_all(&folder).unwrap();
    // Tests run beside each other, and one installation is enough.
    let lock = fs::File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let installed = folder.join("installed.json");
    if fs::read(&installed).is_ok_and(|there| there == wanted) {
        return Some(folder);
    }
    let Some(npm) = on_path("npm").filter(|_| on_path("node").is_some()) else {
        eprintln!("skipped: no npm on this machine");
        return None;
    };
    fs::write(folder.join("package.json"), &wanted).unwrap();
    let mut install = Command::new(npm);
    install.args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]).current_dir(&folder);
    let output = install.output().unwrap();
    if !output.status.success() {
        eprintln!("skipped: npm could not install what the test needs\n{}", support::text(&output));
        return None;
    }
    fs::write(installed, wanted).unwrap();
    Some(folder)
}

/// The program of this name.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}

/// A browser.
pub fn chromium() -> Option<PathBuf> {
    let found = ["chromium", "chromium-browser", "google-chrome"].iter().find_map(|name| on_path(name));
    if found.is_none() {
        eprintln!("skipped: no Chromium on this machine");
    }
    found
}
