// One row: why it was kept or dropped, its conversation, its relatives and its numbers.

import { block, different, el, marked, number, score, shown } from "./text.js";

const PARTS = { kept: "Kept", dropped: "Dropped", bad: "Bad row" };
const ROLES = { system: "system", user: "user", assistant: "assistant", tool: "tool", prompt: "prompt", response: "response" };

/** The sections of a row; `page` gives {wanted, ask, address, run}. */
export function rowSections(facts, page) {
  if (facts.part === "bad") return badRow(facts, page);
  const relatives = el("div", { className: "relatives" });
  const sections = [
    why(facts, page),
    conversation(facts, page),
    facts.contamination && contamination(facts.contamination),
    relatives,
    numbers("Scores", facts.scores.filter((one) => one.unit || one.doc)),
    decisions(facts),
    fields("Other fields of the input", facts.extra),
    facts.tools && fold("Tool definitions", [{ text: pretty(facts.tools) }]),
  ];
  if (facts.masked) showTokens(facts, sections[1], page);
  showRelatives(facts, relatives, page);
  return sections.filter(Boolean);
}

export const title = (facts) =>
  facts.stage ? `${PARTS[facts.part]} at stage ${facts.stage}` : PARTS[facts.part];

function section(name, ...children) {
  return el("section", {}, el("h3", {}, name), ...children);
}

function badRow(facts, page) {
  return [
    section("Why", el("p", { className: "reason" }, shown(facts.reason)), el("p", { dir: "auto" }, shown(facts.detail))),
    section("Beginning of the row", block([{ text: facts.excerpt }], page.wanted)),
    section("Where from", el("p", { className: "id" }, el("bdi", {}, shown(facts.place)))),
  ];
}

function why(facts, page) {
  const list = el("ul", { className: "why" }, el("li", { className: "reason" }, shown(facts.reason)));
  for (const { selector, text } of facts.sentences)
    list.append(el("li", {}, el("b", {}, `${selector} `), shown(text)));
  if (facts.suspect) {
    const isSaid = facts.sentences.some(({ text }) => text === facts.suspect.why);
    const rank = `no. ${number(facts.suspect.rank)} of ${number(page.run.parts.suspect ?? 0)} suspects`;
    list.append(el("li", {}, el("b", {}, rank), isSaid ? "" : ": ", isSaid ? "" : shown(facts.suspect.why)));
  }
  const { tokens } = facts;
  const said = [];
  if (tokens.prompt_tokens !== undefined)
    said.push(`${number(tokens.prompt_tokens)} prompt + ${number(tokens.response_tokens)} response tokens`);
  if (tokens.trained !== undefined) said.push(`${number(tokens.trained)} of them trained on`);
  if (tokens.truncated) said.push("response cut to fit");
  if (tokens.control_text) said.push("holds text of control tokens");
  if (tokens.status && tokens.status !== "ok") said.push(`not scored: ${tokens.status}`);
  if (tokens.weight !== undefined && tokens.weight !== 1) said.push(`weight ${score(tokens.weight)}`);
  if (said.length) list.append(el("li", { className: "soft" }, said.join(", ")));
  list.append(el("li", { className: "soft" }, el("bdi", {}, shown(facts.place))));
  return section("Why", list);
}

function conversation(facts, page) {
  const made = section("Conversation");
  if (!facts.whole)
    made.append(el("p", { className: "note" }, "Only the beginnings are known: the folder .winnow, which has the whole conversations of dropped rows, was deleted."));
  for (const [at, turn] of facts.turns.entries()) {
    const who = turn.name ? `${ROLES[turn.role] ?? turn.role} (${turn.name})` : ROLES[turn.role] ?? turn.role;
    const body = el("div", { className: "said" });
    const calls = turn.calls.map((call) =>
      el("div", { className: "call" }, el("b", {}, shown(call.name ?? "")), block([{ text: call.arguments ?? "" }], page.wanted)),
    );
    if (turn.pieces.length || !calls.length) body.append(block(turn.pieces, page.wanted));
    if (turn.left_out) body.append(el("p", { className: "note" }, `${number(turn.left_out)} more characters are in the Parquet file.`));
    body.append(...calls);
    const isLast = at === facts.turns.length - 1;
    made.append(el("div", { className: `turn ${turn.role}${isLast ? " last" : ""}` }, el("div", { className: "role" }, shown(who)), body));
  }
  return made;
}

async function showTokens(facts, section, page) {
  const note = el("p", { className: "note", role: "status" }, "Reading the model's tokenizer, to show which tokens are trained on …");
  section.append(note);
  try {
    const { turns } = await page.ask("api/tokens", { row: facts.key });
    const weights = Object.values(turns).flatMap((pieces) => pieces.filter((p) => p.trained).map((p) => p.weight));
    const most = Math.max(...weights, 0);
    for (const [at, pieces] of Object.entries(turns))
      section.querySelectorAll(".said")[Number(at)].replaceChildren(block(pieces, page.wanted, most));
    const legend = [];
    if (facts.tokens.trained < facts.tokens.response_tokens)
      legend.push(el("span", {}, el("del", {}, "struck through"), `: ${number(facts.tokens.response_tokens - facts.tokens.trained)} of ${number(facts.tokens.response_tokens)} response tokens that are not trained on. `));
    if (weights.some((weight) => weight !== 1))
      legend.push(el("span", {}, "Shaded: the darker, the more a token weighs in training; point at one to see its weight."));
    note.replaceChildren(...legend);
  } catch (error) {
    if (error.name !== "AbortError") note.replaceChildren(`Pruned tokens cannot be shown: ${error.message}`);
  }
}

