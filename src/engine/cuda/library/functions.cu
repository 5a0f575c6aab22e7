// Functions of one number and their slopes. A comparison with NaN is false, so they keep it. Long ones are
// called: they are used in many loops.

DEVICE float relu(float x) { return x < 0.0f ? 0.0f : x; }
DEVICE float relu_slope(float x) { return x > 0.0f ? 1.0f : x <= 0.0f ? 0.0f : x; }
// A gradient through a slope: where nothing passes, an infinite one is not to become NaN.
DEVICE float through(float slope, float dy) { return slope == 0.0f ? 0.0f : slope * dy; }
DEVICE float clamped(float x, float min, float max) { return x < min ? min : x > max ? max : x; }
CALL float elu(float x) { return x > 0.0f ? x : expm1f(x); }
DEVICE float elu_slope(float x) { return x > 0.0f ? 1.0f : expf(x); }
// Beyond the bounds below, a product of an infinity with a 0 would be NaN.
CALL float gelu(float x) { return x < -13.0f ? 0.0f : 0.5f * x * (1.0f + erff(x * 0.70710678f)); }
CALL float gelu_slope(float x) {
    x = clamped(x, -13.0f, 13.0f);
    return 0.5f * (1.0f + erff(x * 0.70710678f)) + x * 0.39894228f * expf(-0.5f * x * x);
}
CALL float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
DEVICE float sigmoid_slope(float x) {
    float s = sigmoid(x);
    return s * (1.0f - s);
}
DEVICE float silu(float x) {
    x = x < -104.0f ? -104.0f : x;
    return x * sigmoid(x);
}
DEVICE float silu_slope(float x) {
    x = clamped(x, -104.0f, 104.0f);
    float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}
CALL float hyperbolic_tangent(float x) { return tanhf(x); }
DEVICE float hyperbolic_tangent_slope(float x) {
    float y = hyperbolic_tangent(x);
    return 1.0f - y * y;
}
DEVICE float clamped_slope(float x, float min, float max) {
    return x < min || x > max ? 0.0f : x >= min ? 1.0f : x;
}
DEVICE float quantised(float x, float min, float max, float step) {
    return floorf((clamped(x, min, max) - min) / step + 0.5f) * step + min;
}
