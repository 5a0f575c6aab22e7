use super::super::cifar::tests::records;
use super::*;
use crate::io::picture_tests::{sample, tagged_jpeg, write};

fn open(dir: &Path, options: &OpenOptions) -> Result<(Dataset, LoadReport)> {
    Dataset::open(dir, options, &|_, _| ())
}

fn message(dir: &Path, options: &OpenOptions) -> String {
    open(dir, options).unwrap_err().to_string()
}

fn small() -> OpenOptions {
    OpenOptions {
        size: 4,
        ..OpenOptions::default()
    }
}

#[test]
fn a_folder_is_read_in_the_order_of_names_and_bad_files_are_reported() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    write(&sample(9, 7, 1), &dir.path().join("b/1.png"));
    write(&sample(4, 4, 2), &dir.path().join("a/2.png"));
    std::fs::write(dir.path().join("a/bad.jpg"), "not an image").unwrap();
    let calls = AtomicUsize::new(0);
    let count = |done: usize, total: usize| {
        assert!((1..=3).contains(&done) && total == 3);
        calls.fetch_add(1, Ordering::Relaxed);
    };
    let (data, report) = Dataset::open(dir.path(), &small(), &count)?;
    assert_eq!(calls.into_inner(), 3);
    assert_eq!(
        (report.kind, report.found, report.images, data.len()),
        (Kind::Folder, 3, 2, 2)
    );
    assert_eq!(data.clean(0), Some(&sample(4, 4, 2).pixels[..]));
    assert!(report.skipped[0].0.ends_with("a/bad.jpg"), "{:?}", report.skipped);
    assert!(!data.is_paired());
    Ok(())
}

#[cfg(unix)]
#[test]
fn odd_files_are_passed_over_or_reported() -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    write(&sample(4, 4, 7), &path("good.png"));
    std::fs::rename(path("good.png"), path("good.PNG")).unwrap();
    std::fs::create_dir(path("folder.png")).unwrap();
    for name in ["._good.png", "Thumbs.db", "desktop.ini"] {
        std::fs::write(path(name), "x").unwrap();
    }
    // These four are reported.
    std::fs::write(path("empty.jpg"), "").unwrap();
    symlink("nowhere.png", path("dead.png")).unwrap();
    symlink("circle.png", path("circle.png")).unwrap();
    let strange = std::ffi::OsStr::from_bytes(b"\xFF.png");
    std::fs::write(dir.path().join(strange), "x").unwrap();
    let (data, report) = open(dir.path(), &small())?;
    assert_eq!((data.len(), report.found, report.skipped.len()), (1, 5, 4));
    let text = serde_json::to_string(&report).unwrap();
    assert!(text.contains("empty.jpg") && text.contains('\u{FFFD}'), "{text}");
    Ok(())
}

#[test]
fn partners_that_are_stored_turned_match() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    // Side by side: to the left white, to the right black. Turned by a quarter, it is white on top.
    let pixels = |white: &dyn Fn(usize, usize) -> bool, width: usize| {
        let pixel = |i: usize| [if white(i / width, i % width) { 255 } else { 0 }; 3];
        (0..32 * 16).flat_map(pixel).collect()
    };
    let upright = Picture {
        height: 32,
        width: 16,
        pixels: pixels(&|y, _| y < 16, 16),
    };
    let lying = Picture {
        height: 16,
        width: 32,
        pixels: pixels(&|_, x| x < 16, 32),
    };
    write(&upright, &dir.path().join("gt/a.jpg"));
    let path = dir.path().join("input/a.jpg");
    write(&lying, &path);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, tagged_jpeg(&bytes, 6)).unwrap();
    let options = OpenOptions {
        tiles: None,
        fit: ResizeMode::Squash,
        ..small()
    };
    let (data, _) = open(dir.path(), &options)?;
    let far = |a: &u8, b: &u8| a.abs_diff(*b) > 16;
    let (clean, damaged) = (data.clean(0).unwrap(), data.damaged(0).unwrap());
    assert!(
        !clean.iter().zip(damaged).any(|(a, b)| far(a, b)),
        "{clean:?} {damaged:?}"
    );
    Ok(())
}

