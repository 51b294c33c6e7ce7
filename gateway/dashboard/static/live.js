// Keeps a page up to date: an event stream says that something changed, the page fetches itself
// again and swaps the regions that differ. Without a stream it asks every few seconds. A hidden tab
// neither listens nor asks.
"use strict";

(() => {
  const body = document.body;
  const study = body.dataset.study || "";
  const query = study ? `?study=${encodeURIComponent(study)}` : "";
  const indicator = document.getElementById("live");
  const PAUSE_MS = 1500; // between two fetches of the page, however much happens
  const ASK_MS = 4000;
  const STREAM_FAILURES = 3;

  let skewMs = Date.now() - Date.parse(body.dataset.now);
  let mark = body.dataset.mark;
  let source = null;
  let asking = 0;
  let failures = 0;
  let fetching = false;
  let again = false;

  const regions = () => document.querySelectorAll("[data-region]");
  // What the server sent last; the clock below changes what is shown.
  const sent = new Map([...regions()].map((region) => [region.id, region.innerHTML]));

  function say(state, text) {
    indicator.className = `live live-${state}`;
    if (indicator.textContent !== text) indicator.textContent = text;
  }

  // -- ages and countdowns ----------------------------------------------------------------------

  function words(seconds) {
    let left = Math.max(0, Math.floor(seconds));
    const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
    for (let i = 0; i < units.length; i += 1) {
      const [size, unit] = units[i];
      if (left >= size) {
        const whole = Math.floor(left / size);
        left %= size;
        if (i + 1 === units.length) return `${whole} ${unit}`;
        const smaller = Math.floor(left / units[i + 1][0]);
        return smaller ? `${whole} ${unit} ${smaller} ${units[i + 1][1]}` : `${whole} ${unit}`;
      }
    }
    return "0 s";
  }

  function set(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function tick() {
    if (document.hidden) return;
    const now = Date.now() - skewMs;
    for (const element of document.querySelectorAll("time[data-age]")) {
      set(element, words((now - Date.parse(element.dateTime)) / 1000));
    }
    for (const element of document.querySelectorAll("[data-until]")) {
      const left = (Date.parse(element.dataset.until) - now) / 1000;
      set(element, left > 0 ? `${element.dataset.before} ${words(left + 1)}` : element.dataset.after);
    }
  }

  // -- the page itself --------------------------------------------------------------------------

  // What somebody is choosing or writing must not be taken away.
  function isInUse(region) {
    const fields = [...region.querySelectorAll("input, select, textarea")];
    return fields.some((field) => {
      if (field === document.activeElement) return true;
      if (field.type === "checkbox" || field.type === "radio") {
        return field.checked !== field.defaultChecked;
      }
      if (field.options) {
        const offered = [...field.options];
        const atFirst = offered.findLast((option) => option.defaultSelected) || offered[0];
        return !field.multiple && offered[field.selectedIndex] !== atFirst;
      }
      return field.type !== "hidden" && field.value !== field.defaultValue;
    });
  }

  function swap(next) {
    const focused = document.activeElement && document.activeElement.id;
    for (const region of regions()) {
      const fresh = next.getElementById(region.id);
      if (!fresh || fresh.innerHTML === sent.get(region.id)) continue;
      if (isInUse(region)) continue;
      sent.set(region.id, fresh.innerHTML);
      region.innerHTML = fresh.innerHTML;
    }
    document.title = next.title;
    mark = next.body.dataset.mark;
    if (next.querySelector("[data-pending]")) again = true; // figures that are still being read
    skewMs = Date.now() - Date.parse(next.body.dataset.now);
    if (focused && document.activeElement === body) {
      const element = document.getElementById(focused);
      if (element) element.focus({ preventScroll: true });
    }
    tick();
  }

  async function refresh() {
    if (fetching) {
      again = true;
      return;
    }
    fetching = true;
    try {
      const answer = await fetch(location.href, { credentials: "same-origin" });
      if (answer.redirected && new URL(answer.url).pathname !== location.pathname) {
        location.reload(); // logged out meanwhile
        return;
      }
      if (answer.ok) {
        swap(new DOMParser().parseFromString(await answer.text(), "text/html"));
      }
    } catch {
      say("off", "no connection");
    } finally {
      setTimeout(() => {
        fetching = false;
        if (again && !document.hidden) {
          again = false;
          refresh();
        }
      }, PAUSE_MS);
    }
  }

  function heard(newMark) {
    if (newMark !== mark) refresh();
  }

  // -- stream, or questions ---------------------------------------------------------------------

  async function ask() {
    try {
      const answer = await fetch(`/api/mark${query}`, { credentials: "same-origin" });
      if (answer.status === 401) location.reload();
      if (!answer.ok) throw new Error("no answer");
      heard((await answer.json()).mark);
      say("ask", "checked every 4 s");
    } catch {
      say("off", "no connection");
    }
  }

  function stop() {
    if (source) source.close();
    source = null;
    clearInterval(asking);
    asking = 0;
  }

  function listen() {
    source = new EventSource(`/live${query}`);
    source.addEventListener("mark", (message) => {
      failures = 0;
      say("on", "live");
      heard(message.data);
    });
    source.addEventListener("error", () => {
      failures += 1;
      say("off", "no connection");
      const isOver = source.readyState === EventSource.CLOSED;
      if (isOver || failures >= STREAM_FAILURES) {
        stop();
        ask();
        asking = setInterval(ask, ASK_MS);
      }
    });
  }

  function start() {
    stop();
    if (document.hidden) {
      say("paused", "paused");
      return;
    }
    if (failures < STREAM_FAILURES && "EventSource" in window) {
      listen();
    } else {
      ask();
      asking = setInterval(ask, ASK_MS);
    }
    tick();
  }

  document.addEventListener("visibilitychange", () => {
    failures = 0;
    start();
  });
  document.addEventListener("keydown", (event) => {
    const search = document.getElementById("find");
    const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
    if (event.key === "/" && search && !isTyping && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      search.focus();
      search.select();
    }
  });
  addEventListener("pagehide", stop);
  addEventListener("pageshow", (event) => {
    if (event.persisted) start();
  });
  setInterval(tick, 1000);
  start();
})();
