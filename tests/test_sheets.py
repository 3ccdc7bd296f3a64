"""Tables as spreadsheet programs write them: what is read from their cells, and how their faults are told."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from kling_async import (
    KLING,
    CameraConfig,
    DynamicMask,
    ImageToVideo,
    MultiImageToVideo,
    Point,
    RequestError,
    Shot,
)
from kling_async.batch import Source, read_source
from kling_async.batch.cells import TABLE, names
from kling_async.batch.items import Row
from kling_async.batch.sheets import sheet_rows

URL = "https://example.com/a.png"


def read(folder: Path, table: str | bytes, name: str = "m.csv") -> Source:
    """What the file *name* holds."""
    path = folder / name
    path.write_bytes(table if isinstance(table, bytes) else table.encode())
    return read_source(path)


def request(folder: Path, **cells: str) -> Any:
    """The request of one row, written with semicolons, to which the comma is a decimal point."""
    given = {"image": URL, "prompt": "x"} | cells
    if any(name.startswith("image_list") for name in cells):
        del given["image"]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=";").writerows([given.keys(), given.values()])
    source = read(folder, text.getvalue())
    assert source.problems == ()
    return source.items[0].request


def problems(folder: Path, table: str | bytes) -> list[str]:
    """What is wrong with a table."""
    return [str(problem) for problem in read(folder, table).problems]


def wrong(folder: Path, **cells: str) -> str:
    """The only problem of one row."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=";").writerows([cells.keys(), cells.values()])
    (problem,) = problems(folder, text.getvalue())
    return problem


# Files, by the rules of the programs that write them

ROWS = (("key", "image", "prompt", "duration"), ("café", URL, 'a "slow" push-in; then, a cut', "5"))


def table(delimiter: str, end: str, *, quotes: bool = False) -> str:
    """`ROWS` with quotes where the delimiter or a quote asks for them, or everywhere."""

    def cell(value: str) -> str:
        asks = quotes or delimiter in value or '"' in value
        return '"' + value.replace('"', '""') + '"' if asks else value

    return "".join(delimiter.join(map(cell, row)) + end for row in ROWS)


