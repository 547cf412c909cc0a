"""The verbs `rules list / propose / approve / withdraw / promote / undo / history / targets`."""

from __future__ import annotations

import getpass
import time
from pathlib import Path  # noqa: TC003 - typer reads annotations at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kylo_outbox.cli.context import Context, opened
from kylo_outbox.cli.errors import PARTLY
from kylo_outbox.cli.output import AsJson, DryRun, Yes, confirmed, print_json, print_table, say
from kylo_outbox.model.bodies import read_json
from kylo_outbox.model.errors import Misconfigured, Transient
from kylo_outbox.web.shapes import active_shape, preview_shape, promotion_shape, proposal_shape, requested_shape
from kylo_outbox.wiring.parts import require_schema, rules_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kylo_outbox.flows.rules import Requested, Rules
    from kylo_outbox.store.proposals import Proposal
    from kylo_outbox.store.rules import Promotion

_group = typer.Typer(
    help="Rules: which transactions belong where, proposed, approved and promoted.", no_args_is_help=True
)

Id = Annotated[str, typer.Argument(metavar="COMPANY", help="The company's id.")]
Numbers = Annotated[list[int], typer.Argument(metavar="PROPOSAL...", help="Numbers from `rules list --proposals`.")]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    app.add_typer(_group, name="rules")


