// What kernels need of a GPU, on a CPU: the counterpart of `ptx.cu` for g++.
//
// The 256 threads of a block are fibers of one thread of this process. A fiber runs until it waits for others
// of its warp or block. Warps take turns in an order that changes from barrier to barrier, and the threads of a
// warp in order, so a barrier that is missing shows. Shared memory is NaN when a block begins.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

using std::min;

#define DEVICE inline
#define CALL static
#define CONSTANT const
#define KERNEL static void

namespace emulated {

constexpr int THREADS_OF_BLOCK = 256, LANES = 32, WARPS_OF_BLOCK = THREADS_OF_BLOCK / LANES;
constexpr size_t STACK = 128 * 1024;

#if defined(__x86_64__)
// Saves the registers that a function keeps for its caller on one stack, and goes on with those of another.
extern "C" void switch_stacks(void** from, void* to);
asm(R"(
.text
.type switch_stacks, @function
switch_stacks:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
.size switch_stacks, .-switch_stacks
)");
#endif

enum State { RUNNING, WAITS_FOR_WARP, WAITS_FOR_BLOCK, DONE };

struct Fiber {
    State state;
#if defined(__x86_64__)
    void* stack_top;
#else
    ucontext_t context;
#endif
};

constexpr int WORDS = 12;

struct Warp {
    // How many lanes wait, and what lanes hand each other, in turn in two places: a lane may be one ahead.
    int waiting;
    unsigned turn;
    unsigned words[2][LANES][WORDS];
    // What is done with the words when all lanes wait.
    void (*finish)(unsigned (*words)[WORDS]);
};

struct Block {
    Fiber fibers[THREADS_OF_BLOCK];
    Warp warps[WARPS_OF_BLOCK];
    int waiting;
    int current;
    int number;
    uint64_t random;
    std::vector<float> shared;
    std::vector<char> stacks;
    void (*run)(const void*);
    const void* args;
#if defined(__x86_64__)
    void* scheduler;
#else
    ucontext_t scheduler;
#endif
};

static thread_local Block* block_now = nullptr;

static void to_scheduler() {
    Block& b = *block_now;
    Fiber& fiber = b.fibers[b.current];
#if defined(__x86_64__)
    switch_stacks(&fiber.stack_top, b.scheduler);
#else
    swapcontext(&fiber.context, &b.scheduler);
#endif
}

static void enter() {
    Block& b = *block_now;
    b.run(b.args);
    b.fibers[b.current].state = DONE;
    to_scheduler();
}

static void resume(Block& b, int thread) {
    b.current = thread;
#if defined(__x86_64__)
    switch_stacks(&b.scheduler, b.fibers[thread].stack_top);
#else
    swapcontext(&b.scheduler, &b.fibers[thread].context);
#endif
}

static uint64_t random_word(Block& b) {
    b.random ^= b.random << 13;
    b.random ^= b.random >> 7;
    b.random ^= b.random << 17;
    return b.random;
}

[[noreturn]] static void fail(const char* what) {
    fprintf(stderr, "emulated kernel: %s\n", what);
    abort();
}

// Lets every thread of a warp run until it waits for its block, or is done.
static void run_warp(Block& b, int warp) {
    for (;;) {
        bool ran = false;
        for (int lane = 0; lane < LANES; lane++) {
            Fiber& fiber = b.fibers[warp * LANES + lane];
            if (fiber.state != RUNNING) continue;
            resume(b, warp * LANES + lane);
            ran = true;
        }
        if (b.warps[warp].waiting == LANES) {
            Warp& all = b.warps[warp];
            if (all.finish) all.finish(all.words[all.turn]);
            all.waiting = 0;
            all.turn ^= 1;
            for (int lane = 0; lane < LANES; lane++) b.fibers[warp * LANES + lane].state = RUNNING;
        } else if (b.warps[warp].waiting > 0) {
            fail("some lanes of a warp wait for lanes that never come");
        } else if (!ran) {
            return;
        }
    }
}

static void run_block(Block& b) {
    char* stacks = b.stacks.data();
    for (int thread = 0; thread < THREADS_OF_BLOCK; thread++) {
        Fiber& fiber = b.fibers[thread];
        fiber.state = RUNNING;
        char* stack = stacks + thread * STACK;
#if defined(__x86_64__)
        void** top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + STACK) & ~uintptr_t(15));
        *--top = nullptr;
        *--top = reinterpret_cast<void*>(&enter);
        for (int i = 0; i < 6; i++) *--top = nullptr;
        fiber.stack_top = top;
#else
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = stack;
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, &enter, 0);
#endif
    }
    for (Warp& warp : b.warps) warp.waiting = 0, warp.turn = 0;
    b.waiting = 0;
    std::fill(b.shared.begin(), b.shared.end(), NAN);
    int done = 0;
    while (done < THREADS_OF_BLOCK) {
        int order[WARPS_OF_BLOCK];
        for (int warp = 0; warp < WARPS_OF_BLOCK; warp++) order[warp] = warp;
        for (int i = WARPS_OF_BLOCK - 1; i > 0; i--) std::swap(order[i], order[random_word(b) % (i + 1)]);
        for (int warp : order) run_warp(b, warp);
        int waiting = 0;
        done = 0;
        for (Fiber& fiber : b.fibers) {
            waiting += fiber.state == WAITS_FOR_BLOCK;
            done += fiber.state == DONE;
        }
        if (waiting > 0 && done > 0) fail("some threads of a block wait for others that have ended");
        for (Fiber& fiber : b.fibers) {
            if (fiber.state == WAITS_FOR_BLOCK) fiber.state = RUNNING;
        }
    }
}

