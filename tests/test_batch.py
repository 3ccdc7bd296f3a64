"""Sources of many requests: what is read from them, and what is refused before anything is sent."""

import base64
import io
import itertools
import json
import os
import struct
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import pytest

from kling_async import EZMODEL, KLING, ImageToVideo, MultiImageToVideo, RequestError
from kling_async.batch import Earlier, Item, as_made, compare, read_source
from kling_async.flight import Names
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


def items_in(*args: Any, **kwargs: Any) -> tuple[Item, ...]:
    """The items of a source in which nothing is wrong."""
    read = read_source(*args, **kwargs)
    assert (read.problems, read.bad) == ((), 0)
    return read.items


def requests(source: Path, **defaults: Any) -> list[Any]:
    """The requests alone."""
    return [item.request for item in items_in(source, defaults=defaults)]


def problems(*args: Any, **kwargs: Any) -> list[str]:
    """What is wrong with the rows of a source, as it is told."""
    read = read_source(*args, **kwargs)
    assert bool(read.problems) == bool(read.bad)
    return [str(problem) for problem in read.problems]


def refusal(*args: Any, **kwargs: Any) -> RequestError:
    """Why nothing can be read."""
    with pytest.raises(RequestError) as caught:
        read_source(*args, **kwargs)
    return caught.value


def test_folder_by_name(folder: Path):
    """A folder's pictures come by name with their stems as keys; what is hidden or no picture is left out."""
    for name in ("._b.png", ".hidden.png", "notes.md"):
        (folder / name).write_bytes(png())
    (folder / "out.png").mkdir()
    items = items_in(folder, defaults={"prompt": "x"})
    assert [(item.key, item.name) for item in items] == [(None, "a"), (None, "b"), (None, "c")]
    assert items[0].request == ImageToVideo(image=folder / "a.PNG", prompt="x")


def test_text_beside_a_picture_is_its_prompt(folder: Path):
    """A .txt file of the picture's name goes before the common prompt, and does for a missing one."""
    (folder / "b.txt").write_text("the bee flies\n")
    prompts = [item.request.prompt for item in items_in(folder, defaults={"prompt": "x"})]
    assert prompts == ["x", "the bee flies", "x"]
    assert problems(folder) == [
        f"{folder / name}.{end}: has no prompt: give one for all, or write it in {name}.txt"
        for name, end in (("a", "PNG"), ("c", "png"))
    ]


@pytest.mark.parametrize(
    ("data", "prompt"),
    [
        ("caf\xe9 \u732b".encode("utf-8-sig"), "caf\xe9 \u732b"),
        ("caf\xe9 \u732b".encode("utf-16"), "caf\xe9 \u732b"),
        ("caf\xe9".encode("utf-16-le"), "caf\xe9"),
        (b"\xef\xbb\xbf \n", "x"),
        (b"", "x"),
    ],
)
def test_prompt_files_of_any_editor(tmp_path: Path, data: bytes, prompt: str):
    """A prompt beside a picture may be UTF-8 or UTF-16; an empty one is not given; .TXT counts too."""
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "a.TXT").write_bytes(data)
    (item,) = items_in(tmp_path, defaults={"prompt": "x"})
    assert item.request.prompt == prompt


def test_prompt_files_that_differ_in_case(tmp_path: Path):
    """Where both are there, .txt goes before .TXT; some systems hold them for one."""
    (tmp_path / "a.png").write_bytes(png())
    for name in ("a.txt", "a.TXT"):
        (tmp_path / name).write_text("one")
    (tmp_path / "a.txt").write_text("two")
    assert requests(tmp_path)[0].prompt == "two"


def test_prompt_files_of_another_system(folder: Path):
    """Line ends, case and Unicode form make no other prompt; the full name goes before the stem."""
    (folder / unicodedata.normalize("NFD", "caf\xe9.png")).write_bytes(png())
    for name, text in {
        "caf\xe9.txt": "one\r\ntwo\rthree\n\x1a",
        "A.txt": "for a",
        "b.PNG.txt": "for b",
        "b.txt": "for b.jpg",
        "C.txt": "no",
        "c.txt": "for c",
    }.items():
        (folder / name).write_bytes(text.encode())
    read = read_source(folder)
    assert [item.request.prompt for item in read.items] == ["for a", "for b", "for c", "one\ntwo\nthree"]
    (warning,) = read.warnings
    assert warning == f"{folder}: 2 .txt files belong to no picture: C.txt, b.txt"


def test_prompt_files_without_a_picture(folder: Path):
    """They are told of once, the first by name; those of pictures that are left out are not."""
    (folder / "d.heic").touch()
    for name in "dx":
        (folder / f"{name}.txt").touch()
    told = read_source(folder, defaults={"prompt": "x"}).warnings[-1]
    assert told == f"{folder}: 1 .txt file belongs to no picture: x.txt"
    for name in "vwyz":
        (folder / f"{name}.txt").touch()
    told = read_source(folder, defaults={"prompt": "x"}).warnings[-1]
    assert told == f"{folder}: 5 .txt files belong to no picture: v.txt, w.txt, x.txt and 2 more"


