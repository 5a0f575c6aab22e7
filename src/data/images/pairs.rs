//! Pairing of clean and damaged images by their names.

use super::files::{Listing, is_picture};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Words that mark a clean image, as the name of a folder or as a part of a file name between underscores: a
/// folder `train/sharp`, `0001_GT_SRGB_010.png`, `scene_3_mean.jpg`.
const CLEAN: [&str; 7] = [
    "clean",
    "gt",
    "sharp",
    "target",
    "reference",
    "groundtruth",
    "mean",
];

/// The same for damaged images.
const DAMAGED: [&str; 10] = [
    "noisy",
    "noise",
    "blur",
    "blurry",
    "blurred",
    "input",
    "damaged",
    "degraded",
    "corrupted",
    "real",
];

/// Common words, which count only at the end of a file name.
const ONLY_LAST: [&str; 2] = ["mean", "real"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Clean,
    Damaged,
}

/// A clean picture and its damaged partner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub clean: PathBuf,
    pub damaged: PathBuf,
}

/// Whether files and folders with these names contain both clean and damaged images.
pub(super) fn are_paired(listing: &Listing) -> bool {
    let has = |role| {
        let mut paths = listing.files.iter().chain(&listing.folders);
        paths.any(|path| role_and_key(path).is_some_and(|(found, _)| found == role))
    };
    has(Role::Clean) && has(Role::Damaged)
}

/// Pairs the pictures among `paths` whose names are equal without the marking word. Pictures without such a
/// word are ignored.
pub(super) fn by_words(paths: Vec<PathBuf>) -> Result<Vec<Pair>> {
    let (mut clean, mut damaged) = (Vec::new(), Vec::new());
    for path in paths.into_iter().filter(|path| is_picture(path)) {
        match role_and_key(&path) {
            Some((Role::Clean, key)) => clean.push((key, path)),
            Some((Role::Damaged, key)) => damaged.push((key, path)),
            None => {}
        }
    }
    partner(clean, damaged)
}

/// Pairs two lists of pictures, each from its own folder, by equal names; extensions may differ.
pub(super) fn by_folders(
    (clean_dir, clean): (&Path, Vec<PathBuf>),
    (damaged_dir, damaged): (&Path, Vec<PathBuf>),
) -> Result<Vec<Pair>> {
    let keyed = |dir: &Path, paths: Vec<PathBuf>| {
        let pictures = paths.into_iter().filter(|path| is_picture(path));
        pictures
            .map(|path| {
                let key = path.with_extension("");
                let parts = key.iter().map(|part| part.as_encoded_bytes().to_vec());
                (parts.collect(), dir.join(path))
            })
            .collect()
    };
    partner(keyed(clean_dir, clean), keyed(damaged_dir, damaged))
}

/// What is equal in the names of a clean and a damaged image: folders, and parts of the file's name. They are
/// bytes, because names need not be UTF-8.
type Key = Vec<Vec<u8>>;

fn role_and_key(path: &Path) -> Option<(Role, Key)> {
    let stem = path.file_stem()?.as_encoded_bytes();
    // The whole name of a folder counts, since no word contains a dot.
    let parents: Vec<&[u8]> = path
        .parent()?
        .iter()
        .map(|part| part.as_encoded_bytes())
        .collect();
    let tokens: Vec<&[u8]> = stem.split(|&byte| byte == b'_').collect();
    let words = parents.iter().chain(&tokens).enumerate();
    let last = parents.len() + tokens.len() - 1;
    let (marking, role) = words.into_iter().find_map(|(place, &found)| {
        let is_of = |words: &[&str]| {
            let mut words = words.iter();
            words.any(|word| found.eq_ignore_ascii_case(word.as_bytes()))
        };
        if is_of(&ONLY_LAST) && place != last {
            return None;
        }
        let role = |words: &[&str], role| is_of(words).then_some((found, role));
        role(&CLEAN, Role::Clean).or_else(|| role(&DAMAGED, Role::Damaged))
    })?;
    // Folder and file may both have the word.
    let rest = parents.iter().chain(&tokens).filter(|word| **word != marking);
    Some((role, rest.map(|word| word.to_vec()).collect()))
}

type Keyed = Vec<(Key, PathBuf)>;

