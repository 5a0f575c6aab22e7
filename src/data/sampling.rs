//! Shuffles, derangements and the train / validation / test split.

use crate::error::{Error, Result, check};
use crate::random::Key;
use rand::seq::SliceRandom;

/// A uniformly random permutation of `0..n`.
pub fn shuffled(n: usize, key: Key) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut key.rng());
    order
}

/// A uniformly random permutation of `0..n` without fixed points. For negatives: image `i` of a batch takes
/// image `derangement[i]`.
///
/// # Errors
/// [`Error::Config`] if `n` is below 2, where none exists.
pub fn derangement(n: usize, key: Key) -> Result<Vec<usize>> {
    if n < 2 {
        return Err(Error::config("n", "at least 2 images to derange", n));
    }
    check::elements("n", &[n])?;
    let mut rng = key.rng();
    let mut order: Vec<usize> = (0..n).collect();
    // Rejection keeps the draw uniform; about e shuffles are needed for any n.
    loop {
        order.shuffle(&mut rng);
        if order.iter().enumerate().all(|(i, &j)| i != j) {
            return Ok(order);
        }
    }
}

/// Three disjoint parts of a data set: 64 % for training, 16 % for validation, 20 % for the test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split<T> {
    /// For training the weights.
    pub train: T,
    /// For selecting the best weights.
    pub validation: T,
    /// For reported results.
    pub test: T,
}

/// Splits images `0..groups.len()` after a shuffle: 20 % for the test, and of the rest 20 % for validation.
///
/// `groups[i]` is the number of the photograph that image `i` was cut from. Photographs rather than images
/// are split, so that tiles of one photograph are never in two parts. The training shares are truncated to
/// whole photographs. Each part is shuffled, so that its first images are a fair sample.
///
/// # Errors
/// [`Error::Config`] if there are fewer than three photographs, which would leave a part empty.
pub fn split(groups: &[usize], key: Key) -> Result<Split<Vec<usize>>> {
    let mut names = groups.to_vec();
    names.sort_unstable();
    names.dedup();
    if names.len() < 3 {
        let expected = "at least 3 photographs, one each to train, validate and test";
        return Err(Error::config("groups", expected, names.len()));
    }
    let share = |n: usize| n * 4 / 5;
    let seen = share(names.len());
    let train = share(seen);
    let mut rank = vec![0; names.len()];
    for (position, name) in shuffled(names.len(), key.fold_in(0)).into_iter().enumerate() {
        rank[name] = position;
    }
    let mut parts = [Vec::new(), Vec::new(), Vec::new()];
    for image in shuffled(groups.len(), key.fold_in(1)) {
        let name = names.partition_point(|&name| name < groups[image]);
        let part = usize::from(rank[name] >= train) + usize::from(rank[name] >= seen);
        parts[part].push(image);
    }
    let [train, validation, test] = parts;
    Ok(Split {
        train,
        validation,
        test,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_derangement_is_a_permutation_without_fixed_point(n in 2usize..40, seed: u64) {
            let order = derangement(n, Key::new(seed)).unwrap();
            prop_assert!(order.iter().enumerate().all(|(i, &j)| i != j));
            let mut sorted = order;
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..n).collect::<Vec<_>>());
        }

        #[test]
        fn a_split_is_complete_disjoint_and_keeps_photographs_whole(
            photographs in 3usize..30, tiles in 1usize..5, seed: u64,
        ) {
            let groups: Vec<usize> = (0..photographs * tiles).map(|i| i / tiles * 7).collect();
            let parts = split(&groups, Key::new(seed)).unwrap();
            let parts = [parts.train, parts.validation, parts.test];
            let mut all: Vec<usize> = parts.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..groups.len()).collect::<Vec<_>>());
            for (a, b) in [(0, 1), (0, 2), (1, 2)] {
                prop_assert!(parts[a].iter().all(|&i| parts[b].iter().all(|&j| groups[i] != groups[j])));
            }
            prop_assert!(parts.iter().all(|part| !part.is_empty()));
        }
    }

    #[test]
    fn derangements_are_uniform() -> Result<()> {
        // Four images have nine derangements.
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..9_000 {
            *counts.entry(derangement(4, Key::new(seed))?).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 9);
        assert!(counts.values().all(|&n| (850..1150).contains(&n)), "{counts:?}");
        Ok(())
    }

    #[test]
    fn nothing_to_derange_or_split_is_an_error() {
        assert!(derangement(1, Key::new(0)).is_err());
        assert!(split(&[0, 0, 1, 1], Key::new(0)).is_err());
    }

    #[test]
    fn shares_are_those_of_the_paper() -> Result<()> {
        let groups: Vec<usize> = (0..1000).collect();
        let parts = split(&groups, Key::new(3))?;
        assert_eq!(
            (parts.train.len(), parts.validation.len(), parts.test.len()),
            (640, 160, 200)
        );
        assert_ne!(parts, split(&groups, Key::new(4))?);
        Ok(())
    }
}