def test_prompt_files_that_are_no_utf8(folder: Path):
    """They are read as Windows-1252 and told of once; what is not even that is its picture's problem."""
    (folder / "a.txt").write_bytes("caf\xe9".encode("cp1252"))
    (folder / "b.txt").write_bytes("\u201cna\xefve\u201d".encode("cp1252"))
    (folder / "c.txt").write_bytes(b"\x81\x8d")
    read = read_source(folder)
    assert [item.request.prompt for item in read.items] == ["caf\xe9", "\u201cna\xefve\u201d"]
    (warning,) = read.warnings
    doubt = f'{folder / "a.txt"} is no UTF-8 and was read as Windows-1252 ("caf\xe9"): if that is wrong'
    assert warning == f"{doubt}, save it as UTF-8 (1 more like it)"
    assert [str(problem) for problem in read.problems] == [
        f"{folder / 'c.png'}: prompt: is no text (c.txt, line 1, column 1): save it as UTF-8"
    ]


@pytest.mark.parametrize("missing", [1, 2])
def test_a_prompt_file_that_is_cut(tmp_path: Path, missing: int):
    """UTF-8 that ends within a character is no text, though nothing else in it is beyond ASCII."""
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "a.txt").write_bytes("ab\U0001f600".encode()[:-missing])
    assert problems(tmp_path) == [
        f"{tmp_path / 'a.png'}: prompt: is no text (a.txt, line 1, column 3): save it as UTF-8"
    ]


def test_a_prompt_file_that_cannot_be_read(folder: Path):
    """It is its picture's problem and named, and keeps no other picture from being an item."""
    unreadable = Path("/proc/self/mem")
    if not unreadable.exists():
        pytest.skip("this system has no such file")
    (folder / "b.txt").symlink_to(unreadable)
    read = read_source(folder, defaults={"prompt": "x"})
    assert [item.name for item in read.items] == ["a", "c"]
    assert [str(problem) for problem in read.problems] == [
        f"{folder / 'b.png'}: prompt: cannot be read (b.txt): Input/output error"
    ]


def test_pictures_to_convert_are_not_left_out_in_silence(folder: Path):
    """What Kling does not take is counted and told of; with fit it is read like the others."""
    for name in ("d.heic", "e.WEBP", "f.webp", "._g.heic"):
        (folder / name).write_bytes(b"RIFF1234WEBP")
    assert read_source(folder, defaults={"prompt": "x"}).warnings == (
        f"{folder}: 3 pictures are left out that Kling does not take (.heic, .webp): --fit converts them",
    )
    fitted = read_source(folder, defaults={"prompt": "x"}, fit=lambda _: folder / "c.png")
    assert [item.place for item in fitted.items] == [
        str(folder / name) for name in ("a.PNG", "b.png", "c.png", "d.heic", "e.WEBP", "f.webp")
    ]
    assert fitted.warnings == ()


def test_folder_of_nothing_but_pictures_to_convert(tmp_path: Path):
    """It says what was looked for, and what is there instead."""
    (tmp_path / "d.heic").touch()
    assert refusal(tmp_path).advice == (
        "1 picture is left out that Kling does not take (.heic): --fit converts it"
    )


def test_common_prompt_that_is_too_long(folder: Path):
    """It is told of each picture that it is for, and nobody is asked for a prompt."""
    told = problems(folder, defaults={"prompt": "x" * 3000})
    assert told[0] == f"{folder / 'a.PNG'}: prompt: must be at most 2500 characters, not 3000"


def test_same_stems_get_different_names(folder: Path):
    """Pictures of one name are counted in their order; a name made up is no key."""
    (folder / "a.jpeg").write_bytes(png(500, 500))
    rows = [{"image": "a.jpeg"}, {"image": "a.PNG"}, {"image": "b.png", "key": "bee"}]
    items = items_in(written(folder, "m.jsonl", lines(*rows)), defaults={"prompt": "x"})
    assert [(item.key, item.name) for item in items] == [(None, "a"), (None, "a-2"), ("bee", "bee")]
    assert [item.submission for item in items] == [
        items[0].request,
        items[1].request,
        ("bee", items[2].request),
    ]


def test_names_are_different_whatever_pictures_are_called(folder: Path):
    """A name that is made up is no other's; a stream gives the same requests the same names."""
    for name in ("cat-2.png", "cat.jpg", "cat.png"):
        (folder / name).write_bytes(png())
    items = items_in(folder, defaults={"prompt": "x"})
    assert [item.name for item in items] == ["a", "b", "c", "cat-2", "cat", "cat-3"]
    names = Names()
    assert [names.of(item.request) for item in items] == [item.name for item in items]


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
    items = items_in(written(folder, "m.jsonl", lines(*rows)), defaults={"prompt": "x", "mode": "std"})
    assert [(item.request.prompt, item.request.mode) for item in items] == [("own", "pro"), ("own", "std")]


