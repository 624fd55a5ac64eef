//! What changed between two snapshots of different models: by stack, and by function.
//!
//! Code moves between two recordings, so by default a stack is its functions and their files: a line that was added
//! above shifts every line below it, and would make of each stack one that is gone and one that is new. On request the
//! lines count as well.

use hashbrown::HashMap;

use super::{Row, Snapshot, Tree, summary};
use crate::model::{Frame, FrameId, Model, StackId, StringId};

/// Two snapshots of one model, which has the stacks of both.
pub struct Diff {
    /// Without lines these are 0 in its frames.
    pub model: Model,
    pub base: Snapshot,
    pub new: Snapshot,
    scale: Scale,
}

/// Bytes and allocations, before and after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub base_bytes: u64,
    pub new_bytes: u64,
    pub base_count: u64,
    pub new_count: u64,
}

/// What the amounts of the base are multiplied with before they are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scale {
    bytes: Ratio,
    count: Ratio,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ratio {
    new: u64,
    base: u64,
}

/// One function of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionChange {
    /// `None` for allocations without a stack.
    pub name: Option<(StringId, StringId)>,
    /// In the function itself.
    pub own: Change,
    /// In the function and in what it called.
    pub total: Change,
}

/// How two snapshots are compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiffOptions {
    /// Stacks are the same when their lines are.
    pub by_line: bool,
    /// The base is scaled to the total of the new one, so that what is compared are shares.
    pub is_normalised: bool,
}

impl Diff {
    pub fn new(base: (&Model, &Snapshot), new: (&Model, &Snapshot), options: &DiffOptions) -> Diff {
        let mut model = Model::default();
        let [base, new] = [base, new].map(|(own, snapshot)| adopted(&mut model, own, snapshot, options.by_line));
        let scale = match options.is_normalised {
            true => Scale { bytes: Ratio::of(new.bytes, base.bytes), count: Ratio::of(new.count, base.count) },
            false => Scale { bytes: Ratio::ONE, count: Ratio::ONE },
        };
        Diff { model, base, new, scale }
    }

    /// What the bytes of the base are multiplied with.
    pub fn scale(&self) -> f64 {
        self.scale.bytes.new as f64 / self.scale.bytes.base as f64
    }

    pub fn total(&self) -> Change {
        self.scaled(Some((self.base.bytes, self.base.count)), Some((self.new.bytes, self.new.count)))
    }

    /// Every stack that one of the two has, in the order of stacks.
    pub fn stacks(&self) -> Vec<(StackId, Change)> {
        let (mut base, mut new) = (self.base.rows.iter().peekable(), self.new.rows.iter().peekable());
        let mut stacks = Vec::with_capacity(self.base.rows.len().max(self.new.rows.len()));
        let amount = |row: &Row| (row.bytes, row.count);
        while let Some(stack) = [base.peek(), new.peek()].into_iter().flatten().map(|row| row.stack).min() {
            let before = base.next_if(|row| row.stack == stack).map(amount);
            let after = new.next_if(|row| row.stack == stack).map(amount);
            stacks.push((stack, self.scaled(before, after)));
        }
        stacks
    }

    /// Every function that one of the two has.
    pub fn functions(&self) -> Vec<FunctionChange> {
        type Amounts = ((u64, u64), (u64, u64));
        type Pair = (Option<Amounts>, Option<Amounts>);
        let mut functions: HashMap<Option<(StringId, StringId)>, Pair> = HashMap::new();
        for (snapshot, is_new) in [(&self.base, false), (&self.new, true)] {
            let tree = Tree::new(&self.model, snapshot);
            let mut own_counts: HashMap<Option<(StringId, StringId)>, u64> = HashMap::new();
            for row in &snapshot.rows {
                *own_counts.entry(self.function(row.stack)).or_default() += row.count;
            }
            for function in summary::by_function(&self.model, &tree) {
                let own_count = own_counts.get(&function.name).copied().unwrap_or(0);
                let amounts = ((function.own_bytes, own_count), (function.total_bytes, function.count));
                let (base, new) = functions.entry(function.name).or_default();
                *(if is_new { new } else { base }) = Some(amounts);
            }
        }
        let change = |(name, (base, new)): (_, Pair)| FunctionChange {
            name,
            own: self.scaled(base.map(|(own, _)| own), new.map(|(own, _)| own)),
            total: self.scaled(base.map(|(_, total)| total), new.map(|(_, total)| total)),
        };
        functions.into_iter().map(change).collect()
    }

