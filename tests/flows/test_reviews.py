"""The history of reviews: it only grows, card and page show all of it, and the audit holds the registry to it."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from registered import Registered, make_ensemble, set_params, the_version

from cleanlabel.flows.artifacts import PAGE, REVIEWS
from cleanlabel.flows.certificate.reviews import MOST, Action, described, history, with_reviews, without_reviews
from cleanlabel.flows.ensemble.seal import sealed_part
from cleanlabel.flows.review import approve, reject, side_by_side
from cleanlabel.flows.store.client import TAG
from cleanlabel.flows.store.registry import SMOOTHED, aliases_of, get_version, set_alias, tag_version
from cleanlabel.sanitize.errors import InputError

HOSTILE = "</li></ol><script>alert(1)</script> [a](b)\n\n## Reviews\n\n<!-- /reviews -->\u202e"
IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@example.org")


@pytest.fixture
def passed(version: Registered) -> Registered:
    """Version 1 with card and page, past a gate that the small models meet: the candidate."""
    set_params(gate={"accuracy": 0.5, "certified_accuracy": [{"radius": 0.0, "at_least": 0.2}], "replay": 0})
    assert version.certify_whole().passed
    assert version.failures() == []
    return version


def description(version: Registered) -> str:
    return get_version(version.store, SMOOTHED, version.number).description or ""


def commit() -> None:
    if not Path(".git").is_dir():
        subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "reports"], check=True)
    subprocess.run(["git", *IDENTITY, "commit", "-qm", "reviewed"], check=True)


def reviews_found(version: Registered) -> str:
    """The audit's check of the reviews."""
    (check,) = (check for check in version.audit() if check.name == "reviews")
    return check.found


def test_a_rejection_stays_visible_after_an_approval_and_the_audit_says_who_and_when(passed):
    sealed, page = sealed_part(description(passed)), without_reviews(PAGE.read_text())
    reject(passed.store, 1, "trained on the wrong labels", "bob")
    approve(passed.store, 1, "the labels were right after all", "ada")
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"
    seal = history()[0].seal[:12]
    told = [
        rf"{when}: gate passed \(given candidate; seal {seal}\)",
        rf"{when}: rejected by bob: trained on the wrong labels \(gate passed; lost candidate; seal {seal}\)",
        rf"{when}: approved by ada: the labels were right after all \(gate passed; given certified; seal {seal}\)",
    ]
    for words in (
        reviews_found(passed),
        PAGE.read_text(),
        description(passed).replace("\\", ""),
        side_by_side(passed.store),
    ):
        assert re.search(".*".join(told), words, re.DOTALL), words
    assert (sealed_part(description(passed)), without_reviews(PAGE.read_text())) == (sealed, page)
    assert passed.tags()[f"{TAG}review"] == "approved"
    assert passed.failures() == []


def test_an_approval_changes_nothing_that_is_sealed(passed):
    before = (passed.tags()[f"{TAG}gate"], passed.audit()[0].found)
    approve(passed.store, 1, "good enough", "ada")
    assert (passed.tags()[f"{TAG}gate"], passed.audit()[0].found) == before
    passed.certify_whole()  # and the next certification finds the same: the reviews are no part of the seal
    assert passed.audit()[0].found == before[1]
    assert aliases_of(passed.store, SMOOTHED) == {"certified": 1}
    assert [action.outcome for action in history()] == ["gate", "approved"]


@pytest.mark.parametrize(
    ("name", "value"), [("review", "rejected"), ("reviewed_by", "grace"), ("review_reason", "because")]
)
def test_an_edited_review_tag_is_named(passed, name, value):
    approve(passed.store, 1, "good enough", "ada")
    tag_version(passed.store, passed.version, {name: value})
    (failure,) = passed.failures()
    assert failure.startswith(f"reviews: version tag {TAG}{name} is {value!r} where reports/reviews.jsonl says ")


def test_a_review_that_only_the_registry_has_is_named_with_the_way_out(passed):
    tag_version(passed.store, passed.version, {"review": "approved", "review_reason": "x", "reviewed_by": "eve"})
    (failure,) = passed.failures()
    assert "says approved by eve, and reports/reviews.jsonl has no such line; pull the commit that has it" in failure
    assert "version 1 says approved by eve, of which reports/reviews.jsonl has no line" in side_by_side(passed.store)
    assert passed.certify_whole().passed  # such a tag earns nothing
    assert aliases_of(passed.store, SMOOTHED) == {"candidate": 1}
    approve(passed.store, 1, "looked at it", "ada")  # and the way out is one
    assert passed.failures() == []


def test_an_alias_set_by_hand_is_not_made_good_by_the_next_certification(passed):
    set_alias(passed.store, passed.version, "certified")
    assert passed.certify_whole().passed
    assert aliases_of(passed.store, SMOOTHED) == {"candidate": 1}
    assert passed.failures() == []


def test_an_alias_moved_by_hand_is_named_on_both_versions_and_others_are_only_told(passed):
    set_alias(passed.store, passed.version, "blue")
    assert "set by hand, outside the history: blue" in reviews_found(passed)
    assert passed.failures() == []
    set_alias(passed.store, get_version(passed.store, SMOOTHED, 2), "candidate")
    assert passed.failures() == [
        "reviews: the alias candidate is on version 2, and reports/reviews.jsonl gives it to version 1; "
        "decide again with `python -m flows.review`"
    ]
    set_alias(passed.store, passed.version, "candidate")
    set_alias(passed.store, passed.version, "certified")
    assert "the alias certified is on version 1, and nobody gave it" in passed.failures()[0]