def test_stdin_is_json_lines(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """An open file is JSON lines, relative to the working directory; blank lines do no harm."""
    monkeypatch.chdir(folder)
    data = b"\xef\xbb\xbf" + lines({"image": "a.PNG", "prompt": "x"}).encode() + b"\n  \n"
    (item,) = items_in(io.BytesIO(data))
    assert (item.name, item.request) == ("a", ImageToVideo(image=folder / "a.PNG", prompt="x"))


@pytest.mark.parametrize("name", ["m.jsonl", "m.NDJSON"])
def test_marks_around_json_lines(folder: Path, name: str):
    """A byte order mark before any line and the end mark of DOS are no part of it; both names are known."""
    row = lines({"image": "a.PNG", "prompt": "x"}).encode()
    assert (
        len(
            items_in(
                written(folder, name, b"\xef\xbb\xbf\xef\xbb\xbf" + row + b"\xef\xbb\xbf" + row + b"\x1a")
            )
        )
        == 2
    )


@pytest.mark.parametrize("head", ["image,prompt", "\n\ufeffPrompt;Camera_control.type;Image", "image"])
def test_a_table_that_is_called_json_lines(folder: Path, head: str):
    """It is one problem, and not one for each of its rows; nothing of it was read."""
    data = f"{head}\na.PNG,x\nb.png,y\n".encode()
    for source in (io.BytesIO(data), written(folder, "m.jsonl", data)):
        read = read_source(source)
        (problem,) = read.problems
        assert problem.message == "this is CSV, not JSON lines: save it as .csv"
        assert read.broken


ONE_A_LINE = "write one object a line, without brackets around them and commas between"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"image": "a.PNG" "prompt": "x"}', "a comma is missing (column 19)"),
        ("{\u201cimage\u201d: 1}", "its quotes are curly (\u201c), write straight ones"),
        ("{'image': 1}", "its quotes are single ('), write double ones"),
        ("{image: 1}", "a name in double quotes is missing (column 2)"),
        ('{"image" 1}', "a colon is missing (column 10)"),
        ('{"prompt": "it\u2019s", "image": }', "a value is missing, or is none of JSON's (column 29)"),
        ('{"a": 1,"prompt":"x","camera_control.type":"simple"', "it breaks off (column 52)"),
        ('{"prompt": "x}', "a quote is never closed (column 12)"),
        ('{"prompt": "a\tb"}', "a text holds a line end or a tab, write \\n or \\t (column 14)"),
        (r'{"image": "C:\Pictures\cat.png"}', "a backslash is written twice (column 14)"),
        ('{"a": 1}, {"a": 2}', f"something stands behind its end (column 9): {ONE_A_LINE}"),
        ('{"a":' * 100_000 + "1", "it is nested too deeply"),
    ],
)
def test_what_is_no_json(folder: Path, line: str, told: str):
    """The problem names the column, in plain words, and curly quotes only where they are what is wrong."""
    assert problems(written(folder, "m.jsonl", f"\n{line}\n")) == [f"m.jsonl:2: is no JSON: {told}"]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([{"image": "a.PNG"}, {"image": "b.png"}]),
        '[\n{"image": "a.PNG"},\n{"image": "b.png"}\n]\n',
        json.dumps({"image_list": [{"image": "a.PNG"}]}, indent=1),
        '{"image": "a.PNG",\n"mode": "pro"}\n',
        '{"image": "a.PNG"},\n{"image": "b.png"}\n',
    ],
)
def test_json_that_is_no_json_lines(folder: Path, text: str):
    """A list or an indented object is one problem: nothing of it was read, though a line may be an object."""
    for source in (io.BytesIO(text.encode()), written(folder, "m.jsonl", text)):
        read = read_source(source, defaults={"prompt": "x"})
        (problem,) = read.problems
        assert problem.message == f"this is JSON, but not JSON lines: {ONE_A_LINE}"
        assert (read.broken, read.items) == (True, ())


def test_lines_of_json_that_end_as_others_do(folder: Path):
    """A carriage return ends a line too, alone or before a line feed; lines are counted so."""
    row = lines({"image": "a.PNG", "prompt": "x"}).strip()
    for end in ("\r", "\r\n"):
        path = written(folder, "m.jsonl", end.join([row, "", row, "5"]))
        read = read_source(path)
        assert [item.place for item in read.items] == ["m.jsonl:1", "m.jsonl:3"]
        assert [str(problem) for problem in read.problems] == ["m.jsonl:4: must be one JSON object a line"]


def test_numbers_of_json_that_are_whole(folder: Path):
    """5.0 is 5, as programs write a column of numbers with gaps, at every depth; a half stays one."""
    row = {"image": "a.PNG", "prompt": "x", "duration": 5.0, "cfg_scale": 0.5, "element_list": [161.0]}
    (request,) = requests(written(folder, "m.jsonl", lines(row)))
    assert request == ImageToVideo(
        image=folder / "a.PNG", prompt="x", duration="5", cfg_scale=0.5, element_list=[161]
    )
    half = written(folder, "m.jsonl", lines(row | {"duration": 5.5}))
    assert problems(half)[0].startswith("m.jsonl:1: duration: must be whole seconds")


def test_a_name_given_twice_in_json(folder: Path):
    """Which of two values is meant nobody knows, at any depth."""
    row = '{"image": "a.PNG", "prompt": "x", "prompt": "y"}\n{"extra_body": {"a": 1, "a": 1}}\n'
    assert problems(written(folder, "m.jsonl", row)) == [
        "m.jsonl:1: gives 'prompt' twice",
        "m.jsonl:2: gives 'a' twice",
    ]


def test_columns_are_no_fields_of_json(folder: Path):
    """A dotted name, which is a column's, is the row's problem: the file is JSON lines all the same."""
    path = written(folder, "m.jsonl", '{"image":"a.PNG","prompt":"x","camera_control.type":"simple"}\n')
    assert problems(path)[0].startswith("m.jsonl:1: camera_control.type: no such field")


