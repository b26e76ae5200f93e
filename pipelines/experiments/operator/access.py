"""Checks that users of the operator's page have the needed Kubernetes rights in the namespace.

The user's name is in an HTTP header, which other pods could forge. So the service mesh must admit only the platform's
gateway (manifests/components/istio).
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from pipelines.experiments.cluster_api import GROUP, PLURAL, REASON, ClusterApi
from serving.kubernetes_api import Refused

# Prometheus, routers and the kubelet call these paths without a user.
_OPEN = ("/metrics", "/v1/in-force", "/health/live", "/health/ready")
# A form on another site can't send this header, which prevents cross-site requests.
_BUTTON = "mtorl-page"


def require_rights(app: web.Application, api: ClusterApi, header: str) -> None:
    """Refuse users without the needed rights, and add the route `POST /stop/NAME`, which stops an experiment.

    Args:
        header: HTTP header in which the gateway passes the user's name.
    """
    pool = ThreadPoolExecutor(2, "rights")

    def may(user: str, verb: str, name: str) -> bool:
        asked = {"namespace": api.namespace, "group": GROUP, "resource": PLURAL, "verb": verb, "name": name}
        review = {"kind": "LocalSubjectAccessReview", "spec": {"user": user, "resourceAttributes": asked}}
        answer = api.create("localsubjectaccessreviews", {**review, "metadata": {"namespace": api.namespace}})
        return bool(answer["status"].get("allowed"))

    @web.middleware
    async def check(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path in _OPEN:
            return await handler(request)
        users = request.headers.getall(header, [""])
        if len(users) != 1 or not users[0]:
            raise web.HTTPUnauthorized(text=f"{header} names no user: open the page through the platform's gateway\n")
        stops = request.method != "GET"
        verb, name = ("patch" if stops else "get"), request.match_info.get("name", "")
        try:
            allowed = await asyncio.get_running_loop().run_in_executor(pool, may, users[0], verb, name)
        except OSError as error:
            raise web.HTTPServiceUnavailable(text=f"the API server: {type(error).__name__}\n") from None
        if not allowed or (stops and _BUTTON not in request.headers):
            raise web.HTTPForbidden(text=f"{users[0]} may not {verb} experiments in {api.namespace} from this page\n")
        return await handler(request)

    async def stop(request: web.Request) -> web.Response:
        name, reason = request.match_info["name"], f"stopped on the page by {request.headers[header]}"
        patch = {"metadata": {"annotations": {REASON: reason}}, "spec": {"enabled": False}}
        try:
            await asyncio.get_running_loop().run_in_executor(pool, api.merge_patch, PLURAL, name, patch)
        except Refused as error:
            raise web.HTTPConflict(text=f"{error}\n") from None
        return web.Response(text=f"{name} is stopped: all users get the incumbent.\n")

    app.middlewares.append(check)
    app.router.add_post("/stop/{name}", stop)
