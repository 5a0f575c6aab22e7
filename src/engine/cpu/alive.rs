//! Which lanes are alive; clears dead cells.

use crate::grid::{AliveMask, Padding};

use super::plan::Plan;

/// Which lanes are alive: in their 3x3 neighbourhood some cell's channel is above the threshold.
pub(super) fn alive(rule: &AliveMask, plan: &Plan, state: &[f32]) -> Vec<bool> {
    let row = plan.row();
    let threshold = rule.threshold as f32;
    let mut above = vec![false; plan.height * row];
    for (above, cells) in above.chunks_exact_mut(row).zip(state.chunks_exact(plan.line())) {
        let channel = &cells[rule.channel * row..][..row];
        let lanes = above.iter_mut().zip(channel);
        lanes.for_each(|(above, &x)| *above = x > threshold);
    }
    near(rule, plan, &above)
}

/// Which lanes have one of `lanes` in their 3x3 neighbourhood.
pub(super) fn near(rule: &AliveMask, plan: &Plan, lanes: &[bool]) -> Vec<bool> {
    let (row, images) = (plan.row(), plan.images);
    // First along rows, then along columns.
    let mut wide = lanes.to_vec();
    let inner = row - images;
    for (lanes, wide) in lanes.chunks_exact(row).zip(wide.chunks_exact_mut(row)) {
        or(&mut wide[images..], &lanes[..inner]);
        or(&mut wide[..inner], &lanes[images..]);
        if rule.padding == Padding::Circular {
            or(&mut wide[..images], &lanes[inner..]);
            or(&mut wide[inner..], &lanes[..images]);
        }
    }
    let mut near = wide.clone();
    for (y, near) in near.chunks_exact_mut(row).enumerate() {
        for dy in [-1, 1] {
            if let Some(other) = rule.padding.coordinate(y, dy, plan.height) {
                or(near, &wide[other * row..][..row]);
            }
        }
    }
    near
}

fn or(to: &mut [bool], from: &[bool]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to |= from);
}

/// Sets all channels of dead cells to 0.
pub(super) fn clear_dead(plan: &Plan, alive: &[bool], cells: &mut [f32]) {
    let (row, line) = (plan.row(), plan.line());
    for (alive, cells) in alive.chunks_exact(row).zip(cells.chunks_exact_mut(line)) {
        if alive.iter().all(|&alive| alive) {
            continue;
        }
        for channel in cells.chunks_exact_mut(row) {
            for (x, &alive) in channel.iter_mut().zip(alive) {
                *x = if alive { *x } else { 0.0 };
            }
        }
    }
}

/// Which lanes stay alive after a step: those alive both before it and in `next`. All others of `next` become
/// 0.
pub(super) fn clear_dying(rule: &AliveMask, plan: &Plan, before: &[bool], next: &mut [f32]) -> Vec<bool> {
    let mut alive = alive(rule, plan, next);
    alive.iter_mut().zip(before).for_each(|(a, b)| *a &= b);
    clear_dead(plan, &alive, next);
    alive
}
