// The table: one page of rows at a time, which is quick to draw, and works by keyboard and screen reader as it is.

const PAGE = 25; // rows

const COLUMNS = {
  name: { title: "Name", value: () => null },
  top1: { title: "Top-1", value: (found) => found.top1, show: percent, best: "high" },
  throughput: { title: "Images/s", value: (found) => rateOf(found, state.device), show: rate, best: "high" },
  params: { title: "Parameters", value: ({ row }) => row.params, show: human, best: "low" },
  macs: { title: "MACs", value: ({ row }) => row.macs, show: human, best: "low" },
  activations: { title: "Activations", value: ({ row }) => row.activations, show: human, best: "low" },
  strides: { title: "Strides", value: ({ row }) => row.strides, show: (strides) => strides.join(" ") },
  size: { title: "Default size", value: (found) => found.size, show: sizeText },
  any_size: { title: "Any size", value: ({ row }) => !row.fixed_size, show: (yes) => (yes ? "yes" : "no") },
  license: { title: "License", value: (found) => found.license, show: escaped },
  family: { title: "Family", value: ({ row }) => row.family, show: breakable },
  source: { title: "Source", value: ({ row }) => row.source, show: escaped },
  weights: { title: "Weights", value: (found) => weightsOf(found), show: digits },
  used_by: {
    title: "Used by",
    value: ({ row }) => (row.uses.length ? unique(row.uses.map((use) => use.method)) : null),
    show: (names) => escaped(names.join(", ")),
  },
};
const NUMBERS = new Set([...AXES, "weights"]);
const BEST_FIRST = new Set(["top1", "throughput"]);

/** How many weights a name means. */
const weightsOf = (found) => (byTag.has(found.name) ? 1 : found.row.tags.length);

function compareValues(a, b) {
  if (Array.isArray(a)) return inOrder(a, b);
  return typeof a === "number" ? a - b : byCode(a, b);
}

/** Sort as list_backbones does: equal ones in natural order, those of which it is not known at the end. */
function sorted(entries, { sort, reverse }) {
  if (sort === "name") return reverse ? [...entries].reverse() : entries;
  const { value } = COLUMNS[sort];
  const sign = reverse === BEST_FIRST.has(sort) ? 1 : -1;
  const known = entries.map((found) => [value(found), found]).filter(([each]) => each !== null);
  known.sort(([a], [b]) => sign * compareValues(a, b));
  const unknown = entries.filter((found) => value(found) === null);
  return [...known.map(([, found]) => found), ...unknown];
}

const isRising = ({ sort, reverse }) => (sort === "name" ? !reverse : reverse === BEST_FIRST.has(sort));

function headHtml() {
  const cells = ["name", ...COLUMN_KEYS.filter((key) => state.columns.includes(key))].map((key) => {
    const title = key === "throughput" ? `Images/s <span class="device">${escaped(state.device)}</span>` : COLUMNS[key].title;
    const sorts = state.sort === key ? ` aria-sort="${isRising(state) ? "ascending" : "descending"}"` : "";
    const arrow = state.sort === key ? (isRising(state) ? "▲" : "▼") : "";
    const inner = SORTS.includes(key)
      ? `<button type="button" data-sort="${key}">${title}<span class="arrow" aria-hidden="true">${arrow}</span></button>`
      : `<span class="title">${title}</span>`;
    return `<th role="columnheader" scope="col" class="${key}${NUMBERS.has(key) ? " number" : ""}"${sorts}>${inner}</th>`;
  });
  return `<tr role="row">${cells.join("")}</tr>`;
}

function rowHtml(found, columns) {
  const name = escaped(found.name);
  const box = `<input type="checkbox" data-tick="${name}" aria-label="Compare ${name}">`;
  const cells = columns.map((key) => {
    const { title, value, show } = COLUMNS[key];
    const known = value(found);
    const text = known === null ? '<span class="none" aria-label="not known">–</span>' : show(known);
    return `<td role="cell" class="${key}${NUMBERS.has(key) ? " number" : ""}" data-label="${title}">${text}</td>`;
  });
  return `<tr role="row"><th role="rowheader" scope="row" class="name"><div><label class="tick">${box}</label><a href="#${encodeURI(found.name)}">${breakable(found.name)}</a></div></th>${cells.join("")}</tr>`;
}

let drawnRows = [];

/** Draw an element anew, if it is another: so that the focus stays where it is, and nothing is laid out for nothing. */
function redraw(element, html) {
  if (element.drawn !== html) element.innerHTML = element.drawn = html;
}

