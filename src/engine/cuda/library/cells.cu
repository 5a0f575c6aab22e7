// Cells: which fire, which lie around them, what is drawn for them, and how a block shares its cells out.

typedef unsigned char Byte;

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

enum Fire { ALL, SAME_RATE, EACH_RATE, GIVEN };

struct Job;

// What a kernel is launched with. The engine has the same struct.
struct Args {
    // Cells of all images, their grid, and how many of them a block takes: a multiple of 16, 256 at most.
    int cells, height, width, tile;
    // For draws: the number of the step, and of the first image among all images.
    int step, first_image;
    unsigned key[2];
    // Which cells fire, and the rate of all.
    int fire;
    float rate;
    int training;
    // How many sums over cells there are, and how many numbers a gradient of all weights has.
    int sums, numbers;
    int unused;
    // Rates of each cell, or ones and zeros.
    const float* draw;
    // The weights, then the constants.
    const float* weights;
    // Cells before the step, after it but for their life and death, and after it.
    const float* state;
    float* after;
    float* next;
    // Whether each cell lives after the step.
    Byte* alive;
    // The gradients of the cells after and before the step.
    const float* gradient;
    float* gradient_before;
    // Values of all cells, one after the other: [cells, width] each.
    float* scratch;
    float* partial;
    const Job* jobs;
};