def test_common_prompts_are_filled_in(folder: Path):
    """A default's words in braces are the names of the row's first picture; double braces are braces."""
    defaults = {"prompt": "{stem} of {folder}: {name} {{{key}}}", "negative_prompt": "no {stem}"}
    rows = [
        {"image": "a.PNG", "key": "ant"},
        {"image": "https://example.com/big%20cats/li{on}.png?sig=1"},
        {"image_list": ["b.png", {"image": "c.png"}], "negative_prompt": "{stem} {nothing}"},
        {"image_tail": "c.png"},
        {"image": "data:image/png;base64," + base64.b64encode(png()).decode()},
        {"image": "https://me:secret@example.com/?picture=5"},
        {"image": "https://example.com/cat.png"},
    ]
    items = items_in(written(folder, "m.jsonl", lines(*rows)), defaults=defaults)
    assert [(item.request.prompt, item.request.negative_prompt) for item in items] == [
        (f"a of {folder.name}: a.PNG {{ant}}", "no a"),
        ("li{on} of big cats: li{on}.png {li{on}}", "no li{on}"),
        (f"b of {folder.name}: b.png {{b}}", "{stem} {nothing}"),
        (f"c of {folder.name}: c.png {{c}}", "no c"),
        ("video of video: video {video}", "no video"),
        ("video of example.com: video {video}", "no video"),
        ("cat of example.com: cat.png {cat}", "no cat"),
    ]


@pytest.mark.parametrize("prompt", ["{stern}", "a { b", "}", "{}", "{stem!r}", "{{{stem}}"])
def test_unknown_words_in_braces(folder: Path, prompt: str):
    """They are one refusal of the whole source that names what is known, and none of each row."""
    (problem,) = refusal(folder, defaults={"prompt": prompt}).problems
    assert problem.field == "prompt"
    assert "known are {stem}, {name}, {folder}, {key}" in problem.message


def test_pictures_are_fitted_but_masks_are_not(folder: Path):
    """Each path is fitted once, masks and URLs never; names are the pictures'."""
    asked: list[str] = []

    def fit(path: Path) -> Path:
        asked.append(path.name)
        place = folder / "fitted" / f"{path.stem}.jpg"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(png())
        return place

    masks = [{"mask": "b.png", "trajectories": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}]
    rows = [
        {"image": "a.PNG", "image_tail": "https://example.com/t.png"},
        {"image": "a.PNG", "static_mask": "b.png"},
        {"image": "b.png", "dynamic_masks": masks},
        {"image_list": ["c.png", "a.PNG"]},
    ]
    items = items_in(written(folder, "m.jsonl", lines(*rows)), defaults={"prompt": "x"}, fit=fit)
    assert asked == ["a.PNG", "b.png", "c.png"]
    assert [item.name for item in items] == ["a", "a-2", "b", "c"]
    made: list[Any] = [item.request for item in items]
    first, second, third, several = made
    assert first.image == folder / "fitted" / "a.jpg"
    assert (second.image, second.static_mask) == (first.image, folder / "b.png")
    assert (third.image, third.dynamic_masks[0].mask) == (folder / "fitted" / "b.jpg", folder / "b.png")
    assert several.image_list == (folder / "fitted" / "c.jpg", folder / "fitted" / "a.jpg")


def test_what_cannot_be_fitted(folder: Path):
    """Its clause is the problem of each row that names it, beside the row's others; none is lost."""

    def fit(path: Path) -> Path:
        if path.name == "c.png":
            raise OSError(28, "No space left on device")
        raise ValueError("is 100 x 100 px and would be blurred")

    rows = [{"image": "a.PNG", "duration": 60}, {"image_list": ["b.png", "c.png"]}, {"image": "none.png"}]
    assert problems(written(folder, "m.jsonl", lines(*rows)), defaults={"prompt": "x"}, fit=fit) == [
        f"m.jsonl:1: image: {folder / 'a.PNG'} is 100 x 100 px and would be blurred",
        "m.jsonl:1: duration: must be whole seconds from 3 to 15, not '60'",
        f"m.jsonl:2: image_list[0]: {folder / 'b.png'} is 100 x 100 px and would be blurred",
        f"m.jsonl:2: image_list[1]: {folder / 'c.png'} cannot be fitted: No space left on device",
        f"m.jsonl:3: image: {folder / 'none.png'} does not exist",
    ]


def test_what_fit_would_help(folder: Path):
    """Without fit, a picture of another format or too many bytes names it; a mask or a small one does not."""
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (folder / "large.png").write_bytes(png() + bytes(11_000_000))
    (folder / "small.png").write_bytes(png(200, 200))
    rows = [
        {"image": "phone.heic"},
        {"image": "large.png"},
        {"image": "small.png"},
        {"image": "a.PNG", "static_mask": "phone.heic"},
    ]
    told = problems(written(folder, "m.jsonl", lines(*rows)), defaults={"prompt": "x"})
    assert [one.endswith(", or let --fit do it") for one in told] == [True, True, False, False]


def test_what_masks_are_drawn_for_is_to_be_fitted_first(folder: Path):
    """Fitted under its masks it would be another picture: the problem says what to do instead."""
    (folder / "large.png").write_bytes(png() + bytes(11_000_000))
    rows = [{"image": "large.png", "static_mask": "a.PNG"}, {"image": "a.PNG", "static_mask": "large.png"}]
    first = (
        "; as its masks are drawn for it, it is not fitted with them: fit it first, with kling_async.fit or "
        "with --fit alone, and draw the masks for the result"
    )
    maybe = ", or let --fit do it, if that need not scale it"
    fits: dict[str, Any] = {first: lambda path: path, maybe: None}
    for remedy, fit in fits.items():
        drawn, mask = problems(written(folder, "m.jsonl", lines(*rows)), defaults={"prompt": "x"}, fit=fit)
        assert drawn.endswith(remedy)
        assert "fit" not in mask


