"""What the client does about what is known against a request: before any slot or row of the journal."""

import io
import logging
import sqlite3
from contextlib import closing

import pytest
import virtual_time
from PIL import Image

from kling_async import ConfigurationError, Finding, RequestError, TaskStatus, UnsupportedError, new_api

DOUBTED = {"model_name": "kling-v2-1"}
WRONG = {"image_tail": "https://cdn.example.org/b.png"}


def ends(here, *requests, **options):
    """The errors of *requests* in a stream, None for those that were made."""

    async def main():
        async with here.client(**options) as kling:
            stream = kling.completions(requests)
            return [done.error async for done in stream]

    return virtual_time.run(main())


def test_what_is_sure_to_fail_is_refused(world, tmp_path):
    """It takes no slot, no call and no row; the error names field, rule and source."""
    here, journal = world(), tmp_path / "journal.sqlite"
    (error,) = ends(here, here.request(**WRONG), journal=journal)
    assert isinstance(error, RequestError)
    (problem,) = error.problems
    assert (problem.field, problem.message) == ("image_tail", "needs mode pro with kling-v2-6")
    assert problem.source
    assert "extra_body" in str(error)
    assert here.calls == []
    with closing(sqlite3.connect(journal)) as rows:
        assert rows.execute("SELECT count(*) FROM tasks").fetchone() == (0,)


def test_what_is_doubted_is_made_and_logged_once(world, caplog):
    """Two hundred alike are two hundred videos and one line of the log."""
    here = world()
    with caplog.at_level(logging.WARNING, "kling_async"):
        errors = ends(here, *(here.request(str(number), **DOUBTED) for number in range(200)))
    assert errors == [None] * 200
    (line,) = [each.getMessage() for each in caplog.records if "model_name" in each.getMessage()]
    assert line.startswith("request: model_name: ")


def test_strict_clients_refuse_doubts_too(world):
    """With ``check="error"`` a doubt of the map is a problem like any other."""
    here = world()
    (error,) = ends(here, here.request(**DOUBTED), check="error")
    assert [each.field for each in error.problems] == ["model_name"]
    assert here.calls == []


def test_strict_clients_refuse_doubtful_pictures_too(world):
    """So is what is doubtful about a picture."""
    here, cut = world(), io.BytesIO()
    Image.effect_noise((400, 300), 50).save(cut, "JPEG")
    request = here.request(image=cut.getvalue()[:-2])
    (error,) = ends(here, request, check="error")
    assert [each.field for each in error.problems] == ["image"]
    assert ends(here, request) == [None]


def test_extra_body_is_the_way_around(world):
    """Where the map is out of date, the field goes into ``extra_body``, which nothing checks."""
    here = world()
    assert ends(here, here.request(extra_body=WRONG), check="error") == [None]
    assert here.ledger.made[0].body["image_tail"] == WRONG["image_tail"]


def test_all_faults_are_told_at_once(world, tmp_path):
    """What a picture, the provider and the map have against a request is one error, each fault once."""
    here = world()
    (error,) = ends(here, here.request(image=tmp_path / "none.png", mode="4k", duration=7, **WRONG))
    assert [each.field for each in error.problems] == ["image", "mode", "duration"]
    assert all(each.source for each in error.problems)
    dropped = {"voice_list": ["v"], "multi_shot": True, "shot_type": "intelligence", "duration": 7}
    (error,) = ends(here, here.request(**dropped), provider=new_api("http://127.0.0.1:1"))
    assert isinstance(error, UnsupportedError)
    fields = [each.field for each in error.problems]
    assert fields[:3] == ["multi_shot", "shot_type", "voice_list"]
    assert "duration" in fields
    assert len(fields) == len({str(each) for each in error.problems})
    assert here.calls == []


def test_a_doubtful_picture_is_refused_with_its_source(world):
    """What is only doubted is refused on demand, and the advice names the way to let it pass."""
    here, cut = world(), io.BytesIO()
    Image.effect_noise((400, 300), 50).save(cut, "JPEG")
    (error,) = ends(here, here.request(image=cut.getvalue()[:-2]), check="error")
    assert error.problems[0].source == "API reference, image2video: create"
    assert 'check="warn"' in str(error)


def test_unknown_models_are_taken(world):
    """A model of tomorrow is not refused by a map of today; its price is unknown, so Kling decides."""
    here = world()
    (error,) = ends(here, here.request(model_name="kling-v9", mode="8k", **WRONG), check="error")
    assert not isinstance(error, RequestError)
    assert here.calls


def test_what_a_gateway_drops_comes_first(world):
    """What a gateway lacks is told as that, also where the map would have something to say."""
    here = world()
    fields = {"multi_shot": True, "shot_type": "intelligence"}
    (error,) = ends(here, here.request(**fields), provider=new_api("http://127.0.0.1:1"))
    assert isinstance(error, UnsupportedError)
    assert here.calls == []


def test_what_was_made_is_not_checked_again(world, tmp_path):
    """A video that an earlier run paid for is given, whatever the map has learned since."""

    async def main(**options):
        async with here.client(journal=tmp_path / "journal.sqlite", **options) as kling:
            return [done async for done in kling.completions([("old", here.request(**DOUBTED))])]

    here = world()
    virtual_time.run(main())
    (done,) = virtual_time.run(main(check="error"))
    assert done.ok
    assert done.resumed
    assert done.task.status is TaskStatus.SUCCEED


def test_a_wrong_word_is_told(world):
    """The option takes two words."""
    with pytest.raises(ConfigurationError, match="check must be warn or error, not 'off'"):
        world().client(check="off")


def test_a_finding_is_one_line():
    """Printed, a finding is a clause with its field; without one it speaks of the whole request."""
    assert str(Finding("mode", "error", "must be std or pro", "the map")).startswith(
        "mode: must be std or pro"
    )
