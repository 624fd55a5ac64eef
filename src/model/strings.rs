//! Every distinct text once, in one buffer.

use hashbrown::HashTable;

use super::stacks::hash_of;

/// A text of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StringId(u32);

impl StringId {
    /// The string with this number.
    pub fn from_index(index: usize) -> StringId {
        StringId(u32::try_from(index).expect("strings are numbered with 32 bits"))
    }

    pub fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Default)]
pub struct Strings {
    text: String,
    /// Where each string ends in `text`; it starts where the one before ends.
    ends: Vec<usize>,
    /// Of each string, so that none is read again when the table grows.
    hashes: Vec<u64>,
    table: HashTable<u32>,
}

impl Strings {
    pub fn get(&self, id: StringId) -> &str {
        get(&self.text, &self.ends, id.0)
    }

    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// In the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.ends.len()).map(|id| get(&self.text, &self.ends, id as u32))
    }

    pub fn intern(&mut self, wanted: &str) -> StringId {
        let Strings { text, ends, hashes, table } = self;
        let hash = hash_of(wanted);
        let is_wanted = |&id: &u32| hashes[id as usize] == hash && get(text, ends, id) == wanted;
        if let Some(&known) = table.find(hash, is_wanted) {
            return StringId(known);
        }
        let id = u32::try_from(ends.len()).expect("fewer than 2^32 distinct strings fit in memory");
        text.push_str(wanted);
        ends.push(text.len());
        hashes.push(hash);
        table.insert_unique(hash, id, |&id| hashes[id as usize]);
        StringId(id)
    }
}

fn get<'a>(text: &'a str, ends: &[usize], id: u32) -> &'a str {
    let index = id as usize;
    let start = if index == 0 { 0 } else { ends[index - 1] };
    &text[start..ends[index]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_handle() {
        let mut strings = Strings::default();
        let empty = strings.intern("");
        let ids: Vec<_> = (0..1000).map(|n| strings.intern(&format!("text {n}"))).collect();
        assert_eq!(strings.intern(""), empty);
        assert_eq!(strings.get(empty), "");
        for (n, id) in ids.into_iter().enumerate() {
            assert_eq!(strings.get(id), format!("text {n}"));
            assert_eq!(strings.intern(&format!("text {n}")), id);
        }
    }
}
