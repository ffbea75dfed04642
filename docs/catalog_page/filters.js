// Filters: which entries pass, and the controls that ask for them.

const PRESETS = {
  "Detection on an edge device": {
    strides: [8, 16, 32],
    any_size: true,
    commercial: true,
    device: "i9_10940x",
    min_throughput: 30,
    max_params: 10e6,
    sort: "top1",
  },
  "Dense features without training": { used_by: ["DINOv2", "DINOv3"], any_size: true },
  "Commercial use": { commercial: true, sort: "top1" },
  "Any size": { any_size: true },
};
const RANGES = {
  min_top1: { of: (found) => found.top1, linear: true, show: percent },
  min_throughput: { of: (found) => rateOf(found, state.device), show: rate },
  max_params: { of: ({ row }) => row.params, most: true, show: human },
  max_macs: { of: ({ row }) => row.macs, most: true, show: human },
};
const STEPS = 1000; // of a slider

const reaches = (value, least) => least === null || (value !== null && value >= least);

/** Whether an entry passes all filters but the search. */
const passes = (want) => (found) => {
  const { row } = found;
  return (
    (want.tests || !row.name.startsWith("test_")) &&
    want.strides.every((stride) => row.strides.includes(stride)) &&
    (!want.any_size || !row.fixed_size) &&
    (!want.commercial || found.commercial) &&
    reaches(found.top1, want.min_top1) &&
    reaches(want.min_throughput === null ? null : rateOf(found, want.device), want.min_throughput) &&
    (want.min_params === null || row.params >= want.min_params) &&
    (want.max_params === null || row.params <= want.max_params) &&
    (want.max_macs === null || row.macs <= want.max_macs) &&
    (!want.license.length || want.license.includes(found.license)) &&
    (!want.used_by.length || want.used_by.some((use) => row.usable.has(use))) &&
    (!want.family || want.family === row.family) &&
    (!want.source || want.source === row.source) &&
    (want.weights !== "published" || found.tag !== null) &&
    (want.weights !== "none" || found.tag === null)
  );
};

/**
 * The entries that a search means, and how it was read. If autobackbone takes it for a name in another spelling, that
 * one comes first; if no name has all its words, the nearest do; then names that have it with other separators.
 */
function search(entries, text) {
  if (isGlob(text)) return { entries: entries.filter(matches(text.trim().toLowerCase())), how: "glob", names: [] };
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const having = (words, form) =>
    entries.filter((found) => found.texts.some((name) => words.every((word) => form(name).includes(word))));
  const exact = having(words, (name) => name);
  const name = resolved(text.trim());
  const meaning = (names) => names.flatMap((each) => entries.filter((found) => means(found, each)));
  if (exact.length && !(name && !meaning([name]).some((found) => exact.includes(found)))) {
    return { entries: exact, how: "words", names: [] };
  }
  const names = name ? [name] : nearestNames(text.trim());
  const squashed = words.map(squash).filter(Boolean);
  const spelled = squashed.length ? having(squashed, squash) : [];
  return { entries: unique([...meaning(names), ...spelled]), how: name ? "spelled" : "nearest", names };
}

const isGlob = (text) => /[*?[]/.test(text);

/** Whether the name of an entry matches a glob, by the rules of list_backbones. */
function matches(glob) {
  const form = globForm(glob);
  const tagged = glob.includes(".") ? form : globForm(`${glob}.*`);
  return ({ name }) => form.test(name.toLowerCase()) || (state.weights === "each" && tagged.test(name.toLowerCase()));
}

/** A glob as a regular expression, as Python's fnmatch reads it. */
function globForm(glob) {
  const parts = glob.match(/\*|\?|\[!?\]?[^\]]*\]|[^]/g) ?? [];
  const form = parts.map((part) => {
    if (part === "*") return "[^]*";
    if (part === "?") return "[^]";
    if (part.length === 1) return part.replace(/[\\^$.*+?()[\]{}|/]/, "\\$&");
    const [not, set] = part[1] === "!" ? ["^", part.slice(2, -1)] : ["", part.slice(1, -1)];
    return `[${not}${set.replace(/[\\\]^[]/g, "\\$&")}]`;
  });
  try {
    return new RegExp(`^${form.join("")}$`);
  } catch {
    return /(?!)/; // a range from z to a: nothing is in it
  }
}

/** Whether an entry is what a name means: the architecture of a tag, too. */
const means = (found, name) => (byTag.has(name) && found.name.includes(".") ? found.name === name : found.row === rowOf(name));
const rowOf = (name) => byName.get(name) ?? byTag.get(name)?.row;

/** The entries that pass, in the order that is asked for. */
function select(want) {
  const all = want.weights === "each" ? published() : architectures;
  const read = search(all, want.search);
  return { ...read, entries: sorted(read.entries.filter(passes(want)), want), total: read.entries.length };
}

// Controls

const form = $("filters");
const named = (key) => [...document.getElementsByName(key)];

const option = (value, label = value) => new Option(label, value);
const checks = (key, values, label = (value) => value) =>
  values
    .map(
      (value) =>
        `<label class="check"><input type="checkbox" name="${key}" value="${escaped(value)}"> <span>${escaped(label(value))}</span></label>`,
    )
    .join("");

