// Matrix products on tensor cores. PRECISION says how operands are rounded; sums are in f32.

enum Precision { F32, TF32, BF16 };

// Tensor cores may cut the last bits of a sum off, always in one direction. So after this many terms a sum is
// added to another by ordinary, rounded additions.
constexpr int CHAIN = 128;

// Two values along the sum, four terms apart.
struct Pair {
    float a, b;
};

// The operands of one step of 16 terms, as the lanes of a warp hold them: with g = lane / 4 and j = lane % 4,
// rows g and g + 8 of the left one, column g of the right one, terms j, j + 4, j + 8, j + 12.
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
// terms and not of the whole sum. Those small terms are NaN where an operand is infinite, and the large ones say what
// the product is.
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
    for (int i = 0; i < 4; i++) part[i] = part[i] == part[i] ? part[i] : 0.0f;
    for (int half = 0; half < 2; half++) multiply_half(part, left.high, right.high, half);
    for (int i = 0; i < 4; i++) sum[i] += part[i];
}

// A matrix of which output n and term k is values[n by_output + k by_term].
struct Matrix {
    const float* values;
    int by_output, by_term;
};

// Where a warp puts 32 x 16 sums, so that its lanes take them by rows.
constexpr int STAGE_PITCH = 20, STAGE = 32 * STAGE_PITCH;

// Sums over `terms` terms for 32 rows and 16 outputs, which are put on the stage. LEFT gives the pair of terms
// k and k + 4 of a row, 0 beyond the last. Rows and outputs beyond the last are computed from others, and are
// not to be used.
template <class Left>
DEVICE void sums_of(
    const Left& left, const Matrix& right, int terms, int outputs, int row, int column, int count, float* stage) {
    int lane = thread() % 32, g = lane / 4, j = lane % 4;
    bool is_whole = row + 16 < count;
    const float* of_column[2];
    for (int n = 0; n < 2; n++) of_column[n] = right.values + min(column + 8 * n + g, outputs - 1) * right.by_output;
    float sum[2][2][4] = {};
#pragma unroll 1
    for (int chain = 0; chain < terms; chain += CHAIN) {
        float part[2][2][4] = {};
#pragma unroll 1
        for (int k = chain + j; k < min(chain + CHAIN, terms + j); k += 16) {
            Operand<2> of_columns[2];
            for (int n = 0; n < 2; n++) {
                float values[4];
                for (int i = 0; i < 4; i++) {
                    values[i] = k + 4 * i < terms ? of_column[n][(k + 4 * i) * right.by_term] : 0.0f;
                }
                of_columns[n] = operand<2>({{values[0], values[1]}, {values[2], values[3]}});
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
                if (half == 1 && !is_whole) break;
                int upper = min(row + 16 * half + g, count - 1), lower = min(row + 16 * half + g + 8, count - 1);
                Operand<4> of_rows = operand<4>(
                    {left(upper, k), left(lower, k), left(upper, k + 8), left(lower, k + 8)});
                for (int n = 0; n < 2; n++) multiply(part[half][n], of_rows, of_columns[n]);
            }
        }
        for (int i = 0; i < 16; i++) (&sum[0][0][0])[i] += (&part[0][0][0])[i];
    }
    for (int i = 0; i < 16; i++) {
        int to = i / 8 * 16 + g + i % 4 / 2 * 8, n = i / 4 % 2 * 8 + 2 * j + i % 2;
        stage[to * STAGE_PITCH + n] = (&sum[0][0][0])[i];
    }
    warp_sync();
}

// Rows that lie `pitch` apart, in the order of `cell` if it is there.
struct Table {
    const float* values;
    int pitch;
    const int* cell;
};

// The same for all tables of a kernel.
CALL void sums_of_table(
    Table table, Matrix right, int terms, int outputs, int row, int column, int count, float* stage) {
    auto left = [&](int row, int k) {
        const float* of_row = table.values + (size_t)(table.cell ? table.cell[row] : row) * table.pitch;
        return Pair{k < terms ? of_row[k] : 0.0f, k + 4 < terms ? of_row[k + 4] : 0.0f};
    };
    sums_of(left, right, terms, outputs, row, column, count, stage);
}

template <int K>
DEVICE void sums(Table left, const Matrix& right, int outputs, int row, int column, int count, float* stage) {
    sums_of_table(left, right, K, outputs, row, column, count, stage);
}

// Any function of a row and a term.
template <class Of>
struct Computed {
    Of of;
};

template <class Of>
DEVICE Computed<Of> computed(Of of) {
    return {of};
}

template <int K, class Of>
DEVICE void sums(
    const Computed<Of>& left, const Matrix& right, int outputs, int row, int column, int count, float* stage) {
    auto pair = [&](int row, int k) {
        return Pair{k < K ? left.of(row, k) : 0.0f, k + 4 < K ? left.of(row, k + 4) : 0.0f};
    };
    sums_of(pair, right, K, outputs, row, column, count, stage);
}

// store(row, n, sum over K terms of left and right) for each of N outputs. A warp takes 32 rows and 16 outputs
// at a time.
template <int K, int N, class Left, class Store>
DEVICE void product(const Rows& rows, const Left& left, const Matrix& right, Store store) {
    constexpr int COLUMNS = (N + 15) / 16;
    int jobs = (rows.count + 31) / 32 * COLUMNS;
    float* stage = rows.stage + thread() / 32 * STAGE;
#pragma unroll 1
    for (int job = thread() / 32; job < jobs; job += WARPS) {
        int row = job / COLUMNS * 32, column = job % COLUMNS * 16;
        // The lanes may still be reading the stage, some in one round more than others.
        warp_sync();
        sums<K>(left, right, N, row, column, rows.count, stage);
#pragma unroll 2
        for (int i = thread() % 32; i < 512 && row + i / 16 < rows.count; i += 32) {
            int n = column + i % 16;
            if (n < N) store(row + i / 16, n, stage[i / 16 * STAGE_PITCH + i % 16]);
        }
    }
}
