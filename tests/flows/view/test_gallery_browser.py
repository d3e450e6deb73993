"""Use the gallery as a person does, in headless Chromium; skipped where there is none."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from flows.store.layout import Layout
from flows.view.gallery import write_gallery

MakeRun = Callable[..., Layout]
Sample = Callable[..., dict[str, Any]]
OpenPage = Callable[..., Any]

HOSTILE = '<img src=x onerror="window.pwned=1"> &amp; \'"'
FIRST_PICTURE_SECONDS = 10.0
"""Of 10,000 samples; 2 s are asked for on a laptop, and test machines are busy."""
REASONS = ("clipping", "effect_small", "hue_flip")


@pytest.fixture(scope="module")
def gallery(make_run: MakeRun, sample: Sample) -> Path:
    """Return the page of 60 samples: every third rejected, strengths 0.3 to 0.89, every fourth without a score."""
    return write_gallery(make_run([_record(sample, number) for number in range(1, 61)])).page


def _record(sample: Sample, number: int) -> dict[str, Any]:
    rejected = {"status": "rejected", "reason": REASONS[number // 3 % 3], "value": 0.5, "limit": 0.05}
    return sample(
        number,
        family=("mkl", "idt")[number % 2],
        split=("train", "val", "test")[number % 3],
        strength=round(0.29 + number / 100, 2),
        foreground_mse=float(100 + number * 37 % 60),
        score=None if number % 4 == 0 else number / 100,
        threshold=0.02,
        **(rejected if number % 3 == 0 else {}),
    )


@pytest.fixture
def open_page(browser: Any) -> Iterator[OpenPage]:
    """Return a function that opens a gallery in a window of its own; errors of the page fail the test."""
    contexts, errors = [], []

    def opened(path: Path, after: str = "", *, script: str = "", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        if script:
            page.add_init_script(script)
        page.goto(path.as_uri() + after)
        page.wait_for_selector("#cards > li")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []


def wait_until(page: Any, claim: str) -> None:
    """Wait until a claim in JavaScript is true; Playwright's own way would evaluate it in the page, whose policy forbids it."""
    end = time.perf_counter() + 15
    while not page.evaluate(claim):
        assert time.perf_counter() < end, f"never true: {claim}"
        page.wait_for_timeout(20)


def numbers(page: Any) -> list[int]:
    """Return the numbers of the samples on the page, in their order."""
    return [int(key[:12]) for key in page.locator(".card .key").all_inner_texts()]


def found(page: Any) -> str:
    """Return what the page says of how many samples fit."""
    return str(page.locator("#found").inner_text())


def state(page: Any) -> str:
    """Return what stands behind the # of the address."""
    return str(page.evaluate("location.hash.slice(1)"))


