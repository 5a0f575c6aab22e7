//! What is stored of a rollout for its backward pass.

/// What is stored of a rollout for its backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Every intermediate of every step, in Candle's graph: no recomputation and no engine. The graph is as
    /// deep as the rollout; a long one can overflow the stack of a thread.
    Everything,
    /// The state before every n-th step; the backward pass recomputes each stretch. With n = 1, and where
    /// every cell fires, the engine also stores values of the last steps, if those of at least half of the
    /// steps fit 32 MiB.
    Every(usize),
    /// As many evenly spaced states as fit in this many bytes, together with those of the stretch that is
    /// being recomputed. If too few fit, the smallest number that works: about twice the square root of the
    /// number of steps.
    Budget(usize),
    /// Nothing: the result has no gradient.
    Nothing,
}

impl Memory {
    /// Steps between two stored states, in a rollout of `steps` steps with states of `bytes` bytes each.
    pub(super) fn stretch(self, steps: usize, bytes: usize) -> usize {
        match self {
            Memory::Every(stretch) => stretch,
            Memory::Everything | Memory::Nothing => 1,
            Memory::Budget(budget) => {
                // Stored are the state before each stretch and, while a stretch is recomputed, the states in
                // it.
                let fit = budget / bytes.max(1);
                let stored = |stretch: &usize| match stretch {
                    1 => steps,
                    _ => steps.div_ceil(*stretch) + stretch,
                };
                // Beyond twice the root of the steps, longer stretches store more.
                let stretches = 1..=steps.clamp(1, 2 * steps.isqrt() + 2);
                let least = stretches.clone().min_by_key(stored).unwrap_or(1);
                stretches.clone().find(|s| stored(s) <= fit).unwrap_or(least)
            }
        }
    }
}
