"""The gate and the review: what promotes a version, who does, and what stands in the registry afterwards."""

import json
import os
import re
import sys

import pytest
from registered import M, make_ensemble, set_params, the_version

from cleanlabel.flows import review
from cleanlabel.flows.artifacts import CERTIFICATE
from cleanlabel.flows.certificate.gate import earned
from cleanlabel.flows.report.card import card
from cleanlabel.flows.review import approve, reject, reviewer, side_by_side
from cleanlabel.flows.store.client import TAG
from cleanlabel.flows.store.registry import SMOOTHED, aliases_of
from cleanlabel.models.params import Threshold
from cleanlabel.sanitize.errors import InputError


def lower_the_gate() -> None:
    """Thresholds in params.yaml that the small models meet."""
    asked = {"accuracy": 0.5, "certified_accuracy": [{"radius": 0.0, "at_least": 0.2}], "replay": 0}
    set_params(gate=asked)


def test_a_version_that_passes_is_a_candidate_and_certified_where_no_review_is_asked_for(version):
    verdict = version.gate(accuracy=0.5, certified_accuracy=[Threshold(radius=0.0, at_least=0.2)])
    assert verdict.passed, verdict.reasons
    assert aliases_of(version.store, SMOOTHED) == {"candidate": 1}
    assert (version.tags()[f"{TAG}gate"], version.tags()[f"{TAG}gate_reasons"]) == ("passed", "")
    version.gate(approval="automatic")
    assert aliases_of(version.store, SMOOTHED) == {"certified": 1}


@pytest.mark.parametrize(
    ("thresholds", "reason"),
    [
        ({"accuracy": 1.0}, "accuracy of the vote: 0."),
        ({"certified_accuracy": [Threshold(radius=0.6, at_least=0.9)]}, "certified accuracy at R = 0.6: 0."),
    ],
)
def test_a_version_below_a_threshold_loses_its_alias_and_says_why(version, thresholds, reason):
    version.gate()
    assert aliases_of(version.store, SMOOTHED) == {"candidate": 1}
    verdict = version.gate(**thresholds)
    assert not verdict.passed
    assert verdict.reasons.startswith(reason)
    assert "required" in verdict.reasons
    assert aliases_of(version.store, SMOOTHED) == {}
    assert version.tags()[f"{TAG}gate_reasons"] == verdict.reasons


def test_fixed_entropy_does_not_pass_unless_the_gate_says_so(version):
    fixed = make_ensemble(version.store, "none", entropy_spec="fixed:07", m=M + 2)
    verdict = fixed.gate()
    assert verdict.reasons == "entropy: fixed, os required"
    assert fixed.certify().certificate["entropy_source"] == "fixed"
    assert fixed.gate(entropy="any").passed


def test_a_version_that_fails_its_audit_does_not_pass(version):
    certified = version.certify()
    assert version.gate(certified).passed
    CERTIFICATE.write_text(json.dumps(certified.certificate | {"votes_root": "0" * 64}))
    verdict = version.gate(certified)
    assert verdict.reasons == "audit: failed: git-tracked certificate; see flows.audit"
    assert aliases_of(version.store, SMOOTHED) == {}


def test_an_approval_needs_the_gate_and_lands_in_the_registry_with_its_reason(version):
    with pytest.raises(
        InputError, match="version 1 does not pass the gate and was not approved: .*certified accuracy at R"
    ):
        approve(version.store, 1, "looks good", "ada")
    assert not {f"{TAG}review", f"{TAG}gate"} & version.tags().keys()
    lower_the_gate()
    verdict = approve(version.store, 1, "good enough for the pilot", "ada")
    assert [check.name for check in verdict.checks] == [
        "accuracy of the vote",
        "certified accuracy at R = 0",
        "entropy",
        "audit",
    ]
    assert aliases_of(version.store, SMOOTHED) == {"certified": 1}
    tags = version.tags()
    assert tags[f"{TAG}review"] == "approved"
    assert tags[f"{TAG}review_reason"] == "good enough for the pilot"
    assert tags[f"{TAG}reviewed_by"] == "ada"
    version.gate()  # the pipeline runs again: what was approved stays so
    assert aliases_of(version.store, SMOOTHED) == {"certified": 1}


