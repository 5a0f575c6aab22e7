"""Writes the small golden cases that travel with the repository: python3 tests/golden/make.py

Needs numpy and safetensors. Everything is computed in float64 by `formulas.py` next to this file, which
shares no code with the library. Gradients are exact to rounding: a parameter gets an imaginary part too
small to change any real one, and the imaginary part of the loss is the derivative.
"""

import itertools
import json
import math
import pathlib

import numpy as np
from safetensors.numpy import save_file

from formulas import WINDOW, adjusted, advance, clip, decode, encode, grow, nafca_update, positions, psnr
from formulas import size, ssim, vitca_update

FOLDER = pathlib.Path(__file__).parent
TINY = 1e-30


class Case:
    """Tensors and settings of one case, and the random numbers it is made from."""

    def __init__(self, name, what, **config):
        self.name, self.sidecar = name, {"case": name, "what": what, "config": config}
        self.config, self.tensors = config, {}
        self.random = np.random.default_rng(sum(name.encode()))

    def draw(self, name, *shape, scale=1.0, around=0.0):
        return self.given(name, around + scale * self.random.standard_normal(shape))

    def bits(self, name, *shape):
        return self.given(name, self.random.integers(0, 2, shape))

    def given(self, name, value):
        """An input: rounded to float32 before it is used."""
        self.tensors[name] = np.asarray(value, np.float32)
        return self.tensors[name].astype(complex)

    def result(self, name, value):
        self.tensors[name] = np.atleast_1d(np.asarray(value).real.astype(float))

    def gradients(self, loss, parameters, label="grad.{}"):
        """Derivatives of `loss(parameters)` by every element of every parameter."""
        for name, value in parameters.items():
            grad = np.zeros(value.shape)
            for index in np.ndindex(value.shape):
                nudged = value.copy()
                nudged[index] += 1j * TINY
                grad[index] = loss({**parameters, name: nudged}).imag / TINY
            self.result(label.format(name), grad)

    def save(self):
        tensors = {name: np.ascontiguousarray(value) for name, value in self.tensors.items()}
        save_file(tensors, FOLDER / f"{self.name}.safetensors")
        text = json.dumps(self.sidecar, indent=1) + "\n"
        (FOLDER / f"{self.name}.json").write_text(text)


def named(parameters, start):
    """Parameters whose names begin with `start`, without it."""
    return {name[len(start) :]: value for name, value in parameters.items() if name.startswith(start)}


def vitca_weights(case, start="w."):
    c = case.config
    cell, width, inner = c["in"] + c["out"] + c["hidden"], c["embed_dim"], c["mlp_dim"]
    w = {}
    for name, rows, columns in [
        ("embed", cell, width),
        ("qkv", width, 3 * width),
        ("proj", width, width),
        ("mlp1", width, inner),
        ("mlp2", inner, width),
        ("head", width, c["out"] + c["hidden"]),
    ]:
        w[f"{start}{name}.kernel"] = case.draw(f"{start}{name}.kernel", rows, columns, scale=rows**-0.5)
        if name != "qkv":
            w[f"{start}{name}.bias"] = case.draw(f"{start}{name}.bias", columns, scale=0.1)
    norms(case, w, start, ("attn_norm", "mlp_norm", "head_norm"), width)
    return w


