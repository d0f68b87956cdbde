// The address of the page: what is searched, filtered, sorted and open stands there, and nowhere else.

let state = new URLSearchParams(location.search);

/** The fields of the address. */
export const fields = () => state;

export const field = (name) => state.get(name) ?? "";

/** Takes the address as it is now, after the back button. */
export function readAddress() {
  state = new URLSearchParams(location.search);
}

/** Sets fields, removes those that are empty, and goes to the first page unless only the row changes. */
export function change(values, { replace = false } = {}) {
  for (const [name, value] of Object.entries(values)) {
    state.delete(name);
    for (const one of [value].flat()) if (one !== "" && one !== null) state.append(name, one);
  }
  if (!("page" in values) && !("row" in values)) state.delete("page");
  history[replace ? "replaceState" : "pushState"](null, "", address(state));
}

/** Removes every field but that of the open row. */
export function clear() {
  state = new URLSearchParams(state.has("row") ? { row: field("row") } : {});
  change({});
}

const address = (wanted) => (String(wanted) ? `?${wanted}` : location.pathname);

/** The address of this page with a row open. */
export function addressOf(key) {
  const wanted = new URLSearchParams(state);
  wanted.set("row", key);
  return address(wanted);
}

/** The fields that say which rows are listed. */
export function listFields() {
  const wanted = new URLSearchParams(state);
  wanted.delete("row");
  return wanted;
}

/** Asks the server; throws what it says when it has no answer. */
export async function ask(path, values, signal) {
  const response = await fetch(`${path}?${new URLSearchParams(values)}`, { signal });
  const said = await response.json().catch(() => ({ error: `${response.status} ${response.statusText}` }));
  if (!response.ok) throw new Error(said.error ?? "no answer");
  return said;
}
