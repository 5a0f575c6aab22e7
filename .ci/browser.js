// Opens exported pages in a headless Chromium and uses them: `node .ci/browser.js FOLDER [SCREENSHOTS]`, where
// FOLDER has NAME.html and NAME.json, with the cells that the engine computes. It speaks the DevTools protocol
// over a pipe, so nothing is downloaded. CHROMIUM names the browser.
"use strict";
const { spawn } = require("child_process");
const fs = require("fs");
const os = require("os");
const path = require("path");

class Browser {
  constructor() {
    this.profile = fs.mkdtempSync(path.join(os.tmpdir(), "lnca-browser-"));
    const args = ["--headless", "--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader",
      "--remote-debugging-pipe", "--disable-gpu-sandbox", "--hide-scrollbars", "--disable-background-networking",
      `--user-data-dir=${this.profile}`];
    this.process = spawn(process.env.CHROMIUM || "/usr/bin/chromium", args,
      { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    this.process.on("error", (error) => { throw error; });
    [this.calls, this.next, this.listeners] = [new Map(), 1, []];
    let text = "";
    this.process.stdio[4].on("data", (data) => {
      text += data;
      const messages = text.split("\0");
      text = messages.pop();
      for (const message of messages.map(JSON.parse)) this.take(message);
    });
  }

  take(message) {
    const call = this.calls.get(message.id);
    this.calls.delete(message.id);
    if (!call) return this.listeners.forEach((listener) => listener(message));
    return message.error ? call.reject(new Error(message.error.message)) : call.resolve(message.result);
  }

  send(method, params = {}, sessionId = undefined) {
    const id = this.next++;
    this.process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    return new Promise((resolve, reject) => this.calls.set(id, { resolve, reject }));
  }

  // A page of `width` and `height`, and what it says on its console.
  async open(url, { width, height, dark, touch }) {
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    const page = { said: [], targetId, send: (method, params) => this.send(method, params, sessionId) };
    this.listeners.push(({ method, params, sessionId: of }) => {
      if (of !== sessionId) return;
      if (method === "Runtime.exceptionThrown") {
        page.said.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
      };
      if (method === "Runtime.consoleAPICalled" && params.type === "error") page.said.push(JSON.stringify(params.args));
      if (method === "Log.entryAdded" && params.entry.level === "error") page.said.push(params.entry.text);
    });
    await page.send("Runtime.enable");
    await page.send("Log.enable");
    await page.send("Page.enable");
    await page.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: !!touch });
    const features = [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }];
    await page.send("Emulation.setEmulatedMedia", { features });
    await page.send("Page.navigate", { url });
    page.run = async (expression) => {
      const params = { expression, awaitPromise: true, returnByValue: true };
      const { result, exceptionDetails } = await page.send("Runtime.evaluate", params);
      if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
      return result.value;
    };
    for (let tries = 0; !(await page.run("typeof ready !== 'undefined' && document.readyState === 'complete'")); tries++) {
      if (tries > 100) throw new Error(`${url} does not load`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    await page.run("ready.then(() => toggle(false))");
    return page;
  }

  async shoot(page, file) {
    const { data } = await page.send("Page.captureScreenshot", { captureBeyondViewport: false });
    fs.writeFileSync(file, Buffer.from(data, "base64"));
  }

  async close() {
    await this.send("Browser.close").catch(() => {});
    await new Promise((resolve) => this.process.on("exit", resolve));
    fs.rmSync(this.profile, { recursive: true, force: true });
  }
}

function expect(holds, what) {
  if (!holds) throw new Error(what);
}

// Steps, drawing and healing on one page; all of it in the page, where the cells are.
async function check(browser, folder, name) {
  const { steps, cells } = JSON.parse(fs.readFileSync(path.join(folder, `${name}.json`), "utf8"));
  const page = await browser.open(`file://${path.resolve(folder, `${name}.html`)}`, { width: 1280, height: 860 });
  const engine = await page.run("app.automaton.name");
  expect(engine === "WebGPU", `${name}: runs on ${engine}`);
  const error = await page.run(`(async () => {
    await app.restart();
    app.advance(${steps});
    const [found, wanted] = [await app.cells(), floats("${cells}")];
    return wanted.reduce((most, value, n) => Math.max(most, Math.abs(value - found[n]) || (value === found[n] ? 0 : 1)), 0);
  })()`);
  expect(error <= 1e-3, `${name}: differs by ${error} after ${steps} steps`);

  const [speed, before, cut, healed] = await page.run(`(async () => {
    app.advance(96 - ${steps});
    const whole = await app.cells(), began = performance.now();
    const visible = (cells) => cells.filter((_, n) => n % app.channels < 4);
    const away = async () => {
      const now = visible(await app.cells()), was = visible(whole);
      return now.reduce((sum, value, n) => sum + (value - was[n]) ** 2, 0) / now.length;
    };
    app.advance(16);
    const before = await away(), speed = 16000 / (performance.now() - began);
    document.getElementById("lower").click();
    const cut = await away();
    app.advance(96);
    return [speed, before, cut, await away()];
  })()`);
  // A texture that heals is another one; that there is something is seen by what its variance was.
  const heals = name === "lizard" ? healed < cut / 2 : healed > cut / 2;
  expect(before < cut || name !== "lizard", `${name}: the cut is not seen: ${before}, ${cut}`);
  expect(heals, `${name}: does not heal: ${cut} after the cut, then ${healed}`);

  // A stroke of the mouse over the picture erases.
  const box = await page.run("(({ x, y, width, height }) => ({ x, y, width, height }))($('picture').getBoundingClientRect())");
  const mouse = (type, x, y) => page.send("Input.dispatchMouseEvent",
    { type, x: box.x + x * box.width, y: box.y + y * box.height, button: "left", buttons: 1, clickCount: 1 });
  const filled = "app.cells().then((cells) => cells.filter((value) => value !== 0).length)";
  const full = await page.run(filled);
  await mouse("mousePressed", 0.3, 0.5);
  await mouse("mouseMoved", 0.7, 0.5);
  await mouse("mouseReleased", 0.7, 0.5);
  const erased = await page.run(filled);
  expect(erased < full, `${name}: drawing erases nothing of ${full}`);
  await page.run("$('draw').click()");
  await mouse("mousePressed", 0.5, 0.5);
  await mouse("mouseReleased", 0.5, 0.5);
  expect((await page.run(filled)) > erased, `${name}: drawing adds nothing to ${erased}`);

  // All controls, once.
  await page.run(`(async () => {
    for (const id of ["one", "left", "right", "upper", "scatter", "again"]) $(id).click();
    for (const [id, value] of [["rate", 1], ["angle", 45], ["zoom", 3], ["rows", 40], ["seed", 9]]) {
      $(id).value = value;
      $(id).dispatchEvent(new Event("input"));
      $(id).dispatchEvent(new Event("change"));
      await app.automaton.reading;
    }
    $("inside").open = true;
    if (!$("lattices").hidden) $("hexagonal").click();
    while (app.busy) await new Promise((done) => setTimeout(done, 20));
    app.advance(4);
    await app.show();
  })()`);
  expect((await page.run("app.height")) === 40, `${name}: the grid has another height`);
  expect(page.said.length === 0, `${name}: ${page.said.join("\n")}`);

  const plain = await browser.open(`file://${path.resolve(folder, `${name}.html`)}?engine=javascript`,
    { width: 390, height: 844, touch: true });
  const same = await plain.run(`(async () => {
    await app.restart();
    app.advance(${steps});
    const [found, wanted] = [await app.cells(), floats("${cells}")];
    return wanted.reduce((most, value, n) => Math.max(most, Math.abs(value - found[n]) || (value === found[n] ? 0 : 1)), 0);
  })()`);
  expect(same <= 1e-3, `${name}: plain JavaScript differs by ${same}`);
  expect(plain.said.length === 0, `${name}: ${plain.said.join("\n")}`);
  console.log(`${name}: differs by ${error.toExponential(1)} on WebGPU, ${same.toExponential(1)} in JavaScript after`
    + ` ${steps} steps; ${speed.toFixed(0)} steps a second; cut ${cut.toFixed(4)}, healed ${healed.toFixed(4)}`);
}

async function pictures(browser, folder, name, into) {
  for (const [size, at] of [["desktop", { width: 1280, height: 860 }], ["phone", { width: 390, height: 844, touch: true }]]) {
    for (const dark of [false, true]) {
      const page = await browser.open(`file://${path.resolve(folder, `${name}.html`)}`, { ...at, dark });
      await page.run("app.restart().then(() => { app.advance(96); $('inside').open = true; app.frames = 0; return app.show(); })");
      await browser.shoot(page, path.join(into, `${name}-${size}-${dark ? "dark" : "light"}.png`));
    }
  }
}

(async () => {
  const [folder, into] = process.argv.slice(2), browser = new Browser();
  try {
    const names = fs.readdirSync(folder).filter((file) => file.endsWith(".html")).map((file) => file.slice(0, -5));
    expect(names.length > 0, `no pages in ${folder}`);
    for (const name of names) {
      await check(browser, folder, name);
      if (into) await pictures(browser, folder, name, into);
    }
  } catch (error) {
    console.error(error);
    process.exitCode = 1;
  }
  await browser.close();
})();
