//! The symbols of a capture on a machine that has none of its files.

use std::fs;
use std::path::Path;

use memtrace::symbols::bundle::{self, Bundle, CaptureKey};
use memtrace::symbols::{ModuleId, NativeFrame, Options, Place, Symbols};

use super::build::build;
use super::oracle::{addresses, module, symbols};
use super::support::Scratch;

const CAPTURE: CaptureKey = CaptureKey { pid: 4711, start_unix_nanos: 1_790_000_000_000_000_000 };

#[test]
fn a_bundle_answers_as_the_files_did() {
    let scratch = Scratch::new("bundle");
    let (c, cpp) = (build(&scratch, "inlined.c", "-O2"), build(&scratch, "templates.cpp", "-O2"));
    let mut places = Vec::new();
    for file in [&c, &cpp] {
        for (index, address) in addresses(file, 500).into_iter().enumerate() {
            places.push((module(file), Place { address, is_return_address: index % 2 == 0 }));
        }
    }
    let here = &mut symbols();
    let expected: Vec<Vec<NativeFrame>> = places.iter().map(|(id, place)| here.frames(id, *place).to_vec()).collect();

    let path = bundle::path_beside(&scratch.join("capture.bin"));
    assert_eq!(path, scratch.join("capture.bin.symbols"));
    let packed = Bundle::pack(CAPTURE, here, places.iter().map(|(id, place)| (id, *place)));
    packed.write(&mut fs::File::create(&path).unwrap()).unwrap();
    // Bytes between the functions have no name, and nothing is packed for them.
    let n_known = places.iter().filter(|(id, place)| here.known_frames(id, *place).is_some()).count();
    assert!(packed.n_places() > 500 && packed.n_places() <= n_known);

    fs::remove_file(&c).unwrap();
    fs::remove_file(&cpp).unwrap();
    let read = Bundle::open(&path).unwrap();
    assert_eq!(read.as_ref().map(Bundle::n_places), Some(packed.n_places()));
    assert_eq!(read.as_ref().map(|read| read.capture), Some(CAPTURE));
    let mut there =
        Symbols::new(Options { debug_folders: Vec::new(), bundles: read.into_iter().collect(), ..Options::default() });
    for ((id, place), expected) in places.iter().zip(&expected) {
        // Of what is not packed the other machine knows the offset, whichever way it calls the file.
        let elsewhere = ModuleId { path: Path::new("/elsewhere").join(id.path.file_name().unwrap()), ..id.clone() };
        assert_eq!(there.frames(&elsewhere, *place), expected, "{id:?} {place:?}");
    }
}

#[test]
fn the_same_answers_are_the_same_bundle() {
    let scratch = Scratch::new("bundle");
    let file = build(&scratch, "inlined.c", "-O2");
    let id = module(&file);
    let places: Vec<Place> =
        addresses(&file, 200).into_iter().map(|address| Place { address, is_return_address: true }).collect();
    let pack = || {
        let mut bytes = Vec::new();
        Bundle::pack(CAPTURE, &mut symbols(), places.iter().map(|place| (&id, *place))).write(&mut bytes).unwrap();
        bytes
    };
    assert_eq!(pack(), pack());
}

#[test]
fn a_damaged_bundle_is_an_error() {
    let scratch = Scratch::new("bundle");
    let file = build(&scratch, "inlined.c", "-O2");
    let id = module(&file);
    let places: Vec<Place> =
        addresses(&file, 200).into_iter().map(|address| Place { address, is_return_address: false }).collect();
    let mut bytes = Vec::new();
    let bundle = Bundle::pack(CAPTURE, &mut symbols(), places.iter().map(|place| (&id, *place)));
    bundle.write(&mut bytes).unwrap();
    for len in 0..bytes.len() {
        assert!(Bundle::read(&bytes[..len]).is_err(), "cut off at {len}");
    }
    for (at, text) in [(0, "it is not a bundle"), (16, "a newer memtrace wrote it"), (20, "it is damaged")] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0xff;
        let error = format!("{:#}", Bundle::read(&damaged[..]).unwrap_err());
        assert!(error.starts_with(text), "{error}");
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        // Some bits of the compressor's header say nothing.
        if let Ok(read) = Bundle::read(&damaged[..]) {
            for place in &places {
                assert_eq!(read.frames(&id, *place), bundle.frames(&id, *place), "one bit at {at}");
            }
        }
    }
    assert!(Bundle::open(&scratch.join("none")).unwrap().is_none());
}
