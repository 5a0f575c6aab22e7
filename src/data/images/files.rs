//! Lists of files in folders.

use crate::error::{Error, Result};
use crate::io::is_litter;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// What lies below a folder, as paths relative to it, sorted by name.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Files, and links that lead nowhere: to read those fails later, and is reported.
    pub files: Vec<PathBuf>,
    pub folders: Vec<PathBuf>,
}

/// Files and folders below `dir`. What a system put there is passed over, dot files among it, and so are
/// pipes and devices, since reading them might never end; links are followed, each folder once.
///
/// # Errors
/// [`Error::Io`] if `dir` or a folder below it cannot be listed.
pub(super) fn walk(dir: &Path) -> Result<Listing> {
    let mut found = Listing::default();
    let mut seen = HashSet::new();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        let path = dir.join(&folder);
        if !seen.insert(path.canonicalize().map_err(Error::io(&path))?) {
            continue;
        }
        for entry in std::fs::read_dir(&path).map_err(Error::io(&path))? {
            let name = entry.map_err(Error::io(&path))?.file_name();
            if is_litter(&name) {
                continue;
            }
            let below = folder.join(name);
            match std::fs::metadata(dir.join(&below)) {
                Ok(data) if data.is_dir() => {
                    open.push(below.clone());
                    found.folders.push(below);
                }
                Ok(data) if !data.is_file() => {}
                _ => found.files.push(below),
            }
        }
    }
    found.files.sort_unstable();
    found.folders.sort_unstable();
    Ok(found)
}

/// Whether the name has one of these extensions, given in lower case without the dot.
pub(super) fn ends_in(path: &Path, endings: &[&str]) -> bool {
    let ending = path
        .extension()
        .and_then(|e| e.to_str())
        .map(str::to_ascii_lowercase);
    ending.is_some_and(|ending| endings.contains(&ending.as_str()))
}

/// Whether the extension is that of a picture format that can be read.
pub(super) fn is_picture(path: &Path) -> bool {
    ends_in(path, &["png", "jpg", "jpeg"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_at_any_depth_sorted_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for folder in ["b/c", "d.png", "__MACOSX/sharp", "@eaDir/a.png", ".git"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        for name in [
            "b/c/2.JPEG",
            "b/1.txt",
            "a.png",
            ".hidden.png",
            "b/._1.png",
            "__MACOSX/sharp/1.png",
            "@eaDir/a.png/thumbnail.jpg",
        ] {
            std::fs::write(root.join(name), "").unwrap();
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(root, root.join("b/loop")).unwrap();
        let found = walk(root).unwrap();
        let pictures: Vec<_> = found.files.iter().filter(|path| is_picture(path)).collect();
        assert_eq!(pictures, [Path::new("a.png"), Path::new("b/c/2.JPEG")]);
        for folder in ["b/c", "d.png"] {
            assert!(found.folders.iter().any(|path| path == Path::new(folder)));
        }
        assert!(!found.folders.iter().any(|path| path.ends_with("sharp")));
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = walk(Path::new("/no/such/folder")).unwrap_err();
        assert!(error.to_string().contains("/no/such/folder"));
    }
}
