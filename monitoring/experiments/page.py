"""Renders experiments as one self-contained HTML file.

    page([view])                          # a page to save or send, without a script
    page(views, refresh=10)               # a page on a server, which loads new figures every ten seconds

The template escapes all texts, because names and reasons may contain HTML.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from monitoring import plain_words
from monitoring.experiments.charts import domain, track
from monitoring.experiments.document import View
from mtorl.experiment.arm import ALL_ARMS, OUTSIDE
from mtorl.pages import words
from mtorl.pages.page import filled

Json = dict[str, Any]

_TEMPLATE = Path(__file__).parent / "page.html.j2"
_REFRESH = Path(__file__).parent / "refresh.js"
# Number of channel colours in the style sheet; the colours repeat for more channels.
_COLOURS = 8


def page(views: Sequence[View], *, refresh: float | None = None, stops: bool = False) -> str:
    """Render the page of the given experiments.

    Args:
        refresh: Seconds between reloads of the figures; None for a saved page without a script.
        stops: Whether the page has kill switches, which send `POST stop/NAME`.
    """
    script = "" if refresh is None else _REFRESH.read_text(encoding="utf-8").replace("SECONDS", f"{refresh:g}")
    content = {
        "experiments": [_experiment(view, f"experiment-{n}") for n, view in enumerate(views, 1)],
        "looked": min((view["looked"] for view in views), default=None),
        "script": script,
        "stops": stops,
        "policy": content_policy(script),
    }
    filters: dict[str, Callable[..., str]] = {
        "named": plain_words.named_in,
        "moment": moment,
        "left_out": plain_words.left_out,
        "phase": phase,
    }
    return filled(_TEMPLATE, content, filters)


def content_policy(script: str) -> str:
    """Build the Content-Security-Policy of the page, which allows only the page's own styles and script."""
    allowed = ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:", "base-uri 'none'"]
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        allowed += [f"script-src 'sha256-{digest}'", "connect-src 'self'"]
    return "; ".join(allowed)


def moment(time: Any) -> str:
    """Format an ISO time as text for the page, such as "2026-11-30 16:15 UTC"."""
    return words.ABSENT if not time else f"{datetime.fromisoformat(str(time)):%Y-%m-%d %H:%M} UTC"


def phase(name: str) -> str:
    """Format a phase for a sentence, such as "at shadow" or "promoted"."""
    return f"at {name}" if name == "shadow" or name.endswith("%") else name


def _experiment(view: View, anchor: str) -> Json:
    return {
        **view,
        "anchor": anchor,
        "label": plain_words.named(view["plan"]["metrics"]["primary"], view["unit"]),
        "tiles": [*_tiles_of_verdict(view), *_tiles_of_money(view)],
        "accounts": _accounts(view),
        "mix": _mix(view),
        **({} if view["verdict"] is None else _of_verdict(view, view["verdict"])),
    }


def _of_verdict(view: View, verdict: Mapping[str, Any]) -> Json:
    challengers = verdict["challengers"]
    traffic = view["traffic"]["arms"] if view["traffic"] is not None else {}
    return {
        "counts": verdict["users"] > 0,
        "of_arms": plain_words.of_arms(verdict),
        "total_unit": next(iter(verdict["total_units"].values())),
        "effects": _effects(challengers),
        "confidence": plain_words.confidence(verdict),
        "looks": _looks(view["events"], verdict),
        "several": len(challengers) > 1,
        "guardrails": [
            _guardrail(challenger, check) for challenger, found in challengers.items() for check in found["guardrails"]
        ],
        "secondary": [
            _secondary(challenger, name, lift)
            for challenger, found in challengers.items()
            for name, lift in found["secondary"].items()
        ],
        "arms": [
            {**arm, "found": verdict["arms"].get(arm["name"]), "traffic": traffic.get(arm["name"])}
            for arm in view["plan"]["arms"]
        ],
        "segments": _segments(verdict["segments"]) if "segments" in verdict else [],
        "moved": plain_words.moved(verdict["moved_users"]),
        "heavy": [plain_words.heavy(user["arm"], user["share"]) for user in verdict["heavy_users"]],
        "left_out": sorted(verdict["left_out"].items(), key=lambda item: -item[1]),
        "srm": _srm(verdict),
    }


def _tiles_of_verdict(view: View) -> Iterator[Json]:
    verdict = view["verdict"]
    if verdict is None or not verdict["users"]:
        return
    if verdict["lift"] is not None:
        relative = verdict["relative_lift"]
        of = "" if relative is None else f" ({words.signed(100 * relative, 1)}\u00a0%)"
        ci = words.interval(verdict["lift_ci"], plus=True)
        said = ci if ci != words.ABSENT else "too few users for an interval"
        void = verdict["verdict"] == "srm"
        named = plain_words.named(view["plan"]["metrics"]["primary"], view["unit"])
        tone = "void" if void else plain_words.VERDICTS[verdict["verdict"]][1]
        label = "void: users are not split as configured" if void else f"{named}{of}"
        yield {"value": words.signed(verdict["lift"]), "label": label, "said": said, "tone": tone}
    decisions = sum(arm["decisions"] for arm in verdict["arms"].values())
    yield {"value": words.count(verdict["users"]), "label": "users who count", "said": f"{decisions:,} decisions"}
    srm = _srm(verdict)
    yield {"value": srm["words"], "label": "users split as configured", "said": srm["said"], "tone": srm["tone"]}
    yield from _guardrails_tile(verdict)


