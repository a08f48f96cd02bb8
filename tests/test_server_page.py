"""The web page: what it may do, Markdown that cannot do anything, and the page in a browser where one is installed.

The browser is Chromium, spoken to by its driver's own protocol (W3C WebDriver).
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ggufrun.server.apis.markdown import html
from ggufrun.server.apis.page_routes import FOLDER
from tests.support.poems import POEMS
from tests.support.serving import Serving, serving

TITLE = "静夜思"


@pytest.fixture(scope="module")
def server(demo_gguf: Callable[[str], Path]) -> Iterator[Serving]:
    with serving(f"poet={demo_gguf('q8_0')}", "-np", "1", "-t", "1", "--api-key", "k") as running:
        yield running


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("<script>alert(1)</script>", "<script"),
        ("<img src=x onerror=alert(1)>", "<img"),
        ("![p](http://example.com/p.png)", "<img"),
        ("![p](data:image/svg+xml;base64,AAAA)", "<img"),
        ("[a](javascript:alert(1))", "href"),
        ("[a](JaVaScript:alert(1))", "href"),
        ("[a](data:text/html,x)", "href"),
        ("[a](file:///etc/passwd)", "href"),
        ("[a](vbscript:x)", "href"),
        ("<a href='javascript:1'>x</a>", "<a"),
        ("```html\n<script>alert(1)</script>\n```", "<script"),
        ('```"><script>alert(1)</script>\nx\n```', "<script"),
        ("```x onclick=alert(1)\ny\n```", 'onclick="'),
        ("<javascript:alert(1)>", "href"),
    ],
)
def test_markdown_makes_nothing_active(text: str, without: str) -> None:
    assert without not in html(text)


def test_markdown_is_rendered() -> None:
    made = html('# 标题\n\n| a |\n|-|\n| 1 |\n\n```python\nprint("x")\n```\n[x](https://example.com) ~~no~~')
    for part in (
        "<h1>标题</h1>",
        "<td>1</td>",
        '<span class="nb">print</span>',
        'href="https://example.com"',
        "<s>no</s>",
    ):
        assert part in made
    assert 'rel="noopener noreferrer"' in made


@pytest.mark.parametrize("text", ["> " * 5000 + "x", "[" * 20_000, "*" * 20_000, "`" * 20_000 + "x", "|" * 20_000])
def test_hostile_markdown_comes_to_an_end(text: str) -> None:
    assert html(text)


def test_the_page_asks_nobody_else(server: Serving) -> None:
    page = server.ask("GET", "/", accept="text/html,*/*")
    policy = page.headers["content-security-policy"]
    assert (
        "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe-inline" not in policy.split(";")[1]
    )
    text = page.body.decode() + server.ask("GET", "/page.js").body.decode()
    assert not re.findall(r"""(?:src|href)=["']?(?!/page\.js|data:)[^"' >]+|https?://""", text)
    assert server.ask("POST", "/render", {"text": "x"}).status == 401
    assert server.ask("POST", "/render", {"text": "*x*"}, authorization="Bearer k").json == {
        "html": "<p><em>x</em></p>\n"
    }


def test_every_word_is_there_in_both_languages() -> None:
    script = (FOLDER / "page.js").read_text("utf-8")
    tables = re.findall(r"^  (en|zh): \{(.*?)^  \}", script, re.S | re.M)
    names = {language: set(re.findall(r'[,{\n] *(\w+): "', table)) for language, table in tables}
    assert names["en"] == names["zh"] and len(names["en"]) > 25
    used = set(re.findall(r'(?:say|button)\("(\w+)"', script)) | set(
        re.findall(r'data-say="(\w+)"', (FOLDER / "index.html").read_text("utf-8"))
    )
    assert used <= names["en"]


# --- in a browser -----------------------------------------------------------------------------------------------------


class Browser:
    """A headless Chromium."""

    def __init__(self, folder: Path) -> None:
        driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
        if driver is None or chromium is None:
            pytest.skip("no Chromium and driver here")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._base = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--lang=en-US"]
        options = {"binary": chromium, "args": flags}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        deadline = time.monotonic() + 60
        while True:
            try:
                self._session = f"/session/{self._call('POST', '/session', wanted)['sessionId']}"
                return
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def go(self, url: str) -> None:
        self._call("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def type(self, selector: str, text: str) -> None:
        found = self._call("POST", f"{self._session}/element", {"using": "css selector", "value": selector})
        self._call("POST", f"{self._session}/element/{next(iter(found.values()))}/value", {"text": text})

    def size(self, width: int, height: int) -> None:
        self._call("POST", f"{self._session}/window/rect", {"width": width, "height": height})

    def picture(self, path: Path) -> None:
        import base64

        path.write_bytes(base64.b64decode(self._call("GET", f"{self._session}/screenshot")))

    def until(self, script: str, *arguments: Any) -> Any:
        deadline = time.monotonic() + 60
        while not (found := self.run(f"return {script}", *arguments)):
            assert time.monotonic() < deadline, script
            time.sleep(0.1)
        return found

    def close(self) -> None:
        try:
            self._call("DELETE", self._session)
        finally:
            self.process.terminate()
            self.process.wait(20)


ENTER = "\ue007"


def test_the_page_in_a_browser(server: Serving, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    browser = Browser(tmp_path / "profile")
    try:
        browser.go(server.url)
        # it asks for the key
        browser.until("document.querySelector('#options').open")
        browser.run("document.querySelector('#key').value = 'k'; document.querySelector('#temperature').value = '0'")
        browser.run("document.querySelector('#options').close()")
        browser.until("document.querySelector('#model').value === 'poet'")
        browser.run("document.querySelectorAll('.problem').forEach((one) => one.remove())")
        browser.type("#text", TITLE + ENTER)
        lines = POEMS[TITLE].split("\n")
        last = "[...document.querySelectorAll('.said.assistant .body')].at(-1)?.innerText"
        done = "document.querySelector('#stop').hidden"
        browser.until(f"{done} && {last}?.includes(arguments[0])", lines[-1])
        assert browser.run(f"return {last}").split() == POEMS[TITLE].split()
        browser.until("document.querySelector('.said.assistant .body p') !== null")
        browser.picture(tmp_path / "light.png")
        # again, edited, dark, Chinese, on a telephone
        browser.run("[...document.querySelectorAll('.said.assistant .foot button')].at(0).click()")
        browser.until(f"{done} && {last}?.includes(arguments[0])", lines[-1])
        assert browser.run("return document.querySelectorAll('.said').length") == 2
        browser.run("document.querySelector('.said.user .foot button').click()")
        browser.run("document.querySelector('.said.user textarea').value = '登鹳雀楼'")
        browser.run("document.querySelector('.said.user button').click()")
        browser.until(f"{done} && {last}?.includes(arguments[0])", POEMS["登鹳雀楼"].split("\n")[-1])
        browser.run("document.querySelector('#look').click(); document.querySelector('#language').click()")
        assert browser.run("return document.querySelector('#send').innerText") == "发送"
        assert browser.run("return document.documentElement.dataset.look") == "dark"
        browser.size(400, 780)
        browser.until("document.querySelector('#side').getBoundingClientRect().right <= 0")
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth"), "wider than a telephone"
        browser.picture(tmp_path / "phone.png")
        # kept over a new visit; a second conversation; exported and imported
        browser.go(server.url)
        browser.until("document.querySelectorAll('.said').length === 2")
        browser.run("document.querySelector('#new').click()")
        assert browser.run("return document.querySelectorAll('#talks li').length") == 2
        browser.run("upload(new File([JSON.stringify({conversations: stored.talks})], 'x.json'))")
        browser.until("document.querySelectorAll('#talks li').length === 4")
        # what is stored by others makes nothing active
        bad = {
            "conversations": [
                {"title": "<img src=x onerror=hit=1>", "messages": [{"role": "user", "text": "<b>x</b>"}]}
            ]
        }
        browser.run("upload(new File([arguments[0]], 'x.json'))", json.dumps(bad))
        browser.until("document.querySelectorAll('#talks li').length === 5")
        assert browser.run("return document.querySelector('#talks img, .said b')") is None
        # stop
        browser.run("stored.numbers.max_tokens = null; document.querySelector('#new').click()")
        browser.type("#text", "x" + ENTER)
        browser.until(f"{done}")
    finally:
        browser.close()
