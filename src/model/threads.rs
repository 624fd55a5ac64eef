//! Who the threads are: their kernel ids and names.

use hashbrown::HashMap;

use super::processes::Handles;
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
    /// Names given by others, perhaps to threads that have not shown up yet.
    early_names: HashMap<(u16, u64), StringId>,
}

impl Threads {
    pub fn get(&self, key: ThreadKey) -> Thread {
        self.threads.get(&key).copied().unwrap_or_default()
    }

    /// The first thread that the kernel gave this number.
    pub fn with_os_tid(&self, os_tid: u32) -> Option<ThreadKey> {
        self.threads.iter().filter(|(_, thread)| thread.os_tid == os_tid).map(|(key, _)| *key).min()
    }

    /// What the latest thread with this `pthread_t` is called so far.
    pub fn name_of(&self, image: u16, pthread: u64) -> Option<StringId> {
        self.get(ThreadKey { image, number: *self.by_pthread.get(&(image, pthread))? }).name
    }

    /// Names are strings of another model now.
    pub fn rename(&mut self, handles: &Handles) {
        let names = self.threads.values_mut().filter_map(|thread| thread.name.as_mut());
        names.chain(self.early_names.values_mut()).for_each(|name| *name = handles.string(*name));
    }

    /// A lane has gone over to this thread.
    pub fn appear(&mut self, key: ThreadKey, os_tid: u32, pthread: u64) {
        let before = self.by_pthread.insert((key.image, pthread), key.number);
        let thread = self.threads.entry(key).or_default();
        thread.os_tid = os_tid;
        if before != Some(key.number) {
            thread.name = self.early_names.remove(&(key.image, pthread)).or(thread.name);
        }
    }

    /// `by` names the thread that has this `pthread_t`. Returns its number when it is known.
    ///
    /// The log does not say when threads end. A name given by another thread may therefore be for a new thread that
    /// got the `pthread_t` of an ended one and has not shown up: it is kept for that one as well.
    pub fn name(&mut self, by: ThreadKey, pthread: u64, name: StringId) -> Option<u32> {
        let number = self.by_pthread.get(&(by.image, pthread)).copied();
        if number != Some(by.number) {
            self.early_names.insert((by.image, pthread), name);
        }
        let number = number?;
        self.threads.entry(ThreadKey { image: by.image, number }).or_default().name = Some(name);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Model;
    use super::*;

    const MAIN: ThreadKey = ThreadKey { image: 0, number: 1 };
    const SECOND: ThreadKey = ThreadKey { image: 0, number: 2 };
    const THIRD: ThreadKey = ThreadKey { image: 0, number: 3 };

    #[test]
    fn a_name_given_before_the_first_record_is_found() {
        let mut model = Model::default();
        let worker = model.intern("worker");
        model.process_mut().threads.appear(MAIN, 10, 0xa);
        assert_eq!(model.process_mut().threads.name(MAIN, 0xb, worker), None);
        model.process_mut().threads.appear(SECOND, 11, 0xb);
        assert_eq!(model.process().threads.get(SECOND), Thread { os_tid: 11, name: Some(worker) });
        assert_eq!(model.process().threads.get(MAIN).name, None);
    }

    #[test]
    fn a_name_that_a_thread_gave_itself_ends_with_it() {
        let mut model = Model::default();
        let worker = model.intern("worker");
        model.process_mut().threads.appear(SECOND, 11, 0xb);
        assert_eq!(model.process_mut().threads.name(SECOND, 0xb, worker), Some(2));
        model.process_mut().threads.appear(THIRD, 12, 0xb);
        assert_eq!(model.process().threads.get(SECOND).name, Some(worker));
        assert_eq!(model.process().threads.get(THIRD).name, None);
    }
}
