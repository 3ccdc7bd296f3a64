"""Sources of many requests: what is read from them, and what is refused before anything is sent."""

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from kling_async import EZMODEL, ImageToVideo, MultiImageToVideo, RequestError
from kling_async.batch import _FIELDS, Earlier, Item, _is_text, compare, read_source
from kling_async.journal import Record


def png(width: int = 400, height: int = 300) -> bytes:
    """A PNG of which only the header can be read, which is all that is checked."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + header + b"\0\0\0\0IEND\xaeB`\x82"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three pictures."""
    for name in ("b.png", "a.PNG", "c.png"):
        (tmp_path / name).write_bytes(png())
    return tmp_path


def written(folder: Path, name: str, text: str | bytes) -> Path:
    """The manifest *name* in *folder*."""
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def lines(*rows: object) -> str:
    """JSON lines."""
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def requests(source: Path, **defaults: Any) -> list[Any]:
    """The requests alone."""
    return [item.request for item in read_source(source, defaults=defaults)]


def refusals(*args: Any, **kwargs: Any) -> list[str]:
    """Every problem, as it is told."""
    with pytest.raises(RequestError) as caught:
        read_source(*args, **kwargs)
    return [str(problem) for problem in caught.value.problems] or [caught.value.what]


def test_folder_by_name(folder: Path):
    """A folder's pictures come by name with their stems as keys; what is hidden or no picture is left out."""
    for name in ("._b.png", ".hidden.png", "notes.md"):
        (folder / name).write_bytes(png())
    (folder / "out.png").mkdir()
    items = read_source(folder, defaults={"prompt": "x"})
    assert [(item.key, item.name) for item in items] == [(None, "a"), (None, "b"), (None, "c")]
    assert items[0].request == ImageToVideo(image=folder / "a.PNG", prompt="x")


def test_text_beside_a_picture_is_its_prompt(folder: Path):
    """A .txt file of the picture's name goes before the common prompt, and does for a missing one."""
    (folder / "b.txt").write_text("the bee flies\n")
    prompts = [item.request.prompt for item in read_source(folder, defaults={"prompt": "x"})]
    assert prompts == ["x", "the bee flies", "x"]
    assert refusals(folder) == [
        f"{folder / name}.{end}: has no prompt: give one for all, or write it in {name}.txt"
        for name, end in (("a", "PNG"), ("c", "png"))
    ]


def test_same_stems_get_different_names(folder: Path):
    """Pictures of one name are counted in their order; a name made up is no key."""
    (folder / "a.jpeg").write_bytes(png(500, 500))
    rows = [{"image": "a.jpeg"}, {"image": "a.PNG"}, {"image": "b.png", "key": "bee"}]
    items = read_source(written(folder, "m.jsonl", lines(*rows)), defaults={"prompt": "x"})
    assert [(item.key, item.name) for item in items] == [(None, "a"), (None, "a-2"), ("bee", "bee")]
    assert [item.submission for item in items] == [
        items[0].request,
        items[1].request,
        ("bee", items[2].request),
    ]


