// The runs: every metric over steps, all runs on one axis, smoothed at will.
const SVG = "http://www.w3.org/2000/svg";
const hidden = new Set();
const number = (value) => Math.abs(value) >= 1000 || value === 0 || Math.abs(value) >= 0.001
  ? String(Number(value.toPrecision(4))) : value.toExponential(1);

function svg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// An exponential mean whose weight is by steps, so that runs with other spacings are alike; its
// start is corrected as Adam's, or the first value would weigh for long.
function smoothed(values, weight) {
  let sum = 0, seen = 0;
  return values.map((value) => {
    sum = weight * sum + (1 - weight) * value;
    seen = weight * seen + (1 - weight);
    return sum / seen;
  });
}

// Round numbers within [low, high], at most six.
function ticks(low, high) {
  const raw = (high - low) / 4 || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * power >= raw) * power, found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) found.push(k * step);
  return found;
}

// The marks of an axis as text, with the decimals that tell them apart.
function tickLabels(marks) {
  const step = marks[1] - marks[0], largest = Math.max(...marks.map(Math.abs));
  if (!(step > 0) || largest < 0.001) return marks.map(number);
  return marks.map((mark) => mark.toFixed(Math.max(0, Math.ceil(-Math.log10(step) - 1e-9))));
}

// The range of a chart: all of the smoothed lines, and of what was logged all but rare spikes.
function rangeOf(lines) {
  const all = lines.flatMap((line) => {
    const logged = [...line.raw].sort((a, b) => a - b), rare = Math.floor(logged.length / 100);
    return [...line.smooth, logged[rare], logged.at(-1 - rare)];
  });
  const low = Math.min(...all), high = Math.max(...all), size = Math.max(Math.abs(low), Math.abs(high));
  if (!lines.length) return [0, 1];
  // A constant differs from itself by what smoothing rounds: that is no range to draw.
  const room = high - low > 1e-9 * size ? (high - low) * 0.06 : (size || 1) / 10;
  return [low - room, high + room];
}

class Chart {
  constructor(figure) {
    this.name = figure.dataset.metric;
    this.box = figure.querySelector(".chart");
    this.plot = figure.querySelector(".plot");
    this.lines = data.runs.map((run, index) => ({ run, index, points: run.metrics[this.name] })).filter((line) => line.points);
    const axis = figure.querySelector(".x");
    for (const step of ticks(0, data.steps)) {
      const text = svg("text", { x: `${(100 * step / data.steps).toFixed(2)}%`, y: 13, class: step ? "" : "first" });
      text.textContent = step ? step.toLocaleString("en") : "step 0";
      axis.append(text);
    }
    this.box.addEventListener("pointermove", (event) => this.show(event));
    this.box.addEventListener("pointerdown", (event) => this.show(event));
    this.box.addEventListener("pointerleave", hideCursors);
  }

  draw(weight) {
    const lines = this.shown = this.lines.filter((line) => !hidden.has(line.index))
      .map((line) => ({ ...line, steps: line.points[0], raw: line.points[1], smooth: smoothed(line.points[1], weight) }));
    const [low, high] = rangeOf(lines);
    const y = (value) => Math.max(-20, Math.min(120, 100 - (value - low) / (high - low) * 100));
    const x = (step) => step / data.steps * 1000;
    const path = (line, of) => of.length > 1
      ? `M${of.map((value, i) => `${x(line.steps[i]).toFixed(1)} ${y(value).toFixed(2)}`).join(" ")}`
      : `M${(x(line.steps[0]) - 5).toFixed(1)} ${y(of[0]).toFixed(2)}h10`;
    const marks = ticks(low, high), labels = tickLabels(marks);
    const grid = svg("path", { class: "grid", d: marks.map((mark) => `M0 ${y(mark).toFixed(2)}h1000`).join("") });
    const drawn = lines.flatMap((line) => [
      ...(weight ? [svg("path", { class: `curve line raw ${line.run.color}`, d: path(line, line.raw) })] : []),
      svg("path", { class: `curve line ${line.run.color}`, d: path(line, line.smooth), "data-run": line.index }),
      ...line.run.resumed.map((step) => svg("path", { class: `curve line resumed ${line.run.color}`, d: `M${x(step).toFixed(1)} 100v-14`, "data-step": step })),
    ]);
    this.plot.replaceChildren(grid, ...drawn);
    this.box.querySelector(".y").replaceChildren(...marks.map((mark, i) => {
      const label = make("span", "", labels[i]);
      label.style.top = `${y(mark)}%`;
      return label;
    }));
    this.nameEnds(lines, y);
  }

