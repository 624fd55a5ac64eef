//! What stands in the native stack of every Python program and says nothing about this one: how the interpreter calls
//! itself, starts, imports and gets its memory. `joined.rs` leaves it out.
//!
//! Known by module and function together: `main` of a C program is not the interpreter's. What C code did for Python
//! stays (`list_resize`, `dict_merge`, `PyUnicode_New`, a scanner of json), and so does all that is not CPython's own.

/// Functions of the interpreter, of CPython 3.9 to 3.15; a `*` stands for any end.
const INTERPRETER: &[&[&str]] = &[
    // The loop, and the ways into it. Where it ran Python code, its frames are shown.
    &[LOOP, "_TAIL_CALL_*", "_PyEval_EvalFrame", "_PyEval_Vector", "_PyEval_EvalCode*", "_PyEval_MakeFrameVector"],
    &["PyEval_EvalCode*", "PyEval_EvalFrame*", "_PyEvalFramePushAndInit*", "function_code_fastcall"],
    &["_PyFunction_Vectorcall", "_PyFunction_FastCall*", "gen_send_ex*", "gen_iternext", "gen_send"],
    // Calls, whatever is called: what it is stands behind them.
    &["PyObject_Call*", "_PyObject_Call*", "PyObject_Vectorcall*", "_PyObject_Vectorcall*", "_PyObject_FastCall*"],
    &["_PyObject_MakeTpCall", "PyVectorcall_Call", "_PyVectorcall_Call", "PyEval_Call*", "PyCFunction_Call*"],
    &["_Py_Call*", "_Py_BuiltinCall*", "_Py_VectorCall*"],
    &["object_vacall", "callmethod", "call_method", "call_function", "do_call_core", "trace_call_function"],
    &["cfunction_vectorcall_*", "cfunction_call*", "_PyMethodDef_RawFastCall*", "method_vectorcall*", "method_call"],
    &["methoddescr_call", "classmethoddescr_call", "wrapperdescr_call", "wrapperdescr_raw_call", "wrapper_call"],
    // From a type's slot to the method that fills it, and the other way round.
    &[
        "slot_*",
        "_Py_slot_*",
        "vectorcall_method",
        "vectorcall_maybe",
        "vectorcall_unbound",
        "call_unbound*",
        "call_attribute",
    ],
    &["type_call", "type_vectorcall", "tp_new_wrapper", "wrap_*"],
    // Imports: importlib's own frames stand behind them, or the module's code.
    &["PyImport_Import*", "import_find_and_load", "import_name", "builtin___import__*", "builtin_exec*"],
    &["exec_builtin_or_dynamic", "_imp_exec_dynamic*", "_imp_exec_builtin*", "PyModule_ExecDef"],
    // The start of a program and of a thread.
    &["_start", "main", "Py_Main", "Py_BytesMain", "Py_RunMain", "pymain_*", "PyRun_*", "_PyRun_*", "pyrun_*"],
    &["run_mod", "run_eval_code_obj", "thread_run", "pythread_wrapper", "t_bootstrap"],
    // Memory, up to the function that knows what it is for.
    &["PyObject_Malloc", "PyObject_Calloc", "PyObject_Realloc", "PyObject_Free", "PyMem_*", "_PyMem_*"],
    &["_PyObject_Malloc*", "_PyObject_Calloc*", "_PyObject_Realloc*", "_PyObject_Arena*", "_PyObject_Mi*"],
    &["pymalloc_*", "new_arena", "allocate_from_new_pool", "mi_*", "_mi_*"],
    &["_PyObject_New*", "_PyObject_GC_*", "gc_alloc", "_PyType_AllocNoTrack"],
];

/// How libc starts programs and threads.
const LIBC: &[&str] = &["__libc_start_*", "start_thread", "clone", "clone3", "__clone*", "__GI___clone*"];

const LOOP: &str = "_PyEval_EvalFrameDefault";

/// Whose code a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Tracer,
    Interpreter,
    Libc,
    Other,
}

/// Where a function is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Shown,
    HiddenInInterpreter,
    HiddenInLibc,
    /// An offset in a file without symbols. In these modules it tells nobody anything.
    Nameless,
}

