"""Google Cloud's network around a route from outside: a reserved address, and the subnet that regional proxies want."""

from __future__ import annotations

from typing import Final

from penstock.deploy.render.inputs import Context
from penstock.deploy.runbook.place import Place
from penstock.deploy.runbook.shell import block, gone, line, unless
from penstock.deploy.runbook.step import Step

# Google's own example; `PROXY_RANGE=…` where the network has something else there.
_PROXY_RANGE: Final = "10.129.0.0/23"


def network_steps(context: Context, place: Place) -> list[Step]:
    """Nothing where nothing comes in from outside."""
    expose = context.settings.expose
    if expose.by == "none" or not context.on_gke:
        return []
    found = []
    regional = expose.internal or expose.by != "ingress"
    if regional:
        found.append(_proxy_subnet(place))
    if expose.static_ip:
        found.append(_address(context, place, expose.static_ip, regional=regional))
    return found


def _proxy_subnet(place: Place) -> Step:
    name = f"penstock-proxy-{place.region}"
    where = (f"--region={place.region}", f"--project={place.project}")
    group = ("gcloud", "compute", "networks", "subnets")
    listed = line(
        *group,
        "list",
        f"--filter=purpose=REGIONAL_MANAGED_PROXY AND region~/{place.region}$",
        "--format=value(name)",
        f"--project={place.project}",
    )
    create = line(
        *group, "create", name, *where, "--network=default", "--purpose=REGIONAL_MANAGED_PROXY", "--role=ACTIVE",
        "--range=${PROXY_RANGE}",
    )  # fmt: skip
    return Step(
        title="A subnet for the load balancer's proxies",
        why=f"Regional load balancers have none without it. Its range is {_PROXY_RANGE}, or what PROXY_RANGE says.",
        make=(f'PROXY_RANGE="${{PROXY_RANGE:-{_PROXY_RANGE}}}"', block(f'if [ -z "$({listed})" ]; then', [create])),
        undo=(gone(*group, "delete", name, *where),),
        keep="cluster",
    )


def _address(context: Context, place: Place, name: str, *, regional: bool) -> Step:
    internal = context.settings.expose.internal
    where = (f"--region={place.region}" if regional else "--global", f"--project={place.project}")
    kind = ("--purpose=SHARED_LOADBALANCER_VIP", "--subnet=default") if internal else ()
    group = ("gcloud", "compute", "addresses")
    return Step(
        title="The reserved address",
        why="A reserved address costs while nothing uses it: teardown gives it back.",
        make=(unless((*group, "describe", name, *where), line(*group, "create", name, *where, *kind)),),
        undo=(gone(*group, "delete", name, *where),),
    )
