"""The search page: in a browser, by HTTP, under load, and asked for what it must not give."""

import concurrent.futures
import csv
import importlib
import io
import json
import os
import shutil
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from perception_search import Collection, Hit

pytest.importorskip("gradio")
uvicorn = pytest.importorskip("uvicorn")

sys.path.insert(0, str(Path(__file__).parent.parent))
CHROMIUM = Path("/usr/bin/chromium")
QUERY = "a dog"
SAMPLES = (
    "imagenet_16_dalmatian.jpg",
    "imagenet_00_bullmastiff.jpg",
    "lion.jpg",
    "rocket.jpg",
    "coffee.png",
    "bikes.mp4",
    "bigbuckbunny.mp4",
)
SECRET = "the content of a file that is nobody's business"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Some of the demo's media, a picture of nothing in a folder of its own, and a secret."""
    from perception_search.assets import sample_media

    folder = tmp_path_factory.mktemp("app")
    media = folder / "media"
    (media / 'it\'s "mine"').mkdir(parents=True)
    every = {path.name: path for path in sample_media().rglob("*")}
    for name in SAMPLES:
        found = next((path for other, path in every.items() if other.endswith(name)), None)
        if found is not None:
            (media / name).write_bytes(found.read_bytes())
    Image.new("RGB", (64, 48), (9, 99, 9)).save(media / 'it\'s "mine"' / "green.png")
    (folder / "secret.txt").write_text(SECRET)
    Collection.create(folder / "demo.ps", model="starter").ingest(media)
    return folder


@pytest.fixture(scope="module")
def modules():
    return importlib.import_module("apps.search_app"), importlib.import_module("apps.asked")


class Server:
    """The page at a port of its own, in a thread of this process."""

    def __init__(self, search_app, folder, token=None, second_look=None):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        hosts = frozenset({f"127.0.0.1:{self.port}"}) if token is None else frozenset()
        collection = Collection.open(folder / "demo.ps")
        app = search_app.make_app(collection, hosts=hosts, token=token, second_look=second_look)
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.05)

    def close(self):
        self._server.should_exit = True
        self._thread.join(20)

    def ask(self, path, *, method="GET", body=None, **headers):
        """(status, headers, content); what goes wrong on the way counts as refused."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.address + path, body, named, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()
        except (OSError, ValueError, urllib.error.URLError):
            return 0, {}, b""

    def raw(self, first_line, *headers):
        """The answer to a request whose path nothing has tidied."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            lines = [first_line, *headers, "Connection: close", "", ""]
            connection.sendall("\r\n".join(lines).encode("latin-1"))
            answer = b""
            while part := connection.recv(65536):
                answer += part
        return answer


@pytest.fixture(scope="module")
def server(folder, modules):
    server = Server(modules[0], folder)
    yield server
    server.close()


def hash_of(folder, name):
    items = Collection.open(folder / "demo.ps").items(f"name = '{name}'")
    return items["content_hash"].iloc[0]


# By HTTP


def test_pictures_and_videos_come_by_content_hash_and_in_ranges(server, folder):
    picture, video = hash_of(folder, "lion.jpg"), hash_of(folder, "bikes.mp4")
    status, headers, content = server.ask(f"/thumb/{picture}")
    assert (status, headers["content-type"]) == (200, "image/jpeg")
    assert content[:2] == b"\xff\xd8"
    assert max(Image.open(io.BytesIO(content)).size) <= 480
    kept = list((folder / "demo.ps" / "thumbnails").glob("*.jpg"))
    assert len(kept) == 1
    assert server.ask(f"/thumb/{picture}")[2] == content
    assert server.ask(f"/thumb/{video}?t=1.5")[0] == 200
    whole = (folder / "media" / "bikes.mp4").read_bytes()
    status, headers, content = server.ask(f"/media/{video}", Range="bytes=100-199")
    assert (status, content) == (206, whole[100:200])
    assert headers["content-range"] == f"bytes 100-199/{len(whole)}"
    assert headers["content-type"] == "video/mp4"
    assert server.ask(f"/media/{video}")[2] == whole