function drawTable({ entries, total, how, names }) {
  const pages = Math.max(1, Math.ceil(entries.length / PAGE));
  const page = Math.min(state.page, pages);
  const start = (page - 1) * PAGE;
  drawnRows = entries.slice(start, start + PAGE);
  redraw($("table").tHead, headHtml());
  const columns = COLUMN_KEYS.filter((key) => state.columns.includes(key));
  const empty = `<tr role="row"><td role="cell" class="empty" colspan="${columns.length + 1}">No backbone passes these filters.</td></tr>`;
  redraw($("table").tBodies[0], drawnRows.map((found) => rowHtml(found, columns)).join("") || empty);
  const full = state.select.length >= MOST_COMPARED;
  for (const box of $("table").tBodies[0].querySelectorAll("input")) {
    box.checked = state.select.includes(box.dataset.tick);
    box.disabled = full && !box.checked;
  }
  const all = state.weights === "each" ? "published weights" : "backbones";
  const count = (state.weights === "each" ? published() : architectures).filter(
    (found) => state.tests || !found.row.name.startsWith("test_"),
  ).length;
  $("count").innerHTML = `<b>${digits(entries.length)}</b> of ${digits(count)} ${all}`;
  $("shown").textContent = entries.length
    ? `Rows ${digits(start + 1)} to ${digits(start + drawnRows.length)} of ${digits(entries.length)}`
    : "No rows";
  $("previous").disabled = page === 1;
  $("next").disabled = page === pages;
  $("pages").dataset.page = page;
  redraw($("notes"), notesHtml({ total, how, names, entries }));
}

/** What has to be said about the search, and about an address with values that do not exist. */
function notesHtml({ total, how, names, entries }) {
  const notes = [];
  const link = (name) => `<a href="${escaped(writeAddress({ ...state, search: name, page: 1 }))}" data-search="${escaped(name)}">${breakable(name)}</a>`;
  const typed = `“${escaped(state.search.trim())}”`;
  if (how === "nearest") {
    notes.push(
      names.length
        ? `No name has ${typed}. Did you mean ${names.map(link).join(", ")}?`
        : `No name has ${typed}${total ? " in this spelling" : ", or is like it"}.`,
    );
  } else if (how === "glob" && !total) {
    notes.push(`No name matches ${typed}.`);
  } else if (how === "spelled") {
    notes.push(`${typed} is ${names.map(link).join(", ")}.`);
  }
  if (state.search.trim() && total && !entries.length) {
    notes.push(`${digits(total)} found by name alone: the filters leave none.`);
  }
  if (misread.length) {
    notes.push(`The address asks for what this page does not know: <code>${escaped(misread.join(", "))}</code>.`);
  }
  return notes.map((note) => `<p>${note}</p>`).join("");
}

function listenToTable() {
  $("sort").append(...SORTS.map((key) => option(key, COLUMNS[key].title)));
  $("columns").lastElementChild.insertAdjacentHTML(
    "beforeend",
    checks("columns", COLUMN_KEYS, (key) => COLUMNS[key].title),
  );
  $("table").tHead.addEventListener("click", ({ target }) => {
    const key = target.closest("[data-sort]")?.dataset.sort;
    if (!key) return;
    change({ sort: key, reverse: state.sort === key && !state.reverse });
    document.querySelector(`[data-sort="${key}"]`).focus(); // the heading was drawn anew
  });
  for (const [id, step] of [
    ["previous", -1],
    ["next", 1],
  ]) {
    $(id).addEventListener("click", () => {
      change({ page: Number($("pages").dataset.page) + step });
      $("frame").scrollTop = 0;
      if ($("frame").getBoundingClientRect().top < 0) $("frame").scrollIntoView();
      if ($(id).disabled) $(step < 0 ? "next" : "previous").focus();
    });
  }
  $("notes").addEventListener("click", (event) => {
    const name = event.target.closest("[data-search]")?.dataset.search;
    if (name === undefined) return;
    event.preventDefault();
    change({ search: name });
    $("search").focus();
  });
  const entryAt = ({ target }) => drawnRows[target.closest("tbody tr")?.sectionRowIndex] ?? null;
  for (const event of ["mouseover", "focusin"]) $("table").addEventListener(event, (e) => highlight(entryAt(e)));
  for (const event of ["mouseleave", "focusout"]) $("table").addEventListener(event, () => highlight(null));
}
