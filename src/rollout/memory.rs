//! What is stored of a rollout for its backward pass.

/// What is stored of a rollout for its backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Every intermediate of every step, as Candle's graph holds them: no recomputation, no engine, and a
    /// graph as deep as the rollout, which long rollouts can make too deep for the stack of a thread.
    Everything,
    /// The state before every n-th step; the backward pass recomputes each stretch. With n = 1, and where
    /// every cell fires, the engine also stores values of the last steps, if those of half of the steps take
    /// no more than 32 MiB.
    Every(usize),
    /// As many states, evenly spread over the steps, as fit in so many bytes together with those of the
    /// stretch that is being recomputed; where too few fit, the fewest that will do, about twice the root of
    /// the number of steps.
    Budget(usize),
    /// Nothing: the result has no gradient.
    Nothing,
}

impl Memory {
    /// Steps between two states that are stored, of so many `steps` whose states take so many `bytes` each.
    pub(super) fn stretch(self, steps: usize, bytes: usize) -> usize {
        match self {
            Memory::Every(stretch) => stretch,
            Memory::Everything | Memory::Nothing => 1,
            Memory::Budget(budget) => {
                // Stored are the states before each stretch and, while one is recomputed, those in it.
                let fit = budget / bytes.max(1);
                let stored = |stretch: &usize| match stretch {
                    1 => steps,
                    _ => steps.div_ceil(*stretch) + stretch,
                };
                let stretches = 1..=steps.max(1);
                let least = stretches.clone().min_by_key(stored).unwrap_or(1);
                stretches.clone().find(|s| stored(s) <= fit).unwrap_or(least)
            }
        }
    }
}
