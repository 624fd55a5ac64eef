//! One stack out of the native and the Python stack of an event: where the interpreter's loop ran, its frame makes room
//! for the Python frames that it ran.
//!
//! Both are followed from the leaf to the root, a level at a time, until they come to a pair that was joined before. So
//! stacks that share their outer part share the work, and every frame is looked at about once.

use hashbrown::HashMap;

use super::native::{Level, Native, NativeModule, NativePlace};
use super::plumbing::{self, Owner, Role};
use super::processes::Handles;
use super::stacks::{FrameId, StackId};
use super::{Model, StringId};

/// One function at a native address.
#[derive(Debug)]
pub struct Named {
    pub function: String,
    pub file: String,
    /// From 1; 0 when it is not known.
    pub line: u32,
}

/// The functions at an address of a module, the outermost first: what was inlined comes behind.
pub type Namer<'a> = dyn FnMut(&NativeModule, u64) -> Vec<Named> + Send + 'a;

/// Pairs that are joined at most: only a damaged log has more. The stacks behind that show Python.
const MAX_PAIRS: usize = 1 << 25;

/// Joins recorded stacks, and remembers what it has joined.
pub struct Joiner<'a> {
    name: Box<Namer<'a>>,
    /// By place.
    known: Vec<Option<Known>>,
    /// By module.
    owners: Vec<Owner>,
    /// By recorded stack: whether the recorder has marked a loop in it.
    marks: Vec<bool>,
    /// By what a Python and a native stack are together, without marks and with them: the joined stack.
    pairs: [HashMap<(StackId, StackId), StackId>; 2],
    /// From a leaf to where it was joined before.
    way: Vec<(Pair, Gain)>,
}

/// What is at a native place.
struct Known {
    module: usize,
    frames: Box<[(FrameId, Role)]>,
    /// Whether it is the interpreter's loop. That counts in stacks in which the recorder has marked none.
    is_loop: bool,
}

/// A Python and a native stack, as far as they are not joined yet.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Pair {
    python: StackId,
    native: StackId,
}

/// What a pair has more than the one outside of it.
#[derive(Clone, Copy)]
enum Gain {
    Nothing,
    Python(FrameId),
    Native(usize),
}

impl Model {
    /// Whether there are recorded stacks, so that the model has to be [`resolved`](Model::resolved).
    pub fn has_recorded_stacks(&self) -> bool {
        self.native.n_stacks() > 1
    }

    /// The same with what reports show of some recorded stacks. Of others it keeps nothing.
    pub fn resolved(mut self, wanted: impl IntoIterator<Item = StackId>, name: Box<Namer<'_>>) -> (Model, Handles) {
        let mut joiner = Joiner::new(name);
        let wanted: Vec<StackId> = wanted.into_iter().collect();
        joiner.learn_all(&mut self, &wanted);
        let mut stacks = vec![StackId::EMPTY; self.native.n_stacks()];
        for stack in wanted {
            if stacks[stack.index()] == StackId::EMPTY {
                stacks[stack.index()] = joiner.joined(&mut self, stack);
            }
        }
        self.native = Native::default();
        let strings = (0..self.strings.count()).map(StringId::from_index).collect();
        let frames = (0..self.frames.count()).map(FrameId::from_index).collect();
        (self, Handles::Moved { strings, frames, stacks })
    }
}