def test_the_moments_of_a_video_are_those_of_a_search(server, folder):
    video = hash_of(folder, "bikes.mp4")
    found = json.loads(server.ask(f"/moments/{video}?q=people+riding+bicycles")[2])
    hits = Collection.open(folder / "demo.ps").search(
        "people riding bicycles", moments=True, where="name = 'bikes.mp4'", k=20
    )
    assert found == [[round(h.start_seconds, 2), round(h.end_seconds, 2)] for h in hits]
    assert found
    assert server.ask(f"/moments/{video}?q=dog&k=none")[0] == 400


def test_what_is_found_can_be_taken_away(server, folder):
    status, _, content = server.ask("/export/hits.json?q=a+dog&k=3")
    assert status == 200
    said = json.loads(content)
    assert said["asked"] == "?q=a+dog&k=3"
    expected = Collection.open(folder / "demo.ps").search(QUERY, k=3)
    assert [hit["path"] for hit in said["hits"]] == [str(hit.path) for hit in expected]
    rows = server.ask("/export/hits.csv?q=a+dog&k=3")[2].decode().splitlines()
    assert len(rows) == 4
    files = server.ask("/export/files.txt?q=a+dog&k=3")[2].decode().split()
    assert files == [str(hit.path) for hit in expected]
    assert b"<img" in server.ask("/export/sheet.html?q=a+dog&k=3")[2]


def test_a_caption_is_no_formula_in_a_spreadsheet(modules):
    for text in ("=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"):
        hit = Hit(1, Path("/a.jpg"), "image", -0.5, caption=text)
        content, _ = importlib.import_module("apps.routes")._as_csv(None, None, [(hit, None)])
        [row] = csv.DictReader(io.StringIO(content.decode(), newline=""))
        assert row["caption"] == f"'{text}"
        assert float(row["score"]) == -0.5
        assert row["path"] == "/a.jpg"


def test_pictures_used_last_are_kept_when_the_space_is_full(modules, folder, tmp_path, monkeypatch):
    shelf_of = importlib.import_module("apps.shelf")
    path = tmp_path / "demo.ps"
    shutil.copytree(folder / "demo.ps", path)
    shutil.rmtree(path / "thumbnails", ignore_errors=True)
    shelf = shelf_of.Shelf(Collection.open(path))
    items = [shelf.item(hash_of(folder, name)) for name in ("lion.jpg", "rocket.jpg", "coffee.png")]
    sizes = [len(shelf.thumbnail(item, 0)) for item in items[:2]]
    kept = {file: file.stat() for file in (path / "thumbnails").iterdir()}
    assert sorted(stat.st_size for stat in kept.values()) == sorted(sizes)
    for file in kept:
        os.utime(file, (1, 1))
    shelf.thumbnail(items[0], 0)  # used again
    monkeypatch.setattr(shelf_of, "THUMBNAIL_BYTES", sum(sizes) + 1)
    third = len(shelf.thumbnail(items[2], 0))
    left = sorted(file.stat().st_size for file in (path / "thumbnails").iterdir())
    assert left == sorted([sizes[0], third])
    assert all((path / name).exists() for name in ("collection.json", "rows", "items"))
    shelf.close()


def test_programs_ask_through_gradios_own_client(server):
    from gradio_client import Client

    client = Client(server.address, verbose=False)
    hits = client.predict(query=QUERY, k=3, api_name="/search")
    assert len(hits) == 3
    assert "dalmatian" in hits[0]["name"] or "bullmastiff" in hits[0]["name"]
    assert "path" not in hits[0]
    assert client.predict(api_name="/info")["images"] >= 5


def test_words_with_a_minus_are_taken_away(modules):
    asked = modules[1].Asked.of({"q": 'a well-known dog -people -"red car" x-ray'})
    assert asked.words == ("a well-known dog x-ray", ["people", "red car"])
    assert modules[1].Asked.of(dict(urllib.parse.parse_qsl(asked.link()[1:]))) == asked


