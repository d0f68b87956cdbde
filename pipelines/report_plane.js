// The plane of rows: shows the row at the pointer or under the keyboard, pins it, and changes axes and rows shown.

const STATES = DATA.states.map(([name]) => name);
const CLASSES = DATA.states.map(([, own]) => `mark ${own}`);
const MARKS = DATA.states.map(([, , path]) => path);
const FRAME = {left: 56, right: 632, top: 12, bottom: 404};
const NARROW = 110;  // a region that its name does not fit into has it beside it
const NEAR = 30;  // how far from a mark, in units of the picture, the pointer still means it

const plane = {box: document.getElementById("explorer"), shown: [], at: null, pinned: false, within: null};

/** The 0.5 and 99.5 percentiles, drawn apart where they are equal. */
function robustRange(values) {
  const sorted = Float64Array.from(values).sort();
  const at = (part) => {
    const place = part * (sorted.length - 1);
    const low = Math.floor(place);
    return sorted[low] + (place - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
  };
  const [low, high] = [at(0.005), at(0.995)];
  if (high - low > 1e-9 * Math.max(Math.abs(low), Math.abs(high), 1e-291)) return [low, high];
  const margin = 0.5 * Math.max(1, Math.abs(low));
  return [low - margin, high + margin];
}

/** About `wanted` round numbers inside a range, 1, 2 or 5 times a power of ten apart. */
function ticks([low, high], wanted) {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const far = (factor) => Math.abs(Math.log(raw / (power * factor)));
  const step = power * [1, 2, 5, 10].reduce((best, factor) => (far(factor) < far(best) ? factor : best));
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i <= Math.floor(high / step + 1e-9); i += 1) {
    found.push(Number((i * step).toPrecision(12)));
  }
  return found;
}

function drawPlane() {
  const {numbers, state, source} = DATA.sample;
  const [x, y] = [numbers[plane.x.value], numbers[plane.y.value]];
  const rows = state.map((_, row) => row).filter((row) => x[row] !== null && y[row] !== null);
  plane.svg.replaceChildren(shape("rect", {class: "frame", x: 56, y: 12, width: 576, height: 392}));
  plane.shown = [];
  if (!rows.length) return note("No row of the sample has both scores.");
  const ranges = [robustRange(rows.map((row) => x[row])), robustRange(rows.map((row) => y[row]))];
  const across = (value) => FRAME.left + (value - ranges[0][0]) / (ranges[0][1] - ranges[0][0]) * 576;
  const up = (value) => FRAME.bottom - (value - ranges[1][0]) / (ranges[1][1] - ranges[1][0]) * 392;
  const own = plane.x.value === DATA.plane.x && plane.y.value === DATA.plane.y;
  const names = own ? drawRegions(across, up) : [];
  drawAxes(ranges, across, up);
  for (const row of rows) {
    const [a, b] = [across(x[row]), up(y[row])];
    const inside = a >= FRAME.left - 0.01 && a <= FRAME.right + 0.01 && b >= FRAME.top - 0.01 && b <= FRAME.bottom + 0.01;
    const ofSource = plane.source.value === "" || source.names[source.codes[row]] === plane.source.value;
    if (inside && ofSource && plane.states[state[row]].checked) plane.shown.push({row, x: a, y: b});
  }
  const marks = [false, true].map(drawMarks);
  plane.svg.append(...marks, ...names, plane.ring);
  note(`${commas(plane.shown.length)} of the ${commas(state.length)} rows of the sample are shown.`);
  if (!plane.shown.some((point) => point.row === plane.at)) select(null);
  placeRing();
  return undefined;
}

/** The marks within all thresholds, or those outside, which are faded. */
function drawMarks(within) {
  const group = shape("g", within ? {} : {class: "faded"});
  STATES.forEach((_, state) => {
    const path = plane.shown
      .filter(({row}) => DATA.sample.state[row] === state && (plane.within === null || plane.within[row]) === within)
      .map(({x, y}) => `M${x.toFixed(1)} ${y.toFixed(1)}${MARKS[state]}`);
    if (path.length) group.append(shape("path", {class: CLASSES[state], d: path.join("")}));
  });
  return group;
}

const named = (column) => (DATA.units[column] ? `${column} (${DATA.units[column]})` : column);

