// An automaton on WebGPU: the kernels of the page, a dispatch for each in every step.

const ARGS_STRIDE = 256;
const MOST_STEPS = 64;

class GpuAutomaton {
  static async open(manifest, weights) {
    const adapter = await navigator.gpu?.requestAdapter();
    if (!adapter) return null;
    const device = await adapter.requestDevice();
    const automaton = new GpuAutomaton(manifest, weights, device);
    await automaton.compile();
    return automaton;
  }

  constructor(manifest, weights, device) {
    Object.assign(this, { manifest, device });
    this.weights = Float32Array.from(weights);
    this.failure = null;
    device.addEventListener("uncapturederror", ({ error }) => { this.failure ??= error.message; });
    device.lost.then(({ message }) => { this.failure ??= message; });
  }

  get name() { return "WebGPU"; }

  async compile() {
    const { device, manifest } = this;
    const types = ["uniform", "read-only-storage", "read-only-storage", "read-only-storage",
      "storage", "storage", "storage"];
    this.layout = device.createBindGroupLayout({
      entries: types.map((type, binding) => ({
        binding, visibility: GPUShaderStage.COMPUTE, buffer: { type, hasDynamicOffset: binding === 0 },
      })),
    });
    const module = device.createShaderModule({ code: manifest.shader.text });
    const layout = device.createPipelineLayout({ bindGroupLayouts: [this.layout] });
    this.kernels = await Promise.all(manifest.shader.kernels.map((entryPoint) =>
      device.createComputePipelineAsync({ layout, compute: { module, entryPoint } })));
  }

  buffer(numbers, usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST) {
    const buffer = this.device.createBuffer({ size: Math.max(16, 4 * numbers), usage });
    this.buffers.push(buffer);
    return buffer;
  }

  resize(height, width, state) {
    this.buffers?.forEach((buffer) => buffer.destroy());
    this.buffers = [];
    const { device } = this, { buries, scratch } = this.manifest.shader;
    Object.assign(this, { height, width, area: height * width, numbers: state.length, turn: 0 });
    this.args = this.buffer(MOST_STEPS * ARGS_STRIDE / 4, GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST);
    this.weightBuffer = this.buffer(this.weights.length);
    this.states = [this.buffer(this.numbers), this.buffer(this.numbers)];
    this.copy = this.buffer(this.numbers, GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
    const [draws, values] = [this.buffer(1), this.buffer(this.area * scratch)];
    const spare = this.buffer(buries ? this.numbers : 1);
    device.queue.writeBuffer(this.weightBuffer, 0, this.weights);
    device.queue.writeBuffer(this.states[0], 0, Float32Array.from(state));
    this.groups = [0, 1].map((turn) => {
      const next = this.states[1 - turn];
      const [updated, last] = buries ? [spare, next] : [next, spare];
      const buffers = [this.weightBuffer, this.states[turn], draws, values, updated, last];
      return device.createBindGroup({
        layout: this.layout,
        entries: [{ binding: 0, resource: { buffer: this.args, size: 48 } },
          ...buffers.map((buffer, n) => ({ binding: n + 1, resource: { buffer } }))],
      });
    });
  }

  advance(steps, settings) {
    for (let done = 0; done < steps; done += MOST_STEPS) {
      this.some(Math.min(MOST_STEPS, steps - done), { ...settings, step: settings.step + done });
    }
    if (this.failure) throw new Error(this.failure);
  }

  some(steps, { step, rate, key }) {
    const args = new Uint32Array(steps * ARGS_STRIDE / 4), floats = new Float32Array(args.buffer);
    for (let n = 0; n < steps; n++) {
      const at = n * ARGS_STRIDE / 4;
      args.set([this.area, this.height, this.width, step + n, 0, 0, key[0], key[1], rate >= 1 ? 0 : 1], at);
      floats[at + 9] = rate;
    }
    this.device.queue.writeBuffer(this.args, 0, args);
    const encoder = this.device.createCommandEncoder(), pass = encoder.beginComputePass();
    const groups = Math.ceil(this.area / 64), columns = Math.min(groups, 65535);
    for (let n = 0; n < steps; n++) {
      pass.setBindGroup(0, this.groups[this.turn], [n * ARGS_STRIDE]);
      for (const kernel of this.kernels) {
        pass.setPipeline(kernel);
        pass.dispatchWorkgroups(columns, Math.ceil(groups / columns));
      }
      this.turn = 1 - this.turn;
    }
    pass.end();
    this.device.queue.submit([encoder.finish()]);
  }

  put(cell, numbers) {
    const channels = this.numbers / this.area;
    this.device.queue.writeBuffer(this.states[this.turn], 4 * channels * cell, Float32Array.from(numbers));
  }

  setParam(n, numbers) {
    this.weights.set(numbers, this.manifest.params[n]);
    this.device.queue.writeBuffer(this.weightBuffer, 4 * this.manifest.params[n], Float32Array.from(numbers));
  }

  // The cells as they are now. Calls during a copy share the next one.
  read() {
    if (!this.reading) {
      this.reading = this.copied().finally(() => { this.reading = null; });
      return this.reading;
    }
    this.queued ??= this.reading.catch(() => {}).then(() => {
      this.queued = null;
      return this.read();
    });
    return this.queued;
  }

  async copied() {
    const { copy } = this, encoder = this.device.createCommandEncoder();
    encoder.copyBufferToBuffer(this.states[this.turn], 0, copy, 0, 4 * this.numbers);
    this.device.queue.submit([encoder.finish()]);
    try {
      await copy.mapAsync(GPUMapMode.READ);
    } catch (error) {
      // The grid was made anew meanwhile: its cells are those that are asked for.
      if (copy !== this.copy) return this.copied();
      throw error;
    }
    const values = new Float32Array(copy.getMappedRange().slice(0, 4 * this.numbers));
    copy.unmap();
    return values;
  }
}
