//! Every [`Learner`] resumes as if it had never stopped, and only with its own settings.

use std::fs;
use std::path::PathBuf;

use lnca::train::Learner;
use lnca::{Error, Result, Weights};

use crate::common::values;

/// Trains one learner without a stop, and another that is saved after update `stop` and resumed by a third:
/// their weights have the same bits after update `last`. Returns the first and the third. The second then
/// diverges.
pub fn stopped_is_never_stopped<L: Learner>(
    make: impl Fn() -> Result<(Weights, L)>,
    (stop, last): (usize, usize),
) -> Result<(L, L)> {
    let (_folder, checkpoint) = place();
    let train = |learner: &mut dyn Learner, last: usize| -> Result<()> {
        while learner.updates() < last {
            assert!(!learner.update()?.is_empty());
        }
        Ok(())
    };
    let (whole, mut straight) = make()?;
    train(&mut straight, last)?;
    let (struck, mut stopped) = make()?;
    train(&mut stopped, stop)?;
    stopped.save(&checkpoint)?;
    let saved = fs::read(&checkpoint).unwrap();
    let (weights, mut resumed) = make()?;
    resumed.resume(&checkpoint)?;
    assert_eq!(resumed.updates(), stop);
    assert_eq!(resumed.learning_rate(), stopped.learning_rate());
    train(&mut resumed, last)?;
    for ((name, a), (_, b)) in whole.vars().iter().zip(weights.vars()) {
        assert_eq!(values(a), values(&b), "{name}");
    }
    // One that diverges says so in that update, and cannot spoil the checkpoint.
    for (_, var) in struck.vars() {
        var.set(&(var.as_detached_tensor() * f64::NAN)?)?;
    }
    match stopped.update() {
        Err(Error::Diverged { at, .. }) => assert!(at.contains(&format!("update {stop}")), "{at}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(stopped.updates(), stop);
    assert!(stopped.save(&checkpoint).is_err());
    assert!(fs::read(&checkpoint).unwrap() == saved);
    Ok((straight, resumed))
}

/// `other`, a learner of `weights` with other settings, refuses a checkpoint of `one` and is unchanged.
pub fn is_refused(one: &impl Learner, (weights, mut other): (&Weights, impl Learner)) -> Result<()> {
    let (_folder, checkpoint) = place();
    one.save(&checkpoint)?;
    let before = weights.snapshot()?;
    let error = other.resume(&checkpoint).unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error}");
    assert_eq!(other.updates(), 0);
    for (name, var) in weights.vars() {
        assert_eq!(values(&var), values(&before[&name]), "{name}");
    }
    Ok(())
}

/// A checkpoint's path in a temporary folder, which lasts as long as the first value.
fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    (folder, path)
}

/// Losses that are left unread change no weight; together they are the means of what an update tells, and one
/// that is not finite is told before a checkpoint is written.
pub fn unread_is_read_later<L: Learner>(make: impl Fn() -> Result<(Weights, L)>) -> Result<()> {
    let (_folder, checkpoint) = place();
    let ((weights, mut one), (others, mut other)) = (make()?, make()?);
    other.defer(true);
    let mut told = vec![];
    for _ in 0..3 {
        told.push(one.update()?);
        assert!(other.update()?.is_empty());
    }
    for (n, mean) in other.settle()?.iter().enumerate() {
        let expected = told.iter().map(|readings| readings[n].value).sum::<f64>() / 3.0;
        assert!(
            (mean.value - expected).abs() <= 1e-6 * expected.abs(),
            "{mean:?}, {expected}"
        );
        assert_eq!((mean.name, mean.weight), (told[0][n].name, told[0][n].weight));
    }
    assert!(other.settle()?.is_empty());
    for ((name, a), (_, b)) in weights.vars().iter().zip(others.vars()) {
        assert_eq!(values(a), values(&b), "{name}");
    }
    other.save(&checkpoint)?;
    for (_, var) in others.vars() {
        var.set(&(var.as_detached_tensor() * f64::NAN)?)?;
    }
    // On a CPU the gradient tells at once.
    let found = other.update().and_then(|_| other.settle());
    assert!(matches!(found, Err(Error::Diverged { .. })), "{found:?}");
    Ok(())
}