function drawAxes(ranges, across, up) {
  for (const tick of ticks(ranges[1], 6)) {
    plane.svg.append(shape("path", {class: "grid", d: `M56 ${up(tick)}H632`}));
    plane.svg.append(shape("text", {class: "tick", x: 50, y: up(tick) + 4, "text-anchor": "end"}, String(tick)));
  }
  for (const tick of ticks(ranges[0], 8)) {
    plane.svg.append(shape("text", {class: "tick", x: across(tick), y: 420, "text-anchor": "middle"}, String(tick)));
  }
  const upright = {transform: "translate(16 208) rotate(-90)"};
  plane.svg.append(shape("text", {class: "axis", x: 344, y: 444, "text-anchor": "middle"}, named(plane.x.value)));
  plane.svg.append(shape("text", {class: "axis", "text-anchor": "middle", ...upright}, named(plane.y.value)));
}

/** Outlines the regions; returns their names, which stand above the marks. */
function drawRegions(across, up) {
  const names = [];
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  for (const {x, y, name, kept} of DATA.plane.regions) {
    const left = x[0] === null ? FRAME.left : clamp(across(x[0]), FRAME.left, FRAME.right);
    const right = x[1] === null ? FRAME.right : clamp(across(x[1]), FRAME.left, FRAME.right);
    const bottom = y[0] === null ? FRAME.bottom : clamp(up(y[0]), FRAME.top, FRAME.bottom);
    const top = y[1] === null ? FRAME.top : clamp(up(y[1]), FRAME.top, FRAME.bottom);
    const style = kept ? "region" : "region away";
    plane.svg.append(shape("rect", {class: style, x: left, y: top, width: right - left, height: bottom - top}));
    const [atRight, atTop] = [left + right > FRAME.left + FRAME.right, top + bottom < FRAME.top + FRAME.bottom];
    const beside = right - left < NARROW;
    const at = atRight === beside ? left + (atRight ? -6 : 8) : right + (atRight ? -8 : 6);
    const text = window.innerWidth < 544 ? name.split(":")[0] : name.replace(":", "");
    const place = {x: at, y: atTop ? top + 18 : bottom - 8, "text-anchor": atRight ? "end" : "start"};
    names.push(shape("text", {class: "region-name", ...place}, text));
  }
  return names;
}

/** The mark of a state, for a line of text. */
function icon(state) {
  const made = shape("svg", {viewBox: "-6 -6 12 12", "aria-hidden": "true"});
  made.append(shape("path", {class: CLASSES[state], d: `M0 0${MARKS[state]}`}));
  return made;
}

function note(text) {
  plane.note.textContent = text;
}

/** Shows a row of the sample in the card; null empties it. */
function select(row) {
  plane.at = row;
  placeRing();
  if (row === null) {
    plane.pinned = false;
    const hint = "Point at a mark to see its row; a click pins it. With the keyboard: Tab to the picture, arrow keys " +
      "go from row to row, Enter pins, Escape lets go.";
    plane.card.replaceChildren(element("p", {}, hint));
    return;
  }
  const {id, source, reason, state, prompt, response, numbers} = DATA.sample;
  const facts = element("dl");
  for (const [name, values] of Object.entries(numbers)) {
    if (values[row] !== null) facts.append(element("dt", {}, name), element("dd", {}, significant(values[row])));
  }
  plane.card.replaceChildren(
    element("p", {class: "state"}, icon(state[row]), STATES[state[row]] + (plane.pinned ? ", pinned" : "")),
    ...reason.names[reason.codes[row]].split("\n").map((line) => element("p", {}, element("bdi", {}, line))),
    element("p", {class: "id"}, element("bdi", {}, id[row])),
    element("p", {class: "id"}, "source ", element("bdi", {}, source.names[source.codes[row]])),
    element("h3", {}, "prompt"), element("p", {class: "text", dir: "auto"}, prompt[row] || "(empty)"),
    element("h3", {}, "response"), element("p", {class: "text", dir: "auto"}, response[row] || "(empty)"),
    facts,
  );
}

function placeRing() {
  const point = plane.shown.find(({row}) => row === plane.at);
  plane.ring.setAttribute("class", plane.pinned ? "ring pinned" : "ring");
  plane.ring.setAttribute("r", point ? 7 : 0);
  if (point) {
    plane.ring.setAttribute("cx", point.x);
    plane.ring.setAttribute("cy", point.y);
  }
}

