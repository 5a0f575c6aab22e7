"""The models of the shipped golden cases, from their published formulas, in plain loops.

Numbers are complex. Their real parts are the values; an infinitesimal imaginary part, put on a parameter,
comes out as the derivative. So nothing here may take the modulus of a number or compare but by real parts.
"""

import itertools
import math

import numpy as np

NEAR = list(itertools.product((-1, 0, 1), repeat=2))


# --- elementary functions, of complex numbers whose imaginary part is infinitesimal ---


def erf(x):
    return np.vectorize(math.erf)(x.real) + 2j / math.sqrt(math.pi) * np.exp(-(x.real**2)) * x.imag


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def size(x):
    return x * np.sign(x.real)


def clip(x, low, high):
    return np.where(x.real < low, low, np.where(x.real > high, high, x))


def layer_norm(x, w, name, eps):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * w[name + ".gamma"] + w[name + ".beta"]


def dense(x, w, name):
    return x @ w[name + ".kernel"] + w.get(name + ".bias", 0)


def shifted(x, dy, dx):
    """The neighbour of every cell at an offset, zero outside the grid."""
    out = np.zeros_like(x)
    _, rows, columns, _ = x.shape
    for i, j in itertools.product(range(rows), range(columns)):
        if 0 <= i + dy < rows and 0 <= j + dx < columns:
            out[:, i, j] = x[:, i + dy, j + dx]
    return out


# --- cells ---


def positions(count, channels, order):
    table = np.zeros((count, channels))
    for p, i in itertools.product(range(count), range(channels)):
        phase = p * 10000 ** (-i / channels)
        table[p, i] = math.cos(phase) if i % 2 else math.sin(phase)
    if order == "block":
        table = table[:, [0, *range(1, channels, 2), *range(2, channels, 2)]]
    return table