  // Names at the right, in the order of the lines' ends and never on one another.
  nameEnds(lines, y) {
    const height = this.box.clientHeight, gap = 15;
    const ends = lines.map((line) => ({ line, top: y(line.smooth.at(-1)) / 100 * height })).sort((a, b) => a.top - b.top);
    const shift = (from, by) => from.forEach((end, i, list) => {
      const before = list[i - 1];
      if (before && (end.top - before.top) * by < gap) end.top = before.top + by * gap;
    });
    shift(ends, 1);
    if (ends.length && ends.at(-1).top > height) {
      ends.at(-1).top = height;
      shift([...ends].reverse(), -1);
    }
    this.box.querySelector(".ends").replaceChildren(...ends.map(({ line, top }) => {
      const label = make("span", line.run.color, line.run.name);
      label.style.top = `${top}px`;
      return label;
    }));
  }

  show(event) {
    const { left, width } = this.plot.getBoundingClientRect(), share = (event.clientX - left) / width;
    if (share < 0 || share > 1) return hideCursors();
    const step = share * data.steps;
    for (const chart of charts) {
      const own = chart.plot.getBoundingClientRect(), cursor = chart.box.querySelector(".cursor");
      cursor.hidden = false;
      cursor.style.left = `${own.left - chart.box.getBoundingClientRect().left + share * own.width}px`;
    }
    const rows = this.shown.map((line) => {
      const i = nearest(line.steps, step), row = make("span", `tip-line ${line.run.color}`);
      row.append(make("i", "swatch"), `${line.run.name}: ${number(line.smooth[i])} at ${Math.round(line.steps[i]).toLocaleString("en")}`);
      if (line.smooth[i] !== line.raw[i]) row.append(make("span", "faint", `, logged ${number(line.raw[i])}`));
      return [line.smooth[i], row];
    });
    rows.sort(([a], [b]) => b - a);
    tip.replaceChildren(make("b", "", `Step ${Math.round(step).toLocaleString("en")}`), ...rows.map(([, row]) => row));
    placeTip(event);
  }
}

function hideCursors() {
  tip.hidden = true;
  for (const cursor of all(".runs-chart .cursor")) cursor.hidden = true;
}

const charts = all(".runs-chart").map((figure) => new Chart(figure));
const smoothing = byId("smoothing");

function drawAll() {
  document.querySelector("output[for=smoothing]").textContent = Number(smoothing.value).toFixed(2);
  for (const chart of charts) if (chart.box.clientHeight) chart.draw(Number(smoothing.value));
}

smoothing.addEventListener("input", drawAll);
byId("more")?.addEventListener("toggle", drawAll);
addEventListener("resize", drawAll);
for (const button of all("#filter [data-run]")) {
  button.addEventListener("click", () => {
    const index = Number(button.dataset.run);
    if (!hidden.delete(index)) hidden.add(index);
    button.setAttribute("aria-pressed", String(!hidden.has(index)));
    drawAll();
  });
}
for (const list of all(".attention")) {
  const thumbs = all(".thumb", list);
  for (const thumb of thumbs) thumb.addEventListener("click", () => openZoom(thumb, thumbs));
}
drawAll();
