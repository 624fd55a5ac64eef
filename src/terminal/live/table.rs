//! The rows of the table: of all threads together or of one, in an order, and those that match a word.

use std::cmp::Reverse;
use std::sync::Arc;

use hashbrown::HashMap;

use super::picture::Row;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Column {
    #[default]
    Total,
    Own,
    Count,
}

/// `thread` is the one whose rows are wanted; without one they are summed.
pub fn arranged(rows: &[Row], thread: Option<usize>, column: Column, word: &str) -> Vec<Row> {
    let mut chosen = match thread {
        Some(thread) => rows.iter().filter(|row| row.thread == thread).cloned().collect(),
        None => summed(rows),
    };
    let word = word.to_lowercase();
    let is_in = |text: &str| text.to_lowercase().contains(&word);
    chosen.retain(|row| word.is_empty() || is_in(&row.function) || is_in(&row.file));
    chosen.sort_by(|a, b| {
        let key = |row: &Row| match column {
            Column::Total => (row.total_bytes, row.own_bytes, row.count),
            Column::Own => (row.own_bytes, row.total_bytes, row.count),
            Column::Count => (row.count, row.total_bytes, row.own_bytes),
        };
        (Reverse(key(a)), &a.function, &a.file).cmp(&(Reverse(key(b)), &b.function, &b.file))
    });
    chosen
}

fn summed(rows: &[Row]) -> Vec<Row> {
    let mut by_name: HashMap<(Arc<str>, Arc<str>), Row> = HashMap::new();
    for row in rows {
        let name = (row.function.clone(), row.file.clone());
        let sum = by_name.entry(name).or_insert_with(|| Row { total_bytes: 0, own_bytes: 0, count: 0, ..row.clone() });
        sum.total_bytes += row.total_bytes;
        sum.own_bytes += row.own_bytes;
        sum.count += row.count;
    }
    by_name.into_values().collect()
}
