//! Whole captures; those of even length with their checksums made right.
//!
//! With `MEMTRACE_FUZZ_SEEDS=CAPTURES:FOLDER` it cuts seeds for all targets and does nothing else.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: cut_seeds(), |bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    if bytes.len() % 2 == 0 {
        memtrace_fuzz::repair(&mut bytes);
    }
    memtrace_fuzz::consume(&bytes);
});

fn cut_seeds() {
    let Ok(folders) = std::env::var("MEMTRACE_FUZZ_SEEDS") else { return };
    let (captures, folder) = folders.split_once(':').expect("MEMTRACE_FUZZ_SEEDS=CAPTURES:FOLDER");
    memtrace_fuzz::seeds::write(captures.as_ref(), folder.as_ref());
    std::process::exit(0);
}
