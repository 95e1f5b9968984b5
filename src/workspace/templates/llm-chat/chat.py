"""A page to chat with a language model behind any server that has OpenAI's API. It needs nothing but Python."""

import json
import os
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

URL = os.environ.get("LLM_URL", "http://127.0.0.1:11434/v1")
MODEL = os.environ.get("LLM_MODEL", "llama3.2")
MOST = 1 << 20  # bytes of a question, with all that was said before

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Chat</title><style>
body { font: 16px sans-serif; max-width: 45em; margin: 2em auto; padding: 0 1em }
#said p { white-space: pre-wrap; padding: .6em 1em; border-radius: .6em; background: #eee; color: #111 }
#said p.user { background: #d9e8ff } #said p.error { background: #ffdada }
form { display: flex; gap: .5em } textarea { flex: 1; font: inherit }
</style></head><body><h1>Chat</h1><div id="said" aria-live="polite"></div>
<form><textarea rows="3" aria-label="Your message" autofocus></textarea><button>Send</button></form>
<script>
const messages = [], said = document.querySelector("#said"), form = document.querySelector("form");
const box = document.querySelector("textarea"), button = document.querySelector("button");
function show(role, text) {
  const line = document.createElement("p");
  line.className = role;
  line.textContent = text;
  said.append(line);
  line.scrollIntoView();
}
box.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); form.requestSubmit(); }
});
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const content = box.value.trim();
  if (!content || button.disabled) return;
  box.value = "";
  button.disabled = true;
  messages.push({ role: "user", content });
  show("user", content);
  try {
    const headers = { "Content-Type": "application/json" };
    const answer = await (await fetch("chat", { method: "POST", headers, body: JSON.stringify({ messages }) })).json();
    if (answer.error) throw new Error(answer.error);
    messages.push(answer);
    show("assistant", answer.content);
  } catch (error) {
    messages.pop();
    box.value = content;
    show("error", error.message);
  }
  button.disabled = false;
});
</script></body></html>
"""


def ask(messages, url=None):
    """What the model says next."""
    headers = {"Content-Type": "application/json"}
    if os.environ.get("LLM_API_KEY"):
        headers["Authorization"] = "Bearer " + os.environ["LLM_API_KEY"]
    body = json.dumps({"model": MODEL, "messages": messages}).encode()
    request = urllib.request.Request((url or URL) + "/chat/completions", body, headers)
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


class Chat(BaseHTTPRequestHandler):
    def answer(self, status, kind, body):
        body = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/":
            self.answer(200, "text/html; charset=utf-8", PAGE)
        else:
            self.answer(404, "text/plain", "There's nothing here.\n")

    def do_POST(self):
        # A page elsewhere can't send this kind without being asked for, and so can't use the model.
        if self.path != "/chat" or self.headers.get_content_type() != "application/json":
            return self.answer(404, "text/plain", "There's nothing here.\n")
        try:
            length = int(self.headers.get("Content-Length", 0))
            if not 0 < length <= MOST:
                raise ValueError("the question is too long")
            said = ask(json.loads(self.rfile.read(length))["messages"])
            self.answer(200, "application/json", json.dumps({"role": "assistant", "content": said}))
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            reason = f"{MODEL} at {URL} doesn't answer: {error}"
            self.answer(502, "application/json", json.dumps({"error": reason}))


def serve(port):
    return ThreadingHTTPServer(("127.0.0.1", port), Chat)


if __name__ == "__main__":
    server = serve(int(os.environ.get("PORT", "8080")))
    print(f"http://127.0.0.1:{server.server_port}/ asks {MODEL} at {URL}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
