// Small helpers for elements, messages, menus and the theme.

export const byId = (id) => document.getElementById(id);

/** An element: make("button", {class: "icon", onclick: ...}, child, "text"). Keys with a dash or known ones are attributes. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export function setIcon(button, name) {
  button.querySelector("use").setAttribute("href", `#i-${name}`);
}

/** Says something to screen readers only. */
export function announce(text) {
  const live = byId("live");
  live.textContent = live.textContent === text ? `${text}.` : text; // the same words again are read again
}

/** A message in the corner. Errors stay until they are dismissed. Returns {text(words), progress(0..1), close()}. */
export function toast(text, { error = false, action = null, stay = error, key = text } = {}) {
  for (const old of byId("toasts").children) if (old.dataset.key === key) old.remove();
  const words = make("p", {}, text);
  const bar = make("progress", { max: 1, value: 0, "aria-label": text, hidden: "" });
  const element = make("div", { class: `toast${error ? " error" : ""}`, role: error ? "alert" : "status", "data-key": key }, words);
  words.append(bar);
  const close = () => element.remove();
  if (action) {
    const [label, act] = action;
    element.append(make("button", { onclick: () => { close(); act(); } }, label));
  }
  element.append(make("button", { class: "icon small", "aria-label": "Dismiss", onclick: close }, icon("close")));
  byId("toasts").append(element);
  while (byId("toasts").children.length > 4) byId("toasts").firstChild.remove();
  if (!stay) setTimeout(close, 5000);
  return {
    close,
    text: (value) => { words.firstChild.textContent = value; },
    progress: (value) => { bar.hidden = false; bar.value = value; },
  };
}

/** Opens a menu below a button: items are {label, note, act, checked}, without `act` words only, or null for a line. */
export function openMenu(button, items) {
  const menu = byId("menu");
  if (menu.matches(":popover-open")) menu.hidePopover();
  menu.setAttribute("role", "menu");
  menu.setAttribute("aria-label", button.getAttribute("aria-label") ?? button.textContent.trim());
  menu.replaceChildren(...items.map((item) => {
    if (!item) return make("hr", { role: "separator" });
    const text = make("span", {}, item.label, ...(item.note ? [make("small", {}, item.note)] : []));
    if (!item.act) return make("p", { class: "said", role: "none" }, text);
    const role = item.checked === undefined ? { role: "menuitem" } : { role: "menuitemradio", "aria-checked": String(item.checked) };
    return make("button", { ...role, tabindex: "-1", onclick: () => { menu.hidePopover(); item.act(); } }, text);
  }));
  showBelow(menu, button);
  button.setAttribute("aria-expanded", "true");
  menu.addEventListener("toggle", (event) => event.newState === "closed" && button.setAttribute("aria-expanded", "false"), { once: true });
  menu.querySelector("button").focus();
}

/** Shows a popover at a button, inside the window. */
export function showBelow(menu, button) {
  menu.showPopover();
  const at = button.getBoundingClientRect();
  const { width, height } = menu.getBoundingClientRect();
  const below = at.bottom + 6 + height <= window.innerHeight ? at.bottom + 6 : Math.max(8, at.top - height - 6);
  menu.style.left = `${Math.max(8, Math.min(at.left, window.innerWidth - width - 8))}px`;
  menu.style.top = `${below}px`;
}

/** Arrow keys, Home, End and Escape in the menu. */
export function watchMenus() {
  byId("menu").addEventListener("keydown", (event) => {
    const items = [...event.currentTarget.querySelectorAll("button")];
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1 + items.length, Home: 0, End: items.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    items[to % items.length].focus();
  });
}

/** Gives a file to the browser; what becomes of it the page is not told. */
export function handOver(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// ---- theme

const THEMES = ["auto", "light", "dark"];

export function watchTheme(changed) {
  const button = byId("theme");
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    const words = { auto: "as the system", light: "light", dark: "dark" }[theme];
    button.setAttribute("aria-label", `Appearance: ${words}`);
    button.title = `Appearance: ${words}`;
    changed();
  };
  let kept = null;
  try {
    kept = localStorage.getItem("theme");
  } catch {
    // storage is off: the theme is the system's on every visit
  }
  apply(THEMES.includes(kept) ? kept : "auto");
  button.addEventListener("click", () => {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const now = document.documentElement.dataset.theme;
    const order = dark ? ["auto", "light", "dark"] : ["auto", "dark", "light"]; // the first click always changes something
    const next = order[(order.indexOf(now) + 1) % 3];
    apply(next);
    announce(button.title);
    try {
      localStorage.setItem("theme", next);
    } catch {
      // as above
    }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}

/** The value of a colour of the theme, for canvases. */
export const themed = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
