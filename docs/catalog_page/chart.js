// The chart: two values of the entries that pass against each other, and the Pareto front: those that no other beats in
// both.

const canvas = $("scatter");
const REACH = 14; // pixels around a point that the pointer hits
const MARGIN = { left: 52, right: 14, top: 10, bottom: 40 };
const LINEAR = new Set(["top1"]);

let dots = []; // what is drawn: { found, x, y }
let front = []; // the dots of the Pareto front, from left to right
let highlighted = null;
let colors = {};

const axisTitle = (key) => (key === "throughput" ? `Images/s on ${DEVICES[state.device]}` : COLUMNS[key].title);

/** A scale from values to pixels, with its ticks. */
function scaleOf(key, values, from, to) {
  const linear = LINEAR.has(key);
  const form = linear ? (value) => value : Math.log;
  let [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [1, 10];
  const room = linear ? Math.max(0.5, (high - low) * 0.04) : 1.15;
  [low, high] = linear ? [low - room, high + room] : [low / room, high * room];
  const place = (value) => from + ((form(value) - form(low)) / (form(high) - form(low))) * (to - from);
  const ticks = (linear ? linearTicks : logTicks)(low, high);
  return { place, ticks, show: linear ? (value) => `${Number(value.toFixed(1))} %` : human };
}

function linearTicks(low, high) {
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20].find((step) => (high - low) / step <= 7) ?? 50;
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step);
}

function logTicks(low, high) {
  const leading = high / low < 1000 ? [1, 2, 5] : [1];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    ticks.push(...leading.map((digit) => digit * 10 ** power));
  }
  return ticks.filter((tick) => low <= tick && tick <= high);
}

/** Points that no other beats in both values, from the best horizontal value on. */
function paretoFront(points, x, y) {
  const sign = (key) => (COLUMNS[key].best === "high" ? -1 : 1);
  const [signX, signY] = [sign(x), sign(y)];
  const ordered = [...points].sort((a, b) => signX * (a.valueX - b.valueX) || signY * (a.valueY - b.valueY));
  let best = Infinity;
  let last = null;
  return ordered.filter((point) => {
    const value = signY * point.valueY;
    const equal = last !== null && point.valueX === last.valueX && point.valueY === last.valueY;
    if (!equal && value >= best) return false;
    best = value;
    last = point;
    return true;
  });
}

let chartEntries = [];
let repaint = () => {};
let chartSize = null; // as it is observed: to read it would lay out the page

function drawChart(entries = chartEntries) {
  chartEntries = entries;
  const { x, y } = state;
  const points = entries
    .map((found) => ({ found, valueX: COLUMNS[x].value(found), valueY: COLUMNS[y].value(found) }))
    .filter((point) => point.valueX !== null && point.valueY !== null);
  const { width, height } = (chartSize ??= sizeOf(canvas.parentElement));
  const scaleX = scaleOf(x, points.map((point) => point.valueX), MARGIN.left, width - MARGIN.right);
  const scaleY = scaleOf(y, points.map((point) => point.valueY), height - MARGIN.bottom, MARGIN.top);
  dots = points.map((point) => ({ ...point, x: scaleX.place(point.valueX), y: scaleY.place(point.valueY) }));
  front = paretoFront(dots, x, y).sort((a, b) => a.x - b.x || a.y - b.y);
  repaint = () => paint(width, height, scaleX, scaleY);
  highlighted = null;
  $("tip").hidden = true;
  repaint();
  describeChart(entries.length);
}

function paint(width, height, scaleX, scaleY) {
  const density = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * density) || canvas.height !== Math.round(height * density)) {
    canvas.width = Math.round(width * density);
    canvas.height = Math.round(height * density);
  }
  const draw = canvas.getContext("2d");
  draw.setTransform(density, 0, 0, density, 0, 0);
  draw.clearRect(0, 0, width, height);
  draw.font = `12px ${colors.font}`;
  paintAxes(draw, width, height, scaleX, scaleY);
  const radius = width < 500 ? 2.6 : 3.6;
  paintDots(draw, dots.filter(({ found }) => !found.row.fixed_size), colors.any, circle(radius));
  paintDots(draw, dots.filter(({ found }) => found.row.fixed_size), colors.one, triangle(radius + 1));
  paintFront(draw, width, height, radius);
  if (highlighted) {
    draw.strokeStyle = colors.ink;
    draw.lineWidth = 2;
    draw.beginPath();
    draw.arc(highlighted.x, highlighted.y, radius + 4, 0, 7);
    draw.stroke();
  }
}

