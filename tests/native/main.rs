//! C and C++ programs under memtrace, one behaviour each.
//!
//! The decoded log of each is compared with the sequence that the program's source expects (`expect.rs`), and its
//! output and end with those without memtrace. The programs are `fixtures/native/*.{c,cpp}`.

mod events;
mod expect;
mod fixture;
mod matcher;

/// One test per fixture program.
macro_rules! fixtures {
    ($($(#[$attribute:meta])* $name:ident)*) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $name() {
                fixture::check(stringify!($name));
            }
        )*
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

fixtures! {
    malloc_family
}

#[test]
fn every_fixture_has_a_test() {
    let entries = std::fs::read_dir(fixture::fixtures()).expect("the fixtures are there");
    let mut files: Vec<String> = entries
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "c" || extension == "cpp"))
        .map(|path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    files.sort();
    let mut names = NAMES.to_vec();
    names.sort();
    assert_eq!(files, names);
}
