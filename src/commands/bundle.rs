//! `memtrace bundle`: what this machine knows of the native code of captures, each in a file beside its capture.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::capture::Capture;
use crate::cli::BundleArgs;
use crate::commands::load::to_stderr;
use crate::commands::names;
use crate::commands::output::Output;
use crate::symbols::bundle::{self, Bundle};
use crate::symbols::{ModuleId, Place, Symbols};
use crate::units::{bytes, count};

pub fn run(args: &BundleArgs) -> Result<ExitCode> {
    ensure!(args.output.is_none() || args.captures.len() == 1, "-o FILE is for one capture");
    let captures: Result<Vec<Capture>> = args.captures.iter().map(|path| Capture::open(path)).collect();
    for capture in captures? {
        let path = args.output.clone().unwrap_or_else(|| bundle::path_beside(capture.path()));
        pack(&capture, &path, args)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn pack(capture: &Capture, path: &Path, args: &BundleArgs) -> Result<()> {
    let output = Output::create(Some(path), args.force)?;
    let model = capture.read_recorded(|_, _| ControlFlow::Continue(()))?;
    let places = model.native_places();
    ensure!(!places.is_empty(), "there are no native stacks in {}", capture.path().display());
    let places: Vec<(ModuleId, Place)> = places
        .into_iter()
        // Code that is in no file has no names.
        .filter(|(module, _)| !module.path.is_empty())
        .map(|(module, address)| (names::id_of(module), Place { address, is_return_address: false }))
        .collect();
    let mut symbols = Symbols::new(names::options(&args.symbols));
    let bundle = Bundle::pack(names::key(capture), &mut symbols, places.iter().map(|(id, place)| (id, *place)));
    to_stderr(&symbols.warnings());
    output.finish(|mut out| bundle.write(&mut out).map_err(io::Error::other))?;
    let (n_places, n_modules) = (count(bundle.n_places() as u64), count(bundle.n_modules() as u64));
    let of_all = format!("{n_places} of {} addresses in {n_modules} modules", count(places.len() as u64));
    let len = fs::metadata(path).map_or(0, |metadata| metadata.len());
    to_stderr(&[format!("wrote {} ({}): names for {of_all}", path.display(), bytes(len))]);
    Ok(())
}
