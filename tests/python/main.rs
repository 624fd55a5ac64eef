//! Python programs under `memtrace run`, compared with the interpreter's own account of every stack.
//!
//! Each program in `fixtures/python` provokes one behaviour; beside each allocation of unique size it writes down its
//! stack as the interpreter sees it. The capture has to hold exactly one allocation of that size, by that stack: every
//! frame's function, file and line. Each program also has to print and end as it does without us.

mod account;
mod cpython_tests;
mod layout;
mod program;
#[path = "../support/mod.rs"]
mod support;

use account::Level;
use program::Program;
use support::Scratch;

/// A fixture with and without the records of Python's own allocators.
fn check(name: &str) {
    Program::fixture(name).check();
    Program::fixture(name).without_python_allocators().check();
}

#[test]
fn plain_calls() {
    check("plain_calls.py");
}

#[test]
fn each_way_to_allocate_is_recorded_as_what_it_is() {
    check("kinds.py");
}

#[test]
fn a_block_that_grows_is_given_back_and_made_anew() {
    check("growing.py");
}

#[test]
fn each_small_object_is_one_record_unless_python_allocators_are_left_out() {
    check("small_objects.py");
}

#[test]
fn arenas_are_mappings_and_count_only_when_the_objects_in_them_do_not() {
    let scratch = Scratch::new("arenas");
    program::on_every_python(|python| {
        // Ten thousand blocks of 360 bytes, and the lists that they belong to, are in several of pymalloc's arenas.
        // mimalloc has reserved more than that before the program starts.
        let (arena, n_arenas, maker): (u64, usize, _) = match &*python.minor {
            "3.9" => (256 << 10, 3, Some("lists")),
            _ if python.is_free_threaded() => (1 << 30, 1, None),
            _ => (1 << 20, 3, Some("lists")),
        };
        let mut problems = Vec::new();
        for option in ["--python-allocators", "--no-python-allocators"] {
            let capture = scratch.join(&format!("{}{option}.bin", python.minor));
            let mut run = support::memtrace();
            run.args(["run", "--quiet", option, "--output"]).arg(&capture).arg("--").arg(&python.path);
            run.arg(program::fixture("small_objects.py")).env("EXPECT_FILE", scratch.join("account.json"));
            support::run(&mut run);
            let arenas: Vec<_> = support::events_from(&capture, arena)
                .into_iter()
                .filter(|event| event["event"] == "mmap" && event["size"] == arena)
                .filter(|event| event["stack"][0][0].as_str() == maker)
                .collect();
            let is_arena = option == "--python-allocators";
            if arenas.len() < n_arenas || arenas.iter().any(|event| event["arena"] != is_arena) {
                problems.push(format!("{option}: {arenas:?}"));
            }
        }
        problems
    });
}

#[test]
fn recursion() {
    check("recursion.py");
}

#[test]
fn a_hundred_thousand_frames() {
    check("deep_recursion.py");
}

#[test]
fn generators() {
    check("generators.py");
}

#[test]
fn a_for_over_a_generator_after_a_raise_in_nested_loops() {
    check("for_over_generator_after_raise.py");
}

#[test]
fn coroutines_and_asynchronous_generators() {
    check("coroutines.py");
}

#[test]
fn asyncio_tasks() {
    check("asyncio_tasks.py");
}

#[test]
fn specialised_call_sites() {
    check("specialised.py");
}

#[test]
fn code_that_runs_while_arguments_are_bound() {
    check("argument_binding.py");
}

#[test]
fn context_managers() {
    check("context_managers.py");
}

#[test]
fn endless_recursion_is_an_error_as_without_us() {
    check("recursion_error.py");
}

#[test]
fn compiled_code() {
    check("compiled_code.py");
}

#[test]
fn odd_line_tables() {
    check("no_lines.py");
}

#[test]
fn code_objects_at_reused_addresses_are_never_misnamed() {
    check("reused_code_addresses.py");
}

#[test]
fn lambdas_and_comprehensions() {
    check("comprehensions.py");
}

#[test]
fn class_bodies_metaclasses_and_decorators() {
    check("class_bodies.py");
}

#[test]
fn special_methods() {
    check("special_methods.py");
}

#[test]
fn exceptions() {
    check("exceptions.py");
}

#[test]
fn callbacks_from_c() {
    check("callbacks_from_c.py");
}

#[test]
fn ctypes_callbacks() {
    check("ctypes_callbacks.py");
}

#[test]
fn imports() {
    check("imports.py");
}

#[test]
fn the_line_is_that_of_the_running_instruction() {
    check("multi_line.py");
}

#[test]
fn tracing_profiling_and_monitoring() {
    check("tracing.py");
}

#[test]
fn frames_entered_through_a_trampoline_or_another_evaluator() {
    check("perf_trampoline.py");
}

#[test]
fn threads() {
    check("threads.py");
}

#[test]
fn threads_that_c_code_made() {
    check("threads_from_c.py");
}

#[test]
fn thread_names() {
    check("thread_names.py");
}