def look_at(tile: Any) -> Any:
    """Return the pixels of a picture on the page around its subject, without its label."""
    tile.page.evaluate("document.querySelectorAll('.name').forEach((each) => { each.style.visibility = 'hidden'; })")
    pixels = cv2.imdecode(np.frombuffer(tile.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels[40:140, 170:220].astype(int)


# Looking


def test_the_first_picture_of_10_000_samples_is_soon_there(gallery: Path, tmp_path: Path, open_page: OpenPage) -> None:
    """The page of a large run shows its first picture in seconds."""
    folder = tmp_path / "gallery"
    shutil.copytree(gallery.parent, folder)
    script = folder / "data" / "index.js"
    data = json.loads(script.read_text().removeprefix('galleryData("index",').removesuffix(");\n"))
    many = {name: (values * 167)[:10_000] for name, values in data["columns"]}
    many["key"] = [f"{number:012d}-000000000007-00" for number in range(10_000)]
    data["columns"] = list(many.items())
    script.write_text(f'galleryData("index",{json.dumps(data)});\n')
    began = time.perf_counter()
    page = open_page(folder / "index.html")
    wait_until(page, "[...document.querySelectorAll('.tile img')].some((image) => image.naturalWidth)")
    assert time.perf_counter() - began < FIRST_PICTURE_SECONDS
    assert found(page) == "10,000 samples"
    assert page.locator(".card").count() == 24


def test_nothing_is_loaded_from_elsewhere(gallery: Path, browser: Any) -> None:
    """Every request of the page goes to a file beside it."""
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(gallery.as_uri())
    page.locator(".strip").first.click()
    page.wait_for_selector(".facts table")
    context.close()
    assert len(asked) > 3
    assert all(url.startswith(gallery.parent.as_uri()) for url in asked)


def test_the_page_says_how_many_samples_there_are(gallery: Path, open_page: OpenPage) -> None:
    """Kept and rejected add up."""
    assert open_page(gallery).locator("#made").inner_text() == "60 samples: 40 kept, 20 rejected"


def test_space_flips_real_and_composite_in_place(gallery: Path, open_page: OpenPage) -> None:
    """The composite's place shows the real picture's pixels, and with a second press its own again."""
    page = open_page(gallery)
    wait_until(page, "document.querySelector('.tile img').complete")
    first, last = (getattr(page.locator(".card").first.locator(".tile"), place) for place in ("first", "last"))
    real, composite, box = look_at(first), look_at(last), last.bounding_box()
    assert np.abs(real - composite).mean() > 20
    page.locator(".strip").first.focus()
    page.keyboard.press("Space")
    assert last.locator(".name").text_content() == "real"
    assert last.bounding_box() == box
    assert np.abs(look_at(last) - real).mean() < 5  # at another fraction of a pixel
    page.keyboard.press("Space")
    assert last.locator(".name").text_content() == "composite"
    assert np.array_equal(look_at(last), composite)


def test_an_empty_run_says_so(make_run: MakeRun, open_page: OpenPage) -> None:
    """No samples is no broken page."""
    page = open_page(write_gallery(make_run([])).page)
    assert page.locator("#cards").inner_text() == "This run has no samples."


def test_a_run_of_rejected_samples_without_pictures_is_shown(
    make_run: MakeRun, sample: Sample, open_page: OpenPage
) -> None:
    """Unreadable samples have cards that say why there is nothing to see, and details."""
    none = dict.fromkeys(("strength", "foreground_mse", "psnr", "family"))
    record = sample(1, status="rejected", reason="unreadable", gates={}, **none)
    page = open_page(write_gallery(make_run([record])).page)
    assert "a photograph could not be read" in page.locator(".card").inner_text()
    page.locator(".strip").click()
    page.wait_for_selector(".facts table")
    assert "unreadable" in page.locator(".facts").inner_text()


# Finding


@pytest.mark.parametrize(
    ("choose", "expected"),
    [
        ({"status": "rejected"}, [n for n in range(1, 61) if n % 3 == 0]),
        ({"reason": "hue_flip"}, [n for n in range(1, 61) if n % 3 == 0 and n // 3 % 3 == 2]),
        ({"family": "idt", "status": "kept"}, [n for n in range(1, 61) if n % 2 and n % 3]),
        ({"split": "test"}, [n for n in range(1, 61) if n % 3 == 2]),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_filters_leave_what_fits(
    gallery: Path, open_page: OpenPage, choose: dict[str, str], expected: list[int]
) -> None:
    """Each filter alone, and two together, leave exactly the samples that fit."""
    page = open_page(gallery)
    for name, value in choose.items():
        page.select_option(f"#{name}", value)
    assert numbers(page) == expected[:24]
    assert found(page) == f"{len(expected)} of 60 samples"


def test_ranges_leave_what_lies_between(gallery: Path, open_page: OpenPage) -> None:
    """Bounds of strength and score are inclusive; a sample without a score is not between any."""
    page = open_page(gallery)
    page.fill("[name=strength-from]", "0.4")
    page.fill("[name=strength-to]", "0.45")
    assert numbers(page) == [11, 12, 13, 14, 15, 16]
    page.fill("[name=score-to]", "0.15")
    assert numbers(page) == [11, 13, 14, 15]


def test_the_score_cannot_be_asked_where_there_is_none(make_run: MakeRun, sample: Sample, open_page: OpenPage) -> None:
    """With the gate off the range says why it is not to be used."""
    page = open_page(write_gallery(make_run([sample(1)])).page)
    assert page.locator("[name=score-from]").is_disabled()
    assert "gate was off" in page.locator("#scores").inner_text()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7", list(range(1, 25))), ("000000000012", [12]), ("1030", [30]), ("000000000031-", [31]), ("99999", [])],
)
def test_search_finds_keys_and_ids(gallery: Path, open_page: OpenPage, text: str, expected: list[int]) -> None:
    """A number is a COCO id of image or annotation, target or reference; anything else is a part of a key."""
    page = open_page(gallery)
    page.fill("#q", text)
    assert numbers(page) == expected
    if not expected:
        assert page.locator("#cards").inner_text() == "No sample fits these filters."


def test_sorting_puts_the_unknown_last(gallery: Path, open_page: OpenPage) -> None:
    """In both directions samples without a score stand behind the others."""
    page = open_page(gallery)
    page.select_option("#sort", "-score")
    assert numbers(page)[:4] == [59, 58, 57, 55]
    page.click("[data-page=last]")
    assert numbers(page)[-2:] == [56, 60]
    page.select_option("#sort", "score")
    assert numbers(page)[:4] == [1, 2, 3, 5]
    page.click("[data-page=last]")
    assert numbers(page)[-2:] == [56, 60]


@pytest.mark.parametrize(
    ("order", "measure"), [("foreground_mse", lambda n: 100 + n * 37 % 60), ("strength", lambda n: n)]
)
def test_samples_are_sorted_both_ways(
    gallery: Path, open_page: OpenPage, order: str, measure: Callable[[int], int]
) -> None:
    """By effect and by strength, up and down."""
    page = open_page(gallery)
    page.select_option("#sort", order)
    assert numbers(page) == sorted(range(1, 61), key=measure)[:24]
    page.select_option("#sort", f"-{order}")
    assert numbers(page) == sorted(range(1, 61), key=measure, reverse=True)[:24]


def test_reset_shows_everything_again(gallery: Path, open_page: OpenPage) -> None:
    """One press takes all filters away."""
    page = open_page(gallery, "#status=kept&q=1&sort=-score")
    page.click("[type=reset]")
    wait_until(page, "document.getElementById('found').textContent === '60 samples'")
    assert state(page) == ""


# Moving


def test_pages_are_turned(gallery: Path, open_page: OpenPage) -> None:
    """Three pages hold 60 samples; the ends go no further."""
    page = open_page(gallery)
    assert numbers(page) == list(range(1, 25))
    assert page.locator("[data-page=previous]").is_disabled()
    page.click("[data-page=next]")
    assert numbers(page) == list(range(25, 49))
    page.fill("#page", "99")
    page.keyboard.press("Enter")
    assert numbers(page) == list(range(49, 61))
    assert page.locator("[data-page=next]").is_disabled()


def test_arrows_move_and_go_on_over_the_page_end(gallery: Path, open_page: OpenPage) -> None:
    """Left and right go by one, up and down by a row, end and the next step over pages."""
    page = open_page(gallery)
    focused = "Number(document.activeElement.closest('.card').dataset.sample)"
    page.keyboard.press("ArrowRight")
    for key, expected in (("ArrowRight", 1), ("ArrowDown", 3), ("ArrowLeft", 2), ("ArrowUp", 0), ("ArrowUp", 0)):
        page.keyboard.press(key)
        assert page.evaluate(focused) == expected
    page.keyboard.press("PageDown")
    assert page.evaluate(focused) == 24
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == 23
    assert numbers(page) == list(range(1, 25))
    page.keyboard.press("End")
    assert page.evaluate(focused) == 59


def test_slash_goes_to_the_search(gallery: Path, open_page: OpenPage) -> None:
    """What is typed after it is searched, keys of the cards included."""
    page = open_page(gallery)
    page.keyboard.press("/")
    page.keyboard.type("m")
    assert page.input_value("#q") == "m"


def test_the_address_keeps_the_state(gallery: Path, open_page: OpenPage) -> None:
    """Filters, order, page and sample stand behind the #, and opening that address brings them back."""
    page = open_page(gallery)
    page.select_option("#status", "kept")
    page.select_option("#sort", "-strength")
    page.click("[data-page=next]")
    page.locator(".strip").nth(1).click()
    kept = state(page)
    assert kept == "status=kept&sort=-strength&page=2&sample=000000000022-000000000007-00"
    other = open_page(gallery, f"#{kept}")
    assert other.locator("#detail-key").inner_text() == "000000000022-000000000007-00"
    assert other.input_value("#status") == "kept"
    assert other.input_value("#sort") == "-strength"
    assert other.input_value("#page") == "2"


def test_an_address_that_makes_no_sense_is_survived(gallery: Path, open_page: OpenPage) -> None:
    """Unknown words, pages and samples are left out."""
    page = open_page(gallery, "#status=nonsense&page=-7&sample=none&sort=x&strength-from=abc&=&%")
    assert found(page) == "60 samples"
    assert state(page) == ""


# One sample


def test_enter_opens_space_flips_arrows_move_escape_closes(gallery: Path, open_page: OpenPage) -> None:
    """The large view is used by the same keys, and gives the focus back to the card of the sample shown last."""
    page = open_page(gallery)
    page.locator(".strip").nth(2).focus()
    page.keyboard.press("Enter")
    shown = page.locator(".look-at .shown .name")
    assert shown.inner_text() == "composite"
    page.keyboard.press("Space")
    assert shown.inner_text() == "real"
    page.keyboard.press("ArrowRight")
    assert page.locator("#detail-key").inner_text().startswith("000000000004")
    page.keyboard.press("Escape")
    assert not page.locator("#detail").is_visible()
    # The dialog gives the focus back to where it was, and the page moves it on when it is told of the closing.
    # A selector is waited for, since the page's policy forbids the `eval` by which a function is.
    page.locator(".card[data-sample='3']:focus-within").wait_for()


def test_arrows_in_the_large_view_turn_pages(gallery: Path, open_page: OpenPage) -> None:
    """The sample after the last of a page is the first of the next."""
    page = open_page(gallery)
    page.locator(".strip").nth(23).click()
    page.keyboard.press("ArrowRight")
    assert page.locator("#detail-key").inner_text().startswith("000000000025")
    page.keyboard.press("Escape")
    assert numbers(page) == list(range(25, 49))


def test_the_way_back_closes_the_large_view(gallery: Path, open_page: OpenPage) -> None:
    """The browser's back, which a phone has and no escape, closes; closing leaves no step behind."""
    page = open_page(gallery, "#status=kept")
    steps = page.evaluate("history.length")
    page.locator(".strip").first.click()
    page.wait_for_selector("#detail[open]")
    page.go_back()
    page.wait_for_selector("#detail:not([open])", state="attached")
    assert state(page) == "status=kept"
    page.locator(".strip").first.click()
    page.keyboard.press("Escape")
    wait_until(page, "!location.hash.includes('sample')")
    assert page.evaluate("history.length") == steps + 1  # the step that can be taken forwards again
    page.locator(".strip").nth(23).click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    wait_until(page, "location.hash === '#status=kept&page=2'")
    assert found(page) == "40 of 60 samples"


def test_details_tell_gates_licences_and_recipe(gallery: Path, open_page: OpenPage) -> None:
    """A rejected sample names each gate's value beside its threshold, licence and links of both photographs, the recipe."""
    page = open_page(gallery, "#sample=000000000003-000000000007-00")
    page.wait_for_selector(".facts table")
    facts = page.locator(".facts")
    assert facts.locator(".state").inner_text() == "effect_small 0.5, limit 0.05"
    rows = [row.split("\t") for row in facts.locator("tbody tr").all_inner_texts()]
    assert rows[0] == ["clipping", "0.01", "at most 0.05", "passed"]
    assert rows[2] == ["effect_small", "813", "at least 0.05", "failed"]
    assert rows[4] == ["unnatural", "\N{EN DASH}", "at least 0.02", "not asked"]
    links = {link.inner_text(): link.get_attribute("href") for link in facts.locator("a").all()}
    assert links["Attribution License"] == "http://creativecommons.org/licenses/by/2.0/"
    assert links["at Flickr"] == "https://farm1.staticflickr.com/3_z.jpg"
    assert facts.locator("h3", has_text="Photograph").all_inner_texts() == [
        "Photograph: target",
        "Photograph: reference",
    ]
    assert "family\nmkl" in facts.locator("details").first.evaluate(
        "(each) => { each.open = true; return each.innerText; }"
    )


def test_the_command_that_remakes_a_sample_is_copied(gallery: Path, open_page: OpenPage) -> None:
    """It names the run's folder on this machine, so that it can be pasted anywhere."""
    page = open_page(gallery, "#sample=000000000001-000000000007-00", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    expected = f"hcoco remake {gallery.parent.parent} 000000000001-000000000007-00"
    assert page.evaluate("navigator.clipboard.readText()") == expected


def test_hostile_text_is_shown_as_text(make_run: MakeRun, sample: Sample, open_page: OpenPage) -> None:
    """Markup in keys, names and addresses is read, not run; an address that is not of the web is no link."""
    person = {
        "image_id": 1,
        "license": 4,
        "coco_url": "javascript:window.pwned=1",
        "flickr_url": f"https://x/{HOSTILE}",
    }
    record = sample(1, key=HOSTILE, family=HOSTILE, status="rejected", reason=HOSTILE, target=person)
    licenses = {"4": {"name": HOSTILE, "url": "javascript:window.pwned=1"}}
    layout = make_run([record], name="<b>run 'x'", plan={"licenses": licenses})
    page = open_page(write_gallery(layout).page)
    assert page.locator(".card .key").inner_text() == HOSTILE
    page.locator(".strip").click()
    page.wait_for_selector(".facts table")
    assert page.locator("#detail-key").inner_text() == HOSTILE
    assert HOSTILE in page.locator(".facts .state").inner_text()
    assert page.locator("h1").inner_text() == "<b>run 'x'"
    addresses = [link.get_attribute("href") for link in page.locator("a").all()]
    assert all(address.startswith(("https://", "http://", "../report", "#")) for address in addresses)
    assert "javascript:window.pwned=1" in page.locator(".facts").inner_text()
    assert page.evaluate("window.pwned") is None
    assert page.locator("img:not(.tile img)").count() == 0


# Marks


def test_marks_are_saved_as_a_list(gallery: Path, open_page: OpenPage, tmp_path: Path) -> None:
    """Kept samples are marked to be banned, rejected ones to be re-admitted, by key or button; a line each."""
    page = open_page(gallery)
    page.locator(".strip").nth(1).focus()
    page.keyboard.press("m")
    page.locator(".mark").nth(2).click()
    page.locator(".mark").nth(3).click()
    page.locator(".mark").nth(3).click()
    page.click("#show-marks")
    assert page.locator("#marks-count").inner_text() == "1 to re-admit, 1 to ban."
    with page.expect_download() as saved:
        page.click("[data-do=save]")
    assert saved.value.suggested_filename == "sample-0a1b2c3d-marks.txt"
    saved.value.save_as(tmp_path / "marks.txt")
    assert (tmp_path / "marks.txt").read_text() == (
        "# hcoco gallery of sample-0a1b2c3d\nban 000000000002-000000000007-00\nreadmit 000000000003-000000000007-00\n"
    )


def test_marks_survive_a_reload(gallery: Path, open_page: OpenPage) -> None:
    """They are there again when the page is opened again, and can be shown alone."""
    page = open_page(gallery)
    page.locator(".mark").nth(5).click()
    page.reload()
    page.wait_for_selector(".card")
    assert page.locator(".mark[aria-pressed=true]").count() == 1
    page.click("#show-marks")
    page.click("[data-do=filter]")
    assert numbers(page) == [6]


def test_marks_that_fit_no_more_are_dropped(gallery: Path, open_page: OpenPage) -> None:
    """After a decision was carried out, or a sample is gone, an old mark says nothing."""
    page = open_page(gallery)
    page.locator(".mark").first.click()
    page.evaluate(
        """() => { const name = Object.keys(localStorage)[0]; const marks = JSON.parse(localStorage[name]);
        marks["000000000002-000000000007-00"] = "readmit"; marks.gone = "ban"; localStorage[name] = JSON.stringify(marks); }"""
    )
    page.reload()
    page.wait_for_selector(".card")
    assert page.locator("#show-marks").inner_text() == "Marks: 1"
    page.click("#show-marks")
    assert "2 older marks fit no sample any more" in page.locator("#marks-note").inner_text()


@pytest.mark.parametrize("stored", ["[", '"x"', "null", "[1,2]"])
def test_a_damaged_store_is_survived(gallery: Path, open_page: OpenPage, stored: str) -> None:
    """Whatever else a page from disk has left there, the gallery opens."""
    page = open_page(
        gallery, script=f"localStorage.getItem('x'); Storage.prototype.getItem = () => {json.dumps(stored)};"
    )
    assert page.locator(".card").count() == 24


def test_without_storage_the_page_says_so(gallery: Path, open_page: OpenPage) -> None:
    """Where the browser keeps nothing for pages from disk, marks work until the page is closed."""
    forbid = (
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } });"
    )
    page = open_page(gallery, script=forbid)
    page.locator(".mark").first.click()
    page.click("#show-marks")
    assert page.locator("#marks-count").inner_text() == "0 to re-admit, 1 to ban."
    assert "save the list before you close" in page.locator("#marks-note").inner_text()


def test_all_marks_are_removed_after_a_question(gallery: Path, open_page: OpenPage) -> None:
    """Only a yes removes them."""
    page = open_page(gallery)
    page.locator(".mark").first.click()
    page.click("#show-marks")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.click("[data-do=clear]")
    assert page.locator("#show-marks").inner_text() == "Marks: 1"
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("[data-do=clear]")
    assert page.locator("#show-marks").inner_text() == "Marks: 0"


def test_a_key_that_would_break_the_list_cannot_be_marked(
    make_run: MakeRun, sample: Sample, open_page: OpenPage
) -> None:
    """Blanks and line breaks never reach the file."""
    page = open_page(write_gallery(make_run([sample(1, key="1\nban 2")])).page)
    assert page.locator(".mark").first.is_disabled()
    page.locator(".strip").focus()
    page.keyboard.press("m")
    assert page.locator("#show-marks").inner_text() == "Marks: 0"


# For everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("opened", ["cards", "detail", "marks"])
def test_axe_finds_nothing_serious(gallery: Path, open_page: OpenPage, scheme: str, opened: str) -> None:
    """Names, roles, contrast and order are in place, in light and dark, in every view."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra `browser`")
    page = open_page(gallery, color_scheme=scheme)
    page.locator(".mark").nth(2).click()
    if opened == "detail":
        page.locator(".strip").nth(2).click()
        page.wait_for_selector(".facts table")
    elif opened == "marks":
        page.click("#show-marks")
    violations = axe.Axe().run(page).response["violations"]
    assert [
        (each["id"], each["nodes"][0]["html"]) for each in violations if each["impact"] in {"serious", "critical"}
    ] == []


@pytest.mark.parametrize("after", ["", "#sample=000000000003-000000000007-00"])
def test_a_phone_scrolls_one_way(gallery: Path, browser: Any, after: str) -> None:
    """On a narrow screen nothing sticks out, and what is touched is large enough."""
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(gallery.as_uri() + after)
    page.wait_for_selector(".card")
    page.locator(".filters").evaluate("(each) => { each.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    if after:
        assert page.evaluate(
            "document.getElementById('detail').scrollWidth <= document.getElementById('detail').clientWidth"
        )
    heights = page.evaluate(
        "[...document.querySelectorAll('button')].filter((b) => b.offsetHeight).map((b) => b.offsetHeight)"
    )
    assert min(heights) >= 44
    context.close()


def test_a_gallery_that_was_torn_apart_says_so(gallery: Path, tmp_path: Path, browser: Any) -> None:
    """A page that was copied without its folder tells what is missing."""
    shutil.copy(gallery, tmp_path / "index.html")
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    wait_until(page, "document.getElementById('made').textContent.includes('cannot be read')")
    page.close()
