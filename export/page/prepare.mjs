// From the pixels of an image to what a network takes, with the numbers that encas computes in Python: Pillow's
// resizing, in which weights are whole numbers of 2^-22 and every pass is rounded, then timm's normalising.

const BITS = 22;
const REACH = {box: 0.5, bilinear: 1, hamming: 1, bicubic: 2, lanczos: 3};
const sinc = x => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
const FILTERS = {
  box: x => (x > -0.5 && x <= 0.5 ? 1 : 0),
  bilinear: x => Math.max(0, 1 - Math.abs(x)),
  hamming: x => {
    if (Math.abs(x) >= 1) return 0;
    return sinc(x) * (Math.fround(0.54) + Math.fround(0.46) * Math.cos(x * Math.PI));
  },
  bicubic: x => {
    const near = Math.abs(x);
    if (near < 1) return (1.5 * near - 2.5) * near * near + 1;
    return near < 2 ? (((near - 5) * near + 8) * near - 4) * -0.5 : 0;
  },
  lanczos: x => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0),
};

// As Python rounds: halves go to the even neighbour.
function round(x) {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 === 0 ? low : low + 1;
}

// Height and width to which an image is resized, before the crop.
export function resized(height, width, spec) {
  const [targetHeight, targetWidth] = spec.size.map(side => Math.floor(side / spec.crop_pct));
  if (spec.crop_mode === "squash") return [targetHeight, targetWidth];
  if (spec.crop_mode === "center" && targetHeight === targetWidth) {
    const [short, long] = [Math.min(height, width), Math.max(height, width)];
    const longer = Math.floor((targetHeight * long) / short);
    return height === short ? [targetHeight, longer] : [longer, targetHeight];
  }
  const ratios = [height / targetHeight, width / targetWidth];
  const ratio = spec.crop_mode === "border" ? Math.max(...ratios) : Math.min(...ratios);
  return [Math.max(1, round(height / ratio)), Math.max(1, round(width / ratio))];
}

// For each pixel that is kept, where its weights begin, and the weights. Outside of the image they are empty.
function weigh(source, target, kept, name) {
  const start = target >= kept ? round((target - kept) / 2) : -Math.floor((kept - target) / 2);
  const pixels = [];
  const scale = source / target, stretch = Math.max(scale, 1), reach = REACH[name] * stretch;
  const nearest = [];
  for (let i = 0, at = scale * 0.5; i < target; i++, at += scale) nearest.push(Math.floor(at));
  for (let i = start; i < start + kept; i++) {
    if (i < 0 || i >= target) pixels.push({begin: 0, weights: []});
    else if (source === target) pixels.push({begin: i, weights: [2 ** BITS]});
    else if (name === "nearest") pixels.push({begin: nearest[i], weights: [2 ** BITS]});
    else {
      const centre = (i + 0.5) * scale;
      const begin = Math.max(0, Math.trunc(centre - reach + 0.5));
      const end = Math.min(source, Math.trunc(centre + reach + 0.5));
      const values = [];
      for (let j = begin; j < end; j++) values.push(FILTERS[name]((j - centre + 0.5) * (1 / stretch)));
      const total = values.reduce((sum, value) => sum + value, 0);
      const whole = value => Math.trunc((value / total) * 2 ** BITS + (value < 0 ? -0.5 : 0.5));
      pixels.push({begin, weights: values.map(whole)});
    }
  }
  return pixels;
}

const level = sum => Math.min(255, Math.max(0, (sum + 2 ** (BITS - 1)) >> BITS));

// One pass over lines of pixels; `stride` leads from one pixel of a line to the next, `across` to the next line.
function pass(source, pixels, lines, channels, [stride, across], [outStride, outAcross]) {
  const out = new Uint8Array(lines * pixels.length * channels);
  for (let line = 0; line < lines; line++) {
    pixels.forEach(({begin, weights}, i) => {
      for (let channel = 0; channel < channels; channel++) {
        let sum = 0, place = line * across + begin * stride + channel;
        for (const weight of weights) {
          sum += source[place] * weight;
          place += stride;
        }
        out[line * outAcross + i * outStride + channel] = level(sum);
      }
    });
  }
  return out;
}

// {data, width, height} of RGBA bytes, as a canvas has them -> Float32Array of channels x height x width.
export function prepare({data, width, height}, spec) {
  const channels = spec.channels, [keptHeight, keptWidth] = spec.size;
  let pixels = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b] = [data[4 * i], data[4 * i + 1], data[4 * i + 2]];
    if (channels === 1) pixels[i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
    else pixels.set([r, g, b], 3 * i);
  }
  const [tall, wide] = resized(height, width, spec);
  const columns = weigh(width, wide, keptWidth, spec.interpolation);
  const rows = weigh(height, tall, keptHeight, spec.interpolation);
  const [row, keptRow] = [width * channels, keptWidth * channels];
  // Pillow resizes along rows first, and since version 13 along columns where more than twice as much is lost there.
  if (height > tall && height - tall > 2 * (width - wide)) {
    pixels = pass(pixels, rows, width, channels, [row, channels], [row, channels]);
    pixels = pass(pixels, columns, keptHeight, channels, [channels, row], [channels, keptRow]);
  } else {
    pixels = pass(pixels, columns, height, channels, [channels, row], [channels, keptRow]);
    pixels = pass(pixels, rows, keptWidth, channels, [keptRow, channels], [keptRow, channels]);
  }
  const tensor = new Float32Array(channels * keptHeight * keptWidth);
  for (let channel = 0; channel < channels; channel++) {
    const [mean, std] = [Math.fround(spec.mean[channel]), Math.fround(spec.std[channel])];
    const ground = spec.crop_mode === "border" ? Math.min(255, Math.max(0, round(spec.divisor * spec.mean[channel]))) : 0;
    for (let y = 0; y < keptHeight; y++) {
      for (let x = 0; x < keptWidth; x++) {
        const inside = rows[y].weights.length && columns[x].weights.length;
        const value = inside ? pixels[(y * keptWidth + x) * channels + channel] : ground;
        const centred = Math.fround(Math.fround(value / Math.fround(spec.divisor)) - mean);
        tensor[(channel * keptHeight + y) * keptWidth + x] = Math.fround(centred / std);
      }
    }
  }
  return tensor;
}