def test_a_rejected_version_gets_no_alias_again(version):
    version.gate(approval="automatic")
    reject(version.store, 1, "trained on the wrong labels", "ada")
    assert aliases_of(version.store, SMOOTHED) == {}
    version.gate(approval="automatic")
    assert aliases_of(version.store, SMOOTHED) == {}
    assert version.tags()[f"{TAG}review_reason"] == "trained on the wrong labels"


def test_a_newer_certified_version_takes_the_alias_over(version):
    version.gate(approval="automatic")
    the_version(version.store, 2).gate(approval="automatic")
    assert aliases_of(version.store, SMOOTHED) == {"certified": 2}


def test_approving_one_version_leaves_the_candidate_alone(version):
    the_version(version.store, 2).gate()
    version.certify()
    lower_the_gate()
    assert approve(version.store, 1, "it is the better one", "ada").moves == ("version 1 has the alias certified",)
    assert aliases_of(version.store, SMOOTHED) == {"candidate": 2, "certified": 1}


def test_with_three_versions_only_certified_moves_and_says_from_where(version):
    store = version.store
    third = make_ensemble(store, "none", m=M + 2)
    third.certify()
    version.certify()
    version.gate(approval="automatic")
    third.gate()
    lower_the_gate()
    assert aliases_of(store, SMOOTHED) == {"certified": 1, "candidate": 3}
    with pytest.raises(InputError, match="version 2 does not pass the gate and was not approved: audit: failed"):
        approve(store, 2, "reports/ are of version 1", "ada")
    assert aliases_of(store, SMOOTHED) == {"certified": 1, "candidate": 3}
    the_version(store, 2).certify()
    assert approve(store, 2, "better", "ada").moves == ("version 2 has the alias certified, which version 1 had",)
    assert aliases_of(store, SMOOTHED) == {"certified": 2, "candidate": 3}
    third.certify()
    assert approve(store, 3, "better still", "ada").moves == (
        "version 3 has the alias certified, which version 2 had",
        "version 3 lost the alias candidate",
    )
    assert aliases_of(store, SMOOTHED) == {"certified": 3}
    assert approve(store, 3, "as I said", "ada").moves == ()


def test_rejecting_one_version_leaves_the_others_their_aliases(version):
    store, second = version.store, the_version(version.store, 2)
    version.gate(approval="automatic")
    second.gate()
    assert reject(store, 1, "withdrawn", "ada") == ("version 1 lost the alias certified",)
    assert aliases_of(store, SMOOTHED) == {"candidate": 2}
    assert reject(store, 1, "withdrawn", "ada") == ()
    assert reject(store, 2, "withdrawn", "ada") == ("version 2 lost the alias candidate",)


def test_an_older_version_that_is_certified_again_takes_no_alias_from_a_newer_one(version):
    store, second = version.store, the_version(version.store, 2)
    second.gate()
    moves = version.gate().moves
    assert moves == ("version 1 has no alias: another one is certified or a newer one awaits its review",)
    assert aliases_of(store, SMOOTHED) == {"candidate": 2}
    assert second.gate(approval="automatic").moves == (
        "version 2 has the alias certified",
        "version 2 lost the alias candidate",
    )
    version.gate(approval="automatic")
    assert aliases_of(store, SMOOTHED) == {"certified": 2}
    lower_the_gate()
    version.certify()
    approve(store, 1, "back to the old one", "ada")
    second.certify()
    second.gate()  # as `flows.certify --version 2` does: the certified one stays
    assert aliases_of(store, SMOOTHED) == {"certified": 1, "candidate": 2}


@pytest.mark.parametrize(
    ("held", "number", "review", "automatic", "alias"),
    [
        ({}, 1, None, False, "candidate"),
        ({}, 1, None, True, "certified"),
        ({"candidate": 1}, 2, None, False, "candidate"),
        ({"candidate": 2}, 1, None, False, None),
        ({"certified": 1}, 1, None, False, "certified"),
        ({"certified": 1}, 2, None, False, "candidate"),
        ({"certified": 1}, 2, None, True, "certified"),
        ({"certified": 2}, 1, None, True, None),
        ({"certified": 2}, 1, "approved", False, None),
        ({"certified": 2, "candidate": 1}, 1, None, True, "candidate"),
        ({"candidate": 2}, 1, "approved", False, "certified"),
        ({"candidate": 1}, 1, "rejected", True, None),
    ],
)
def test_what_a_version_that_passes_earns(held, number, review, automatic, alias):
    assert earned(held, number, passed=True, review=review, automatic=automatic) == alias
    assert earned(held, number, passed=False, review=review, automatic=automatic) is None


