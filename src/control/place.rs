//! Where the sockets are: one for each recorded process, in a folder that belongs to its user alone. A folder that
//! somebody else could have made, or may look into, is never used.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// The socket for a process.
pub fn socket(pid: u32) -> String {
    format!("{pid}.sock")
}

/// The file with the token of a port.
pub fn token(port: u16) -> String {
    format!("{port}.token")
}

/// Where a file of this name goes, in a folder that is there now.
pub fn create(name: &str) -> Option<PathBuf> {
    folders().into_iter().find(|folder| is_made(folder)).map(|folder| folder.join(name))
}

/// Where a file of this name may be: whoever made it can have been started in another environment.
pub fn possible(name: &str) -> impl Iterator<Item = PathBuf> {
    folders().into_iter().filter(|folder| is_ours(folder)).map(move |folder| folder.join(name))
}

fn folders() -> Vec<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    // It may be another user's, behind `sudo`.
    let runtime = runtime.filter(|folder| folder.is_absolute() && is_ours(folder)).map(|it| it.join("memtrace"));
    runtime.into_iter().chain([PathBuf::from(format!("/tmp/memtrace-{}", geteuid()))]).collect()
}

fn is_made(folder: &Path) -> bool {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => false,
        _ => is_ours(folder),
    }
}

/// Whether it is a folder, no link, of ours, and closed to others.
fn is_ours(folder: &Path) -> bool {
    let Ok(metadata) = fs::symlink_metadata(folder) else { return false };
    metadata.is_dir() && metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o077 == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_folder_that_others_can_look_into_is_not_used_nor_a_link_to_one_that_is_closed() {
        let folder = std::env::temp_dir().join(format!("memtrace-place-{}", std::process::id()));
        assert!(is_made(&folder) && is_made(&folder));
        let link = folder.join("link");
        symlink(&folder, &link).unwrap();
        assert!(!is_made(&link));
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(!is_made(&folder));
        fs::remove_dir_all(&folder).unwrap();
        assert!(!is_ours(&folder));
    }
}
