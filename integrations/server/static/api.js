// Calls to the server that this page came from, and nowhere else. Knows nothing of what is shown.
let token = sessionStorage.getItem("hanpaca.token") || "";
let asking = null;
const hooks = { askToken: null };
const MOST_TRIES = 6; // times that one request is sent while the server says that there are too many
const LONGEST_PAUSE = 30; // seconds between two of them

// `ask(wrong)` gives a token.
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

// What the network does not bring is a server that does not answer.
const reached = (work) => work.catch((error) => {
  throw error.name === "AbortError" ? error : new Unreachable();
});

// Several requests that find the door closed ask for the token once.
async function unlock(tried) {
  if (tried !== token) return;
  asking ||= hooks.askToken(Boolean(tried)).finally(() => (asking = null));
  token = await asking;
  sessionStorage.setItem("hanpaca.token", token);
}

// Waits as long as the server says, if that is not too long.
function pause(reply, signal) {
  const seconds = Math.min(LONGEST_PAUSE, Number(reply.headers.get("Retry-After") ?? 1));
  return new Promise((resolve, reject) => {
    setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => reject(signal.reason));
  });
}

// The reply to what `send` sends: again with a token where the server asks for one, later where there was too much.
async function accepted(send, signal) {
  for (let tries = 1; ; tries += 1) {
    const tried = token;
    const reply = await reached(send());
    if (reply.ok) return reply;
    if (reply.status === 401) await unlock(tried);
    else if (reply.status === 429 && tries < MOST_TRIES) await pause(reply, signal);
    else throw new Refused(reply.status, (await reply.json().catch(() => ({}))).error);
  }
}

export function call(path, { method = "GET", body, signal } = {}) {
  const kind = body ? { "Content-Type": "application/json" } : {};
  const send = () => fetch(path, { method, body: body && JSON.stringify(body), headers: { ...authorization(), ...kind }, signal });
  return accepted(send, signal);
}

export const json = async (path, options) => reached((await call(path, options)).json());

// The JSON of each server-sent event. A stream that ends before its `last` word has broken off.
export async function* events(path, { last, ...options } = {}) {
  const reader = (await call(path, options)).body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reached(reader.read());
      if (done && last) throw new Unreachable();
      if (done) return;
      held += value;
      const parts = held.split("\n\n");
      held = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").find((line) => line.startsWith("data: "))?.slice(6);
        if (!data) continue;
        if (data === last) return;
        yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever listens no more lets go of the connection
  }
}

// Sends one file; `tell` hears of the share that has left.
export async function upload(file, library, tell) {
  const form = new FormData();
  if (library) form.append("library", library);
  form.append("file", file);
  return (await (await accepted(() => sent(form, tell))).json()).data[0];
}

// fetch cannot tell how much has left, XMLHttpRequest can.
function sent(form, tell) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "/v1/documents");
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.upload.onprogress = ({ loaded, total }) => tell(total ? loaded / total : 0);
    request.onerror = reject;
    request.onload = () => {
      const wait = request.getResponseHeader("Retry-After");
      resolve(new Response(request.responseText, { status: request.status, headers: wait ? { "Retry-After": wait } : {} }));
    };
    request.send(form);
  });
}
