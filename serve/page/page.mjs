// The page of a server: takes an image, asks for the answer, and shows what the server does meanwhile.

const at = id => document.getElementById(id);
const said = at("said");
const EVERY_MS = 1000;
const UNITS = [[1e9, "GMACs"], [1e6, "MMACs"], [1e3, "kMACs"], [1, "MACs"]];
const percent = share => `${(100 * share).toFixed(1)} %`;
const rounded = x => Number(x.toPrecision(3));
const seconds = s => (s === null ? "none yet" : s < 1 ? `${rounded(1e3 * s)} ms` : `${rounded(s)} s`);

function macsText(macs) {
  const [unit, name] = UNITS.find(([unit]) => macs >= unit) ?? [1, "MACs"];
  return `${rounded(macs / unit)} ${name}`;
}

function element(name, text, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

function bar(share, mark) {
  const made = element("div", undefined, {className: "bar"});
  made.setAttribute("aria-hidden", "true"); // the text beside it says the same
  const filled = element("i");
  filled.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  made.append(filled);
  if (mark !== undefined && mark !== null) {
    const line = element("b");
    line.style.left = `calc(${100 * Math.min(1, mark)}% - 1px)`;
    made.append(line);
  }
  return made;
}

// A token is kept for this tab only.
const KEPT = "encas-token";
async function call(address, options = {}) {
  const token = sessionStorage.getItem(KEPT);
  const answer = await fetch(address, {...options, headers: token ? {Authorization: `Bearer ${token}`} : {}});
  at("door").hidden = answer.status !== 401;
  if (answer.status === 401) throw new Error(token ? "this token does not open the server" : "a token is needed");
  return answer;
}

let state = null, shown = "", lastGear = null, asked = Promise.resolve();
const model = () => state?.models.find(one => one.name === at("model").value);

// Confidence is a probability, or the difference of two logits, which has no end.
const sure = (value, kind) => (kind === "logit-gap" ? `a gap of ${rounded(value)}` : percent(value));
const length = (value, threshold, kind) => (kind === "logit-gap" ? value / (2 * (threshold || value || 1)) : value);

function showStages(gear, prediction) {
  at("stages").replaceChildren(...gear.stages.map((stage, i) => {
    const ran = prediction && i <= prediction.exit_stage, left = prediction && i === prediction.exit_stage;
    const needed = stage.threshold === null ? "always answers" : `answers if surer than ${sure(stage.threshold, gear.confidence)}`;
    const item = element("li", `${i + 1}. ${stage.member}: ${macsText(stage.macs)}, ${needed}`);
    item.classList.toggle("ran", Boolean(ran));
    item.classList.toggle("left", Boolean(left));
    if (ran) {
      const confidence = prediction.confidences[i];
      item.append(
        element("p", `${sure(confidence, gear.confidence)} sure after it: ${left ? "answered here" : "not enough, went on"}`),
        bar(length(confidence, stage.threshold, gear.confidence), stage.threshold === null ? null : length(stage.threshold, stage.threshold, gear.confidence)),
      );
    } else if (prediction) {
      item.append(element("p", "was not needed"));
    }
    return item;
  }));
}

function show(found, served, took_ms) {
  const [prediction] = found.predictions, gear = served.gears[prediction.gear];
  const all = gear.stages.reduce((sum, stage) => sum + stage.macs, 0), saved = 1 - prediction.macs / all;
  said.replaceChildren(
    element("strong", prediction.label),
    element("p", `Answered by stage ${prediction.exit_stage + 1} of ${gear.stages.length}, ${sure(prediction.confidence, gear.confidence)} sure${
      served.gears.length > 1 ? `, in gear ${prediction.gear}` : ""}.`),
    element("p", `${macsText(prediction.macs)} of the ${macsText(all)} that running everything takes: ${
      saved > 0 ? `${percent(saved)} saved` : "nothing saved"}. ${rounded(took_ms)} ms there and back.`),
  );
  said.dataset.answer = JSON.stringify(prediction);
  showStages(gear, prediction);
  at("best").replaceChildren(...prediction.classes.map(({label, probability}) =>
    element("li", undefined, {}, element("span", label), bar(probability), element("span", percent(probability)))));
}

async function ask(blob, name) {
  delete said.dataset.answer;
  const served = model();
  at("drop").querySelector("img")?.remove();
  const image = element("img", undefined, {src: URL.createObjectURL(blob), alt: name});
  image.addEventListener("error", () => image.remove()); // the browser may not know what the server knows
  at("drop").append(image);
  said.textContent = "Asking the server…";
  try {
    const began = performance.now();
    const answer = await call(`predict?top=5&model=${encodeURIComponent(served.name)}`, {method: "POST", body: blob});
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error ?? `status ${answer.status}`);
    show(found, served, performance.now() - began);
  } catch (error) {
    said.textContent = `${name} cannot be answered: ${error.message}`;
    at("best").replaceChildren();
    showStages(served.gears[0]);
  }
}

