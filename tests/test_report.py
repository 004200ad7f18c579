"""The report as HTML: safe with any text, self-contained, the same every time, and whole in a real browser."""

import base64
import hashlib
import math
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest

from recur.errors import InputError, RunError
from recur.report import (
    Bar,
    BarChart,
    Command,
    Confusion,
    Fact,
    Frame,
    HeatMap,
    Histogram,
    Histograms,
    Item,
    Items,
    LineChart,
    Mistake,
    Mistakes,
    Note,
    Passage,
    Plane,
    Planes,
    Report,
    Section,
    Sentences,
    Series,
    Settings,
    Strip,
    Strips,
    Table,
    Word,
    render,
    write_report,
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def browser(test):
    skip = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian package: chromium)")
    return pytest.mark.browser(skip(test))


EPOCHS = list(range(1, 11))
EVIL = """</script><script>alert(1)</script><img src=x onerror="alert(2)">'"&amp;{{ 7 * 7 }}"""
LONG = "Pneumonoultramicroscopicsilicovolcanoconiosis" * 6


def report_of(*blocks, title="A report"):
    return Report(title, "What came out.", [], [Section("Part", "Some prose.", blocks)], "2026-11-21", "0.1.0")


def every_block(text="words"):
    counts = [[90, 10], [20, 80]]
    return [
        LineChart(text, text, text, [Series(text, EPOCHS, [1 / e for e in EPOCHS])], marks=[(3, text)]),
        LineChart("logarithmic", "step", "loss", [Series("a", [1, 2], [0.1, 100.0])], y_log=True),
        HeatMap(text, text, text, text, np.arange(600.0).reshape(20, 30), log=True),
        Planes(text, [text, text], [Plane(text, [np.array([1j, 0.5]), np.array([])], text)] * 3),
        Histograms(text, [Histogram(text, [0.0, 0.5, 1.0], [0.25, 0.75], text)] * 3, [text]),
        BarChart(text, [Bar(text, 0.9, 0.88, 0.92, True, text), Bar(text, 0.8)], reference=0.5, reference_name=text),
        Confusion([text + "a", text + "b"], counts, text),
        Confusion([f"{text}{i}" for i in range(14)], [[3] * 14] * 14),
        Table(text, [text, "n"], [[text, 1.5], ["other", 2]], text),
        Mistakes(text, [Mistake(text, text, text, 0.9), Mistake(f"{text} {LONG} " * 3, text, text, 0.8)]),
        Sentences(text, [[Word(text), Word(text, text, text), Word(LONG)], [Word(text)]]),
        Items(text, [Item(text, text, text, text), Item(text, text)]),
        Strips(
            text,
            [
                Strip([Frame(np.zeros((4, 6), np.uint8), text), Frame(np.ones((4, 6, 3), np.uint8), text, True)], text),
                Strip([Frame(np.zeros((4, 6), np.uint8))], text, text, text),
            ],
        ),
        Settings({text: {text: text}}, text),
        Command(f"recur train classify --train {text}"),
        Note("info", text),
        Note("warning", text),
    ]


def imdb_like():
    texts = [
        "It was long. " * 90,
        "一部让人昏昏欲睡的电影。" * 40,
        "😂👍🏽 fine",
        "هذا الفيلم رائع",
        "I <br /> slept",
    ] * 2
    curves = [Series(n, EPOCHS, [v - 0.3 / e for e in EPOCHS]) for n, v in (("RNN", 0.84), ("LSTM", 0.9), ("GRU", 0.9))]
    names = ("majority", 0.5), ("bag of words", 0.87), ("NB-SVM", 0.912), ("embedding bag", 0.88)
    topics = [f"topic.{i}" for i in range(12)]
    return Report(
        "Film reviews",
        "The GRU is right on 86.9%.",
        [Fact("test accuracy", "86.9%", "86.5–87.3"), Fact("parameters", "1,412,354")],
        [
            Section(
                "Comparison",
                "",
                [BarChart("Accuracy", [Bar(n, v, v - 0.01, v + 0.01, n == "majority") for n, v in names])],
            ),
            Section("Learning", "", [LineChart("Accuracy", "epoch", "accuracy", curves, marks=[(4, "LSTM kept")])]),
            Section(
                "Confusion", "", [Confusion(topics, [[300 if i == j else i for j in range(12)] for i in range(12)])]
            ),
            Section("Mistakes", "", [Mistakes("Surest", [Mistake(t, "pos", "neg", 0.99) for t in texts])]),
            Section("Again", "", [Command("recur train classify --train a.csv --seed 1 2 3")]),
        ],
        "2026-11-21",
        "0.1.0",
    )


