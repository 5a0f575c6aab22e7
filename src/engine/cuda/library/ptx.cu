// What kernels need of a GPU, as functions. The tests run the same kernels on a CPU, where other functions
// stand for these.

#define DEVICE __device__ __forceinline__
#define CALL static __device__ __noinline__
// A parameter of kernels that stays where it is when its address is taken.
#define CONSTANT const __grid_constant__
#define KERNEL extern "C" __global__ void __launch_bounds__(256, 1)

// NVRTC has no headers.
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7fffffff)
#endif

DEVICE int thread() { return threadIdx.x; }
DEVICE int block() { return blockIdx.x; }
DEVICE void block_sync() { __syncthreads(); }
DEVICE void warp_sync() { __syncwarp(); }
DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
DEVICE unsigned ballot(bool flag) { return __ballot_sync(0xffffffffu, flag); }
DEVICE int ones(unsigned word) { return __popc(word); }
DEVICE unsigned high_product(unsigned a, unsigned b) { return __umulhi(a, b); }
DEVICE float real(unsigned word) { return __uint_as_float(word); }

// The shared memory that the launch asked for.
DEVICE float* shared_memory() {
    extern __shared__ float4 memory[];
    return reinterpret_cast<float*>(memory);
}

// Rounded to TF32, ties away from zero.
DEVICE unsigned to_tf32(float value) {
    unsigned word;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(word) : "f"(value));
    // The lower bits are nobody's; the rest is the number in f32.
    return word & 0xffffe000u;
}

// Both rounded to bf16, ties to even; the first in the lower half.
DEVICE unsigned to_bf16(float low, float high) {
    unsigned word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

// sum += a b, for a [16, 8] and b [8, 8] of TF32, held by the lanes of a warp.
DEVICE void multiply_tf32(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// sum += a b, for a [16, 16] and b [16, 8] of bf16.
DEVICE void multiply_bf16(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
