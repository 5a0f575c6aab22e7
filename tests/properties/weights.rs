//! Weights: initial values depend on seed and name alone; loading is all or nothing.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use candle_nn::Init;
use lnca::nn::glorot_uniform;
use lnca::{Error, Nafca, NafcaConfig, Result, Vitca, VitcaConfig, Weights};

use crate::common::device::device;
use crate::common::values;

fn all(weights: &Weights) -> Result<BTreeMap<String, Vec<f64>>> {
    let snapshot = weights.snapshot()?;
    Ok(snapshot
        .iter()
        .map(|(name, tensor)| (name.clone(), values(tensor)))
        .collect())
}

fn new(seed: u64) -> Weights {
    Weights::new(seed, DType::F32, &device())
}

#[test]
fn the_order_of_creation_does_not_matter() -> Result<()> {
    let (first, second) = (new(3), new(3));
    Vitca::new(VitcaConfig::default(), first.builder().pp("a"))?;
    Nafca::new(NafcaConfig::default(), first.builder().pp("b"))?;
    Nafca::new(NafcaConfig::default(), second.builder().pp("b"))?;
    Vitca::new(VitcaConfig::default(), second.builder().pp("a"))?;
    assert_eq!(all(&first)?, all(&second)?);
    // Nor do other weights matter.
    let alone = new(3);
    Nafca::new(NafcaConfig::default(), alone.builder().pp("b"))?;
    let (first, alone) = (all(&first)?, all(&alone)?);
    assert!(alone.iter().all(|(name, value)| first[name] == *value));
    Ok(())
}

#[test]
fn seed_and_name_both_matter() -> Result<()> {
    let draw = |seed, name: &str| -> Result<Vec<f64>> {
        let vb = new(seed).builder();
        Ok(values(&vb.get_with_hints((3, 4), name, glorot_uniform(3, 4))?))
    };
    let first = draw(1, "w")?;
    assert_eq!(first, draw(1, "w")?);
    assert_ne!(first, draw(2, "w")?);
    assert_ne!(first, draw(1, "v")?);
    let limit = (6.0f64 / 7.0).sqrt();
    assert!(first.iter().all(|value| value.abs() < limit));
    Ok(())
}

#[test]
fn a_weight_asked_for_twice_is_shared_and_keeps_its_shape() -> Result<()> {
    let weights = new(0);
    let get = |shape: usize| weights.builder().get_with_hints(shape, "w", Init::Const(1.0));
    let (a, b) = (get(2)?, get(2)?);
    weights.vars()[0].1.set(&Tensor::new(&[5f32, 6.0], &device())?)?;
    assert_eq!((values(&a), values(&b)), (vec![5.0, 6.0], vec![5.0, 6.0]));
    assert!(get(3).unwrap_err().to_string().contains('w'));
    Ok(())
}

#[test]
fn a_load_that_fails_names_the_weight_and_changes_nothing() -> Result<()> {
    let weights = new(0);
    let vb = weights.builder();
    vb.get_with_hints(2, "a", Init::Const(1.0))?;
    vb.get_with_hints((2, 3), "b", Init::Const(2.0))?;
    let before = all(&weights)?;
    let tensor = |shape: &[usize]| Tensor::zeros(shape, DType::F64, &device());
    let good = BTreeMap::from([
        ("a".to_string(), tensor(&[2])?),
        ("b".to_string(), tensor(&[2, 3])?),
    ]);

    let mut missing = good.clone();
    missing.remove("b");
    let mut extra = good.clone();
    extra.insert("c".to_string(), tensor(&[1])?);
    let mut misshapen = good.clone();
    misshapen.insert("b".to_string(), tensor(&[3, 2])?);
    for (values, name, expected_words, found_words) in [
        (missing, "b", "shape [2, 3]", "nothing"),
        (extra, "c", "no such weight", "shape [1]"),
        (misshapen, "b", "shape [2, 3]", "shape [3, 2]"),
    ] {
        match weights.load(&values) {
            Err(Error::Weight { key, expected, found }) => {
                assert_eq!(
                    (key.as_str(), &*expected, &*found),
                    (name, expected_words, found_words)
                );
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(all(&weights)?, before);
    }
    weights.load(&good)?;
    assert!(all(&weights)?.values().flatten().all(|&value| value == 0.0));
    assert_eq!(weights.vars()[0].1.dtype(), DType::F32);
    Ok(())
}