// All blocks of a grid, in an order that is not theirs.
static void launch(void (*run)(const void*), const void* args, int blocks, size_t shared, uint64_t seed) {
    static thread_local Block* mine = nullptr;
    if (!mine) {
        mine = new Block();
        mine->stacks.resize(THREADS_OF_BLOCK * STACK);
    }
    block_now = mine;
    mine->random = seed | 1;
    mine->run = run;
    mine->args = args;
    // Guards on both sides of shared memory.
    mine->shared.assign(shared / 4 + 64, NAN);
    std::vector<int> order(blocks);
    for (int i = 0; i < blocks; i++) order[i] = i;
    for (int i = blocks - 1; i > 0; i--) std::swap(order[i], order[random_word(*mine) % (i + 1)]);
    for (int block : order) {
        mine->number = block;
        run_block(*mine);
        for (int i = 0; i < 32; i++) {
            if (!std::isnan(mine->shared[i]) || !std::isnan(mine->shared[mine->shared.size() - 1 - i])) {
                fail("a write outside shared memory");
            }
        }
    }
}

// Hands words to the lanes of the warp, and returns those of all lanes, or what `finish` made of them.
static unsigned (*exchange(const unsigned (&mine)[WORDS], void (*finish)(unsigned (*)[WORDS]) = nullptr))[WORDS] {
    Block& b = *block_now;
    Warp& warp = b.warps[b.current / LANES];
    unsigned turn = warp.turn;
    memcpy(warp.words[turn][b.current % LANES], mine, sizeof mine);
    warp.finish = finish;
    warp.waiting++;
    b.fibers[b.current].state = WAITS_FOR_WARP;
    to_scheduler();
    return warp.words[turn];
}

static float as_float(unsigned word) {
    float value;
    memcpy(&value, &word, 4);
    return value;
}

static unsigned as_word(float value) {
    unsigned word;
    memcpy(&word, &value, 4);
    return word;
}

// Toward zero, as tensor cores may do it.
static float truncated(double value) {
    float rounded = (float)value;
    if (std::isfinite(rounded) && std::fabs((double)rounded) > std::fabs(value)) rounded = std::nextafter(rounded, 0.0f);
    return rounded;
}

// A tensor core reads so many bits of its operands.
static float tf32(unsigned word) { return as_float(word & 0xffffe000u); }
static float bf16(unsigned word, int half) { return as_float(half ? word & 0xffff0000u : word << 16); }

