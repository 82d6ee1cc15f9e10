import json
from collections.abc import Iterator
from enum import StrEnum

import pytest
import yaml

from dispatcher.model.delivery import DeliveryState
from dispatcher.model.outcome import OutcomeKind
from tests.house.files import ROOT, shown
from tests.house.generated import metrics_yaml

# A word that no other list has: where it stands, the whole list has to stand.
MARKS: dict[str, type[StrEnum]] = {"http_4xx": OutcomeKind, "retrying": DeliveryState}


def lists_in(document: object) -> Iterator[list[object]]:
    if isinstance(document, dict):
        for value in document.values():
            yield from lists_in(value)
    elif isinstance(document, list):
        yield document
        for value in document:
            yield from lists_in(value)


def differences(document: object) -> list[str]:
    """Say where a document's copy of a closed list lacks a member or has one of its own."""
    faults = []
    for found in lists_in(document):
        words = {word for word in found if isinstance(word, str)}
        for mark, closed in MARKS.items():
            if mark in words and words ^ set(closed):
                faults.append(f"{closed.__name__}: {sorted(words ^ set(closed))}")
    return faults


def test_published_copies_of_closed_lists_are_whole() -> None:
    faults = []
    for file in sorted((ROOT / "schemas").rglob("*")):
        text = file.read_text(encoding="utf-8") if file.suffix in {".json", ".yaml"} else "null"
        document = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
        faults += [f"{shown(file)}: {fault}" for fault in differences(document)]

    assert not faults


def test_metrics_name_every_outcome() -> None:
    described = yaml.safe_load(metrics_yaml())

    assert any(set(OutcomeKind) <= set(words) for words in lists_in(described) if "http_4xx" in words)
    assert differences(described) == []


@pytest.mark.parametrize("closed", MARKS.values())
def test_a_missing_or_foreign_member_is_found(closed: type[StrEnum]) -> None:
    whole: list[str] = [*closed]
    mark = next(mark for mark, marked in MARKS.items() if marked is closed)

    assert differences({"enum": whole}) == []
    assert differences({"enum": [mark, *(word for word in whole[:-1] if word != mark)]}) != []
    assert differences({"enum": [*whole, "another"]}) != []
