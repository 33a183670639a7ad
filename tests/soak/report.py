"""What a run is told to have found, and whether it is well."""

from collections import Counter

from tests.soak.ledger import Verdict
from tests.soak.meters import Growth, Meter, Sample, growth
from tests.soak.rig import DEVICE, Rig

JUDGED = ("agent", "collector")
"""Whose growth fails a run; a broker's depends on what waits in it."""


def print_report(
    rig: Rig, done: Counter[str], verdict: Verdict, took_s: float, *, trim: str, judge_growth: bool
) -> bool:
    """Returns whether all is well."""
    print(f"\n{done.total()} faults in {took_s / 60:.1f} min: " + ", ".join(f"{n} {kind}" for kind, n in done.items()))
    problems = [f"the agent: {ending}" for ending in rig.ended_by_itself]
    problems += _tell_messages(rig, verdict, trim)
    _tell_work(rig, took_s)
    problems += _tell_growth(rig, judge_growth)
    for problem in problems:
        print(f"NOT WELL: {problem}")
    print("not well" if problems else "all is well")
    return not problems


def _tell_messages(rig: Rig, verdict: Verdict, trim: str) -> list[str]:
    print(
        f"messages: {verdict.accepted} seen in the outbox, {verdict.stored} stored, {rig.ear.duplicates} came twice, "
        f"{verdict.announced} evicted and announced ({verdict.evicted}), {sum(rig.dropped.values())} dropped in all"
    )
    print(
        f"lost {verdict.lost}, of these {verdict.explained} explained by {len(rig.kills)} kills of the broker, "
        f"{verdict.undetected} not noticed by the collector; {verdict.holes} holes, {verdict.disordered} out of order"
    )
    allowed = verdict.explained if trim == "broker" else 0
    problems = []
    if verdict.lost > allowed:
        problems.append(f"{verdict.lost - allowed} messages were lost")
    if verdict.undetected:
        problems.append(f"{verdict.undetected} lost messages left no hole")
    if verdict.disordered:
        problems.append(f"{verdict.disordered} messages came out of order")
    return problems


def _tell_work(rig: Rig, took_s: float) -> None:
    frames = sum(rig.frames.values())
    states = [state["candidate"] for state in rig.operator.states(DEVICE) if state["candidate"]]
    active = {state["release"] for state in states if state["state"] == "active"}
    rolled_back = {state["release"] for state in states if state["state"] == "rolled_back"}
    print(f"frames: {frames} through models; updates: {rig.pushed} pushed, {len(active)} live, {len(rolled_back)} back")
    print(f"not well at looks: {dict(rig.reasons.most_common())}; {rig.refused_starts} starts refused by a bad disk")
    if (written_bytes := rig.written_bytes) is not None:
        print(f"disk: {written_bytes / took_s * 3600 / 1e6:.1f} MB an hour reached it, updates and all")


def _tell_growth(rig: Rig, judged: bool) -> list[str]:
    problems = []
    for meter in rig.meters:
        found = growth(meter.samples)
        print(f"{meter.name}: {_describe(meter, found)}")
        if judged and meter.name in JUDGED:
            if found is None:
                problems.append(f"{meter.name} did not run long enough to tell whether it grows")
            elif found.is_too_much:
                problems.append(f"{meter.name} grew")
    return problems


def _describe(meter: Meter, found: Growth | None) -> str:
    written = f"{meter.written_bytes / 1e6:.1f} MB written"
    if found is None:
        most = f", at most {meter.most.rss_bytes / 1e6:.1f} MB" if meter.most else ""
        return f"{meter.lives} lives{most}, {written}"
    return (
        f"over {found.span_s / 60:.0f} min: {_state(found.first)} -> {_state(found.last)} "
        f"(memory {found.rss:+.2%}, its main process {found.main_rss:+.2%}), {written}"
    )


def _state(sample: Sample) -> str:
    return f"{sample.rss_bytes / 1e6:.1f} MB, {sample.fds} descriptors, {sample.threads} threads"
