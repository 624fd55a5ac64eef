//! The shim as a file: what it exports, needs and promises to the loader.
//!
//! A symbol too many would replace a function of the host; one too few is an entry point that nobody records.

mod support;

use std::process::Command;

use support::shim_path;

/// Every function that the shim replaces, by what it is for.
const HOOKS: &[&[&str]] = &[
    &["malloc", "calloc", "realloc", "reallocarray", "free", "cfree", "free_sized", "free_aligned_sized"],
    &["posix_memalign", "aligned_alloc", "memalign", "valloc", "pvalloc"],
    &["mmap", "mmap64", "mremap", "munmap"],
    &["dlopen", "dlmopen", "dlclose", "dlsym", "dlvsym"],
    &["execl", "execlp", "execle", "execv", "execvp", "execvpe", "execve", "fexecve", "execveat"],
    &["posix_spawn", "posix_spawnp", "pidfd_spawn", "pidfd_spawnp", "system", "popen"],
    &["prctl", "pthread_setname_np", "syscall"],
    &["fork", "_Fork"],
    &["longjmp", "_longjmp", "siglongjmp", "__longjmp_chk"],
];

/// What others call: `memtrace attach` and the Python package.
const CONTROL: &[&str] = &[
    "memtrace_start",
    "memtrace_stop",
    "memtrace_take_logs_from",
    "memtrace_ignore_thread",
    "memtrace_name_thread",
    "memtrace_begin_objects",
    "memtrace_end_objects",
];

fn output(program: &str, arguments: &[&str]) -> String {
    let output = support::run(Command::new(program).args(arguments).arg(shim_path()));
    String::from_utf8(output.stdout).expect("the tool prints text")
}

fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = names.map(str::to_string).collect();
    names.sort();
    names
}

#[test]
fn it_exports_the_hooks_and_nothing_else() {
    let symbols = output("nm", &["-D", "--defined-only"]);
    let exports = sorted(symbols.lines().filter_map(|line| line.split_whitespace().nth(2)));
    assert_eq!(exports, sorted(HOOKS.iter().copied().chain([CONTROL]).flatten().copied()));
}

#[test]
fn the_addresses_of_its_hooks_are_its_own() {
    // Loaded late, it would find libc's functions under those names.
    let relocations = output("readelf", &["-rW"]);
    let named =
        |line: &&str| HOOKS.iter().copied().flatten().any(|hook| line.split_whitespace().any(|word| word == *hook));
    let found: Vec<&str> = relocations.lines().filter(named).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn its_own_table_names_the_same_functions() {
    let source = std::fs::read_to_string(support::root().join("preload/src/hooks.rs")).expect("the table is there");
    let table =
        source.split("\ntable! {").nth(1).and_then(|rest| rest.split("\n}").next()).expect("there is one table");
    let names = sorted(table.lines().filter_map(|line| line.trim().strip_prefix("c\"")?.split('"').next()));
    assert_eq!(names, sorted(HOOKS.iter().copied().flatten().copied()));
}

#[test]
fn it_needs_no_library_and_no_text_relocation() {
    let dynamic = output("readelf", &["-dW"]);
    assert!(!dynamic.contains("(NEEDED)"), "{dynamic}");
    assert!(!dynamic.contains("TEXTREL"), "{dynamic}");
    assert!(!dynamic.contains("(RUNPATH)") && !dynamic.contains("(RPATH)"), "{dynamic}");
}

#[test]
fn it_stays_loaded_once_it_is() {
    let dynamic = output("readelf", &["-dW"]);
    assert!(dynamic.lines().any(|line| line.contains("FLAGS_1") && line.contains("NODELETE")), "{dynamic}");
}

#[test]
fn its_thread_local_memory_is_a_few_words_at_a_fixed_place() {
    // Anything else goes through `__tls_get_addr`, where glibc may allocate.
    let dynamic = output("readelf", &["-dW"]);
    assert!(dynamic.lines().any(|line| line.contains("(FLAGS)") && line.contains("STATIC_TLS")), "{dynamic}");
    let relocations = output("readelf", &["-rW"]);
    for kind in ["DTPMOD", "DTPOFF", "TLSDESC"] {
        assert!(!relocations.contains(kind), "{relocations}");
    }
    let segments = output("readelf", &["-lW"]);
    let tls = segments.lines().find(|line| line.trim_start().starts_with("TLS")).expect("there is thread-local memory");
    let len = tls.split_whitespace().nth(5).and_then(|len| u64::from_str_radix(len.trim_start_matches("0x"), 16).ok());
    assert!(len.is_some_and(|len| len <= 64), "{tls}");
}

#[test]
fn it_asks_the_host_for_what_every_libc_has() {
    // Nothing of CPython: a program without it must still start. Nothing that was added to glibc lately either.
    const KNOWN: &[&str] = &["environ", "memcpy", "memmove", "memset", "memcmp", "bcmp", "strlen"];
    const OF_THE_LOADER: &[&str] = &["_r_debug", "__libc_stack_end"];
    let symbols = output("nm", &["-D", "--undefined-only"]);
    for line in symbols.lines() {
        let (kind, name) = line.trim().split_once(' ').expect("a kind and a name");
        let name = name.split('@').next().unwrap_or(name);
        assert!(kind == "w" || KNOWN.contains(&name) || OF_THE_LOADER.contains(&name), "{line}");
    }
}

#[test]
fn it_holds_no_panic() {
    // The library that is tested is the one people get: optimised, and not stripped of its symbols.
    let symbols = output("nm", &["-C"]);
    let panics: Vec<&str> = symbols.lines().filter(|line| line.contains("panic")).collect();
    assert!(symbols.lines().count() > 100, "the library is stripped: nothing can be said about it");
    assert!(panics.is_empty(), "{}", panics.join("\n"));
}
