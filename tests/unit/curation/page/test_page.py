import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from components.curation.audit import AuditParams, Curation
from components.curation.clusters import training_clusters
from components.curation.funnel import funnel
from components.curation.page.page import LINKS, Story, render, training_vectors
from components.curation.page.reasons import meaning
from components.curation.retrieval import SetAccount
from components.data.decoding import DecodingError
from components.data.inspection import TOO_MANY_BYTES
from tests.curations import Made, make

ACCOUNT = SetAccount("pets", "knn", 4, 0, 31, 27, 27)
HOSTILE = "{split}/<script>alert({number})<!--'\"&.jpg"


def story(curation: Curation, *, sets: bool = True) -> Story:
    groups = curation.groups["id"].to_pylist()
    stays = np.array([one in set(curation.curated) for one in groups])
    queries = curation.manifest.ids("eval")
    rows = [
        {"set": "pets", "query": query, "neighbour": one, "rank": rank, "similarity": 0.5}
        for query in queries
        for rank, one in enumerate(curation.curated[:9])
    ]
    checks: list[dict[str, Any]] = [
        {"meaning": "all is well", "success": True, "unexpected": 0},
        {"meaning": "nothing is < 3", "success": False, "unexpected": 3},
    ]
    return Story(
        steps=funnel(curation.manifest, curation.groups, curation.curated),
        sets=pa.Table.from_pylist([ACCOUNT._asdict()] if sets else [], schema=pa.schema(_columns())),
        neighbours=pa.Table.from_pylist(rows),
        clusters=training_clusters(groups, training_vectors(curation), stays, 3, 0),
        reports=(("manifest", checks),),
    )


def _columns() -> list[tuple[str, pa.DataType]]:
    return [(name, pa.string() if kind is str else pa.int64()) for name, kind in SetAccount.__annotations__.items()]


def page(made: Made, **values: Any) -> str:
    return render(made.curation, story(made.curation, **values), made.reader, AuditParams(examples=4))


class Reading(HTMLParser):
    """What a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self._section = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._section = dict(attrs)["id"] or ""
        self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text[self._section] = self.text.get(self._section, "") + data


@pytest.fixture(scope="module")
def made() -> Made:
    return make()


@pytest.fixture(scope="module")
def seen(made: Made) -> Reading:
    return Reading(page(made))


def test_the_page_alone_says_what_was_thrown_away_and_why(seen: Reading) -> None:
    text = seen.text["summary"]
    assert "40 training files came in. 13 of them (32.5 %) were thrown away, 27 images are trained on" in text
    for reason, count in {"same-bytes": 1, "truncated": 2, "duplicate": 3, "leak": 2, "not-retrieved": 5}.items():
        assert f"{meaning(reason).title}{count}{100 * count / 40:.1f} %{meaning(reason).why}" in text


def test_the_page_asks_for_nothing_from_anywhere(seen: Reading) -> None:
    for name, attributes in seen.tags:
        assert name not in ("script", "link", "iframe", "object", "base", "form")
        for key in ("src", "href"):
            value = attributes.get(key) or "#"
            assert value.startswith(("#", "data:image/jpeg;base64,")), (name, value)
    assert "url(" not in (seen.text.get("") or "")
    assert "@import" not in seen.text[""]


def test_links_lead_to_sections(seen: Reading) -> None:
    sections = {attributes["id"] for name, attributes in seen.tags if name == "section"}
    assert set(LINKS) == sections
    assert {attributes["href"] for name, attributes in seen.tags if name == "a"} <= {f"#{one}" for one in sections}


def test_what_goes_is_struck_out_and_what_stays_is_not(made: Made, seen: Reading) -> None:
    curated = {*made.curation.curated, *made.curation.manifest.ids("eval")}
    struck, shown = set(), set()
    classes = [attributes.get("class") for name, attributes in seen.tags if name == "figure"]
    pictures = [attributes for name, attributes in seen.tags if name == "img"]
    for style, picture in zip(classes, pictures, strict=True):
        (struck if style == "gone" else shown).add(str(picture["title"]).splitlines()[1])
    assert shown <= curated
    assert struck
    assert struck.isdisjoint(curated)


def test_names_that_hold_markup_are_texts() -> None:
    made = make(name=HOSTILE)
    text = page(made)
    assert "<script" not in text
    assert "<!--" not in text
    names = {attributes["alt"] for name, attributes in Reading(text).tags if name == "img"}
    assert HOSTILE.format(split="train", number=30) in names


def test_the_same_tables_give_the_same_page(made: Made) -> None:
    assert page(made) == page(make())


def test_nothing_found_is_said_in_words() -> None:
    made = make(left_out=0, broken=0)
    groups = made.curation.groups
    seen_once = groups.filter(pc.equal(groups["reason"], "unique"))
    nothing = replace(made.curation, groups=seen_once, pairs=made.curation.pairs.slice(0, 0))
    text = Reading(page(replace(made, curation=nothing), sets=False)).text
    assert "Every image of the source decodes." in text["quarantine"]
    assert "No two images show the same picture." in text["duplicates"]
    assert "No training image shows what an evaluation image shows." in text["leaks"]
    assert "Every image that deduplication left was chosen" in text["retrieval"]


def test_leaks_that_are_the_same_file_are_told_apart(seen: Reading) -> None:
    text = "2 training images show what an evaluation image shows, or are copies of such an image. 0 are"
    assert text in seen.text["leaks"]
    assert "2 pairs of different files" in seen.text["leaks"]


def test_sets_checks_and_clusters_are_told(seen: Reading) -> None:
    assert "petsknn40312727" in seen.text["retrieval"]
    assert "nothing is < 3fails3" in seen.text["checks"]
    assert re.search(r"before.*after", seen.text["clusters"])


def test_every_reason_of_the_decoder_is_explained() -> None:
    listed = re.findall(r"`([a-z-]+)`", DecodingError.__doc__ or "")
    assert len(listed) >= 8
    for reason in [*listed, TOO_MANY_BYTES]:
        assert meaning(reason).title != reason or meaning(reason).why != meaning("unheard of").why
    assert meaning("unheard of").title == "unheard of"


def test_a_query_of_two_sets_shows_its_neighbours_once_for_each() -> None:
    made = make()
    told = story(made.curation)
    again = told.neighbours.set_column(0, "set", pa.array(["parts"] * told.neighbours.num_rows))
    both = replace(told, neighbours=pa.concat_tables([told.neighbours, again]))
    text = render(made.curation, both, made.reader, AuditParams(examples=200))
    queries = Reading(text).text["retrieval"].split("query")[1:]
    assert len(queries) == 2 * len(made.curation.manifest.ids("eval"))
    assert [one.count("cosine") for one in queries] == [6] * len(queries)
