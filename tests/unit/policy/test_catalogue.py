import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.model.errors import ConfigurationError
from dispatcher.policy.catalogue import Catalogue, FaultKind, SubscriptionFault
from dispatcher.policy.schema_files import load_catalogue, schema_folder

DOCUMENT = load_catalogue(schema_folder())
CATALOGUE = Catalogue.from_document(DOCUMENT)
OPERATIONAL = {"endpoint.failing", "endpoint.disabled", "delivery.exhausted"}


def test_everything_means_every_type_but_the_operational_ones() -> None:
    names = {kind.name for kind in CATALOGUE.types}

    assert set(CATALOGUE.expand(["*"])) == names - OPERATIONAL
    assert names > OPERATIONAL


def test_operational_types_come_by_name_or_group() -> None:
    chosen = CATALOGUE.expand(["*", "endpoint.*", "delivery.exhausted"])

    assert set(chosen) >= OPERATIONAL


def test_a_group_is_the_types_before_the_first_full_stop_in_published_order() -> None:
    chosen = CATALOGUE.expand(["verification.*"])

    assert chosen[0] == "verification.created"
    assert len(chosen) == 11
    assert all(name.startswith("verification.") for name in chosen)


@pytest.mark.parametrize(
    "names",
    [["*"], ["verification.*"], ["check.completed", "endpoint.*"], ["webhook.ping", "delivery.*"]],
)
def test_types_groups_and_everything_may_be_subscribed(names: list[str]) -> None:
    assert CATALOGUE.check_subscription(names) == []


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("verification.complete", "verification.completed"),
        ("verification.cancelled", "verification.canceled"),
        ("VERIFICATION.COMPLETED", "verification.completed"),
        ("verifications.*", "verification.*"),
        ("check.complete", "check.completed"),
        ("endpoint.disable", "endpoint.disabled"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one_first(name: str, nearest: str) -> None:
    (fault,) = CATALOGUE.check_subscription([name])

    assert (fault.name, fault.kind) == (name, FaultKind.UNKNOWN)
    assert fault.nearest[0] == nearest
    assert len(fault.nearest) <= 3


@pytest.mark.parametrize(
    "name",
    [
        "",
        "**",
        "verification",
        "verification.",
        "verification.**",
        "*.completed",
        "zzz",
        " *",
        "*\n",
    ],
)
def test_a_pattern_of_another_form_is_refused(name: str) -> None:
    (fault,) = CATALOGUE.check_subscription([name])

    assert fault.kind is FaultKind.UNKNOWN


def test_every_fault_is_told_in_the_order_of_the_names() -> None:
    faults = CATALOGUE.check_subscription(["nothing", "*", "*", "verification.complet", "*"])

    assert [(fault.index, fault.name, fault.kind) for fault in faults] == [
        (0, "nothing", FaultKind.UNKNOWN),
        (2, "*", FaultKind.REPEATED),
        (3, "verification.complet", FaultKind.UNKNOWN),
        (4, "*", FaultKind.REPEATED),
    ]


def test_a_subscription_to_nothing_is_refused() -> None:
    assert CATALOGUE.check_subscription([]) == [SubscriptionFault(0, "", FaultKind.EMPTY)]


@given(name=st.text(max_size=400))
def test_any_text_is_either_allowed_or_one_fault(name: str) -> None:
    faults = CATALOGUE.check_subscription([name])

    assert len(faults) == (0 if CATALOGUE.expand([name]) else 1)


def test_a_producers_own_name_is_mapped_to_ours() -> None:
    alias = "com.example.idv.session.decided.v2"
    catalogue = Catalogue.from_document(DOCUMENT, {alias: "verification.completed"})

    assert catalogue.from_producer(alias) == "verification.completed"
    assert catalogue.from_producer("verification.completed") == "verification.completed"
    assert not catalogue.is_known(alias)
    assert CATALOGUE.from_producer(alias) is None


@pytest.mark.parametrize("name", [*sorted(OPERATIONAL), "webhook.ping"])
def test_a_producer_may_not_send_what_the_dispatcher_makes(name: str) -> None:
    assert CATALOGUE.is_known(name)
    assert CATALOGUE.from_producer(name) is None


def test_aliases_that_lead_nowhere_are_all_told_at_once() -> None:
    aliases = {
        "a.done": "verification.complete",
        "b.done": "endpoint.disabled",
        "c": "check.completed",
    }

    with pytest.raises(ConfigurationError) as caught:
        Catalogue.from_document(DOCUMENT, aliases)

    assert len(caught.value.faults) == 2
    assert "nearest: verification.completed" in caught.value.faults[0]


def test_looking_up_a_type_tells_what_it_is() -> None:
    completed = CATALOGUE.find("verification.completed")

    assert completed is not None
    assert (completed.status, completed.final, completed.default) == ("completed", True, True)
    assert CATALOGUE.find("verification.*") is None