def test_manifest_paths_are_relative_to_it(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A path in a manifest is relative to the manifest; a default's to the working directory."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "tail.png").write_bytes(png())
    monkeypatch.chdir(elsewhere)
    masks = [{"mask": "b.png", "trajectories": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}]
    rows = (
        {"image": "a.PNG"},
        {"image": "a.PNG", "image_tail": None, "dynamic_masks": masks, "static_mask": "c.png"},
        {"image": "https://example.com/a.png"},
    )
    path = written(folder, "m.jsonl", lines(rows[0], rows[2]))
    first, second = requests(path, prompt="x", image_tail="tail.png")
    assert (first.image, first.image_tail) == (folder / "a.PNG", elsewhere / "tail.png")
    assert second.image == "https://example.com/a.png"
    path = written(folder, "n.jsonl", lines(rows[1], {"image_list": ["a.PNG", {"image": "b.png"}]}))
    masked, multi = requests(path, prompt="x")
    assert masked.dynamic_masks[0].mask == folder / "b.png"
    assert masked.static_mask == folder / "c.png"
    assert multi == MultiImageToVideo(image_list=(folder / "a.PNG", folder / "b.png"), prompt="x")


def test_rows_win_over_defaults(folder: Path):
    """A row's own value goes before the default; null is not given."""
    rows = (
        {"image": "a.PNG", "prompt": "own", "mode": "pro"},
        {"image": "b.png", "prompt": "own", "mode": None},
    )
    items = read_source(written(folder, "m.jsonl", lines(*rows)), defaults={"prompt": "x", "mode": "std"})
    assert [(item.request.prompt, item.request.mode) for item in items] == [("own", "pro"), ("own", "std")]


def test_stdin_is_json_lines(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """An open file is JSON lines, relative to the working directory; blank lines do no harm."""
    monkeypatch.chdir(folder)
    data = b"\xef\xbb\xbf" + lines({"image": "a.PNG", "prompt": "x"}).encode() + b"\n  \n"
    (item,) = read_source(io.BytesIO(data))
    assert (item.name, item.request) == ("a", ImageToVideo(image=folder / "a.PNG", prompt="x"))


def test_csv_cells(folder: Path):
    """Cells are text where the field is text, else JSON; empty ones, short and blank lines are fine."""
    text = (
        "key;image;prompt;duration;cfg_scale;watermark_info;camera_control\r\n"
        'one;a.PNG;"two\nlines; one prompt";10;0.5;TRUE;'
        '"{""type"": ""simple"", ""config"": {""zoom"": 5}}"\r\n'
        ";;;;;;\r\n"
        "two;b.png;x\r\n"
    )
    path = written(folder, "m.csv", "\ufeff" + text)
    assert [item.key for item in read_source(path)] == ["one", "two"]
    first, second = requests(path)
    assert (first.prompt, first.duration, first.cfg_scale) == ("two\nlines; one prompt", "10", 0.5)
    assert first.watermark_info is True
    assert first.camera_control.config.zoom == 5
    assert second == ImageToVideo(image=folder / "b.png", prompt="x")


def test_every_field_is_text_or_json_in_a_csv():
    """A field is read as text exactly if the API takes text there."""
    not_text = {
        "watermark_info", "extra_body", "cfg_scale", "dynamic_masks", "camera_control", "multi_shot",
        "multi_prompt", "element_list", "voice_list", "image_list",
    }  # fmt: skip
    assert {name for name, annotation in _FIELDS.items() if not _is_text(annotation)} == not_text


def test_all_problems_are_told_in_their_order(folder: Path):
    """Each broken row is told with file, line and field, those after it too."""
    (folder / "text.png").write_text("hello")
    (folder / "small.png").write_bytes(png(200, 200))
    (folder / "large.png").write_bytes(png() + bytes(11_000_000))
    rows = [
        '{"image": "a.PNG", "prompt": "x", "key": "k"}',
        '{"image": "text.png", "prompt": "x"}',
        '{"image": "small.png", "prompt": "x", "promt": "y"}',
        '{"image": "large.png", "prompt": "x"',
        '{"image": "large.png", "prompt": "x", "key": "k"}',
        '["a.PNG"]',
        '{"image": "none.png", "prompt": "x", "key": ""}',
        '{"image": "ftp://example.com/a.png", "prompt": "x"}',
    ]
    told = refusals(written(folder, "m.jsonl", "\n".join(rows)))
    assert [one.split(" ")[:2] for one in told] == [
        ["m.jsonl:2:", "image:"],
        ["m.jsonl:3:", "promt:"],
        ["m.jsonl:4:", "is"],
        ["m.jsonl:5:", "key:"],
        ["m.jsonl:5:", "image:"],
        ["m.jsonl:6:", "must"],
        ["m.jsonl:7:", "key:"],
        ["m.jsonl:7:", "image:"],
        ["m.jsonl:8:", "image:"],
    ]
    assert told[1] == "m.jsonl:3: promt: no such field; did you mean prompt?"
    assert told[3] == "m.jsonl:5: key: 'k' is taken by m.jsonl:1"


def test_picture_of_a_folder_is_its_own_place(folder: Path):
    """What is wrong with a picture in a folder is told by its path alone."""
    (folder / "b.png").write_bytes(png(200, 200))
    assert refusals(folder, defaults={"prompt": "x"}) == [
        f"{folder / 'b.png'}: is 200 x 200 px: each side must be at least 300 px"
    ]


def test_csv_problems(folder: Path):
    """An unknown column names the closest; broken cells, surplus cells and wrong bytes name their line."""
    assert refusals(written(folder, "a.csv", "image,promt\na.PNG,x\n")) == [
        "a.csv:1: no such column: 'promt'; did you mean prompt?"
    ]
    rows = 'image,prompt,cfg_scale\na.PNG,"two\nlines",abc\nb.png,x,1,2\n'
    assert refusals(written(folder, "b.csv", rows)) == [
        "b.csv:2: cfg_scale: must be JSON or a number, not 'abc'",
        "b.csv:4: has 4 cells, but there are 3 columns",
    ]
    assert refusals(written(folder, "c.csv", "image,prompt\na.PNG,caf\xe9\n".encode("cp1252"))) == [
        "c.csv:2: is no UTF-8 (byte 0xe9): save the file as UTF-8"
    ]
    assert (
        refusals(written(folder, "d.csv", "image,image\n"))[0] == "d.csv:1: the column image is there twice"
    )
    assert refusals(written(folder, "e.csv", "")) == ["e.csv:1: must hold the columns' names"]


def test_external_task_id_is_taken_once(folder: Path):
    """Two rows with one external_task_id are refused, and both lines named: Kling would make one video."""
    row = {"image": "a.PNG", "prompt": "x", "external_task_id": "e"}
    assert refusals(written(folder, "m.jsonl", lines(row, {**row, "prompt": "y"}))) == [
        "m.jsonl:2: external_task_id: 'e' is taken by m.jsonl:1"
    ]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere", "no such file or folder"),
        ("m.xlsx", "is no folder, .jsonl or .csv file"),
        ("a.PNG", "is no folder, .jsonl or .csv file"),
        ("empty.jsonl", "holds nothing to animate"),
        ("empty", "holds nothing to animate"),
    ],
)
def test_what_is_no_source(folder: Path, name: str, told: str):
    """A source that is missing, of another kind or empty is refused by its name."""
    (folder / "empty").mkdir()
    for file in ("m.xlsx", "empty.jsonl"):
        (folder / file).touch()
    assert told in refusals(folder / name)[0]


