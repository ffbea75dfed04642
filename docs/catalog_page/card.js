// The card of a backbone. The address names it after #: an architecture, or weights by their tag.

const card = $("card");

const quoted = (text) => JSON.stringify(text);
const tuple = (values) => `(${values.join(", ")}${values.length === 1 ? "," : ""})`;

/** The strides that are asked for and native to an architecture. */
const nativeStrides = (row) => state.strides.filter((stride) => row.strides.includes(stride));

function pythonSnippet(name, row) {
  const options = [quoted(name)];
  const strides = nativeStrides(row);
  if (!row.tags.length) options.push("pretrained=False");
  if (strides.length) options.push(`out_strides=${tuple(strides)}`);
  const size = byTag.get(name)?.tag.size ?? row.size;
  const only = `# It takes ${size.join("x")} images only`;
  const other = row.size_divisor ? "; img_size=(h, w) builds it for another size." : ".";
  return [
    "from autobackbone import create_feature_backbone",
    "",
    ...(row.fixed_size ? [only + other] : []),
    `backbone = create_feature_backbone(${options.join(", ")})`,
    "print(backbone.channels, backbone.strides)",
  ].join("\n");
}

function fpnSnippet(name, row) {
  const strides = nativeStrides(row);
  const options = [quoted(name), ...(row.tags.length ? [] : ["pretrained=False"])];
  options.push(`out_strides=${tuple(strides.length > 1 ? strides : [4, 8, 16, 32])}`);
  return [
    "from autobackbone import FeaturePyramid, create_feature_backbone",
    "",
    `backbone = create_feature_backbone(${options.join(", ")})`,
    "fpn = FeaturePyramid(backbone, out_channels=256)",
    "print(fpn.names, fpn.strides)",
  ].join("\n");
}

function shellSnippet(name, row) {
  const random = row.tags.length ? "" : " --random-weights";
  const strides = nativeStrides(row);
  const asked = strides.length ? ` --strides ${strides.join(",")}` : "";
  return [
    `autobackbone info ${name}`,
    `autobackbone features photo.jpg -m ${name}${asked}${random} -o out`,
    `autobackbone extract photos -m ${name}${random} -o features`,
  ].join("\n");
}

const SNIPPETS = { Python: pythonSnippet, "Command line": shellSnippet, FPN: fpnSnippet };

function snippetsHtml(name, row) {
  return Object.entries(SNIPPETS)
    .map(([title, make], i) => {
      const id = `snippet-${i}`;
      return `<div class="snippet"><div class="bar"><h3>${title}</h3>
        <button type="button" data-copy="${id}" aria-label="Copy ${title}">Copy</button></div>
        <pre id="${id}" tabindex="0" role="region" aria-label="${title}">${escaped(make(name, row))}</pre></div>`;
    })
    .join("");
}

const badge = (text, kind = "") => `<span class="badge ${kind}">${escaped(text)}</span>`;

function licenseHtml(license) {
  if (license === null) return NOT_STATED;
  const commercial = COMMERCIAL.has(license) ? badge("commercial use", "good") : badge("read before commercial use", "warn");
  return `${escaped(license)} ${commercial}`;
}

const hubHtml = (tag) =>
  tag.hub_id
    ? `<a class="target" href="https://huggingface.co/${escaped(tag.hub_id)}" aria-label="${escaped(tag.name)} on the Hub">Hub</a>${tag.ungated ? ` ${badge("gated", "warn")}` : ""}`
    : "–";

function gateHtml(tag) {
  if (!tag?.ungated) return "";
  const page = `https://huggingface.co/${escaped(tag.hub_id)}`;
  return `<p class="note">${badge("gated", "warn")} Accept the license on <a href="${page}">the Hub</a>, then run
    <code>hf auth login</code>. The same weights without a gate: <a href="#${encodeURI(tag.ungated)}">${breakable(tag.ungated)}</a>.</p>`;
}

function factsHtml(row, tag) {
  const size = tag?.size ?? row.size;
  const tokens = Object.entries(row.tokens).map(([kind, count]) => `${count} ${kind}`);
  const facts = {
    Source: row.source === "timm" ? "timm" : "DINOv3, through transformers",
    Family: escaped(row.family),
    Parameters: digits(row.params),
    MACs: `${human(row.macs)} at ${sizeText(row.size)}`,
    Activations: `${human(row.activations)} at ${sizeText(row.size)}`,
    "Image sizes": sizes(row, size),
    "Native maps": row.exact ? "ceil(size / stride) cells" : "resampled to ceil(size / stride) cells",
    Tokens: tokens.join(", ") || "none",
    License: tag ? licenseHtml(tag.license) : "no weights",
    "torch.export": row.exportable ? "yes" : "no",
  };
  const shown = Object.entries(facts).map(([term, fact]) => `<div><dt>${term}</dt><dd>${fact}</dd></div>`);
  return `<dl class="facts">${shown.join("")}</dl>`;
}

