//! Texts cut to the columns that a screen has for them.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The text, or its beginning and `…`.
pub fn end_cut(text: &str, max_width: usize) -> String {
    if text.width() <= max_width { text.to_owned() } else { cut(text.chars(), max_width).into_iter().collect() }
}

/// The text, or `…` and its end: of a path, the end says most.
pub fn start_cut(text: &str, max_width: usize) -> String {
    if text.width() <= max_width {
        return text.to_owned();
    }
    cut(text.chars().rev(), max_width).into_iter().rev().collect()
}

/// A name and where it is. When there is too little room, the beginning of the place is left out, then all of it, and
/// at last the end of the name.
pub fn named(name: &str, joint: &str, place: &str, max_width: usize) -> String {
    // Less of a place than this says nothing.
    const MIN_PLACE: usize = 8;
    let left = max_width.saturating_sub(name.width() + joint.width());
    if place.is_empty() || left < place.width().min(MIN_PLACE) {
        return end_cut(name, max_width);
    }
    format!("{name}{joint}{}", start_cut(place, left))
}

/// As many of the characters as there is room for with `…` behind them.
fn cut(characters: impl Iterator<Item = char>, max_width: usize) -> Vec<char> {
    let mut width = 0;
    let fits = |character: &char| {
        width += character.width().unwrap_or(0);
        width < max_width
    };
    let mut cut: Vec<char> = characters.take_while(fits).collect();
    if max_width > 0 {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_by_columns_and_not_by_characters() {
        let check = |width, from_end: &str, from_start: &str| {
            assert_eq!(
                [end_cut("größe/データ.py", width), start_cut("größe/データ.py", width)],
                [from_end, from_start]
            );
        };
        check(15, "größe/データ.py", "größe/データ.py");
        check(14, "größe/データ.…", "…öße/データ.py");
        check(11, "größe/デー…", "…/データ.py");
        check(1, "…", "…");
        check(0, "", "");
    }

    #[test]
    fn a_name_outlasts_its_place() {
        let check = |width, expected: &str| assert_eq!(named("loads", " at ", "json/decoder.py", width), expected);
        check(24, "loads at json/decoder.py");
        check(23, "loads at …on/decoder.py");
        check(17, "loads at …oder.py");
        check(16, "loads");
        check(4, "loa…");
        assert_eq!(named("f", ":", "a.py", 6), "f:a.py");
        assert_eq!(named("<no stack>", ":", "", 80), "<no stack>");
    }
}
