//! A killed and resumed run ends with the bits of a run that was never killed.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lnca::io::safetensors::{self as store, Tensors};
use lnca::train::Event;
use lnca::{Error, Fit, Result, TrainingData};

use crate::common::device::device;
use crate::common::values;
use crate::setup::{PHASES, Phase, data, fit};

/// Runs to the end and returns the final weights.
fn finish(phase: Phase, fit: &Fit, data: &TrainingData, tell: &mut dyn FnMut(&Event)) -> Result<Tensors> {
    let (_model, mut trainer) = phase.trainer()?;
    fit.run(&mut *trainer, data, tell)?;
    trainer.weights().snapshot()
}

fn assert_same_weights(what: &str, a: &Tensors, b: &Tensors) {
    assert!(a.keys().eq(b.keys()), "{what}");
    for (name, tensor) in a {
        let same = values(tensor)
            .iter()
            .zip(values(&b[name]))
            .all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{what}: {name}");
    }
}

/// Checkpoints hold weights, best weights, moments, pool and progress: all must agree.
fn assert_same_checkpoint(what: &str, a: &Path, b: &Path) -> Result<()> {
    let read = |path: &Path| store::read::<serde_json::Value>(path, &device());
    let ((a_tensors, a_card), (b_tensors, b_card)) = (read(a)?, read(b)?);
    assert_same_weights(what, &a_tensors, &b_tensors);
    assert_eq!(a_card, b_card, "{what}");
    assert!(fs::read(a).unwrap() == fs::read(b).unwrap(), "{what}");
    Ok(())
}

#[test]
fn from_any_checkpoint() -> Result<()> {
    let data = data(13, 12)?;
    for phase in PHASES {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whole");
        let mut copies: Vec<PathBuf> = Vec::new();
        let expected = finish(phase, &fit(&path), &data, &mut |event| {
            if let Event::Saved { path } = event {
                let copy = folder.path().join(format!("copy {}", copies.len()));
                fs::copy(path, &copy).unwrap();
                copies.push(copy);
            }
        })?;
        // Three batches an epoch: after two of them, and after the epoch.
        assert_eq!(copies.len(), 6, "{phase:?}");
        for (i, copy) in copies.iter().enumerate() {
            let what = format!("{phase:?} from checkpoint {i}");
            let mut done = None;
            let mut learned = 0;
            let weights = finish(phase, &fit(copy), &data, &mut |event| match event {
                Event::Started { done: n, batches, .. } => done = Some((*n, *batches)),
                Event::Batch { .. } => learned += 1,
                _ => {}
            })?;
            assert_eq!((done, learned), (Some((i + 1, 6)), 5 - i), "{what}");
            assert_same_weights(&what, &expected, &weights);
            assert_same_checkpoint(&what, &path, copy)?;
        }
    }
    Ok(())
}

#[test]
fn from_a_death_at_any_event() -> Result<()> {
    let data = data(13, 12)?;
    for phase in PHASES {
        let folder = tempfile::tempdir().unwrap();
        let whole = folder.path().join("whole");
        let expected = finish(phase, &fit(&whole), &data, &mut |_| {})?;
        // Only the last of these deaths comes before any checkpoint.
        for death in [3, 4, 7, 8, 12, 1] {
            let path = folder.path().join(format!("death {death}"));
            let mut events = 0;
            let run = catch_unwind(AssertUnwindSafe(|| {
                finish(phase, &fit(&path), &data, &mut |_| {
                    events += 1;
                    // Unwinds without the message that a panic prints.
                    if events == death {
                        std::panic::resume_unwind(Box::new("killed"));
                    }
                })
            }));
            assert!(run.is_err(), "{phase:?}: no event {death}");
            let weights = finish(phase, &fit(&path), &data, &mut |_| {})?;
            let what = format!("{phase:?} after a death at event {death}");
            assert_same_weights(&what, &expected, &weights);
            assert_same_checkpoint(&what, &whole, &path)?;
        }
    }
    Ok(())
}

