//! Builds the recorder's library for the executable to carry, so that `cargo install`, which installs nothing but the
//! executable, gives a memtrace that works. Debug builds carry nothing and use the library beside them.
//!
//! The library can't be an ordinary dependency: cargo would build it for unwinding in tests and into one and the same
//! file. So it is built by a cargo of its own, in a target folder of its own, where there is no lock to wait for.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let out = PathBuf::from(variable("OUT_DIR"));
    let carried = if variable("PROFILE") == "release" { build(&out) } else { nothing(&out) };
    println!("cargo::rustc-env=MEMTRACE_CARRIED_SHIM={}", carried.display());
}

fn nothing(out: &Path) -> PathBuf {
    println!("cargo::rerun-if-changed=src/launch/build.rs");
    let path = out.join("nothing");
    fs::write(&path, "").expect("the build's own folder can be written to");
    path
}

fn build(out: &Path) -> PathBuf {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    for input in ["src/launch/build.rs", "preload", "format", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    let triple = variable("TARGET");
    let folder = out.join("shim");
    let status = Command::new(variable("CARGO"))
        .current_dir(&root)
        .args(["rustc", "--package", "memtrace-preload", "--lib", "--crate-type", "cdylib", "--release", "--quiet"])
        .args(["--target", &triple, "--target-dir"])
        .arg(&folder)
        .args(["--", "-C", "strip=debuginfo"])
        // Wrappers and flags of clippy, coverage and sanitizers are not for code that lives in other programs.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        .status()
        .expect("cargo started this build script, so it can be started");
    assert!(status.success(), "building the recorder's library failed: {status}");
    folder.join(triple).join("release/libmemtrace_preload.so")
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