def test_other_spellings_of_what_does_not_exist(folder: Path):
    """A file of that name in other case or another Unicode form is pointed out; a link to nothing is not."""
    (folder / "e.png").symlink_to("nothing")
    (folder / unicodedata.normalize("NFD", "caf\xe9.png")).write_bytes(png())
    rows = [
        {"image": "A.png"},
        {"image_list": ["B.PNG", "Caf\xe9.png"]},
        {"image": "e.png"},
        {"image": "no/a.png"},
    ]
    told = problems(written(folder, "m.jsonl", lines(*rows)), defaults={"prompt": "x"})
    assert [one.partition(" does not exist")[2] for one in told] == [
        "; did you mean a.PNG?",
        "; did you mean b.png?",
        "; did you mean cafe\u0301.png?",
        "",
        "",
    ]


def test_paths_that_hold_more_than_a_path(folder: Path):
    """Quotes that were pasted with a path, and a list that is none, are pointed out."""
    rows = [
        {"image": '"a.PNG"'},
        {"image": f'"{folder / "a.PNG"}"'},
        {"image_list": ["a.PNG;b.png"]},
        {"image": "a.PNG;b.png"},
    ]
    told = problems(written(folder, "m.jsonl", lines(*rows)), defaults={"prompt": "x"})
    assert [one.partition(" does not exist")[2] for one in told] == [
        "; take the quotes around it away",
        "; take the quotes around it away",
        '; several are a list in JSON: ["a.png", "b.png"]',
        "",
    ]


def test_names_that_are_no_text(tmp_path: Path):
    """A file whose name is no UTF-8 can be sent, and its name, as a part of the prompt, cannot."""
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (tmp_path / name).write_bytes(png())
    except OSError:
        pytest.skip("this file system has no such names")
    assert len(items_in(tmp_path, defaults={"prompt": "x"})) == 1
    assert problems(tmp_path, defaults={"prompt": "a {stem}"}) == [
        f"{tmp_path / name}: prompt: cannot have {{stem}} filled in: 'caf?' is no text, rename it"
    ]


def test_doubts_are_kept_and_errors_are_problems(folder: Path):
    """What the map is sure of is the row's problem, what it doubts its item's finding; check decides."""
    (folder / "cut.png").write_bytes(png()[:-8])
    rows = [
        {"image": "cut.png"},
        {"image": "a.PNG", "duration": 7, "model_name": "kling-v2-6"},
    ]
    path = written(folder, "m.jsonl", lines(*rows))
    read = read_source(path, defaults={"prompt": "x"}, provider=KLING)
    ((finding,),) = (item.findings for item in read.items)
    assert (finding.field, finding.severity) == ("image", "warning")
    assert finding.message.endswith("it ends without the end mark of a whole picture")
    (problem,) = read.problems
    assert problem.field == "m.jsonl:2: duration"
    strict = read_source(path, defaults={"prompt": "x"}, provider=KLING, check="error")
    assert [each.field for each in strict.problems] == ["m.jsonl:1: image", "m.jsonl:2: duration"]
    assert strict.items == ()
    assert len(read_source(path, defaults={"prompt": "x"}).items) == 2


def test_all_problems_are_told_in_their_order(folder: Path):
    """Each broken row is told with file, line and field, those after it too; faults as the fields stand."""
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
    told = problems(written(folder, "m.jsonl", "\n".join(rows)))
    assert [one.split(" ")[:2] for one in told] == [
        ["m.jsonl:2:", "image:"],
        ["m.jsonl:3:", "image:"],
        ["m.jsonl:3:", "promt:"],
        ["m.jsonl:4:", "is"],
        ["m.jsonl:5:", "image:"],
        ["m.jsonl:5:", "key:"],
        ["m.jsonl:6:", "must"],
        ["m.jsonl:7:", "image:"],
        ["m.jsonl:7:", "key:"],
        ["m.jsonl:8:", "image:"],
    ]
    assert told[2] == "m.jsonl:3: promt: no such field; did you mean prompt?"
    assert told[5] == "m.jsonl:5: key: 'k' is taken by m.jsonl:1"


def test_all_faults_of_a_row_are_told(folder: Path):
    """Its names, its fields, its pictures and what the map says, though no request can be made of it."""
    (folder / "small.png").write_bytes(png(200, 200))
    masks = [{"mask": "small.gif", "trajectories": []}]
    rows = [
        {"image": "none.png", "prompt": "", "duration": 7, "key": 5, "external_task_id": "e"},
        {"image": "small.png", "image_tail": "none.png", "static_mask": "a.PNG", "prompt": "x"},
        {"image": 5, "image_tail": "none.png", "prompt": "x", "promt": "x", "extra_body": 5},
        {"image_list": ["a.PNG", "", "none.png"]},
        {"image": "a.PNG", "dynamic_masks": masks, "prompt": "x", "cfg_scale": 2, "external_task_id": "e"},
    ]
    told = problems(written(folder, "m.jsonl", lines(*rows)), provider=KLING)
    none = f"{folder / 'none.png'} does not exist"
    assert [one.removeprefix("m.jsonl:") for one in told] == [
        f"1: image: {none}",
        "1: prompt: is required unless multi_shot is customized",
        "1: duration: must be 5 or 10 with kling-v2-6; kling-v3 takes it",
        "1: key: must be text of 1 to 500 characters",
        f"2: image: {folder / 'small.png'} is 200 x 200 px: each side must be at least 300 px",
        "2: image_tail: excludes static_mask/dynamic_masks: give at most one of them",
        f"2: image_tail: {none}",
        "2: static_mask: is not taken by kling-v2-6; only kling-v1 took it: leave it out",
        "3: image: must be a path, a URL, base64 text or bytes, not int",
        f"3: image_tail: {none}",
        "3: image_tail: needs mode pro with kling-v2-6",
        "3: promt: no such field; did you mean prompt?",
        "3: extra_body: must be a mapping of field names to values",
        "4: image_list[1]: must not be empty",
        f"4: image_list[2]: {none}",
        "4: prompt: is required",
        "5: dynamic_masks[0].trajectories: must have 2 to 77 entries, not 0",
        f"5: dynamic_masks[0].mask: {folder / 'small.gif'} does not exist",
        "5: cfg_scale: must be from 0 to 1, not 2",
        "5: external_task_id: 'e' is taken by m.jsonl:1",
    ]


