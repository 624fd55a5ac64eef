//! The page as one HTML file that needs nothing else: no server, no network, no build step.
//!
//! Names in a capture are whatever a program called its functions and files, so the page treats them as hostile: they
//! travel deflated inside a data block, reach the document as text only, and a content security policy lets no script
//! run but ours and nothing be fetched.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

use super::page::{Page, Tab};

const TEMPLATE: &str = include_str!("assets/index.html");
/// uPlot's own sheet, then ours.
const STYLES: [&str; 2] = [include_str!("assets/vendor/uPlot.min.css"), include_str!("assets/style.css")];
/// uPlot, as its package has it. Its licence stands beside it.
const PLOT: &str = include_str!("assets/vendor/uPlot.iife.min.js");
/// The modules of the page, each after those it imports.
const MODULES: [&str; 33] = [
    include_str!("assets/format.js"),
    include_str!("assets/dom.js"),
    include_str!("assets/palette.js"),
    include_str!("assets/decode.js"),
    include_str!("assets/profile.js"),
    include_str!("assets/native.js"),
    include_str!("assets/range.js"),
    include_str!("assets/totals.js"),
    include_str!("assets/filters.js"),
    include_str!("assets/tree.js"),
    include_str!("assets/view.js"),
    include_str!("assets/paths.js"),
    include_str!("assets/search.js"),
    include_str!("assets/state.js"),
    include_str!("assets/facts.js"),
    include_str!("assets/memory.js"),
    include_str!("assets/theme.js"),
    include_str!("assets/svg.js"),
    include_str!("assets/compare.js"),
    include_str!("assets/paint.js"),
    include_str!("assets/graph.js"),
    include_str!("assets/tooltip.js"),
    include_str!("assets/stage.js"),
    include_str!("assets/timeline.js"),
    include_str!("assets/table.js"),
    include_str!("assets/details.js"),
    include_str!("assets/menus.js"),
    include_str!("assets/export.js"),
    include_str!("assets/keyboard.js"),
    include_str!("assets/controls.js"),
    include_str!("assets/shown.js"),
    include_str!("assets/surface.js"),
    include_str!("assets/page.js"),
];

/// Writes the page.
pub fn write(page: &Page, out: &mut dyn Write) -> io::Result<()> {
    let script = joined_modules();
    let style = STYLES.concat();
    let mut rest = TEMPLATE;
    // One pass over the template alone: whatever stands in the data is never taken for a placeholder.
    while let Some((before, (name, after))) =
        rest.split_once("{{").and_then(|(before, tail)| Some((before, tail.split_once("}}")?)))
    {
        out.write_all(before.as_bytes())?;
        match name {
            "title" => out.write_all(safe_in_text(&title(page)).as_bytes())?,
            "version" => out.write_all(env!("CARGO_PKG_VERSION").as_bytes())?,
            "style" => out.write_all(style.as_bytes())?,
            "style_hash" => out.write_all(hash_source(&style).as_bytes())?,
            "plot" => out.write_all(PLOT.as_bytes())?,
            "plot_hash" => out.write_all(hash_source(PLOT).as_bytes())?,
            "script" => out.write_all(script.as_bytes())?,
            "script_hash" => out.write_all(hash_source(&script).as_bytes())?,
            "data" => out.write_all(page.base64().as_bytes())?,
            unknown => unreachable!("the template asks for {unknown}"),
        }
        rest = after;
    }
    out.write_all(rest.as_bytes())
}

fn title(page: &Page) -> String {
    let report = match page.tab {
        Tab::Peak => "peak memory",
        Tab::Leaks => "memory not freed",
        Tab::Churn => "all allocations",
        Tab::Temporary => "temporary allocations",
    };
    match page.command.as_str() {
        "" => format!("{report} – memtrace"),
        command => format!("{command} – {report} – memtrace"),
    }
}

/// All modules as one, since modules inside a page cannot import each other.
fn joined_modules() -> String {
    let mut script = String::from("\n");
    for line in MODULES.iter().flat_map(|module| module.lines()) {
        if line == "// @ts-check" || line.starts_with("import ") {
            continue;
        }
        script.push_str(line.strip_prefix("export ").unwrap_or(line));
        script.push('\n');
    }
    script
}

