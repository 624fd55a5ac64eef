//! Where names of native code come from: which files and servers are asked, and what was packed beside a capture.

use std::env;

use anyhow::{Result, ensure};

use crate::capture::Capture;
use crate::cli::SymbolArgs;
use crate::commands::load::to_stderr;
use crate::model::native::NativeModule;
use crate::symbols::bundle::{self, Bundle, CaptureKey};
use crate::symbols::{self, ModuleId, Options, Symbols};

/// What knows names: the bundles beside these captures, and the files of this machine.
pub fn known(args: &SymbolArgs, captures: &[Capture]) -> Symbols {
    let mut options = options(args);
    for capture in captures {
        match beside(capture) {
            Ok(bundle) => options.bundles.extend(bundle),
            Err(error) => to_stderr(&[format!("{error:#}: they are not used")]),
        }
    }
    Symbols::new(options)
}

/// The same without bundles.
pub fn options(args: &SymbolArgs) -> Options {
    const SERVERS: &str = "DEBUGINFOD_URLS";
    if args.debuginfod && env::var_os(SERVERS).is_none_or(|servers| servers.is_empty()) {
        to_stderr(&[format!("no debuginfod server is asked: {SERVERS} names none")]);
    }
    let mut options = Options::default();
    options.debug_folders.splice(0..0, args.debug_folders.iter().cloned());
    options.debuginfod = args.debuginfod.then(symbols::debuginfod_program);
    options
}

/// The bundle beside a capture, if there is one.
fn beside(capture: &Capture) -> Result<Option<Bundle>> {
    let path = bundle::path_beside(capture.path());
    let Some(bundle) = Bundle::open(&path)? else { return Ok(None) };
    ensure!(bundle.capture == key(capture), "the symbols in {} are those of another capture", path.display());
    Ok(Some(bundle))
}

/// What tells a capture from others.
pub fn key(capture: &Capture) -> CaptureKey {
    let facts = capture.facts();
    CaptureKey { pid: facts.pid, start_unix_nanos: facts.start_unix_nanos }
}

/// How a module is asked for.
pub fn id_of(module: &NativeModule) -> ModuleId {
    let build_id = if module.build_id.is_empty() { None } else { Some(module.build_id.clone()) };
    ModuleId { path: module.path.clone().into(), build_id }
}
