"""Opens a page in a real browser, for tests: what it renders and what it requests from the network."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "firefox")
"""executables, in order of preference"""

WIDTHS = (390, 1280)
"""widths of a phone and of a desktop, in pixels"""

# The page under test forbids scripts, so another page of the same origin inspects it.
_INSPECTOR = """<!DOCTYPE html><link rel="icon" href="data:,"><script>
window.onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument;
    return {
      title: page.title,
      tables: page.querySelectorAll("table").length,
      rows: page.querySelectorAll("tbody tr").length,
      images: [...page.images].map(image => image.naturalWidth),
      scripts: page.scripts.length,
      handlers: [...page.querySelectorAll("*")].filter(
        tag => [...tag.attributes].some(a => a.name.startsWith("on"))).length,
      fetched: frame.contentWindow.performance.getEntriesByType("resource").map(e => e.name),
      width: page.documentElement.scrollWidth,
      text: page.body.innerText,
    };
  });
  fetch("/found", {method: "POST", body: JSON.stringify(found)});
};
</script>"""


def find_browser() -> str:
    """Returns the path of a browser; without one, skips the test, or fails it if RANKPG_NEED_BROWSER is 1."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        missing = f"no browser in PATH; looked for {', '.join(NAMES)}"
        if os.environ.get("RANKPG_NEED_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


class _Server(BaseHTTPRequestHandler):
    """Serves the page and its inspector, and records the requested paths."""

    def __init__(self, *arguments, page: bytes, requests: list[str], found: queue.Queue):
        self.page, self.requests, self.found = page, requests, found
        super().__init__(*arguments)

    def do_GET(self):
        self.requests.append(self.path)
        frames = "".join(
            f'<iframe src="/page.html" style="border: 0" width="{width}" height="900"></iframe>'
            for width in WIDTHS
        )
        body = {"/": (_INSPECTOR + frames).encode(), "/page.html": self.page}.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(body or b"")

    def do_POST(self):
        self.found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format, *args):
        pass


def open_page(page: bytes, profile: Path) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Returns what the browser renders at each of WIDTHS, the requested paths, and console messages."""
    browser, requests, found = find_browser(), [], queue.Queue()
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_Server, page=page, requests=requests, found=found)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    log = profile / "log"
    profile.mkdir()
    options = (
        ["--headless", "--no-remote", "--profile", str(profile)]
        if "firefox" in browser
        else ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
              "--enable-logging=stderr", "--no-first-run", "--window-size=1800,1000"]
    )  # fmt: skip
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [browser, *options, address], stdout=subprocess.DEVNULL, stderr=stderr
        )
        try:
            pages = found.get(timeout=240)
        except queue.Empty:
            pages = []
        finally:
            process.terminate()
            process.wait(timeout=60)
            server.shutdown()
            server.server_close()
    lines = log.read_text(errors="replace").splitlines()
    assert pages, "the browser reported nothing:\n" + "\n".join(lines[-20:])
    return pages, requests, [line for line in lines if "CONSOLE" in line]
