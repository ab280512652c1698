// A server that others can reach wants a token: from the address (#token=...), else from a field.
import * as api from "./api.js";
import { make } from "./dom.js";

/** Runs `request`; on "unauthorized" gives the token and tries again. */
export async function login(request) {
  const given = /^#token=(.+)$/.exec(location.hash)?.[1];
  if (given) {
    history.replaceState(null, "", location.pathname);
    await api.login(decodeURIComponent(given));
  }
  for (let message = ""; ;) {
    try {
      return await request();
    } catch (error) {
      if (error.status !== 401) throw error;
    }
    try {
      await api.login(await askToken(message));
    } catch (error) {
      if (error.status !== 401 && error.status !== 422) throw error;
      message = error.message;
    }
  }
}

function askToken(message) {
  return new Promise((resolve) => {
    const field = make("input", { type: "password", id: "token", autocomplete: "off", required: "", maxlength: "200" });
    const form = make("form", { method: "dialog", class: "sheet" }, make("h2", { id: "token-title" }, "Token"),
      make("p", {}, message || "The terminal that started the app shows it."),
      make("label", { class: "field", for: "token" }, "Token of this server"), field, make("button", { class: "primary big" }, "Continue"));
    const dialog = make("dialog", { "aria-labelledby": "token-title" }, form);
    document.body.append(dialog);
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(field.value);
    });
    dialog.showModal();
  });
}
