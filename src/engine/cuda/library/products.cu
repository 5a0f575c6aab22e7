// Matrix products on tensor cores. PRECISION says how operands are rounded; sums are in f32.

enum Precision { F32, TF32, BF16 };

// Tensor cores may cut the last bits of a sum off, always in one direction. So after this many terms a sum is
// added to another by ordinary, rounded additions.
constexpr int CHAIN = 128;

// Two values that follow each other along the sum.
struct Pair {
    float a, b;
};

// The operands of one step of 16 terms, as the lanes of a warp hold them: with g = lane / 4 and j = lane % 4,
// rows g and g + 8 of the left one, column g of the right one, terms 2j, 2j + 1, 2j + 8, 2j + 9.
template <int PAIRS>
struct Operand {
    unsigned high[2 * PAIRS];
    unsigned low[2 * PAIRS];
};

template <int PAIRS>
DEVICE Operand<PAIRS> operand(const Pair (&pairs)[PAIRS]) {
    Operand<PAIRS> of;
    for (int i = 0; i < PAIRS; i++) {
        if (PRECISION == BF16) {
            of.high[i] = to_bf16(pairs[i].a, pairs[i].b);
            continue;
        }
        of.high[2 * i] = to_tf32(pairs[i].a);
        of.high[2 * i + 1] = to_tf32(pairs[i].b);
        if (PRECISION == F32) {
            of.low[2 * i] = to_tf32(pairs[i].a - real(of.high[2 * i]));
            of.low[2 * i + 1] = to_tf32(pairs[i].b - real(of.high[2 * i + 1]));
        }
    }
    return of;
}

// Half of the terms, of TF32. The order of terms is free if it is the same in both operands.
DEVICE void multiply_half(float (&sum)[4], const unsigned (&left)[8], const unsigned (&right)[4], int half) {
    const unsigned a[4] = {left[4 * half], left[4 * half + 2], left[4 * half + 1], left[4 * half + 3]};
    const unsigned b[2] = {right[2 * half], right[2 * half + 1]};
    multiply_tf32(sum, a, b);
}

// sum += left right. In f32 an operand is the sum of two of TF32, and the product of the lower ones is left
// out. The rest is summed apart, the small terms first, so that what tensor cores cut off is a part of these 16
// terms and not of the whole sum.
DEVICE void multiply(float (&sum)[4], const Operand<4>& left, const Operand<2>& right) {
    if (PRECISION == BF16) {
        const unsigned a[4] = {left.high[0], left.high[1], left.high[2], left.high[3]};
        const unsigned b[2] = {right.high[0], right.high[1]};
        multiply_bf16(sum, a, b);
        return;
    }
    if (PRECISION == TF32) {
        for (int half = 0; half < 2; half++) multiply_half(sum, left.high, right.high, half);
        return;
    }
    float part[4] = {};
    for (int half = 0; half < 2; half++) {
        multiply_half(part, left.low, right.high, half);
        multiply_half(part, left.high, right.low, half);
    }
    for (int half = 0; half < 2; half++) multiply_half(part, left.high, right.high, half);
    for (int i = 0; i < 4; i++) sum[i] += part[i];
}

// A value of rows in shared memory.
struct Slot {
    const float* values;
    int pitch;
    DEVICE float operator()(int row, int k) const { return values[row * pitch + k]; }
    DEVICE Pair pair(int row, int k) const {
        float2 both = *reinterpret_cast<const float2*>(values + row * pitch + k);
        return {both.x, both.y};
    }
};

// Any function of a row and a channel.
template <class Of>
struct Computed {
    Of of;
    DEVICE float operator()(int row, int k) const { return of(row, k); }
    DEVICE Pair pair(int row, int k) const { return {of(row, k), of(row, k + 1)}; }
};

template <class Of>
DEVICE Computed<Of> computed(Of of) {
    return {of};
}

// A matrix [outputs, inputs], by output and term; and the same transposed.
struct Matrix {
    const float* values;
    int inputs;
    DEVICE float operator()(int output, int k) const { return values[(size_t)output * inputs + k]; }
};

struct Transposed {
    const float* values;
    int inputs;
    DEVICE float operator()(int output, int k) const { return values[(size_t)k * inputs + output]; }
};

template <int K, class Left>
DEVICE Pair pair_of_row(const Left& left, int row, int k) {
    if (K % 16 == 0) return left.pair(row, k);
    return {k < K ? left(row, k) : 0.0f, k + 1 < K ? left(row, k + 1) : 0.0f};
}

template <int K, int N, class Right>
DEVICE Pair pair_of_column(const Right& right, int n, int k) {
    if (N % 16 != 0 && n >= N) return {0.0f, 0.0f};
    if (K % 16 == 0) return {right(n, k), right(n, k + 1)};
    return {k < K ? right(n, k) : 0.0f, k + 1 < K ? right(n, k + 1) : 0.0f};
}

// store(row, n, sum over k of left(row, k) right(n, k)) for each of N columns. A warp takes 32 rows and 16
// columns at a time.
template <int K, int N, class Left, class Right, class Store>
DEVICE void product(const Rows& rows, const Left& left, const Right& right, Store store) {
    constexpr int COLUMNS = (N + 15) / 16;
    int jobs = (rows.count + 31) / 32 * COLUMNS, g = thread() % 32 / 4, j = thread() % 4;
    for (int job = thread() / 32; job < jobs; job += WARPS) {
        int row = job / COLUMNS * 32, column = job % COLUMNS * 16;
        // Rows beyond the last are computed from some other row, and not stored.
        int last = rows.count - 1, halves = row + 16 < rows.count ? 2 : 1;
        float sum[2][2][4] = {};
#pragma unroll 1
        for (int chain = 0; chain < K; chain += CHAIN) {
            float part[2][2][4] = {};
#pragma unroll 1
            for (int k = chain + 2 * j; k < min(chain + CHAIN, (K + 15) / 16 * 16); k += 16) {
                Operand<2> of_columns[2];
#pragma unroll
                for (int n = 0; n < 2; n++) {
                    int at = column + 8 * n + g;
                    of_columns[n] = operand<2>(
                        {pair_of_column<K, N>(right, at, k), pair_of_column<K, N>(right, at, k + 8)});
                }
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    if (half >= halves) break;
                    int upper = min(row + 16 * half + g, last), lower = min(row + 16 * half + g + 8, last);
                    Operand<4> of_rows = operand<4>({pair_of_row<K>(left, upper, k), pair_of_row<K>(left, lower, k),
                        pair_of_row<K>(left, upper, k + 8), pair_of_row<K>(left, lower, k + 8)});
                    for (int n = 0; n < 2; n++) multiply(part[half][n], of_rows, of_columns[n]);
                }
            }
            for (int i = 0; i < 16; i++) (&sum[0][0][0])[i] += (&part[0][0][0])[i];
        }
#pragma unroll
        for (int i = 0; i < 16; i++) {
            int half = i / 8, to = row + 16 * half + g + i % 4 / 2 * 8, n = column + i / 4 % 2 * 8 + 2 * j + i % 2;
            if (half < halves && to < rows.count && n < N) store(to, n, (&sum[0][0][0])[i]);
        }
    }
}
