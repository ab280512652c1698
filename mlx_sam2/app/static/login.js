// A server that others can reach wants a token: from the address (#token=...), else from a field.
import * as api from "./api.js";
import { make } from "./dom.js";

/** Runs `request`; on "unauthorized" gives the token and tries again. */
export async function login(request) {
  let message = await useAddress();
  for (;;) {
    try {
      return await request();
    } catch (error) {
      if (error.status !== 401) throw error;
    }
    message = await give(await askToken(message));
  }
}

/** Gives a token to the server; its words if it is not the right one. */
async function give(token) {
  try {
    await api.login(token);
    return "";
  } catch (error) {
    if (error.status !== 401 && error.status !== 422) throw error;
    return error.message;
  }
}

/** Gives the token of the address, if there is one, and takes it out of there. */
async function useAddress() {
  const coded = /^#token=(.*)$/.exec(location.hash)?.[1];
  if (coded === undefined) return "";
  history.replaceState(null, "", location.pathname);
  try {
    return await give(decodeURIComponent(coded));
  } catch (error) {
    if (error instanceof URIError) return "The address holds a token that is damaged. The terminal that started the app shows it whole.";
    throw error;
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
