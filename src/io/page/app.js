// The page: shows the cells, and lets one draw on them.

const $ = (id) => document.getElementById(id);

// The numbers of base64, little-endian floats.
function floats(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

class App {
  constructor(manifest) {
    const { layout, size, fire_rate: rate } = manifest;
    this.manifest = manifest;
    this.channels = layout.input + layout.output + layout.hidden;
    [this.height, this.width] = size;
    Object.assign(this, { rate, key: [0, 0], step: 0, playing: true, angle: 0, hexagonal: false });
    Object.assign(this, { frames: 0, measured: { time: performance.now(), step: 0 } });
  }

  // Finds WebGPU, or what stands for it.
  async open(wanted) {
    const weights = floats(this.manifest.weights);
    let reason = "This browser has no WebGPU";
    if (wanted !== "javascript") {
      try {
        this.automaton = await GpuAutomaton.open(this.manifest, weights);
      } catch (error) {
        reason = `WebGPU failed (${error.message})`;
      }
    }
    if (!this.automaton) {
      this.automaton = new CpuAutomaton(this.manifest, weights);
      $("notice").textContent = `${reason}: the automaton runs in plain JavaScript, slowly.`;
    }
    $("engine").textContent = this.automaton.name;
    await this.restart();
  }

  // The first cells.
  seed() {
    const { start } = this.manifest, cells = new Float32Array(this.height * this.width * this.channels);
    if (start === "cell") {
      const middle = Math.floor(this.height / 2) * this.width + Math.floor(this.width / 2);
      cells.set(this.living(), middle * this.channels);
    }
    return cells;
  }

  // One living cell: black and opaque, its hidden channels 1.
  living() {
    return Float32Array.from({ length: this.channels }, (_, c) => (c < 3 ? 0 : 1));
  }

  async restart(cells) {
    await this.automaton.reading;
    this.automaton.resize(this.height, this.width, cells ?? this.seed());
    this.step = 0;
    this.measured = { time: performance.now(), step: 0 };
    const side = Math.max(this.height, this.width);
    if (!this.zoomed) $("zoom").value = Math.max(1, Math.min(12, Math.floor((2 * this.room()) / side) / 2));
    this.layOut();
    await this.show();
  }

  // Pixels that a picture may have on this screen.
  room() {
    const frame = document.querySelector(".frame");
    return Math.min(frame.clientWidth - 26, Math.max(240, 0.66 * innerHeight));
  }

  layOut() {
    const zoom = Number($("zoom").value), rise = this.hexagonal ? Math.sqrt(3) / 2 : 1;
    const picture = $("picture");
    [picture.width, picture.height] = [this.width * (this.hexagonal ? 2 : 1), this.height];
    picture.style.width = `${this.width * zoom}px`;
    picture.style.height = `${this.height * zoom * rise}px`;
    describe();
  }

  advance(steps) {
    this.automaton.advance(steps, { step: this.step, rate: this.rate, key: this.key });
    this.step += steps;
  }

  cells() {
    return this.automaton.read();
  }

  // Puts `living` at the cells of a disc, or nothing.
  paint(row, column, radius, draws) {
    const { start } = this.manifest;
    if (draws && start === "cell") {
      this.automaton.put(row * this.width + column, this.living());
      return;
    }
    const within = Math.ceil(radius) - 1;
    for (let y = row - within; y <= row + within; y++) {
      const half = Math.floor(Math.sqrt(Math.max(0, radius * radius - (y - row) ** 2) * 0.999));
      const first = Math.max(0, column - half), last = Math.min(this.width - 1, column + half);
      if (y < 0 || y >= this.height || last < first) continue;
      const numbers = new Float32Array((last - first + 1) * this.channels);
      if (draws) numbers.forEach((_, n) => { numbers[n] = Math.random() - 0.5; });
      this.automaton.put(y * this.width + first, numbers);
    }
  }

  // Erases rows and columns.
  cut([top, bottom], [left, right]) {
    for (let y = top; y < bottom; y++) {
      this.automaton.put(y * this.width + left, new Float32Array((right - left) * this.channels));
    }
  }

  scatter() {
    for (let n = 0; n < 6; n++) {
      const [row, column] = [this.height, this.width].map((side) => Math.floor(Math.random() * side));
      this.paint(row, column, Math.max(2, Math.min(this.height, this.width) / 11), false);
    }
  }

  // Turns the gradients of perception, on either lattice.
  perceive() {
    const { perception } = this.manifest;
    if (!perception) return;
    const filters = this.hexagonal ? perception.hexagonal : perception.square, count = filters.length / 9;
    const [sin, cos] = [Math.sin(this.angle), Math.cos(this.angle)];
    const kernel = new Float32Array(this.channels * count * 9);
    for (let c = 0; c < this.channels; c++) {
      for (let at = 0; at < count * 9; at++) {
        const [filter, n] = [Math.floor(at / 9), at % 9], [x, y] = [filters[9 + n], filters[18 + n]];
        kernel[c * count * 9 + at] =
          filter === 1 ? x * cos - y * sin : filter === 2 ? x * sin + y * cos : filters[at];
      }
    }
    this.automaton.setParam(perception.param, kernel);
  }

  async show() {
    const cells = await this.cells();
    if (cells.length !== this.height * this.width * this.channels) return;
    this.picture(cells);
    $("step").textContent = this.step;
    if ($("inside").open && this.frames % 4 === 0) this.pictures(cells);
  }

  picture(cells) {
    const { view, layout } = this.manifest, { width, height, channels } = this;
    const image = new ImageData(width, height), first = layout.input;
    for (let cell = 0; cell < width * height; cell++) {
      const at = cell * channels + first;
      const clear = view.alpha ? 1 - Math.min(1, Math.max(0, cells[at + 3])) : 0;
      for (let c = 0; c < 3; c++) {
        const channel = Math.min(c, layout.output - 1);
        image.data[4 * cell + c] = 255 * (cells[at + channel] * view.scale + view.shift + clear);
      }
      image.data[4 * cell + 3] = 255;
    }
    const context = $("picture").getContext("2d");
    if (!this.hexagonal) return context.putImageData(image, 0, 0);
    // The lattice is stored skewed: each row is half a cell further right, on a torus.
    const whole = new OffscreenCanvas(width, height);
    whole.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    for (let y = 0; y < height; y++) {
      for (const turn of [0, 1]) {
        context.drawImage(whole, 0, y, width, 1, (y % (2 * width)) - turn * 2 * width, y, 2 * width, 1);
      }
    }
  }

  pictures(cells) {
    const { width, height, channels } = this, columns = Math.min(4, channels);
    const canvas = $("channels"), rows = Math.ceil(channels / columns);
    [canvas.width, canvas.height] = [columns * (width + 2) - 2, rows * (height + 2) - 2];
    const context = canvas.getContext("2d");
    for (let c = 0; c < channels; c++) {
      const image = new ImageData(width, height);
      for (let cell = 0; cell < width * height; cell++) {
        const value = Math.max(-1, Math.min(1, cells[cell * channels + c]));
        const [red, green, blue] = value > 0 ? [0, 110, 230] : [220, 120, 10];
        const strength = Math.abs(value);
        image.data.set([255 - red * strength, 255 - green * strength, 255 - blue * strength, 255], 4 * cell);
      }
      context.putImageData(image, (c % columns) * (width + 2), Math.floor(c / columns) * (height + 2));
    }
  }

  // Steps for this frame.
  due() {
    const pace = Number($("pace").value);
    if (pace >= 0) return 2 ** pace;
    return this.frames % 2 ** -pace === 0 ? 1 : 0;
  }

  async frame() {
    try {
      if (this.playing && !this.busy) {
        const due = this.due();
        if (due) this.advance(due);
        await this.show();
      }
      this.frames++;
      const now = performance.now(), { time, step } = this.measured;
      if (now - time > 500) {
        const rate = (1000 * (this.step - step)) / (now - time);
        $("speed").textContent = this.playing ? rate.toFixed(rate < 10 ? 1 : 0) : "0";
        this.measured = { time: now, step: this.step };
      }
    } catch (error) {
      this.playing = false;
      $("notice").textContent = `It stopped: ${error.message}`;
      console.error(error);
    }
    requestAnimationFrame(() => this.frame());
  }
}

const app = new App(JSON.parse($("manifest").textContent));

// Writes the value of each slider beside it.
function describe() {
  const of = { rate: (x) => x.toFixed(2), angle: (x) => `${x}°`, zoom: (x) => `${x}×`, radius: (x) => x };
  of.pace = (x) => (x < 0 ? `1/${2 ** -x}` : `${2 ** x}`) + " a frame";
  for (const [id, text] of Object.entries(of)) {
    $(id).parentElement.querySelector("output").textContent = text(Number($(id).value));
  }
}

function toggle(playing) {
  app.playing = playing;
  $("play").textContent = playing ? "Pause" : "Play";
  $("play").setAttribute("aria-pressed", playing);
}

// The cell under a pointer.
function cellAt(event) {
  const box = $("picture").getBoundingClientRect();
  const row = Math.floor(((event.clientY - box.top) / box.height) * app.height);
  let column = ((event.clientX - box.left) / box.width) * app.width;
  if (app.hexagonal) column = (((column - row / 2) % app.width) + app.width) % app.width;
  return [row, Math.floor(column)];
}

function use([row, column]) {
  if (row < 0 || column < 0 || row >= app.height || column >= app.width) return;
  app.paint(row, column, Number($("radius").value), $("draw").checked);
  if (!app.playing) app.show();
}

function connect() {
  const { fixed, perception, start } = app.manifest;
  const run = (f) => async () => {
    f();
    if (!app.playing) await app.show();
  };
  const on = (id, f) => $(id).addEventListener("click", run(f));
  $("rate").value = app.rate;
  [$("rows").value, $("columns").value] = [app.height, app.width];
  $("rows").disabled = $("columns").disabled = fixed;
  $("turning").hidden = !perception;
  $("lattices").hidden = !perception?.hexagonal;
  if (start === "cell") $("draw-name").textContent = "Plant a cell";
  on("play", () => toggle(!app.playing));
  on("one", () => { toggle(false); app.advance(1); });
  on("again", () => app.restart());
  const [h, w] = [() => app.height, () => app.width], half = (n) => Math.floor(n / 2);
  on("left", () => app.cut([0, h()], [0, half(w())]));
  on("right", () => app.cut([0, h()], [half(w()), w()]));
  on("upper", () => app.cut([0, half(h())], [0, w()]));
  on("lower", () => app.cut([half(h()), h()], [0, w()]));
  on("scatter", () => app.scatter());
  for (const id of ["pace", "radius", "rate", "angle", "zoom"]) $(id).addEventListener("input", describe);
  $("rate").addEventListener("input", () => { app.rate = Number($("rate").value); });
  $("zoom").addEventListener("input", () => { app.zoomed = true; app.layOut(); app.show(); });
  $("angle").addEventListener("input", () => {
    app.angle = (Number($("angle").value) * Math.PI) / 180;
    app.perceive();
  });
  $("hexagonal").addEventListener("change", () => {
    app.hexagonal = $("hexagonal").checked;
    app.perceive();
    app.layOut();
    app.show();
  });
  $("inside").addEventListener("toggle", async () => { if ($("inside").open) app.pictures(await app.cells()); });
  for (const id of ["rows", "columns", "seed"]) {
    $(id).addEventListener("change", async () => {
      const number = (id) => {
        const { min, max, value } = $(id);
        return ($(id).value = Math.round(Math.min(Number(max), Math.max(Number(min), Number(value) || 0))));
      };
      app.busy = true;
      await app.automaton.reading;
      [app.height, app.width, app.key] = [number("rows"), number("columns"), [number("seed"), 0]];
      await app.restart();
      app.busy = false;
    });
  }
  pointers();
  keys();
}

function pointers() {
  const picture = $("picture");
  let last = null;
  picture.addEventListener("pointerdown", (event) => {
    picture.setPointerCapture(event.pointerId);
    last = cellAt(event);
    use(last);
  });
  picture.addEventListener("pointermove", (event) => {
    if (!last) return;
    // All cells between two events, so that a quick stroke has no gaps.
    const to = cellAt(event), count = Math.max(...to.map((at, n) => Math.abs(at - last[n])));
    for (let n = 1; n <= count; n++) use(to.map((at, axis) => Math.round(last[axis] + ((at - last[axis]) * n) / count)));
    last = to;
  });
  for (const end of ["pointerup", "pointercancel"]) picture.addEventListener(end, () => { last = null; });
}

function keys() {
  const brush = [0.5, 0.5];
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.type === "number") return;
    const buttons = { s: "one", r: "again", e: "erase", d: "draw", x: "scatter" };
    if (event.key === " " && event.target.tagName !== "BUTTON") {
      event.preventDefault();
      toggle(!app.playing);
    } else if (buttons[event.key]) {
      $(buttons[event.key]).click();
    } else if (event.target === $("picture")) {
      const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      const at = [Math.floor(brush[0] * app.height), Math.floor(brush[1] * app.width)];
      if (moves[event.key]) {
        event.preventDefault();
        moves[event.key].forEach((by, axis) => {
          brush[axis] = Math.min(0.999, Math.max(0, brush[axis] + by * 0.04));
        });
        $("notice").textContent = `The brush is at row ${at[0]}, column ${at[1]}.`;
      } else if (event.key === "Enter") {
        use(at);
      }
    }
  });
}

const ready = app.open(new URLSearchParams(location.search).get("engine")).then(() => {
  connect();
  describe();
  app.frame();
}).catch((error) => {
  $("notice").textContent = `The automaton cannot run here: ${error.message}`;
  console.error(error);
});