PROGRAMS = {
    "Excel, CSV UTF-8, English": table(",", "\r\n").encode("utf-8-sig"),
    "Excel, CSV UTF-8, German": table(";", "\r\n").encode("utf-8-sig"),
    "Excel, CSV, Western Europe": table(";", "\r\n").encode("cp1252"),
    "Excel, CSV (Macintosh)": table(",", "\r").encode(),
    "Excel, Unicode Text": table("\t", "\r\n").encode("utf-16"),
    "Excel, sep": ("sep=;\r\n" + table(";", "\r\n")).encode("utf-8-sig"),
    "Google Sheets, CSV": table(",", "\r\n").removesuffix("\r\n").encode(),
    "Google Sheets, TSV": table("\t", "\r\n").encode(),
    "LibreOffice, all text quoted": table(";", "\n", quotes=True).encode(),
    "LibreOffice, UTF-16 without a mark": table(",", "\n").encode("utf-16-le"),
    "Numbers": table(",", "\r\n").encode(),
    "Postgres": table("|", "\n").encode(),
    "PowerShell, Export-Csv": table(",", "\r\n", quotes=True).encode("utf-16"),
    "UTF-16 of the other end": b"\xfe\xff" + table(",", "\r\n").encode("utf-16-be"),
    "UTF-16 of the other end without a mark": table(",", "\r\n").encode("utf-16-be"),
    "two marks": b"\xef\xbb\xbf" + table(",", "\r\n").encode("utf-8-sig"),
    "files with marks joined": table(",", "\r\n", quotes=True).replace("\n", "\n\ufeff", 1).encode(),
    "DOS": table(",", "\r\n").encode() + b"\x1a",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs(tmp_path: Path, program: str):
    """What each program writes is the same request; only what is no UTF-8 is doubted, with its line."""
    source = read(tmp_path, PROGRAMS[program])
    assert source.problems == ()
    (item,) = source.items
    assert item.key == "café"
    assert item.request == ImageToVideo(image=URL, prompt='a "slow" push-in; then, a cut', duration="5")
    doubt = 'm.csv:2: is no UTF-8 and was read as Windows-1252 ("café;https://exampl"): if that is wrong, '
    remedy = 'save it as "CSV UTF-8" (Excel: File > Save As)'
    assert source.warnings == ((doubt + remedy,) if "Western" in program else ())


@pytest.mark.parametrize("name", ["m.tsv", "m.TXT"])
def test_tabs_under_other_names(tmp_path: Path, name: str):
    """A .tsv is a table, and so is the .txt that Excel calls Unicode Text."""
    assert len(read(tmp_path, PROGRAMS["Excel, Unicode Text"], name).items) == 1


def test_lines_are_counted_as_they_stand(tmp_path: Path):
    """Blank lines, cells of several lines and the sep line count; a row stands where it begins."""
    text = 'sep=;\n\nimage;prompt;duration\nu;"two\nlines";60\n\n;;\nu;x;61\n'
    assert [each.split(" ")[0] for each in problems(tmp_path, text.replace("u;", f"{URL};"))] == [
        "m.csv:4:",
        "m.csv:8:",
    ]


def test_trailing_delimiters(tmp_path: Path):
    """Spreadsheets leave empty cells behind the last column; a column without a name must be empty."""
    assert len(read(tmp_path, f"image,prompt,,\n{URL},x,,,,\n{URL},y\n").items) == 2
    assert problems(tmp_path, f"image,prompt,,\n{URL},x,,note\n") == [
        "m.csv:2: has 'note' in column D, which has no name: name it as the API does, or delete the cell"
    ]
    assert problems(tmp_path, f"image,prompt\n{URL},a cat, yawning\n") == [
        "m.csv:2: has 3 cells, but there are 2 columns: quote a cell that holds a comma"
    ]


def test_an_index_without_a_name(tmp_path: Path):
    """A first column that is filled and has no name is one fault, the header's; an empty one is none."""
    source = read(tmp_path, f",image,prompt\n0,{URL},x\n1,{URL},y\n")
    (problem,) = source.problems
    remedy = "name it as the API does, or delete it (pandas: index=False)"
    assert str(problem) == f"m.csv:1: column A has no name, and m.csv:2 has '0' in it: {remedy}"
    assert source.broken
    assert len(read(tmp_path, f",image,prompt\n,{URL},x\n").items) == 1


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("image_url", "image"),
        ("Start Frame", "image"),
        ("End Image", "image_tail"),
        ("end-frame", "image_tail"),
        ("Model Name", "model_name"),
        ("multi_prompt.1.length", "multi_prompt.1.duration"),
    ],
)
def test_other_names_of_columns(tmp_path: Path, name: str, meant: str):
    """What people call a column is told with the field that they mean, not with the one most like it."""
    told = f"m.csv:1: column B: no such column: {name!r}; did you mean {meant}?"
    assert problems(tmp_path, f"prompt,{name}\n") == [told]


def test_a_word_for_a_column_that_is_there_means_another(tmp_path: Path):
    """Beside the image, `url` is some other address: no hint leads to the same column twice."""
    told = "m.csv:1: column B: no such column: 'url': delete the column, or name it as the API does"
    assert problems(tmp_path, "image,url\n") == [told]