def test_a_reviewer_is_named_or_asked_for(tmp_path, monkeypatch):
    for name in ("USER", "LOGNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    assert reviewer(" ada ") == "ada"
    for account in ("", "root"):
        monkeypatch.setenv("USER", account)
        with pytest.raises(InputError, match=r"the reviewer is unknown: .*--by NAME, or set `git config user.name`$"):
            reviewer(None)
    with pytest.raises(InputError, match="the reviewer is unknown"):
        reviewer(" ")
    (tmp_path / "gitconfig").write_text("[user]\n\tname = Ada L.\n")
    assert reviewer(None) == "Ada L."
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="the reviewer is unknown"):
        reviewer(None)
    monkeypatch.setenv("LOGNAME", "grace")
    assert reviewer(None) == "grace"
    monkeypatch.setenv("USER", "ada")
    assert reviewer(None) == "ada"


def test_the_versions_stand_side_by_side(version):
    version.gate(accuracy=1.0)
    the_version(version.store, 2).gate()
    reject(version.store, 1, "too small", "ada")
    lines = side_by_side(version.store).splitlines()
    head, one, two = ([cell.strip() for cell in lines[i].strip("|").split("|")] for i in (0, 2, 3))
    assert head[:4] == ["version", "alias", "sigma", "m"]
    assert head[-4:] == ["R > 0.00", "R > 0.25", "R > 0.50", "R > 1.00"]
    assert (one[:4], two[:4]) == (["1", "-", "0.5", str(M)], ["2", "candidate", "0.5", str(M + 1)])
    assert (one[head.index("gate")], two[head.index("gate")]) == ("failed", "passed")
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[-3].startswith("version 1 did not pass the gate: accuracy of the vote: 0.")
    assert re.match(r"version 1, \d{4}-.* UTC: rejected by ada: too small \(gate failed; seal \w{12}\)$", lines[-2])
    assert re.match(r"version 2, \d{4}-.* UTC: gate passed \(given candidate; seal \w{12}\)$", lines[-1])


def test_the_review_command_says_what_is_wrong(version, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["review", "approve", "7", "--reason", "x", "--by", "ada"])
    with pytest.raises(InputError, match="smoothed-classifier has no version 7 in the registry"):
        review.main()
    monkeypatch.setattr(sys, "argv", ["review", "reject", "1", "--reason", " "])
    with pytest.raises(InputError, match="--reason is empty"):
        review.main()
    monkeypatch.setattr(sys, "argv", ["review"])
    review.main()
    assert "R > 0.50" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["review", "reject", "1", "--reason", "withdrawn", "--by", "ada"])
    review.main()
    assert capsys.readouterr().out == (
        "smoothed-classifier version 1 is rejected by ada: it had no alias\n"
        "reports/reviews.jsonl has one more line; commit it, with reports/\n"
    )


def test_the_model_card_says_what_holds_and_what_does_not(version):
    verdict = version.gate(accuracy=1.0)
    certificate = version.certify().certificate
    words = card(certificate, verdict, 1, 0.25)
    for needed in (
        "**Gate: not passed.**",
        "✗ accuracy of the vote",
        "| joint radius R | certified accuracy | what R buys |",
        "| images changed | by 1/255 |",
        "**Not covered**: images added, removed or relabelled; changes of the test input",
        "256 bits from the operating system",
        certificate["raw_digest"][:16],
        "first attempt; the ledger of attempts began with it, so earlier ones are unknown",
        "attempts made elsewhere (another machine, another store, a clone or a copy of this project's folder) are ",
        "`python -m flows.audit --version 1 --replay 3`",
        "per point",
    ):
        assert needed in words
    assert certificate["unknown_attempts"].startswith("attempts on this raw set before this ensemble that neither")
    assert "known beforehand" in card(certificate | {"entropy_source": "fixed"}, verdict, 1, None)
    assert "7 missing, counted against" in card(certificate | {"missing_draws": list(range(7))}, verdict, 1, None)
