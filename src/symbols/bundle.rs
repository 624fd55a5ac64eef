//! The symbols of a capture in a file beside it, so that a report can be made on another machine.
//!
//! It holds the answers and not what they were made from: the functions at each address that the capture names. That is
//! 120 KB for ten thousand addresses of libpython, where its debug sections would be 20 MB, needs no library of the other
//! machine, and is exactly what this machine would have shown. An address that is not known here is left out, so whoever
//! reads the bundle may still know it.
//!
//! ```text
//!   "memtrace symbols" · version, 4 bytes · postcard of `Contents`, in Zstandard
//! ```
//!
//! A bundle is hostile input: what does not fit together is an error, and its size is bounded before it is unpacked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::{ModuleId, NativeFrame, Place, Symbols};

const MAGIC: &[u8; 16] = b"memtrace symbols";
const VERSION: u32 = 1;
/// Ten million frames.
const MAX_BYTES: u64 = 1 << 30;
const LEVEL: i32 = 3;

/// Which capture it is, wherever it lies and whatever it is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureKey {
    pub pid: u32,
    pub start_unix_nanos: u64,
}

/// Frames of the addresses of a capture.
#[derive(Debug, Default)]
pub struct Bundle {
    /// For which it was packed.
    pub capture: CaptureKey,
    strings: Vec<String>,
    modules: HashMap<Key, HashMap<Place, Vec<PackedFrame>>>,
}

/// How a module is found again: a build-id is the same wherever the file lies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
enum Key {
    BuildId(Vec<u8>),
    /// Of a file that has none.
    Path(Vec<u8>),
}

#[derive(Serialize, Deserialize)]
struct Contents {
    capture: CaptureKey,
    strings: Vec<String>,
    modules: Vec<(Key, Vec<PackedPlace>)>,
}

/// In the order of their addresses.
#[derive(Serialize, Deserialize)]
struct PackedPlace {
    /// From the one before.
    distance: u64,
    is_return_address: bool,
    frames: Vec<PackedFrame>,
}

/// Texts are numbers of strings.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct PackedFrame {
    function: u32,
    file: Option<u32>,
    line: Option<u32>,
    is_inlined: bool,
}

/// Where the bundle of a capture is looked for: `CAPTURE.symbols`.
pub fn path_beside(capture: &Path) -> PathBuf {
    let mut name = OsString::from(capture);
    name.push(".symbols");
    PathBuf::from(name)
}

impl Bundle {
    /// What `symbols` knows about these places of a capture.
    pub fn pack<'id>(
        capture: CaptureKey,
        symbols: &mut Symbols,
        places: impl IntoIterator<Item = (&'id ModuleId, Place)>,
    ) -> Bundle {
        let mut bundle = Bundle { capture, ..Bundle::default() };
        let mut numbers = HashMap::new();
        for (id, place) in places {
            let Some(frames) = symbols.known_frames(id, place) else { continue };
            let strings = &mut bundle.strings;
            let mut number = |text: &str| match numbers.get(text) {
                Some(number) => *number,
                None => {
                    let number = strings.len() as u32;
                    numbers.insert(text.to_string(), number);
                    strings.push(text.to_string());
                    number
                }
            };
            let packed = frames
                .iter()
                .map(|frame| PackedFrame {
                    function: number(&frame.function),
                    file: frame.file.as_deref().map(&mut number),
                    line: frame.line,
                    is_inlined: frame.is_inlined,
                })
                .collect();
            bundle.modules.entry(Key::new(id)).or_default().insert(place, packed);
        }
        bundle
    }

    /// The functions at a place, innermost first, if they were packed.
    pub fn frames(&self, id: &ModuleId, place: Place) -> Option<Vec<NativeFrame>> {
        let packed = self.modules.get(&Key::new(id))?.get(&place)?;
        let text = |number: u32| self.strings[number as usize].clone();
        let frame = |frame: &PackedFrame| NativeFrame {
            function: text(frame.function),
            file: frame.file.map(text),
            line: frame.line,
            is_inlined: frame.is_inlined,
        };
        Some(packed.iter().map(frame).collect())
    }

    /// Whether it has an answer for any place of a module.
    pub fn has(&self, id: &ModuleId) -> bool {
        self.modules.contains_key(&Key::new(id))
    }

    /// How many modules it has answers for.
    pub fn n_modules(&self) -> usize {
        self.modules.len()
    }

    /// How many places it has answers for.
    pub fn n_places(&self) -> usize {
        self.modules.values().map(HashMap::len).sum()
    }

    pub fn write(&self, out: &mut impl Write) -> Result<()> {
        // In one order, so that the same answers are the same file.
        let modules: BTreeMap<_, _> = self.modules.iter().collect();
        let modules = modules
            .into_iter()
            .map(|(key, places)| {
                let mut before = 0;
                let sorted: BTreeSet<&Place> = places.keys().collect();
                let packed = sorted.into_iter().map(|place| {
                    let distance = place.address - before;
                    before = place.address;
                    let frames = places[place].clone();
                    PackedPlace { distance, is_return_address: place.is_return_address, frames }
                });
                (key.clone(), packed.collect())
            })
            .collect();
        let contents =
            postcard::to_stdvec(&Contents { capture: self.capture, strings: self.strings.clone(), modules })?;
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        let mut encoder = zstd::stream::Encoder::new(out, LEVEL)?;
        encoder.include_checksum(true)?;
        encoder.write_all(&contents)?;
        encoder.finish()?;
        Ok(())
    }

    /// The bundle in a file; `None` when there is no such file.
    pub fn open(path: &Path) -> Result<Option<Bundle>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file,
        };
        let bundle = file.map_err(Into::into).and_then(Bundle::read);
        bundle.map(Some).with_context(|| format!("cannot read the symbols in {}", path.display()))
    }

    pub fn read(mut input: impl Read) -> Result<Bundle> {
        let mut head = [0; MAGIC.len() + 4];
        input.read_exact(&mut head).context("it is cut off")?;
        let (magic, version) = head.split_at(MAGIC.len());
        ensure!(magic == MAGIC, "it is not a bundle that memtrace wrote");
        if version != VERSION.to_le_bytes() {
            bail!("a newer memtrace wrote it");
        }
        let mut bytes = Vec::new();
        let decoder = zstd::stream::read::Decoder::new(input)?;
        decoder.take(MAX_BYTES).read_to_end(&mut bytes).context("it is damaged")?;
        Bundle::check(postcard::from_bytes(&bytes).context("it is damaged")?)
    }

    fn check(contents: Contents) -> Result<Bundle> {
        let Contents { capture, strings, modules } = contents;
        let is_text = |number: u32| (number as usize) < strings.len();
        let mut bundle = Bundle::default();
        for (key, packed) in modules {
            let mut address = 0_u64;
            let places = bundle.modules.entry(key).or_default();
            for PackedPlace { distance, is_return_address, frames } in packed {
                address = address.checked_add(distance).context("it is damaged: an address is too large")?;
                let are_texts = frames.iter().all(|frame| is_text(frame.function) && frame.file.is_none_or(is_text));
                ensure!(are_texts && !frames.is_empty(), "it is damaged: a text is missing");
                places.insert(Place { address, is_return_address }, frames);
            }
        }
        Ok(Bundle { capture, strings, ..bundle })
    }
}

impl Key {
    fn new(id: &ModuleId) -> Key {
        match &id.build_id {
            Some(build_id) => Key::BuildId(build_id.clone()),
            None => Key::Path(id.path.as_os_str().as_bytes().to_vec()),
        }
    }
}