def test_what_depends_on_a_fault_is_not_told(folder: Path):
    """Nobody knows what mode or model is meant, so nobody is told what these do not take."""
    tail = {"image": "a.PNG", "image_tail": "b.png", "prompt": "x"}
    rows = [tail | {"mode": 5}, tail | {"model_name": ""}, tail | {"mode": "pro", "duration": 99}]
    told = problems(written(folder, "m.jsonl", lines(*rows)), provider=KLING, check="error")
    assert told == [
        "m.jsonl:1: mode: must be text, not int",
        "m.jsonl:2: model_name: must not be empty",
        "m.jsonl:3: duration: must be whole seconds from 3 to 15, not '99'",
    ]
    assert problems(written(folder, "m.jsonl", lines(tail)), provider=KLING) == [
        "m.jsonl:1: image_tail: needs mode pro with kling-v2-6"
    ]


def test_what_holds_whatever_is_meant_is_told(folder: Path):
    """A faulty mode, duration or sound hides nothing that the model takes in none of them."""
    rows = [
        {"image": "a.PNG", "prompt": "x", "sound": 5, "duration": 7},
        {"image": "a.PNG", "prompt": "x", "mode": 5, "duration": 60, "static_mask": "b.png"},
        {"image_list": ["a.PNG"], "prompt": "x", "sound": "on", "duration": 7},
    ]
    assert problems(written(folder, "m.jsonl", lines(*rows)), provider=KLING) == [
        "m.jsonl:1: sound: must be text, not int",
        "m.jsonl:1: duration: must be 5 or 10 with kling-v2-6; kling-v3 takes it",
        "m.jsonl:2: mode: must be text, not int",
        "m.jsonl:2: duration: must be whole seconds from 3 to 15, not '60'",
        "m.jsonl:2: static_mask: is not taken by kling-v2-6; only kling-v1 took it: leave it out",
        "m.jsonl:3: sound: no such field",
        "m.jsonl:3: duration: must be 5 or 10 with multi-image2video",
    ]


SHOTS = {"shot_type": "customize", "multi_prompt": [{"prompt": "x", "duration": "6"}]}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"image_list": ["a.PNG"], "image_tail": "none.png", "prompt": "x"}, ["image_tail: no such field"]),
        (
            {"image_list": ["a.PNG", "none.png"], "image_tail": "none.png", "prompt": "x"},
            ["image_list[1]: ", "image_tail: no such field"],
        ),
        ({"Image": "a.PNG", "prompt": "x"}, ["Image: no such field; did you mean image?"]),
        ({"image_tial": "a.PNG", "prompt": "x"}, ["image_tial: no such field; did you mean image_tail?"]),
        ({"image": "a.PNG", "promt": "x"}, ["promt: no such field; did you mean prompt?"]),
        (
            {"image": "a.PNG", "promt": "x", "prompt": "x" * 3000},
            ["promt: no such field", "prompt: must be at most"],
        ),
        ({"image": "a.PNG", "prompt": "x", "model": "kling-v3", "duration": 7}, ["model: no such field"]),
        ({"picture": "a.PNG", "prompt": "x"}, ["picture: no such field; did you mean image?"]),
        ({"image": "a.PNG", "multi_shot": "maybe", "duration": 6, **SHOTS}, ["multi_shot: must be true or"]),
        ({"image": "a.PNG", "Multi_shot": True, "duration": 6, **SHOTS}, ["Multi_shot: no such field; did"]),
        (
            {"image": "a.PNG", "multi_shot": True, "duration": 60, **SHOTS},
            ["duration: must be whole seconds"],
        ),
        ({"image": "a.PNG", "multi_shot": "maybe"}, ["multi_shot: must be true or false"]),
    ],
)
def test_what_follows_from_another_fault_is_not_told(folder: Path, row: dict[str, Any], told: list[str]):
    """Where a name or a value is not what was meant, what is missing or wrong by it alone is no fault."""
    provider = None if "multi_prompt" in row else KLING
    found = problems(written(folder, "m.jsonl", lines(row)), provider=provider)
    assert len(found) == len(told)
    assert all(one.startswith(f"m.jsonl:1: {start}") for one, start in zip(found, told, strict=True))


def test_prompts_of_white_space(folder: Path):
    """They are none, in a row as in the common one, and a row's does not make room for the common one."""
    path = written(folder, "m.jsonl", lines({"image": "a.PNG", "prompt": " \n"}))
    told = ["m.jsonl:1: prompt: is required unless multi_shot is customized"]
    assert problems(path) == problems(path, defaults={"prompt": "x"}) == told
    path = written(folder, "m.jsonl", lines({"image": "a.PNG"}))
    assert problems(path, defaults={"prompt": " "}) == told