def _tiles_of_money(view: View) -> Iterator[Json]:
    first = next((account for account in view["spend"] if account["arm"] == "*"), None)
    if first is None:
        return
    label = "spent" if first["period"] == "total" else f"spent this {first['period']}"
    outside = any(account["arm"] == OUTSIDE for account in view["spend"])
    said = f"of {words.number(first['limit'])} {view['currency']}{', that of users outside in it' if outside else ''}"
    yield {"value": words.number(first["spent"]), "label": label, "said": said}


def _guardrails_tile(verdict: Mapping[str, Any]) -> list[Json]:
    checks = [check["state"] for found in verdict["challengers"].values() for check in found["guardrails"]]
    if not checks:
        return []
    states = [state for state in plain_words.GUARDRAILS if state in checks]
    value, tone = plain_words.GUARDRAILS[states[0]]
    label = words.noun(len(checks), "guardrail", "guardrails")
    said = ", ".join(f"{checks.count(state)} {state}" for state in states)
    return [{"value": value, "label": label, "said": said, "tone": tone}]


def _srm(verdict: Mapping[str, Any]) -> Json:
    p = verdict["srm_p"]
    if not verdict["users"]:
        return {"words": "Not known yet", "said": "no user counts yet", "tone": "open"}
    if verdict["verdict"] == "srm":
        return {"words": "No", "said": f"p = {words.p_value(p)}: no figure counts".replace("= <", "<"), "tone": "alarm"}
    return {"words": "Ok", "said": f"p = {words.p_value(p)}".replace("= <", "<"), "tone": "good"}


def _effects(challengers: Mapping[str, Json]) -> list[Json]:
    span = domain([found["lift_ci"] for found in challengers.values()], 0.0)
    rows = []
    for name, found in challengers.items():
        said, tone = plain_words.VERDICTS[found["verdict"]]
        drawn = track(found["lift_ci"], found["lift"], span)
        rows.append({**found, "name": name, "words": said, "tone": tone, "track": drawn})
    return rows


def _looks(events: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any]) -> list[Json]:
    """List the lift and its confidence interval at each past event and at present."""
    looks = []
    for event in events:
        evidence = event["evidence"] or {}
        if evidence.get("challenger") == verdict["challenger"] and (effect := evidence.get("effect")):
            looks.append({"move": event["what"], "at": event["at"], **effect})
    looks.append({"move": None, **{name: verdict[name] for name in ("users", "lift", "lift_ci")}})
    looks = [look for look in looks if None not in (look["lift"], *look["lift_ci"])]
    span = domain([look["lift_ci"] for look in looks], 0.0)
    return [{**look, "track": track(look["lift_ci"], look["lift"], span)} for look in looks]


def _guardrail(challenger: str, check: Json) -> Json:
    interval = [check["lower"], check["upper"]]
    span = domain([interval], 0.0, check["margin"])
    drawn = track(interval, check["harm"], span, check["margin"])
    return {
        **check,
        "challenger": challenger,
        "interval": interval,
        "tone": plain_words.GUARDRAILS[check["state"]][1],
        "track": drawn,
    }


def _secondary(challenger: str, name: str, lift: Json) -> Json:
    drawn = track(lift["lift_ci"], lift["lift"], domain([lift["lift_ci"]], 0.0))
    return {**lift, "challenger": challenger, "name": name, "track": drawn}


def _accounts(view: View) -> list[Json]:
    rows, arms = [], {account["arm"] for account in view["spend"]}
    for account in view["spend"]:
        whole = max(account["limit"], account["spent"] + account["reserved"], 1e-9)
        scope = [
            f"campaign {account['campaign']}" if account["campaign"] != "*" else "",
            f"channel {account['channel']}" if account["channel"] != "*" else "",
            "in all" if account["period"] == "total" else f"this {account['period']}",
        ]
        rows.append(
            {
                **account,
                "name": plain_words.account(account["arm"], arms),
                "scope": ", ".join(part for part in scope if part),
                "spent_bar": round(100 * account["spent"] / whole, 1),
                "reserved_bar": round(100 * account["reserved"] / whole, 1),
                # Only the account of all arms can be overspent. A single arm may spend slightly more than its share.
                "over": account["arm"] == ALL_ARMS and account["spent"] > account["limit"] * (1 + 1e-9),
                "share": account["spent"] / account["limit"] if account["limit"] > 0 else None,
            }
        )
    return rows


def _mix(view: View) -> Json | None:
    """Compute each channel's share of each arm's ads; None if there are no decisions."""
    traffic = view["traffic"]
    if traffic is None:
        return None
    total: dict[str, int] = {}
    for of_arm in traffic["arms"].values():
        for channel, mix in of_arm["channels"].items():
            total[channel] = total.get(channel, 0) + mix["exposures"]
    channels = sorted(total, key=lambda channel: (-total[channel], channel))
    rows = []
    for arm in view["plan"]["arms"]:
        if arm["name"] not in traffic["arms"]:
            continue
        of_arm = traffic["arms"][arm["name"]]
        exposures = {name: of_arm["channels"].get(name, {"exposures": 0})["exposures"] for name in channels}
        all_ = sum(exposures.values())
        shares = [exposures[name] / all_ if all_ else 0.0 for name in channels]
        rows.append({"name": arm["name"], **of_arm, "shares": shares, "bars": [round(100 * s, 2) for s in shares]})
    colours = [n % _COLOURS for n in range(len(channels))]
    return {"channels": channels, "colours": colours, "rows": rows, "shadow": traffic["shadow"]} if rows else None


def _segments(segments: Json) -> list[Json]:
    found = []
    for column, lifts in segments["lifts"].items():
        span = domain([lift["lift_ci"] for lift in lifts], 0.0)
        rows = [{**lift, "track": track(lift["lift_ci"], lift["lift"], span)} for lift in lifts]
        found.append({"column": column, "rows": rows, "smaller": segments["smaller"][column]})
    return found
