//! The structure of a program: everything that compiled code depends on.

use std::fmt;

use super::Program;

/// The structure of a program: operations, wiring, widths, scalars, paddings, layout, alive mask and update.
/// No weights and no grid sizes.
///
/// Two programs of one structure differ only in the values of their weights, so what was compiled for one
/// fits the other. Displayed it is 16 hexadecimal digits, the same in every run and on every machine: a name
/// for a file.
///
/// ```
/// use lnca::program::{Function, Program, ProgramBuilder};
/// use lnca::{CellLayout, Result};
///
/// let layout = CellLayout { input: 0, output: 2, hidden: 1 };
/// let of = |function| -> Result<Program> {
///     let mut p = ProgramBuilder::new(layout);
///     let update = p.map(p.cells(), function)?;
///     p.finish(update)
/// };
/// let (tanh, relu) = (of(Function::Tanh)?.structure(), of(Function::Relu)?.structure());
/// assert_eq!(tanh, of(Function::Tanh)?.structure());
/// assert_ne!(tanh, relu);
/// assert_eq!(tanh.to_string().len(), 16);
/// # Ok::<(), lnca::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Structure {
    /// The structure spelled out and compared in full: hashes could collide.
    text: String,
}

impl Program {
    /// The structure of the program, by which what is compiled for it is cached.
    pub fn structure(&self) -> Structure {
        // Every field is named, so that a new one cannot be forgotten. The derived `Debug` of operations
        // prints all of their fields, with scalars to the last digit.
        let Self {
            layout,
            alive,
            nodes,
            params: _,
            update,
        } = self;
        Structure {
            text: format!("{layout:?} {alive:?} {nodes:?} {update}"),
        }
    }
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", fnv1a(self.text.as_bytes()))
    }
}