class Outline(HTMLParser):
    """Checks that tags nest, and keeps them with their attributes."""

    VOID = ("meta", "link", "col", "img")

    def __init__(self, html):
        super().__init__()
        self.open, self.tags = [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_no_text_of_the_user_becomes_markup():
    plain, evil = (
        Outline(
            render(
                Report(t, t, [Fact(t, t, t)], [Section(t, t, every_block(t))] * 3, "2026-11-21", "0.1.0"),
            )
        )
        for t in ("words", EVIL)
    )
    # a command's words are spans, and the evil text has more words
    found, wanted = ([tag for tag, _ in outline.tags if tag != "span"] for outline in (evil, plain))
    assert found == wanted
    assert sum(tag == "script" for tag, _ in evil.tags) == 1
    assert all(attrs["src"].startswith("data:image/png;base64,") for tag, attrs in evil.tags if tag == "img")
    assert not any(name.startswith("on") or name == "style" for _, attrs in evil.tags for name in attrs)


def test_the_policy_allows_exactly_the_inline_style_and_script():
    html = render(imdb_like())
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        source = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_nothing_is_fetched_from_outside():
    html = render(imdb_like())
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", html)
    links = [attrs.get(name) for _, attrs in Outline(html).tags for name in ("src", "href") if name in attrs]
    assert "data:," in links
    assert all(link == "data:," or link.startswith("#") for link in links)


def test_the_same_report_gives_the_same_bytes_and_stays_small():
    html = render(imdb_like())
    assert html == render(imdb_like())
    assert len(html.encode()) < 200_000


def test_empty_lists_say_so():
    blocks = [
        LineChart("t", "x", "y", []),
        LineChart("t", "x", "y", [Series("a", [], [])]),
        BarChart("t", []),
        Confusion([], []),
        Table("t", ["a"], []),
        Table("t", [], []),
        Mistakes("t", []),
        Settings({}),
        Items("t", []),
        Sentences("t", []),
        HeatMap("t", "x", "y", "v", np.zeros((2, 3)), log=True),
        HeatMap("t", "x", "y", "v", np.zeros((0, 3))),
        Planes("t", [], []),
        Planes("t", ["a"], [Plane("p", [np.array([])])]),
        Histograms("t", []),
    ]
    html = render(report_of(*blocks))
    assert html.count("No values to show.") == 9
    assert "No rows to show." in html
    assert html.count(">None.<") == 3
    Outline(render(Report("", "", [], [], "2026-11-21", "0.1.0")))


def test_tables_are_aligned_by_column_and_have_row_headers():
    html = render(report_of(Table("t", ["cell", "loss"], [["RNN", 0.5], ["GRU", 0.125], ["LSTM", math.nan]])))
    assert '<th scope="row"><bdi>RNN</bdi></th><td class="n"><bdi>0.500</bdi></td>' in html
    assert "<bdi>0.125</bdi>" in html
    assert "<bdi>–</bdi>" in html


def test_a_confusion_matrix_shows_counts_and_shares_of_its_rows():
    html = render(report_of(Confusion(["no", "yes"], [[90, 10], [0, 0]])))
    assert "90<small>90.0%</small>" in html
    assert "10<small>10.0%</small>" in html
    assert '<td class="sum">0</td><td class="sum">–</td>' in html


def test_too_many_labels_give_the_pairs_confused_most_instead():
    size = 60
    counts = [[5 if i == j else 0 for j in range(size)] for i in range(size)]
    counts[7][9] = 45
    html = render(report_of(Confusion([f"label {i}" for i in range(size)], counts)))
    assert "60 labels: too many for a matrix" in html
    assert '<bdi>label 7</bdi></th><td><bdi>label 9</bdi></td><td class="n">45</td><td class="n">90.0%</td>' in html


def test_long_texts_are_folded_and_never_cut_within_a_character():
    family = "👩‍👩‍👧‍👦"
    texts = ["short", "word " * 200, family * 200, "", "x" * 50_000]
    html = render(report_of(Mistakes("t", [Mistake(t, "a", "b", 0.5) for t in texts])))
    excerpts = re.findall(r'class="excerpt"[^>]*>(.*?)</span>', html, re.S)
    assert len(excerpts) == 3
    assert all(excerpt.endswith(" …") and len(excerpt) < 300 for excerpt in excerpts)
    assert not excerpts[1].removesuffix(" …").endswith("\u200d")
    assert "(30,000 more characters)" in html
    assert "The text is empty." in html


def test_broken_text_can_still_be_written(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, report_of(Mistakes("t", [Mistake("bad \udcff byte \x00 中文", "a", "b", 0.5)])))
    assert "bad ? byte" in path.read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_report_that_cannot_be_written_says_where(tmp_path):
    with pytest.raises(RunError, match=r"gone.*could not be written"):
        write_report(tmp_path / "gone" / "report.html", imdb_like())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Series("loss", [1, 2], [1.0]), "'loss': x and y must be of one length, got 2 and 1 values"),
        (lambda: Confusion(["a", "b"], [[1, 2]]), "a row for each of 2 labels, got 1"),
        (lambda: Confusion(["a", "b"], [[1, 2], [1]]), "row 'b' must have 2 counts, got 1"),
        (lambda: Table("t", ["a", "b"], [[1, 2], [1]]), "row 2 must have 2 cells, got 1"),
        (lambda: HeatMap("t", "x", "y", "v", np.zeros(3)), "values must be [rows, columns], got [3]"),
        (
            lambda: HeatMap("t", "x", "y", "v", np.ones((1, 1)), log=True, limits=(0, 1)),
            "limits must rise from above zero, got (0, 1)",
        ),
        (lambda: Planes("t", ["a"], [Plane("p", [])]), "'p' must have 1 sets, got 0"),
        (lambda: Histogram("g", [0, 1], []), "edges must be one more than shares, got 2 and 0"),
        (lambda: Note("error", "x"), "must be 'info' or 'warning', got 'error'"),
    ],
)
def test_blocks_refuse_what_does_not_fit(make, message):
    with pytest.raises(InputError, match=re.escape(message)):
        make()


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_keep_the_contrast_that_wcag_asks_for(scheme):
    light, dark, _ = re.findall(r":root \{(.*?)\}", render(report_of()), re.S)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", light if scheme == "light" else dark))
    paper = colours["paper"]
    for name in ("ink", "soft", "accent", "bad"):
        assert contrast(colours[name], paper) >= 4.5, name
        assert contrast(colours[name], colours["raised"]) >= 4.5, name
    for name in (f"c{i}" for i in range(6)):
        assert contrast(colours[name], paper) >= 3, name
    for name in ("good-heat", "bad-heat"):
        pairs = [(int(colours[name][i : i + 2], 16), int(paper[i : i + 2], 16)) for i in (1, 3, 5)]
        darkest = "#" + "".join(f"{round(0.64 * a + 0.36 * b):02x}" for a, b in pairs)
        assert contrast(colours["ink"], darkest) >= 4.5, name


