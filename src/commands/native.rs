//! Names for native frames.

use crate::model::native::NativeModule;
use crate::model::{Handles, Model, Named};
use crate::symbols::{ModuleId, NativeFrame, Options, Place, Symbols};

/// The model with one stack for each two that were joined, with names as far as files of this machine have them. Says on
/// stderr which could not be used.
pub fn resolved(model: Model) -> (Model, Handles) {
    let mut symbols = Symbols::new(Options::default());
    let resolved = model.resolved(|module, address| name(&mut symbols, module, address));
    for warning in symbols.warnings() {
        eprintln!("memtrace: {warning}");
    }
    resolved
}

/// What stands at an address of a module. Code in memory of no file, made at run time, has no other name.
fn name(symbols: &mut Symbols, module: &NativeModule, address: u64) -> Named {
    if module.path.is_empty() {
        let frame = ("[anonymous code]".into(), "[anon]".into(), 0);
        return Named { frames: vec![frame], is_loop: false };
    }
    let build_id = if module.build_id.is_empty() { None } else { Some(module.build_id.clone()) };
    let id = ModuleId { path: module.path.clone().into(), build_id };
    // The recorder has gone back to the call already.
    let found = symbols.frames(&id, Place { address, is_return_address: false });
    let is_loop = found.iter().any(|frame| is_loop_of_python(&frame.function));
    let frame = |frame: &NativeFrame| {
        let file = frame.file.clone().unwrap_or_else(|| module.path.clone());
        (frame.function.clone(), file, frame.line.unwrap_or(0))
    };
    Named { frames: found.iter().rev().map(frame).collect(), is_loop }
}

/// The loop that runs Python code, whatever part of it the compiler put elsewhere.
fn is_loop_of_python(function: &str) -> bool {
    function.split(['.', '@']).next() == Some("_PyEval_EvalFrameDefault")
}
