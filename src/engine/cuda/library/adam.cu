// Adam: one update of all weights in three launches. The norms of gradients stay on the device.

constexpr int THREADS = 256;
// Numbers of a weight that a block takes.
constexpr int PIECE = 1 << 14;

// A weight and its moments, in place, and its gradient.
struct Weight {
    float* values;
    float* mean;
    float* square;
    const float* gradient;
    unsigned long long count;
    // The blocks that take its pieces.
    int first_block, blocks;
};

// Everything about an update but its tensors, of which there are `weights`.
struct Update {
    float beta1, share1, beta2, share2, rate, eps;
    // Largest norm of all gradients together; 0 for none.
    float clip;
    int normalise, weights;
    unsigned number;
};

// The arguments of the engine's kernels, of which these need some, under other names.
struct Args {
    int words[14];
    const Update* update;
    const Weight* weights;
    const void* unused[3];
    // The first norm that was not finite: 1, the place of its weight, its bits, the number of the update.
    unsigned* fault;
    const void* others[2];
    // Norms of each gradient, then that of all.
    double* norms;
    // Sums of squares of each piece.
    double* partial;
    const void* jobs;
};

// The weight that a block works on: the last whose blocks begin at or before it.
DEVICE int weight_of_block(const Args& args) {
    int low = 0, high = args.update->weights;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (args.weights[middle].first_block <= block()) low = middle;
        else high = middle;
    }
    return low;
}

KERNEL squares(CONSTANT Args args) {
    const Weight& of = args.weights[weight_of_block(args)];
    unsigned long long first = (unsigned long long)(block() - of.first_block) * PIECE;
    unsigned long long last = first + PIECE < of.count ? first + PIECE : of.count;
    double sum = 0.0;
    for (unsigned long long i = first + thread(); i < last; i += THREADS) {
        double value = of.gradient[i];
        sum += value * value;
    }
    double* sums = reinterpret_cast<double*>(shared_memory());
    sums[thread()] = sum;
    block_sync();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread() < half) sums[thread()] += sums[thread() + half];
        block_sync();
    }
    if (thread() == 0) args.partial[block()] = sums[0];
}

KERNEL norms(CONSTANT Args args) {
    const Update& update = *args.update;
    for (int n = thread(); n < update.weights; n += THREADS) {
        const Weight& of = args.weights[n];
        double sum = 0.0;
        for (int i = 0; i < of.blocks; i++) sum += args.partial[of.first_block + i];
        args.norms[n] = sqrt(sum);
    }
    block_sync();
    if (thread() != 0) return;
    double all = 0.0;
    for (int n = 0; n < update.weights; n++) {
        double norm = args.norms[n];
        all += norm * norm;
        // Also true for NaN.
        if (!(norm < INFINITY) && !args.fault[0]) {
            args.fault[0] = 1;
            args.fault[1] = n;
            args.fault[2] = norm != norm;
            args.fault[3] = update.number;
        }
    }
    args.norms[update.weights] = sqrt(all);
}

// Changes nothing from the first fault on.
KERNEL change(CONSTANT Args args) {
    if (args.fault[0]) return;
    const Update& update = *args.update;
    int n = weight_of_block(args);
    const Weight& of = args.weights[n];
    float scale = 1.0f;
    if (update.normalise) {
        scale = (float)(1.0 / (args.norms[n] + 1e-8));
    } else if (update.clip > 0.0f) {
        double clipped = update.clip / (args.norms[update.weights] + 1e-6);
        if (clipped < 1.0) scale = (float)clipped;
    }
    unsigned long long first = (unsigned long long)(block() - of.first_block) * PIECE;
    unsigned long long last = first + PIECE < of.count ? first + PIECE : of.count;
    for (unsigned long long i = first + thread(); i < last; i += THREADS) {
        float x = scale * of.gradient[i];
        float mean = update.beta1 * of.mean[i] + update.share1 * x;
        float square = update.beta2 * of.square[i] + update.share2 * (x * x);
        of.mean[i] = mean;
        of.square[i] = square;
        of.values[i] -= update.rate * mean / (sqrtf(square) + update.eps);
    }
}
