// Which rows are asked for: the parts, the facets, the bounds of numbers, the order.

import { change, clear, field, fields, listFields } from "./address.js";
import { el, number } from "./text.js";

const PARTS = { "": "All", kept: "Kept", dropped: "Dropped", bad: "Bad", suspect: "Suspects" };
const NOT_FILTERS = ["page", "row", "part", "text", "id", "sort", "desc"];
const $ = (id) => document.getElementById(id);
const TYPING_MS = 250;

/** What the server says of the whole run. */
export let run = { parts: {}, columns: {} };
let refresh = () => {};
let typing = 0;

export function useRun(facts) {
  run = facts;
}

function showParts() {
  $("parts").replaceChildren(...Object.entries(PARTS).filter(([part]) => part in run.parts).map(([part, name]) => {
    const button = el("button", { type: "button", className: part || "all", "aria-pressed": String(field("part") === part) },
      name, el("span", {}, ` ${number(run.parts[part])}`));
    button.addEventListener("click", () => {
      change({ part, ...(part === "suspect" || field("sort") === "rank" ? { sort: "", desc: "" } : {}) });
      refresh();
    });
    return button;
  }));
}

/** Shows the facets with what the last answer counted. */
export function showFacets(answer) {
  for (const [name, values] of Object.entries(answer.facets)) {
    let select = $(`facet-${name}`);
    if (!select) {
      select = el("select", { id: `facet-${name}` });
      select.addEventListener("change", () => {
        change({ [name]: select.value });
        refresh();
      });
      $("facets").append(el("label", {}, `${name.replace("_", " ")} `, select));
    }
    const chosen = fields().getAll(name);
    const options = [["", "any"], ...values.map(([value, rows]) => [value, rows === null ? short(value) : `${short(value)} (${number(rows)})`])];
    if (chosen.length > 1) options.push(["\n", chosen.join(", ")]);
    const written = JSON.stringify([options, chosen]);
    if (select.dataset.written !== written && (answer.done || document.activeElement !== select)) {
      select.replaceChildren(...options.map(([value, text]) => el("option", { value, title: value }, text)));
      select.value = chosen.length > 1 ? "\n" : chosen[0] ?? "";
      select.dataset.written = written;
    }
    select.classList.toggle("set", chosen.length > 0);
  }
}

const short = (text) => (text.length > 60 ? `${text.slice(0, 60)}…` : text);

function showBounds() {
  const set = [...fields().getAll("score"), "::"];
  const lines = [...$("bounds").querySelectorAll(".bound")];
  if (lines.length === set.length && lines.some((line) => line.contains(document.activeElement))) return;
  for (const line of lines) line.remove();
  for (const text of set) {
    const [column, low, high] = [text.split(":").slice(0, -2).join(":"), ...text.split(":").slice(-2)];
    const name = el("select", { "aria-label": "Number", value: column }, el("option", { value: "" }, "number …"),
      ...Object.entries(run.columns).map(([value, note]) => el("option", { value, title: note.doc }, value)));
    name.value = column;
    const [from, to] = [["at least", low], ["at most", high]].map(([label, value]) =>
      el("input", { type: "number", step: "any", placeholder: label, "aria-label": label, value }));
    for (const input of [name, from, to]) input.addEventListener("change", readBounds);
    $("bounds").append(el("span", { className: `bound${column ? " set" : ""}` }, name, from, to));
  }
}

function readBounds() {
  const bounds = [...$("bounds").querySelectorAll(".bound")].map((line) => [...line.children].map((input) => input.value));
  const wanted = bounds.filter(([name, low, high]) => name && (low || high)).map((parts) => parts.join(":"));
  if (String(wanted) === String(fields().getAll("score"))) return; // a number without bounds as yet
  change({ score: wanted });
  refresh();
}

function showSort() {
  const options = [["", "as stored"], ["id", "id"], ["shuffle", "shuffled"], ...(run.parts.suspect ? [["rank", "rank of suspects"]] : []),
    ...Object.keys(run.columns).map((name) => [name, name])];
  if ($("sort").options.length !== options.length)
    $("sort").replaceChildren(...options.map(([value, text]) => el("option", { value, title: run.columns[value]?.doc }, text)));
  $("sort").options[0].text = field("part") === "suspect" ? "most suspect first" : "as stored";
  const sort = field("sort");
  $("sort").value = sort;
  const descending = field("desc") === "1";
  $("direction").textContent = sort in run.columns ? (descending ? "highest first" : "lowest first") : descending ? "from the end" : "from the start";
  $("direction").setAttribute("aria-pressed", String(descending));
  $("direction").hidden = sort === "shuffle";
}

/** Shows all controls but the facets as the address says. */
export function showControls() {
  for (const name of ["text", "id"]) if (document.activeElement !== $(name)) $(name).value = field(name);
  showParts();
  showBounds();
  showSort();
  const filters = [...new Set(fields().keys())].filter((name) => !NOT_FILTERS.includes(name)).length;
  $("fold").textContent = filters ? `Filters (${filters})` : "Filters";
  $("clear").hidden = !filters && !["text", "id", "part", "sort"].some((name) => field(name));
  const download = (kind) => el("a", { href: `rows.${kind}?${listFields()}`, download: "" }, kind.toUpperCase());
  $("downloads").replaceChildren("Download these rows: ", download("csv"), " ", download("jsonl"));
}

/** Connects the controls; `ask` shows them and asks for the rows. */
export function connect(ask) {
  refresh = ask;
  for (const name of ["text", "id"])
    $(name).addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => {
        change({ [name]: $(name).value }, { replace: field(name) !== "" && $(name).value !== "" });
        refresh();
      }, TYPING_MS);
    });
  $("sort").addEventListener("change", () => {
    change({ sort: $("sort").value, desc: $("sort").value in run.columns ? "1" : "" });
    refresh();
  });
  $("direction").addEventListener("click", () => {
    change({ desc: field("desc") === "1" ? "" : "1" });
    refresh();
  });
  $("clear").addEventListener("click", () => {
    clear();
    refresh();
    $("text").focus();
  });
  $("fold").addEventListener("click", () => {
    const isOpen = document.body.classList.toggle("filtering");
    $("fold").setAttribute("aria-expanded", String(isOpen));
  });
}
