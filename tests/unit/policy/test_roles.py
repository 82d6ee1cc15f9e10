"""Roles and the scopes they stand for."""

from itertools import pairwise

import pytest

from dispatcher.model.access import TENANT_SCOPES, Role, Scope
from dispatcher.policy.roles import SCOPES_OF, lacking


def test_every_role_has_scopes_of_an_account_and_each_less_than_the_one_before() -> None:
    scopes = [SCOPES_OF[role] for role in Role]

    assert scopes[0] == TENANT_SCOPES
    assert all(less < more for more, less in pairwise(scopes))


def test_owners_alone_make_keys_and_viewers_change_nothing() -> None:
    assert [role for role in Role if Scope.KEYS_WRITE in SCOPES_OF[role]] == [Role.OWNER]
    assert {scope for scope in SCOPES_OF[Role.VIEWER] if not scope.endswith(":read")} == set()


@pytest.mark.parametrize("role", Role)
def test_who_lacks_one_scope_of_a_role_lacks_the_role(role: Role) -> None:
    for scope in SCOPES_OF[role]:
        assert lacking(SCOPES_OF[role] - {scope}, role) == [scope]
    assert lacking(SCOPES_OF[role], role) == []
