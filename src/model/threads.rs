//! Who the threads are: their kernel ids and names.

use hashbrown::HashMap;

use super::strings::StringId;

/// A thread of the capture: numbers are given anew in each image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadKey {
    pub image: u16,
    pub number: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thread {
    /// 0 when the log does not say.
    pub os_tid: u32,
    /// The last name that it was given.
    pub name: Option<StringId>,
}

#[derive(Default)]
pub struct Threads {
    threads: HashMap<ThreadKey, Thread>,
    /// The latest thread with each `pthread_t`, which the C library uses again.
    by_pthread: HashMap<(u16, u64), u32>,
    /// Names given before the thread's first record.
    early_names: HashMap<(u16, u64), StringId>,
}

impl Threads {
    pub fn get(&self, key: ThreadKey) -> Thread {
        self.threads.get(&key).copied().unwrap_or_default()
    }

    /// A lane has gone over to this thread.
    pub fn appear(&mut self, key: ThreadKey, os_tid: u32, pthread: u64) {
        let early = self.early_names.remove(&(key.image, pthread));
        let thread = self.threads.entry(key).or_default();
        thread.os_tid = os_tid;
        thread.name = early.or(thread.name);
        self.by_pthread.insert((key.image, pthread), key.number);
    }

    /// Names the thread that has this `pthread_t` now, or the next one to get it. Returns the number of the thread
    /// when it is known already.
    ///
    /// A `pthread_t` outlives its thread, so the name goes to the last thread that had it *and* to a next one that
    /// appears without a name of its own; the last thread's name is not used any more by then.
    pub fn name(&mut self, image: u16, pthread: u64, name: StringId) -> Option<u32> {
        match self.by_pthread.get(&(image, pthread)) {
            Some(&number) => {
                self.threads.entry(ThreadKey { image, number }).or_default().name = Some(name);
                Some(number)
            }
            None => {
                self.early_names.insert((image, pthread), name);
                None
            }
        }
    }
}