// sum += left right, and each sum back to its lane: words 0 to 3 of a lane are its sums, of rows g and g + 8 and
// columns 2j and 2j + 1, for g = lane / 4 and j = lane % 4.
template <int K>
__attribute__((optimize("O3"))) static void multiply(
    unsigned (*words)[WORDS], const float (&left)[16][K], const float (&right)[K][8]) {
    double sum[16][8];
    for (int lane = 0; lane < LANES; lane++) {
        for (int i = 0; i < 4; i++) sum[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = as_float(words[lane][i]);
    }
    for (int row = 0; row < 16; row++) {
        for (int k = 0; k < K; k++) {
            for (int column = 0; column < 8; column++) sum[row][column] += (double)left[row][k] * right[k][column];
        }
    }
    for (int lane = 0; lane < LANES; lane++) {
        for (int i = 0; i < 4; i++) {
            words[lane][i] = as_word(truncated(sum[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]));
        }
    }
}

// Words 4 to 7 of a lane are rows g and g + 8 of terms j, then of terms j + 4; words 8 and 9 are terms j and
// j + 4 of column g.
static void multiply_tf32(unsigned (*words)[WORDS]) {
    float left[16][8], right[8][8];
    for (int lane = 0; lane < LANES; lane++) {
        int g = lane / 4, j = lane % 4;
        for (int i = 0; i < 4; i++) left[g + i % 2 * 8][j + i / 2 * 4] = tf32(words[lane][4 + i]);
        for (int i = 0; i < 2; i++) right[j + 4 * i][g] = tf32(words[lane][8 + i]);
    }
    multiply(words, left, right);
}

// The same with two terms a word: 2j and 2j + 1, then 2j + 8 and 2j + 9.
static void multiply_bf16(unsigned (*words)[WORDS]) {
    float left[16][16], right[16][8];
    for (int lane = 0; lane < LANES; lane++) {
        int g = lane / 4, j = lane % 4;
        for (int half = 0; half < 2; half++) {
            for (int i = 0; i < 4; i++) {
                left[g + i % 2 * 8][2 * j + i / 2 * 8 + half] = bf16(words[lane][4 + i], half);
            }
            for (int i = 0; i < 2; i++) right[2 * j + 8 * i + half][g] = bf16(words[lane][8 + i], half);
        }
    }
    multiply(words, left, right);
}

static void multiply_by(
    void (*finish)(unsigned (*)[WORDS]), float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    unsigned words[WORDS] = {as_word(sum[0]), as_word(sum[1]), as_word(sum[2]), as_word(sum[3]), a[0], a[1], a[2],
        a[3], b[0], b[1]};
    auto all = exchange(words, finish);
    for (int i = 0; i < 4; i++) sum[i] = as_float(all[block_now->current % LANES][i]);
}

}  // namespace emulated

DEVICE int thread() { return emulated::block_now->current; }
DEVICE int block() { return emulated::block_now->number; }
DEVICE float* shared_memory() { return emulated::block_now->shared.data() + 32; }

DEVICE void block_sync() {
    auto& b = *emulated::block_now;
    b.fibers[b.current].state = emulated::WAITS_FOR_BLOCK;
    emulated::to_scheduler();
}

DEVICE void warp_sync() {
    unsigned nothing[emulated::WORDS] = {};
    emulated::exchange(nothing);
}

DEVICE float shuffle_xor(float value, int mask) {
    unsigned words[emulated::WORDS] = {emulated::as_word(value)};
    auto all = emulated::exchange(words);
    return emulated::as_float(all[(thread() % 32) ^ mask][0]);
}

DEVICE unsigned ballot(bool flag) {
    unsigned words[emulated::WORDS] = {flag};
    auto all = emulated::exchange(words);
    unsigned result = 0;
    for (int lane = 0; lane < 32; lane++) result |= all[lane][0] << lane;
    return result;
}

DEVICE int ones(unsigned word) { return __builtin_popcount(word); }
DEVICE unsigned high_product(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
DEVICE float real(unsigned word) { return emulated::as_float(word); }

DEVICE unsigned to_tf32(float value) {
    unsigned word = emulated::as_word(value);
    return std::isfinite(value) ? (word + 0x1000u) & 0xffffe000u : word;
}

DEVICE unsigned one_to_bf16(float value) {
    unsigned word = emulated::as_word(value);
    if (std::isnan(value)) return 0x7fffu;
    return (word + 0x7fffu + (word >> 16 & 1)) >> 16;
}

DEVICE unsigned to_bf16(float low, float high) { return one_to_bf16(low) | one_to_bf16(high) << 16; }

DEVICE void multiply_tf32(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    emulated::multiply_by(emulated::multiply_tf32, sum, a, b);
}

DEVICE void multiply_bf16(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    emulated::multiply_by(emulated::multiply_bf16, sum, a, b);
}
