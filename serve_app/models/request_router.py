"""Serve's request router for models: a shell around `serve_app.models.affinity`.

It lives in each caller's handle, so gateway and agents route alike. It knows a replica's load as Serve's own router
does: from what the replica said with its last answer, and from a look at it where that is old.

A call is refused here, at once, when every replica has all that it takes: what waits, waits in the replicas, where
there is one line for all callers. Serve would let it wait here, in a line for each caller, and look every half second.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from manta.errors import MantaError, Overloaded, RunCancelled
from manta.messages import ChatRequest
from serve_app.models.affinity import Place, affinity_key, balanced, preference
from serve_app.models.names import version_behind

ROUTER = "serve_app.models.request_router:ModelRouter"
Ranks = list[list[RunningReplica]]


class ModelRouter(RequestRouter):
    """Of `request_router_kwargs`: `affinity`, whether calls go to where their KV is; `slack`, by how many requests
    their replica may be busier than the least busy one.
    """

    def initialize_state(self, **kwargs: Any) -> None:
        self._affinity: bool = kwargs.get("affinity", True)
        self._slack: int = kwargs.get("slack", 4)
        self._probed: WeakSet[asyncio.Future[Any]] = WeakSet()
        self._of_task: WeakKeyDictionary[asyncio.Task[Any], PendingRequest] = WeakKeyDictionary()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> Ranks:
        """Never empty: Serve asks again after an empty answer without a pause."""
        if pending_request is None:
            return [candidate_replicas]
        task = asyncio.current_task()
        if task is not None:
            self._of_task[task] = pending_request
        # Else Serve does not pause between two rounds.
        pending_request.routing_context.should_backoff = True
        request = _chat_request(pending_request)
        error = self._refusal(candidate_replicas, pending_request, request)
        if error is not None:
            if not pending_request.future.done():
                pending_request.future.set_exception(error)
            return [candidate_replicas]
        return self._in_order(candidate_replicas, request)

    def _refusal(
        self, replicas: list[RunningReplica], pending: PendingRequest, request: ChatRequest | None
    ) -> MantaError | None:
        if request is None:
            return None
        deadline = request.hints.deadline
        if deadline is not None and deadline <= time.time():
            return RunCancelled("the lease of this call lapsed while it waited", fix="its caller gave it up")
        if self.select_available_replicas(replicas):
            return None
        if pending.future in self._probed:
            name, _ = version_behind(self.app_name) or (self.app_name, 0)
            return Overloaded(f"model {name} has too many requests waiting", fix="try again later")
        # What is known of them may be old. They are looked at when they are chosen now.
        self._probed.add(pending.future)
        return None

    def _in_order(self, replicas: list[RunningReplica], request: ChatRequest | None) -> Ranks:
        by_name = {replica.replica_id.unique_id: replica for replica in replicas}
        places = [self._place(name, replica) for name, replica in by_name.items()]
        key = affinity_key(request) if self._affinity and request is not None else None
        if key is None:
            order: Sequence[str] = balanced(places, {name: random.random() for name in by_name})
        else:
            order = preference(key, places, self._slack)
        return [[by_name[name]] for name in order]

    def _place(self, name: str, replica: RunningReplica) -> Place:
        load = self.replica_queue_len_cache.get(replica.replica_id)
        return Place(name, load or 0, replica.max_ongoing_requests)

    def _fulfill_next_pending_request(self, replica: RunningReplica, request_metadata: Any = None) -> None:
        """The replica is for the request that it was chosen for.

        Serve finds that request by an id which calls made within one HTTP request have in common: the second of
        them would be looked for, and not found, for ever.
        """
        task = asyncio.current_task()
        pending = self._of_task.get(task) if task is not None else None
        if pending is None:
            super()._fulfill_next_pending_request(replica, request_metadata)
        elif not pending.future.done():
            self._record_queue_wait_time(pending)
            pending.future.set_result(replica)
            self._remove_pending_request_from_indices(pending)


def _chat_request(pending: PendingRequest) -> ChatRequest | None:
    first = pending.args[0] if pending.args else None
    return first if isinstance(first, ChatRequest) else None