#[test]
fn a_limit_is_a_fixed_sample_and_parts_are_disjoint() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..20 {
        write(&sample(4, 4, i), &dir.path().join(format!("{i:02}.png")));
    }
    let images = |part, limit| {
        let options = OpenOptions {
            part,
            limit,
            ..small()
        };
        let data = open(dir.path(), &options)?.0;
        Ok::<_, Error>(
            (0..data.len())
                .map(|i| data.clean(i).unwrap()[2])
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(images(Part::All, Some(6))?, images(Part::All, Some(6))?);
    assert_eq!(images(Part::All, Some(99))?, (0..20).collect::<Vec<_>>());
    let parts = [Part::Train, Part::Validation, Part::Test].map(|part| images(part, None).unwrap());
    assert_eq!(parts.each_ref().map(Vec::len), [12, 4, 4]);
    let mut all = parts.concat();
    all.sort_unstable();
    assert_eq!(all, (0..20).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn pairs_are_found_tiled_and_grouped() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    for (name, tint) in [("1", 10), ("2", 90), ("3", 170)] {
        write(
            &sample(16, 21, tint),
            &dir.path().join("sharp").join(name).with_extension("png"),
        );
        write(
            &sample(16, 21, tint + 1),
            &dir.path().join("blur").join(name).with_extension("png"),
        );
    }
    let tiles = Tiles {
        side: 8,
        ..Tiles::default()
    };
    let options = OpenOptions {
        size: 8,
        tiles: Some(tiles),
        ..OpenOptions::default()
    };
    let (data, report) = open(dir.path(), &options)?;
    assert_eq!(
        (report.kind, report.found, report.tiles.cut),
        (Kind::Pairs, 3, 12)
    );
    assert_eq!((data.len(), data.group(0)), (report.tiles.kept, Some(0)));
    for i in 0..data.len() {
        let (clean, damaged) = (data.clean(i).unwrap(), data.damaged(i).unwrap());
        assert_eq!(clean[2] + 1, damaged[2]);
        assert_eq!(clean[2], [10, 90, 170][data.group(i).unwrap()]);
    }
    let named = Kind::PairFolders {
        clean: "blur".into(),
        damaged: "sharp".into(),
    };
    let options = OpenOptions {
        kind: Some(named),
        tiles: None,
        ..options
    };
    let (data, _) = open(dir.path(), &options)?;
    assert_eq!((data.len(), data.clean(0).unwrap()[2]), (3, 11));
    // A pair with one unreadable member is left out.
    std::fs::write(dir.path().join("blur/2.png"), "").unwrap();
    let (data, report) = open(dir.path(), &options)?;
    assert_eq!((data.len(), report.skipped.len(), data.group(1)), (2, 1, Some(2)));
    Ok(())
}

#[cfg(unix)]
#[test]
fn pairs_are_found_by_a_relative_path() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a/1.png", "b/1.png"] {
        write(&sample(4, 4, 7), &dir.path().join(name));
    }
    let here = std::env::current_dir().unwrap();
    let up: PathBuf = here.iter().skip(1).map(|_| "..").collect();
    let relative = up.join(dir.path().strip_prefix("/").unwrap());
    let options = OpenOptions {
        kind: Some(Kind::PairFolders {
            clean: "a".into(),
            damaged: "b".into(),
        }),
        tiles: None,
        ..small()
    };
    assert_eq!(open(&relative, &options)?.0.len(), 1);
    write(&sample(4, 4, 7), &dir.path().join("a/2.png"));
    let name = relative.join("a/2.png").display().to_string();
    assert!(message(&relative, &options).contains(&name));
    Ok(())
}

#[test]
fn pairs_that_do_not_match_are_errors_that_name_them() {
    let dir = tempfile::tempdir().unwrap();
    write(&sample(8, 8, 1), &dir.path().join("a_GT.png"));
    write(&sample(8, 6, 1), &dir.path().join("a_NOISY.png"));
    let sizes = message(dir.path(), &small());
    for part in ["a_GT.png", "8x8", "a_NOISY.png", "8x6"] {
        assert!(sizes.contains(part), "{sizes}");
    }
    write(&sample(8, 8, 1), &dir.path().join("b_GT.png"));
    assert!(message(dir.path(), &small()).contains("b_GT.png"));
}

#[test]
fn cifar_files_and_folders_are_recognised() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cifar-10-batches-bin/test_batch.bin");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let (bytes, images) = records(3);
    std::fs::write(&file, &bytes).unwrap();
    for path in [dir.path(), &file] {
        let (data, report) = open(path, &OpenOptions::default())?;
        assert_eq!((report.kind, data.len()), (Kind::Cifar, 3));
        assert_eq!(data.clean(2), Some(&images[2 * 3072..]));
    }
    assert_eq!(open(&file, &small())?.0.clean(0).map(<[u8]>::len), Some(48));
    std::fs::write(&file, &bytes[..5000]).unwrap();
    assert!(message(dir.path(), &small()).contains("test_batch.bin"));
    Ok(())
}

#[test]
fn folders_without_an_image_are_errors_that_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().display().to_string();
    assert!(message(&dir.path().join("none"), &small()).contains("none"));
    assert!(message(dir.path(), &small()).contains(&name));
    for kind in [Kind::Folder, Kind::Pairs, Kind::Cifar] {
        let options = OpenOptions {
            kind: Some(kind),
            ..small()
        };
        assert!(message(dir.path(), &options).contains(&name));
    }
    let file = dir.path().join("a.png");
    std::fs::write(&file, "broken").unwrap();
    assert!(message(dir.path(), &small()).contains("a.png"));
    assert!(message(&file, &small()).contains("folder"));
    for (size, limit) in [(0, None), (1 << 40, None), (4, Some(0))] {
        let options = OpenOptions {
            size,
            limit,
            ..small()
        };
        assert!(open(dir.path(), &options).is_err());
    }
}
