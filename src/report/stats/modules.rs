//! To which module an allocation is put down: the innermost frame that is not the standard library's decides.

use std::path::{Component, Path, PathBuf};

use hashbrown::HashMap;

use super::Module;
use crate::model::{Model, Process, StackId, StringId};

pub struct Modules {
    /// Folders that the program's own modules are found in.
    roots: Vec<PathBuf>,
    /// By file: its top-level module, `None` for the standard library.
    files: HashMap<StringId, Option<String>>,
    /// By stack: the module of its innermost frame outside the standard library. Parents come before their children.
    sums: HashMap<Option<String>, (u64, u64)>,
}

impl Modules {
    pub fn new(processes: &[Process]) -> Modules {
        let mut roots = Vec::new();
        for Process { facts, .. } in processes {
            let cwd = Path::new(&facts.cwd);
            let script = facts.script.as_ref().map(|script| cwd.join(script));
            roots.extend(script.as_deref().and_then(Path::parent).map(Path::to_path_buf));
            roots.push(cwd.to_path_buf());
        }
        roots.dedup();
        Modules { roots, files: HashMap::new(), sums: HashMap::new() }
    }

    pub fn add(&mut self, model: &Model, stack: StackId, bytes: u64, count: u64) {
        let mut module = None;
        for frame in model.frames_from_leaf(stack) {
            let roots = &self.roots;
            let of_file = self.files.entry(frame.file).or_insert_with(|| top_level(model.text(frame.file), roots));
            if of_file.is_some() {
                module = of_file.clone();
                break;
            }
        }
        let sum = self.sums.entry(module).or_default();
        *sum = (sum.0.saturating_add(bytes), sum.1 + count);
    }

    pub fn finish(self) -> Vec<Module> {
        let named = self.sums.into_iter().map(|(module, (total_bytes, num_allocations))| Module {
            module: module.unwrap_or_else(|| "<root>".to_string()),
            num_allocations,
            total_bytes,
        });
        named.collect()
    }
}

/// The top-level module of a file; `None` for the standard library's.
fn top_level(file: &str, roots: &[PathBuf]) -> Option<String> {
    if file.starts_with("<frozen ") {
        return None;
    }
    for folder in ["/site-packages/", "/dist-packages/"] {
        if let Some((_, inside)) = file.rsplit_once(folder) {
            return Some(first_part(Path::new(inside)));
        }
    }
    if is_in_standard_library(file) {
        return None;
    }
    let path = Path::new(file);
    let inside = roots.iter().find_map(|root| path.strip_prefix(root).ok().filter(|_| root.is_absolute()));
    let inside = inside.or_else(|| path.file_name().map(Path::new)).unwrap_or(path);
    Some(first_part(inside))
}

/// `…/lib/python3.12/json/decoder.py`, or a zip file of the library.
fn is_in_standard_library(file: &str) -> bool {
    let is_library = |folder: &str| {
        let version = folder.strip_prefix("python3.").map(|version| version.trim_end_matches('t'));
        let zip = folder.strip_prefix("python3").and_then(|rest| rest.strip_suffix(".zip"));
        version.or(zip).is_some_and(|version| !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut parts = file.split('/').peekable();
    while let Some(part) = parts.next() {
        if matches!(part, "lib" | "lib64") && parts.peek().is_some_and(|next| is_library(next)) {
            // The folder itself is not a file of the library.
            return parts.nth(1).is_some();
        }
    }
    false
}

fn first_part(path: &Path) -> String {
    let first = path.components().find_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy()),
        _ => None,
    });
    let first = first.unwrap_or_default();
    first.split('.').next().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_put_down_to_their_top_level_module() {
        let roots = [PathBuf::from("/srv/app")];
        let check = |file: &str, expected: Option<&str>| {
            assert_eq!(top_level(file, &roots).as_deref(), expected, "{file}");
        };
        check("<frozen importlib._bootstrap>", None);
        check("/usr/lib/python3.12/json/decoder.py", None);
        check("/usr/lib/python312.zip/json/decoder.py", None);
        check("/opt/lib/python3.13t/os.py", None);
        check("/usr/lib/python3.12/site-packages/numpy/core/a.py", Some("numpy"));
        check("/usr/lib/python3/dist-packages/six.py", Some("six"));
        check("/srv/app/shop/models.py", Some("shop"));
        check("/srv/app/main.py", Some("main"));
        check("/home/me/tool.py", Some("tool"));
        check("prog.py", Some("prog"));
        check("<string>", Some("<string>"));
    }
}
