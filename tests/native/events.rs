//! The output of `memtrace parse --json`, read line by line into events.

use std::collections::HashMap;
use std::io::BufRead;

use serde::Deserialize;

/// A decoded log, without what the launcher adds on its own.
#[derive(Debug, Default)]
pub struct Log {
    pub events: Vec<Event>,
    /// Names of notices.
    pub notices: Vec<String>,
    pub damage: Vec<String>,
    /// Events that happened and are not there.
    pub n_lost: u64,
    /// By image: the program.
    pub images: HashMap<u32, String>,
    pub has_end: bool,
}

/// One event of a thread of the program.
#[derive(Clone, Debug)]
pub struct Event {
    pub image: u32,
    pub thread: Option<u32>,
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum What {
    Alloc { function: String, address: u64, size: u64 },
    Free { function: String, address: u64 },
    Restore,
    Mmap { address: u64, len: u64, prot: u32, flags: u32 },
    Munmap { address: u64, len: u64, is_remap: bool },
    Mremap { old_address: u64, address: u64, len: u64, flags: u32 },
    ThreadName(String),
}

/// A line as it is printed; which fields are there depends on `event`.
#[derive(Deserialize)]
struct Line {
    event: String,
    #[serde(default)]
    image: u32,
    thread: Option<u32>,
    kind: Option<String>,
    address: Option<String>,
    old_address: Option<String>,
    size: Option<u64>,
    prot: Option<u32>,
    flags: Option<u32>,
    #[serde(default)]
    remap: bool,
    name: Option<String>,
    notice: Option<String>,
    text: Option<String>,
    lost_events: Option<u64>,
    exe: Option<String>,
}

/// Read all lines; a line that is not as promised is an error that shows it.
pub fn read(input: impl BufRead) -> Result<Log, String> {
    let mut log = Log::default();
    for line in input.lines() {
        let text = line.map_err(|error| error.to_string())?;
        let line: Line = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        take(line, &mut log).ok_or_else(|| format!("a field is missing or wrong: {text}"))?;
    }
    Ok(log)
}

fn take(line: Line, log: &mut Log) -> Option<()> {
    let address = || parse_address(line.address.as_deref()?);
    let what = match line.event.as_str() {
        "alloc" => What::Alloc { function: line.kind.clone()?, address: address()?, size: line.size? },
        "free" => What::Free { function: line.kind.clone()?, address: address()? },
        "restore" => What::Restore,
        "mmap" => What::Mmap { address: address()?, len: line.size?, prot: line.prot?, flags: line.flags? },
        "munmap" => What::Munmap { address: address()?, len: line.size?, is_remap: line.remap },
        "mremap" => What::Mremap {
            old_address: parse_address(line.old_address.as_deref()?)?,
            address: address()?,
            len: line.size?,
            flags: line.flags?,
        },
        "thread_name" => What::ThreadName(line.name.clone()?),
        "notice" => {
            log.notices.push(line.notice?);
            return Some(());
        }
        "damage" => {
            log.damage.push(line.text?);
            return Some(());
        }
        "image" => {
            log.images.insert(line.image, line.exe?);
            return Some(());
        }
        "capture" => {
            log.n_lost += line.lost_events?;
            return Some(());
        }
        "end" => {
            log.has_end = true;
            return Some(());
        }
        _ => return Some(()),
    };
    log.events.push(Event { image: line.image, thread: line.thread, what });
    Some(())
}

fn parse_address(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}