def test_names_of_columns(tmp_path: Path):
    """Case and white space around a name do not count; an unknown name is told with the closest."""
    assert len(read(tmp_path, f' Image , "PROMPT"\n{URL}, "x"\n').items) == 1
    assert problems(tmp_path, "image,promt,model,zoom,Multi_prompt.0.prompt,colour,Seconds\nu,x,,,,\n") == [
        "m.csv:1: column B: no such column: 'promt'; did you mean prompt?",
        "m.csv:1: column C: no such column: 'model'; did you mean model_name?",
        "m.csv:1: column D: no such column: 'zoom'; did you mean camera_control.config.zoom?",
        "m.csv:1: column E: no such column: 'Multi_prompt.0.prompt'; entries are counted from 1",
        "m.csv:1: column F: no such column: 'colour': delete the column, or name it as the API does",
        "m.csv:1: column G: no such column: 'Seconds'; did you mean duration?",
    ]
    assert problems(tmp_path, "image,image,camera_control,camera_control.type\n") == [
        "m.csv:1: the column image is there twice",
        "m.csv:1: the column camera_control is there whole and in parts (camera_control.type)",
    ]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (b'u,"x\nu,y\n', "m.csv:3: has a quote that is never closed; nothing behind it was read"),
        (
            b'u,"x\nu,"y"\n',
            (
                "m.csv:3: has text behind a closing quote (line 4): a quote in a cell is written twice; "
                "nothing behind it was read"
            ),
        ),
        (
            b'u,"' + b"x" * 140_000,
            "m.csv:3: has a cell of more than 131,072 characters: close its quote",
        ),
        (b"u,a\0b\n", "m.csv:3: prompt: holds a NUL byte: the file is damaged"),
        (b"u,\xe9\x81\n", f"m.csv:3: has a byte that is no text (0x81, column {len(URL) + 3}): save it as"),
    ],
)
def test_damaged_tables(tmp_path: Path, row: bytes, told: str):
    """What no program writes is told with the line where it begins, and whether all could be read."""
    start = f"image,prompt\n{URL},x\n".encode()
    source = read(tmp_path, start + row.replace(b"u,", f"{URL},".encode()))
    (problem,) = source.problems
    assert str(problem).startswith(told)
    assert source.broken == ("NUL" not in told)


def test_a_faulty_first_row_breaks_the_source(tmp_path: Path):
    """Of a table whose columns are not known nothing was read; a faulty cell is its row's alone."""
    assert read(tmp_path, f"image,promt\n{URL},x\n").broken
    assert not read(tmp_path, f"image,prompt,duration\n{URL},x,60\n").broken


@pytest.mark.parametrize("text", [",,\n,,\n", "\n;;\n", "\t\t\n", "sep=;;;;;\n", "sep=;;;;;", "sep=,\n\n,,"])
def test_tables_of_empty_cells(tmp_path: Path, text: str):
    """They hold nothing, whatever divides the cells."""
    with pytest.raises(RequestError, match="holds nothing to animate"):
        read(tmp_path, text)


def test_a_sep_line_that_was_saved_again(tmp_path: Path):
    """Programs that take it for a row give it as many cells as the others."""
    assert len(read(tmp_path, f"sep=;;\nimage;prompt;\n{URL};x;\n").items) == 1


@pytest.mark.parametrize("first", ["My shots,,", "<html>", "%PDF-1.4", ",Take 1,Take 2"])
def test_a_title_above_the_header(tmp_path: Path, first: str):
    """A first row in which no cell is like the name of a column is one problem, that of the row."""
    name = next(filter(None, first.split(",")))
    remedy = "if a row below does, delete what stands above it"
    assert problems(tmp_path, f"{first}\nkey,image,prompt\na,{URL},x\n") == [
        f"m.csv:1: the first row must name the columns, as image and prompt do: {name!r} is none; {remedy}"
    ]


@pytest.mark.parametrize("first", ["a.jpg", "Photos\\B.HEIC", URL, '"my, cat.png"'])
def test_a_first_row_that_is_no_header(tmp_path: Path, first: str):
    """A row of data where the names of the columns belong is one problem that says so."""
    name = first.strip('"')
    assert problems(tmp_path, f"{first},the cat,5\nb.jpg,the dog,5\n") == [
        f"m.csv:1: the first row must name the columns, as image and prompt do: {name!r} is none"
    ]