def test_filters_are_values_and_never_sql(modules, folder):
    collection = Collection.open(folder / "demo.ps")
    page = modules[0].Page(collection)
    assert page.shelf.folders() == ["media", 'media/it\'s "mine"']
    mine = page.shelf.folder('media/it\'s "mine"')
    assert mine == str(folder / "media" / 'it\'s "mine"')
    assert list(collection.items(modules[1].Asked.of({"folder": "f"}).where(mine))["name"]) == [
        "green.png"
    ]
    asked = modules[1].Asked.of({"q": QUERY, "folder": 'media/it\'s "mine"'})
    assert [item.path.name for _, item in page.find(asked)] == ["green.png"]
    with pytest.raises(ValueError, match="is no folder of the collection"):
        page.find(modules[1].Asked.of({"q": QUERY, "folder": str(folder / "media")}))
    asked = modules[1].Asked.of(
        {"kind": "videos", "longer": 1, "shorter": "900", "after": "2000-01-01", "larger": 0.001}
    )
    names = set(collection.items(asked.where())["name"])
    assert names <= {"bikes.mp4", "bigbuckbunny.mp4"}
    sizes = collection.items().set_index("name")["size_bytes"]
    asked = modules[1].Asked.of({"smaller": "0.1"})
    assert set(collection.items(asked.where())["name"]) == set(sizes[sizes <= 100_000].index)
    assert 0 < (sizes <= 100_000).sum() < len(sizes)
    for injected in ("') OR 1=1 --", "x' UNION SELECT 1 --", "'; DROP TABLE items; --", "\\'"):
        assert len(collection.items(modules[1].Asked.of({"folder": "f"}).where(injected))) == 0


