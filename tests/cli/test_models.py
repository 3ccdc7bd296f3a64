"""What ``models`` shows, on a terminal, in a pipe and to programs."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from kling_async.checking import capabilities
from kling_async.cli.models import _where, models
from kling_async.cli.options import Common
from kling_async.cli.screen import Screen
from kling_async.protocol.cells import FEATURES, Model
from kling_async.protocol.errors import ConfigurationError


def shown(capsys: pytest.CaptureFixture[str], *, provider: str | None = None, **options: Any) -> list[str]:
    """The lines that the command prints."""
    prices = options.pop("prices", None)
    assert models(common=Common(provider=provider, screen=Screen(**options)), prices=prices) == 0
    return capsys.readouterr().out.splitlines()


@pytest.fixture(autouse=True)
def no_provider_set(monkeypatch: pytest.MonkeyPatch):
    """Nothing of Kling's is in the environment, not even a key."""
    for name in ("KLING_PROVIDER", "KLING_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_a_line_for_each_model(capsys):
    """In a pipe: name, what it takes, rates and usual time, with tabs; the newest model first."""
    lines = [line.split("\t") for line in shown(capsys)]
    assert [cells[0] for cells in lines[:9]] == [model.name for model in capabilities().of("image2video")][
        ::-1
    ]
    assert lines[1] == [
        "kling-v2-6",
        "std 720p, pro 1080p; 5 or 10 s; end frame: pro silent; sound: pro; voices with sound: pro",
        "silent: std 0.3, pro 0.5; sound: pro 1.0; voice: pro 1.2",
        "1 min 30 s",
    ]
    assert lines[0][1].startswith("std 720p, pro 1080p, 4k; 3 to 15 s; end frame; sound; voices with sound")
    assert lines[7][1].endswith("masks: pro 5 s doubted; camera: pro 5 s simple; cfg_scale")
    assert lines[8][1:] == [
        (
            "is discontinued; std 720p, pro 720p; 5 or 10 s; end frame: 5 s; masks: 5 s; "
            "camera: std 5 s doubted; cfg_scale"
        ),
        "not known",
        "2 min 44 s",
    ]
    assert lines[9:] == [
        ["kling-3.0-turbo belongs to the new API, which this package does not speak"],
        ["kling-v3-omni belongs to omni-video, which this package does not speak"],
        ["kling-video-o1 belongs to omni-video, which this package does not speak"],
        ["image2video aspect_ratio: is no field of image2video: the video has the picture's shape"],
    ]


def test_a_table_fits_eighty_columns(monkeypatch):
    """On a terminal nothing is wider than 80 columns and no name is broken."""

    class Terminal(io.StringIO):
        """A terminal to write to."""

        def isatty(self) -> bool:
            """It is one."""
            return True

    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.redirect_stdout(Terminal()) as out:
        assert models(common=Common(screen=Screen())) == 0
    lines = [Text.from_ansi(line).plain for line in out.getvalue().splitlines()]
    assert max(map(len, lines[:-1])) <= 80  # the last one is about the provider
    assert any(line.endswith("sound    0.9  1.2  3.0") for line in map(str.rstrip, lines))
    for name in capabilities().models:
        assert any(line.startswith(f"{name} ") for line in lines)


def test_json_tells_every_cell(capsys):
    """One object a model: each feature by mode and duration, with its source; numbers are numbers."""
    objects = [json.loads(line) for line in shown(capsys, is_json=True)]
    assert len(objects) == len(capabilities().models)
    named = {each["model_name"]: each for each in objects}
    v26 = named["kling-v2-6"]
    assert v26["durations"] == [5, 10]
    assert v26["units_per_second"]["voice"] == {"pro": 1.2}
    assert v26["takes"]["start_end_frame"]["where"] == {
        "std": {"5": "no", "10": "no"},
        "pro": {"5": "silent", "10": "silent"},
    }
    assert named["kling-v2-1-master"]["takes"]["sound"]["where"] == {
        "": {"5": "no", "10": "no"}
    }  # a model without modes
    assert named["kling-v1-6"]["endpoints"] == ["image2video", "multi-image2video", "text2video"]
    assert named["kling-v3-omni"]["endpoints"] == ["omni-video"]
    (doubt,) = v26["provider_reads"]["image2video"]["doubted"]
    assert doubt["fields"] == ["aspect_ratio"]
    assert v26["limits"]["characters"]["prompt"] == 2500
    assert (v26["usual_seconds"], named["kling-3.0-turbo"]["usual_seconds"]) == (90, None)
    assert named["kling-v2-master"]["modes"]["where"] == {"std": "no", "pro": "doubted", "4k": "no"}
    assert "2025-11-11" in named["kling-v2-5-turbo"]["modes"]["source"]
    assert "2026-09-20" in named["kling-v1"]["retired"]["source"]
    assert named["kling-v1"]["prices_source"] is None
    assert named["kling-v2-1"]["text2video"] is None
    text = named["kling-v3"]["text2video"]
    assert text["aspect_ratio"] == ["16:9", "9:16", "1:1"]
    assert "for no current model" in text["voice_list"]
    assert text["camera_control"].startswith("kling-v1 alone, std 5 s")
    assert "text2video" in text["source"]


def test_a_gateway_lacks_and_doubts(capsys):
    """What a provider drops, and what may go lost there, follows the table; its prices are unknown."""
    lines = shown(capsys, provider="new-api")
    assert all("\tnot known\t" in line for line in lines[:9])
    for dropped in ("shots", "elements", "voices", "multi-image2video"):
        assert not any(dropped in line for line in lines[:9])
    assert lines[12:] == [
        "new-api drops element_list, multi_prompt, multi_shot, shot_type, voice_list",
        "image2video sound: is read by later versions of new-api alone: it may be dropped",
        "image2video watermark_info: is read by later versions of new-api alone: it may be dropped",
        (
            "image2video aspect_ratio: is passed on by new-api to a Kling that has no such field: "
            "the video has the picture's shape"
        ),
        "new-api has no multi-image2video",
    ]
    lines = shown(capsys, provider="cometapi")
    assert "image2video mode: cometapi documents std, pro" in lines
    assert "image2video image: is required by cometapi" in lines
    assert "image2video prompt: cometapi documents at most 500 characters" in lines
    assert "multi-image2video image_list: cometapi documents at least 2 entries" in lines


def test_own_prices(capsys, tmp_path: Path):
    """A table of one's own is shown, also for a gateway."""
    table = tmp_path / "prices.toml"
    table.write_text('["kling-v2-6"]\nsilent = { std = 0.25 }\n')
    lines = shown(capsys, provider="ezmodel", prices=table)
    assert lines[1].split("\t")[2] == "silent: std 0.25"
    table.write_text('["kling-v9"]\nsilent = { std = 0.25 }\n')
    assert "kling-v9 is not in the map; silent: std 0.25" in shown(capsys, provider="ezmodel", prices=table)


def test_an_unknown_provider_is_named(capsys):
    """The error lists those there are."""
    with pytest.raises(ConfigurationError, match=r"no provider 'klong'.*cometapi.*new-api"):
        shown(capsys, provider="klong")


def test_a_pattern_without_whole_rows_is_spelled_out():
    """Where neither modes nor durations tell it, every pair is named."""
    cells = dict.fromkeys(FEATURES, "-") | {"sound": "Y - - Y"}
    data = {"source": "map", "mode": "Y Y -", "durations": [5, 10], "resolutions": ["720p", "1080p"], **cells}
    model = Model.from_mapping("m", data, {"map": "2026"})
    assert list(_where(model, model.cells["sound"])) == ["std 5 s, pro 10 s"]
