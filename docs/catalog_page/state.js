// The state of the page, and the address that holds it: ?strides=4,8&any_size=1#resnet50. The part after # says which
// dialog is open. Names and values are those of list_backbones, where it has the same.

const COLUMN_KEYS = [
  "top1",
  "throughput",
  "params",
  "macs",
  "activations",
  "strides",
  "size",
  "any_size",
  "license",
  "family",
  "source",
  "weights",
  "used_by",
];
const SHOWN_COLUMNS = ["top1", "throughput", "params", "macs", "strides", "license"];
const AXES = ["top1", "throughput", "params", "macs", "activations"];
const SORTS = ["name", ...AXES, "family", "strides", "size", "license", "weights"];
const MOST_COMPARED = 4;

const licenses = unique([...byTag.values()].map(({ tag }) => tag.license).filter(Boolean)).sort(byCode);
const families = unique(backbones.map((row) => row.family)).sort(byCode);
const sources = unique(backbones.map((row) => row.source)).sort(byCode).reverse();
const tasks = unique(DATA.uses.map((use) => use.task)).sort(byCode);
const methods = unique(DATA.uses.map((use) => use.method)).sort(byCode);
const allStrides = unique(backbones.flatMap((row) => row.strides)).sort(ascending);
const isIn = (values) => (value) => values.includes(value);
const isName = (name) => byName.has(name) || byTag.has(name);

const text = () => ({ initial: "", read: (value) => value });
const flag = () => ({ initial: false, read: (value) => (value === "1" ? true : undefined), write: () => "1" });
const number = (most = Infinity) => ({
  initial: null,
  read: (value) => {
    const found = value.trim() === "" ? NaN : Number(value);
    return Number.isFinite(found) && found >= 0 && found <= most ? found : undefined;
  },
});
const choice = (initial, values) => ({
  initial,
  read: (value) => (value === initial || values.includes(value) ? value : undefined),
});
const list = (initial, isOne, { most = Infinity, of = String } = {}) => ({
  initial,
  read: (value) => {
    const found = unique(value.split(",").filter(Boolean)).map(of);
    return found.length <= most && found.every(isOne) ? found : undefined;
  },
  write: (values) => values.join(","),
});

const FIELDS = {
  search: text(),
  strides: list([], isIn(allStrides), { of: Number }),
  any_size: flag(),
  commercial: flag(),
  min_top1: number(100),
  min_throughput: number(),
  device: choice("rtx4090", Object.keys(DEVICES)),
  min_params: number(),
  max_params: number(),
  max_macs: number(),
  license: list([], isIn(licenses)),
  used_by: list([], isIn([...tasks, ...methods])),
  family: choice("", families),
  source: choice("", sources),
  weights: choice("", ["published", "none", "each"]),
  tests: flag(),
  sort: choice("name", SORTS),
  reverse: flag(),
  page: { ...number(), initial: 1, read: (value) => (/^[1-9]\d{0,5}$/.test(value) ? Number(value) : undefined) },
  columns: list(SHOWN_COLUMNS, isIn(COLUMN_KEYS)),
  x: choice("throughput", AXES),
  y: choice("top1", AXES),
  select: list([], isName, { most: MOST_COMPARED }),
};
const FILTERS = Object.keys(FIELDS).slice(0, Object.keys(FIELDS).indexOf("sort"));
const INITIAL = Object.fromEntries(Object.entries(FIELDS).map(([key, field]) => [key, field.initial]));

const same = (a, b) => (Array.isArray(a) ? a.length === b.length && a.every((value, i) => value === b[i]) : a === b);

/** Read a state from the part of an address after "?"; what it cannot be is left out, and listed. */
function readAddress(query) {
  const found = { ...INITIAL };
  const wrong = [];
  for (const [key, value] of new URLSearchParams(query)) {
    const read = Object.hasOwn(FIELDS, key) ? FIELDS[key].read(value) : undefined;
    if (read === undefined) wrong.push(`${key}=${value}`);
    else found[key] = read;
  }
  return { found, wrong };
}

/** Write a state as the part of an address from "?" on; empty if nothing is asked. */
function writeAddress(wanted) {
  const parts = Object.entries(FIELDS)
    .filter(([key, field]) => !same(wanted[key], field.initial))
    .map(([key, { write = String }]) => `${key}=${encodeURIComponent(write(wanted[key]))}`);
  return parts.length ? `?${parts.join("&").replaceAll("%2C", ",").replaceAll("%2F", "/")}` : "";
}

let { found: state, wrong: misread } = readAddress(location.search);
let pending = 0; // the timer of an address that is still to be written
let lastTyped = null; // what is being typed or dragged: one step of the history, however long it takes

/** Change the state, and the address with it. What is typed (`typing` names the field) makes one step of history. */
function change(changes, typing = null) {
  const next = { ...state, ...changes };
  if (!("page" in changes) && Object.keys(changes).some((key) => FILTERS.includes(key) || /sort|reverse/.test(key))) {
    next.page = 1;
  }
  const more = typing !== null && typing === lastTyped;
  if (!more) flush();
  state = next;
  misread = [];
  lastTyped = typing;
  if (!more) writeNow(false);
  else pending ||= setTimeout(flush, 200); // browsers allow only so many changes of the address in a time
  render();
}

function writeNow(replace) {
  const address = location.pathname + writeAddress(state) + location.hash;
  if (replace) history.replaceState(null, "", address);
  else if (writeAddress(state) !== location.search) history.pushState(null, "", address);
}

function flush() {
  if (!pending) return;
  clearTimeout(pending);
  pending = 0;
  writeNow(true);
}

function follow() {
  clearTimeout(pending);
  pending = 0;
  lastTyped = null;
  ({ found: state, wrong: misread } = readAddress(location.search));
  render();
}

addEventListener("popstate", () => {
  if (writeAddress(state) !== location.search) follow();
});
addEventListener("pagehide", flush);
addEventListener("click", flush, true); // a link to a card keeps what is in the address
