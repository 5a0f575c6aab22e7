// What the kernels of all programs share: which cells fire, which lie around them, functions of one number.

struct Args {
    // Cells of all images, and their grid.
    cells: u32,
    height: u32,
    width: u32,
    // For draws: the number of the step, of the first image among all images, and the key.
    step: u32,
    first_image: u32,
    key: vec2<u32>,
    // Which cells fire: all; those below `rate`; those below the rate of each; those whose bit is set.
    fire: u32,
    rate: f32,
    // Of given bits, the first of this step.
    first_bit: u32,
}

@group(0) @binding(0) var<uniform> args: Args;
// The weights, then the constants.
@group(0) @binding(1) var<storage, read> weights: array<f32>;
// Cells before the step.
@group(0) @binding(2) var<storage, read> state: array<f32>;
// Rates of each cell as floats, or bits.
@group(0) @binding(3) var<storage, read> draws: array<u32>;
// Values of all cells that other kernels read, one value after the other.
@group(0) @binding(4) var<storage, read_write> scratch: array<f32>;
// Cells after the step, but for those that die, and after all of it.
@group(0) @binding(5) var<storage, read_write> updated: array<f32>;
@group(0) @binding(6) var<storage, read_write> next: array<f32>;

// The upper half of a product, by halves: there are no 64 bits.
fn high_product(a: u32, b: u32) -> u32 {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let middle = ah * bl + ((al * bl) >> 16u);
    let other = al * bh + (middle & 0xffffu);
    return ah * bh + (middle >> 16u) + (other >> 16u);
}

// Philox4x32 with ten rounds: word `element % 4` of the counter of four elements.
fn random_word(element: u32, image: u32, stream: u32) -> u32 {
    var at = vec4<u32>(element / 4u, image, args.step, stream);
    var key = args.key;
    for (var round = 0u; round < 10u; round++) {
        let low = at.xz * vec2<u32>(0xD2511F53u, 0xCD9E8D57u);
        let high = vec2<u32>(high_product(at.x, 0xD2511F53u), high_product(at.z, 0xCD9E8D57u));
        at = vec4<u32>(high.y ^ at.y ^ key.x, low.y, high.x ^ at.w ^ key.y, low.x);
        key += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
    }
    return at[element % 4u];
}

fn fires(cell: u32) -> bool {
    if (args.fire == 0u) {
        return true;
    }
    if (args.fire == 3u) {
        let bit = args.first_bit + cell;
        return ((draws[bit / 32u] >> (bit % 32u)) & 1u) == 1u;
    }
    let area = args.height * args.width;
    let at = cell % area;
    var rate = args.rate;
    if (args.fire == 2u) {
        rate = bitcast<f32>(draws[at]);
    }
    let word = random_word(at, args.first_image + cell / area, 0u);
    return f32(word >> 8u) * (1.0 / 16777216.0) < rate;
}

// The nine cells around a cell, row by row, itself the fifth; -1 beyond a zero-padded border.
fn around(cell: u32, torus: bool) -> array<i32, 9> {
    let height = i32(args.height);
    let width = i32(args.width);
    let at = i32(cell % (args.height * args.width));
    let first = i32(cell) - at;
    var near: array<i32, 9>;
    for (var n = 0; n < 9; n++) {
        var y = at / width + n / 3 - 1;
        var x = at % width + n % 3 - 1;
        if (torus) {
            y = select(select(y, 0, y == height), height - 1, y < 0);
            x = select(select(x, 0, x == width), width - 1, x < 0);
        }
        let inside = y >= 0 && x >= 0 && y < height && x < width;
        near[n] = select(-1, first + y * width + x, inside);
    }
    return near;
}

// Arguments of `exp` are kept where its result is finite and not 0: WGSL promises no infinity.
fn bounded_exp(x: f32) -> f32 {
    return exp(clamp(x, -87.0, 87.0));
}
fn relu(x: f32) -> f32 {
    return max(x, 0.0);
}
fn elu(x: f32) -> f32 {
    return select(bounded_exp(min(x, 0.0)) - 1.0, x, x > 0.0);
}
fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + bounded_exp(-x));
}
fn silu(x: f32) -> f32 {
    return x * sigmoid(x);
}
// By `exp`, which is more exact than what WGSL asks of `tanh`.
fn hyperbolic_tangent(x: f32) -> f32 {
    let below = bounded_exp(-2.0 * abs(x));
    return sign(x) * (1.0 - below) / (1.0 + below);
}
// Abramowitz and Stegun 7.1.26, to 1.5e-7.
fn error_function(x: f32) -> f32 {
    let y = min(abs(x), 9.0);
    let t = 1.0 / (1.0 + 0.3275911 * y);
    let sum = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return sign(x) * (1.0 - sum * bounded_exp(-y * y));
}
fn gelu(x: f32) -> f32 {
    return 0.5 * x * (1.0 + error_function(x * 0.70710678));
}
fn quantised(x: f32, low: f32, high: f32, step: f32) -> f32 {
    return floor((clamp(x, low, high) - low) / step + 0.5) * step + low;
}
