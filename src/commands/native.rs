//! Names for native frames.

use crate::commands::load::to_stderr;
use crate::commands::names;
use crate::model::native::NativeModule;
use crate::model::{Handles, Model, Named};
use crate::symbols::{NativeFrame, Place, Symbols};

/// The model with one stack for each two that were joined, with names as far as files of this machine have them. Says on
/// stderr which could not be used.
pub fn resolved(model: Model, mut symbols: Symbols) -> (Model, Handles) {
    let resolved = model.resolved(|module, address| name(&mut symbols, module, address));
    to_stderr(&symbols.warnings());
    resolved
}

/// What stands at an address of a module. Code in memory of no file, made at run time, has no other name.
fn name(symbols: &mut Symbols, module: &NativeModule, address: u64) -> Named {
    if module.path.is_empty() {
        let frame = ("[anonymous code]".into(), "[anon]".into(), 0);
        return Named { frames: vec![frame], is_loop: false };
    }
    // The recorder has gone back to the call already.
    let found = symbols.frames(&names::id_of(module), Place { address, is_return_address: false });
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