def test_every_reply_says_what_a_browser_may_do_with_it(server, folder):
    for path in ("/", f"/thumb/{hash_of(folder, 'lion.jpg')}", "/docs", f"/media/{'0' * 64}"):
        _, headers, _ = server.ask(path)
        named = {name.lower(): value for name, value in headers.items()}
        policy = dict(part.split(" ", 1) for part in named["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["connect-src"] == "'self'", path
        assert policy["frame-ancestors"] == policy["object-src"] == "'none'"
        assert not any(where in part for part in policy.values() for where in ("http", "*"))
        assert (named["referrer-policy"], named["x-content-type-options"]) == (
            "no-referrer",
            "nosniff",
        )


# What must not be given

PATHS = [
    *(f"/{place}{path}" for place in ("thumb", "media", "dropped", "export")
      for path in ("/../../secret.txt", "/..%2f..%2fsecret.txt", "/%2e%2e/secret.txt",
                   "//etc/passwd", "/" + "0" * 64, "/x' OR '1'='1")),
    *(f"/gradio_api/{place}{path}" for place in ("file=", "file/")
      for path in ("/etc/passwd", "secret.txt", "../secret.txt")),
    "/file=/etc/passwd",
    "/file/etc/passwd",
    "/gradio_api/proxy=http://127.0.0.1:1/",
    "/proxy=http://127.0.0.1:1/",
    "/gradio_api/upload_progress?upload_id=x",
    "/gradio_api/stream/x/y/z/playlist.m3u8",
    "/gradio_api/custom_component/x/y/z/../../../../etc/passwd",
    "/static/../../../../etc/passwd",
    "/assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/gradio_api/monitoring/summary",
    "/docs",
]  # fmt: skip
QUERIES = [
    f"/export/hits.json?q=dog&{name}={urllib.parse.quote(value)}"
    for name in ("kind", "after", "longer", "k", "like", "drop", "score", "larger")
    for value in ("' OR 1=1 --", "(SELECT path FROM items)", "../../secret.txt")
]
HOSTS = ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost:1"]
ORIGINS = ["http://evil.example", "null", "http://127.0.0.1:1", "https://evil.example"]
BODIES = {
    "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "ffconcat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\n",
    "text": b"hello",
    "nothing": b"",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>",
    "html": b"<html><script>alert(1)</script></html>",
    "broken jpeg": b"\xff\xd8\xff\xe0" + bytes(500),
    "broken video": b"\x00\x00\x00\x18ftypmp42" + bytes(500),
    "pickle": b"\x80\x04\x95" + bytes(100),
    "zip": b"PK\x03\x04" + bytes(100),
}


def test_there_are_at_least_sixty_of_them():
    assert len(PATHS) + len(QUERIES) + len(HOSTS) + len(ORIGINS) + len(BODIES) >= 60


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_leads_elsewhere_gives_nothing(server, path):
    host = f"Host: 127.0.0.1:{server.port}"
    answer = server.raw(f"GET {path.replace(' ', '%20')} HTTP/1.1", host)
    status = int(answer.split(b" ", 2)[1])
    assert 400 <= status < 500, answer[:200]
    assert SECRET.encode() not in answer
    assert b"root:" not in answer


@pytest.mark.parametrize("path", QUERIES)
def test_a_value_that_is_none_is_refused_in_a_sentence(server, path):
    status, _, content = server.ask(path)
    assert status == 400, content
    assert json.loads(content)["detail"]
    assert b"SQL" not in content
    assert b"Traceback" not in content


@pytest.mark.parametrize("host", HOSTS)
def test_another_host_is_refused(server, host):
    answer = server.raw("GET / HTTP/1.1", f"Host: {host}")
    assert answer.split(b" ", 2)[1] in (b"403", b"400")
    assert b"gradio" not in answer


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_page_of_another_site_is_refused(server, origin):
    for path in ("/drop", "/gradio_api/queue/join"):
        status, _, content = server.ask(path, method="POST", body=b"{}", Origin=origin)
        assert status == 403, content


@pytest.mark.parametrize("kind", BODIES)
def test_what_is_no_picture_and_no_video_is_not_taken(server, kind):
    status, _, content = server.ask("/drop", method="POST", body=BODIES[kind])
    assert status == 415, content
    assert b"root:" not in content


def test_large_uploads_and_gradios_own_are_refused(server):
    status = server.raw(
        "POST /drop HTTP/1.1", f"Host: 127.0.0.1:{server.port}", f"Content-Length: {200 << 20}"
    )
    assert status.split(b" ", 2)[1] == b"413"
    status = server.raw(
        "POST /gradio_api/queue/join HTTP/1.1",
        f"Host: 127.0.0.1:{server.port}",
        f"Content-Length: {2 << 20}",
    )
    assert status.split(b" ", 2)[1] == b"413"
    boundary = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nx\r\n--x--'
    )
    status, _, _ = server.ask(
        "/gradio_api/upload",
        method="POST",
        body=boundary,
        Content_Type="multipart/form-data; boundary=x",
    )
    assert status == 404


def test_elsewhere_a_token_is_needed(folder, modules):
    server = Server(modules[0], folder, token="abc123")
    try:
        assert server.ask("/")[0] == 403
        assert server.ask("/?token=wrong")[0] == 403
        assert server.ask("/?token=%C3%A9%FF")[0] == 403
        assert server.ask(f"/thumb/{'0' * 64}", Cookie="perception_search_token=x")[0] == 403
        status, headers, _ = server.ask("/?token=abc123")
        assert status == 200
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert server.ask("/", Cookie=cookie.split(";")[0])[0] == 200
        assert server.ask("/", Authorization="Bearer abc123")[0] == 200
    finally:
        server.close()


ROUTES = (
    "call/search",
    "call/info",
    "queue/join",
    "run/search",
    "api/search",
    "call/v2/search",
    "run/predict",
    "upload",
)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("wanted", ["file", "address", "nested", "whole"])
def test_no_call_can_name_a_file_or_an_address(server, folder, monkeypatch, route, wanted):
    cache = folder / "gradio"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(cache))
    path = str(folder / "secret.txt") if wanted != "address" else server.address + "/docs"
    named = {"path": path, "meta": {"_type": "gradio.FileData"}}
    if wanted == "nested":
        named = [[named]]
    body = {"data": [named, 1, "everything", "", -1], "fn_index": 0, "session_hash": "x"}
    if wanted == "whole":
        body = {"data": ["a", 1, "everything", "", -1], "event_data": {"x": named}, "more": named}
    status, _, content = server.ask(
        f"/gradio_api/{route}",
        method="POST",
        body=json.dumps(body).encode(),
        Content_Type="application/json",
    )
    assert status in (400, 404, 405), content
    assert not list(cache.rglob("secret*"))
    assert SECRET.encode() not in content


# Load


def test_fifty_people_search_at_once_without_an_error(server, folder):
    words = ["a dog", "a lion", "a rocket", "coffee", "people riding bicycles"]

    def search(number):
        path = f"/export/hits.json?k=5&q={urllib.parse.quote(words[number % 5])}"
        status, _, content = server.ask(path)
        return status, [hit["path"] for hit in json.loads(content)["hits"]]

    collection = Collection.open(folder / "demo.ps")
    expected = [[str(hit.path) for hit in collection.search(word, k=5)] for word in words]
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(search, range(200)))
    assert {status for status, _ in answers} == {200}
    assert all(found == expected[n % 5] for n, (_, found) in enumerate(answers))


