//! The reader of MNIST's files: IDX, and `.amat` text of binarised MNIST; plain or gzipped.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rand::Rng;

use super::binary_images::{BinaryImages, BinaryParts};
use crate::error::{Error, Result};
use crate::io::is_litter;
use crate::random::Key;

/// Limit of the decompressed size of a file in bytes, against decompression bombs.
const MOST_BYTES: u64 = 1 << 30;

/// Images of one file, with the values in the file.
pub(super) struct Images {
    pub side: usize,
    pub pixels: Vec<u8>,
}

/// All images with grey levels in a folder, and their labels.
///
/// # Errors
/// [`Error::Io`] if a file cannot be read, [`Error::File`] if one is damaged, there are no images or no
/// labels for each, or images of different sizes.
pub(super) fn read_grey(dir: &Path) -> Result<(Images, Vec<u8>)> {
    let (mut all, mut labels) = (None::<Images>, vec![]);
    let of = |kind: &'static str| {
        let files = list(dir)?.into_iter();
        Ok::<_, Error>(files.filter(move |(name, _)| is_of(name, kind)))
    };
    for (_, path) in of("images")? {
        let images = read_images(&path)?;
        match &mut all {
            None => all = Some(images),
            Some(all) if all.side == images.side => all.pixels.extend(images.pixels),
            Some(all) => {
                let reason = format!("images of {} pixels a side, expected {}", images.side, all.side);
                return Err(Error::file(path, reason));
            }
        }
    }
    for (_, path) in of("labels")? {
        labels.extend(read_labels(&path)?);
    }
    let Some(all) = all else {
        return Err(Error::file(
            dir,
            "no idx files of images, expected MNIST with grey levels",
        ));
    };
    let (found, count) = (labels.len(), all.pixels.len() / (all.side * all.side));
    match found == count {
        true => Ok((all, labels)),
        false => Err(Error::file(dir, format!("{found} labels for {count} images"))),
    }
}

impl BinaryImages {
    /// Reads MNIST from a folder, in any of these forms, with files plain or gzipped:
    ///
    /// - statically binarised, as text: `binarized_mnist_train.amat`, `..._valid.amat`, `..._test.amat`;
    /// - the same as IDX files with `train`, `valid` or `test`, and `images` in their names;
    /// - with grey levels: `train-images-idx3-ubyte` and `t10k-images-idx3-ubyte`. These are binarised once
    ///   by a random draw from `seed`: a pixel is white with the probability of its grey level.
    ///
    /// Labels are read if there are files with `labels` in their names. A file that is there plain and
    /// gzipped is read once, the plain one. Names with a dot at the start are passed over.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read, [`Error::File`] if one is damaged, training or test images are
    /// missing, or two files could be the same part.
    pub fn open(dir: impl AsRef<Path>, seed: u64) -> Result<BinaryParts> {
        open(dir.as_ref(), seed)
    }
}

