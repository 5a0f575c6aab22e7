// The rule by which cells live and die.

// The cells of a block whose life is decided together.
constexpr int BURIED = 64;

DEVICE bool is_alive(const Args& args, const float* cells, int cell) {
    for (int n = 0; n < 9; n++) {
        int near = neighbour(args, cell, n, ALIVE_ON_TORUS);
        if (near >= 0 && cells[(size_t)near * CHANNELS + ALIVE_CHANNEL] > ALIVE_THRESHOLD) return true;
    }
    return false;
}

// A cell lives if it is alive before the step and after it; all channels of others become 0.
KERNEL bury(CONSTANT Args args) {
    int* lives = reinterpret_cast<int*>(shared_memory());
    int first = block() * BURIED, count = min(BURIED, args.cells - first);
    if (thread() < count) {
        int cell = first + thread();
        bool alive = is_alive(args, args.state, cell) && is_alive(args, args.after, cell);
        lives[thread()] = alive;
        if (args.alive) args.alive[cell] = alive;
    }
    block_sync();
    for (int i = thread(); i < count * CHANNELS; i += THREADS) {
        size_t at = (size_t)first * CHANNELS + i;
        args.next[at] = lives[i / CHANNELS] ? args.after[at] : 0.0f;
    }
}