def nafca_weights(case, start="w."):
    c = case.config
    cell, width = c["in"] + c["out"] + c["hidden"], c["embed_dim"]
    inner = c["ffn_expand"] * cell
    w = {}
    for name, shape in [
        ("conv1", (1, 1, cell, width)),
        ("conv2", (1, 1, 1, 2 * width)),
        ("conv_attention", (3, 3, width, 1)),
        ("conv3", (1, 1, width, cell)),
        ("conv4", (1, 1, cell, inner)),
        ("conv5", (1, 1, inner // 2, cell)),
        ("conv_out", (1, 1, cell, c["out"] + c["hidden"])),
    ]:
        fan = shape[0] * shape[1] * shape[2]
        w[f"{start}{name}.kernel"] = case.draw(f"{start}{name}.kernel", *shape, scale=fan**-0.5)
        w[f"{start}{name}.bias"] = case.draw(f"{start}{name}.bias", shape[3], scale=0.1)
    for name in ("beta", "gamma"):
        w[start + name] = case.draw(start + name, 1, 1, 1, cell)
    norms(case, w, start, ("norm1", "norm2", "norm3"), cell)
    return w


def norms(case, w, start, names, width):
    for name in names:
        w[f"{start}{name}.gamma"] = case.draw(f"{start}{name}.gamma", width, scale=0.2, around=1)
        w[f"{start}{name}.beta"] = case.draw(f"{start}{name}.beta", width, scale=0.2)


def transition(name, what, update, weights, grid, steps, **config):
    case = Case(name, what, B=2, H=grid[0], W=grid[1], steps=steps, **config)
    cell = config["in"] + config["out"] + config["hidden"]
    parameters = {"in.cells": case.draw("in.cells", 2, *grid, cell), **weights(case)}
    masks = case.bits("in.mask", steps, 2, *grid, 1)
    r = case.draw("r.out", 2, *grid, cell)

    def run(p):
        return advance(update, p["in.cells"], masks, named(p, "w."), case.config)

    def loss(p):
        return (run(p)[-1] * r).sum()

    states = run(parameters)
    case.result("out.cells", states if steps > 1 else states[0])
    case.result("out.loss", loss(parameters))
    case.gradients(loss, parameters)
    case.save()


def layer(name, what, up, subcases):
    case = Case(name, what, subcases={})
    for h, w, stride, inputs, outputs, training, activation in subcases:
        start = f"{'train' if training else 'eval'}_{h}x{w}_s{stride}_{activation}/"
        statistics = "batch statistics" if training else "moving statistics"
        case.config["subcases"][start[:-1]] = {
            "channels_in": inputs,
            "channels_out": outputs,
            "stride": stride,
            "batch_norm": statistics,
            "activation": activation,
        }
        kernel = (3, 3, outputs, inputs) if up else (3, 3, inputs, outputs)
        parameters = {"in.x": case.draw(start + "in.x", 2, h, w, inputs)}
        for part, around, shape in [
            ("conv.kernel", 0, kernel),
            ("conv.bias", 0, [outputs]),
            ("bn.gamma", 1, [outputs]),
            ("bn.beta", 0, [outputs]),
        ]:
            parameters["w." + part] = case.draw(f"{start}w.{part}", *shape, scale=0.3, around=around)
        fixed = {
            "bn.moving_mean": case.draw(start + "w.bn.moving_mean", outputs, scale=0.2),
            "bn.moving_variance": case.given(
                start + "w.bn.moving_variance", case.random.uniform(0.5, 2, outputs)
            ),
        }
        moved = {}

        def run(p):
            weights = {**named(p, "w."), **fixed}
            return adjusted(p["in.x"], weights, "", stride, up, activation, training, moved)

        y = run(parameters)
        r = case.draw(start + "r.y", *y.shape)
        case.result(start + "out.y", y)
        for part in moved:
            name = {"mean": "moving_mean", "variance": "moving_variance"}[part]
            case.result(f"{start}out.new_{name}", moved[part])
        case.gradients(lambda p: (run(p) * r).sum(), parameters, start + "grad.{}")
    case.save()


def autoencoder_weights(case, start, d):
    w = {}
    for name, inputs, outputs in [
        ("enc1", 3, d // 2),
        ("side1", 3, d // 2),
        ("enc2", d // 2, d),
        ("dec2", d, d // 2),
        ("mix", d // 2, d // 2),
        ("dec1", d // 2, 3),
    ]:
        shape = (outputs, inputs) if name.startswith("dec") else (inputs, outputs)
        parts = {"conv.kernel": case.draw(f"{start}{name}.conv.kernel", 3, 3, *shape, scale=0.3)}
        for part, around in [("conv.bias", 0), ("bn.gamma", 1), ("bn.beta", 0), ("bn.moving_mean", 0)]:
            parts[part] = case.draw(f"{start}{name}.{part}", outputs, scale=0.2, around=around)
        variance = case.random.uniform(0.5, 2, outputs)
        parts["bn.moving_variance"] = case.given(f"{start}{name}.bn.moving_variance", variance)
        w.update({f"{name}.{part}": value for part, value in parts.items()})
    return w


def lnca_forward():
    d, hidden, steps = 4, 4, 3
    case = Case(
        "lnca_forward_nafca",
        "A whole latent model: encoder, three steps from the seed or from a pool state, decoder",
        latent_channels=d,
        hidden=hidden,
        embed_dim=6,
        ffn_expand=2,
        B=2,
        H=8,
        W=12,
        steps=steps,
    )
    model = autoencoder_weights(case, "w.ae.", d)
    case.config.update({"in": d, "out": d})
    core = named(nafca_weights(case, "w.core."), "w.core.")
    x = case.given("in.x", case.random.uniform(0, 1, (2, 8, 12, 3)))
    masks = case.bits("in.mask", steps, 2, 2, 3, 1)
    latent, skip = encode(x, model)
    case.result("out.fresh.latent", latent)
    case.result("out.fresh.skip", skip)
    half = np.full_like(latent, 0.5)
    fresh = np.concatenate([latent, half, np.zeros((2, 2, 3, hidden))], -1)
    for name, start in [("fresh", fresh), ("pool", case.draw("in.pool", 2, 2, 3, 2 * d + hidden))]:
        state = advance(nafca_update, start, masks, core, case.config)[-1]
        case.result(f"out.{name}.state", state)
        case.result(f"out.{name}.rec", decode(state[..., d : 2 * d], skip, model))
    case.save()


def positional_tables():
    case = Case("positional_tables", "Positional tables in both channel orders")
    for order, (count, channels) in itertools.product(("block", "interleaved"), ((12, 8), (30, 6))):
        case.result(f"out.{order}.{count}x{channels}", positions(count, channels, order))
    case.save()


def losses_latent_nca():
    weights = {"rec": 100, "lat": 100, "out": 1, "hid": 1, "tv": 1}
    case = Case("losses_latent_nca", "Losses of the latent models", weights=weights, latent_channels=4, hidden=3)
    target, prediction = [
        case.given(f"in.{name}", case.random.uniform(0, 1, (2, 4, 8, 3))) for name in ("target", "pred")
    ]
    latent, state = case.draw("in.lat_target", 2, 1, 2, 4), case.draw("in.state", 2, 1, 2, 11)

    def variation(image):
        total = 0
        for axis in (1, 2):
            pad = [(0, 0)] * 3
            pad[axis] = (1, 1)
            edges = [size(np.diff(np.pad(x.sum(-1), pad), axis=axis)) for x in (target, image)]
            total = total + (np.exp(-edges[0]) * edges[1]).sum() / len(image)
        return total

    def terms(p):
        out, hidden = p["in.state"][..., 4:8], p["in.state"][..., 8:]
        over = {"out": size(out - clip(out, 0, 1)), "hid": size(hidden - clip(hidden, -1, 1))}
        values = {
            "rec": ((target - p["in.pred"]) ** 2).mean(),
            "latent": ((latent - out) ** 2).mean(),
            "tv": variation(p["in.pred"]),
        }
        for name, excess in over.items():
            values[name] = excess.mean()
            values[name + "_paper"] = excess.sum() / (len(excess) * excess.shape[-1])
        return values

    def total(p):
        values = terms(p)
        return sum(weight * values["latent" if name == "lat" else name] for name, weight in weights.items())

    parameters = {"in.pred": prediction, "in.state": state}
    for name, value in terms(parameters).items():
        stem, _, paper = name.partition("_")
        case.result(f"out.{stem}_loss{'_' + paper if paper else ''}", value)
    case.result("out.total", total(parameters))
    case.gradients(total, parameters)
    case.save()


def ssim_psnr():
    case = Case("ssim_psnr", "SSIM and PSNR per image, and the relative metrics", k1=0.01, k2=0.03, max_val=1.0)
    case.result("out.window", WINDOW)
    for name, shape, noise in [("minimal11", (2, 11, 11, 1), 0.2), ("identical12", (1, 12, 13, 3), 0)]:
        a = case.given(name + "/in.a", case.random.uniform(0, 1, shape))
        b = case.given(name + "/in.b", a.real + noise * case.random.standard_normal(shape))
        case.result(name + "/out.ssim", ssim(a, b))
        case.result(name + "/out.psnr", psnr(a, b))
        if noise:
            case.gradients(lambda p: ssim(a, p["in.b"]).mean(), {"in.b": b}, name + "/grad.{}")
    shape = (2, 12, 11, 3)
    target = case.given("relative/in.target", case.random.uniform(0, 1, shape))
    images = [
        case.given(f"relative/in.{name}", target.real + noise * case.random.standard_normal(shape))
        for name, noise in [("pred", 0.1), ("corrupted", 0.3)]
    ]
    for name, metric in [("SSIM", ssim), ("PSNR", psnr)]:
        value, base = [metric(image, target).mean().real for image in images]
        case.result(f"relative/out.{name}", value)
        case.result(f"relative/out.REL_{name}", 100 * (value - base + 1e-8) / (base + 1e-8))
    case.save()


def noise_corruption():
    case = Case("noise_corruption", "Masked Gaussian noise, the same in every channel")
    x = case.given("in.x", case.random.uniform(0, 1, (2, 6, 5, 3)))
    mask, noise = case.bits("in.mask", 2, 6, 5, 1), case.draw("in.noise", 2, 6, 5, 1, scale=0.5)
    case.result("out.y", clip(x + mask * noise, 0, 1))
    case.save()


def curriculum():
    bounds = {"noise": (1.0, 0.25, 0.75), "blur": (15, 4, 10)}
    config = {kind: dict(zip(("range", "a_min", "a_max"), b)) for kind, b in bounds.items()}
    case = Case("curriculum", "Difficulty of every epoch", **config)
    for (kind, (reach, low, high)), epochs in itertools.product(bounds.items(), (7, 10)):
        course = [min(max(epoch / epochs * reach, low), high) for epoch in range(epochs)]
        case.result(f"out.{kind}.{epochs}", np.trunc(course) if kind == "blur" else course)
    case.save()


def adam():
    case = Case(
        "adam_cosine_normalised",
        "Gradient normalisation, Adam, cosine decay",
        lr=0.01,
        decay_steps=5,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-7,
        steps=7,
    )
    rates = [0.01 * 0.5 * (1 + math.cos(math.pi * min(t, 5) / 5)) for t in range(7)]
    case.result("out.lr", rates)
    for name, shape in [("a", (4,)), ("b", (2, 3))]:
        w = case.draw("in.w." + name, *shape)
        m, v, trace = np.zeros(shape), np.zeros(shape), []
        for t, g in enumerate(case.draw("in.grad." + name, 7, *shape)):
            g = g / (math.sqrt((g**2).sum().real) + 1e-8)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            rate = rates[t] * math.sqrt(1 - 0.999 ** (t + 1)) / (1 - 0.9 ** (t + 1))
            w = w - rate * m / (np.sqrt(v) + 1e-7)
            trace.append(w)
        case.result("out.w." + name, trace)
    case.save()


def growing_rollout():
    case = Case("growing_rollout8", "Eight steps of Growing NCA from a seed and from a blob, channels first")
    channels, hidden, steps, grid, angle = 6, 5, 8, (7, 6), 0.3
    case.sidecar["angle"] = angle
    x0 = np.zeros((2, channels, *grid))
    x0[0, 3:, grid[0] // 2, grid[1] // 2] = 1
    x0[1, :, 1:5, 2:5] = case.random.uniform(0, 1, (channels, 4, 3))
    parameters = {
        "x0": case.given("x0", x0),
        "w1": case.draw("w1", hidden, 3 * channels, scale=0.4),
        "b1": case.draw("b1", hidden, scale=0.1),
        "w2": case.draw("w2", channels, hidden, scale=0.3),
        "b2": case.draw("b2", channels, scale=0.1),
    }
    masks = case.bits("masks", steps, 2, 1, *grid)
    r = case.draw("r", *x0.shape)

    def run(p):
        cells, states = p["x0"].transpose(0, 2, 3, 1), []
        for mask in masks:
            cells = grow(cells, mask.transpose(0, 2, 3, 1), p, angle)
            states.append(cells.transpose(0, 3, 1, 2))
        return states

    states = run(parameters)
    case.result("states_f64", states)
    case.result("final_f64", states[-1])
    case.gradients(lambda p: (run(p)[-1] * r).sum(), parameters, "grad_{}_f64")
    case.save()


def main():
    small = {"in": 2, "out": 2, "hidden": 3}
    vitca = {"embed_dim": 8, "heads": 2, "mlp_dim": 6, "layer_norm_eps": 1e-3, **small}
    nafca = {"embed_dim": 6, "ffn_expand": 2, "layer_norm_eps": 1e-6, **small}
    five = "Five steps with given update masks"
    for name, order, grid, steps, what in [
        ("vitca_step_block_pe", "block", (2, 3), 1, "One step"),
        ("vitca_rollout5_interleaved_pe", "interleaved", (3, 4), 5, five),
    ]:
        transition(name, what, vitca_update, vitca_weights, grid, steps, positional_encoding=order, **vitca)
    transition("nafca_rollout5", five, nafca_update, nafca_weights, (4, 3), 5, **nafca)
    what = "convolution, batch norm, activation, at even and odd sizes"
    swish = [(4, 5, 2, 3, 2, False, "swish"), (5, 4, 2, 2, 3, True, "swish")]
    layer("adj_conv", what, False, [*swish, (3, 4, 1, 2, 2, True, "sigmoid")])
    layer("adj_conv_transpose", "transposed " + what, True, [*swish, (3, 2, 1, 2, 2, False, "sigmoid")])
    lnca_forward()
    positional_tables()
    losses_latent_nca()
    ssim_psnr()
    noise_corruption()
    curriculum()
    adam()
    growing_rollout()


if __name__ == "__main__":
    main()