fn open(dir: &Path, seed: u64) -> Result<BinaryParts> {
    let files = list(dir)?;
    let find = |parts: &[&str], kind: &str| -> Result<Vec<PathBuf>> {
        let mut found: Vec<PathBuf> = vec![];
        for part in parts {
            let fits = |name: &str| name.contains(part) && is_of(name, kind);
            let mut fitting = files.iter().filter(|(name, _)| fits(name)).map(|(_, path)| path);
            let first = fitting.next();
            if let (Some(first), Some(second)) = (first, fitting.next()) {
                let reason = format!(
                    "may be the same {kind} as {}: expected one of them",
                    first.display()
                );
                return Err(Error::file(second, reason));
            }
            found.extend(first.cloned());
        }
        Ok(found)
    };
    let read_part = |part: &[&str]| -> Result<(Images, Option<Vec<u8>>)> {
        let (text, binary) = (find(part, "amat")?, find(part, "images")?);
        let (paths, labels) = match text.is_empty() {
            false => (text, vec![]),
            true => (binary, find(part, "labels")?),
        };
        let Some((first, rest)) = paths.split_first() else {
            let reason = format!(
                "no MNIST images of the part {} here: expected idx files or .amat text, such as \
                 train-images-idx3-ubyte and t10k-images-idx3-ubyte, or binarized_mnist_train.amat and \
                 binarized_mnist_test.amat, plain or gzipped",
                part.join(" or ")
            );
            return Err(Error::file(dir, reason));
        };
        let mut images = read_images(first)?;
        for path in rest {
            let more = read_images(path)?;
            if more.side != images.side {
                let reason = format!(
                    "has images of {} pixels a side, {} has {}",
                    more.side,
                    first.display(),
                    images.side
                );
                return Err(Error::file(path, reason));
            }
            images.pixels.extend(more.pixels);
        }
        let mut known = vec![];
        for path in &labels {
            known.extend(read_labels(path)?);
        }
        let count = images.pixels.len() / (images.side * images.side);
        match (known.len(), labels.last()) {
            (found, Some(path)) if found != count => {
                let reason = format!("{found} labels for {count} images");
                Err(Error::file(path, reason))
            }
            (_, last) => Ok((images, last.map(|_| known))),
        }
    };
    let (train, test) = (read_part(&["train", "valid"])?, read_part(&["test", "t10k"])?);
    let grey = [&train.0, &test.0]
        .iter()
        .any(|images| images.pixels.iter().any(|&value| value > 1));
    let finish = |(images, labels): (Images, Option<Vec<u8>>), part: &str| {
        let key = Key::new(seed).fold_in_name("binarise").fold_in_name(part);
        let side = images.side;
        let pixels = if grey { sampled(images, key) } else { images.pixels };
        BinaryImages::new(side, pixels, labels)
    };
    Ok(BinaryParts {
        train: finish(train, "train")?,
        test: finish(test, "test")?,
        name: match grey {
            false => "binarised MNIST",
            true => "MNIST, binarised by a fixed sample",
        },
    })
}

/// Draws every pixel, white with the probability of its grey level.
fn sampled(images: Images, key: Key) -> Vec<u8> {
    let each = images.side * images.side;
    let one = |(image, pixels): (usize, &[u8])| -> Vec<u8> {
        let mut rng = key.fold_in(image as u64).rng();
        let draw = |&grey: &u8| u8::from(rng.random_range(0..255u32) < u32::from(grey));
        pixels.iter().map(draw).collect()
    };
    images
        .pixels
        .chunks_exact(each)
        .enumerate()
        .flat_map(one)
        .collect()
}

/// The files of a folder, sorted, with their names in lower case without `.gz`. If a file exists plain and
/// gzipped, the plain one is used; so it is if one name has a dot and the other a hyphen, as in
/// `train-images.idx3-ubyte`.
fn list(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut files: Vec<(String, PathBuf)> = vec![];
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        let path = entry.map_err(Error::io(dir))?.path();
        let name = path.file_name().unwrap_or_default();
        // A dead link stays: to read it fails, and names it. Of others that are no files, reading might
        // never end.
        let readable = fs::metadata(&path).is_ok_and(|data| data.is_file()) || !path.exists();
        if readable && !is_litter(name) {
            let name = name.to_string_lossy().to_lowercase();
            let plain = name.strip_suffix(".gz").unwrap_or(&name);
            files.push((plain.replace(".idx", "-idx"), path));
        }
    }
    files.sort_by(|a, b| (&a.0, is_gz(&a.1), &a.1).cmp(&(&b.0, is_gz(&b.1), &b.1)));
    files.dedup_by(|later, earlier| later.0 == earlier.0);
    Ok(files)
}

fn is_gz(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("gz"))
}

fn is_of(name: &str, kind: &str) -> bool {
    match kind {
        "amat" => name.ends_with(".amat"),
        kind => name.contains(kind) && name.contains("idx"),
    }
}

