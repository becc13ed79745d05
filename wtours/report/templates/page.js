// The videos: a scrubber, values under the pointer, and a filter of classes.
const chosen = new Set();  // the classes shown: "0", "1", … as their colors, "x" the others; empty: all
const players = new Map();

function objectsOf(video) {
  if (!video.objects || !chosen.size) return video.objects;
  if (!video.classes) return null;  // of a folder beside the videos
  return video.objects.map((total, i) => {
    let sum = chosen.has("x") ? Math.max(0, total - video.classes.reduce((of, values) => of + values[i], 0)) : 0;
    for (const key of chosen) if (key !== "x") sum += video.classes[key][i];
    return sum;
  });
}

function shownBoxes(thumb) {
  let count = 0;
  for (const path of all(".boxes path", thumb)) {
    const key = path.getAttribute("class").slice(1);
    if (!chosen.size || chosen.has(key)) count += path.getAttribute("d").split("M").length - 1;
  }
  return count;
}

function linePath(times, values, seconds, top) {
  const points = times.map((time, i) =>
    `${(Math.min(time / seconds, 1) * 1000).toFixed(1)} ${(100 - Math.min(values[i] / top, 1) * 100).toFixed(1)}`);
  return points.length > 1 ? `M${points.join(" ")}` : `M${points[0]}h8`;
}

function applyFilter() {
  const keys = all("#filter [data-class]").map((button) => button.dataset.class);
  for (const key of keys) document.body.classList.toggle(`off-k${key}`, chosen.size > 0 && !chosen.has(key));
  for (const key of keys) document.body.classList.toggle(`k${key}`, chosen.size === 1 && chosen.has(key));
  document.body.classList.toggle("filtered", chosen.size > 0);
  for (const button of all("#filter button")) {
    const on = "all" in button.dataset ? !chosen.size : chosen.has(button.dataset.class);
    button.setAttribute("aria-pressed", String(on));
  }
  const videos = Object.values(data.videos).filter((video) => video.objects);
  const values = new Map(videos.map((video) => [video, objectsOf(video)]));
  const top = chosen.size ? niceCeiling(Math.max(...[...values.values()].filter(Boolean).flat())) : data.objectsMax;
  for (const [video, shown] of values) {
    const path = byId(`${video.key}-objects`);
    video.unfiltered ??= path.getAttribute("d");
    path.setAttribute("d", !chosen.size ? video.unfiltered : shown ? linePath(video.ot, shown, video.seconds, top) : "");
  }
  for (const label of all(".objects-max")) label.textContent = String(top);
  for (const label of all(".objects-half")) label.textContent = String(top / 2);
  for (const player of players.values()) player.show(player.index);
}

for (const button of all("#filter button")) {
  button.addEventListener("click", () => {
    const key = button.dataset.class;
    if (key === undefined) chosen.clear();
    else if (!chosen.delete(key)) chosen.add(key);
    applyFilter();
  });
}

// Values of a video at a time, as text.
function valuesAt(video, seconds) {
  const i = nearest(video.t, seconds);
  const lines = [`lightness ${video.light[i].toFixed(1)} (${video.low[i].toFixed(0)} to ${video.high[i].toFixed(0)})`];
  const objects = objectsOf(video);
  if (objects) lines.push(`${objects[nearest(video.ot, seconds)].toFixed(1)} objects per frame${chosen.size ? ", of the classes chosen" : ""}`);
  return lines;
}

function moveCursor(id, seconds, { everywhere = true } = {}) {
  for (const chart of all(`${everywhere ? "" : ".curves "}.chart[data-video="${id}"]`)) {
    const cursor = chart.querySelector(".cursor"), plot = chart.querySelector(".plot");
    cursor.hidden = seconds === null;
    if (seconds === null) continue;
    const share = Number(chart.dataset.share) * seconds / data.videos[id].seconds;
    cursor.style.left = `${plot.getBoundingClientRect().left - chart.getBoundingClientRect().left + share * plot.getBoundingClientRect().width}px`;
  }
}