def test_an_edited_history_fails_wherever_it_shows(passed):
    reject(passed.store, 1, "too small", "bob")
    honest = REVIEWS.read_text()
    first, second = honest.splitlines(keepends=True)
    for edited, found in (
        (second, "line 1 of reports/reviews.jsonl does not follow the one before it"),
        (first.replace("passed", "failed") + second, "line 2 of reports/reviews.jsonl does not follow the one before"),
        (first + "{}\n", "line 2 of reports/reviews.jsonl is damaged; restore the file from git"),
        (honest.rstrip()[:-9], "line 2 of reports/reviews.jsonl is damaged"),
        (first, "says rejected by bob, and reports/reviews.jsonl has no such line"),
    ):
        REVIEWS.write_text(edited)
        assert found in passed.failures()[-1]
    REVIEWS.write_text(second)
    with pytest.raises(InputError, match="audit: failed: reviews"):
        approve(passed.store, 1, "over it", "ada")
    with pytest.raises(InputError, match="line 1 of .* does not follow"):
        reject(passed.store, 1, "over it", "ada")
    assert REVIEWS.read_text() == second
    REVIEWS.write_text(honest)
    assert passed.failures() == []


def test_a_rejection_taken_out_of_the_whole_chain_is_still_held_by_git(passed):
    before = REVIEWS.read_text()
    reject(passed.store, 1, "too small", "bob")
    commit()
    assert passed.failures() == []
    REVIEWS.write_text(before)  # as if nobody had decided
    with pytest.raises(InputError, match="audit: failed: reviews"):
        approve(passed.store, 1, "fine", "ada")
    failure = passed.failures()[0].partition("; version")[0].partition(": restore it from git")[0]
    assert failure.startswith("reviews: line 2 of reports/reviews.jsonl is not the one that git held; the history only")
    commit()  # and a commit of it does not help: every version that git held must be the beginning of the file
    assert passed.failures()[0].startswith(failure)


def test_words_forged_into_description_or_page_beside_the_reviews_are_named(passed):
    reject(passed.store, 1, "too small", "bob")
    honest = description(passed)
    passed.store.client.update_model_version(SMOOTHED, "1", honest.replace("rejected by bob", "approved by bob"))
    assert passed.failures() == [
        "reviews: the reviews in the version's description are not those in reports/reviews.jsonl"
    ]
    passed.store.client.update_model_version(SMOOTHED, "1", sealed_part(honest))
    assert "the reviews in the version's description are not" in passed.failures()[0]
    passed.store.client.update_model_version(SMOOTHED, "1", honest)
    page = PAGE.read_text()
    PAGE.write_text(page.replace("rejected by bob", "approved by bob"))
    assert passed.failures() == ["reviews: the reviews in reports/index.html are not those in reports/reviews.jsonl"]
    PAGE.write_text(page)
    assert passed.failures() == []


def test_a_reason_is_text_and_ends_no_section(passed):
    reject(passed.store, 1, HOSTILE, "<b>eve</b>")
    page, card = PAGE.read_text(), description(passed)
    assert "<script>alert" not in page + card
    assert page.count("<!-- /reviews -->") == 1
    assert card.count("\n## Reviews\n") == 1
    assert "\u202e" not in page + card
    assert passed.failures() == []
    assert without_reviews(with_reviews(page, history())) == without_reviews(page)


def test_a_store_of_ones_own_knows_the_history_of_another_by_plan_and_entropy(passed):
    other = make_ensemble(passed.store, m=16)
    line = json.loads(REVIEWS.read_text().splitlines()[0])
    assert (line["plan_digest"], line["entropy_commitment"]) == (
        passed.ensemble.plan.digest,
        passed.ensemble.commitment,
    )
    assert other.number == 3
    assert "nothing was decided yet" in with_reviews(PAGE.read_text(), []).lower()
    reject(passed.store, 3, "never certified, and not wanted", "bob")
    assert history()[-1].seal is None
    assert len([action for action in history() if action.plan_digest == passed.ensemble.plan.digest]) == 1
    assert passed.failures() == []


def test_a_description_never_grows_past_what_the_database_keeps():
    def one(outcome: str, reason: str) -> Action:
        return Action(1, "p", "e", "s" * 64, outcome, "ada", reason, "2026-01-02T03:04:05+00:00", "passed", [], [], "")

    card = "# a card\n\n" + "words " * 600
    assert described(card, []) == card
    for actions in (
        [one("rejected", "short")],
        [one("rejected", "long " * 300), one("approved", "short")],
        [one("gate", "")] * 40 + [one("rejected", "no")],
        [one("rejected", "long " * 300)] * 60,
    ):
        found = described(card, actions)
        assert len(found) <= MOST
        assert sealed_part(found) == card
        assert described(found, actions) == found
        assert "rejected" in found
    assert "the whole history is in `reports/reviews.jsonl`" in found


def test_the_second_version_takes_the_alias_and_the_first_ones_audit_agrees(passed):
    set_params(gate={"approval": "automatic"})
    passed.certify_whole()
    assert aliases_of(passed.store, SMOOTHED) == {"certified": 1}
    the_version(passed.store, 2).certify_whole()
    assert aliases_of(passed.store, SMOOTHED) == {"certified": 2}
    assert the_version(passed.store, 2).failures() == []
    passed.certify_whole()
    assert passed.failures() == []