/// The 64-bit hash FNV-1a (Fowler, Noll and Vo), which unlike the standard library's is the same in every
/// version.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    let (basis, prime) = (0xcbf2_9ce4_8422_2325, 0x0100_0000_01b3);
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(prime);
    bytes.iter().fold(basis, step)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use candle_core::{DType, Device, Tensor};

    use super::super::test_programs::{library, noise};
    use super::super::{Function, Program, ProgramBuilder, Value};
    use super::fnv1a;
    use crate::grid::{AliveMask, CellLayout, Padding};

    /// The published test vectors.
    #[test]
    fn hashes_are_those_of_fnv1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    const LAYOUT: CellLayout = CellLayout {
        input: 1,
        output: 2,
        hidden: 1,
    };

    type Build<'a> = dyn Fn(&mut ProgramBuilder, Value) -> crate::Result<Value> + 'a;

    /// A program whose update `build` makes of the cells.
    fn program(layout: CellLayout, build: &Build<'_>) -> Program {
        let mut p = ProgramBuilder::new(layout);
        let cells = p.cells();
        let value = build(&mut p, cells).unwrap();
        let weight = noise(&[layout.update_channels(), value.width()], 1);
        let update = p.linear(value, &weight, None).unwrap();
        p.finish(update).unwrap()
    }

    /// Programs that pairwise differ in structure, some in one detail only.
    fn different() -> Vec<Program> {
        [of_other_operations(), of_other_cells()].concat()
    }

    fn of_other_operations() -> Vec<Program> {
        let weight = |shape: &[usize]| noise(shape, 2);
        let attend = |heads: usize, padding: Padding, swapped: bool| {
            move |p: &mut ProgramBuilder, x: Value| {
                let (a, b) = (p.map(x, Function::Tanh)?, p.map(x, Function::Relu)?);
                let (q, k) = if swapped { (b, a) } else { (a, b) };
                p.attention(q, k, x, heads, padding)
            }
        };
        let map = |function| move |p: &mut ProgramBuilder, x: Value| p.map(x, function);
        let norm =
            |eps| move |p: &mut ProgramBuilder, x: Value| p.layer_norm(x, &weight(&[4]), &weight(&[4]), eps);
        let affine = |scale: bool, shift: bool| {
            move |p: &mut ProgramBuilder, x: Value| {
                let row = weight(&[4]);
                p.affine(x, scale.then_some(&row), shift.then_some(&row))
            }
        };
        let layer = |width: usize, bias: bool| {
            move |p: &mut ProgramBuilder, x: Value| {
                let row = weight(&[width]);
                p.linear(x, &weight(&[width, 4]), bias.then_some(&row))
            }
        };
        let stencil = |filters: usize, padding: Padding| {
            move |p: &mut ProgramBuilder, x: Value| p.stencil(x, &weight(&[filters, 3, 3]), padding)
        };
        let (zero, torus) = (Padding::Zero, Padding::Circular);
        let builds: Vec<Box<Build<'_>>> = vec![
            Box::new(|_, x| Ok(x)),
            Box::new(map(Function::Relu)),
            Box::new(map(Function::Clamp { min: 0.0, max: 1.0 })),
            Box::new(map(Function::Clamp {
                min: 0.0,
                max: 1.0 + f32::EPSILON,
            })),
            Box::new(norm(1e-6)),
            Box::new(norm(1e-6 + 1e-21)),
            Box::new(move |p, x| p.rms_norm(x, &weight(&[4]), 0.1)),
            Box::new(move |p, x| p.rms_norm(x, &weight(&[4]), 0.2)),
            Box::new(|p, x| p.inverse_rms(x, 0.1)),
            Box::new(|p, x| p.inverse_std(x, 0.1)),
            Box::new(|p, x| p.inverse_std(x, 0.2)),
            Box::new(affine(true, true)),
            Box::new(affine(true, false)),
            Box::new(affine(false, true)),
            Box::new(layer(4, true)),
            Box::new(layer(4, false)),
            Box::new(layer(5, false)),
            Box::new(stencil(1, zero)),
            Box::new(stencil(1, torus)),
            Box::new(stencil(2, torus)),
            Box::new(|p, x| p.neighbourhood(x, Padding::Zero)),
            Box::new(|p, x| p.neighbourhood(x, Padding::Circular)),
            Box::new(attend(2, zero, false)),
            Box::new(attend(1, zero, false)),
            Box::new(attend(2, torus, false)),
            Box::new(attend(2, zero, true)),
            Box::new(|p, x| p.slice(x, 0, 2)),
            Box::new(|p, x| p.slice(x, 1, 2)),
            Box::new(|p, x| p.concat(&[x, x])),
            Box::new(|p, x| p.concat(&[x, x, x])),
            Box::new(|p, x| p.add(x, x)),
            Box::new(|p, x| p.mul(x, x)),
            Box::new(|p, x| p.dropout(x, 0.1)),
            Box::new(|p, x| p.dropout(x, 0.2)),
            Box::new(|p, _| p.constant(&weight(&[3, 3, 4]))),
            Box::new(|p, _| p.constant(&weight(&[3, 3, 5]))),
        ];
        builds.iter().map(|build| program(LAYOUT, build)).collect()
    }

    /// Programs of other layouts, alive masks and updates.
    fn of_other_cells() -> Vec<Program> {
        let plain = |layout| program(layout, &|_, x| Ok(x));
        // As many channels, divided differently.
        let mut all = vec![plain(CellLayout {
            output: 1,
            hidden: 2,
            ..LAYOUT
        })];
        let rule = AliveMask {
            channel: 1,
            threshold: 0.1,
            padding: Padding::Zero,
        };
        let rules = [
            rule,
            AliveMask { channel: 2, ..rule },
            AliveMask {
                threshold: 0.2,
                ..rule
            },
            AliveMask {
                padding: Padding::Circular,
                ..rule
            },
        ];
        all.extend(rules.map(|rule| plain(LAYOUT).with_alive_mask(Some(rule)).unwrap()));
        // The same operations with another of them as the update.
        all.extend([0, 1].map(|update| {
            let mut p = ProgramBuilder::new(LAYOUT);
            let values = [0, 1].map(|_| p.slice(p.cells(), 0, 3).unwrap());
            p.finish(values[update]).unwrap()
        }));
        all
    }

    #[test]
    fn any_difference_makes_another() {
        let mut seen = HashMap::new();
        let programs = different();
        for (n, program) in programs.iter().enumerate() {
            if let Some(other) = seen.insert(program.structure(), n) {
                panic!("programs {other} and {n} are taken for one: {program:?}");
            }
        }
        let names: HashSet<String> = seen.keys().map(ToString::to_string).collect();
        assert_eq!(names.len(), programs.len());
        assert!(names.iter().all(|name| name.len() == 16));
    }

    #[test]
    fn weights_types_and_grids_make_no_other() {
        for (program, again) in different().into_iter().zip(different()) {
            let mut other = again.clone();
            other
                .params
                .iter_mut()
                .for_each(|param| *param = (&*param * 2.0).unwrap());
            assert_eq!(program.structure(), again.structure());
            assert_eq!(program.structure(), other.structure());
            assert_eq!(program.structure().to_string(), other.structure().to_string());
        }
        let (small, large) = (library((4, 3), DType::F32), library((9, 11), DType::F64));
        for (small, large) in small.iter().zip(&large) {
            assert_eq!(
                small.program.structure(),
                large.program.structure(),
                "{}",
                small.what
            );
        }
        let table = |size: (usize, usize)| {
            let mut p = ProgramBuilder::new(LAYOUT);
            let table = Tensor::zeros((size.0, size.1, 3), DType::F32, &Device::Cpu).unwrap();
            let update = p.constant(&table).unwrap();
            p.finish(update).unwrap().structure()
        };
        assert_eq!(table((2, 7)), table((5, 1)));
    }
}
