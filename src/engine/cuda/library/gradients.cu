// Gradients beside the phases: what enters a step, and sums over cells.

// The cells of a block that are looked at together.
constexpr int ENTERING = 64;

// The gradient of the update, the first value in `scratch`, and of the cells through all but the update: that of the cells
// after the step, where a cell lives.
KERNEL enter(CONSTANT Args args) {
    int* facts = reinterpret_cast<int*>(shared_memory());
    int first = block() * ENTERING, count = min(ENTERING, args.cells - first);
    if (thread() < count) {
        int cell = first + thread();
        bool lives = !args.alive || args.alive[cell];
        facts[thread()] = lives + 2 * (lives && fires(args, cell));
    }
    block_sync();
    constexpr int UPDATED = CHANNELS - INPUTS;
    for (int i = thread(); i < count * CHANNELS; i += THREADS) {
        int cell = first + i / CHANNELS, channel = i % CHANNELS, fact = facts[i / CHANNELS];
        size_t at = (size_t)first * CHANNELS + i;
        float gradient = args.gradient[at];
        args.gradient_before[at] = fact & 1 ? gradient : 0.0f;
        if (channel >= INPUTS) {
            args.scratch[(size_t)cell * UPDATED + channel - INPUTS] = fact & 2 ? gradient : 0.0f;
        }
    }
}

// Sums over cells: the gradients of weights. Each is cut into chunks of cells by sizes alone, and partial sums
// are added in a fixed order, so that the bits are the same in every run. Partial sums go on from step to step.

enum Sum { OUTER, CHANNELWISE, PRODUCTS, TAPS, IMAGES };

// Channels of a value of cells, from `first` on; the value begins at `offset` of `base` and has `pitch` channels.
// That of a constant has `area` cells, which are those of every image.
enum Base { STATE, SCRATCH, WEIGHTS };

struct Term {
    int base, first, pitch, area;
    size_t offset;
};

// A sum: `rows` by `columns` numbers, in the gradient from `offset` on, `pitch` a row.
struct Job {
    Term a, b;
    int kind;
    // Which neighbour of `b`, and on what grid.
    int near, circular;
    // Of taps: filters a channel.
    int filters;
    int rows, columns, offset, pitch;
    // Cells a chunk, how many chunks, and the first block.
    int chunk, chunks, first_block;
    // Of taps: filters that the first channel lacks.
    int skip;
    // Where the partial sums lie.
    size_t partial;
};

DEVICE float read(const Args& args, const Term& term, int cell, int channel) {
    const float* from = term.base == STATE ? args.state : term.base == SCRATCH ? args.scratch : args.weights;
    int at = term.area ? cell % term.area : cell;
    return from[term.offset + (size_t)at * term.pitch + term.first + channel];
}

// The job of this block.
DEVICE Job job_of_block(const Args& args) {
    int job = 0;
    while (job + 1 < args.sums && args.jobs[job + 1].first_block <= block()) job++;
    return args.jobs[job];
}

constexpr int SIDE = 64, DEPTH = 32, PITCH = SIDE + 8;

