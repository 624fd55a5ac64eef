//! C and C++ programs under memtrace, one behaviour each.
//!
//! The decoded log of each is compared with the sequence that the program's source expects (`expect.rs`), and its
//! output and end with those without memtrace. The programs are `fixtures/native/*.{c,cpp}`; what depends on where the
//! log lies is in `places.rs`.

mod events;
mod expect;
mod fixture;
mod matcher;
mod places;
#[path = "../support/mod.rs"]
mod support;

/// One test per fixture program.
macro_rules! fixtures {
    ($($(#[$attribute:meta])* $name:ident)*) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $name() {
                fixture::check(stringify!($name), &[]);
            }
        )*

        /// The same programs while their native stacks are recorded.
        mod with_native_stacks {
            $(
                #[test]
                $(#[$attribute])*
                fn $name() {
                    super::fixture::check(stringify!($name), &["--native"]);
                }
            )*
        }
        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

fixtures! {
    // calls
    malloc_family
    zero_sizes
    failing_allocations
    errno_is_left_alone
    cfree
    sized_frees
    inside_libc
    operator_new
    exceptions
    containers
    mappings
    mremap

    // threads
    free_in_another_thread
    ring_of_threads
    #[ignore = "long tier"]
    ring_of_threads_million
    realloc_between_threads
    thread_names
    detached_threads
    cancelled_threads
    thread_with_a_tiny_stack
    many_threads
    short_threads
    tls_destructors
    before_and_after_main
    exit_in_a_thread
    main_thread_ends_first
    no_thread_of_ours

    // children
    fork
    fork_torture
    fork_handlers
    fork_by_system_call
    fork_and_go_on_in_child
    vfork_and_exec
    posix_spawn
    clone_sharing_memory
    system_and_popen
    child_of_32_bits
    child_linked_statically
    child_with_raised_rights
    environment
    users_own_preload

    // other programs in the same process
    exec_by_execl
    exec_by_execlp
    exec_by_execle
    exec_by_execv
    exec_by_execvp
    exec_by_execvpe
    exec_by_execve
    exec_by_fexecve
    exec_that_fails
    exec_in_a_thread
    exec_in_a_child
    exec_of_a_script
    exec_of_a_text
    exec_of_a_static_program
    exec_of_a_raised_program
    exec_of_32_bits
    exec_without_environment

    // control flow
    siglongjmp_out_of_mmap
    siglongjmp_out_of_the_recorder
    signals_while_allocating
    handler_on_a_tiny_stack
    jumps_inside_a_handler
    coroutines

    // the loader
    functions_by_name
    dlopen_with_runpath
    dlclose_and_reopen
    dlmopen
    deepbind
    next_malloc_is_ours
    users_preload_interposes
    own_malloc
    thread_in_a_library_constructor
    loader_lock
    late_library_with_thread_locals
    linked_statically
    address_sanitizer

    // ends
    underscore_exit
    quick_exit
    abort
    terminated
    sigkill_to_itself
    sigkill_of_busy_threads
    segmentation_fault

    // limits
    allocates_much
    closed_descriptors
    descriptors_exhausted
    file_size_limit
    address_space_limit
    seccomp_strict
    seccomp_filter
    chroot_and_setuid
    chroot_with_descriptors
}

#[test]
fn every_fixture_has_a_test() {
    let entries = std::fs::read_dir(support::fixture("native")).expect("the fixtures are there");
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
