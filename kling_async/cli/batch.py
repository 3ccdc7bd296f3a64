"""``batch``: many pictures in, video files and a page of them out."""

import functools
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from kling_async import fitting
from kling_async.batch import read_source
from kling_async.cli import interrupts
from kling_async.cli.generate import Out, Timeout
from kling_async.cli.limits import Settler, Streak
from kling_async.cli.options import Common, Fields, folder_for, require_place
from kling_async.cli.planning import Preview, agree, preview, read_prices, tell_bad_rows
from kling_async.cli.progress import Progress
from kling_async.cli.resuming import Again
from kling_async.cli.running import report_of, run_stream
from kling_async.cli.screen import Screen
from kling_async.extras import install
from kling_async.paths import at_home
from kling_async.protocol.budget import Budget
from kling_async.protocol.errors import ConfigurationError
from kling_async.protocol.prices import Prices
from kling_async.protocol.providers import Provider

__all__ = ["batch"]

_Keys = Annotated[tuple[str, ...], Parameter(negative="", show_default=False)]
_Flag = Parameter(negative="", show_default=False)


def batch(
    source: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    common: Annotated[Common, Parameter(parse=False)],
    out: Out,
    prompt: str | None = None,
    dry_run: Annotated[bool, _Flag] = False,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], negative="", show_default=False)] = False,
    skip_bad: Annotated[bool, _Flag] = False,
    fit: Annotated[bool, _Flag] = False,
    check: Literal["warn", "error"] = "warn",
    budget: str | None = None,
    prices: Path | None = None,
    allow_unpriced: Annotated[bool, _Flag] = False,
    max_items: int | None = None,
    stop_after_failures: int = 10,
    max_in_flight: int | None = None,
    timeout: Timeout = 3600,
    retry_failed: Annotated[bool, _Flag] = False,
    again: _Keys = (),
    resend: _Keys = (),
    fields: Fields | None = None,
) -> int:
    """Turn many pictures into videos.

    SOURCE is a folder of pictures, a .csv or .jsonl manifest, or - for JSON lines on stdin. A manifest has
    the API's field names and, if you like, key, which names the file. Everything is checked and priced
    before anything is submitted, and it asks before it spends. One item that fails at Kling harms no other.

    Run again, it goes on: a journal in the folder knows what is there, what runs and what failed. An item is
    recognised by its key and request, without a key by its content. index.html in the folder shows it all.

    Args:
        common: where to send, and how to tell.
        source: a folder, a .csv or .jsonl file, or -.
        out: the folder for the videos. No video in it is overwritten.
        prompt: for the items that have none of their own; {stem} stands for the picture's name. Beside a
            picture in a folder, a .txt file of its name is its prompt.
        dry_run: tell what would be made, what it would cost and take, and end. No request is made.
        yes: spend without being asked; needed where there is no terminal.
        skip_bad: leave out the rows with errors, and make the others.
        fit: turn HEIC, WebP, TIFF and too large pictures into JPEG that Kling takes; needs the extra images.
        check: what is done about what the map of Kling's models doubts: warn, or refuse it too.
        budget: units that all items may cost together, those of earlier runs included.
        prices: your own table of prices, a TOML file: see the docs. Gateways have no other.
        allow_unpriced: with a budget, make also what has no known price.
        max_items: only the first ones of the source.
        stop_after_failures: submit no more after so many failures in a row; 0 goes on.
        max_in_flight: tasks at once for each model; left out, it is learned from Kling's refusals, which
            cost nothing.
        timeout: seconds for each task from its acknowledgement.
        retry_failed: make again what failed at Kling in an earlier run; units are deducted at success.
        again: make this item again, which failed, got lost or took too long. Repeatable. The last two may be
            charged twice.
        resend: submit this item again, which may exist; it may be charged twice. Repeatable.
        fields: all others that have an option.
    """
    _require_limits(timeout, max_items, max_in_flight, stop_after_failures)
    if allow_unpriced and budget is None:
        raise ConfigurationError("--allow-unpriced is for runs with a --budget")
    require_place(out)  # what cannot be written to is told first
    screen, own = common.screen, read_prices(prices)
    provider = common.where(needs_key=not dry_run)
    found = read_source(
        sys.stdin.buffer if source == "-" else source,
        defaults=(fields or Fields()).given(prompt),
        provider=provider,
        check=check,
        fit=_fitter(out) if fit else None,
    )
    tell_bad_rows(screen, found, are_skipped=skip_bad)
    if found.broken or (found.problems and not dry_run and not (skip_bad and found.items)):
        return 2

    def look() -> Preview:
        return preview(
            common,
            found,
            found.items[:max_items],
            at_home(out),
            anew=Again(failed=retry_failed, keys=again, resend=resend),
            provider=provider,
            prices=own,
            budget=None if budget is None else Budget(budget, prices=own, allow_unpriced=allow_unpriced),
            slots=max_in_flight,
        )

    seen = look()
    if dry_run:
        return _told(screen, seen, is_good=skip_bad or not found.problems)
    agreed = agree(screen, seen, look, yes=yes)
    if agreed is None:
        screen.complain("nothing was submitted and nothing was paid")
        return 2
    return _run(
        common,
        agreed,
        folder_for(out),
        title="stdin" if source == "-" else Path(source).name,
        provider=provider,
        prices=own,
        timeout=timeout,
        stop_after_failures=stop_after_failures,
        options={"max_in_flight": max_in_flight, "check": check},
    )


def _run(
    common: Common,
    agreed: Preview,
    folder: Path,
    *,
    title: str,
    provider: Provider,
    prices: Prices | None,
    timeout: float,
    stop_after_failures: int,
    options: Mapping[str, Any],
) -> int:
    """Make what was agreed to; returns the exit code."""
    progress = Progress(common.screen, len(agreed.items))
    report = report_of(
        agreed.items,
        folder,
        provider,
        title=title,
        screen=common.screen,
        resumption=agreed.resumption,
        prices=prices,
        budget=agreed.budget,
    )
    hooks = [progress.tell, report.tell]
    if agreed.budget is not None:
        hooks.append(Settler(agreed.budget, provider, agreed.counted.running).tell)
    return interrupts.run(
        run_stream(
            common,
            progress,
            common.client(hooks=hooks, **options),
            agreed.items,
            folder=folder,
            timeout=timeout,
            resumption=agreed.resumption,
            budget=agreed.budget,
            streak=Streak(stop_after_failures),
            report=report,
        )
    )


def _require_limits(
    timeout: float, max_items: int | None, max_in_flight: int | None, stop_after_failures: int
) -> None:
    if not timeout > 0:
        raise ConfigurationError(f"--timeout must be more than 0, not {timeout:g}")
    for name, value in (("--max-items", max_items), ("--max-in-flight", max_in_flight)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{name} must be at least 1, not {value}")
    if stop_after_failures < 0:
        raise ConfigurationError("--stop-after-failures must be at least 0")


def _told(screen: Screen, seen: Preview, *, is_good: bool) -> int:
    """Tell a dry run's result; returns the exit code."""
    if screen.is_json:
        screen.result("", {"plan": seen.document()})
    else:
        for line in seen.lines():
            screen.result(line)
    screen.say("a dry run: no request was made")
    seen.require_room()
    return 0 if is_good else 2


def _fitter(out: Path) -> Callable[[Path], Path]:
    if importlib.util.find_spec("PIL") is None:
        raise ConfigurationError("--fit needs Pillow", advice=install("images"))
    return functools.partial(fitting.fitted, folder=folder_for(out) / "fitted")