const queue = (blob, name, button) => {
  for (const other of at("samples").children) other.setAttribute("aria-pressed", String(other === button));
  asked = asked.then(() => ask(blob, name));
};

function showModel(served) {
  at("title").textContent = document.title = `${served.name}, version ${served.version}: a cascade, served by encas`;
  showStages(served.gears[0]);
  at("samples").replaceChildren(...Array.from({length: served.n_samples}, (_, i) => {
    const source = `page/samples/${encodeURIComponent(served.name)}/${i}`;
    const image = element("img", undefined, {alt: `sample ${i + 1}`});
    const button = element("button", undefined, {type: "button"}, image);
    button.setAttribute("aria-pressed", "false");
    const loaded = call(source).then(answer => (answer.ok ? answer.blob() : null), () => null);
    loaded.then(blob => blob && (image.src = URL.createObjectURL(blob)));
    button.addEventListener("click", async () => {
      const blob = await loaded;
      if (blob) queue(blob, `sample ${i + 1}`, button);
    });
    return button;
  }));
  said.textContent = served.n_samples ? "Ready: drop an image, or take one of the samples." : "Ready: drop an image.";
  at("best").replaceChildren();
  lastGear = null;
}

function showFigures(served) {
  const {recent} = served, n = recent.answered + recent.refused + recent.failed;
  const refused = n ? percent(recent.refused / n) : "none yet";
  const figures = [
    ["requests", `${rounded(recent.answered / recent.seconds)} /s`],
    ["half within", seconds(recent.p50_s)],
    ["99 of 100 within", seconds(recent.p99_s)],
    ["samples waiting", String(served.waiting)],
    ["work waiting", seconds(served.delay_s)],
    ["refused", refused],
    ["cost of a sample", recent.macs === null ? "none yet" : macsText(recent.macs)],
  ];
  if (served.gears.length > 1) figures.push(["gear", `${served.gear} of 0 to ${served.gears.length - 1}`]);
  const {drift} = served;
  figures.push(["drift", !drift.tested ? "not tested" : drift.alarm ? "alarm" : "none seen"]);
  if (drift.rechecked) figures.push(["answered otherwise than by all stages", `${drift.disagreed} of ${drift.rechecked}`]);
  const alarm = drift.alarm ? "What comes is not as it was when the bundle was exported: look at the images, and at the accuracy." : "";
  if (at("alarm").textContent !== alarm) {
    at("alarm").textContent = alarm;
    at("alarm").classList.toggle("alarm", drift.alarm);
  }
  at("events").replaceChildren(...state.events.filter(one => one.model === served.name).toReversed().map(one =>
    element("li", `${new Date(1e3 * one.at_s).toLocaleString()}: ${one.kind}: ${one.text}`)));
  at("figures").replaceChildren(...figures.map(([name, value]) =>
    element("div", undefined, {}, element("dt", name), element("dd", value))));
  const {exits} = recent, total = exits.reduce((sum, one) => sum + one.n, 0);
  const rows = exits.map(({gear, stage, n}) => {
    const where = `${served.gears.length > 1 ? `gear ${gear}, ` : ""}stage ${stage + 1}: ${served.gears[gear].stages[stage].member}`;
    return element("li", undefined, {}, element("span", where), bar(n / total), element("span", `${percent(n / total)}`));
  });
  at("exits").replaceChildren(...(rows.length ? rows : [element("li", "nothing was asked yet")]));
  if (lastGear !== null && lastGear !== served.gear) at("shifts").textContent = `The server changed from gear ${lastGear} to gear ${served.gear}.`;
  lastGear = served.gear;
}