impl<'a> Joiner<'a> {
    pub fn new(name: Box<Namer<'a>>) -> Joiner<'a> {
        Joiner {
            name,
            known: Vec::new(),
            owners: Vec::new(),
            marks: Vec::new(),
            pairs: Default::default(),
            way: Vec::new(),
        }
    }

    /// What reports show of a recorded stack.
    pub fn joined(&mut self, model: &mut Model, stack: StackId) -> StackId {
        self.look_for_marks(&model.native);
        let (mut pair, is_marked) = match model.native.level(stack) {
            Some(Level::Joint(native)) => {
                (Pair { python: model.native.parent(stack), native }, self.marks[native.index()])
            }
            _ => (Pair { python: stack, native: StackId::EMPTY }, false),
        };
        if self.pairs.iter().map(HashMap::len).sum::<usize>() >= MAX_PAIRS {
            pair.native = StackId::EMPTY;
        }
        let runs_python = model.process().facts.python().is_some_and(|python| python.has_stacks);
        let mut joined = StackId::EMPTY;
        while pair != Pair::EMPTY {
            if let Some(&known) = self.pairs[usize::from(is_marked)].get(&(pair.python, pair.native)) {
                joined = known;
                break;
            }
            let (gain, outer) = self.step(model, pair, is_marked);
            self.way.push((pair, gain));
            pair = outer;
        }
        while let Some((pair, gain)) = self.way.pop() {
            joined = match gain {
                Gain::Nothing => joined,
                Gain::Python(frame) => model.stacks.extend(joined, frame),
                Gain::Native(place) => {
                    let shown = self.known[place].iter().flat_map(|known| known.shown(&self.owners, runs_python));
                    shown.fold(joined, |joined, frame| model.stacks.extend(joined, frame))
                }
            };
            self.pairs[usize::from(is_marked)].insert((pair.python, pair.native), joined);
        }
        joined
    }

    /// Looks up what is at all places of these stacks, in the order in which the files have them.
    fn learn_all(&mut self, model: &mut Model, wanted: &[StackId]) {
        let native = &model.native;
        let mut is_wanted = vec![false; native.n_stacks()];
        wanted.iter().for_each(|stack| is_wanted[stack.index()] = true);
        let (mut is_place_wanted, mut marks) = (vec![false; native.places().len()], Vec::new());
        for index in (1..native.n_stacks()).rev() {
            let stack = StackId::from_index(index);
            if !is_wanted[index] {
                continue;
            }
            is_wanted[native.parent(stack).index()] = true;
            match native.level(stack) {
                Some(Level::Joint(native)) => is_wanted[native.index()] = true,
                Some(Level::Native(place)) => is_place_wanted[place] = true,
                Some(Level::Entry) => marks.push(stack),
                _ => {}
            }
        }
        let mut places: Vec<usize> = (0..is_place_wanted.len()).filter(|place| is_place_wanted[*place]).collect();
        places.sort_unstable_by_key(|place| native.places()[*place]);
        for place in places {
            self.learn(model, place);
        }
        // Whose the modules are is known before the first stack is joined.
        for mark in marks {
            self.marked_loop(model, mark);
        }
    }

    /// What is at a place, looked up when it is first asked for.
    fn learn(&mut self, model: &mut Model, place: usize) -> &Known {
        let Joiner { name, known, owners, .. } = self;
        if known.len() <= place {
            known.resize_with(place + 1, || None);
        }
        known[place].get_or_insert_with(|| {
            let NativePlace { module, address } = model.native.places()[place];
            let module = module as usize;
            let named = name(&model.native.modules()[module], address);
            let path = model.native.modules()[module].path.clone();
            let is_loop = named.iter().any(|it| plumbing::is_loop(&it.function));
            owners.extend(model.native.modules().iter().skip(owners.len()).map(|module| Owner::of(&module.path)));
            if is_loop {
                owners[module] = Owner::Interpreter;
            }
            let frame = |it: &Named| {
                (model.intern_native_frame(&it.function, &it.file, it.line, &path), Role::of(&it.function, address))
            };
            Known { module, frames: named.iter().map(frame).collect(), is_loop }
        })
    }

    fn look_for_marks(&mut self, native: &Native) {
        for stack in (self.marks.len()..native.n_stacks()).map(StackId::from_index) {
            let is_outside_marked = stack != StackId::EMPTY && self.marks[native.parent(stack).index()];
            let is_mark = native.level(stack) == Some(Level::Entry) && native.parent(stack) != StackId::EMPTY;
            self.marks.push(is_outside_marked || is_mark);
        }
    }

    /// The place of the loop that a mark belongs to, and the stack around it.
    fn marked_loop(&mut self, model: &mut Model, mark: StackId) -> (Option<usize>, StackId) {
        let mut stack = model.native.parent(mark);
        while model.native.level(stack) == Some(Level::Entry) {
            stack = model.native.parent(stack);
        }
        let Some(Level::Native(place)) = model.native.level(stack) else { return (None, StackId::EMPTY) };
        let module = self.learn(model, place).module;
        self.owners[module] = Owner::Interpreter;
        (Some(place), model.native.parent(stack))
    }

    /// What the innermost level of a pair comes to, and the pair outside of it. Both stacks end with the innermost, so
    /// what has lost its counterpart is on the outside.
    fn step(&mut self, model: &mut Model, pair: Pair, is_marked: bool) -> (Gain, Pair) {
        let Pair { python, native } = pair;
        let (place, around) = match model.native.level(native) {
            Some(Level::Native(place)) => {
                let around = model.native.parent(native);
                if is_marked || !self.learn(model, place).is_loop {
                    self.learn(model, place);
                    return (Gain::Native(place), Pair { python, native: around });
                }
                (Some(place), around)
            }
            // With nothing in front of it, a mark says that the beginning is missing.
            Some(Level::Entry) if model.native.parent(native) == StackId::EMPTY => {
                return (Gain::Nothing, Pair { python, native: StackId::EMPTY });
            }
            Some(Level::Entry) => self.marked_loop(model, native),
            // The Python frames that are left have no loop.
            _ => (None, StackId::EMPTY),
        };
        let outside = model.native.parent(python);
        match model.native.level(python) {
            None => (place.map_or(Gain::Nothing, Gain::Native), Pair { python, native: around }),
            // Nothing is on the outside of the first entry.
            Some(Level::Python(frame)) if outside == StackId::EMPTY => {
                (Gain::Python(frame), Pair { python: outside, native: around })
            }
            Some(Level::Python(frame)) => (Gain::Python(frame), Pair { python: outside, native }),
            Some(_) => (Gain::Nothing, Pair { python: outside, native: around }),
        }
    }
}

impl Known {
    /// The frames of it that reports show.
    fn shown(&self, owners: &[Owner], runs_python: bool) -> impl Iterator<Item = FrameId> {
        let owner = owners[self.module];
        let owner = if runs_python || owner == Owner::Tracer { owner } else { Owner::Other };
        self.frames.iter().filter(move |(_, role)| !role.is_hidden_in(owner)).map(|(frame, _)| *frame)
    }
}

impl Pair {
    const EMPTY: Pair = Pair { python: StackId::EMPTY, native: StackId::EMPTY };
}

#[cfg(test)]
mod tests {
    use memtrace_format::record;

