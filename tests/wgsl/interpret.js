// Runs the interpreter of exported pages on given cells: `node interpret.js CASES.json`. Prints, for each case,
// the largest difference from the expected cells, divided by the largest value or 1.
"use strict";
const fs = require("fs");

const floats = (base64) => new Float32Array(Uint8Array.from(Buffer.from(base64, "base64")).buffer);

function script(page, id) {
  return page.match(new RegExp(`<script id="${id}"[^>]*>([^]*?)</script>`))[1];
}

async function difference({ page, cells, expected, steps, rate, key }) {
  const text = fs.readFileSync(page, "utf8");
  const manifest = JSON.parse(script(text, "manifest"));
  const Automaton = new Function(`${script(text, "interpreter")}\nreturn CpuAutomaton;`)();
  const automaton = new Automaton(manifest, floats(manifest.weights));
  automaton.resize(...manifest.size, floats(cells));
  automaton.advance(steps, { step: 0, rate, key });
  const [found, wanted] = [await automaton.read(), floats(expected)];
  if (found.length !== wanted.length) throw new Error(`${found.length} numbers, expected ${wanted.length}`);
  let [most, largest] = [0, 1];
  for (let n = 0; n < wanted.length; n++) {
    largest = Math.max(largest, Math.abs(wanted[n]));
    // NaN is never the larger one.
    const error = Math.abs(found[n] - wanted[n]);
    most = error <= most ? most : error;
  }
  return most / largest;
}

(async () => {
  for (const one of JSON.parse(fs.readFileSync(process.argv[2], "utf8"))) {
    console.log(await difference(one));
  }
})();
