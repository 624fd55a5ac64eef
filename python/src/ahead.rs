//! A thread that reads a capture ahead of whoever asks, a little. It ends before this does: what it frees must not be in
//! the recording of a `Tracker` that begins afterwards.

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::Result;

/// So many rows are handed over at a time…
pub const FULL: usize = 64 * 1024;
/// …and so many such batches wait.
const N_WAITING: usize = 2;

pub struct Ahead<T> {
    batches: Option<Receiver<Result<T>>>,
    reader: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Ahead<T> {
    /// `read` hands over batches until it is done, or nobody wants more.
    pub fn new(read: impl FnOnce(&mut dyn FnMut(T) -> ControlFlow<()>) -> Result<()> + Send + 'static) -> Ahead<T> {
        let (send, batches) = sync_channel(N_WAITING);
        let reader = thread::spawn(move || {
            let mut pass = |batch| match send.send(Ok(batch)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            };
            if let Err(error) = read(&mut pass) {
                let _ = send.send(Err(error));
            }
        });
        Ahead { batches: Some(batches), reader: Some(reader) }
    }

    /// The next batch; `None` behind the last.
    pub fn next(&mut self) -> Result<Option<T>> {
        let batch = self.batches.as_ref().and_then(|batches| batches.recv().ok()).transpose();
        if !matches!(batch, Ok(Some(_))) {
            self.end();
        }
        batch
    }
}

impl<T> Ahead<T> {
    fn end(&mut self) {
        // So that it finds nobody who wants more.
        self.batches = None;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        self.end();
    }
}
