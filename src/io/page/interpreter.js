// An automaton in plain JavaScript: its program, operation by operation. Slow, and right without WebGPU.

// Word `element % 4` of Philox4x32-10 at the counter of four elements.
function highProduct(a, b) {
  const al = a & 0xffff, ah = a >>> 16, bl = b & 0xffff, bh = b >>> 16;
  const middle = ah * bl + ((al * bl) >>> 16);
  const other = al * bh + (middle & 0xffff);
  return (ah * bh + Math.floor(middle / 65536) + Math.floor(other / 65536)) >>> 0;
}

function randomWord(element, image, step, stream, key) {
  let [a, b, c, d] = [element >>> 2, image, step, stream];
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const [ph, pl] = [highProduct(a, 0xd2511f53), Math.imul(a, 0xd2511f53)];
    const [qh, ql] = [highProduct(c, 0xcd9e8d57), Math.imul(c, 0xcd9e8d57)];
    [a, b, c, d] = [(qh ^ b ^ k0) >>> 0, ql >>> 0, (ph ^ d ^ k1) >>> 0, pl >>> 0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [a, b, c, d][element & 3];
}

function uniform(element, image, step, stream, key) {
  return (randomWord(element, image, step, stream, key) >>> 8) / 16777216;
}

// Abramowitz and Stegun 7.1.26, to 1.5e-7.
function errorFunction(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const sum = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - sum * Math.exp(-x * x));
}

const FUNCTIONS = {
  relu: () => (x) => Math.max(x, 0),
  elu: () => (x) => (x > 0 ? x : Math.expm1(x)),
  gelu: () => (x) => 0.5 * x * (1 + errorFunction(x * Math.SQRT1_2)),
  silu: () => (x) => x / (1 + Math.exp(-x)),
  sigmoid: () => (x) => 1 / (1 + Math.exp(-x)),
  tanh: () => Math.tanh,
  clamp: ({ min, max }) => (x) => Math.min(Math.max(x, min), max),
  quantise: ({ min, max, step }) => (x) =>
    Math.floor((Math.min(Math.max(x, min), max) - min) / step + 0.5) * step + min,
};

// The inputs of an operation, and those of them that it reads at neighbours.
function inputsOf(node) {
  switch (node.op) {
    case "cells": case "constant": return [];
    case "concat": return node.parts;
    case "add": case "mul": return [node.a, node.b];
    case "attention": return [node.q, node.k, node.v];
    default: return [node.x];
  }
}
function nearInputs(node) {
  switch (node.op) {
    case "neighbourhood": case "sum_taps": case "depthwise": return [node.x];
    case "attention": return [node.k, node.v];
    default: return [];
  }
}

class CpuAutomaton {
  constructor(manifest, weights) {
    this.manifest = manifest;
    this.weights = Float32Array.from(weights);
    const { nodes } = manifest;
    // Values that neighbours read are needed at every cell; the others only where a cell may change.
    this.dense = nodes.map(() => false);
    for (let n = nodes.length - 1; n >= 0; n--) {
      for (const x of nearInputs(nodes[n])) this.dense[x] = true;
      if (this.dense[n]) for (const x of inputsOf(nodes[n])) this.dense[x] = true;
    }
  }

  get name() { return "plain JavaScript"; }

  resize(height, width, state) {
    Object.assign(this, { height, width, area: height * width });
    this.state = Float32Array.from(state);
    this.values = this.manifest.nodes.map((node) =>
      node.op === "cells" ? null : new Float32Array(this.area * node.width));
    this.tables = [false, true].map((torus) => this.around(torus));
  }

  around(torus) {
    const { height, width } = this, near = new Int32Array(9 * this.area);
    for (let cell = 0; cell < this.area; cell++) {
      for (let n = 0; n < 9; n++) {
        let y = Math.floor(cell / width) + Math.floor(n / 3) - 1, x = (cell % width) + (n % 3) - 1;
        if (torus) [y, x] = [(y + height) % height, (x + width) % width];
        near[9 * cell + n] = y >= 0 && x >= 0 && y < height && x < width ? y * width + x : -1;
      }
    }
    return near;
  }

  // The weights from those of a parameter on.
  param(n) {
    return this.weights.subarray(this.manifest.params[n]);
  }

  advance(steps, { step, rate, key }) {
    for (let n = 0; n < steps; n++) this.one(step + n, rate, key);
  }

  one(step, rate, key) {
    const { layout, alive, update } = this.manifest;
    const channels = layout.input + layout.output + layout.hidden;
    const lives = alive ? this.alive(this.state) : null;
    const all = [], active = [];
    for (let cell = 0; cell < this.area; cell++) {
      all.push(cell);
      const fires = rate >= 1 || uniform(cell, 0, step, 0, key) < Math.fround(rate);
      if (fires && (!lives || lives[cell])) active.push(cell);
    }
    this.manifest.nodes.forEach((node, n) => this.compute(n, node, this.dense[n] ? all : active));
    const next = Float32Array.from(this.state), change = this.value(update);
    const width = channels - layout.input;
    for (const cell of active) {
      for (let c = 0; c < width; c++) next[cell * channels + layout.input + c] += change[cell * width + c];
    }
    if (alive) {
      const after = this.alive(next);
      for (let cell = 0; cell < this.area; cell++) {
        if (!(lives[cell] && after[cell])) next.fill(0, cell * channels, (cell + 1) * channels);
      }
    }
    this.state = next;
  }

  alive(state) {
    const { alive, layout } = this.manifest;
    const channels = layout.input + layout.output + layout.hidden, near = this.tables[+alive.torus];
    const lives = new Uint8Array(this.area);
    for (let at = 0; at < near.length; at++) {
      if (near[at] >= 0 && state[near[at] * channels + alive.channel] > alive.threshold) {
        lives[Math.floor(at / 9)] = 1;
      }
    }
    return lives;
  }

