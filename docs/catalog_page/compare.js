// Two to four backbones side by side: those that are ticked in the table.

const comparison = $("compare");

/** An entry of any name: of an architecture, or of weights. */
const entryOf = (name) =>
  architectures.find((found) => found.name === name) ?? published().find((found) => found.name === name) ?? tagEntry(name);
const tagEntry = (name) => {
  const { row, tag } = byTag.get(name);
  return entry(name, row, tag, [name]);
};

function toggle(name, ticked) {
  const others = state.select.filter((each) => each !== name);
  change({ select: ticked ? [...others, name].slice(0, MOST_COMPARED) : others });
}

function drawTray() {
  const { select } = state;
  $("tray").hidden = !select.length;
  document.body.classList.toggle("with-tray", select.length > 0);
  $("tray").firstElementChild.innerHTML = select
    .map(
      (name) =>
        `<li><span>${breakable(name)}</span><button type="button" data-drop="${escaped(name)}" aria-label="Remove ${escaped(name)}">✕</button></li>`,
    )
    .join("");
  const open = $("open-compare");
  open.textContent = select.length < 2 ? "Tick one more to compare" : `Compare ${select.length}`;
  if (select.length < 2) open.removeAttribute("href");
  else open.href = "#compare";
}

function fillComparison() {
  const entries = state.select.map(entryOf);
  const rows = [];
  for (const key of AXES) {
    const { title, value, show, best } = COLUMNS[key];
    const values = entries.map(value);
    const known = values.filter((each) => each !== null);
    const first = known.length > 1 ? (best === "high" ? Math.max : Math.min)(...known) : null;
    const cells = values.map((each) => {
      if (each === null) return "–";
      return each === first ? `<strong class="best">${show(each)} <span aria-hidden="true">★</span><span class="unseen">best</span></strong>` : show(each);
    });
    rows.push([key === "throughput" ? axisTitle(key) : title, ...cells]);
  }
  const all = unique(entries.flatMap(({ row }) => row.strides)).sort(ascending);
  const plain = {
    Family: ({ row }) => `${escaped(row.family)} (${row.source})`,
    "Image sizes": ({ row, size }) => sizes(row, size),
    "Default size": ({ size }) => sizeText(size),
    ...Object.fromEntries(all.map((stride) => [`Channels at stride ${stride}`, ({ row }) => channelsAt(row, stride)])),
    "torch.export": ({ row }) => (row.exportable ? "yes" : "no"),
    License: ({ license, tag }) => (tag ? licenseHtml(license) : "no weights"),
    Weights: (found) => digits(weightsOf(found)),
    "Used by": ({ row }) => escaped(unique(row.uses.map((use) => use.method)).join(", ")) || "–",
  };
  for (const [title, show] of Object.entries(plain)) rows.push([title, ...entries.map(show)]);
  const head = entries.map(
    ({ name }) => `<th role="columnheader" scope="col"><a class="target" href="#${encodeURI(name)}">${breakable(name)}</a></th>`,
  );
  const body = rows.map(([title, ...cells]) => {
    const shown = cells.map((cell) => `<td role="cell">${cell}</td>`);
    return `<tr role="row"><th role="rowheader" scope="row">${title}</th>${shown.join("")}</tr>`;
  });
  $("compare-body").innerHTML = `<table role="table" class="beside" aria-labelledby="compare-title" style="--count: ${entries.length}">
    <thead role="rowgroup"><tr role="row"><td role="cell"></td>${head.join("")}</tr></thead>
    <tbody role="rowgroup">${body.join("")}</tbody></table>`;
}

function channelsAt(row, stride) {
  const found = row.levels.filter((level) => level.stride === stride);
  const text = found.map(({ first, last, channels }) => (last > first ? `${channels} × ${last - first + 1} levels` : channels));
  return text.join(", ") || "–";
}

function listenToComparison() {
  $("table").addEventListener("change", ({ target }) => {
    const name = target.dataset.tick;
    if (name) toggle(name, target.checked);
  });
  $("tray").addEventListener("click", ({ target }) => {
    const name = target.closest("[data-drop]")?.dataset.drop;
    if (name) toggle(name, false);
    if (name) ($("tray").querySelector("button") ?? $("frame")).focus();
  });
  $("clear").addEventListener("click", () => {
    change({ select: [] });
    $("frame").focus();
  });
}