fn partner(clean: Keyed, damaged: Keyed) -> Result<Vec<Pair>> {
    let clean = unique(clean)?;
    let mut damaged = unique(damaged)?;
    let (cleans, damages) = (clean.len(), damaged.len());
    let alone = |path: &Path, what: &str, other: &str| {
        let reason = format!("{what} image without a {other} partner ({cleans} clean, {damages} damaged)");
        Error::file(path, reason)
    };
    let mut pairs = Vec::with_capacity(clean.len());
    for (key, clean) in clean {
        match damaged.remove(&key) {
            Some(damaged) => pairs.push(Pair { clean, damaged }),
            None => return Err(alone(&clean, "clean", "damaged")),
        }
    }
    match damaged.into_values().next() {
        Some(path) => Err(alone(&path, "damaged", "clean")),
        None => Ok(pairs),
    }
}

fn unique(keyed: Keyed) -> Result<BTreeMap<Key, PathBuf>> {
    let mut all = BTreeMap::new();
    for (key, path) in keyed {
        if let Some(first) = all.insert(key, path.clone()) {
            let reason = format!("plays the same part of a pair as {}", first.display());
            return Err(Error::file(path, reason));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    fn listing(files: &[PathBuf], folders: &[&str]) -> Listing {
        Listing {
            files: files.to_vec(),
            folders: paths(folders),
        }
    }

    fn pair(clean: &str, damaged: &str) -> Pair {
        Pair {
            clean: clean.into(),
            damaged: damaged.into(),
        }
    }

    #[test]
    fn the_usual_layouts_are_recognised() -> Result<()> {
        for (clean, damaged) in [
            ("clean/a.png", "noisy/a.jpg"),
            ("gt/deep/a.png", "input/deep/a.png"),
            ("train/GOPR1/sharp/0001.png", "train/GOPR1/blur/0001.png"),
            ("Canon_2_mean.JPG", "Canon_2_real.JPG"),
            ("0001_S6_GT.png", "0001_S6_NOISY.png"),
            ("0001/0001_GT_SRGB_010.PNG", "0001/0001_NOISY_SRGB_010.PNG"),
            ("scene001/gt/gt_1.png", "scene001/blur/blur_1.png"),
        ] {
            let names = paths(&[clean, damaged, "blur_gamma/0001.png", "notes.txt"]);
            assert!(are_paired(&listing(&names, &[])), "{clean}");
            assert_eq!(by_words(names)?, [pair(clean, damaged)]);
        }
        Ok(())
    }

    #[test]
    fn plain_folders_are_not_taken_for_pairs() {
        let plain = paths(&["cat/1.png", "dog/real_1.png", "dog/mean_face.png"]);
        assert!(!are_paired(&listing(&plain, &["cat", "dog"])));
        let sharp = paths(&["sharp/1.png"]);
        assert!(!are_paired(&listing(&sharp, &["sharp"])));
        // But an empty partner folder is a mistake that should be told.
        assert!(are_paired(&listing(&sharp, &["sharp", "blur"])));
    }

    #[test]
    fn what_has_no_partner_or_two_is_named() {
        let message = |names: &[&str]| by_words(paths(names)).unwrap_err().to_string();
        let alone = message(&["clean/a.png", "clean/b.png", "noisy/a.png"]);
        assert!(
            alone.contains("clean/b.png") && alone.contains("2 clean, 1 damaged"),
            "{alone}"
        );
        assert!(message(&["clean/a.png", "noisy/a.png", "noisy/b.png"]).contains("noisy/b.png"));
        let twice = message(&["clean/a.png", "clean/a.jpg", "noisy/a.png"]);
        assert!(
            twice.contains("clean/a.png") && twice.contains("clean/a.jpg"),
            "{twice}"
        );
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_not_utf8_are_paired_too() -> Result<()> {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        let names = [b"gt/\xFF.png", b"gt/\xFE.png", b"in/\xFF.png"].map(|name| path(name));
        let damaged = [b"input/\xFE.png", b"input/\xFF.png"].map(|name| path(name));
        let pairs = by_words([&names[..2], &damaged[..]].concat())?;
        let found: Vec<_> = pairs.iter().map(|pair| (&pair.clean, &pair.damaged)).collect();
        assert_eq!(found, [(&names[1], &damaged[0]), (&names[0], &damaged[1])]);
        Ok(())
    }

    #[test]
    fn two_folders_pair_by_equal_names() -> Result<()> {
        let (clean, damaged) = (Path::new("/x/a"), Path::new("/y/b"));
        let pairs = by_folders((clean, paths(&["s/1.png"])), (damaged, paths(&["s/1.jpg"])))?;
        assert_eq!(pairs, [pair("/x/a/s/1.png", "/y/b/s/1.jpg")]);
        assert!(by_folders((clean, paths(&["1.png"])), (damaged, paths(&["2.png"]))).is_err());
        Ok(())
    }
}