    fn function(&self, stack: StackId) -> Option<(StringId, StringId)> {
        let frame = self.model.frame(self.model.leaf(stack)?);
        Some((frame.function, frame.file))
    }

    fn scaled(&self, base: Option<(u64, u64)>, new: Option<(u64, u64)>) -> Change {
        let ((base_bytes, base_count), (new_bytes, new_count)) = (base.unwrap_or_default(), new.unwrap_or_default());
        Change {
            base_bytes: self.scale.bytes.apply(base_bytes),
            new_bytes,
            base_count: self.scale.count.apply(base_count),
            new_count,
        }
    }
}

impl Change {
    /// How many bytes there are more.
    pub fn bytes(self) -> i64 {
        difference(self.base_bytes, self.new_bytes)
    }

    /// How many allocations there are more.
    pub fn count(self) -> i64 {
        difference(self.base_count, self.new_count)
    }

    pub fn is_nothing(self) -> bool {
        self.bytes() == 0 && self.count() == 0
    }

    /// For an order in which what changed most comes first.
    pub fn rank(self) -> std::cmp::Reverse<(u64, u64)> {
        std::cmp::Reverse((self.bytes().unsigned_abs(), self.count().unsigned_abs()))
    }
}

fn difference(base: u64, new: u64) -> i64 {
    (new as i128 - base as i128).clamp(i64::MIN as i128, i64::MAX as i128) as i64
}

impl Ratio {
    const ONE: Ratio = Ratio { new: 1, base: 1 };

    /// Nothing can't be scaled.
    fn of(new: u64, base: u64) -> Ratio {
        if base == 0 || new == 0 { Ratio::ONE } else { Ratio { new, base } }
    }

    fn apply(self, amount: u64) -> u64 {
        let product = amount as u128 * self.new as u128;
        u64::try_from((product + self.base as u128 / 2) / self.base as u128).unwrap_or(u64::MAX)
    }
}

