//! How far the reading is, as a bar on stderr: on a terminal only, and only when it takes long.

use std::fs::File;
use std::io::stdout;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Whoever waits less wants to see the answer and nothing else.
const LONG: Duration = Duration::from_millis(500);
const REFRESHES_PER_SECOND: u8 = 10;

/// Over all captures of a command.
pub struct Progress {
    start: Instant,
    is_wanted: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Progress {
    /// Of work that somebody waits for since `start`.
    pub fn since(start: Instant) -> Progress {
        Progress { start, is_wanted: true, bar: Mutex::new(None) }
    }

    /// The same for a command that prints as it reads: there is no bar where it would stand between the lines, on a
    /// terminal or behind a pipe to a pager.
    pub fn beside_output(start: Instant) -> Progress {
        let output = stdout().as_fd().try_clone_to_owned().and_then(|output| File::from(output).metadata());
        Progress { start, is_wanted: output.is_ok_and(|output| output.is_file()), bar: Mutex::new(None) }
    }

    /// Shows how far it is, in bytes. Cheap enough for every few hundred events.
    pub fn show(&self, bytes: impl FnOnce() -> (u64, u64)) {
        if !self.is_wanted || self.start.elapsed() < LONG {
            return;
        }
        // Somebody else is showing it.
        let Ok(mut bar) = self.bar.try_lock() else { return };
        let (done, total) = bytes();
        let bar = bar.get_or_insert_with(new_bar);
        bar.set_length(total);
        bar.set_position(done);
    }

    /// Leaves the terminal as it was, for whatever is written to it next.
    pub fn done(&self) {
        if let Some(bar) = self.bar.lock().ok().and_then(|mut bar| bar.take()) {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.done();
    }
}

fn new_bar() -> ProgressBar {
    const TEMPLATE: &str = "reading {wide_bar} {bytes}/{total_bytes} {eta}";
    let target = ProgressDrawTarget::stderr_with_hz(REFRESHES_PER_SECOND);
    let style = ProgressStyle::with_template(TEMPLATE).expect("the template is valid");
    ProgressBar::with_draw_target(None, target).with_style(style)
}