#[test]
fn allocations_while_the_gil_is_released() {
    check("gil_released.py");
}

#[test]
fn subinterpreters() {
    check("subinterpreters.py");
}

/// A fixture with packages of `tests/requirements.txt`, also with every stack compared with the interpreter's.
fn check_with_packages(name: &str, packages: &'static [&'static str]) {
    let program = Program::fixture(name).with_packages(packages);
    program.check();
    program.clone().without_python_allocators().check();
    program.env("MEMTRACE_SELF_CHECK", "1").check();
}

#[test]
fn greenlets_have_stacks_of_their_own() {
    check_with_packages("greenlets.py", &["greenlet"]);
}

#[test]
fn gevents_tasks_have_stacks_of_their_own() {
    check_with_packages("gevent_tasks.py", &["greenlet", "gevent"]);
}

#[test]
fn coverage_profilers_and_debuggers_change_nothing() {
    check_with_packages("observed.py", &["coverage"]);
}

#[test]
fn finalisation() {
    check("finalisation.py");
}

#[test]
fn daemon_threads_may_allocate_while_the_interpreter_ends() {
    check("daemon_threads_at_exit.py");
}

#[test]
#[ignore = "long tier"]
fn daemon_threads_may_allocate_while_the_interpreter_ends_fifty_times() {
    for _ in 0..25 {
        check("daemon_threads_at_exit.py");
    }
}

#[test]
fn gc_and_weakref_callbacks() {
    check("gc_and_weakref_callbacks.py");
}

#[test]
fn signal_handlers() {
    check("signal_handlers.py");
}

#[test]
fn names_of_every_kind() {
    check("names.py");
}

#[test]
fn out_of_memory() {
    check("out_of_memory.py");
}

#[test]
fn allocators_replaced_by_tracemalloc() {
    check("replaced_allocators.py");
}

#[test]
fn children_leave_the_parents_capture_alone() {
    check("children.py");
}

#[test]
fn a_python_that_replaces_itself_is_followed() {
    for rounds in ["1", "2"] {
        Program::fixture("exec_again.py").argument(rounds).check();
        Program::fixture("exec_again.py").argument(rounds).without_python_allocators().check();
    }
}

/// The capture is whole up to the last allocation.
fn check_ending(how: &str) {
    Program::fixture("endings.py").argument(how).that_may_fail().check();
    Program::fixture("endings.py").argument(how).argument("with a busy thread").that_may_fail().check();
}

#[test]
fn ends_by_exit() {
    check_ending("exit");
}

#[test]
fn ends_by_underscore_exit() {
    check_ending("_exit");
}

#[test]
fn ends_by_abort() {
    check_ending("abort");
}

#[test]
fn ends_by_sigkill() {
    check_ending("killed");
}

#[test]
fn ends_by_sigterm() {
    check_ending("terminated");
}

#[test]
fn ends_by_sigint() {
    check_ending("interrupted");
}

#[test]
fn ends_by_a_segmentation_fault() {
    check_ending("segmentation_fault");
}

#[test]
fn ends_by_an_uncaught_exception() {
    check_ending("uncaught");
}

#[test]
fn ends_by_c_exit_and_quick_exit() {
    check_ending("c_exit");
    check_ending("quick_exit");
}

/// Fixtures of many behaviours with other options of the interpreter.
fn check_options(options: &[&str]) {
    Program::fixture("isolated.py").options(options).check();
    Program::fixture("isolated.py").options(options).without_python_allocators().check();
    if !options.contains(&"-I") {
        Program::fixture("special_methods.py").options(options).check();
    }
}

#[test]
fn option_isolated() {
    check_options(&["-I"]);
}

#[test]
fn option_optimised() {
    check_options(&["-OO"]);
}

#[test]
fn option_unfrozen_modules() {
    check_options(&["-X", "frozen_modules=off"]);
}

#[test]
fn option_import_times() {
    Program::fixture("imports.py").options(&["-X", "importtime"]).with_varying_output().check();
}

#[test]
fn option_dev() {
    // Without the records of Python's allocators there are their guard bytes around each block.
    for name in ["isolated.py", "kinds.py", "small_objects.py", "threads.py"] {
        Program::fixture(name).options(&["-X", "dev"]).check();
    }
}

#[test]
fn environment_pythonmalloc_debug() {
    for name in ["isolated.py", "kinds.py", "growing.py", "small_objects.py"] {
        for value in ["debug", "malloc_debug"] {
            Program::fixture(name).env("PYTHONMALLOC", value).check();
        }
    }
}

#[test]
fn environment_pythonmalloc_malloc() {
    for name in ["isolated.py", "kinds.py", "growing.py"] {
        Program::fixture(name).env("PYTHONMALLOC", "malloc").check();
        Program::fixture(name).env("PYTHONMALLOC", "malloc").without_python_allocators().check();
    }
    Program::fixture("small_objects.py").env("PYTHONMALLOC", "malloc").check();
}