  value(n) {
    return this.manifest.nodes[n].op === "cells" ? this.state : this.values[n];
  }

  compute(n, node, cells) {
    const { nodes } = this.manifest, y = this.values[n], width = node.width;
    const x = node.x === undefined ? null : this.value(node.x);
    const of = node.x === undefined ? 0 : nodes[node.x].width;
    const near = node.torus === undefined ? null : this.tables[+node.torus];
    // y[cell, c] = f(first number of x at the cell, c, cell)
    const each = (f) => {
      for (const cell of cells) for (let c = 0; c < width; c++) y[cell * width + c] = f(cell * of, c, cell);
    };
    const around = (cell, f) => {
      for (let k = 0; k < 9; k++) if (near[9 * cell + k] >= 0) f(near[9 * cell + k], k);
    };
    switch (node.op) {
      case "cells": return;
      case "constant": return y.set(this.param(node.param).subarray(0, y.length));
      case "slice": return each((at, c) => x[at + node.start + c]);
      case "concat": {
        let start = 0;
        for (const part of node.parts) {
          const [from, count] = [this.value(part), nodes[part].width];
          for (const cell of cells) {
            for (let c = 0; c < count; c++) y[cell * width + start + c] = from[cell * count + c];
          }
          start += count;
        }
        return;
      }
      case "linear": {
        const w = this.param(node.weight), bias = node.bias === null ? null : this.param(node.bias);
        return each((at, c) => {
          let sum = bias ? bias[c] : 0;
          for (let k = 0; k < of; k++) sum += w[c * of + k] * x[at + k];
          return sum;
        });
      }
      case "neighbourhood": return each((_, c, cell) => {
        const at = near[9 * cell + Math.floor(c / of)];
        return at < 0 ? 0 : x[at * of + (c % of)];
      });
      case "sum_taps": return each((_, c, cell) => {
        let sum = 0;
        around(cell, (at, k) => { sum += x[at * of + k * width + c]; });
        return sum;
      });
      case "depthwise": {
        const taps = this.param(node.kernel), filters = width / of;
        return each((_, c, cell) => {
          let sum = 0;
          for (let k = 0; k < 9; k++) {
            const at = near[9 * cell + k], tap = taps[c * 9 + k];
            if (at >= 0 && tap !== 0) sum += tap * x[at * of + Math.floor(c / filters)];
          }
          return sum;
        });
      }
      case "layer_norm": case "rms_norm": case "inverse_rms": return this.normalise(node, cells, x, of, y);
      case "map": return each(((f) => (at, c) => f(x[at + c]))(FUNCTIONS[node.function](node)));
      case "add": case "mul": {
        const [a, b] = [this.value(node.a), this.value(node.b)], one = nodes[node.b].width === 1;
        return each(node.op === "add"
          ? (_, c, cell) => a[cell * width + c] + b[cell * width + c]
          : (_, c, cell) => a[cell * width + c] * (one ? b[cell] : b[cell * width + c]));
      }
      case "affine": {
        const [scale, shift] = [node.scale, node.shift].map((p) => (p === null ? null : this.param(p)));
        return each((at, c) => x[at + c] * (scale ? scale[c] : 1) + (shift ? shift[c] : 0));
      }
      case "dropout": return each((at, c) => x[at + c]);
      case "attention": return this.attend(node, cells, near, y);
      default: throw new Error(`an unknown operation, ${node.op}`);
    }
  }

  normalise(node, cells, x, of, y) {
    const centred = node.op === "layer_norm" || node.centred;
    const [weight, bias] = [node.weight, node.bias].map((p) => (p === undefined ? null : this.param(p)));
    for (const cell of cells) {
      let [mean, square] = [0, 0];
      for (let c = 0; c < of && centred; c++) mean += x[cell * of + c] / of;
      for (let c = 0; c < of; c++) square += (x[cell * of + c] - mean) ** 2 / of;
      const inverse = 1 / Math.sqrt(square + node.eps);
      if (node.op === "inverse_rms") {
        y[cell] = inverse;
        continue;
      }
      for (let c = 0; c < of; c++) {
        y[cell * of + c] = (x[cell * of + c] - mean) * inverse * weight[c] + (bias ? bias[c] : 0);
      }
    }
  }

  attend(node, cells, near, y) {
    const [q, k, v] = [node.q, node.k, node.v].map((x) => this.value(x));
    const width = node.width, depth = width / node.heads, shares = new Float64Array(9);
    for (const cell of cells) {
      for (let first = 0; first < width; first += depth) {
        for (let n = 0; n < 9; n++) {
          const at = near[9 * cell + n];
          shares[n] = 0;
          for (let c = first; c < first + depth && at >= 0; c++) shares[n] += q[cell * width + c] * k[at * width + c];
          shares[n] /= Math.sqrt(depth);
        }
        const most = Math.max(...shares);
        const total = shares.reduce((sum, share) => sum + Math.exp(share - most), 0);
        for (let c = first; c < first + depth; c++) {
          let sum = 0;
          for (let n = 0; n < 9; n++) {
            const at = near[9 * cell + n];
            if (at >= 0) sum += Math.exp(shares[n] - most) * v[at * width + c];
          }
          y[cell * width + c] = sum / total;
        }
      }
    }
  }

  // Puts numbers at the cells from `cell` on.
  put(cell, numbers) {
    this.state.set(numbers, cell * (this.state.length / this.area));
  }

  setParam(n, numbers) {
    this.param(n).set(numbers);
  }

  async read() {
    return this.state;
  }
}