/// How a content security policy names the one script or style it lets in.
fn hash_source(text: &str) -> String {
    format!("sha256-{}", base64(&Sha256::digest(text)))
}

pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let number = group.iter().chain([0; 2].iter()).take(3).fold(0, |number, &byte| number << 8 | usize::from(byte));
        for digit in 0..4 {
            let is_padding = digit > group.len();
            text.push(if is_padding { '=' } else { char::from(DIGITS[number >> (18 - 6 * digit) & 63]) });
        }
    }
    text
}

fn safe_in_text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use memtrace_format::AllocatorKind;

    use super::*;
    use crate::analysis::{Intervals, MmapRule};
    use crate::model::{Action, Event, Model, StackId};
    use crate::report::page::{PageOptions, Part};

    /// The page of one allocation by one frame.
    fn page(function: &str, file: &str, command: &str) -> String {
        let mut model = Model::default();
        model.process_mut().facts.command_line = vec![command.to_owned()];
        let frame = model.intern_frame(function, file, 1);
        let stack = model.extend_stack(StackId::EMPTY, frame);
        let mut intervals = Intervals::new(MmapRule::Memory, 0);
        let action = Action::Alloc { kind: AllocatorKind::Malloc, address: 0x1000, size: 100, stack };
        intervals.take(&model, &Event { turn: 1, image: 0, lane: 0, thread: 1, action });
        let part = Part { temporal: intervals.finish(&model), n_events: 1, notices: Vec::new() };
        let page = Page::new(&model, vec![part], &PageOptions::default());
        let mut out = Vec::new();
        write(&page, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// What stands between the tags of the element that starts like this.
    fn element<'a>(page: &'a str, start: &str, end: &str) -> &'a str {
        let (_, rest) = page.split_once(start).unwrap();
        rest.split_once(end).unwrap().0
    }

    const DATA: &str = r#"<script type="application/octet-stream" id="data">"#;

    #[test]
    fn hostile_names_stay_data() {
        let names =
            ["</script><script>alert(1)</script>", "<!--<script>", "\u{2028}\u{2029}\0\"\\", "{{script}}", "a\r\nb"];
        let plain = page("plain", "plain.py", "plain");
        for name in names {
            let page = page(name, name, name);
            let data = element(&page, DATA, "</script>");
            assert!(data.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)), "{name}: {data}");
            let tags = |page: &str| page.matches("<script").count() + page.matches("</").count();
            assert_eq!(tags(&page), tags(&plain), "{name}");
        }
    }

    #[test]
    fn the_script_is_whole_and_the_policy_lets_in_nothing_else() {
        let page = page("f", "f.py", "f");
        let script = element(&page, "<script type=\"module\">", "</script>");
        assert!(!script.lines().any(|line| line.starts_with("import ") || line.starts_with("export ")));
        let policy = element(&page, "Content-Security-Policy\" content=\"", "\">");
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        let plot = element(&page, "<script>", "</script>");
        let scripts = format!("script-src '{}' '{}'; ", hash_source(plot), hash_source(script));
        assert!(policy.contains(&scripts), "{policy}");
        let style = element(&page, "<style>", "</style>");
        assert!(policy.contains(&format!("style-src '{}'", hash_source(style))), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        for name in ["title", "version", "style", "style_hash", "plot", "plot_hash", "script", "script_hash", "data"] {
            assert!(!page.contains(&format!("{{{{{name}}}}}")), "the placeholder of {name} is left");
        }
    }

    #[test]
    fn nothing_in_the_page_is_fetched() {
        let page = page("f", "f.py", "f");
        for word in ["http://", "https://", " src=", "url(", "@import", "fetch(", "XMLHttpRequest", "WebSocket"] {
            // Names of SVG's elements, where uPlot says it comes from, and a part of a picture that refers to another.
            let n_allowed = match word {
                "http://" => page.matches("http://www.w3.org/2000/svg").count(),
                "https://" => page.matches("/*! https://github.com/leeoniya/uPlot").count(),
                "url(" => page.matches("url(#${id})").count(),
                _ => 0,
            };
            assert_eq!(page.matches(word).count(), n_allowed, "{word}");
        }
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        for (plain, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(plain.as_bytes()), text);
        }
    }
}