#[test]
fn checkpoints_and_their_number_change_nothing() -> Result<()> {
    let data = data(13, 12)?;
    for phase in PHASES {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("often");
        let often = finish(phase, &fit(&path), &data, &mut |_| {})?;
        let never = Fit {
            checkpoint: None,
            ..fit(&path)
        };
        assert_same_weights("none", &often, &finish(phase, &never, &data, &mut |_| {})?);
        // A finished run is not trained further, and one that may not resume starts anew.
        let mut learned = 0;
        let mut count = |event: &Event| learned += usize::from(matches!(event, Event::Batch { .. }));
        assert_same_weights("again", &often, &finish(phase, &fit(&path), &data, &mut count)?);
        let anew = Fit {
            resume: false,
            ..fit(&path)
        };
        assert_same_weights("anew", &often, &finish(phase, &anew, &data, &mut count)?);
        assert_eq!(learned, 6);
        // Another seed is another run.
        let other = Fit { seed: 4, ..never };
        let other = finish(phase, &other, &data, &mut |_| {})?;
        assert!(
            often.iter().any(|(name, a)| values(a) != values(&other[name])),
            "{phase:?}"
        );
    }
    Ok(())
}

#[test]
fn a_checkpoint_of_another_run_is_refused_and_kept() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let data = data(13, 12)?;
    finish(Phase::Latent, &fit(&path), &data, &mut |_| {})?;
    let bytes = fs::read(&path).unwrap();
    let refused = |phase: Phase, fit: Fit, data: &TrainingData, word: &str| {
        match finish(phase, &fit, data, &mut |_| {}) {
            Err(Error::File { path: named, reason }) => {
                assert_eq!(named, path);
                assert!(reason.contains(word), "{reason}");
            }
            other => panic!("{word}: {:?}", other.map(|_| ())),
        }
        assert!(fs::read(&path).unwrap() == bytes);
    };
    refused(Phase::Autoencoder, fit(&path), &data, "autoencoder");
    refused(Phase::Plain, fit(&path), &data, "pool_first");
    refused(
        Phase::Latent,
        Fit {
            epochs: 3,
            ..fit(&path)
        },
        &data,
        "\"epochs\":3",
    );
    refused(
        Phase::Latent,
        Fit {
            seed: 9,
            ..fit(&path)
        },
        &data,
        "\"seed\":9",
    );
    refused(
        Phase::Latent,
        Fit {
            batch_size: 3,
            ..fit(&path)
        },
        &data,
        "\"batch_size\":3",
    );
    let mut other = data.clone();
    other.corruption = Some(lnca::data::Corruption::BLUR);
    refused(Phase::Latent, fit(&path), &other, "blur");
    // A model file, and a file cut short.
    let (model, _) = Phase::Latent.trainer()?;
    model.save(&path)?;
    assert!(finish(Phase::Latent, &fit(&path), &data, &mut |_| {}).is_err());
    for length in [0, 8, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        assert!(matches!(
            finish(Phase::Latent, &fit(&path), &data, &mut |_| {}),
            Err(Error::File { .. })
        ));
    }
    Ok(())
}

#[test]
fn an_interrupted_run_saves_where_it_is() -> Result<()> {
    let data = data(13, 12)?;
    for phase in PHASES {
        let folder = tempfile::tempdir().unwrap();
        let whole = folder.path().join("whole");
        let expected = finish(phase, &fit(&whole), &data, &mut |_| {})?;
        for last in 1..=6 {
            let path = folder.path().join(format!("interrupted {last}"));
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = Fit {
                stop: Some(stop.clone()),
                checkpoint_every: 100,
                ..fit(&path)
            };
            let mut learned = 0;
            let error = finish(phase, &stopped, &data, &mut |event| {
                learned += usize::from(matches!(event, Event::Batch { .. }));
                stop.store(learned == last, Ordering::Relaxed);
            });
            let what = format!("{phase:?} after batch {last}");
            match error {
                Err(Error::Interrupted { at }) => {
                    let epoch = (last - 1) / 3;
                    let place = format!("epoch {epoch}, batch {}", last - 3 * epoch);
                    assert!(at.contains(&place), "{what}: {at}");
                }
                other => panic!("{what}: {other:?}"),
            }
            assert_eq!(learned, last, "{what}");
            let weights = finish(phase, &fit(&path), &data, &mut |_| {})?;
            assert_same_weights(&what, &expected, &weights);
            assert_same_checkpoint(&what, &whole, &path)?;
        }
    }
    Ok(())
}