function paintAxes(draw, width, height, scaleX, scaleY) {
  const bottom = height - MARGIN.bottom;
  draw.strokeStyle = colors.line;
  draw.fillStyle = colors.quiet;
  draw.lineWidth = 1;
  draw.beginPath();
  draw.textAlign = "center";
  draw.textBaseline = "top";
  let free = 0;
  for (const tick of scaleX.ticks) {
    const at = Math.round(scaleX.place(tick)) + 0.5;
    draw.moveTo(at, MARGIN.top);
    draw.lineTo(at, bottom);
    const label = scaleX.show(tick);
    const half = draw.measureText(label).width / 2;
    if (at - half < free || at + half > width) continue;
    draw.fillText(label, at, bottom + 5);
    free = at + half + 8;
  }
  draw.textAlign = "right";
  draw.textBaseline = "middle";
  for (const tick of scaleY.ticks) {
    const at = Math.round(scaleY.place(tick)) + 0.5;
    draw.moveTo(MARGIN.left, at);
    draw.lineTo(width - MARGIN.right, at);
    draw.fillText(scaleY.show(tick), MARGIN.left - 6, at);
  }
  draw.stroke();
  draw.textAlign = "center";
  draw.textBaseline = "bottom";
  draw.fillText(axisTitle(state.x), (MARGIN.left + width) / 2, height - 2);
}

const circle = (radius) => (path, { x, y }) => {
  path.moveTo(x + radius, y);
  path.arc(x, y, radius, 0, 7);
};
const triangle = (radius) => (path, { x, y }) => {
  path.moveTo(x, y - radius);
  path.lineTo(x + radius, y + radius * 0.8);
  path.lineTo(x - radius, y + radius * 0.8);
  path.closePath();
};

/** Draw all dots of a kind at once: one fill and one stroke. */
function paintDots(draw, some, color, shape) {
  const path = new Path2D();
  for (const dot of some) shape(path, dot);
  draw.fillStyle = draw.strokeStyle = color;
  draw.lineWidth = 1;
  draw.globalAlpha = 0.3;
  draw.fill(path);
  draw.globalAlpha = 0.85;
  draw.stroke(path);
  draw.globalAlpha = 1;
}

/** Draw the Pareto front as a line, and the names of as many of its points as there is room for. */
function paintFront(draw, width, height, radius) {
  if (!front.length) return;
  draw.strokeStyle = draw.fillStyle = colors.front;
  draw.lineWidth = 1.5;
  draw.beginPath();
  front.forEach(({ x, y }, i) => (i ? draw.lineTo(x, y) : draw.moveTo(x, y)));
  draw.stroke();
  for (const { x, y } of front) {
    draw.beginPath();
    draw.arc(x, y, radius + 0.8, 0, 7);
    draw.fill();
  }
  draw.font = `11px ${colors.font}`;
  draw.textBaseline = "middle";
  draw.textAlign = "left";
  const taken = [];
  for (const { x, y, found } of front) {
    const { width: wide } = draw.measureText(found.name);
    const left = x + 8 + wide < width ? x + 8 : x - 8 - wide;
    const box = { left, right: left + wide, top: y - 7, bottom: y + 7 };
    const free = taken.every(
      (other) =>
        box.right < other.left || other.right < box.left || box.bottom < other.top || other.bottom < box.top,
    );
    if (!free || left < MARGIN.left || y - 7 < 0 || y + 7 > height - MARGIN.bottom) continue;
    taken.push(box);
    draw.lineWidth = 3;
    draw.strokeStyle = colors.panel;
    draw.strokeText(found.name, left, y);
    draw.fillStyle = colors.ink;
    draw.fillText(found.name, left, y);
  }
}

