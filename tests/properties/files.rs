//! Model files: a round trip, and every way a file can be broken.

use std::fs;
use std::path::Path;

use candle_core::{DType, Tensor};
use lnca::io::safetensors::{self as store, Tensors};
use lnca::random::Key;
use lnca::{Error, Model, ModelCard, Result};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::common::device::device;
use crate::common::{normal, values};
use crate::restoring::models;

fn load(path: &Path) -> Result<Model> {
    Model::load(path, &device())
}

/// A saved small model: its folder, its path, its contents.
fn saved() -> (TempDir, std::path::PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    models().unwrap()[0].save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    (folder, path, bytes)
}

#[test]
fn a_loaded_model_is_the_saved_one() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    for (i, mut model) in models()?.into_iter().enumerate() {
        model.card_mut().task = "denoise \"quoted\" é".into();
        model.card_mut().fire_rate = 0.1 + 0.2;
        // A missing folder is created.
        let path = folder.path().join("new/deep").join(format!("{i}.safetensors"));
        model.save(&path)?;
        let loaded = load(&path)?;
        assert_eq!(loaded.card(), model.card());
        let images = normal(1, (2, 8, 8, 3), DType::F32);
        assert_eq!(
            values(&loaded.restore(&images, Key::new(3))?),
            values(&model.restore(&images, Key::new(3))?)
        );
        let again = path.with_extension("again");
        loaded.save(&again)?;
        assert!(fs::read(&path).unwrap() == fs::read(&again).unwrap());
    }
    Ok(())
}

/// Asserts that a damaged file gives an error that names the file or a weight.
fn assert_refused(path: &Path) {
    match load(path).map(|_| ()) {
        Err(Error::File { path: named, .. } | Error::Io { path: named, .. }) => assert_eq!(named, path),
        Err(Error::Weight { key, .. }) => assert!(!key.is_empty()),
        Err(other) => panic!("an error that names neither file nor weight: {other}"),
        Ok(()) => panic!("loaded a broken file"),
    }
}

#[test]
fn truncated_files() {
    let (_folder, path, bytes) = saved();
    let lengths = [0, 1, 7, 8, 9, 100, bytes.len() / 2, bytes.len() - 1];
    for length in lengths {
        fs::write(&path, &bytes[..length]).unwrap();
        assert_refused(&path);
    }
    fs::write(&path, [&bytes[..], &[0]].concat()).unwrap();
    assert_refused(&path);
    assert_refused(&path.with_extension("missing"));
    assert_refused(path.parent().unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        fs::write(&path, bytes).unwrap();
        assert_refused(&path);
    }

    #[test]
    fn a_flipped_bit_of_the_header_is_refused_or_harmless(at in 0.0..1.0, bit in 0u32..8) {
        let (_folder, path, mut bytes) = saved();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[(at * header as f64) as usize] ^= 1u8 << bit;
        fs::write(&path, bytes).unwrap();
        // If a free text or a number such as the fire rate changed, loading may succeed; a panic would fail
        // the test.
        if let Err(error) = load(&path) {
            assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn safetensors_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.safetensors");
    let tensors = Tensors::from([("w".to_string(), normal(1, 3, DType::F32))]);
    // First without a card, then with a card of something else, such as a checkpoint.
    fs::write(&path, safetensors::serialize(&tensors, None).unwrap()).unwrap();
    assert!(load(&path).err().unwrap().to_string().contains("lnca"));
    store::write(&path, &tensors, &serde_json::json!({"checkpoint": 1})).unwrap();
    assert!(load(&path).err().unwrap().to_string().contains("another kind"));
    assert_refused(&path);
}

/// Changes the tensors and card of a saved model, and returns the error message of loading it.
fn message_after(change: impl FnOnce(&mut Tensors, &mut ModelCard)) -> String {
    let (_folder, path, _) = saved();
    let (mut tensors, mut card): (_, ModelCard) = store::read(&path, &device()).unwrap();
    change(&mut tensors, &mut card);
    store::write(&path, &tensors, &card).unwrap();
    let error = load(&path).err().expect("an error");
    error.to_string()
}

#[test]
fn tensors_missing_left_over_or_misshapen_are_named() {
    let weight = "conv_out.weight";
    let missing = message_after(|tensors, _| {
        tensors.remove(&format!("transition.{weight}"));
    });
    assert!(
        missing.contains(weight) && missing.contains("nothing"),
        "{missing}"
    );
    let extra = message_after(|tensors, _| {
        tensors.insert("surplus".into(), normal(1, 2, DType::F32));
    });
    assert!(extra.contains("surplus"), "{extra}");
    let misshapen = message_after(|tensors, _| {
        tensors.insert(format!("transition.{weight}"), normal(1, (2, 2), DType::F32));
    });
    assert!(
        misshapen.contains(weight) && misshapen.contains("[2, 2]"),
        "{misshapen}"
    );
    let version = message_after(|_, card| card.model = 2);
    assert!(version.contains("version 2"), "{version}");
}

#[test]
fn a_card_that_asks_for_the_impossible_is_refused() {
    use lnca::ModelConfig::LatentNafca;
    for channels in [0, 5, 6, 1 << 20, 1 << 40] {
        message_after(|_, card| {
            let LatentNafca { autoencoder, .. } = &mut card.config else {
                unreachable!()
            };
            autoencoder.latent_channels = channels;
        });
    }
    for width in [0, 5, 1 << 20, 1 << 40] {
        message_after(|_, card| {
            let LatentNafca { transition, .. } = &mut card.config else {
                unreachable!()
            };
            transition.embed_dim = width;
        });
        message_after(|_, card| {
            let LatentNafca { transition, .. } = &mut card.config else {
                unreachable!()
            };
            transition.layout.hidden = width;
        });
    }
}

#[test]
fn a_failed_write_leaves_what_is_there() {
    let (folder, path, bytes) = saved();
    let tensors = Tensors::from([("w".to_string(), Tensor::new(&[1f32], &device()).unwrap())]);
    // A description that cannot be written as JSON.
    let unwritable = std::collections::HashMap::from([((1, 2), 3)]);
    assert!(store::write(&path, &tensors, &unwritable).is_err());
    assert!(fs::read(&path).unwrap() == bytes);
    // A target that is a folder, and a folder that is a file.
    let target = folder.path().join("folder");
    fs::create_dir_all(target.join("inside")).unwrap();
    for path in [target.clone(), path.join("below")] {
        assert!(matches!(store::write(&path, &tensors, &1), Err(Error::Io { .. })));
    }
    assert!(target.join("inside").is_dir());
    assert!(fs::read(&path).unwrap() == bytes);
    // No half-written file is left.
    let names = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 2);
}
