"""What a request costs: the reference's table once more, one's own rates, and what cannot be one."""

# pyright: reportArgumentType=false
# (values of the wrong type are what is tested)

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, strategies as st

from kling_async.checking import estimate, prices_for
from kling_async.protocol.errors import ConfigurationError
from kling_async.protocol.models import ImageToVideo, MultiImageToVideo, Shot
from kling_async.protocol.prices import Prices
from kling_async.protocol.providers import COMETAPI, EZMODEL, KLING, KLING_CN
from kling_async.simulator.prices import price as charged

A = "https://cdn.example.org/a.png"

# The reference's rows of image2video: 720p, 1080p, 4k.
ROWS = {
    ("kling-v3", "silent"): ("0.6", "0.8", "3.0"),
    ("kling-v3", "sound"): ("0.9", "1.2", "3.0"),
    ("kling-v2-6", "silent"): ("0.3", "0.5", None),
    ("kling-v2-6", "sound"): (None, "1.0", None),
    ("kling-v2-6", "voice"): (None, "1.2", None),
    ("kling-v2-5-turbo", "silent"): ("0.3", "0.5", None),
}
HEARD: dict[str, dict[str, Any]] = {
    "silent": {},
    "sound": {"sound": "on"},
    "voice": {"sound": "on", "voice_list": ["v"]},
}
MODELS = ["kling-v1", "kling-v1-6", "kling-v2-1", "kling-v2-5-turbo", "kling-v2-6", "kling-v3", "kling-v9"]
OWN = Prices.read(
    '["kling-v2-6"]\nsilent = { std = 0.25 }\n["kling-v1-6"]\nsilent = { std = 0.4, pro = 0.7 }'
)


def request(**fields: Any) -> ImageToVideo:
    """An image2video of some price."""
    usual: dict[str, Any] = {"image": A, "prompt": "p"}
    return ImageToVideo(**usual | fields)


def test_every_cell_of_the_price_page():
    """What stands in the table is multiplied by the seconds, exactly; what does not is unknown."""
    for model in MODELS:
        for heard, fields in HEARD.items():
            row = ROWS.get((model, heard), (None, None, None))
            for mode, rate in zip(("std", "pro", "4k"), row, strict=True):
                for seconds in (5, 10, 13):
                    units = estimate(request(model_name=model, mode=mode, duration=seconds, **fields))
                    assert units == (None if rate is None else Decimal(rate) * seconds), (model, heard, mode)


def test_the_estimate_is_what_the_simulator_charges():
    """Two readings of the price page, made apart, agree."""
    for model in MODELS:
        for fields in HEARD.values():
            for mode in (None, "std", "pro", "4k"):
                given_ = {"mode": mode} if mode else {}
                body = {"duration": "8", **given_, **fields}
                assert estimate(request(model_name=model, **body)) == charged(model, body)


def test_what_is_left_out_is_std_5_seconds_and_silent():
    """The defaults of the API are those of the price."""
    assert estimate(request(model_name="kling-v2-6")) == Decimal("1.5")
    assert estimate(request(model_name="kling-v3", sound=False)) == Decimal("3.0")


def test_shots_cost_their_seconds():
    """A video of several shots costs what its whole duration does."""
    shots = [Shot(prompt="a", duration=3), Shot(prompt="b", duration=5)]
    customized = request(
        model_name="kling-v3",
        prompt=None,
        multi_shot=True,
        shot_type="customize",
        multi_prompt=shots,
        duration=8,
    )
    assert estimate(customized) == Decimal("4.8")


@pytest.mark.parametrize("field", ["model", "model_name", "mode", "duration", "sound", "voice_list"])
def test_extra_body_makes_a_price_unknown(field):
    """Where extra_body sets what decides the price, nobody knows it; any other field changes nothing."""
    assert estimate(request(extra_body={field: "x"})) is None
    assert estimate(request(extra_body={"tomorrow": 1})) == Decimal("1.5")


@pytest.mark.parametrize("fields", [{"sound": "loud"}, {"voice_list": ["v"]}, {"mode": "ultra"}])
def test_what_nobody_documents_has_no_price(fields):
    """A word that nobody knows, and voices without sound, cost what nobody has written down."""
    assert estimate(request(model_name="kling-v3", **fields)) is None


def test_several_pictures_have_no_published_price():
    """multi-image2video is not on the price page, not even for a model that is."""
    for model in ("kling-v1-6", "kling-v3"):
        several = MultiImageToVideo(image_list=[A], prompt="p", model_name=model)
        assert estimate(several) is None
    assert estimate(MultiImageToVideo(image_list=[A], prompt="p", mode="pro"), prices=OWN) == Decimal("3.5")


