import json
import threading
import unittest
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import chat


class Model(BaseHTTPRequestHandler):
    """Says again what it's told."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = asked["messages"][-1]["content"]
        body = json.dumps({"choices": [{"message": {"content": f"{asked['model']}: {said}"}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class ChatTest(unittest.TestCase):
    def start(self, server):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return f"http://127.0.0.1:{server.server_port}"

    def setUp(self):
        chat.Chat.log_message = lambda *_: None
        chat.URL = self.start(ThreadingHTTPServer(("127.0.0.1", 0), Model)) + "/v1"
        self.page = self.start(chat.serve(0))

    def post(self, kind="application/json"):
        body = json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode()
        request = urllib.request.Request(self.page + "/chat", body, {"Content-Type": kind})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def test_the_page_is_there(self):
        with urllib.request.urlopen(self.page + "/", timeout=10) as answer:
            self.assertIn(b"<title>Chat</title>", answer.read())

    def test_the_model_answers(self):
        self.assertEqual(self.post(), {"role": "assistant", "content": f"{chat.MODEL}: hello"})

    def test_other_pages_cannot_ask(self):
        with self.assertRaises(urllib.error.HTTPError) as refused:
            self.post("text/plain")
        self.assertEqual(refused.exception.code, 404)

    def test_a_model_that_is_away_is_said(self):
        chat.URL = "http://127.0.0.1:9/v1"
        with self.assertRaises(urllib.error.HTTPError) as failed:
            self.post()
        self.assertEqual(failed.exception.code, 502)
        self.assertIn("doesn't answer", json.load(failed.exception)["error"])


if __name__ == "__main__":
    unittest.main()
