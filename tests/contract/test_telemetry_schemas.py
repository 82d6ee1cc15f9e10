"""The published lists of metrics and log lines, held against the code that makes them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dispatcher.policy.catalogue import Catalogue
from dispatcher.policy.schema_files import load_catalogue, schema_folder
from dispatcher.telemetry.metrics import Metrics
from tests.house.files import PACKAGE, python_files, shown
from tests.house.generated import metrics_yaml
from tests.support.record_files import SCHEMAS

EVENTS: dict[str, dict[str, Any]] = yaml.safe_load((SCHEMAS / "log-events.yaml").read_text(encoding="utf-8"))["events"]
LEVELS = {"debug", "info", "warning", "error", "critical", "exception", "log"}
# What an exception becomes on its way to a line.
OF_EXCEPTIONS = {"error_type", "frames"}


class Line(NamedTuple):
    """One place in the code that logs."""

    place: str
    name: str
    levels: frozenset[str]
    fields: frozenset[str]


def lines_in(tree: ast.AST, place: str) -> Iterator[Line]:
    """Give every call of a method named after a level, on anything that is called log or makes one."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=logger, attr=method)) if method in LEVELS and is_log(logger):
                where = f"{place}:{node.lineno}"
                name = node.args[1 if method == "log" else 0]
                assert isinstance(name, ast.Constant), f"{where}: an event's name is a literal"
                assert all(keyword.arg for keyword in node.keywords), f"{where}: fields are named one by one"
                yield Line(where, str(name.value), levels_of(method, node), fields_of(method, node))


def is_log(node: ast.expr) -> bool:
    text = ast.unparse(node)
    return text in {"_log", "log", "self._log"} or text.startswith("structlog.get_logger(")


def levels_of(method: str, call: ast.Call) -> frozenset[str]:
    if method == "log":
        return frozenset(part.attr.lower() for part in chosen(call.args[0]))
    return frozenset({"error" if method == "exception" else method})


def chosen(level: ast.expr) -> Iterator[ast.Attribute]:
    """Give the levels that an expression can come to."""
    if isinstance(level, ast.IfExp):
        yield from chosen(level.body)
        yield from chosen(level.orelse)
    else:
        assert isinstance(level, ast.Attribute)
        yield level


def fields_of(method: str, call: ast.Call) -> frozenset[str]:
    names = {str(keyword.arg) for keyword in call.keywords}
    tells_exception = method == "exception" or "exc_info" in names
    return frozenset(names - {"exc_info"} | (OF_EXCEPTIONS if tells_exception else set()))


def logged() -> list[Line]:
    return [
        line
        for file in python_files(PACKAGE)
        for line in lines_in(ast.parse(Path(file).read_text(encoding="utf-8")), shown(file))
    ]


def test_every_logged_line_is_published_with_its_level_and_fields() -> None:
    faults = []
    for line in logged():
        published = EVENTS.get(line.name)
        if published is None:
            faults.append(f"{line.place}: {line.name} is not in log-events.yaml")
        elif not (line.levels <= set(published["level"]) and line.fields <= set(published["fields"])):
            faults.append(f"{line.place}: {line.name} has {sorted(line.levels)} and {sorted(line.fields)}")

    assert not faults


def test_every_published_line_is_logged_with_all_its_levels_and_fields() -> None:
    levels: dict[str, set[str]] = {}
    fields: dict[str, set[str]] = {}
    for line in logged():
        levels.setdefault(line.name, set()).update(line.levels)
        fields.setdefault(line.name, set()).update(line.fields)

    assert {name: set(event["level"]) for name, event in EVENTS.items()} == levels
    assert {name: set(event["fields"]) for name, event in EVENTS.items()} == fields


def test_every_module_that_logs_is_seen() -> None:
    seen = {line.place.partition(":")[0] for line in logged()}
    makers = {
        shown(file) for file in python_files(PACKAGE) if "structlog.get_logger(" in file.read_text(encoding="utf-8")
    }

    assert makers == seen


@pytest.mark.parametrize("name", EVENTS)
def test_a_name_is_words_of_lower_case_and_its_meaning_a_sentence(name: str) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)+", name)
    assert EVENTS[name]["meaning"].endswith(".")
    assert list(EVENTS) == sorted(EVENTS)


def test_the_reader_of_the_code_sees_levels_fields_and_exceptions() -> None:
    code = (
        "_log.info('a_done', x=1)\n"
        "_log.exception('b_fell')\n"
        "structlog.get_logger().log(logging.INFO if ok else logging.ERROR, 'c_came', exc_info=f)\n"
        "math.log(2)\n"
    )

    found = list(lines_in(ast.parse(code), "m.py"))

    assert [(line.name, set(line.levels), set(line.fields)) for line in found] == [
        ("a_done", {"info"}, {"x"}),
        ("b_fell", {"error"}, OF_EXCEPTIONS),
        ("c_came", {"info", "error"}, OF_EXCEPTIONS),
    ]


def test_the_published_metrics_are_those_of_the_code() -> None:
    assert (SCHEMAS / "metrics.yaml").read_text(encoding="utf-8") == metrics_yaml()


def test_a_scrape_shows_the_published_metrics_and_no_others() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, [one.name for one in Catalogue.from_document(load_catalogue(schema_folder())).types])
    metrics.counts("kafka_lag_records").put(1, "t", "0")
    published = yaml.safe_load((SCHEMAS / "metrics.yaml").read_text(encoding="utf-8"))["metrics"]

    families = {
        family.name + "_total" * (family.type == "counter"): family
        for family in text_string_to_metric_families(generate_latest(registry).decode())
    }

    assert set(families) == {one["name"] for one in published}
    for one in published:
        family = families[one["name"]]
        names = {name for sample in family.samples for name in sample.labels} - {"le"}
        assert (family.type, family.documentation, names) == (one["kind"], one["help"], set(one.get("labels", {})))