/// The content of a file, decompressed if it is gzipped, whatever its name says.
fn read(path: &Path) -> Result<Vec<u8>> {
    let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let mut bytes = vec![];
    let start = |file: &mut BufReader<File>, bytes: &mut Vec<u8>| file.by_ref().take(2).read_to_end(bytes);
    start(&mut file, &mut bytes).map_err(Error::io(path))?;
    if bytes == [0x1f, 0x8b] {
        let start = std::io::Cursor::new(std::mem::take(&mut bytes));
        let unpacked = MultiGzDecoder::new(start.chain(file));
        let read = unpacked.take(MOST_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(|error| Error::file(path, format!("cannot be unpacked: {error}")))?;
    } else {
        let read = file.take(MOST_BYTES + 1).read_to_end(&mut bytes);
        read.map_err(Error::io(path))?;
    }
    match bytes.len() as u64 > MOST_BYTES {
        true => Err(Error::file(path, "holds more than 1 GiB")),
        false => Ok(bytes),
    }
}

fn read_images(path: &Path) -> Result<Images> {
    let bytes = read(path)?;
    if path.to_string_lossy().to_lowercase().contains(".amat") {
        return parse_amat(path, &bytes);
    }
    let (sizes, pixels) = parse_idx(path, &bytes)?;
    match *sizes.as_slice() {
        [_, rows, columns] if rows == columns && rows > 0 => Ok(Images {
            side: rows,
            pixels: pixels.to_vec(),
        }),
        _ => {
            let reason = format!("holds an array of {sizes:?}, expected square images, [N, side, side]");
            Err(Error::file(path, reason))
        }
    }
}

fn read_labels(path: &Path) -> Result<Vec<u8>> {
    let bytes = read(path)?;
    let (sizes, labels) = parse_idx(path, &bytes)?;
    match sizes.len() {
        1 => Ok(labels.to_vec()),
        _ => Err(Error::file(
            path,
            format!("holds an array of {sizes:?}, expected labels, [N]"),
        )),
    }
}

/// Parses an IDX file of bytes into sizes and elements. Its layout: two zeros, type, number of axes, sizes,
/// elements.
fn parse_idx<'a>(path: &Path, bytes: &'a [u8]) -> Result<(Vec<usize>, &'a [u8])> {
    let Some(&[0, 0, kind, axes]) = bytes.get(..4) else {
        return Err(Error::file(
            path,
            "is no idx file: it does not begin with two zeros",
        ));
    };
    if kind != 8 {
        let reason = format!("is an idx file of type {kind}, expected 8, bytes");
        return Err(Error::file(path, reason));
    }
    let header = 4 + 4 * usize::from(axes);
    let Some(sizes) = bytes.get(4..header) else {
        return Err(Error::file(path, "is an idx file that ends in its header"));
    };
    let sizes: Vec<usize> = sizes
        .chunks_exact(4)
        .map(|size| u32::from_be_bytes([size[0], size[1], size[2], size[3]]) as usize)
        .collect();
    let elements = &bytes[header..];
    let expected = sizes
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size));
    match expected == Some(elements.len()) {
        true => Ok((sizes, elements)),
        false => {
            let reason = format!("has {} elements, its sizes are {sizes:?}", elements.len());
            Err(Error::file(path, reason))
        }
    }
}

