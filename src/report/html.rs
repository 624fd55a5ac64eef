//! The flame graph as one HTML file that needs nothing else: no server, no network, no build step.
//!
//! Names in a capture are whatever a program called its functions and files, so the page treats them as hostile: they
//! travel as JSON inside a data block, reach the document as text only, and a content security policy lets no script
//! run but ours and nothing be fetched.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

use super::flamegraph::{Flamegraph, Report};

const TEMPLATE: &str = include_str!("assets/index.html");
const STYLE: &str = include_str!("assets/style.css");
/// The modules of the page, each after those it imports.
const MODULES: [&str; 7] = [
    include_str!("assets/format.js"),
    include_str!("assets/palette.js"),
    include_str!("assets/profile.js"),
    include_str!("assets/search.js"),
    include_str!("assets/facts.js"),
    include_str!("assets/graph.js"),
    include_str!("assets/page.js"),
];

/// Writes the page.
pub fn write(graph: &Flamegraph, out: &mut dyn Write) -> io::Result<()> {
    let script = joined_modules();
    let data = serde_json::to_string(graph).map(|json| safe_in_script(&json))?;
    let mut rest = TEMPLATE;
    // One pass over the template alone: whatever stands in the data is never taken for a placeholder.
    while let Some((before, (name, after))) =
        rest.split_once("{{").and_then(|(before, tail)| Some((before, tail.split_once("}}")?)))
    {
        out.write_all(before.as_bytes())?;
        match name {
            "title" => out.write_all(safe_in_text(&title(graph)).as_bytes())?,
            "version" => out.write_all(env!("CARGO_PKG_VERSION").as_bytes())?,
            "style" => out.write_all(STYLE.as_bytes())?,
            "style_hash" => out.write_all(hash_source(STYLE).as_bytes())?,
            "script" => out.write_all(script.as_bytes())?,
            "script_hash" => out.write_all(hash_source(&script).as_bytes())?,
            "data" => out.write_all(data.as_bytes())?,
            unknown => unreachable!("the template asks for {unknown}"),
        }
        rest = after;
    }
    out.write_all(rest.as_bytes())
}

fn title(graph: &Flamegraph) -> String {
    let report = match graph.report {
        Report::Peak => "peak memory",
        Report::Leaks => "memory not freed",
        Report::Temporary { .. } => "temporary allocations",
    };
    match graph.facts.command.as_str() {
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

/// JSON that cannot end the script element it stands in, nor open a comment there. The two line separators are legal
/// in JSON but not in older JavaScript, should anybody copy the data there.
fn safe_in_script(json: &str) -> String {
    json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

fn safe_in_text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Row, Snapshot, Tree};
    use crate::model::{Model, StackId};
    use crate::report::flamegraph::{FlamegraphOptions, Reading};

    /// The page of one stack with one frame.
    fn page(function: &str, file: &str, command: &str) -> String {
        let mut model = Model::default();
        model.process_mut().facts.command_line = vec![command.to_owned()];
        let frame = model.intern_frame(function, file, 1);
        let stack = model.extend_stack(StackId::EMPTY, frame);
        let rows = vec![Row { stack, bytes: 100, count: 1 }];
        let tree = Tree::new(&model, &Snapshot { rows, bytes: 100, count: 1, turn: None });
        let graph = Flamegraph::new(&model, &tree, Report::Peak, Reading::default(), &FlamegraphOptions::default());
        let mut out = Vec::new();
        write(&graph, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// What stands between the tags of the element that starts like this.
    fn element<'a>(page: &'a str, start: &str, end: &str) -> &'a str {
        let (_, rest) = page.split_once(start).unwrap();
        rest.split_once(end).unwrap().0
    }

    const DATA: &str = r#"<script type="application/json" id="data">"#;

    #[test]
    fn hostile_names_stay_data() {
        let names =
            ["</script><script>alert(1)</script>", "<!--<script>", "\u{2028}\u{2029}\0\"\\", "{{script}}", "a\r\nb"];
        let plain = page("plain", "plain.py", "plain");
        for name in names {
            let page = page(name, name, name);
            let json = element(&page, DATA, "</script>");
            assert!(!json.contains('<') && !json.contains(['\u{2028}', '\u{2029}']), "{name}: {json}");
            let data: serde_json::Value = serde_json::from_str(json).unwrap();
            let strings = data["strings"].as_array().unwrap();
            assert!(strings.iter().any(|string| string == name), "{name}");
            assert_eq!(data["facts"]["command"], name);
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
        assert!(policy.contains(&format!("script-src '{}'", hash_source(script))), "{policy}");
        let style = element(&page, "<style>", "</style>");
        assert!(policy.contains(&format!("style-src '{}'", hash_source(style))), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        for name in ["title", "version", "style", "style_hash", "script", "script_hash", "data"] {
            assert!(!page.contains(&format!("{{{{{name}}}}}")), "the placeholder of {name} is left");
        }
    }

    #[test]
    fn nothing_in_the_page_is_fetched() {
        let page = page("f", "f.py", "f");
        for word in ["http://", "https://", " src=", "url(", "@import", "fetch(", "XMLHttpRequest", "WebSocket"] {
            // The one address is the name of SVG in the icon's data.
            let n_allowed =
                if word == "http://" { page.matches("xmlns='http://www.w3.org/2000/svg'").count() } else { 0 };
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
