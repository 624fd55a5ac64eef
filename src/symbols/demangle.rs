//! Names as the linker knows them, turned into those that were written.
//!
//! C++ functions are named without their parameters: a frame is found by its file and line, the name is read, and in
//! template libraries the parameters are several times as long as the name. (`cpp_demangle` 0.5 also gets some wrong: it
//! drops the first one of constructor templates.)
//!
//! A mangled name can refer to its own parts, so that a short one stands for gigabytes: what gets longer than any name
//! that somebody wrote stays mangled.

use std::fmt::{self, Write};

use cpp_demangle::DemangleOptions;

/// The longest names of template libraries have some ten thousand characters.
const MAX_LEN: usize = 64 << 10;

/// The C++ or Rust name behind a linker's name; any other name as it is.
pub fn demangle(name: &str) -> String {
    if name.len() > MAX_LEN {
        return cut(name);
    }
    let mut out = Limited(String::new());
    // First Rust: its older names are C++ names with a hash at the end.
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        // Without the hash.
        if write!(out, "{rust:#}").is_ok() {
            return out.0;
        }
    } else if name.starts_with("_Z")
        && let Ok(cpp) = cpp_demangle::Symbol::new(name)
        && cpp.structured_demangle(&mut out, &cpp_options()).is_ok()
    {
        // What it makes of empty parameter packs.
        return out.0.replace(", , ", ", ").replace(", >", ">");
    }
    name.to_string()
}

fn cpp_options() -> DemangleOptions {
    DemangleOptions::new().no_params().no_return_type().hide_expression_literal_types()
}

fn cut(name: &str) -> String {
    let start = &name[..name.floor_char_boundary(MAX_LEN)];
    format!("{start}…")
}

struct Limited(String);

impl Write for Limited {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > MAX_LEN {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_they_were_written() {
        let check = |name: &str, expected: &str| assert_eq!(demangle(name), expected);
        check("malloc", "malloc");
        check("_ZNSt6vectorIiSaIiEE9push_backERKi", "std::vector<int, std::allocator<int> >::push_back");
        check("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "core::fmt::Formatter::pad");
        check("_RNvNtCs1234_7mycrate3foo3bar", "mycrate::foo::bar");
        // Whoever starts a name of C like a mangled one keeps it.
        check("_Zebra", "_Zebra");
    }

    #[test]
    fn a_name_that_stands_for_gigabytes_stays_mangled() {
        // Each argument is a pair of the one before it, twice.
        let name = |n_pairs: u32| {
            let pair =
                |before: u32| format!("S0_IS{0}_S{0}_E", char::from_digit(before, 36).unwrap().to_ascii_uppercase());
            format!("_Z1fISt4pairIiiE{}Evv", (1..=n_pairs).map(pair).collect::<String>())
        };
        assert_eq!(demangle(&name(1)), "f<std::pair<int, int>, std::pair<std::pair<int, int>, std::pair<int, int> > >");
        assert!(demangle(&name(8)).len() > 5000);
        assert_eq!(demangle(&name(30)), name(30));
    }

    #[test]
    fn a_name_without_an_end_is_cut() {
        assert_eq!(demangle(&"x".repeat(MAX_LEN + 10)).len(), MAX_LEN + "…".len());
    }
}
