"""The atlas in a real browser, from a file system: keys, links, search, nothing from elsewhere."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline import atlas
from tests.pipeline.atlas_run import LAYERS, layers, listed_run

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs a Chromium browser"),
]

FRAME = """<!doctype html><pre id="out"></pre>
<iframe id="frame" style="width:1200px;height:700px" src="PAGE"></iframe>
<script>
const frame = document.getElementById("frame");
const told = [];
frame.onload = () => {
  const view = frame.contentWindow, page = view.document;
  view.addEventListener("error", (event) => told.push({error: String(event.message)}));
  function state() {
    const sheet = page.querySelector(".sheet"), image = page.querySelector(".sheet img");
    told.push({
      hash: view.location.hash, focus: page.activeElement.id, body: page.body.className,
      scroll: Math.round(view.scrollY),
      options: Array.from(page.querySelectorAll("#found a"), (a) => a.getAttribute("href")),
      dialog: page.querySelector("dialog").open,
      cards: Array.from(page.querySelectorAll(".card"), (card) => card.id),
      shape: sheet && sheet.clientWidth / sheet.clientHeight,
      loaded: image && image.complete && image.naturalWidth,
    });
  }
  const acts = {
    key: (key) => page.activeElement.dispatchEvent(
      new view.KeyboardEvent("keydown", {key, bubbles: true, cancelable: true})),
    type: (text) => {
      const search = page.getElementById("search");
      search.value = text;
      search.dispatchEvent(new view.Event("input", {bubbles: true}));
    },
    sort: (key) => {
      const sort = page.getElementById("sort");
      sort.value = key;
      sort.dispatchEvent(new view.Event("change", {bubbles: true}));
    },
    close: () => page.querySelector("dialog").close(),
  };
  setTimeout(() => {
    state();
    for (const [act, value] of ACTS) { acts[act](value); state(); }
    const links = page.querySelectorAll("[src], [href]");
    const named = Array.from(links, (each) => each.src || each.href);
    document.getElementById("out").textContent = JSON.stringify({told, named});
  }, 500);
};
</script>
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(atlas.build(listed_run(tmp_path_factory.mktemp("browsed")))).parent


def browse(folder: Path, page: str, *acts: tuple[str, str]) -> tuple[list[dict[str, Any]], Any]:
    """Return what a page shows at first and after each act, and what it names in the end."""
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("PAGE", page).replace("ACTS", json.dumps(acts)))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    options += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000"]
    answer = subprocess.run(
        [str(BROWSER), *options, "--dump-dom", frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    text = re.search(r'<pre id="out">(.*?)</pre>', answer.stdout, re.DOTALL)
    assert text is not None, answer.stderr[-2000:]
    found = json.loads(html.unescape(text[1]))
    (folder / "frame.html").unlink()
    return found["told"], found["named"]


def test_a_layer_is_walked_searched_and_sorted_by_keys(built: Path) -> None:
    acts = [
        ("key", "j"),
        ("key", "k"),
        ("key", "h"),
        ("key", "c"),
        ("key", "?"),
        ("close", ""),
        ("key", "/"),
        ("type", "bee"),
        ("type", "conv1 3"),
        ("type", "no such thing"),
        ("key", "Escape"),
        ("sort", "clarity"),
    ]
    told, named = browse(built, "layers/conv1.html#c1", *acts)
    states = dict(zip(["first", *(f"{act} {value}" for act, value in acts)], told, strict=True))
    assert not any("error" in state for state in told)
    assert states["first"]["scroll"] > 0  # a deep link
    assert states["key j"]["hash"] == "#c2"
    assert states["key j"]["focus"] == "c2"
    assert states["key k"]["hash"] == "#c1"
    assert states["key h"]["body"] == "no-heat"
    assert states["key h"]["shape"] == pytest.approx(2 * states["first"]["shape"], rel=0.02)
    assert states["key c"]["body"] == "no-heat whole"
    assert states["key ?"]["dialog"]
    assert states["key /"]["focus"] == "search"
    assert any("#c" in link for link in states["type bee"]["options"])
    assert states["type conv1 3"]["options"][0] == "#c3"
    assert states["type no such thing"]["options"] == []
    assert states["sort clarity"]["cards"] == ["c3", "c2", "c1", "c0"]
    assert states["first"]["loaded"]
    assert named
    assert all(address.startswith(("file:", "data:")) for address in named)


def test_the_index_is_walked_and_leads_to_layers(built: Path) -> None:
    told, named = browse(built, "index.html", ("key", "j"), ("type", "block"), ("type", "2"))
    assert not any("error" in state for state in told)
    assert all(link.startswith("layers/") for link in told[2]["options"])
    assert len(told[2]["options"]) == 1
    at_least = sum(n > 2 for n in LAYERS.values())
    assert sum(link.endswith("#c2") for link in told[3]["options"]) >= at_least
    assert all(address.startswith(("file:", "data:")) for address in named)


def test_a_number_is_a_layer_or_a_channel(tmp_path: Path) -> None:
    found = list(layers(0, has_references=False).values())
    numbered = {"0": found[0], "2": found[1], "12": found[0]}
    built = Path(atlas.build(listed_run(tmp_path, {"relmax": numbered}))).parent
    texts = ["2", "layer 2", "2 #1", "channel 1", "#2", "2 1", "concept #3", "layer", "2#9"]
    told, _ = browse(built, "index.html", *(("type", text) for text in texts))
    assert not any("error" in state for state in told)
    options = dict(zip(texts, (state["options"] for state in told[1:]), strict=True))
    every = [f"layers/{name}.html" for name in numbered]
    assert options["2"] == [*(f"{page}#c2" for page in every), "layers/2.html", "layers/12.html"]
    assert options["layer 2"][:2] == ["layers/2.html", "layers/12.html"]
    assert options["2 #1"] == ["layers/2.html#c1", "layers/12.html#c1"]
    assert options["channel 1"] == [f"{page}#c1" for page in every]
    assert options["#2"] == [f"{page}#c2" for page in every]
    assert "layers/2.html#c1" in options["2 1"]
    assert options["concept #3"] == ["layers/0.html#c3", "layers/12.html#c3"]
    assert options["layer"] == []
    assert options["2#9"] == []
