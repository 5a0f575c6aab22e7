//! A rollout with the values of its weights: what all groups share.

use crate::engine::job::{Job, Precision};
use crate::program::Op;

use super::kernels::{arch, gemm_bf16};

/// A rollout with the values of its weights: what all groups share.
pub(super) struct Call<'a> {
    pub job: &'a Job,
    /// All parameters, one after the other.
    params: &'a [f32],
    /// For each parameter that is the matrix of a linear layer: the matrix and its transpose, packed for the
    /// bf16 product. Empty in f32.
    packed: Vec<[Vec<u32>; 2]>,
}

impl<'a> Call<'a> {
    pub fn new(job: &'a Job, params: &'a [f32]) -> Self {
        let mut call = Self {
            job,
            params,
            packed: vec![],
        };
        if job.task.precision == Precision::Bf16 && gemm_bf16::is_native(arch()) {
            call.pack();
        }
        call
    }

    fn pack(&mut self) {
        self.packed = vec![[vec![], vec![]]; self.job.program.params.len()];
        for node in &self.job.program.nodes {
            let Op::Linear { weight, .. } = node.op else {
                continue;
            };
            if let [output, input] = *self.job.program.params[weight].dims() {
                let values = self.param(weight);
                self.packed[weight] = [
                    gemm_bf16::pack(values, (input, 1), (output, input)),
                    gemm_bf16::pack(values, (1, input), (input, output)),
                ];
            }
        }
    }

    pub fn param(&self, param: usize) -> &'a [f32] {
        &self.params[self.job.range(param)]
    }

    /// A matrix, or its transpose, packed for the bf16 product.
    pub fn packed(&self, param: usize, transposed: bool) -> Option<&[u32]> {
        Some(self.packed.get(param)?[usize::from(transposed)].as_slice())
    }
}
