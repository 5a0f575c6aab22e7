//! Which images, in which order: shuffles, derangements and the train / validation / test split.

use crate::error::{Error, Result};
use crate::random::Key;
use rand::seq::SliceRandom;

/// The numbers `0..n` in an order drawn from `key`, every order equally likely.
pub fn shuffled(n: usize, key: Key) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut key.rng());
    order
}

/// A permutation of `0..n` that leaves no number in its place, every such permutation equally likely:
/// image `i` of a batch takes image `derangement[i]` as its negative.
///
/// # Errors
/// `n` is 0 or 1, where none exists.
pub fn derangement(n: usize, key: Key) -> Result<Vec<usize>> {
    if n < 2 {
        return Err(Error::config("n", "at least 2 images to derange", n));
    }
    let mut rng = key.rng();
    let mut order: Vec<usize> = (0..n).collect();
    // Rejection keeps the draw uniform; about e shuffles are needed whatever n is.
    loop {
        order.shuffle(&mut rng);
        if order.iter().enumerate().all(|(i, &j)| i != j) {
            return Ok(order);
        }
    }
}

/// Three disjoint parts of a data set: 64 % to train on, 16 % to validate, 20 % to test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split<T> {
    /// What the weights are fitted to.
    pub train: T,
    /// What the best weights are chosen by.
    pub validation: T,
    /// What is reported.
    pub test: T,
}

/// Splits images `0..groups.len()` after a shuffle: the first 80 % train and the rest test, and of
/// train again the first 80 % train and the rest validate.
///
/// `groups[i]` names the photograph image `i` was cut from. Photographs are shuffled and split, not
/// images, so that tiles of one photograph never fall into two parts; the shares, truncated to whole
/// numbers, are of photographs. Each part is in shuffled order, so that its first images are a fair
/// sample of it.
///
/// # Errors
/// Fewer than three photographs, which leaves a part empty.
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
