// What the keyboard and small windows need beyond the page itself: the present page's name is in
// sight in the bar, and what is wider than its place can be scrolled by the arrow keys.
"use strict";

(() => {
  const FOCUSABLE = "a[href], button, input, select, textarea, summary, [tabindex]";

  function nameOf(place) {
    const caption = place.querySelector("caption");
    if (caption) return caption.textContent;
    const section = place.closest("section, article");
    const heading = section && section.querySelector("h2, h3");
    return heading ? heading.textContent : document.title;
  }

  function reach() {
    for (const place of document.querySelectorAll(".scroll, pre")) {
      const isWider = place.scrollWidth > place.clientWidth;
      if (isWider && !place.querySelector(FOCUSABLE)) {
        place.tabIndex = 0;
        place.setAttribute("role", "group");
        place.setAttribute("aria-label", nameOf(place));
      } else if (place.tabIndex === 0 && !isWider) {
        for (const name of ["tabindex", "role", "aria-label"]) place.removeAttribute(name);
      }
    }
  }

  function show() {
    const here = document.querySelector(".places [aria-current]");
    const bar = here && here.parentElement;
    if (!bar) return;
    bar.scrollLeft = here.offsetLeft - bar.offsetLeft - (bar.clientWidth - here.offsetWidth) / 2;
  }

  const changes = new MutationObserver(reach);
  for (const region of document.querySelectorAll("[data-region]")) {
    changes.observe(region, { childList: true });
  }
  function settle() {
    show();
    reach();
  }

  addEventListener("resize", settle);
  addEventListener("load", settle);
  show();
})();