    use super::*;
    use crate::model::facts::Python;

    /// A native stack of calls at these addresses, root first; `*` behind one marks the loop, as the recorder does.
    fn native(model: &mut Model, calls: &str) -> StackId {
        calls.split_whitespace().fold(StackId::EMPTY, |stack, call| {
            let (address, mark) = call.split_at(call.find('*').unwrap_or(call.len()));
            let level = address.parse().ok().map(|address| model.level_at(0, 1, address));
            let stack = level.map_or(stack, |level| model.native.extend(stack, level));
            if mark.is_empty() { stack } else { model.native.extend(stack, Level::Entry) }
        })
    }

    /// A Python stack in which `|` says where C code has entered the interpreter.
    fn python(model: &mut Model, frames: &str) -> StackId {
        frames.split_whitespace().fold(StackId::EMPTY, |stack, frame| {
            let level = match frame {
                "|" => Level::Entry,
                function => Level::Python(model.intern_frame(function, "app.py", 1)),
            };
            model.native.extend(stack, level)
        })
    }

    /// `c1` for the call at 1; 50 and more are the loop by name, 7 has an inlined function, and 20 is plumbing.
    fn name(module: &NativeModule, address: u64) -> Vec<Named> {
        assert_eq!(module.path, "/srv/embedding");
        let named = |function: &str| Named { function: function.into(), file: String::new(), line: 0 };
        match address {
            7 => vec![named("c7"), named("inlined")],
            20 => vec![named("PyObject_Call")],
            50.. => vec![named("_PyEval_EvalFrameDefault.cold")],
            _ => vec![named(&format!("c{address}"))],
        }
    }