function buildControls() {
  $("strides").innerHTML = allStrides
    .map((stride) => `<label><input type="checkbox" name="strides" value="${stride}"><span>${stride}</span></label>`)
    .join("");
  $("license").innerHTML = checks("license", licenses, (name) => name + (COMMERCIAL.has(name) ? " (commercial)" : ""));
  $("used_by").innerHTML = `<b>Tasks</b>${checks("used_by", tasks)}<b>Methods</b>${checks("used_by", methods)}`;
  $("device").append(...Object.entries(DEVICES).map(([key, label]) => option(key, label)));
  $("family").append(...families.map((name) => option(name)));
  $("source").append(...sources.map((name) => option(name)));
  $("presets").lastElementChild.innerHTML = Object.keys(PRESETS)
    .map((name) => `<button type="button" data-preset="${name}">${name}</button>`)
    .join("");
  for (const slider of document.querySelectorAll("[data-for]")) Object.assign(slider, { min: 0, max: STEPS, step: 1 });
}

const unitOf = (field) => Number(field.dataset.unit ?? 1);

/** The value that controls have for a part of the state; undefined while it is no value. */
function readControl(key) {
  const fields = named(key);
  const [field] = fields;
  if (field.type === "checkbox") {
    if (typeof INITIAL[key] === "boolean") return field.checked;
    const values = fields.filter((each) => each.checked).map((each) => each.value);
    return FIELDS[key].read(values.join(","));
  }
  if (field.type !== "number") return field.value;
  if (field.validity.badInput) return undefined;
  return field.value === "" ? null : FIELDS[key].read(String(scaledUp(field)));
}

/** Decimal digits times a unit, without the error of binary fractions: 4.1 million is 4100000. */
const scaledUp = (field) => Number(`${Number(field.value)}e${Math.log10(unitOf(field))}`);
const scaledDown = (value, field) => String(Number(`${value}e-${Math.log10(unitOf(field))}`));

function showControls() {
  for (const key of Object.keys(FIELDS)) {
    for (const field of named(key)) {
      const value = state[key];
      if (field.type === "checkbox") {
        field.checked = Array.isArray(value) ? value.map(String).includes(field.value) : value;
      } else if (field.type === "number") {
        const current = readControl(key);
        if (field !== document.activeElement || (current !== undefined && current !== value)) {
          field.value = value === null ? "" : scaledDown(value, field);
        }
      } else if (field.value !== value) {
        field.value = value;
      }
    }
  }
  for (const slider of document.querySelectorAll("[data-for]")) showSlider(slider);
  for (const button of document.querySelectorAll("[data-preset]")) {
    button.setAttribute("aria-pressed", isPreset(PRESETS[button.dataset.preset]));
  }
}

const isPreset = (preset) => FILTERS.every((key) => key === "tests" || same(state[key], expected(preset, key)));
const expected = (preset, key) => preset[key] ?? (key === "device" ? state.device : INITIAL[key]);

/** The ends of a slider: the least and the greatest value that there is. */
const ends = remembered((key, _device) => {
  const values = architectures.map(RANGES[key].of).filter((value) => value !== null && value > 0);
  return [Math.min(...values), Math.max(...values)];
});

function sliderValue(key, step) {
  const { linear, most } = RANGES[key];
  const [low, high] = ends(key, state.device);
  if (step === (most ? STEPS : 0)) return null; // at the open end: no bound
  const part = step / STEPS;
  if (linear) return Math.round(2 * (low + part * (high - low))) / 2;
  return Number((low * (high / low) ** part).toPrecision(2));
}

function showSlider(slider) {
  const key = slider.dataset.for;
  const { linear, most, show } = RANGES[key];
  const [low, high] = ends(key, state.device);
  const value = state[key];
  const part = linear ? (value - low) / (high - low) : Math.log(value / low) / Math.log(high / low);
  const step = value === null ? (most ? STEPS : 0) : Math.round(STEPS * Math.min(1, Math.max(0, part)));
  if (slider !== document.activeElement || sliderValue(key, Number(slider.value)) !== value) slider.value = step;
  slider.setAttribute("aria-valuetext", value === null ? "no bound" : show(value));
}

function listen() {
  document.addEventListener("input", ({ target }) => {
    const slides = target.dataset.for;
    const key = slides ?? target.name;
    if (!key || !Object.hasOwn(FIELDS, key)) return;
    const value = slides ? sliderValue(key, Number(target.value)) : readControl(key);
    if (value === undefined) return; // not a value yet
    const typed = slides || ["search", "number"].includes(target.type);
    if (!same(value, state[key])) change({ [key]: value }, typed ? target.id || `slider ${key}` : null);
  });
  document.addEventListener("focusout", () => {
    flush();
    lastTyped = null;
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    change(Object.fromEntries([...FILTERS, "sort", "reverse"].map((key) => [key, INITIAL[key]])));
  });
  form.addEventListener("click", ({ target }) => {
    const preset = PRESETS[target.closest("[data-preset]")?.dataset.preset];
    if (!preset) return;
    const cleared = Object.fromEntries([...FILTERS, "sort", "reverse"].map((key) => [key, INITIAL[key]]));
    change({ ...cleared, device: state.device, ...preset });
  });
}
