// The page of `winnow view`. What is shown stands in the address, so that links and the back button work.

import { addressOf, ask, change, field, listFields, readAddress } from "./address.js";
import { connect, run, showControls, showFacets, useRun } from "./filters.js";
import { rowSections, title } from "./row.js";
import { el, number, score, shown } from "./text.js";

const PARTS = { kept: "Kept", dropped: "Dropped", bad: "Bad" };
const NARROW = matchMedia("(max-width: 60rem)");
const $ = (id) => document.getElementById(id);

let answer = null; // of the last list
let turn = 0; // which list is asked for; an older answer is thrown away
let asking = new AbortController();
let asked = new AbortController(); // of the open row
let stopped = false;

// ---- the list

async function load() {
  const mine = ++turn;
  asking.abort();
  asking = new AbortController();
  stopped = false;
  $("list").setAttribute("aria-busy", "true");
  try {
    do {
      const found = await ask("api/rows", listFields(), asking.signal);
      if (mine !== turn) return;
      answer = found;
      showList();
    } while (!answer.done && !stopped);
  } catch (error) {
    if (error.name === "AbortError" || mine !== turn) return;
    answer = null;
    $("list").replaceChildren();
    $("status").textContent = error instanceof TypeError ? "The server does not answer: was it ended?" : error.message;
    $("progress").hidden = $("stop").hidden = true;
  }
  $("list").removeAttribute("aria-busy");
}

function showList() {
  showFacets(answer);
  showState();
  showPager();
  const keys = answer.rows.map((row) => row.key).join("\n");
  const wanted = `${keys}\n${field("text")}\n${field("sort")}`;
  if ($("list").dataset.shown !== wanted) {
    $("list").replaceChildren(...answer.rows.map(listed));
    $("list").dataset.shown = wanted;
    if (answer.rows.length) $("list").scrollTop = 0;
  }
  for (const link of links()) link.href = addressOf(link.dataset.key); // the address may say more by now
  markOpen();
}

function listed(row) {
  const wanted = field("text");
  const texts = row.part === "bad" ? { detail: row.detail, excerpt: row.excerpt } : { prompt: row.prompt, response: row.response };
  const meta = el("span", { className: "meta" },
    el("span", { className: "part" }, PARTS[row.part]),
    row.suspect ? el("span", { className: "part suspect" }, `suspect ${number(row.suspect.rank)}`) : null,
    el("span", { className: "reason" }, shown(row.reason)),
    el("bdi", { className: "id" }, shown(row.id, field("id"))));
  const said = Object.entries(texts).map(([name, text]) =>
    el("span", { className: name, dir: "auto" }, text ? shown(text, wanted) : "(empty)"));
  if (row.suspect && field("part") === "suspect") said.push(el("span", { className: "detail", dir: "auto" }, shown(row.suspect.why)));
  const known = Object.entries(row.numbers).filter(([, value]) => value !== null);
  const numbers = known.map(([name, value]) => el("span", { title: run.columns[name]?.doc }, el("i", {}, name), ` ${score(value)}`));
  const link = el("a", { href: addressOf(row.key) },
    el("span", { className: "body" }, meta, ...said), el("span", { className: "numbers" }, ...numbers));
  link.dataset.key = row.key;
  return el("li", { className: row.part }, link);
}

function showState() {
  const { searched, to_search: all, done, found } = answer;
  const first = (answer.page - 1) * 50 + 1;
  const range = answer.rows.length ? `${number(first)}–${number(first + answer.rows.length - 1)} of ${number(found)}` : "0";
  const counted = `${range} ${found === 1 ? "row" : "rows"}`;
  $("progress").hidden = $("stop").hidden = done;
  if (done) {
    $("status").textContent = found ? counted : "No row is like this.";
  } else {
    $("progress").value = all ? searched / all : 1;
    $("stop").textContent = stopped ? "Go on" : "Stop";
    $("status").textContent = `${stopped ? "Stopped: searched" : "Searched"} ${number(searched)} of ${number(all)} rows, ${number(found)} found`;
  }
}

function showPager() {
  const { page, pages } = answer;
  const to = (number, text, label) => {
    const button = el("button", { type: "button", disabled: number < 1 || number > pages || number === page, "aria-label": label }, text);
    button.addEventListener("click", () => goToPage(number));
    return button;
  };
  const jump = el("input", { type: "number", min: 1, max: pages, value: page, "aria-label": `Page, of ${pages}` });
  jump.addEventListener("change", () => goToPage(Number(jump.value)));
  if (document.activeElement?.parentNode === $("pager") && pages === Number($("pager").dataset.pages)) {
    if (document.activeElement.tagName === "INPUT") return;
  }
  const focused = document.activeElement?.parentNode === $("pager") ? document.activeElement.getAttribute("aria-label") : null;
  $("pager").dataset.pages = pages;
  $("pager").hidden = pages < 2;
  $("pager").replaceChildren(to(page - 1, "‹", "Previous page"), jump, el("span", {}, `of ${number(pages)}`), to(page + 1, "›", "Next page"));
  if (focused) $("pager").querySelector(`[aria-label="${focused}"]:not(:disabled)`)?.focus();
}

