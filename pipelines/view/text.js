// Texts of the data as nodes. Nothing of the data is ever read as markup: every text becomes a text node.

const NAMES = {
  "\u00ad": "SHY", "\u061c": "ALM", "\u200b": "ZWSP", "\u200e": "LRM", "\u200f": "RLM", "\u2028": "LSEP",
  "\u2029": "PSEP", "\u202a": "LRE", "\u202b": "RLE", "\u202c": "PDF", "\u202d": "LRO", "\u202e": "RLO",
  "\u2060": "WJ", "\u2066": "LRI", "\u2067": "RLI", "\u2068": "FSI", "\u2069": "PDI", "\ufeff": "BOM",
};
// Joiners (U+200C, U+200D) stay: Persian and emoji need them.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]/g;
export const FOLDED_CHARS = 1800;

/** An element with properties, attributes (names with a dash, `role`, `for`, `dir`) and children. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.includes("-") || name === "role" || name === "dir" || name === "for") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const number = (value) => value.toLocaleString("en-US");

/** A score: four significant digits, a dash for none. */
export function score(value) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return number(value);
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(2);
  return value.toLocaleString("en-US", { maximumSignificantDigits: 4 });
}

/** A text in which unseen characters are symbols and what was searched for is marked. */
export function shown(text, wanted = "") {
  const made = document.createDocumentFragment();
  let end = 0;
  for (const match of wanted ? text.matchAll(pattern(wanted)) : []) {
    made.append(seen(text.slice(end, match.index)), el("mark", {}, seen(match[0])));
    end = match.index + match[0].length;
  }
  made.append(seen(text.slice(end)));
  return made;
}

const pattern = (wanted) => new RegExp(wanted.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"), "giu");

function seen(text) {
  const made = document.createDocumentFragment();
  let end = 0;
  for (const match of text.matchAll(UNSEEN)) {
    made.append(text.slice(end, match.index), symbol(match[0]));
    end = match.index + 1;
  }
  made.append(text.slice(end));
  return made;
}

function symbol(character) {
  const code = character.codePointAt(0);
  const picture = code < 32 ? String.fromCodePoint(0x2400 + code) : code === 127 ? "\u2421" : null;
  const name = `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
  return el("span", { className: "unseen", title: `character ${name}` }, picture ?? NAMES[character] ?? name);
}

/** Pieces of a text (see spans.py) as nodes. */
export function marked(pieces, wanted = "", most = 1) {
  const made = document.createDocumentFragment();
  for (const piece of pieces) {
    const text = shown(piece.text, wanted);
    if (piece.trained === false) made.append(el("del", { title: "not trained on" }, text));
    else if (piece.shared) made.append(el("mark", { className: "shared", title: "shared with the evaluation set" }, text));
    else if (piece.weight !== undefined && piece.weight !== 1) made.append(shaded(text, piece.weight, most));
    else made.append(text);
  }
  return made;
}

function shaded(text, weight, most) {
  const level = Math.round((9 * weight) / Math.max(most, 1e-9));
  return el("span", { className: `weight w${level}`, title: `weight ${score(weight)}` }, text);
}

/** A block of text that is folded when it is long, with a button that shows all of it. */
export function block(pieces, wanted = "", most = 1) {
  const chars = pieces.reduce((sum, piece) => sum + piece.text.length, 0);
  const body = el("div", { className: "text", dir: "auto" });
  if (chars === 0) {
    body.append(el("i", { className: "soft" }, "(empty)"));
    return body;
  }
  if (chars <= FOLDED_CHARS) {
    body.append(marked(pieces, wanted, most));
    return body;
  }
  body.append(marked(beginning(pieces, FOLDED_CHARS), wanted, most), "…");
  const all = el("button", { type: "button", className: "unfold" }, `Show all ${number(chars)} characters`);
  all.addEventListener("click", () => {
    body.replaceChildren(marked(pieces, wanted, most));
    all.remove();
  });
  return el("div", {}, body, all);
}

function beginning(pieces, chars) {
  const kept = [];
  for (const piece of pieces) {
    if (chars <= 0) break;
    kept.push({ ...piece, text: whole(piece.text.slice(0, chars)) });
    chars -= piece.text.length;
  }
  return kept;
}

/** A text without half of a surrogate pair at its end. */
const whole = (text) => (/[\ud800-\udbff]$/.test(text) ? text.slice(0, -1) : text);

/** The words of a text as nodes, those marked that another text lacks in this order. */
export function different(text, other) {
  const words = text.match(/\s+|[^\s]+/g) ?? [];
  const others = other.match(/[^\s]+/g) ?? [];
  const common = longestCommon(words.filter((word) => word.trim()), others);
  const made = document.createDocumentFragment();
  let at = 0;
  for (const word of words) {
    const isWord = word.trim() !== "";
    const same = !isWord || common.has(at);
    if (isWord) at += 1;
    made.append(same ? seen(word) : el("ins", {}, seen(word)));
  }
  return made;
}

function longestCommon(ours, theirs) {
  const length = Array.from({ length: ours.length + 1 }, () => new Uint16Array(theirs.length + 1));
  for (let i = ours.length - 1; i >= 0; i--)
    for (let j = theirs.length - 1; j >= 0; j--)
      length[i][j] = ours[i] === theirs[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
  const common = new Set();
  for (let i = 0, j = 0; i < ours.length && j < theirs.length; )
    if (ours[i] === theirs[j]) (common.add(i), i++, j++);
    else if (length[i + 1][j] >= length[i][j + 1]) i++;
    else j++;
  return common;
}
