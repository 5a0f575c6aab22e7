//! Losses that lie on the device and have not been read: to read them makes a GPU wait.

use candle_core::{DType, Tensor};

use super::trainer::Reading;
use crate::error::{Error, Result};
use crate::loss::Term;

/// The terms of the loss of one update.
#[derive(Clone, Debug)]
pub(super) struct Losses {
    /// The number of the update, from 0.
    update: usize,
    names: Vec<(&'static str, f64)>,
    /// `[terms]`.
    values: Tensor,
}

impl Losses {
    pub fn new(update: usize, terms: &[Term]) -> Result<Self> {
        let value = |term: &Term| term.value.detach().to_dtype(DType::F64);
        let values = terms.iter().map(value).collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Self {
            update,
            names: terms.iter().map(|term| (term.name, term.weight)).collect(),
            values: Tensor::stack(&values, 0)?,
        })
    }

    /// The values, in one copy to the host.
    ///
    /// # Errors
    /// [`Error::Diverged`] if one is not finite.
    pub fn read(&self) -> Result<Vec<Reading>> {
        self.readings(&self.values.to_vec1()?)
    }

    fn readings(&self, values: &[f64]) -> Result<Vec<Reading>> {
        let reading = |(&(name, weight), &value): (&(&'static str, f64), &f64)| {
            if !value.is_finite() {
                let at = format!("update {}", self.update);
                let what = format!("the loss term `{name}`");
                return Err(Error::Diverged { what, value, at });
            }
            Ok(Reading { name, weight, value })
        };
        self.names.iter().zip(values).map(reading).collect()
    }
}

/// The losses of updates that have not been read.
#[derive(Clone, Debug, Default)]
pub(super) struct Unread(Vec<(Losses, bool)>);

impl Unread {
    /// Adds the losses of an update; unless they are `told`, they are checked alone.
    pub fn push(&mut self, losses: Losses, told: bool) {
        self.0.push((losses, told));
    }

    /// The mean of each term that is told over all updates, in one copy to the host; nothing if there are
    /// none.
    ///
    /// # Errors
    /// [`Error::Diverged`] if a value is not finite: that of the first such update.
    pub fn means(&self) -> Result<Vec<Reading>> {
        if self.0.is_empty() {
            return Ok(vec![]);
        }
        let all: Vec<&Tensor> = self.0.iter().map(|(losses, _)| &losses.values).collect();
        let values = Tensor::cat(&all, 0)?.to_vec1::<f64>()?;
        let mut sums: Vec<(Reading, usize)> = vec![];
        let mut rest = &values[..];
        for (losses, told) in &self.0 {
            let (own, others) = rest.split_at(losses.names.len());
            rest = others;
            let readings = losses.readings(own)?;
            for reading in readings.into_iter().filter(|_| *told) {
                match sums.iter_mut().find(|(sum, _)| sum.name == reading.name) {
                    Some((sum, count)) => (sum.value, *count) = (sum.value + reading.value, *count + 1),
                    None => sums.push((reading, 1)),
                }
            }
        }
        let mean = |(sum, count): (Reading, usize)| Reading {
            value: sum.value / count as f64,
            ..sum
        };
        Ok(sums.into_iter().map(mean).collect())
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
