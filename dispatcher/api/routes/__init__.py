"""Every operation of the API, one row each: the server, its document and its tests read this table.

What belongs here: one module per noun of the paths, with nothing but its rows. What does not: what an operation does
(the modules of the API) and its shapes (their models). May know both.
"""

from typing import Final

from dispatcher.api.routes.accounts import ACCOUNT_ROUTES
from dispatcher.api.routes.dead_events import DEAD_EVENT_ROUTES
from dispatcher.api.routes.deliveries import DELIVERY_ROUTES
from dispatcher.api.routes.endpoints import ENDPOINT_ROUTES
from dispatcher.api.routes.events import EVENT_ROUTES
from dispatcher.api.routes.hosts import HOST_ROUTES
from dispatcher.api.routes.keys import KEY_ROUTES
from dispatcher.api.routes.published import OPENAPI_ROUTE, SOURCE_IPS_ROUTE
from dispatcher.api.routes.replays import REPLAY_ROUTES
from dispatcher.api.routes.users import USER_ROUTES

ROUTES: Final = (
    *ENDPOINT_ROUTES,
    *DELIVERY_ROUTES,
    *REPLAY_ROUTES,
    *EVENT_ROUTES,
    OPENAPI_ROUTE,
    *KEY_ROUTES,
    *USER_ROUTES,
    SOURCE_IPS_ROUTE,
    *ACCOUNT_ROUTES,
    *HOST_ROUTES,
    *DEAD_EVENT_ROUTES,
)
"""In the order of the document."""
