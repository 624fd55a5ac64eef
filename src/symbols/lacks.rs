//! What is missing for names and lines, told in one sentence for all files of which the same is to be said.

use std::path::{Path, PathBuf};

/// What is missing of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// There is none of that name.
    File,
    /// Another one has taken its name.
    Identity,
    /// It can't be read, for this reason.
    Reading(String),
    /// The file with what it has in common with others.
    Supplement(PathBuf),
    DebugInformation,
}

/// One sentence for each thing that is missing, in the order in which that turned out.
pub fn sentences<'p>(lacks: impl Iterator<Item = (Lack, &'p Path)>) -> Vec<String> {
    let mut groups: Vec<(Lack, Vec<&Path>)> = Vec::new();
    for (lack, path) in lacks {
        match groups.iter_mut().find(|(known, _)| *known == lack) {
            Some((_, paths)) => paths.push(path),
            None => groups.push((lack, vec![path])),
        }
    }
    groups.iter().map(|(lack, paths)| lack.sentence(paths)).collect()
}

impl Lack {
    fn sentence(&self, paths: &[&Path]) -> String {
        let (names, is_one) = (names(paths), paths.len() == 1);
        let (are, their) = if is_one { ("is", "its") } else { ("are", "their") };
        let as_offsets = format!("{their} functions are shown as offsets");
        match self {
            Lack::File => format!("{names} {are} gone: {as_offsets}"),
            Lack::Identity if is_one => {
                format!("{names} is not the file that was recorded (its build-id differs): {as_offsets}")
            }
            Lack::Identity => {
                format!("{names} are not the files that were recorded (their build-ids differ): {as_offsets}")
            }
            Lack::Reading(error) => format!("cannot read {names}: {error}: {as_offsets}"),
            Lack::Supplement(link) => {
                let symbols = format!("functions in {names} are named by {their} symbols");
                format!("{} is not here: {symbols}", link.display())
            }
            Lack::DebugInformation => format!(
                "no debug information for {names}: {their} functions have no lines, and those without a symbol are shown \
                 as offsets (build with -g, install packages that end in -dbgsym or -debuginfo, or try --debuginfod)"
            ),
        }
    }
}

/// All of them, or the first ones and how many more there are.
fn names(paths: &[&Path]) -> String {
    const MAX_NAMED: usize = 4;
    if let [only] = paths {
        return only.display().to_string();
    }
    let n_named = if paths.len() <= MAX_NAMED { paths.len() - 1 } else { MAX_NAMED - 1 };
    let name = |path: &&Path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let first: Vec<String> = paths[..n_named].iter().map(name).collect();
    let last = match &paths[n_named..] {
        [last] => name(last),
        more => format!("{} more", more.len()),
    };
    format!("{} and {last}", first.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lacks: &[(Lack, &str)]) -> Vec<String> {
        sentences(lacks.iter().map(|(lack, path)| (lack.clone(), Path::new(path))))
    }

    #[test]
    fn what_is_said_of_many_files_is_said_once() {
        let gone = ["/lib/a.so", "/lib/b.so", "/lib/c.so", "/lib/d.so", "/lib/e.so"].map(|path| (Lack::File, path));
        assert_eq!(told(&gone[..1]), ["/lib/a.so is gone: its functions are shown as offsets"]);
        assert_eq!(told(&gone[..2]), ["a.so and b.so are gone: their functions are shown as offsets"]);
        assert_eq!(told(&gone[..4]), ["a.so, b.so, c.so and d.so are gone: their functions are shown as offsets"]);
        assert_eq!(told(&gone), ["a.so, b.so, c.so and 2 more are gone: their functions are shown as offsets"]);
    }

    #[test]
    fn what_differs_is_said_of_each() {
        let sentences = told(&[
            (Lack::Identity, "/bin/a"),
            (Lack::Reading("it is a folder".into()), "/bin/b"),
            (Lack::Identity, "/bin/c"),
            (Lack::Supplement("common.debug".into()), "/bin/d"),
        ]);
        assert_eq!(
            sentences,
            [
                "a and c are not the files that were recorded (their build-ids differ): their functions are shown as \
                 offsets",
                "cannot read /bin/b: it is a folder: its functions are shown as offsets",
                "common.debug is not here: functions in /bin/d are named by its symbols",
            ]
        );
    }
}