const SVG = "http://www.w3.org/2000/svg";
function drawn(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function showFront(served) {
  const gears = served.gears.map((gear, number) => ({...gear, number})).filter(gear => gear.macs !== null);
  at("gears").replaceChildren(
    element("caption", served.split ? `What each gear does on '${served.split}'` : "The bundle has no figures of its accuracy"),
    element("thead", undefined, {}, element("tr", undefined, {},
      ...["gear", "accuracy", "cost of a sample", "cascade"].map(name => element("th", name, {scope: "col"})))),
    element("tbody", undefined, {}, ...served.gears.map((gear, number) => {
      const row = element("tr", undefined, {},
        element("th", `${number}${number === served.gear && served.gears.length > 1 ? ", in use" : ""}`, {scope: "row"}),
        element("td", gear.accuracy === null ? "unknown" : percent(gear.accuracy), {className: "number"}),
        element("td", gear.macs === null ? "unknown" : macsText(gear.macs), {className: "number"}),
        element("td", gear.stages.map(stage => stage.member + (stage.threshold === null ? "" : ` >${rounded(stage.threshold)}`)).join(", ")));
      if (number === served.gear) row.setAttribute("aria-current", "true");
      return row;
    })));
  const points = [...served.front, ...gears];
  if (points.length < 2) return at("front").replaceChildren();
  const width = Math.min(640, Math.max(280, at("front").clientWidth)), [height, left, bottom] = [280, 60, 44];
  const logs = points.map(point => Math.log10(Math.max(1, point.macs))), levels = points.map(point => point.accuracy);
  const [least, most] = [Math.min(...logs), Math.max(...logs)], [low, high] = [Math.min(...levels), Math.max(...levels)];
  const x = macs => left + 12 + (width - left - 50) * ((Math.log10(Math.max(1, macs)) - least) / (most - least || 1));
  const y = accuracy => 30 + (height - bottom - 46) * ((high - accuracy) / (high - low || 1));
  const svg = drawn("svg", {viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Accuracy by cost of ${served.front.length || "the"} cascades; gear ${served.gear} is in use. The table below says the same.`});
  svg.append(drawn("path", {d: `M${left} 8V${height - bottom}H${width - 8}`, fill: "none", stroke: "#5f6368"}));
  for (const accuracy of [low, high]) svg.append(drawn("text", {x: left - 6, y: y(accuracy) + 4, "text-anchor": "end"}, percent(accuracy)));
  for (const log of [least, most]) svg.append(drawn("text", {x: x(10 ** log), y: height - bottom + 18, "text-anchor": "middle"}, macsText(10 ** log)));
  svg.append(drawn("text", {x: (width + left) / 2, y: height - 6, "text-anchor": "middle"}, "accuracy by cost of a sample (logarithmic)"));
  for (const point of served.front) svg.append(drawn("circle", {cx: x(point.macs), cy: y(point.accuracy), r: 3, fill: "#9aa0a6"}));
  for (const gear of gears) {
    const used = gear.number === served.gear;
    svg.append(drawn("circle", {cx: x(gear.macs), cy: y(gear.accuracy), r: used ? 9 : 6, fill: used ? "#0072b2" : "#fff", stroke: "#0072b2", "stroke-width": 2}));
    svg.append(drawn("text", {x: x(gear.macs), y: y(gear.accuracy) - 14, "text-anchor": "middle", "font-weight": used ? 700 : 400}, `${gear.number}`));
  }
  at("front").replaceChildren(svg);
}

async function look() {
  if (document.hidden && state) return;
  const answer = await call("page/state");
  if (!answer.ok) throw new Error((await answer.json()).error);
  state = await answer.json();
  const names = state.models.map(one => one.name), select = at("model");
  if (names.join("\n") !== [...select.options].map(option => option.value).join("\n")) {
    const before = select.value;
    select.replaceChildren(...names.map(name => element("option", name, {value: name})));
    if (names.includes(before)) select.value = before;
    at("which").hidden = names.length < 2;
  }
  const served = model();
  if (!served) return said.textContent = "This server has no model now.";
  if (!served.ready) return said.textContent = `${served.name} is still loading…`;
  const key = `${served.name} ${served.version}`;
  if (key !== shown) showModel(served);
  shown = key;
  showFigures(served);
  showFront(served);
}

const failed = error => (at("door").hidden ? `The server cannot be reached: ${error.message}` : `The server is closed: ${error.message}`);

async function forever() {
  try {
    await look();
    document.body.dataset.reached = "yes";
  } catch (error) {
    if (document.body.dataset.reached !== "no") said.textContent = failed(error);
    document.body.dataset.reached = "no";
  }
  setTimeout(forever, EVERY_MS);
}

at("model").addEventListener("change", () => look());
at("door").addEventListener("submit", event => {
  event.preventDefault();
  sessionStorage.setItem(KEPT, at("token").value.trim());
  document.body.dataset.reached = ""; // so that a second refusal is told too
  look().catch(error => said.textContent = failed(error));
});
at("file").addEventListener("change", event => {
  const [file] = event.target.files;
  if (file && model()) queue(file, file.name);
  event.target.value = ""; // the same file may be chosen again
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, event => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (file && model()) queue(file, file.name);
  });
}
forever();
