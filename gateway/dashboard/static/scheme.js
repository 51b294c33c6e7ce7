// Light, dark, or as the system says; kept in this browser. Runs before the page is drawn.
"use strict";

(() => {
  const KEY = "lentigo.scheme";
  const WORDS = { auto: "◐ Auto", light: "○ Light", dark: "● Dark" };
  const NEXT = { auto: "light", light: "dark", dark: "auto" };
  const root = document.documentElement;

  function kept() {
    try {
      const value = localStorage.getItem(KEY);
      return value in WORDS ? value : "auto";
    } catch {
      return "auto"; // a browser that keeps nothing
    }
  }

  function show(scheme) {
    if (scheme === "auto") root.removeAttribute("data-scheme");
    else root.dataset.scheme = scheme;
  }

  let scheme = kept();
  show(scheme);

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("scheme");
    if (!button) return;
    const label = () => {
      button.textContent = WORDS[scheme];
      button.setAttribute("aria-label", `Colour scheme: ${scheme}`);
    };
    button.hidden = false;
    label();
    button.addEventListener("click", () => {
      scheme = NEXT[scheme];
      try {
        localStorage.setItem(KEY, scheme);
      } catch {
        // It holds for this page then.
      }
      show(scheme);
      label();
    });
  });
})();