    fn model() -> Model {
        let mut model = Model::default();
        model.describe_module(0, &record::Module { id: 1, bias: 0, path: b"/srv/embedding", build_id: b"" });
        model
    }

    fn shown(model: &Model, stack: StackId) -> String {
        let mut functions: Vec<&str> = model.frames_from_leaf(stack).map(|frame| model.text(frame.function)).collect();
        functions.reverse();
        functions.join(" ").replace("_PyEval_EvalFrameDefault.cold", "loop")
    }

    /// The joined stack, made with all others and by itself.
    fn join(native_calls: &str, python_frames: &str) -> String {
        join_in(model(), native_calls, python_frames)
    }

    fn join_in(mut model: Model, native_calls: &str, python_frames: &str) -> String {
        let (native, python) = (native(&mut model, native_calls), python(&mut model, python_frames));
        let stack = model.native.extend(python, Level::Joint(native));
        let mut joiner = Joiner::new(Box::new(name));
        let by_itself = joiner.joined(&mut model, stack);
        let by_itself = shown(&model, by_itself);
        let (model, handles) = model.resolved([stack], Box::new(name));
        assert_eq!(shown(&model, handles.stack(stack)), by_itself);
        by_itself
    }

    #[test]
    fn python_frames_take_the_place_of_the_loop_that_ran_them() {
        assert_eq!(join("1 50 2 51 3", "| main work | key"), "c1 main work c2 key c3");
        assert_eq!(join("1 8* 2 9* 3", "| main work | key"), "c1 main work c2 key c3");
        assert_eq!(join("1 7 2", ""), "c1 c7 inlined c2");
        assert_eq!(join("", "| main | work"), "main work");
        assert_eq!(join("1 8* 2 9* 3", "| main work |"), "c1 main work c2 c3");
        assert_eq!(join("1 50 2 51 3", "main | key"), "c1 main c2 key c3");
    }

    #[test]
    fn a_mark_in_front_of_all_says_that_the_beginning_is_missing() {
        assert_eq!(join("* 1 50 2", "| main"), "c1 main c2");
        assert_eq!(join("* 1 8* 2", "| main"), "c1 main c2");
        assert_eq!(join("*", "| main"), "main");
    }

    #[test]
    fn where_the_recorder_has_marked_loops_names_count_for_nothing() {
        assert_eq!(join("1 50 8* 2", "| main"), "c1 loop main c2");
    }

    #[test]
    fn what_has_lost_its_counterpart_is_on_the_outside() {
        assert_eq!(join("1 50 2", "| main | work | key"), "main work c1 key c2");
        assert_eq!(join("1 50 2 51 3", "| key"), "c1 loop c2 key c3");
        assert_eq!(join("1 2", "| main"), "main c1 c2");
        assert_eq!(join("1* 2", "| main | key"), "main key c2");
    }

    /// With the interpreter as a part of another program.
    #[test]
    fn where_python_runs_its_plumbing_is_left_out() {
        let join_python = |native_calls: &str, python_frames: &str| {
            let mut model = model();
            let python = Python { version: 0x030b_00f0, allocator: String::new(), has_stacks: true };
            model.process_mut().facts.image_mut(0).python = Some(python);
            join_in(model, native_calls, python_frames)
        };
        assert_eq!(join_python("1 20 50 2 20 51 3 20", "| main | key"), "c1 main c2 key c3");
        assert_eq!(join_python("1 20 8* 2 20 9* 3 20", "| main | key"), "c1 main c2 key c3");
        assert_eq!(join_python("1 50 2", ""), "c1 c2");
        assert_eq!(join("1 20 50 2 20", "| main"), "c1 PyObject_Call main c2 PyObject_Call");
    }
}