def test_a_picture_that_cannot_be_fitted_hides_no_other(folder: Path):
    """Nor what the map says, and what is told of a picture is told once."""
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))

    def fit(path: Path) -> Path:
        raise ValueError("is broken")

    rows = [
        {"image": "phone.heic", "image_tail": "none.png", "prompt": "x"},
        {"image_list": ["phone.heic", "none.png"], "prompt": "x"},
    ]
    assert problems(written(folder, "m.jsonl", lines(*rows)), provider=KLING, fit=fit) == [
        f"m.jsonl:1: image: {folder / 'phone.heic'} is broken",
        f"m.jsonl:1: image_tail: {folder / 'none.png'} does not exist",
        "m.jsonl:1: image_tail: needs mode pro with kling-v2-6",
        f"m.jsonl:2: image_list[0]: {folder / 'phone.heic'} is broken",
        f"m.jsonl:2: image_list[1]: {folder / 'none.png'} does not exist",
    ]


def test_picture_of_a_folder_is_its_own_place(folder: Path):
    """What is wrong with a picture in a folder is told by its path alone."""
    (folder / "b.png").write_bytes(png(200, 200))
    assert problems(folder, defaults={"prompt": "x"}) == [
        f"{folder / 'b.png'}: is 200 x 200 px: each side must be at least 300 px"
    ]


def test_external_task_id_is_taken_once(folder: Path):
    """Two rows with one external_task_id are refused, and both lines named: Kling would make one video."""
    row = {"image": "a.PNG", "prompt": "x", "external_task_id": "e"}
    assert problems(written(folder, "m.jsonl", lines(row, {**row, "prompt": "y"}))) == [
        "m.jsonl:2: external_task_id: 'e' is taken by m.jsonl:1"
    ]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere", "no such file or folder"),
        ("a.PNG", "is no folder, .jsonl, .csv or .tsv file; nothing was paid; for a single picture"),
        ("m.xlsx", 'save it as "CSV UTF-8" (Excel: File > Save As)'),
        ("m.ods", 'save it as "CSV UTF-8"'),
        ("m.numbers", "export it as CSV"),
        ("m.json", "write one object a line, in a .jsonl file"),
        ("notes.txt", "is no folder, .jsonl, .csv or .tsv file"),
        ("empty.jsonl", "holds nothing to animate"),
        ("empty.csv", "holds nothing to animate"),
        ("head.csv", "holds nothing to animate"),
        ("empty", "holds nothing to animate: no JPEG or PNG files are in it"),
        ("zip.csv", "is a spreadsheet, whatever its name says"),
    ],
)
def test_what_is_no_source(folder: Path, name: str, told: str):
    """A source that is missing, of another kind or empty is refused by its name, with what to do."""
    (folder / "empty").mkdir()
    for file in ("m.xlsx", "m.ods", "m.numbers", "m.json", "empty.jsonl", "empty.csv"):
        (folder / file).touch()
    written(folder, "notes.txt", "a cat\n")
    written(folder, "head.csv", "image,prompt\n\n,\n")
    written(folder, "zip.csv", b"PK\x03\x04\x14\0")
    assert told in str(refusal(folder / name))


def test_good_rows_are_there_beside_bad_ones(folder: Path):
    """What is wrong with a row keeps no other from being an item; counted are rows, not problems."""
    rows = [
        {"image": "a.PNG", "prompt": "x"},
        {"image": "none.png", "prompt": "x", "duration": 60, "key": 5},
        {"image": "b.png", "prompt": "x"},
    ]
    read = read_source(written(folder, "m.jsonl", lines(*rows)))
    assert [(item.name, item.place) for item in read.items] == [("a", "m.jsonl:1"), ("b", "m.jsonl:3")]
    assert read.bad == 1
    assert [str(problem) for problem in read.problems] == [
        f"m.jsonl:2: image: {folder / 'none.png'} does not exist",
        "m.jsonl:2: duration: must be whole seconds from 3 to 15, not '60'",
        "m.jsonl:2: key: must be text of 1 to 500 characters",
    ]


class Broken(io.BytesIO):
    """A file on a disk that fails."""

    def __next__(self) -> bytes:
        """Fail."""
        raise OSError(5, "Input/output error")


def test_source_that_cannot_be_read():
    """What the system refuses is told with its reason."""
    assert refusal(Broken()).what == "<stdin> cannot be read: Input/output error"


def test_file_that_is_called_like_base64(folder: Path):
    """Text that begins as base64 of a picture does is a path where such a file lies beside the manifest."""
    (folder / "a.PNG").rename(folder / "iVBORw0KGgo.png")
    (picture,) = requests(written(folder, "m.jsonl", lines({"image": "iVBORw0KGgo.png"})), prompt="x")
    assert picture.image == folder / "iVBORw0KGgo.png"


def test_bytes_that_are_no_text(folder: Path):
    """JSON lines in another encoding are told with the line; nothing behind it is read."""
    path = written(folder, "m.jsonl", lines({"image": "a.PNG", "prompt": "x"}).encode() + b"\xff\xfe{}\n{\n")
    assert problems(path) == ["m.jsonl:2: is no UTF-8 (byte 0xff): save the file as UTF-8"]
    assert read_source(path).broken