# In a browser


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM.exists():
        pytest.skip("chromium is not installed: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, server):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.elsewhere, page.complaints = [], []
    page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else None)
    page.on(
        "request",
        lambda r: page.elsewhere.append(r.url) if not r.url.startswith(server.address) else None,
    )
    page.goto(server.address)
    page.wait_for_selector("#ps-q input")
    page.wait_for_timeout(700)
    yield page
    context.close()
    outside = [url for url in page.elsewhere if not url.startswith(("data:", "blob:"))]
    assert outside == [], "nothing is fetched from elsewhere"
    refused = [text for text in page.complaints if "Content Security Policy" in text]
    assert refused == [], "what the page needs is allowed"


def ask(tab, words):
    tab.fill("#ps-q input", words)
    with tab.expect_response(lambda r: "/hits?" in r.url, timeout=20_000):
        tab.press("#ps-q input", "Enter")
    tab.wait_for_function(f"location.search.includes({json.dumps(urllib.parse.quote_plus(words))})")
    tab.wait_for_selector(".ps-card")


def names(tab):
    return [json.loads(text)["name"] for text in tab.eval_on_selector_all(
        ".ps-card", "cards => cards.map(card => card.dataset.hit)")]  # fmt: skip


def test_the_right_picture_comes_first_and_the_link_restores_it(tab, server):
    ask(tab, QUERY)
    first = names(tab)
    assert first[0] in SAMPLES[:2]
    shown = tab.locator(".ps-card img").first
    tab.wait_for_function("document.querySelector('.ps-card img').naturalWidth > 0")
    assert first[0] in shown.get_attribute("alt")
    link = tab.url
    tab.goto(server.address)
    tab.goto(link)
    tab.wait_for_selector(".ps-card")
    assert names(tab) == first
    assert tab.input_value("#ps-q input") == QUERY


def test_a_video_plays_from_its_moment(tab):
    ask(tab, "people riding bicycles")
    tab.locator(".ps-card:has(.ps-time) .ps-open").first.click()
    tab.wait_for_function("document.querySelector('#ps-viewer video')?.readyState >= 2")
    hit = json.loads(tab.locator(".ps-card:has(.ps-time)").first.get_attribute("data-hit"))
    assert tab.evaluate("document.querySelector('#ps-viewer video').currentTime") >= hit["start"]
    assert tab.locator("#ps-viewer .ps-marks button.best").count() == 1
    tab.get_by_role("button", name="Why?").click()
    assert str(hit["score"]) in tab.locator("#ps-viewer dl").inner_text()
    tab.wait_for_function("!document.querySelector('#ps-viewer dl').innerText.includes('…')")
    assert f"By every row\n{hit['rank']}" in tab.locator("#ps-viewer dl").inner_text()
    tab.keyboard.press("Escape")
    assert not tab.locator("#ps-viewer").is_visible()


def test_filters_more_like_this_and_a_dropped_picture(tab, server, folder):
    ask(tab, "anything")
    tab.get_by_text("Filters", exact=True).click()
    tab.locator("#ps-kind").get_by_text("videos").click()
    tab.wait_for_function("location.search.includes('kind=videos')")
    tab.wait_for_function("document.querySelectorAll('.ps-card').length <= 2")
    assert set(names(tab)) <= {"bikes.mp4", "bigbuckbunny.mp4"}
    ask_all = server.address + "/?q=a+dog"
    tab.goto(ask_all)
    tab.wait_for_selector(".ps-card")
    first = names(tab)[0]
    tab.locator(".ps-like").first.click()
    tab.wait_for_function("location.search.includes('like=')")
    tab.wait_for_selector(".ps-card")
    assert first not in names(tab)
    tab.goto(server.address)
    tab.wait_for_selector("#ps-drop-here")
    tab.wait_for_timeout(700)
    tab.set_input_files("#ps-drop-file", folder / "media" / "lion.jpg")
    tab.wait_for_selector(".ps-card", timeout=20_000)
    assert names(tab)[0] == "lion.jpg"
    tab.get_by_text("What does the dropped picture show?").click()
    tab.fill("#ps-labels input, #ps-labels textarea", "a lion, a teapot")
    tab.click("#ps-judge")
    tab.wait_for_selector(".ps-bar")
    assert tab.locator(".ps-bar").first.inner_text().startswith("a lion")


