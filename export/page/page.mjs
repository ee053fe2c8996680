// The page: takes images, asks the cascade, shows what it says.

import * as ort from "./ort/ort.wasm.bundle.min.mjs";
import {answer} from "./answer.mjs";

const at = id => document.getElementById(id);
const said = at("said");
const percent = share => `${(100 * share).toFixed(1)} %`;
const UNITS = [[1e9, "GMACs"], [1e6, "MMACs"], [1e3, "kMACs"], [1, "MACs"]];
const rounded = x => Number(x.toPrecision(3));

function macsText(macs) {
  const [unit, name] = UNITS.find(([unit]) => macs >= unit) ?? [1, "MACs"];
  return `${rounded(macs / unit)} ${name}`;
}

function element(name, text, attributes = {}) {
  const made = Object.assign(document.createElement(name), attributes);
  if (text !== undefined) made.textContent = text;
  return made;
}

async function load() {
  const model = await (await fetch("model.json")).json();
  ort.env.wasm.wasmPaths = {wasm: new URL("ort/ort-wasm-simd-threaded.wasm", document.baseURI).href};
  // Threads share memory, which browsers allow only to pages that their server isolates.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  const session = await ort.InferenceSession.create("cascade.onnx", {executionProviders: ["wasm"]});
  return {model, session};
}

async function pixelsOf(blob) {
  const options = {imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none"};
  const bitmap = await createImageBitmap(blob, options);
  const {width, height} = bitmap;
  const canvas = element("canvas", undefined, {width, height});
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

function showStages(model, exit = -1) {
  at("stages").replaceChildren(...model.stages.map((stage, i) => {
    const left = i === model.stages.length - 1 ? "always answers" : `answers if surer than ${stage.threshold}`;
    const end = i === exit ? "; answered here" : exit >= 0 && i > exit ? "; was not needed" : "";
    const item = element("li", `${i + 1}. ${stage.member}: ${macsText(stage.macs)}, ${left}${end}`);
    item.classList.toggle("ran", i <= exit);
    return item;
  }));
}

function show(model, found) {
  const stage = found.exit_stage + 1;
  said.replaceChildren(
    element("strong", found.best[0].name),
    element("p", `Answered by stage ${stage} of ${model.stages.length}, ${percent(found.best[0].probability)} sure.`),
    element("p", `${macsText(found.macs)} in ${rounded(found.took_ms)} ms: ${found.saved > 0
      ? `${percent(found.saved)} of what all stages take was saved.` : "all stages ran, nothing was saved."}`),
  );
  said.dataset.answer = JSON.stringify(found);
  showStages(model, found.exit_stage);
  at("best").replaceChildren(...found.best.map(({name, probability}) => {
    const item = element("li"), bar = element("div", undefined, {className: "bar"});
    bar.style.width = `${100 * probability}%`;
    item.append(element("span", name), bar, element("span", percent(probability)));
    return item;
  }));
}

async function ask({model, session}, blob, name) {
  delete said.dataset.answer;
  try {
    const image = await pixelsOf(blob);
    at("hint").replaceChildren();
    const shown = element("img", undefined, {src: URL.createObjectURL(blob), alt: name});
    at("drop").querySelector("img")?.remove();
    at("drop").append(shown);
    said.textContent = "Computing…";
    await new Promise(resolve => setTimeout(resolve)); // let the browser draw that first
    show(model, await answer(ort, session, model, image));
  } catch (error) {
    said.textContent = `${name} cannot be answered: ${error.message ?? error}`;
  }
}

function listen(loaded) {
  const drop = at("drop"), buttons = at("samples");
  let last = Promise.resolve(); // one image after the other
  const queue = (blob, name, button) => {
    for (const other of buttons.children) other.setAttribute("aria-pressed", other === button);
    last = last.then(() => ask(loaded, blob, name));
  };
  for (const [i, sample] of loaded.model.samples.entries()) {
    const button = element("button", undefined, {type: "button", title: `sample ${i + 1}`});
    button.setAttribute("aria-pressed", "false");
    button.append(element("img", undefined, {src: sample.file, alt: `sample ${i + 1}`}));
    button.addEventListener("click", async () => queue(await (await fetch(sample.file)).blob(), `sample ${i + 1}`, button));
    buttons.append(button);
  }
  at("file").addEventListener("change", event => {
    const [file] = event.target.files;
    if (file) queue(file, file.name);
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, event => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      const file = kind === "drop" && event.dataTransfer.files[0];
      if (file) queue(file, file.name);
    });
  }
}

try {
  const loaded = await load();
  at("title").textContent = document.title = `${loaded.model.name}: a cascade in your browser`;
  showStages(loaded.model);
  listen(loaded);
  said.textContent = "Ready: drop an image, or take one of the samples.";
} catch (error) {
  said.textContent = `The networks cannot be loaded: ${error.message ?? error}`;
}
