// The page: what is drawn when the state changes, and the theme.

let toFollow = 0; // the frame after which the rest is drawn

function render() {
  listed = select(state);
  showControls();
  drawTable(listed);
  drawTray();
  if (comparison.open) openFromAddress();
  cancelAnimationFrame(toFollow);
  toFollow = requestAnimationFrame(() => setTimeout(renderRest));
}

/** Draw what may come a frame after the table, so that the table answers first. */
function renderRest() {
  cancelAnimationFrame(toFollow);
  drawChart(listed.entries);
  $("query").textContent = pythonQuery(listed);
}

// Theme: the system's, until one is chosen; the other pages of the documentation keep theirs under the same key

const system = matchMedia("(prefers-color-scheme: dark)");
let theme = rememberedTheme();

function rememberedTheme() {
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
  readColors();
  repaint();
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

const wide = matchMedia("(min-width: 75rem)");
const unfold = () => ($("more").open = wide.matches);
wide.addEventListener("change", unfold);

// A menu closes as menus do

for (const menu of document.querySelectorAll(".menu")) {
  addEventListener("click", ({ target }) => menu.contains(target) || (menu.open = false));
  menu.addEventListener("keydown", ({ key }) => {
    if (key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.firstElementChild.focus();
  });
}

unfold();
buildControls();
listen();
listenToTable();
listenToChart();
listenToDialogs();
listenToComparison();
listenToExport();
dress();
render();
renderRest();
openFromAddress();
document.documentElement.dataset.ready = "yes";
