"use strict";
// What both pages share: the data, sortable tables, the enlarged picture. No library, no request.
const data = JSON.parse(document.getElementById("data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const byId = (id) => document.getElementById(id);

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

// The index of the ascending value that is nearest to another.
function nearest(values, wanted) {
  let low = 0, high = values.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < wanted) low = middle + 1; else high = middle;
  }
  return low > 0 && wanted - values[low - 1] < values[low] - wanted ? low - 1 : low;
}

function clock(seconds) {
  const tenths = Math.round(seconds * 10), whole = Math.floor(tenths / 10);
  const two = (number) => String(number).padStart(2, "0");
  return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}.${tenths % 10}`;
}

function niceCeiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return ([1, 2, 3, 4, 5, 6, 8].find((m) => m * power >= value) ?? 10) * power;
}

// Tables: a header is a button; what was not measured stays last, whatever the direction.
function cellAt(row, column) {
  let at = 0;
  for (const cell of row.cells) {
    at += cell.colSpan;
    if (column < at) return cell;
  }
  return null;
}

function sortValue(cell) {
  if (!cell || cell.dataset.value === "") return null;
  const text = cell.dataset.value ?? cell.textContent.trim();
  const number = Number(text.replaceAll(",", ""));
  return text !== "" && !Number.isNaN(number) ? number : cell.querySelector(".missing") ? null : text;
}

function sortBy(table, header, column) {
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of all("[aria-sort]", table)) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => [sortValue(cellAt(row, column)), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en");
    return ascending ? order : -order;
  });
  body.append(...keyed.map(([, row]) => row));
}

for (const table of all("table.sortable")) {
  const rows = [...table.tHead.rows];
  const underGroups = rows.length > 1 ? 1 : 0;  // the first column spans both rows of headers
  rows.forEach((row, number) => {
    for (const header of all("[data-sort]", row)) {
      const column = header.cellIndex + (number ? underGroups : 0);
      const button = make("button", "sort", header.textContent);
      button.type = "button";
      button.addEventListener("click", () => sortBy(table, header, column));
      header.replaceChildren(button);
    }
  });
}

// A picture with its detections; names stand where they hide no better one.
function showPicture(stage, thumb, { named }) {
  const image = thumb.querySelector("img").cloneNode();
  const boxes = thumb.querySelector(".boxes")?.cloneNode(true);
  stage.replaceChildren(image, ...(boxes ? [boxes] : []));
  if (named) nameBoxes(stage);
}

function nameBoxes(stage) {
  all(".box-label", stage).forEach((label) => label.remove());
  const boxes = stage.querySelector(".boxes"), matrix = boxes?.getScreenCTM();
  if (!matrix) return;
  const named = all("path", boxes).filter((path) => getComputedStyle(path).display !== "none").flatMap((path) =>
    [...path.getAttribute("d").matchAll(/M([\d.]+) ([\d.]+)/g)].map(([, x, y]) =>
      ({ x, y, label: make("span", `box-label ${path.getAttribute("class")}`, path.dataset.label) })));
  stage.append(...named.map(({ label }) => label));
  // All are measured before one is moved: the page is laid out once.
  const frame = stage.getBoundingClientRect(), sizes = named.map(({ label }) => label.getBoundingClientRect()), taken = [];
  named.forEach(({ x, y, label }, i) => {
    const { width, height } = sizes[i];
    const left = Math.max(0, Math.min(matrix.a * x + matrix.e - frame.left, frame.width - width));
    const above = matrix.d * y + matrix.f - frame.top - height;
    const top = above >= 0 ? above : above + height;
    const hides = taken.some((t) => left < t[0] + t[2] && t[0] < left + width && top < t[1] + t[3] && t[1] < top + height);
    if (hides) return label.remove();
    label.style.left = `${left}px`;
    label.style.top = `${top}px`;
    taken.push([left, top, width, height]);
  });
}

function sourceLink(thumb) {
  const link = make("a", "", "watch from here");
  link.href = thumb.dataset.link;
  link.rel = "noreferrer noopener";
  return link;
}

// The enlarged picture: arrow keys and buttons go to its neighbors, Escape closes (the browser's own).
const zoom = byId("zoom");
let zoomed = [], zoomAt = 0;

function openZoom(thumb, neighbors) {
  zoomed = neighbors;
  zoom.showModal();
  showZoomed(Math.max(0, neighbors.indexOf(thumb)));
}

function showZoomed(index) {
  zoomAt = (index + zoomed.length) % zoomed.length;
  const thumb = zoomed[zoomAt];
  byId("zoom-caption").textContent = `${thumb.dataset.caption} (${zoomAt + 1} of ${zoomed.length})`;
  byId("zoom-link").replaceChildren(...(thumb.dataset.link ? [sourceLink(thumb)] : []));
  // As wide as the window lets it be, and whole.
  const image = thumb.querySelector("img"), aspect = image.getAttribute("width") / image.getAttribute("height");
  byId("zoom-stage").style.width = `min(100%, 66rem, ${(78 * aspect).toFixed(1)}vh)`;
  showPicture(byId("zoom-stage"), thumb, { named: true });
}

byId("zoom-previous").addEventListener("click", () => showZoomed(zoomAt - 1));
byId("zoom-next").addEventListener("click", () => showZoomed(zoomAt + 1));
byId("zoom-close").addEventListener("click", () => zoom.close());
zoom.addEventListener("click", (event) => { if (event.target === zoom) zoom.close(); });
zoom.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") showZoomed(zoomAt - 1);
  if (event.key === "ArrowRight") showZoomed(zoomAt + 1);
});

// The box at the pointer: beside it, and never outside of the window.
const tip = byId("tip");

function placeTip(event) {
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect(), gap = 14;
  const left = event.clientX + gap + width < innerWidth ? event.clientX + gap : event.clientX - gap - width;
  const top = Math.min(event.clientY + gap, innerHeight - height - 4);
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}