function contamination(found) {
  const list = el("ul", { className: "why" },
    el("li", {}, el("b", {}, shown(found.set)), ", item ", el("bdi", {}, shown(found.item ?? ""))),
    el("li", {}, `${found.match}: ${found.how}`));
  if (found.span) list.append(el("li", {}, "shared words: ", el("mark", { className: "shared", dir: "auto" }, shown(found.span))));
  return section("Found in an evaluation set", list);
}

async function showRelatives(facts, place, page) {
  try {
    const { cluster, rivals } = await page.ask("api/relatives", { row: facts.key });
    if (cluster) place.append(clusterSection(cluster, facts, page));
    if (rivals) place.append(rivalsSection(rivals, page));
  } catch (error) {
    if (error.name !== "AbortError") place.append(el("p", { className: "note" }, error.message));
  }
}

function clusterSection(cluster, facts, page) {
  const made = section(`Duplicates: ${number(cluster.rows)} rows`);
  if (cluster.keeper_in)
    made.append(el("p", { className: "note" }, "The row that stays, ", el("bdi", {}, shown(cluster.keeper)), ", is in the earlier output ", el("bdi", {}, shown(cluster.keeper_in)), "."));
  const list = el("ul", { className: "relative" });
  const own = cluster.members.find((member) => member.key === facts.key) ?? null;
  if (cluster.kept) list.append(relative(cluster.kept, "stays", own, facts, page));
  for (const member of cluster.members) {
    const alike = member.similarity === null ? "" : `${cluster.measure} ${member.similarity.toFixed(3)}`;
    list.append(relative(member, alike, cluster.kept, facts, page));
  }
  made.append(list);
  if (cluster.kept) made.append(el("p", { className: "note" }, el("ins", {}, "Marked"), ": words that differ from the row that stays", own ? ", and in that one from this row." : "."));
  if (cluster.rows - 1 > cluster.members.length) made.append(el("p", { className: "note" }, `The ${number(cluster.members.length)} most alike are shown.`));
  return made;
}

function rivalsSection(rivals, page) {
  const made = section(`Rivals: ${number(rivals.rows)} other ${rivals.rows === 1 ? "answer" : "answers"} to the same prompt`);
  const list = el("ul", { className: "relative" });
  for (const row of rivals.shown) {
    const numbers = Object.entries(row.numbers).filter(([, value]) => value !== null);
    list.append(relative({ ...row, prompt: "" }, numbers.map(([name, value]) => `${name} ${score(value)}`).join(" · "), null, null, page));
  }
  made.append(list);
  if (rivals.only_kept) made.append(el("p", { className: "note" }, "Only kept ones: the folder .winnow, which knows the prompts of dropped rows, was deleted."));
  return made;
}

function relative(row, said, other, facts, page) {
  const texts = ["prompt", "response"].filter((name) => row[name]).map((name) =>
    el("span", { className: name, dir: "auto" }, other ? different(row[name], other[name] ?? "") : shown(row[name])));
  const self = facts !== null && row.key === facts.key;
  const link = el("a", { href: page.address(row.key), className: "open" }, el("bdi", {}, shown(row.id)));
  link.dataset.key = row.key;
  const head = el("span", { className: "meta" }, el("span", { className: "part" }, PARTS[row.part]), self ? el("b", {}, "this row") : link,
    el("span", { className: "soft" }, said), el("span", { className: "soft" }, row.part === "kept" ? "" : shown(row.reason)));
  return el("li", { className: row.part }, head, ...texts);
}

function numbers(name, scores) {
  if (!scores.length) return null;
  const table = el("table", {}, el("thead", {}, el("tr", {}, ...["score", "value", "higher than … of rows"].map((text) => el("th", { scope: "col" }, text)))));
  const body = el("tbody");
  for (const one of scores) {
    const share = one.below / one.rows;
    const bar = el("span", { className: "bar" }, el("span"));
    bar.firstChild.style.width = `${100 * share}%`;
    const rank = one.below + one.above
      ? [bar, el("span", { title: `of ${number(one.rows)} rows that have it` }, `${(100 * share).toFixed(1)} %`)]
      : [el("span", { className: "soft" }, "same in all rows")];
    body.append(el("tr", {},
      el("th", { scope: "row", title: one.doc }, one.name, one.doc ? el("small", {}, one.doc + (one.better === "neither" ? "" : `; ${one.better} is better`)) : null),
      el("td", { className: "n" }, score(one.value), one.unit ? el("small", {}, one.unit) : null),
      el("td", { className: "rank" }, ...rank)));
  }
  return section(name, el("div", { className: "scroll" }, table.appendChild(body).parentNode));
}

function decisions(facts) {
  const numeric = facts.scores.filter((one) => !one.unit && !one.doc).map((one) => [one.name, `${score(one.value)}`]);
  const texts = Object.entries(facts.decisions).map(([name, value]) => [name, String(value)]);
  return fields("Written by selectors and checks", Object.fromEntries([...texts, ...numeric]));
}

function fields(name, values) {
  const entries = Object.entries(values ?? {});
  if (!entries.length) return null;
  const list = el("dl");
  for (const [key, value] of entries) list.append(el("dt", {}, shown(key)), el("dd", {}, block([{ text: value }])));
  return section(name, list);
}

function fold(name, pieces) {
  return el("details", {}, el("summary", {}, name), el("div", { className: "text" }, marked(pieces)));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
