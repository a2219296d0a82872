// How the pages talk to the server: one function for requests, one for the live feed.

const TOKEN = "flashq-token";

export const token = {
  get: () => sessionStorage.getItem(TOKEN) || "",
  set: (text) => (text ? sessionStorage.setItem(TOKEN, text) : sessionStorage.removeItem(TOKEN)),
};

/** Ask the server; the result is the whole envelope, and a refusal is an Error with its text. */
export async function ask(method, path, body) {
  const headers = {};
  if (token.get()) headers.authorization = `Bearer ${token.get()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const response = await fetch(path, {
    method, headers, body: body === undefined ? undefined : JSON.stringify(body),
  });
  const envelope = await response.json();
  if (!envelope.ok) throw new Error(envelope.error || `HTTP ${response.status}`);
  return envelope;
}

export const quoted = encodeURIComponent;

/** Follow the figures of every second, for ever: a connection that ends is made again. */
export function follow(onFigures, onLink) {
  let wait = 500;
  let socket = null;
  const open = () => {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const query = token.get() ? `?token=${quoted(token.get())}` : "";
    socket = new WebSocket(`${scheme}://${location.host}/ws/dashboard${query}`);
    const own = socket;
    socket.onopen = () => { wait = 500; onLink(true); };
    socket.onmessage = (message) => onFigures(JSON.parse(message.data));
    socket.onclose = () => {
      if (own !== socket) return;
      onLink(false);
      setTimeout(() => own === socket && open(), wait);
      wait = Math.min(2 * wait, 8000);
    };
  };
  open();
  return { again: () => { const old = socket; wait = 500; open(); old.close(); } };
}