/// Parses `.amat` text: one line per image, zeros and ones separated by blanks.
fn parse_amat(path: &Path, bytes: &[u8]) -> Result<Images> {
    let mut each = 0;
    let mut pixels = vec![];
    for (line, text) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let before = pixels.len();
        for word in text
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty())
        {
            match word {
                b"0" => pixels.push(0),
                b"1" => pixels.push(1),
                other => {
                    let found = String::from_utf8_lossy(&other[..other.len().min(20)]).into_owned();
                    let reason = format!("line {}: `{found}`, expected 0 or 1", line + 1);
                    return Err(Error::file(path, reason));
                }
            }
        }
        match pixels.len() - before {
            0 => {}
            count if each == 0 => each = count,
            count if count == each => {}
            count => {
                let reason = format!("line {} has {count} values, those before {each}", line + 1);
                return Err(Error::file(path, reason));
            }
        }
    }
    let side = each.isqrt();
    match side * side == each && each > 0 {
        true => Ok(Images { side, pixels }),
        false => {
            let reason = format!("has lines of {each} values, expected those of square images");
            Err(Error::file(path, reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn idx(sizes: &[u32], elements: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, sizes.len() as u8];
        sizes.iter().for_each(|size| bytes.extend(size.to_be_bytes()));
        bytes.extend(elements);
        bytes
    }

    fn gzipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn write(dir: &Path, files: &[(&str, Vec<u8>)]) {
        for (name, bytes) in files {
            fs::write(dir.join(name), bytes).unwrap();
        }
    }

    #[test]
    fn text_and_idx_give_the_same_images() -> Result<()> {
        let (text, binary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let amat = |rows: &[&str]| rows.join("\n").into_bytes();
        write(
            text.path(),
            &[
                ("binarized_mnist_train.amat", amat(&["0 1 1 0", "1 1 1 1", ""])),
                ("binarized_mnist_valid.amat.gz", gzipped(&amat(&["0 0 0 1"]))),
                ("binarized_mnist_test.amat", amat(&["1 0 0 0"])),
            ],
        );
        write(
            binary.path(),
            &[
                (
                    "b_train-images-idx3-ubyte.gz",
                    gzipped(&idx(&[2, 2, 2], &[0, 1, 1, 0, 1, 1, 1, 1])),
                ),
                ("b_valid-images-idx3-ubyte", idx(&[1, 2, 2], &[0, 0, 0, 1])),
                ("b_test-images-idx3-ubyte", idx(&[1, 2, 2], &[1, 0, 0, 0])),
                ("notes.txt", vec![1]),
            ],
        );
        for dir in [&text, &binary] {
            let parts = BinaryImages::open(dir.path(), 0)?;
            assert_eq!(parts.name, "binarised MNIST");
            assert_eq!((parts.train.len(), parts.test.len()), (3, 1));
            assert_eq!(parts.train.image(2), Some(&[0, 0, 0, 1][..]));
            assert_eq!(parts.test.image(0), Some(&[1, 0, 0, 0][..]));
            assert_eq!(parts.test.label(0), None);
        }
        Ok(())
    }

    #[test]
    fn grey_levels_are_sampled_once() -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let levels: Vec<u8> = [0, 255, 51, 204].repeat(2000);
        write(
            dir.path(),
            &[
                ("train-images-idx3-ubyte", idx(&[2000, 2, 2], &levels)),
                ("train-labels-idx1-ubyte", idx(&[2000], &[7; 2000])),
                ("t10k-images-idx3-ubyte", idx(&[1, 2, 2], &[255; 4])),
                ("t10k-labels-idx1-ubyte", idx(&[1], &[5])),
            ],
        );
        let parts = BinaryImages::open(dir.path(), 3)?;
        assert_eq!((parts.train.label(9), parts.test.label(0)), (Some(7), Some(5)));
        let mut white = [0; 4];
        for n in 0..2000 {
            let image = parts.train.image(n).unwrap_or_default();
            white
                .iter_mut()
                .zip(image)
                .for_each(|(white, &x)| *white += u32::from(x));
        }
        assert_eq!((white[0], white[1]), (0, 2000));
        assert!(
            white[2].abs_diff(400) < 60 && white[3].abs_diff(1600) < 60,
            "{white:?}"
        );
        let again = BinaryImages::open(dir.path(), 3)?;
        assert_eq!(parts.train.image(5), again.train.image(5));
        let other = BinaryImages::open(dir.path(), 4)?;
        assert!((0..2000).any(|n| parts.train.image(n) != other.train.image(n)));
        Ok(())
    }

    #[test]
    fn what_is_twice_there_is_read_once_or_named() -> Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let (white, black) = (idx(&[1, 2, 2], &[1; 4]), idx(&[1, 2, 2], &[0; 4]));
        fs::create_dir(dir.path().join("train-images-idx3-ubyte.d")).unwrap();
        write(
            dir.path(),
            &[
                ("TRAIN-IMAGES-IDX3-UBYTE", white.clone()),
                ("train-images-idx3-ubyte.gz", gzipped(&black)),
                ("train-images.idx3-ubyte.GZ", gzipped(&black)),
                ("._train-images-idx3-ubyte", vec![0, 5, 22, 7]),
                ("._t10k-images-idx3-ubyte.gz", vec![]),
                (".DS_Store", vec![1]),
                ("t10k-images-idx3-ubyte.gz", gzipped(&black)),
            ],
        );
        let parts = BinaryImages::open(dir.path(), 0)?;
        assert_eq!((parts.train.len(), parts.train.image(0)), (1, Some(&[1; 4][..])));
        assert_eq!(parts.test.len(), 1);
        for name in ["emnist-train-images-idx3-ubyte", "train-images-idx3-ubyte (1)"] {
            write(dir.path(), &[(name, white.clone())]);
            let message = BinaryImages::open(dir.path(), 0).unwrap_err().to_string();
            assert!(message.contains("expected one of them"), "{message}");
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        #[cfg(unix)]
        {
            let link = dir.path().join("valid-images-idx3-ubyte");
            std::os::unix::fs::symlink("nowhere", &link).unwrap();
            let message = BinaryImages::open(dir.path(), 0).unwrap_err().to_string();
            assert!(message.contains("valid-images-idx3-ubyte"), "{message}");
        }
        Ok(())
    }

    #[test]
    fn damaged_files_are_named_with_what_is_wrong() {
        let good = idx(&[1, 2, 2], &[1, 0, 0, 1]);
        let cases: [(&str, Vec<u8>, &str); 9] = [
            ("train-images-idx3-ubyte", vec![], "no idx file"),
            ("train-images-idx3-ubyte", vec![0, 0, 9, 1, 0, 0, 0, 0], "type 9"),
            (
                "train-images-idx3-ubyte",
                good[..9].to_vec(),
                "ends in its header",
            ),
            ("train-images-idx3-ubyte", good[..18].to_vec(), "2 elements"),
            ("train-images-idx3-ubyte", idx(&[1, 1, 4], &[0; 4]), "square"),
            (
                "train-images-idx3-ubyte",
                idx(&[u32::MAX; 3], &[0; 4]),
                "4 elements",
            ),
            (
                "train-images-idx3-ubyte.gz",
                gzipped(&good)[..15].to_vec(),
                "unpacked",
            ),
            ("binarized_mnist_train.amat", b"0 1 2 0".to_vec(), "`2`"),
            (
                "binarized_mnist_train.amat",
                b"0 1 1 0\n0 1 1".to_vec(),
                "line 2 has 3",
            ),
        ];
        for (name, bytes, says) in cases {
            let dir = tempfile::tempdir().unwrap();
            write(
                dir.path(),
                &[(name, bytes), ("test-images-idx3-ubyte", good.clone())],
            );
            let message = BinaryImages::open(dir.path(), 0).unwrap_err().to_string();
            assert!(message.contains(says) && message.contains(name), "{message}");
        }
        let dir = tempfile::tempdir().unwrap();
        let message = BinaryImages::open(dir.path(), 0).unwrap_err().to_string();
        assert!(message.contains("train-images-idx3-ubyte"), "{message}");
        write(dir.path(), &[("train-images-idx3-ubyte", good.clone())]);
        let message = BinaryImages::open(dir.path(), 0).unwrap_err().to_string();
        assert!(message.contains("test or t10k"), "{message}");
        write(
            dir.path(),
            &[
                ("t10k-images-idx3-ubyte", good),
                ("train-labels-idx1-ubyte", idx(&[2], &[1, 2])),
            ],
        );
        let message = BinaryImages::open(dir.path(), 0).unwrap_err().to_string();
        assert!(message.contains("2 labels for 1 images"), "{message}");
    }
}