// One part of 64 x 64 numbers of `sum over cells of a^T b`, for one chunk of cells.
KERNEL sum_outer(CONSTANT Args args) {
    const Job job = job_of_block(args);
    int tiles_across = (job.columns + SIDE - 1) / SIDE, tiles = (job.rows + SIDE - 1) / SIDE * tiles_across;
    int mine = block() - job.first_block, tile = mine % tiles, chunk = mine / tiles;
    int row = tile / tiles_across * SIDE, column = tile % tiles_across * SIDE;
    int from = chunk * job.chunk, to = min(from + job.chunk, args.cells);
    float* left = shared_memory();
    float* right = left + DEPTH * PITCH;
    int warp = thread() / 32, g = thread() % 32 / 4, j = thread() % 4;
    int of_rows = warp / 2 * 16, of_columns = warp % 2 * 32;
    float sum[4][4] = {};
    for (int chain = from; chain < to; chain += CHAIN) {
        float part[4][4] = {};
        for (int first = chain; first < min(chain + CHAIN, to); first += DEPTH) {
            block_sync();
            for (int i = thread(); i < DEPTH * SIDE; i += THREADS) {
                int at = i / SIDE, c = i % SIDE, cell = first + at, near = cell;
                bool inside = cell < to;
                if (inside && job.near != 4) near = neighbour(args, cell, job.near, job.circular);
                left[at * PITCH + c] = inside && row + c < job.rows ? read(args, job.a, cell, row + c) : 0.0f;
                right[at * PITCH + c] =
                    inside && near >= 0 && column + c < job.columns ? read(args, job.b, near, column + c) : 0.0f;
            }
            block_sync();
#pragma unroll 1
            for (int k = j; k < DEPTH; k += 16) {
                Pair of_left[4];
                for (int i = 0; i < 4; i++) {
                    const float* at = left + (k + i / 2 * 8) * PITCH + of_rows + g + i % 2 * 8;
                    of_left[i] = {at[0], at[4 * PITCH]};
                }
                Operand<4> a = operand<4>(of_left);
                for (int n = 0; n < 4; n++) {
                    const float* at = right + k * PITCH + of_columns + 8 * n + g;
                    Operand<2> b = operand<2>({{at[0], at[4 * PITCH]}, {at[8 * PITCH], at[12 * PITCH]}});
                    multiply(part[n], a, b);
                }
            }
        }
        for (int i = 0; i < 16; i++) (&sum[0][0])[i] += (&part[0][0])[i];
    }
    float* partial = args.partial + job.partial + (size_t)chunk * job.rows * job.columns;
    for (int i = 0; i < 16; i++) {
        int r = row + of_rows + g + i % 4 / 2 * 8, c = column + of_columns + i / 4 * 8 + 2 * j + i % 2;
        if (r < job.rows && c < job.columns) partial[(size_t)r * job.columns + c] += sum[i / 4][i % 4];
    }
}

// What a cell adds to number `number` of a sum that is no product of matrices.
DEVICE float summand(const Args& args, const Job& job, int number, int cell) {
    if (job.kind == CHANNELWISE) return read(args, job.a, cell, number);
    if (job.kind == PRODUCTS) return read(args, job.a, cell, number) * read(args, job.b, cell, number);
    int channel = number / 9, near = neighbour(args, cell, number % 9, job.circular);
    return near < 0 ? 0.0f : read(args, job.a, cell, channel) * read(args, job.b, near, (channel + job.skip) / job.filters);
}

// 32 numbers of a sum, for one chunk of cells, or of the cells of all images that have one place.
KERNEL sum_channels(CONSTANT Args args) {
    const Job job = job_of_block(args);
    int numbers = job.rows * job.columns, parts = (numbers + 31) / 32;
    int mine = block() - job.first_block, chunk = mine / parts, number = mine % parts * 32 + thread() % 32;
    float sum = 0.0f;
    if (job.kind == IMAGES) {
        int area = args.height * args.width;
        for (int image = thread() / 32; number < numbers && image < args.cells / area; image += WARPS) {
            sum += read(args, job.a, image * area + number / job.columns, number % job.columns);
        }
    } else {
        int to = min((chunk + 1) * job.chunk, args.cells);
        for (int cell = chunk * job.chunk + thread() / 32; number < numbers && cell < to; cell += WARPS) {
            sum += summand(args, job, number, cell);
        }
    }
    float* sums = shared_memory();
    sums[thread()] = sum;
    block_sync();
    if (thread() < 32 && number < numbers) {
        for (int warp = 1; warp < WARPS; warp++) sum += sums[32 * warp + thread()];
        args.partial[job.partial + (size_t)chunk * numbers + number] += sum;
    }
}

// The gradient of each weight, in `next`: all sums that are for it, chunk by chunk.
KERNEL reduce(CONSTANT Args args) {
    int number = block() * THREADS + thread();
    if (number >= args.numbers) return;
    float gradient = 0.0f;
    for (int i = 0; i < args.sums; i++) {
        const Job& job = args.jobs[i];
        int at = number - job.offset;
        if (at < 0 || at / job.pitch >= job.rows || at % job.pitch >= job.columns) continue;
        size_t own = (size_t)(at / job.pitch) * job.columns + at % job.pitch;
        for (int chunk = 0; chunk < job.chunks; chunk++) {
            gradient += args.partial[job.partial + (size_t)chunk * job.rows * job.columns + own];
        }
    }
    args.next[number] = gradient;
}