def test_provider_lacks_a_field(folder: Path):
    """What the provider would drop without a word is refused with its line."""
    path = written(folder, "m.jsonl", lines({"image": "a.PNG", "image_tail": "b.png", "prompt": "x"}))
    assert refusals(path, provider=EZMODEL) == [
        "m.jsonl:1: image_tail: must be a URL: ezmodel may drop anything else"
    ]


def row(item: Item, key: str, state: str = "succeed", generation: int = 0) -> Record:
    """What a journal holds of *item* under *key*."""
    return Record(
        external_task_id=f"{key}-{generation}",
        key=key,
        named=item.key is not None,
        label=item.name,
        account="a",
        provider="kling",
        host="h",
        endpoint="image2video",
        model_name="m",
        request_hash=item.request_hash,
        state=state,
        generation=generation,
    )


def items_of(folder: Path, *rows: dict[str, str]) -> list[Item]:
    """The items of a manifest with *rows*."""
    return read_source(written(folder, "m.jsonl", lines(*rows)), defaults={"prompt": "x"})


def test_items_are_recognised_by_key_or_content(folder: Path):
    """A key is found by name and request; without one, content and ordinal do, also for a renamed file."""
    first = items_of(folder, {"image": "a.PNG", "key": "ant"}, {"image": "b.png"}, {"image": "c.png"})
    bee = first[1].request_hash
    journal = [row(first[0], "ant"), row(first[1], f"{bee}#1"), row(first[2], f"{bee}#2")]
    (folder / "b.png").rename(folder / "bumble.png")
    again = items_of(
        folder,
        {"image": "c.png"},
        {"image": "bumble.png"},
        {"image": "a.PNG", "key": "ant"},
        {"image": "c.png"},
    )
    earlier = compare(again, journal)
    assert earlier == Earlier((journal[1], journal[2], journal[0], None), frozenset(), ())


def test_what_changed_is_told_from_what_is_new(folder: Path):
    """The same name for another request is changed; what is not asked for any more is unlisted."""
    first = items_of(folder, {"image": "a.PNG", "key": "ant"}, {"image": "b.png", "prompt": "old"})
    journal = [row(first[0], "ant"), row(first[1], f"{first[1].request_hash}#1")]
    (folder / "new.png").write_bytes(png(500, 500))
    again = items_of(
        folder, {"image": "a.PNG", "key": "ant", "mode": "pro"}, {"image": "b.png"}, {"image": "new.png"}
    )
    earlier = compare(again, journal)
    assert earlier.rows == (None, None, None)
    assert earlier.changed == {"ant", "b"}
    assert earlier.unlisted == tuple(journal)


def test_the_latest_generation_counts(folder: Path):
    """What was made anew on purpose stands for its item, in whatever order the rows come."""
    items = items_of(folder, {"image": "a.PNG", "key": "ant"})
    old, new = row(items[0], "ant", "failed"), row(items[0], "ant", "succeed", generation=1)
    assert compare(items, [new, old]) == Earlier((new,), frozenset(), ())
