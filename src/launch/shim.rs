//! Where the recorder's library is: beside the executable, in `../lib/memtrace`, or carried in the executable, from
//! where it is copied to a private cache folder once. Called by `commands::run`.
//! It must never name a file that another user could have put there.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::geteuid;

use crate::launch::spawn::is_preloadable;

const FILE_NAME: &str = "libmemtrace_preload.so";

/// The library as built together with this executable; empty in builds that do not carry it.
static CARRIED: &[u8] = include_bytes!(env!("MEMTRACE_CARRIED_SHIM"));

/// An absolute path of the library that can stand in LD_PRELOAD.
pub fn find() -> anyhow::Result<PathBuf> {
    let executable = env::current_exe().context("cannot find the executable of memtrace")?;
    let folder = executable.parent().unwrap_or(Path::new("/"));
    for place in [folder.join(FILE_NAME), folder.join("../lib/memtrace").join(FILE_NAME)] {
        let Ok(place) = place.canonicalize() else { continue };
        if is_preloadable(&place) {
            return Ok(place);
        }
        return in_cache(|cache| link(cache, &place));
    }
    if CARRIED.is_empty() {
        bail!("cannot find {FILE_NAME} beside {}: build it with `cargo build --workspace`", executable.display());
    }
    in_cache(|cache| copy_carried(cache, CARRIED))
}

/// Does it in the first folder that allows it.
fn in_cache(act: impl Fn(&Path) -> anyhow::Result<PathBuf>) -> anyhow::Result<PathBuf> {
    let user = geteuid().as_raw();
    let folders = [
        env::var_os("XDG_CACHE_HOME").map(|folder| Path::new(&folder).join("memtrace")),
        env::var_os("HOME").map(|folder| Path::new(&folder).join(".cache/memtrace")),
        Some(PathBuf::from(format!("/tmp/memtrace-{user}"))),
    ];
    let mut last_error = None;
    for folder in folders.into_iter().flatten() {
        match private_folder(&folder, user).and_then(|()| act(&folder)) {
            Ok(path) => return Ok(path),
            Err(error) => last_error = Some(error),
        }
    }
    let error = last_error.expect("the folder in /tmp was tried");
    Err(error.context(format!("cannot put {FILE_NAME} where the loader can find it")))
}

/// Creates a folder that only this user can change, or makes sure that it is one.
fn private_folder(folder: &Path, user: u32) -> anyhow::Result<()> {
    let failed = || format!("cannot use {}", folder.display());
    if !is_preloadable(folder) {
        bail!("{}: a path for the loader is absolute and has no space, colon or dollar sign", failed());
    }
    if let Some(parent) = folder.parent() {
        let _ = DirBuilder::new().recursive(true).mode(0o700).create(parent);
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error).with_context(failed),
        _ => {}
    }
    let metadata = fs::symlink_metadata(folder).with_context(failed)?;
    if !metadata.is_dir() || metadata.uid() != user || metadata.mode() & 0o022 != 0 {
        bail!("{}: it is not a folder that only you can write to", failed());
    }
    if statvfs(folder).with_context(failed)?.flags().contains(FsFlags::ST_NOEXEC) {
        bail!("{}: its file system does not allow programs", failed());
    }
    Ok(())
}

/// The carried library as a file in `cache`, named after its contents and compared with them.
fn copy_carried(cache: &Path, carried: &[u8]) -> anyhow::Result<PathBuf> {
    let name = format!("{}-{:08x}-{}.so", env!("CARGO_PKG_VERSION"), crc32c::crc32c(carried), carried.len());
    let path = cache.join(name);
    let failed = || format!("cannot write {}", path.display());
    if fs::read(&path).is_ok_and(|bytes| bytes == carried) {
        return Ok(path);
    }
    // Written under a name of its own and renamed, so that another start at the same time sees all of it or nothing.
    let new = path.with_extension(std::process::id().to_string());
    let _ = fs::remove_file(&new);
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o700).open(&new).with_context(failed)?;
    file.write_all(carried).with_context(failed)?;
    drop(file);
    fs::rename(&new, &path).with_context(failed)?;
    Ok(path)
}

/// A link in `cache` to a library whose own path the loader would not understand.
fn link(cache: &Path, library: &Path) -> anyhow::Result<PathBuf> {
    let name = format!("link-{:08x}.so", crc32c::crc32c(library.as_os_str().as_encoded_bytes()));
    let path = cache.join(name);
    if fs::read_link(&path).is_ok_and(|place| place == library) {
        return Ok(path);
    }
    let failed = || format!("cannot write {}", path.display());
    let new = path.with_extension(std::process::id().to_string());
    let _ = fs::remove_file(&new);
    symlink(library, &new).with_context(failed)?;
    fs::rename(&new, &path).with_context(failed)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = env::temp_dir().join(format!("memtrace-shim-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn a_copy_that_was_tampered_with_is_replaced() {
        let cache = scratch("copy");
        let user = geteuid().as_raw();
        private_folder(&cache, user).unwrap();
        let path = copy_carried(&cache, b"library").unwrap();
        fs::write(&path, b"tampere").unwrap();
        assert_eq!(copy_carried(&cache, b"library").unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), b"library");
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
        fs::remove_dir_all(cache).unwrap();
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_not_used() {
        let cache = scratch("folder");
        let user = geteuid().as_raw();
        private_folder(&cache, user).unwrap();
        fs::set_permissions(&cache, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let error = private_folder(&cache, user).unwrap_err().to_string();
        assert!(error.ends_with("it is not a folder that only you can write to"), "{error}");
        fs::remove_dir_all(cache).unwrap();
    }

    #[test]
    fn a_path_that_the_loader_would_split_is_not_used() {
        for path in ["/tmp/a b", "/tmp/a:b", "/tmp/$LIB/b", "tmp/b"] {
            assert!(private_folder(Path::new(path), 0).is_err(), "{path}");
        }
    }
}
