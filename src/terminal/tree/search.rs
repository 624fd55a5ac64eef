//! Which calls of a tree match a word, and how much they hold together.

use hashbrown::HashMap;

use crate::analysis::Tree;
use crate::model::{FrameId, Model};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    word: String,
    /// Nodes, from the first to the last.
    matches: Vec<usize>,
    /// What the matches and everything they called hold, each allocation once.
    pub bytes: u64,
    pub count: u64,
}

impl Search {
    /// Looks for a word in functions and files, whatever its case; the empty word is nowhere.
    pub fn new(word: &str, model: &Model, tree: &Tree) -> Search {
        let wanted = word.to_lowercase();
        let mut search = Search { word: word.to_owned(), ..Search::default() };
        if wanted.is_empty() {
            return search;
        }
        let mut known: HashMap<FrameId, bool> = HashMap::new();
        let mut is_match = |id: FrameId| {
            let frame = model.frame(id);
            let is_in = |text: &str| text.to_lowercase().contains(&wanted);
            *known.entry(id).or_insert_with(|| is_in(model.text(frame.function)) || is_in(model.text(frame.file)))
        };
        // Where the last match that lies in no other ends.
        let mut counted_to = 0;
        for (index, node) in tree.nodes.iter().enumerate() {
            if !node.frame.is_some_and(&mut is_match) {
                continue;
            }
            search.matches.push(index);
            if index >= counted_to {
                search.bytes = search.bytes.saturating_add(node.bytes);
                search.count += node.count;
                counted_to = node.end;
            }
        }
        search
    }

    pub fn word(&self) -> &str {
        &self.word
    }

    pub fn n_matches(&self) -> usize {
        self.matches.len()
    }

    pub fn is_match(&self, node: usize) -> bool {
        self.matches.binary_search(&node).is_ok()
    }

    /// The number of a match, from 1.
    pub fn number_of(&self, node: usize) -> Option<usize> {
        self.matches.binary_search(&node).ok().map(|at| at + 1)
    }

    /// The next match behind a node, or at it when it may stay there; behind the last comes the first.
    pub fn next(&self, node: usize, may_stay: bool) -> Option<usize> {
        let at = self.matches.partition_point(|&found| if may_stay { found < node } else { found <= node });
        self.matches.get(at).or_else(|| self.matches.first()).copied()
    }

    pub fn previous(&self, node: usize) -> Option<usize> {
        let at = self.matches.partition_point(|&found| found < node);
        self.matches[..at].last().or_else(|| self.matches.last()).copied()
    }
}