def test_faults_of_rows_break_no_source(folder: Path):
    """What is wrong with rows is known in full; the others can be made."""
    rows = [{"image": "none.png"}, [], {"image": "a.PNG", "prompt": "x"}]
    read = read_source(written(folder, "m.jsonl", lines(*rows) + "{\n"))
    assert (read.bad, read.broken) == (3, False)


def test_values_that_are_no_pictures(folder: Path):
    """They are the request's to refuse, as in Python."""
    rows = [{"image": 5, "prompt": "x"}, {"image": "", "prompt": "x"}, {"image_list": "a.PNG", "prompt": "x"}]
    assert problems(written(folder, "m.jsonl", lines(*rows)), fit=lambda path: path) == [
        "m.jsonl:1: image: must be a path, a URL, base64 text or bytes, not int",
        "m.jsonl:2: image: must not be empty",
        "m.jsonl:3: image_list: must be a list, not str",
    ]


def test_what_provider_and_map_refuse_is_told_together(folder: Path):
    """What the provider would drop without a word, or lacks, and what the map is sure of."""
    rows = [
        {"image": "a.PNG", "image_tail": "b.png", "prompt": "x"},
        {"image_list": ["a.PNG"], "prompt": "x"},
    ]
    assert problems(written(folder, "m.jsonl", lines(*rows)), provider=EZMODEL) == [
        "m.jsonl:1: image_tail: must be a URL: ezmodel may drop anything else",
        "m.jsonl:1: image_tail: needs mode pro with kling-v2-6",
        "m.jsonl:2: ezmodel has no multi-image2video",
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


def items_of(folder: Path, *rows: dict[str, str]) -> tuple[Item, ...]:
    """The items of a manifest with *rows*."""
    return items_in(written(folder, "m.jsonl", lines(*rows)), defaults={"prompt": "x"})


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


def bared(folder: Path) -> Any:
    """What fits pictures by giving all but b.png other bytes."""

    def fit(path: Path) -> Path:
        if path.name == "b.png":
            return path
        made = folder / "fitted" / f"{path.stem}.png"
        made.parent.mkdir(exist_ok=True)
        made.write_bytes(png(401, 300))
        return made

    return fit


def test_what_was_fitted_tells_what_it_was(folder: Path):
    """Where pictures got other bytes, and would have passed as they were, the item holds what that was."""
    (folder / "d.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    defaults = {"prompt": "{stem}", "image_tail": folder / "b.png"}
    plain = items_in(folder, defaults=defaults)
    fitted = items_in(folder, defaults=defaults, fit=bared(folder))
    assert [item.original for item in fitted] == [plain[0], None, plain[2], None]
    assert fitted[0].request_hash != plain[0].request_hash


def test_what_was_made_before_pictures_were_fitted_stays_made(folder: Path):
    """The original stands for what it was made of; what is new, or was refused, is fitted."""
    rows = [
        {"image": "a.PNG", "key": "ant"},
        {"image": "b.png", "prompt": "fit as it is"},
        {"image": "c.png"},
        {"image": "c.png"},
        {"image": "c.png", "prompt": "refused"},
        {"image": "c.png", "prompt": "new"},
    ]
    path = written(folder, "m.jsonl", lines(*rows))
    plain = items_in(path, defaults={"prompt": "x"})
    keys = [
        "ant",
        *(f"{item.request_hash}#{place}" for item, place in zip(plain[1:], (1, 1, 2, 1, 1), strict=True)),
    ]
    states = ("succeed", "failed", "processing", "succeed", "refused")
    journal = [row(*each) for each in zip(plain[:5], keys, states, strict=False)]
    fitted = items_in(path, defaults={"prompt": "x"}, fit=bared(folder))
    made = as_made(fitted, journal)
    assert made == [*plain[:4], *fitted[4:]]
    assert made[1] == fitted[1]
    assert compare(made, journal).rows == (*journal[:4], None, None)
    assert as_made(fitted, []) == list(fitted)


def test_what_was_made_of_fitted_pictures_goes_before_its_original(folder: Path):
    """An item that has a row of its own keeps it, though there is one of its original too."""
    rows = [{"image": "a.PNG", "key": "ant"}, {"image": "c.png"}]
    path = written(folder, "m.jsonl", lines(*rows))
    journal = [
        row(item, item.key or f"{item.request_hash}#1")
        for fit in (None, bared(folder))
        for item in items_in(path, defaults={"prompt": "x"}, fit=fit)
    ]
    fitted = items_in(path, defaults={"prompt": "x"}, fit=bared(folder))
    assert as_made(fitted, journal) == list(fitted)


def test_equal_items_find_as_many_rows_as_there_are():
    """Whichever of equal items were made fitted or as they were, none is paid for again that need not be."""
    request = ImageToVideo(image="https://example.com/a.png", prompt="x")
    original = Item(None, "a", request, "before")
    kinds = (Item(None, "a", request, "after"), Item(None, "a", request, "after", original=original))
    for items in itertools.product(kinds, repeat=4):
        able = sum(item.original is not None for item in items)
        for before, after in itertools.product(range(5), repeat=2):
            journal = [row(original, f"before#{place}") for place in range(1, before + 1)]
            journal += [row(kinds[0], f"after#{place}") for place in range(1, after + 1)]
            found = compare(as_made(items, journal), journal).rows
            most = max(min(taken, before) + min(4 - taken, after) for taken in range(able + 1))
            assert sum(each is not None for each in found) == most