/** The mark nearest to a place of the picture, of those that `fits`. */
function nearest(x, y, fits = () => true) {
  let [best, distance] = [null, Infinity];
  for (const point of plane.shown) {
    const own = (point.x - x) ** 2 + (point.y - y) ** 2;
    if (own < distance && fits(point)) [best, distance] = [point, own];
  }
  return {point: best, distance: Math.sqrt(distance)};
}

function underPointer(event) {
  const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(plane.svg.getScreenCTM().inverse());
  const {point, distance} = nearest(place.x, place.y);
  return distance <= NEAR ? point.row : null;
}

const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};

/** Goes to the nearest mark that lies more in the arrow's direction than to its side. */
function move([right, down]) {
  const from = plane.shown.find(({row}) => row === plane.at);
  if (!from) return nearest(344, 208).point;
  const ahead = ({x, y}) => {
    const [along, aside] = [(x - from.x) * right + (y - from.y) * down, (x - from.x) * down + (y - from.y) * right];
    return along > 0 && along >= Math.abs(aside);
  };
  return nearest(from.x, from.y, ahead).point;
}

function onKey(event) {
  if (event.key === "Escape") {
    select(null);
  } else if (event.key === "Enter" || event.key === " ") {
    plane.pinned = plane.at !== null && !plane.pinned;
    select(plane.at);
  } else if (event.key in ARROWS) {
    const point = move(ARROWS[event.key]);
    plane.pinned = false;
    if (point) select(point.row);
  } else {
    return;
  }
  event.preventDefault();
}

function choice(label, names, value) {
  const input = element("select", {"aria-label": label});
  for (const [text, own] of names) input.append(element("option", {value: own}, text));
  input.value = value;
  input.addEventListener("change", drawPlane);
  plane.tools.append(element("label", {}, label, input));
  return input;
}

function stateBoxes() {
  const show = element("fieldset", {class: "show"}, element("legend", {}, "show"));
  plane.states = STATES.map((name, state) => {
    const input = element("input", {type: "checkbox"});
    const rows = DATA.sample.state.filter((own) => own === state).length;
    input.checked = true;
    input.addEventListener("change", drawPlane);
    if (rows) show.append(element("label", {}, input, icon(state), `${name} (${commas(rows)})`));
    return input;
  });
  plane.tools.append(show);
}

function startPlane() {
  const {numbers, source} = DATA.sample;
  const known = Object.keys(numbers).filter((name) => numbers[name].some((value) => value !== null));
  const columns = known.map((name) => [name, name]);
  const picture = plane.box.querySelector(".picture");
  plane.svg = picture.querySelector("svg");
  plane.ring = shape("circle", {class: "ring", r: 0});
  plane.tools = element("div", {class: "tools"});
  plane.card = element("aside", {class: "card", "aria-live": "polite", "aria-label": "The row chosen", tabindex: 0});
  plane.note = element("span", {role: "status"});
  stateBoxes();
  for (const line of document.querySelectorAll("#marks .state-name")) line.hidden = true;  // the boxes name them
  plane.x = choice("across", columns, DATA.plane.x);
  plane.y = choice("up", columns, DATA.plane.y);
  const sources = [...source.names].sort().map((name) => [name, name]);
  plane.source = choice("source", [["all", ""], ...sources], "");
  plane.tools.append(plane.note);
  plane.box.classList.add("live");
  plane.box.prepend(plane.tools);
  plane.box.append(plane.card);
  for (const [name, value] of Object.entries({
    tabindex: 0, role: "application", "aria-roledescription": "scatter plot",
    "aria-label": "Rows as marks. Arrow keys go from row to row, Enter pins, Escape lets go.",
  })) picture.setAttribute(name, value);
  picture.addEventListener("keydown", onKey);
  picture.addEventListener("focus", () => {
    const first = plane.at === null && picture.matches(":focus-visible") ? nearest(344, 208).point : null;
    if (first) select(first.row);
  });
  picture.addEventListener("pointermove", (event) => {
    const row = plane.pinned ? null : underPointer(event);
    if (row !== null && row !== plane.at) select(row);
  });
  picture.addEventListener("click", (event) => {
    const row = underPointer(event);
    plane.pinned = row !== null && !(plane.pinned && row === plane.at);
    select(row);
  });
  document.addEventListener("thresholds", ({detail}) => { plane.within = detail; drawPlane(); });
  drawPlane();
  select(null);
}

if (plane.box && DATA.plane) startPlane();
