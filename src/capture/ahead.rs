//! Decoding ahead: one thread decompresses and decodes, another keeps the model and folds. A queue of a few batches
//! stands between them, so the order is that of the log, whatever the threads do.

use std::fs::File;
use std::ops::ControlFlow;
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use anyhow::Result;

use super::batch::Batch;
use super::blocks::Block;
use super::merge;

/// Batches that wait at most.
const N_WAITING: usize = 4;
/// Shorter logs, in bytes of records, are read before a thread has started.
const WORTH_A_THREAD: u64 = 1 << 20;

/// Reads the blocks of all lanes and hands their records to `tell`, for as long as it wants them.
pub fn run(file: &File, blocks: &[Block], tell: impl FnMut(&Batch) -> ControlFlow<()>) -> Result<()> {
    let len: u64 = blocks.iter().map(|block| block.payload_len.max(block.raw_len.into())).sum();
    if len < WORTH_A_THREAD { on_one_thread(file, blocks, tell) } else { on_two_threads(file, blocks, tell) }
}

pub fn on_one_thread(file: &File, blocks: &[Block], mut tell: impl FnMut(&Batch) -> ControlFlow<()>) -> Result<()> {
    merge::run(file, blocks, &mut |mut batch| {
        tell(&batch)?;
        batch.clear();
        ControlFlow::Continue(batch)
    })
}

pub fn on_two_threads(file: &File, blocks: &[Block], mut tell: impl FnMut(&Batch) -> ControlFlow<()>) -> Result<()> {
    thread::scope(|scope| {
        let (full, batches) = sync_channel::<Batch>(N_WAITING);
        let (used, empty) = channel::<Batch>();
        let decoding = scope.spawn(move || {
            merge::run(file, blocks, &mut |batch| match full.send(batch) {
                Ok(()) => ControlFlow::Continue(empty.try_recv().unwrap_or_default()),
                Err(_) => ControlFlow::Break(()),
            })
        });
        for mut batch in batches {
            if tell(&batch).is_break() {
                break;
            }
            batch.clear();
            // When everything is decoded, nobody needs it.
            let _ = used.send(batch);
        }
        decoding.join().expect("a panic ends the program")
    })
}