function describeChart(count) {
  const title = `${COLUMNS[state.y].title} against ${axisTitle(state.x)}`;
  const missing = count - dots.length;
  const hint = missing ? `${digits(missing)} of ${digits(count)} have no such figures, and are not shown.` : "";
  const logs = unique([state.x, state.y]).filter((key) => !LINEAR.has(key)).map((key) => COLUMNS[key].title);
  $("chart-title").textContent = title;
  $("chart-hint").textContent = `${hint} Logarithmic: ${logs.join(", ") || "none"}. Choose a point to open its card.`.trim();
  canvas.setAttribute("aria-label", `Scatter of ${title}: ${digits(dots.length)} backbones. The table has the same data.`);
  const better = (key) => `${COLUMNS[key].best === "high" ? "higher" : "lower"} ${COLUMNS[key].title}`;
  $("front-hint").textContent = front.length
    ? `No other is better in both: ${better(state.y)} and ${better(state.x)}.`
    : "No backbone here has both figures.";
  const both = ({ found }) => [state.y, state.x].map((key) => COLUMNS[key].show(COLUMNS[key].value(found))).join(", ");
  const items = front.map(
    (dot) => `<li><a href="#${encodeURI(dot.found.name)}">${breakable(dot.found.name)}</a> <span>${both(dot)}</span></li>`,
  );
  redraw($("front"), items.join(""));
}

/** Mark an entry in the chart, as the pointer or the focus is on its row. */
function highlight(found) {
  const dot = (found && dots.find((each) => each.found === found)) ?? null;
  showTip(dot);
}

function showTip(dot) {
  if (dot === highlighted) return;
  highlighted = dot;
  repaint();
  const tip = $("tip");
  tip.hidden = !dot;
  canvas.style.cursor = dot ? "pointer" : "";
  if (!dot) return;
  const values = [state.y, state.x].map((key) => `${COLUMNS[key].title} ${COLUMNS[key].show(COLUMNS[key].value(dot.found))}`);
  tip.innerHTML = `<b>${breakable(dot.found.name)}</b><br>${values.join("<br>")}`;
  const { clientWidth: width, clientHeight: height } = canvas.parentElement;
  tip.style.left = `${Math.max(0, Math.min(dot.x + 10, width - tip.offsetWidth))}px`;
  tip.style.top = `${Math.max(0, dot.y + 10 + tip.offsetHeight > height ? dot.y - 10 - tip.offsetHeight : dot.y + 10)}px`;
}

const sizeOf = (element) => ({ width: element.clientWidth, height: element.clientHeight });

/** The dot nearest to a place of the page, if it is near enough. */
function dotAt({ clientX, clientY }) {
  const { left, top } = canvas.getBoundingClientRect();
  const distance = (dot) => Math.hypot(dot.x - (clientX - left), dot.y - (clientY - top));
  const nearest = dots.reduce((best, dot) => (best && distance(best) <= distance(dot) ? best : dot), null);
  return nearest && distance(nearest) <= REACH ? nearest : null;
}

function readColors() {
  const resolved = (name) => {
    canvas.style.color = `var(--${name})`;
    return getComputedStyle(canvas).color;
  };
  colors = Object.fromEntries(["ink", "quiet", "line", "panel", "any", "one", "front"].map((name) => [name, resolved(name)]));
  canvas.style.color = "";
  colors.font = getComputedStyle(document.body).fontFamily;
}

function listenToChart() {
  for (const key of ["x", "y"]) $(key).append(...AXES.map((axis) => option(axis, COLUMNS[axis].title)));
  canvas.addEventListener("mousemove", (event) => showTip(dotAt(event)));
  canvas.addEventListener("mouseleave", () => showTip(null));
  canvas.addEventListener("click", (event) => {
    const dot = dotAt(event);
    if (dot) location.hash = encodeURI(dot.found.name);
  });
  new ResizeObserver(() => {
    const size = sizeOf(canvas.parentElement);
    if (size.width === chartSize?.width && size.height === chartSize?.height) return;
    chartSize = size;
    drawChart();
  }).observe(canvas.parentElement);
}
