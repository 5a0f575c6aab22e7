//! What a kernel is launched with: the counterparts of the structs in `library/`.

/// The counterpart of `Args`, field by field. Addresses are those of the device; 0 for what a kernel does not
/// read.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Args {
    pub cells: i32,
    pub height: i32,
    pub width: i32,
    pub tile: i32,
    pub step: i32,
    pub first_image: i32,
    pub key: [u32; 2],
    pub fire: i32,
    pub rate: f32,
    pub training: i32,
    pub sums: i32,
    pub numbers: i32,
    pub unused: i32,
    pub draw: u64,
    pub weights: u64,
    pub state: u64,
    pub after: u64,
    pub next: u64,
    pub alive: u64,
    pub gradient: u64,
    pub gradient_before: u64,
    pub scratch: u64,
    pub partial: u64,
    pub jobs: u64,
}

/// Which cells fire: the values of `Fire`.
pub(super) mod fire {
    pub const ALL: i32 = 0;
    pub const SAME_RATE: i32 = 1;
    pub const EACH_RATE: i32 = 2;
    pub const GIVEN: i32 = 3;
}

/// The counterpart of `Base`: what a term's offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Base {
    State = 0,
    Scratch = 1,
    Weights = 2,
}

/// The counterpart of `Sum`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum SumKind {
    Outer = 0,
    Channelwise = 1,
    Products = 2,
    Taps = 3,
    Images = 4,
}

/// The counterpart of `Term`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawTerm {
    pub base: i32,
    pub first: i32,
    pub pitch: i32,
    pub area: i32,
    pub offset: u64,
}

/// The counterpart of `Job`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawJob {
    pub a: RawTerm,
    pub b: RawTerm,
    pub kind: i32,
    pub near: i32,
    pub circular: i32,
    pub filters: i32,
    pub rows: i32,
    pub columns: i32,
    pub offset: i32,
    pub pitch: i32,
    pub chunk: i32,
    pub chunks: i32,
    pub first_block: i32,
    pub skip: i32,
    pub partial: u64,
}

impl RawJob {
    /// As it lies in memory.
    pub fn bytes(&self) -> Vec<u8> {
        let terms = [self.a, self.b].into_iter().flat_map(|term| {
            let words = [term.base, term.first, term.pitch, term.area].map(i32::to_ne_bytes);
            [&words.concat()[..], &term.offset.to_ne_bytes()].concat()
        });
        let words = [
            self.kind,
            self.near,
            self.circular,
            self.filters,
            self.rows,
            self.columns,
            self.offset,
            self.pitch,
            self.chunk,
            self.chunks,
            self.first_block,
            self.skip,
        ];
        let words = words.into_iter().flat_map(i32::to_ne_bytes);
        terms.chain(words).chain(self.partial.to_ne_bytes()).collect()
    }
}