impl Owner {
    /// As the file's name has it. A module with another name that holds the loop is the interpreter's too.
    pub fn of(path: &str) -> Owner {
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        let name = path.rsplit('/').next().unwrap_or(path);
        let is_version =
            |rest: &str| rest.trim_end_matches(['d', 't']).bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if name == "libmemtrace_preload.so" {
            Owner::Tracer
        } else if name.starts_with("libpython3") || name.strip_prefix("python").is_some_and(is_version) {
            Owner::Interpreter
        } else if ["libc.so.", "libc-2.", "libpthread"].iter().any(|start| name.starts_with(start)) {
            Owner::Libc
        } else {
            Owner::Other
        }
    }
}

impl Role {
    pub fn of(function: &str, address: u64) -> Role {
        let plain = without_suffix(function);
        let is_in = |names: &[&str]| {
            names.iter().any(|name| match name.strip_suffix('*') {
                Some(start) => plain.starts_with(start),
                None => plain == *name,
            })
        };
        if function.ends_with(&format!("+{address:#x}")) {
            Role::Nameless
        } else if INTERPRETER.iter().any(|names| is_in(names)) {
            Role::HiddenInInterpreter
        } else if is_in(LIBC) {
            Role::HiddenInLibc
        } else {
            Role::Shown
        }
    }

    /// Whether it is left out where Python runs.
    pub fn is_hidden_in(self, owner: Owner) -> bool {
        match owner {
            Owner::Tracer => true,
            Owner::Interpreter => matches!(self, Role::HiddenInInterpreter | Role::Nameless),
            Owner::Libc => matches!(self, Role::HiddenInLibc | Role::Nameless),
            Owner::Other => false,
        }
    }
}

/// Whether it is the loop that runs Python code, or a part of it that the compiler put elsewhere.
pub fn is_loop(function: &str) -> bool {
    without_suffix(function) == LOOP
}

/// Without what compilers append to the names of clones and parts, and linkers to those with a version.
fn without_suffix(function: &str) -> &str {
    function.split(['.', '@']).next().unwrap_or(function)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, functions: &[&str], is_hidden: bool) {
        for function in functions {
            assert_eq!(Role::of(function, 0x1234).is_hidden_in(Owner::of(path)), is_hidden, "{function} in {path}");
        }
    }

    const PYTHON: &str = "/opt/py/bin/python3.13t";
    const LIBPYTHON: &str = "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0";
    const LIBC_FILE: &str = "/usr/lib/x86_64-linux-gnu/libc.so.6";

    #[test]
    fn what_every_stack_of_python_has_is_hidden() {
        let of_all =
            ["_PyEval_EvalFrameDefault", "_PyEval_EvalFrameDefault.cold", "_PyObject_Malloc", "PyMem_RawMalloc"];
        check(LIBPYTHON, &of_all, true);
        check(LIBPYTHON, &["method_vectorcall_FASTCALL_KEYWORDS", "cfunction_vectorcall_O", "slot_tp_init"], true);
        check(PYTHON, &["main", "_start", "pymain_run_python.constprop.0", "python3.13t+0x1234"], true);
        check(LIBC_FILE, &["__libc_start_main@@GLIBC_2.34", "start_thread", "libc.so.6+0x1234"], true);
        check("/tmp/memtrace/libmemtrace_preload.so", &["malloc", "anything"], true);
    }

    #[test]
    fn what_c_code_did_for_python_is_shown() {
        let told =
            ["list_resize", "dict_merge", "PyUnicode_New", "scan_once_unicode", "PyType_GenericAlloc", "r_object"];
        check(LIBPYTHON, &told, false);
        check(LIBC_FILE, &["qsort_r", "fopen64", "strdup"], false);
    }

    #[test]
    fn the_same_names_elsewhere_are_the_users() {
        check("/home/ada/shop/server", &["main", "_start", "run_mod", "slot_of", "server+0x1234"], false);
        check("/home/ada/numpy/_core.so", &["mi_malloc", "start_thread", "_core.so+0x1234"], false);
    }

    #[test]
    fn modules_are_known_by_their_files() {
        let check = |path: &str, owner: Owner| assert_eq!(Owner::of(path), owner, "{path}");
        for name in ["python", "python3", "python3.9", "python3.13t", "python3.12d", "libpython3.13t.so.1.0"] {
            check(&format!("/opt/{name}"), Owner::Interpreter);
        }
        check("/opt/python3.11 (deleted)", Owner::Interpreter);
        check("/usr/lib/libc-2.28.so", Owner::Libc);
        check("/usr/bin/python-config", Owner::Other);
        check("/usr/lib/libcrypto.so.3", Owner::Other);
        check("", Owner::Other);
    }
}