def vitca_update(cells, w, config):
    b, rows, columns, _ = cells.shape
    width, heads = config["embed_dim"], config["heads"]
    table = positions(rows * columns, width, config["positional_encoding"])
    x = dense(cells, w, "embed") + table.reshape(rows, columns, width)
    q, k, v = np.split(dense(layer_norm(x, w, "attn_norm", 1e-3), w, "qkv"), 3, axis=-1)
    split = (b, rows, columns, heads, width // heads)
    logits, values = [], []
    for dy, dx in NEAR:
        key = shifted(k, dy, dx).reshape(split)
        logits.append((q.reshape(split) * key).sum(-1) / math.sqrt(width // heads))
        values.append(shifted(v, dy, dx).reshape(split))
    shares = np.exp(logits) / np.exp(logits).sum(0)
    attended = sum(share[..., None] * value for share, value in zip(shares, values))
    x = x + dense(attended.reshape(x.shape), w, "proj")
    t = dense(layer_norm(x, w, "mlp_norm", 1e-3), w, "mlp1")
    x = x + dense(t * (1 + erf(t / math.sqrt(2))) / 2, w, "mlp2")
    return dense(layer_norm(x, w, "head_norm", 1e-3), w, "head")


def nafca_update(cells, w, config):
    def pointwise(x, name):
        return x @ w[name + ".kernel"][0, 0] + w[name + ".bias"]

    def gate(x):
        half = x.shape[-1] // 2
        return x[..., :half] * x[..., half:]

    x = pointwise(layer_norm(cells, w, "norm1", 1e-6), "conv1")
    scale = w["conv2.kernel"][0, 0, 0]
    x = np.stack([x[..., o // 2] * scale[o] + w["conv2.bias"][o] for o in range(len(scale))], -1)
    x = gate(x)
    kernel = w["conv_attention.kernel"]
    taps = [shifted(x, dy, dx) @ kernel[dy + 1, dx + 1] for dy, dx in NEAR]
    x = x * (sum(taps) + w["conv_attention.bias"])
    cells = cells + w["beta"] * pointwise(x, "conv3")
    x = gate(pointwise(layer_norm(cells, w, "norm2", 1e-6), "conv4"))
    cells = cells + w["gamma"] * pointwise(x, "conv5")
    return pointwise(layer_norm(cells, w, "norm3", 1e-6), "conv_out")


def advance(update, cells, masks, w, config):
    states = []
    for mask in masks:
        change = mask * update(cells, w, config)
        cells = cells + np.concatenate([np.zeros_like(cells[..., : config["in"]]), change], -1)
        states.append(cells)
    return states


# --- autoencoder ---


def convolve(x, kernel, stride):
    b, rows, columns, _ = x.shape
    out = [-(-rows // stride), -(-columns // stride)]
    before = [max((o - 1) * stride + 3 - n, 0) // 2 for o, n in zip(out, (rows, columns))]
    y = np.zeros((b, *out, kernel.shape[3]), complex)
    for i, j, a, c in itertools.product(range(out[0]), range(out[1]), range(3), range(3)):
        row, column = i * stride + a - before[0], j * stride + c - before[1]
        if 0 <= row < rows and 0 <= column < columns:
            y[:, i, j] += x[:, row, column] @ kernel[a, c]
    return y


def convolve_transposed(x, kernel, stride):
    b, rows, columns, _ = x.shape
    before = max(3 - stride, 0) // 2
    y = np.zeros((b, rows * stride, columns * stride, kernel.shape[2]), complex)
    for i, j, a, c in itertools.product(range(rows), range(columns), range(3), range(3)):
        row, column = i * stride + a - before, j * stride + c - before
        if 0 <= row < y.shape[1] and 0 <= column < y.shape[2]:
            y[:, row, column] += x[:, i, j] @ kernel[a, c].T
    return y


def adjusted(x, w, name, stride, up=False, activation="swish", training=False, moved=None):
    """Convolution, batch norm, activation; statistics after the call go into `moved`."""
    y = (convolve_transposed if up else convolve)(x, w[name + "conv.kernel"], stride)
    y = y + w[name + "conv.bias"]
    mean, variance = w[name + "bn.moving_mean"], w[name + "bn.moving_variance"]
    if training:
        count = y[..., 0].size
        batch_mean = y.mean((0, 1, 2))
        batch_variance = ((y - batch_mean) ** 2).mean((0, 1, 2))
        moved["mean"] = 0.99 * mean + 0.01 * batch_mean
        moved["variance"] = 0.99 * variance + 0.01 * batch_variance * count / (count - 1)
        mean, variance = batch_mean, batch_variance
    y = (y - mean) / np.sqrt(variance + 1e-3) * w[name + "bn.gamma"] + w[name + "bn.beta"]
    return sigmoid(y) if activation == "sigmoid" else y * sigmoid(y)


def encode(x, w):
    skip = adjusted(x, w, "enc1.", 2)
    return adjusted(skip + adjusted(x, w, "side1.", 2), w, "enc2.", 2), skip


def decode(latent, skip, w):
    mixed = adjusted(adjusted(latent, w, "dec2.", 2, up=True) + skip, w, "mix.", 1)
    return adjusted(mixed, w, "dec1.", 2, up=True, activation="sigmoid")


# --- Growing NCA, channels last ---


def alive(cells):
    """Whether the largest alpha around a cell is above 0.1."""
    alpha = cells[..., 3:4].real
    return np.max([shifted(alpha, dy, dx) for dy, dx in NEAR], 0) > 0.1


def grow(cells, mask, w, angle):
    sobel = np.outer([1, 2, 1], [-1, 0, 1]) / 8
    seen = [cells, 0, 0]
    for dy, dx in NEAR:
        x, y = sobel[dy + 1, dx + 1], sobel[dx + 1, dy + 1]
        near = shifted(cells, dy, dx)
        seen[1] = seen[1] + (math.cos(angle) * x - math.sin(angle) * y) * near
        seen[2] = seen[2] + (math.sin(angle) * x + math.cos(angle) * y) * near
    seen = np.stack(seen, -1).reshape(*cells.shape[:3], -1)
    hidden = seen @ w["w1"].T + w["b1"]
    hidden = np.where(hidden.real > 0, hidden, 0)
    new = cells + mask * (hidden @ w["w2"].T + w["b2"])
    margin = min(abs(np.abs(state[..., 3].real) - 0.1).min() for state in (cells, new))
    assert margin > 1e-4, "a cell at the threshold, where rounding decides: choose another seed"
    return new * (alive(cells) & alive(new))


# --- metrics ---


BELL = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
WINDOW = np.outer(BELL, BELL) / BELL.sum() ** 2


def ssim(a, b):
    values = []
    for i, j in itertools.product(range(a.shape[1] - 10), range(a.shape[2] - 10)):

        def mean(x):
            return np.einsum("bijc,ij->bc", x[:, i : i + 11, j : j + 11], WINDOW)

        ma, mb = mean(a), mean(b)
        variances = mean(a * a + b * b) - ma * ma - mb * mb
        contrast = (2 * (mean(a * b) - ma * mb) + 0.03**2) / (variances + 0.03**2)
        values.append(contrast * (2 * ma * mb + 0.01**2) / (ma * ma + mb * mb + 0.01**2))
    return np.mean(values, 0).mean(-1)


def psnr(a, b):
    with np.errstate(divide="ignore"):
        return -10 * np.log10(((a - b) ** 2).mean((1, 2, 3)).real)