def in_browser(folder, html):
    """Return the page's DOM after its scripts ran, and what the browser wrote to its log."""
    page = folder / "page.html"
    page.write_text(html, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--no-first-run", f"--user-data-dir={folder / 'profile'}", "--hide-scrollbars"]
    command += ["--window-size=1280,900", "--enable-logging=stderr", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def with_script(html, script):
    """Return a copy without the policy that runs `script` last and leaves its result in the page."""
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    return free.replace("</body>", f"<script>document.body.dataset.result = JSON.stringify({script})</script></body>")


MEASURE = """(() => {
  document.querySelectorAll("details").forEach((d) => (d.open = true));
  const width = document.documentElement.clientWidth;
  const wide = [...document.querySelectorAll("body *")].filter((e) =>
    !e.closest(".scroll *, .frame *") && e.getBoundingClientRect().right > width + 0.5);
  return [width, document.documentElement.scrollWidth, wide.map((e) => e.outerHTML.slice(0, 80))];
})()"""


@browser
@pytest.mark.parametrize("words", ["words", LONG, "影评" * 60])
def test_the_page_never_scrolls_sideways(tmp_path, words):
    parts = [Section(words, words, every_block(words))] * 3
    html = with_script(
        render(Report(words, words, [Fact(words, words, words)] * 3, parts, "2026-11-21", "0.1.0")), MEASURE
    )
    # frames, since a headless window is never narrower than 500 pixels
    frames = "".join(f'<iframe width="{w}" height="900" srcdoc="{escape(html)}"></iframe>' for w in (360, 390, 1280))
    collect = '[...document.querySelectorAll("iframe")].map((f) => f.contentDocument.body.dataset.result).join(" ")'
    load = f"<script>onload = () => document.body.textContent = {collect}</script>"
    dom, _ = in_browser(tmp_path, f'<!doctype html><meta charset="utf-8">{load}<body>{frames}')
    assert "<body>[360,360,[]] [390,390,[]] [1280,1280,[]]</body>" in dom


@browser
def test_the_browser_reports_no_error_under_the_policy(tmp_path):
    dom, log = in_browser(tmp_path, render(imdb_like()))
    assert "CONSOLE" not in log
    assert ">Copy</button>" in dom
    assert '<svg class="plot"' in dom


POINT = """(() => {
  const plot = document.querySelector("svg.plot"), box = plot.getBoundingClientRect();
  plot.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width * 3 / 9 + 4}));
  return [...document.querySelectorAll("figure.lines output")].map((o) => o.textContent).join(" ");
})()"""


@browser
def test_a_line_chart_reads_out_the_values_under_the_pointer(tmp_path):
    chart = LineChart("t", "epoch", "y", [Series("a", EPOCHS, EPOCHS), Series("b", [1, 2], [0.5, 0.25])])
    dom, _ = in_browser(tmp_path, with_script(render(report_of(chart)), POINT))
    assert 'data-result="&quot;epoch 4 4 –&quot;"' in dom


def pointed(tmp_path, block, share_x, share_y, target="svg.plot", event="pointermove"):
    """Return what the figure's output says with the pointer there."""
    script = f"""(() => {{
      const plot = document.querySelector("{target}"), box = plot.getBoundingClientRect();
      const at = {{clientX: box.left + box.width * {share_x}, clientY: box.top + box.height * {share_y}}};
      plot.dispatchEvent(new PointerEvent("{event}", {{...at, bubbles: true}}));
      return document.querySelector("figure output").textContent;
    }})()"""
    dom, log = in_browser(tmp_path, with_script(render(report_of(block)), script))
    assert "CONSOLE" not in log
    return re.search(r'data-result="&quot;(.*?)&quot;"', dom)[1]


@browser
def test_a_heat_map_reads_out_the_cell_under_the_pointer(tmp_path):
    values = 10.0 ** -np.arange(200) * np.array([[1], [1], [0]])
    block = HeatMap("t", "step", "unit", "v", values, log=True, x_first=1)
    # cells of two steps, the mean of 1e-20 and 1e-21; a column is 1% wide
    assert pointed(tmp_path, block, 0.105, 0.1, "figure.heat image") == "step 21–22, unit 0: 5.48e-21"
    assert pointed(tmp_path, block, 0.995, 0.9, "figure.heat image") == "step 199–200, unit 2: blank"


@browser
def test_a_complex_plane_reads_out_the_nearest_point(tmp_path):
    block = Planes("t", ["now", "before"], [Plane("W", [np.array([0.5j]), np.array([-1.0, 1.0])])])
    assert pointed(tmp_path, block, 0.5, 0.3) == "now: 0.000 + 0.500i, |λ| 0.500"
    assert pointed(tmp_path, block, 0.9, 0.55) == "before: 1.000 + 0.000i, |λ| 1.000"


@browser
def test_a_histogram_reads_out_the_bar_under_the_pointer(tmp_path):
    block = Histograms("t", [Histogram("forget", [0.0, 0.5, 1.0], [0.25, 0.75])])
    assert pointed(tmp_path, block, 0.5, 0.5, ".catch + .bar + .catch", "pointerenter") == "forget, 0.5 to 1: 75.0%"


def test_a_passage_is_shaded_by_its_values():
    html = render(report_of(Passage("Bits", ["a\n", "<b>", " c", "d"], [0.0, 5.0, 20.0, math.nan], "bits", full=10)))
    assert '<span class="b0" title="0.00 bits">a\n</span>' in html
    assert '<span class="b4" title="5.00 bits">&lt;b&gt;</span>' in html
    assert '<span class="b9" title="20.00 bits"> c</span>d</blockquote>' in html
    assert "10 bits and more" in html
    assert '<blockquote lang="" dir="auto">one two</blockquote>' in render(report_of(Passage("Plain", ["one", " two"])))


def test_a_passage_wants_a_value_for_each_piece():
    with pytest.raises(InputError, match=r"values must be one for each of 2 pieces, got 1"):
        Passage("x", ["a", "b"], [1.0])
    with pytest.raises(InputError, match="full must be above 0, got 0"):
        Passage("x", ["a"], [1.0], full=0)
