//! Files and folders that systems leave among a user's own.

use std::ffi::OsStr;

/// Names, in lower case, of what Windows, macOS, Linux and network drives put into folders by themselves.
const KNOWN: [&str; 7] = [
    "__macosx",
    "thumbs.db",
    "desktop.ini",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "@eadir",
];

/// Whether readers of folders pass over a file or folder of this name: it begins with a dot, as `.DS_Store`
/// and `._photo.jpg` do, or a system put it there.
pub(crate) fn is_litter(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let is = |known: &&str| name.eq_ignore_ascii_case(known.as_bytes());
    name.starts_with(b".") || KNOWN.iter().any(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systems_leave_is_known() {
        for name in [
            ".DS_Store",
            "._a.png",
            "__MACOSX",
            "Thumbs.db",
            "Desktop.ini",
            "@eaDir",
            "lost+found",
        ] {
            assert!(is_litter(OsStr::new(name)), "{name}");
        }
        for name in ["a.png", "thumbs.db.png", "MACOSX", "a.DS_Store"] {
            assert!(!is_litter(OsStr::new(name)), "{name}");
        }
    }
}
