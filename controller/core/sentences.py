"""An explanation in plain words, and a decision that was kept in the shape of an explanation.

Works on documents, not on evidence: a decision is explained years later from what the ledger kept
of it, so the present is put into words by the same functions, and both say the same. What an old
ledger did not keep is left out.

The shape, for the present and for a decision:

    champion     the champion's figures: arm, n, mean, interval, answers, errors
    candidates   the same of each candidate, with lift, p_best, loss, capped
    conditions   each e-value against its threshold, and what it would do
    guardrails   what each guardrail saw of each candidate
    discoveries  of several candidates, those that are found to be better (e-BH)
    sentences    all of it, one sentence each; the verdict first
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.core.model import Json

WOULD = {"promote": "to promote", "roll_back": "to roll back", "hold": "to hold"}
"""What a condition is for."""

_OF_CANDIDATE = ("lift", "p_best", "loss", "capped")


def decision_explanation(decision: Mapping[str, Json]) -> dict[str, Json]:
    """A decision's document with what it rested on in the shape of an explanation."""
    evidence = _object(decision.get("evidence"))
    seen = [evidence, *_objects(evidence.get("others"))] if evidence.get("candidate") else []
    champion = _object(evidence.get("champion")) or None
    found: dict[str, Json] = {
        "champion": champion,
        "candidates": [candidate_document(one) for one in seen],
        "conditions": list(_objects(evidence.get("conditions"))),
        "guardrails": [row for one in seen for row in guard_rows(one)],
        "discoveries": evidence.get("discoveries") or [],
    }
    return {**decision, **found, "sentences": list(sentences({**decision, **found}))}


def candidate_document(seen: Mapping[str, Json]) -> dict[str, Json]:
    """One candidate's figures, of a decision's evidence."""
    return {**_object(seen.get("candidate")), **{key: seen.get(key) for key in _OF_CANDIDATE}}


def guard_rows(seen: Mapping[str, Json]) -> list[Json]:
    """What each guardrail saw of one candidate, of a decision's evidence; `arm` names it.

    That of mirrored requests is left out where nothing was mirrored.
    """
    arm = _object(seen.get("candidate")).get("arm")
    rows: list[Json] = [{"arm": arm, **row} for row in _objects(seen.get("guardrails"))]
    shadow = _object(seen.get("shadow"))
    if shadow.get("candidate") is not None:
        rows.append({"arm": arm, **shadow, "detail": "mirrored requests"})
    return rows


def sentences(explained: Mapping[str, Json]) -> list[str]:
    """An explanation, one sentence each: the verdict, the arms, the conditions, the guardrails."""
    verdict = str(explained.get("verdict", "")).replace("_", " ")
    champion = _object(explained.get("champion"))
    found = [f"{verdict}: {explained.get('reason')}"]
    found += [_arms_sentence(one, champion) for one in _objects(explained.get("candidates"))]
    better = explained.get("discoveries")
    if isinstance(better, list) and better:
        names = ", ".join(str(name) for name in better)
        found.append(f"found to be better than the champion, not yet the best of all: {names}")
    found += [_condition_sentence(row) for row in _objects(explained.get("conditions"))]
    return found + [_guard_sentence(row) for row in _objects(explained.get("guardrails"))]


def _arms_sentence(candidate: Mapping[str, Json], champion: Mapping[str, Json]) -> str:
    text = f"{_arm(candidate)}; {_arm(champion)}"
    lift = _object(candidate.get("lift"))
    if isinstance(lift.get("estimate"), float | int):
        text += f"; lift {change(lift['estimate'])} ({ends(lift.get('interval'))})"
    if isinstance(candidate.get("p_best"), float | int):
        text += f"; best with probability {_number(candidate['p_best'])}"
    return text


def _arm(arm: Mapping[str, Json]) -> str:
    n = arm.get("n")
    units = f"{n:,}" if isinstance(n, int) else "0"
    if arm.get("mean") is None:
        return f"{arm.get('arm')} has no outcome yet"
    return f"{arm.get('arm')} earned {_number(arm['mean'])} on {units} outcomes"


def _condition_sentence(row: Mapping[str, Json]) -> str:
    text = (
        f"{row.get('candidate')}: {row.get('name')}, evidence {_number(row.get('evidence'))} "
        f"of {_number(row.get('threshold'))} {WOULD.get(str(row.get('then')), '')}"
    )
    if row.get("reached"):
        return f"{text}: reached"
    if row.get("then") != "promote" or "requests_left" not in row:
        return text
    left = row["requests_left"]
    if isinstance(left, int):
        return f"{text}: about {left:,} more requests, as the arms look now"
    if not row.get("seen", True):
        return f"{text}: nothing was seen yet"
    return f"{text}: not on its way, as the arms look now"


def _guard_sentence(row: Mapping[str, Json]) -> str:
    """What a guardrail saw, its bound, and of a latency which quantile moved most."""
    arm, champion, candidate = row.get("arm"), row.get("champion"), row.get("candidate")
    more = row.get("max_increase")
    match row.get("metric"):
        case "latency":
            return (
                f"{arm}: {_share(candidate)} of its answers took more than "
                f"{_number(row.get('limit_ms'))} ms, which is the champion's {row.get('detail')} "
                f"and {_share(more)}; of the champion's answers {_share(champion)} took more than "
                f"its {row.get('detail')}"
            )
        case "error_rate":
            of = f" of {row['detail']}" if row.get("detail") else ""
            seen = f"errors{of} {_share(candidate)}, of the champion {_share(champion)}"
            return f"{arm}: {seen}; {_share(more)} more is allowed"
        case _:
            seen = f"{_number(candidate)}, of the champion {_number(champion)}"
            return f"{arm}: {row.get('detail')} {seen}; {_number(more)} more is allowed"


def ends(interval: Json) -> str:
    """An interval of relative changes for people: `-1.10% to +9.80%`."""
    low, high = interval if isinstance(interval, list) and len(interval) == 2 else (None, None)
    below = "no lower end" if low is None else change(low)
    above = "no upper end" if high is None else change(high)
    return f"{below} to {above}"


def change(value: Json) -> str:
    """A relative change for people: `+4.20%`."""
    return f"{value:+.2%}" if isinstance(value, float | int) else "unknown"


def _share(value: Json) -> str:
    return f"{100 * value:.3g}%" if isinstance(value, float | int) else "unknown"


def _number(value: Json) -> str:
    return f"{value:.4g}" if isinstance(value, float | int) else "unknown"


def _object(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _objects(value: Json) -> list[dict[str, Json]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
