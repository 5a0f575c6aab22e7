//! Where values lie near to the cores.

use super::Slot;

/// A value that a loop of a kernel computes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Value {
    pub width: usize,
    /// The last loop of the kernel that reads it, if one does.
    pub last_read: Option<usize>,
}

/// A slot for each value that a later loop reads, and the floats a row that all slots together take. Two
/// values share memory if the last loop that reads the one comes before the loop that computes the other.
pub(super) fn allocate(values: &[Value]) -> (Vec<Option<Slot>>, usize) {
    let mut slots: Vec<Option<Slot>> = vec![];
    let mut floats = 0;
    for (at, value) in values.iter().enumerate() {
        let slot = value.last_read.map(|_| {
            let live =
                |&(other, _): &(usize, &Option<Slot>)| values[other].last_read.is_some_and(|last| last >= at);
            let mut taken: Vec<Slot> = slots
                .iter()
                .enumerate()
                .filter(live)
                .filter_map(|(_, slot)| *slot)
                .collect();
            taken.sort_by_key(|slot| slot.first);
            let pitch = pitch(value.width);
            let mut first = 0;
            for slot in taken {
                if first + pitch <= slot.first {
                    break;
                }
                first = first.max(slot.first + slot.pitch);
            }
            Slot { first, pitch }
        });
        floats = floats.max(slot.map_or(0, |slot| slot.first + slot.pitch));
        slots.push(slot);
    }
    (slots, floats)
}

/// Floats between two rows of a value: lanes that read four terms of eight rows at once find them in
/// different banks.
fn pitch(width: usize) -> usize {
    match width {
        0..8 => width | 1,
        _ => (width + 4).next_multiple_of(8) - 4,
    }
}

#[cfg(test)]
mod tests {
    use super::{Slot, Value, allocate};

    #[test]
    fn values_that_are_live_together_do_not_overlap() {
        let value = |width, last_read| Value { width, last_read };
        let values = [
            value(16, Some(2)),
            value(3, Some(1)),
            value(40, Some(4)),
            value(5, None),
            value(16, Some(5)),
            value(1, Some(6)),
            value(9, None),
        ];
        let (slots, floats) = allocate(&values);
        for (at, value) in values.iter().enumerate() {
            let Some(last) = value.last_read else {
                assert!(slots[at].is_none());
                continue;
            };
            let slot = slots[at].unwrap();
            assert!(slot.pitch >= value.width && slot.first + slot.pitch <= floats);
            for other in slots[at + 1..=last].iter().flatten() {
                let end = |slot: &Slot| slot.first + slot.pitch;
                assert!(end(&slot) <= other.first || end(other) <= slot.first, "{at}");
            }
        }
        assert_eq!(slots[4].unwrap().first, 0, "what is free is used again");
    }
}