#[test]
fn environment_python_jit() {
    for name in ["small_objects.py", "specialised.py", "generators.py", "exceptions.py"] {
        Program::fixture(name).env("PYTHON_JIT", "1").check();
    }
}

#[test]
fn environment_pythontracemalloc() {
    for name in ["isolated.py", "special_methods.py", "threads.py"] {
        Program::fixture(name).env("PYTHONTRACEMALLOC", "10").check();
    }
}

#[test]
fn modules_and_code_from_the_command_line() {
    let folder = program::fixture("");
    let folder = folder.to_str().expect("the checkout's path is UTF-8");
    Program::new(&["-m", "plain_calls"]).env("PYTHONPATH", folder).check();
    let code = "def function():\n    return bytes(here())\nfrom expect import here\nkept = function(), bytes(here())";
    Program::new(&["-c", code]).env("PYTHONPATH", folder).check();
}

#[test]
fn a_libpython_that_is_loaded_late_and_initialised_three_times() {
    let scratch = Scratch::new("embedding");
    program::on_every_python(|python| {
        let mut problems = Vec::new();
        let variable = |name| program::build_variable(python, name);
        let library = format!("{}/{}", variable("LIBDIR"), variable("INSTSONAME"));
        let embedding = program::compile_for(python, "embedding.c");
        for scope in ["local", "global"] {
            let file = |name: &str| scratch.join(&format!("{}-{scope}-{name}", python.minor));
            let (capture, expected) = (file("capture.bin"), file("account.json"));
            let output = support::memtrace()
                .args(["run", "--quiet", "--output"])
                .arg(&capture)
                .arg("--")
                .arg(&embedding)
                .args([&library, scope])
                .args([program::fixture("").to_str().expect("the checkout's path is UTF-8"), "3"])
                .env("PYTHONHOME", variable("prefix"))
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .env("EXPECT_FILE", &expected)
                .output()
                .expect("memtrace starts");
            if !output.status.success() || !output.stderr.is_empty() {
                problems.push(format!("{scope}: ended with {}\n{}", output.status, support::text(&output)));
            }
            let allocator = if python.is_free_threaded() { "mimalloc" } else { "pymalloc" };
            let identity = (&*program::version(python), &[allocator][..]);
            problems.extend(account::differences(&account::read(&expected), &capture, Level::Objects, identity));
            let without_stack: Vec<u64> = support::events_from(&capture, 7_000_003)
                .iter()
                .filter(|event| event["event"] == "alloc")
                // Native frames have a fourth part.
                .filter(|event| {
                    event["stack"].as_array().is_some_and(|stack| stack.iter().all(|it| it.get(3).is_some()))
                })
                .filter_map(|event| event["size"].as_u64())
                .collect();
            let expected = [7_000_003, 7_000_013, 7_000_104, 7_000_105, 7_000_106];
            if without_stack != expected {
                problems.push(format!("{scope}: C code allocated {without_stack:?} instead of {expected:?}"));
            }
        }
        problems
    });
}

#[test]
fn an_interpreter_that_is_not_what_its_version_promises_loses_its_stacks_and_goes_on() {
    let scratch = Scratch::new("counterfeit");
    let counterfeit = program::compile("counterfeit.c", &["-rdynamic"]);
    for (wrong, field) in
        [("state", "thread_state.frame"), ("frame", "frame.owner"), ("code", "frame.code"), ("object", "frame.code")]
    {
        let capture = scratch.join(&format!("{wrong}.bin"));
        let output = support::memtrace()
            .args(["run", "--quiet", "--no-python-allocators", "--output"])
            .arg(&capture)
            .arg("--")
            .arg(&counterfeit)
            .arg(wrong)
            .output()
            .expect("memtrace starts");
        assert!(output.status.success(), "{wrong}: {}\n{}", output.status, support::text(&output));
        assert_eq!(output.stdout, b"went on\n", "{wrong}");
        let events = support::events_from(&capture, 1_000_003);
        let notices: Vec<_> = events.iter().filter(|event| event["event"] == "notice").collect();
        assert_eq!(notices.len(), 1, "{wrong}: {notices:?}");
        assert_eq!((&notices[0]["notice"], &notices[0]["text"]), (&"layout_mismatch".into(), &field.into()), "{wrong}");
        let sizes: Vec<_> = events
            .iter()
            .filter(|event| event["event"] == "alloc" && event["stack"].as_array().is_some_and(Vec::is_empty))
            .filter_map(|event| event["size"].as_u64())
            .collect();
        assert_eq!(sizes, [1_000_003, 1_000_004, 1_000_005], "{wrong}");
    }
}

#[test]
fn every_fixture_is_run_by_a_test() {
    let tests = include_str!("main.rs");
    for entry in program::fixture("").read_dir().expect("the fixtures are here") {
        let name = entry.expect("a folder can be read").file_name().into_string().expect("fixtures have plain names");
        let is_program = name.ends_with(".py") && !["expect.py", "helpers.py", "cpython_tests.py"].contains(&&*name);
        assert!(!is_program || tests.contains(&format!("{name:?}")), "no test runs fixtures/python/{name}");
    }
}