for (const section of all("section.video")) {
  const id = section.dataset.video, viewer = section.querySelector(".viewer");
  const film = all(".film .thumb", section);
  const others = all(".thumb", section).filter((thumb) => !film.includes(thumb));
  for (const thumb of others) thumb.addEventListener("click", () => openZoom(thumb, others));
  if (!viewer || !film.length) continue;
  const slider = viewer.querySelector("input"), stage = viewer.querySelector(".stage"), caption = viewer.querySelector("figcaption");
  const player = {
    index: 0,
    times: film.map((thumb) => Number(thumb.dataset.seconds)),
    film,
    show(index, { scroll = false } = {}) {
      player.index = index;
      const thumb = film[index], detections = shownBoxes(thumb);
      slider.value = index;
      showPicture(stage, thumb, { named: true });
      const words = [clock(player.times[index]), ...(data.videos[id] ? valuesAt(data.videos[id], player.times[index]).slice(0, 1) : [])];
      if (thumb.querySelector(".boxes")) words.push(`${detections} detection${detections === 1 ? "" : "s"} in this frame`);
      slider.setAttribute("aria-valuetext", words.join(", "));
      caption.textContent = words.join(" · ");
      if (thumb.dataset.link) caption.append(" · ", sourceLink(thumb));
      film.forEach((other, i) => i === index ? other.setAttribute("aria-current", "true") : other.removeAttribute("aria-current"));
      if (scroll) {  // the strip alone: `scrollIntoView` would move the page too
        const strip = thumb.closest(".film"), item = thumb.parentElement;
        strip.scrollLeft = item.offsetLeft - strip.offsetLeft - (strip.clientWidth - item.clientWidth) / 2;
      }
      moveCursor(id, player.times[index], { everywhere: false });
    },
  };
  players.set(id, player);
  viewer.hidden = false;
  slider.addEventListener("input", () => player.show(Number(slider.value), { scroll: true }));
  film.forEach((thumb, index) => {
    thumb.setAttribute("aria-label", `Show ${thumb.dataset.caption}`);
    thumb.addEventListener("click", () => player.show(index));
  });
  stage.addEventListener("click", () => openZoom(film[player.index], film));
  stage.classList.add("can-zoom");
  player.show(0);
}

// Curves: the values and the nearest picture under the pointer.
for (const chart of all(".chart[data-video]")) {
  const id = chart.dataset.video, video = data.videos[id], plot = chart.querySelector(".plot");
  if (!video) continue;
  const timeAt = (event) => {
    const { left, width } = plot.getBoundingClientRect();
    const seconds = (event.clientX - left) / width / Number(chart.dataset.share) * video.seconds;
    return seconds >= 0 && seconds <= video.seconds ? seconds : null;
  };
  const show = (event) => {
    const seconds = timeAt(event), player = players.get(id);
    if (seconds === null) return hide();
    moveCursor(id, seconds);
    const lines = [make("b", "", `${video.name}, ${clock(seconds)}`), ...valuesAt(video, seconds).map((text) => make("span", "tip-line", text))];
    const stage = make("div", "stage");
    if (player) {
      const index = nearest(player.times, seconds);
      showPicture(stage, player.film[index], { named: false });
      lines.push(make("span", "tip-line faint", `picture of ${clock(player.times[index])}`));
    }
    tip.replaceChildren(...(player ? [stage] : []), ...lines);
    placeTip(event);
  };
  const hide = () => {
    tip.hidden = true;
    const player = players.get(id);
    moveCursor(id, null);
    if (player) moveCursor(id, player.times[player.index], { everywhere: false });
  };
  chart.addEventListener("pointermove", show);
  chart.addEventListener("pointerdown", show);
  chart.addEventListener("pointerleave", hide);
  chart.addEventListener("click", (event) => {
    const seconds = timeAt(event), player = players.get(id);
    if (seconds === null || !player) return;
    const index = nearest(player.times, seconds);
    player.show(index, { scroll: true });
    if (!chart.closest("section.video")) openZoom(player.film[index], player.film);
  });
}

let resizing = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(resizing);
  resizing = requestAnimationFrame(() => {
    for (const player of players.values()) player.show(player.index);
    if (zoom.open) nameBoxes(byId("zoom-stage"));
  });
});
