// Thresholds that can be moved. Rows are counted from what is stored of all rows between the places where a
// threshold can stand, so one threshold's counts are exact; several together are counted in the sample.

const DROPPED = 0;
const KEPT = 1;
const PLOT = {left: 44, right: 312, top: 8, bottom: 128};  // of a histogram, as pipelines/charts.py draws it
const limits = new Map();  // by score: {min, max}, null where there is no bound

/** Running sums with a leading 0, so that sums[b] - sums[a] is the sum of values[a..b). */
function runningSums(values) {
  const sums = new Float64Array(values.length + 1);
  values.forEach((value, at) => { sums[at + 1] = sums[at] + value; });
  return sums;
}

/** Counts what lies between two edges, both included, by their place; null is no bound. */
function counter(counts) {
  const sums = counts.map(runningSums);
  const size = counts[0].length;
  return (side, low, high) => {
    const from = low === null ? 0 : 2 * low + 1;
    const to = high === null ? size : 2 * high + 2;
    return sums[side][to] - sums[side][from];
  };
}

/** A number as YAML reads it: 1e-7 would be a text. */
function yamlNumber(value) {
  const text = String(value);
  return text.includes("e") && !text.includes(".") ? text.replace("e", ".0e") : text;
}

function recipeLine(name, {min, max}) {
  const column = /^[A-Za-z_][A-Za-z0-9_.]*$/.test(name) ? name : JSON.stringify(name);
  const bounds = [["min", min], ["max", max]].filter(([, value]) => value !== null);
  return `- threshold: {column: ${column}, ${bounds.map(([key, value]) => `${key}: ${yamlNumber(value)}`).join(", ")}}`;
}

/** One slider with its name and what it stands at. */
function slider(name, label, places, value) {
  const at = element("b");
  const input = element("input", {type: "range", min: 0, max: places, step: 1, "aria-label": `${name} ${label}`});
  input.value = value;
  const words = element("label", {"aria-hidden": "true"}, element("span", {}, label), at);
  return {input, at, box: element("div", {class: "slide"}, words, input)};
}

function addThresholds(figure) {
  const name = figure.dataset.score;
  const {edges, rows, tokens} = DATA.spreads[name];
  const countRows = counter(rows);
  const countTokens = counter(tokens);
  const last = edges.length;
  const low = slider(name, "at least", last, 0);  // 0 is no bound, then one place for each edge
  const high = slider(name, "at most", last, last);  // one place for each edge, then no bound
  const output = element("output", {"aria-live": "polite"});
  const line = element("code");
  const lineBox = element("div", {class: "recipe-line", hidden: ""}, line, copyButton(() => line.textContent));
  figure.append(element("div", {class: "limits"}, low.box, high.box, output, lineBox));
  const cuts = [0, 1].map(() => shape("rect", {class: "cut", y: PLOT.top, height: PLOT.bottom - PLOT.top + 1}));
  const bounds = [0, 1].map(() => shape("path", {class: "bound"}));
  figure.querySelector("svg").append(...cuts, ...bounds);

  function update() {
    const from = low.input.value === "0" ? null : Number(low.input.value) - 1;
    const to = Number(high.input.value) === last ? null : Number(high.input.value);
    const own = {min: from === null ? null : edges[from], max: to === null ? null : edges[to]};
    for (const [{input, at}, value] of [[low, own.min], [high, own.max]]) {
      at.textContent = value === null ? "no bound" : String(value);
      input.setAttribute("aria-valuetext", at.textContent);
    }
    output.textContent = sentence(from, to);
    const bounded = from !== null || to !== null;
    line.textContent = bounded ? recipeLine(name, own) : "";
    lineBox.hidden = !bounded;
    drawCuts(cuts, bounds, edges, own);
    if (bounded) limits.set(name, own); else limits.delete(name);
  }

  function sentence(from, to) {
    const stay = [DROPPED, KEPT].map((side) => countRows(side, from, to));
    const all = [DROPPED, KEPT].map((side) => countRows(side, null, null));
    const both = stay[0] + stay[1];
    const words = countTokens(DROPPED, from, to) + countTokens(KEPT, from, to);
    const counted = countTokens(DROPPED, null, null) + countTokens(KEPT, null, null);
    const inTokens = counted ? `, ${commas(words)} tokens` : "";
    if (from === null && to === null) return `All ${commas(both)} rows with this score${inTokens}.`;
    return `${commas(both)} of ${commas(all[0] + all[1])} rows would stay (${share(both, all[0] + all[1])})${inTokens}. ` +
      `Of the ${commas(all[KEPT])} kept now: ${commas(stay[KEPT])}.`;
  }

  low.input.addEventListener("input", () => {
    if (Number(high.input.value) < Number(low.input.value) - 1) high.input.value = Number(low.input.value) - 1;
    update();
    announce();
  });
  high.input.addEventListener("input", () => {
    if (Number(low.input.value) > Number(high.input.value) + 1) low.input.value = Number(high.input.value) + 1;
    update();
    announce();
  });
  update();
  return () => { low.input.value = 0; high.input.value = last; update(); };
}

/** Veils what a threshold takes away, and draws its bounds. */
function drawCuts(cuts, bounds, edges, {min, max}) {
  const place = (value) => PLOT.left + (value - edges[0]) / (edges[edges.length - 1] - edges[0]) * (PLOT.right - PLOT.left);
  const ends = [[PLOT.left, min], [PLOT.right, max]];
  ends.forEach(([side, value], at) => {
    const x = value === null ? side : place(value);
    cuts[at].setAttribute("x", Math.min(side, x));
    cuts[at].setAttribute("width", Math.abs(side - x));
    bounds[at].setAttribute("d", value === null ? "" : `M${x} ${PLOT.top}V${PLOT.bottom}`);
  });
}

/** Which rows of the sample lie within all thresholds; a row without a score lies within none. */
function withinLimits() {
  const {numbers, id} = DATA.sample;
  const within = new Array(id.length).fill(true);
  for (const [name, {min, max}] of limits) {
    numbers[name].forEach((value, row) => {
      if (value === null || (min !== null && value < min) || (max !== null && value > max)) within[row] = false;
    });
  }
  return within;
}

const together = document.getElementById("together");
const resets = [];

function announce() {
  const within = withinLimits();
  document.dispatchEvent(new CustomEvent("thresholds", {detail: limits.size ? within : null}));
  together.replaceChildren();
  if (!limits.size) return;
  const lines = [...limits].map(([name, own]) => recipeLine(name, own)).join("\n");
  const reset = element("button", {type: "button", class: "btn"}, "Take all thresholds back");
  reset.addEventListener("click", () => {
    for (const back of resets) back();
    announce();
    document.querySelector("#scores input").focus({preventScroll: true});
  });
  const box = element("div", {class: "together"});
  if (limits.size > 1) {
    const stay = within.filter(Boolean).length;
    const {of, id} = DATA.sample;
    box.append(element("p", {role: "status"}, `Within all ${limits.size} thresholds together: ${commas(stay)} of the ` +
      `${commas(id.length)} rows of the sample (${share(stay, id.length)}), drawn from ${commas(of)} scored rows. ` +
      "The counts beside each score are of all rows, for that threshold alone."));
  }
  box.append(element("p", {}, "Under ", element("code", {}, "select:"), " of a recipe, ",
    element("code", {}, "winnow select OUT RECIPE.yaml"), " decides again from the stored scores in seconds."));
  box.append(element("pre", {}, lines), element("div", {class: "recipe-line"}, copyButton(() => lines), reset));
  together.append(box);
}

for (const figure of document.querySelectorAll("figure[data-score]")) resets.push(addThresholds(figure));