def test_letters_of_columns(tmp_path: Path):
    """Columns are lettered as spreadsheets letter them, beyond Z too."""
    told = problems(tmp_path, "image" + "," * 25 + "x," + "," * 676 + "y\n")
    assert [one.split(":")[2] for one in told] == [" column Z", " column AAA"]


def test_damaged_first_row(tmp_path: Path):
    """A first row that no delimiter makes sense of, or that sep gives none for, is told like any other."""
    (problem,) = problems(tmp_path, '"' + "x" * 140_000)
    assert problem.startswith("m.csv:1: has a cell of more than 131,072 characters")
    (problem,) = problems(tmp_path, "sep= \nimage prompt\n")
    assert problem.startswith("m.csv:1: the first row must name the columns")


def test_utf16_that_breaks_off(tmp_path: Path):
    """Half a character at the end is a problem, and none that ends the program."""
    (problem,) = problems(tmp_path, PROGRAMS["Excel, Unicode Text"] + b"x")
    assert problem.startswith("m.csv:3: has a byte that is no text (0x78, column 1): ")


# Cells


@pytest.mark.parametrize(
    ("field", "cell", "value"),
    [
        ("duration", "5", "5"),
        ("duration", "5.0", "5"),
        ("duration", "5,00", "5"),
        ("cfg_scale", "0.5", 0.5),
        ("cfg_scale", "0,5", 0.5),
        ("cfg_scale", ".5", 0.5),
        ("cfg_scale", "1,0", 1),
        ("cfg_scale", "5E-01", 0.5),
        ("sound", "on", "on"),
        ("sound", "TRUE", "on"),
        ("sound", "False", "off"),
        ("watermark_info", "FALSE", False),
        ("watermark_info", '{"enabled": true}', True),
        ("watermark_info.enabled", "true", True),
        ("element_list", "829824295735410756", (829824295735410756,)),
        ("element_list", "u_12", ("u_12",)),
        ("element_list", '[161, {"element_id": 162}]', (161, 162)),
        ("element_list", '{"element_id": 162}', (162,)),
        ("element_list.1", "161,0", (161,)),
        ("element_list.1.element_id", "161", (161,)),
        ("voice_list", "829824295735410756", ("829824295735410756",)),
        ("voice_list.1", "829.0", ("829",)),
        ("image_list", URL, (URL,)),
        ("image_list", f'[{{"image": "{URL}"}}]', (URL,)),
        ("aspect_ratio", "16:09", "16:9"),
        ("aspect_ratio", "09:16:00", "9:16"),
        ("mode", "pro", "pro"),
        ("mode", "PRO", "pro"),
        ("sound", "On", "on"),
        ("prompt", "one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("prompt", "#cat!", "#cat!"),
        ("prompt", "#1", "#1"),
        ("cfg_scale", "0.500", 0.5),
        ("external_task_id", "e-1", "e-1"),
        ("prompt", "{stem} [not JSON]", "{stem} [not JSON]"),
        ("extra_body", '{"seed": 5}', {"seed": 5}),
    ],
)
def test_cells(tmp_path: Path, field: str, cell: str, value: object):
    """A cell is what was meant by it, however the spreadsheet wrote it."""
    assert getattr(request(tmp_path, **{field: cell}), field.partition(".")[0]) == value


def test_objects_in_json_or_in_parts(tmp_path: Path):
    """A camera, shots and masks are the same in one cell of JSON and in a column for each part."""
    whole = request(tmp_path, camera_control='{"type": "simple", "config": {"zoom": -5.5}}')
    half = request(tmp_path, **{"camera_control.type": "simple", "camera_control.config": '{"zoom": -5.5}'})
    parts = {"camera_control.type": "simple", "camera_control.config.zoom": "-5,5"}
    assert whole == half == request(tmp_path, **parts)
    assert whole.camera_control.config == CameraConfig(zoom=-5.5)
    shots = request(
        tmp_path,
        **{
            "multi_shot": "TRUE",
            "shot_type": "customize",
            "multi_prompt.2.prompt": "second",
            "multi_prompt.2.duration": "2.0",
            "multi_prompt.1.prompt": "first",
            "multi_prompt.1.duration": "3",
            "multi_prompt.3": "",
        },
    )
    assert shots.multi_prompt == (Shot(prompt="first", duration="3"), Shot(prompt="second", duration="2"))
    (tmp_path / "mask.png").touch()
    mask = {
        "dynamic_masks.1.mask": URL,
        "dynamic_masks.1.trajectories": '[{"x": 1, "y": 2}, {"x": 3, "y": 4}]',
    }
    trajectory = {f"dynamic_masks.1.trajectories.{n}.{axis}": f"{n},0" for n in (1, 2) for axis in "xy"}
    assert request(tmp_path, **mask).dynamic_masks == (DynamicMask(URL, (Point(1, 2), Point(3, 4))),)
    points = request(tmp_path, **{"dynamic_masks.1.mask": URL}, **trajectory).dynamic_masks[0].trajectories
    assert points == (Point(1, 1), Point(2, 2))


def test_lists_in_columns(tmp_path: Path):
    """A row may fill fewer columns of a list than there are, but leave none out between."""
    head = "image_list.1,image_list.2,image_list.3,prompt\n"
    source = read(tmp_path, head + f"{URL},{URL}?2,,x\n{URL},,,x\n")
    assert [item.request for item in source.items] == [
        MultiImageToVideo(image_list=(URL, f"{URL}?2"), prompt="x"),
        MultiImageToVideo(image_list=(URL,), prompt="x"),
    ]
    assert problems(tmp_path, head + f"{URL},,{URL},x\n") == [
        "m.csv:2: image_list.2: is empty, and image_list.3 is not"
    ]


def test_problems_are_named_as_their_columns_are(tmp_path: Path):
    """Entries are counted from 1 where the columns count them so, and from 0 in JSON, as the API's are."""
    told = f"{tmp_path / 'none.png'} does not exist"
    assert wrong(tmp_path, prompt="x", **{"image_list.1": "none.png"}) == f"m.csv:2: image_list.1: {told}"
    assert wrong(tmp_path, prompt="x", image_list='["none.png"]') == f"m.csv:2: image_list[0]: {told}"


@pytest.mark.parametrize(
    ("field", "cell", "told"),
    [
        ("key", "8.9E+17", "has lost digits (8.9E+17): format the column as text and enter it again"),
        ("external_task_id", "8,9E+17", "has lost digits (8,9E+17)"),
        ("element_list", "8.29824E+17", "has lost digits"),
        ("voice_list.1", "8E+17", "has lost digits"),
        ("element_list.1.element_id", "8,9e+17", "has lost digits"),
        ("element_list", "161;162", "must be one id or a list in JSON, not '161;162'"),
        ("cfg_scale", "half", "must be a number, not 'half'"),
        ("cfg_scale", "1.000,5", "must be a number, not '1.000,5'"),
        ("cfg_scale", "nan", "must be a number, not 'nan'"),
        ("cfg_scale", "1.000", "may have a separator of thousands (1.000): write it without separators"),
        ("cfg_scale", "1,000", "may have a separator of thousands (1,000)"),
        ("duration", "5.000", "may have a separator of thousands"),
        ("multi_prompt.1.index", "1.234.567", "may have a separator of thousands"),
        ("element_list", "829.824", "may have a separator of thousands"),
        ("sound", "yes", "must be on or off, not 'yes'"),
        *(
            ("prompt", error, f"is a formula's error ({error}): mend the cell")
            for error in (
                "#N/A",
                "#REF!",
                "#NAME?",
                "#VALUE!",
                "#DIV/0!",
                "#NUM!",
                "#NULL!",
                "#SPILL!",
                "#CALC!",
                "#WERT!",
                "#BEZUG!",
                "#NV",
                "#ÜBERLAUF!",
                "#¡VALOR!",
                "#¿NOMBRE?",
                "#N/D",
                "#ERROR!",
                "Err:502",
            )
        ),
        ("key", "#N/A", "is a formula's error (#N/A): mend the cell"),
        ("multi_shot", "yes", "must be true or false, not 'yes'"),
        ("watermark_info", "1", "must be true or false, not '1'"),
        ("multi_prompt.1.index", "1.5", "must be a whole number, not '1.5'"),
        ("camera_control", "zoom", "must be JSON, an object or a list, not 'zoom'"),
        ("camera_control", '{"type": ', "is no JSON: it breaks off (column "),
        (
            "camera_control",
            '{"type":\n x}',
            "is no JSON: a value is missing, or is none of JSON's (line 2, col",
        ),
        ("camera_control", '{"type": 1} x', "is no JSON: something stands behind its end (column 13)"),
        ("camera_control", '{"type": 1, "type": 1}', "gives 'type' twice"),
        ("key", "########", "was too wide for its column (########): widen the column"),
        ("camera_control", "{“type”: “simple”}", "is no JSON: its quotes are curly (“), write straight ones"),
        ("camera_control.config", "{}", "exactly one axis must not be 0, found none"),
        ("camera_control.config", "5", "must be JSON"),
        ("extra_body", "[" * 100_000, "is no JSON: "),
        ("duration", "60", "must be whole seconds from 3 to 15, not '60'"),
    ],
)
def test_faults_of_cells(tmp_path: Path, field: str, cell: str, told: str):
    """What a cell cannot be is told with its line and its column, and nothing else of the row is."""
    cells = {"image": URL, "prompt": "x", field: cell}
    if field.startswith("camera_control."):
        cells["camera_control.type"] = "simple"
    if field.startswith("multi_prompt."):
        cells |= {"multi_shot": "TRUE", "shot_type": "customize"}
    assert wrong(tmp_path, **cells).startswith(f"m.csv:2: {field}: {told}")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_decimal_commas(tmp_path: Path, delimiter: str):
    """A comma in a number is its decimal sign in any table, unless it may divide thousands."""
    text = io.StringIO(newline="")
    rows = [["image", "prompt", "duration", "cfg_scale"], [URL, "x", "5,0", "0,5"], [URL, "x", "5", "1,000"]]
    csv.writer(text, delimiter=delimiter).writerows(rows)
    source = read(tmp_path, text.getvalue())
    assert [item.request for item in source.items] == [
        ImageToVideo(image=URL, prompt="x", duration="5", cfg_scale=0.5)
    ]
    assert [str(problem) for problem in source.problems] == [
        "m.csv:3: cfg_scale: may have a separator of thousands (1,000): write it without separators"
    ]


def test_decimal_points_between_commas(tmp_path: Path):
    """Where commas divide the cells, a point does not divide thousands."""
    (item,) = read(tmp_path, f"image,prompt,duration,cfg_scale\n{URL},x,5.000,1.000\n").items
    assert item.request == ImageToVideo(image=URL, prompt="x", duration="5", cfg_scale=1)


def test_all_faults_of_a_row_are_told(tmp_path: Path):
    """Of its cells, of what they make together, of its pictures, by the map; of a faulty cell one alone."""
    path = tmp_path / "m.csv"
    path.write_text(
        "key,image,prompt,duration,mode,cfg_scale,model_name\n"
        "a,none.png,x,5s,std,50%,kling-v1\n"
        "8E+17,none.png,,7,std,,\n"
        "c,#REF!,#N/A,7,#N/A,,\n",
    )
    missing = f"image: {tmp_path / 'none.png'} does not exist"
    assert [str(problem) for problem in read_source(path, provider=KLING).problems] == [
        f"m.csv:2: {missing}",
        "m.csv:2: duration: must be whole seconds from 3 to 15, not '5s'",
        "m.csv:2: cfg_scale: must be a number, not '50%'",
        "m.csv:3: key: has lost digits (8E+17): format the column as text and enter it again",
        f"m.csv:3: {missing}",
        "m.csv:3: prompt: is required unless multi_shot is customized",
        "m.csv:3: duration: must be 5 or 10 with kling-v2-6; kling-v3 takes it",
        *(
            f"m.csv:4: {field}: is a formula's error ({error}): mend the cell"
            for field, error in (("image", "#REF!"), ("prompt", "#N/A"))
        ),
        "m.csv:4: duration: must be 5 or 10 with kling-v2-6; kling-v3 takes it",
        "m.csv:4: mode: is a formula's error (#N/A): mend the cell",
    ]


def test_faults_stand_as_the_columns_do(tmp_path: Path):
    """Those of the whole row first, and no cell's fault hides what holds whatever is meant by it."""
    path = tmp_path / "m.csv"
    path.write_text(
        "duration,sound,prompt,multi_shot,shot_type,multi_prompt.1.prompt,multi_prompt.1.duration,image,\n"
        f"7,maybe,x,,,,,{URL},\n"
        f"5,,,maybe,customize,x,5,{URL},\n"
        '"1,000",,,true,customize,x,6,none.png,\n'
        f"60,loud,x,,,,,{URL},note\n",
    )
    assert [
        str(problem).removeprefix("m.csv:") for problem in read_source(path, provider=KLING).problems
    ] == [
        "2: duration: must be 5 or 10 with kling-v2-6; kling-v3 takes it",
        "2: sound: must be on or off, not 'maybe'",
        "3: multi_shot: must be true or false, not 'maybe'",
        "4: duration: may have a separator of thousands (1,000): write it without separators",
        f"4: image: {tmp_path / 'none.png'} does not exist",
        "5: has 'note' in column I, which has no name: name it as the API does, or delete the cell",
        "5: sound: must be on or off, not 'loud'",
    ]


def test_a_fault_in_a_part_hides_its_whole(tmp_path: Path):
    """Of a list that has a faulty entry that entry's fault is told; the other fields are looked at."""
    text = f"image_list.1,image_list.2,image_list.3,prompt,duration\n{URL},#N/A,{URL},x,60\n"
    assert problems(tmp_path, text) == [
        "m.csv:2: image_list.2: is a formula's error (#N/A): mend the cell",
        "m.csv:2: duration: must be whole seconds from 3 to 15, not '60'",
    ]


def test_cells_that_may_be_shifted(tmp_path: Path):
    """Of a row that has too many cells nothing more is told: nobody knows what they are for."""
    assert problems(tmp_path, f"image,prompt,duration\n{URL},a cat, yawning,5\n") == [
        "m.csv:2: has 4 cells, but there are 3 columns: quote a cell that holds a comma"
    ]


def test_words_of_the_api_in_any_case(tmp_path: Path):
    """What can only be one of the API's words is that word in any case."""
    parts = {"camera_control.type": "Simple", "camera_control.config.zoom": "5"}
    assert request(tmp_path, **parts).camera_control.type == "simple"
    assert request(tmp_path, multi_shot="TRUE", shot_type="Intelligence").shot_type == "intelligence"


def test_ids_that_lost_their_last_digits(tmp_path: Path):
    """Spreadsheets keep 15 digits: a longer number with zeros behind is doubted once for each column."""
    text = (
        "image,prompt,element_list.1,voice_list,key\n"
        f"{URL},x,829836802793406551,,1000000000000000\n"
        f"{URL},x,829836802793406000,829836802793406000,100000000000000\n"
        f"{URL},x,829836802793407000,,\n"
    )
    source = read(tmp_path, text)
    assert source.problems == ()
    lost = "may have lost its last digits: format the column as text"
    assert source.warnings == (
        f"m.csv:2: key: 1000000000000000 {lost}",
        f"m.csv:3: element_list.1: 829836802793406000 {lost}",
        f"m.csv:3: voice_list: 829836802793406000 {lost}",
    )


def test_long_text_is_no_number(tmp_path: Path):
    """A cell of digits alone, however long, is read in one pass."""
    assert "must be a number" in wrong(tmp_path, image=URL, prompt="x", cfg_scale="1" * 100_000 + "x")


def test_every_field_has_its_column():
    """A table can hold every field of every request, and every part of those that are objects."""
    fields = {field.name for kind in (ImageToVideo, MultiImageToVideo) for field in attrs.fields(kind)}
    assert set(TABLE.parts) == {"key", *fields}
    for kind, before in (
        (CameraConfig, "camera_control.config."),
        (Shot, "multi_prompt.1."),
        (DynamicMask, "dynamic_masks.1."),
        (Point, "dynamic_masks.1.trajectories.1."),
    ):
        assert {f"{before}{field.name}" for field in attrs.fields(kind)} <= set(names(TABLE))


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff\x1a"), max_size=20).map(
    str.strip
)