@_group.command("list")
def list_rules(
    company_id: Id,
    *,
    proposals: Annotated[bool, typer.Option("--proposals", help="Proposals and what became of them.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the rules in force, or the proposals.

    Example: kylo-outbox rules list 710 --proposals
    """
    with opened() as context:
        flow = _flow(context)
        if proposals:
            _print_proposals(flow.proposals(company_id), as_json=as_json)
            return
        found = flow.active(company_id)
    if as_json:
        print_json(active_shape(company_id, found))
        return
    say(f"version {found.version} of company {company_id}" if found.version else "no rules are in force")
    print_table(
        ("source", "sheet", "header", "notes"),
        [(rule.source, rule.target_sheet, rule.target_header, rule.match_notes) for rule in found.rules],
    )


@_group.command()
def propose(
    company_id: Id,
    *,
    source: Annotated[str | None, typer.Option(help="The description that the rule is for.")] = None,
    sheet: Annotated[str | None, typer.Option(help="Target_Sheet.")] = None,
    header: Annotated[str | None, typer.Option(help="Target_Header.")] = None,
    notes: Annotated[str | None, typer.Option(help="For people.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="JSON: a list of {source, target_sheet, target_header, match_notes?}.")
    ] = None,
    approve: Annotated[bool, typer.Option("--approve", help="Approve them as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """Propose one rule, or all of a file or none; what is proposed already is found again.

    Example: kylo-outbox rules propose 710 --source STARBUCKS --sheet "PETTY CASH" --header Coffee
    """
    if file is None:
        rows: Any = [{"source": source, "target_sheet": sheet, "target_header": header, "match_notes": notes}]
    elif source or sheet or header or notes:
        raise Misconfigured("--file: holds whole rules; leave --source, --sheet, --header and --notes out")
    else:
        rows = _read(file)
    with opened() as context:
        flow = _flow(context)
        made, new = flow.propose(company_id, rows, _me())
        if approve:
            made = flow.approve(company_id, [each.proposal for each in made], _me())
    say(f"{new} new, {len({each.proposal for each in made}) - new} known already")
    _print_proposals(made, as_json=as_json)


@_group.command("approve")
def approve_proposals(company_id: Id, numbers: Numbers, *, as_json: AsJson = False) -> None:
    """Approve proposals; the next promotion makes them active.

    Example: kylo-outbox rules approve 710 3 4
    """
    with opened() as context:
        _print_proposals(_flow(context).approve(company_id, numbers, _me()), as_json=as_json)


@_group.command()
def withdraw(company_id: Id, numbers: Numbers, *, as_json: AsJson = False) -> None:
    """Withdraw proposals that are not promoted yet.

    Example: kylo-outbox rules withdraw 710 4
    """
    with opened() as context:
        _print_proposals(_flow(context).withdraw(company_id, numbers), as_json=as_json)


@_group.command()
def promote(
    company_id: Annotated[str | None, typer.Argument(metavar="[COMPANY]", help="The company's id.")] = None,
    *,
    everybody: Annotated[bool, typer.Option("--all", help="Every company.")] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Tell what it would do; change nothing.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Wait so many seconds until it is done.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Ask that approved proposals become the next version; projector `promote` does it.

    Exit code 4: with --wait, not every request was served in time; it will be.

    Example: kylo-outbox rules promote 710 --preview
    """
    if (company_id is None) != everybody:
        raise Misconfigured("promote: name one company, or give --all")
    with opened() as context:
        flow = _flow(context)
        chosen = [company_id] if company_id else [company.company_id for company in context.parts.directory.companies()]
        if preview:
            _preview(flow, chosen, as_json=as_json)
            return
        made = [flow.request(company_id, _me())] if company_id else flow.request_all(_me())
        say(f"asked for {len(made)} promotion{'s' if len(made) != 1 else ''}")
        done = _await(flow, made, wait)
    shapes = [requested_shape(each) | {"outcome": _shape_of(done.get(each.request_id))} for each in made]
    if as_json:
        print_json(shapes if everybody else shapes[0])
    elif done:
        _print_history([(each.company_id, done[each.request_id]) for each in made if each.request_id in done])
    if wait and len(done) < len(made):
        say(f"{len(made) - len(done)} not served yet; `kylo-outbox rules history` shows it (does `project` run?)")
        raise typer.Exit(PARTLY)


@_group.command()
def undo(
    company_id: Id,
    *,
    version: Annotated[int | None, typer.Option(help="Only if this version is in force.")] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Put the former version in force again and reopen what only the undone one had decided.

    Example: kylo-outbox rules undo 710 --dry-run
    """
    with opened() as context:
        flow = _flow(context)
        at = flow.active(company_id).version if version is None else version
        if at and not confirmed(f"undo version {at} of company {company_id}", yes=yes, dry_run=dry_run):
            return
        done = flow.undo(company_id, _me(), at or None)
    if as_json:
        print_json(promotion_shape(done))
    else:
        _print_history([(company_id, done)])


@_group.command()
def history(
    company_id: Id,
    *,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show what was promoted and undone, newest first.

    Example: kylo-outbox rules history 710
    """
    with opened() as context:
        found = _flow(context).history(company_id, limit)
    if as_json:
        print_json([promotion_shape(each) for each in found])
    else:
        _print_history([(company_id, each) for each in found])


@_group.command()
def targets(
    company_id: Id,
    *,
    add: Annotated[list[str] | None, typer.Option(help="SHEET or SHEET/HEADER; may be repeated.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="SHEET or SHEET/HEADER; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show or change where rules of a company may point to; without any they may point anywhere.

    Example: kylo-outbox rules targets 710 --add "PETTY CASH" --add BALANCE/Fuel
    """
    with opened() as context:
        flow = _flow(context)
        known = flow.change_targets(company_id, _targets(add), _targets(remove))
    shown = sorted(known)
    if as_json:
        print_json([{"target_sheet": sheet, "target_header": header or None} for sheet, header in shown])
    else:
        print_table(("sheet", "header"), [(sheet, header or "(any)") for sheet, header in shown])


def _flow(context: Context) -> Rules:
    require_schema(context.parts)
    return rules_of(context.parts)


def _me() -> str:
    try:
        return f"cli {getpass.getuser()}"
    except (KeyError, OSError):
        return "cli"


def _read(file: Path) -> Any:
    try:
        found = read_json(file.read_bytes())
    except OSError as missing:
        raise Misconfigured(f"--file {file}: cannot be read ({missing.strerror})") from None
    return found.get("proposals") if isinstance(found, dict) and set(found) == {"proposals"} else found


def _targets(words: list[str] | None) -> list[tuple[str, str]]:
    return [(sheet, header) for sheet, _, header in (word.partition("/") for word in words or [])]


def _await(flow: Rules, made: list[Requested], seconds: float) -> dict[Any, Promotion]:
    done: dict[Any, Promotion] = {}
    until = time.monotonic() + seconds
    while len(done) < len(made):
        for each in made:
            if each.request_id not in done and (outcome := _outcome(flow, each)):
                done[each.request_id] = outcome
        if len(done) == len(made) or time.monotonic() >= until:
            break
        time.sleep(0.1)
    return done


def _outcome(flow: Rules, requested: Requested) -> Promotion | None:
    try:
        return flow.outcome(requested)
    except Transient:
        return None


def _preview(flow: Rules, chosen: Iterable[str], *, as_json: bool) -> None:
    seen = {company_id: flow.preview(company_id) for company_id in chosen}
    if as_json:
        shapes = [preview_shape(company_id, each) for company_id, each in seen.items()]
        print_json(shapes[0] if len(shapes) == 1 else shapes)
        return
    for company_id, each in seen.items():
        say(f"company {company_id}: {len(each.added)} rules would be added, would resolve {each.would_resolve} items")
    print_table(
        ("company", "source", "sheet", "header"),
        [
            (company_id, rule.source, rule.target_sheet, rule.target_header)
            for company_id, each in seen.items()
            for rule in each.added
        ],
    )


def _shape_of(promotion: Promotion | None) -> dict[str, Any] | None:
    return promotion_shape(promotion) if promotion else None


def _print_proposals(found: list[Proposal], *, as_json: bool) -> None:
    if as_json:
        print_json([proposal_shape(each) for each in found])
        return
    print_table(
        ("proposal", "source", "sheet", "header", "state", "version", "by"),
        [
            (p.proposal, p.source, p.target_sheet, p.target_header, p.state, p.version, p.approved_by or p.proposed_by)
            for p in found
        ],
    )


def _print_history(found: list[tuple[str, Promotion]]) -> None:
    print_table(
        ("company", "at", "act", "from", "to", "rules", "resolved", "reopened", "by"),
        [
            (
                company,
                f"{p.at:%Y-%m-%d %H:%M:%S}",
                p.act,
                p.former,
                p.version,
                p.rules,
                p.resolved,
                p.reopened,
                p.asked_by,
            )
            for company, p in found
        ],
    )
