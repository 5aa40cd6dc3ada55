"""An OpenAI-compatible server that makes replies up, to try the chat page on.

    python3 crates/server/web/tests/mock_server.py [--port 8080]

serves the page with the headers that the real server sends, and answers
/v1/models and /v1/chat/completions. A word in the last message picks what
happens: see SCRIPTS and `fail`.
"""
import argparse
import json
import pathlib
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WEB = pathlib.Path(__file__).resolve().parents[1]
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
POLICY = (WEB / "content-security-policy.txt").read_text().strip()
MODELS = [
    {"id": "mock-8b-instruct", "object": "model", "owned_by": "mock", "meta": {"n_ctx": 8192}},
    {"id": "mock-1b-<b>bold</b>", "object": "model", "owned_by": "mock", "context_length": 2048},
]

MARKDOWN = """\
## A heading

A paragraph with **strong**, *emphasised*, ~~struck~~ and `inline code`, and a [link](https://example.com/a_b).

1. First
   - nested one
   - nested two
2. Second

- [x] done
- [ ] to do

| Format | Bits | Size |
|:-------|-----:|-----:|
| `Q4_K` | 4.5 | 98 MB |
| `Q8_0` | 8.5 | 186 MB |

> A quotation
> of two lines.

```rust
fn main() {
    println!("<b>not bold</b>");
}
```

---

The end.
"""

SHOWCASE = """\
Quantised weights are stored in **blocks**: each block keeps small integers and a scale, so that a weight is \
recovered as `scale × integer`. Larger blocks cost less memory; smaller ones follow the weights more closely.

### Which format to take

| Format | Bits per weight | Size of a 7B model |
|:-------|----------------:|-------------------:|
| `Q4_K` | 4.5 | 4.1 GB |
| `Q6_K` | 6.6 | 5.5 GB |
| `Q8_0` | 8.5 | 7.2 GB |

1. Start with **Q4_K**: it loses little and fits nearly anywhere.
2. Take **Q6_K** where memory allows.
3. **Q8_0** is as good as the original.

A block is unpacked like this:

```rust
/// The weights of one block.
fn dequantize(block: &BlockQ8_0) -> [f32; 32] {
    let scale = block.scale.to_f32();
    block.quants.map(|q| scale * f32::from(q))
}
```

> Speed follows size: a token reads every weight once.
"""

XSS = """\
<script>window.pwned = 1</script> <img src=x onerror="window.pwned = 1"> <svg onload="window.pwned = 1">

[a](javascript:window.pwned=1) [b](JaVaScRiPt:alert(1)) [c](data:text/html,<script>1</script>) [d](vbscript:x)
![e](https://example.com/tracker.png) <javascript:alert(1)> [f](&#106;avascript:alert(1)) [g](java\tscript:alert(1))
[h](https://example.com/"onmouseover="window.pwned=1) <a href="javascript:alert(1)">i</a>

```"><img src=x onerror=window.pwned=1>
</code></pre><script>window.pwned = 1</script>
```

| <img src=x onerror=window.pwned=1> | b |
|---|---|
| <iframe src="javascript:window.pwned=1"></iframe> | `<b>` |

# <style>body { display: none }</style>
"""

RTL = "مرحبا، كيف يمكنني مساعدتك اليوم؟\n\n- البند الأول\n- البند الثاني\n\nAnd a line in English.\n"


def long_text():
    """A reply of some 100,000 characters with a long list and long code."""
    items = "\n".join(f"- item {i} with **strong** and `code` in it" for i in range(600))
    code = "\n".join(f"let x{i} = {i}; // a line of code" for i in range(1500))
    return f"{items}\n\n```rust\n{code}\n```\n\nThe end of a long reply."


# What is said for a word in the last message: the text, how much of it goes
# into a chunk, and the seconds between chunks.
SCRIPTS = {
    "markdown": (MARKDOWN, 5, 0.002),
    "which format": (SHOWCASE, 4, 0.001),
    "xss": (XSS, 7, 0.001),
    "rtl": (RTL, 4, 0.001),
    "long": (None, 60, 0.0005),
    "the sea": ("The sea is wide. " * 20, 8, 0.05),
    "slow": ("A line of some words.\n" * 500, 11, 0.03),
}