def test_own_rates_win_cell_by_cell():
    """Kling's own stay where one's own table tells nothing."""
    assert estimate(request(), prices=OWN) == Decimal("1.25")
    assert estimate(request(mode="pro"), prices=OWN) == Decimal("2.5")
    assert estimate(request(model_name="kling-v3"), KLING_CN, OWN) == Decimal("3.0")


@pytest.mark.parametrize("provider", [COMETAPI, EZMODEL], ids=lambda each: each.name)
def test_a_gateway_has_prices_of_its_own(provider):
    """Kling's page says nothing about what a gateway takes: there one's own table alone counts."""
    assert estimate(request(), provider) is None
    assert estimate(request(), provider, OWN) == Decimal("1.25")
    assert estimate(request(model_name="kling-v3"), provider, OWN) is None


def test_kling_at_another_address_is_kling():
    """A proxy in front of Kling changes no price."""
    assert estimate(request(), KLING.at("https://proxy.example.org")) == Decimal("1.5")


def test_prices_tell_where_they_come_from():
    """Both tables' sources stand in what they make together."""
    assert prices_for(KLING).source == "Kling's price page, September 2026"
    own = Prices.from_mapping({}, source="prices.toml")
    assert prices_for(KLING, own).source == "prices.toml over Kling's price page, September 2026"
    assert prices_for(COMETAPI, own).source == "prices.toml"


def test_rates_of_one_model():
    """The table of one model, as it would be written."""
    assert prices_for(KLING).of("kling-v2-6") == {
        "silent": {"std": Decimal("0.3"), "pro": Decimal("0.5")},
        "sound": {"pro": Decimal("1.0")},
        "voice": {"pro": Decimal("1.2")},
    }
    assert prices_for(KLING).of("kling-v1") == {}


@pytest.mark.parametrize("rate", [0.3, Decimal("0.3"), 3, 0])
def test_a_rate_is_taken_as_it_is_written(rate):
    """A float's shortest form, a whole number and a Decimal are exact."""
    own = Prices.from_mapping({"m": {"silent": {"std": rate}}})
    assert own.estimate(request(model_name="m", duration=10)) == Decimal(str(rate)) * 10


MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"m": 0.3}, "m must be a table"),
    ({"m": {"loud": {}}}, "m.loud must be one of silent, sound, voice"),
    ({"m": {"silent": 0.3}}, "m.silent must be a table"),
    ({"m": {"silent": {"ultra": 1}}}, "m.silent.ultra must be one of std, pro, 4k"),
    *(
        ({"m": {"sound": {"pro": rate}}}, "m.sound.pro must be a number of units per second, 0 to 1,000,000")
        for rate in (
            -0.1,
            "0.3",
            True,
            None,
            math.nan,
            math.inf,
            10**5000,
            Decimal("NaN"),
            Decimal("9e99999"),
        )
    ),
]


@pytest.mark.parametrize(("data", "what"), MALFORMED, ids=[what for _, what in MALFORMED])
def test_a_malformed_table_names_the_place(data, what):
    """What is no price is refused before any is used, with the table and the place in it."""
    with pytest.raises(ConfigurationError) as caught:
        Prices.from_mapping(data, source="prices.toml")
    assert f"prices.toml: {what}" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "m = 0.3",
        f"x = {'9' * 5000}",
        "x = " + "[" * 3000,
        "[m]\nsilent = { std = nan }",
        "[m]\nsilent = { std = 1e99999999999999999999 }",
    ],
    ids=["syntax", "shape", "digits", "depth", "nan", "exponent"],
)
def test_what_is_no_table_is_refused(text):
    """Whatever stands in a file, it is a table of prices or a ConfigurationError that shows one."""
    with pytest.raises(ConfigurationError, match=r"the price table.*silent = \{ std = 0\.3, pro = 0\.5 \}"):
        Prices.read(text)


@given(
    model=st.sampled_from(MODELS),
    heard=st.sampled_from(sorted(HEARD)),
    mode=st.sampled_from(["std", "pro", "4k"]),
    first=st.integers(3, 7),
    second=st.integers(3, 8),
)
def test_estimates_add_up(model, heard, mode, first, second):
    """Law: two videos cost what one of their seconds together does, and what is unknown is never zero."""
    units = [
        estimate(request(model_name=model, mode=mode, duration=seconds, **HEARD[heard]))
        for seconds in (first, second, first + second)
    ]
    known = [each for each in units if each is not None]
    if known:
        assert known[0] + known[1] == known[2] > 0
    else:
        assert units == [None] * 3


@given(rate=st.decimals(0, 1_000_000, places=6), seconds=st.integers(3, 15))
def test_written_rates_are_read_exactly(rate, seconds):
    """Law: TOML's decimal fractions are not passed through binary ones."""
    own = Prices.read(f"[m]\nsilent = {{ std = {rate:f} }}")
    assert own.estimate(request(model_name="m", duration=seconds)) == rate * seconds
