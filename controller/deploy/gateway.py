"""Splits as weights of an HTTPRoute, for teams whose gateway exists already.

**Whose route?** The team's own, of which we own one field, `spec.rules`, by server-side apply.

- A route of our own beside the team's (as Flagger makes it from its own settings) loses what the
  team's rule has: filters, timeouts, and every policy for authentication or rate limits that is
  attached to that route (fluxcd/flagger#1857). And where two routes have the same match the older
  one wins, while both are Accepted: weights that nobody applies, reported as in force.
- Reading the route and writing all of it back (`Update`, as the plugin of Argo Rollouts does) says
  nothing to other writers. Whoever applies the route next resets the weights silently, and rules
  or backends were lost on the way (rollouts-plugin-trafficrouter-gatewayapi#203, #217).
- A JSON patch of single weights, tested by resourceVersion, notices changes in between, and no
  others: there is no owner afterwards, so the next `kubectl apply` is not told either.

A field that we own is different: a second writer who applies is refused by the API server, and one
who simply writes takes the ownership along, which the next of our requests finds out. That is also
why moving traffic takes one request, a rollback included: while the rules are ours, what we last
read of them is what they are, and if not, the API server answers 409 and nothing has changed.

    not ours yet, written once by kubectl    taken over once, noted in `understudy.dev/fields`
    applied by somebody (flux, argocd)       Conflict, from the first day
    changed by somebody after that           Conflict; not fought, also not for a rollback
    deleted and created anew                 taken over anew

**In force** is a split when the route says what is wanted *and* every parent's controller has said
`Accepted` and `ResolvedRefs` of this generation. No word from a controller is no confirmation. It
is still no proof that the last proxy has it: only exposures that carry the epoch are.

**Not sticky.** A weight of a route is a chance for each request, not for a unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from controller.deploy.carrying import ObjectRouter
from controller.deploy.client import Connection
from controller.deploy.found import Key
from controller.deploy.keeping import Kept
from controller.deploy.objects import Resource
from controller.deploy.routes import patch, standing, wanted
from controller.deploy.target import Standing
from controller.router.snapshot import RoutedModel

HTTP_ROUTES: Final = Resource("gateway.networking.k8s.io/v1", "httproutes", "HTTPRoute")


class GatewayRouter(ObjectRouter):
    """The router of policies with `deploy.gateway`.

    namespaces  where the routes are; an empty sequence: everywhere
    clock       monotonic seconds
    fence       raises `Deposed` when another controller leads
    """

    def __init__(
        self,
        connection: Connection,
        *,
        namespaces: Sequence[str],
        clock: Callable[[], float],
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        kept = Kept(
            connection,
            HTTP_ROUTES,
            namespaces=namespaces,
            clock=clock,
            changed=self._noticed,
            fence=fence,
        )
        super().__init__(kept, clock)
        self._written: dict[Key, str] = {}

    def carry(self, model: RoutedModel) -> None:
        """Write the weights and read them back."""
        want = wanted(model)
        found = self._kept.write(want.key, lambda route: patch(route, want))
        self._written[want.key] = found["metadata"]["uid"]

    def standing(self, model: RoutedModel) -> Standing:
        """From the route as it was seen last."""
        want = wanted(model)
        return standing(self._kept.get(want.key), want)

    def _noticed(self, key: Key) -> None:
        """A route that was deleted and created again knows nothing of a split."""
        found = self._kept.get(key)
        written = self._written.get(key)
        if found is None or written in {None, found["metadata"]["uid"]}:
            return
        self.again(lambda model: wanted(model).key == key)
