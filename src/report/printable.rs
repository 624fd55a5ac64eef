//! Names as a terminal may be given them. A function or a file can be called anything, escape sequences included, and a
//! report must not move the cursor, change colours or turn text around.

use std::borrow::Cow;

/// The text with everything that is not seen as itself written out, as Python does: `\x1b`, `\u202e`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unseen) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match (is_unseen(character), character) {
            (false, _) => shown.push(character),
            (true, '\n') => shown.push_str("\\n"),
            (true, '\r') => shown.push_str("\\r"),
            (true, '\t') => shown.push_str("\\t"),
            (true, '\0'..='\u{ff}') => shown += &format!("\\x{:02x}", character as u32),
            (true, '\u{100}'..='\u{ffff}') => shown += &format!("\\u{:04x}", character as u32),
            (true, _) => shown += &format!("\\U{:08x}", character as u32),
        }
    }
    Cow::Owned(shown)
}

/// Controls, and characters that only change how others are shown: direction, joining, lines, tags.
fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_stay_as_they_are() {
        for name in ["", "<module>", "größe.<locals>.λ", "/srv/データ/app.py", "a\\b", "👩 x"] {
            assert!(matches!(printable(name), Cow::Borrowed(same) if same == name), "{name}");
        }
    }

    #[test]
    fn what_would_change_the_screen_is_written_out() {
        let check = |text: &str, expected: &str| assert_eq!(printable(text), expected);
        check("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07");
        check("two\nlines\r\tand \u{7f}\u{9b}31m", "two\\nlines\\r\\tand \\x7f\\x9b31m");
        check("abc\u{202e}fed\u{2066}", "abc\\u202efed\\u2066");
        check("z\u{200b}w\u{e0041}", "z\\u200bw\\U000e0041");
    }
}
