//! Which calls are open. It is remembered by path and not by node, so that a call is as it was left when another
//! question, measure or filter brings it back.

use hashbrown::HashMap;

use crate::analysis::Tree;
use crate::model::FrameId;

#[derive(Default)]
pub struct Opened {
    /// A number for each path that was ever shown: that of its caller's path, and its last frame.
    numbers: HashMap<(u32, Option<FrameId>), u32>,
    is_open: Vec<bool>,
    /// By node of the tree that is shown: its path.
    paths: Vec<u32>,
}

/// How everything was at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory(Vec<bool>);

impl Opened {
    /// Another tree is shown from now on; returns where a node of the one before is in it, or the nearest of its
    /// callers that is there.
    ///
    /// Machinery counts for no path, so what it calls has the same one whether it is shown or not; and it is open at
    /// first, so that it hides nothing when it comes.
    pub fn show(&mut self, tree: &Tree, is_machinery: impl Fn(FrameId) -> bool, before: &Tree, node: usize) -> usize {
        let mut callers = Vec::new();
        let mut at = node;
        while let Some(&path) = self.paths.get(at) {
            callers.push(path);
            if at == 0 {
                break;
            }
            at = before.nodes[at].parent;
        }
        self.paths.clear();
        // By node: the path that its calls continue.
        let mut continued: Vec<u32> = Vec::with_capacity(tree.nodes.len());
        let mut first_with: HashMap<u32, usize> = HashMap::new();
        for (index, node) in tree.nodes.iter().enumerate() {
            let caller = continued.get(node.parent).copied().unwrap_or(u32::MAX);
            let is_machinery = node.frame.is_some_and(&is_machinery);
            let path = *self.numbers.entry((caller, node.frame)).or_insert_with(|| {
                self.is_open.push(is_machinery);
                self.is_open.len() as u32 - 1
            });
            self.paths.push(path);
            continued.push(if is_machinery { caller } else { path });
            first_with.entry(path).or_insert(index);
        }
        callers.iter().find_map(|path| first_with.get(path).copied()).unwrap_or(0)
    }

    pub fn is_open(&self, node: usize) -> bool {
        self.is_open[self.paths[node] as usize]
    }

    pub fn set(&mut self, node: usize, is_open: bool) {
        self.is_open[self.paths[node] as usize] = is_open;
    }

    pub fn memory(&self) -> Memory {
        Memory(self.is_open.clone())
    }

    /// Paths that were new since then stay as they are.
    pub fn restore(&mut self, memory: &Memory) {
        self.is_open[..memory.0.len()].copy_from_slice(&memory.0);
    }
}
