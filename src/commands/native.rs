//! Names for native frames.

use crate::capture::Capture;
use crate::cli::NativeArgs;
use crate::commands::load::to_stderr;
use crate::commands::names;
use crate::model::native::{NativeModule, NativeStacks};
use crate::model::{Handles, Joiner, Model, Named, StackId};
use crate::symbols::{self, NativeFrame, Place, Symbols};

/// What is known about native code, asked for what is shown.
pub struct Names {
    symbols: Symbols,
}

impl Names {
    pub fn new(symbols: Symbols) -> Names {
        Names { symbols }
    }

    /// Of one capture.
    pub fn of_capture(capture: &Capture, args: &NativeArgs) -> Names {
        Names::new(names::known(&args.symbols, std::slice::from_ref(capture)))
    }

    /// Of what runs here and now.
    pub fn of_this_machine() -> Names {
        Names::new(Symbols::new(symbols::Options::default()))
    }

    /// The model with what reports show of these stacks.
    pub fn resolved(&mut self, model: Model, stacks: impl IntoIterator<Item = StackId>) -> (Model, Handles) {
        model.resolved(stacks, Box::new(|module, address| self.of(module, address)))
    }

    /// What to do with native stacks that are shown one by one.
    pub fn stacks(&mut self, has_native: bool) -> NativeStacks<'_> {
        match has_native {
            true => NativeStacks::Named(Joiner::new(Box::new(|module, address| self.of(module, address)))),
            false => NativeStacks::LeftOut,
        }
    }

    /// Says on stderr which files could not be used.
    pub fn warn(&self) {
        to_stderr(&self.symbols.warnings());
    }

    /// What stands at an address of a module. Code in memory of no file, made at run time, has no other name.
    pub fn of(&mut self, module: &NativeModule, address: u64) -> Vec<Named> {
        if module.path.is_empty() {
            let (function, file) = ("[anonymous code]".into(), "[anon]".into());
            return vec![Named { function, file, line: 0 }];
        }
        // The recorder has gone back to the call already.
        let found = self.symbols.frames(&names::id_of(module), Place { address, is_return_address: false });
        let named = |frame: &NativeFrame| Named {
            function: frame.function.clone(),
            file: frame.file.clone().unwrap_or_else(|| module.path.clone()),
            line: frame.line.unwrap_or(0),
        };
        found.iter().rev().map(named).collect()
    }
}