async function goToPage(wanted, focus = null) {
  if (!answer || !(wanted >= 1 && wanted <= answer.pages) || wanted === answer.page) return;
  change({ page: wanted === 1 ? "" : String(wanted) });
  await load();
  if (focus) moveTo(focus === "last" ? links().length - 1 : 0);
}

// ---- the open row

async function openRow(key, { focus = true, replace = false, write = true } = {}) {
  if (write) change({ row: key }, { replace });
  markOpen();
  asked.abort();
  asked = new AbortController();
  const { signal } = asked;
  const article = $("row");
  try {
    const facts = await ask("api/row", { row: key }, signal);
    const page = { wanted: field("text"), run, address: addressOf, ask: (path, fields) => ask(path, fields, signal) };
    article.className = facts.part;
    article.replaceChildren(rowHead(facts), ...rowSections(facts, page));
  } catch (error) {
    if (error.name === "AbortError") return;
    article.replaceChildren(rowHead({ key, part: "bad", id: key }), el("p", { className: "note" }, error.message));
  }
  article.scrollTop = 0;
  showRow(true);
  if (focus) article.focus({ preventScroll: true });
}

function rowHead(facts) {
  const button = (text, label, act) => {
    const made = el("button", { type: "button", "aria-label": label, title: label }, text);
    made.addEventListener("click", act);
    return made;
  };
  return el("div", { className: "head" },
    el("div", {}, el("h2", {}, el("span", { className: "part" }, title(facts))), el("p", { className: "id" }, el("bdi", {}, shown(facts.id || facts.key)))),
    el("div", { className: "buttons" },
      button("↑", "Previous row (k)", () => step(-1)), button("↓", "Next row (j)", () => step(1)), button("✕", "Close (Esc)", closeRow)));
}

function showRow(isOpen) {
  $("row").hidden = !isOpen;
  document.body.classList.toggle("open", isOpen);
  for (const part of [document.querySelector("header"), $("list"), document.querySelector("footer")]) part.inert = isOpen && NARROW.matches;
}

function closeRow() {
  if ($("row").hidden) return;
  const key = field("row");
  asked.abort();
  change({ row: "" });
  showRow(false);
  markOpen();
  (links().find((link) => link.dataset.key === key) ?? links()[0])?.focus();
}

function markOpen() {
  for (const link of links())
    if (link.dataset.key === field("row")) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
}

// ---- moving about

const links = () => [...$("list").querySelectorAll("a")];

function step(by) {
  const all = links();
  const current = all.indexOf(document.activeElement);
  const from = current >= 0 ? current : all.findIndex((link) => link.dataset.key === field("row"));
  const to = from < 0 ? 0 : from + by;
  if (to < 0) goToPage(answer?.page - 1, "last");
  else if (to >= all.length) goToPage(answer?.page + 1, "first");
  else moveTo(to);
}

function moveTo(at) {
  const link = links()[at];
  if (!link) return;
  const inRow = $("row").contains(document.activeElement);
  if (!(inRow && NARROW.matches)) link.focus();
  link.scrollIntoView({ block: "nearest" });
  if (!$("row").hidden) openRow(link.dataset.key, { focus: inRow, replace: true });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isField = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (isField) {
    if (event.key === "Escape") event.target.blur();
    if (event.key === "Enter" && event.target.type === "search") links()[0]?.focus();
    return;
  }
  const inRow = $("row").contains(event.target);
  const acts = {
    "/": () => $("text").focus(), j: () => step(1), k: () => step(-1), Escape: closeRow,
    "[": () => goToPage(answer?.page - 1), "]": () => goToPage(answer?.page + 1),
    ...(inRow ? {} : { ArrowDown: () => step(1), ArrowUp: () => step(-1) }),
  };
  const act = Object.hasOwn(acts, event.key) ? acts[event.key] : null;
  if (!act) return;
  event.preventDefault();
  act();
});

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-key]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  openRow(link.dataset.key);
});

$("search").addEventListener("submit", (event) => event.preventDefault());
$("stop").addEventListener("click", () => {
  if (stopped) return load();
  stopped = true;
  showState();
});
NARROW.addEventListener("change", () => showRow(!$("row").hidden));

/** Shows the controls as the address says, and asks for the rows. */
function refresh() {
  showControls();
  return load();
}

function showAddress() {
  readAddress();
  if (field("row")) openRow(field("row"), { focus: false, write: false });
  else showRow(false);
  return refresh();
}

window.addEventListener("popstate", showAddress);
connect(refresh);
const loaded = showAddress();
ask("api/run", {}).then(async (facts) => {
  useRun(facts);
  const { kept = 0, "": all = 0 } = run.parts;
  $("headline").textContent = `${number(kept)} of ${number(all)} rows kept`;
  await loaded;
  showControls();
}).catch((error) => { $("status").textContent = error.message; });