def test_the_keyboard_alone_is_enough(tab):
    ask(tab, QUERY)
    tab.locator(".ps-open").first.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#ps-viewer[open]")
    title = tab.locator("#ps-viewer .ps-about span").first.inner_text()
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function(
        f"document.querySelector('#ps-viewer .ps-about span').innerText !== {json.dumps(title)}"
    )
    tab.keyboard.press("Escape")
    tab.get_by_role("tab", name="Library").click()
    tab.wait_for_selector("#ps-about table")
    assert "starter" in tab.locator("#ps-about").inner_text()


def test_an_answer_that_comes_late_does_not_replace_a_newer_one(tab):
    tab.evaluate(
        """() => {
          const real = window.fetch;
          window.fetch = (url, how) => new Promise((done) => setTimeout(
            () => done(real(url, how)), `${url}`.includes("first") ? 1500 : 0));
        }"""
    )
    tab.fill("#ps-q input", "first words")
    tab.press("#ps-q input", "Enter")
    ask(tab, QUERY)
    tab.wait_for_timeout(2000)
    assert "q=a+dog" in tab.url
    assert names(tab)[0] in SAMPLES[:2]


def test_a_program_that_has_ended_is_told(browser, folder, modules):
    server = Server(modules[0], folder)
    tab = browser.new_page()
    tab.goto(server.address)
    tab.wait_for_selector("#ps-q input")
    tab.wait_for_timeout(700)
    server.close()
    tab.fill("#ps-q input", QUERY)
    tab.press("#ps-q input", "Enter")
    tab.get_by_text("The page's program does not answer").wait_for()
    tab.close()


def test_a_second_look_ends_when_something_else_is_asked(folder, modules, browser):
    class Slow(Likes):
        def scores(self, query, hits):
            time.sleep(0.5 * len(hits))
            return super().scores(query, hits)

    second_look = modules[0].SecondLook(Slow("rocket.jpg"), depth=7)
    server = Server(modules[0], folder, second_look=second_look)
    tab = browser.new_page()
    tab.goto(server.address + "/?q=a+dog&rerank=1")
    tab.wait_for_function("document.querySelector('#ps-top')?.innerText.includes('looks again')")
    tab.goto(server.address + "/?q=a+rocket")
    tab.wait_for_selector(".ps-card")
    first = names(tab)
    tab.wait_for_timeout(4500)
    assert names(tab) == first
    assert "q=a+rocket" in tab.url
    tab.close()
    server.close()


def test_more_people_than_can_wait_are_told(folder, modules, monkeypatch):
    routes = importlib.import_module("apps.routes")
    monkeypatch.setattr(routes, "MOST_WAITING", 0)
    server = Server(modules[0], folder)
    status, _, content = server.ask("/hits?q=a+dog")
    assert (status, json.loads(content)["detail"]) == (
        503,
        "Too many people search just now; try again.",
    )
    server.close()


def test_it_fits_a_phone(browser, server):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page = context.new_page()
    page.goto(server.address + "/?q=a+dog")
    page.wait_for_selector(".ps-card")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_a_dropped_file_is_enough_to_search_by(folder, modules):
    page = modules[0].Page(Collection.open(folder / "demo.ps"))
    for name in ("lion.jpg", "bikes.mp4"):
        dropped, kind = page.shelf.take((folder / "media" / name).read_bytes())
        assert kind == ("video" if name.endswith("mp4") else "image")
        [(_, item), *_] = page.find(modules[1].Asked(drop=dropped))
        assert item.path.name == name
    page.shelf.close()


class Likes:
    """A judge that likes one file."""

    name = "a judge"
    first_weight = 0.0

    def __init__(self, liked):
        self.liked = liked

    def scores(self, query, hits):
        return [float(hit.path.name == self.liked) for hit in hits]


