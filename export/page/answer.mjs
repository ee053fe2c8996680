// One image through the single file: prepared once for each input, answered, and put into words.

import {prepare} from "./prepare.mjs";

export async function answer(ort, session, model, image) {
  const feeds = {};
  for (const [name, spec] of Object.entries(model.inputs)) {
    const dims = [1, spec.channels, ...spec.size];
    feeds[name] = new ort.Tensor("float32", prepare(image, spec), dims);
  }
  const began = performance.now();
  const found = await session.run(feeds);
  const took_ms = performance.now() - began;
  const probs = Array.from(found.probs.data);
  const order = probs.map((_, i) => i).sort((a, b) => probs[b] - probs[a] || a - b);
  const macs = Number(found.macs.data[0]);
  const all = model.stages.reduce((sum, stage) => sum + stage.macs, 0);
  return {
    label: order[0],
    best: order.slice(0, 5).map(i => ({name: model.labels[i], probability: probs[i]})),
    exit_stage: Number(found.exit_stage.data[0]),
    macs,
    saved: 1 - macs / all,
    took_ms,
  };
}