@settings(max_examples=150)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=5),
    delimiter=st.sampled_from(",;\t|"),
    quoted=st.booleans(),
    end=st.sampled_from(["\r\n", "\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_is_written_is_read(
    rows: list[tuple[str, str, str]], delimiter: str, quoted: bool, end: str, encoding: str
):
    """Whatever text stands in the cells, in any dialect: what csv writes is read back, but for line ends."""
    columns = ("prompt", "negative_prompt", "callback_url")
    text = io.StringIO(newline="")
    # Python's writer leaves line ends unquoted that are not its own; spreadsheets do not
    quoted = quoted or any(mark in cell for row in rows for cell in row for mark in "\r\n")
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows([columns, *rows])
    warnings: list[str] = []
    found = list(sheet_rows(text.getvalue().encode(encoding), "m.csv", Path(), warnings))
    assert [(row.fields, row.problems) for row in found] == [
        (
            {
                name: "\n".join(re.split("\r\n?", cell))
                for name, cell in zip(columns, row, strict=True)
                if cell
            },
            (),
        )
        for row in rows
        if any(row)
    ]
    assert warnings == []


@settings(max_examples=200)
@given(st.binary(max_size=60), st.sampled_from([b"", b"image,prompt\n", b"image;duration;element_list\r"]))
def test_any_bytes_are_rows_or_problems(data: bytes, head: bytes):
    """Nothing that a file can hold ends in anything but rows, problems or a refusal."""
    try:
        rows = list(sheet_rows(head + data, "m.csv", Path(), []))
    except RequestError:
        rows = []
    assert all(isinstance(row, Row) and row.place.startswith("m.csv:") for row in rows)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"\xef\xbb\xbfimage,prompt\r\na.png,caf\xe9\r\n", "2: has a byte that is no text (0xe9, column 10)"),
        (
            "image,prompt\na,grün café\nb,".encode() + b"bad \xff byte\n",
            "3: has a byte that is no text (0xff, column 7)",
        ),
        ("image,prompt\nü,café".encode() + b"\xe9\xe9", "2: has a byte that is no text (0xe9, column 7)"),
        ("image,prompt\na,ab日".encode()[:-1], "2: has a byte that is no text (0xe6, column 5)"),
    ],
)
def test_a_bad_byte_in_utf8(tmp_path: Path, data: bytes, place: str):
    """It is told with line and column: read as Windows-1252, all good text beyond ASCII would be wrong."""
    source = read(tmp_path, data)
    assert source.broken
    assert str(source.problems[0]).startswith(f"m.csv:{place}: save it as")


def test_another_encoding_that_looks_like_utf8_at_a_place(tmp_path: Path):
    """Most of it is no UTF-8, so it is Windows-1252; the line that is named is the one that is quoted."""
    text = f"image,prompt\n{URL},Spaß“\n{URL},für Köche\n"
    source = read(tmp_path, text.encode("cp1252"))
    assert [item.request.prompt for item in source.items] == ["Spaß“", "für Köche"]
    (warning,) = source.warnings
    assert warning.startswith('m.csv:3: is no UTF-8 and was read as Windows-1252 ("ple.com/a.png,für Köche")')