/// A snapshot with its stacks in another model.
fn adopted(into: &mut Model, own: &Model, snapshot: &Snapshot, by_line: bool) -> Snapshot {
    let mut frames: HashMap<FrameId, FrameId> = HashMap::new();
    let mut stacks: HashMap<StackId, StackId> = HashMap::new();
    stacks.insert(StackId::EMPTY, StackId::EMPTY);
    let mut rows = Vec::with_capacity(snapshot.rows.len());
    for row in &snapshot.rows {
        // Callers have to be known first; a loop, because stacks are deep.
        let (mut stack, mut missing) = (row.stack, Vec::new());
        while !stacks.contains_key(&stack) {
            missing.push(stack);
            stack = own.parent(stack);
        }
        for stack in missing.into_iter().rev() {
            let Some(id) = own.leaf(stack) else { continue };
            let frame = *frames.entry(id).or_insert_with(|| {
                let frame = own.frame(id);
                let line = if by_line { frame.line } else { 0 };
                into.adopt_frame(own, Frame { line, ..frame })
            });
            let adopted = into.extend_stack(stacks[&own.parent(stack)], frame);
            stacks.insert(stack, adopted);
        }
        rows.push(Row { stack: stacks[&row.stack], ..*row });
    }
    Snapshot::summed(rows, snapshot.turn)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model and a snapshot of stacks as `main:3>work:5`, each with its bytes in one allocation.
    fn snapshot(stacks: &[(&str, u64)]) -> (Model, Snapshot) {
        let mut model = Model::default();
        let rows = stacks.iter().map(|&(path, bytes)| {
            let stack = model.stack_written("app.py", path);
            Row { stack, bytes, count: 1 }
        });
        let rows = rows.collect();
        (model, Snapshot::summed(rows, None))
    }

    fn diff(base: &[(&str, u64)], new: &[(&str, u64)], options: &DiffOptions) -> Diff {
        let ((base_model, base), (new_model, new)) = (snapshot(base), snapshot(new));
        Diff::new((&base_model, &base), (&new_model, &new), options)
    }

    /// What changed, as `main>work +12 +1`, the largest change first.
    fn changes(diff: &Diff) -> Vec<String> {
        let mut stacks = diff.stacks();
        stacks.retain(|(_, change)| !change.is_nothing());
        stacks.sort_by_key(|&(stack, change)| (change.rank(), stack));
        let line = |(stack, change): (StackId, Change)| {
            let frames = diff.model.frames_from_leaf(stack).map(|frame| {
                let name = diff.model.text(frame.function);
                if frame.line == 0 { name.to_string() } else { format!("{name}:{}", frame.line) }
            });
            let mut frames: Vec<String> = frames.collect();
            frames.reverse();
            format!("{} {:+} {:+}", frames.join(">"), change.bytes(), change.count())
        };
        stacks.into_iter().map(line).collect()
    }

    const BASE: [(&str, u64); 4] = [("", 5), ("main:3", 10), ("main:3>work:5", 60), ("main:4>rest:9", 25)];

    #[test]
    fn nothing_changed_between_a_snapshot_and_itself() {
        for (by_line, is_normalised) in [(false, false), (false, true), (true, false), (true, true)] {
            let diff = diff(&BASE, &BASE, &DiffOptions { by_line, is_normalised });
            assert_eq!(changes(&diff), [""; 0]);
            assert!(diff.functions().iter().all(|function| function.own.is_nothing() && function.total.is_nothing()));
        }
    }

    #[test]
    fn lines_that_moved_are_no_change_unless_they_count() {
        let new = [("", 5), ("main:13", 10), ("main:13>work:15", 70), ("main:14>rest:19", 25)];
        assert_eq!(changes(&diff(&BASE, &new, &DiffOptions::default())), ["main>work +10 +0"]);
        let by_line = DiffOptions { by_line: true, ..DiffOptions::default() };
        assert_eq!(
            changes(&diff(&BASE, &new, &by_line)),
            [
                "main:13>work:15 +70 +1",
                "main:3>work:5 -60 -1",
                "main:4>rest:9 -25 -1",
                "main:14>rest:19 +25 +1",
                "main:3 -10 -1",
                "main:13 +10 +1"
            ]
        );
    }

    #[test]
    fn what_is_new_and_what_is_gone_are_changes() {
        let new = [("main:3", 10), ("main:3>work:5", 60), ("main:3>other:5", 7)];
        assert_eq!(
            changes(&diff(&BASE, &new, &DiffOptions::default())),
            ["main>rest -25 -1", "main>other +7 +1", " -5 -1"]
        );
    }

    #[test]
    fn normalised_twice_as_much_of_everything_is_no_change() {
        let twice = BASE.map(|(stack, bytes)| (stack, bytes * 2));
        let options = DiffOptions { is_normalised: true, ..DiffOptions::default() };
        let diff = diff(&BASE, &twice, &options);
        assert_eq!(changes(&diff), [""; 0]);
        assert_eq!((diff.scale(), diff.total().bytes()), (2.0, 0));
    }

    #[test]
    fn functions_are_compared_with_and_without_what_they_called() {
        let new = [("main:3", 11), ("main:3>work:5>work:5", 61), ("main:4>rest:9", 25)];
        let diff = diff(&BASE, &new, &DiffOptions::default());
        let mut functions: Vec<_> = diff.functions();
        functions.retain(|function| !function.total.is_nothing());
        functions.sort_by_key(|function| (function.own.rank(), function.name));
        let shown = functions.iter().map(|function| {
            let name = function.name.map_or("no stack", |(name, _)| diff.model.text(name));
            format!("{name} {:+} {:+}", function.own.bytes(), function.total.bytes())
        });
        assert_eq!(shown.collect::<Vec<_>>(), ["no stack -5 -5", "main +1 +2", "work +1 +1"]);
    }

    #[test]
    fn nothing_beside_something_is_all_change() {
        let options = DiffOptions { is_normalised: true, ..DiffOptions::default() };
        assert_eq!(changes(&diff(&[], &[("main:1", 3)], &options)), ["main +3 +1"]);
        assert_eq!(changes(&diff(&[("main:1", 3)], &[], &options)), ["main -3 -1"]);
    }
}
