//! A node in the background: started by `derouter up`, stopped by `derouter down`. [`claim`] is the
//! running node's side, [`control`] the other one.

pub(crate) mod claim;
pub(crate) mod control;
pub(crate) mod down;
pub(crate) mod log_file;
pub(crate) mod logs;
pub(crate) mod state;
pub(crate) mod up;

use std::io;
use std::path::Path;

/// Makes a directory and its missing parents, for this user only. One that exists stays as it is.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}