// Philox4x32 with ten rounds, word `number` of four.
DEVICE unsigned random_word(const Args& args, unsigned element, unsigned image, unsigned stream) {
    unsigned a = element / 4, b = image, c = args.step, d = stream;
    unsigned key[2] = {args.key[0], args.key[1]};
    for (int round = 0; round < 10; round++) {
        unsigned high = high_product(a, 0xD2511F53u), low = a * 0xD2511F53u;
        unsigned other_high = high_product(c, 0xCD9E8D57u), other_low = c * 0xCD9E8D57u;
        a = other_high ^ b ^ key[0];
        b = other_low;
        c = high ^ d ^ key[1];
        d = low;
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
    unsigned number = element % 4;
    return number == 0 ? a : number == 1 ? b : number == 2 ? c : d;
}

// Uniform on [0, 1). A call: it is long, and used for each number of a product.
CALL float draw(const Args& args, unsigned element, unsigned image, unsigned stream) {
    return (random_word(args, element, image, stream) >> 8) * (1.0f / 16777216.0f);
}

DEVICE bool fires(const Args& args, int cell) {
    if (args.fire == ALL) return true;
    if (args.fire == GIVEN) return args.draw[cell] != 0.0f;
    int area = args.height * args.width, image = cell / area, at = cell - image * area;
    float rate = args.fire == EACH_RATE ? args.draw[at] : args.rate;
    return draw(args, at, args.first_image + image, 0) < rate;
}

// The factor of inverted dropout for a channel of a cell.
DEVICE float dropout(const Args& args, int cell, int channel, int width, unsigned site, float rate, float kept) {
    if (!args.training) return 1.0f;
    int area = args.height * args.width, image = cell / area;
    unsigned element = (unsigned)(cell - image * area) * width + channel;
    return draw(args, element, args.first_image + image, 1 + site) < rate ? 0.0f : kept;
}

// Neighbour n of a cell, row by row, itself the fifth; -1 beyond a zero-padded border.
DEVICE int neighbour(const Args& args, int cell, int n, bool circular) {
    int height = args.height, width = args.width, area = height * width;
    int image = cell / area, at = cell - image * area;
    int y = at / width + n / 3 - 1, x = at % width + n % 3 - 1;
    if (circular) {
        y = y < 0 ? height - 1 : y == height ? 0 : y;
        x = x < 0 ? width - 1 : x == width ? 0 : x;
    } else if (y < 0 || x < 0 || y == height || x == width) {
        return -1;
    }
    return image * area + y * width + x;
}

// The cells of a block that take part in a phase: its rows.
struct Rows {
    int count;
    // Cells of the block that take no part. They are listed backwards from the end of `cell`.
    int idle;
    // The cell of each row, and its nine neighbours on a zero-padded grid and on a torus.
    int* cell;
    int* zero;
    int* torus;
    // Where warps put sums, and where values of rows begin.
    float* stage;
    float* values;
};

// Every thread of the block calls it. Rows are in the order of their cells.
template <bool ZERO, bool TORUS, int STAGES>
DEVICE Rows select(const Args& args, bool only_firing) {
    int* words = reinterpret_cast<int*>(shared_memory());
    int* of_warp = words;
    int tile = args.tile;
    Rows rows;
    rows.stage = reinterpret_cast<float*>(words + WARPS);
    rows.cell = words + WARPS + STAGES;
    rows.zero = rows.cell + tile;
    rows.torus = rows.zero + (ZERO ? 9 * tile : 0);
    rows.values = reinterpret_cast<float*>(rows.torus + (TORUS ? 9 * tile : 0));

    int mine = block() * tile + thread();
    bool exists = thread() < tile && mine < args.cells;
    bool takes_part = exists && (!only_firing || fires(args, mine));
    unsigned of_lanes = ballot(takes_part);
    int warp = thread() / 32, lane = thread() % 32;
    if (lane == 0) of_warp[warp] = ones(of_lanes);
    block_sync();
    int before = ones(of_lanes & ((1u << lane) - 1));
    for (int other = 0; other < warp; other++) before += of_warp[other];
    if (exists) rows.cell[takes_part ? before : tile - 1 - (thread() - before)] = mine;
    rows.count = 0;
    for (int other = 0; other < WARPS; other++) rows.count += of_warp[other];
    rows.idle = min(tile, args.cells - block() * tile) - rows.count;
    block_sync();
    for (int i = thread(); i < rows.count * 9; i += THREADS) {
        if (ZERO) rows.zero[i] = neighbour(args, rows.cell[i / 9], i % 9, false);
        if (TORUS) rows.torus[i] = neighbour(args, rows.cell[i / 9], i % 9, true);
    }
    block_sync();
    return rows;
}

// store(cell, channel) for each channel of each cell that takes no part.
template <int WIDTH, class Store>
DEVICE void each_idle(const Args& args, const Rows& rows, Store store) {
#pragma unroll 1
    for (int i = thread(); i < rows.idle * WIDTH; i += THREADS) {
        store(rows.cell[args.tile - 1 - i / WIDTH], i % WIDTH);
    }
}

// store(row, channel) for each channel of each row.
template <int WIDTH, class Store>
DEVICE void each(const Rows& rows, Store store) {
#pragma unroll 1
    for (int i = thread(); i < rows.count * WIDTH; i += THREADS) store(i / WIDTH, i % WIDTH);
}

// task(number, lane, is_real) by eight lanes together, which may shuffle among themselves.
constexpr int TEAM = 8;

template <class Task>
DEVICE void each_team(int tasks, Task task) {
    int team = thread() / TEAM, lane = thread() % TEAM;
#pragma unroll 1
    for (int first = 0; first < tasks; first += THREADS / TEAM) {
        int number = first + team;
        task(number < tasks ? number : 0, lane, number < tasks);
    }
}

DEVICE float team_sum(float value) {
    value += shuffle_xor(value, 4);
    value += shuffle_xor(value, 2);
    return value + shuffle_xor(value, 1);
}

// The sum of f(c) over WIDTH channels, for every lane of the team.
template <int WIDTH, class Of>
DEVICE float channel_sum(int lane, Of f) {
    float sum = 0.0f;
#pragma unroll 2
    for (int c = lane; c < WIDTH; c += TEAM) sum += f(c);
    return team_sum(sum);
}

// The sum of f(neighbour, n) over the neighbours that there are.
template <class Of>
DEVICE float near_sum(const int* near, Of f) {
    float sum = 0.0f;
#pragma unroll 3
    for (int n = 0; n < 9; n++) {
        if (near[n] >= 0) sum += f(near[n], n);
    }
    return sum;
}

// The sum of taps times f(neighbour), or times 0 beyond the border. A tap of 0 reads nothing.
template <class Of>
DEVICE float tap_sum(const int* near, const float* taps, Of f) {
    float sum = 0.0f;
#pragma unroll 3
    for (int n = 0; n < 9; n++) {
        if (taps[n] != 0.0f) sum += taps[n] * (near[n] >= 0 ? f(near[n]) : 0.0f);
    }
    return sum;
}

// A tap times a value; a tap of 0 reads nothing.
DEVICE float tapped(float tap, float value) { return tap == 0.0f ? 0.0f : tap * value; }

// The sum of f(cell, n) over the cells to which this one is neighbour n.
template <class Of>
DEVICE float mirrored_sum(const int* near, Of f) {
    float sum = 0.0f;
#pragma unroll 3
    for (int n = 0; n < 9; n++) {
        if (near[8 - n] >= 0) sum += f(near[8 - n], n);
    }
    return sum;
}
