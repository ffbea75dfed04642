"use strict";

// What the page knows: architectures, their weights, and the entries that the table lists.

const DATA = JSON.parse(document.getElementById("data").textContent);
const DEVICES = DATA.devices; // key -> label
const COMMERCIAL = new Set(DATA.commercial);
const NOT_STATED = "not stated";
const ACCURACIES = ["size", "top1", "top5", "real", "v2", "sketch", "a", "r"];

const $ = (id) => document.getElementById(id);
const unique = (values) => [...new Set(values)];
const ascending = (a, b) => a - b;
const byCode = (a, b) => (a < b ? -1 : a > b ? 1 : 0); // as Python compares texts
const zip = (keys, values) => Object.fromEntries(keys.map((key, i) => [key, values[i] ?? null]));

const digits = (value) => value.toLocaleString("en-US");
const sizeText = ([height, width]) => `${height} × ${width}`;
const escaped = (text) => String(text).replace(/[&<>"]/g, (found) => `&#${found.charCodeAt(0)};`);
const breakable = (name) => escaped(name).replace(/[_./]/g, "$&<wbr>");

/** Numbers to three digits, with a unit. */
function human(value) {
  const [unit, letter] = [
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ].find(([unit]) => value >= unit) ?? [1, ""];
  return `${Number((value / unit).toPrecision(3))} ${letter}`.trim();
}

const percent = (value) => `${value.toFixed(1)} %`;
const rate = (value) => (value < 10 ? value.toFixed(1) : digits(Math.round(value)));

const backbones = DATA.backbones.rows.map((values) => {
  const row = zip(DATA.backbones.keys, values);
  row.strides = unique(row.levels.map((level) => level[3])).sort(ascending);
  row.levels = row.levels.map((level) => zip(["first", "last", "channels", "stride"], level));
  row.throughput = row.throughput.map((values) => zip(["size", ...Object.keys(DEVICES)], values));
  row.uses = row.used_by.map((index) => DATA.uses[index]);
  row.usable = new Set(row.uses.flatMap((use) => [use.method, use.task]));
  row.tags = row.tags.map((values) => {
    const tag = zip(DATA.tag_keys, values);
    tag.name = tag.name.startsWith(".") ? row.name + tag.name : tag.name;
    tag.hub_id = tag.hub === 1 ? `timm/${tag.name}` : tag.hub;
    tag.accuracy = tag.accuracy.map((values) => zip(ACCURACIES, values));
    return tag;
  });
  return row;
});
const byName = new Map(backbones.map((row) => [row.name, row]));
const byTag = new Map(backbones.flatMap((row) => row.tags.map((tag) => [tag.name, { row, tag }])));

/** The figures published for a size, as autobackbone takes them. */
const at = (rows, [height, width]) => rows.find((row) => row.size === height && row.size === width) ?? null;

/** What a name in the list means: an architecture with the weights that the name means, which may be none. */
function entry(name, row, tag, texts) {
  const size = tag ? tag.size : row.size;
  const accuracy = tag && at(tag.accuracy, size);
  const license = tag?.license ?? null;
  return {
    name,
    row,
    tag,
    size,
    license,
    commercial: COMMERCIAL.has(license),
    top1: accuracy ? accuracy.top1 : null,
    rates: at(row.throughput, size) ?? {},
    texts: texts.map((text) => text.toLowerCase()),
  };
}

const architectures = backbones.map((row) =>
  entry(row.name, row, row.tags[0] ?? null, [row.name, ...row.tags.map((tag) => tag.name)]),
);

/** Published weights, a name each, in natural order; those of DINOv3 have the names of their architectures. */
const published = lazily(() => {
  const key = (name) => name.toLowerCase().split(/(\d+)/).map((part, i) => (i % 2 ? Number(part) : part));
  const named = backbones.flatMap((row) =>
    row.source === "timm"
      ? row.tags.map((tag) => [key(tag.name), entry(tag.name, row, tag, [tag.name])])
      : [[key(row.name), entry(row.name, row, row.tags[0] ?? null, [row.name])]],
  );
  return named.sort(([a], [b]) => inOrder(a, b)).map(([, found]) => found);
});

/** Compare lists as Python does. */
function inOrder(a, b) {
  for (let i = 0; i < Math.min(a.length, b.length); i++) if (a[i] !== b[i]) return a[i] < b[i] ? -1 : 1;
  return a.length - b.length;
}

function lazily(make) {
  let value;
  return () => (value ??= make());
}

const rateOf = (found, device) => found.rates[device] ?? null;

/** The image sizes that a backbone takes, as text. */
function sizes(row, size) {
  if (row.fixed_size) return `${sizeText(size)} only${row.size_divisor ? "; img_size builds it for another" : ""}`;
  const smallest = row.min_size > 1 ? `from ${row.min_size} × ${row.min_size} up` : "any";
  return row.size_divisor > 1 ? `${smallest}, padded to multiples of ${row.size_divisor}` : smallest;
}

/** A table as HTML. Roles and headings are in the cells, too, because a narrow screen shows cells below each other. */
function tableHtml(headings, rows, attributes = "") {
  const head = headings.map(({ title, number }) => `<th role="columnheader" scope="col"${kind(number)}>${title}</th>`);
  const body = rows.map((cells) => {
    const shown = cells.map((cell, i) => {
      const tag = i ? "td" : "th";
      const role = i ? "cell" : "rowheader";
      const scope = i ? "" : ' scope="row"';
      return `<${tag} role="${role}"${scope}${kind(headings[i].number)} data-label="${headings[i].title}">${cell}</${tag}>`;
    });
    return `<tr role="row">${shown.join("")}</tr>`;
  });
  return `<table role="table" class="stack" ${attributes}>
    <thead role="rowgroup"><tr role="row">${head.join("")}</tr></thead>
    <tbody role="rowgroup">${body.join("")}</tbody></table>`;
}

const kind = (number) => (number ? ' class="number"' : "");
