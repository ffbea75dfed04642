// The list that the table shows, to take along: as CSV, as JSON, and as the Python code that gives the same names.

/** The values of an entry, with the keys of `autobackbone list --json`. */
function plain(found) {
  const { row, tag } = found;
  return {
    name: found.name,
    source: row.source,
    family: row.family,
    params: row.params,
    macs: row.macs,
    activations: row.activations,
    strides: row.strides,
    size: found.size,
    any_size: !row.fixed_size,
    top1: found.top1,
    throughput: rateOf(found, state.device),
    license: found.license,
    commercial: tag ? found.commercial : null,
    hub_id: tag?.hub_id ?? null,
    ungated: tag?.ungated ?? null,
    weights: weightsOf(found),
  };
}

function toJson(entries) {
  const note = "top1: of the classifier with these weights on ImageNet-1k, not detection; throughput: images/s";
  const figures = { ...DATA.figures, device: state.device, note };
  return `${JSON.stringify({ timm: DATA.timm, figures, backbones: entries.map(plain) }, null, 1)}\n`;
}

function toCsv(entries) {
  const source = `${DATA.figures.title}, ${DATA.figures.date}, ${DATA.figures.license}, ${DATA.figures.url}`;
  const rows = entries.map((found) => ({ ...plain(found), device: state.device, figures_from: source }));
  const keys = Object.keys(rows[0] ?? { ...plain(architectures[0]), device: 0, figures_from: 0 });
  const cell = (value) => {
    const text = value === null ? "" : Array.isArray(value) ? value.join(" ") : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [keys, ...rows.map((row) => keys.map((key) => row[key]))].map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

function download(name, kind, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  $("said").textContent = `${name} saved`;
}

const python = (value) => (value === true ? "True" : Array.isArray(value) ? tuple(value.map(python)) : JSON.stringify(value));

/** Python code that gives the names of the list: in its order, unless they are those nearest to a misspelled one. */
function pythonQuery({ how, names, entries }) {
  const options = [];
  const conditions = [];
  const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
  const each = state.weights === "each";
  if (how === "glob") {
    options.push(python(state.search.trim()));
  } else if (words.length && how !== "words") {
    conditions.push(`name in ${python(entries.map((found) => found.name))}`);
  } else if (words.length === 1 && each) {
    options.push(python(words[0]));
  } else if (words.length) {
    const texts = each ? "name.lower()" : "text.lower()";
    const all = words.length > 1 ? `all(word in ${texts} for word in ${python(words)})` : `${python(words[0])} in ${texts}`;
    conditions.push(each ? all : `any(${all} for text in (name, *describe_backbone(name).pretrained_tags))`);
  }
  if (each) options.push("pretrained_only=True");
  const keys = ["source", "family", "strides", "min_params", "max_params", "any_size", "license", "commercial", "used_by"];
  for (const key of [...keys, "min_top1", "min_throughput", "device", "sort", "reverse"]) {
    if (!same(state[key], INITIAL[key])) options.push(`${key}=${python(state[key])}`);
  }
  if (state.max_macs !== null) conditions.push(`describe_backbone(name).macs <= ${state.max_macs}`);
  if (state.weights === "published") conditions.push("describe_backbone(name).pretrained_tags");
  if (state.weights === "none") conditions.push("not describe_backbone(name).pretrained_tags");
  if (!state.tests) conditions.push('not name.startswith("test_")');
  const described = conditions.some((condition) => condition.includes("describe_backbone"));
  const call = `list_backbones(${options.join(", ")})`;
  return [
    `from autobackbone import ${described ? "describe_backbone, " : ""}list_backbones`,
    "",
    `names = ${conditions.length ? `[name for name in ${call}\n         if ${conditions.join("\n         and ")}]` : call}`,
  ].join("\n");
}

let listed = { entries: [], how: "words", names: [] };

function listenToExport() {
  $("csv").addEventListener("click", () => download("backbones.csv", "text/csv", toCsv(listed.entries)));
  $("json").addEventListener("click", () => download("backbones.json", "application/json", toJson(listed.entries)));
}
