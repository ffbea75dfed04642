"use strict";

const { backbones } = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const NO_WEIGHTS = "no weights";
const NOT_STATED = "not stated";

// What is told of a backbone

const unique = (values) => [...new Set(values)];
const ascending = (a, b) => a - b;
const natural = new Intl.Collator("en", { numeric: true }).compare;
const size = ([height, width]) => `${height} × ${width}`;
const digits = (value) => value.toLocaleString("en-US");
const escaped = (text) => text.replace(/[&<>"]/g, (found) => `&#${found.charCodeAt(0)};`);
const breakable = (name) => escaped(name).replace(/[_./]/g, "$&<wbr>");

function human(value) {
  const [unit, letter] = [
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ].find(([unit]) => value >= unit) ?? [1, ""];
  return `${Number((value / unit).toPrecision(3))} ${letter}`.trim();
}

function sizes(row) {
  if (row.fixed_size) return `${size(row.input_size)} only${row.size_divisor ? "; img_size builds it for another" : ""}`;
  const smallest = row.min_size > 1 ? `from ${row.min_size} × ${row.min_size} up` : "any";
  return row.size_divisor > 1 ? `${smallest}, padded to multiples of ${row.size_divisor}` : smallest;
}

function snippet(row) {
  const options = [JSON.stringify(row.name)];
  const strides = wanted().strides.filter((stride) => row.strides.includes(stride));
  if (!row.tags.length) options.push("pretrained=False");
  if (strides.length) options.push(`out_strides=(${strides.join(", ")}${strides.length === 1 ? "," : ""})`);
  const only = `# It takes ${row.input_size.join("x")} images only`;
  const other = row.size_divisor ? "; img_size=(h, w) builds it for another size." : ".";
  return [
    "from autobackbone import create_feature_backbone",
    "",
    ...(row.fixed_size ? [only + other] : []),
    `backbone = create_feature_backbone(${options.join(", ")})`,
    "print(backbone.channels, backbone.strides)",
  ].join("\n");
}

backbones.forEach((row, rank) => {
  row.rank = rank; // the names come in natural order
  row.strides = unique(row.levels.map((level) => level.stride)).sort(ascending);
  row.terms = row.tags.length ? (row.license ?? NOT_STATED) : NO_WEIGHTS;
  row.texts = [row.name, ...row.tags.map((tag) => tag.name)].map((text) => text.toLowerCase());
});
const byName = new Map(backbones.map((row) => [row.name, row]));

// Filters

const form = $("filters");

function addOptions(select, values) {
  select.append(...values.map((value) => new Option(value, value)));
}

addOptions($("family"), unique(backbones.map((row) => row.family)).sort(natural));
addOptions(
  $("source"),
  unique(backbones.map((row) => row.source))
    .sort(natural)
    .reverse(),
);
const terms = unique(backbones.map((row) => row.terms)).sort(natural);
const atEnd = [NOT_STATED, NO_WEIGHTS].filter((value) => terms.includes(value));
addOptions($("license"), [...terms.filter((value) => !atEnd.includes(value)), ...atEnd]);
$("strides").innerHTML = unique(backbones.flatMap((row) => row.strides))
  .sort(ascending)
  .map((stride) => `<label><input type="checkbox" name="stride" value="${stride}"><span>${stride}</span></label>`)
  .join("");

function wanted() {
  const data = new FormData(form);
  return {
    words: data.get("query").toLowerCase().split(/\s+/).filter(Boolean),
    strides: data.getAll("stride").map(Number),
    least: Number(data.get("least") || 0) * 1e6,
    most: Number(data.get("most") || Infinity) * 1e6,
    ...Object.fromEntries(["license", "family", "source", "anysize", "published"].map((key) => [key, data.get(key)])),
  };
}

const passes = (want) => (row) =>
  row.texts.some((text) => want.words.every((word) => text.includes(word))) &&
  want.strides.every((stride) => row.strides.includes(stride)) &&
  want.least <= row.params &&
  row.params <= want.most &&
  (!want.license || want.license === row.terms) &&
  (!want.family || want.family === row.family) &&
  (!want.source || want.source === row.source) &&
  (!want.anysize || !row.fixed_size) &&
  (!want.published || row.tags.length > 0);

// Table

const shown = (value, show, options) => ({
  data: null,
  render: (_, type, row) => (type === "display" ? show(row) : value(row)),
  ...options,
});
const NUMBER = { type: "num" };
const TEXT = { type: "string" };

const table = new DataTable("#table", {
  data: backbones,
  columns: [
    shown(
      (row) => row.rank,
      (row) => `<a href="#${escaped(row.name)}">${breakable(row.name)}</a>`,
      { ...NUMBER, className: "dt-left name", cellType: "th" },
    ),
    shown(
      (row) => row.family,
      (row) => breakable(row.family),
      TEXT,
    ),
    shown(
      (row) => row.params,
      (row) => human(row.params),
      NUMBER,
    ),
    shown(
      (row) => row.macs,
      (row) => human(row.macs),
      NUMBER,
    ),
    shown(
      (row) => row.strides.map((stride) => `${stride}`.padStart(4, "0")).join(),
      (row) => row.strides.join(" "),
      TEXT,
    ),
    shown(
      (row) => row.input_size[0] * row.input_size[1],
      (row) => size(row.input_size),
      NUMBER,
    ),
    shown(
      (row) => Number(row.fixed_size),
      (row) => (row.fixed_size ? "no" : "yes"),
      { ...NUMBER, className: "dt-left" },
    ),
    shown(
      (row) => row.terms,
      (row) => escaped(row.terms),
      TEXT,
    ),
    shown(
      (row) => row.tags.length,
      (row) => digits(row.tags.length),
      NUMBER,
    ),
  ],
  autoWidth: false,
  deferRender: true,
  lengthMenu: [25, 50, 100],
  pageLength: 25,
  layout: {
    topStart: null,
    topEnd: null,
    bottomStart: ["info", "pageLength"],
    bottomEnd: { paging: { buttons: 5, firstLast: false } },
  },
  language: {
    info: "Rows _START_ to _END_ of _TOTAL_",
    infoEmpty: "No rows",
    infoFiltered: "",
    lengthMenu: "Rows per page _MENU_",
    thousands: "",
    zeroRecords: "No backbone passes these filters.",
  },
  createdRow: (tr) => tr.cells[0].setAttribute("scope", "row"),
});

// Scatter

const canvas = $("scatter");
const kinds = [
  { key: $("key-any"), pointStyle: "circle", radius: 4, order: 1 },
  { key: $("key-one"), pointStyle: "triangle", radius: 5, order: 0 }, // on top: there are few of them
];
const kindOf = (row) => Number(row.fixed_size);
const scaled =
  (radius) =>
  ({ chart }) =>
    radius * (chart.width < 500 ? 0.65 : 1);

const axis = (title) => ({
  type: "logarithmic",
  bounds: "data",
  title: { display: true, text: title },
  ticks: { callback: human, maxRotation: 0 },
  afterDataLimits: (scale) => Object.assign(scale, { min: scale.min / 1.2, max: scale.max * 1.2 }),
  afterBuildTicks: (scale) => {
    const leading = scale.max / scale.min < 1000 ? ["1", "2", "5"] : ["1"];
    scale.ticks = scale.ticks.filter(({ value }) => leading.includes(value.toExponential().split("e")[0]));
  },
});

Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;

const scatter = new Chart(canvas, {
  type: "scatter",
  data: {
    datasets: kinds.map(({ pointStyle, radius, order }) => ({
      data: [],
      pointStyle,
      order,
      pointRadius: scaled(radius),
      pointHoverRadius: radius + 3,
      pointHoverBorderWidth: 2,
    })),
  },
  options: {
    animation: false,
    maintainAspectRatio: false,
    scales: { x: axis("Parameters"), y: axis("MACs") },
    plugins: {
      legend: { display: false },
      tooltip: {
        displayColors: false,
        callbacks: {
          title: ([{ raw }]) => raw.row.name,
          label: ({ raw: { row } }) => [
            `${human(row.params)} parameters, ${human(row.macs)} MACs`,
            `strides ${row.strides.join(", ")}; ${sizes(row)}`,
          ],
        },
      },
    },
    onHover: (_, [hit]) => (canvas.style.cursor = hit ? "pointer" : ""),
    onClick: (_, [hit]) => {
      if (hit) location.hash = scatter.data.datasets[hit.datasetIndex].data[hit.index].row.name;
    },
  },
});

function paint() {
  const { color, borderColor, backgroundColor } = getComputedStyle(canvas.parentElement);
  kinds.forEach(({ key }, i) => {
    const mark = getComputedStyle(key.firstElementChild).color;
    Object.assign(scatter.data.datasets[i], {
      borderColor: mark,
      backgroundColor: mark.replace(")", ", 0.4)"),
      hoverBackgroundColor: mark,
      hoverBorderColor: color,
    });
  });
  for (const scale of Object.values(scatter.options.scales)) {
    scale.grid = scale.border = { color: borderColor };
    scale.ticks.color = scale.title.color = color;
  }
  const tooltip = { backgroundColor: color, titleColor: backgroundColor, bodyColor: backgroundColor };
  Object.assign(scatter.options.plugins.tooltip, tooltip);
  scatter.update();
}

function point(row) {
  const found = row && scatter.data.datasets[kindOf(row)].data.findIndex((dot) => dot.row === row);
  const active = row ? [{ datasetIndex: kindOf(row), index: found }] : [];
  scatter.setActiveElements(active);
  scatter.tooltip.setActiveElements(active, { x: 0, y: 0 });
  scatter.render();
}

const pointHere = ({ target }) => point(table.row(target.closest("tr")).data());
const pointNowhere = () => point(null);
for (const event of ["mouseover", "focusin"]) $("table").tBodies[0].addEventListener(event, pointHere);
for (const event of ["mouseleave", "focusout"]) $("table").tBodies[0].addEventListener(event, pointNowhere);

// Filters to table and scatter

function apply() {
  const rows = new Set(backbones.filter(passes(wanted())));
  point(null);
  table.search.fixed("filters", (_, row) => rows.has(row)).draw();
  kinds.forEach((_, i) => {
    const dots = [...rows].filter((row) => kindOf(row) === i);
    scatter.data.datasets[i].data = dots.map((row) => ({ x: row.params, y: row.macs, row }));
  });
  scatter.update();
  $("count").innerHTML = `<b>${rows.size}</b> of ${backbones.length} backbones`;
  const alternative = `Scatter of parameters against MACs: ${$("count").textContent}. The table has the same data.`;
  canvas.setAttribute("aria-label", alternative);
}

form.addEventListener("input", apply);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(apply)); // the fields are reset after the event

// Card: the hash says which one is open

const card = $("card");
const cells = (values) => `<tr>${values.join("")}</tr>`;
const td = (value) => `<td>${value}</td>`;
const numeric = (value) => `<td class="number">${value}</td>`;

function fill(row) {
  $("card-name").innerHTML = breakable(row.name);
  $("snippet").textContent = snippet(row);
  $("copied").textContent = "";
  const facts = {
    Source: row.source === "timm" ? "timm" : "DINOv3, through transformers",
    Family: row.family,
    Parameters: digits(row.params),
    MACs: `${human(row.macs)} at ${size(row.input_size)}`,
    "Image sizes": sizes(row),
    "Native maps": row.exact ? "ceil(size / stride) cells" : "resampled to ceil(size / stride) cells",
    License: row.terms,
    "torch.export": row.exportable ? "yes" : "no",
  };
  $("facts").innerHTML = Object.entries(facts)
    .map(([term, fact]) => `<div><dt>${term}</dt><dd>${escaped(fact)}</dd></div>`)
    .join("");
  $("levels").innerHTML = row.levels
    .map(({ first, last, stride, channels }) =>
      cells([td(first === last ? first : `${first} to ${last}`), numeric(stride), numeric(channels)]),
    )
    .join("");
  $("weights").innerHTML = row.tags.map(weights).join("") || '<tr><td colspan="4">none</td></tr>';
}

function weights(tag) {
  const hub = tag.hub_id
    ? `<a href="https://huggingface.co/${escaped(tag.hub_id)}" aria-label="${escaped(tag.name)} on the Hub">Hub</a>`
    : "–";
  return cells([td(breakable(tag.name)), td(escaped(tag.license ?? NOT_STATED)), numeric(size(tag.size)), td(hub)]);
}

function follow() {
  const row = byName.get(location.hash.slice(1));
  if (!row) {
    card.close();
    return;
  }
  fill(row);
  if (!card.open) card.showModal();
  card.scrollTop = 0;
}

addEventListener("hashchange", follow);
card.addEventListener("close", () => {
  if (byName.has(location.hash.slice(1))) history.replaceState(null, "", location.pathname + location.search);
});

$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("snippet").textContent);
    $("copied").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("snippet"));
    $("copied").textContent = "Selected: copy it with Ctrl+C or ⌘C";
  }
});

// Theme: the system's, until one is chosen; the other pages of the documentation keep theirs under the same key

const system = matchMedia("(prefers-color-scheme: dark)");
let theme = remembered();

function remembered() {
  try {
    return localStorage.getItem("theme");
  } catch {
    return null; // storage is off
  }
}

function dress() {
  const dark = theme === "dark" || (theme !== "light" && system.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", dark);
  paint();
}

$("theme").addEventListener("click", () => {
  theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // storage is off: it holds for this visit
  }
  dress();
});
system.addEventListener("change", dress);

// Filters stand beside the table where there is room, and fold away where there is not

const wide = matchMedia("(min-width: 64rem)");
const unfold = () => ($("more").open = wide.matches);
wide.addEventListener("change", unfold);

unfold();
dress();
apply();
follow();