def test_a_second_look_moves_hits_by_choice(folder, modules, browser):
    second_look = modules[0].SecondLook(Likes("rocket.jpg"), depth=7)
    page = modules[0].Page(Collection.open(folder / "demo.ps"), second_look)
    first, *_, last = page.looks(modules[1].Asked(q=QUERY, rerank=True))
    assert first[1] == "a judge looks again …"
    assert last[1] == f"a judge judged 7 of {len(first[0])}"
    assert first[0][0][1].path.name in SAMPLES[:2]
    assert last[0][0][1].path.name == "rocket.jpg"
    [(unjudged, said)] = page.looks(modules[1].Asked(q=QUERY))
    assert (unjudged, said) == (first[0], "")
    item = last[0][0][1]
    place = [hit.path for hit, _ in first[0]].index(item.path) + 1
    assert page.ranks(modules[1].Asked(q=QUERY, rerank=True), item) == {"exact": place}
    page.collection.index("hnsw")
    assert page.ranks(modules[1].Asked(q=QUERY), item) == {"index": place, "exact": place}
    page.collection.index("exact")
    dropped, _ = page.shelf.take((folder / "media" / "lion.jpg").read_bytes())
    [(_, said)] = page.looks(modules[1].Asked(drop=dropped, rerank=True))
    assert "judges by words" in said
    page.shelf.close()

    server = Server(modules[0], folder, second_look=second_look)
    hits = json.loads(server.ask("/export/hits.json?q=a+dog&rerank=1")[2])["hits"]
    assert (Path(hits[0]["path"]).name, hits[0]["rerank_score"]) == ("rocket.jpg", 1)
    tab = browser.new_page()
    tab.goto(server.address + "/?q=a+dog")
    tab.wait_for_selector(".ps-card")
    assert names(tab)[0] in SAMPLES[:2]
    tab.get_by_text("Filters", exact=True).click()
    tab.get_by_label("Second look at the best 7 by a judge").check()
    tab.wait_for_function("location.search.includes('rerank=1')")
    tab.wait_for_function("document.querySelector('#ps-top').innerText.includes('judged 7 of')")
    assert names(tab)[0] == "rocket.jpg"
    tab.locator(".ps-open").first.click()
    tab.get_by_role("button", name="Why?").click()
    tab.wait_for_function("!document.querySelector('#ps-viewer dl').innerText.includes('…')")
    assert f"By every row\n{place}" in tab.locator("#ps-viewer dl").inner_text()
    assert "1 (the judge's own scale)" in tab.locator("#ps-viewer dl").inner_text()
    tab.close()
    server.close()


def test_labels_that_cannot_be_judged_are_told_in_a_sentence(folder, modules, monkeypatch):
    from perception_search.errors import WeightsNotFound

    page = modules[0].Page(Collection.open(folder / "demo.ps"))
    name, _ = page.shelf.take((folder / "media" / "lion.jpg").read_bytes())
    assert page.classify(name, "a lion, a cup").index("a lion") > 0
    page.shelf.dropped(name).path.unlink()
    assert 'class="ps-message ps-error"' in page.classify(name, "a lion, a cup")

    def missing(_tower):
        raise WeightsNotFound("/some/path")

    monkeypatch.setattr(page.collection, "encoder_for", missing)
    assert "not on this machine" in page.classify(name, "a lion, a cup")
    monkeypatch.setattr(page.collection, "encoder_for", lambda _tower: object())
    assert "cannot classify" in page.classify(name, "a lion, a cup")
    page.shelf.close()


def test_sentences_for_what_is_empty_or_missing(folder, modules, tmp_path):
    empty = Collection.create(tmp_path / "empty.ps", model="starter")
    page = modules[0].Page(empty)
    asked = modules[1].Asked
    assert "empty" in next(page.shown(asked(q="a dog")))[0]
    assert "Write what a picture should show" in next(page.shown(asked()))[0]
    assert "not in the collection" in next(page.shown(asked(like="0" * 64)))[0]
    assert "drop it again" in next(page.shown(asked(drop="0" * 32)))[0]
    from perception_search.errors import CollectionLocked, WeightsNotFound

    page_of = importlib.import_module("apps.page")
    assert "Another program" in page_of.sentence(CollectionLocked("/some/path is locked"))
    assert "PERCEPTION_SEARCH_WEIGHTS" in page_of.sentence(WeightsNotFound("/some/path"))
    page.shelf.close()
