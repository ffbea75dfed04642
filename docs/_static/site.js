// What scrolls sideways can be scrolled with the keyboard, too.
function makeFocusable() {
  for (const box of document.querySelectorAll("pre, .table-wrapper")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

addEventListener("load", makeFocusable);
addEventListener("resize", makeFocusable);
