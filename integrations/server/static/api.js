// Calls to the server that this page came from, and nowhere else. Knows nothing of what is shown.
let token = sessionStorage.getItem("hanpaca.token") || "";
let asking = null;
const hooks = { askToken: null };

// `ask(wrong)` gives a token, or "" where the user gives none.
export const onTokenNeeded = (ask) => (hooks.askToken = ask);

export class Refused extends Error {
  constructor(status, { message, code } = {}) {
    super(message || `${status}`);
    this.status = status;
    this.code = code || (status === 413 ? "too_large" : null);
  }
}

// The server does not answer at all.
export class Unreachable extends Error {}

const authorization = () => (token ? { Authorization: `Bearer ${token}` } : {});

// Several requests that find the door closed ask for the token once.
async function unlocked(tried) {
  if (tried !== token) return true;
  asking ||= hooks.askToken(Boolean(tried)).finally(() => (asking = null));
  const given = await asking;
  if (!given) return false;
  token = given;
  sessionStorage.setItem("hanpaca.token", given);
  return true;
}

export async function call(path, { method = "GET", body, signal } = {}) {
  const tried = token;
  const headers = { ...authorization(), ...(body ? { "Content-Type": "application/json" } : {}) };
  const reply = await fetch(path, { method, body: body && JSON.stringify(body), headers, signal }).catch((error) => {
    throw error.name === "AbortError" ? error : new Unreachable();
  });
  if (reply.ok) return reply;
  if (reply.status === 401 && (await unlocked(tried))) return call(path, { method, body, signal });
  throw new Refused(reply.status, (await reply.json().catch(() => ({}))).error);
}

export const json = async (path, options) => (await call(path, options)).json();

// The JSON of each server-sent event.
export async function* events(path, options) {
  const reader = (await call(path, options)).body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      held += value;
      const parts = held.split("\n\n");
      held = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").find((line) => line.startsWith("data: "))?.slice(6);
        if (data && data !== "[DONE]") yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever listens no more lets go of the connection
  }
}

// Sends one file; `tell` hears of the share that has left. fetch cannot tell that, XMLHttpRequest can.
export function upload(file, library, tell) {
  const form = new FormData();
  if (library) form.append("library", library);
  form.append("file", file);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/v1/documents");
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.onprogress = ({ loaded, total }) => tell(total ? loaded / total : 0);
    request.onerror = () => reject(new Unreachable());
    request.onload = () => {
      if (request.status < 300) resolve(request.response.data[0]);
      else reject(new Refused(request.status, request.response?.error));
    };
    request.send(form);
  });
}