class MockServer(ThreadingHTTPServer):
    """Listens on a free port of this machine unless one is named."""

    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        #: Bodies of the chat requests so far.
        self.requests = []
        #: How many streams the client has closed before their end.
        self.aborted = 0
        #: Whether /v1/models answers.
        self.has_models = True
        self.failed_once = set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        # A browser that leaves is no error.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def start(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/v1/models":
            self.models()
            return
        name = "index.html" if path == "/" else path.lstrip("/")
        file = (WEB / name).resolve()
        known = file.is_file() and (name == "index.html" or file.parent == WEB / "assets")
        if not known:
            self.error(404, "no such page")
            return
        self.whole(200, TYPES[file.suffix], file.read_bytes())

    def models(self):
        if self.server.has_models:
            self.json(200, {"object": "list", "data": MODELS})
        else:
            self.error(503, "the model is still loading")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/v1/chat/completions":
            self.error(404, "no such page")
            return
        request = json.loads(body)
        self.server.requests.append(request)
        # Of messages that were joined, since the replies failed, the last.
        said = request["messages"][-1]["content"].split("\n\n")[-1]
        if not self.fail(said):
            self.stream(request, said)

    def fail(self, said):
        """Answers with an error where the message asks for one."""
        if "locked" in said and self.headers.get("Authorization") != "Bearer secret":
            self.error(401, "missing or wrong key")
        elif "fail once" in said and said not in self.server.failed_once:
            self.server.failed_once.add(said)
            self.error(500, "a <b>worker</b> panicked")
        elif "busy" in said:
            self.error(429, "queue is full", headers={"Retry-After": "3"})
        elif "too long" in said:
            self.error(400, "9000 tokens are more than 8192", code="context_length_exceeded")
        else:
            return False
        return True

    def stream(self, request, said):
        self.send_response(200)
        self.common_headers("text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self.reply(request, said)
        except (BrokenPipeError, ConnectionResetError):
            self.server.aborted += 1
            self.close_connection = True

    def reply(self, request, said):
        if "think" in said.lower():
            self.pieces("First I **reason** about it.\n\nThen I decide.", 6, 0.02, "reasoning_content")
        word = next((word for word in SCRIPTS if word in said.lower()), None)
        text, size, pause = SCRIPTS.get(word, (None, 6, 0.01))
        if word == "long":
            text = long_text()
        elif "echo" in said:
            text = "```json\n" + json.dumps(request, indent=1, ensure_ascii=False) + "\n```"
        elif text is None:
            text = f"You said: {said}"
        if "break off" in said:
            self.pieces(text, size, pause)
            # The last chunk of the transfer never comes.
            self.close_connection = True
            return
        if "stream error" in said:
            self.pieces("So far so good", size, pause)
            self.event({"error": {"message": "the device was lost", "type": "server_error", "code": 500}})
        else:
            count = self.pieces(text, size, pause)
            self.end(request, count, "length" if "cut" in said else "stop")
        self.data("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def pieces(self, text, size, pause, field="content"):
        parts = [text[i : i + size] for i in range(0, len(text), size)]
        for part in parts:
            self.event({"choices": [{"index": 0, "delta": {field: part}, "finish_reason": None}]})
            time.sleep(pause)
        return len(parts)

    def end(self, request, count, reason):
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        prompt = sum(len(message["content"]) // 4 + 4 for message in request["messages"])
        if request.get("stream_options", {}).get("include_usage"):
            usage = {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}
            self.event({"choices": [], "usage": usage})

    def event(self, chunk):
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "mock-8b-instruct", **chunk}
        self.data(json.dumps(chunk, ensure_ascii=False))

    def data(self, text):
        line = f"data: {text}\n\n".encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        self.wfile.flush()

    def error(self, status, message, code=None, headers=None):
        self.json(status, {"error": {"message": message, "type": "error", "code": code}}, headers)

    def json(self, status, value, headers=None):
        self.whole(status, "application/json", json.dumps(value).encode(), headers)

    def whole(self, status, kind, content, headers=None):
        self.send_response(status)
        self.common_headers(kind)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def common_headers(self, kind):
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-cache")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--port", type=int, default=8080)
    server = MockServer(arguments.parse_args().port)
    print(server.url)
    server.serve_forever()


if __name__ == "__main__":
    main()