const tableOf = (title, headings, rows, empty) => {
  const id = `title-${squash(title)}`;
  const table = rows.length ? tableHtml(headings, rows, `aria-labelledby="${id}"`) : `<p>${empty}</p>`;
  return `<h3 id="${id}">${title}</h3>${table}`;
};
const column = (title, number = true) => ({ title, number });
const orNone = (value, show) => (value === null ? "–" : show(value));

function levelsHtml(row) {
  const rows = row.levels.map(({ first, last, stride, channels }) => [
    first === last ? first : `${first} to ${last}`,
    stride,
    channels,
  ]);
  return tableOf("Native levels", [column("Level", false), column("Stride"), column("Channels")], rows, "");
}

function weightsHtml(row, name) {
  const headings = [column("Name", false), column("License", false), column("Size"), column("Hub", false)];
  const rows = row.tags.map((tag) => [
    `<a class="target" href="#${encodeURI(tag.name)}"${tag.name === name ? ' aria-current="true"' : ""}>${breakable(tag.name)}</a>`,
    licenseHtml(tag.license),
    sizeText(tag.size),
    hubHtml(tag),
  ]);
  return tableOf("Published weights", headings, rows, "None.");
}

function accuracyHtml(row) {
  const titles = ["Top-1", "Top-5", "ReaL", "V2", "Sketch", "A", "R"];
  const headings = [column("Weights", false), column("Size"), ...titles.map((title) => column(title))];
  const rows = row.tags.flatMap((tag) =>
    tag.accuracy.map((figures) => [
      breakable(tag.name),
      figures.size,
      ...ACCURACIES.slice(1).map((key) => orNone(figures[key], (value) => value.toFixed(1))),
    ]),
  );
  return tableOf("Accuracy, in percent", headings, rows, "Not published.");
}

function throughputHtml(row) {
  const headings = [column("Size"), ...Object.values(DEVICES).map((label) => column(label))];
  const rows = row.throughput.map((figures) => [
    figures.size,
    ...Object.keys(DEVICES).map((device) => orNone(figures[device], rate)),
  ]);
  return tableOf("Images per second", headings, rows, "Not published.");
}

function usesHtml(row) {
  const uses = row.uses.map(
    (use) => `<li><a class="target" href="${escaped(use.paper)}">${escaped(use.method)}</a> <span>${escaped(use.task)}</span></li>`,
  );
  return `<h3>Used by</h3>${uses.length ? `<ul class="links uses">${uses.join("")}</ul>` : "<p>Not known.</p>"}`;
}

function fillCard(name) {
  const row = rowOf(name);
  const tag = byTag.get(name)?.tag ?? row.tags[0] ?? null;
  $("card-name").innerHTML = breakable(name);
  const whole = name === row.name ? "" : `<p>Weights of <a class="target" href="#${encodeURI(row.name)}">${breakable(row.name)}</a>.</p>`;
  $("card-body").innerHTML = [
    whole,
    gateHtml(tag),
    factsHtml(row, tag),
    snippetsHtml(name, row),
    levelsHtml(row),
    weightsHtml(row, tag?.name),
    accuracyHtml(row),
    throughputHtml(row),
    `<p class="hint">${$("figures-note").innerHTML}</p>`,
    usesHtml(row),
  ].join("");
}

/** Open the dialog that the address names, and close the others. */
function openFromAddress() {
  const name = hashName();
  const shown = isName(name) ? card : name === "compare" && state.select.length > 1 ? comparison : null;
  for (const dialog of [card, comparison]) if (dialog !== shown && dialog.open) dialog.close();
  if (shown === card) fillCard(name);
  if (shown === comparison) fillComparison();
  if (!shown) return;
  if (!shown.open) shown.showModal();
  else if (shown === card) $("card-name").focus(); // the link that was followed is gone
  shown.scrollTop = 0;
}

function hashName() {
  try {
    return decodeURI(location.hash.slice(1));
  } catch {
    return ""; // not an address that this page writes
  }
}

function listenToDialogs() {
  addEventListener("hashchange", openFromAddress);
  for (const dialog of [card, comparison]) {
    dialog.addEventListener("close", () => {
      const name = hashName();
      const named = dialog === card ? isName(name) : name === "compare";
      if (named) history.replaceState(null, "", location.pathname + location.search);
    });
  }
  document.addEventListener("click", ({ target }) => {
    const id = target.closest("[data-copy]")?.dataset.copy;
    if (id) copy($(id), target.closest("[data-copy]"));
  });
}

/** Copy a text; where the clipboard is refused, select it. */
async function copy(source, button) {
  let said = "Copied";
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    getSelection().selectAllChildren(source);
    said = "Selected: copy it with Ctrl+C or ⌘C";
  }
  button.dataset.said = said;
  $(source.closest("dialog") ? "card-said" : "said").textContent = said;
  setTimeout(() => delete button.dataset.said, 2000);
}
