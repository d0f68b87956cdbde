// What every page of the report shares: elements without markup, numbers, tables that sort, text that is copied.
// Text of the data reaches the page as text nodes only.

const DATA = JSON.parse(document.getElementById("data").textContent);

/** An element with attributes and children; a child that is a string becomes text, never markup. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** The same for SVG. */
function shape(tag, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

const commas = (number) => number.toLocaleString("en-US");
const share = (part, whole) => (whole ? `${(100 * part / whole).toFixed(1)}\u00a0%` : "–");

/** Four significant digits, a dash for what is not known. */
function significant(value) {
  if (value === null || value === undefined) return "–";
  return Number.isInteger(value) ? commas(value) : String(Number(value.toPrecision(4)));
}

/** A button that copies what `text()` gives, and says so. */
function copyButton(text) {
  const button = element("button", {type: "button", class: "btn"}, "Copy");
  button.addEventListener("click", async () => {
    const done = await copied(text());
    button.textContent = done ? "Copied" : "Select it and copy by hand";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {  // not allowed for a page that was opened as a file, in some browsers
    const field = element("textarea", {"aria-hidden": "true"});
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

/** What a cell sorts by: its number, or its text; what is not known comes last either way. */
function sortKey(cell) {
  const text = (cell.firstChild ? cell.firstChild.textContent : "").trim();
  if (text === "–" || text === "") return null;
  const number = Number(text.replace(/[,\u00a0%]/g, "").replace("−", "-"));
  return Number.isNaN(number) ? cell.textContent : number;
}

function compareKeys(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en");
}

function sortTable(table, column, direction) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [sortKey(row.cells[column]), row]);
  const known = rows.filter(([key]) => key !== null).sort(([a], [b]) => direction * compareKeys(a, b));
  const unknown = rows.filter(([key]) => key === null);
  body.append(...[...known, ...unknown].map(([, row]) => row));
}

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  for (const head of heads.filter((cell) => cell.tagName === "TH")) {
    const button = element("button", {type: "button", title: "Sort by this column"}, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.classList.contains("n") ? "descending" : "ascending";  // the largest number first
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      for (const cell of heads) cell.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      sortTable(table, head.cellIndex, order === "ascending" ? 1 : -1);
    });
  }
}

/** Wide tables can be scrolled with the keyboard; those that fit are no stop for the Tab key. */
function markScrollable() {
  for (const box of document.querySelectorAll(".scroll")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; else box.removeAttribute("tabindex");
  }
}

for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);
markScrollable();
window.addEventListener("resize", markScrollable);
document.addEventListener("toggle", markScrollable, true);  // a table in a part that was folded
