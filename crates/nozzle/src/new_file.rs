//! Files that appear whole or not at all, and never over somebody's own.

use std::{fs::Permissions, io::Write, os::unix::fs::PermissionsExt, path::Path};

use anyhow::Context;

/// Who may read a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readers {
    /// Everybody.
    All,
    /// Its owner: it may hold a secret.
    Owner,
}

/// Writes a file that is not there yet, or only with the same text, and its folders. A crash in between leaves
/// none of that name.
pub fn write(path: &Path, text: &str, readers: Readers) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let mode = match readers {
        Readers::All => 0o644,
        Readers::Owner => 0o600,
    };
    let context = || format!("writing {}", path.display());
    let mut builder = tempfile::Builder::new();
    let file = builder.permissions(Permissions::from_mode(mode)).prefix(".nozzle-").tempfile_in(folder);
    let mut file = file.with_context(context)?;
    file.write_all(text.as_bytes()).with_context(context)?;
    file.as_file().sync_all().with_context(context)?;
    match file.persist_noclobber(path) {
        // Another process has written the same a moment ago.
        Err(error)
            if error.error.kind() == std::io::ErrorKind::AlreadyExists
                && std::fs::read_to_string(path).is_ok_and(|there| there == text) =>
        {
            Ok(())
        }
        written => written.map(drop).map_err(|error| error.error).with_context(context),
    }
}
