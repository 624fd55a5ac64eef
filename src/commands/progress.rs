//! How far the reading is, as a bar on stderr: on a terminal only, and only when it takes long.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Whoever waits less wants to see the answer and nothing else.
const LONG: Duration = Duration::from_millis(500);
const REFRESHES_PER_SECOND: u8 = 10;

/// Over all captures of a command.
pub struct Progress {
    start: Instant,
    bar: Mutex<Option<ProgressBar>>,
}

impl Progress {
    pub fn new() -> Progress {
        Progress { start: Instant::now(), bar: Mutex::new(None) }
    }

    /// Shows how far it is, in bytes. Cheap enough for every few hundred events.
    pub fn show(&self, bytes: impl FnOnce() -> (u64, u64)) {
        if self.start.elapsed() < LONG {
            return;
        }
        // Somebody else is showing it.
        let Ok(mut bar) = self.bar.try_lock() else { return };
        let (done, total) = bytes();
        let bar = bar.get_or_insert_with(new_bar);
        bar.set_length(total);
        bar.set_position(done);
    }
}

impl Drop for Progress {
    /// Leaves the terminal as it was.
    fn drop(&mut self) {
        if let Some(bar) = self.bar.lock().ok().and_then(|mut bar| bar.take()) {
            bar.finish_and_clear();
        }
    }
}

fn new_bar() -> ProgressBar {
    const TEMPLATE: &str = "reading {wide_bar} {bytes}/{total_bytes} {eta}";
    let target = ProgressDrawTarget::stderr_with_hz(REFRESHES_PER_SECOND);
    let style = ProgressStyle::with_template(TEMPLATE).expect("the template is valid");
    ProgressBar::with_draw_target(None, target).with_style(style)
}
